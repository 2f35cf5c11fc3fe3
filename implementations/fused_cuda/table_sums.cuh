// The last sum of the tables' gradients, which the pass by keys does.
#pragma once
#include "halo.cuh"

// One entry of a table's gradient: what the CTAs of the pass by queries left of it, added in one order.
template <int threads> DEVICE void sum_table_gradients(const Args& args, int row, const Lane& me) {
  constexpr int columns = D / 4, turns = threads / columns;
  const int table = row / args.entries, entry = row % args.entries - args.first_entry;
  const int column = me.thread % columns, turn = me.thread / columns;
  float4 sum = make_float4(0.f, 0.f, 0.f, 0.f);
  if (turn < turns && (unsigned)entry < (unsigned)ENTRIES) {
    const float4* source = reinterpret_cast<const float4*>(args.partials) + (table * 32 + entry) * columns + column;
#pragma unroll 8
    for (int i = turn; i < args.partial_count; i += turns) {
      float4 part = source[(long long)i * 2 * 32 * columns];
      sum.x += part.x, sum.y += part.y, sum.z += part.z, sum.w += part.w;
    }
  }
  at<float4>(me.thread * 16) = sum;
  block_sync();
  if (turn) return;
  for (int i = 1; i < turns; i++) {
    float4 part = at<float4>((i * columns + column) * 16);
    sum.x += part.x, sum.y += part.y, sum.z += part.z, sum.w += part.w;
  }
  store(static_cast<u16*>(args.tables) + row * D + column * 4, make_uint2(pack(sum.x, sum.y), pack(sum.z, sum.w)));
}
