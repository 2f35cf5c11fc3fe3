// What Hopper has beside: copies of boxes, barriers that count their bytes, and products of a warpgroup.
#include "hopper.hpp"

#include <vector>

namespace machine {
struct Box {
  u32 target;
  TensorMap map;
  int place[4];
  u32 barrier;
};
Barriers barriers;
std::vector<Box> boxes;  // on their way
long vain;               // questions since something happened
constexpr long PATIENCE = 1 << 20;
long questions;            // about barriers, in vain, so far
constexpr long LATE = 64;  // a box lands at every 64th: warps that do not ask are ahead of it by then

Barrier& Barriers::operator[](u32 address) {
  demand(address, 8, "a barrier's address");
  return all[address / 8];
}
Barrier& barrier_at(u32 address) {
  if (!barriers[address].count) fail("no barrier there");
  return barriers[address];
}
void settle(Barrier& barrier) {
  vain = 0;
  if (barrier.missing || barrier.bytes) return;
  barrier.phase ^= 1, barrier.missing = barrier.count;
}
u32 turned(u32 address, int line) { return address ^ (address >> 7 & (line / 16 - 1)) << 4; }
void land(const Box& box) {
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
void ask(Warp& warp) {
  const Barrier& barrier = barrier_at(warp.requests[0].words[0]);
  const bool done = (barrier.phase & 1) != warp.requests[0].words[1];
  for (Request& r : warp.replies) r.words[0] = done;
  if (done) return;
  if (!boxes.empty() && ++questions % LATE == 0) {
    const Box box = boxes.back();  // in no order that a kernel could count on
    boxes.pop_back();
    land(box);
  }
  if (++vain > PATIENCE) fail("a deadlock");
}
void shuffle_any(Warp& warp) {
  for (int lane = 0; lane < LANES; lane++)
    warp.replies[lane].words[0] = warp.requests[warp.requests[lane].words[1] % LANES].words[0];
}
void read_word(Warp& warp) {
  const u32 address = warp.requests[0].words[0];
  demand(address, 4, "shared memory address");
  for (Request& r : warp.replies) memcpy(r.words, memory + address, 4);
}
void store_matrices(Warp& warp) {
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
float operand(u64 descriptor, bool transposed, int k, int n) {
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
void multiply(Warp& warp) {
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
void product(float* d, int columns, const u32* a, u64 b, bool add, bool transposed) {
  const Product mine = {d, a, columns, b, add, transposed};
  together({OTHER, {}, {}, multiply, &mine});
}
void bring(u32 target, const TensorMap& map, int channel, int x, int y, int image, u32 barrier) {
  memset(memory + target, 0xff, 2ll * map.box[0] * map.box[1] * map.box[2]);
  boxes.push_back({target, map, {channel, x, y, image}, barrier});
}
}  // namespace machine
