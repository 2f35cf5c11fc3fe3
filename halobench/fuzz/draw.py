"""What is drawn: families of problems that share what a backend compiles for, and the trials of a family.

Kernels are compiled for the geometry, the sizes of the heads, the dtype and the kind of layout, which takes seconds;
maps, batches and magnitudes vary without compiling. So the former are drawn once a family, the latter for each of its
trials. Compilers also tell integers apart that are 1 or multiples of 16, so a family has maps of one such kind.

A family depends on the seed and its number alone, a trial on its family and its own number: neither the device, nor
the number of workers, nor the time that there is changes what is drawn.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar, get_args

from halobench.attention.geometry import Border, Geometry
from halobench.attention.problem import Problem

Layout = Literal["heads_last", "packed", "contiguous", "padded", "transposed", "offset", "expanded"]
Magnitude = Literal["standard", "tiny", "large_query", "large_key", "large_tables", "large_value", "huge_key"]
Cotangent = Literal["standard", "tiny", "large", "one_pixel", "zero"]
SizeKind = Literal["any", "sixteens", "one"]

Choice = TypeVar("Choice")

DTYPES = ("bfloat16", "float16", "float32", "float64")
WIDEST = 256
LARGEST_BLOCK = 33
LONGEST_STRIDE = 4
MOST_HEADS = 8
LEAST_PAIRS, MOST_PAIRS = 2**13, 2**20
"""Pairs of a query and a key that the oracle or the formula scores in a trial, unless one block has more."""
MOST_BLOCK_PAIRS = 2**22


@dataclass(frozen=True)
class Trial:
    """What a backend is tried on: a problem, how its tensors lie in memory, and what numbers stand in them.

    See ``halobench.fuzz.tensors`` for layouts and magnitudes. ``seed`` draws the numbers, on the CPU for all devices.
    """

    problem: Problem
    layout: Layout = "heads_last"
    cotangent_layout: Layout = "heads_last"
    magnitude: Magnitude = "standard"
    cotangent: Cotangent = "standard"
    seed: int = 0


@dataclass(frozen=True)
class Family:
    """Problems that share what kernels are compiled for. ``problem`` is that of a map of one pixel."""

    number: int
    problem: Problem
    layout: Layout
    cotangent_layout: Layout
    height_kind: SizeKind
    width_kind: SizeKind


def family(seed: int, number: int, dtypes: Sequence[str]) -> Family:
    """The family of this number."""
    draw = random.Random(f"{seed}/{number}")  # noqa: S311 - no secret
    dtype = draw.choice(list(dtypes))
    key_dim = draw_dim(draw)
    value_dim = key_dim if draw.random() < 0.4 else draw_dim(draw)
    geometry, heads = affordable(draw_geometry(draw), draw.randint(1, MOST_HEADS))
    relative = draw.random() < 0.75
    problem = Problem(geometry, 1, 1, 1, heads, key_dim, value_dim, relative, dtype)
    layout = weighted(draw, get_args(Layout), (35, 20, 15, 12, 6, 6, 6))
    cotangent_layout = layout if draw.random() < 0.5 else weighted(draw, get_args(Layout), (40, 0, 25, 15, 7, 6, 7))
    kinds = [weighted(draw, get_args(SizeKind), (78, 15, 7)) for _ in range(2)]
    return Family(number, problem, layout, cotangent_layout, *kinds)


def trial(seed: int, family: Family, number: int) -> Trial:
    """The trial of this number of a family."""
    draw = random.Random(f"{seed}/{family.number}/{number}")  # noqa: S311
    sides = [draw_size(draw, family.problem.geometry, kind) for kind in (family.height_kind, family.width_kind)]
    batch = weighted(draw, (0, 1, 2, 3, 4), (3, 36, 30, 18, 13))
    most = LEAST_PAIRS * (MOST_PAIRS / LEAST_PAIRS) ** draw.random()
    problem = fitted(replace(family.problem, height=sides[0], width=sides[1], batch=batch), most, draw)
    magnitudes: tuple[Magnitude, ...] = get_args(Magnitude)
    return Trial(
        problem,
        family.layout,
        family.cotangent_layout,
        weighted(draw, magnitudes, (58, 10, 8, 6, 6 if problem.relative else 0, 6, 6)),
        weighted(draw, get_args(Cotangent), (68, 10, 10, 8, 4)),
        draw.randrange(2**31),
    )


def weighted(draw: random.Random, choices: Sequence[Choice], weights: Sequence[int]) -> Choice:
    """One of the choices."""
    return draw.choices(choices, weights)[0]


def draw_dim(draw: random.Random) -> int:
    """The width of a head: mostly what networks have, but any up to 256."""
    kind = weighted(draw, ("common", "octets", "any", "wide octets", "wide"), (42, 24, 16, 12, 6))
    if kind == "common":
        return draw.choice((16, 32, 48, 64))
    if kind == "octets":
        return 8 * draw.randint(1, 8)
    if kind == "wide octets":
        return 8 * draw.randint(9, WIDEST // 8)
    return draw.randint(1, 64) if kind == "any" else draw.randint(65, WIDEST)


def draw_geometry(draw: random.Random) -> Geometry:
    """Any block, halo, stride and border; halos beyond the block are rare."""
    block = draw.randint(1, draw.choice((12, 16, LARGEST_BLOCK)))
    kind = weighted(draw, ("none", "narrow", "up to the block", "beyond the block"), (14, 54, 22, 10))
    halo = 0
    if kind == "narrow":
        halo = draw.randint(1, min(max(block // 2, 1), 6))
    elif kind == "up to the block":
        halo = draw.randint(1, block)
    elif kind == "beyond the block":
        halo = draw.randint(block + 1, block + 8)
    strides = range(2, LONGEST_STRIDE + 1)
    dividing = [stride for stride in strides if block % stride == 0]
    stride = weighted(draw, (1, draw.choice(dividing or strides), draw.choice(strides)), (50, 30, 20))
    return Geometry(block, halo, stride, draw.choice(get_args(Border)))


def affordable(geometry: Geometry, heads: int) -> tuple[Geometry, int]:
    """The geometry and the heads, both lessened until a block can be scored in a few milliseconds."""
    while geometry.block**2 * geometry.window**2 * heads > MOST_BLOCK_PAIRS:
        if heads > 1:
            heads //= 2
        else:
            geometry = replace(geometry, halo=geometry.halo // 2)
    return geometry, heads


def draw_size(draw: random.Random, geometry: Geometry, kind: SizeKind) -> int:
    """A side of a map: a few pixels, less than a block, whole blocks, a partial one at the end, or anything.

    Where a query sees few keys, one of them has nearly all the weight: what rounds its logit otherwise than the
    backward pass does shows there, and is averaged away elsewhere.
    """
    step = geometry.step
    relation = weighted(draw, ("few", "within a block", "whole", "partial", "any"), (14, 16, 16, 36, 18))
    if relation == "few":
        size = draw.randint(1, 3)
    elif relation == "within a block":
        size = draw.randint(1, step)
    elif relation == "whole":
        size = step * draw.randint(1, 4)
    elif relation == "partial":
        size = step * draw.randint(1, 4) + draw.randint(1, step)
    else:
        size = draw.randint(1, 64)
    return nearest(size, kind)


def nearest(size: int, kind: SizeKind) -> int:
    """The size of this kind that is not far from ``size``."""
    if kind == "one":
        return 1
    if kind == "sixteens":
        return 16 * max(1, round(size / 16))
    return 2 if size == 1 else size + 1 if size % 16 == 0 else size


def fitted(problem: Problem, most: float, draw: random.Random) -> Problem:
    """The problem with fewer images and pixels, so that ``most`` pairs are scored, if it can be."""
    while scored_pairs(problem) > most:
        if problem.batch > 1 and draw.random() < 0.3:
            problem = replace(problem, batch=problem.batch - 1)
            continue
        name = "height" if problem.height >= problem.width else "width"
        size = getattr(problem, name)
        kind: SizeKind = "sixteens" if size % 16 == 0 else "one" if size == 1 else "any"
        smaller = nearest(size - 16 if kind == "sixteens" else size * 3 // 4, kind)
        if smaller == size and problem.batch == 1:
            break
        problem = replace(problem, height=smaller) if name == "height" else replace(problem, width=smaller)
    return problem


def scored_pairs(problem: Problem) -> int:
    """Pairs that the oracle scores, all of the map, or the formula, whole windows, whichever are more."""
    return max(problem.queries * problem.height * problem.width, problem.window_pairs)
