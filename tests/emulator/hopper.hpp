// The vocabulary of fused_cuda/hopper/instructions.cuh on a CPU, behind warp.hpp: copies of boxes, barriers that count
// bytes, and products of a warpgroup, whose warps compute their 16 rows apart. What a copy brings is NaN until somebody
// has waited for its barrier in vain.
#pragma once
#include "warp.hpp"

typedef uint64_t u64;
struct alignas(64) TensorMap {  // as the tests fill it; strides in bytes
  const char* data;
  long long strides[3];
  int sizes[4], box[4];
  char rest[64];
};
static_assert(sizeof(TensorMap) == 128, "of the size of the driver's");

namespace machine {
struct Barrier {
  int count, missing;
  long bytes;
  u32 phase;
};
struct Barriers {  // by address; most are none, and count nobody
  Barrier& operator[](u32 address);
  Barrier all[sizeof memory / 8];
};
extern Barriers barriers;
Barrier& barrier_at(u32 address);
void settle(Barrier& barrier);
void bring(u32 target, const TensorMap& map, int channel, int x, int y, int image, u32 barrier);
void product(float* d, int columns, const u32* a, u64 b, bool add, bool transposed = false);
void ask(Warp& warp);
void shuffle_any(Warp& warp);
void read_word(Warp& warp);
void store_matrices(Warp& warp);
}  // namespace machine

inline u32 shuffle(u32 x, int lane) {
  return machine::together({machine::OTHER, {x, (u32)lane}, {}, machine::shuffle_any}).words[0];
}
inline u32 permute(u32 low, u32 high, u32 bytes) {
  const u64 both = low | (u64)high << 32;
  u32 result = 0;
  for (int i = 0; i < 4; i++) result |= (u32)(both >> 8 * (bytes >> 4 * i & 7) & 0xff) << 8 * i;
  return result;
}
inline u32 high_product(u32 a, u32 b) { return (u64)a * b >> 32; }
inline u32 first_bit(u32 x) { return __builtin_ctz(x); }
inline u32 zero_here() { return 0; }
inline void barrier_init(u32 barrier, u32 count) { machine::barriers[barrier] = {(int)count, (int)count, 0, 0}; }
inline void barriers_ready() {}
inline void barrier_arrive(u32 barrier) {
  machine::Barrier& it = machine::barrier_at(barrier);
  if (it.missing-- < 1) machine::fail("more arrive at a barrier than it counts");
  machine::settle(it);
}
inline void barrier_expect(u32 barrier, u32 bytes) {
  machine::barrier_at(barrier).bytes += bytes;
  barrier_arrive(barrier);
}
inline bool barrier_test(u32 barrier, u32 parity) {
  return machine::together({machine::OTHER, {barrier, parity}, {}, machine::ask}).words[0];
}
inline void barrier_wait(u32 barrier, u32 parity) {
  while (!barrier_test(barrier, parity)) {}
}
inline void fence_async() {}
inline void prefetch(const TensorMap&) {}
inline void copy_box(u32 target, const TensorMap& map, int channel, int x, int y, int image, u32 barrier) {
  const size_t bytes = 2ll * map.box[0] * map.box[1] * map.box[2];
  if (target % 128 || target + bytes > machine::limit) machine::fail("a box's target");
  machine::bring(target, map, channel, x, y, image, barrier);
}
template <int line> inline u64 descriptor(u32 address) {
  const u64 swizzle = line == 128 ? 1 : line == 64 ? 2 : line == 32 ? 3 : 0;
  return (u64)((address & 0x3ffff) >> 4) | (swizzle ? 1ull : 8ull) << 16 | (u64)(line * 8 >> 4) << 32 | swizzle << 62;
}
inline void stmatrix(u32 address, u32 r0, u32 r1, u32 r2, u32 r3) {
  machine::together({machine::OTHER, {r0, r1, r2, r3, address}, {}, machine::store_matrices});
}
inline uint4 load_shared(u32 address) {
  machine::demand(address, 16, "shared memory address");
  uint4 v;
  memcpy(&v, machine::memory + address, 16);
  return v;
}
inline float2 load_shared_pair(u32 address) {
  machine::demand(address, 8, "shared memory address");
  float2 v;
  memcpy(&v, machine::memory + address, 8);
  return v;
}
inline u32 load_shared_word(u32 address) {
  return machine::together({machine::OTHER, {address}, {}, machine::read_word}).words[0];
}
inline void store_shared(u32 address, u32 x) {
  machine::demand(address, 4, "shared memory address");
  *(u32*)(machine::memory + address) = x;
}
inline void store_16(void* target, uint4 v) { memcpy(target, &v, 16); }
inline float log2_normal(float x) { return log2f(x); }
inline float reciprocal(float x) { return 1.f / x; }

// The products that wgmma.py writes for a GPU.
template <int columns, int steps>
inline void scores(float (&s)[columns], const u32 (&q)[steps][4], const u32 (&rows)[4], const u32 (&cols)[4], u64 keys,
                   u64 hot) {
  for (int step = 0; step < steps; step++) machine::product(s, 2 * columns, q[step], keys + 2 * step, step > 0);
  machine::product(s, 2 * columns, rows, hot, true), machine::product(s, 2 * columns, cols, hot + 2, true);
}
template <int channels, int words, int chunks>
inline void weigh_more(float (&o)[channels], float (&sum)[4], const u32 (&p)[words], const u64 (&values)[chunks],
                       u64 ones, bool add = true) {
  constexpr int width = channels / chunks;
  for (int i = 0; i < chunks; i++)
    for (int step = 0; step < words / 4; step++) {
      const int line = 256 >> (values[i] >> 62);
      machine::product(o + i * width, 2 * width, p + 4 * step, values[i] + step * line, add || step, true);
    }
  for (int step = 0; step < words / 4; step++) machine::product(sum, 8, p + 4 * step, ones, add || step);
}
template <int channels, int words, int chunks>
inline void weigh(float (&o)[channels], float (&sum)[4], const u32 (&p)[words], const u64 (&values)[chunks], u64 ones) {
  weigh_more(o, sum, p, values, ones, false);
}
template <int columns, int steps>
inline void logits(float (&s)[columns], const u32 (&k)[steps][4], const u32 (&hot)[2][4], u64 queries, u64 biases) {
  for (int step = 0; step < steps; step++) machine::product(s, 2 * columns, k[step], queries + 2 * step, step > 0);
  for (int step = 0; biases && step < 2; step++) machine::product(s, 2 * columns, hot[step], biases + 2 * step, true);
}
template <int columns, int steps, int chunks>
inline void weight_gradients(float (&dp)[columns], const u32 (&v)[steps][4], const u64 (&gradients)[chunks]) {
  for (int step = 0; step < steps; step++) {
    const int chunk = step * chunks / steps, within = step - chunk * steps / chunks;
    machine::product(dp, 2 * columns, v[step], gradients[chunk] + 2 * within, step > 0);
  }
}
template <int channels, int dims, int words, int chunks>
inline void gradients(float (&dv)[channels], float (&dk)[dims], const u32 (&p)[words], const u32 (&ds)[words],
                      const u64 (&gradients)[chunks], u64 queries) {
  constexpr int width = channels / chunks;
  const int line = 256 >> (gradients[0] >> 62), query_line = 256 >> (queries >> 62);
  for (int step = 0; step < words / 4; step++) {
    for (int i = 0; i < chunks; i++)
      machine::product(dv + i * width, 2 * width, p + 4 * step, gradients[i] + step * line, true, true);
    machine::product(dk, 2 * dims, ds + 4 * step, queries + step * query_line, true, true);
  }
}
template <class... Arrays> inline void products_wait(Arrays&...) {}
template <int columns> inline void scores_wait(float (&)[columns]) {}
template <int columns> inline void logits_wait(float (&)[columns]) {}
template <int columns> inline void weight_gradients_wait(float (&)[columns]) {}

// Those that query_gradient.py writes.
template <int columns, int steps, int value_steps, int chunks>
inline void both_scores(float (&s)[columns], float (&d)[columns], const u32 (&q)[steps][4], const u32 (&rows)[4],
                        const u32 (&cols)[4], const u32 (&g)[value_steps][4], u64 keys, u64 hot,
                        const u64 (&values)[chunks]) {
  constexpr int steps_a_chunk = value_steps / chunks;
  scores(s, q, rows, cols, keys, hot);
  for (int step = 0; step < value_steps; step++)
    machine::product(d, 2 * columns, g[step], values[step / steps_a_chunk] + step % steps_a_chunk * 2, step > 0);
}
template <int channels, int words>
inline void add_gradients(float (&query)[channels], float (&sums)[16], const u32 (&ds)[words], u64 keys, u64 hot) {
  const int line = 256 >> (keys >> 62);
  for (int step = 0; step < words / 4; step++) {
    machine::product(query, 2 * channels, ds + 4 * step, keys + step * line, true, true);
    machine::product(sums, 32, ds + 4 * step, hot + step * 64, true, true);
  }
}
