// Positions as channels of a query: its products with the tables, as operands beside its channels.
#pragma once
#include "window.cuh"

// Queries times the tables, from the window's row ``top`` and column ``left`` on: by rows (the same for half a warp) and
// by columns (skewed).
DEVICE void positions(u32 (&rows)[4], u32 (&columns)[4], const u32 (&q)[KEY_STEPS][4], int top, int left,
                      const Role& me) {
  const u32 row = me.rows + top * POSITION_LINE, column = me.columns + left * POSITION_LINE;
  float d[3][4] = {}, h[4][4] = {};
#pragma unroll
  for (int k = 0; k < KEY_STEPS; k++) {
    u32 near[4], far[2], even[4], odd[4];
    ldmatrix(near, column + 32 * k);
    ldmatrix(far, column + 16 * POSITION_LINE + 32 * k);
    ldmatrix(even, row + 32 * k);
    ldmatrix(odd, row - POSITION_LINE + 32 * k);
    mma(d[0], q[k], near[0], near[1], d[0]), mma(d[1], q[k], near[2], near[3], d[1]);
    mma(d[2], q[k], far[0], far[1], d[2]);
    mma(h[0], q[k], even[0], even[1], h[0]), mma(h[1], q[k], even[2], even[3], h[1]);
    mma(h[2], q[k], odd[0], odd[1], h[2]), mma(h[3], q[k], odd[2], odd[3], h[3]);
  }
  rows[0] = pack(h[0][0], h[0][1]), rows[2] = pack(h[1][0], h[1][1]);
  rows[1] = pack(h[2][2], h[2][3]), rows[3] = pack(h[3][2], h[3][3]);
  // A query's 24 entries, a pair in each of four lanes and three octets, ``shift`` entries further on. What is
  // ``whole`` lanes further on is in the next octet where a lane begins a turn.
  const int shift = 7 - me.g, whole = shift >> 1;
  const bool wraps = me.t < whole, next_wraps = me.t <= whole;
  const u32 pick = shift & 1 ? 0x5432 : 0x3210;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    u32 pairs[3];
#pragma unroll
    for (int n = 0; n < 3; n++) pairs[n] = pack(d[n][2 * half], d[n][2 * half + 1]);
#pragma unroll
    for (int o = 0; o < 2; o++) {
      const u32 x = shuffle(wraps ? pairs[o + 1] : pairs[o], me.near);
      const u32 y = shuffle(next_wraps ? pairs[o + 1] : pairs[o], me.next);
      columns[2 * o + half] = permute(x, y, pick);
    }
  }
}
// Nothing is added where there are no tables; what is not kept counts for nothing.
DEVICE void hide(u32 (&rows)[4], u32 (&columns)[4], uint2 kept_rows, uint2 kept_columns) {
#pragma unroll
  for (int i = 0; i < 4; i++) {
    rows[i] = select(RELATIVE ? rows[i] : 0u, HIDDEN_PAIR, i < 2 ? kept_rows.x : kept_rows.y);
    columns[i] = select(RELATIVE ? columns[i] : 0u, HIDDEN_PAIR, i < 2 ? kept_columns.x : kept_columns.y);
  }
}
