"""Data of detectors: what is read of it, what augmentation makes of it, and what is refused in one line."""

import json
import math

import numpy as np
import pytest
import torch
from faster_coco_eval.core import mask
from PIL import ExifTags, Image

from halobench.detect.__main__ import main
from halobench.detect.coco import Coco
from halobench.detect.masks import Objects, decoded
from halobench.detect.reading import Squares, Whole, join_squares
from tests import detector_runs
from tests.detector_runs import annotation, command, settings_of


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return detector_runs.coco(tmp_path_factory.mktemp("data") / "coco")


@pytest.fixture(autouse=True)
def _spared(monkeypatch):
    detector_runs.spare(monkeypatch)


def test_what_does_not_fit_an_image_is_one_line_from_a_reading_process_too(tmp_path, capsys):
    folder = detector_runs.coco(tmp_path / "data", train=2)
    resized(folder, train=None)
    assert main(command(folder, tmp_path / "run", workers=1)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"halobench.detect: {folder}/train2017/0.png has 30 x 30 pixels, its annotations say 60 x 48"
    )
    assert main(command(folder, tmp_path / "run", workers=1, skip_unreadable=1)) == 0
    assert "passed over" in capsys.readouterr().err


def test_headers_and_masks_are_checked_on_request(tmp_path, capsys, monkeypatch):
    """The size of an image is that of the image as it is turned."""
    folder = detector_runs.coco(tmp_path / "data")
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (48, 60)).save(folder / "train2017" / "0.png", exif=turned)
    Image.new("RGB", (60, 48)).save(folder / "train2017" / "1.png", exif=turned)
    document = detector_runs.read(folder, "train")
    document["annotations"][4]["segmentation"] = LONG_RUNS
    detector_runs.write(folder, "train", document)
    monkeypatch.setattr("halobench.train.trial.take", lambda *_: None)
    assert main(command(folder, tmp_path / "run", "--check-data", skip_unreadable=1)) == 2
    said = capsys.readouterr()
    assert "1.png has 48 x 60 pixels, its annotations say 60 x 48" in said.out
    assert "2.png: a mask of image 106 cannot be decoded" in said.out
    assert "2 of 6 images cannot be read, as far as their headers tell" in said.out
    assert "2 files of" in said.err


def test_a_mask_s_size_may_be_written_with_a_point(data):
    runs = {"size": [48.0, 60.0], "counts": [0, 48 * 60]}
    assert decoded(Objects(7, (48, 60), [1], [runs])).all()


def test_masks_and_boxes_follow_the_augmentation(data, tmp_path):
    settings = settings_of(data, tmp_path / "run")
    images = Coco.of(data).part("train")
    squares = Squares(images, settings)
    seen = set()
    for epoch in range(8):
        pixels, target, unread = squares[epoch, 0]
        assert (pixels.shape, pixels.dtype, unread) == ((3, 64, 64), torch.uint8, [])
        for label, (left, top, right, bottom), outline in zip(
            target["labels"].tolist(), target["boxes"].int().tolist(), target["masks"], strict=True
        ):
            assert outline[top:bottom, left:right].sum() == outline.sum() > 0
            edges = outline[top], outline[bottom - 1], outline[:, left], outline[:, right - 1]
            assert all(edge.any() for edge in edges)
            inside = pixels[0][outline.bool()].float()
            bright = inside.mean() > 120
            assert bright == (label == 1)  # squares are white, and have the lower of COCO's numbers
        seen.add(tuple(target["boxes"].flatten().tolist()))
    assert len(seen) == 8
    again, *_ = squares[3, 0]
    assert torch.equal(again, squares[3, 0][0])
    batch, targets, _ = join_squares([squares[0, 0], squares[0, 1]])
    assert (batch.shape, len(targets)) == ((2, 3, 64, 64), 2)


def test_masks_and_boxes_are_not_shifted_by_the_augmentation(data, tmp_path):
    """Masks and boxes end where white squares become grey.

    Lower edges are in the middle of the images, where it is chance to which side a pixel belongs.
    """
    squares = Squares(Coco.of(data).part("train"), settings_of(data, tmp_path / "run"))
    shifts = []
    for epoch in range(16):
        for index in range(4):
            pixels, target, _ = squares[epoch, index]
            white = pixels[0] > (255 + 120) / 2
            (place,) = torch.nonzero(target["labels"] == 1)[0].tolist()
            outline = target["masks"][place].bool()
            assert (outline & white).sum() > 0.9 * (outline | white).sum()
            rows, columns = torch.nonzero(white.any(1)), torch.nonzero(white.any(0))
            edges = torch.cat([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
            shifts.append(target["boxes"][place] - edges)
    assert torch.stack(shifts).mean(0)[:3].abs().max() < 0.1


def test_coco_s_numbers_become_labels(data):
    found = Coco.of(data)
    assert found.classes == ("square", "disc")
    objects = found.part("train").targets[1]
    assert (objects.image, objects.size, objects.labels) == (103, (48, 60), [1, 2])
    masks = decoded(objects)
    assert masks.shape == (2, 48, 60)
    assert masks[0].sum() == 400
    assert masks[1].sum() == pytest.approx(math.pi * 10.5**2, rel=0.05)


def test_folders_of_other_years_are_read_alike(tmp_path):
    assert len(Coco.of(detector_runs.coco(tmp_path / "plain", suffix="")).part("val")) == 2


def broken(change):
    """A folder whose training annotations are changed."""

    def make(folder):
        detector_runs.coco(folder)
        document = detector_runs.read(folder, "train")
        changed = change(document)
        detector_runs.write(folder, "train", document if changed is None else changed)
        return folder

    return make


def first(**changes):
    return broken(lambda document: document["annotations"][0].update(changes))


def damaged(folder, text):
    detector_runs.coco(folder)
    (folder / "annotations" / "instances_train2017.json").write_text(text)


def empty(folder):
    detector_runs.coco(folder, train=2)
    (folder / "train2017" / "0.png").write_bytes(b"")


def resized(folder, train=2):
    if train:
        detector_runs.coco(folder, train=train)
    Image.new("RGB", (30, 30)).save(folder / "train2017" / "0.png")


def thin(folder):
    detector_runs.coco(folder, train=2)
    document = detector_runs.read(folder, "train")
    document["images"][0].update(width=1, height=1000)
    document["annotations"] = [annotation(1, 100, 5, [0, 0, 1, 9], [[0, 0, 1, 0, 1, 9]]), *document["annotations"][2:]]
    detector_runs.write(folder, "train", document)
    Image.new("RGB", (1, 1000)).save(folder / "train2017" / "0.png")


def untestable(folder):
    detector_runs.coco(folder)
    document = detector_runs.read(folder, "val")
    document["annotations"][0]["segmentation"] = {"size": [48, 60], "counts": "zz"}
    detector_runs.write(folder, "val", document)


LONG_RUNS = {"size": [48, 60], "counts": mask.encode(np.ones((99, 99), np.uint8, order="F"))["counts"].decode()}
FAULTS = {
    "no json": (lambda folder: damaged(folder, "{"), "instances_train2017.json cannot be read: Expecting property"),
    "a list": (broken(lambda _: []), "must hold an object, got []"),
    "no images": (broken(lambda document: document.pop("images") and None), "must have a list of images, got None"),
    "no size": (broken(lambda document: document["images"][1].pop("width") and None), "images[1] has no width as COCO"),
    "no box": (first(bbox=None), "annotations[0] has no bbox as COCO writes it, got None"),
    "another box": (first(bbox=[1, 2, 3]), "annotation 1 has a bbox that is no (left, top, width, height): [1, 2, 3]"),
    "no number": (first(bbox=[1, 2, 3, math.nan]), "annotation 1 has a bbox that is no (left, top, width, height)"),
    "no image": (first(image_id=7), "annotation 1 is of image 7, which is not listed"),
    "no category": (first(category_id=7), "annotation 1 is of category 7, which is not listed"),
    "twice": (first(id=2), "two of its annotations have the id 2"),
    "odd polygon": (first(segmentation=[[1, 2, 3, 4, 5, 6, 7]]), "annotation 1 has a polygon that is no list of three"),
    "no polygon": (first(segmentation=[]), "annotation 1 has an empty segmentation"),
    "short runs": (first(segmentation={"size": [48, 60], "counts": [5, 5]}), "has runs that do not fill its mask of"),
    "other size": (first(segmentation={"size": [60, 48], "counts": "x"}), "has a mask of size [60, 48], its image"),
    "damaged runs": (first(segmentation=LONG_RUNS), "a mask of image 100 cannot be decoded: RLE counts exceed"),
    "other categories": (
        broken(lambda document: document["categories"].append({"id": 1, "name": "x"})),
        "instances_train2017.json: only one of them has (1, 'x')",
    ),
    "nothing": (broken(lambda document: document.update(annotations=[])), "has no image that shows an object"),
    "empty file": (empty, "0.png cannot be read as an image: it is empty"),
    "endless number": (first(bbox=[1, 2, 3, 10**400]), "annotation 1 has a bbox that is no (left, top, width, height)"),
    "no pixels": (
        broken(lambda document: document["images"][1].update(width=-60)),
        "image 103 has no pixels, -60 x 48",
    ),
    "far polygon": (
        first(segmentation=[[1, 2, 3, 4, 5, 1e6]]),
        "annotation 1 has a polygon with points more than 100000",
    ),
    "crowd in words": (first(iscrowd="0"), "annotation 1 has an iscrowd that is neither 0 nor 1: '0'"),
    "no area": (first(area=math.nan), "annotation 1 has an area that is no number from 0 on: nan"),
    "damaged runs to test on": (
        untestable,
        "val2017.json: annotation 1 has a mask that cannot be decoded: Invalid RLE",
    ),
    "thin image": (thin, "0.png has 1 x 1000 pixels, too thin to be brought to --image-size 64"),
    "another image": (resized, "0.png has 30 x 30 pixels, its annotations say 60 x 48"),
}


@pytest.mark.fault
@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_not_as_coco_has_it_is_one_line(fault, tmp_path, capsys, monkeypatch):
    make, said = FAULTS[fault]
    make(tmp_path / "data")
    monkeypatch.setattr("halobench.train.trial.take", lambda *_: None)
    monkeypatch.setattr("halobench.train.step.Step.__call__", lambda *_: torch.zeros(()))
    assert main(command(tmp_path / "data", tmp_path / "run", evaluate_every=2)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("halobench.detect: ")
    assert said in line


def test_what_shows_nothing_is_counted_in_one_line(tmp_path):
    """Boxes without area, as COCO itself has one, and images without objects; in tests these images stay."""
    folder = detector_runs.coco(tmp_path / "data", val=3)
    for part in ("train", "val"):
        document = detector_runs.read(folder, part)
        document["annotations"][0]["bbox"][2] = 0
        document["annotations"] = [one for one in document["annotations"] if one["image_id"] != 103]
        document["annotations"].append(annotation(99, 100, 9, [0, 0, 5, 5], [[0, 0, 5, 0, 5, 5]], iscrowd=1))
        detector_runs.write(folder, part, document)
    found = Coco.of(folder)
    training, test = found.part("train"), found.part("val")
    assert [one.image for one in training.targets] == [100, 106, 109]
    assert [one.image for one in test.targets] == [100, 103, 106]
    assert [one.labels for one in test.targets] == [[2], [], [1, 2]]
    assert [line.partition(": ")[2] for line in found.notes] == [
        "1 object whose box has no area left out",
        "1 image without objects left out of training, of 4",
        "1 object whose box has no area left out",
    ]


def test_an_unreadable_image_is_passed_over_on_request(tmp_path):
    folder = detector_runs.coco(tmp_path / "data")
    (folder / "train2017" / "0.png").write_bytes(b"")
    (folder / "val2017" / "1.png").write_bytes(b"")
    settings = settings_of(folder, tmp_path / "run", skip_unreadable=2)
    squares, whole = Squares(Coco.of(folder).part("train"), settings), Whole(Coco.of(folder).part("val"), settings)
    _, target, unread = squares[0, 0]
    assert (len(target["labels"]), len(unread)) == (2, 1)
    pixels, number, unread = whole[0, 1]
    assert (number, len(unread), pixels.sum()) == (whole.nothing, 1, 0)


def test_masks_that_cannot_be_decoded_name_their_image(tmp_path):
    objects = Objects(7, (48, 60), [1], [LONG_RUNS])
    with pytest.raises(ValueError, match="RLE counts exceed"):
        decoded(objects)


def test_scenes_of_stamps_are_such_a_folder(tmp_path):
    from halobench.stamps.__main__ import main as stamps  # noqa: PLC0415
    from tests import scenes  # noqa: PLC0415

    sources = ["--stamps", scenes.stamps(tmp_path / "stamps"), "--backgrounds", scenes.backgrounds(tmp_path / "walls")]
    assert stamps([str(one) for one in (tmp_path / "out", *sources, "--train", 2, "--val", 2, "--side", 64)]) == 0
    found = Coco.of(tmp_path / "out")
    assert found.classes == ("round", "square")
    objects = found.part("train").targets[0]
    assert len(objects.labels) == len(decoded(objects)) > 0
    assert json.loads(json.dumps(found.parts["val"].content)) == found.parts["val"].content
