// What the three kernels share: shapes, places, windows in shared memory, biases of relative positions.
//
// Compile-time constants: KEY_DIM, VALUE_DIM, BLOCK, HALO, STRIDE, HEADS (a CTA's), TILES_PER_WARP, PARTS, RELATIVE,
// ZERO_BORDER, FP16, MIN_CTAS. A tile is 16 queries of a block, in row-major order, or 16 keys, in that of ``key_at``: the M
// of a matrix product. A row of the window is padded to 16 keys, its N (or K), or to 24 (but see APART). Values whose width
// is an odd multiple of 8 are padded with zeros.
#pragma once
#include "warp.cuh"

constexpr int D = KEY_DIM, E = (VALUE_DIM + 15) / 16 * 16;
constexpr int VALUE_OCTETS = VALUE_DIM / 8;  // of channels that are not padding
constexpr int WINDOW = BLOCK + 2 * HALO, SIDE = BLOCK / STRIDE, QUERIES = SIDE * SIDE;
constexpr int QUERY_TILES = (QUERIES + 15) / 16, PADDED = 16 * QUERY_TILES;
constexpr int KEY_TILES = (BLOCK * BLOCK + 15) / 16;
constexpr int OCTETS = (WINDOW + 7) / 8;          // of pixels, along either axis of a window
constexpr int LOADED = OCTETS > 2 ? 3 : 2;        // of them in registers: four tiles come at once
constexpr bool LARGE = OCTETS > 2 && BLOCK > 12;  // blocks of many tiles under wide windows are laid out in their own way
// Two columns behind two octets would fill a third by a quarter: they come apart, those of four rows at a time.
constexpr bool APART = LARGE && WINDOW == 18;
constexpr int ROW_OCTETS = APART ? 2 : OCTETS;  // of keys that come with a row
constexpr int BIAS_HALVES = LARGE ? 3 : OCTETS > 2 ? 4 : 2;  // times 8 bytes are both biases of a lane; if not LARGE, a third
                                                             // octet's 8 bytes are filled up to 16
static_assert(WINDOW <= 24 && WINDOW + BLOCK <= 33 && BLOCK % STRIDE == 0 && D % 16 == 0 && VALUE_DIM % 8 == 0,
              "outside this kernel's class");

// PARTS CTAs share a block, each has some of its tiles: those of whole warps, so that no tile has two owners.
constexpr int warps_a_head(int tiles) { return ((tiles + PARTS - 1) / PARTS + TILES_PER_WARP - 1) / TILES_PER_WARP; }
constexpr int tiles_a_part(int tiles) { return warps_a_head(tiles) * TILES_PER_WARP; }
constexpr float HIDDEN = -1e30f;  // a logit that counts for nothing, far from overflow
constexpr float HIDDEN_HALF = FP16 ? -6e4f : HIDDEN;
constexpr float LOG2_E = 1.4426950408889634f;

struct View {  // (batch, heads, height, width, dim); strides in elements, that of dim is 1
  void* data;
  long long batch;
  int head, row, column;
};
struct Args {
  View query, key, value, output, output_gradient, query_gradient, key_gradient, value_gradient;
  float *log_sum_exp, *partials;                 // by image, head, block, padded query; tables' gradients by CTA
  float* statistics;                             // by image, head, block: log-sum-exps, then minus deltas
  uint4* biases;                                 // by image, head, block, 8 queries, lane: B operands of the key pass
  const void *rows, *columns;                    // the tables, from the first entry that a query can use on
  void* tables;                                  // gradients: (2, entries, D)
  int heads, height, width, query_height, query_width, blocks_y, blocks_x, tiles_y, tiles_x, count;
  int entries, first_entry, entry_rows, partial_count;  // of a table, first in use, of both; CTAs with parts
  float scale;
};
DEVICE u16* image_of(const View& view, int image) { return static_cast<u16*>(view.data) + image * view.batch; }
DEVICE int offset_of(const View& view, int head, int y, int x) { return head * view.head + y * view.row + x * view.column; }

struct Place {  // which part of which block (or tile of keys) of which image, and its first head
  int image, head, y, x, part;
};
DEVICE Place place(const Args& args, int index, int tiles_y, int tiles_x) {
  int groups = args.heads / HEADS;
  Place p;
  p.part = index % PARTS, index /= PARTS;
  p.head = index % groups * HEADS, index /= groups;
  p.x = index % tiles_x, index /= tiles_x;
  p.y = index % tiles_y, p.image = index / tiles_y;
  return p;
}
DEVICE long long block_index(const Args& args, int image, int head, int y, int x) {
  return (((long long)image * args.heads + head) * args.blocks_y + y) * args.blocks_x + x;
}

// Shared memory: pixels of HEADS x dim channels in chunks of 16 bytes, swizzled so that 8 pixels hit all banks. Rows of large
// windows are no whole turns of a swizzle: there a short line is an odd number of chunks, an address one addition a turn.
template <int dim> struct Pixels {
  static constexpr int chunks = HEADS * dim / 8;
  static constexpr bool swizzled = (chunks & (chunks - 1)) == 0 && (!LARGE || chunks >= 8);
  static constexpr int line = (swizzled ? chunks : chunks | 1) * 16;  // an odd line needs no swizzle
  DEVICE static u32 slot(int pixel, int chunk) {
    u32 address = pixel * line + chunk * 16;
    return swizzled ? address ^ (address >> 3 & 0x70) : address;
  }
  // The same, ``turn`` times ``step`` pixels on: in a loop over turns one addition, where the swizzle repeats.
  template <int step> DEVICE static u32 slot_after(int turn, int pixel, int chunk) {
    if (swizzled && step * line % 1024) return slot(turn * step + pixel, chunk);
    return slot(pixel, chunk) + turn * step * line;
  }
};

// Lane addresses of ldmatrix.x4. By rows: 8 x 8 tiles (0, 0) (0, 8) (8, 0) (8, 8); by columns: (0, 0) (8, 0) (0, 8) (8, 8).
struct ByRows {
  DEVICE static int row(int lane) { return (lane & 7) + (lane >> 4) * 8; }
  DEVICE static int chunk(int lane) { return (lane >> 3) & 1; }
};
struct ByColumns {
  DEVICE static int row(int lane) { return (lane & 7) + ((lane >> 3) & 1) * 8; }
  DEVICE static int chunk(int lane) { return lane >> 4; }
};

// A box of pixels to shared memory: rows [first, last) of ``columns`` pixels, whose row 0 begins at (y0, x0) of a map of
// height x width. Zeros for pixels outside the map, and for channels of a head from ``real`` on.
template <int dim, int real, int columns, int threads>
DEVICE void load_box(u32 base, const View& view, const Place& p, int y0, int x0, int first, int last, int height,
                     int width, const Lane& me) {
  constexpr int chunks = Pixels<dim>::chunks;
  const u16* image = image_of(view, p.image);
  opaque(image);  // not to be computed again for every pixel
  if constexpr (threads % chunks == 0 || LARGE) {  // a thread keeps its chunk and walks over pixels
    constexpr int step = threads / chunks;
    if (threads % chunks && me.thread >= step * chunks) return;
    const int chunk = me.thread % chunks;
    int number = me.thread / chunks, row = first + number / columns, column = number % columns;
    number += first * columns;
    int offset = offset_of(view, p.head + chunk * 8 / dim, y0 + row, x0 + column) + chunk * 8 % dim;
    const int next = step / columns * view.row + step % columns * view.column, wrap = view.row - columns * view.column;
    u32 target = base + Pixels<dim>::slot(number, chunk);
    const bool exists = real == dim || chunk * 8 % dim < real;
#pragma unroll 4
    while (row < last) {
      bool inside = exists && (unsigned)(y0 + row) < (unsigned)height && (unsigned)(x0 + column) < (unsigned)width;
      copy_async(target, image + offset, inside);
      number += step, row += step / columns, column += step % columns, offset += next;
      if (column >= columns) column -= columns, row++, offset += wrap;
      if (Pixels<dim>::swizzled ? step * Pixels<dim>::line % 1024 == 0 : LARGE) target += step * Pixels<dim>::line;
      else target = base + Pixels<dim>::slot(number, chunk);
    }
  } else {
    for (int i = me.thread; i < (last - first) * columns * chunks; i += threads) {
      int chunk = i % chunks, number = first * columns + i / chunks, y = y0 + number / columns, x = x0 + number % columns;
      bool inside = (unsigned)y < (unsigned)height && (unsigned)x < (unsigned)width;
      if (real != dim) inside = inside && chunk * 8 % dim < real;
      int offset = offset_of(view, p.head + chunk * 8 / dim, y, x) + chunk * 8 % dim;
      copy_async(base + Pixels<dim>::slot(number, chunk), image + offset, inside);
    }
  }
}
// Zeros for the pixels [first, last) of a box.
template <int dim, int threads> DEVICE void clear_box(u32 base, const View& view, int first, int last, const Lane& me) {
  constexpr int chunks = Pixels<dim>::chunks;
  for (int i = me.thread; i < (last - first) * chunks; i += threads)
    copy_async(base + Pixels<dim>::slot(first + i / chunks, i % chunks), view.data, false);
}
// Rows [first, last) of the window at (y0, x0); the padding of the last row reads the pixels behind it.
template <int dim, int real, int threads>
DEVICE void load_window(u32 base, const View& view, const Args& args, const Place& p, int y0, int x0, int first, int last,
                        const Lane& me) {
  load_box<dim, real, WINDOW, threads>(base, view, p, y0, x0, first, last, args.height, args.width, me);
  clear_box<dim, threads>(base, view, last * WINDOW, last * WINDOW + 8 * LOADED - WINDOW, me);
}
// One row of the window, a head's part of it, as B operands; its third octet of keys comes by itself.
template <int dim> struct Row {
  u32 b[dim / 16][4], third[dim / 16][2];
  // Of the scores, whose N are its keys, 16 dims at a time, ...
  DEVICE u32 scores(int d, int octet, int part) const { return octet < 2 ? b[d][2 * octet + part] : third[d][part]; }
  // ... and of the weighted sums, whose K they are, 8 dims at a time.
  DEVICE u32 sums(int e, int octet) const { return octet < 2 ? b[e / 2][2 * (e & 1) + octet] : third[e / 2][e & 1]; }
};
template <int dim> DEVICE void load_row(Row<dim>& row, u32 base, int a, int chunk, const Lane& me) {
#pragma unroll
  for (int d = 0; d < dim / 16; d++) {
    const int first = chunk + 2 * d + ByRows::chunk(me.lane);
    ldmatrix(row.b[d], base + Pixels<dim>::template slot_after<WINDOW>(a, ByRows::row(me.lane), first));
    if (ROW_OCTETS > 2) ldmatrix(row.third[d], base + Pixels<dim>::template slot_after<WINDOW>(a, 16 + (me.lane & 7), first));
  }
}
template <int dim> DEVICE void load_row_transposed(Row<dim>& row, u32 base, int a, int chunk, const Lane& me) {
#pragma unroll
  for (int d = 0; d < dim / 16; d++) {
    ldmatrix_transposed(row.b[d], base + Pixels<dim>::template slot_after<WINDOW>(
                                             a, ByColumns::row(me.lane), chunk + 2 * d + ByColumns::chunk(me.lane)));
    if (ROW_OCTETS > 2)
      ldmatrix_transposed(row.third[d], base + Pixels<dim>::template slot_after<WINDOW>(
                                                   a, 16 + (me.lane & 7), chunk + 2 * d + ByRows::chunk(me.lane)));
  }
}
template <int dim> constexpr int window_bytes() {  // in whole turns of the swizzle
  return ((WINDOW * WINDOW + 8 * LOADED - WINDOW) * Pixels<dim>::line + 1023) / 1024 * 1024;
}

// The tables in shared memory, from the first entry that a query can use on: a query i pixels into its block meets the
// window's pixel a at entry a - i + BLOCK - 1. Zeros behind the last entry.
constexpr int ENTRIES = WINDOW + BLOCK - 1, ENTRY_TILES = (BLOCK + 8 * LOADED + 6) / 8;
constexpr int TABLE_LINE = (D + 8) * 2, TABLE_BYTES = RELATIVE ? 32 * TABLE_LINE : 0;
DEVICE void load_tables(u32 base, const Args& args, int threads, const Lane& me) {
  if (!RELATIVE) return;
  for (int i = me.thread; i < 2 * 32 * (D / 8); i += threads) {
    int chunk = i % (D / 8), row = i / (D / 8) % 32, table = i / (D / 8) / 32;
    const u16* source = static_cast<const u16*>(table ? args.columns : args.rows);
    copy_async(base + table * TABLE_BYTES + row * TABLE_LINE + chunk * 16, source + row * D + chunk * 8, row < ENTRIES);
  }
}

// Zero, which the compiler cannot know. What a matrix product starts from stands in four registers in a row; the compiler
// keeps equal ones once and gathers them again before every product, unless they look different.
DEVICE u32 zero(const Args& args) { return (u32)args.heads >> 31; }
// A value that the compiler keeps: it would make a one-hot operand or a sign again for each product, at more than a
// product's cost, but what comes from a shuffle it does not.
DEVICE u32 kept(u32 x) { return shuffle_xor(x, 0); }
DEVICE float kept(float x) { return shuffle_xor(x, 0); }

// The two queries of a lane, g and g + 8 of a tile.
struct Pair {
  bool valid[2];
  int number[2], y[2], x[2];  // in the block's order; on the map of queries
  int row_entry[2], column_entry[2];  // where the window's first pixel stands in the tables
};
DEVICE Pair queries_of(const Args& args, const Place& p, int tile, const Lane& me) {
  Pair q;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    int number = tile * 16 + me.g + 8 * h, real = min(number, QUERIES - 1), i = real / SIDE, j = real % SIDE;
    q.number[h] = number;
    q.y[h] = p.y * SIDE + i, q.x[h] = p.x * SIDE + j;
    q.valid[h] = number < QUERIES && q.y[h] < args.query_height && q.x[h] < args.query_width;
    q.row_entry[h] = BLOCK - 1 - i * STRIDE, q.column_entry[h] = BLOCK - 1 - j * STRIDE;
  }
  return q;
}
// A tile's rows as A operands, straight from global memory: [16 queries, dim], zeros from ``real`` on.
template <int dim, int real>
DEVICE void load_rows(u32 (&a)[dim / 16][4], const View& view, const Place& p, int head, const int (&y)[2],
                      const int (&x)[2], const bool (&valid)[2], const Lane& me) {
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const u16* source = image_of(view, p.image) + offset_of(view, head, y[h], x[h]) + 2 * me.t;
#pragma unroll
    for (int s = 0; s < dim / 16; s++)
#pragma unroll
      for (int c = 0; c < 2; c++)
        a[s][h + 2 * c] = s * 16 + c * 8 < real && valid[h] ? load(source + s * 16 + c * 8) : 0u;
  }
}
// The accumulators of a tile's rows to global memory, up to ``real``, times ``factor``, 8 bytes a lane.
template <int dim, int real>
DEVICE void store_rows(const float (&c)[dim / 8][4], const float (&factor)[2], const View& view, const Place& p, int head,
                       const int (&y)[2], const int (&x)[2], const bool (&valid)[2], const Lane& me) {
  bool odd = me.t & 1;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    u16* target = image_of(view, p.image) + offset_of(view, head, y[h], x[h]) + (odd ? 8 + 2 * (me.t - 1) : 2 * me.t);
#pragma unroll
    for (int n = 0; n < dim / 8; n += 2) {
      u32 even_part = pack(c[n][2 * h] * factor[h], c[n][2 * h + 1] * factor[h]);
      u32 odd_part = pack(c[n + 1][2 * h] * factor[h], c[n + 1][2 * h + 1] * factor[h]);
      u32 other = shuffle_xor(odd ? even_part : odd_part, 1);
      uint2 both = odd ? make_uint2(other, odd_part) : make_uint2(even_part, other);
      if (valid[h] && (n * 8 + 8 < real || !odd)) store(target + n * 8, both);
    }
  }
}

// A tile's products with a table, skewed to its queries: from each query's entry on, one for each pixel of the window. What
// is behind the window is finite.
constexpr int STAGE_LINE = 36 * 4, STAGE_BYTES = 16 * STAGE_LINE;
DEVICE void skewed_products(float (&out)[LOADED][4], const u32 (&q)[D / 16][4], u32 base, u32 table, u32 stage,
                            const int (&entry)[2], const Lane& me) {
#pragma unroll
  for (int n = 0; n < 2; n++) {
    float c[2][4] = {};
#pragma unroll
    for (int s = 0; s < D / 16; s++) {
      u32 b[4];
      ldmatrix(b, base + table + (n * 16 + ByRows::row(me.lane)) * TABLE_LINE + s * 32 + ByRows::chunk(me.lane) * 16);
      mma(c[0], q[s], b[0], b[1], c[0]);
      if (2 * n + 1 < ENTRY_TILES) mma(c[1], q[s], b[2], b[3], c[1]);
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
      if (2 * n + (i >> 1) < ENTRY_TILES)
        at<float2>(stage + (me.g + (i & 1) * 8) * STAGE_LINE + (n * 16 + (i >> 1) * 8 + 2 * me.t) * 4) =
            make_float2(c[i >> 1][2 * (i & 1)], c[i >> 1][2 * (i & 1) + 1]);
  }
  warp_sync();
#pragma unroll
  for (int i = 0; i < 4 * LOADED; i++) {
    int part = i & 3, row = me.g + (part >> 1) * 8;
    int column = (i >> 2) * 8 + 2 * me.t + (part & 1) + entry[part >> 1];
    if (OCTETS > 2) column = min(column, 31);
    out[i >> 2][part] = at<float>(stage + row * STAGE_LINE + column * 4);
  }
  warp_sync();
}
// Row biases as A operands [16 queries, 8 window rows] and column biases as accumulators [16 queries, 8 keys].
struct Biases {
  u32 rows[2 * LOADED];
  float columns[LOADED][4];
};
DEVICE void compute(Biases& bias, const u32 (&q)[D / 16][4], u32 base, u32 tables, u32 stage, const Pair& pair,
                    const Lane& me) {
  float rows[LOADED][4];
  skewed_products(rows, q, base, tables, stage, pair.row_entry, me);
  skewed_products(bias.columns, q, base, tables + TABLE_BYTES, stage, pair.column_entry, me);
#pragma unroll
  for (int i = 0; i < 2 * LOADED; i++) {
    float &low = bias.columns[i >> 1][2 * (i & 1)], &high = bias.columns[i >> 1][2 * (i & 1) + 1];
    bias.rows[i] = pack(rows[i >> 1][2 * (i & 1)], rows[i >> 1][2 * (i & 1) + 1]);
    // Rounded as the pass by keys reads them: its weights, of logits in the hundreds too, belong to these log-sum-exps.
    const u32 rounded = pack(low, high);
    low = kept(low_half(rounded)), high = kept(high_half(rounded));
  }
}
// The padding of a window's row, as the pass by keys reads it: within the range of half precision.
DEVICE void hide_padding(Biases& bias, const Lane& me) {
#pragma unroll
  for (int i = 0; i < 4 * LOADED; i++)
    if ((i >> 2) * 8 + 2 * me.t + (i & 1) >= WINDOW) bias.columns[i >> 2][i & 3] = HIDDEN_HALF;
}
// Keys that do not exist: the padding of a window's row and, at a masked border, what lies outside the image.
DEVICE void hide_columns(Biases& bias, const Args& args, int x0, const Lane& me) {
#pragma unroll
  for (int i = 0; i < 4 * LOADED; i++) {
    int key = (i >> 2) * 8 + 2 * me.t + (i & 1);
    bool real = key < WINDOW && (ZERO_BORDER || (unsigned)(x0 + key) < (unsigned)args.width);
    if (!real) bias.columns[i >> 2][i & 3] = HIDDEN;
    else if (!RELATIVE) bias.columns[i >> 2][i & 3] = 0.f;
  }
#pragma unroll
  for (int i = 0; APART && i < 4; i++) {  // keys 16 and 17 of a query, for all its lanes: the others' are hidden
    float& x = bias.columns[LOADED - 1][i];
    x = fmaxf(x, shuffle_xor(x, 1)), x = fmaxf(x, shuffle_xor(x, 2));
  }
}
// Keys 16 and 17 of four rows from ``row`` on as a B operand; rows that are not loaded repeat others, and count for nothing.
template <int dim, bool transposed>
DEVICE void load_apart(u32 (&b)[dim / 16][2], u32 base, int row, int first, int last, int chunk, const Lane& me) {
  const int a = min(max(row + ((me.lane & 7) >> 1), first), last - 1), pixel = a * WINDOW + 16 + (me.lane & 1);
#pragma unroll
  for (int d = 0; d < dim / 16; d++) {
    const u32 address = base + Pixels<dim>::slot(pixel, chunk + 2 * d + ByRows::chunk(me.lane));
    if (transposed) ldmatrix_transposed(b[d], address);
    else ldmatrix(b[d], address);
  }
}
// The logits of these keys, the second four rows of the ``octet`` or its first: [16 queries, 8], without the scale.
DEVICE void score_apart(float (&s)[4], const u32 (&q)[D / 16][4], const u32 (&k)[D / 16][2], const Biases& bias, int octet,
                        int half, int first, int last, const Lane& me) {
  const int row = 8 * octet + 4 * half + me.t, wanted = 4 * half + (me.g >> 1);
  const bool real = row >= first && row < last;
#pragma unroll
  for (int i = 0; i < 4; i++) s[i] = real ? bias.columns[LOADED - 1][i] : HIDDEN;
  const u32 pick = wanted >> 1 == me.t ? ONE << (16 * (wanted & 1)) : 0u;
  if (RELATIVE) mma8(s, bias.rows[2 * octet], bias.rows[2 * octet + 1], pick, s);
#pragma unroll
  for (int d = 0; d < D / 16; d++) mma(s, q[d], k[d][0], k[d][1], s);
}
// ``body(octet, half, row)`` for each four rows of these keys that have one from ``first`` on, before ``last``.
template <class Body> DEVICE void each_apart(int first, int last, Body body) {
#pragma unroll
  for (int octet = 0; APART && octet < OCTETS; octet++)
    for (int half = 0; half < 2; half++) {
      const int row = 8 * octet + 4 * half;
      if (row < last && row + 4 > first) body(octet, half, row);
    }
}
// The B operand [8 window rows, 8] whose row ``a`` is one: it picks a row's bias for all keys.
DEVICE u32 one_row(int a, const Lane& me) { return me.t == (a & 7) >> 1 ? ONE << (16 * (a & 1)) : 0u; }

// d = a b + d, summed over the keys of a window's row.
DEVICE void mma_keys(float (&d)[4], const u32 (&a)[2 * LOADED], u32 b0, u32 b1, u32 b2) {
  const u32 first[4] = {a[0], a[1], a[2], a[3]};
  if (OCTETS > 1) mma(d, first, b0, b1, d);
  else mma8(d, a[0], a[1], b0, d);
  if (ROW_OCTETS > 2) mma8(d, a[2 * LOADED - 2], a[2 * LOADED - 1], b2, d);
}
// d = a b + c, summed over 16 channels of the values from 16 ``e`` on, as far as they exist.
DEVICE void mma_values(float (&d)[4], const u32 (&a)[4], int e, u32 b0, u32 b1, const float (&c)[4]) {
  if (2 * e + 1 < VALUE_OCTETS) mma(d, a, b0, b1, c);
  else mma8(d, a[0], a[1], b0, c);
}
// What a lane has of [16 queries, keys], as A operands.
DEVICE void pack_keys(u32 (&a)[2 * LOADED], const float (&s)[LOADED][4]) {
#pragma unroll
  for (int n = 0; n < ROW_OCTETS; n++) a[2 * n] = pack(s[n][0], s[n][1]), a[2 * n + 1] = pack(s[n][2], s[n][3]);
}
// Logits of a tile against a row of the window in its ``octet``: [16 queries, keys], without the scale.
DEVICE void score(float (&s)[LOADED][4], const u32 (&q)[D / 16][4], const Row<D>& k, const Biases& bias, int octet,
                  u32 pick) {
#pragma unroll
  for (int n = 0; n < ROW_OCTETS; n++) {
    if (RELATIVE) mma8(s[n], bias.rows[2 * octet], bias.rows[2 * octet + 1], pick, bias.columns[n]);
#pragma unroll
    for (int d = 0; d < D / 16; d++) {
      if (d == 0 && !RELATIVE) mma(s[n], q[d], k.scores(d, n, 0), k.scores(d, n, 1), bias.columns[n]);
      else mma(s[n], q[d], k.scores(d, n, 0), k.scores(d, n, 1), s[n]);
    }
  }
}
