"""A backend's error against the oracle, and the error it is allowed.

The error of a tensor is ``|x - truth| / |truth|`` in the 2-norm. Its budget is twice the error that the readable
formula makes with the same inputs at the same dtype, and never less than twice the unavoidable: half a rounding to
the dtype, or four roundings to float32, about the error of an exponential whose argument is a float32 of magnitude 8;
for a gradient eight, since a logit's gradient is the difference of two products with such exponentials. A convolution
has no formula to be held against; it gets eight throughout, for the fast algorithms that trade rounding for speed, and
for the gradient of a weight half a rounding times the root of the number of pixels that it sums, if that is more.
There are no tolerances per backend.

The check runs at the full shape. The first and the last image of the batch are compared; the cotangent of all others
is zero, so that the gradients of shared tensors (tables, weights) depend on the compared images alone.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import torch
from torch import Tensor

from halobench.attention import oracle
from halobench.attention.geometry import Geometry
from halobench.attention.layer import HaloAttention
from halobench.attention.problem import Attend, Backend, Direction, Problem, RelativeTables
from halobench.cases import conditioning, rounding
from halobench.cases.operator_call import OUTPUT, Call, yardstick
from halobench.cases.workload import Slot, Task, Workload, bind

DRAWS = 8  # of the formula's roundings, in a second look


@dataclass(frozen=True)
class Check:
    """The outcome: errors and budgets by tensor (``"output"`` and the gradients), and the fault, if there is one."""

    errors: dict[str, float]
    budgets: dict[str, float]
    fault: str | None = None


@dataclass(frozen=True)
class Answer:
    """What a backend returned: the output and, when training, the gradients; and an input it changed, if any."""

    found: dict[str, Tensor]
    changed: str | None


def check(backend: Backend, task: Task, device: torch.device | str, direction: Direction, seed: int = 0) -> Check:
    """Compare a backend with the truth on one task; ``Check.fault`` says in a sentence what is wrong, if anything.

    Raises:
        Unsupported: the backend refuses the task.
    """
    workload = bind(backend, task, device, seed)
    return judge(ask(workload, direction), backend, task, workload, str(device), seed)


def ask(workload: Workload, direction: Direction) -> Answer:
    """Run the backend once and see whether it left its inputs alone."""
    before = {name: tensor.detach().clone() for name, tensor in compared(workload).items()}
    found = run(workload, direction)
    after = compared(workload)
    return Answer(found, next((name for name in before if not torch.equal(after[name], before[name])), None))


def judge(answer: Answer, backend: Backend, task: Task, workload: Workload, device: str, seed: int = 0) -> Check:
    """Hold an answer against the truth of the task that the workload was bound to."""
    if answer.changed is not None:
        return Check({}, {}, f"the call changed its input {answer.changed}")
    for name, tensor in answer.found.items():
        wanted = workload.cotangent if name == OUTPUT else workload.tensors[name]
        if tensor.shape != wanted.shape or tensor.dtype != wanted.dtype:
            form = f"{tuple(tensor.shape)} {tensor.dtype}, expected {tuple(wanted.shape)} {wanted.dtype}"
            return Check({}, {}, f"{name} is {form}")
        if not tensor.isfinite().all():
            return Check({}, {}, f"{name} is not finite")
    truth, plain = expected(Reference(backend), task, device, seed)
    images = ends(len(workload.cotangent))
    found, cotangent = select(answer.found, workload.shared, images), workload.cotangent[images]
    if isinstance(task, Problem) and backend.attend is not None:
        call = Call(compared(workload), cotangent, task.geometry)
        return compare_attention(found, truth, plain, backend, call)
    least = {name: unavoidable(name, backend, workload) for name in found}
    return compare(found, truth, plain, least, float(cotangent.norm(dtype=torch.float64)))


def compare_attention(
    found: dict[str, Tensor], truth: dict[str, Tensor], plain: dict[str, Tensor], backend: Backend, call: Call
) -> Check:
    """The rule for an operator's output and gradients, by name; ``call`` has its inputs, on the images compared.

    Where something is off, a second look asks how much the problem magnifies roundings (``conditioning``), and whether
    the formula was lucky with its own (``rounding``).
    """
    scale = float(call.cotangent.norm(dtype=torch.float64))
    least = {name: roundings(call.cotangent.dtype, gradient=name != OUTPUT) for name in found}
    check = compare(found, truth, plain, least, scale)
    if check.fault is None:
        return check
    grown, unlucky = magnified(truth, backend, call), redrawn(truth, backend, call)
    return compare(found, truth, plain, {name: max(grown[name], unlucky[name]) for name in found}, scale)


def magnified(truth: dict[str, Tensor], backend: Backend, call: Call) -> dict[str, float]:
    """What no backend can avoid where logits are larger than usual, and where gradients cancel; by tensor."""
    logit, sums = conditioning.logits_and_sums(call.meant(backend.meaning))
    growth = max(1.0, logit / conditioning.USUAL_LOGIT)
    scale = float(call.cotangent.norm(dtype=torch.float64))
    return {
        name: roundings(call.cotangent.dtype, gradient=name != OUTPUT, growth=growth)
        * max(1.0, sums.get(name, 0.0) / extent(exactly, scale) / conditioning.USUAL_SUM)
        for name, exactly in truth.items()
    }


def redrawn(truth: dict[str, Tensor], backend: Backend, call: Call) -> dict[str, float]:
    """The formula's largest error when its roundings are drawn anew; by tensor."""
    recomputed = Reference(backend).through(partial(yardstick, attend=rounding.recomputing))
    exact, scale = call.to(torch.float64), float(call.cotangent.norm(dtype=torch.float64))
    worst = dict.fromkeys(truth, 0.0)
    for seed in range(DRAWS):
        with rounding.Rounding(call.cotangent.dtype, call.cotangent.device, seed):
            drawn = exact.results(recomputed.attend)
        for name, exactly in truth.items():
            if drawn[name].isfinite().all():
                worst[name] = max(worst[name], error(drawn[name], exactly, scale))
    return worst


def compare(
    found: dict[str, Tensor], truth: dict[str, Tensor], plain: dict[str, Tensor], least: dict[str, float], scale: float
) -> Check:
    """The rule: twice the error of ``plain``, the yardstick, or of what is ``least`` unavoidable, tensor by tensor."""
    errors = {name: error(tensor, truth[name], scale) for name, tensor in found.items()}
    budgets = {name: 2 * max(error(plain[name], truth[name], scale), least[name]) for name in found}
    faults = [
        f"{name} is off by {errors[name]:.2g}, allowed {budgets[name]:.2g}"
        for name in found
        if not errors[name] <= budgets[name]  # written so that NaN is a fault
    ]
    return Check(errors, budgets, "; ".join(faults) or None)


def run(workload: Workload, direction: Direction) -> dict[str, Tensor]:
    """The output and, when training, the gradient of every tensor, as the measured call computes them."""
    call = workload.call(direction)
    if direction == "forward":
        output = call()
        assert isinstance(output, Tensor)
        return {OUTPUT: output}
    output = workload.forward()
    if output.shape != workload.cotangent.shape or output.dtype != workload.cotangent.dtype:
        return {OUTPUT: output}
    chosen = torch.zeros_like(workload.cotangent)
    images = ends(len(chosen))
    chosen[images] = workload.cotangent[images]
    gradients = torch.autograd.grad(output, list(workload.tensors.values()), chosen)
    return {OUTPUT: output.detach(), **dict(zip(workload.tensors, gradients, strict=True))}


class Reference:
    """What a backend's truth depends on; equal for all backends that share one, so that it is computed once."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.key = backend.name if backend.attend is None else backend.meaning

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reference) and self.key == other.key

    def through(self, attend: Attend) -> Backend:
        """The backend with its arithmetic done by ``attend``; a backend that is no attention stays itself."""
        if self.backend.attend is None:
            return self.backend
        meant = partial(attend_as_meant, attend, self.backend.meaning)
        return replace(self.backend, attend=meant, build=partial(HaloAttention, attend=meant))


@lru_cache(maxsize=4)
def expected(reference: Reference, task: Task, device: str, seed: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The truth of a task's compared images, and what the readable formula makes of them.

    Where there is no attention, the yardstick is the truth itself and only the unavoidable error is allowed.
    """
    problem = task.problem if isinstance(task, Slot) else task
    images = ends(problem.batch)
    truth = evaluate(bind(reference.through(oracle.attend), task, device, seed), torch.float64, images)
    if reference.backend.attend is None:
        return truth, truth
    return truth, evaluate(bind(reference.through(yardstick), task, device, seed), problem.torch_dtype, images)


def evaluate(workload: Workload, dtype: torch.dtype, images: list[int]) -> dict[str, Tensor]:
    """The output and all gradients on these images, computed in ``dtype``."""
    chosen = select(workload.tensors, workload.shared, images)
    leaves = {name: tensor.detach().to(dtype).requires_grad_() for name, tensor in chosen.items()}
    output = workload.apply(leaves)
    gradients = torch.autograd.grad(output, list(leaves.values()), workload.cotangent[images].to(dtype))
    return {OUTPUT: output.detach(), **dict(zip(leaves, gradients, strict=True))}


def attend_as_meant(
    attend: Attend,
    meaning: Callable[[RelativeTables | None, Geometry, int, int], tuple[RelativeTables | None, Geometry]],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    relative: RelativeTables | None,
    geometry: Geometry,
) -> Tensor:
    """``attend`` with the tables and the geometry that a backend means when it is given these."""
    relative, geometry = meaning(relative, geometry, key.shape[2], key.shape[3])
    return attend(query, key, value, relative, geometry)


def compared(workload: Workload) -> dict[str, Tensor]:
    """The workload's tensors, those with a batch axis cut to the compared images."""
    return select(workload.tensors, workload.shared, ends(len(workload.cotangent)))


def select(tensors: dict[str, Tensor], shared: frozenset[str], images: list[int]) -> dict[str, Tensor]:
    """Those tensors with a batch axis (all but ``shared``) cut to these images."""
    return {name: tensor if name in shared else tensor[images] for name, tensor in tensors.items()}


def ends(batch: int) -> list[int]:
    """The compared images: the first and the last."""
    return sorted({0, batch - 1}) if batch else []


def error(tensor: Tensor, truth: Tensor, scale: float) -> float:
    """``|tensor - truth| / |truth|``; where the truth is zero, the error relative to ``scale``, the cotangent's norm.

    A gradient is linear in the cotangent. Where it cancels exactly, as a query's with a single key, only rounding
    dust is left, in float64 too, and it is the cotangent that says how much dust is little.
    """
    return float((tensor.double() - truth).norm()) / extent(truth, scale)


def extent(truth: Tensor, scale: float) -> float:
    """What an error is relative to."""
    size = float(truth.norm())
    return size if size > 1e-12 * max(scale, 1.0) else max(scale, 1.0)


def unavoidable(name: str, backend: Backend, workload: Workload) -> float:
    """The error that no backend can avoid: of an attention's output, of a gradient, or of a layer without attention."""
    dtype = workload.cotangent.dtype
    if backend.attend is not None:
        return roundings(dtype, gradient=name != OUTPUT)
    least = roundings(dtype, gradient=True)
    if name in workload.shared:
        # What a running sum in float32 loses: a random walk of half roundings.
        batch, _, height, width = workload.cotangent.shape
        terms = len(ends(batch)) * height * width
        least = max(least, terms**0.5 * torch.finfo(torch.float32).eps / 2)
    return least


def roundings(dtype: torch.dtype, *, gradient: bool, growth: float = 1.0) -> float:
    """Half a rounding to the dtype, or four to float32 and eight for a gradient, times ``growth``."""
    return max(torch.finfo(dtype).eps / 2, (8 if gradient else 4) * growth * torch.finfo(torch.float32).eps)
