"""The call that was timed is asked again: with other values in the same memory, and every image is compared.

One right answer before the timing (``accuracy``), judged on two images, does not show that what is timed is right: a
kept result, work that nobody waits for, or a fault in the middle of a batch passes such a check. So all values are
overwritten by those of another seed. No address, object, shape or version counter tells, and what was kept is wrong.

The truth is the readable formula's, which the oracle has judged, in float32 at least. Of each image and tensor only a
sketch is kept, so that backends and directions share one truth, and it takes no memory.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import sqrt

import torch
from torch import Tensor

from halobench.attention.problem import Backend, Direction
from halobench.cases.accuracy import Reference, ends, evaluate
from halobench.cases.bands import trespassed
from halobench.cases.operator_call import OUTPUT, yardstick
from halobench.cases.sketch import sketch
from halobench.cases.workload import Slot, Task, Workload, bind

SEED = 2  # the first answer is to inputs of seed 0, and its cotangent is of seed 1
MARGIN = 3.0  # the answer errs by its budget, the truth by half of that, and a sketch overrates the sum, at most twice
DUST = 1e-3  # of the cotangent's norm: a gradient that is smaller may be what is left of one that cancels
COVER_CYCLES = 10_000_000  # some ms, longer than a host takes to launch most calls
SCORES = 2**24  # pairs of queries and keys that the formula takes at a time


@dataclass(frozen=True)
class Truth:
    """Of the output and of each gradient: the sketches of its images, and the extent that an error is relative to."""

    sketches: dict[str, Tensor]
    extents: dict[str, float]

    def fault(self, found: dict[str, Tensor], allowed: dict[str, float], shared: frozenset[str]) -> str | None:
        """What is wrong with an answer of which these are the sketches, in a sentence, if anything."""
        faults = []
        for name, there in found.items():
            errors = torch.linalg.vector_norm(there - self.sketches[name], dim=1) / self.extents[name]
            worst, image = errors.nan_to_num(torch.inf, posinf=torch.inf).max(0)
            where = name if name in shared else f"{name} of image {int(image)}"
            if not worst.isfinite():
                faults.append(f"{where} is not finite")
            elif worst > allowed[name]:
                faults.append(f"{where} is off by {float(worst):.2g}, allowed {allowed[name]:.2g}")
        return "; ".join(faults) or None


def fault(
    backend: Backend,
    task: Task,
    direction: Direction,
    workload: Workload,
    call: Callable[[], object],
    budgets: dict[str, float],
) -> str | None:
    """What is wrong with the answer of ``call`` to other values, in a sentence, if anything.

    ``call`` is the workload's in this direction, or a replay of it; ``budgets`` are those of its first answer.
    Afterwards the workload holds the other values.
    """
    device, shared = workload.cotangent.device, workload.shared
    exchange(workload, bind(backend, task, device, SEED))
    answer = call()
    names = (OUTPUT,) if direction == "forward" else tuple(workload.tensors)
    answers = (answer,) if isinstance(answer, Tensor) else answer
    # At once: what is written from now on was not there when the call returned.
    found = sketches(dict(zip(names, answers, strict=True)), shared)  # type: ignore[call-overload]
    beside = trespassed({**workload.tensors, "cotangent": workload.cotangent})
    if beside is not None:
        return f"the call wrote beside its input {beside}"
    # What sums over the batch walks away from the truth as the root of the number of images that it sums.
    images = len(workload.cotangent)
    walk = sqrt(images / len(ends(images)))
    allowed = {name: MARGIN * budgets[name] * (walk if name in shared else 1.0) for name in names}
    wrong = truth(Reference(backend), task, str(device)).fault(found, allowed, shared)
    return None if wrong is None else f"asked again, with other values in the same memory: {wrong}"


def exchange(workload: Workload, other: Workload) -> None:
    """Overwrite the values of a workload; their version counters do not move.

    On a GPU, the stream is kept busy before: another stream that does not wait for it sees the old values.
    """
    if workload.cotangent.is_cuda:
        torch.cuda._sleep(COVER_CYCLES)  # noqa: SLF001 - PyTorch's own spinning kernel has no public name
    for name, tensor in workload.tensors.items():
        tensor.data.copy_(other.tensors[name].data)
    workload.cotangent.data.copy_(other.cotangent)


def sketches(tensors: dict[str, Tensor], shared: frozenset[str]) -> dict[str, Tensor]:
    """The sketch of each image of the tensors; of those that are shared, one."""
    return {name: sketch(tensor[None] if name in shared else tensor) for name, tensor in tensors.items()}


@lru_cache(maxsize=64)
def truth(reference: Reference, task: Task, device: str) -> Truth:
    """The truth of a task with the other values: a few images at a time, forward and backward."""
    workload = bind(reference.through(yardstick), task, device, SEED)
    dtype = torch.promote_types(workload.cotangent.dtype, torch.float32)
    images, at_once = list(range(len(workload.cotangent))), images_at_once(reference.backend, task)
    parts = [
        sketches(evaluate(workload, dtype, images[first : first + at_once]), workload.shared)
        for first in range(0, len(images), at_once)
    ]
    scale = float(workload.cotangent.norm(dtype=torch.float64))
    found, extents = {}, {}
    for name in parts[0]:
        several = [part[name] for part in parts]
        found[name] = torch.stack(several).sum(0) if name in workload.shared else torch.cat(several)
        whole = float(found[name].norm())
        extents[name] = (whole if whole > DUST * scale else scale) / sqrt(len(found[name]))
    return Truth(found, extents)


def images_at_once(backend: Backend, task: Task) -> int:
    """How many images the formula takes at a time, at least one: what it keeps of them is a few times their scores."""
    problem = task.problem if isinstance(task, Slot) else task
    _, geometry = backend.meaning(None, problem.geometry, problem.height, problem.width)
    blocks = geometry.blocks(problem.height) * geometry.blocks(problem.width)
    return max(1, SCORES // (problem.heads * blocks * geometry.side**2 * geometry.window**2))
