"""``torchrun --nproc-per-node N -m halobench.scale --output FILE``: what 1, 2, ... N ranks do together."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from halobench import terminal
from halobench.attention.problem import Unsupported
from halobench.distributed import RankLost
from halobench.machine import load, memory
from halobench.machine.environment import fingerprint
from halobench.measure.journal import Journal, JournalError
from halobench.records.schema import OK, SCHEMA_VERSION
from halobench.scale import replay
from halobench.scale.campaign import Campaign
from halobench.scale.settings import NAME, STEPS, Settings, parse
from halobench.train.processes import LOST, Processes, told
from halobench.train.unusable import Unusable
from halobench.train.whole_file import whole
from halobench.wording import counted

Fields = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command on this rank. Exit status: 0, 2 for what cannot be used, 130 interrupted."""
    try:
        _, count, _ = told()
        settings = parse(arguments, max(count, 1))
        processes = Processes.of_environment()
    except Unusable as error:
        return terminal.refuse(NAME, error)
    try:
        check(settings.output)
        device = processes.device(settings.device)
        with replay.prepared(settings, device), processes.joined(device):
            measure(settings, processes, device)
    except (Unusable, Unsupported, JournalError, RuntimeError, MemoryError) as error:
        problem = problem_of(error, processes)
        if problem is None:
            raise
        of_all = LOST if isinstance(error, RankLost) else problem  # each rank that waits has words of its own
        return terminal.refuse(NAME, problem) if processes.tells(of_all) else terminal.UNUSABLE
    except KeyboardInterrupt:
        if processes.first:
            journal = settings.output.with_suffix(".jsonl")
            print(f"\n{NAME}: interrupted; the rows so far are in {journal}", file=sys.stderr)
        return terminal.INTERRUPTED
    return 0


def problem_of(error: Exception, processes: Processes) -> str | None:
    """What the user is to read about an error, or ``None`` where it is a fault of the program."""
    if isinstance(error, Unusable | Unsupported | JournalError | RankLost):
        return str(error)
    if memory.ran_out(error):
        return f"out of memory: a smaller --batch, or fewer --models ({str(error).splitlines()[0]})"
    return LOST if processes.lost(error) else None


def check(output: Path) -> None:
    """Raise ``Unusable``, before anything is measured, where the results could not be written."""
    if output.suffix != ".json" or output.is_dir():
        raise Unusable(f"--output must name a .json file, got {str(output)!r}")
    if not output.parent.is_dir() or not os.access(output.parent, os.W_OK):
        raise Unusable(f"--output cannot be written: {output.parent} is no folder that can be written to")


def measure(settings: Settings, processes: Processes, device: torch.device) -> None:
    """Measure every model, show a line a point, and leave all rows in one file; the first rank writes.

    Until the end the rows stand in a journal beside it.
    """
    started, before = time.monotonic(), load.watch(settings.device, 0.5)
    campaign = Campaign(settings, device, processes.rank)
    header = {
        "schema": SCHEMA_VERSION,
        "tier": "scaling",
        "options": described(settings),
        "fingerprint": fingerprint(settings.device),
        "ceilings": None,
        "load": {"before": asdict(before)},
    }
    rows = []
    with kept(settings.output, header, processes) as keep:
        for model in settings.models:
            for row in campaign.rows(model):
                rows.append(row)
                keep(row)
                print(said(row), flush=True)
        if processes.first:
            ceilings = "all_reduce_bytes_per_s" if settings.what == STEPS else "link_bytes_per_s"
            settled = campaign.settled(rows)
            header |= {
                "failures": [row for row in settled if row["status"] != OK],
                "harness": {"wall_s": time.monotonic() - started},
                ceilings: {str(count): rate for count, rate in campaign.ceilings.items()},
            }
            write(settings.output, header, [row for row in settled if row["status"] == OK])
            print(f"{settings.output}: {counted(len(rows), 'row')}")


@contextmanager
def kept(output: Path, header: Fields, processes: Processes) -> Iterator[Callable[[Fields], None]]:
    """What puts a row into the journal, which is gone once the results are written."""
    if not processes.first:
        yield lambda _row: None
        return
    journal = Journal(output.with_suffix(".jsonl"), resume=False, rotate=True)
    journal.begin(header)
    try:
        yield journal.append
    finally:
        journal.close()
    journal.path.unlink()


def described(settings: Settings) -> Fields:
    """The options as the results file has them: everything that changes a time."""
    return {name: value for name, value in asdict(settings).items() if name != "output"}


def write(path: Path, header: Fields, rows: list[Fields]) -> None:
    """Write a results file as pytest-benchmark would, which readers know.

    Raises:
        Unusable: it cannot be written; an earlier one is kept.
    """
    benchmarks = [
        {
            "name": row["case"],
            "fullname": f"halobench.scale::{row['case']}",
            "extra_info": {"halobench": {key: value for key, value in row.items() if key != "samples_ms"}},
            "stats": {
                "data": [ms / 1e3 for ms in row["samples_ms"]],
                "median": row["latency"]["median_ms"] / 1e3,
                "rounds": len(row["samples_ms"]),
            },
        }
        for row in rows
    ]
    document = {
        "machine_info": {},
        "commit_info": {},
        "benchmarks": benchmarks,
        "datetime": datetime.now(UTC).isoformat(),
        "halobench": header,
    }
    with whole(path) as beside:
        beside.write_text(json.dumps(document, indent=1, allow_nan=False), encoding="utf-8")


def said(row: Fields) -> str:
    """A point in a line."""
    scaling = row["scaling"]
    line = f"{row['case']}: "
    if row["status"] != OK:
        return f"{line}{row['status']}, {row['reason']}"
    line += f"{row['latency']['median_ms']:.3g} ms"
    if "throughput" in row:
        line += f", {row['throughput']['images_per_s']:.4g} images/s"
    if "efficiency" in scaling:
        line += f", efficiency {scaling['efficiency']:.1%}"
    if "communication_ms" not in scaling:
        return line
    return (
        f"{line}; communication {scaling['communication_ms']:.3g} ms alone, {scaling['exposed_ms']:.3g} ms exposed, "
        f"bus bandwidth {scaling['bus_bytes_per_s'] / 1e9:.3g} GB/s"
    )


if __name__ == "__main__":
    terminal.end(NAME, main)
