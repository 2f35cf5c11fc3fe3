"""The Triton kernels. A map is seen as (rows, channels): channels-last in memory, a row a pixel of an image.

``x`` is the map, ``z = (x - mean) / sqrt(variance + EPS) * weight + bias`` (plus the shortcut, where there is one),
and the output ``activation(z)``. Numbers are float32 between loads and stores.
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
def affine(mean, variance, weight, bias, channel, there, EPS: tl.constexpr):
    """Center, scale, gain and offset of each channel: z is (x - center) * gain + offset, gain is scale * weight."""
    center, scale = per_channel(mean, channel, there), tl.rsqrt(per_channel(variance, channel, there) + EPS)
    gain, offset = scale * per_channel(weight, channel, there), per_channel(bias, channel, there)
    return center, scale, gain, offset


@triton.jit
def places(row, rows, channel, there, channels):
    """Where the elements (row, channel) of a map lie, and which of them there are."""
    return row.to(tl.int64)[:, None] * channels + channel[None, :], (row < rows)[:, None] & there[None, :]


@triton.jit
def sigmoid(z):
    """1 / (1 + exp(-z)). The square of a reciprocal root is one instruction where a division is eight."""
    root = tl.rsqrt(1.0 + tl.exp2(-1.4426950408889634 * z))
    return root * root


@triton.jit
def activated(z, RELU: tl.constexpr):
    """ReLU or SiLU. What is not a number stays so: a step that overflowed must show."""
    if RELU:
        return tl.where(z <= 0, 0.0, z)
    return z * sigmoid(z)


@triton.jit
def slope(z, RELU: tl.constexpr):
    """The derivative of ``activated``."""
    if RELU:
        return tl.where(z <= 0, 0.0, 1.0)
    gate = sigmoid(z)
    return gate + gate * (z - z * gate)


@triton.jit
def last_tile_first(BLOCK_ROWS: tl.constexpr):
    """The rows of this program. A pass begins where the one before it ended: that is still in the cache."""
    return (tl.num_programs(0) - 1 - tl.program_id(0)) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)


@triton.jit
def store_sums(sums, one, other, channels, channel, there):
    """Write both sums of this program."""
    place = sums + tl.program_id(0) * 2 * channels + channel
    tl.store(place, tl.sum(one, 0), mask=there)
    tl.store(place + channels, tl.sum(other, 0), mask=there)


@triton.jit
def pixel_sums(pixels, sums, rows, channels, BLOCK_ROWS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr):
    """Each program sums every so many-th block of pixels: (programs, 2, channels), of differences and their squares.

    The differences are those to the first pixel: little cancels, however far the mean is from zero, unless that pixel
    is itself many deviations from the mean.
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
    store_sums(sums, total, squares, channels, channel, there)


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
    spread = squares / rows - shift * shift
    tl.store(variance + channel, tl.where(spread < 0, 0.0, spread), mask=there)  # a NaN stays


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
    pixels, shortcut, mean, variance, weight, bias, output, rows, channels,
    EPS: tl.constexpr, SHORTCUT: tl.constexpr, RELU: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """The output, pixel by pixel."""
    channel, there = channel_block(channels, BLOCK_CHANNELS)
    center, _, gain, offset = affine(mean, variance, weight, bias, channel, there, EPS)
    place, real = places(last_tile_first(BLOCK_ROWS), rows, channel, there, channels)
    z = (tl.load(pixels + place, mask=real, other=0.0).to(tl.float32) - center) * gain + offset
    if SHORTCUT:
        z += tl.load(shortcut + place, mask=real, other=0.0).to(tl.float32)
    tl.store(output + place, activated(z, RELU).to(output.dtype.element_ty), mask=real)


@triton.jit
def gradient_sums(
    gradient, pixels, shortcut, mean, variance, weight, bias, sums, inner_gradient, rows, channels,
    EPS: tl.constexpr, SHORTCUT: tl.constexpr, RELU: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """Sums of the gradient of z, and of it times the normalised pixels; with a shortcut it is stored as its gradient.

    Each program sums every so many-th block of pixels: (programs, 2, channels).
    """
    channel, there = channel_block(channels, BLOCK_CHANNELS)
    center, scale, gain, offset = affine(mean, variance, weight, bias, channel, there, EPS)
    total = tl.zeros((BLOCK_ROWS, BLOCK_CHANNELS), tl.float32)
    weighted = tl.zeros((BLOCK_ROWS, BLOCK_CHANNELS), tl.float32)
    for start in range(tl.program_id(0) * BLOCK_ROWS, rows, tl.num_programs(0) * BLOCK_ROWS):
        place, real = places(start + tl.arange(0, BLOCK_ROWS), rows, channel, there, channels)
        difference = tl.load(pixels + place, mask=real, other=0.0).to(tl.float32) - center
        received = tl.load(gradient + place, mask=real, other=0.0).to(tl.float32)  # zero where nothing is
        z = difference * gain + offset
        if SHORTCUT:
            z += tl.load(shortcut + place, mask=real, other=0.0).to(tl.float32)
        inner = received * slope(z, RELU)
        if SHORTCUT:
            rounded = inner.to(inner_gradient.dtype.element_ty)
            tl.store(inner_gradient + place, rounded, mask=real)
            inner = rounded.to(tl.float32)
        total += inner
        weighted += inner * difference
    store_sums(sums, total, weighted * scale, channels, channel, there)


@triton.jit
def pixel_gradient(
    gradient, pixels, mean, variance, weight, bias, bias_gradient, weight_gradient, output, rows, channels,
    EPS: tl.constexpr, SHORTCUT: tl.constexpr, RELU: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """The gradient of the pixels. With a shortcut, ``gradient`` is that of z already."""
    channel, there = channel_block(channels, BLOCK_CHANNELS)
    center, scale, gain, offset = affine(mean, variance, weight, bias, channel, there, EPS)
    average = per_channel(bias_gradient, channel, there) / rows
    incline = per_channel(weight_gradient, channel, there) / rows * scale
    place, real = places(last_tile_first(BLOCK_ROWS), rows, channel, there, channels)
    difference = tl.load(pixels + place, mask=real, other=0.0).to(tl.float32) - center
    inner = tl.load(gradient + place, mask=real, other=0.0).to(tl.float32)
    if not SHORTCUT:
        inner *= slope(difference * gain + offset, RELU)
    found = (inner - average - difference * incline) * gain
    tl.store(output + place, found.to(output.dtype.element_ty), mask=real)
