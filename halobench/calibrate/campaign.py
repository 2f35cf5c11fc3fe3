"""All processes of a calibration, one after the other, planted and plain ones mixed; a killed one goes on."""

import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Self

from halobench.calibrate.planted import Delay
from halobench.calibrate.process import READY, Plan
from halobench.machine import cgroup

LEVELS = (0.02, 0.05, 0.1)
PLAIN = 0.0
PILOTS = 3
Json = dict[str, Any]


class CampaignError(ValueError):
    """The calibration cannot go on; the message is one line."""


@dataclass(frozen=True)
class Campaign:
    """The header of a calibration, and a line for each process: its ``level`` and its ``cases``."""

    header: Json
    processes: list[Json]


def levels(plain: int, planted: int) -> list[float]:
    """The level of each process, in the order they run: shuffled, so that no level has a time of its own."""
    order = [PLAIN] * plain + [level for level in LEVELS for _ in range(planted)]
    random.Random(0).shuffle(order)  # noqa: S311 - an order, not a secret
    return order


def read(path: Path) -> Campaign | None:
    """What a file holds so far; ``None`` where there is no file. Its last line may be cut short.

    Raises:
        CampaignError: it is something else.
    """
    if not path.exists():
        return None
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    try:
        documents = [json.loads(line) for line in lines if line.endswith("\n")]
        return Campaign(
            {"plan": documents[0]["plan"], **documents[0]}, [{"level": d["level"], **d} for d in documents[1:]]
        )
    except (ValueError, LookupError, TypeError):
        raise CampaignError(f"{path} is not the file of a calibration") from None


def finished(path: Path) -> Campaign:
    """A calibration that has run to its end.

    Raises:
        CampaignError: there is none in the file.
    """
    campaign = read(path)
    if campaign is None or len(campaign.processes) < len(campaign.header["order"]):
        raise CampaignError(f"{path} holds no finished calibration")
    return campaign


def measure(path: Path, plan: Plan, order: list[float], said: Callable[[str], None]) -> None:
    """Run the processes that a file does not hold yet, and append them.

    Raises:
        CampaignError: a process failed, or the file belongs to another plan.
    """
    done = read(path)
    if done is None or not done.processes:
        done = Campaign(json.loads(json.dumps(begun(plan, order))), [])
    if done.header["plan"] != json.loads(json.dumps(asdict(plan))) or done.header["order"] != order:
        raise CampaignError(f"{path} holds a calibration of another plan: give another file")
    path.write_text("".join(json.dumps(line) + "\n" for line in (done.header, *done.processes)), encoding="utf-8")
    size = max(1, cgroup.workers() // 2)
    ahead: Batch | None = None
    with path.open("a", encoding="utf-8") as file, ExitStack() as stack:
        for start in range(len(done.processes), len(order), size):
            batch = ahead or stack.enter_context(Batch(plan, order[start : start + size]))
            batch.wait()
            following = order[start + size : start + 2 * size]
            # While a GPU is measured, a CPU may import; while a CPU is, nothing else may run.
            ahead = stack.enter_context(Batch(plan, following)) if following and plan.device != "cpu" else None
            said(f"processes {start + 1} to {start + len(batch.levels)} of {len(order)}")
            requests = [{"amounts": done.header["amounts"].get(str(level), {})} for level in batch.levels]
            for level, answer in zip(batch.levels, batch.answers(requests), strict=True):
                file.write(json.dumps({"level": level, "cases": answer["cases"]}) + "\n")
                file.flush()


def begun(plan: Plan, order: list[float]) -> Json:
    """The header of a calibration: how much each case must be delayed for each level, after a few pilot processes."""
    with Batch(plan, [PLAIN] * PILOTS) as batch:
        batch.wait()
        pilots = list(batch.answers([{"pilot": True, "amounts": {}}] * PILOTS))
    delay = Delay(*(median(pilot["delay"][name] for pilot in pilots) for name in ("least_ms", "per_ms")))
    times = {name: median(pilot["cases"][name]["ms"] for pilot in pilots) for name in pilots[0]["cases"]}
    return {
        "plan": asdict(plan),
        "order": order,
        "fingerprint": pilots[0]["fingerprint"],
        "amounts": {str(level): {name: delay.amount(level * ms) for name, ms in times.items()} for level in LEVELS},
    }


class Batch:
    """Fresh processes, one for each level, that are started together and then measure one by one.

    As a context manager, it ends by killing those that still run.
    """

    def __init__(self, plan: Plan, levels: list[float]) -> None:
        self.plan, self.levels = plan, levels
        command = [sys.executable, "-m", "halobench.calibrate.process", *plan.backends]
        self._children = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in levels
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children:
            child.kill()
            child.communicate()

    def wait(self) -> None:
        """Until all have imported what they need.

        Raises:
            CampaignError: one ended before.
        """
        for child in self._children:
            expect(child, READY)

    def answers(self, requests: list[Json]) -> Iterator[Json]:
        """What each answers to its request, one after the other.

        Raises:
            CampaignError: one ended without an answer.
        """
        for child, request in zip(self._children, requests, strict=True):
            assert child.stdin is not None
            child.stdin.write(json.dumps({"plan": asdict(self.plan), **request}) + "\n")
            child.stdin.flush()
            yield json.loads(expect(child))
            child.communicate()


def expect(child: "subprocess.Popen[str]", word: str | None = None) -> str:
    """The next line that a child says."""
    assert child.stdout is not None
    line = child.stdout.readline().strip()
    if not line or (word is not None and line != word):
        raise CampaignError(f"a measuring process ended with {child.wait()}: its last words are above")
    return line
