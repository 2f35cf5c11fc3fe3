// The vocabulary of fused_cuda/hopper/instructions.cuh on a CPU, behind warp.hpp: copies of boxes, barriers that count
// bytes, and products of a warpgroup, whose warps compute their 16 rows apart. What a copy brings is NaN until somebody
// has waited for its barrier in vain.
#include <map>

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
struct Box {
  u32 target;
  TensorMap map;
  int place[4];
  u32 barrier;
};
std::map<u32, Barrier> barriers;
std::vector<Box> boxes;  // on their way
long vain;               // questions since something happened
constexpr long PATIENCE = 1 << 20;

inline Barrier& barrier_at(u32 address) {
  if (!barriers.count(address)) fail("no barrier there");
  return barriers[address];
}
inline void settle(Barrier& barrier) {
  vain = 0;
  if (barrier.missing || barrier.bytes) return;
  barrier.phase ^= 1, barrier.missing = barrier.count;
}
inline u32 turned(u32 address, int line) { return address ^ (address >> 7 & (line / 16 - 1)) << 4; }
inline void land(const Box& box) {
  const TensorMap& map = box.map;
  const int channels = map.box[0], line = 2 * channels;
  for (int y = 0; y < map.box[2]; y++)
    for (int x = 0; x < map.box[1]; x++)
      for (int c = 0; c < channels; c++) {
        const int at[4] = {box.place[0] + c, box.place[1] + x, box.place[2] + y, box.place[3]};
        bool inside = true;
        for (int i = 0; i < 4; i++) inside = inside && at[i] >= 0 && at[i] < map.sizes[i];
        u16 bits = 0;
        if (inside) {
          const char* from = map.data + 2ll * at[0];
          for (int i = 0; i < 3; i++) from += at[i + 1] * map.strides[i];
          memcpy(&bits, from, 2);
        }
        const u32 place = turned(box.target + (y * map.box[1] + x) * line + 2 * c, line);
        demand(place, 2, "a box beyond shared memory");
        memcpy(memory + place, &bits, 2);
      }
  Barrier& barrier = barrier_at(box.barrier);
  barrier.bytes -= (long)line * map.box[1] * map.box[2];
  settle(barrier);
}
inline void ask(Warp& warp) {
  const Barrier& barrier = barrier_at(warp.requests[0].words[0]);
  const bool done = (barrier.phase & 1) != warp.requests[0].words[1];
  for (Request& r : warp.replies) r.words[0] = done;
  if (done) return;
  if (!boxes.empty()) {
    const Box box = boxes.back();  // in no order that a kernel could count on
    boxes.pop_back();
    land(box);
  }
  if (++vain > PATIENCE) fail("a deadlock");
}
inline void shuffle_any(Warp& warp) {
  for (int lane = 0; lane < LANES; lane++)
    warp.replies[lane].words[0] = warp.requests[warp.requests[lane].words[1] % LANES].words[0];
}
inline void read_word(Warp& warp) {
  const u32 address = warp.requests[0].words[0];
  demand(address, 4, "shared memory address");
  for (Request& r : warp.replies) memcpy(r.words, memory + address, 4);
}
inline void store_matrices(Warp& warp) {
  for (int i = 0; i < 4; i++)
    for (int row = 0; row < 8; row++) {
      const u32 address = warp.requests[8 * i + row].words[4];
      demand(address, 16, "stmatrix address");
      for (int t = 0; t < 4; t++) memcpy(memory + address + 4 * t, &warp.requests[4 * row + t].words[i], 4);
    }
}
struct Product {
  float* d;
  const u32* a;
  int columns;
  u64 b;
  bool add, transposed;
};
inline float operand(u64 descriptor, bool transposed, int k, int n) {
  const u32 start = (descriptor & 0x3fff) << 4, leading = (descriptor >> 16 & 0x3fff) << 4,
            stride = (descriptor >> 32 & 0x3fff) << 4;
  const int line = descriptor >> 62 ? 256 >> (descriptor >> 62) : 16;
  u32 address;
  if (transposed) address = start + k / 8 * stride + k % 8 * line + 2 * n;
  else if (line == 16) address = start + n / 8 * stride + k / 8 * leading + n % 8 * line + k % 8 * 2;
  else address = start + n / 8 * stride + n % 8 * line + 2 * k;
  if (transposed && start % line + 2 * n >= line) fail("a product's channels lie on two lines");
  address = turned(address, line);
  demand(address, 2, "a product's operand");
  u16 bits;
  memcpy(&bits, memory + address, 2);
  return widen(bits);
}
inline void multiply(Warp& warp) {
  const Product& first = *(const Product*)warp.requests[0].data;
  float a[16][16];
  for (int lane = 0; lane < LANES; lane++) {
    const Product& own = *(const Product*)warp.requests[lane].data;
    if (own.b != first.b) fail("a warp's lanes multiply by different matrices");
    for (int i = 0; i < 4; i++)
      for (int half = 0; half < 2; half++)
        a[(lane >> 2) + (i & 1) * 8][2 * (lane & 3) + (i >> 1) * 8 + half] = element(own.a[i], half);
  }
  for (int n = 0; n < first.columns; n++) {
    float b[16];
    for (int k = 0; k < 16; k++) b[k] = operand(first.b, first.transposed, k, n);
    for (int m = 0; m < 16; m++) {
      float& d = ((const Product*)warp.requests[m % 8 * 4 + n % 8 / 2].data)->d[n / 8 * 4 + m / 8 * 2 + n % 2];
      float sum = first.add ? d : 0.f;
      for (int k = 0; k < 16; k++) sum += a[m][k] * b[k];
      d = sum;
    }
  }
}
inline void product(float* d, int columns, const u32* a, u64 b, bool add, bool transposed = false) {
  const Product mine = {d, a, columns, b, add, transposed};
  together({OTHER, {}, {}, multiply, &mine});
}
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
  memset(machine::memory + target, 0xff, bytes);
  machine::boxes.push_back({target, map, {channel, x, y, image}, barrier});
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
template <int columns, int steps, int value_steps, int chunks>
inline void scores(float (&s)[columns], float (&dp)[columns], const u32 (&k)[steps][4], const u32 (&hot)[2][4],
                   const u32 (&v)[value_steps][4], u64 queries, u64 biases, const u64 (&gradients)[chunks]) {
  for (int step = 0; step < steps; step++) machine::product(s, 2 * columns, k[step], queries + 2 * step, step > 0);
  for (int step = 0; biases && step < 2; step++) machine::product(s, 2 * columns, hot[step], biases + 2 * step, true);
  for (int step = 0; step < value_steps; step++) {
    const int chunk = step * chunks / value_steps, within = step - chunk * value_steps / chunks;
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
