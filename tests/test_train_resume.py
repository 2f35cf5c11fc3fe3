"""Going on with a run: with the same data only, longer on request; and disks that fill up on the way."""

import errno
import os
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from halobench.train import checkpoint
from halobench.train.__main__ import main
from halobench.train.report import Report
from halobench.train.run import Run
from halobench.train.step import Step
from tests import training_data
from tests.test_train import assert_same, interrupted, state
from tests.training_runs import command, curves

SMALL = {"batch": 16, "model": "resnet_mini"}


def add_a_class(folder):
    for part in ("train", "val"):
        shutil.copytree(folder / part / "class0", folder / part / "class99")


def rename_a_class(folder):
    for part in ("train", "val"):
        (folder / part / "class0").rename(folder / part / "Class0")


def rename_all(folder):
    for part in ("train", "val"):
        for number in range(10):
            (folder / part / f"class{number}").rename(folder / part / f"other{number}")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (add_a_class, "other classes: 'class99' new"),
        (rename_a_class, "other classes: 'class0' no longer there and 'Class0' new"),
        (rename_all, ("other classes: 'class0', 'class1', 'class2' and 7 more no longer there "
                      "and 'other0', 'other1', 'other2' and 7 more new")),
        (lambda folder: (folder / "train/class1/11.png").unlink(), "other data: train had 40 images, not 39"),
        (lambda folder: [(folder / "train/class1/11.png").unlink(), (folder / "val/class1/11.png").unlink()],
         "other data: train had 40 images, not 39, val had 20 images, not 19"),
        (lambda folder: (folder / "train/class1/11.png").rename(folder / "train/class2/11.png"),
         "other data: the images of train have other names now"),
    ],
    ids=["one more", "renamed", "all renamed", "fewer images", "fewer in both", "of another class"],
)  # fmt: skip
def test_other_data_are_refused(change, said, tmp_path, capsys):
    folder = training_data.image_folder(tmp_path / "images")
    assert main(command(folder, tmp_path / "run", **SMALL, epochs=1)) == 0
    before = (tmp_path / "run" / "checkpoint.pt").read_bytes()
    capsys.readouterr()
    change(folder)
    assert main([*command(folder, tmp_path / "run", **SMALL, epochs=2), "--resume"]) == 2
    path = tmp_path / "run" / "checkpoint.pt"
    assert capsys.readouterr().err == f"halobench.train: {path} cannot be resumed with {said}\n"
    assert path.read_bytes() == before


def test_a_checkpoint_holds_the_names_of_the_classes(tmp_path, fashion):
    folder = training_data.image_folder(tmp_path / "images")
    main(command(folder, tmp_path / "run", **SMALL, epochs=1))
    assert state(tmp_path / "run")["classes"] == [f"class{number}" for number in range(10)]
    assert state(tmp_path / "run")["images"] == {"train": 40, "val": 20}
    main(command(fashion, tmp_path / "clothes", **SMALL, epochs=1))
    assert state(tmp_path / "clothes")["classes"][-2:] == ["Bag", "Ankle boot"]


def test_a_run_may_grow_and_not_shrink(fashion, tmp_path, capsys):
    """Prolonged, it has the rates of a run of the new length from where it was; all done, it says so."""
    given = tmp_path / "run"
    main(command(fashion, given, **SMALL, epochs=2))
    assert main([*command(fashion, given, **SMALL, epochs=1), "--resume"]) == 2
    assert "cannot be resumed with other settings: epochs was 2, not 1" in capsys.readouterr().err
    assert main([*command(fashion, given, **SMALL, epochs=2), "--resume"]) == 0
    assert "all epochs are done" in capsys.readouterr().out
    assert main([*command(fashion, given, **SMALL, epochs=4), "--resume"]) == 0
    assert "no longer bit for bit: 4 epochs instead of 2" in capsys.readouterr().out
    main(command(fashion, tmp_path / "long", **SMALL, epochs=4))
    prolonged, long = ([float(row["learning_rate"]) for row in curves(tmp_path / name)] for name in ("run", "long"))
    assert prolonged[2:] == long[2:]
    assert prolonged[1] < long[1]
    assert main([*command(fashion, given, **SMALL, epochs=4), "--resume"]) == 0
    assert "bit for bit" not in capsys.readouterr().out  # it is a run of 4 epochs now


def test_other_settings_are_refused_on_other_processes_too():
    was = {"processes": 4, "batch": 64, "learning_rate": 0.1, "epochs": 9, "seed": 0}
    moved = was | {"processes": 2, "batch": 128, "learning_rate": 0.2}
    assert len(list(checkpoint.changes(Path("x"), was, moved))) == 1
    assert not list(checkpoint.changes(Path("x"), was, dict(was)))
    for name, value in (("seed", 1), ("epochs", 8)):
        with pytest.raises(checkpoint.CheckpointError, match=f"other settings: {name} was"):
            list(checkpoint.changes(Path("x"), was, moved | {name: value}))
    with pytest.raises(checkpoint.CheckpointError, match="batch was 64, not 128, learning_rate was"):
        list(checkpoint.changes(Path("x"), was, moved | {"processes": 4}))


def steps_in(folder, tag):
    return Counter(event.step for event in EventAccumulator(str(folder / "tensorboard")).Reload().Scalars(tag))


def test_tensorboard_shows_every_step_once(fashion, tmp_path, monkeypatch):
    """Although the run died in the middle of an epoch, twice: before and after its first checkpoint."""
    monkeypatch.setattr(Report, "INTERVAL_S", 0.0)
    take, given = Step.__call__, command(fashion, tmp_path, **SMALL)
    for dies, resume in ((4, []), (13, []), (6, ["--resume"])):
        taken = []

        def die(self, images, targets, dies=dies, taken=taken):
            taken.append(1)
            if len(taken) == dies:
                raise KeyboardInterrupt
            return take(self, images, targets)

        with monkeypatch.context() as patch:
            patch.setattr(Step, "__call__", die)
            assert main([*given, *resume]) == 130
    assert main([*given, "--resume"]) == 0
    assert steps_in(tmp_path, "train/loss") == dict.fromkeys(range(1, 21), 1)
    assert steps_in(tmp_path, "epoch/test_loss") == {1: 1, 2: 1}


def float16_forced_to_overflow(monkeypatch):
    monkeypatch.setattr("halobench.train.run.GradScaler", lambda device, enabled: torch.amp.GradScaler(
        device, init_scale=2.0**24, growth_interval=3, enabled=enabled))  # fmt: skip


def test_float16_scales_its_gradients_and_resumes(fashion, tmp_path, monkeypatch):
    """For real, on the CPU: steps that overflow are left out, the scale moves, and goes with the checkpoint."""
    float16_forced_to_overflow(monkeypatch)
    given = {**SMALL, "dtype": "float16", "image_size": 16}
    main(command(fashion, tmp_path / "whole", **given))
    resumed = command(fashion, tmp_path / "resumed", **given)
    interrupted(resumed, monkeypatch)
    scale = state(tmp_path / "resumed")["scaler"]["scale"]
    assert 0 < scale < 2.0**24
    assert main([*resumed, "--resume"]) == 0
    whole = state(tmp_path / "whole")
    assert whole["scaler"]["scale"] != scale
    assert_same(whole, state(tmp_path / "resumed"))
    assert {tensor.dtype for tensor in whole["model"].values()} == {torch.float32, torch.int64}


def test_scaled_gradients_reach_the_optimizer_unscaled():
    """One step in float16 is that in float32 to rounding; one that overflows changes nothing."""
    weights = {}
    for scale in (None, 2.0**10, 2.0**40):
        torch.manual_seed(0)
        model = torch.nn.Linear(8, 4)
        before = model.weight.detach().clone()
        dtype = None if scale is None else torch.float16
        scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=scale is not None)
        sgd = torch.optim.SGD(model.parameters(), lr=0.5)
        step = Step(model, torch.nn.CrossEntropyLoss(), sgd, dtype, scaler=scaler)
        step(torch.randn(6, 8), torch.tensor([0, 1, 2, 3, 0, 1]))
        weights[scale] = model.weight.detach() - before
    assert weights[None].abs().max() > 0.05
    torch.testing.assert_close(weights[2.0**10], weights[None], atol=2e-3, rtol=0)
    assert not weights[2.0**40].any()
    assert scaler.get_scale() == 2.0**39


@pytest.fixture(params=["tmpfs", "patched"])
def full(request, tmp_path, monkeypatch):
    """A function that fills a disk, and the place of a run on it."""
    place = tmp_path / "disk"
    place.mkdir()
    if request.param == "tmpfs":
        mount = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(place)]
        if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("a small disk cannot be mounted")

        def fill():
            with (place / "filler").open("wb", buffering=0) as file:
                while True:
                    try:
                        file.write(bytes(4096))
                    except OSError:
                        return
    else:

        def fill():
            def no_space(*_):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            monkeypatch.setattr(os, "fsync", no_space)

    yield place / "run", fill
    if request.param == "tmpfs":
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.fault
def test_a_full_disk_keeps_the_last_checkpoint(full, fashion, monkeypatch, capsys):
    """One line, exit status 2, no part of a file; with room again, the run goes on."""
    run, fill = full
    save = Run.save

    def fill_and_save(self):
        if self.history[1:]:
            fill()
        save(self)

    given = command(fashion, run, **SMALL)
    with monkeypatch.context() as patch:
        patch.setattr(Run, "save", fill_and_save)
        assert main(given) == 2
        kept = run / "checkpoint.pt"
        said = capsys.readouterr().err.splitlines()[-1]
        assert said == f"halobench.train: {kept} cannot be written: No space left on device; the last one is kept"
        assert sorted(path.name for path in run.iterdir()) == ["checkpoint.pt", "curves.csv", "tensorboard"]
        assert len(state(run)["history"]) == 1
    monkeypatch.undo()
    (run.parent / "filler").unlink(missing_ok=True)
    assert main([*given, "--resume"]) == 0
    assert len(curves(run)) == 2


@pytest.mark.fault
@pytest.mark.parametrize("place", ["first write", "torch.save", "fsync", "curves", "tensorboard", "first checkpoint"])
def test_wherever_the_disk_is_full_one_line_says_so(place, fashion, tmp_path, monkeypatch, capsys):
    """Also where torch makes a RuntimeError of it, and where TensorBoard's thread says it late."""
    run, full_disk = tmp_path / "run", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def no_space(*_, **__):
        raise full_disk

    def torch_makes_its_own(content, file):
        file.write(b"part of a file")
        try:
            raise full_disk
        finally:
            raise RuntimeError("unexpected pos 704 vs 598")

    named = f"{run / 'checkpoint.pt'} cannot be written: No space left on device; the last one is kept"
    if place == "first write":
        monkeypatch.setattr("tempfile.TemporaryFile", no_space)
        named = f"--output {run} cannot be written to: No space left on device"
    else:
        assert main(command(fashion, run, **SMALL, epochs=1)) == 0
    if place == "torch.save":
        monkeypatch.setattr(torch, "save", torch_makes_its_own)
    if place == "fsync":
        monkeypatch.setattr(os, "fsync", no_space)
    if place == "curves":
        monkeypatch.setattr("csv.DictWriter.writerows", no_space)
        named = f"{run / 'curves.csv'} cannot be written: No space left on device; the last one is kept"
    if place == "tensorboard":
        monkeypatch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", no_space)
        named = f"{run / 'tensorboard'} cannot be written: No space left on device"
    if place == "first checkpoint":
        monkeypatch.setattr(os, "fsync", no_space)
        shutil.rmtree(run)
        named = f"{run / 'checkpoint.pt'} cannot be written: No space left on device; there is none yet"
    capsys.readouterr()
    resume = ["--resume"] if (run / "checkpoint.pt").exists() else []
    assert main([*command(fashion, run, **SMALL), *resume]) == 2
    assert capsys.readouterr().err == f"halobench.train: {named}\n"
    assert not list(run.glob("*.new"))
    if resume:
        assert len(state(run)["history"]) == (1 if place != "curves" else 2)


def test_an_output_that_is_no_folder_is_refused(fashion, tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        assert main(command(fashion, output, **SMALL)) == 2
        assert f"--output {output} cannot be written to: " in capsys.readouterr().err


@pytest.mark.parametrize("lost", ["model", "classes", "fixed", "scaler"])
def test_a_checkpoint_of_another_program_is_refused(lost, fashion, tmp_path, capsys):
    main(command(fashion, tmp_path, **SMALL, epochs=1))
    broken = state(tmp_path)
    if lost == "model":
        broken["model"].popitem()
    else:
        del broken[lost]
    torch.save(broken, tmp_path / "checkpoint.pt")
    capsys.readouterr()
    assert main([*command(fashion, tmp_path, **SMALL, epochs=2), "--resume"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"halobench.train: {tmp_path / 'checkpoint.pt'} does not fit this program: ")
    assert said.count("\n") == 1
