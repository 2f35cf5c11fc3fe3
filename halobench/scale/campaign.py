"""The points of a subject, timed in turn so that their efficiencies are paired, and the rows that come out."""

import math
from collections.abc import Iterator
from statistics import median
from typing import Any

import torch
from torch import distributed
from torch.distributed import ProcessGroup

from halobench.attention.problem import Unsupported
from halobench.machine.memory import ran_out
from halobench.machine.nvml import Gpu
from halobench.measure import memory
from halobench.measure.statistics import summarize
from halobench.scale import replica, sharded
from halobench.scale.collective import alone_ms, ceiling, largest, link, slowest_ms, total
from halobench.scale.point import Fields, Point
from halobench.scale.settings import STEPS, Settings

ENERGY_S = 1.0  # NVML's counter moves every 10 to 100 ms


class Campaign:
    """The groups of this run, of the first ranks each, and the ceilings of what they send one another.

    ``ceilings`` are the best bus bandwidths of an all-reduce, or where ranks share an image of sending to the next.
    """

    def __init__(self, settings: Settings, device: torch.device, rank: int) -> None:
        self.settings, self.device, self.rank = settings, device, rank
        self.groups: dict[int, Any] = {1: None}
        self.ceilings: dict[int, float] = {}
        best = ceiling if settings.what == STEPS else link
        for count in settings.counts[1:]:  # every rank makes every group, also those it is not of
            group = self.groups[count] = distributed.new_group(range(count))
            if isinstance(group, ProcessGroup):  # for others, it is a number
                self.ceilings[count] = best(device, group)
            self.all_here()

    def rows(self, model: str) -> Iterator[Fields]:
        """The rows of a model, as they come; none but on the first rank."""
        made = {STEPS: replica.steps, "operator": sharded.operators}.get(self.settings.what, sharded.networks)
        for points in made(model, self.settings, self.groups, self.device):
            for row in self.timed(points):
                if self.rank == 0:
                    yield row

    def timed(self, points: list[Point]) -> list[Fields]:
        """The rows of points that are timed in turn."""
        for point in points:
            if self.takes_part(point):
                self.make(point)
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
            point.calls = None
        memory.release()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return rows

    def takes_part(self, point: Point) -> bool:
        """Whether this rank has calls to make in a point."""
        return self.rank < point.ranks and point.fault is None

    def make(self, point: Point) -> None:
        """This rank's calls. What fails on a single rank is a fault of the point; elsewhere others would wait."""
        try:
            point.calls = point.make()
        except Unsupported as error:
            point.fault = "UNSUPPORTED", str(error)
        except (RuntimeError, MemoryError) as error:
            if point.group is not None or not ran_out(error):
                raise
            point.fault = "OOM", str(error).splitlines()[0]

    def take_turn(self, point: Point) -> None:
        """A round of a point: its steps, and the same without communication."""
        if point.calls is not None:
            steps = self.settings.steps
            point.step_ms.append(slowest_ms(point.calls.step, steps, self.device, point.group))
            if point.group is not None:
                point.silent_ms.append(slowest_ms(point.calls.silent, steps, self.device, point.group))
        self.all_here()

    def all_here(self) -> None:
        """Wait for all ranks: who takes no part in a point is to be idle meanwhile."""
        if self.settings.counts[-1] > 1:
            distributed.barrier()

    def row(self, point: Point, single: Point) -> Fields:
        """The row of a point, the same on all its ranks."""
        known = {**point.row, "status": "OK", "reason": None, "scaling": self.named(point)}
        if point.calls is None:
            assert point.fault is not None
            return known | dict(zip(("status", "reason"), point.fault, strict=True))
        samples = [ms for each in point.step_ms for ms in each]
        times, joules = summarize(samples), total(self.joules(point), self.device, point.group)
        peak = memory.peak_bytes(point.calls.launched, self.settings.device) if self.device.type == "cuda" else None
        row = known | {
            "latency": {
                "median_ms": times.median, "low_ms": times.low, "high_ms": times.high, "noise": times.noise,
                "outliers": times.outliers, "replayed": point.calls.replayed,
            },
            "samples_ms": samples,
            "memory": {
                "peak_bytes": total(peak, self.device, point.group),
                "resident_bytes": total(point.calls.resident_bytes, self.device, point.group),
            },
            "energy_joules": joules,
            "scaling": self.scaling(point, single) | {"rank_peak_bytes": largest(peak, self.device, point.group)},
        }  # fmt: skip
        if "network" in row:
            row["throughput"] = {
                "batch": point.images,
                "images_per_s": point.images / times.median * 1e3,
                "joules_per_image": None if joules is None else joules / point.images,
                "parameters": point.calls.parameters,
            }
        return row

    def named(self, point: Point) -> Fields:
        """Which point of scaling it is, also where it has no time."""
        gradients = {"gradients": "flat" if self.settings.flat else "buckets"} if self.settings.what == STEPS else {}
        return point.named | gradients

    def scaling(self, point: Point, single: Point) -> Fields:
        """What a row says about scaling."""
        found = self.named(point)
        if self.rank == 0 and (shares := point.efficiencies(single)):  # which took part in all points
            share = summarize(shares)
            found |= {"efficiency": share.median, "efficiency_low": share.low, "efficiency_high": share.high}
        if point.group is None or point.calls is None or point.calls.alone is None:
            return found
        silent = median(ms for each in point.silent_ms for ms in each)
        alone = alone_ms(point.calls.alone, self.device, point.group)
        carried = largest(point.calls.bus_bytes, self.device, point.group) or 0.0
        rate = carried / alone * 1e3
        return found | {
            "communicated_bytes": largest(point.calls.sent_bytes, self.device, point.group),
            "communication_ms": alone,
            "exposed_ms": max(point.median_ms - silent, 0.0),
            "bus_bytes_per_s": rate,
            "bus_share": rate / max(rate, self.ceilings[point.ranks]),  # until the run ends, and is settled
        }

    def settled(self, rows: list[Fields]) -> list[Fields]:
        """The rows with their shares of the ceilings as the whole run left them: a ceiling is the best rate seen."""
        known = [row["scaling"] for row in rows if row["scaling"].get("bus_bytes_per_s")]
        for scaling in known:
            self.ceilings[scaling["ranks"]] = max(self.ceilings[scaling["ranks"]], scaling["bus_bytes_per_s"])
        for scaling in known:
            scaling["bus_share"] = scaling["bus_bytes_per_s"] / self.ceilings[scaling["ranks"]]
        return rows

    def joules(self, point: Point) -> float | None:
        """What this rank's GPU uses for a step of a network; all ranks take as many steps."""
        assert point.calls is not None
        if self.device.type != "cuda" or "network" not in point.row:  # an operator has many points
            return None
        gpu, count = Gpu(torch.cuda.current_device()), math.ceil(ENERGY_S * 1e3 / point.median_ms)
        slowest_ms(point.calls.step, count, self.device, point.group)
        before = gpu.joules
        slowest_ms(point.calls.step, count, self.device, point.group)
        after = gpu.joules
        return None if before is None or after is None else (after - before) / count
