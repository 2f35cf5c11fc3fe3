"""From a kernel's source to a running kernel: compiled by NVRTC at first use, remembered on disk, then launched."""

import ctypes
import hashlib
import os
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch
from halobench.implementations.fused_cuda.hopper import forward, key_gradient, query_gradient
from halobench.implementations.fused_cuda.layouts import definitions
from halobench.implementations.fused_cuda.shapes import Kernel, Shape
from torch import Tensor

from halobench.attention.problem import Unsupported

FOLDER = Path(__file__).parent
MAP_ALIGNMENT = 64  # of a tensor map, and of what holds one
NEAR_BYTES = 2**24  # a third of an H100's L2


class View(ctypes.Structure):
    """A tensor of (batch, heads, height, width, dim) as the kernels see it; strides in elements."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("batch", ctypes.c_longlong),
        ("head", ctypes.c_int),
        ("row", ctypes.c_int),
        ("column", ctypes.c_int),
    )

    @classmethod
    def of(cls, tensor: Tensor) -> "View":
        """The view of a tensor whose last stride is 1."""
        return cls(tensor.data_ptr(), *tensor.stride()[:4])


VIEWS = (
    "query", "key", "value", "output", "output_gradient", "query_gradient", "key_gradient", "value_gradient",
)  # fmt: skip
POINTERS = ("log_sum_exp", "partials", "statistics", "biases", "rows", "columns", "tables")
SIZES = (
    "heads", "height", "width", "query_height", "query_width", "blocks_y", "blocks_x", "tiles_y", "tiles_x", "count",
    "entries", "first_entry", "entry_rows", "partial_count",
)  # fmt: skip


class Args(ctypes.Structure):
    """The one argument of every kernel, as ``halo.cuh`` declares it."""

    _fields_ = (
        *((name, View) for name in VIEWS),
        *((name, ctypes.c_void_p) for name in POINTERS),
        *((name, ctypes.c_int) for name in SIZES),
        ("scale", ctypes.c_float),
    )


class Order(ctypes.Structure):
    """The order in which CTAs walk over blocks of queries or tiles of keys, as ``hopper/lines.cuh`` declares it."""

    _fields_ = tuple((name, ctypes.c_uint) for name in ("images", "per_images", "per_image", "per_row"))


@lru_cache
def images_near(batch: int, row_bytes: int) -> int:
    """Images that are walked over together: as many as have their rows in L2 until their neighbours are read."""
    return max(n for n in range(1, batch + 1) if batch % n == 0 and (n == 1 or n * row_bytes <= NEAR_BYTES))


def order_of(batch: int, rows: int, columns: int, images: int = 1) -> Order | None:
    """The order over so many places of each image, so many ``images`` at a time; none if they are too many to tell."""
    if batch * rows * columns * max(images, rows * columns) >= 2**31:
        return None  # they divide in 32 bits
    return Order(images, *(-(-(2**31) // number) for number in (images, rows * columns, columns)))


class HopperArgs(ctypes.Structure):
    """The one argument of ``hopper/forward.cu``: tensor maps, what all kernels take, its items and their order."""

    _fields_ = (
        ("maps", ctypes.c_ubyte * (forward.MAP_BYTES * forward.MAPS)),
        ("args", Args),
        ("count", ctypes.c_int),
        ("order", Order),
    )


class HopperQueryArgs(ctypes.Structure):
    """The one argument of ``hopper/query_gradient.cu``: that of the forward kernel, aligned, and two maps more."""

    _fields_ = (
        ("all", HopperArgs),
        ("padding", ctypes.c_ubyte * (-ctypes.sizeof(HopperArgs) % MAP_ALIGNMENT)),
        ("maps", ctypes.c_ubyte * (forward.MAP_BYTES * query_gradient.MAPS)),
    )


class HopperKeyArgs(ctypes.Structure):
    """The one argument of ``hopper/key_gradient.cu``: tensor maps, what all kernels take, its tiles and their order."""

    _fields_ = (
        ("maps", ctypes.c_ubyte * (forward.MAP_BYTES * key_gradient.MAPS)),
        ("args", Args),
        ("count", ctypes.c_int),
        ("order", Order),
    )


Argument = Args | HopperArgs | HopperQueryArgs | HopperKeyArgs
Program = Kernel | Literal["hopper", "hopper_query", "hopper_key"]
HOPPER: dict[Program, ModuleType] = {"hopper": forward, "hopper_query": query_gradient, "hopper_key": key_gradient}
# What a kernel is made of, behind what all kernels share.
PARTS: dict[Program, tuple[str, ...]] = {
    "key_gradient": ("table_sums",),
    "hopper": tuple(f"hopper/{part}" for part in ("lines", "window", "stage", "ring", "positions", "item", "exact")),
    "hopper_query": tuple(
        f"hopper/{part}" for part in ("lines", "window", "query_stage", "ring", "positions", "query_item")
    ),
    "hopper_key": ("hopper/lines", "hopper/key_ring", "hopper/key_exact", "table_sums"),
}


def file_of(kernel: Program) -> str:
    """The file of a kernel, in this folder: one for Hopper is named as the module that lays it out."""
    on_hopper = HOPPER.get(kernel)
    return f"hopper/{on_hopper.__name__.rpartition('.')[2]}.cu" if on_hopper else f"{kernel}.cu"


def source(kernel: Program, shape: Shape, vocabulary: str | None = None) -> str:
    """A kernel's source as one text; ``vocabulary`` replaces that of a GPU, for machines that have none."""
    on_hopper = HOPPER.get(kernel)
    names = ["warp.cuh", "hopper/instructions.cuh"] if on_hopper else ["warp.cuh"]
    parts = [vocabulary] if vocabulary else [(FOLDER / name).read_text() for name in names]
    if on_hopper and not vocabulary:
        parts.append(on_hopper.products(shape))
    names = ["halo.cuh", *(f"{part}.cuh" for part in PARTS.get(kernel, ())), file_of(kernel)]
    parts += [(FOLDER / name).read_text() for name in names]
    lines = (line for part in parts for line in part.splitlines())
    return "\n".join(line for line in lines if not line.startswith(('#include "', "#pragma once"))) + "\n"


def definitions_of(kernel: Program, shape: Shape) -> dict[str, int]:
    """The constants that a kernel's source is compiled with."""
    on_hopper = HOPPER.get(kernel)
    return on_hopper.definitions(shape) if on_hopper else definitions(shape, kernel)


@dataclass(frozen=True)
class Loaded:
    """A kernel on a device: its function, threads and shared memory of a CTA, and how many CTAs the device holds."""

    function: Any
    threads: int
    shared_bytes: int
    resident: int


def demand_gpu(device: torch.device) -> None:
    """Refuse any other device.

    Raises:
        Unsupported: it is no GPU.
    """
    if device.type != "cuda":
        raise Unsupported("fused_cuda needs a CUDA device")


def run(kernel: Program, shape: Shape, args: Argument, ctas: int, device: torch.device) -> None:
    """Launch a kernel on the device's current stream."""
    index = torch.cuda.current_device()
    if device.index != index:
        with torch.cuda.device(device):
            return run(kernel, shape, args, ctas, device)
    driver, loaded = load(kernel, shape, index)
    parameters = (ctypes.c_void_p * 1)(ctypes.addressof(args))
    stream = torch.cuda.current_stream(device).cuda_stream
    size = loaded.threads, 1, 1, loaded.shared_bytes
    checked(driver.cuLaunchKernel(loaded.function, ctas, 1, 1, *size, stream, ctypes.addressof(parameters), 0))
    return None


def resident(kernel: Program, shape: Shape, device: torch.device) -> int:
    """How many CTAs of a kernel the device holds at a time."""
    with torch.cuda.device(device):
        return load(kernel, shape, torch.cuda.current_device())[1].resident


@cache
def load(kernel: Program, shape: Shape, index: int) -> tuple[Any, Loaded]:
    """The driver, and the kernel for a shape on the current device, compiled if nobody did before."""
    from cuda.bindings import driver  # noqa: PLC0415 - a machine without a GPU need not have it

    major, minor = torch.cuda.get_device_capability(index)
    if major < 8:
        raise Unsupported(f"fused_cuda needs compute capability 8.0 or later, got {major}.{minor}")
    options = [f"-D{name}={number}" for name, number in definitions_of(kernel, shape).items()]
    architecture = f"sm_{major}{minor}" + "a" * (kernel in HOPPER)
    cubin = compiled(source(kernel, shape), [*options, f"-arch={architecture}", "-std=c++17", "-default-device"])
    (module,) = checked(driver.cuModuleLoadData(cubin))
    (function,) = checked(driver.cuModuleGetFunction(module, f"halo_{kernel}".encode()))
    pointer, size = checked(driver.cuModuleGetGlobal(module, b"launch"))
    layout = (ctypes.c_int * 2)()
    checked(driver.cuMemcpyDtoH(ctypes.addressof(layout), pointer, size))
    threads, shared_bytes = layout
    properties = torch.cuda.get_device_properties(index)
    most = properties.shared_memory_per_block_optin
    if shared_bytes > most:
        raise Unsupported(f"fused_cuda's {kernel} needs {shared_bytes} bytes of shared memory, the GPU has {most}")
    attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    checked(driver.cuFuncSetAttribute(function, attribute, shared_bytes))
    (ctas,) = checked(driver.cuOccupancyMaxActiveBlocksPerMultiprocessor(function, threads, shared_bytes))
    return driver, Loaded(function, threads, shared_bytes, ctas * properties.multi_processor_count)


def here() -> bool:
    """Whether the current device is one: what a call costs is asked without its tensors."""
    return torch.cuda.is_available() and is_hopper(torch.device("cuda", torch.cuda.current_device()))


@cache
def is_hopper(device: torch.device) -> bool:
    """Whether the device has what ``hopper/`` needs, which no other capability has."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) == (9, 0)


def compiled(text: str, options: list[str]) -> bytes:
    """The machine code of a source, from the cache of earlier processes if it is there."""
    from cuda.bindings import nvrtc  # noqa: PLC0415

    version = checked(nvrtc.nvrtcVersion())
    key = hashlib.sha256("\n".join([text, *options, str(version)]).encode()).hexdigest()
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    remembered = home / "halobench" / f"{key}.cubin"
    if remembered.exists():
        return remembered.read_bytes()
    (program,) = checked(nvrtc.nvrtcCreateProgram(text.encode(), b"halo.cu", 0, [], []))
    (status,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
    if int(status):
        (size,) = checked(nvrtc.nvrtcGetProgramLogSize(program))
        log = bytearray(size)
        checked(nvrtc.nvrtcGetProgramLog(program, log))
        raise RuntimeError(f"fused_cuda does not compile: {log.decode(errors='replace')[:2000]}")
    (size,) = checked(nvrtc.nvrtcGetCUBINSize(program))
    cubin = bytearray(size)
    checked(nvrtc.nvrtcGetCUBIN(program, cubin))
    remembered.parent.mkdir(parents=True, exist_ok=True)
    partial = remembered.with_suffix(
        f".{os.getpid()}"
    )  # two processes may compile at a time; neither reads half a file
    partial.write_bytes(cubin)
    partial.replace(remembered)
    return bytes(cubin)


def checked(reply: tuple[Any, ...]) -> tuple[Any, ...]:
    """What a call of the driver or of NVRTC returned, without its status.

    Raises:
        RuntimeError: the status is an error.
    """
    status, *values = reply
    if int(status):
        raise RuntimeError(f"fused_cuda: {status!r}")
    return tuple(values)
