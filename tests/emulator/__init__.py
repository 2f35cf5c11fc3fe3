"""The CUDA kernels as C++: their sources behind the vocabulary of a GPU on a CPU, compiled and loaded."""

import ctypes
import hashlib
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from halobench.implementations.fused_cuda import launch
from halobench.implementations.fused_cuda.launch import Program
from halobench.implementations.fused_cuda.shapes import HALF, Shape

FOLDER = Path(__file__).parent
COMPILER = ["g++", "-std=c++17", "-w", "-Wno-psabi", "-fPIC", "-fno-exceptions", "-fno-rtti"]
# Compiling a kernel takes longer than running it: nothing of it is optimised. What it calls is, once for all kernels.
KERNELS, MACHINE = [*COMPILER, "-O0", "-fno-asynchronous-unwind-tables", "-shared"], [*COMPILER, "-O2", "-c"]


@cache
def library(kernel: Program, shape: Shape, folder: Path) -> ctypes.CDLL:
    """A kernel for a shape: ``emulate(argument, ctas)``, and ``launch``, threads and shared memory of a CTA."""
    header = "hopper.hpp" if kernel in launch.HOPPER else "warp.hpp"
    text = launch.source(kernel, shape, f"#include <{header}>") + (FOLDER / "main.hpp").read_text()
    argument = {"hopper": "HopperArgs", "hopper_query": "HopperQueryArgs", "hopper_key": "HopperKeyArgs"}.get(
        kernel, "Args"
    )
    command = [*KERNELS, f"-I{FOLDER}", f"-DFP16={HALF[shape.dtype]}"]
    command += [f"-DKERNEL_NAME=halo_{kernel}", f"-DARGUMENT={argument}"]
    command += [f"-D{name}={number}" for name, number in launch.definitions_of(kernel, shape).items()]
    name = hashlib.sha256("\0".join([*command, text]).encode()).hexdigest()
    linked = ["-xnone", str(machine(HALF[shape.dtype], folder))]
    return ctypes.CDLL(str(compiled(command, text, folder / f"{name}.so", linked)))


def machine(half: int, folder: Path) -> Path:
    """What kernels in bfloat16 or float16 are linked to."""
    command = [*MACHINE, f"-I{FOLDER}", f"-DFP16={half}"]
    text = "".join((FOLDER / name).read_text() for name in ("warp.cpp", "hopper.cpp"))
    return compiled(command, text, folder / f"machine{half}.o")


def compiled(command: list[str], text: str, file: Path, linked: Sequence[str] = ()) -> Path:
    """What the compiler makes of a text, whole in its place; two processes that make the same one do no harm."""
    if not file.exists():
        with tempfile.TemporaryDirectory(dir=file.parent) as own:
            made = Path(own, "made")
            subprocess.run([*command, "-o", made, "-xc++", "-", *linked], input=text, check=True, text=True)
            made.rename(file)
    return file
