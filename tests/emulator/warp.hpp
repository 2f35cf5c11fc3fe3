// The vocabulary of fused_cuda's warp.cuh on a CPU: every thread of a CTA is a fiber, and what needs a whole warp waits for
// it. Shared memory starts as NaN, and is NaN from the request of an asynchronous copy until its thread waits for it. This
// stands in front of the kernels' source, which is compiled as C++ unchanged.
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

typedef uint32_t u32;
typedef uint16_t u16;
#define DEVICE inline
#define KERNEL extern "C"
#define __launch_bounds__(...)
#define __grid_constant__
#define __constant__
#define ONE (FP16 ? 0x3c00u : 0x3f80u)
using std::max;
using std::min;

struct uint2 { u32 x, y; };
struct alignas(16) uint4 { u32 x, y, z, w; };
struct float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
inline uint2 make_uint2(u32 x, u32 y) { return {x, y}; }
inline uint4 make_uint4(u32 x, u32 y, u32 z, u32 w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

namespace machine {
constexpr int LANES = 32, STACK = 1 << 18;
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
struct Copy {
  u32 target;
  const void* source;  // none: zeros
  int group;
};
struct Fiber {
  std::vector<Copy> copies;  // on their way
  int group;                 // of copies, not committed yet
  jmp_buf place;             // where it goes on
  bool begun, done;
};
alignas(128) unsigned char memory[232448];
std::vector<Fiber> fibers;
std::vector<std::vector<char>> stacks;  // of the fibers, kept from CTA to CTA
std::vector<Warp> warps;
jmp_buf scheduler;
int current, cta_index, cta_count, waiting_in_block;
long block_generation, transposed_loads;
u32 limit;  // of a CTA's shared memory, in bytes
bool progress;

inline void fail(const char* what) { fprintf(stderr, "emulator: %s\n", what), abort(); }
inline void demand(u32 address, size_t size, const char* what) {  // in one piece, within the CTA's memory
  if (address % size || address + size > limit) fail(what);
}
// Unlike swapcontext, this does not call the system. What calls setjmp is not inlined, or its caller's variables were lost.
__attribute__((noinline)) void yield() {
  if (!_setjmp(fibers[current].place)) _longjmp(scheduler, 1);
}
__attribute__((noinline)) void go_on(void (*enter)()) {
  Fiber& fiber = fibers[current];
  if (_setjmp(scheduler)) return;
  if (fiber.begun) _longjmp(fiber.place, 1);
  fiber.begun = true;
  ucontext_t context;
  getcontext(&context);
  context.uc_stack = {stacks[current].data(), 0, STACK};
  context.uc_link = nullptr;
  makecontext(&context, enter, 0);
  setcontext(&context);
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
  if (std::isnan(x)) return 0x7fc0;
  return (word + 0x7fff + ((word >> 16) & 1)) >> 16;
}
inline float element(u32 word, int half) { return widen(half ? word >> 16 : word & 0xffff); }

inline void matrix_product(Warp& warp, int depth) {
  float a[16][16], b[16][8];
  for (int lane = 0; lane < LANES; lane++) {
    const Request& r = warp.requests[lane];
    int g = lane >> 2, t = lane & 3;
    for (int half = 0; half < 2; half++)
      for (int k = 0; k < depth; k += 8) {
        int i = k / 8;
        a[g][k + 2 * t + half] = element(r.words[2 * i], half);
        a[g + 8][k + 2 * t + half] = element(r.words[2 * i + 1], half);
        b[k + 2 * t + half][g] = element(r.words[4 + i], half);
      }
  }
  for (int lane = 0; lane < LANES; lane++)
    for (int i = 0; i < 4; i++) {
      int row = (lane >> 2) + (i >> 1) * 8, column = 2 * (lane & 3) + (i & 1);
      float sum = warp.requests[lane].numbers[i];
      for (int k = 0; k < depth; k++) sum += a[row][k] * b[k][column];
      warp.replies[lane].numbers[i] = sum;
    }
}
inline void load_matrices(Warp& warp, bool transposed) {
  const int count = warp.requests[0].words[1];
  for (int i = 0; i < count; i++) {
    u16 tile[8][8];
    for (int row = 0; row < 8; row++) {
      u32 address = warp.requests[i * 8 + row].words[0];
      demand(address, 16, "ldmatrix address");
      memcpy(tile[row], memory + address, 16);
    }
    for (int lane = 0; lane < LANES; lane++) {
      int g = lane >> 2, t = lane & 3;
      u16 low = transposed ? tile[2 * t][g] : tile[g][2 * t], high = transposed ? tile[2 * t + 1][g] : tile[g][2 * t + 1];
      warp.replies[lane].words[i] = low | (u32)high << 16;
    }
  }
}
inline void complete(Warp& warp) {
  Operation operation = warp.requests[0].operation;
  for (const Request& r : warp.requests)
    if (r.operation != operation || r.other != warp.requests[0].other) fail("the lanes of a warp do different things");
  bool any = false;
  switch (operation) {
    case ANY:
      for (const Request& r : warp.requests) any = any || r.words[0];
      for (Request& r : warp.replies) r.words[0] = any;
      break;
    case SHUFFLE:
      for (int lane = 0; lane < LANES; lane++)
        warp.replies[lane].words[0] = warp.requests[lane ^ warp.requests[lane].words[1]].words[0];
      break;
    case LDMATRIX: load_matrices(warp, false); break;
    case LDMATRIX_TRANSPOSED: load_matrices(warp, true), transposed_loads++; break;
    case TRANSPOSE:
      for (int lane = 0; lane < LANES; lane++) {
        u32 word = 0;
        for (int half = 0; half < 2; half++) {
          int row = 2 * (lane & 3) + half, column = lane >> 2;
          u32 source = warp.requests[row * 4 + column / 2].words[0];
          word |= (column & 1 ? source >> 16 : source & 0xffff) << (16 * half);
        }
        warp.replies[lane].words[0] = word;
      }
      break;
    case MMA: matrix_product(warp, 16); break;
    case MMA8: matrix_product(warp, 8); break;
    case OTHER: warp.requests[0].other(warp); break;
    default: break;
  }
}
inline Request together(const Request& request) {  // wait for the warp, as the hardware does
  Warp& warp = warps[current / LANES];
  int lane = current % LANES;
  warp.requests[lane] = request;
  long generation = warp.generation;
  progress = true;
  if (++warp.arrived == LANES) {
    complete(warp);
    warp.arrived = 0, warp.generation++;
  }
  while (warp.generation == generation) yield();
  return warp.replies[lane];
}
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
inline void block_sync() {
  long generation = machine::block_generation;
  machine::progress = true;
  if (++machine::waiting_in_block == (int)machine::fibers.size()) machine::waiting_in_block = 0, machine::block_generation++;
  while (machine::block_generation == generation) machine::yield();
}
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
  memset(machine::memory + address, 0xff, 16);
  machine::Fiber& fiber = machine::fibers[machine::current];
  fiber.copies.push_back({address, valid ? source : nullptr, fiber.group});
}
inline void copies_commit() { machine::fibers[machine::current].group++; }
template <int pending> inline void copies_wait() {
  machine::Fiber& fiber = machine::fibers[machine::current];
  auto landed = std::remove_if(fiber.copies.begin(), fiber.copies.end(), [&](const machine::Copy& copy) {
    if (copy.group >= fiber.group - pending) return false;
    if (copy.source) memcpy(machine::memory + copy.target, copy.source, 16);
    else memset(machine::memory + copy.target, 0, 16);
    return true;
  });
  fiber.copies.erase(landed, fiber.copies.end());
}
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
