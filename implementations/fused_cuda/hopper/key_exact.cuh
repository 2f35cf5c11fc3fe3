// Keys whose gradients are not finite, again: slow, exact, and seldom. A product meets all keys of a tile with all
// queries of a block, also those that do not see them, and zero times infinity is NaN.
#pragma once
#include "key_ring.cuh"

struct Key {  // of a head, on the map; its row and column of the tile
  int y, x, row, column;
};
DEVICE float dot(const u16* a, const u16* b, int channels) {
  float sum = 0.f;
  for (int c = 0; c < channels; c += 2) {
    const u32 u = load(a + c), v = load(b + c);
    sum = fmaf(low_half(u), low_half(v), fmaf(high_half(u), high_half(v), sum));
  }
  return sum;
}
// What the pass by queries left for a query's row or column of its window: channel ``from``, then those of positions.
DEVICE float bias_of(const void* biases, int from, int position) {
  const u16* chunk = static_cast<const u16*>(biases) + (position & 7) / 2 * 8;
  return low_half(chunk[from + (position & 1) + (position & 8) / 4]);
}
// The weight of a key for one query of a block, and the gradient of their logit.
DEVICE float2 weigh_key(const HopperKeyArgs& all, const Place& p, int head, const Key& key, const Walk& walk,
                        int number) {
  const Args& args = all.args;
  const int by = p.y - walk.down(), bx = p.x - walk.right();
  const int y = by * BLOCK + number / BLOCK, x = bx * BLOCK + number % BLOCK;
  if (y >= args.query_height || x >= args.query_width) return make_float2(0.f, 0.f);
  const int k = offset_of(args.key, head, key.y, key.x), v = offset_of(args.value, head, key.y, key.x);
  const int q = offset_of(args.query, head, y, x), g = offset_of(args.output_gradient, head, y, x);
  float logit = dot(image_of(args.query, p.image) + q, image_of(args.key, p.image) + k, D);
  const long long block = block_index(args, p.image, head, by, bx);
  if (RELATIVE) {
    const uint4* biases = args.biases + (block * QUERIES + number) * 4;
    logit += bias_of(biases, 0, key.row + walk.down() * BLOCK) + bias_of(biases, 4, key.column + walk.right() * BLOCK);
  }
  const float* statistics = args.statistics + block * 2 * QUERIES + number;
  const float weight = exp2_fast(fmaf(logit, args.scale * LOG2_E, -statistics[0]));
  const float dp = dot(image_of(args.output_gradient, p.image) + g, image_of(args.value, p.image) + v, E);
  return make_float2(weight, weight * (dp + statistics[QUERIES]));
}
// A key's two gradients, by a warp; ``room`` is for its weights and logits' gradients with a block.
DEVICE void differentiate_exactly(const HopperKeyArgs& all, const Place& p, int head, const Key& key, Walk walk,
                                  u32 room, const Role& me) {
  const Args& args = all.args;
  constexpr int DIMS = (D + 31) / 32, CHANNELS = (E + 31) / 32;
  float dk[DIMS] = {}, dv[CHANNELS] = {};
  for (walk.step = 1; walk.step < STEPS; walk.step++) {
    const bool seen = key.row + walk.down() * BLOCK < WINDOW && key.column + walk.right() * BLOCK < WINDOW;
    if (!seen || !(walk.steps >> walk.step & 1)) continue;
    for (int number = me.lane; number < QUERIES; number += 32)
      at<float2>(room + 8 * number) = weigh_key(all, p, head, key, walk, number);
    warp_sync();
    for (int number = 0; number < QUERIES; number++) {
      const int y = (p.y - walk.down()) * BLOCK + number / BLOCK, x = (p.x - walk.right()) * BLOCK + number % BLOCK;
      if (y >= args.query_height || x >= args.query_width) continue;
      const u16* q = image_of(args.query, p.image) + offset_of(args.query, head, y, x);
      const u16* g = image_of(args.output_gradient, p.image) + offset_of(args.output_gradient, head, y, x);
      const float2 w = at<float2>(room + 8 * number);
#pragma unroll
      for (int i = 0; i < DIMS; i++)
        if (me.lane + 32 * i < D) dk[i] = fmaf(w.y, low_half(q[me.lane + 32 * i]), dk[i]);
#pragma unroll
      for (int i = 0; i < CHANNELS; i++)
        if (me.lane + 32 * i < E) dv[i] = fmaf(w.x, low_half(g[me.lane + 32 * i]), dv[i]);
    }
    warp_sync();
  }
  u16* to_key = image_of(args.key_gradient, p.image) + offset_of(args.key_gradient, head, key.y, key.x);
  u16* to_value = image_of(args.value_gradient, p.image) + offset_of(args.value_gradient, head, key.y, key.x);
#pragma unroll
  for (int i = 0; i < DIMS; i++)
    if (me.lane + 32 * i < D) store<u16>(to_key + me.lane + 32 * i, (u16)pack(dk[i] * args.scale, 0.f));
#pragma unroll
  for (int i = 0; i < CHANNELS; i++)
    if (me.lane + 32 * i < E) store<u16>(to_value + me.lane + 32 * i, (u16)pack(dv[i], 0.f));
}
// Zero, if a lane's share of these numbers is finite.
DEVICE float unless_finite(const u16* numbers, int count, const Role& me) {
  float sum = 0.f;
  for (int c = 2 * me.lane; c < count; c += 64) {
    const u32 pair = load(numbers + c);
    sum = fmaf(low_half(pair), 0.f, fmaf(high_half(pair), 0.f, sum));
  }
  return sum;
}
// What this warp left: keys of its tiles whose gradients are not finite.
DEVICE void differentiate_again(const HopperKeyArgs& all, u32 room, const Role& me) {
  const Args& args = all.args;
  for (Walk walk = begin(all, me); walk.number < all.count; walk.enter(all, walk.number + TEAMS * ctas())) {
    const Place p = walk.place;
    const int head = p.head + me.head;
    for (int i = 0; i < 16; i++) {
      const int row = 2 * me.warp + i / 8, column = i % 8;
      const Key key = {p.y * BLOCK - HALO + row, p.x * BLOCK - HALO + column, row, column};
      if ((unsigned)key.y >= (unsigned)args.height || (unsigned)key.x >= (unsigned)args.width) continue;
      const u16* dk = image_of(args.key_gradient, p.image) + offset_of(args.key_gradient, head, key.y, key.x);
      const u16* dv = image_of(args.value_gradient, p.image) + offset_of(args.value_gradient, head, key.y, key.x);
      if (!warp_any(unless_finite(dk, D, me) + unless_finite(dv, E, me) != 0.f)) continue;
      differentiate_exactly(all, p, head, key, walk, room, me);
    }
  }
}
