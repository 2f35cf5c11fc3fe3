// The backward pass by keys: gradients of keys and values, each owned by one CTA, so nothing is added in memory.
//
// Tiles of BLOCK x BLOCK keys begin HALO pixels before the blocks: the queries that see one belong to its own block and to
// the blocks above and to the left. Probabilities are made again from the log-sum-exps; both biases are one-hot products
// with what the pass by queries left in memory. Logits are transposed here, [16 keys, 8 queries]. The first CTAs finish
// the tables' gradients.
#include "table_sums.cuh"

constexpr int WARPS_A_HEAD = warps_a_head(KEY_TILES), THREADS = 32 * HEADS * WARPS_A_HEAD;
constexpr int REACH = 1 + (2 * HALO + BLOCK - 1) / BLOCK;  // blocks along an axis whose queries see a tile of keys
// A buffer holds what one block of queries brings: queries, gradients of the output, biases and statistics, head by head.
constexpr u32 AT_GRADIENTS = PADDED * Pixels<D>::line, AT_BIASES = AT_GRADIENTS + PADDED * Pixels<E>::line,
              AT_STATISTICS = AT_BIASES + (RELATIVE ? HEADS * PADDED * 32 * BIAS_HALVES : 0),
              BUFFER = (AT_STATISTICS + HEADS * PADDED * 8 + 1023) / 1024 * 1024;
// While one is worked on the next one is loaded, unless another part of the block has work meanwhile.
constexpr int BUFFERS = PARTS > 1 ? 1 : 2;
// The CTAs that finish the tables' gradients have 16 bytes a thread.
constexpr u32 SUMS = RELATIVE ? THREADS * 16 : 0, SHARED = BUFFERS * BUFFER > SUMS ? BUFFERS * BUFFER : SUMS;
// Where a tile of keys is two rows of 8, all its bias rows lie in one octet of the window and so do its columns.
constexpr bool TWO_ROWS = BLOCK == 8 && WINDOW % 2 == 0;

extern "C" __constant__ const int launch[2] = {THREADS, (int)SHARED};  // what the host must know

DEVICE void load_block(u32 base, const Args& args, const Place& p, int y, int x, const Lane& me) {
  load_box<D, D, SIDE, THREADS>(base, args.query, p, y * SIDE, x * SIDE, 0, SIDE, args.query_height, args.query_width, me);
  load_box<E, VALUE_DIM, SIDE, THREADS>(base + AT_GRADIENTS, args.output_gradient, p, y * SIDE, x * SIDE, 0, SIDE,
                                        args.query_height, args.query_width, me);
  clear_box<D, THREADS>(base, args.query, QUERIES, PADDED, me);
  clear_box<E, THREADS>(base + AT_GRADIENTS, args.query, QUERIES, PADDED, me);
#pragma unroll
  for (int head = 0; head < HEADS; head++) {
    const long long first = block_index(args, p.image, p.head + head, y, x) * PADDED;
    const uint4* biases = args.biases + first * 2 * BIAS_HALVES;
    const float4* statistics = reinterpret_cast<const float4*>(args.statistics + first * 2);
    if (RELATIVE)
      for (int i = me.thread; i < PADDED * 2 * BIAS_HALVES; i += THREADS)
        copy_async(base + AT_BIASES + head * PADDED * 32 * BIAS_HALVES + i * 16, biases + i, true);
    for (int i = me.thread; i < PADDED / 2; i += THREADS)
      copy_async(base + AT_STATISTICS + head * PADDED * 8 + i * 16, statistics + i, true);
  }
}
// Where a tile's key stands. The queries of all but the first block see few columns: those keys come first and fill few tiles.
constexpr bool NEAR_FIRST = KEY_TILES > 4 && HALO > 0 && WINDOW < 2 * BLOCK;
constexpr int NEAR = WINDOW - BLOCK;
// The number of the first key behind all that the block of a step sees.
DEVICE int seen_keys(int step) {
  if (!NEAR_FIRST || step == 0) return BLOCK * BLOCK;
  return step == 1 ? NEAR * BLOCK : step == 2 ? BLOCK * BLOCK - (BLOCK - NEAR) * (BLOCK - NEAR) : NEAR * NEAR;
}
DEVICE void key_at(int number, int& row, int& column) {
  if constexpr (NEAR_FIRST) {
    constexpr int near = NEAR * BLOCK, width = BLOCK - NEAR;
    if (number < near) row = number / NEAR, column = number % NEAR;
    else row = (number - near) / width, column = NEAR + (number - near) % width;
  } else {
    row = number / BLOCK, column = number % BLOCK;
  }
}
// The A operands [16 keys, 8 window positions] that pick the bias of two keys' positions.
DEVICE void pick_bias(u32 (&a)[2 * LOADED], int position, int position8, const Lane& me) {
#pragma unroll
  for (int i = 0; i < 2 * LOADED; i++) {
    int wanted = (i & 1 ? position8 : position) - 8 * (i >> 1);
    a[i] = kept(wanted >> 1 == me.t ? ONE << (16 * (wanted & 1)) : 0u);
  }
}

KERNEL __launch_bounds__(THREADS, MIN_CTAS) void halo_key_gradient(const __grid_constant__ Args args) {
  const Lane me = who();
  const u32 base = shared_base();
  if (RELATIVE && cta() < args.entry_rows) return sum_table_gradients<THREADS>(args, cta(), me);
  const Place p = place(args, cta() - args.entry_rows, args.tiles_y, args.tiles_x);
  const int local_head = me.warp / WARPS_A_HEAD, head = p.head + local_head;
  const int tile0 = p.part * tiles_a_part(KEY_TILES) + me.warp % WARPS_A_HEAD * TILES_PER_WARP;
  const int chunk_q = local_head * (D / 8), chunk_g = local_head * (E / 8);
  const float scale = args.scale * LOG2_E;

  int row[TILES_PER_WARP][2], column[TILES_PER_WARP][2], y[TILES_PER_WARP][2], x[TILES_PER_WARP][2];
  bool valid[TILES_PER_WARP][2];
  u32 k[TILES_PER_WARP][D / 16][4], v[TILES_PER_WARP][E / 16][4];
#pragma unroll
  for (int m = 0; m < TILES_PER_WARP; m++) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
      int number = (tile0 + m) * 16 + me.g + 8 * h;
      key_at(number, row[m][h], column[m][h]);
      y[m][h] = p.y * BLOCK - HALO + row[m][h], x[m][h] = p.x * BLOCK - HALO + column[m][h];
      valid[m][h] = number < BLOCK * BLOCK && (unsigned)y[m][h] < (unsigned)args.height &&
                    (unsigned)x[m][h] < (unsigned)args.width;
    }
    load_rows<D, D>(k[m], args.key, p, head, y[m], x[m], valid[m], me);
    load_rows<E, VALUE_DIM>(v[m], args.value, p, head, y[m], x[m], valid[m], me);
  }

  auto exists = [&](int step) {
    if (PARTS > 1 && p.part * tiles_a_part(KEY_TILES) * 16 >= seen_keys(step)) return false;
    int by = p.y - step / REACH, bx = p.x - step % REACH;
    return by >= 0 && bx >= 0 && by < args.blocks_y && bx < args.blocks_x;
  };
  auto next = [&](int step) {
    do step++;
    while (step < REACH * REACH && !exists(step));
    return step;
  };
  auto fetch = [&](int step, u32 buffer) {
    if (step < REACH * REACH) load_block(base + buffer, args, p, p.y - step / REACH, p.x - step % REACH, me);
    copies_commit();
  };
  const u32 own_column = kept(me.g >> 1 == me.t ? ONE << (16 * (me.g & 1)) : 0u);

  float dk[TILES_PER_WARP][D / 8][4] = {}, dv[TILES_PER_WARP][E / 8][4] = {};
  u32 buffer = 0;
  int step = next(-1);
  fetch(step, buffer);
  while (step < REACH * REACH) {
    const int following = next(step);
    if (BUFFERS > 1) fetch(following, buffer ^ BUFFER);
    copies_wait<BUFFERS - 1>();
    block_sync();

    const int down = step / REACH * BLOCK, right = step % REACH * BLOCK;  // of the keys in this block's window
    u32 pick_row[TILES_PER_WARP][2 * LOADED], pick_column[TILES_PER_WARP][2 * LOADED];
    float start[TILES_PER_WARP][4];
    bool seen[TILES_PER_WARP], some = false;
#pragma unroll
    for (int m = 0; m < TILES_PER_WARP; m++) {
      if (TWO_ROWS) {
        pick_row[m][0] = kept((row[m][0] & 7) >> 1 == me.t ? ONE : 0u), pick_row[m][1] = kept(pick_row[m][0] << 16);
      } else {
        pick_bias(pick_row[m], row[m][0] + down, row[m][1] + down, me);
        pick_bias(pick_column[m], column[m][0] + right, column[m][1] + right, me);
      }
      bool any = false;
#pragma unroll
      for (int h = 0; h < 2; h++) {
        bool visible = valid[m][h] && row[m][h] + down < WINDOW && column[m][h] + right < WINDOW;
        start[m][2 * h] = visible ? 0.f : HIDDEN, start[m][2 * h + 1] = start[m][2 * h] + as_float(zero(args));
        any = any || visible;
      }
      seen[m] = warp_any(any), some = some || seen[m];
    }

    for (int pair = 0; some && pair < QUERY_TILES; pair++) {  // of 8 queries each
      u32 q[D / 16][4], q_columns[D / 16][4], g[E / 16][4], g_columns[E / 16][4];
#pragma unroll
      for (int d = 0; d < D / 16; d++) {
        const int chunk = chunk_q + 2 * d;
        ldmatrix(q[d], base + buffer + Pixels<D>::slot_after<16>(pair, ByRows::row(me.lane),
                                                                 chunk + ByRows::chunk(me.lane)));
        ldmatrix_transposed(q_columns[d], base + buffer + Pixels<D>::slot_after<16>(pair, ByColumns::row(me.lane),
                                                                                    chunk + ByColumns::chunk(me.lane)));
      }
#pragma unroll
      for (int e = 0; e < E / 16; e++) {
        const u32 gradients = base + buffer + AT_GRADIENTS;
        const int chunk = chunk_g + 2 * e;
        ldmatrix(g[e], gradients + Pixels<E>::slot_after<16>(pair, ByRows::row(me.lane), chunk + ByRows::chunk(me.lane)));
        ldmatrix_transposed(g_columns[e], gradients + Pixels<E>::slot_after<16>(pair, ByColumns::row(me.lane),
                                                                                chunk + ByColumns::chunk(me.lane)));
      }
      uint4 bias[2], third[2];   // the biases of the window's third octet stand by themselves
      float2 log_sum_exp[2];     // of two queries
      float minus_delta[2][4];  // of the same, as products start from it: loaded twice, not copied
#pragma unroll
      for (int n = 0; n < 2; n++) {
        const int vector = local_head * PADDED * 2 * BIAS_HALVES + (2 * pair + n) * 32 + me.lane;
        if (RELATIVE) bias[n] = at<uint4>(buffer + AT_BIASES + vector * 16);
        if (RELATIVE && OCTETS > 2) {
          if (LARGE) {
            const int at_third = (local_head * BIAS_HALVES + 2) * PADDED * 32 + ((2 * pair + n) * 32 + me.lane) * 8;
            const uint2 x = at<uint2>(buffer + AT_BIASES + at_third);
            third[n].x = x.x, third[n].y = x.y;
          } else {
            third[n] = at<uint4>(buffer + AT_BIASES + (PADDED * 4 + vector) * 16);
          }
        }
        if (TWO_ROWS) bias[n].x = down ? bias[n].y : bias[n].x, bias[n].z = right ? bias[n].w : bias[n].z;
        if (TWO_ROWS && OCTETS > 2) {
          if (down == 16) bias[n].x = third[n].x;
          if (right == 16) bias[n].z = third[n].y;
        }
        const u32 statistics = buffer + AT_STATISTICS + (local_head * 2 * PADDED + pair * 16 + n * 8 + 2 * me.t) * 4;
        log_sum_exp[n] = at<float2>(statistics);
#pragma unroll
        for (int h = 0; h < 2; h++) {
          const float2 x = at<float2>(statistics + PADDED * 4 + (h ? zero(args) : 0));
          minus_delta[n][2 * h] = x.x, minus_delta[n][2 * h + 1] = x.y;
        }
      }
#pragma unroll
      for (int m = 0; m < TILES_PER_WARP; m++) {
        if (!seen[m]) continue;
        u32 weights[4], ds[4];
#pragma unroll
        for (int n = 0; n < 2; n++) {
          float s[4] = {}, dp[4];
          if (RELATIVE && TWO_ROWS) {  // what is hidden here is hidden by its biases
            mma8(s, pick_row[m][0], pick_row[m][1], bias[n].x, s);
            mma8(s, own_column, own_column, bias[n].z, s);
          } else {
#pragma unroll
            for (int i = 0; i < 4; i++) s[i] = start[m][i];
            if (RELATIVE) {
              const u32(&r)[2 * LOADED] = pick_row[m], (&c)[2 * LOADED] = pick_column[m];
              const u32 rows[4] = {r[0], r[1], r[2], r[3]}, columns[4] = {c[0], c[1], c[2], c[3]};
              const u32 thirds[4] = {r[2 * LOADED - 2], r[2 * LOADED - 1], c[2 * LOADED - 2], c[2 * LOADED - 1]};
              mma(s, rows, bias[n].x, bias[n].y, start[m]);
              if (OCTETS > 2 && !LARGE) mma8(s, thirds[0], thirds[1], third[n].x, s);
              mma(s, columns, bias[n].z, bias[n].w, s);
              if (LARGE) mma(s, thirds, third[n].x, third[n].y, s);
              else if (OCTETS > 2) mma8(s, thirds[2], thirds[3], third[n].y, s);
            }
          }
#pragma unroll
          for (int d = 0; d < D / 16; d++) mma(s, k[m][d], q[d][2 * n], q[d][2 * n + 1], s);
#pragma unroll
          for (int e = 0; e < E / 16; e++) {
            if (e == 0) mma_values(dp, v[m][e], e, g[e][2 * n], g[e][2 * n + 1], minus_delta[n]);
            else mma_values(dp, v[m][e], e, g[e][2 * n], g[e][2 * n + 1], dp);
          }
#pragma unroll
          for (int i = 0; i < 4; i++) {
            s[i] = exp2_fast(fmaf(s[i], scale, -(i & 1 ? log_sum_exp[n].y : log_sum_exp[n].x)));
            dp[i] *= s[i];
          }
          weights[2 * n] = pack(s[0], s[1]), weights[2 * n + 1] = pack(s[2], s[3]);
          ds[2 * n] = pack(dp[0], dp[1]), ds[2 * n + 1] = pack(dp[2], dp[3]);
        }
#pragma unroll
        for (int e = 0; e < VALUE_OCTETS; e++)
          mma(dv[m][e], weights, g_columns[e / 2][2 * (e & 1)], g_columns[e / 2][2 * (e & 1) + 1], dv[m][e]);
#pragma unroll
        for (int d = 0; d < D / 8; d++)
          mma(dk[m][d], ds, q_columns[d / 2][2 * (d & 1)], q_columns[d / 2][2 * (d & 1) + 1], dk[m][d]);
      }
    }
    block_sync();  // everybody is done with this buffer
    if (BUFFERS > 1) buffer ^= BUFFER;
    else fetch(following, buffer);
    step = following;
  }

#pragma unroll
  for (int m = 0; m < TILES_PER_WARP; m++) {
    const float factor[2] = {args.scale, args.scale}, one[2] = {1.f, 1.f};
    store_rows<D, D>(dk[m], factor, args.key_gradient, p, head, y[m], x[m], valid[m], me);
    store_rows<E, VALUE_DIM>(dv[m], one, args.value_gradient, p, head, y[m], x[m], valid[m], me);
  }
}
