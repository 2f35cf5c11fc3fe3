// How an item of the backward kernel by queries begins and ends: operands and what the pass by keys needs; gradients.
#pragma once
#include "positions.cuh"
#include "query_stage.cuh"
#include "ring.cuh"

struct Operands {
  u32 q[KEY_STEPS][4], g[E / 16][4], rows[4], columns[4];  // queries, gradients of outputs, positions
  float reference[2], delta[2];                            // of the two queries of a lane
};
struct Sums {
  float query[D / 2], positions[16];  // 16 rows, 16 columns
};

// 16 of a block's pixels as operands: a head's ``dim`` channels in boxes of ``line`` bytes a pixel.
template <int line, int dim>
DEVICE void load_pixels(u32 (&a)[dim / 16][4], u32 from, u32 box, int head, const Role& me) {
#pragma unroll
  for (int k = 0; k < dim / 16; k++) {
    const int channel = head * dim + 16 * k;
    ldmatrix(a[k], from + channel * 2 / line * box +
                       swizzled<line>(16 * me.warp + (me.lane & 15), channel * 2 % line / 16 + (me.lane >> 4)));
  }
}
// Queries, gradients and the products of outputs and gradients; log-sum-exps and -delta are kept for the pass by keys.
DEVICE void load_operands(Operands& w, const Item& item, u32 index, const Args& args, const Role& me) {
  const u32 stage = me.base + item.stage * STAGE_SIZE;
  u32 output[E / 16][4];
  load_pixels<KEY_LINE, D>(w.q, stage + STAGE_QUERIES, 0, item.head, me);
  load_pixels<VALUE_LINE, E>(w.g, stage + STAGE_GRADIENTS, ROWS, item.head, me);
  load_pixels<VALUE_LINE, E>(output, stage + STAGE_OUTPUTS, ROWS, item.head, me);
#pragma unroll
  for (int h = 0; h < 2; h++) {
    float delta = 0.f;
#pragma unroll
    for (int k = 0; k < E / 16; k++)
#pragma unroll
      for (int c = 0; c < 2; c++) {
        const u32 a = output[k][h + 2 * c], b = w.g[k][h + 2 * c];
        delta = fmaf(low_half(a), low_half(b), fmaf(high_half(a), high_half(b), delta));
      }
    delta += shuffle_xor(delta, 1), delta += shuffle_xor(delta, 2);
    w.delta[h] = delta;
    float* target = args.statistics + 2ll * index + 16 * me.warp + me.g + 8 * h;
    if (me.t == 0) target[0] = w.reference[h], target[64] = -delta;
  }
}
// Which of 16 positions the first ``count`` are, as they stand in a lane's operands.
DEVICE uint2 first_of(int count, const Role& me) {
  return at<uint2>(me.base - shared_base() + AT_KEPT + count * 32 + me.t * 8);
}
// Positions as operands. The pass by keys reads those of whole windows, this one begins with what is seen.
DEVICE void load_positions(Operands& w, const Seen& s, u32 index, const Args& args, const Role& me) {
  if (RELATIVE) {
    positions(w.rows, w.columns, w.q, 0, 0, me);
    const uint2 inside = first_of(WINDOW, me);
    u32 c[4];
#pragma unroll
    for (int i = 0; i < 4; i++) c[i] = select(w.columns[i], HIDDEN_PAIR, i < 2 ? inside.x : inside.y);
    uint4* target = args.biases + (index / 8 + 2 * me.warp) * 32ll + me.lane;
    target[0] = make_uint4(w.rows[0], w.rows[2], c[0], c[2]);
    target[32] = make_uint4(w.rows[1], w.rows[3], c[1], c[3]);
    if (s.top || s.left) positions(w.rows, w.columns, w.q, s.top, s.left, me);
  }
  hide(w.rows, w.columns, first_of(s.rows, me), first_of(s.columns, me));
}

// A query's sums by 16 positions, of which a lane has two pairs, as sums by 24 entries: ``shift`` further on, zeros
// elsewhere.
DEVICE void skew(u32 (&out)[3], u32 low, u32 high, int shift, const Role& me) {
  const int near = me.t - (shift >> 1), before = near - 1, from = me.lane & 28;
  const u32 pick = shift & 1 ? 0x5432 : 0x7654;
  const u32 x[2] = {shuffle(low, from | (near & 3)), shuffle(high, from | (near & 3))};
  const u32 y[2] = {shuffle(low, from | (before & 3)), shuffle(high, from | (before & 3))};
#pragma unroll
  for (int o = 0; o < 3; o++) {
    const int i = o + (near >> 2), j = o + (before >> 2);
    const u32 close = i == 0 ? x[0] : i == 1 ? x[1] : 0u, far = j == 0 ? y[0] : j == 1 ? y[1] : 0u;
    out[o] = permute(far, close, pick);
  }
}
// Sums by position back to entries of both tables, which the tables' gradients need, too: the positions' share of the
// queries' gradients.
DEVICE void add_positions(Sums& sums, u32 (&entries)[2][3][2], const Seen& s, const Role& me) {
  const float(&c)[16] = sums.positions;
#pragma unroll
  for (int table = 0; table < 2; table++) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const int i = 8 * table + 2 * h, shift = BLOCK - 1 + (table ? s.left - me.g : s.top - 2 * me.warp - h);
      u32 out[3];
      skew(out, pack(c[i], c[i + 1]), pack(c[i + 4], c[i + 5]), shift, me);
#pragma unroll
      for (int o = 0; o < 3; o++) entries[table][o][h] = out[o];
    }
    const u32(&e)[3][2] = entries[table];
    const u32 a[4] = {e[0][0], e[0][1], e[1][0], e[1][1]}, from = me.base + AT_POSITIONS + table * POSITIONS;
#pragma unroll
    for (int d = 0; d < D / 16; d++) {
      u32 b[4], last[2];
      ldmatrix_transposed(b, from + (me.lane & 15) * POSITION_LINE + 32 * d + (me.lane >> 4) * 16);
      ldmatrix_transposed(last, from + (16 + (me.lane & 7)) * POSITION_LINE + 32 * d + (me.lane >> 3 & 1) * 16);
#pragma unroll
      for (int n = 0; n < 2; n++) {
        float q[4];
#pragma unroll
        for (int i = 0; i < 4; i++) q[i] = sums.query[16 * d / 2 + 4 * n + i];
        mma(q, a, b[2 * n], b[2 * n + 1], q), mma8(q, e[2][0], e[2][1], last[n], q);
#pragma unroll
        for (int i = 0; i < 4; i++) sums.query[16 * d / 2 + 4 * n + i] = q[i];
      }
    }
  }
}
// The gradients of 16 queries to memory, as far as they are on the map, by way of 512 bytes of shared memory.
DEVICE void store_gradients(const float (&c)[D / 2], u32 room, const Seen& s, const Item& item, const Args& args,
                            const Role& me) {
  const View& view = args.query_gradient;
  const int y = s.y * BLOCK + 2 * me.warp + (me.lane >> 4), x = s.x * BLOCK + (me.lane >> 1 & 7);
  u16* target = image_of(view, s.image) + offset_of(view, s.first_head + item.head, y, x) + (me.lane & 1) * 8;
#pragma unroll
  for (int d = 0; d < D / 16; d++) {
    u32 words[4];
#pragma unroll
    for (int i = 0; i < 4; i++) words[i] = pack(c[8 * d + 2 * i] * args.scale, c[8 * d + 2 * i + 1] * args.scale);
    if (d) warp_sync();
    stmatrix(room + swizzled<32>(me.lane & 15, me.lane >> 4), words[0], words[1], words[2], words[3]);
    warp_sync();
    const uint4 v = load_shared(room + swizzled<32>(me.lane >> 1, me.lane & 1));
    if (y < args.query_height && x < args.query_width) store_16(target + 16 * d, v);
  }
}
// A warp's share of the tables' gradients, 16 entries of a table: entries x queries, all of the warpgroup's, times
// queries.
DEVICE void add_tables(float (&tables)[D / 8][4], u32 skews, u32 queries, int head, const Role& me) {
  // The fourth octet of a table does not exist: what comes of whatever stands there is not read.
  const u32 from = skews + (me.warp >> 1) * 48 + (me.warp & 1) * 32 + (me.lane >> 3 & 1) * 16;
#pragma unroll
  for (int k = 0; k < 4; k++) {
    u32 a[4];
    ldmatrix_transposed(a, from + (16 * k + (me.lane & 7) + (me.lane >> 4) * 8) * SKEW_LINE);
#pragma unroll
    for (int d = 0; d < D / 16; d++) {
      u32 b[4];
      const int row = 16 * k + (me.lane & 15), chunk = head * (D / 8) + 2 * d + (me.lane >> 4);
      ldmatrix_transposed(b, queries + swizzled<KEY_LINE>(row, chunk));
      mma(tables[2 * d], a, b[0], b[1], tables[2 * d]), mma(tables[2 * d + 1], a, b[2], b[3], tables[2 * d + 1]);
    }
  }
}
// The end of an item. ``turn`` tells odd items of a warpgroup from even ones: its barriers turn once an item.
DEVICE void finish(Sums& sums, float (&tables)[D / 8][4], const Seen& s, const Item& item, u32 turn, const Args& args,
                   const Role& me) {
  const u32 skews = me.base + AT_SKEWS + me.group * SKEWS, mine = skews + me.warp * (SKEWS / 4);
  if (!RELATIVE) {
    store_gradients(sums.query, mine, s, item, args, me);
    warp_sync();
    return;
  }
  const u32 read = me.base + AT_SHARED + 16 * me.group, written = read + 8;
  u32 entries[2][3][2];
  add_positions(sums, entries, s, me);
  barrier_wait(read, turn ^ 1);  // by all warps, what the last item left
  store_gradients(sums.query, mine, s, item, args, me);
  warp_sync();
  const u32 line = mine + (me.lane & 15) * SKEW_LINE;
  const int pair = me.lane >> 4;
#pragma unroll
  for (int table = 0; table < 2; table++) {
    const u32(&e)[3][2] = entries[table];
    stmatrix(line + (3 * table + pair) * 16, e[0][0], e[0][1], e[1][0], e[1][1]);
  }
  stmatrix(line + (3 * pair + 2) * 16, entries[0][2][0], entries[0][2][1], entries[1][2][0], entries[1][2][1]);
  warp_sync();
  if (me.lane == 0) barrier_arrive(written);
  barrier_wait(written, turn);
  add_tables(tables, skews, me.base + item.stage * STAGE_SIZE + STAGE_QUERIES, item.head, me);
  warp_sync();
  if (me.lane == 0) barrier_arrive(read);
}
