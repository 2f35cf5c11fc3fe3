"""Calls on a CPU as on Hopper: by its kernels, wherever those can; and what is launched on a real one."""

import ctypes
import struct
from pathlib import Path

import pytest
import torch
from halobench.implementations.fused_cuda import launch
from halobench.implementations.fused_cuda.hopper import forward, key_call, key_gradient, query_gradient, tensor_maps
from halobench.implementations.fused_cuda.launch import Argument, Program
from halobench.implementations.fused_cuda.shapes import Shape

from tests import emulator

LAYOUTS = {module: module.layout_of for module in (query_gradient, key_gradient)}


def only(monkeypatch: pytest.MonkeyPatch, *kernels: Program) -> None:
    """From now on, of the kernels for Hopper these serve calls, wherever they can, and no others."""
    monkeypatch.setattr(forward, "chosen", lambda shape, _: forward.layout_of(shape) if "hopper" in kernels else None)
    for kernel, module in launch.HOPPER.items():
        if module in LAYOUTS:
            monkeypatch.setattr(module, "layout_of", LAYOUTS[module] if kernel in kernels else lambda _: None)


def encode(
    dtype: torch.dtype, pointer: int, sizes: tuple[int, int, int], strides: tuple[int, int, int], box: forward.Box
) -> bytes:
    """A tensor map as the emulator reads it."""
    del dtype
    numbers = (pointer, *(2 * stride for stride in strides), box.all_channels, *sizes)
    return struct.pack("4q8i", *numbers, box.channels, box.columns, box.rows, 1).ljust(forward.MAP_BYTES, b"\0")


def launches(
    folder: Path, monkeypatch: pytest.MonkeyPatch, again: list[int] | None = None, kernels: tuple[Program, ...] = ()
) -> list[Program]:
    """From now on, the kernels that were launched: Hopper's forward kernel, and of its others these.

    ``again`` gets, for each launch of that one, how many tiles of values it loaded to compute something again.
    """
    launched: list[Program] = []

    def run(kernel: Program, shape: Shape, args: Argument, ctas: int, device: torch.device) -> None:
        assert device.type == "cpu"
        launched.append(kernel)
        library = emulator.library(kernel, shape, folder)
        if kernel in ("hopper", "hopper_query"):
            module, notes = (forward, forward.NOTES) if kernel == "hopper" else (query_gradient, 0)
            layout = module.known(shape)
            needed = module.constant_bytes(shape, layout)
            needed += layout.stages * (module.stage_bytes(shape, layout) + 16 + notes)
            assert list((ctypes.c_int * 2).in_dll(library, "launch"))[1] == needed
        before = library.loads_transposed()  # products of a warpgroup read shared memory as it is
        library.emulate(ctypes.byref(args), ctas)
        if kernel == "hopper" and again is not None:
            again.append(library.loads_transposed() - before)

    monkeypatch.setattr(launch, "demand_gpu", lambda _: None)
    monkeypatch.setattr(launch, "is_hopper", lambda _: True)
    monkeypatch.setattr(tensor_maps, "encode", encode)
    only(monkeypatch, "hopper", *kernels)
    monkeypatch.setattr(launch, "resident", lambda *_: 2)  # so that a CTA walks over several blocks
    monkeypatch.setattr(launch, "run", run)
    tensor_maps.encoded.cache_clear()
    key_call.encoded.cache_clear()
    return launched


def skip_elsewhere() -> None:
    """Skip the test where there is no Hopper."""
    if not torch.cuda.is_available() or not launch.is_hopper(torch.device("cuda")):
        pytest.skip("no Hopper")


def watched(monkeypatch: pytest.MonkeyPatch, *kernels: Program) -> list[Program]:
    """From now on, what was launched on the GPU, which is a Hopper: of its own kernels these, wherever they can.

    Without any, those that calls get there.
    """
    skip_elsewhere()
    if kernels:
        only(monkeypatch, *kernels)
    launched: list[Program] = []
    run = launch.run

    def noted(kernel: Program, *rest: object) -> None:
        launched.append(kernel)
        run(kernel, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(launch, "run", noted)
    return launched
