"""The Triton kernels. A map is seen as (rows, channels): channels-last in memory, a row a pixel of an image.

``x`` is the map, ``z = (x - mean) / sqrt(variance + eps) * weight + bias`` (plus the shortcut, where there is one),
and the output ``activation(z)``, or its maximum over windows of 3 x 3 pixels and stride 2. Numbers are float32 between
loads and stores.
"""

import triton
import triton.language as tl


@triton.jit
def channel_block(channels, BLOCK_CHANNELS: tl.constexpr):
    """The channels of this program, and which of them there are."""
    channel = tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    return channel, channel < channels


@triton.jit
def per_channel(pointer, channel, there):
    """A number for each channel, as a row to be broadcast over pixels."""
    return tl.load(pointer + channel, mask=there, other=0.0).to(tl.float32)[None, :]


@triton.jit
def places(row, rows, channel, there, channels):
    """Where the elements (row, channel) of a map lie, and which of them there are."""
    return row.to(tl.int64)[:, None] * channels + channel[None, :], (row < rows)[:, None] & there[None, :]


@triton.jit
def activated(z, RELU: tl.constexpr):
    """ReLU or SiLU."""
    if RELU:
        return tl.where(z > 0, z, 0.0)
    return z * tl.sigmoid(z)


@triton.jit
def slope(z, RELU: tl.constexpr):
    """The derivative of ``activated``."""
    if RELU:
        return tl.where(z > 0, 1.0, 0.0)
    gate = tl.sigmoid(z)
    return gate * (1.0 + z * (1.0 - gate))


@triton.jit
def pixel_sums(pixels, sums, rows, channels, BLOCK_ROWS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr):
    """Each program sums every so many-th block of pixels: (programs, 2, channels), of differences and their squares.

    The differences are those to the first pixel, so that nothing cancels where the mean is far from zero.
    """
    channel, there = channel_block(channels, BLOCK_CHANNELS)
    first = per_channel(pixels, channel, there)
    total = tl.zeros((BLOCK_ROWS, BLOCK_CHANNELS), tl.float32)
    squares = tl.zeros((BLOCK_ROWS, BLOCK_CHANNELS), tl.float32)
    for start in range(tl.program_id(0) * BLOCK_ROWS, rows, tl.num_programs(0) * BLOCK_ROWS):
        place, real = places(start + tl.arange(0, BLOCK_ROWS), rows, channel, there, channels)
        difference = tl.load(pixels + place, mask=real, other=0.0).to(tl.float32) - first
        difference = tl.where(real, difference, 0.0)
        total += difference
        squares += difference * difference
    place = sums + tl.program_id(0) * 2 * channels + channel
    tl.store(place, tl.sum(total, 0), mask=there)
    tl.store(place + channels, tl.sum(squares, 0), mask=there)


@triton.jit
def add_sums(sums, programs, channels, channel, there, BLOCK_PROGRAMS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr):
    """Both sums of all programs."""
    one = tl.zeros((BLOCK_PROGRAMS, BLOCK_CHANNELS), tl.float32)
    other = tl.zeros((BLOCK_PROGRAMS, BLOCK_CHANNELS), tl.float32)
    for start in range(0, programs, BLOCK_PROGRAMS):
        program = start + tl.arange(0, BLOCK_PROGRAMS)
        place, real = places(program, programs, channel, there, 2 * channels)
        one += tl.load(sums + place, mask=real, other=0.0)
        other += tl.load(sums + place + channels, mask=real, other=0.0)
    return tl.sum(one, 0), tl.sum(other, 0)


@triton.jit
def statistics(
    pixels, sums, mean, variance, rows, programs, channels,
    BLOCK_PROGRAMS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """Mean and (biased) variance of each channel, from ``pixel_sums``."""
    channel, there = channel_block(channels, BLOCK_CHANNELS)
    total, squares = add_sums(sums, programs, channels, channel, there, BLOCK_PROGRAMS, BLOCK_CHANNELS)
    first = tl.load(pixels + channel, mask=there, other=0.0).to(tl.float32)
    shift = total / rows
    tl.store(mean + channel, first + shift, mask=there)
    tl.store(variance + channel, tl.maximum(squares / rows - shift * shift, 0.0), mask=there)


@triton.jit
def parameter_gradients(
    sums, bias_gradient, weight_gradient, programs, channels,
    BLOCK_PROGRAMS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """The gradients of bias and weight, float32, from ``gradient_sums``."""
    channel, there = channel_block(channels, BLOCK_CHANNELS)
    total, weighted = add_sums(sums, programs, channels, channel, there, BLOCK_PROGRAMS, BLOCK_CHANNELS)
    tl.store(bias_gradient + channel, total, mask=there)
    tl.store(weight_gradient + channel, weighted, mask=there)


@triton.jit
def normalize(
    pixels, shortcut, mean, variance, weight, bias, output, rows, channels, eps,
    SHORTCUT: tl.constexpr, RELU: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """The output, pixel by pixel."""
    channel, there = channel_block(channels, BLOCK_CHANNELS)
    center, scale = per_channel(mean, channel, there), tl.rsqrt(per_channel(variance, channel, there) + eps)
    scale *= per_channel(weight, channel, there)
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    place, real = places(row, rows, channel, there, channels)
    z = (tl.load(pixels + place, mask=real, other=0.0).to(tl.float32) - center) * scale
    z += per_channel(bias, channel, there)
    if SHORTCUT:
        z += tl.load(shortcut + place, mask=real, other=0.0).to(tl.float32)
    tl.store(output + place, activated(z, RELU).to(output.dtype.element_ty), mask=real)


@triton.jit
def normalize_and_pool(
    pixels, mean, variance, weight, bias, output, winners,
    rows, channels, height, width, pooled_height, pooled_width, eps,
    RELU: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """The output, a row a window of 3 x 3 pixels; ``winners`` tells which of the nine it is, the first of equals.

    The window of (i, j) begins at (2 i - 1, 2 j - 1); what is outside the map takes no part.
    """
    channel, there = channel_block(channels, BLOCK_CHANNELS)
    center, scale = per_channel(mean, channel, there), tl.rsqrt(per_channel(variance, channel, there) + eps)
    scale *= per_channel(weight, channel, there)
    offset = per_channel(bias, channel, there)
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    top, left = row // pooled_width % pooled_height * 2 - 1, row % pooled_width * 2 - 1
    image = row // (pooled_width * pooled_height)
    highest = tl.full((BLOCK_ROWS, BLOCK_CHANNELS), float("-inf"), tl.float32)
    winner = tl.zeros((BLOCK_ROWS, BLOCK_CHANNELS), tl.int32)
    for tap in tl.static_range(9):
        y, x = top + tap // 3, left + tap % 3
        inside = (row < rows) & (y >= 0) & (y < height) & (x >= 0) & (x < width)
        place = ((image.to(tl.int64) * height + y) * width + x)[:, None] * channels + channel[None, :]
        real = inside[:, None] & there[None, :]
        z = (tl.load(pixels + place, mask=real, other=0.0).to(tl.float32) - center) * scale + offset
        value = activated(z, RELU).to(output.dtype.element_ty).to(tl.float32)
        # NaN wins and stays, as in PyTorch.
        higher = real & ((value > highest) | ((value != value) & (highest == highest)))  # noqa: PLR0124
        highest = tl.where(higher, value, highest)
        winner = tl.where(higher, tap, winner)
    place, real = places(row, rows, channel, there, channels)
    tl.store(output + place, highest.to(output.dtype.element_ty), mask=real)
    tl.store(winners + place, winner.to(tl.uint8), mask=real)


@triton.jit
def output_gradient(
    gradient, winners, row, rows, channel, there, channels, height, width, pooled_height, pooled_width,
    POOLED: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """The gradient of ``activated(z)`` at these pixels: that of the output, or of the windows that each of them won."""
    if not POOLED:
        place, real = places(row, rows, channel, there, channels)
        return tl.load(gradient + place, mask=real, other=0.0).to(tl.float32)
    y, x = row // width % height, row % width
    image = row // (width * height)
    total = tl.zeros((BLOCK_ROWS, BLOCK_CHANNELS), tl.float32)
    for below in tl.static_range(2):
        for right in tl.static_range(2):
            i, j = y // 2 + below, x // 2 + right
            tap_row, tap_column = y + 1 - 2 * i, x + 1 - 2 * j
            inside = (row < rows) & (tap_row >= 0) & (tap_column >= 0) & (i < pooled_height) & (j < pooled_width)
            place = ((image.to(tl.int64) * pooled_height + i) * pooled_width + j)[:, None] * channels + channel[None, :]
            real = inside[:, None] & there[None, :]
            won = tl.load(winners + place, mask=real, other=255).to(tl.int32) == (tap_row * 3 + tap_column)[:, None]
            received = tl.load(gradient + place, mask=real, other=0.0).to(tl.float32)
            total += tl.where(won, received, 0.0)
    return total


@triton.jit
def gradient_sums(
    gradient, winners, pixels, shortcut, mean, variance, weight, bias, sums, inner_gradient,
    rows, channels, height, width, pooled_height, pooled_width, eps,
    SHORTCUT: tl.constexpr, POOLED: tl.constexpr, RELU: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """Sums of the gradient of z, and of it times the normalised pixels; with a shortcut it is stored as its gradient.

    Each program sums every so many-th block of pixels: (programs, 2, channels).
    """
    channel, there = channel_block(channels, BLOCK_CHANNELS)
    center, scale = per_channel(mean, channel, there), tl.rsqrt(per_channel(variance, channel, there) + eps)
    factor, offset = per_channel(weight, channel, there), per_channel(bias, channel, there)
    total = tl.zeros((BLOCK_ROWS, BLOCK_CHANNELS), tl.float32)
    weighted = tl.zeros((BLOCK_ROWS, BLOCK_CHANNELS), tl.float32)
    for start in range(tl.program_id(0) * BLOCK_ROWS, rows, tl.num_programs(0) * BLOCK_ROWS):
        row = start + tl.arange(0, BLOCK_ROWS)
        place, real = places(row, rows, channel, there, channels)
        normalized = (tl.load(pixels + place, mask=real, other=0.0).to(tl.float32) - center) * scale
        z = normalized * factor + offset
        if SHORTCUT:
            z += tl.load(shortcut + place, mask=real, other=0.0).to(tl.float32)
        inner = output_gradient(
            gradient, winners, row, rows, channel, there, channels, height, width, pooled_height, pooled_width,
            POOLED, BLOCK_ROWS, BLOCK_CHANNELS,
        ) * slope(z, RELU)  # fmt: skip
        if SHORTCUT:
            inner = inner.to(inner_gradient.dtype.element_ty)
            tl.store(inner_gradient + place, inner, mask=real)
            inner = inner.to(tl.float32)
        total += tl.where(real, inner, 0.0)
        weighted += tl.where(real, inner * normalized, 0.0)
    place = sums + tl.program_id(0) * 2 * channels + channel
    tl.store(place, tl.sum(total, 0), mask=there)
    tl.store(place + channels, tl.sum(weighted, 0), mask=there)


@triton.jit
def pixel_gradient(
    gradient, winners, pixels, mean, variance, weight, bias, bias_gradient, weight_gradient, output,
    rows, channels, height, width, pooled_height, pooled_width, eps,
    SHORTCUT: tl.constexpr, POOLED: tl.constexpr, RELU: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """The gradient of the pixels. With a shortcut, ``gradient`` is that of z already."""
    channel, there = channel_block(channels, BLOCK_CHANNELS)
    center, scale = per_channel(mean, channel, there), tl.rsqrt(per_channel(variance, channel, there) + eps)
    factor = per_channel(weight, channel, there)
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    place, real = places(row, rows, channel, there, channels)
    normalized = (tl.load(pixels + place, mask=real, other=0.0).to(tl.float32) - center) * scale
    inner = output_gradient(
        gradient, winners, row, rows, channel, there, channels, height, width, pooled_height, pooled_width,
        POOLED, BLOCK_ROWS, BLOCK_CHANNELS,
    )  # fmt: skip
    if not SHORTCUT:
        inner *= slope(normalized * factor + per_channel(bias, channel, there), RELU)
    average = per_channel(bias_gradient, channel, there) / rows
    inner -= average + normalized * (per_channel(weight_gradient, channel, there) / rows)
    tl.store(output + place, (inner * scale * factor).to(output.dtype.element_ty), mask=real)
