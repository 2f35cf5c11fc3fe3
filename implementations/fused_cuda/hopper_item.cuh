// How an item of the Hopper kernel begins and ends: queries and positions as operands; outputs and log-sum-exps.
#pragma once
#include "hopper_ring.cuh"

// An item's queries as operands, times the scale, and their products with the tables, from the first row or column that
// is seen: q.rows by rows (the same for half a warp), q.columns by columns (skewed).
DEVICE void operands(Operands& w, const Item& item, const Seen& s, const Role& me) {
  const int octet = me.lane >> 4, chunk = me.lane >> 3 & 1, t = me.t;
#pragma unroll
  for (int k = 0; k < KEY_STEPS; k++) {
    const u32 from = me.base + item.stage * STAGE_SIZE + STAGE_QUERIES;
    ldmatrix(w.q[k], from + swizzled<KEY_LINE>(16 * me.warp + (me.lane & 15), item.head * (D / 8) + 2 * k + octet));
#pragma unroll
    for (int i = 0; i < 4; i++)
      w.q[k][i] = multiply_add_pair(w.q[k][i], QUERY_SCALE, multiply_pair(w.q[k][i], QUERY_SCALE_REST));
  }
  const uint2 kept_rows = at<uint2>(me.base - shared_base() + AT_KEPT + s.rows * 32 + t * 8);
  const uint2 kept_columns = at<uint2>(me.base - shared_base() + AT_KEPT + s.columns * 32 + t * 8);
  if (RELATIVE) {
    const u32 tables = me.base + AT_POSITIONS;
    const int slot = (me.lane & 7) + 8 * octet, row = s.top + BLOCK - 1 - 2 * me.warp + slot, column = s.left + slot;
    float d[3][4] = {}, h[4][4] = {};
#pragma unroll
    for (int k = 0; k < KEY_STEPS; k++) {
      u32 near[4], far[2], even[4], odd[4];
      ldmatrix(near, tables + POSITIONS + swizzled<POSITION_LINE>(column, 2 * k + chunk));
      ldmatrix(far, tables + POSITIONS + swizzled<POSITION_LINE>(s.left + 16 + (me.lane & 7), 2 * k + chunk));
      ldmatrix(even, tables + swizzled<POSITION_LINE>(row, 2 * k + chunk));
      ldmatrix(odd, tables + swizzled<POSITION_LINE>(row - 1, 2 * k + chunk));
      mma(d[0], w.q[k], near[0], near[1], d[0]), mma(d[1], w.q[k], near[2], near[3], d[1]);
      mma(d[2], w.q[k], far[0], far[1], d[2]);
      mma(h[0], w.q[k], even[0], even[1], h[0]), mma(h[1], w.q[k], even[2], even[3], h[1]);
      mma(h[2], w.q[k], odd[0], odd[1], h[2]), mma(h[3], w.q[k], odd[2], odd[3], h[3]);
    }
    u32 pairs[2][3];
#pragma unroll
    for (int n = 0; n < 3; n++) pairs[0][n] = pack(d[n][0], d[n][1]), pairs[1][n] = pack(d[n][2], d[n][3]);
    w.rows[0] = pack(h[0][0], h[0][1]), w.rows[2] = pack(h[1][0], h[1][1]);
    w.rows[1] = pack(h[2][2], h[2][3]), w.rows[3] = pack(h[3][2], h[3][3]);
    const int shift = 7 - me.g, close = t + (shift >> 1), from = me.lane & 28;
    const u32 pick = shift & 1 ? 0x5432 : 0x3210;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      u32 x[3], y[3];
#pragma unroll
      for (int n = 0; n < 3; n++) {
        x[n] = shuffle(pairs[half][n], from | (close & 3)), y[n] = shuffle(pairs[half][n], from | ((close + 1) & 3));
      }
      const bool wrap = close >= 4, wrap_next = close >= 3;
      w.columns[half] = permute(wrap ? x[1] : x[0], wrap_next ? y[1] : y[0], pick);
      w.columns[2 + half] = permute(wrap ? x[2] : x[1], wrap_next ? y[2] : y[1], pick);
    }
  }
#pragma unroll
  for (int i = 0; i < 4; i++) {
    w.rows[i] = select(RELATIVE ? w.rows[i] : 0u, HIDDEN_PAIR, i < 2 ? kept_rows.x : kept_rows.y);
    w.columns[i] = select(RELATIVE ? w.columns[i] : 0u, HIDDEN_PAIR, i < 2 ? kept_columns.x : kept_columns.y);
  }
}

DEVICE u64 keys_of(const Item& item, const Role& me) {
  return descriptor<KEY_LINE>(me.base + item.stage * STAGE_SIZE + 2 * D * item.head);
}
DEVICE u64 hot_of(bool few_columns, const Role& me) {
  return descriptor<64>(me.base + (few_columns ? AT_HOT_NARROW : AT_HOT));
}
// The values of an item, by chunks of channels.
struct Values {
  u64 chunks[CHUNKS];
};
DEVICE Values values_of(const Item& item, const Role& me) {
  Values values;
#pragma unroll
  for (int i = 0; i < CHUNKS; i++) {
    const int channel = item.head * E + i * CHUNK;
    const u32 box = channel / VALUE_CHANNELS * VALUES + channel % VALUE_CHANNELS * 2;
    values.chunks[i] = descriptor<VALUE_LINE>(me.base + item.stage * STAGE_SIZE + KEYS + box);
  }
  return values;
}
DEVICE u32 index_of(const Args& args, const Seen& s, int head) {  // of a block's first log-sum-exp
  return (((s.image * HEAD_COUNT + head) * args.blocks_y + s.y) * args.blocks_x + s.x) * 64;
}
DEVICE Target target_of(const Item& item, const HopperArgs& all, const Role& me) {
  const Args& args = all.args;
  const Seen s = seen_of(all, item.number);
  const int head = s.first_head + item.head, y = s.y * BLOCK, x = s.x * BLOCK;
  const int rows = args.query_height - y - 2 * me.warp, columns = args.query_width - x;
  const bool inside = me.g < columns, valid = !STAGED || (me.lane >> 4 < rows && (me.lane >> 1 & 7) < columns);
  u16* output = image_of(args.output, s.image) + offset_of(args.output, head, y, x) + me.output;
  const u32 index = index_of(args, s, head) + 16 * me.warp + me.g;
  return {valid ? output : nullptr, 4 * index + (inside && rows > 0) + 2 * (inside && rows > 1)};
}
// The end of an item: divide, store, check. Tells whether it must be computed again.
DEVICE bool finish(const float (&o)[E / 2], const float (&sum)[4], const Target& to, const HopperArgs& all,
                   const Role& me) {
  const float factor[2] = {reciprocal(sum[0]), reciprocal(sum[2])};
  const u32 stage = me.base + AT_OUTPUT + me.group * 2048 + me.warp * 512;
  u32 finite = 0;
#pragma unroll
  for (int c = 0; c < E / 16; c++) {
    u32 words[4];
#pragma unroll
    for (int i = 0; i < 4; i++)
      words[i] = pack(o[8 * c + 2 * i] * factor[i & 1], o[8 * c + 2 * i + 1] * factor[i & 1]),
      finite = multiply_add_pair(words[i], 0u, finite);
    if (STAGED) {
      if (c) warp_sync();
      stmatrix(stage + swizzled<32>(me.lane & 15, me.lane >> 4), words[0], words[1], words[2], words[3]);
      warp_sync();
      const uint4 v = load_shared(stage + swizzled<32>(me.lane >> 1, me.lane & 1));
      if (to.output) store_16(to.output + 16 * c, v);
    } else {
      const bool odd = me.t & 1;
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const u32 other = shuffle_xor(odd ? words[h] : words[2 + h], 1);
        const uint2 both = odd ? make_uint2(other, words[2 + h]) : make_uint2(words[h], other);
        if (to.output && to.sum >> h & 1) store(to.output + h * all.args.output.row + 16 * c, both);
      }
    }
  }
  const float low = fminf(sum[0], sum[2]), high = fmaxf(sum[0], sum[2]);
  const bool unsafe = warp_any(to.sum != NOTHING && (!(low > LEAST && high < GREATEST) || finite));
  if (me.t == 0 && to.sum != NOTHING) {
    float* target = all.args.log_sum_exp + (to.sum >> 2);
    target[0] = log2_normal(sum[0]), target[8] = log2_normal(sum[2]);
    if (unsafe || ~to.sum & 3) {
      const float missing = -HIDDEN, again = as_float(UNSAFE);
      if (unsafe || !(to.sum & 1)) target[0] = to.sum & 1 ? again : missing;
      if (unsafe || !(to.sum & 2)) target[8] = to.sum & 2 ? again : missing;
    }
  }
  return unsafe;
}
