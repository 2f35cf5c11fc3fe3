// Lines of pixels in shared memory, as copies leave them.
#pragma once
#include "../halo.cuh"
#include "instructions.cuh"

// The order in which CTAs walk over blocks of queries or tiles of keys: some images at a time, these place by place. A
// CTA that took every 132nd of 64 or 81 places of one image after the other would meet the same few of them.
struct Order {
  u32 images;                         // at a time
  u32 per_images, per_image, per_row;  // 2^31 by these, by places of an image, of a row; rounded up
};
struct Spot {
  int image, y, x;
};
DEVICE Spot spot_of(const Order& order, int number, int rows, int columns) {
  const int near = high_product(2 * number, order.per_images), images = high_product(2 * near, order.per_image);
  const int place = near - images * (rows * columns), y = high_product(2 * place, order.per_row);
  return {(int)(number - near * order.images + images * order.images), y, place - y * columns};
}
// What begins at whole turns is swizzled alike.
constexpr u32 turns(u32 bytes) { return (bytes + 1023) / 1024 * 1024; }
// Where 16 bytes of a row lie, in lines of so many bytes.
template <int line> DEVICE u32 swizzled(int row, int chunk) {
  const u32 address = row * line;
  return address + ((chunk ^ (address >> 7 & (line / 16 - 1))) << 4);
}
