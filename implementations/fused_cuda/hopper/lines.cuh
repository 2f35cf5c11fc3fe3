// Lines of pixels in shared memory, as copies leave them.
#pragma once
#include "../halo.cuh"
#include "instructions.cuh"

// What begins at whole turns is swizzled alike.
constexpr u32 turns(u32 bytes) { return (bytes + 1023) / 1024 * 1024; }
// Where 16 bytes of a row lie, in lines of so many bytes.
template <int line> DEVICE u32 swizzled(int row, int chunk) {
  const u32 address = row * line;
  return address + ((chunk ^ (address >> 7 & (line / 16 - 1))) << 4);
}
