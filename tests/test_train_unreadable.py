"""Unreadable images in a run: named at once, listed beforehand, or passed over without changing anything else."""

import pytest
import torch
from PIL import Image

from halobench.train.__main__ import main
from halobench.train.data import Data
from halobench.train.processes import Processes
from halobench.train.reading import IGNORED, Prepared, loader
from halobench.train.run import Run
from halobench.train.transform import for_evaluation, for_training
from halobench.train.unreadable import Unreadable
from halobench.train.unusable import DataError
from tests import training_data
from tests.test_train import assert_same, interrupted, state
from tests.training_runs import command, curves, settings_of

SMALL = {"batch": 8, "model": "resnet_mini"}


@pytest.fixture
def folder(tmp_path):
    return training_data.image_folder(tmp_path / "images")


def spoil(folder, *names):
    """Cut these images short behind their headers."""
    for name in names:
        path = folder / name
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
    return folder


BAD = "train/class3/3.png", "train/class4/4.png", "val/class2/2.png"


def test_check_data_lists_all_bad_headers_before_training(folder, tmp_path, capsys):
    for name in BAD:
        (folder / name).write_text("<html>")
    Image.effect_noise((8, 8), 9).convert("F").save(folder / "val" / "class0" / "float.tiff")
    for workers in (0, 2):
        options = {**SMALL, "workers": workers}
        assert main(command(folder, tmp_path / str(workers), "--check-data", **options)) == 2
        said = capsys.readouterr()
        for name in BAD:
            assert f"{folder / name} cannot be read as an image: it is none of JPEG, PNG" in said.out
        assert f"{folder}/val/class0/float.tiff cannot be read as an image: its grey pixels have 32 bits" in said.out
        assert "4 of 61 images cannot be read, as far as their headers tell" in said.out
        assert "epoch" not in said.out
        assert said.err == f"halobench.train: 4 files of {folder} cannot be read, more than --skip-unreadable 0\n"


def test_a_checked_folder_trains(folder, tmp_path, capsys):
    assert main(command(folder, tmp_path / "run", "--check-data", **SMALL, epochs=1)) == 0
    assert "0 of 60 images cannot be read, as far as their headers tell" in capsys.readouterr().out


def test_what_check_data_found_counts_and_is_not_named_again(folder, tmp_path, capsys):
    """A file with a good header that is cut short behind it is found in training."""
    (folder / BAD[0]).write_bytes(b"")
    spoil(folder, BAD[1])
    options = {**SMALL, "epochs": 1}
    chosen = "--check-data", "--skip-unreadable"
    assert main(command(folder, tmp_path / "one", *chosen, "1", **options)) == 2
    assert capsys.readouterr().err.endswith(f"2 files of {folder} cannot be read, more than --skip-unreadable 1\n")
    assert main(command(folder, tmp_path / "two", *chosen, "2", **options)) == 0
    said = capsys.readouterr()
    assert said.err.count("passed over: ") == 1
    assert f"{folder / BAD[1]} cannot be read" in said.err
    assert said.out.count(f"{folder / BAD[0]} cannot be read as an image: it is empty") == 1


def test_each_file_is_named_once_and_too_many_end_the_run(folder, tmp_path, capsys):
    spoil(folder, *BAD)
    assert main(command(folder, tmp_path / "three", **SMALL, skip_unreadable=3)) == 0  # two epochs
    said = capsys.readouterr().err
    assert [said.count(f"passed over: {folder / name} cannot be read") for name in BAD] == [1, 1, 1]
    assert state(tmp_path / "three")["unreadable"] == list(BAD)
    assert main(command(folder, tmp_path / "two", **SMALL, skip_unreadable=2)) == 2
    assert f"3 files of {folder} cannot be read, more than --skip-unreadable 2" in capsys.readouterr().err


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_that_passes_over_files_repeats_and_resumes(workers, folder, tmp_path, monkeypatch, capsys):
    """Bit for bit, with other reading processes, and wherever the folder is moved to."""
    spoil(folder, *BAD)
    options = {**SMALL, "skip_unreadable": 3, "randaugment": 9}
    assert main(command(folder, tmp_path / "whole", **options)) == 0
    resumed = command(folder, tmp_path / "resumed", **options)
    interrupted(resumed, monkeypatch)
    capsys.readouterr()
    moved = folder.rename(tmp_path / "moved")
    assert main([*resumed, "--data", str(moved), "--workers", str(workers), "--resume"]) == 0
    assert "passed over" not in capsys.readouterr().err  # they are known
    assert_same(state(tmp_path / "whole"), state(tmp_path / "resumed"))


def prepared(folder, tmp_path, *, training, skip=3):
    settings = settings_of(folder, tmp_path, skip_unreadable=skip)
    transform = (for_training if training else for_evaluation)(settings, fashion=False)
    return Prepared(Data.of(folder).part("train" if training else "val"), transform, settings, training=training)


def test_in_training_the_next_image_takes_the_place(folder, tmp_path):
    """As if it had been asked for itself: its class, and its augmentation. After the last comes the first."""
    whole = prepared(folder, tmp_path, training=True)
    names = [str(path.relative_to(folder)) for path in map(type(folder), whole.images.sources)]
    last = len(whole) - 1
    expected = {7: whole[1, 8], last: whole[1, 0], 20: whole[1, 22], 21: whole[1, 22]}
    spoil(folder, *(names[index] for index in expected))
    for index, (pixels, target, _) in expected.items():
        found, found_target, unread = whole[1, index]
        assert torch.equal(found, pixels)
        assert found_target == target
        count = 2 if index == 20 else 1
        assert [path for path, _ in unread] == whole.images.sources[index : index + count]


def test_in_evaluation_an_unreadable_image_counts_for_nothing(folder, tmp_path):
    images = prepared(folder, tmp_path, training=False)
    spoil(folder, "val/class2/2.png")
    index = next(number for number, path in enumerate(images.images.sources) if path.endswith("class2/2.png"))
    pixels, target, unread = images[0, index]
    assert (pixels.shape, pixels.dtype, target, len(unread)) == ((3, 32, 32), torch.uint8, IGNORED, 1)


def test_loss_and_accuracy_are_those_of_the_readable_images(folder, tmp_path):
    """The same as where the file is not there."""
    rows = []
    for name in ("spoilt", "gone"):
        if name == "spoilt":
            spoil(folder, "val/class2/2.png", "val/class7/17.png")
        else:
            (folder / "val/class2/2.png").unlink()
            (folder / "val/class7/17.png").unlink()
        assert main(command(folder, tmp_path / name, **SMALL, epochs=1, skip_unreadable=2)) == 0
        rows += curves(tmp_path / name)
    assert float(rows[0]["test_loss"]) == pytest.approx(float(rows[1]["test_loss"]), rel=1e-5)
    assert rows[0]["test_accuracy"] == rows[1]["test_accuracy"]


def test_nothing_to_test_on_is_one_line(folder, tmp_path, capsys):
    for path in (folder / "val").rglob("*.png"):
        path.write_bytes(b"")
    assert main(command(folder, tmp_path / "run", **SMALL, epochs=1, skip_unreadable=20)) == 2
    said = f"halobench.train: {folder} has no image to test on that can be read\n"
    assert capsys.readouterr().err.endswith(said)


def test_a_row_of_unreadable_images_is_not_read_to_its_end(folder, tmp_path):
    """Where nothing can be read, the first image already says that there are too many."""
    for path in (folder / "train").rglob("*.png"):
        path.write_bytes(b"")
    _, target, unread = prepared(folder, tmp_path, training=True, skip=2)[0, 38]
    assert (target, len(unread)) == (IGNORED, 3)
    with pytest.raises(DataError, match=r"3 files of .* cannot be read, more than --skip-unreadable 2"):
        Unreadable(folder, 2).note(unread, lambda _: None)


def test_processes_count_their_files_together(folder):
    """Two that found one file each have two; one that both found is one."""

    class Two(Processes):
        def gathered(self, mine):
            return [mine, {"train/class4/4.png"}]

    tally = Unreadable(folder, 2)
    tally.names.add("train/class3/3.png")
    tally.share(Two())
    tally.share(Two())
    assert tally.names == {"train/class3/3.png", "train/class4/4.png"}
    tally.allowed = 1
    with pytest.raises(DataError, match="2 files of"):
        tally.share(Two())


def test_a_batch_tells_what_it_could_not_read(folder, tmp_path):
    spoil(folder, *BAD)
    settings = settings_of(folder, tmp_path, batch=8, skip_unreadable=3, workers=1)
    transform = for_training(settings, fashion=False)
    prepared = Prepared(Data.of(folder).part("train"), transform, settings, training=True)
    made, _ = loader(prepared, settings, Processes(), training=True)
    unread = [each for batch in made for each in batch.unread]
    assert {path for path, _ in unread} == {str(folder / name) for name in BAD[:2]}


def test_a_reading_process_that_is_killed_is_one_line(folder, tmp_path, monkeypatch, capsys):
    def killed(self):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    monkeypatch.setattr(Run, "evaluate", killed)
    assert main(command(folder, tmp_path / "run", **SMALL)) == 2
    said = (
        "halobench.train: a process that reads images ended: DataLoader worker (pid 7) is killed by signal: Killed.\n"
    )
    assert capsys.readouterr().err.endswith(said)
