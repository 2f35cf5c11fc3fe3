// What a CTA of the Hopper kernel holds in shared memory, and the ring of windows: who waits, who has them copied.
//
// Compile-time constants beyond those of halo.cuh: HEAD_COUNT (the call's), WARPGROUPS, STAGES (of the ring), PIECE
// (keys that are scored at a time), KEY_CHANNELS and VALUE_CHANNELS (of a line), CHUNK (channels of a product with
// values), NARROW (windows at the map's sides lose the columns outside), STAGED (outputs go through shared memory),
// QUERY_SCALE and QUERY_SCALE_REST (what the first lacks; pairs in half precision).
#pragma once
#include "halo.cuh"
#include "hopper.cuh"

constexpr int THREADS = 128 * WARPGROUPS, BLOCKS_AT_A_TIME = WARPGROUPS / HEADS;
constexpr int KEY_LINE = 2 * KEY_CHANNELS, VALUE_LINE = 2 * VALUE_CHANNELS, VALUE_BOXES = HEADS * E / VALUE_CHANNELS;
constexpr int HEAD_GROUPS = HEAD_COUNT / HEADS, CHUNKS = E / CHUNK, KEY_STEPS = D / 16;
constexpr bool BORDERED = !ZERO_BORDER && HALO > 0;
constexpr int SEEN = WINDOW - HALO;  // rows or columns of a window that are in the map, at its border
constexpr int octets_of(int keys) { return (keys + 7) / 8 * 8; }
constexpr int MOST = octets_of(WINDOW * WINDOW);
constexpr u32 turns(u32 bytes) { return (bytes + 1023) / 1024 * 1024; }
constexpr u32 KEYS = turns(MOST * KEY_LINE), VALUES = turns((MOST + 15) / 16 * 16 * VALUE_LINE);
constexpr u32 STAGE_QUERIES = KEYS + VALUE_BOXES * VALUES, STAGE_SIZE = STAGE_QUERIES + turns(64 * KEY_LINE);
constexpr u32 AT_HOT = STAGES * STAGE_SIZE, AT_HOT_NARROW = AT_HOT + MOST * 64;
constexpr u32 AT_POSITIONS = AT_HOT_NARROW + (BORDERED && NARROW ? octets_of(WINDOW * SEEN) * 64 : 0);
constexpr int POSITION_LINE = D == 48 ? 128 : 2 * D;
constexpr u32 POSITIONS = 32 * POSITION_LINE, AT_ONES = AT_POSITIONS + (RELATIVE ? 2 * POSITIONS : 0);
constexpr u32 AT_KEPT = AT_ONES + 256, AT_OUTPUT = AT_KEPT + 17 * 32;
constexpr u32 AT_BARRIERS = AT_OUTPUT + STAGED * WARPGROUPS * 2048;
constexpr u32 AT_REDO = AT_BARRIERS + 16 * STAGES, AT_ASKED = AT_REDO + 4, SHARED = AT_REDO + 16 + 1024;
// Barriers tell odd phases from even ones. Where a warpgroup does not see every phase of a stage, it must know, too,
// that the block it waits for was asked for.
constexpr bool SKIPS = STAGES % BLOCKS_AT_A_TIME != 0;
extern "C" __constant__ const int launch[2] = {THREADS, (int)SHARED};
static_assert(BLOCK == 8 && STRIDE == 1 && WINDOW <= 16 && WARPGROUPS % HEADS == 0 && BLOCKS_AT_A_TIME < STAGES,
              "outside this kernel's class");

constexpr u32 HIDDEN_PAIR = FP16 ? 0xfb53fb53u : 0xf149f149u;  // -6e4, -1e30: logits that count for nothing
// Sums between these are safe: no weight overflows, all that count are precise, and logits are small enough for a scale
// that is multiplied into rounded queries.
constexpr float LEAST = FP16 ? 0.125f : 5.9604645e-8f, GREATEST = FP16 ? 6e4f : 16777216.f;
constexpr u32 UNSAFE = 0x7fabcdefu;  // a NaN that no arithmetic makes: a log-sum-exp to be computed again
constexpr u32 NOTHING = 0xffffffffu;
constexpr int COVER = 2, LATEST = 5;  // octets under the sums of the piece before; octets under the next item's biases
constexpr int SHAPES = 4;             // of windows: 2 * few rows + few columns

struct HopperArgs {
  TensorMap query, key[SHAPES], value[SHAPES];
  Args args;
  int count;  // items of all CTAs: blocks, with a group of heads each
  u32 per_image, per_row;  // 2^31 by blocks of an image, of a row; rounded up
};
// A block and what is seen of its window: its first row and column, and how many.
struct Seen {
  int image, y, x, first_head, top, left, rows, columns;
  DEVICE bool few_rows() const { return BORDERED && rows <= SEEN; }
  DEVICE bool few_columns() const { return BORDERED && NARROW && columns <= SEEN; }
};
DEVICE Seen seen_of(const HopperArgs& all, int number) {
  const Args& args = all.args;
  Seen s;
  s.first_head = number % HEAD_GROUPS * HEADS, number /= HEAD_GROUPS;
  s.image = high_product(2 * number, all.per_image), number -= s.image * (args.blocks_y * args.blocks_x);
  s.y = high_product(2 * number, all.per_row), s.x = number - s.y * args.blocks_x;
  const int y0 = s.y * BLOCK - HALO, x0 = s.x * BLOCK - HALO;
  s.top = ZERO_BORDER ? 0 : max(0, -y0), s.left = ZERO_BORDER ? 0 : max(0, -x0);
  s.rows = ZERO_BORDER ? WINDOW : min(WINDOW, args.height - y0) - s.top;
  s.columns = ZERO_BORDER ? WINDOW : min(WINDOW, args.width - x0) - s.left;
  return s;
}
// What a warpgroup works on: a head of a CTA's group, and the stage of the ring that has its block.
struct Item {
  int number, head, stage;
  u32 parity;
  DEVICE void next() {
    number += BLOCKS_AT_A_TIME * ctas(), stage += BLOCKS_AT_A_TIME;
    if (stage >= STAGES) stage -= STAGES, parity ^= 1;
  }
};
struct Role {  // where a warp is
  u32 base, barriers;
  int lane, g, t, warp, group;
  int output;  // where a lane's part of a block's output begins
};
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
  float first[PIECE / 2], o[E / 2], sum[4];
};
template <int line> DEVICE u32 swizzled(int row, int chunk) {
  const u32 address = row * line;
  return address + ((chunk ^ (address >> 7 & (line / 16 - 1))) << 4);
}
DEVICE u32 select(u32 x, u32 y, u32 mask) { return (x & mask) | (y & ~mask); }

// Have a stage of the ring filled with a block's queries and window.
DEVICE void refill(const HopperArgs& all, const Role& me, int stage, int number) {
  if (number >= all.count) return;
  const Seen s = seen_of(all, number);
  const u32 full = me.barriers + 16 * stage, to = me.base + stage * STAGE_SIZE;
  const int rows = s.few_rows() ? SEEN : WINDOW, columns = s.few_columns() ? SEEN : WINDOW;
  const int shape = 2 * s.few_rows() + s.few_columns();
  const int y = s.y * BLOCK - HALO + s.top, x = s.x * BLOCK - HALO + s.left;
  barrier_expect(full, rows * columns * (KEY_LINE + VALUE_BOXES * VALUE_LINE) + 64 * KEY_LINE);
  copy_box(to + STAGE_QUERIES, all.query, s.first_head * D, s.x * BLOCK, s.y * BLOCK, s.image, full);
  copy_box(to, all.key[shape], s.first_head * D, x, y, s.image, full);
#pragma unroll
  for (int box = 0; box < VALUE_BOXES; box++)
    copy_box(to + KEYS + box * VALUES, all.value[shape], s.first_head * E + box * VALUE_CHANNELS, x, y, s.image, full);
}
struct Refills {  // one warp refills the stages that all have left
  int number, stage;
  u32 parity;
  DEVICE void poll(const HopperArgs& all, const Role& me) {
    if (number >= all.count || !barrier_test(me.barriers + 16 * stage + 8, parity)) return;
    if (me.lane == 0) refill(all, me, stage, number);
    number += ctas();
    if (SKIPS && me.lane == 0) store_shared(me.base + AT_ASKED, number);
    warp_sync();
    if (++stage == STAGES) stage = 0, parity ^= 1;
  }
};
// Whether the window of a block is there.
DEVICE bool arrived(const Item& item, const Role& me) {
  const bool asked = !SKIPS || (int)load_shared_word(me.base + AT_ASKED) > item.number;
  return (int)barrier_test(me.barriers + 16 * item.stage, item.parity) & (int)asked;
}

// What is the same for all items, in shared memory: one-hot operands, tables, ones, what of 16 slots the first n are.
DEVICE void lay_out_constants(const HopperArgs& all, u32 base, int thread) {
  for (int width = WINDOW; width >= (BORDERED && NARROW ? SEEN : WINDOW); width -= max(HALO, 1))
    for (int key = thread; key < octets_of(WINDOW * width); key += THREADS) {
      const int row = key / width, column = 16 + key % width;
      const u32 line = base + (width == WINDOW ? AT_HOT : AT_HOT_NARROW);
#pragma unroll
      for (int chunk = 0; chunk < 4; chunk++) at<uint4>(line + swizzled<64>(key, chunk)) = make_uint4(0, 0, 0, 0);
      at<u16>(line + swizzled<64>(key, row >> 3) + (row & 7) * 2) = ONE;
      if (row < WINDOW) at<u16>(line + swizzled<64>(key, column >> 3) + (column & 7) * 2) = ONE;
    }
  for (int i = thread; RELATIVE && i < 2 * 32 * (D / 8); i += THREADS) {
    const int chunk = i % (D / 8), row = i / (D / 8) % 32, table = i / (D / 8) / 32;
    const uint4* source = static_cast<const uint4*>(table ? all.args.columns : all.args.rows) + row * (D / 8) + chunk;
    at<uint4>(base + AT_POSITIONS + table * POSITIONS + swizzled<POSITION_LINE>(row, chunk)) =
        row < ENTRIES ? *source : make_uint4(0, 0, 0, 0);
  }
  for (int i = thread; i < 64; i += THREADS) at<u32>(base + AT_ONES + 4 * i) = ONE | ONE << 16;
  for (int i = thread; i < 17 * 8; i += THREADS) {
    const int left = i / 8 - (i % 2 * 8 + i / 2 % 4 * 2);
    at<u32>(base + AT_KEPT + 4 * i) = left <= 0 ? 0u : left == 1 ? 0xffffu : 0xffffffffu;
  }
}
