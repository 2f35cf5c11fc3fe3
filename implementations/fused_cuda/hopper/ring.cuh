// The ring of windows: who waits, who has them copied; and what is the same for all of them. A kernel says before what
// a stage holds (STAGE_SIZE, ``refill``), and where in shared memory the rest begins (AT_...).
#pragma once

// Who refills the stages that all have left: warps of several warpgroups in turn, as all wait for one that does more.
// Barriers tell odd phases from even ones, so no turn may take longer than the ring, and all meet blocks in one order.
constexpr int REFILLERS = BLOCKS_AT_A_TIME > 1 ? 1 : WARPGROUPS < STAGES ? WARPGROUPS : STAGES;
DEVICE bool refills_stages(const Role& me) { return me.warp == 0 && me.group < REFILLERS; }
struct Refills {
  int number, stage;
  u32 parity;
  template <class Arguments> DEVICE void poll(const Arguments& all, const Role& me) {
    if (number >= me.count || !barrier_test(me.barriers + 16 * stage + 8, parity)) return;
    if (me.lane == 0) refill(all, me, stage, number);
    number += REFILLERS * ctas();
    if (SKIPS && me.lane == 0) store_shared(me.base + AT_ASKED, number);
    warp_sync();
    stage += REFILLERS;
    if (stage >= STAGES) stage -= STAGES, parity ^= 1;
  }
};
// Whether the window of a block is there.
DEVICE bool arrived(const Item& item, const Role& me) {
  const bool asked = !SKIPS || (int)load_shared_word(me.base + AT_ASKED) > item.number;
  return (int)barrier_test(me.barriers + 16 * item.stage, item.parity) & (int)asked;
}

// Where an item's operands are.
DEVICE u64 keys_of(const Item& item, const Role& me) {
  return descriptor<KEY_LINE>(me.base + item.stage * STAGE_SIZE + 2 * D * item.head);
}
DEVICE u64 hot_of(bool few_columns, const Role& me) {
  return descriptor<64>(me.base + (few_columns ? AT_HOT_NARROW : AT_HOT));
}
// The values of an item, by chunks of channels.
struct Values {
  u64 chunks[CHUNKS];
};
DEVICE Values values_of(const Item& item, const Role& me) {
  Values values;
#pragma unroll
  for (int i = 0; i < CHUNKS; i++) {
    const int channel = item.head * E + i * CHUNK;
    const u32 box = channel / VALUE_CHANNELS * VALUES + channel % VALUE_CHANNELS * 2;
    values.chunks[i] = descriptor<VALUE_LINE>(me.base + item.stage * STAGE_SIZE + KEYS + box);
  }
  return values;
}

// What is the same for all items, in shared memory: one-hot operands, tables, ones, what of 16 slots the first n are.
// Loops that few threads turn more than once are not unrolled: what is run once is waited for as it is fetched.
DEVICE void lay_out_constants(const HopperArgs& all, u32 base, int thread) {
#pragma unroll 1
  for (int width = WINDOW; width >= (BORDERED && NARROW ? SEEN : WINDOW); width -= max(HALO, 1))
#pragma unroll 1
    for (int key = thread; key < hot_lines(width); key += THREADS) {
      const int row = key / width, column = 16 + key % width;
      const u32 line = base + (width == WINDOW ? AT_HOT : AT_HOT_NARROW);
#pragma unroll
      for (int chunk = 0; chunk < 4; chunk++) at<uint4>(line + swizzled<64>(key, chunk)) = make_uint4(0, 0, 0, 0);
      at<u16>(line + swizzled<64>(key, row >> 3) + (row & 7) * 2) = ONE;
      if (row < WINDOW) at<u16>(line + swizzled<64>(key, column >> 3) + (column & 7) * 2) = ONE;
    }
#pragma unroll 1
  for (int i = thread; RELATIVE && i < 2 * POSITION_LINES * (D / 8); i += THREADS) {
    const int chunk = i % (D / 8), row = i / (D / 8) % POSITION_LINES, table = i / (D / 8) / POSITION_LINES;
    const uint4* source = static_cast<const uint4*>(table ? all.args.columns : all.args.rows) + row * (D / 8) + chunk;
    at<uint4>(base + AT_POSITIONS + table * POSITIONS + row * POSITION_LINE + 16 * chunk) =
        row < ENTRIES ? *source : make_uint4(0, 0, 0, 0);
  }
#pragma unroll 1
  for (int i = thread; i < ONES; i += THREADS) at<u32>(base + AT_ONES + 4 * i) = ONE | ONE << 16;
#pragma unroll 1
  for (int i = thread; i < 17 * 8; i += THREADS) {
    const int left = i / 8 - (i % 2 * 8 + i / 2 % 4 * 2);
    at<u32>(base + AT_KEPT + 4 * i) = left <= 0 ? 0u : left == 1 ? 0xffffu : 0xffffffffu;
  }
}
// Who a thread is.
DEVICE Role role_of(const Lane& lane) {
  Role me = {};
  me.base = (shared_base() + 1023) & ~1023u, me.barriers = me.base + AT_BARRIERS;
  me.lane = lane.lane, me.g = lane.g, me.t = lane.t;
  me.warp = shuffle(lane.warp & 3, 0), me.group = shuffle(lane.warp >> 2, 0);
  const int octet = me.lane >> 4, chunk = me.lane >> 3 & 1, query = 16 * me.warp + (me.lane & 15);
  const u32 tables = me.base + AT_POSITIONS + ((me.lane & 7) + 8 * octet) * POSITION_LINE + 16 * chunk;
  me.queries = kept(me.base + STAGE_QUERIES + swizzled<KEY_LINE>(query, me.group % HEADS * (D / 8) + octet));
  me.rows = kept(tables + (BLOCK - 1 - 2 * me.warp) * POSITION_LINE), me.columns = kept(tables + POSITIONS);
  const int whole = (7 - me.g) >> 1;
  me.near = (int)kept((u32)((me.lane & 28) | ((me.t + whole) & 3)));
  me.next = (int)kept((u32)((me.lane & 28) | ((me.t + whole + 1) & 3)));
  return me;
}
// The ring's barriers and first windows, and what is the same for all items. What else must stand in shared memory, a
// kernel has written before.
template <class Arguments> DEVICE void begin_ring(const Arguments& all, const Role& me, int thread) {
  const u32 base = me.base - shared_base();
  if (thread == 0) {
    for (int s = 0; s < STAGES; s++) {
      barrier_init(me.barriers + 16 * s, 1);
      barrier_init(me.barriers + 16 * s + 8, 4 * HEADS);
    }
    barriers_ready();
    at<u32>(base + AT_ASKED) = cta() + STAGES * ctas();
  }
  fence_async();
  block_sync();
  if (thread == 0)
#pragma unroll 1
    for (int s = 0; s < STAGES; s++) refill(all, me, s, cta() + s * ctas());
  lay_out_constants(all, base, thread);
  fence_async();
  block_sync();
}
DEVICE Item first_item(const Role& me) {
  return {cta() + me.group / HEADS * ctas(), me.group % HEADS, me.group / HEADS % STAGES, 0};
}
