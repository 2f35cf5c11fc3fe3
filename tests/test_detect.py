"""Training runs of a detector: what they leave, that they resume, how they are judged, and what ends them."""

import csv
import math
import sys

import numpy as np
import pytest
import torch
from faster_coco_eval.core import mask
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from halobench.detect import precision
from halobench.detect.__main__ import main
from halobench.detect.annotations import Part
from halobench.detect.masks import decoded
from halobench.detect.reading import target_of
from halobench.detect.run import DetectorRun
from halobench.records import columns
from halobench.train.__main__ import main as train
from halobench.train.processes import Processes
from halobench.train.step import Step
from halobench.train.unusable import DataError
from tests import detector_runs
from tests.detector_runs import command, settings_of


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return detector_runs.coco(tmp_path_factory.mktemp("data") / "coco")


@pytest.fixture(autouse=True)
def _spared(monkeypatch):
    detector_runs.spare(monkeypatch)


def rows(output):
    with (output / "precision.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def ended(data, tmp_path_factory):
    """The output of a run of two epochs, tested in the last."""
    output = tmp_path_factory.mktemp("runs") / "two"
    with pytest.MonkeyPatch.context() as patch:
        detector_runs.spare(patch)
        assert main(command(data, output, epochs=2, evaluate_every=3)) == 0
    return output


def test_a_run_leaves_a_table_of_coco_s_precisions(ended):
    first, last = rows(ended)
    assert list(first) == list(columns.PRECISION)
    assert (first["model"], first["backend"], first["epoch"], last["step"]) == (
        "maskrcnn_resnet_mini",
        "none",
        "1",
        "4",
    )
    assert {first[name] for name in precision.PRECISIONS} == {""}
    assert all(0 <= float(last[name]) <= 1 for name in ("ap_box", "ap_box_50", "ap_mask", "ap_mask_75"))
    assert (last["ap_box_medium"], last["ap_mask_large"]) == ("", "")  # no such objects
    assert math.isfinite(float(first["train_loss"]))
    assert list((ended / "tensorboard").iterdir())


def test_a_run_that_was_interrupted_ends_as_if_it_had_not_been(data, ended, tmp_path, monkeypatch, capsys):
    saved = DetectorRun.save

    def stop(run):
        saved(run)
        raise KeyboardInterrupt

    monkeypatch.setattr(DetectorRun, "save", stop)
    arguments = command(data, tmp_path / "run", epochs=2, evaluate_every=3)
    assert main(arguments) == 130
    assert "halobench.detect: interrupted; the same command with --resume goes on" in capsys.readouterr().err
    monkeypatch.setattr(DetectorRun, "save", saved)
    assert main([*arguments, "--resume"]) == 0
    assert "goes on after epoch 1 of 2" in capsys.readouterr().out
    weights, others = (torch.load(one / "checkpoint.pt")["model"] for one in (ended, tmp_path / "run"))
    for name, one in weights.items():
        torch.testing.assert_close(others[name], one, rtol=0, atol=0, msg=name)
    assert [row["train_loss"] for row in rows(tmp_path / "run")] == [row["train_loss"] for row in rows(ended)]


def test_another_run_s_checkpoint_is_refused(data, ended, tmp_path, capsys):
    assert main(command(data, ended, "--resume", epochs=2, evaluate_every=3, image_size=96)) == 2
    assert "cannot be resumed with other settings: image_size was 64, not 96" in capsys.readouterr().err
    other = detector_runs.coco(tmp_path / "other")
    document = detector_runs.read(other, "val")
    document["annotations"].pop()
    detector_runs.write(other, "val", document)
    assert main(command(other, ended, "--resume", epochs=2, evaluate_every=3)) == 2
    assert "cannot be resumed with other data: the images of val have other annotations now" in capsys.readouterr().err


def test_a_detector_with_halo_layers_and_any_backend_trains(data, tmp_path):
    settings = settings_of(data, tmp_path / "run", model="maskrcnn_halonet_mini", backend="sdpa", dtype="bfloat16")
    run = DetectorRun(settings, Processes(), torch.device("cpu"), resume=False)
    (row,) = run.go()
    assert (row["backend"], row["parameters"]) == ("sdpa", sum(one.numel() for one in run.model.parameters()))
    tables = [one.grad for name, one in run.model.named_parameters() if name.endswith(".rows")]
    assert len(tables) == 6
    assert all(bool(one.isfinite().all() and one.any()) for one in tables)


def answered_with_the_truth(folder, output, monkeypatch, **changes):
    """A run whose detector finds what each image shows, and how that is judged."""
    settings = settings_of(folder, output, **changes)
    run = DetectorRun(settings, Processes(), torch.device("cpu"), resume=False)
    places = iter(run.test.targets)

    def truth(images):
        for _ in images:
            objects = next(places)
            masks = decoded(objects)
            found = target_of(torch.from_numpy(masks), torch.tensor(objects.labels, dtype=torch.long))
            runs = [mask.encode(np.asfortranarray(one)) for one in masks]
            yield {**found, "masks": runs, "scores": torch.full((len(masks),), 0.9)}

    monkeypatch.setattr(run, "detected", lambda images: list(truth(images)))
    return run, run.evaluate()


def test_what_is_learned_is_found_again(data, tmp_path, monkeypatch):
    """A detector that answers with the truth has a precision of one, of whatever size its images were."""
    run, judged = answered_with_the_truth(data, tmp_path / "run", monkeypatch)
    assert judged["ap_box"] == pytest.approx(1)
    assert judged["ap_mask"] == pytest.approx(1)
    assert (judged["ap_mask_small"], judged["ap_mask_medium"]) == (pytest.approx(1), None)
    assert run.said(judged) == "AP 100.0 of boxes, 100.0 of masks"


def test_what_is_found_lies_in_the_image_as_it_was(data, tmp_path):
    run = DetectorRun(settings_of(data, tmp_path / "run"), Processes(), torch.device("cpu"), resume=False)
    run.model.roi_heads.score_thresh = 0.0
    run.model.eval()
    sizes = []
    run.model.backbone.register_forward_pre_hook(lambda _, inputs: sizes.append(tuple(inputs[0].shape)))
    images = [torch.zeros((3, height, 60), dtype=torch.uint8) for height in (20, 24)]
    found = run.detected(images)
    assert sizes == [(2, 3, 64, 64)]  # one size, whatever the images have
    assert all(len(one["masks"]) == len(one["boxes"]) > 0 for one in found)
    assert [{tuple(runs["size"]) for runs in one["masks"]} for one in found] == [{(20, 60)}, {(24, 60)}]
    written = list(precision.detections(7, found[1]))
    assert {one["category_id"] for one in written} <= {1, 2}
    assert {one["image_id"] for one in written} == {7}
    assert all(one["bbox"][1] + one["bbox"][3] <= 24.01 for one in written)


def test_squares_to_train_on_are_those_that_torchvision_would_scale(data, tmp_path, monkeypatch):
    """Scaled by one, and with the mean and deviation that it has on the host."""
    run = DetectorRun(settings_of(data, tmp_path / "run"), Processes(), torch.device("cpu"), resume=False)
    theirs = GeneralizedRCNNTransform(64, 64, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    squares, targets, _ = next(iter(run.loader))
    expected, scaled = theirs(list(run.normalised(squares)), targets)
    monkeypatch.setattr("torchvision.models.detection.transform._resize_image_and_masks", None)
    found, kept = run.model.train().transform(list(run.normalised(squares)), targets)
    torch.testing.assert_close(found.tensors, expected.tensors)
    assert found.image_sizes == expected.image_sizes == [(64, 64)] * 2
    for one, other in zip(kept, scaled, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in ("boxes", "labels", "masks"))


def test_a_gradient_is_no_longer_than_allowed(data, tmp_path):
    """Fresh weights may make gradients of any size; of classification's steps nothing is cut."""
    model = torch.nn.Linear(4, 1)
    norms = []
    for clip in (None, 0.5):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        Step(model, lambda outputs, _: 1e3 * outputs.sum(), optimizer, clip=clip)(torch.ones(8, 4), None)
        norms.append(torch.stack([one.grad.norm() for one in model.parameters()]).norm().item())
    assert norms == [pytest.approx(1e3 * (4 * 8**2 + 8**2) ** 0.5, rel=1e-3), pytest.approx(0.5, rel=1e-3)]
    run = DetectorRun(settings_of(data, tmp_path / "run"), Processes(), torch.device("cpu"), resume=False)
    assert run.step.clip == DetectorRun.clip == 10


def test_cudnn_tries_no_kernels_for_each_number_of_objects(data, tmp_path):
    tried = []
    run = DetectorRun(settings_of(data, tmp_path / "run"), Processes(), torch.device("cpu"), resume=False)
    run.model.register_forward_pre_hook(lambda *_: tried.append(torch.backends.cudnn.benchmark))
    run.go()
    assert tried == [False] * 3  # two steps, and a batch of the test


def test_nothing_found_is_a_precision_of_zero(data):
    """Of objects that are not there, there is none: the images have small ones only."""
    judged = precision.precisions(precision.Truth.of(Part.of(data, "val")), [], [100, 103])
    assert {name for name, value in judged.items() if value == 0} == {
        f"ap_{kind}{name}" for kind in ("box", "mask") for name in ("", "_50", "_75", "_small")
    }
    assert all(judged[f"ap_{kind}_{name}"] is None for kind in ("box", "mask") for name in ("medium", "large"))


def renumbered(kind, number, *also):
    """The first entry of a kind gets this number, and the annotations that mean it."""

    def change(document):
        old, document[kind][0]["id"] = document[kind][0]["id"], number
        for one in document["annotations"]:
            for name in also:
                one[name] = number if one[name] == old else one[name]

    return change


NUMBERS = {
    "annotation 0": renumbered("annotations", 0),  # as many tools begin
    "a huge annotation": renumbered("annotations", 10**30),
    "image 0": renumbered("images", 0, "image_id"),
    "a negative image": renumbered("images", -100, "image_id"),
    "a huge image": renumbered("images", 10**30, "image_id"),
    "category 0": renumbered("categories", 0, "category_id"),
    "a huge category": renumbered("categories", 10**30, "category_id"),
}


@pytest.mark.parametrize("change", NUMBERS.values(), ids=NUMBERS)
def test_numbers_of_any_size_change_no_precision(tmp_path, monkeypatch, change):
    folder = detector_runs.coco(tmp_path / "data")
    for part in ("train", "val"):
        document = detector_runs.read(folder, part)
        change(document)
        detector_runs.write(folder, part, document)
    _, judged = answered_with_the_truth(folder, tmp_path / "run", monkeypatch)
    assert (judged["ap_box"], judged["ap_mask"]) == (pytest.approx(1), pytest.approx(1))


def test_what_other_people_s_annotations_lack_is_filled_in(tmp_path, monkeypatch):
    """No crowd is none, and COCO's area is the mask's; without a box that has an area, nobody could find an object."""
    folder = detector_runs.coco(tmp_path / "data")
    document = detector_runs.read(folder, "val")
    one, other, third, fourth = document["annotations"]
    one.update(iscrowd=None, area=None)
    del other["iscrowd"], other["area"]
    third["bbox"][2] = 0.0
    fourth.update(iscrowd=True)
    detector_runs.write(folder, "val", document)
    annotations = precision.Truth.of(Part.of(folder, "val")).content["annotations"]
    disc = sum(other["segmentation"]["counts"][1::2])
    assert [(each["area"], each["iscrowd"]) for each in annotations] == [(400, 0), (disc, 0), (441, 1)]
    _, judged = answered_with_the_truth(folder, tmp_path / "run", monkeypatch)
    assert (judged["ap_box"], judged["ap_mask"]) == (pytest.approx(1), pytest.approx(1))


def test_what_cannot_be_read_is_not_tested(tmp_path, monkeypatch):
    folder = detector_runs.coco(tmp_path / "data", val=3)
    (folder / "val2017" / "2.png").write_bytes(b"")
    _, judged = answered_with_the_truth(folder, tmp_path / "run", monkeypatch, skip_unreadable=3)
    assert (judged["ap_box"], judged["ap_mask"]) == (pytest.approx(1), pytest.approx(1))
    for name in ("0.png", "1.png"):
        (folder / "val2017" / name).write_bytes(b"")
    with pytest.raises(DataError, match="has no image to test on that can be read"):
        answered_with_the_truth(folder, tmp_path / "run", monkeypatch, skip_unreadable=3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "resnet50"}, "--model must be a detector, maskrcnn_ before a name, got 'resnet50'"),
        ({"model": "maskrcnn_nothing"}, "no model is called 'maskrcnn_nothing'"),
        ({"backend": "sdpa"}, "--backend: maskrcnn_resnet_mini has no attention slots to fill, got 'sdpa'"),
        ({"evaluate_every": 0}, "--evaluate-every must be at least 1 and below 2^31, got 0"),
        ({"epochs": 0}, "--epochs must be at least 1"),
        ({"data": "nowhere"}, "nowhere must hold one annotations/instances_train*.json, as COCO does; it has none"),
        ({"batch": 9}, "holds 4 images to train on, less than a step's 9"),
    ],
)
def test_choices_that_cannot_be_are_one_line(data, tmp_path, capsys, changes, said):
    try:
        status = main(command(data, tmp_path / "run", **changes))
    except SystemExit as ended:
        status = ended.code
    assert status == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_the_other_command_names_this_one(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        train(["--output", str(tmp_path / "run"), "--model", "maskrcnn_resnet50"])
    assert ended.value.code == 2
    assert "maskrcnn_resnet50 is a detector, which python -m halobench.detect trains" in capsys.readouterr().err


def test_without_its_package_it_says_what_to_install(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    assert main(command(data, tmp_path / "run")) == 2
    assert "pip install 'halobench[detection]'" in capsys.readouterr().err
