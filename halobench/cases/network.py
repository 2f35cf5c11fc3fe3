"""A whole network as a workload, and the case that measures it against a rival: what the training suite declares."""

from dataclasses import asdict, dataclass

from halobench.attention.problem import Direction
from halobench.cases.case import Case

NO_BACKEND = "none"


@dataclass(frozen=True)
class Network:
    """A model, how it is called, and on what: ``batch`` images of ``side`` x ``side`` pixels.

    ``backend`` fills the attention slots, ``None`` where the model has none. ``overrides`` are arguments of
    ``models.create``. ``label_smoothing`` changes the loss of a training step; ``magnitude`` puts RandAugment of two
    operations at this magnitude before it, on the device and on the whole batch at once. On a GPU the call of a
    ``compiled`` network is captured as a CUDA graph and replayed; ``captured`` asks for that without compiling. A
    detector has its backbone compiled, and is never captured; ``proposals`` is how many regions of an image its heads
    get, the same in each call, instead of those that it finds. ``compile_mode`` names one of ``train.workload``'s ways
    to compile it other than by the compiler's defaults; detectors have none.
    """

    model: str
    side: int
    batch: int
    dtype: str
    backend: str | None = None
    compiled: bool = False
    overrides: tuple[tuple[str, object], ...] = ()
    label_smoothing: float = 0.0
    magnitude: int | None = None
    captured: bool = False
    compile_mode: str | None = None
    proposals: int | None = None

    @property
    def name(self) -> str:
        """A short name, such as ``halonet_h0-256-n128-bfloat16-compiled``; what is unusual is appended."""
        parts = [self.model, str(self.side), f"n{self.batch}", self.dtype]
        parts += ["compiled"] * self.compiled + ["captured"] * self.captured
        parts += [self.compile_mode] if self.compile_mode else []
        parts += [f"{name}={plain(value)}" for name, value in self.overrides]
        parts += [f"smoothing={self.label_smoothing:g}"] * bool(self.label_smoothing)
        parts += [f"randaugment={self.magnitude}"] * (self.magnitude is not None)
        parts += [f"proposals={self.proposals}"] * (self.proposals is not None)
        return "-".join(parts)


@dataclass(frozen=True)
class NetworkCase:
    """One row of the training suite: a training step (forward, loss, backward, optimizer), or inference.

    The steps of ``rival`` are taken in turn with the network's own, so that their ratio is paired. ``shrink`` halves
    the batch, the rival's too, until both fit the device. The fields that ``Case`` has too mean the same.
    """

    suite: str
    network: Network
    direction: Direction
    device: str
    groups: tuple[str, ...] = ()
    label: str | None = None
    rival: Network | None = None
    shrink: bool = False
    energy: bool = False
    patience = 3.0  # compiling a network takes minutes

    @property
    def backend(self) -> str:
        """The name of the backend, for a row."""
        return self.network.backend or NO_BACKEND

    @property
    def scope(self) -> object:
        """What consecutive cases share: the rival, and compiled code."""
        return self.rival or self.network

    @property
    def compiles(self) -> bool:
        """Whether the case leaves compiled code behind, whatever its backend does."""
        return self.network.compiled

    @property
    def name(self) -> str:
        """A name that is unique within a run and says everything but the device and the rival."""
        return f"{self.suite}/{self.backend}/{self.direction}/{self.network.name}"

    def row(self) -> dict[str, object]:
        """The columns of a results row that are known before measuring."""
        network = asdict(self.network) | {"overrides": {name: plain(value) for name, value in self.network.overrides}}
        return {
            "case": self.name,
            "suite": self.suite,
            "backend": self.backend,
            "direction": self.direction,
            "groups": list(self.groups),
            "label": self.label,
            "network": network,
            "rival": None if self.rival is None else self.rival.model,
            "rival_compile_mode": None if self.rival is None else self.rival.compile_mode,
            "device": self.device,
        }


AnyCase = Case | NetworkCase


def plain(value: object) -> str:
    """An override as text without spaces."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
