"""The pytest side of the suites: options, cases, and device times handed to pytest-benchmark.

Measure, then replay: the engine takes its samples by its own rules; a clock that repeats them then drives
``benchmark.pedantic``. pytest-benchmark's JSON, storage and comparisons hold real device times, through its public API.
"""

import json
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from halobench.cases.network import AnyCase
from halobench.cases.options import TIERS, Options
from halobench.cases.shard import Shard
from halobench.machine.load import Load
from halobench.measure import refusal
from halobench.measure.engine import Settings
from halobench.measure.journal import Journal, JournalError
from halobench.measure.latency import effort_for
from halobench.measure.progress import Progress, standing
from halobench.measure.run import Run
from halobench.measure.sharding import Sharding, case_of
from halobench.records import floors
from halobench.wording import counted

OPTIONS = pytest.StashKey[Options]()
RUN = pytest.StashKey[Run]()
PROGRESS = pytest.StashKey[Progress]()
SHARDING = pytest.StashKey[Sharding]()
GPUS = pytest.StashKey[int]()
CASES = pytest.StashKey[Sequence[AnyCase]]()
WRITTEN = pytest.StashKey[bool]()  # pytest-benchmark writes no file when no case has a time
SKIPPED = ("MISSING", "UNSUPPORTED", "OOM")  # results that say something about the case, not that something is wrong


class NoTime(Exception):
    """A case has a row but no time; raised where pytest-benchmark expects the measured call."""


class ReplayClock:
    """A timer that replays samples: its first reading of a round is zero, its second the sample."""

    __name__ = "device_time"

    def __init__(self) -> None:
        self._readings: Iterator[float] = iter(())

    def load(self, samples_s: list[float]) -> None:
        """Replay these samples next."""
        self._readings = (reading for sample in samples_s for reading in (0.0, sample))

    def __call__(self) -> float:
        """The next reading, in seconds."""
        return next(self._readings, 0.0)


CLOCK = ReplayClock()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The suites' options, under the project's name."""
    group = parser.getgroup("halobench", "halobench (pytest suites/)")
    group.addoption("--tier", choices=TIERS, help="how much to measure; default: smoke on a CPU, default on a GPU")
    group.addoption("--backends", metavar="A,B", help="only these backends; default: all")
    group.addoption("--device", choices=("cpu", "cuda"), help="where to measure; default: a GPU where there is one")
    group.addoption(
        "--dtype", choices=("bfloat16", "float16", "float32"), help="default: bfloat16 on a GPU, float32 on a CPU"
    )
    group.addoption("--batch", type=int, metavar="N", help="images per call; default: each suite's own")
    group.addoption("--shard", metavar="N/M", help="of M runs that share all cases, measure those of the Nth: 2/8")
    group.addoption("--devices", choices=("all",), help="a worker on each GPU, side by side; default: one GPU")
    group.addoption("--hot", action="store_true", help="leave the L2 cache warm between samples; default: cold")
    group.addoption("--resume", action="store_true", help="go on with a run that was killed: skip what it measured")


def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Refuse to go on without pytest-benchmark before its options look unknown."""
    refusal.check_plugins(early_config)


def pytest_configure(config: pytest.Config) -> None:
    """Check the options before anything is collected."""
    try:
        config.stash[OPTIONS] = Options.choose(
            *(config.getoption(name) for name in ("tier", "backends", "device", "dtype", "batch"))
        )
        config.stash[GPUS] = refusal.gpus(config.getoption("devices"), config.stash[OPTIONS].device)
        if config.getoption("shard"):
            config.stash[SHARDING] = Sharding(Shard.parse(config.getoption("shard")))
            config.pluginmanager.register(config.stash[SHARDING], "halobench-shard")
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None
    refusal.check_options(config)
    config.pluginmanager.register(Display(config), "halobench-display")
    config.pluginmanager.register(refusal.Workers(), "halobench-workers")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A suite is a module with ``cases(options)``; its tests run once for each case."""
    if "case" in metafunc.fixturenames and hasattr(metafunc.module, "cases"):
        cases: list[AnyCase] = list(metafunc.module.cases(metafunc.config.stash[OPTIONS]))
        names = [case.name.partition("/")[2] for case in cases]
        metafunc.parametrize("case", cases, ids=names)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give every measured item the replaying clock, beside what its own benchmark marker says."""
    cases = [item for item in items if measured(item)]
    if cases and timed(config):
        refusal.check_distribution(config)
    for item in cases:
        marker = item.get_closest_marker("benchmark")
        chosen = dict(marker.kwargs) if marker else {}
        item.add_marker(pytest.mark.benchmark(**{**chosen, "timer": CLOCK}), append=False)


@pytest.fixture
def measure(benchmark: BenchmarkFixture, request: pytest.FixtureRequest) -> Callable[[AnyCase], None]:
    """Measure a case, or take it from the journal, and hand its samples to pytest-benchmark."""

    def measure(case: AnyCase) -> None:
        try:
            row = the_run(request.config).row(case)
        except JournalError as error:
            pytest.exit(str(error), returncode=2)
        if PROGRESS in request.config.stash:
            request.config.stash[PROGRESS].note(row)
        if row["status"] == "OK":
            samples = [sample / 1e3 for sample in row.get("samples_ms", [0.0])]
            CLOCK.load(samples)
            benchmark.pedantic(lambda: None, rounds=len(samples), iterations=1)
            benchmark.extra_info["halobench"] = {key: value for key, value in row.items() if key != "samples_ms"}
            return
        try:
            benchmark.pedantic(no_time, rounds=1)
        except NoTime:
            said = f"{row['status']}: {row['reason']}"
            if row["status"] in SKIPPED:
                pytest.skip(said)
            pytest.fail(said, pytrace=False)

    return measure


def no_time() -> None:
    """The measured call of a case that has no time."""
    raise NoTime


def the_run(config: pytest.Config) -> Run:
    """The run that belongs to this invocation of pytest, begun at its first case: nothing touches the device before."""
    if RUN not in config.stash:
        options = config.stash[OPTIONS]
        settings = Settings(
            options.device, effort_for(options.device), hot=config.getoption("hot"), timed=timed(config)
        )
        try:
            shard = config.stash[SHARDING].section if SHARDING in config.stash else None
            journal = journal_of(config) if settings.timed else None
            config.stash[RUN] = Run(settings, options, journal, shard, config.stash[GPUS])
            warn(config, config.stash[RUN].before)
            config.stash[RUN].begin(config.stash[CASES])
        except (JournalError, RuntimeError) as error:
            pytest.exit(str(error), returncode=2)
    return config.stash[RUN]


def warn(config: pytest.Config, before: Load) -> None:
    """Say at once, past pytest's capture, that the machine is busy before anything is measured."""
    if not before.disturbed:
        return
    said = f"this machine is busy, times will be too long: {before.said}"
    capture = config.pluginmanager.getplugin("capturemanager")
    with nullcontext() if capture is None else capture.global_and_fixture_disabled():
        if PROGRESS in config.stash:
            config.stash[PROGRESS].say(said)
        else:
            config.pluginmanager.getplugin("terminalreporter").write_line(said, yellow=True)


def restore(results: Path, before: bytes | None) -> None:
    """Undo a write that failed half way."""
    with suppress(OSError):  # nothing more can be done then, and the journal has all rows
        if before is None:
            results.unlink(missing_ok=True)
        else:
            results.write_bytes(before)


def without_benchmarks(section: dict[str, Any]) -> dict[str, Any]:
    """The file of a run in which no case has a time: pytest-benchmark writes none, and others look for its parts."""
    now = datetime.now(UTC).isoformat()
    return {"machine_info": {}, "commit_info": {}, "benchmarks": [], "datetime": now, "halobench": section}


def timed(config: pytest.Config) -> bool:
    """Whether times are taken; with ``--benchmark-disable`` every case is only checked."""
    return not config.getoption("benchmark_disable") or config.getoption("benchmark_enable")


def journal_of(config: pytest.Config) -> Journal:
    """The run's journal. One without a results file is named by nobody, and a new run need not ask what to do with it.

    Raises:
        JournalError: it cannot be used.
    """
    anonymous = config.getoption("benchmark_json") is None
    return Journal(journal_path(config), resume=config.getoption("resume"), rotate=anonymous)


def journal_path(config: pytest.Config) -> Path:
    """The journal lies beside the results file; without one, in pytest-benchmark's folder."""
    results: Path | None = config.getoption("benchmark_json")
    return results.with_suffix(".jsonl") if results else config.rootpath / ".benchmarks" / "halobench.jsonl"


def measured(item: pytest.Item) -> bool:
    """Whether an item is a case of a suite."""
    return "measure" in getattr(item, "fixturenames", ())


class Display:
    """What the terminal shows of a run: progress instead of dots, and a summary at its end."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.verbose = config.get_verbosity() > 0
        self.finished = True
        self.unwritten = 0  # rows that no results file holds, and the journal keeps

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Show progress once it is known how much there is to do."""
        cases = [case for item in session.items if (case := case_of(item)) is not None]
        self.config.stash[CASES] = cases
        count = sum(measured(item) for item in session.items)
        if count and not self.verbose and not self.config.option.collectonly:
            self.config.stash[PROGRESS] = Progress(count)

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        """Count outcomes, but print no letters beside the progress."""
        if PROGRESS not in self.config.stash or report.when == "teardown" or not self.of_case(report):
            return None
        if report.when == "call" or report.outcome == "skipped":
            return report.outcome, "", ""
        return None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Move the progress on when a case is done: output is not captured here."""
        if report.when == "teardown" and PROGRESS in self.config.stash and self.of_case(report):
            self.config.stash[PROGRESS].advance()

    @staticmethod
    def of_case(report: pytest.TestReport) -> bool:
        """Whether a report is about a case of a suite."""
        return "benchmark" in report.keywords

    @pytest.hookimpl(wrapper=True, tryfirst=True, specname="pytest_sessionfinish")
    def pytest_guard_the_results(self) -> Iterator[None]:
        """Keep an earlier results file, and the journal, where the new file cannot be written."""
        results: Path | None = self.config.getoption("benchmark_json", None)
        before = (
            results.read_bytes() if results is not None and RUN in self.config.stash and results.is_file() else None
        )
        try:
            return (yield)
        except OSError as error:
            if results is None or RUN not in self.config.stash:
                raise
            self.config.stash[RUN].close()
            restore(results, before)
            pytest.exit(
                f"{results} cannot be written: {error.strerror}; all rows are in {journal_path(self.config)}: "
                "make room, then the same command with --resume writes them",
                returncode=2,
            )

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """End the run. pytest-benchmark has written its file by now, unless no case has a time."""
        # A run that was interrupted, or stopped by ``--exitfirst``, keeps its journal.
        self.finished = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) and not session.shouldfail
        if PROGRESS in self.config.stash:
            self.config.stash[PROGRESS].stop()
        if RUN not in self.config.stash:
            return
        run = self.config.stash[RUN]
        results: Path | None = self.config.getoption("benchmark_json")
        without_times = run.settings.timed and all(row["status"] != "OK" for row in run.rows)
        written = False
        try:
            if results is not None and without_times and WRITTEN not in self.config.stash:
                results.write_text(json.dumps(without_benchmarks(run.section()), indent=1))
            written = True
        finally:
            self.unwritten = run.close(results if written and self.finished else None)

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Where the time went, and what came out; below pytest-benchmark's long table."""
        if RUN not in self.config.stash:
            return
        run = self.config.stash[RUN]
        harness = run.section()["harness"]
        terminalreporter.section("halobench")
        terminalreporter.write_line(
            f"{harness['wall_s']:.0f} s: measuring {harness['measured_s']:.0f} s, compiling and warming up "
            f"{harness['warmup_s']:.0f} s, the harness itself {harness['overhead_share']:.0%}"
        )
        for line in standing(run.rows):
            terminalreporter.write_line(line)
        for note in [*floors.notes(run.header["ceilings"]), *run.disturbances]:
            terminalreporter.write_line(note, yellow=True)
        if not self.finished:
            terminalreporter.write_line("not all cases were measured: the same command with --resume goes on")
        terminalreporter.write_line(self.whereabouts(run))

    def whereabouts(self, run: Run) -> str:
        """Where the rows of the run are, in a line."""
        results, journal = self.config.getoption("benchmark_json"), journal_path(self.config)
        if not run.settings.timed:
            return "nothing was timed" + (f": {results} was not written" if results else "")
        if results is None:
            return f"without --benchmark-json all rows are in {journal}"
        if self.unwritten and self.finished:
            return f"{results} lacks {counted(self.unwritten, 'row')}, which {journal} holds"
        return f"results: {results}   draw them: python -m halobench.plot {shlex.quote(str(results))}"


def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    """Put what holds for the whole run, and the rows without a time, into the results file."""
    if RUN in config.stash:
        run = config.stash[RUN]
        output_json["halobench"] = run.section()
        settled = {row["case"]: row for row in run.rows}
        for one in output_json["benchmarks"]:
            if (row := one["extra_info"].get("halobench")) is not None:
                row["floor"] = settled[row["case"]].get("floor")
        config.stash[WRITTEN] = True


def pytest_benchmark_update_commit_info(config: pytest.Config, commit_info: dict[str, Any]) -> None:
    """Name the commit of the code that was measured, where pytest-benchmark looks at the current folder."""
    if RUN in config.stash:
        unknown = {"id": None, "dirty": None, "declared": None}
        measured_code = config.stash[RUN].header["fingerprint"]["commit"] or unknown
        commit_info.clear()
        commit_info.update(measured_code, project="halobench")


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """Leave out what names the machine's owner and what changes from second to second."""
    machine_info.pop("node", None)
    for name in ("hz_actual", "hz_actual_friendly"):
        machine_info.get("cpu", {}).pop(name, None)
