"""Which folders are classes and which files are images, in folders as they are found."""

import os
import unicodedata
from pathlib import Path

import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from halobench.train.__main__ import main
from halobench.train.data import Data
from halobench.train.folder import CLUTTER
from halobench.train.unusable import DataError
from tests import training_data
from tests.training_runs import command


def images(folder, *names):
    """Small images of these names in a folder."""
    for name in names:
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(place, "PNG")
    return folder


@pytest.fixture
def pets(tmp_path):
    """Two classes in both parts."""
    return images(tmp_path / "pets", *(f"{part}/{name}/0.png" for part in ("train", "val") for name in ("cat", "dog")))


def found(folder, part="train"):
    """The images of a part, by their place in it, with the names of their classes."""
    data = Data.of(folder)
    part_found = data.part(part)
    places = [str(Path(path).relative_to(folder / part)) for path in part_found.sources]
    return list(zip(places, [data.classes[target] for target in part_found.targets], strict=True))


def test_a_tidy_folder_is_read_as_torchvision_reads_it(tmp_path):
    """The same classes, numbers and order; uppercase, digits and folders in folders included."""
    names = ("Zebra/1.PNG", "ant/10.jpg", "ant/9.JPEG", "ant/sub/0.png", "ant/a.png", "0/x.Jpg", "10/x.png", "9/x.bmp")
    folder = images(tmp_path, *(f"{part}/{name}" for part in ("train", "val") for name in names))
    theirs, data = ImageFolder(folder / "train"), Data.of(folder)
    assert data.classes == tuple(theirs.classes) == ("0", "10", "9", "Zebra", "ant")
    part = data.part("train")
    assert list(zip(part.sources, part.targets, strict=True)) == theirs.samples


def test_clutter_is_no_class_and_no_image(pets):
    """What macOS, Windows, network storages, Jupyter and Python leave behind, beside the classes and in them."""
    clutter = [
        *(name.upper() for name in CLUTTER),
        *CLUTTER,
        "@eaDir",
        "__MACOSX",
        ".ipynb_checkpoints",
        ".git",
        ".Trash-0",
    ]
    for name in clutter:
        if "." in name[1:]:  # a file
            images(pets, f"train/cat/{name}", f"train/{name}")
        else:
            images(pets, f"train/{name}/x.png", f"train/cat/{name}/x.png", f"val/{name}/x.png")
    images(pets, "train/cat/._0.png", "train/cat/.hidden.jpg", "val/._cat/x.png")
    (pets / "train" / "cat" / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    data = Data.of(pets)
    assert data.classes == ("cat", "dog")
    assert found(pets) == [("cat/0.png", "cat"), ("dog/0.png", "dog")]
    assert not data.part("train").left_out


def test_what_is_no_image_is_left_out_and_counted(pets):
    for name in ("train/cat/notes.txt", "train/cat/IMG_1.HEIC", "train/cat/IMG_2.heic", "train/dog/README"):
        (pets / name).write_text("x")
    (pets / "train" / "labels.csv").write_text("x")
    images(pets, "train/beside.png")
    os.mkfifo(pets / "train" / "dog" / "pipe.png")  # which would be waited for
    part = Data.of(pets).part("train")
    assert len(part) == 2
    assert part.left_out == {
        ".heic": 2, ".txt": 1, ".png": 1, "without extension": 1, "images beside the class folders": 1,
    }  # fmt: skip


def test_val_is_numbered_by_the_names_of_train(pets):
    """Also where it has fewer classes, or an empty folder of one."""
    images(pets, "train/ape/0.png", "train/bee/0.png")
    (pets / "val" / "bee").mkdir()
    assert Data.of(pets).classes == ("ape", "bee", "cat", "dog")
    assert Data.of(pets).part("val").targets == [2, 3]
    assert found(pets, "val") == [("cat/0.png", "cat"), ("dog/0.png", "dog")]


def test_a_run_says_which_classes_val_lacks(tmp_path, capsys):
    folder = training_data.image_folder(tmp_path / "images", training=20, test=20)
    for path in (folder / "val" / "class0").iterdir():
        path.unlink()
    assert main(command(folder, tmp_path / "run", batch=10, epochs=1, model="resnet_mini")) == 0
    assert "to test on: 18 images; none of 1 class: 'class0'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("fox", "has a class folder 'fox', which train/ does not have"),
        ("Cat", "has a class folder 'Cat', which train/ does not have (but 'cat')"),
        ("straße", "has a class folder 'straße', which train/ does not have"),
    ],
)
def test_another_class_in_val_is_refused(name, said, pets):
    """Even an empty one: the folders are not of one set of data."""
    (pets / "val" / name).mkdir()
    with pytest.raises(DataError) as raised:
        Data.of(pets)
    assert str(raised.value) == f"{pets / 'val'} {said}"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda pets: (pets / "train" / "eel").mkdir(), "the class folder {train}/eel holds no images"),
        (lambda pets: (pets / "train" / "cat" / "0.png").rename(pets / "train" / "cat" / "0.heic"),
         "the class folder {train}/cat holds no images; left out: 1 .heic"),
        (lambda pets: (pets / "train" / "cat").rename(pets / "cat"),
         "{train} must hold folders of two classes at least, it has one: 'dog'"),
        (lambda pets: [(pets / "train" / name).rename(pets / name) for name in ("cat", "dog")],
         "{train} must hold a folder for each class, it has none"),
        (lambda pets: [(pets / "val" / name / "0.png").unlink() for name in ("cat", "dog")], "{val} holds no images"),
        (lambda pets: (pets / "val").rename(pets / "test"),
         "{folder} must hold folders train/ and val/, or Fashion-MNIST's files; it has no val/"),
        (lambda pets: (pets / "train" / "cat" / "loop").symlink_to(".."),
         "{train}/cat/loop leads back to a folder that it lies in"),
        (lambda pets: (pets / "train" / "cat" / "root").symlink_to("/"),
         "{train}/cat/root leads back to a folder that it lies in"),
        (lambda pets: (pets / "train" / "cat" / "self").symlink_to("."),
         "{train}/cat/self leads back to a folder that it lies in"),
    ],
    ids=["empty", "unknown kind", "one class", "no class", "empty val", "no val", "loop", "root", "self"],
)  # fmt: skip
def test_folders_that_cannot_be_used(spoil, said, pets):
    spoil(pets)
    with pytest.raises(DataError) as raised:
        len(Data.of(pets).part("train")) + len(Data.of(pets).part("val"))
    assert str(raised.value) == said.format(folder=pets, train=pets / "train", val=pets / "val")


def test_two_links_in_a_circle_are_refused(pets, tmp_path):
    """Neither leads to a folder above it by name."""
    for one, other in (("a", "b"), ("b", "a")):
        (tmp_path / one).mkdir()
        (tmp_path / one / "to").symlink_to(tmp_path / other)
    (pets / "train" / "cat" / "a").symlink_to(tmp_path / "a")
    with pytest.raises(DataError, match="leads back to a folder that it lies in"):
        Data.of(pets).part("train")


def test_links_are_followed(pets, tmp_path):
    """Of train/, of a class, of a folder in one and of an image; a broken one is an image that cannot be read."""
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "train").symlink_to(pets / "train")
    (linked / "val").symlink_to(pets / "val")
    images(tmp_path / "elsewhere", "more/1.png")
    (pets / "train" / "cat" / "more").symlink_to(tmp_path / "elsewhere" / "more")
    (pets / "train" / "eel").symlink_to(tmp_path / "elsewhere")
    (pets / "train" / "dog" / "1.png").symlink_to("0.png")
    (pets / "train" / "dog" / "2.png").symlink_to("gone.png")
    places = [place for place, _ in found(linked)]
    assert places == ["cat/0.png", "cat/more/1.png", "dog/0.png", "dog/1.png", "dog/2.png", "eel/more/1.png"]


def test_links_that_cannot_be_followed_are_named(pets):
    """A link to itself: as an image it is one that cannot be read, as a folder it is refused."""
    for name in ("cat/x.png", "eel"):
        (pets / "train" / name).symlink_to(Path(name).name)
        if name == "eel":
            with pytest.raises(
                DataError, match=f"{pets}/train/eel cannot be followed: Too many levels of symbolic links"
            ):
                Data.of(pets)
        else:
            assert found(pets)[1] == (name, "cat")
            with pytest.raises(DataError, match=r"x\.png cannot be read as an image: Too many levels"):
                Data.of(pets).part("train").load(1)


def test_data_behind_a_closed_door_are_named(pets, tmp_path):
    door = tmp_path / "door"
    door.mkdir()
    pets.rename(door / "pets")
    door.chmod(0)
    root = os.geteuid() == 0
    if root:  # who may enter everything
        os.seteuid(65534)
    try:
        with pytest.raises(DataError, match=f"{door / 'pets'} cannot be listed: Permission denied"):
            Data.of(door / "pets")
    finally:
        if root:
            os.seteuid(0)
        door.chmod(0o700)


def test_what_cannot_be_listed_is_named(pets, monkeypatch):
    """And not left out in silence, as it would be by ``os.walk``."""
    scan, private = os.scandir, str(pets / "train" / "cat" / "private")
    images(pets, "train/cat/private/x.png")

    def refuse(folder):
        if folder == private:
            raise PermissionError(13, "Permission denied", folder)
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=f"{private} cannot be listed: Permission denied"):
        Data.of(pets).part("train")


def test_names_in_any_script_are_taken_composed(pets):
    """A Mac may have written train/ and not val/."""
    names = "café", "日本", "Ωmega", "a b", "x'\"y"
    for name in names:
        images(pets, f"train/{unicodedata.normalize('NFD', name)}/0.png", f"val/{name}/0.png")
    data = Data.of(pets)
    assert data.classes == tuple(sorted([*names, "cat", "dog"]))
    assert data.part("train").targets == data.part("val").targets == list(range(7))


def test_one_name_in_two_spellings_is_refused(pets):
    for form in ("NFC", "NFD"):
        images(pets, f"train/{unicodedata.normalize(form, 'café')}/0.png")
    with pytest.raises(DataError, match="holds two folders of the name 'café', composed and decomposed Unicode"):
        Data.of(pets)


def test_names_that_are_no_text_train(tmp_path, capsys):
    """On Linux a name is bytes; these are no UTF-8."""
    folder = training_data.image_folder(tmp_path / "images", training=16, test=10)
    for part in ("train", "val"):
        (folder / part / "class1").rename(os.fsdecode(bytes(folder / part) + b"/\xff\xfe"))
    (folder / "train" / "class3" / "3.png").write_bytes(b"")
    name = os.fsdecode(b"\xff\xfe.png")
    (folder / "train" / "class5" / "5.png").rename(folder / "train" / "class5" / name)
    (folder / "train" / "class5" / name).write_bytes(b"")
    options = {"batch": 4, "epochs": 1, "model": "resnet_mini", "skip_unreadable": 2}
    assert main(command(folder, tmp_path / "run", **options)) == 0
    assert main([*command(folder, tmp_path / "run", **options), "--resume"]) == 0
    assert capsys.readouterr().err.count("passed over: ") == 2
