"""Real training runs on tiny data: the loss falls, an interruption changes nothing, and what is wrong is named."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from halobench import models
from halobench.attention.compilation import INDUCTOR_OPTIONS
from halobench.terminal import INTERRUPTED
from halobench.train import checkpoint
from halobench.train.__main__ import main
from halobench.train.recipe import build, optimizer, schedule
from halobench.train.report import Report
from halobench.train.run import Run
from halobench.train.settings import complete
from halobench.train.step import Step
from tests import training_data
from tests.training_runs import command, curves, settings_of

ROOT = Path(__file__).parent.parent


def state(output):
    return torch.load(output / "checkpoint.pt", weights_only=True)


def assert_same(one, other):
    """The same numbers, bit for bit, whatever holds them; only the clock may differ."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one.keys() - {"seconds", "images_per_s"}:
            assert_same(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_same(*pair)
    else:
        assert one == other


@pytest.mark.parametrize("model", ["halonet_mini", "convnet_mini"])
def test_the_loss_falls(model, tmp_path, capsys):
    """A halo network and its convolutional twin, in the same few steps."""
    more = training_data.fashion(tmp_path / "data")
    assert main(command(more, tmp_path, model=model, epochs=4)) == 0
    rows = curves(tmp_path)
    losses = [float(row["train_loss"]) for row in rows]
    assert losses[-1] < losses[0] - 0.3
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert {row["model"] for row in rows} == {model}
    assert float(rows[-1]["test_accuracy"]) > 0.3  # by chance it would be a tenth
    assert "epoch 4/4: loss" in capsys.readouterr().out


def test_bfloat16_reaches_the_step_and_leaves_weights_in_float32(fashion, tmp_path):
    """The forward pass is another one, what is learned is kept in full."""
    losses = {}
    for dtype in ("float32", "bfloat16"):
        assert main(command(fashion, tmp_path / dtype, dtype=dtype, epochs=1)) == 0
        losses[dtype] = float(curves(tmp_path / dtype)[0]["train_loss"])
        assert {tensor.dtype for tensor in state(tmp_path / dtype)["model"].values()} == {torch.float32, torch.int64}
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.1)


def test_compile_compiles_what_a_step_calls(fashion, tmp_path, monkeypatch):
    """Compiling takes minutes here, so the compiler is replaced by one that counts."""
    calls = []

    def compiler(model, *, dynamic, options):
        assert (dynamic, options) == (False, INDUCTOR_OPTIONS)
        return lambda images: calls.append(len(images)) or model(images)

    monkeypatch.setattr(torch, "compile", compiler)
    main(command(fashion, tmp_path, "--compile", epochs=1))
    assert calls == [32] * 6  # the trial before the data, and the steps


MUCH = {"stochastic_depth": 0.3, "randaugment": 9, "ema": 0.9, "optimizer": "adamw", "learning_rate": 1e-3}


def interrupted(arguments, monkeypatch, epochs=1):
    """Run until the checkpoint of this epoch is written, then die."""
    save = Run.save

    def save_and_die(self):
        save(self)
        if len(self.history) == epochs:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "save", save_and_die)
        assert main(arguments) == INTERRUPTED


@pytest.mark.parametrize(
    ("changes", "workers"), [({}, 0), (MUCH, 0), (MUCH, 2)], ids=["plain", "everything", "other workers"]
)
def test_an_interruption_changes_nothing(changes, workers, fashion, tmp_path, monkeypatch):
    """Weights, moments, averages and losses are those of a run without interruption, bit for bit."""
    main(command(fashion, tmp_path / "whole", **changes))
    resumed = command(fashion, tmp_path / "resumed", **changes)
    interrupted(resumed, monkeypatch)
    assert main([*resumed, "--workers", str(workers), "--resume"]) == 0
    whole, again = state(tmp_path / "whole"), state(tmp_path / "resumed")
    assert len(whole["history"]) == 2
    assert_same(whole, again)
    assert not torch.equal(whole["model"]["classifier.weight"], torch.zeros_like(whole["model"]["classifier.weight"]))


def test_where_there_is_no_terminal_a_line_comes_now_and_then(fashion, tmp_path, monkeypatch, capsys):
    main(command(fashion, tmp_path / "soon", epochs=1))
    assert ", step " not in capsys.readouterr().out
    monkeypatch.setattr(Report, "INTERVAL_S", 0.0)
    monkeypatch.setattr(Report, "LINE_S", 0.0)
    main(command(fashion, tmp_path / "long", epochs=1))
    lines = [line for line in capsys.readouterr().out.splitlines() if ", step " in line]
    steps = len(lines)
    assert steps > 1
    assert [line.partition(":")[0] for line in lines] == [f"epoch 1/1, step {n + 1}/{steps}" for n in range(steps)]
    assert all(re.search(r": loss \d\.\d+, \d+ images/s$", line) for line in lines)


def test_another_seed_is_another_run(fashion, tmp_path):
    """The comparison above can fail."""
    for seed in (0, 1):
        main(command(fashion, tmp_path / str(seed), seed=seed, epochs=1))
    with pytest.raises(AssertionError):
        assert_same(state(tmp_path / "0")["model"], state(tmp_path / "1")["model"])


@pytest.mark.gpu
@pytest.mark.parametrize("model", ["halonet_mini", "convnet_mini"])
def test_an_interruption_changes_nothing_on_a_gpu(model, fashion, tmp_path, monkeypatch):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    options = MUCH | {"model": model, "device": "cuda"}
    main(command(fashion, tmp_path / "whole", **options))
    resumed = command(fashion, tmp_path / "resumed", **options)
    interrupted(resumed, monkeypatch)
    assert main([*resumed, "--resume"]) == 0
    assert_same(state(tmp_path / "whole"), state(tmp_path / "resumed"))


@pytest.mark.parametrize(("place", "said"), [("epoch", "there is no checkpoint yet"), ("evaluate", "--resume goes on")])
def test_an_interruption_says_what_is_left(place, said, fashion, tmp_path, monkeypatch, capsys):
    """In the first epoch, and in the second one's evaluation."""
    call = getattr(Run, place)

    def interrupt(self, *arguments):
        if place == "epoch" or self.history:
            raise KeyboardInterrupt
        return call(self, *arguments)

    monkeypatch.setattr(Run, place, interrupt)
    assert main(command(fashion, tmp_path, epochs=2)) == INTERRUPTED
    assert said in capsys.readouterr().err


def test_a_loss_that_is_no_number_stops_the_run(fashion, tmp_path, monkeypatch, capsys):
    """With the epoch, the step and the checkpoint that is left, which is the last good one."""
    take, steps = Step.__call__, []

    def fail_late(self, images, targets):
        steps.append(take(self, images, targets))
        return steps[-1] * (float("nan") if len(steps) == 8 else 1)

    monkeypatch.setattr(Step, "__call__", fail_late)
    assert main(command(fashion, tmp_path)) == 1
    said = capsys.readouterr().err
    assert "the loss became nan in epoch 2, by step" in said
    assert f"the last good checkpoint is {tmp_path / 'checkpoint.pt'} (epoch 1)" in said
    assert len(state(tmp_path)["history"]) == 1


def test_a_checkpoint_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    """A kill in the middle of writing leaves the old one."""
    path = tmp_path / "checkpoint.pt"
    checkpoint.write(path, {"number": 1})

    def cut_short(content, file):
        file.write(b"half a checkpo")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", cut_short)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.write(path, {"number": 2})
    assert checkpoint.read(path)["number"] == 1
    assert list(tmp_path.iterdir()) == [path]


def test_runs_that_cannot_go_on(fashion, tmp_path, capsys):
    def refused(*arguments):
        assert main([*arguments]) == 2
        return capsys.readouterr().err

    assert "does not exist: there is nothing to resume" in refused(*command(fashion, tmp_path), "--resume")
    main(command(fashion, tmp_path, epochs=1))
    assert "exists: go on with --resume, or give another --output" in refused(*command(fashion, tmp_path))
    said = refused(*command(fashion, tmp_path, epochs=1, batch=16, learning_rate=0.05), "--resume")
    assert "cannot be resumed with other settings: batch was 32, not 16" in said
    (tmp_path / "checkpoint.pt").write_bytes(b"nonsense")
    assert "checkpoint.pt cannot be read" in refused(*command(fashion, tmp_path), "--resume")


def test_tensorboard_reads_the_logs(fashion, tmp_path):
    main(command(fashion, tmp_path))
    logs = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert {"train/loss", "train/learning_rate", "train/images_per_s"} <= set(logs.Tags()["scalars"])
    accuracies = [event.value for event in logs.Scalars("epoch/test_accuracy")]
    assert accuracies == pytest.approx([float(row["test_accuracy"]) for row in curves(tmp_path)])


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("model", "halonet_h9", "no model is called 'halonet_h9'"),
        ("backend", "sdp", "no backend is called 'sdp'"),
        ("epochs", 0, "--epochs must be at least 1 and below 2^31, got 0"),
        ("ema", 1.0, "--ema must be at least 0 and below 1, got 1.0"),
        ("learning_rate", -1, "--learning-rate must be a finite number, at least 0, got -1.0"),
        ("stochastic_depth", 1.5, "--stochastic-depth must be at least 0 and below 1, got 1.5"),
        ("seed", -1, "--seed must be at least 0 and below 2^63, got -1"),
    ],
)
def test_choices_that_cannot_be(option, value, message, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(command(tmp_path, tmp_path, **{option: value}))
    assert message in capsys.readouterr().err


class Scatters(torch.nn.Linear):
    """A layer whose backward pass says that it does not repeat, as some CUDA operations do."""

    def forward(self, pixels):
        if torch.are_deterministic_algorithms_enabled():
            raise RuntimeError("scatter_cuda does not have a deterministic implementation, but you set it. You can...")
        return super().forward(pixels.flatten(1)[:, : self.in_features])


def test_what_cannot_repeat_is_refused_unless_told_to_be_fast(fashion, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(models, "create", lambda *_, **__: Scatters(8, 10))
    assert main(command(fashion, tmp_path, epochs=1)) == 2
    said = "halobench.train: scatter_cuda does not have a deterministic implementation, but you set it; --fast does"
    assert capsys.readouterr().err.startswith(said)
    assert not torch.are_deterministic_algorithms_enabled()
    assert main(command(fashion, tmp_path, "--fast", epochs=1)) == 0


def test_the_learning_rate_warms_up_and_follows_a_cosine(fashion, tmp_path):
    settings = settings_of(fashion, tmp_path, epochs=10, warm_up_epochs=2, learning_rate=0.8)
    model = models.create("halonet_mini", "sdpa", 10)
    rates, warm_up = [], 20
    for_rates = schedule(settings, chosen := optimizer(settings, model), steps=10)
    for number in range(100):
        for_rates.step_update(number)
        rates.append(chosen.param_groups[0]["lr"])
    assert rates[0] == pytest.approx(0.8 / 128)
    assert max(rates) == rates[warm_up] == pytest.approx(0.8)
    assert rates[warm_up // 2] == pytest.approx((rates[0] + 0.8) / 2)
    assert rates[60] == pytest.approx((0.8 + 0.8 / 128) / 2)  # half way between the warm-up's end and the end
    assert rates[-1] == pytest.approx(0.8 / 128, rel=0.1)


def test_a_cosine_of_one_step_is_its_highest_rate_and_no_warning(fashion, tmp_path, caplog):
    settings = settings_of(fashion, tmp_path, epochs=1, warm_up_epochs=1, learning_rate=0.8)
    for_rates = schedule(settings, chosen := optimizer(settings, models.create("resnet_mini")), steps=10)
    for_rates.step_update(9)
    assert chosen.param_groups[0]["lr"] == 0.8
    assert not caplog.records


@pytest.mark.parametrize("name", ["halonet_mini", "seresnet50_halo_b8", "accelerated_halonet50ts"])
def test_stochastic_depth_reaches_models_of_every_kind(fashion, tmp_path, name):
    settings = settings_of(fashion, tmp_path, model=name, stochastic_depth=0.25)
    with torch.device("meta"):
        model = build(settings, 10)
    assert max(getattr(module, "drop_prob", 0) for module in model.modules()) == pytest.approx(0.25)


def test_norms_and_biases_do_not_decay(fashion, tmp_path):
    settings = settings_of(fashion, tmp_path, weight_decay=0.3)
    groups = optimizer(settings, models.create("halonet_mini", "sdpa", 10)).param_groups
    decays = {group["weight_decay"]: {parameter.dim() for parameter in group["params"]} for group in groups}
    assert decays[0.0] == {1}
    assert 1 not in decays[0.3]


def test_defaults_follow_the_processes():
    """Ten times the images a step, ten times the rate."""
    chosen = {"model": "halonet_mini", "optimizer": "sgd", "batch": 64, "data": Path(), "output": Path()}
    assert complete(dict(chosen), 10).learning_rate == pytest.approx(0.25)
    assert complete(dict(chosen), 1).learning_rate == pytest.approx(0.025)


TWO = """
import sys, torch
from torch import distributed
from halobench.train.processes import Processes
from halobench.train.run import Run
from halobench.train.settings import parse
processes = Processes.of_environment()
settings, resume = parse(sys.argv[1:], processes.count)
device = processes.device("cpu")
with processes.joined(device):
    run = Run(settings, processes, device, resume=False)
    history = run.go()
    mine = torch.cat([parameter.detach().flatten() for parameter in run.model.parameters()])
    theirs = [torch.empty_like(mine) for _ in range(2)]
    distributed.all_gather(theirs, mine)
    assert torch.equal(*theirs), "the processes' weights differ"
    assert len(run.loader) == 2
    losses = [None, None]
    distributed.all_gather_object(losses, [(row["train_loss"], row["test_accuracy"]) for row in history])
    assert losses[0] == losses[1], losses
print(f"rank {processes.rank} is done")
"""


def test_two_processes_train_one_model(fashion, tmp_path, capsys):
    """Under torchrun, with gloo: the same weights and losses in both, one set of files, and one process goes on."""
    script = tmp_path / "two.py"
    script.write_text(TWO)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*torchrun, str(script), *command(fashion, tmp_path / "run")],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rank 0 is done" in done.stdout
    assert "rank 1 is done" in done.stdout
    assert done.stdout.count("epoch 2/2: loss") == 1
    rows = curves(tmp_path / "run")
    assert [row["processes"] for row in rows] == ["2", "2"]
    assert [row["batch"] for row in rows] == ["64", "64"]
    alone = command(fashion, tmp_path / "run", epochs=3, learning_rate=0.025)
    assert main([*alone, "--resume"]) == 0
    said = capsys.readouterr().out
    assert "goes on after epoch 2 of 3" in said
    assert (
        "no longer bit for bit: on 1 process instead of 2, 32 images a step instead of 64, "
        "highest learning rate 0.025 instead of 0.05"
    ) in said
    assert "no longer bit for bit: 3 epochs instead of 2, and from here on the learning rate of a run of 3" in said
    assert [row["processes"] for row in curves(tmp_path / "run")] == ["2", "2", "1"]
    assert [row["step"] for row in curves(tmp_path / "run")] == ["2", "4", "9"]
