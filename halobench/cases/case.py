"""A case: one backend on one task in one direction, as the suites declare it and a results file names it."""

from dataclasses import asdict, dataclass

from halobench.attention.geometry import BEYOND
from halobench.attention.problem import Direction, Problem
from halobench.cases.workload import Slot, Task


@dataclass(frozen=True)
class Case:
    """One row of a results file, before it is measured.

    ``groups`` are the axes and figures that the case belongs to, ``label`` names the network stages it stands for.
    ``energy`` asks for a pass that takes about a second, ``counted`` for the opinions of FLOP counters.
    """

    suite: str
    backend: str
    task: Task
    direction: Direction
    device: str
    groups: tuple[str, ...] = ()
    label: str | None = None
    energy: bool = False
    counted: bool = True
    patience = 1.0  # how many times the usual time limit a case may take
    compiles = False  # its backend may

    @property
    def scope(self) -> object:
        """What consecutive cases share: compiled code, which is dropped when it changes."""
        return self.task

    @property
    def problem(self) -> Problem:
        """The operator workload: the task itself, or the one inside its layer."""
        return self.task.problem if isinstance(self.task, Slot) else self.task

    @property
    def name(self) -> str:
        """A name that is unique within a run and says everything but the device."""
        return f"{self.suite}/{self.backend}/{self.direction}/{task_name(self.task)}"

    def row(self) -> dict[str, object]:
        """The columns of a results row that are known before measuring."""
        problem = asdict(self.problem)
        for side in BEYOND:  # a case's map is whole
            del problem["geometry"][side]
        layer = None
        if isinstance(self.task, Slot):
            spec = self.task.layer
            layer = {"channels": spec.channels, "positions": spec.positions, "kernel": spec.kernel}
        return {
            "case": self.name,
            "suite": self.suite,
            "backend": self.backend,
            "direction": self.direction,
            "groups": list(self.groups),
            "label": self.label,
            "problem": problem,
            "layer": layer,
            "device": self.device,
        }


def task_name(task: Task) -> str:
    """A short name for a task, such as ``b8h3-64x64-n64x4-d16e16-bfloat16``; what is unusual is appended."""
    problem = task.problem if isinstance(task, Slot) else task
    geometry = problem.geometry
    parts = [
        f"b{geometry.block}h{geometry.halo}",
        f"{problem.height}x{problem.width}",
        f"n{problem.batch}x{problem.heads}",
        f"d{problem.key_dim}e{problem.value_dim}",
        problem.dtype,
    ]
    if geometry.stride != 1:
        parts.append(f"stride{geometry.stride}")
    if geometry.border != "masked":
        parts.append(geometry.border)
    if not problem.relative:
        parts.append("plain")
    if isinstance(task, Slot):
        parts.append(f"c{task.layer.channels}")
        if task.layer.positions == "sum":
            parts.append("sum")
        if task.layer.kernel != 3:
            parts.append(f"k{task.layer.kernel}")
    return "-".join(parts)
