"""A fresh process of a calibration: it measures all representative cases once.

It says ``ready`` when everything is imported and nothing has touched the device; then it takes one request, a line of
JSON on stdin, and answers in one on stdout. So the next processes can be started together without disturbing one.
"""

import gc
import json
import sys
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, get_args

import torch

from halobench.attention import backends
from halobench.attention.geometry import Geometry
from halobench.attention.problem import Direction, Problem
from halobench.calibrate.planted import delay_of, delayed
from halobench.cases.case import Case
from halobench.cases.options import Options
from halobench.cases.workload import bind
from halobench.machine.clock import Clock, clock_for
from halobench.machine.environment import fingerprint
from halobench.measure import graphs, latency
from halobench.measure.placement import Placement

READY = "ready"
KEPT_SAMPLES = 25
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)


@dataclass(frozen=True)
class Plan:
    """What is measured: each backend on square maps of these sides, block 8, halo 3, 4 heads of 16, both directions."""

    device: str
    backends: tuple[str, ...]
    sides: tuple[int, ...]
    batch: int

    def cases(self) -> Iterator[Case]:
        """The representative cases."""
        dtype = Options.choose(None, None, self.device, None, None).dtype
        for side in self.sides:
            problem = Problem(Geometry(block=8, halo=3), side, side, self.batch, heads=4, dtype=dtype)
            for name in self.backends:
                for direction in DIRECTIONS:
                    yield Case("calibration", name, problem, direction, self.device)


def main() -> None:
    """Answer one request: ``{"plan", "amounts": {case: delay}}``, with ``"pilot"`` also how to delay on the device."""
    warnings.simplefilter("ignore")
    for name in sys.argv[1:]:
        backends.load(name)
    print(READY, flush=True)
    request = json.loads(sys.stdin.readline())
    plan = Plan(**request["plan"])
    torch.backends.cudnn.allow_tf32 = False
    graphs.adopt(plan.device)
    clock = clock_for(plan.device)
    rows = {case.name: measured(case, clock, request["amounts"].get(case.name)) for case in plan.cases()}
    answer: dict[str, Any] = {"cases": rows}
    if "pilot" in request:
        answer["fingerprint"] = fingerprint(plan.device)
        answer["delay"] = asdict(delay_of(plan.device, clock))
    print(json.dumps(answer), flush=True)


def measured(case: Case, clock: Clock, amount: float | None) -> dict[str, Any]:
    """Median and clock of one case, and some of its samples: five digits are more than they have."""
    backend = backends.load(case.backend)
    workload = bind(backend, case.task, case.device)
    call = delayed(workload.call(case.direction), amount, case.device)
    call()
    clock.synchronize()
    placement = Placement(backend, workload, call)
    burst = latency.sample(call, clock, latency.effort_for(case.device), placement.move)
    step = -(-len(burst.device_ms) // KEPT_SAMPLES)
    gc.collect()
    return {
        "ms": rounded(median(burst.device_ms)),
        "mhz": median(burst.sm_mhz) if burst.sm_mhz else None,
        "samples_ms": [rounded(sample) for sample in burst.device_ms[::step]],
    }


def rounded(value: float) -> float:
    """Five significant digits."""
    return float(f"{value:.5g}")


if __name__ == "__main__":
    main()
