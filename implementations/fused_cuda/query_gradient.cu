// The backward pass by queries: gradients of queries and tables; what the pass by keys needs again goes to memory.
//
// A CTA walks over many blocks, so that the gradients of the tables stay in its shared memory and are added in one order.
// Window rows as in the forward pass. The gradients of the biases are row and column sums of the logits' gradients; each,
// skewed back to table entries, is an operand of two products: with the tables, and with the queries.
#include "halo.cuh"

static_assert(PARTS == 1, "a head's warps share what they sum for the tables");
constexpr int WARPS_A_HEAD = warps_a_head(QUERY_TILES), THREADS = 32 * HEADS * WARPS_A_HEAD;
constexpr int SKEW_LINE = 80, SKEW_BYTES = 16 * SKEW_LINE;  // 32 entries of a query and a pad
constexpr int SUMS_BYTES = 2 * 2 * (D / 8) * 512;  // a head's table gradients, by table, 16 entries, 8 dims, lane
// A warp's scratch: skewed products of one tile, later the queries of all its tiles, for the other warps of the head.
constexpr int QUERY_LINE = TABLE_LINE, QUERY_BYTES = 16 * QUERY_LINE;
constexpr int SCRATCH_BYTES = TILES_PER_WARP * QUERY_BYTES > STAGE_BYTES ? TILES_PER_WARP * QUERY_BYTES : STAGE_BYTES;
constexpr int SUMMANDS = 4 * (D / 16);  // pieces of a head's table gradients: 16 entries of a table, 16 dims
constexpr u32 AT_KEYS = 0, AT_VALUES = AT_KEYS + window_bytes<D>(), AT_TABLES = AT_VALUES + window_bytes<E>(),
              AT_SUMS = AT_TABLES + 2 * TABLE_BYTES, AT_SCRATCH = AT_SUMS + (RELATIVE ? HEADS * SUMS_BYTES : 0),
              AT_SKEWS = AT_SCRATCH + (RELATIVE ? SCRATCH_BYTES * (THREADS / 32) : 0),
              SHARED = AT_SKEWS + (RELATIVE ? 2 * TILES_PER_WARP * SKEW_BYTES * (THREADS / 32) : 0);

// Sums over a window's rows or columns back to table entries: [16 queries, 32 entries]. What it does not write is zero, the
// same for all blocks.
DEVICE void skew_back(u32 skew, const float (&sums)[LOADED][4], const int (&entry)[2], const Lane& me) {
#pragma unroll
  for (int i = 0; i < 4 * LOADED; i++) {
    int part = i & 3, row = me.g + (part >> 1) * 8;
    int column = (i >> 2) * 8 + 2 * me.t + (part & 1) + entry[part >> 1];
    at<u16>(skew + row * SKEW_LINE + column * 2) = (u16)pack(sums[i >> 2][part], 0.f);
  }
  warp_sync();
}
// A tile's queries to shared memory, [16 queries, D].
DEVICE void keep_queries(u32 target, const u32 (&q)[D / 16][4], const Lane& me) {
#pragma unroll
  for (int s = 0; s < D / 16; s++)
#pragma unroll
    for (int i = 0; i < 4; i++)
      at<u32>(target + (me.g + (i & 1) * 8) * QUERY_LINE + s * 32 + (i >> 1) * 16 + me.t * 4) = q[s][i];
}
// A block's part of the tables' gradients: the warps of a head share the pieces, each sums all tiles of queries.
DEVICE void add_table_gradients(u32 base, u32 sums, u32 scratch, u32 skews, int turn, const Lane& me) {
  for (int piece = turn; piece < SUMMANDS; piece += WARPS_A_HEAD) {
    const int part = piece & 3, d = piece >> 2;
    float c[2][4];
#pragma unroll
    for (int n = 0; n < 2; n++) {
      float4 sum = at<float4>(sums + (part * (D / 8) + 2 * d + n) * 512 + me.lane * 16);
      c[n][0] = sum.x, c[n][1] = sum.y, c[n][2] = sum.z, c[n][3] = sum.w;
    }
#pragma unroll
    for (int tile = 0; tile < QUERY_TILES; tile++) {
      u32 a[4], b[4];  // [16 entries, 16 queries] and [16 queries, 16 dims]
      ldmatrix_transposed(a, base + skews + (2 * tile + (part >> 1)) * SKEW_BYTES + ByRows::row(me.lane) * SKEW_LINE +
                                 (part & 1) * 32 + ByRows::chunk(me.lane) * 16);
      ldmatrix_transposed(b, base + scratch + tile / TILES_PER_WARP * SCRATCH_BYTES + tile % TILES_PER_WARP * QUERY_BYTES +
                                 ByColumns::row(me.lane) * QUERY_LINE + d * 32 + ByColumns::chunk(me.lane) * 16);
      mma(c[0], a, b[0], b[1], c[0]);
      mma(c[1], a, b[2], b[3], c[1]);
    }
#pragma unroll
    for (int n = 0; n < 2; n++)
      at<float4>(sums + (part * (D / 8) + 2 * d + n) * 512 + me.lane * 16) = make_float4(c[n][0], c[n][1], c[n][2], c[n][3]);
  }
}
extern "C" __constant__ const int launch[2] = {THREADS, (int)SHARED};  // what the host must know

KERNEL __launch_bounds__(THREADS, MIN_CTAS) void halo_query_gradient(const __grid_constant__ Args args) {
  const Lane me = who();
  const u32 base = shared_base(), scratch = AT_SCRATCH + me.warp * SCRATCH_BYTES;
  const u32 skews = AT_SKEWS + me.warp * 2 * TILES_PER_WARP * SKEW_BYTES;
  const int local_head = me.warp / WARPS_A_HEAD, turn = me.warp % WARPS_A_HEAD, tile0 = turn * TILES_PER_WARP;
  const int chunk_k = local_head * (D / 8), chunk_v = local_head * (E / 8);
  const float scale = args.scale * LOG2_E;
  const u32 identity = kept(me.g >> 1 == me.t ? ONE << (16 * (me.g & 1)) : 0u);  // a B operand [8, 8]
  load_tables(base + AT_TABLES, args, THREADS, me);
  copies_commit();
  if (RELATIVE) {
    for (int i = me.thread; i < HEADS * SUMS_BYTES / 16; i += THREADS) at<uint4>(AT_SUMS + i * 16) = make_uint4(0, 0, 0, 0);
    for (int i = me.lane; i < 2 * TILES_PER_WARP * SKEW_BYTES / 16; i += 32)
      at<uint4>(skews + i * 16) = make_uint4(0, 0, 0, 0);
  }

  for (int index = cta(); index < args.count; index += ctas()) {
    const Place p = place(args, index, args.blocks_y, args.blocks_x);
    const int y0 = p.y * BLOCK - HALO, x0 = p.x * BLOCK - HALO, head = p.head + local_head;
    const int first = ZERO_BORDER ? 0 : max(0, -y0), last = ZERO_BORDER ? WINDOW : min(WINDOW, args.height - y0);
    block_sync();  // everybody is done with the last window
    u32 q[TILES_PER_WARP][D / 16][4], gradient[TILES_PER_WARP][E / 16][4], output[TILES_PER_WARP][E / 16][4];
    float reference[TILES_PER_WARP][2];
    const long long at_block = block_index(args, p.image, head, p.y, p.x);
#pragma unroll
    for (int m = 0; m < TILES_PER_WARP; m++) {  // all that comes from memory is on its way before anything is waited for
      const Pair pair = queries_of(args, p, tile0 + m, me);
      load_rows<D, D>(q[m], args.query, p, head, pair.y, pair.x, pair.valid, me);
      load_rows<E, VALUE_DIM>(gradient[m], args.output_gradient, p, head, pair.y, pair.x, pair.valid, me);
      load_rows<E, VALUE_DIM>(output[m], args.output, p, head, pair.y, pair.x, pair.valid, me);
#pragma unroll
      for (int h = 0; h < 2; h++)
        reference[m][h] = pair.number[h] < PADDED ? args.log_sum_exp[at_block * PADDED + pair.number[h]] : -HIDDEN;
    }
    load_window<D, D, THREADS>(base + AT_KEYS, args.key, args, p, y0, x0, first, last, me);
    load_window<E, VALUE_DIM, THREADS>(base + AT_VALUES, args.value, args, p, y0, x0, first, last, me);
    copies_commit();
    copies_wait<1>();  // the tables
    block_sync();

    Biases bias[TILES_PER_WARP];
    float minus_delta[TILES_PER_WARP][4];
    float dq[TILES_PER_WARP][D / 8][4] = {};
    float row_sums[TILES_PER_WARP][LOADED][4] = {}, column_sums[TILES_PER_WARP][LOADED][4] = {};
#pragma unroll
    for (int m = 0; m < TILES_PER_WARP; m++) {
      const Pair pair = queries_of(args, p, tile0 + m, me);
#pragma unroll
      for (int h = 0; h < 2; h++) {
        float delta = 0.f;
#pragma unroll
        for (int s = 0; s < E / 16; s++)
#pragma unroll
          for (int c = 0; c < 2; c++) {
            u32 a = output[m][s][h + 2 * c], b = gradient[m][s][h + 2 * c];
            delta = fmaf(low_half(a), low_half(b), fmaf(high_half(a), high_half(b), delta));
          }
        delta += shuffle_xor(delta, 1), delta += shuffle_xor(delta, 2);
        minus_delta[m][2 * h] = kept(-delta), minus_delta[m][2 * h + 1] = kept(as_float(zero(args)) - delta);
        if (pair.number[h] < PADDED && me.t == 0) {
          float* target = args.statistics + at_block * 2 * PADDED + pair.number[h];
          target[0] = reference[m][h], target[PADDED] = -delta;
        }
      }
      if (RELATIVE) {
        compute(bias[m], q[m], base, AT_TABLES, scratch, pair, me);
        hide_padding(bias[m], me);
        if (tile0 + m < QUERY_TILES) {
          uint4* target = args.biases + (at_block * (PADDED / 16 * BIAS_HALVES) + 2 * (tile0 + m)) * 32 + me.lane;
          const float(&c)[LOADED][4] = bias[m].columns;
          target[0] = make_uint4(bias[m].rows[0], bias[m].rows[2], pack(c[0][0], c[0][1]), pack(c[1][0], c[1][1]));
          target[32] = make_uint4(bias[m].rows[1], bias[m].rows[3], pack(c[0][2], c[0][3]), pack(c[1][2], c[1][3]));
          if (OCTETS > 2) {
            constexpr int last = LOADED - 1;
            if (LARGE) {
              uint4* block = args.biases + at_block * (PADDED / 16 * BIAS_HALVES) * 32;
              uint2* third = reinterpret_cast<uint2*>(block + PADDED / 8 * 32) + 2 * (tile0 + m) * 32 + me.lane;
              third[0] = make_uint2(bias[m].rows[2 * last], pack(c[last][0], c[last][1]));
              third[32] = make_uint2(bias[m].rows[2 * last + 1], pack(c[last][2], c[last][3]));
            } else {
              target += PADDED / 8 * 32;
              target[0] = make_uint4(bias[m].rows[2 * last], pack(c[last][0], c[last][1]), 0, 0);
              target[32] = make_uint4(bias[m].rows[2 * last + 1], pack(c[last][2], c[last][3]), 0, 0);
            }
          }
          // Products read them in another order than the one they are stored in: they get registers of their own.
#pragma unroll
          for (int i = 0; i < 2 * LOADED; i++) bias[m].rows[i] |= zero(args);
        }
      }
      hide_columns(bias[m], args, x0, me);
    }
    copies_wait<0>();
    block_sync();

#pragma unroll
    for (int octet = 0; octet < OCTETS; octet++)
      for (int a = max(first, 8 * octet); a < min(last, 8 * octet + 8); a++) {
        const u32 pick = one_row(a, me), into = me.g == (a & 7) ? ONE | ONE << 16 : 0u;
        Row<D> k, k_columns;
        Row<E> v;
        load_row<D>(k, base + AT_KEYS, a, chunk_k, me);
        load_row_transposed<D>(k_columns, base + AT_KEYS, a, chunk_k, me);
        load_row<E>(v, base + AT_VALUES, a, chunk_v, me);
#pragma unroll
        for (int m = 0; m < TILES_PER_WARP; m++) {
          float s[LOADED][4], dp[LOADED][4];
          score(s, q[m], k, bias[m], octet, pick);
#pragma unroll
          for (int n = 0; n < ROW_OCTETS; n++)
#pragma unroll
            for (int e = 0; e < E / 16; e++) {
              if (e == 0) mma_values(dp[n], gradient[m][e], e, v.scores(e, n, 0), v.scores(e, n, 1), minus_delta[m]);
              else mma_values(dp[n], gradient[m][e], e, v.scores(e, n, 0), v.scores(e, n, 1), dp[n]);
            }
#pragma unroll
          for (int i = 0; i < 4 * ROW_OCTETS; i++) {
            float& x = s[i >> 2][i & 3];
            x = exp2_fast(fmaf(x, scale, -reference[m][(i >> 1) & 1])) * dp[i >> 2][i & 3];
          }
          u32 ds[2 * LOADED];
          pack_keys(ds, s);
#pragma unroll
          for (int d = 0; d < D / 8; d++)
            mma_keys(dq[m][d], ds, k_columns.sums(d, 0), k_columns.sums(d, 1), k_columns.sums(d, 2));
          if (RELATIVE) {
            mma_keys(row_sums[m][octet], ds, into, into, into);
#pragma unroll
            for (int n = 0; n < ROW_OCTETS; n++) mma8(column_sums[m][n], ds[2 * n], ds[2 * n + 1], identity, column_sums[m][n]);
          }
        }
      }
    each_apart(first, last, [&](int octet, int half, int row) {
      // The B operands [8 keys, 8] that sum them by row and by column.
      const u32 by_row = me.g == 4 * half + me.t ? ONE | ONE << 16 : 0u, by_column = me.g < 2 ? ONE << (16 * me.g) : 0u;
      u32 k[D / 16][2], k_columns[D / 16][2], v[E / 16][2];
      load_apart<D, false>(k, base + AT_KEYS, row, first, last, chunk_k, me);
      load_apart<D, true>(k_columns, base + AT_KEYS, row, first, last, chunk_k, me);
      load_apart<E, false>(v, base + AT_VALUES, row, first, last, chunk_v, me);
#pragma unroll
      for (int m = 0; m < TILES_PER_WARP; m++) {
        float s[4], dp[4];
        score_apart(s, q[m], k, bias[m], octet, half, first, last, me);
#pragma unroll
        for (int e = 0; e < E / 16; e++) {
          if (e == 0) mma_values(dp, gradient[m][e], e, v[e][0], v[e][1], minus_delta[m]);
          else mma_values(dp, gradient[m][e], e, v[e][0], v[e][1], dp);
        }
#pragma unroll
        for (int i = 0; i < 4; i++) s[i] = exp2_fast(fmaf(s[i], scale, -reference[m][i >> 1])) * dp[i];
        const u32 ds[2] = {pack(s[0], s[1]), pack(s[2], s[3])};
#pragma unroll
        for (int d = 0; d < D / 8; d++) mma8(dq[m][d], ds[0], ds[1], k_columns[d / 2][d & 1], dq[m][d]);
        if (RELATIVE) {
          mma8(row_sums[m][octet], ds[0], ds[1], by_row, row_sums[m][octet]);
          mma8(column_sums[m][LOADED - 1], ds[0], ds[1], by_column, column_sums[m][LOADED - 1]);
        }
      }
    });

#pragma unroll
    for (int m = 0; m < TILES_PER_WARP; m++) {
      const Pair pair = queries_of(args, p, tile0 + m, me);
      if (RELATIVE) {
        keep_queries(scratch + m * QUERY_BYTES, q[m], me);
#pragma unroll
        for (int table = 0; table < 2; table++) {
          const u32 skew = skews + (2 * m + table) * SKEW_BYTES;
          if (table) skew_back(skew, column_sums[m], pair.column_entry, me);
          else skew_back(skew, row_sums[m], pair.row_entry, me);
#pragma unroll
          for (int s = 0; s < 2; s++) {
            u32 a[4];
            ldmatrix(a, base + skew + ByColumns::row(me.lane) * SKEW_LINE + s * 32 + ByColumns::chunk(me.lane) * 16);
#pragma unroll
            for (int d = 0; d < D / 16; d++) {
              u32 b[4];
              ldmatrix_transposed(b, base + AT_TABLES + table * TABLE_BYTES +
                                         (s * 16 + ByColumns::row(me.lane)) * TABLE_LINE + d * 32 +
                                         ByColumns::chunk(me.lane) * 16);
              mma(dq[m][2 * d], a, b[0], b[1], dq[m][2 * d]);
              mma(dq[m][2 * d + 1], a, b[2], b[3], dq[m][2 * d + 1]);
            }
          }
        }
      }
      const float factor[2] = {args.scale, args.scale};
      store_rows<D, D>(dq[m], factor, args.query_gradient, p, head, pair.y, pair.x, pair.valid, me);
    }
    if (RELATIVE) {
      if (WARPS_A_HEAD > 1) block_sync();  // a head's warps need what the others kept
      const int warp0 = local_head * WARPS_A_HEAD;
      add_table_gradients(base, AT_SUMS + local_head * SUMS_BYTES, AT_SCRATCH + warp0 * SCRATCH_BYTES,
                          AT_SKEWS + warp0 * 2 * TILES_PER_WARP * SKEW_BYTES, turn, me);
    }
  }

  if (RELATIVE) {  // by CTA, table, used entry, dim: the sum over the CTA's heads
    block_sync();
    float* target = args.partials + (long long)cta() * 2 * 32 * D;
    for (int i = me.thread; i < 4 * (D / 8) * 32; i += THREADS) {
      int lane = i & 31, d = (i >> 5) % (D / 8), part = (i >> 5) / (D / 8);
      float c[4] = {};
      for (int h = 0; h < HEADS; h++) {
        float4 sums = at<float4>(AT_SUMS + h * SUMS_BYTES + i * 16);
        c[0] += sums.x, c[1] += sums.y, c[2] += sums.z, c[3] += sums.w;
      }
#pragma unroll
      for (int j = 0; j < 4; j++) {
        int entry = (part & 1) * 16 + (lane >> 2) + (j >> 1) * 8, dim = d * 8 + 2 * (lane & 3) + (j & 1);
        target[((part >> 1) * 32 + entry) * D + dim] = c[j] * args.scale;
      }
    }
  }
}
