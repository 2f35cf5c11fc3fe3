"""A point: what some ranks do together, timed; and the calls of one rank in it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from torch.distributed import ProcessGroup

from halobench.scale.replay import replayed

Fields = dict[str, Any]


@dataclass
class Calls:
    """What one rank calls: ``step``, and ``silent``, the same without communication (on a single rank the same).

    ``alone`` communicates as the step does, with nothing between; ``sent_bytes`` is its amount, and ``bus_bytes`` what
    of it a link carries, as nccl-tests count it; none on a single rank. ``launched`` is the step as the host launches
    it.
    """

    step: Callable[[], object]
    silent: Callable[[], object]
    resident_bytes: int
    launched: Callable[[], object]
    parameters: int = 0
    alone: Callable[[], object] | None = None
    sent_bytes: int = 0
    bus_bytes: float = 0.0

    @property
    def replayed(self) -> bool:
        """Whether the step is the replay of a CUDA graph."""
        return self.step is not self.launched

    def capture(self) -> None:
        """Put the replays of CUDA graphs in the place of the calls, which must be warm."""
        single = self.silent is self.step
        self.step = replayed(self.step)
        self.silent = self.step if single else replayed(self.silent)
        self.alone = self.alone and replayed(self.alone)


@dataclass
class Point:
    """A subject on ``ranks`` ranks, ``kind`` of scaling ``"weak"`` or ``"strong"``; its samples in ms by round.

    ``row`` are the columns that are known before, ``images`` those of all ranks. ``make`` gives this rank's calls,
    which are there while they are timed, if it takes part; ``group`` is ``None`` for a single rank. ``fault`` is the
    status and the reason where there is no time, ``grid`` the rows and columns of ranks that share an image.
    """

    ranks: int
    kind: str
    images: int
    group: ProcessGroup | None
    make: Callable[[], Calls]
    row: Fields
    fault: tuple[str, str] | None = None
    grid: tuple[int, int] | None = None
    calls: Calls | None = None
    step_ms: list[list[float]] = field(default_factory=list)
    silent_ms: list[list[float]] = field(default_factory=list)

    @property
    def named(self) -> Fields:
        """Kind and number of ranks, and their grid if they share an image."""
        shared = {} if self.grid is None else {"grid": "x".join(map(str, self.grid))}
        return {"kind": self.kind, "ranks": self.ranks, **shared}

    @property
    def median_ms(self) -> float:
        """The median of all steps."""
        return median(ms for samples in self.step_ms for ms in samples)

    def efficiencies(self, single: "Point") -> list[float]:
        """What each round says: t1 / tN under weak, t1 / (N tN) under strong scaling; none without a single rank's."""
        share = 1 if self.kind == "weak" else self.ranks
        if not single.step_ms:
            return []
        pairs = zip(single.step_ms, self.step_ms, strict=True)
        return [median(alone) / median(here) / share for alone, here in pairs]
