"""The doctor names what is wrong and the remedy; the list shows what there is, and predicts least times."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from halobench import backends, doctor, listing
from halobench.__main__ import main
from halobench.attention.geometry import Geometry
from halobench.attention.problem import Problem
from halobench.cases.case import Case
from halobench.cases.options import Options
from halobench.machine.load import Load, judged
from halobench.records.roofline import Ceilings
from tests import third_party

CEILINGS = Ceilings("cpu", "float32", 1e10, 1e11, 1e9)


def findings(found):
    return {finding.what: finding for finding in found}


def a_gpu(**changes):
    good = {
        "driver": "570.1", "sm_mhz": 1980, "throttles": [], "persistence": True, "processes": [], "joules": 1.0,
        "max_mhz": lambda _: 1980, "sliced": False,
    }  # fmt: skip
    return SimpleNamespace(**good | changes)


@pytest.fixture
def with_gpu(monkeypatch):
    """A machine with a GPU of which NVML says this."""

    def with_gpu(**changes):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (70 * 2**30, 80 * 2**30))
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(name="Some GPU"))
        monkeypatch.setattr(doctor, "Gpu", lambda _: a_gpu(**changes))
        return findings(doctor.gpu())

    return with_gpu


def test_a_gpu_in_good_health(with_gpu):
    found = with_gpu()
    assert {finding.state for finding in found.values()} == {"good"}
    assert found["GPU"].said == "Some GPU, 70.0 of 80.0 GiB free"


@pytest.mark.parametrize(
    ("changes", "what", "state", "said"),
    [
        ({"driver": None}, "NVML", "limited", "no clocks, throttling or energy"),
        ({"sm_mhz": None}, "clocks", "limited", "cannot be read"),
        ({"throttles": ["power cap"]}, "throttling", "limited", "held down by power cap"),
        ({"persistence": False}, "persistence", "limited", "off"),
        ({"processes": [4242]}, "other processes", "bad", "1 program on this GPU: pid 4242"),
        ({"processes": None}, "other processes", "limited", "cannot be listed"),
        ({"joules": None}, "energy", "limited", "no energy counter"),
    ],
)
def test_what_spoils_a_measurement_is_named(with_gpu, changes, what, state, said):
    finding = with_gpu(**changes)[what]
    assert finding.state == state
    assert said in finding.said
    assert finding.remedy or what == "energy"  # for which there is none


def test_of_a_slice_it_is_said_what_rows_lack(with_gpu):
    slice_ = {"sliced": True, "joules": None, "persistence": None}
    found = with_gpu(**slice_, sm_mhz=None, throttles=None)
    assert found["MIG"].said.endswith("of which NVML does not say: energy, power limit, clock, throttling")
    assert "nvidia-smi -mig 0" in found["MIG"].remedy
    assert set(found) == {"GPU", "MIG", "driver", "other processes"}
    found = with_gpu(**slice_, processes=None)
    assert found["MIG"].said.endswith(": energy, power limit, others on it")
    assert set(found) == {"GPU", "MIG", "driver"}
    found = with_gpu(**slice_, driver=None)
    assert "which one cannot be told" in found["MIG"].said
    assert "CUDA_VISIBLE_DEVICES=MIG-" in found["MIG"].remedy
    assert set(found) == {"GPU", "MIG"}


def test_a_machine_without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (finding,) = doctor.gpu()
    assert (finding.state, finding.remedy) == ("limited", "unset CUDA_VISIBLE_DEVICES, which is ''")


@pytest.mark.parametrize(("cores", "threads", "said"), [(1, 1, "1 core, 1 thread"), (8, 4, "8 cores, 4 threads")])
def test_cores_and_threads_are_counted(monkeypatch, cores, threads, said):
    monkeypatch.setattr(doctor, "affinity", lambda: cores)
    monkeypatch.setattr(doctor.Cgroup, "processors", lambda _: float(cores))
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert doctor.processor().said.endswith(f", {said}")


@pytest.mark.parametrize(("others", "state"), [(0.0, "good"), (3.5, "limited")])
def test_load(monkeypatch, others, state):
    seen = Load(4.6, 4.0, others, 0.0, 0.0, None, None, None, None, None)
    monkeypatch.setattr(doctor, "watch", lambda *_: judged(seen, 4, 4.0))
    found = doctor.load()
    assert found.state == state
    assert found.said.startswith("load 4.6 on 4 cores")


def test_a_container_is_named(monkeypatch):
    monkeypatch.setattr(doctor, "affinity", lambda: 2)
    monkeypatch.setattr(doctor.Cgroup, "processors", lambda _: 0.5)
    monkeypatch.setattr(doctor.Cgroup, "memory_limit", lambda _: 6 * 2**30)
    found = findings(doctor.examine())
    assert "2 cores, of which the container may use 0.5, 1 thread" in found["processor"].said
    assert "of 6.0 GiB that the container may use" in found["memory"].said


def test_a_missing_package_and_a_broken_backend(monkeypatch, tmp_path):
    third_party.install(tmp_path, {"missing": "import a_package_that_nobody_has", "broken": "1 / 0"})
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(doctor, "TOOLS", {"a_package_that_nobody_has": ("nothing", "pip install it")})
    found = findings(doctor.packages())
    assert found["a_package_that_nobody_has"].remedy == "pip install it"
    assert found["backend missing"].remedy == "pip install a_package_that_nobody_has"
    assert found["backend broken"].state == "bad"
    states = {name: state for name, state, _ in listing.states()}
    assert (states["missing"], states["broken"], states["sdpa"]) == ("missing", "broken", "ready")


def test_a_remedy_can_be_pasted_into_a_shell(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name="a package; ls")

    monkeypatch.setattr(doctor.backends, "load", missing)
    assert doctor.backend("any")[2] == "pip install 'a package; ls'"


def test_the_doctor_runs_here(capsys):
    status = main(["doctor"])
    said = capsys.readouterr().out
    assert status == int(bool(re.search("^bad ", said, re.MULTILINE)))
    assert re.search(r"^good +PyTorch: ", said, re.MULTILINE)
    assert re.search(r"\d+ good", said.splitlines()[-1])


def test_the_list(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")  # of a pipe, nothing is wrapped
    assert main(["list", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    for name in backends.names():
        assert re.search(rf"^{name} +\w+ ", said, re.MULTILINE)
    assert re.search(rf"^sdpa +ready +{re.escape(backends.load('sdpa').summary)} *$", said, re.MULTILINE)
    found = re.findall(r"^(operator|layer) +(\w+) +(\d+)", said, re.MULTILINE)
    counts = {(suite, tier): int(count) for suite, tier, count in found}
    assert 0 < counts["operator", "smoke"] < counts["operator", "default"] < counts["operator", "full"]
    assert "halonet_h0" in said


def test_without_suites_all_else_is_listed(capsys, monkeypatch, tmp_path):
    """As where only the wheel is installed; asked for suites alone, there is nothing to say but that."""
    monkeypatch.chdir(tmp_path)
    assert main(["list", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "\nno suites (bench_*.py) in suites: run it in the root of a checkout" in said
    assert "\nsdpa " in said
    assert "\nhalobench.train" in said
    assert main(["list", "suites", "--device", "cpu"]) == 2


def test_the_cases_with_predictions(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")  # of a pipe, nothing is wrapped
    assert main(["list", "cases", "--device", "cpu", "--backends", "conv", "--tier", "smoke"]) == 0
    lines = capsys.readouterr().out.splitlines()[2:]
    options = Options.choose("smoke", "conv", "cpu", None, None)
    assert len(lines) == len(list(listing.cases(listing.suites(Path("suites")), options)))
    predicted = re.compile(r"(operator|layer)/conv/(forward|training)/\S+ +[\d.e-]+ +[\d.e+]+ *$")
    network = re.compile(r"(training|detection)/\w+/(forward|training)/\S+ +- +- *$")  # no account of whole networks
    assert all(predicted.match(line) or network.match(line) for line in lines)
    assert any(map(predicted.match, lines))


def test_a_prediction_is_the_executed_work_at_the_best_rates():
    problem = Problem(Geometry(4, 1), 16, 16, heads=2)
    backend = backends.load("strided_gather")
    execution = backend.execution(problem)
    predicted = listing.predict(Case("operator", "strided_gather", problem, "forward", "cpu"), CEILINGS)
    least = max(execution.forward_flops / 1e11, execution.forward_exponentials / 1e9) * 1e3
    assert predicted.ms >= least
    assert predicted.peak_bytes > 4 * execution.stored


def test_no_prediction_without_an_account(monkeypatch, tmp_path):
    third_party.install(tmp_path, {"silent": "def attend(*given):\n    raise AssertionError\n"})
    monkeypatch.syspath_prepend(tmp_path)
    case = Case("operator", "silent", Problem(Geometry(4, 1), 8, 8), "forward", "cpu")
    assert listing.predict(case, CEILINGS) == listing.Prediction(None, None)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["list", "--suites", "docs"], "no suites (bench_*.py) in docs: run it in the root of a checkout"),
        (["list", "--suites", "docs", "suites"], "no suites (bench_*.py) in docs: run it in the root of a checkout"),
        (["list", "--backends", "nonsense"], "--backends: no backend is called 'nonsense'; there are "),
    ],
)
def test_what_cannot_be_gets_one_line(capsys, arguments, said):
    assert main(arguments) == 2
    found = capsys.readouterr()
    assert found.err.startswith(f"halobench: {said}")
    assert found.err.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--help"], ["list", "--help"], ["doctor", "--help"]])
def test_help(capsys, arguments):
    with pytest.raises(SystemExit, match="0"):
        main(arguments)
    assert "python -m halobench" in capsys.readouterr().out
