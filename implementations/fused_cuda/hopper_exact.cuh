// What left the safe range, again: slow, exact, and seldom.
#pragma once
#include "hopper_stage.cuh"
#include "hopper_ring.cuh"

// One query again, by a warp, in float32 and with the maximum as reference; biases are rounded as backward has them.
// ``weights`` is room for those of a window.
DEVICE void attend_exactly(const HopperArgs& all, const Seen& s, int head, int number, u32 weights, const Role& me) {
  const Args& args = all.args;
  const int i = number / BLOCK, j = number % BLOCK, y = s.y * BLOCK + i, x = s.x * BLOCK + j, keys = s.rows * s.columns;
  if (y >= args.query_height || x >= args.query_width) return;
  const u16* query = image_of(args.query, s.image) + offset_of(args.query, head, y, x);
  const u16 *key = image_of(args.key, s.image), *value = image_of(args.value, s.image);
  const int y0 = s.y * BLOCK - HALO + s.top, x0 = s.x * BLOCK - HALO + s.left;
  const float scale = args.scale * LOG2_E;
  float greatest = as_float(0xff800000u), sum = 0.f;
  for (int n = me.lane; n < keys; n += 32) {
    const int a = n / s.columns, b = n % s.columns;
    const bool inside = (u32)(y0 + a) < (u32)args.height && (u32)(x0 + b) < (u32)args.width;
    const u16* from = key + offset_of(args.key, head, y0 + a, x0 + b);
    const u16* row = static_cast<const u16*>(args.rows) + (s.top + a - i + BLOCK - 1) * D;
    const u16* column = static_cast<const u16*>(args.columns) + (s.left + b - j + BLOCK - 1) * D;
    float logit = 0.f, by_row = 0.f, by_column = 0.f;
    for (int c = 0; c < D; c += 2) {
      const u32 q = load(query + c), k = inside ? load(from + c) : 0u;
      logit = fmaf(low_half(q), low_half(k), fmaf(high_half(q), high_half(k), logit));
      if (!RELATIVE) continue;
      const u32 r = load(row + c), t = load(column + c);
      by_row = fmaf(low_half(q), low_half(r), fmaf(high_half(q), high_half(r), by_row));
      by_column = fmaf(low_half(q), low_half(t), fmaf(high_half(q), high_half(t), by_column));
    }
    const u32 rounded = pack(by_row, by_column);
    if (RELATIVE) logit += low_half(rounded) + high_half(rounded);
    at<float>(weights + 4 * n) = logit;
    greatest = fmaxf(greatest, logit);
  }
#pragma unroll
  for (int step = 1; step < 32; step *= 2) greatest = fmaxf(greatest, shuffle_xor(greatest, step));
  for (int n = me.lane; n < keys; n += 32) {
    const float weight = exp2_fast((at<float>(weights + 4 * n) - greatest) * scale);
    at<float>(weights + 4 * n) = weight, sum += weight;
  }
#pragma unroll
  for (int step = 1; step < 32; step *= 2) sum += shuffle_xor(sum, step);
  warp_sync();
  u16* output = image_of(args.output, s.image) + offset_of(args.output, head, y, x);
  for (int c = me.lane; c < E; c += 32) {
    float total = 0.f;
    for (int n = 0; n < keys; n++) {
      const int row = y0 + n / s.columns, column = x0 + n % s.columns;
      if ((u32)row < (u32)args.height && (u32)column < (u32)args.width)
        total = fmaf(at<float>(weights + 4 * n), low_half(value[offset_of(args.value, head, row, column) + c]), total);
    }
    store<u16>(output + c, (u16)pack(total / sum, 0.f));
  }
  if (me.lane == 0) args.log_sum_exp[index_of(args, s, head) + number] = greatest * scale + log2_fast(sum);
  warp_sync();
}
// What this warp left: its part of items whose log-sum-exps say so.
DEVICE void attend_again(const HopperArgs& all, Item item, const Role& me) {
  const u32 weights = me.base - shared_base() + (4 * me.group + me.warp) * turns(WINDOW * WINDOW * 4);
  for (; item.number < all.count; item.next()) {
    const Seen s = seen_of(all, item.number);
    const int head = s.first_head + item.head;
    const float* sums = all.args.log_sum_exp + index_of(all.args, s, head) + 16 * me.warp;
    if (!warp_any(load(sums + (me.lane & 15)) == UNSAFE)) continue;
    for (int i = 0; i < 16; i++) attend_exactly(all, s, head, 16 * me.warp + i, weights, me);
  }
}
