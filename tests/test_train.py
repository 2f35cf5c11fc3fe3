"""Real training runs on tiny data: the loss falls, an interruption changes nothing, and what is wrong is named."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from timm.data.transforms_factory import create_transform

from halobench import models
from halobench.train import checkpoint, data
from halobench.train.__main__ import INTERRUPTED, main
from halobench.train.processes import Processes
from halobench.train.recipe import optimizer, schedule
from halobench.train.report import Report
from halobench.train.run import Run
from halobench.train.settings import complete, parse
from halobench.train.step import Step
from halobench.train.time_to_accuracy import main as time_to_accuracy
from tests import training_data

ROOT = Path(__file__).parent.parent
TINY = {"--batch": 32, "--image-size": 32, "--epochs": 2, "--workers": 0, "--device": "cpu", "--learning-rate": 0.05}


@pytest.fixture(scope="module")
def fashion(tmp_path_factory):
    return training_data.fashion(tmp_path_factory.mktemp("fashion"), training=160, test=40)


def command(source, output, *flags, **changes):
    """The arguments of a tiny run. ``changes`` are options, underscores for dashes."""
    options = TINY | {"--data": source, "--output": output}
    options |= {f"--{name.replace('_', '-')}": value for name, value in changes.items()}
    return [*(str(part) for pair in options.items() for part in pair), *flags]


def settings_of(source, output, **changes):
    return parse(command(source, output, **changes), 1)[0]


def curves(output):
    with (output / "curves.csv").open() as file:
        return list(csv.DictReader(file))


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

    def compiler(model, *, dynamic):
        assert not dynamic
        return lambda images: calls.append(len(images)) or model(images)

    monkeypatch.setattr(torch, "compile", compiler)
    main(command(fashion, tmp_path, "--compile", epochs=1))
    assert calls == [32] * 5


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
    checkpoint.write(path, {"fixed": {}, "number": 1})

    def cut_short(content, file):
        file.write(b"half a checkpo")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", cut_short)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.write(path, {"fixed": {}, "number": 2})
    assert checkpoint.read(path, {})["number"] == 1


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


def test_an_image_folder_trains(tmp_path):
    folder = training_data.image_folder(tmp_path / "images")
    assert main(command(folder, tmp_path / "run", batch=8, epochs=1, model="resnet_mini")) == 0
    assert curves(tmp_path / "run")[0]["backend"] == "none"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_image_is_named(workers, tmp_path, capsys):
    folder = training_data.image_folder(tmp_path / "images")
    bad = folder / "train" / "class3" / "3.png"
    bad.write_bytes(bad.read_bytes()[:100])
    assert main(command(folder, tmp_path / "run", batch=8, workers=workers, model="resnet_mini")) == 2
    assert capsys.readouterr().err.startswith(f"halobench.train: {bad} cannot be read as an image: ")


def spoil(folder, kind):
    """Spoil a folder of images in one way."""
    if kind == "empty class":
        (folder / "val" / "zebra").mkdir()
    if kind == "no val":
        (folder / "val").rename(folder / "test")
    if kind == "other classes":
        training_data.image_folder(folder / "val" / "class10", 1, 1)
    if kind == "too few":
        return {"batch": 1000}
    return {}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("empty class", "the class folder {folder}/val/zebra holds no images"),
        ("no val", "{folder} must hold folders train/ and val/, or Fashion-MNIST's files; it has no val/"),
        ("other classes", "{folder} must have the same classes in train/ and val/, got 10 and 11"),
        ("too few", "{folder} holds 40 images to train on, less than a step's 1000"),
    ],
)
def test_data_that_cannot_be_used_is_named(kind, message, tmp_path, capsys):
    folder = training_data.image_folder(tmp_path / "images")
    changes = spoil(folder, kind)
    assert main(command(folder, tmp_path / "run", **changes)) == 2
    assert capsys.readouterr().err == f"halobench.train: {message.format(folder=folder)}\n"


def test_files_of_another_kind_are_refused(tmp_path, capsys):
    folder = training_data.fashion(tmp_path / "fashion")
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes((folder / "t10k-labels-idx1-ubyte.gz").read_bytes())
    assert main(command(folder, tmp_path / "run")) == 2
    assert "t10k-images-idx3-ubyte.gz is no IDX file of bytes with 3 axes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("model", "halonet_h9", "no model is called 'halonet_h9'"),
        ("backend", "sdp", "no backend is called 'sdp'"),
        ("epochs", 0, "--epochs must be at least 1, got 0"),
        ("ema", 1.0, "--ema must be at least 0 and below 1, got 1.0"),
        ("learning_rate", -1, "--learning-rate must not be negative, got -1.0"),
        ("stochastic_depth", 1.5, "--stochastic-depth must be at least 0 and below 1, got 1.5"),
        ("seed", -1, "--seed must be at least 0 and below 2^63, got -1"),
    ],
)
def test_choices_that_cannot_be(option, value, message, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(command(tmp_path, tmp_path, **{option: value}))
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("count", [1, 2, 3])
def test_processes_share_the_images(count, tmp_path):
    """Every image of the test part once; in training, as many whole batches for each, and no image twice."""
    settings = settings_of(tmp_path, tmp_path, batch=4)
    parts = {}
    for training in (True, False):
        shares = [data.Batches(50, settings, Processes(rank, count), training=training) for rank in range(count)]
        batches = [list(share) for share in shares]
        assert [len(share) for share in shares] == [len(each) for each in batches]
        parts[training] = batches, [index for each in batches for batch in each for _, index in batch]
    assert sorted(parts[False][1]) == list(range(50))
    assert len(set(parts[True][1])) == len(parts[True][1]) == 50 // (4 * count) * 4 * count
    assert {len(batch) for each in parts[True][0] for batch in each} == {4}


def test_every_epoch_has_an_order_of_its_own(tmp_path):
    batches = data.Batches(50, settings_of(tmp_path, tmp_path, batch=25), Processes(), training=True)
    orders = []
    for epoch in (0, 1):
        batches.epoch = epoch
        places = [place for batch in batches for place in batch]
        assert {number for number, _ in places} == {epoch}
        orders.append([index for _, index in places])
    assert sorted(orders[0]) == sorted(orders[1])
    assert orders[0] != orders[1]


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


def test_an_image_looks_different_in_every_epoch_and_the_same_in_every_run(fashion, tmp_path):
    settings = settings_of(fashion, tmp_path, randaugment=9)
    prepared = data.Prepared(
        data.open_images(fashion, "train"), data.transforms(settings, fashion=True)[0], settings.seed
    )
    before = torch.get_rng_state()
    first, again, later = (prepared[epoch, 5][0] for epoch in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
    assert torch.equal(torch.get_rng_state(), before)  # reading images is no step's business


def test_images_are_normalised_as_timm_does(fashion, tmp_path):
    """timm can do it before images are gathered, in floating point; here they travel as bytes."""
    settings, image = settings_of(fashion, tmp_path), data.open_images(fashion, "val").load(3)
    transform = data.transforms(settings, fashion=True)[1]
    theirs = create_transform(settings.image_size, interpolation="bicubic", crop_pct=1.0)
    assert transform(image).dtype == torch.uint8
    found = data.Normalisation(torch.device("cpu"))(transform(image)[None])
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found[0], theirs(image), atol=1e-5, rtol=1e-5)


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
from halobench.train.report import Report
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


def test_two_processes_train_one_model(fashion, tmp_path):
    """Under torchrun, with gloo: the same weights and the same losses in both, and one set of files."""
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


def times(source, output, *more):
    """The arguments of a small time-to-accuracy benchmark."""
    given = ["--data", source, "--output", output, "--epochs", 2, "--workers", 0, "--device", "cpu", "--batch", 32]
    return [str(argument) for argument in (*given, "--image-size", 32, *more)]


def outcomes(output):
    with (output / "time-to-accuracy.csv").open() as file:
        return list(csv.DictReader(file))


def test_time_to_accuracy(fashion, tmp_path, capsys):
    """A run that arrives stops there; runs of the models take turns, with seeds of their own."""
    models = "halonet_mini", "convnet_mini"
    chosen = times(fashion, tmp_path, "--seeds", 3, 1, "--models", *models, "--target", 0.01, "--backend", "sdpa")
    assert time_to_accuracy(chosen) == 0
    rows = outcomes(tmp_path)
    assert [(row["model"], row["seed"]) for row in rows] == [(model, seed) for seed in "31" for model in models]
    assert [row["backend"] for row in rows] == ["sdpa", "none"] * 2
    for row in rows:
        assert (row["reached"], row["epochs"]) == ("True", "1")
        assert float(row["seconds"]) > 0
        assert len(curves(tmp_path / f"{row['model']}-{row['seed']}")) == 1
    with pytest.raises(SystemExit):
        time_to_accuracy(chosen)
    assert "exists: give another --output" in capsys.readouterr().err


@pytest.mark.parametrize("seeds", [(1, 1), (0, -1), (2**63,)])
def test_seeds_that_cannot_be(seeds, fashion, tmp_path, capsys):
    with pytest.raises(SystemExit):
        time_to_accuracy(times(fashion, tmp_path, "--seeds", *seeds))
    said = f"--seeds must be different numbers, at least 0 and below 2^63, got {', '.join(map(str, seeds))}"
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_run_that_does_not_arrive_says_so(fashion, tmp_path, capsys):
    time_to_accuracy(times(fashion, tmp_path, "--seeds", 0, "--models", "resnet_mini", "--target", 0.999))
    (row,) = outcomes(tmp_path)
    assert (row["reached"], row["epochs"]) == ("False", "2")
    assert float(row["best_accuracy"]) < 0.999
    assert "resnet_mini, seed 0: NOT reached" in capsys.readouterr().out
