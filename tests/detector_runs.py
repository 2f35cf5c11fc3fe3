"""Tiny training runs of a detector in tests: their data, drawn here, and detectors that have little to do."""

import json
from functools import partial

import numpy as np
from PIL import Image, ImageDraw

from halobench import models
from halobench.detect import run as runs
from halobench.detect.settings import parse

TINY = {"--batch": 2, "--image-size": 64, "--epochs": 1, "--workers": 0, "--device": "cpu"}
TINY |= {"--model": "maskrcnn_resnet_mini", "--learning-rate": 0.002, "--warm-up-epochs": 0}
FEW = {
    "rpn_pre_nms_top_n_train": 60, "rpn_post_nms_top_n_train": 30, "rpn_pre_nms_top_n_test": 60,
    "rpn_post_nms_top_n_test": 30, "box_batch_size_per_image": 8, "box_detections_per_img": 4,
}  # fmt: skip


def command(source, output, *flags, **changes):
    """The arguments of a tiny run. ``changes`` are options, underscores for dashes."""
    options = TINY | {"--data": source, "--output": output}
    options |= {f"--{name.replace('_', '-')}": value for name, value in changes.items()}
    return [*(str(part) for pair in options.items() for part in pair), *flags]


def settings_of(source, output, **changes):
    return parse(command(source, output, **changes), 1)[0]


def spare(monkeypatch):
    """Let detectors look at few regions, so that a step takes a fraction of a second."""
    monkeypatch.setattr(runs.models, "create", partial(models.create, **FEW))


def coco(folder, train=4, val=2, suffix="2017"):
    """A folder in COCO's format: images of 60 x 48 with a dark disc and a bright square, polygons and run lengths.

    Numbers of images and categories begin late and have gaps, as COCO's have.
    """
    for part, count in (("train", train), ("val", val)):
        place = folder / f"{part}{suffix}"
        place.mkdir(parents=True)
        (folder / "annotations").mkdir(exist_ok=True)
        document = {"images": [], "annotations": [], "categories": categories()}
        for at in range(count):
            image = Image.new("RGB", (60, 48), (120, 120, 120))
            draw = ImageDraw.Draw(image)
            left = 3 + 2 * at
            draw.rectangle((left, 4, left + 19, 23), fill="white")
            draw.ellipse((34, 20, 54, 40), fill="black")
            image.save(place / f"{at}.png")
            disc = (np.asarray(image)[..., 0] == 0).astype(np.uint8)
            document["images"].append({"id": 100 + 3 * at, "file_name": f"{at}.png", "width": 60, "height": 48})
            square = [left, 4, left + 20, 4, left + 20, 24, left, 24]
            document["annotations"] += [
                annotation(2 * at + 1, 100 + 3 * at, 5, [left, 4, 20, 20], [square]),
                annotation(2 * at + 2, 100 + 3 * at, 9, [34, 20, 21, 21], {"size": [48, 60], "counts": runs_of(disc)}),
            ]
        write(folder, part, document, suffix)
    return folder


def categories():
    return [{"id": 9, "name": "disc"}, {"id": 5, "name": "square"}]


def annotation(number, image, category, box, segmentation, **more):
    about = {"id": number, "image_id": image, "category_id": category, "bbox": box, "segmentation": segmentation}
    return about | {"area": box[2] * box[3], "iscrowd": 0} | more


def runs_of(mask):
    """The lengths of runs of zeros and ones, column by column, zeros first."""
    flat = mask.T.ravel()
    ends = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff([0, *ends, len(flat)]).tolist()
    return lengths if flat[0] == 0 else [0, *lengths]


def read(folder, part, suffix="2017"):
    return json.loads((folder / "annotations" / f"instances_{part}{suffix}.json").read_text())


def write(folder, part, document, suffix="2017"):
    (folder / "annotations" / f"instances_{part}{suffix}.json").write_text(json.dumps(document))
