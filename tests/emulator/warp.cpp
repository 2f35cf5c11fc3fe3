// What runs a kernel: every thread of a CTA is a fiber, and what needs a whole warp waits for it. Shared memory starts as
// NaN, and is NaN from the request of an asynchronous copy until its thread waits for it.
#include "warp.hpp"

#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>

#include <algorithm>
#include <memory>
#include <vector>

namespace machine {
constexpr int STACK = 1 << 18;
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
std::unique_ptr<char[]> stacks;  // of the fibers, kept from CTA to CTA; most of it nobody ever touches
std::vector<Warp> warps;
jmp_buf scheduler;
void (*kernel_to_run)();
int current, cta_index, cta_count, waiting_in_block;
long block_generation, transposed_loads;
u32 limit;
bool progress;

void fail(const char* what) { fprintf(stderr, "emulator: %s\n", what), abort(); }

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
  context.uc_stack = {stacks.get() + (size_t)current * STACK, 0, STACK};
  context.uc_link = nullptr;
  makecontext(&context, enter, 0);
  setcontext(&context);
}

void matrix_product(Warp& warp, int depth) {
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
void load_matrices(Warp& warp, bool transposed) {
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
void complete(Warp& warp) {
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
Request together(const Request& request) {
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
void all_together() {
  long generation = block_generation;
  progress = true;
  if (++waiting_in_block == (int)fibers.size()) waiting_in_block = 0, block_generation++;
  while (block_generation == generation) yield();
}
void copy(u32 target, const void* source) {
  memset(memory + target, 0xff, 16);
  fibers[current].copies.push_back({target, source, fibers[current].group});
}
void commit_copies() { fibers[current].group++; }
void wait_for_copies(int pending) {
  Fiber& fiber = fibers[current];
  auto landed = std::remove_if(fiber.copies.begin(), fiber.copies.end(), [&](const Copy& copy) {
    if (copy.group >= fiber.group - pending) return false;
    if (copy.source) memcpy(memory + copy.target, copy.source, 16);
    else memset(memory + copy.target, 0, 16);
    return true;
  });
  fiber.copies.erase(landed, fiber.copies.end());
}
void enter() {
  kernel_to_run();
  fibers[current].done = true;
  progress = true;
  while (true) yield();
}
void run(void (*kernel)(), int ctas, int threads, u32 shared) {
  kernel_to_run = kernel, cta_count = ctas, limit = shared;
  if (!stacks) stacks.reset(new char[(size_t)threads * STACK]);
  for (cta_index = 0; cta_index < ctas; cta_index++) {
    memset(memory, 0xff, sizeof memory);
    fibers.assign(threads, {});
    warps.assign(threads / LANES, {});
    waiting_in_block = 0;
    for (bool left = true; left;) {
      left = progress = false;
      for (current = 0; current < (int)fibers.size(); current++)
        if (!fibers[current].done) left = true, go_on(enter);
      if (left && !progress) {
        bool done = true;
        for (const Fiber& fiber : fibers) done = done && fiber.done;
        if (!done) fail("a deadlock");
      }
    }
  }
}
}  // namespace machine
