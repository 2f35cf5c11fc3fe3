"""The Triton kernels of the stem: as in ``kernels``, but the output is the maximum over 3 x 3 pixels, stride 2.

The window of (i, j) begins at (2 i - 1, 2 j - 1); what is outside the map takes no part. Pixels come in quads: that of
(i, j) begins at (2 i, 2 j), there are as many as windows, and only the windows of (i, j) to (i + 1, j + 1) meet it.
"""

import triton
import triton.language as tl

from halobench.models.norm.kernels import (
    activated,
    affine,
    channel_block,
    last_tile_first,
    per_channel,
    slope,
    store_sums,
)


@triton.jit
def unravel(row, pooled_height, pooled_width):
    """Image, row and column of a window, or of a quad."""
    return row // (pooled_width * pooled_height), row // pooled_width % pooled_height, row % pooled_width


@triton.jit
def spots(image, y, x, inside, height, width, channel, there, channels):
    """Where the pixels (image, y, x) of a map lie, and which of them there are."""
    inside = inside & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    pixel = (image.to(tl.int64) * height + y) * width + x
    return pixel[:, None] * channels + channel[None, :], inside[:, None] & there[None, :]


@triton.jit
def normalize_and_pool(
    pixels, mean, variance, weight, bias, output, winners,
    rows, channels, height, width, pooled_height, pooled_width,
    EPS: tl.constexpr, RELU: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """The output, a row a window; ``winners`` tells which of the nine pixels it is.

    The activations fall to a minimum and rise from there, if they fall at all, and z is linear in x: so the winner is
    where x is least or greatest, each time the first such pixel, and only these two need be activated.
    """
    channel, there = channel_block(channels, BLOCK_CHANNELS)
    center, _, gain, offset = affine(mean, variance, weight, bias, channel, there, EPS)
    row = last_tile_first(BLOCK_ROWS)
    image, i, j = unravel(row, pooled_height, pooled_width)
    center_pixel = (image.to(tl.int64) * height + 2 * i) * width + 2 * j
    middle = pixels + center_pixel[:, None] * channels + channel[None, :]
    least = tl.full((BLOCK_ROWS, BLOCK_CHANNELS), float("inf"), tl.float32)
    greatest = tl.full((BLOCK_ROWS, BLOCK_CHANNELS), float("-inf"), tl.float32)
    least_tap = tl.zeros((BLOCK_ROWS, BLOCK_CHANNELS), tl.int32)
    greatest_tap = tl.zeros((BLOCK_ROWS, BLOCK_CHANNELS), tl.int32)
    for tap in tl.static_range(9):
        y, x = 2 * i - 1 + tap // 3, 2 * j - 1 + tap % 3
        inside = (row < rows) & (y >= 0) & (y < height) & (x >= 0) & (x < width)
        spot = middle + ((tap // 3 - 1) * width + tap % 3 - 1) * channels
        # What is not there is NaN, which is neither less nor greater than anything.
        value = tl.load(spot, mask=inside[:, None] & there[None, :], other=float("nan")).to(tl.float32)
        lower, higher = value < least, value > greatest
        least, least_tap = tl.where(lower, value, least), tl.where(lower, tap, least_tap)
        greatest, greatest_tap = tl.where(higher, value, greatest), tl.where(higher, tap, greatest_tap)
    one, other = activated((least - center) * gain + offset, RELU), activated((greatest - center) * gain + offset, RELU)
    # Of two equals the first; a NaN is in the statistics, and so in both.
    first = (one > other) | ((one == other) & (least_tap < greatest_tap))
    place, real = spots(image, i, j, row < rows, pooled_height, pooled_width, channel, there, channels)
    tl.store(output + place, tl.where(first, one, other).to(output.dtype.element_ty), mask=real)
    tl.store(winners + place, tl.where(first, least_tap, greatest_tap).to(tl.uint8), mask=real)


@triton.jit
def window(gradient, winners, image, i, j, inside, pooled_height, pooled_width, channel, there, channels):
    """The gradient of a window, and which of its pixels it belongs to."""
    place, real = spots(image, i, j, inside, pooled_height, pooled_width, channel, there, channels)
    received = tl.load(gradient + place, mask=real, other=0.0).to(tl.float32)
    return received, tl.load(winners + place, mask=real, other=9).to(tl.int32)


@triton.jit
def quad_gradients(gradient, winners, image, i, j, inside, pooled_height, pooled_width, channel, there, channels):
    """The gradients of the activated pixels of a quad, in reading order: those of the windows that they won."""
    here, winner = window(gradient, winners, image, i, j, inside, pooled_height, pooled_width, channel, there, channels)
    right, winner_right = window(
        gradient, winners, image, i, j + 1, inside, pooled_height, pooled_width, channel, there, channels
    )
    below, winner_below = window(
        gradient, winners, image, i + 1, j, inside, pooled_height, pooled_width, channel, there, channels
    )
    last, winner_last = window(
        gradient, winners, image, i + 1, j + 1, inside, pooled_height, pooled_width, channel, there, channels
    )
    top_left = tl.where(winner == 4, here, 0.0)
    top_right = tl.where(winner == 5, here, 0.0) + tl.where(winner_right == 3, right, 0.0)
    bottom_left = tl.where(winner == 7, here, 0.0) + tl.where(winner_below == 1, below, 0.0)
    bottom_right = tl.where(winner == 8, here, 0.0) + tl.where(winner_right == 6, right, 0.0)
    bottom_right += tl.where(winner_below == 2, below, 0.0) + tl.where(winner_last == 0, last, 0.0)
    return top_left, top_right, bottom_left, bottom_right


@triton.jit
def pooled_gradient_sums(
    gradient, winners, pixels, mean, variance, weight, bias, sums,
    rows, channels, height, width, pooled_height, pooled_width,
    EPS: tl.constexpr, RELU: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """As ``gradient_sums``, a row a quad."""
    channel, there = channel_block(channels, BLOCK_CHANNELS)
    center, scale, gain, offset = affine(mean, variance, weight, bias, channel, there, EPS)
    total = tl.zeros((BLOCK_ROWS, BLOCK_CHANNELS), tl.float32)
    weighted = tl.zeros((BLOCK_ROWS, BLOCK_CHANNELS), tl.float32)
    for start in range(tl.program_id(0) * BLOCK_ROWS, rows, tl.num_programs(0) * BLOCK_ROWS):
        row = start + tl.arange(0, BLOCK_ROWS)
        image, i, j = unravel(row, pooled_height, pooled_width)
        received = quad_gradients(
            gradient, winners, image, i, j, row < rows, pooled_height, pooled_width, channel, there, channels
        )
        for pixel in tl.static_range(4):
            place, real = spots(
                image, 2 * i + pixel // 2, 2 * j + pixel % 2, row < rows, height, width, channel, there, channels
            )
            difference = tl.load(pixels + place, mask=real, other=0.0).to(tl.float32) - center
            inner = received[pixel] * slope(difference * gain + offset, RELU)
            total += inner
            weighted += inner * difference
    store_sums(sums, total, weighted * scale, channels, channel, there)


@triton.jit
def pooled_pixel_gradient(
    gradient, winners, pixels, mean, variance, weight, bias, bias_gradient, weight_gradient, output,
    count, rows, channels, height, width, pooled_height, pooled_width,
    EPS: tl.constexpr, RELU: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """As ``pixel_gradient``, a row a quad; ``count`` is the number of pixels."""
    channel, there = channel_block(channels, BLOCK_CHANNELS)
    center, scale, gain, offset = affine(mean, variance, weight, bias, channel, there, EPS)
    average = per_channel(bias_gradient, channel, there) / count
    incline = per_channel(weight_gradient, channel, there) / count * scale
    row = last_tile_first(BLOCK_ROWS)
    image, i, j = unravel(row, pooled_height, pooled_width)
    received = quad_gradients(
        gradient, winners, image, i, j, row < rows, pooled_height, pooled_width, channel, there, channels
    )
    for pixel in tl.static_range(4):
        place, real = spots(
            image, 2 * i + pixel // 2, 2 * j + pixel % 2, row < rows, height, width, channel, there, channels
        )
        difference = tl.load(pixels + place, mask=real, other=0.0).to(tl.float32) - center
        inner = received[pixel] * slope(difference * gain + offset, RELU)
        found = (inner - average - difference * incline) * gain
        tl.store(output + place, found.to(output.dtype.element_ty), mask=real)
