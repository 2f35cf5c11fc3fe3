// What a CTA of the forward kernel holds in shared memory.
//
// A compile-time constant beyond those of window.cuh: STAGED (outputs go through shared memory).
#pragma once
#include "window.cuh"

constexpr u32 KEYS = turns(MOST * KEY_LINE), VALUES = turns((MOST + 15) / 16 * 16 * VALUE_LINE);
constexpr u32 STAGE_QUERIES = KEYS + VALUE_BOXES * VALUES, STAGE_SIZE = STAGE_QUERIES + turns(64 * KEY_LINE);
constexpr int hot_lines(int columns) { return octets_of(WINDOW * columns); }  // of a one-hot operand
constexpr int ONES = 64;  // words of the operand that sums weights
constexpr u32 AT_HOT = STAGES * STAGE_SIZE, AT_HOT_NARROW = AT_HOT + hot_lines(WINDOW) * 64;
constexpr u32 AT_POSITIONS = AT_HOT_NARROW + (BORDERED && NARROW ? hot_lines(SEEN) * 64 : 0);
constexpr u32 AT_ONES = AT_POSITIONS + (RELATIVE ? 2 * POSITIONS : 0);
constexpr u32 AT_KEPT = AT_ONES + 4 * ONES, AT_OUTPUT = AT_KEPT + 17 * 32;
constexpr u32 AT_BARRIERS = AT_OUTPUT + STAGED * WARPGROUPS * 2048;
constexpr u32 AT_ASKED = AT_BARRIERS + 16 * STAGES, AT_NOTES = AT_ASKED + 16, SHARED = AT_NOTES + 48 * STAGES + 1024;
extern "C" __constant__ const int launch[2] = {THREADS, (int)SHARED};

// Sums between these are safe: no weight overflows, and all that count are precise. Half precision has no weight above
// 2^16, so there all are 2^-6 of what they are.
constexpr float LEAST = FP16 ? 0.015625f : 8.6736174e-19f, GREATEST = 1.1529215e18f;
constexpr float SHIFT = FP16 ? -6.f : 0.f;
constexpr u32 NOTHING = 0xffffffffu;
// Octets under the sums of the piece before the last, and of the item before; octets under the next item's biases.
constexpr int COVER = 2, LATEST = 5;

// Where a lane's part of a finished item goes: its output, nowhere if null; the index of its log-sum-exps, and below it
// two bits that say which of its two queries are on the map.
struct Target {
  u16* output;
  u32 sum;
};
struct Operands {
  u32 q[KEY_STEPS][4], rows[4], columns[4];
};
struct State {
  Operands a;
  float first[PIECE / 2], o[E / 2], sum[4];  // scores of an item's first piece; outputs and sums
  float begun[4 * COVER];                    // that piece's first weights
};

// What all warps must know of a stage's block is found once, by the one that asks for its window: the part of the
// window that is seen; where the output and the log-sum-exps of the first head begin; of four times 16 queries, which
// are on the map.
DEVICE u32 notes_of(int stage, const Role& me) { return me.base + AT_NOTES + 48 * stage; }
DEVICE void take_notes(const HopperArgs& all, const Role& me, int stage, const Seen& s) {
  const Args& args = all.args;
  const int y = s.y * BLOCK, x = s.x * BLOCK, rows = args.query_height - y, columns = args.query_width - x;
  const u16* output = image_of(args.output, s.image) + offset_of(args.output, s.first_head, y, x);
  const u32 row = columns < 8 ? (1 << columns) - 1 : 0xff, from = notes_of(stage, me) - shared_base();
  at<uint4>(from) = make_uint4(s.top, s.left, s.rows, s.columns);
  at<const u16*>(from + 16) = output, at<u32>(from + 24) = index_of(args, s, s.first_head);
#pragma unroll
  for (int i = 0; i < 4; i++) at<u16>(from + 32 + 2 * i) = (2 * i < rows ? row : 0) | (2 * i + 1 < rows ? row << 8 : 0);
}
DEVICE Part part_of(const Item& item, const Role& me) {
  const uint4 v = load_shared(notes_of(item.stage, me));
  return {(int)v.x, (int)v.y, (int)v.z, (int)v.w};
}

// Have a stage of the ring filled with a block's queries and window.
DEVICE void refill(const HopperArgs& all, const Role& me, int stage, int number) {
  if (number >= me.count) return;
  const Seen s = seen_of(all, block_of(number, me));
  const u32 full = me.barriers + 16 * stage, to = me.base + stage * STAGE_SIZE;
  const int rows = s.few_rows() ? SEEN : WINDOW, columns = s.few_columns() ? SEEN : WINDOW;
  const int shape = 2 * s.few_rows() + s.few_columns();
  const int y = s.y * BLOCK - HALO + s.top, x = s.x * BLOCK - HALO + s.left;
  take_notes(all, me, stage, s);
  barrier_expect(full, rows * columns * (KEY_LINE + VALUE_BOXES * VALUE_LINE) + 64 * KEY_LINE);
  copy_box(to + STAGE_QUERIES, all.query, s.first_head * D, s.x * BLOCK, s.y * BLOCK, s.image, full);
  copy_box(to, all.key[shape], s.first_head * D, x, y, s.image, full);
#pragma unroll
  for (int box = 0; box < VALUE_BOXES; box++)
    copy_box(to + KEYS + box * VALUES, all.value[shape], s.first_head * E + box * VALUE_CHANNELS, x, y, s.image, full);
}
