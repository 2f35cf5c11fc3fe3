"""Image files as they are found: each is read as it looks, or refused by name; none turns white or black silently."""

import os
import random
import struct
import warnings
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from halobench.train import decode as module
from halobench.train.decode import EXTENSIONS, decode, examine
from halobench.train.unusable import DataError

RAMP = np.linspace(0, 255, 48, dtype=np.uint8).reshape(6, 8)
COLOURED = np.stack([RAMP, RAMP[::-1], 255 - RAMP], axis=2)


def saved(image, path, **options):
    image.save(path, **options)
    return str(path)


def pixels(path):
    image = decode(path)
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize(
    ("mode", "ending"), [("1", "png"), ("L", "png"), ("P", "gif"), ("RGB", "bmp"), ("CMYK", "tif")]
)
def test_ordinary_images_are_what_pillow_says(mode, ending, tmp_path):
    image = Image.fromarray(COLOURED).convert(mode)
    path = saved(image, tmp_path / f"x.{ending}")
    with Image.open(path) as plain:
        np.testing.assert_array_equal(pixels(path), np.asarray(plain.convert("RGB")))


@pytest.mark.parametrize("ending", ["png", "tif", "pgm", "jp2"])
def test_16_bits_are_scaled_to_8(ending, tmp_path):
    wide = np.array([[0, 257, 257 * 128, 65535]] * 4, np.uint16)
    path = str(tmp_path / f"x.{ending}")
    if ending == "pgm":  # not every Pillow writes it from 16 bits
        Path(path).write_bytes(b"P5 4 4 65535\n" + wide.astype(">u2").tobytes())
    else:
        Image.fromarray(wide).save(path, **({"irreversible": False} if ending == "jp2" else {}))
    np.testing.assert_array_equal(pixels(path)[0], [[value] * 3 for value in (0, 1, 128, 255)])
    examine(path)


def test_of_16_bits_a_colour_the_upper_8_count(tmp_path):
    """Pillow reads such a PNG file and cannot write one."""
    row = b"\0" + struct.pack(">6H", 0, 0x80FF, 0xFFFF, 0x1234, 0x00FF, 0x0100)

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0))
    path = tmp_path / "x.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b""))
    np.testing.assert_array_equal(pixels(str(path))[0], [[0, 0x80, 0xFF], [0x12, 0, 1]])


def tiff(bits, samples, photometric=1, sample_format=1):
    """A TIFF file of one grey row, which Pillow cannot write: its tags, then the samples as they are packed."""
    columns = len(samples) * 8 // bits
    tags = [(256, columns), (257, 1), (258, bits), (259, 1), (262, photometric), (273, 0), (277, 1), (278, 1)]
    tags += [(279, len(samples)), (339, sample_format)]
    start = 8 + 2 + 12 * len(tags) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, start if tag == 273 else value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + samples


def test_12_bits_have_a_white_of_their_own(tmp_path):
    path = tmp_path / "x.tif"
    path.write_bytes(tiff(12, bytes([0xFF, 0xF8, 0x00])))  # 4095 and 2048
    np.testing.assert_array_equal(pixels(str(path))[0, :, 0], [255, 128])


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.full((4, 4), 70000, np.int32), "32 bits (mode 'I') and no known white: save it with 8 or 16 bits"),
        (np.full((4, 4), 0.5, np.float32), "32 bits (mode 'F') and no known white: save it with 8 or 16 bits"),
    ],
)
def test_32_bits_are_refused(array, said, tmp_path):
    path = saved(Image.fromarray(array), tmp_path / "x.tif")
    for read in (decode, examine):
        with pytest.raises(DataError) as raised:
            read(path)
        assert str(raised.value).startswith(f"{path} cannot be read as an image: its grey pixels have {said}")


def test_signed_16_bits_are_refused(tmp_path):
    (tmp_path / "x.tif").write_bytes(tiff(16, struct.pack("<2h", -5, 300), sample_format=2))
    with pytest.raises(DataError, match="no known white"):
        decode(str(tmp_path / "x.tif"))


def test_colours_that_are_not_converted_are_refused_by_their_header(tmp_path):
    path = saved(Image.new("LAB", (4, 4)), tmp_path / "x.tif")
    with pytest.raises(DataError, match=r"the mode 'LAB', which is not converted: save it in RGB"):
        examine(path)


def test_what_is_transparent_is_white(tmp_path):
    """Whatever colour is hidden there: in icons it is black, and the shape is all that they show."""
    alpha = np.where(RAMP > 100, 255, 0).astype(np.uint8)
    black = np.zeros_like(RAMP)
    palette = Image.fromarray((RAMP > 100).astype(np.uint8), "P")
    palette.putpalette([9, 9, 9, 0, 0, 0])
    key = Image.fromarray(np.where(alpha[..., None], 0, [7, 7, 7]).astype(np.uint8))
    for name, image, options in (
        ("rgba.png", Image.merge("RGBA", [Image.fromarray(each) for each in (black, black, black, alpha)]), {}),
        ("la.png", Image.merge("LA", [Image.fromarray(each) for each in (black, alpha)]), {}),
        ("p.png", palette, {"transparency": 0}),
        ("p.gif", palette, {"transparency": 0}),
        ("bytes.png", palette, {"transparency": bytes([0, 255])}),
        ("key.png", key, {"transparency": (7, 7, 7)}),
    ):
        np.testing.assert_array_equal(pixels(saved(image, tmp_path / name, **options))[..., 1], 255 - alpha, name)


@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(orientation, ending, tmp_path):
    """As a camera held in any way stores them: turned back, they are what was seen."""
    seen = Image.fromarray(np.kron(COLOURED, np.ones((8, 8, 1), np.uint8)))
    turn = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the inverse of what each asks for, by Pillow's number
    stored = seen.transpose(Image.Transpose(turn[orientation])) if orientation > 1 else seen
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"quality": 98} if ending == "jpg" else {"lossless": True} if ending == "webp" else {}
    path = saved(stored, tmp_path / f"x.{ending}", exif=exif, **lossless)
    assert decode(path).size == seen.size
    np.testing.assert_allclose(pixels(path).astype(int), np.asarray(seen).astype(int), atol=80 if lossless else 0)
    assert abs(pixels(path).astype(int) - np.asarray(seen).astype(int)).mean() < 4


@pytest.mark.parametrize("ending", ["gif", "webp", "png", "tif"])
def test_of_several_frames_the_first_counts(ending, tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    path = saved(frames[0], tmp_path / f"x.{ending}", save_all=True, append_images=frames[1:], lossless=True)
    np.testing.assert_array_equal(pixels(path)[0, 0], [255, 0, 0])


def jpeg(**options):
    content = BytesIO()
    Image.fromarray(np.kron(COLOURED, np.ones((8, 8, 1), np.uint8))).save(content, "JPEG", **options)
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "said", "by_header"),
    [
        (b"", "it is empty", True),
        (b"<!DOCTYPE html><html>404</html>", "it is none of JPEG, PNG, ", True),
        (b"\0\x05\x16\x07\0\x02\0\0Mac OS X", "it is none of JPEG, PNG, ", True),
        (b"version https://git-lfs.github.com/spec/v1\n", "it is none of JPEG, PNG, ", True),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "it is none of JPEG, PNG, ", True),
        (jpeg()[:-200], "image file is truncated", False),
        (jpeg()[:30], "", True),
    ],
    ids=["empty", "page", "AppleDouble", "LFS", "PostScript", "cut", "cut header"],
)
def test_files_that_are_no_images_are_named(content, said, by_header, tmp_path):
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError) as raised:
        decode(str(path))
    assert str(raised.value).startswith(f"{path} cannot be read as an image: {said}")
    assert "\n" not in str(raised.value)
    if by_header:
        with pytest.raises(DataError):
            examine(str(path))
    else:
        examine(str(path))


def test_the_content_decides_and_not_the_ending(tmp_path):
    path = saved(Image.fromarray(COLOURED), tmp_path / "really_a_png.jpg", format="PNG")
    np.testing.assert_array_equal(pixels(path), COLOURED)


def test_links_and_permissions_are_named(tmp_path):
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "gone.jpg")
    with pytest.raises(DataError, match="No such file or directory"):
        decode(str(tmp_path / "broken.jpg"))
    private = saved(Image.new("RGB", (4, 4)), tmp_path / "private.png")
    Path(private).chmod(0)
    root = os.geteuid() == 0
    if root:  # who may read everything
        os.seteuid(65534)
    try:
        with pytest.raises(DataError, match="Permission denied"):
            decode(private)
    finally:
        if root:
            os.seteuid(0)


def test_huge_images_are_refused_and_large_ones_are_not(tmp_path, monkeypatch):
    """By Pillow's limit: twice of it is an error, once of it a warning, which would name no file."""
    path = saved(Image.new("RGB", (40, 50)), tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1500)
    examine(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 900)
    with pytest.raises(
        DataError, match=rf"{path} cannot be read as an image: Image size \(2000 pixels\) exceeds limit"
    ):
        examine(path)


@pytest.mark.parametrize(
    "error",
    [
        OSError("a\nb"), SyntaxError("a b"), ValueError("a b"), EOFError(), struct.error("a b"), IndexError("a b"),
        KeyError("a b"), TypeError("a b"), OverflowError("a b"), ZeroDivisionError(), MemoryError(), RuntimeError(),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
@pytest.mark.parametrize("place", ["open", "convert"])
def test_whatever_pillow_raises_names_the_file(error, place, tmp_path, monkeypatch):
    path = saved(Image.new("RGB", (4, 4)), tmp_path / "x.png")

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(*((Image, "open") if place == "open" else (Image.Image, "convert")), fail)
    with pytest.raises(DataError) as raised:
        decode(path)
    said = " ".join(str(error).split()) or type(error).__name__
    assert str(raised.value) == f"{path} cannot be read as an image: {said}"


def test_an_interruption_is_no_bad_file(tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Image, "open", interrupt)
    with pytest.raises(KeyboardInterrupt):
        decode(str(tmp_path / "x.png"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "JPEG2000", "PPM"])
def test_damage_gives_an_image_or_names_the_file(kind, tmp_path):
    """Bytes changed, cut and doubled by chance; no warning without a file's name comes through."""
    content = BytesIO()
    exif = {"exif": jpeg_exif()} if kind in {"JPEG", "PNG", "WEBP", "TIFF"} else {}
    Image.fromarray(COLOURED).save(content, kind, **exif)
    chance, path = random.Random(kind), tmp_path / "x"
    outcomes = set()
    for _ in range(60):
        damaged = bytearray(content.getvalue())
        for _ in range(chance.randint(1, 6)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        path.write_bytes(damaged[: chance.choice([len(damaged), chance.randrange(len(damaged))])])
        try:
            outcomes.add(decode(str(path)).mode)
        except DataError as error:
            outcomes.add(str(error).partition(":")[0])
    assert f"{path} cannot be read as an image" in outcomes
    assert outcomes <= {"RGB", f"{path} cannot be read as an image"}


def jpeg_exif():
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Camera"
    return exif


def test_odd_metadata_do_not_matter(tmp_path):
    """A directory of EXIF that claims 999 entries makes Pillow warn; the orientation is read all the same."""
    exif = jpeg_exif().tobytes()
    path = tmp_path / "x.jpg"
    path.write_bytes(jpeg(exif=exif[:14] + struct.pack("<H", 999) + exif[16:]))
    with pytest.warns(UserWarning, match="Corrupt EXIF"), Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(str(path)).size == upright.size == (48, 64)


def test_endings_are_those_of_pictures():
    assert {".jpg", ".jpeg", ".jfif", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".pgm", ".jp2"} <= EXTENSIONS
    assert not {".eps", ".ps", ".pdf", ".mpg", ".h5", ".html", ".txt", ".mp4", ""} & EXTENSIONS
    assert "EPS" not in module.FORMATS  # Pillow starts Ghostscript for it
