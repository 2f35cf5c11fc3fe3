// What kernels for Hopper know of a block and its window: shapes, which part of a window is seen, who works on what.
//
// Compile-time constants beyond those of halo.cuh: HEAD_COUNT (the call's), WARPGROUPS, STAGES (of the ring), PIECE
// (keys that are scored at a time), KEY_CHANNELS and VALUE_CHANNELS (of a line), CHUNK (channels of a product with
// values), NARROW (windows at the map's sides lose the columns outside).
#pragma once
#include "lines.cuh"

constexpr int THREADS = 128 * WARPGROUPS, BLOCKS_AT_A_TIME = WARPGROUPS / HEADS;
constexpr int KEY_LINE = 2 * KEY_CHANNELS, VALUE_LINE = 2 * VALUE_CHANNELS, VALUE_BOXES = HEADS * E / VALUE_CHANNELS;
constexpr int HEAD_GROUPS = HEAD_COUNT / HEADS, CHUNKS = E / CHUNK, KEY_STEPS = D / 16;
constexpr bool BORDERED = !ZERO_BORDER && HALO > 0;
constexpr int SEEN = WINDOW - HALO;  // rows or columns of a window that are in the map, at its border
constexpr int octets_of(int keys) { return (keys + 7) / 8 * 8; }
constexpr int MOST = octets_of(WINDOW * WINDOW);
constexpr int POSITION_LINE = 2 * D + 16;  // of an odd number of chunks: needs no swizzle
constexpr int POSITION_LINES = 28;  // that are read of a table: 24 entries from the window's fifth column on
constexpr u32 POSITIONS = POSITION_LINES * POSITION_LINE;
// Barriers tell odd phases from even ones. Where a warpgroup does not see every phase of a stage, it must know, too,
// that the block it waits for was asked for.
constexpr bool SKIPS = STAGES % BLOCKS_AT_A_TIME != 0;
static_assert(BLOCK == 8 && STRIDE == 1 && WINDOW <= 16 && WARPGROUPS % HEADS == 0 && BLOCKS_AT_A_TIME < STAGES,
              "outside this kernel's class");

constexpr u32 HIDDEN_PAIR = FP16 ? 0xfb53fb53u : 0xf149f149u;  // -6e4, -1e30: logits that count for nothing
constexpr int SHAPES = 4;  // of windows: 2 * few rows + few columns

struct HopperArgs {
  TensorMap query, key[SHAPES], value[SHAPES];
  Args args;
  int count;  // items of all CTAs: blocks, with a group of heads each
  Order order;
};
// What is seen of a block's window: its first row and column, and how many.
struct Part {
  int top, left, rows, columns;
  DEVICE bool few_rows() const { return BORDERED && rows <= SEEN; }
  DEVICE bool few_columns() const { return BORDERED && NARROW && columns <= SEEN; }
};
struct Seen : Part {
  int image, y, x, first_head;  // the block
};
DEVICE Seen seen_of(const HopperArgs& all, int number) {
  const Args& args = all.args;
  const Spot spot = spot_of(all.order, number / HEAD_GROUPS, args.blocks_y, args.blocks_x);
  Seen s = {};
  s.image = spot.image, s.y = spot.y, s.x = spot.x, s.first_head = number % HEAD_GROUPS * HEADS;
  const int y0 = s.y * BLOCK - HALO, x0 = s.x * BLOCK - HALO;
  s.top = ZERO_BORDER ? 0 : max(0, -y0), s.left = ZERO_BORDER ? 0 : max(0, -x0);
  s.rows = ZERO_BORDER ? WINDOW : min(WINDOW, args.height - y0) - s.top;
  s.columns = ZERO_BORDER ? WINDOW : min(WINDOW, args.width - x0) - s.left;
  return s;
}
DEVICE u32 index_of(const Args& args, const Seen& s, int head) {  // of a block's first log-sum-exp
  return (((s.image * HEAD_COUNT + head) * args.blocks_y + s.y) * args.blocks_x + s.x) * 64;
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
  int count, tail, end;  // items of all CTAs, of which those from ``tail`` on are one head of a block; of a warpgroup
  // Where a lane reads queries of a stage, and both tables, from the window's first row and column on. Opaque: the
  // compiler would rather find them again for each item.
  u32 queries, rows, columns;
  u32 written, read;  // of the forward kernel: where outputs pass through shared memory
  int near, next;     // lanes that have what a skewed pair is made of
  int output;   // where a lane's part of a block's output begins
  u32 sum;      // the same of its log-sum-exps
  float scale;  // of logits, in powers of two
};
// The last round has few items. Where there are as many CTAs as heads in it, each takes one.
DEVICE void share_last_round(Role& me, int items) {
  const int rest = items % ctas(), heads = rest * HEADS;
  const bool shares = BLOCKS_AT_A_TIME == 1 && heads <= ctas(), mine = cta() % HEADS == me.group % HEADS;
  me.tail = shares ? items - rest : items, me.count = me.tail + (shares ? heads : 0);
  me.end = mine ? me.count : me.tail;
}
DEVICE int block_of(int number, const Role& me) {
  return number < me.tail ? number : me.tail + (number - me.tail) / HEADS;
}
DEVICE u32 select(u32 x, u32 y, u32 mask) { return (x & mask) | (y & ~mask); }
