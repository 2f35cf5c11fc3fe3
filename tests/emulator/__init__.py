"""The CUDA kernels as C++: their sources behind the vocabulary of a GPU on a CPU, compiled and loaded."""

import ctypes
import hashlib
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from halobench.implementations.fused_cuda import launch
from halobench.implementations.fused_cuda.launch import Program
from halobench.implementations.fused_cuda.shapes import HALF, Shape

FOLDER = Path(__file__).parent
# Compiling takes longer than running: nothing is optimised, and what no kernel throws or asks is left out.
COMPILER = [
    "g++",
    "-std=c++17",
    "-O0",
    "-w",
    "-Wno-psabi",
    "-fPIC",
    "-fno-exceptions",
    "-fno-rtti",
    "-fno-asynchronous-unwind-tables",
]


@cache
def library(kernel: Program, shape: Shape, folder: Path) -> ctypes.CDLL:
    """A kernel for a shape: ``emulate(argument, ctas)``, and ``launch``, threads and shared memory of a CTA."""
    names = ("warp", "hopper") if kernel in launch.HOPPER else ("warp",)
    header = vocabulary(folder, HALF[shape.dtype], names)
    text = launch.source(kernel, shape, f"#include <{header.name}>") + (FOLDER / "main.hpp").read_text()
    argument = {"hopper": "HopperArgs", "hopper_query": "HopperQueryArgs", "hopper_key": "HopperKeyArgs"}.get(
        kernel, "Args"
    )
    command = [*COMPILER, f"-I{folder}", f"-DKERNEL_NAME=halo_{kernel}", f"-DARGUMENT={argument}"]
    command += [f"-D{name}={number}" for name, number in launch.definitions_of(kernel, shape).items()]
    name = hashlib.sha256("\0".join([*command, text]).encode()).hexdigest()
    return ctypes.CDLL(str(compiled([*command, "-shared"], text, folder / f"{name}.so")))


def vocabulary(folder: Path, half: int, names: tuple[str, ...]) -> Path:
    """The vocabulary for bfloat16 or float16; the compiler reads it once, and what it made of it then."""
    header = folder / f"{'_'.join(names)}{half}.hpp"
    text = "".join((FOLDER / f"{name}.hpp").read_text() for name in names)
    header.write_text(text)
    compiled([*COMPILER, f"-DFP16={half}", "-xc++-header"], text, Path(f"{header}.gch"))
    return header


def compiled(command: list[str], text: str, file: Path) -> Path:
    """What the compiler makes of a text, whole in its place; two processes that make the same one do no harm."""
    if not file.exists():
        with tempfile.TemporaryDirectory(dir=file.parent) as own:
            source, made = Path(own, "source.cpp"), Path(own, "made")
            source.write_text(text)
            subprocess.run([*command, "-o", made, source], check=True)
            made.rename(file)
    return file
