// The vocabulary of fused_cuda's warp.cuh on a CPU. This stands in front of the kernels' source, which is compiled as C++
// unchanged, and so often that little is to be read here: what can do with being compiled once is in warp.cpp.
#pragma once
#include <stdint.h>
#include <string.h>

extern "C" float exp2f(float), log2f(float), fmaxf(float, float), fmaf(float, float, float);  // math.h is long
typedef uint32_t u32;
typedef uint16_t u16;
#define DEVICE inline
#define KERNEL extern "C"
#define __launch_bounds__(...)
#define __grid_constant__
#define __constant__
#define ONE (FP16 ? 0x3c00u : 0x3f80u)
template <class T> inline T max(T a, T b) { return a < b ? b : a; }
template <class T> inline T min(T a, T b) { return b < a ? b : a; }

struct uint2 { u32 x, y; };
struct alignas(16) uint4 { u32 x, y, z, w; };
struct float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
inline uint2 make_uint2(u32 x, u32 y) { return {x, y}; }
inline uint4 make_uint4(u32 x, u32 y, u32 z, u32 w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

namespace machine {
constexpr int LANES = 32;
enum Operation { NONE, SYNC, ANY, SHUFFLE, LDMATRIX, LDMATRIX_TRANSPOSED, TRANSPOSE, MMA, MMA8, OTHER };
struct Warp;
struct Request {
  Operation operation;
  u32 words[8];
  float numbers[4];
  void (*other)(Warp&);  // what it is, if it is none of those
  const void* data;      // and more of what it is done with
};
struct Warp {
  Request requests[LANES];
  Request replies[LANES];
  int arrived = 0;
  long generation = 0;
};
alignas(128) extern unsigned char memory[232448];
extern int current, cta_index, cta_count;  // which thread runs, of which CTA
extern long transposed_loads;
extern u32 limit;  // of a CTA's shared memory, in bytes

void run(void (*kernel)(), int ctas, int threads, u32 shared);
Request together(const Request& request);  // wait for the warp, as the hardware does
void all_together();                       // for the CTA
void copy(u32 target, const void* source);  // 16 bytes, asynchronously; without a source, zeros
void commit_copies();
void wait_for_copies(int pending);
void fail(const char* what);

inline void demand(u32 address, size_t size, const char* what) {  // in one piece, within the CTA's memory
  if (address % size || address + size > limit) fail(what);
}
inline float widen(u16 bits) {
  if (!FP16) {
    u32 word = (u32)bits << 16;
    float x;
    memcpy(&x, &word, 4);
    return x;
  }
  _Float16 half;
  memcpy(&half, &bits, 2);
  return (float)half;
}
inline u16 narrow(float x) {
  if (FP16) {
    _Float16 half = (_Float16)x;
    u16 bits;
    memcpy(&bits, &half, 2);
    return bits;
  }
  u32 word;
  memcpy(&word, &x, 4);
  if (x != x) return 0x7fc0;
  return (word + 0x7fff + ((word >> 16) & 1)) >> 16;
}
inline float element(u32 word, int half) { return widen(half ? word >> 16 : word & 0xffff); }
}  // namespace machine

struct Lane {
  int thread, warp, lane, g, t;
};
inline Lane who() {
  int thread = machine::current, lane = thread & 31;
  return {thread, thread >> 5, lane, lane >> 2, lane & 3};
}
inline int cta() { return machine::cta_index; }
inline int ctas() { return machine::cta_count; }
inline void block_sync() { machine::all_together(); }
inline void warp_sync() { machine::together({machine::SYNC}); }
inline bool warp_any(bool x) { return machine::together({machine::ANY, {x}}).words[0]; }
inline u32 shuffle_xor(u32 x, int mask) { return machine::together({machine::SHUFFLE, {x, (u32)mask}}).words[0]; }
inline float shuffle_xor(float x, int mask) {
  u32 word;
  memcpy(&word, &x, 4);
  word = shuffle_xor(word, mask);
  memcpy(&x, &word, 4);
  return x;
}
inline u32 shared_base() { return 0; }
template <int count> inline void ldmatrix(u32 (&r)[count], u32 address) {
  machine::Request reply = machine::together({machine::LDMATRIX, {address, count}});
  memcpy(r, reply.words, sizeof r);
}
template <int count> inline void ldmatrix_transposed(u32 (&r)[count], u32 address) {
  machine::Request reply = machine::together({machine::LDMATRIX_TRANSPOSED, {address, count}});
  memcpy(r, reply.words, sizeof r);
}
inline u32 transpose8x8(u32 x) { return machine::together({machine::TRANSPOSE, {x}}).words[0]; }
inline void mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1, const float (&c)[4]) {
  machine::Request reply =
      machine::together({machine::MMA, {a[0], a[1], a[2], a[3], b0, b1}, {c[0], c[1], c[2], c[3]}});
  memcpy(d, reply.numbers, 16);
}
inline void mma8(float (&d)[4], u32 a0, u32 a1, u32 b0, const float (&c)[4]) {
  machine::Request reply = machine::together({machine::MMA8, {a0, a1, 0, 0, b0}, {c[0], c[1], c[2], c[3]}});
  memcpy(d, reply.numbers, 16);
}
inline u32 pack(float low, float high) { return machine::narrow(low) | (u32)machine::narrow(high) << 16; }
inline float low_half(u32 x) { return machine::element(x, 0); }
inline float high_half(u32 x) { return machine::element(x, 1); }
template <class T> inline void opaque(T*&) {}
inline float as_float(u32 x) {
  float y;
  memcpy(&y, &x, 4);
  return y;
}
inline float exp2_fast(float x) { return exp2f(x); }
inline float log2_fast(float x) { return log2f(x); }
inline void copy_async(u32 address, const void* source, bool valid) {
  machine::demand(address, 16, "copy_async address");
  if ((uintptr_t)source % 16) machine::fail("copy_async source");
  machine::copy(address, valid ? source : nullptr);
}
inline void copies_commit() { machine::commit_copies(); }
template <int pending> inline void copies_wait() { machine::wait_for_copies(pending); }
template <class T> inline T& at(u32 offset) {
  machine::demand(offset, sizeof(T), "shared memory address");
  return *reinterpret_cast<T*>(machine::memory + offset);
}
inline u32 load(const void* source) {
  u32 x;
  memcpy(&x, source, sizeof x);
  return x;
}
template <class T> inline void store(void* target, T x) { memcpy(target, &x, sizeof x); }
