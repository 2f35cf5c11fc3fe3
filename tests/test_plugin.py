"""Real runs of the suites from the command line: what they write, what they refuse, and what survives a kill."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from halobench.cases.options import Options
from halobench.machine.ceilings import OF_THE_JOB
from halobench.measure import refusal
from halobench.measure.refusal import check_results_path
from halobench.records import table as results
from tests import forked, third_party
from tests.other_readers import bencher, github_action_benchmark

ROOT = Path(__file__).parent.parent
TIMEOUT_S = 90
OPERATOR, LAYER = "suites/bench_operator.py", "suites/bench_layer.py"
TINY = ("-k", "b8h3-16x16-n1x4", "--device", "cpu")  # one problem, both directions

ATTEND = "from halobench import formula\ndef attend(query, key, value, relative, geometry):\n"
RIGHT = "    return formula.attend(query, key, value, relative, geometry)\n"
WAIT = """
import os, time
from pathlib import Path
place = Path(os.environ["WAITING_PLACE"])
(place / f"{__name__}.pid").write_text(str(os.getpid()))
while not (place / __name__).exists():
    time.sleep(0.05)
"""
BACKENDS = {
    "wrong": ATTEND + RIGHT.replace("return", "return 1.5 *"),
    "missing": "import a_package_that_nobody_has\n",
    "broken": "from torch import a_name_that_torch_lacks\n",
    # They wait in the worker, at their first call.
    "waits": ATTEND + f"    exec(compile({WAIT!r}, '', 'exec'), {{'__name__': 'waits'}})\n" + RIGHT,
    "waits_too": ATTEND + f"    exec(compile({WAIT!r}, '', 'exec'), {{'__name__': 'waits_too'}})\n" + RIGHT,
}


@pytest.fixture(scope="module")
def environment(tmp_path_factory, known_ceilings):
    """The environment of a user on a machine without a GPU, with another package's backends installed."""
    folder = tmp_path_factory.mktemp("packages")
    third_party.install(folder, BACKENDS)
    own = {"PYTHONPATH": third_party.python_path(folder), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COLUMNS"))}
    own |= {"WAITING_PLACE": str(folder), "PYTHONWARNINGS": "default::ResourceWarning"}
    return {**kept, **own, OF_THE_JOB: str(known_ceilings)}


# Other people's take a second to import.
PLUGINS = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-p", "no:anyio")


def command(*arguments):
    return [sys.executable, "-m", "pytest", *PLUGINS, *map(str, arguments)]


@pytest.fixture(scope="module")
def run(environment):
    """Run pytest in the root of the repository."""

    def run(*arguments):
        done = forked.run_pytest([*PLUGINS, *map(str, arguments)], ROOT, environment, TIMEOUT_S)
        assert "ResourceWarning" not in done.stderr
        return done

    return run


@pytest.fixture(scope="module")
def run_as_users_do(environment):
    """The same in an interpreter that starts from nothing, which takes longer."""

    def run(*arguments, optimize=False, **changes):
        whole = command(*arguments)
        done = subprocess.run(
            [whole[0], "-O", *whole[1:]] if optimize else whole,
            cwd=ROOT, env=environment | changes, capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
        )  # fmt: skip
        assert "ResourceWarning" not in done.stderr
        return done

    return run


def cases(path):
    """The cases of a results file that have a time, by name without the suite, in order."""
    benchmarks = json.loads(path.read_text())["benchmarks"]
    return {each["extra_info"]["halobench"]["case"].partition("/")[2]: each for each in benchmarks}


@pytest.fixture(scope="module")
def measured(run_as_users_do, tmp_path_factory):
    """One run with successes and failures of all kinds, written and saved."""
    folder = tmp_path_factory.mktemp("measured")
    file = folder / "a new one" / "mine.json"
    saved = ("--benchmark-save=first", "--benchmark-save-data", f"--benchmark-storage={folder / 'saved'}")
    chosen = ("--backends", "conv,sdpa,wrong,missing,broken")
    done = run_as_users_do(OPERATOR, *TINY, *chosen, f"--benchmark-json={file}", *saved, **{OF_THE_JOB: ""})
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout + done.stderr
    return done, file, folder / "saved"


POINT = "b8h3-16x16-n1x4-d16e16-float32"


def test_other_services_read_the_file(measured):
    """Failures beside it, and whatever the run found out: Bencher and github-action-benchmark see the four times."""
    _, file, _ = measured
    assert len(bencher(file.read_text())) == len(github_action_benchmark(file.read_text())) == 4


def test_the_file_holds_the_samples_and_the_rows(measured):
    _, file, _ = measured
    found = cases(file)
    assert list(found) == [
        f"{backend}/{direction}/{POINT}" for backend in ("conv", "sdpa") for direction in ("forward", "training")
    ]
    for name, benchmark in found.items():
        row = benchmark["extra_info"]["halobench"]
        assert (row["status"], row["problem"]["height"], row["device"]) == ("OK", 16, "cpu")
        assert benchmark["stats"]["rounds"] == len(benchmark["stats"]["data"]) >= 5
        assert 1e3 * benchmark["stats"]["median"] == pytest.approx(row["latency"]["median_ms"])
        assert "samples_ms" not in row
        assert name in benchmark["name"]
        assert benchmark["params"]["case"]


def test_failures_stand_in_the_file(measured):
    """With their status and their reason: a skip for what is missing, a failure for what is wrong."""
    done, file, _ = measured
    failures = json.loads(file.read_text())["halobench"]["failures"]
    found = {(failure["backend"], failure["direction"]): failure["status"] for failure in failures}
    statuses = {"wrong": "INCORRECT", "missing": "MISSING", "broken": "CRASHED"}
    assert found == {(name, way): status for name, status in statuses.items() for way in ("forward", "training")}
    assert all(failure["reason"] for failure in failures)
    assert "4 failed, 4 passed, 2 skipped" in done.stdout
    assert "INCORRECT: output is off by 0.5, allowed" in done.stdout
    assert "CRASHED: ImportError: cannot import name 'a_name_that_torch_lacks'" in done.stdout
    assert "MISSING: needs the package a_package_that_nobody_has, which is not installed" in done.stdout


def test_the_file_says_what_holds_for_the_run(measured):
    done, file, _ = measured
    document = json.loads(file.read_text())
    section = document["halobench"]
    assert section["tier"] == "smoke"
    assert section["options"]["backends"] == ["conv", "sdpa", "wrong", "missing", "broken"]
    assert section["fingerprint"]["gpu"] is None
    assert section["ceilings"]["device"] == "cpu"
    assert section["harness"]["measured_s"] > 0
    assert "node" not in document["machine_info"]
    assert f"results: {file}" in done.stdout
    assert f"python -m halobench.plot '{file}'" in done.stdout  # what is pasted into a shell is one word
    assert list(file.parent.iterdir()) == [file]  # the journal has done its duty


def test_results_reads_the_file(measured):
    _, file, _ = measured
    read = results.read(file)
    assert sorted(read.table["status"].value_counts().items()) == [
        ("CRASHED", 2), ("INCORRECT", 2), ("MISSING", 2), ("OK", 4)
    ]  # fmt: skip
    assert read.headers["mine.json"].complete
    times = read.table[read.table["status"] == "OK"]
    assert (times["samples"] >= 5).all()
    assert (times["median_ms"] > 0).all()
    assert read.table[read.table["status"] != "OK"]["median_ms"].isna().all()


def test_the_run_is_summed_up_below_the_table(measured):
    done, _, _ = measured
    assert 0 < done.stdout.index("- benchmark: ") < done.stdout.index("= halobench =")
    assert "the harness itself" in done.stdout


def test_progress_is_plain_lines(measured):
    done, _, _ = measured
    lines = [line for line in done.stderr.splitlines() if "min left]" in line]
    assert [line.partition(",")[0] for line in lines] == [f"[{number}/10" for number in range(1, 11)]
    assert f"conv/forward/{POINT}: " in lines[0]


def test_pytest_benchmark_compares_saved_runs(measured):
    _, _, storage = measured
    (saved,) = storage.rglob("*_first.json")
    assert results.read(saved).table["status"].eq("OK").sum() == 4
    compare = subprocess.run(
        [Path(sys.executable).parent / "pytest-benchmark", f"--storage={storage}", "compare", "*first*"],
        cwd=storage,  # in a checkout pytest's options make it import PyTorch
        capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    assert compare.returncode == 0, compare.stderr
    assert f"conv/forward/{POINT}" in compare.stdout


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"device": "tpu"}, "--device must be cpu or cuda, got 'tpu'"),
        ({"device": "cuda"}, "--device cuda: torch sees no CUDA device on this machine"),
        ({"tier": "huge"}, "--tier must be one of smoke, default, full, got 'huge'"),
        ({"dtype": "float64"}, "--dtype must be bfloat16, float16 or float32, got 'float64'"),
        ({"batch": 0}, "--batch must be at least 1, got 0"),
        ({"names": ""}, "--backends must name at least one backend, got ''"),
        ({"names": " , "}, "--backends must name at least one backend, got ' , '"),
        ({"names": "conv, nonsense"}, "--backends: no backend is called 'nonsense'; there are compiled, conv, "),
    ],
)
def test_choices_that_cannot_be(monkeypatch, choice, message):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    defaults = dict.fromkeys(("tier", "names", "device", "dtype", "batch"))
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        Options.choose(**defaults | choice)


def test_results_paths_that_cannot_be(tmp_path):
    with pytest.raises(pytest.UsageError, match="must name a file, got the folder"):
        check_results_path(tmp_path)
    with pytest.raises(pytest.UsageError, match=r"must not end in \.jsonl, as its journal does"):
        check_results_path(tmp_path / "mine.jsonl")
    check_results_path(tmp_path / "mine.json")
    check_results_path(None)


REFUSED = {
    "--backends conv,nonsense": "--backends: no backend is called 'nonsense'; there are broken, compiled, conv, ",
    "--tier huge": "--tier: invalid choice: 'huge'",
    "--benchmark-json=mine.jsonl": "--benchmark-json must not end in .jsonl, as its journal does, got 'mine.jsonl'",
    "--backends=": "--backends must name at least one backend, got ''",
    "-p no:benchmark": "halobench needs the pytest plugin pytest-benchmark: drop -p no:benchmark",
}


def test_runs_that_measure_nothing(run, tmp_path):
    """Bad options give one error and status 4; ``--help`` shows ours, ``--collect-only`` the cases."""
    unwanted = tmp_path / "unwanted.json"
    argument_lists = [
        *([OPERATOR, *TINY, *option.split()] for option in REFUSED),
        ["--help"],
        [OPERATOR, *TINY, "--backends=sdpa", "--collect-only", "-q", f"--benchmark-json={unwanted}"],
    ]
    *refusals, shown, collected = (run(*arguments) for arguments in argument_lists)
    for done, (option, message) in zip(refusals, REFUSED.items(), strict=True):
        assert done.returncode == pytest.ExitCode.USAGE_ERROR, option
        assert message in done.stderr
        assert done.stderr.count("ERROR:") == 1
        assert "Traceback" not in done.stderr + done.stdout
    assert shown.returncode == 0
    assert "halobench (pytest suites/):" in shown.stdout
    for option in ("--tier", "--backends", "--device", "--dtype", "--batch", "--hot", "--resume"):
        assert f"  {option}" in shown.stdout
    assert collected.returncode == 0
    listed = [line for line in collected.stdout.splitlines() if "::" in line]
    assert listed == [f"{OPERATOR}::bench_operator[sdpa/{way}/{POINT}]" for way in ("forward", "training")]
    assert not unwanted.exists()


def test_without_times_every_case_is_checked(run, tmp_path):
    file = tmp_path / "mine.json"
    done = run(LAYER, *TINY, "--backends=conv,wrong", "--benchmark-disable", f"--benchmark-json={file}")
    assert done.returncode == pytest.ExitCode.TESTS_FAILED
    assert "2 failed, 2 passed" in done.stdout
    assert f"conv/training/{POINT}-c64: correct" in done.stderr
    assert "wrong/forward" in done.stdout
    assert "INCORRECT: output is off by 0.5" in done.stdout
    assert f"nothing was timed: {file} was not written" in done.stdout
    assert "halobench.plot" not in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--dist=load", "-n1"])
@pytest.mark.fault
def test_cases_are_not_measured_under_xdist(run, tmp_path, option):
    """It switches pytest-benchmark off: what was measured would stand nowhere, and yesterday's file be overwritten."""
    file = tmp_path / "mine.json"
    file.write_text("what was measured yesterday")
    done = run(OPERATOR, *TINY, "--backends=conv", f"--benchmark-json={file}", option)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    said = "cases are measured one at a time, never by pytest-xdist: leave out -n and --dist"
    assert (done.stdout + done.stderr).count(said) == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert "INTERNALERROR" not in done.stdout + done.stderr
    assert file.read_text() == "what was measured yesterday"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.fault
def test_cases_are_not_measured_where_xdist_has_left_its_variable(run, environment, monkeypatch, tmp_path):
    monkeypatch.setitem(environment, "PYTEST_XDIST_WORKER", "gw0")
    file = tmp_path / "mine.json"
    done = run(OPERATOR, *TINY, "--backends=conv", f"--benchmark-json={file}")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "never by pytest-xdist: unset PYTEST_XDIST_WORKER, which is 'gw0'" in done.stderr
    assert list(tmp_path.iterdir()) == []
    listed = run(OPERATOR, *TINY, "--backends=conv", "--collect-only", "-q")
    assert listed.returncode == 0


@pytest.mark.parametrize("missing", ["pygal", "pygaljs"])
def test_a_histogram_that_cannot_be_drawn_is_refused_first(monkeypatch, missing):
    """pytest-benchmark would say so after everything was measured, and take the summary along."""
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == missing else found("json"))
    chosen = {"benchmark_json": None, "benchmark_histogram": [None]}
    with pytest.raises(pytest.UsageError, match=r"needs pygal: pip install 'pytest-benchmark\[histogram\]'"):
        refusal.check_options(SimpleNamespace(getoption=chosen.get))
    chosen["benchmark_histogram"] = []
    refusal.check_options(SimpleNamespace(getoption=chosen.get))


OVERWRITE = """
import pytest
@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(output_json):
    del output_json["benchmarks"][1:]
"""


@pytest.mark.fault
def test_rows_that_another_plugin_keeps_from_the_file_stay_in_the_journal(run, run_as_users_do, environment, tmp_path):
    """Under ``python -O``, too, which runs no assertion."""
    (Path(environment["WAITING_PLACE"]) / "takes_rows_away.py").write_text(OVERWRITE)
    file, journal = tmp_path / "mine.json", tmp_path / "mine.jsonl"
    done = run(OPERATOR, *TINY, "--backends=conv", f"--benchmark-json={file}", "-p", "takes_rows_away")
    assert done.returncode == 0
    assert f"{file} lacks 1 row, which {journal} holds" in done.stdout
    assert len(rows(journal)) == 2
    again = run_as_users_do(OPERATOR, *TINY, "--backends=conv", f"--benchmark-json={file}", "--resume", optimize=True)
    assert again.returncode == 0, again.stdout
    assert len(cases(file)) == 2
    assert not journal.exists()


def test_a_run_that_names_no_file_keeps_its_rows_and_does_not_block_the_next(run, tmp_path):
    left = ("-c", tmp_path / "pytest.ini", f"--rootdir={tmp_path}")
    (tmp_path / "pytest.ini").write_text(
        f"[pytest]\npython_files = bench_*.py\npython_functions = bench_*\npythonpath = {ROOT}/suites\n"
        "addopts = -p halobench.measure.pytest_plugin\n"
    )
    for kept in (["halobench.jsonl"], ["halobench-1.jsonl", "halobench.jsonl"]):
        done = run(ROOT / OPERATOR, *TINY, "--backends=conv", *left)
        assert done.returncode == 0, done.stdout + done.stderr
        folder = tmp_path / ".benchmarks"
        assert f"without --benchmark-json all rows are in {folder / 'halobench.jsonl'}" in done.stdout
        assert sorted(path.name for path in folder.glob("*.jsonl")) == kept
        assert all(len(rows(path)) == 2 for path in folder.glob("*.jsonl"))


def test_a_run_without_a_single_time_still_writes_its_file(run, tmp_path):
    """Of itself pytest-benchmark writes none then."""
    file = tmp_path / "mine.json"
    done = run(OPERATOR, *TINY, "--backends=missing", f"--benchmark-json={file}")
    assert done.returncode == 0
    assert "2 skipped" in done.stdout
    assert list(tmp_path.iterdir()) == [file]
    table = results.read(file).table
    assert list(table["status"]) == ["MISSING"] * 2
    assert list(table["samples"].fillna(0)) == [0, 0]


@pytest.fixture
def start(environment):
    """Start pytest, and end it whatever happens."""
    started = []

    def start(*arguments):
        process = subprocess.Popen(
            command(*arguments),
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            # Where these tests run in the background, SIGINT is ignored, and children would inherit that.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no threads here
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def wait_for(condition, process=None):
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None, process.communicate()[0]
        time.sleep(0.05)


def is_gone(pid):
    """Whether a process has ended, reaped or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def rows(journal):
    return [json.loads(line) for line in journal.read_text().splitlines()[1:]]


@pytest.mark.fault
def test_a_run_that_is_stopped_and_killed_goes_on(environment, start, run, tmp_path):
    """Ctrl-C in the third case, a kill in the fifth, and what was measured is never measured again."""
    place = Path(environment["WAITING_PLACE"])
    file, journal = tmp_path / "mine.json", tmp_path / "mine.jsonl"
    chosen = (OPERATOR, *TINY, "--backends=conv,waits,waits_too", f"--benchmark-json={file}")

    process = start(*chosen)
    wait_for((place / "waits.pid").exists, process)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == pytest.ExitCode.INTERRUPTED
    assert "the same command with --resume goes on" in said
    assert list(results.read(file).table["backend"]) == ["conv", "conv"]
    first = rows(journal)
    assert [row["backend"] for row in first] == ["conv", "conv"]

    refused = run(*chosen)
    assert refused.returncode == 2
    assert "holds 2 rows of a run that did not finish: go on with --resume, or delete the file" in refused.stdout
    assert rows(journal) == first

    (place / "waits").touch()
    process = start(*chosen, "--resume")
    wait_for((place / "waits_too.pid").exists, process)
    process.kill()
    process.communicate(timeout=TIMEOUT_S)
    second = rows(journal)
    assert second[:2] == first
    assert [row["backend"] for row in second] == ["conv", "conv", "waits", "waits"]
    wait_for(lambda: is_gone((place / "waits_too.pid").read_text()))  # no worker is left behind on the device

    (place / "waits_too").touch()
    done = run(*chosen, "--resume")
    assert done.returncode == 0, done.stdout
    assert not journal.exists()
    found = cases(file)
    assert len(found) == 6
    for row in second:
        benchmark = found[row["case"].partition("/")[2]]
        samples = row.pop("samples_ms")
        assert benchmark["stats"]["data"] == pytest.approx([sample / 1e3 for sample in samples])
        kept = benchmark["extra_info"]["halobench"]
        # Floors are settled at the end, under the ceilings that all cases of the run left; their passes are measured.
        assert {**kept, "floor": kept["floor"]["passes"]} == {**row, "floor": row["floor"]["passes"]}
    assert results.read(file).headers["mine.json"].complete
