"""Profiles: traces that their viewers load, kernels whose work adds up to the closed form, one sentence at the end."""

import csv
import io
import json
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import redirect_stdout
from types import SimpleNamespace

import pytest
import torch

from halobench import backends
from halobench.attention.geometry import Geometry
from halobench.attention.problem import Problem
from halobench.cases import cost
from halobench.cases.cost import Cost
from halobench.cases.workload import bind
from halobench.machine import ceilings
from halobench.measure.memory import peak_bytes
from halobench.profile.__main__ import main
from halobench.profile.recording import Kernel, Recording, of_gpu, record
from halobench.profile.verdict import verdict
from halobench.profile.work import Work, count, total
from halobench.records.roofline import Ceilings

PROBLEM = Problem(Geometry(4, 1), 16, 16, heads=2)
SIZES = ("--block", "4", "--halo", "1", "--side", "16", "--heads", "2", "--device", "cpu")


@pytest.fixture(scope="module")
def ceilings_once(known_ceilings):
    """Ceilings that were measured before: to measure them takes seconds, and is not what these tests are about."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ceilings.OF_THE_JOB, str(known_ceilings))
        patch.setattr(ceilings, "measure", ceilings.of_the_job)
        yield


@pytest.fixture(scope="module")
def profiled(tmp_path_factory, ceilings_once):
    """Two backends on one problem, as the command does it; the folder and what it said."""
    folder, said = tmp_path_factory.mktemp("its profiles"), io.StringIO()
    with redirect_stdout(said):
        assert main(["strided_gather", "--diff", "sdpa", *SIZES, "--output", str(folder)]) == 0
    return folder, said.getvalue()


def test_the_command_writes_everything_and_ends_with_a_sentence(profiled):
    folder, said = profiled
    assert sorted(path.name for path in folder.iterdir()) == ["sdpa-forward", "strided_gather-forward"]
    for one in folder.iterdir():
        names = sorted(path.name for path in one.iterdir())
        assert names == ["kernels.csv", "memory.csv", "memory.png", "tensorboard", "trace.json"]
    bounds = re.findall(
        r"^(\w+) takes .* a call, .* as long as its floor of .* ms, and is bound by (\w+)", said, re.MULTILINE
    )
    assert [name for name, _ in bounds] == ["strided_gather", "sdpa"]
    assert f"tensorboard --logdir '{folder / 'sdpa-forward' / 'tensorboard'}'" in said  # one word of a shell
    assert {bound for _, bound in bounds} <= {"launches", "memory", "arithmetic", "exponentials"}
    assert re.search(r"^sdpa (is|takes) ([\d.]+ times )?as (fast|long) as strided_gather, with ", said.splitlines()[-1])


def test_the_trace_is_what_perfetto_reads(profiled):
    folder, _ = profiled
    trace = json.loads((folder / "sdpa-forward" / "trace.json").read_text())
    names = {event.get("name") for event in trace["traceEvents"]}
    assert "aten::scaled_dot_product_attention" in names
    assert {f"ProfilerStep#{number}" for number in range(1, 6)} <= names
    assert "sdpa" in names


def test_shares_add_up(profiled):
    folder, _ = profiled
    rows = list(csv.DictReader((folder / "strided_gather-forward" / "kernels.csv").read_text().splitlines()))
    assert sum(float(row["share"]) for row in rows) == pytest.approx(1)
    times = [float(row["ms"]) for row in rows]
    assert times == sorted(times, reverse=True)


@pytest.mark.parametrize("direction", ["forward", "training"])
def test_counted_work_is_the_closed_form(direction):
    backend = backends.load("strided_gather")
    counted = total(count(bind(backend, PROBLEM, "cpu").call(direction)))
    executed = cost.executed(backend, PROBLEM, direction)
    assert counted.flops == executed.flops
    if direction == "forward":
        assert counted.exponentials == executed.exponentials
    assert counted.bytes > cost.least(backend, PROBLEM, direction).bytes


def test_fused_attention_on_a_cpu_is_counted():
    """PyTorch's counters know that of GPUs alone. Two products forward, five backward, scores once in each."""
    query, key, value = (torch.randn(2, 3, pixels, 16, requires_grad=True) for pixels in (8, 20, 20))

    def train():
        torch.nn.functional.scaled_dot_product_attention(query, key, value).sum().backward()

    counted = total(count(train))
    product = 2 * 2 * 3 * 8 * 20 * 16
    assert counted.flops == (2 + 5) * product
    assert counted.exponentials == 2 * 2 * 3 * 8 * 20


def test_the_work_of_kernels_is_that_of_the_call(tmp_path):
    """Every product of the call is found again in a row of the table; so are the bytes, but for a few small copies."""
    call = bind(backends.load("strided_gather"), PROBLEM, "cpu").call("forward")
    call()
    made = record("strided_gather", call, "cpu", tmp_path, 3)
    known = sum((kernel.work for kernel in made.kernels if kernel.work is not None), Work())
    assert known.flops == pytest.approx(made.work.flops)
    assert known.bytes == pytest.approx(made.work.bytes, rel=0.02)
    assert made.peak_bytes == pytest.approx(peak_bytes(call, "cpu"), rel=0.02)


def test_views_and_overlapping_windows_move_nothing_twice():
    base = torch.zeros(1000)
    assert total(count(lambda: base.view(10, 100).transpose(0, 1))).bytes == 0
    windows = base.unfold(0, 500, 1)
    moved = total(count(windows.sum)).bytes
    assert moved == 1000 * 4 + 4


def recording(**changes):
    made = {"loop_ms": 10.0, "kernels": [Kernel("k", 9.0, 3, None)], "work": Work(1, 1, 1), "memory": [(0.0, 0)]}
    return Recording("mine", "cuda", traces=(None, None), **made | changes)


CEILINGS = Ceilings("cuda", "bfloat16", 1e12, 1e14, 1e12)


@pytest.mark.parametrize(
    ("changes", "executed", "bound"),
    [
        ({"kernels": [Kernel("k", 4.0, 300, None)]}, Cost(10**9, 10**9, 0), "launches"),
        ({}, Cost(10**9, 8 * 10**9, 10**6), "memory"),
        ({}, Cost(9 * 10**11, 10**9, 10**6), "arithmetic"),
        ({}, Cost(10**9, 10**6, 7 * 10**9), "exponentials"),
        ({"work": Work(9e9, 1, 1)}, Cost(10**9, 10**6, 0), "memory"),
        ({"work": None}, None, "unknown"),
    ],
)
def test_what_bounds_a_case(changes, executed, bound):
    found = verdict(recording(**changes), executed, 2.0, CEILINGS)
    assert found.bound == bound
    assert found.sentence.startswith("mine takes 10 ms a call, 5 times as long as its floor of 2 ms, and is bound by ")
    assert found.sentence.count(".") == len(re.findall(r"\d\.\d", found.sentence)) + 1


@pytest.mark.usefixtures("ceilings_once")
def test_a_model(tmp_path, capsys):
    arguments = ["resnet50", "--image-side", "32", "--device", "cpu", "--output", str(tmp_path)]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "aten::convolution" in said
    assert "resnet50 takes" in said.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense"], "no backend or model is called 'nonsense'; there are backends "),
        (["timm_halo", *SIZES], "timm's HaloAttn lets padded keys take part: border 'zero' only"),
        (
            ["sdpa", "--nvtx", "--device", "cpu"],
            "--nvtx marks ranges on a GPU's timeline, and there is none on the CPU",
        ),
        (["sdpa", "--block", "0"], "block must be"),
        (["resnet50", "--block", "4"], "--block is for backends, got resnet50"),
        (["resnet50", "--diff", "halonet_h0", "--no-positions"], "--no-positions is for backends, got resnet50 and"),
        (["sdpa", "--image-side", "64"], "--image-side is for models, got sdpa"),
        (["nonsense", "--block", "4"], "no backend or model is called 'nonsense'"),
        (["conv", "--diff", "conv"], "--diff must name another backend or model than what is profiled, got 'conv'"),
    ],
)
def test_what_cannot_be_gets_one_line(tmp_path, capsys, arguments, said):
    assert main([*arguments, "--output", str(tmp_path / "profiles")]) == 2
    found = capsys.readouterr()
    assert found.err.startswith(f"halobench.profile: {said}")
    assert found.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def asked(url, process):
    """The JSON at this address as soon as it is there and not empty."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + 60
    while True:
        assert process.poll() is None, "TensorBoard ended"
        assert time.monotonic() < deadline
        try:
            answer = json.loads(opener.open(url, timeout=10).read())
        except (urllib.error.URLError, ConnectionError, json.JSONDecodeError):
            answer = None
        if answer and answer.get("runs") != [] and not answer.get("loading"):
            return answer
        time.sleep(0.3)


def test_tensorboard_loads_the_trace(profiled):
    """torch-tb-profiler lists the run and finds our operations in it."""
    pytest.importorskip("torch_tb_profiler")
    folder, _ = profiled
    port = free_port()
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder / "sdpa-forward" / "tensorboard")]
    process = subprocess.Popen(
        [*command, "--port", str(port), "--host", "127.0.0.1", "--load_fast", "false"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        plugin = f"http://127.0.0.1:{port}/data/plugin/pytorch_profiler"
        (run,) = asked(f"{plugin}/runs", process)["runs"]
        table = asked(f"{plugin}/operation/table?run={run}&worker=sdpa&span=1&group_by=Operation", process)
        assert "aten::scaled_dot_product_attention" in json.dumps(table)
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["strided_gather", "sdpa", "conv"])
def test_kernels_of_a_gpu(tmp_path, name):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    problem = Problem(Geometry(8, 3), 64, 64, batch=16, heads=4, dtype="bfloat16")
    call = bind(backends.load(name), problem, "cuda").call("training")
    call()
    made = record(name, call, "cuda", tmp_path, 3)
    assert made.kernels
    assert not any(kernel.name.startswith("aten::") for kernel in made.kernels)
    assert made.busy_ms > 0
    assert made.loop_ms > 0
    assert made.peak_bytes == pytest.approx(peak_bytes(call, "cuda"), rel=0.05)
    products = [kernel.work for kernel in made.kernels if kernel.work is not None and kernel.work.flops]
    assert products or name != "strided_gather"  # what the others call may launch several kernels: nobody's work then
    assert made.work is not None
    assert made.work.flops > 0


@pytest.mark.gpu
def test_ranges_for_nsight(tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    assert main(["sdpa", "--nvtx", "--output", str(tmp_path)]) == 0


def event(name, start, end, *, parent=None, kernels=(), device=torch.autograd.DeviceType.CPU, annotation=False):
    """An event as the profiler of a machine with a GPU gives it; times in microseconds."""
    span = SimpleNamespace(start=start, end=end, elapsed_us=lambda: end - start)
    launched = [SimpleNamespace(name=kernel) for kernel in kernels]
    return SimpleNamespace(
        name=name,
        time_range=span,
        cpu_parent=parent,
        kernels=launched,
        device_type=device,
        is_user_annotation=annotation,
    )


def test_kernels_get_the_work_of_the_operation_that_launched_them():
    """Two calls. A kernel launched inside an operation is that operation's; one of several launched has no work."""
    events = []
    for start in (0, 100):
        product = event("aten::bmm", start, start + 10, kernels=["gemm"])
        whole = event("aten::clone", start + 20, start + 40)
        part = event("aten::copy_", start + 25, start + 30, parent=whole, kernels=["copy"])
        several = event("aten::sum", start + 50, start + 60, kernels=["reduce", "reduce_end"])
        stranger = event("triton_launch", start + 70, start + 80, kernels=["triton"])
        events += [product, whole, part, several, stranger]
        for name, us in {"gemm": 40, "copy": 20, "reduce": 6, "reduce_end": 2, "triton": 8}.items():
            events.append(event(name, start, start + us, device=torch.autograd.DeviceType.CUDA))
        events.append(event("mine", start, start + 90, device=torch.autograd.DeviceType.CUDA, annotation=True))
    operations = [("aten::bmm", Work(8, 100)), ("aten::clone", Work(16)), ("aten::sum", Work(4))]
    made = {kernel.name: kernel for kernel in of_gpu(events, operations, 2)}
    assert {name: (kernel.ms, kernel.launches) for name, kernel in made.items()} == {
        "gemm": (0.04, 1), "copy": (0.02, 1), "reduce": (0.006, 1), "reduce_end": (0.002, 1), "triton": (0.008, 1)
    }  # fmt: skip
    assert (made["gemm"].work, made["copy"].work) == (Work(8, 100), Work(16))
    assert made["reduce"].work is made["reduce_end"].work is made["triton"].work is None
