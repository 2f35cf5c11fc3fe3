// What a CTA of the pass by keys holds in shared memory on Hopper, and its teams' rings: who waits, who fills them.
//
// Compile-time constants beyond those of halo.cuh: HEAD_COUNT (the call's), WARPGROUPS, STAGES (of a team's ring),
// PIECE (queries that are scored at a time), KEY_CHANNELS and VALUE_CHANNELS (of a line), CHUNK (channels of a product
// with gradients of the output).
#pragma once
#include "lines.cuh"

// A team is one warpgroup for each of a CTA's heads. It has a ring and tiles of its own.
constexpr int THREADS = 128 * WARPGROUPS, TEAMS = WARPGROUPS / HEADS;
constexpr int KEY_LINE = 2 * KEY_CHANNELS, VALUE_LINE = 2 * VALUE_CHANNELS, VALUE_BOXES = HEADS * E / VALUE_CHANNELS;
constexpr int HEAD_GROUPS = HEAD_COUNT / HEADS, CHUNKS = E / CHUNK, KEY_STEPS = D / 16, VALUE_STEPS = E / 16;
constexpr int REACH = 1 + (2 * HALO + BLOCK - 1) / BLOCK;  // blocks along an axis whose queries see a tile of keys
constexpr int STEPS = 1 + REACH * REACH;
// Columns of a tile that a block does not see must be hidden. Biases of -1e30 do that, but float16 has none.
constexpr bool HIDES = WINDOW % BLOCK && (FP16 || !RELATIVE);
// A stage holds what one block brings: queries, gradients of the output, biases and statistics, head by head. A tile's
// first one holds its keys in the place of queries, and its values in that of gradients.
constexpr u32 BIASES = 64 * QUERIES, STATISTICS = 8 * QUERIES, GRADIENT_BOX = QUERIES * VALUE_LINE;
constexpr u32 AT_GRADIENTS = QUERIES * KEY_LINE, AT_BIASES = AT_GRADIENTS + VALUE_BOXES * GRADIENT_BOX,
              AT_STATISTICS = AT_BIASES + (RELATIVE ? HEADS * BIASES : 0),
              STAGE_SIZE = turns(AT_STATISTICS + HEADS * STATISTICS);
constexpr u32 PIXELS = QUERIES * (KEY_LINE + VALUE_BOXES * VALUE_LINE);  // bytes of two maps
constexpr u32 AT_BARRIERS = TEAMS * STAGES * STAGE_SIZE, SHARED = AT_BARRIERS + TEAMS * STAGES * 16 + 1024;
extern "C" __constant__ const int launch[2] = {THREADS, (int)SHARED};
static_assert(BLOCK == 8 && STRIDE == 1 && WINDOW <= 16 && WARPGROUPS % HEADS == 0 && HEADS <= STAGES,
              "outside this kernel's class");

struct HopperKeyArgs {
  TensorMap query, output_gradient, key, value, statistics, biases;
  Args args;
  int count;  // tiles, with a group of heads each
  Order order;
};
DEVICE Place tile_of(const HopperKeyArgs& all, int number) {
  const Spot spot = spot_of(all.order, number / HEAD_GROUPS, all.args.tiles_y, all.args.tiles_x);
  Place p = {};
  p.head = number % HEAD_GROUPS * HEADS, p.image = spot.image, p.y = spot.y, p.x = spot.x;
  return p;
}
struct Role {  // where a warp is
  u32 stages, barriers;  // its team's
  int team, head, warp, lane, g, t;
};

// A team's way: over tiles and, of each, over its keys and the blocks that see it; and around the ring.
struct Walk {
  int number;
  Place place;                     // of the tile
  u32 step, steps, stage, parity;  // a tile's steps are a bit each: this one and those to come
  DEVICE int down() const { return (step - 1) / REACH; }  // of the tile in a block's window, in tiles
  DEVICE int right() const { return (step - 1) % REACH; }
  DEVICE void enter(const HopperKeyArgs& all, int tile_number) {
    number = tile_number, step = 0, steps = 1;
    place = tile_of(all, number);
#pragma unroll
    for (int i = 1; i < STEPS; i++) {
      const int y = place.y - (i - 1) / REACH, x = place.x - (i - 1) % REACH;
      if (y >= 0 && x >= 0 && y < all.args.blocks_y && x < all.args.blocks_x) steps |= 1u << i;
    }
  }
  DEVICE void next(const HopperKeyArgs& all) {
    if (++stage == STAGES) stage = 0, parity ^= 1;
    steps &= steps - 1;
    if (steps) step = first_bit(steps);
    else enter(all, number + TEAMS * ctas());
  }
};
DEVICE Walk begin(const HopperKeyArgs& all, const Role& me) {
  Walk walk = {};
  walk.enter(all, cta() + me.team * ctas());
  return walk;
}
DEVICE u32 stage_of(const Walk& walk, const Role& me) { return me.stages + walk.stage * STAGE_SIZE; }
DEVICE u32 full(const Walk& walk, const Role& me) { return me.barriers + 16 * walk.stage; }
DEVICE u32 left(const Walk& walk, const Role& me) { return me.barriers + 16 * walk.stage + 8; }

// Have a stage filled with what a step needs.
DEVICE void refill(const HopperKeyArgs& all, const Walk& walk, const Role& me) {
  const Place& p = walk.place;
  const u32 to = stage_of(walk, me), barrier = full(walk, me);
  const bool keys = walk.step == 0;
  const TensorMap &first = keys ? all.key : all.query, &second = keys ? all.value : all.output_gradient;
  const int by = p.y - walk.down(), bx = p.x - walk.right();
  const int y = keys ? p.y * BLOCK - HALO : by * BLOCK, x = keys ? p.x * BLOCK - HALO : bx * BLOCK;
  barrier_expect(barrier, PIXELS + (keys ? 0 : HEADS * (RELATIVE * BIASES + STATISTICS)));
  copy_box(to, first, p.head * D, x, y, p.image, barrier);
#pragma unroll
  for (int box = 0; box < VALUE_BOXES; box++)
    copy_box(to + AT_GRADIENTS + box * GRADIENT_BOX, second, p.head * E + box * VALUE_CHANNELS, x, y, p.image, barrier);
  if (keys) return;
  const int block = by * all.args.blocks_x + bx, head = p.image * HEAD_COUNT + p.head;
  if (RELATIVE) copy_box(to + AT_BIASES, all.biases, 0, 0, head, block, barrier);
  copy_box(to + AT_STATISTICS, all.statistics, 0, 0, head, block, barrier);
}
// A warp of each head refills stages that all have left, in turn: all would wait for one that did more than others. No
// turn takes longer than the ring, as barriers tell odd phases from even ones.
struct Refills {
  Walk walk;
  bool mine;
  DEVICE void skip(const HopperKeyArgs& all, int count) {
#pragma unroll 1
    for (int i = 0; i < count; i++) walk.next(all);
  }
  DEVICE void fill(const HopperKeyArgs& all, const Role& me) {
    if (me.lane == 0) refill(all, walk, me);
    warp_sync();
    skip(all, HEADS);
  }
  DEVICE bool more(const HopperKeyArgs& all) const { return mine && walk.number < all.count; }
  DEVICE void poll(const HopperKeyArgs& all, const Role& me) {
    if (more(all) && barrier_test(left(walk, me), walk.parity ^ 1)) fill(all, me);
  }
};
// Until what a step needs is there.
DEVICE void await(const HopperKeyArgs& all, const Walk& walk, Refills& refills, const Role& me) {
  if (refills.mine)
    do refills.poll(all, me);
    while (!barrier_test(full(walk, me), walk.parity));
  else barrier_wait(full(walk, me), walk.parity);
}
