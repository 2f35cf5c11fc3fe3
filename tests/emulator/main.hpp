// Behind a kernel's source: runs it. KERNEL_NAME is the kernel, ARGUMENT its argument's type.
static_assert(SHARED <= sizeof machine::memory, "more shared memory than there is");
ARGUMENT argument;

// How many times a warp's matrices were loaded transposed, so far.
extern "C" int loads_transposed() { return machine::transposed_loads; }
extern "C" void emulate(const void* args, int count) {
  memcpy(&argument, args, sizeof argument);  // may lie anywhere
  machine::run([] { KERNEL_NAME(argument); }, count, THREADS, SHARED);
}
