"""Keeping away from a fault of the assembler that Triton brings along, before a kernel runs.

ptxas 12.8, which Triton 3.6 ships, gets descriptors of Hopper's matrix instructions (wgmma) wrong where two of them are
made of one address in shared memory and of unlike layouts, as happens when a tile takes the place of another that is
no longer needed: it adds the second one's constant to a register that nothing has written. The products then read
whatever lies elsewhere in shared memory, or beyond its end. PTX is still right, and shows the pattern; ptxas 12.9
assembles it rightly. ``docs/kernels/worth-knowing.md`` tells how it was found.

So kernels are looked at once they are compiled, where such a ptxas assembles for such a GPU: one that shows the
pattern is compiled with another number of warps or without prefetching instead, in the last resort with two warps,
which have no wgmma.
"""

import re
from collections import defaultdict
from functools import lru_cache
from typing import Any

import torch
import triton
from torch import Tensor

Schedule = tuple[int, int]
"""Warps of a program, and stages of its prefetching."""

FIRST_SOUND = (12, 9)
WITH_WGMMA = (9, 0)
CHOSEN: dict[tuple[Any, ...], Schedule] = {}
"""The schedule of each kernel and each of its specializations that was looked at in this process."""

# A descriptor: the place of a tile, a 64-bit register, plus what is constant: offsets within it below, layout above.
DESCRIPTOR = re.compile(r"add\.s64\s+%rd\d+, (%rd\d+), (-?\d{10,});")


def sound_schedule(kernel: Any, arguments: tuple[Any, ...], constants: dict[str, Any], wanted: Schedule) -> Schedule:
    """The first of ``wanted`` and its alternatives with which Triton's assembler gets ``kernel`` right.

    Compiles, and launches nothing. The arguments' GPU, that of the first one, is to be the current one.
    """
    device = arguments[0].get_device()
    if not affected(device):
        return wanted
    key = (kernel, device, wanted, *constants.items(), *map(trait, arguments))
    if key not in CHOSEN:
        CHOSEN[key] = next(
            schedule
            for schedule in alternatives(wanted)
            if schedule[0] < 4 or not mixed_layouts(ptx(kernel, arguments, constants, schedule))
        )
    return CHOSEN[key]


@lru_cache
def affected(device: int) -> bool:
    """Whether what Triton compiles for this GPU may suffer from the fault."""
    return torch.cuda.get_device_capability(device) == WITH_WGMMA and assembler_version() < FIRST_SOUND


def assembler_version() -> tuple[int, ...]:
    """The CUDA version of the ptxas that Triton calls."""
    return tuple(map(int, triton.knobs.nvidia.ptxas.version.split(".")))


def trait(argument: object) -> object:
    """What Triton compiles an argument for: that a number is 1 or a multiple of 16, a pointer's dtype and alignment."""
    if isinstance(argument, Tensor):
        return argument.dtype, argument.data_ptr() % 16 == 0
    if isinstance(argument, int):
        return argument == 1, argument % 16 == 0, argument.bit_length() > 31
    return type(argument)


def alternatives(wanted: Schedule) -> tuple[Schedule, ...]:
    """``wanted``, then what comes closest to its speed; the last has no wgmma."""
    warps, stages = wanted
    return wanted, (12 - warps if warps in (4, 8) else 4, stages), (warps, 1), (2, stages)


def ptx(kernel: Any, arguments: tuple[Any, ...], constants: dict[str, Any], schedule: Schedule) -> str:
    """What Triton hands to the assembler."""
    compiled = kernel.warmup(*arguments, grid=(1,), **constants, **options(schedule, arguments[0].dtype))
    return str(compiled.asm["ptx"])


def options(schedule: Schedule, dtype: torch.dtype) -> dict[str, int | bool]:
    """What Triton compiles a kernel with.

    Lanes that share a sum each add their own part to what the others sent, and several write the result to the same
    place. In float32 a part is a product, and joined with the addition it is rounded once less than the same part is
    on its way to another lane: so every lane would have another sum, and the last to write would win.
    """
    warps, stages = schedule
    return {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": dtype != torch.float32}


def mixed_layouts(text: str) -> bool:
    """Whether PTX makes descriptors of unlike layouts from one address."""
    layouts = defaultdict(set)
    for address, constant in DESCRIPTOR.findall(text):
        layouts[address].add((int(constant) & (1 << 64) - 1) >> 32)
    return any(len(found) > 1 for found in layouts.values())
