"""What a training run reads: images are shared out, cut and normalised as they should be; what is wrong is named."""

import gzip

import pytest
import torch
from timm.data.transforms_factory import create_transform

from halobench.train.__main__ import main
from halobench.train.data import Data
from halobench.train.processes import Processes
from halobench.train.reading import Batches, Prepared
from halobench.train.transform import Normalisation, for_evaluation, for_training
from halobench.train.unusable import DataError
from tests import training_data
from tests.training_runs import command, curves, settings_of


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


def test_too_few_images_for_a_step_are_refused(tmp_path, capsys):
    folder = training_data.image_folder(tmp_path / "images")
    assert main(command(folder, tmp_path / "run", batch=41, model="resnet_mini")) == 2
    said = f"halobench.train: {folder} holds 40 images to train on, less than a step's 41\n"
    assert capsys.readouterr().err == said


def test_a_label_beyond_the_classes_is_refused(tmp_path, capsys):
    """Which would be an assertion of the GPU's, or a wrong index."""
    folder = training_data.fashion(tmp_path / "fashion")
    labels = folder / "train-labels-idx1-ubyte.gz"
    labels.write_bytes(gzip.compress(gzip.decompress(labels.read_bytes())[:-1] + b"\x0b"))
    assert main(command(folder, tmp_path / "run")) == 2
    assert f"{folder} holds a label 11, labels go from 0 to 9" in capsys.readouterr().err


@pytest.mark.parametrize(
    "spoilt",
    [b"", b"no gzip", gzip.compress(b"\0\0\x08\x03")[:-4], gzip.compress(b"")],
    ids=["nothing", "no gzip", "cut short", "gzip of nothing"],
)
def test_fashion_files_that_cannot_be_read_are_named(spoilt, tmp_path):
    folder = training_data.fashion(tmp_path / "fashion")
    (folder / "train-images-idx3-ubyte.gz").write_bytes(spoilt)
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz (cannot be read|is no IDX file)"):
        Data.of(folder).part("train")


def test_files_of_another_kind_are_refused(tmp_path, capsys):
    folder = training_data.fashion(tmp_path / "fashion")
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes((folder / "t10k-labels-idx1-ubyte.gz").read_bytes())
    assert main(command(folder, tmp_path / "run")) == 2
    assert "t10k-images-idx3-ubyte.gz is no IDX file of bytes with 3 axes" in capsys.readouterr().err


@pytest.mark.parametrize("count", [1, 2, 3])
def test_processes_share_the_images(count, tmp_path):
    """Every image of the test part once; in training, as many whole batches for each, and no image twice."""
    settings = settings_of(tmp_path, tmp_path, batch=4)
    parts = {}
    for training in (True, False):
        shares = [Batches(50, settings, Processes(rank, count), training=training) for rank in range(count)]
        batches = [list(share) for share in shares]
        assert [len(share) for share in shares] == [len(each) for each in batches]
        parts[training] = batches, [index for each in batches for batch in each for _, index in batch]
    assert sorted(parts[False][1]) == list(range(50))
    assert len(set(parts[True][1])) == len(parts[True][1]) == 50 // (4 * count) * 4 * count
    assert {len(batch) for each in parts[True][0] for batch in each} == {4}


def test_every_epoch_has_an_order_of_its_own(tmp_path):
    batches = Batches(50, settings_of(tmp_path, tmp_path, batch=25), Processes(), training=True)
    orders = []
    for epoch in (0, 1):
        batches.epoch = epoch
        places = [place for batch in batches for place in batch]
        assert {number for number, _ in places} == {epoch}
        orders.append([index for _, index in places])
    assert sorted(orders[0]) == sorted(orders[1])
    assert orders[0] != orders[1]


def test_an_image_looks_different_in_every_epoch_and_the_same_in_every_run(fashion, tmp_path):
    settings = settings_of(fashion, tmp_path, randaugment=9)
    prepared = Prepared(Data.of(fashion).part("train"), for_training(settings, fashion=True), settings, training=True)
    before = torch.get_rng_state()
    first, again, later = (prepared[epoch, 5][0] for epoch in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
    assert torch.equal(torch.get_rng_state(), before)  # reading images is no step's business


def test_images_are_normalised_as_timm_does(fashion, tmp_path):
    """timm can do it before images are gathered, in floating point; here they travel as bytes."""
    settings, image = settings_of(fashion, tmp_path), Data.of(fashion).part("val").load(3)
    transform = for_evaluation(settings, fashion=True)
    theirs = create_transform(settings.image_size, interpolation="bicubic", crop_pct=1.0)
    assert transform(image).dtype == torch.uint8
    found = Normalisation(torch.device("cpu"))(transform(image)[None])
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found[0], theirs(image), atol=1e-5, rtol=1e-5)
