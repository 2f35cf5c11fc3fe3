// How an item of the Hopper kernel begins and ends: queries and positions as operands; outputs and log-sum-exps.
#pragma once
#include "positions.cuh"
#include "stage.cuh"
#include "ring.cuh"

// An item's queries as operands, and their products with the tables.
DEVICE void operands(Operands& w, const Item& item, const Part& s, const Role& me) {
  const int t = me.t;
#pragma unroll
  for (int k = 0; k < KEY_STEPS; k++) ldmatrix(w.q[k], (me.queries + item.stage * STAGE_SIZE) ^ 32 * k);
  const uint2 kept_rows = at<uint2>(me.base - shared_base() + AT_KEPT + s.rows * 32 + t * 8);
  const uint2 kept_columns = at<uint2>(me.base - shared_base() + AT_KEPT + s.columns * 32 + t * 8);
  if (RELATIVE) positions(w.rows, w.columns, w.q, s.top, s.left, me);
  hide(w.rows, w.columns, kept_rows, kept_columns);
}

DEVICE Target target_of(const Item& item, const Role& me) {
  const u32 notes = notes_of(item.stage, me) - shared_base();
  u16* output = at<u16*>(notes + 16) + me.output;
  const u32 inside = at<u16>(notes + 32 + 2 * me.warp), mine = inside >> me.g;
  const bool valid = STAGED ? inside >> (me.lane >> 1) & 1 : true;
  return {valid ? output : nullptr, 4 * (at<u32>(notes + 24) + me.sum) + (mine & 1) + (mine >> 7 & 2)};
}
// Whether what a warp summed for its queries can be trusted: no sum outside the safe range, nothing that is not finite.
DEVICE bool fit(const float (&o)[E / 2], const float (&sum)[4]) {
  float checked[2] = {sum[0], sum[2]};
#pragma unroll
  for (int i = 0; i < E / 2; i++) checked[i >> 1 & 1] = fmaf(o[i], 0.f, checked[i >> 1 & 1]);
  const bool low = checked[0] > LEAST && checked[1] > LEAST, high = checked[0] < GREATEST && checked[1] < GREATEST;
  return !warp_any(!(low && high));
}
// The end of an item: divide and store. ``shift`` is what was added to the exponents of a lane's two queries.
DEVICE void finish(const float (&o)[E / 2], const float (&sum)[4], const Target& to, const HopperArgs& all,
                   const Role& me, float2 shift = make_float2(SHIFT, SHIFT)) {
  const float factor[2] = {reciprocal(sum[0]), reciprocal(sum[2])};
#pragma unroll
  for (int c = 0; c < E / 16; c++) {
    u32 words[4];
#pragma unroll
    for (int i = 0; i < 4; i++)
      words[i] = pack(o[8 * c + 2 * i] * factor[i & 1], o[8 * c + 2 * i + 1] * factor[i & 1]);
    if (STAGED) {
      if (c) warp_sync();
      stmatrix(me.written, words[0], words[1], words[2], words[3]);
      warp_sync();
      const uint4 v = load_shared(me.read);
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
  if (me.t == 0 && to.sum != NOTHING) {
    float* target = all.args.log_sum_exp + (to.sum >> 2);
    target[0] = to.sum & 1 ? log2_normal(sum[0]) - shift.x : -HIDDEN;
    target[8] = to.sum & 2 ? log2_normal(sum[2]) - shift.y : -HIDDEN;
  }
}
