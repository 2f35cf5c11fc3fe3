"""All points of one network, timed in turn so that their efficiencies are paired, and the rows that come out."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from statistics import median
from typing import Any

import torch
from torch import distributed
from torch.distributed import ProcessGroup

from halobench.cases.network import NO_BACKEND, Network
from halobench.machine.nvml import Gpu
from halobench.measure import memory
from halobench.measure.statistics import summarize
from halobench.scale.collective import bus_bytes_per_s, ceiling, reduce_ms, slowest_ms, total
from halobench.scale.replica import Replica, replica
from halobench.scale.settings import Settings

ENERGY_S = 1.0  # NVML's counter moves every 10 to 100 ms
Fields = dict[str, Any]


@dataclass
class Point:
    """A network on ``ranks`` ranks, ``kind`` of scaling ``"weak"`` or ``"strong"``; its samples in ms by round.

    ``replica`` is this rank's, if it takes part; ``group`` is ``None`` for a single rank.
    """

    ranks: int
    kind: str
    network: Network
    group: ProcessGroup | None
    replica: Replica | None = None
    step_ms: list[list[float]] = field(default_factory=list)
    silent_ms: list[list[float]] = field(default_factory=list)

    @property
    def median_ms(self) -> float:
        """The median of all steps."""
        return median(ms for samples in self.step_ms for ms in samples)

    def efficiencies(self, single: "Point") -> list[float]:
        """What each round says: t1 / tN under weak, t1 / (N tN) under strong scaling."""
        share = 1 if self.kind == "weak" else self.ranks
        pairs = zip(single.step_ms, self.step_ms, strict=True)
        return [median(alone) / median(here) / share for alone, here in pairs]


class Campaign:
    """The groups of this run, of the first ranks each, and the ceilings of their all-reduces."""

    def __init__(self, settings: Settings, device: torch.device, rank: int) -> None:
        self.settings, self.device, self.rank = settings, device, rank
        self.groups: dict[int, Any] = {1: None}
        self.ceilings: dict[int, float] = {}
        for count in settings.counts[1:]:  # every rank makes every group, also those it is not of
            group = self.groups[count] = distributed.new_group(range(count))
            if isinstance(group, ProcessGroup):  # for others, it is a number
                self.ceilings[count] = ceiling(device, group)
            self.all_here()

    def rows(self, model: str) -> list[Fields]:
        """The rows of a network; empty but on the first rank."""
        points = list(self.points(model))
        for point in points:
            if self.rank < point.ranks:
                point.replica = replica(point.network, self.settings, point.group, self.device)
            self.all_here()
        for number in range(self.settings.rounds):
            for point in points if number % 2 == 0 else reversed(points):
                self.take_turn(point)
        rows = []
        for point in points:
            if self.rank < point.ranks:
                rows.append(self.row(point, points[0]))
            self.all_here()
        for point in points:
            point.replica = None
        memory.release()
        return rows if self.rank == 0 else []

    def points(self, model: str) -> Iterator[Point]:
        """One rank first; then weak and, where the batch can be divided, strong scaling."""
        batch = self.settings.batch
        for count in self.settings.counts:
            yield Point(count, "weak", self.settings.network(model, batch), self.groups[count])
            if count > 1 and batch % count == 0:
                yield Point(count, "strong", self.settings.network(model, batch // count), self.groups[count])

    def take_turn(self, point: Point) -> None:
        """A round of a point: its steps, and the same without communication."""
        if point.replica is not None:
            steps = self.settings.steps
            point.step_ms.append(slowest_ms(point.replica.step, steps, self.device, point.group))
            if point.group is not None:
                point.silent_ms.append(slowest_ms(point.replica.silent, steps, self.device, point.group))
        self.all_here()

    def all_here(self) -> None:
        """Wait for all ranks: who takes no part in a point is to be idle meanwhile."""
        if self.settings.counts[-1] > 1:
            distributed.barrier()

    def row(self, point: Point, single: Point) -> Fields:
        """The row of a point, the same on all its ranks."""
        assert point.replica is not None
        samples = [ms for each in point.step_ms for ms in each]
        times, whole = summarize(samples), point.network.batch * point.ranks
        joules = total(self.joules(point), self.device, point.group)
        peak = memory.peak_bytes(point.replica.step, self.settings.device) if self.device.type == "cuda" else None
        return {
            **known(point, self.settings),
            "latency": {
                "median_ms": times.median, "low_ms": times.low, "high_ms": times.high, "noise": times.noise,
                "outliers": times.outliers, "replayed": False,
            },
            "samples_ms": samples,
            "memory": {
                "peak_bytes": total(peak, self.device, point.group),
                "resident_bytes": total(point.replica.resident_bytes, self.device, point.group),
            },
            "energy_joules": joules,
            "throughput": {
                "batch": whole,
                "images_per_s": whole / times.median * 1e3,
                "joules_per_image": None if joules is None else joules / whole,
                "parameters": point.replica.parameters,
            },
            "scaling": self.scaling(point, single),
        }  # fmt: skip

    def scaling(self, point: Point, single: Point) -> Fields:
        """What a row says about scaling."""
        found: Fields = {"kind": point.kind, "ranks": point.ranks}
        if self.rank == 0:  # which took part in all points
            share = summarize(point.efficiencies(single))
            found |= {"efficiency": share.median, "efficiency_low": share.low, "efficiency_high": share.high}
        if point.group is None or point.replica is None or not point.replica.buckets:
            return found
        sizes, silent = point.replica.buckets, median(ms for each in point.silent_ms for ms in each)
        alone = reduce_ms(sizes, self.device, point.group)
        rate = bus_bytes_per_s(sum(sizes), alone, point.ranks)
        return found | {
            "communicated_bytes": sum(sizes),
            "communication_ms": alone,
            "exposed_ms": max(point.median_ms - silent, 0.0),
            "bus_bytes_per_s": rate,
        }

    def settled(self, rows: list[Fields]) -> list[Fields]:
        """The rows with their shares of the ceilings as the whole run left them: a ceiling is the best rate seen."""
        known = [row["scaling"] for row in rows if "bus_bytes_per_s" in row["scaling"]]
        for scaling in known:
            self.ceilings[scaling["ranks"]] = max(self.ceilings[scaling["ranks"]], scaling["bus_bytes_per_s"])
        for scaling in known:
            scaling["bus_share"] = scaling["bus_bytes_per_s"] / self.ceilings[scaling["ranks"]]
        return rows

    def joules(self, point: Point) -> float | None:
        """What this rank's GPU uses for a step; all ranks take as many steps."""
        assert point.replica is not None
        if self.device.type != "cuda":
            return None
        gpu, count = Gpu(torch.cuda.current_device()), math.ceil(ENERGY_S * 1e3 / point.median_ms)
        slowest_ms(point.replica.step, count, self.device, point.group)
        before = gpu.joules
        slowest_ms(point.replica.step, count, self.device, point.group)
        after = gpu.joules
        return None if before is None or after is None else (after - before) / count


def known(point: Point, settings: Settings) -> Fields:
    """The columns of a row that are known before measuring."""
    network = point.network
    backend = network.backend or NO_BACKEND
    return {
        "case": f"scaling/{backend}/training/{network.name}-{point.kind}-x{point.ranks}",
        "suite": "scaling",
        "backend": backend,
        "direction": "training",
        "groups": ["scaling"],
        "label": None,
        "network": asdict(replace(network, overrides=())) | {"overrides": {}},
        "rival": None,
        "device": settings.device,
        "status": "OK",
        "reason": None,
    }
