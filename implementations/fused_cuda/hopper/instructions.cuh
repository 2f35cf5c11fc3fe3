// What Hopper can do beyond warp.cuh: copies of boxes by tensor maps, barriers that count bytes, descriptors of what
// wgmma reads. PTX of sm_90a. The products themselves are written by wgmma.py.
#pragma once
typedef unsigned long long u64;

struct alignas(64) TensorMap {
  char bytes[128];
};

DEVICE u32 shuffle(u32 x, int lane) { return __shfl_sync(0xffffffffu, x, lane); }
DEVICE u32 permute(u32 low, u32 high, u32 bytes) { return __byte_perm(low, high, bytes); }
DEVICE u32 high_product(u32 a, u32 b) { return __umulhi(a, b); }
DEVICE u32 first_bit(u32 x) { return __ffs(x) - 1; }
// Where the compiler takes a constant for cheap enough to have it everywhere.
DEVICE u32 zero_here() {
  u32 x;
  asm volatile("mov.b32 %0, 0;" : "=r"(x));
  return x;
}
// Barriers in shared memory: a phase ends when ``count`` have arrived and all bytes that were expected are there.
DEVICE void barrier_init(u32 barrier, u32 count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
DEVICE void barriers_ready() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
DEVICE void barrier_expect(u32 barrier, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
DEVICE void barrier_arrive(u32 barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
DEVICE void barrier_wait(u32 barrier, u32 parity) {
  asm volatile(
      "{\n.reg .pred p;\nAGAIN:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@p bra DONE;\nbra AGAIN;\n"
      "DONE:\n}" ::"r"(barrier), "r"(parity) : "memory");
}
// try_wait may suspend a thread for microseconds: who polls must not.
DEVICE bool barrier_test(u32 barrier, u32 parity) {
  u32 done;
  asm volatile(
      "{\n.reg .pred p;\nmbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
      : "=r"(done) : "r"(barrier), "r"(parity) : "memory");
  return done;
}
// What threads wrote to shared memory is there for copies and for wgmma, which read it in a way of their own.
DEVICE void fence_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
DEVICE void prefetch(const TensorMap& map) { asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory"); }
// A box of a tensor, zeros where there is none; ``barrier`` learns of its bytes.
DEVICE void copy_box(u32 target, const TensorMap& map, int channel, int x, int y, int image, u32 barrier) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%2, %3, %4, %5}], [%6];" ::"r"(target),
      "l"(&map), "r"(channel), "r"(x), "r"(y), "r"(image), "r"(barrier) : "memory");
}
// A matrix of lines of 32, 64 or 128 bytes, swizzled as copies leave them (or of 16, which are not). It has 14 bits of
// an address in units of 16 bytes: shared memory has no more. Further lines are as many of these units further on.
template <int line> DEVICE u64 descriptor(u32 address) {
  constexpr u64 swizzle = line == 128 ? 1 : line == 64 ? 2 : line == 32 ? 3 : 0;
  return (address >> 4) + ((swizzle ? 1ull : 8ull) << 16 | (u64)(line * 8 >> 4) << 32 | swizzle << 62);
}
DEVICE void stmatrix(u32 address, u32 r0, u32 r1, u32 r2, u32 r3) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
               "r"(r0), "r"(r1), "r"(r2), "r"(r3) : "memory");
}
DEVICE uint4 load_shared(u32 address) {
  uint4 v;
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(address) : "memory");
  return v;
}
DEVICE float2 load_shared_pair(u32 address) {
  float2 v;
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(v.x), "=f"(v.y) : "r"(address) : "memory");
  return v;
}
// A word that others change, for a whole warp at once.
DEVICE u32 load_shared_word(u32 address) {
  u32 x;
  asm volatile("ld.volatile.shared.u32 %0, [%1];" : "=r"(x) : "r"(address) : "memory");
  return x;
}
DEVICE void store_shared(u32 address, u32 x) {
  asm volatile("st.volatile.shared.u32 [%0], %1;" ::"r"(address), "r"(x) : "memory");
}
// In one piece: the compiler would split what it takes for unaligned.
DEVICE void store_16(void* target, uint4 v) {
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(target),
               "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}
DEVICE float log2_normal(float x) {  // of no subnormal number
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
DEVICE float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
