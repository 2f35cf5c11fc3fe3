"""One trial of one backend, judged by the accuracy rule: the output and all gradients, of all images."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from halobench.attention import oracle
from halobench.attention.problem import Backend
from halobench.cases import accuracy
from halobench.cases.operator_call import OUTPUT, Call, yardstick
from halobench.fuzz.draw import Trial
from halobench.fuzz.tensors import Laid, lay


@dataclass(frozen=True)
class Judgement:
    """What came of a trial: a status as in results files, errors and budgets by tensor, and the tensors at fault.

    ``UNJUDGED``: the dtype cannot hold the true answer, or the readable formula's is not finite, so that only a crash
    or a change of the inputs could show.
    """

    status: str
    reason: str | None = None
    errors: dict[str, float] = field(default_factory=dict)
    budgets: dict[str, float] = field(default_factory=dict)
    wrong: tuple[str, ...] = ()


def judge(backend: Backend, trial: Trial, device: torch.device | str) -> Judgement:
    """Try a backend once: forward, then the gradients of everything, against the oracle.

    Raises:
        Unsupported: the backend refuses the trial.
        ValueError: the backend is no attention operator.
    """
    if backend.attend is None:
        raise ValueError(f"{backend.name} is no attention operator")
    laid = lay(trial, device)
    call = Call(laid.inputs.tensors, laid.cotangent, trial.problem.geometry)
    before = [memory.clone() for memory in laid.memory]
    with poisoned():
        found = call.results(backend.attend)
    for memory, copy in zip(laid.memory, before, strict=True):
        if not same_bits(memory, copy):
            return Judgement("INCORRECT", "the call changed its inputs, or memory beside them", wrong=("inputs",))
    bad = malformed(found, laid)
    if bad is not None:
        name, form = bad
        return Judgement("INCORRECT", f"{name} is {form}", wrong=(name,))
    return compared(found, backend, call)


def compared(found: dict[str, Tensor], backend: Backend, call: Call) -> Judgement:
    """Hold what was found against the truth of the same numbers."""
    reference, dtype = accuracy.Reference(backend), call.cotangent.dtype
    truth = call.to(torch.float64).results(reference.through(oracle.attend).attend)
    plain = call.results(reference.through(yardstick).attend)
    held = {name: tensor.to(dtype) for name, tensor in truth.items()}
    for what, tensors in (
        (f"{str(dtype).removeprefix('torch.')} cannot hold", held),
        ("the formula overflows in", plain),
    ):
        unfit = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
        if unfit:
            return Judgement("UNJUDGED", f"{what} {', '.join(unfit)}")
    for name, tensor in found.items():
        if not tensor.isfinite().all():
            return Judgement("INCORRECT", f"{name} is not finite", wrong=(name,))
    check = accuracy.compare_attention(found, truth, plain, backend, call)
    wrong = tuple(name for name in found if not check.errors[name] <= check.budgets[name])
    return Judgement("INCORRECT" if wrong else "OK", check.fault, check.errors, check.budgets, wrong)


def malformed(found: dict[str, Tensor], laid: Laid) -> tuple[str, str] | None:
    """The first tensor of a wrong shape or dtype, and in which way; ``None`` if there is none."""
    wanted = {OUTPUT: laid.cotangent, **laid.inputs.tensors}
    for name, tensor in found.items():
        shape, dtype = wanted[name].shape, wanted[name].dtype
        if tensor.shape != shape or tensor.dtype != dtype:
            return name, f"{tuple(tensor.shape)} {tensor.dtype}, expected {tuple(shape)} {dtype}"
    return None


def same_bits(memory: Tensor, copy: Tensor) -> bool:
    """Whether nothing was written, NaN included."""
    return torch.equal(memory.view(torch.uint8), copy.view(torch.uint8))


@contextmanager
def poisoned() -> Iterator[None]:
    """Let ``torch.empty`` and its like hold NaN inside the block, so that what a backend leaves unwritten shows.

    PyTorch does so under deterministic algorithms; operators that have none only warn.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    settings: Any = torch.utils.deterministic
    filled = settings.fill_uninitialized_memory
    settings.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        settings.fill_uninitialized_memory = filled
