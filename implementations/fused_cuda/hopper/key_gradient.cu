// The backward pass by keys on Hopper: a CTA walks over tiles of 8 x 8 keys; a warpgroup takes one head of a tile, and
// the blocks whose queries see any of it, in one order.
//
//    S^T = [k | one-hot] [q | biases]^T    P^T = exp2(S^T)           dV += P^T dO
//   dP^T = v dO^T                         dS^T = P^T (dP^T - delta)  dK += dS^T Q
//
// Biases are what the pass by queries left, as they lie in memory: 32 channels of a query. Which of them a key picks
// depends on its tile's place in the block's window.
#include "key_exact.cuh"
#include "../table_sums.cuh"

struct State {
  u32 k[KEY_STEPS][4], v[VALUE_STEPS][4], hot[2][4];
  float dk[D / 2], dv[E / 2];
};
// A tile's keys and values as operands.
DEVICE void load_keys(State& w, u32 stage, const Role& me) {
  const int row = 16 * me.warp + (me.lane & 15), octet = me.lane >> 4;
#pragma unroll
  for (int i = 0; i < KEY_STEPS; i++)
    ldmatrix(w.k[i], stage + swizzled<KEY_LINE>(row, me.head * (D / 8) + 2 * i + octet));
#pragma unroll
  for (int i = 0; i < VALUE_STEPS; i++) {
    const int channel = me.head * E + 16 * i;
    const u32 box = stage + AT_GRADIENTS + channel / VALUE_CHANNELS * GRADIENT_BOX;
    ldmatrix(w.v[i], box + swizzled<VALUE_LINE>(row, channel % VALUE_CHANNELS / 8 + octet));
  }
}
// A key's row and column in a block's window, one-hot: which of a query's biases it picks. Of the 8 channels of a
// chunk, a lane has two: of rows below 8, of rows from 8 on, of columns below 8, or of columns from 8 on.
DEVICE void pick(u32 (&hot)[2][4], const Walk& at, const Role& me) {
  const bool by_row = me.t < 2, mine = (me.t & 1) == (by_row ? at.down() : at.right());
  const int chunk = by_row ? me.warp : me.g >> 1;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const u32 one = (by_row ? half : me.g & 1) ? ONE << 16 : ONE;
#pragma unroll
    for (int i = 0; i < 4; i++) hot[i >> 1][2 * (i & 1) + half] = mine && chunk == i ? one : 0u;
  }
}
// What products read of a stage, from a query on.
struct Matrices {
  u64 queries, biases, gradients[CHUNKS];
};
DEVICE Matrices matrices_of(u32 stage, int from, const Role& me) {
  Matrices m;
  m.queries = descriptor<KEY_LINE>(stage + 2 * D * me.head) + from * KEY_LINE / 16;
  m.biases = !RELATIVE ? 0 : descriptor<64>(stage + AT_BIASES + me.head * BIASES) + from * 64 / 16;
#pragma unroll
  for (int i = 0; i < CHUNKS; i++) {
    const int channel = me.head * E + i * CHUNK;
    const u32 box = channel / VALUE_CHANNELS * GRADIENT_BOX + channel % VALUE_CHANNELS * 2;
    m.gradients[i] = descriptor<VALUE_LINE>(stage + AT_GRADIENTS + box) + from * VALUE_LINE / 16;
  }
  return m;
}
// Of a lane's two queries of 8: log-sum-exps and, behind those of all octets, minus deltas.
DEVICE float2 statistics_of(u32 stage, int octet, const Role& me) {
  const u32 from = stage + AT_STATISTICS + me.head * STATISTICS + (8 * me.t ^ (octet & 4 ? 16 : 0));
  return load_shared_pair(from + 32 * octet);
}
// Weights and gradients of the logits as operands: [16 keys of a warp, PIECE queries].
struct Weights {
  u32 p[PIECE / 4], ds[PIECE / 4];
};
// Scores become weights.
DEVICE void weigh(float (&s)[PIECE / 2], u32 stage, int from, float scale, const Role& me) {
#pragma unroll
  for (int o = 0; o < PIECE / 8; o++) {
    const float2 sums = statistics_of(stage, from / 8 + o, me);
#pragma unroll
    for (int i = 4 * o; i < 4 * o + 4; i++) s[i] = exp2_fast(fmaf(s[i], scale, -(i & 1 ? sums.y : sums.x)));
  }
}
DEVICE void differentiate(Weights& x, const float (&e)[PIECE / 2], const float (&dp)[PIECE / 2], u32 stage, int from,
                          const Role& me) {
#pragma unroll
  for (int o = 0; o < PIECE / 8; o++) {
    const float2 minus_delta = statistics_of(stage, QUERIES / 8 + from / 8 + o, me);
    float g[4];
#pragma unroll
    for (int i = 0; i < 4; i++) g[i] = e[4 * o + i] * (dp[4 * o + i] + (i & 1 ? minus_delta.y : minus_delta.x));
#pragma unroll
    for (int h = 0; h < 2; h++) {
      x.p[2 * o + h] = pack(e[4 * o + 2 * h], e[4 * o + 2 * h + 1]);
      x.ds[2 * o + h] = pack(g[2 * h], g[2 * h + 1]);
    }
  }
}
// What a warp makes of a block: nothing where its keys are hidden, or are not on the map.
struct Visit {
  u32 stage, behind;  // the block's stage; the barrier of the stage that is left now
  bool works;
  u32 seen;           // a mask: whether the block sees a lane's column
};
// The operands of a piece's gradients.
DEVICE void finish_piece(Weights& x, const float (&e)[PIECE / 2], const float (&dp)[PIECE / 2], const Visit& visit,
                         int from, const Role& me) {
  if (visit.works) {
    differentiate(x, e, dp, visit.stage, from, me);
#pragma unroll
    for (int i = 0; HIDES && i < PIECE / 4; i++) x.p[i] &= visit.seen, x.ds[i] &= visit.seen;
  } else {
#pragma unroll
    for (int i = 0; i < PIECE / 4; i++) x.p[i] = zero_here(), x.ds[i] = zero_here();
  }
}
// A tile meets a block, in two pieces. The second one's scores are there before its weights are wanted: they are
// computed under the first one's weights. The last products are under way at the end. The walk goes on under the first.
static_assert(QUERIES == 2 * PIECE, "two pieces");
DEVICE void visit_block(State& w, const HopperKeyArgs& all, const Visit& visit, Walk& walk, Refills& refills,
                        float scale, const Role& me) {
  float s[PIECE / 2], dp[PIECE / 2], t[PIECE / 2], u[PIECE / 2];
  const Matrices m = matrices_of(visit.stage, 0, me), n = matrices_of(visit.stage, PIECE, me);
  Weights x, y;
  logits(s, w.k, w.hot, m.queries, m.biases);
  weight_gradients(dp, w.v, m.gradients);
  logits(t, w.k, w.hot, n.queries, n.biases);
  walk.next(all);
  logits_wait(s);
  if (me.lane == 0) barrier_arrive(visit.behind);
  if (visit.works) weigh(s, visit.stage, 0, scale, me);
  weight_gradients_wait(dp);
  finish_piece(x, s, dp, visit, 0, me);
  gradients(w.dv, w.dk, x.p, x.ds, m.gradients, m.queries);
  weight_gradients(u, w.v, n.gradients);
  refills.poll(all, me);
  logits_wait(t);
  if (visit.works) weigh(t, visit.stage, PIECE, scale, me);
  products_wait(u, w.dv, w.dk);
  pick(w.hot, walk, me);  // while nothing is under way
  finish_piece(y, t, u, visit, PIECE, me);
  gradients(w.dv, w.dk, y.p, y.ds, n.gradients, n.queries);
}
// Zero, if one of a lane's two keys has finite gradients.
DEVICE float unless_finite(const State& w, int half) {
  float sum = 0.f;
#pragma unroll
  for (int i = 0; i < D / 2; i++)
    if ((i >> 1 & 1) == half) sum = fmaf(w.dk[i], 0.f, sum);
#pragma unroll
  for (int i = 0; i < E / 2; i++)
    if ((i >> 1 & 1) == half) sum = fmaf(w.dv[i], 0.f, sum);
  return sum;
}
// Gradients of a lane's two keys, one row below the other, where they are on the map: 8 bytes a lane.
template <int dim>
DEVICE void store_keys(const float (&c)[dim / 2], float factor, const View& view, const Place& p,
                       const bool (&valid)[2], const Role& me) {
  const int y = p.y * BLOCK - HALO + 2 * me.warp, x = p.x * BLOCK - HALO + me.g, odd = me.t & 1;
  u16* target = image_of(view, p.image) + offset_of(view, p.head + me.head, y, x) + 2 * me.t + 6 * odd;
#pragma unroll
  for (int n = 0; n < dim / 16; n++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const int i = 8 * n + 2 * h;
      const u32 low = pack(c[i] * factor, c[i + 1] * factor), high = pack(c[i + 4] * factor, c[i + 5] * factor);
      const u32 other = shuffle_xor(odd ? low : high, 1);
      if (valid[h]) store(target + h * view.row + 16 * n, odd ? make_uint2(other, high) : make_uint2(low, other));
    }
}
// The end of a tile: store its gradients. Tells whether some of a warp's are not finite.
DEVICE bool finish(const State& w, const Args& args, const Place& p, const Role& me) {
  const int y = p.y * BLOCK - HALO + 2 * me.warp, x = p.x * BLOCK - HALO + me.g;
  const bool inside = (unsigned)x < (unsigned)args.width;
  const bool valid[2] = {inside && (unsigned)y < (unsigned)args.height,
                         inside && (unsigned)(y + 1) < (unsigned)args.height};
  store_keys<D>(w.dk, args.scale, args.key_gradient, p, valid, me);
  store_keys<E>(w.dv, 1.f, args.value_gradient, p, valid, me);
  return warp_any((valid[0] && unless_finite(w, 0) != 0.f) || (valid[1] && unless_finite(w, 1) != 0.f));
}
// A warpgroup's walk. Tells whether some of a warp's gradients are not finite.
DEVICE bool walk_over(const HopperKeyArgs& all, Walk now, Refills& refills, const Role& me) {
  const float scale = all.args.scale * LOG2_E;
  State w;
  bool redo = false;
  while (now.number < all.count) {
    const Place p = now.place;
    const int row = 2 * me.warp, y = p.y * BLOCK - HALO + row;
    await(all, now, refills, me);
    load_keys(w, stage_of(now, me), me);
    u32 behind = left(now, me);
    now.next(all);
    pick(w.hot, now, me);
#pragma unroll
    for (int i = 0; i < D / 2; i++) w.dk[i] = 0.f;
#pragma unroll
    for (int i = 0; i < E / 2; i++) w.dv[i] = 0.f;
    while (now.step) {
      const bool works = y + 1 >= 0 && y < all.args.height && row + now.down() * BLOCK < WINDOW;
      const u32 seen = me.g + now.right() * BLOCK < WINDOW ? ~0u : 0u, own = left(now, me);
      const Visit visit = {stage_of(now, me), behind, works, seen};
      await(all, now, refills, me);
      visit_block(w, all, visit, now, refills, scale, me);
      behind = own;
    }
    products_wait(w.dv, w.dk);
    if (me.lane == 0) barrier_arrive(behind);
    redo |= finish(w, all.args, p, me);
  }
  while (refills.more(all)) refills.poll(all, me);  // for slower warpgroups
  return redo;
}

KERNEL __launch_bounds__(THREADS, 1) void halo_hopper_key(const __grid_constant__ HopperKeyArgs all) {
  const Lane lane = who();
  const int group = shuffle(lane.warp >> 2, 0), warp = shuffle(lane.warp & 3, 0);
  const u32 base = (shared_base() + 1023) & ~1023u, barriers = base + AT_BARRIERS;
  Role me = {base, barriers, group / HEADS, group % HEADS, warp, lane.lane, lane.g, lane.t};
  me.stages += me.team * STAGES * STAGE_SIZE, me.barriers += me.team * STAGES * 16;
  if (lane.thread < 5 + RELATIVE) prefetch((&all.query)[lane.thread]);
  if (lane.thread == 0) {
    for (int i = 0; i < TEAMS * STAGES; i++)
      barrier_init(barriers + 16 * i, 1), barrier_init(barriers + 16 * i + 8, 4 * HEADS);
    barriers_ready();
  }
  block_sync();
  const Walk first = begin(all, me);
  Refills refills = {first, me.warp == 0};
  refills.skip(all, me.head);
#pragma unroll 1
  for (int i = me.head; i < STAGES && refills.more(all); i += HEADS) refills.fill(all, me);
  const bool redo = walk_over(all, first, refills, me);
  block_sync();
  if (redo) differentiate_again(all, (lane.thread >> 5) * 8 * QUERIES, me);
  // The last CTAs have the fewest tiles.
  for (int row = ctas() - 1 - cta(); row < all.args.entry_rows; row += ctas()) {
    block_sync();
    sum_table_gradients<THREADS>(all.args, row, lane);
  }
}
