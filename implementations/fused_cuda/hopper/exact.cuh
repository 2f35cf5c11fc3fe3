// What left the safe range, again: by warps of their own, with the maximum as reference and the scale in float32.
#pragma once
#include "item.cuh"

constexpr float ROOM = FP16 ? 0.f : 8.f;  // 2^-8 is most that a weight is, so that no sum of values overflows
DEVICE float nothing() { return as_float(0xff800000u); }  // minus infinity

// What is seen of an item's window, a row of up to 16 keys at a time, as operands of mma.
struct Rows {
  const Item& item;
  const Part& seen;
  const Role& me;
  // Where a lane finds a chunk of a key: zeros behind the row's last one, not what is there.
  template <int line> DEVICE u32 chunk(u32 from, int row, int column, int number) const {
    const int key = row * (seen.few_columns() ? SEEN : WINDOW) + column;
    return me.base + (column < seen.columns ? from + swizzled<line>(key, number) : AT_KEPT);
  }
  // Logits of a warp's queries and the keys of a row, without the scale.
  DEVICE void scores(float (&s)[8], const Operands& a, int row) const {
    const int column = (me.lane & 7) + 8 * (me.lane >> 4), half = me.lane >> 3 & 1;
    const u32 keys = item.stage * STAGE_SIZE, hot = seen.few_columns() ? AT_HOT_NARROW : AT_HOT;
    float octets[2][4] = {};
#pragma unroll
    for (int k = 0; k < KEY_STEPS + 2; k++) {
      u32 b[4];
      if (k < KEY_STEPS) ldmatrix(b, chunk<KEY_LINE>(keys, row, column, item.head * (D / 8) + 2 * k + half));
      else ldmatrix(b, chunk<64>(hot, row, column, 2 * (k - KEY_STEPS) + half));
      const u32(&left)[4] = k < KEY_STEPS ? a.q[k % KEY_STEPS] : k == KEY_STEPS ? a.rows : a.columns;
      mma(octets[0], left, b[0], b[1], octets[0]), mma(octets[1], left, b[2], b[3], octets[1]);
    }
#pragma unroll
    for (int i = 0; i < 8; i++)
      s[i] = 8 * (i >> 2) + 2 * me.t + (i & 1) < seen.columns ? octets[i >> 2][i & 3] : nothing();
  }
  // o += weights times the values of a row.
  DEVICE void weigh(float (&o)[E / 8][4], const u32 (&p)[4], int row) const {
#pragma unroll
    for (int c = 0; c < E / 8; c += 2) {
      const int channel = item.head * E + 8 * c, number = channel % VALUE_CHANNELS / 8 + (me.lane >> 4);
      const u32 values = item.stage * STAGE_SIZE + KEYS + channel / VALUE_CHANNELS * VALUES;
      u32 b[4];
      ldmatrix_transposed(b, chunk<VALUE_LINE>(values, row, me.lane & 15, number));
      mma(o[c], p, b[0], b[1], o[c]), mma(o[c + 1], p, b[2], b[3], o[c + 1]);
    }
  }
};

// A warp's 16 queries of an item, as forward.cu computes them, while their window is still there.
DEVICE void attend_exactly(Operands& a, const Item& item, const HopperArgs& all, Role me) {
  // The compiler must not know where this warp is: it would have these addresses ready in registers at all times.
  me.base = kept(me.base), me.lane = (int)kept((u32)me.lane), me.g = me.lane >> 2, me.t = me.lane & 3;
  const Part seen = part_of(item, me);
  const Rows rows = {item, seen, me};
  const float scale = all.args.scale * LOG2_E;
  operands(a, item, seen, me);
  float s[8], shift[2], greatest[2] = {nothing(), nothing()}, o[E / 8][4] = {}, sum[4] = {};
#pragma unroll 1
  for (int row = 0; row < seen.rows; row++) {
    rows.scores(s, a, row);
#pragma unroll
    for (int i = 0; i < 8; i++) greatest[i >> 1 & 1] = fmaxf(greatest[i >> 1 & 1], s[i]);
  }
#pragma unroll
  for (int h = 0; h < 2; h++) {
    greatest[h] = fmaxf(greatest[h], shuffle_xor(greatest[h], 1));
    greatest[h] = fmaxf(greatest[h], shuffle_xor(greatest[h], 2));
    shift[h] = -greatest[h] * scale - ROOM;
  }
#pragma unroll 1
  for (int row = 0; row < seen.rows; row++) {
    rows.scores(s, a, row);
    u32 p[4];
#pragma unroll
    for (int i = 0; i < 8; i++) s[i] = exp2_fast(fmaf(s[i], scale, shift[i >> 1 & 1]));
#pragma unroll
    for (int i = 0; i < 4; i++) p[i] = pack(s[2 * i], s[2 * i + 1]);
    rows.weigh(o, p, row);
    mma(sum, p, ONE | ONE << 16, ONE | ONE << 16, sum);
  }
  finish(reinterpret_cast<float(&)[E / 2]>(o), sum, target_of(item, me), all, me, make_float2(shift[0], shift[1]));
}
