// The forward pass: a CTA computes one block for HEADS heads.
//
// A warp keeps TILES_PER_WARP tiles of queries of one head and walks the rows of the window. The column bias is where the
// accumulators start, the row bias one more small product, the row sums a product with ones. Exponents are taken without a
// reference: bfloat16 has the range of float32. Sums that left the safe range are computed again, with the maximum.
#include "halo.cuh"

constexpr int WARPS_A_HEAD = warps_a_head(QUERY_TILES), THREADS = 32 * HEADS * WARPS_A_HEAD;
constexpr u32 AT_KEYS = 0, AT_VALUES = AT_KEYS + window_bytes<D>(), AT_TABLES = AT_VALUES + window_bytes<E>(),
              AT_STAGES = AT_TABLES + 2 * TABLE_BYTES, SHARED = AT_STAGES + (RELATIVE ? STAGE_BYTES * (THREADS / 32) : 0);
constexpr float SAFE = 1.152921504606847e18f;  // 2^60
extern "C" __constant__ const int launch[2] = {THREADS, (int)SHARED};  // what the host must know

KERNEL __launch_bounds__(THREADS, MIN_CTAS) void halo_forward(const __grid_constant__ Args args) {
  const Lane me = who();
  const u32 base = shared_base();
  const Place p = place(args, cta(), args.blocks_y, args.blocks_x);
  const int y0 = p.y * BLOCK - HALO, x0 = p.x * BLOCK - HALO;
  const int first = ZERO_BORDER ? 0 : max(0, -y0), last = ZERO_BORDER ? WINDOW : min(WINDOW, args.height - y0);
  load_tables(base + AT_TABLES, args, THREADS, me);
  copies_commit();
  const int local_head = me.warp / WARPS_A_HEAD, head = p.head + local_head;
  const int tile0 = p.part * tiles_a_part(QUERY_TILES) + me.warp % WARPS_A_HEAD * TILES_PER_WARP;
  u32 q[TILES_PER_WARP][D / 16][4];
#pragma unroll
  for (int m = 0; m < TILES_PER_WARP; m++) {  // on their way before anything is waited for
    const Pair pair = queries_of(args, p, tile0 + m, me);
    load_rows<D, D>(q[m], args.query, p, head, pair.y, pair.x, pair.valid, me);
  }
  load_window<D, D, THREADS>(base + AT_KEYS, args.key, args, p, y0, x0, first, last, me);
  load_window<E, VALUE_DIM, THREADS>(base + AT_VALUES, args.value, args, p, y0, x0, first, last, me);
  copies_commit();
  Biases bias[TILES_PER_WARP];
  copies_wait<1>();
  block_sync();
#pragma unroll
  for (int m = 0; m < TILES_PER_WARP; m++) {
    const Pair pair = queries_of(args, p, tile0 + m, me);
    if (RELATIVE) compute(bias[m], q[m], base, AT_TABLES, AT_STAGES + me.warp * STAGE_BYTES, pair, me);
    hide_columns(bias[m], args, x0, me);
  }
  copies_wait<0>();
  block_sync();

  const float scale = args.scale * LOG2_E;
  const int chunk_k = local_head * (D / 8), chunk_v = local_head * (E / 8);
  float reference[TILES_PER_WARP][2] = {}, output[TILES_PER_WARP][E / 8][4], sum[TILES_PER_WARP][4];
  bool exact = FP16;
  while (true) {
    if (exact) {
#pragma unroll
      for (int m = 0; m < TILES_PER_WARP; m++) reference[m][0] = reference[m][1] = HIDDEN;
      for (int a = first; a < last; a++) {
        Row<D> k;
        load_row<D>(k, base + AT_KEYS, a, chunk_k, me);
#pragma unroll
        for (int m = 0; m < TILES_PER_WARP; m++) {
          float s[LOADED][4];
          if (a < 8 || OCTETS == 1) score(s, q[m], k, bias[m], 0, one_row(a, me));
          else if (a < 16 || OCTETS == 2) score(s, q[m], k, bias[m], 1, one_row(a, me));
          else score(s, q[m], k, bias[m], LOADED - 1, one_row(a, me));
#pragma unroll
          for (int i = 0; i < 4 * ROW_OCTETS; i++)
            reference[m][(i >> 1) & 1] = fmaxf(reference[m][(i >> 1) & 1], s[i >> 2][i & 3] * scale);
        }
      }
      each_apart(first, last, [&](int octet, int half, int row) {
        u32 k[D / 16][2];
        load_apart<D, false>(k, base + AT_KEYS, row, first, last, chunk_k, me);
#pragma unroll
        for (int m = 0; m < TILES_PER_WARP; m++) {
          float s[4];
          score_apart(s, q[m], k, bias[m], octet, half, first, last, me);
#pragma unroll
          for (int i = 0; i < 4; i++) reference[m][i >> 1] = fmaxf(reference[m][i >> 1], s[i] * scale);
        }
      });
#pragma unroll
      for (int m = 0; m < TILES_PER_WARP; m++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
          reference[m][h] = fmaxf(reference[m][h], shuffle_xor(reference[m][h], 1));
          reference[m][h] = fmaxf(reference[m][h], shuffle_xor(reference[m][h], 2));
        }
    }
#pragma unroll
    for (int m = 0; m < TILES_PER_WARP; m++) {
#pragma unroll
      for (int i = 0; i < 4; i++) {
        sum[m][i] = 0.f;
#pragma unroll
        for (int e = 0; e < E / 8; e++) output[m][e][i] = 0.f;
      }
    }
#pragma unroll
    for (int octet = 0; octet < OCTETS; octet++)
      for (int a = max(first, 8 * octet); a < min(last, 8 * octet + 8); a++) {
        const u32 pick = one_row(a, me);
        Row<D> k;
        Row<E> v;
        load_row<D>(k, base + AT_KEYS, a, chunk_k, me);
        load_row_transposed<E>(v, base + AT_VALUES, a, chunk_v, me);
#pragma unroll
        for (int m = 0; m < TILES_PER_WARP; m++) {
          float s[LOADED][4];
          score(s, q[m], k, bias[m], octet, pick);
#pragma unroll
          for (int i = 0; i < 4 * ROW_OCTETS; i++)
            s[i >> 2][i & 3] = exp2_fast(fmaf(s[i >> 2][i & 3], scale, -reference[m][(i >> 1) & 1]));
          u32 weights[2 * LOADED];
          pack_keys(weights, s);
          mma_keys(sum[m], weights, ONE | ONE << 16, ONE | ONE << 16, ONE | ONE << 16);
#pragma unroll
          for (int e = 0; e < VALUE_OCTETS; e++) mma_keys(output[m][e], weights, v.sums(e, 0), v.sums(e, 1), v.sums(e, 2));
        }
      }
    each_apart(first, last, [&](int octet, int half, int row) {
      u32 k[D / 16][2], v[E / 16][2];
      load_apart<D, false>(k, base + AT_KEYS, row, first, last, chunk_k, me);
      load_apart<E, true>(v, base + AT_VALUES, row, first, last, chunk_v, me);
#pragma unroll
      for (int m = 0; m < TILES_PER_WARP; m++) {
        float s[4];
        score_apart(s, q[m], k, bias[m], octet, half, first, last, me);
#pragma unroll
        for (int i = 0; i < 4; i++) s[i] = exp2_fast(fmaf(s[i], scale, -reference[m][i >> 1]));
        const u32 weights[2] = {pack(s[0], s[1]), pack(s[2], s[3])};
        mma8(sum[m], weights[0], weights[1], ONE | ONE << 16, sum[m]);
#pragma unroll
        for (int e = 0; e < VALUE_OCTETS; e++) mma8(output[m][e], weights[0], weights[1], v[e / 2][e & 1], output[m][e]);
      }
    });
    if (exact) break;
    bool safe = true;
#pragma unroll
    for (int m = 0; m < TILES_PER_WARP; m++)
#pragma unroll
      for (int h = 0; h < 2; h++) safe = safe && sum[m][2 * h] > 1.f / SAFE && sum[m][2 * h] < SAFE;
    if (!warp_any(!safe)) break;
    exact = true;
  }

#pragma unroll
  for (int m = 0; m < TILES_PER_WARP; m++) {
    const Pair pair = queries_of(args, p, tile0 + m, me);
    const float factor[2] = {1.f / sum[m][0], 1.f / sum[m][2]};
    store_rows<E, VALUE_DIM>(output[m], factor, args.output, p, head, pair.y, pair.x, pair.valid, me);
    float* target = args.log_sum_exp + block_index(args, p.image, head, p.y, p.x) * PADDED;
#pragma unroll
    for (int h = 0; h < 2; h++)
      if (args.log_sum_exp && me.t == 0 && pair.number[h] < PADDED)
        target[pair.number[h]] = pair.valid[h] ? reference[m][h] + log2_fast(sum[m][2 * h]) : -HIDDEN;
  }
}
