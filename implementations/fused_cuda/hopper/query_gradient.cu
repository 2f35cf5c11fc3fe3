// The backward pass by queries on Hopper: gradients of queries and tables; what the pass by keys needs goes to memory.
//
// As in the forward kernel, a CTA walks over blocks of 8 x 8 queries, windows come by a ring, and a warpgroup takes one
// head of a block at a time. For a piece of the window's keys, S = [q | q.rows | q.columns] [k | one-hot row | one-hot
// column]^T and dP = dO V^T. Then dS = P (dP - delta), in registers, is the operand of two more products: with the
// keys, and with the one-hot operand, which sums it by row and by column. Queries are not scaled here: exponents are
// exact, whatever the logits, and those of the pass by keys. So nothing leaves a safe range, or is computed again.
#include "query_item.cuh"

// A piece of the window's keys.
template <int N>
DEVICE void visit(Sums& sums, const Operands& w, u64 keys, const u64 (&values)[CHUNKS], u64 hot, float scale) {
  float s[N / 2], d[N / 2];
  both_scores(s, d, w.q, w.rows, w.columns, w.g, keys, hot, values);
  products_wait(s, d, sums.query, sums.positions);
  u32 ds[(N + 15) / 16 * 4];
#pragma unroll
  for (int i = 0; i < N / 2; i += 2) {
    const int h = i >> 1 & 1;
    float e[2];
#pragma unroll
    for (int j = 0; j < 2; j++) e[j] = exp2_fast(fmaf(s[i + j], scale, -w.reference[h])) * (d[i + j] - w.delta[h]);
    ds[i / 2] = pack(e[0], e[1]);
  }
  if (N / 8 % 2) ds[N / 4] = ds[N / 4 + 1] = 0;
  add_gradients(sums.query, sums.positions, ds, keys, hot);
}
// The keys of a window: whole pieces, and a last one that has up to 16 keys more. Gradients of a piece are computed
// under the next one's scores.
constexpr int whole_pieces(int keys) { return (keys - 17) / PIECE; }
constexpr int rest_of(int keys) { return keys - whole_pieces(keys) * PIECE; }
struct Matrices {
  u64 keys, hot;
  Values values;
  DEVICE void advance() {
    keys += PIECE * KEY_LINE / 16, hot += PIECE * 4;
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) values.chunks[c] += PIECE * VALUE_LINE / 16;
  }
};
// Between some of them, one warp looks for stages to refill: with two of them, a window has no time to lose.
template <int KEYS_HERE>
DEVICE void pieces(Sums& sums, const Operands& w, Matrices m, float scale, Refills& refills, bool polls,
                   const HopperQueryArgs& all, const Role& me) {
#pragma unroll
  for (int i = 0; i < whole_pieces(KEYS_HERE); i++) {
    visit<PIECE>(sums, w, m.keys, m.values.chunks, m.hot, scale), m.advance();
    if (polls && i % 2 == 0) refills.poll(all, me);
  }
  visit<rest_of(KEYS_HERE)>(sums, w, m.keys, m.values.chunks, m.hot, scale);
  products_wait(sums.query, sums.positions);
}
DEVICE void walk(Sums& sums, const Operands& w, const Seen& s, const Item& item, Refills& refills, bool polls,
                 const HopperQueryArgs& all, const Role& me) {
  const bool few = s.few_rows() || s.few_columns(), fewest = s.few_rows() && s.few_columns();
  const Matrices m = {keys_of(item, me), hot_of(s.few_columns(), me), values_of(item, me)};
  const float scale = all.args.scale * LOG2_E;
  if (fewest) pieces<octets_of(SEEN * SEEN)>(sums, w, m, scale, refills, polls, all, me);
  else if (few) pieces<octets_of(SEEN * WINDOW)>(sums, w, m, scale, refills, polls, all, me);
  else pieces<MOST>(sums, w, m, scale, refills, polls, all, me);
}

// The CTA's share of the tables' gradients, summed over its warpgroups, where its windows were.
DEVICE void store_tables(const float (&tables)[D / 8][4], const Args& args, u32 base, const Role& me) {
  block_sync();
  const int entry = 16 * me.warp + me.g;  // 32 of either table
#pragma unroll
  for (int n = 0; n < D / 8; n++)
#pragma unroll
    for (int h = 0; h < 2; h++)
      at<float2>(base + me.group * TABLE_SUMS + ((entry + 8 * h) * D + 8 * n + 2 * me.t) * 4) =
          make_float2(tables[n][2 * h], tables[n][2 * h + 1]);
  block_sync();
  float* target = args.partials + cta() * 64ll * D;
  for (int i = (me.group * 4 + me.warp) * 32 + me.lane; i < 64 * D; i += THREADS) {
    float sum = 0.f;
    for (int group = 0; group < WARPGROUPS; group++) sum += at<float>(base + group * TABLE_SUMS + 4 * i);
    if (i / D % 32 < 24) target[i] = sum * args.scale;
  }
}

// What is known of an item before its window is there. The log-sum-exps come from memory, while the item before ends.
struct Ahead {
  Seen seen;
  u32 index;
  float reference[2];
};
DEVICE Ahead look_ahead(const Item& item, const HopperQueryArgs& all, const Role& me) {
  Ahead x;
  x.seen = seen_of(all, block_of(item.number, me));
  x.index = index_of(all.args, x.seen, x.seen.first_head + item.head);
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const float* from = all.args.log_sum_exp + x.index + 16 * me.warp + me.g + 8 * h;
    x.reference[h] = item.number < me.end ? as_float(load(from)) : 0.f;
  }
  return x;
}

KERNEL __launch_bounds__(THREADS, 1) void halo_hopper_query(const __grid_constant__ HopperQueryArgs all) {
  const Lane lane = who();
  Role me = role_of(lane);
  share_last_round(me, all.count);
  const u32 base = me.base - shared_base();
  // Lines that no copy writes count for nothing, but must be numbers.
#pragma unroll 1
  for (u32 i = 16 * lane.thread; i < STAGES * STAGE_SIZE; i += 16 * THREADS)
    at<uint4>(base + i) = make_uint4(0, 0, 0, 0);
  if (lane.thread < 1 + 2 * SHAPES) prefetch((&all.query)[lane.thread]);
  if (lane.thread < 2) prefetch((&all.gradient)[lane.thread]);
  if (lane.thread == 0)
    for (int i = 0; i < 2 * WARPGROUPS; i++) barrier_init(me.base + AT_SHARED + 8 * i, 4);
  begin_ring(all, me, lane.thread);

  const Args& args = all.args;
  const bool polls = refills_stages(me);
  Item now = first_item(me);
  Refills refills = {(int)(cta() + (STAGES + me.group) * ctas()), me.group, 0};
  float tables[D / 8][4] = {};
  Ahead next = look_ahead(now, all, me);
  for (u32 turn = 0; now.number < me.end; turn ^= 1) {
    const Ahead here = next;
    if (polls || SKIPS) {
      while (!arrived(now, me))
        if (polls) refills.poll(all, me);
    } else {
      barrier_wait(me.barriers + 16 * now.stage, now.parity);
    }
    Operands w;
#pragma unroll
    for (int h = 0; h < 2; h++) w.reference[h] = here.reference[h];
    load_operands(w, now, here.index, args, me);
    load_positions(w, here.seen, here.index, args, me);
    Sums sums = {};
    walk(sums, w, here.seen, now, refills, polls, all, me);
    const Item done = now;
    now.next();
    next = look_ahead(now, all, me);
    finish(sums, tables, here.seen, done, turn, args, me);
    if (me.lane == 0) barrier_arrive(me.barriers + 16 * done.stage + 8);
  }
  while (polls && refills.number < me.count) refills.poll(all, me);  // for slower warpgroups
  if (RELATIVE) store_tables(tables, args, base, me);
}
