"""Scenes cut and pasted from stamps: each seed has its own, no object in both halves, masks of what is seen."""

import json
import shutil
import sys

import numpy as np
import pytest
from faster_coco_eval import COCO
from PIL import Image

from halobench.stamps import pictures, scene
from halobench.stamps.__main__ import main
from tests import scenes


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    return scenes.stamps(folder / "stamps"), scenes.backgrounds(folder / "backgrounds")


def run(sources, output, *more):
    arguments = [str(output), "--stamps", str(sources[0]), "--backgrounds", str(sources[1]), "--side", "96"]
    return main([*arguments, *more])


@pytest.fixture(scope="module")
def made(sources, tmp_path_factory):
    output = tmp_path_factory.mktemp("made") / "scenes"
    assert run(sources, output, "--train", "5", "--val", "3") == 0
    return output


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_seed_makes_the_same_files(sources, made, tmp_path):
    assert run(sources, tmp_path / "again", "--train", "5", "--val", "3") == 0
    assert contents(tmp_path / "again") == contents(made)
    assert run(sources, tmp_path / "other", "--train", "5", "--val", "3", "--seed", "1") == 0
    assert all(found != contents(made)[name] for name, found in contents(tmp_path / "other").items())


def test_more_scenes_begin_with_the_same(sources, made, tmp_path):
    assert run(sources, tmp_path / "more", "--train", "6", "--val", "1") == 0
    more = contents(tmp_path / "more")
    assert all(more[name] == found for name, found in contents(made).items() if name.startswith("train/"))


def test_masks_are_what_is_seen(made, capsys):
    """A red pixel is a disc's and a blue one a square's; what lies behind another object is in no mask."""
    checked = 0
    for part in pictures.PARTS:
        coco = COCO(str(made / "annotations" / f"instances_{part}.json"))
        assert {one["name"] for one in coco.cats.values()} == {"round", "square"}
        for number, about in coco.imgs.items():
            pixels = np.asarray(Image.open(made / part / about["file_name"])).astype(int)
            assert pixels.shape == (96, 96, 3)
            objects = coco.loadAnns(coco.getAnnIds(number))
            assert 1 <= len(objects) <= 8
            masks = np.stack([coco.annToMask(one).astype(bool) for one in objects])
            assert masks.sum(0).max() == 1
            for one, mask in zip(objects, masks, strict=True):
                rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
                left, top, width, height = one["bbox"]
                assert (left, top) == (columns[0], rows[0])
                assert (width, height) == (np.ptp(columns) + 1, np.ptp(rows) + 1)
                assert one["area"] == mask.sum()
                strongest = 0 if coco.cats[one["category_id"]]["name"] == "round" else 2
                assert (pixels[mask].argmax(1) == strongest).mean() > 0.9  # JPEG blurs the edges
                checked += 1
            background = pixels[~masks.any(0)]
            assert (np.ptp(background, axis=1) < 110).mean() > 0.9  # grey
    assert checked > 8


def test_no_object_and_no_background_is_in_both_halves(sources):
    for found in (pictures.stamps_in(sources[0]), pictures.backgrounds_in(sources[1:])):
        halves = pictures.halves(found, 3)
        keys = {part: {one.key for one in of} for part, of in halves.items()}
        assert keys["train"] & keys["val"] == set()
        assert keys["train"] | keys["val"] == {one.key for one in found}
        for category in {one.category for one in found}:
            shown = [{one.key for one in of if one.category == category} for of in halves.values()]
            assert [len(each) for each in shown] == [len(shown[0]), max(round(0.2 * sum(map(len, shown))), 1)]
    assert pictures.halves(found, 3) == halves


def test_what_two_categories_show_is_in_one_half():
    shared = [pictures.Picture(None, key, category) for category in ("cats", "dogs") for key in "abcde"]
    alone = [pictures.Picture(None, "only", "zebras")]
    halves = pictures.halves([*shared, *alone], 0)
    for category in ("cats", "dogs"):
        assert [sum(one.category == category for one in halves[part]) for part in pictures.PARTS] == [4, 1]
    assert alone[0] in halves["train"]
    few, many = (
        [pictures.Picture(None, str(key), name) for key in range(count)] for name, count in (("b", 2), ("a", 9))
    )
    for seed in range(9):
        halves = pictures.halves([*many, *few], seed)
        assert [{one.category for one in halves[part]} for part in pictures.PARTS] == [{"a", "b"}] * 2


def test_what_shows_the_same_is_one_thing(tmp_path):
    picture = Image.new("RGB", (8, 8))
    for name in (
        "cats/Tom.png",
        "cats/tom_mirror.png",
        "cats/deep/tom_mirror_flip.png",
        "dogs/wolves.png",
        "loose.png",
    ):
        (tmp_path / "stamps" / name).parent.mkdir(parents=True, exist_ok=True)
        picture.resize((8 + len(name), 8)).save(tmp_path / "stamps" / name)
    picture.resize((8 + len("dogs/wolves.png"), 8)).save(tmp_path / "stamps" / "dogs/zorro.png")  # the same bytes
    found = pictures.stamps_in(tmp_path / "stamps")
    assert [(one.category, one.key) for one in found] == [("cats", "tom")] * 3 + [("dogs", "wolves")]
    names = ["Sea/contents/images/80x60.jpg", "Sea/contents/images_dark/9x9.PNG", "Sea/contents/screenshot.png"]
    names += ["wood-l.webp", "wood-d.webp", "Hill_3840x2160.jpg", "Hill-Light.jpg", "notes.txt"]
    for name in names:
        (tmp_path / "walls" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "walls" / name).write_text(name)
    (tmp_path / "walls" / "copy.jpg").write_text("Hill-Light.jpg")
    (tmp_path / "walls" / "link.jpg").symlink_to(tmp_path / "walls" / "Hill-Light.jpg")
    assert sorted(one.key for one in pictures.backgrounds_in([tmp_path / "walls"])) == [
        "hill", "hill", "sea", "sea", "wood", "wood",
    ]  # fmt: skip


def test_a_stamp_without_an_outline_is_left_out(tmp_path):
    for name, alpha in (("opaque", 255), ("empty", 0), ("half", 90)):
        Image.new("RGBA", (30, 30), (9, 9, 9, alpha)).save(tmp_path / f"{name}.png")
        assert pictures.cut_out(pictures.Picture(tmp_path / f"{name}.png", name)) is None
    outlined = Image.new("RGBA", (30, 30))
    outlined.paste((9, 9, 9, 255), (4, 6, 20, 16))
    outlined.save(tmp_path / "outlined.png")
    assert pictures.cut_out(pictures.Picture(tmp_path / "outlined.png", "")).pixels.shape == (10, 16, 4)


def test_objects_behind_others_keep_half_of_themselves():
    disc = np.zeros((60, 60, 4), np.uint8)
    disc[5:55, 5:55] = 255
    stamps, background = [pictures.Stamp(disc, "disc")], Image.new("RGB", (100, 70))
    counts = set()
    for seed in range(30):
        image, found = scene.make(np.random.default_rng(seed), stamps, [background], 64)
        counts.add(len(found))
        assert image.size == (64, 64)
        assert all(one.mask.sum() >= pictures.LEAST_PIXELS * scene.VISIBLE for one in found)
    assert min(counts) == 1
    assert max(counts) > 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--train", "0"], "--train must be at least 1, got 0"),
        (["--side", "65501"], "--side must be at most 65500, got 65501"),
        (["--side", "20"], "--side must be at least 64, got 20"),
        (["--stamps", "nowhere"], "nowhere holds no folders of stamps (.png); on Debian: apt-get install tuxpaint"),
        (["--backgrounds", "nowhere"], "nowhere holds no backgrounds; on Debian: apt-get install mate-backgrounds"),
    ],
)
def test_what_cannot_be_is_one_line(sources, tmp_path, capsys, change, said):
    arguments = {"--stamps": str(sources[0]), "--backgrounds": str(sources[1])} | dict([change])
    assert main([str(tmp_path / "new"), *(word for pair in arguments.items() for word in pair)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"halobench.stamps: {said}")


def test_a_folder_that_is_there_is_left_alone(sources, made, capsys):
    before = contents(made)
    assert run(sources, made) == 2
    assert "exists and is no empty folder" in capsys.readouterr().err
    assert contents(made) == before


def test_a_damaged_stamp_is_named(sources, tmp_path, capsys):
    scenes.stamps(tmp_path / "stamps")
    damaged = tmp_path / "stamps" / "round" / "deeper" / "round40.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    assert run((tmp_path / "stamps", sources[1]), tmp_path / "new") == 2
    assert f"{damaged} cannot be read as an image" in capsys.readouterr().err


def test_without_its_package_it_says_what_to_install(sources, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    assert run(sources, tmp_path / "new", "--train", "1", "--val", "1") == 2
    assert "pip install 'halobench[detection]'" in capsys.readouterr().err


def test_too_few_pictures_for_two_halves(sources, tmp_path, capsys):
    scenes.backgrounds(tmp_path / "one", number=1)
    assert run((sources[0], tmp_path / "one"), tmp_path / "new", "--train", "1", "--val", "1") == 2
    assert "too few backgrounds for both halves: val has none" in capsys.readouterr().err
    scenes.backgrounds(tmp_path / "opaque" / "category")
    assert run((tmp_path / "opaque", sources[1]), tmp_path / "new", "--train", "1", "--val", "1") == 2
    assert "too few stamps with an outline for both halves: train has none" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_an_interruption_and_a_full_disk_are_one_line(sources, tmp_path, capsys, monkeypatch):
    def raised(error):
        def make(*_):
            raise error

        return make

    for error, status, said in (
        (KeyboardInterrupt(), 130, "interrupted; what was written is not whole: give a new folder"),
        (OSError(28, "No space left on device"), 2, "0 cannot be written: No space left on device; what was written"),
        (MemoryError(), 2, "too little memory for scenes of --side 96"),
    ):
        monkeypatch.setattr(scene, "make", raised(error))
        assert run(sources, tmp_path / f"{status}0", "--train", "1", "--val", "1") == status
        line = capsys.readouterr().err.strip()
        assert line.startswith("halobench.stamps: ")
        assert said in line
        shutil.rmtree(tmp_path / f"{status}0")


def test_what_is_written_says_where_it_comes_from(made):
    document = json.loads((made / "annotations" / "instances_val.json").read_text())
    assert "tuxpaint-stamps-default (GPL-2)" in document["info"]["description"]
    assert [one["id"] for one in document["annotations"]] == list(range(1, len(document["annotations"]) + 1))
