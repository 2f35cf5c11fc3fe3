"""Two revisions in turns: the order, suspects and their confirmation, the control, git worktrees, and Ctrl-C.

The repositories here are small and measure nothing: their suites write results files with the times that a file
``times.json`` of the revision gives.
"""

import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest

from halobench.ab import display, protocol, worktrees
from halobench.ab.__main__ import ab, main
from halobench.ab.display import Display
from halobench.ab.protocol import BASE, CONTROL, HEAD, STREAMS, Stage
from halobench.ab.worktrees import Checkout
from halobench.compare.settings import Settings
from halobench.compare.sides import Repeated
from halobench.compare.verdict import Verdict
from tests import results_files

ROOT = Path(__file__).parent.parent
TIMEOUT_S = 120
CASES = ("slowed", "steady")
CONFTEST = """
import json, os, random, time
from pathlib import Path

HERE = Path(__file__).parent.parent

def pytest_addoption(parser):
    parser.addoption("--benchmark-json")
    parser.addoption("--tier")

def pytest_sessionfinish(session, exitstatus):
    speed = json.loads((HERE / "times.json").read_text())
    if speed.get("hang"):
        (Path(os.environ["PLACE"]) / "hangs").touch()
        time.sleep(300)
    names = [item.name.removeprefix("test_") for item in session.items]
    document = json.loads(Path(os.environ["TEMPLATE"]).read_text())
    named = {each["fullname"].rpartition("test_")[2]: each for each in document["benchmarks"]}
    document["benchmarks"] = [each for name, each in named.items() if name in names]
    for each in document["benchmarks"]:
        name = each["fullname"].rpartition("test_")[2]
        noise = random.gauss(1, 0.001)
        if Path(session.config.option.benchmark_json).parent.name == "control":
            noise *= speed.get("control", 1.0)
        each["stats"]["data"] = [speed.get(name, 1.0) * 1e-3 * noise * random.gauss(1, 1e-3) for _ in range(20)]
    with (Path(os.environ["PLACE"]) / "log").open("a") as log:
        options, ceilings = session.config.option, os.environ.get("HALOBENCH_CEILINGS")
        log.write(json.dumps([options.benchmark_json, names, options.tier, ceilings]) + "\\n")
    Path(session.config.option.benchmark_json).write_text(json.dumps(document))
"""


def git(folder, *arguments):
    identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    return subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def repository(tmp_path):
    """A repository of one commit, tagged ``base``."""
    root = tmp_path / "repository"
    (root / "suites").mkdir(parents=True)
    (root / "suites" / "conftest.py").write_text(CONFTEST)
    (root / "suites" / "test_fake.py").write_text("".join(f"def test_{name}(): pass\n" for name in CASES))
    (root / "pyproject.toml").write_text('[tool.pytest.ini_options]\naddopts = "-p no:benchmark"\n')
    (root / ".gitignore").write_text("results/\n__pycache__/\n")
    (root / "times.json").write_text("{}")
    git(tmp_path, "init", "--quiet", "--initial-branch=main", str(root))
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "base")
    git(root, "tag", "base")
    return root


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """Where the suites of the repositories find what they write, and nothing of the user's own options."""
    kinds = (results_files.network_row("halonet_h0", "sdpa"), results_files.row("sdpa", "forward"))
    rows = [{**row, "case": name} for name, row in zip(CASES, kinds, strict=True)]
    document = results_files.document(rows, gpu=results_files.H100)
    for each, name in zip(document["benchmarks"], CASES, strict=True):
        each["fullname"] = f"suites/test_fake.py::test_{name}"
    template = tmp_path / "template.json"
    template.write_text(json.dumps(document))
    for name in [name for name in os.environ if name.startswith(("PYTEST", "GIT_"))]:
        monkeypatch.delenv(name)
    chosen = {"PLACE": tmp_path, "TEMPLATE": template, "TMPDIR": tmp_path, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    for name, value in chosen.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def command(environment, monkeypatch, capsys):
    """Run the command in a folder: its exit status, and what it said on stdout and stderr."""

    def command(folder, *arguments):
        monkeypatch.chdir(folder)
        return (main(arguments), *capsys.readouterr())

    return command


def runs(tmp_path):
    """What was measured: (stage, stream, test names, tier, the file whose ceilings were to be taken over)."""
    found = []
    for line in (tmp_path / "log").read_text().splitlines():
        output, *rest = json.loads(line)
        found.append((*Path(output).parts[-3:-1], *rest))
    return found


def nothing_left(tmp_path, repository):
    assert git(repository, "worktree", "list").count("\n") == 0
    assert not list(tmp_path.glob("halobench-*"))


def test_a_slower_working_tree_is_a_regression_confirmed_by_fresh_runs_of_the_suspect(
    tmp_path, repository, command, monkeypatch
):
    """The head is uncommitted and partly untracked: it is measured all the same, and nothing of it changes."""
    monkeypatch.setattr(protocol, "CONFIRMATION_ROUNDS", 5)  # as few as the rank test needs
    (repository / "times.json").write_text('{"slowed": 1.03}')
    (repository / "suites" / "test_new.py").write_text("def test_extra(): pass\n")
    before = git(repository, "status", "--porcelain", "--branch"), git(repository, "rev-parse", "HEAD")
    status, out, err = command(
        repository, "base", "--tier", "smoke", "--output", "results/ab", "--markdown", "comment.md"
    )
    assert (status, "1 regression (1 SLOWER, 1 SAME)" in out) == (1, True), out + err
    measured = runs(tmp_path)
    screened = [run for run in measured if run[0] == "screening"]
    confirmed = [run for run in measured if run[0] == "confirmation"]
    assert Counter(run[1] for run in screened) == dict.fromkeys(STREAMS, protocol.SCREENING_ROUNDS)
    assert Counter(run[1] for run in confirmed) == dict.fromkeys(STREAMS, protocol.CONFIRMATION_ROUNDS)
    assert {tuple(run[2]) for run in confirmed} == {("slowed",)}
    assert all(("extra" in run[2]) == (run[1] == HEAD) for run in screened)
    assert {run[3] for run in measured} == {"smoke"}
    first = str(repository / "results/ab/screening/base/00.json")  # it measures the ceilings, for all
    assert [run[4] for run in measured] == [None] + [first] * (len(measured) - 1)
    assert "SLOWER" in (repository / "comment.md").read_text()
    assert json.loads((repository / "results/ab/verdict.json").read_text())["exit_status"] == 1
    (repository / "comment.md").unlink()
    assert before == (git(repository, "status", "--porcelain", "--branch"), git(repository, "rev-parse", "HEAD"))
    assert "differ in how they measure" in out
    nothing_left(tmp_path, repository)


def another_commit(repository, tag):
    """A commit of what the last one holds, under a tag."""
    git(repository, "commit", "--quiet", "--allow-empty", "--message", tag)
    git(repository, "tag", tag)


def test_the_same_code_twice_is_no_regression(tmp_path, repository, command):
    another_commit(repository, "same")
    status, out, err = command(repository, "base", "same", "-k", "steady")
    assert (status, "no regression (1 SAME)" in out) == (0, True), out + err
    assert {tuple(run[2]) for run in runs(tmp_path)} == {("steady",)}


def test_a_control_that_fires_is_inconclusive(repository, command, monkeypatch):
    monkeypatch.setattr(protocol, "CONFIRMATION_ROUNDS", 5)  # as few as the rank test needs
    (repository / "times.json").write_text('{"control": 1.2}')
    git(repository, "commit", "--quiet", "--all", "--message", "unstable")
    git(repository, "tag", "unstable")
    another_commit(repository, "same")
    status, out, err = command(repository, "unstable", "same")
    assert (status, "base against itself" in out) == (3, True), out + err


@pytest.mark.usefixtures("environment")
def test_ctrl_c_removes_the_worktrees(tmp_path, repository):
    (repository / "times.json").write_text('{"hang": true}')
    git(repository, "commit", "--quiet", "--all", "--message", "hangs")
    another_commit(repository, "same")
    child = subprocess.Popen(
        [sys.executable, "-m", "halobench.ab", "HEAD~1"], cwd=repository, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    end = time.monotonic() + TIMEOUT_S
    while not (tmp_path / "hangs").exists():
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)
    assert list(tmp_path.glob("halobench-ab-*/base"))
    child.send_signal(signal.SIGTERM)  # handled like SIGINT, which a test's children may have to ignore
    _, err = child.communicate(timeout=TIMEOUT_S)
    assert (child.returncode, "interrupted" in err) == (130, True), err
    nothing_left(tmp_path, repository)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "'nowhere' names no commit"),
        (("base", "nowhere"), "'nowhere' names no commit"),
        (("--", "--upload-pack=x"), "names no commit"),
        (("base", "other", "-k", "no_such_case"), "exit status 5"),
        (("base", "--output", "suites"), "new or empty folder"),
        (("base", "base"), "base and head must differ: 'base' and 'base' are both commit "),
        (("main~1", "base"), "'main~1' and 'base' are both commit "),
        (("main",), "'main' and the working tree are both commit "),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(tmp_path, repository, command, arguments, message):
    another_commit(repository, "other")
    status, out, err = command(repository, *arguments)
    assert status == 2, out + err
    assert message in err.splitlines()[-1]
    assert (repository / "results").exists() == ("no_such_case" in arguments)  # its log stays
    nothing_left(tmp_path, repository)


def test_outside_a_repository_there_is_nothing_to_measure(tmp_path, command):
    place = tmp_path / "plain"
    place.mkdir()
    status, _, err = command(place, "main")
    assert status == 2
    assert "git" in err


def test_three_dots_are_the_merge_base(repository):
    git(repository, "checkout", "--quiet", "-b", "topic")
    (repository / "more").touch()
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--message", "topic")
    git(repository, "checkout", "--quiet", "main")
    (repository / "times.json").write_text('{"slowed": 2}')
    git(repository, "commit", "--quiet", "--all", "--message", "main goes on")
    base = git(repository, "rev-parse", "base")
    assert worktrees.commit_of(repository, "main...topic") == base
    assert worktrees.commit_of(repository, "topic...") == base
    assert worktrees.commit_of(repository, "main") != base


def clone(repository, place, *options):
    git(place, "clone", "--quiet", *options, f"file://{repository}", str(place / "clone"))
    return place / "clone"


def refused(root, revision):
    with pytest.raises(worktrees.GitError) as error:
        worktrees.commit_of(root, revision)
    return str(error.value)


def test_a_checkout_with_a_part_of_the_history_names_what_to_fetch(tmp_path, repository):
    """As continuous integration makes them: shallow, or of one branch."""
    git(repository, "checkout", "--quiet", "-b", "topic")
    git(repository, "commit", "--quiet", "--allow-empty", "--message", "more")
    one = clone(repository, tmp_path, "--single-branch", "--branch", "topic")
    assert refused(one, "main").endswith(": git fetch origin main:main")
    assert refused(one, "main...").endswith(": git fetch origin main:main")
    assert refused(one, "a&b").endswith(": git fetch origin 'a&b:a&b'")  # what a shell would take apart is quoted
    assert refused(one, "main~1").endswith(": git fetch origin main:main")
    assert refused(one, "a b~1").endswith(f"names no commit of {one}")  # no name of a branch: nothing to fetch by
    git(one, "fetch", "--quiet", "origin", "main:refs/remotes/origin/main")
    assert refused(one, "main").endswith(", but origin/main does: give that")
    git(one, "fetch", "--quiet", "origin", "main:main")  # as the message says
    assert worktrees.commit_of(one, "main...") == git(repository, "rev-parse", "main")
    assert refused(one, "HEAD~999").endswith(f"names no commit of {one}")  # no branch is lacking
    (tmp_path / "second").mkdir()
    shallow = clone(repository, tmp_path / "second", "--depth", "1")
    assert ", which is shallow: git fetch --unshallow origin " in refused(shallow, "main...")
    assert refused(repository, "nowhere").endswith(f"'nowhere' names no commit of {repository}")


@pytest.mark.parametrize("revision", ["main", "main~0", "origin/main", "origin/main...", "HEAD...origin/main"])
def test_what_is_to_be_fetched_helps(tmp_path, repository, revision):
    git(repository, "checkout", "--quiet", "-b", "topic")
    one = clone(repository, tmp_path, "--single-branch", "--branch", "topic")
    command = refused(one, revision).partition(": git ")[2]
    git(one, *command.split())
    assert worktrees.commit_of(one, revision) == git(repository, "rev-parse", "main")


@pytest.mark.parametrize("rounds", [2, 4, 6, 8])
def test_a_steady_drift_adds_the_same_to_each_stream(rounds):
    places = {stream: [] for stream in STREAMS}
    for place, (_, stream) in enumerate(protocol.order(range(rounds))):
        places[stream].append(place)
    assert {sum(found) for found in places.values()} == {sum(range(3 * rounds)) / 3}


def test_each_stream_stands_in_every_place_equally_often():
    stood = Counter((stream, place % 3) for place, (_, stream) in enumerate(protocol.order(range(6))))
    assert set(stood.values()) == {2}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((None, 12, 36), "the first of 12 processes says how long they take, and up to 36 more where cases are"),
        ((12.0, 11, 36), "11 processes left of 12 s: 2.2 min, and up to 7.2 min more where cases are suspected"),
        ((15.0, 1, 0), "1 process left of 15 s: 0.2 min"),
    ],
)
def test_the_time_that_is_left_follows_from_the_processes_so_far(arguments, said):
    assert display.estimate(*arguments).startswith(said)


def test_a_line_for_each_process_says_how_long_the_rest_takes(capsys):
    """Of a stage that has just begun, by what the processes of the one before took."""
    now = iter([0.0, 0.0, 10.0, 30.0, 100.0, 100.0])
    with Display(lambda: next(now)) as shown:
        shown.begin("screening", 3, later=36)
        shown.starts("base")
        shown.starts("head")
        shown.starts("control")
        shown.begin("confirmation", 36, early=True)
        shown.starts("base")
    said = [line.partition("] ")[2] for line in capsys.readouterr().err.splitlines()]
    assert said == [
        f"screening 1/3: base, {display.estimate(None, 3, 36)}",
        "screening 2/3: head, 2 processes left of 10 s: 0.3 min, and up to 6.0 min more where cases are suspected",
        "screening 3/3: control, 1 process left of 15 s: 0.2 min, and up to 9.0 min more where cases are suspected",
        "confirmation 1/36: base, up to 36 processes left of 15 s: 9.0 min",
    ]


def test_on_a_terminal_it_is_a_bar(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "150")
    now = iter([0.0, 0.0, 12.0, 24.0, 24.0])
    with Display(lambda: next(now)) as shown:
        shown.begin("screening", 12, later=36)
        for stream in STREAMS:
            shown.starts(stream)
        shown.say("something")
    said = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    assert re.search(r"2/12 \S+ screening: control, 10 processes left of 12 s: 2.0 min, and up to 7.2 min more", said)
    assert re.search(r"\[\d\d:\d\d:\d\d\] something\s*\n", said)


def times(seed, factor=1.0, runs=8):
    source = random.Random(seed)
    return Repeated(samples_ms=[(factor * source.gauss(1, 0.001),) for _ in range(runs)])


def test_suspects_are_those_of_the_head_and_of_the_control():
    base, same = ({name: times(seed) for name in "abc"} for seed in (1, 2))
    stage = Stage(base, {**same, "a": times(3, 1.02)}, {**same, "b": times(4, 0.98)})
    assert protocol.suspects(stage, Settings()) == ["a", "b"]
    assert protocol.suspects(stage, Settings(threshold_percent=5.0)) == []


def test_a_suspect_is_judged_by_its_confirmation_alone():
    """Unlucky in the screening, as usual in the confirmation: the same, whatever the screening said."""
    screening = Stage({"a": times(1, runs=4)}, {"a": times(2, 1.05, runs=4)}, {"a": times(3, runs=4)})
    confirmation = Stage({"a": times(4)}, {"a": times(5)}, {"a": times(6)})
    (head,), (control,) = protocol.verdicts(screening, confirmation, Settings())
    assert (head.verdict, control.verdict) == (Verdict.SAME, Verdict.SAME)
    (head,), _ = protocol.verdicts(
        screening, Stage({"a": times(4)}, {"a": times(5, 1.05)}, {"a": times(6)}), Settings()
    )
    assert head.verdict is Verdict.SLOWER


def test_a_failure_in_the_screening_stays_one():
    """It has no time to confirm."""
    failed = Repeated(failures=[("CRASHED", "signal 11")])
    screening = Stage({"a": times(1), "b": times(2)}, {"a": failed, "b": times(3)}, {"a": times(4), "b": times(5)})
    confirmation = Stage({"a": times(6)}, {"a": times(7)}, {"a": times(8)})
    head, _ = protocol.verdicts(screening, confirmation, Settings())
    assert [case.verdict for case in head] == [Verdict.FAILED, Verdict.SAME]


def test_streams_are_measured_where_they_belong(tmp_path):
    calls = []

    def measure(folder, output, cases=()):
        calls.append((folder, output.parent.name, tuple(cases)))
        output.parent.mkdir(parents=True, exist_ok=True)
        rows = [results_files.row()]
        rows[0]["samples_ms"] = [random.random() for _ in range(5)]
        results_files.write(output, rows)

    folders = {BASE: Path("b"), HEAD: Path("h"), CONTROL: Path("b")}
    found = protocol.measure_rounds(measure, folders, tmp_path / "stage", range(2), lambda _: None, ["id"])
    assert [side.runs for side in found.values()] == [2, 2, 2]
    assert {(folder, stream) for folder, stream, _ in calls} == {(folders[stream], stream) for stream in STREAMS}
    assert {cases for *_, cases in calls} == {("id",)}


def invented(speeds, seed=0):
    """Measures cases of 1 ms, which take a stream so many times as long, without a process; and what it measured."""
    source, calls = random.Random(seed), []

    def measure(folder, output, cases=()):
        number, stream = int(output.stem), output.parent.name
        calls.append((number, stream, tuple(cases)))
        output.parent.mkdir(parents=True, exist_ok=True)
        rows = []
        for name in cases or speeds:
            factor = speeds[name].get(stream, 1.0)
            median = source.gauss(1, speeds[name].get("spread", 0.001)) * factor
            samples = [median * source.gauss(1, 1e-4) for _ in range(5)]
            rows.append({**results_files.row(), "case": name, "samples_ms": samples})
        results_files.write(output, rows)

    return measure, calls


def measured_rounds(calls, name):
    return len({number for number, _, cases in calls if name in cases})


@pytest.mark.parametrize("seed", range(5))
def test_a_suspect_is_measured_as_long_as_that_may_decide_something(tmp_path, seed):
    """What leans to the end, what was bad luck for four rounds; all suspects stand in the verdict."""
    speeds = {"slow": {HEAD: 1.03}, "fast": {HEAD: 0.97}, "unsteady": {CONTROL: 1.05}, "same": {}, "twitchy": {}}
    speeds["twitchy"]["spread"] = 0.004  # within the threshold, in the middle of some runs
    measure, calls = invented(speeds, seed)
    folders = dict.fromkeys(STREAMS, tmp_path)
    started = []
    stage = protocol.confirm(
        measure, folders, tmp_path / "c", {name: name for name in speeds}, Settings(), started.append
    )
    rounds = {name: measured_rounds(calls, name) for name in speeds}
    assert [rounds[name] for name in ("slow", "fast", "unsteady", "same")] == [12, 12, 12, 4]
    assert rounds["twitchy"] < 12
    assert started == [stream for _, stream, _ in calls]
    assert [number for number, _, _ in calls] == sorted(number for number, _, _ in calls)
    assert {name: len(case.samples_ms) for name, case in stage.head.items()} == rounds
    head, control = protocol.verdicts(stage, stage, Settings())
    assert {case.case: case.verdict for case in head} == {
        "slow": Verdict.SLOWER,
        "fast": Verdict.FASTER,
        **dict.fromkeys(("unsteady", "same"), Verdict.SAME),
        "twitchy": next(case.verdict for case in head if case.case == "twitchy"),
    }
    assert [case.case for case in control if case.verdict is Verdict.SLOWER] == ["unsteady"]


def test_no_process_runs_once_no_suspect_is_left(tmp_path):
    measure, calls = invented({"a": {}, "b": {}})
    protocol.confirm(
        measure, dict.fromkeys(STREAMS, tmp_path), tmp_path / "c", {"a": "a", "b": "b"}, Settings(), lambda _: None
    )
    assert len(calls) == 3 * protocol.LOOK_AFTER


def of(*medians_ms):
    return Repeated(samples_ms=[(each,) for each in medians_ms])


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ((1.02, 1.03, 1.02, 1.03), True),
        ((0.97, 0.98, 0.97, 0.98), True),
        ((1.005, 1.005, 1.005, 1.005), False),  # slower in every pair, and by less than what counts
        ((1.5, 0.7, 1.5, 0.7), False),  # noise beyond all thresholds
        ((1.5, 1.5, 1.5, 0.7), True),  # three of four
        ((1.5, 1.5, 1.0, 0.7), False),
    ],
)
def test_a_side_leans_where_it_is_beyond_the_threshold_and_pairs_of_runs_agree(other, expected):
    assert protocol.leans(of(1.0, 1.001, 0.999, 1.0), of(*other), 0.01) is expected


def test_a_suspect_that_fails_when_it_is_measured_again_is_not_waited_for():
    failed = Repeated(failures=[("CRASHED", "signal 11")])
    assert not protocol.undecided("a", Stage({"a": times(1)}, {"a": failed}, {"a": times(2)}), Settings())
    assert not protocol.undecided("a", Stage({"a": failed}, {"a": times(1)}, {"a": times(2)}), Settings())
    assert protocol.undecided("a", Stage({"a": times(1)}, {"a": failed}, {"a": times(2, 1.1)}), Settings())


def test_nothing_is_confirmed_of_cases_that_cannot_fail_the_gate(tmp_path):
    """A case under 50 us that looks slower is reported from the screening, and costs no process more."""
    speeds = {"short": {HEAD: 1.2}, "chosen": {HEAD: 1.2}, "same": {}}
    measure, calls = invented({name: {**own, "spread": 1e-4} for name, own in speeds.items()})
    settings = Settings(advisory=("chosen",))
    sides = [Checkout(name, "0" * 40, tmp_path) for name in ("base", "head")]

    def shorter(folder, output, cases=()):
        measure(folder, output, cases)
        document = json.loads(output.read_text())
        for one in document["benchmarks"]:
            if one["extra_info"]["halobench"]["case"] == "short":
                one["stats"]["data"] = [sample / 25 for sample in one["stats"]["data"]]
        output.write_text(json.dumps(document))

    with Display() as shown:
        outcome = ab(*sides, shorter, tmp_path / "results", settings, shown)
    assert len(calls) == 3 * protocol.SCREENING_ROUNDS
    assert outcome.status == 0
    assert "measured in the screening alone, where they looked changed: 2 advisory cases" in outcome.notes


@pytest.mark.parametrize(("disturbed", "expected"), [(5, True), (6, False)])
def test_a_suspect_that_will_be_disturbed_whatever_follows_is_dropped(disturbed, expected):
    """Six of twelve runs of the base; its head is far off."""
    base = times(1, runs=6)
    base.disturbed = ["load 4.0 on 2 cores"] * disturbed
    stage = Stage({"a": base}, {"a": times(2, 2.0, runs=6)}, {"a": times(3, runs=6)})
    assert protocol.undecided("a", stage, Settings()) is expected
    (judged,), _ = protocol.verdicts(stage, stage, Settings())
    assert judged.verdict is Verdict.DISTURBED


@pytest.mark.parametrize(("quiet_runs", "processes"), [(0, 0), (1, 18)])
def test_what_a_busy_machine_spoils_is_not_measured_again(tmp_path, quiet_runs, processes):
    """As long as every run of the base is disturbed, further ones would be; what was measured is inconclusive.

    Else the suspect is measured again until six of twelve runs are disturbed.
    """
    measure, calls = invented({"a": {HEAD: 1.3, "spread": 1e-4}})
    sides = [Checkout(name, "0" * 40, tmp_path) for name in ("base", "head")]
    busy = {"average": 4.0, "cores": 2, "disturbed": True, "by": "others kept 1.3 cores busy"}

    def disturbed(folder, output, cases=()):
        measure(folder, output, [case.rpartition("::")[2] for case in cases])
        document = json.loads(output.read_text())
        if "screening" not in output.parts or int(output.stem) >= quiet_runs:
            document["benchmarks"][0]["extra_info"]["halobench"]["load"] = busy
        output.write_text(json.dumps(document))

    with Display() as shown:
        outcome = ab(*sides, disturbed, tmp_path / "results", Settings(), shown)
    assert len(calls) - 3 * protocol.SCREENING_ROUNDS == processes
    assert outcome.status == 3
    said = "measured in the screening alone, where they looked changed and every run of the base was disturbed: 1 case"
    assert (said in outcome.notes) == (not processes)
