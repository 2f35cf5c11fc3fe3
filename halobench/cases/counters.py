"""Other people's FLOP counters, as second opinions on ``halobench.cases.cost``.

Neither sees everything, and they follow different conventions: PyTorch's counts a multiply-add as two, fvcore's as
one. ``None`` says that a counter gave up; a number may still be blind to part of the work, as each docstring tells.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from halobench.attention import backends
from halobench.attention.problem import Attend, Backend, Direction, Problem, RelativeTables
from halobench.cases.workload import Slot, Task, Workload, stand_in


def counted_by_torch(workload: Workload, direction: Direction) -> int | None:
    """FLOPs that PyTorch's ``FlopCounterMode`` sees in a call, a multiply-add counted as two; ``None`` if it raises.

    It counts matrix products, convolutions and, on CUDA, scaled dot product attention, as PyTorch dispatches them.
    It gives 0 to elementwise work, softmax and exponentials, and to the CPU's fused attention. Nothing runs under
    ``torch.compile`` while it watches: a function compiled whole raises, and so does ``flex_attention``.

    Training runs through ``torch.autograd.backward``: with modules, ``torch.autograd.grad`` makes the counter raise.
    """
    leaves = list(workload.tensors.values())
    for leaf in leaves:
        leaf.requires_grad_(direction == "training")
    try:
        with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(direction == "training"):
            output = workload.forward()
            if direction == "training":
                torch.autograd.backward(output, workload.cotangent)
    except Exception:  # noqa: BLE001 - a second opinion that fails is none; the row is measured all the same
        return None
    finally:
        for leaf in leaves:
            leaf.grad = None
    return int(counter.get_total_flops())


@dataclass(frozen=True)
class FvcoreCount:
    """What fvcore says of a forward pass: ``macs`` counts a multiply-add once; ``unsupported`` operators count 0."""

    macs: int
    unsupported: tuple[str, ...]


def counted_by_fvcore(backend: Backend, task: Task, device: torch.device | str) -> FvcoreCount | None:
    """What ``fvcore.nn.FlopCountAnalysis`` sees in a forward pass; ``None`` if it cannot trace the backend.

    It knows matrix products, convolutions, einsum (rounded to four digits) and normalisations. It names what it
    skips: attention, softmax, unfold and elementwise work count 0. It traces with ``torch.jit``, which refuses
    compiled functions, FlexAttention, and backends that hand tables to somebody else's module. It has no notion of a
    backward pass.
    """
    with quiet(), torch.no_grad():
        try:
            from fvcore.nn import FlopCountAnalysis  # noqa: PLC0415 - importing it warns: only inside ``quiet``

            analysis = FlopCountAnalysis(*traced(backend, task, device))
            return FvcoreCount(int(analysis.total()), tuple(sorted(analysis.unsupported_ops())))
        except Exception:  # noqa: BLE001 - as when fvcore, or what it needs, cannot be imported
            return None


@lru_cache(maxsize=8)
def multiply_adds(name: str, task: Task, device: str) -> int | None:
    """The count of fvcore for a backend, from one image: tracing a whole batch costs more than running it."""
    batch = task.problem.batch if isinstance(task, Slot) else task.batch
    count = counted_by_fvcore(backends.load(name), replace(task, batch=1), device)
    return None if count is None else count.macs * batch


class Operator(nn.Module):
    """An ``attend`` as a module of tensors, the form in which fvcore takes it."""

    def __init__(self, attend: Attend, problem: Problem) -> None:
        super().__init__()
        self.attend, self.geometry = attend, problem.geometry

    def forward(self, query: Tensor, key: Tensor, value: Tensor, *tables: Tensor) -> Tensor:
        """The operator on its inputs."""
        return self.attend(query, key, value, RelativeTables(*tables) if tables else None, self.geometry)


def traced(backend: Backend, task: Task, device: torch.device | str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The module to trace, and its inputs."""
    if isinstance(task, Problem) and backend.attend is not None:
        return Operator(backend.attend, task), tuple(task.inputs(device).tensors.values())
    slot = task if isinstance(task, Slot) else stand_in(task)
    return slot.module(backend.build, device, seed=0), (slot.pixels(device, seed=0),)


@contextmanager
def quiet() -> Iterator[None]:
    """Without fvcore's log lines (``unsupported`` has them) and the warnings that ``torch.jit`` is deprecated."""
    logger = logging.getLogger("fvcore.nn.jit_analysis")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r"`torch\.jit\.\w+` is deprecated")
            yield
    finally:
        logger.setLevel(level)
