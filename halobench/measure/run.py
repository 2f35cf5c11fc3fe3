"""A run of the suites: rows from the journal or from the worker, and what the results file says about all of them."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from halobench.cases.network import AnyCase
from halobench.cases.options import Options
from halobench.machine import ceilings
from halobench.machine.load import Load, average
from halobench.measure import latency
from halobench.measure.engine import Settings
from halobench.measure.fleet import Fleet
from halobench.measure.journal import Journal
from halobench.measure.session import Session
from halobench.records import floors
from halobench.records.schema import SCHEMA_VERSION

Fields = dict[str, Any]


class Run:
    """Gives each case its row, measuring it if no earlier part of the run did. ``close`` ends the worker.

    ``shard`` is what its results file says of the sweep that it is a shard of. With several ``gpus`` a worker on each
    measures beside the others, from ``begin`` on.

    Raises:
        JournalError: the journal belongs to a run on another machine, software or with other options.
        RuntimeError: the device, or the ceilings that the run is to take over, cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        options: Options,
        journal: Journal | None,
        shard: Fields | None = None,
        gpus: int = 1,
    ) -> None:
        self.started = time.monotonic()
        self.settings = settings
        self.session: Session | Fleet = Session(settings) if gpus == 1 else Fleet.of_all_gpus(settings, gpus)
        self.journal = journal
        self.rows: list[Fields] = []
        self.spent = {"warmup": 0.0, "measured": 0.0}
        try:
            known = ceilings.of_the_job(options.device, options.dtype) if settings.timed else None
            environment = self.session.environment(options.dtype, known)
            self.spent["measured"] += environment.pop("measured_s")
            self.header: Fields = {
                "schema": SCHEMA_VERSION,
                "tier": options.tier,
                "options": {
                    **asdict(options),
                    "hot": settings.hot,
                    **latency.described(settings.effort),
                    **({} if gpus == 1 else {"gpus_side_by_side": gpus}),
                },
                **({} if shard is None else {"shard": shard}),
                **environment,
                "load": {"before": environment["load"]},
            }
            if journal is not None:
                earlier = journal.header
                journal.begin(self.header)
                if earlier is not None:  # the machine may have been busy when one part of the run began
                    self.header["ceilings"] = floors.higher(self.header["ceilings"], earlier.get("ceilings"))
        except BaseException:
            self.close()
            raise

    def begin(self, cases: Sequence[AnyCase]) -> None:
        """Let workers on several GPUs begin with the cases that no earlier part of the run measured."""
        if isinstance(self.session, Fleet):
            done = self.journal.rows if self.journal else {}
            self.session.begin([case for case in cases if case.name not in done], self._keep)

    def row(self, case: AnyCase) -> Fields:
        """The row of a case."""
        done = self.journal.rows.get(case.name) if self.journal else None
        row = self.settled(done) if done else self._measure(case)
        self.rows.append(row)
        return row

    def settled(self, row: Fields) -> Fields:
        """The row under the ceilings as the run knows them now, which it may raise."""
        self.header["ceilings"], (under,) = floors.settled(self.header["ceilings"], [row])
        return under

    def _measure(self, case: AnyCase) -> Fields:
        row = self.settled(self.session.measure(case))
        for phase in self.spent:
            self.spent[phase] += row.get("seconds", {}).get(phase, 0.0)
        if not isinstance(self.session, Fleet):  # which keeps rows as they come
            self._keep(row)
        return row

    def _keep(self, row: Fields) -> None:
        if self.journal is not None:
            self.journal.append(row)

    def section(self) -> Fields:
        """The results file's section about the run as a whole. Early rows get the floors that later ones left."""
        self.header["ceilings"], self.rows = floors.settled(self.header["ceilings"], self.rows)
        wall = time.monotonic() - self.started
        overhead = wall - sum(self.spent.values())
        harness = {
            "wall_s": wall,
            "measured_s": self.spent["measured"],
            "warmup_s": self.spent["warmup"],
            "overhead_s": overhead,
            "overhead_share": overhead / wall,
        }
        failures = [row for row in self.rows if row["status"] != "OK"]
        return {**self.header, "load": self.load(), "failures": failures, "harness": harness}

    @property
    def before(self) -> Load:
        """The load before anything was measured."""
        return Load(**self.header["load"]["before"])

    @property
    def disturbances(self) -> list[str]:
        """What to say at the end of a run while which something else was at work."""
        after = self.load()["after"]
        if not after["disturbed_rows"]:
            return []
        reasons = Counter(row["load"]["by"] for row in self.rows if row.get("load") and row["load"]["disturbed"])
        (most, _), *_ = reasons.most_common(1)
        share = f"{after['disturbed_rows']} of {after['timed_rows']} rows"
        now = "" if after["average"] is None else f"; load {after['average']:.1f} now"
        return [f"{share} were measured while something else was at work ({most}){now}"]

    def load(self) -> Fields:
        """What else was at work: before the run, and while how many of its rows were measured."""
        timed = [row for row in self.rows if row.get("load")]
        disturbed = sum(bool(row["load"]["disturbed"]) for row in timed)
        after = {"average": average(), "disturbed_rows": disturbed, "timed_rows": len(timed)}
        return {**self.header["load"], "after": after}

    def close(self, results: Path | None = None) -> int:
        """End the worker; the journal goes if the results file holds all its rows, else says how many it lacks."""
        self.session.close()
        return 0 if self.journal is None else self.journal.close(results)
