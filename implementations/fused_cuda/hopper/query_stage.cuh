// What a CTA of the backward kernel by queries holds in shared memory on Hopper.
#pragma once
#include "window.cuh"

constexpr int sixteens_of(int keys) { return (keys + 15) / 16 * 16; }  // keys are the K of products, too
constexpr int LINES = sixteens_of(WINDOW * WINDOW);
constexpr u32 KEYS = turns(LINES * KEY_LINE), VALUES = turns(LINES * VALUE_LINE);
constexpr u32 ROWS = turns(64 * VALUE_LINE);  // a block's pixels of a box of the output, or of its gradient
constexpr u32 STAGE_QUERIES = KEYS + VALUE_BOXES * VALUES, STAGE_GRADIENTS = STAGE_QUERIES + turns(64 * KEY_LINE),
              STAGE_OUTPUTS = STAGE_GRADIENTS + VALUE_BOXES * ROWS, STAGE_SIZE = STAGE_OUTPUTS + VALUE_BOXES * ROWS;
constexpr int hot_lines(int columns) { return sixteens_of(WINDOW * columns); }  // of a one-hot operand
constexpr int ONES = 0;
constexpr u32 AT_HOT = STAGES * STAGE_SIZE, AT_HOT_NARROW = AT_HOT + hot_lines(WINDOW) * 64;
constexpr u32 AT_POSITIONS = AT_HOT_NARROW + (BORDERED && NARROW ? hot_lines(SEEN) * 64 : 0);
constexpr u32 AT_ONES = AT_POSITIONS + (RELATIVE ? 2 * POSITIONS : 0), AT_KEPT = AT_ONES + 4 * ONES;
// A warpgroup's sums by position, skewed to entries of the tables: of each query, three octets by rows and three by
// columns. An odd number of chunks needs no swizzle. Before, its warps pass their gradients of queries through it.
constexpr u32 SKEW_LINE = 112, AT_SKEWS = AT_KEPT + 17 * 32, SKEWS = RELATIVE ? 64 * SKEW_LINE : 4 * 512;
constexpr u32 AT_BARRIERS = AT_SKEWS + WARPGROUPS * SKEWS;
constexpr u32 AT_SHARED = AT_BARRIERS + 16 * STAGES;  // barriers of each warpgroup: what it shares is read, is written
constexpr u32 AT_ASKED = AT_SHARED + 16 * WARPGROUPS, SHARED = AT_ASKED + 16 + 1024;
constexpr u32 TABLE_SUMS = 64 * D * 4;  // a warpgroup's gradients of both tables, in float32
extern "C" __constant__ const int launch[2] = {THREADS, (int)SHARED};
static_assert(WARPGROUPS * TABLE_SUMS <= STAGES * STAGE_SIZE, "tables' gradients are added up where windows were");

struct HopperQueryArgs : HopperArgs {
  TensorMap gradient, output;
};
// A window that is smaller than those before it leaves lines of theirs: they count for nothing, but must be numbers.
DEVICE void clear_behind(u32 stage, int keys) {
  for (int key = keys; key < sixteens_of(keys); key++) {
    for (u32 i = 0; i < KEY_LINE / 16; i++) at<uint4>(stage + key * KEY_LINE + 16 * i) = make_uint4(0, 0, 0, 0);
    for (int box = 0; box < VALUE_BOXES; box++)
      for (u32 i = 0; i < VALUE_LINE / 16; i++)
        at<uint4>(stage + KEYS + box * VALUES + key * VALUE_LINE + 16 * i) = make_uint4(0, 0, 0, 0);
  }
  fence_async();
}
// Have a stage of the ring filled with a block's queries, outputs and their gradients, and with its window.
DEVICE void refill(const HopperQueryArgs& all, const Role& me, int stage, int number) {
  if (number >= me.count) return;
  const Seen s = seen_of(all, block_of(number, me));
  const u32 full = me.barriers + 16 * stage, to = me.base + stage * STAGE_SIZE;
  const int rows = s.few_rows() ? SEEN : WINDOW, columns = s.few_columns() ? SEEN : WINDOW;
  const int shape = 2 * s.few_rows() + s.few_columns();
  const int y0 = s.y * BLOCK, x0 = s.x * BLOCK, y = y0 - HALO + s.top, x = x0 - HALO + s.left;
  if (shape) clear_behind(to - shared_base(), rows * columns);
  barrier_expect(full, (rows * columns + 64) * (KEY_LINE + VALUE_BOXES * VALUE_LINE) + 64 * VALUE_BOXES * VALUE_LINE);
  copy_box(to + STAGE_QUERIES, all.query, s.first_head * D, x0, y0, s.image, full);
  copy_box(to, all.key[shape], s.first_head * D, x, y, s.image, full);
#pragma unroll
  for (int box = 0; box < VALUE_BOXES; box++) {
    const int channel = s.first_head * E + box * VALUE_CHANNELS;
    copy_box(to + STAGE_GRADIENTS + box * ROWS, all.gradient, channel, x0, y0, s.image, full);
    copy_box(to + STAGE_OUTPUTS + box * ROWS, all.output, channel, x0, y0, s.image, full);
    copy_box(to + KEYS + box * VALUES, all.value[shape], channel, x, y, s.image, full);
  }
}
