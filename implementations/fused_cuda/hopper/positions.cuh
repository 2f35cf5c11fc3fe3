// Positions as channels of a query: its products with the tables, as operands beside its channels.
#pragma once
#include "window.cuh"

// Queries times the tables (at ``tables`` in shared memory), from the window's row ``top`` and column ``left`` on: by
// rows (the same for half a warp) and by columns (skewed).
DEVICE void positions(u32 (&rows)[4], u32 (&columns)[4], const u32 (&q)[KEY_STEPS][4], u32 tables, int top, int left,
                      const Role& me) {
  const int octet = me.lane >> 4, chunk = me.lane >> 3 & 1, t = me.t;
  const int slot = (me.lane & 7) + 8 * octet, row = top + BLOCK - 1 - 2 * me.warp + slot, column = left + slot;
  float d[3][4] = {}, h[4][4] = {};
#pragma unroll
  for (int k = 0; k < KEY_STEPS; k++) {
    u32 near[4], far[2], even[4], odd[4];
    ldmatrix(near, tables + POSITIONS + swizzled<POSITION_LINE>(column, 2 * k + chunk));
    ldmatrix(far, tables + POSITIONS + swizzled<POSITION_LINE>(left + 16 + (me.lane & 7), 2 * k + chunk));
    ldmatrix(even, tables + swizzled<POSITION_LINE>(row, 2 * k + chunk));
    ldmatrix(odd, tables + swizzled<POSITION_LINE>(row - 1, 2 * k + chunk));
    mma(d[0], q[k], near[0], near[1], d[0]), mma(d[1], q[k], near[2], near[3], d[1]);
    mma(d[2], q[k], far[0], far[1], d[2]);
    mma(h[0], q[k], even[0], even[1], h[0]), mma(h[1], q[k], even[2], even[3], h[1]);
    mma(h[2], q[k], odd[0], odd[1], h[2]), mma(h[3], q[k], odd[2], odd[3], h[3]);
  }
  u32 pairs[2][3];
#pragma unroll
  for (int n = 0; n < 3; n++) pairs[0][n] = pack(d[n][0], d[n][1]), pairs[1][n] = pack(d[n][2], d[n][3]);
  rows[0] = pack(h[0][0], h[0][1]), rows[2] = pack(h[1][0], h[1][1]);
  rows[1] = pack(h[2][2], h[2][3]), rows[3] = pack(h[3][2], h[3][3]);
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
    columns[half] = permute(wrap ? x[1] : x[0], wrap_next ? y[1] : y[0], pick);
    columns[2 + half] = permute(wrap ? x[2] : x[1], wrap_next ? y[2] : y[1], pick);
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
