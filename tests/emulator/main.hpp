// Behind a kernel's source: runs it CTA by CTA. KERNEL_NAME is the kernel, ARGUMENT its argument's type.
namespace machine {
static_assert(SHARED <= sizeof memory, "more shared memory than there is");
ARGUMENT argument;
void enter() {
  KERNEL_NAME(argument);
  fibers[current].done = true;
  progress = true;
  while (true) yield();
}
}  // namespace machine

// How many times a warp's matrices were loaded transposed, so far.
extern "C" int loads_transposed() { return machine::transposed_loads; }
extern "C" void emulate(const void* args, int count) {
  using namespace machine;
  memcpy(&argument, args, sizeof argument);  // may lie anywhere
  cta_count = count, limit = SHARED;
  stacks.resize(THREADS, std::vector<char>(STACK));
  for (cta_index = 0; cta_index < count; cta_index++) {
    memset(memory, 0xff, sizeof memory);
    fibers.assign(THREADS, {});
    warps.assign(THREADS / LANES, {});
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
