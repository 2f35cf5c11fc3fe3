"""Second opinions on FLOPs: torch's FlopCounterMode and fvcore. Each has blind spots; neither is the truth.

``FlopCounterMode`` counts matrix products and convolutions as they are dispatched, a multiply-add as two. It sees
nothing inside a compiled function, gives the CPU's fused attention zero, and raises on FlexAttention. fvcore traces
the forward pass and counts a multiply-add once; softmax, elementwise work, ``unfold`` and fused attention count zero.
"""

import warnings
from dataclasses import replace
from functools import lru_cache

from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from halobench import backends
from halobench.problem import Direction
from halobench.workload import PIXELS, Slot, Task, Workload, bind


def counted_by_torch(workload: Workload, direction: Direction) -> int | None:
    """FLOPs of a call as ``FlopCounterMode`` counts them; ``None`` where it fails or sees nothing."""
    call = workload.call(direction)

    def backward() -> None:  # the counter cannot follow autograd.grad into the leaves of a module
        workload.forward().backward(workload.cotangent)
        for leaf in workload.tensors.values():
            leaf.grad = None

    counter = FlopCounterMode(display=False)
    try:
        with counter:
            call() if direction == "forward" else backward()
    except Exception:  # noqa: BLE001 - whatever a counter trips over, it has no opinion
        return None
    return counter.get_total_flops() or None


def counted_by_fvcore(workload: Workload) -> int | None:
    """Multiply-adds of a forward pass as fvcore counts them; ``None`` where it fails or sees nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fvcore still scripts functions, which torch deprecates
        from fvcore.nn import FlopCountAnalysis  # noqa: PLC0415 - its import warns

        workload.call("forward")  # no gradients: a trace holds no tensors that require them
        module = workload.module or Applied(workload)
        tensors = workload.tensors.values() if workload.module is None else (workload.tensors[PIXELS],)
        analysis = FlopCountAnalysis(module, tuple(tensors))
        analysis.unsupported_ops_warnings(enabled=False).tracer_warnings("none")
        try:
            return int(analysis.total()) or None
        except Exception:  # noqa: BLE001 - whatever a counter trips over, it has no opinion
            return None


class Applied(nn.Module):
    """An operator as the module that fvcore wants: its tensors are its inputs."""

    def __init__(self, workload: Workload) -> None:
        super().__init__()
        self.workload = workload

    def forward(self, *tensors: Tensor) -> Tensor:
        """The operator's output."""
        return self.workload.apply(dict(zip(self.workload.tensors, tensors, strict=True)))


@lru_cache(maxsize=8)
def multiply_adds(name: str, task: Task, device: str) -> int | None:
    """Count of fvcore for a backend's forward pass, from one image: tracing a whole batch costs too much."""
    batch = task.problem.batch if isinstance(task, Slot) else task.batch
    count = counted_by_fvcore(bind(backends.load(name), replace(task, batch=1), device))
    return None if count is None else count * batch
