// What a warp can do beyond C++: the matrix units, their operands' loads, asynchronous copies. PTX of sm_80 and later.
//
// Fragments of mma.m16n8k16, lane = 4 g + t: A a0 (g; 2t, 2t+1)  a1 (g+8; ..)  a2 (g; 2t+8, 2t+9)  a3 (g+8; ..)
//                                            B b0 (2t, 2t+1; g)  b1 (2t+8, 2t+9; g)
//                                          C/D c0, c1 (g; 2t, 2t+1)  c2, c3 (g+8; ..)
#pragma once
typedef unsigned int u32;
typedef unsigned short u16;

#if FP16
#define HALF_TYPE "f16"
#define ONE 0x3c00u
#else
#define HALF_TYPE "bf16"
#define ONE 0x3f80u
#endif
#define DEVICE __device__ __forceinline__
#define KERNEL extern "C" __global__

extern __shared__ __align__(128) unsigned char shared[];

struct Lane {  // who this thread is
  int thread, warp, lane, g, t;
};
DEVICE Lane who() {
  int thread = threadIdx.x, lane = thread & 31;
  return {thread, thread >> 5, lane, lane >> 2, lane & 3};
}
DEVICE int cta() { return blockIdx.x; }
DEVICE int ctas() { return gridDim.x; }
DEVICE void block_sync() { __syncthreads(); }
DEVICE void warp_sync() { __syncwarp(); }
DEVICE bool warp_any(bool x) { return __any_sync(0xffffffffu, x); }
DEVICE float shuffle_xor(float x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }
DEVICE u32 shuffle_xor(u32 x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }
DEVICE u32 shared_base() { return (u32)__cvta_generic_to_shared(shared); }

DEVICE void ldmatrix(u32 (&r)[4], u32 address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}
DEVICE void ldmatrix_transposed(u32 (&r)[4], u32 address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(address) : "memory");
}
// Two tiles, at the addresses of the first 16 lanes.
DEVICE void ldmatrix(u32 (&r)[2], u32 address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1]) : "r"(address) : "memory");
}
DEVICE void ldmatrix_transposed(u32 (&r)[2], u32 address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1]) : "r"(address) : "memory");
}
DEVICE u32 transpose8x8(u32 x) {
  u32 y;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
  return y;
}
// d = a b + c, 16 x 8 x 16
DEVICE void mma(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1, const float (&c)[4]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32." HALF_TYPE "." HALF_TYPE ".f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %11, %12, %13};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}
// d = a b + c, 16 x 8 x 8
DEVICE void mma8(float (&d)[4], u32 a0, u32 a1, u32 b0, const float (&c)[4]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32." HALF_TYPE "." HALF_TYPE ".f32 "
      "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%7, %8, %9, %10};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a0), "r"(a1), "r"(b0), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}
DEVICE u32 pack(float low, float high) {
  u32 r;
#if FP16
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
#else
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
#endif
  return r;
}
DEVICE float low_half(u32 x) {
  float y;
#if FP16
  asm("{ .reg .b16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, l; }" : "=f"(y) : "r"(x));
#else
  y = __uint_as_float(x << 16);
#endif
  return y;
}
DEVICE float high_half(u32 x) {
  float y;
#if FP16
  asm("{ .reg .b16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, h; }" : "=f"(y) : "r"(x));
#else
  y = __uint_as_float(x & 0xffff0000u);
#endif
  return y;
}
// The compiler knows nothing about x any more.
template <class T> DEVICE void opaque(T*& x) { asm volatile("" : "+l"(x)); }
DEVICE float as_float(u32 x) { return __uint_as_float(x); }
DEVICE float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
DEVICE float log2_fast(float x) {
  float y;
  asm("lg2.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// 16 bytes from global to shared memory, zeros instead where not ``valid``.
DEVICE void copy_async(u32 address, const void* source, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(source), "r"(valid ? 16 : 0)
               : "memory");
}
DEVICE void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int pending> DEVICE void copies_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory"); }
template <class T> DEVICE T& at(u32 offset) { return *reinterpret_cast<T*>(shared + offset); }
// Four bytes that nobody writes. They are asked for here: the compiler does not put a load off until it is needed.
DEVICE u32 load(const void* source) {
  u32 x;
  asm volatile("ld.global.b32 %0, [%1];" : "=r"(x) : "l"(source) : "memory");
  return x;
}
template <class T> DEVICE void store(void* target, T x) { *reinterpret_cast<T*>(target) = x; }
