"""One run of the suites of a checkout, in a fresh process."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

GRACE_S = 30.0
CEILINGS = "HALOBENCH_CEILINGS"  # as in halobench.machine.ceilings, which measures and is not imported here
WITHOUT = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest")  # the latter takes a second to import
RAN = (0, 1)  # pytest: all passed, or some cases are failures, which are results


class RunError(Exception):
    """A revision could not be measured; the message is one line."""


@dataclass
class Suites:
    """Measures a checkout with pytest. ``arguments`` are its options and, unless cases are named, its folder.

    The first run measures the ceilings of the machine; ``job`` tells the others where they are.
    """

    arguments: Sequence[str]
    suites: str = "suites/"
    job: dict[str, str] = field(default_factory=dict)

    def __call__(self, folder: Path, output: Path, cases: Sequence[str] = ()) -> None:
        """Measure into a results file; ``cases`` narrows it to these test ids.

        Raises:
            RunError: pytest selected no case, or measured nothing.
        """
        output.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pytest", *WITHOUT, *self.arguments]
        command += [f"--benchmark-json={output.resolve()}", *(cases or [self.suites])]
        log = output.with_suffix(".log")
        with log.open("wb") as sink:
            # Python must find the checkout's packages, not those of the tree that this process was started in.
            environment = os.environ | {"PYTHONPATH": str(folder)} | self.job
            child = subprocess.Popen(command, cwd=folder, env=environment, stdout=sink, stderr=subprocess.STDOUT)
            try:
                status = child.wait()
            except BaseException:
                end(child)
                raise
        if status not in RAN or not output.exists():
            raise RunError(f"pytest ended with exit status {status} in {folder.name}: {last_line(log)}; see {log}")
        if not self.job and has_ceilings(output):
            self.job[CEILINGS] = str(output.resolve())


def has_ceilings(output: Path) -> bool:
    """Whether a results file holds the ceilings of its run."""
    found: Any = json.loads(output.read_text(encoding="utf-8"))
    return bool(found.get("halobench", {}).get("ceilings"))


def end(child: "subprocess.Popen[bytes]") -> None:
    """End a child, gently at first: its worker process ends with it."""
    child.terminate()
    try:
        child.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def last_line(log: Path) -> str:
    """The last line that says something."""
    lines = [line.strip(" =") for line in log.read_text(errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "it said nothing")


def test_ids(outputs: Iterable[Path]) -> dict[str, str]:
    """The id under which pytest finds each case that any of the results files measured, by the case's name."""
    found: dict[str, str] = {}
    for output in outputs:
        benchmarks: list[Any] = json.loads(output.read_text(encoding="utf-8"))["benchmarks"]
        found |= {each["extra_info"]["halobench"]["case"]: each["fullname"] for each in benchmarks}
    return found
