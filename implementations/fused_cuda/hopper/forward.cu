// The forward pass on Hopper: a CTA walks over blocks of 8 x 8 queries; a warpgroup takes a head of a block at a time.
//
// S = [q | q.rows | q.columns] [k | one-hot row | one-hot column]^T: positions, and what is hidden, are channels. Keys
// of a window are a compact run of lines in shared memory, as the copies leave them; heads lie side by side in a line.
// Windows are scored in pieces: the tensor cores score the next piece, or the next item's first one, while a warp takes
// exponentials of this one. Exponentials have no reference: what leaves the safe range is computed again.
#include "exact.cuh"

// Octets of keys from A to B: exponentials, packed as operands.
template <int A, int B, int N, int P> DEVICE void exponentials(u32 (&p)[P], const float (&s)[N], float scale) {
#pragma unroll
  for (int o = A; o < B; o++) {
    float e[4];
#pragma unroll
    for (int i = 0; i < 4; i++) e[i] = exp2_fast(fmaf(s[4 * o + i], scale, SHIFT));
    p[2 * o] = pack(e[0], e[1]), p[2 * o + 1] = pack(e[2], e[3]);
  }
  if (B == N / 4 && B % 2) p[2 * B] = p[2 * B + 1] = 0;
}

// The first octets of an item, under the sums of the one before. As operands these would be held up by those sums.
DEVICE void begin(State& w, float scale) {
#pragma unroll
  for (int i = 0; i < 4 * COVER; i++) w.begun[i] = exp2_fast(fmaf(w.first[i], scale, SHIFT));
}

struct Scene {
  const HopperArgs& all;
  const Role& me;
  const Item &now, &next;
  Refills& refills;
  Target& to;
  bool &few_rows, &few_columns;  // the next item's, once its operands are there
  bool polls;
};

// The pieces of an item from key AT on, of which LEFT keys are left. On entry the first of them is scored in s, and the
// products with the weights of the piece before may be under way. The next piece is scored under the exponentials, at
// the end the next item's first one. Products end in the order in which they are issued, so none with weights is waited
// for before the last piece.
constexpr int piece_of(int left) { return left <= PIECE + 8 ? left : PIECE; }
template <int AT, int LEFT>
DEVICE void pieces(State& w, float (&s)[piece_of(LEFT) / 2], u64 keys, const Values& values, u64 hot, const Scene& x) {
  constexpr int N = piece_of(LEFT), OCTETS_HERE = N / 8, LATE = LATEST < OCTETS_HERE ? LATEST : OCTETS_HERE;
  u32 p[(N + 15) / 16 * 4];
  u64 from[CHUNKS];
#pragma unroll
  for (int i = 0; i < CHUNKS; i++) from[i] = values.chunks[i] + AT * VALUE_LINE / 16;
  const u64 ones = descriptor<16>(x.me.base + AT_ONES);
  if constexpr (N < LEFT) {
    float t[piece_of(LEFT - N) / 2];
    if (AT == 0 && x.polls) x.refills.poll(x.all, x.me);
    scores(t, w.a.q, w.a.rows, w.a.columns, keys + (AT + N) * KEY_LINE / 16, hot + (AT + N) * 4);
    if constexpr (AT == 0) finish(w.o, w.sum, x.to, x.all, x.me), x.to = target_of(x.now, x.me);
#pragma unroll
    for (int i = 0; AT == 0 && i < 2 * COVER; i++) p[i] = pack(w.begun[2 * i], w.begun[2 * i + 1]);
    exponentials<AT ? 0 : COVER, OCTETS_HERE>(p, s, x.me.scale);
    if constexpr (AT == 0) weigh(w.o, w.sum, p, from, ones);
    else weigh_more(w.o, w.sum, p, from, ones);
    scores_wait(t);
    pieces<AT + N, LEFT - N>(w, t, keys, values, hot, x);
  } else {
    static_assert(AT > 0, "a window is at least two pieces");
    exponentials<0, COVER>(p, s, x.me.scale);
    products_wait(w.o, w.sum);
    if (x.polls)
      do x.refills.poll(x.all, x.me);
      while (!arrived(x.next, x.me));
    else if (SKIPS)
      while (!arrived(x.next, x.me)) {}
    else barrier_wait(x.me.barriers + 16 * x.next.stage, x.next.parity);
    const Part seen = part_of(x.next, x.me);
    x.few_rows = warp_any(seen.few_rows()), x.few_columns = warp_any(seen.few_columns());
    operands(w.a, x.next, seen, x.me);
    exponentials<COVER, LATE>(p, s, x.me.scale);
    scores(w.first, w.a.q, w.a.rows, w.a.columns, keys_of(x.next, x.me), hot_of(x.few_columns, x.me));
    exponentials<LATE, OCTETS_HERE>(p, s, x.me.scale);
    weigh_more(w.o, w.sum, p, from, ones);
    scores_wait(w.first);
    begin(w, x.me.scale);
    products_wait(w.o, w.sum);
  }
}
template <int KEYS_HERE> DEVICE void step(State& w, bool few_columns, const Scene& x) {
  float s[PIECE / 2];
#pragma unroll
  for (int i = 0; i < PIECE / 2; i++) s[i] = w.first[i];
  pieces<0, KEYS_HERE>(w, s, keys_of(x.now, x.me), values_of(x.now, x.me), hot_of(few_columns, x.me), x);
}

KERNEL __launch_bounds__(THREADS, 1) void halo_hopper(const __grid_constant__ HopperArgs all) {
  const Lane lane = who();
  Role me = role_of(lane);
  me.scale = all.args.scale * LOG2_E;
  const View& output = all.args.output;
  const int head = me.group % HEADS;
  if (STAGED) me.output = offset_of(output, head, 2 * me.warp + (me.lane >> 4), me.lane >> 1 & 7) + (me.lane & 1) * 8;
  else me.output = offset_of(output, head, 2 * me.warp, me.g) + (me.t & 1 ? 6 : 0) + 2 * me.t;
  me.sum = head * all.args.blocks_y * all.args.blocks_x * 64 + 16 * me.warp + me.g;
  const u32 room = me.base + AT_OUTPUT + me.group * 2048 + me.warp * 512;
  me.written = kept(room + swizzled<32>(me.lane & 15, me.lane >> 4));
  me.read = kept(room + swizzled<32>(me.lane >> 1, me.lane & 1));
  share_last_round(me, all.count);
  const u32 base = me.base - shared_base();
  // Lines that a copy may leave unwritten count for nothing, but must be numbers.
  constexpr u32 SEEN_KEYS = BORDERED ? (NARROW ? SEEN : WINDOW) * SEEN : WINDOW * WINDOW;
#pragma unroll 1
  for (int stage = 0; stage < STAGES; stage++) {
#pragma unroll 1
    for (u32 i = SEEN_KEYS * KEY_LINE / 16 + lane.thread; i < KEYS / 16; i += THREADS)
      at<uint4>(base + stage * STAGE_SIZE + 16 * i) = make_uint4(0, 0, 0, 0);
#pragma unroll 1
    for (int box = 0; box < VALUE_BOXES; box++)
#pragma unroll 1
      for (u32 i = SEEN_KEYS * VALUE_LINE / 16 + lane.thread; i < VALUES / 16; i += THREADS)
        at<uint4>(base + stage * STAGE_SIZE + KEYS + box * VALUES + 16 * i) = make_uint4(0, 0, 0, 0);
  }
  if (lane.thread < 1 + 2 * SHAPES) prefetch((&all.query)[lane.thread]);
  begin_ring(all, me, lane.thread);

  Item now = first_item(me);
  const Target nowhere = {nullptr, NOTHING};
  Target to = nowhere;
  // A whole round comes first. Asked as in the loop, the assembler turns the loop round and serialises its products.
  if (now.number < all.count) {
    State w;
#pragma unroll
    for (int i = 0; i < E / 2; i++) w.o[i] = 0.f;
#pragma unroll
    for (int i = 0; i < 4; i++) w.sum[i] = 1.f;
    barrier_wait(me.barriers + 16 * now.stage, 0);
    const Part seen = part_of(now, me);
    bool few_rows = warp_any(seen.few_rows()), few_columns = warp_any(seen.few_columns());
    operands(w.a, now, seen, me);
    scores(w.first, w.a.q, w.a.rows, w.a.columns, keys_of(now, me), hot_of(few_columns, me));
    products_wait(w.first, w.o, w.sum);
    begin(w, me.scale);
    Refills refills = {(int)(cta() + (STAGES + me.group) * ctas()), me.group, 0};
    while (now.number < me.end) {
      Item next = now;
      next.next();
      if (next.number >= me.end) next = now;
      const Scene x = {all, me, now, next, refills, to, few_rows, few_columns, refills_stages(me)};
      if (few_rows && few_columns) step<octets_of(SEEN * SEEN)>(w, true, x);
      else if (few_rows || few_columns) step<octets_of(SEEN * WINDOW)>(w, few_columns, x);
      else step<MOST>(w, false, x);
      if (!fit(w.o, w.sum)) {
        attend_exactly(w.a, now, all, me), to = nowhere;
        operands(w.a, next, part_of(next, me), me);
      }
      if (me.lane == 0) barrier_arrive(me.barriers + 16 * now.stage + 8);
      now.next();
    }
    products_wait(w.first, w.o, w.sum);
    finish(w.o, w.sum, to, all, me);
    while (refills_stages(me) && refills.number < me.count) refills.poll(all, me);  // for slower warpgroups
  }
}
