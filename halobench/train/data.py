"""Images and their classes: a folder in ImageNet's layout, or the files of Fashion-MNIST.

What happens to an image is a function of seed, epoch and the image, so that neither the number of reading processes
nor an interruption changes a run. Images travel as bytes, a quarter of what they are as floating-point numbers, and are
normalised where they are used.
"""

import gzip
import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info
from torchvision.datasets.folder import IMG_EXTENSIONS, has_file_allowed_extension

from halobench.train.processes import Processes
from halobench.train.settings import Settings
from halobench.wording import counted

FASHION_FILES = {"train": "train", "val": "t10k"}
FASHION_CLASSES = 10
Transform = Callable[[Image.Image], Tensor]


class DataError(Exception):
    """Data that cannot be used; the message is one line and names the file or folder."""


@dataclass(frozen=True)
class Images:
    """Images with their classes: paths of files, or an array of bytes (count, height, width)."""

    sources: list[Path] | np.ndarray
    targets: list[int]
    classes: int

    def __len__(self) -> int:
        return len(self.targets)

    def load(self, index: int) -> Image.Image:
        """One image, in RGB.

        Raises:
            DataError: the file is no image, or is damaged.
        """
        source = self.sources[index]
        if not isinstance(source, Path):
            return Image.fromarray(source).convert("RGB")
        try:
            with Image.open(source) as image:
                return image.convert("RGB")
        except (OSError, SyntaxError, UnidentifiedImageError) as error:
            raise DataError(f"{source} cannot be read as an image: {error}") from error


def open_images(folder: Path, part: str) -> Images:
    """The part ``"train"`` or ``"val"`` of the data in a folder.

    Raises:
        DataError: the folder holds no such data, or an empty class.
    """
    if (folder / f"{FASHION_FILES['train']}-images-idx3-ubyte.gz").exists():
        return fashion_mnist(folder, FASHION_FILES[part])
    if not (folder / part).is_dir():
        raise DataError(f"{folder} must hold folders train/ and val/, or Fashion-MNIST's files; it has no {part}/")
    return image_folder(folder / part)


def image_folder(folder: Path) -> Images:
    """A folder with a folder of images for each class; classes are numbered by name."""
    classes = sorted(each for each in folder.iterdir() if each.is_dir())
    if not classes:
        raise DataError(f"{folder} must hold a folder for each class, it has none")
    sources: list[Path] = []
    targets: list[int] = []
    for number, each in enumerate(classes):
        found = sorted(file for file in each.rglob("*") if has_file_allowed_extension(file.name, IMG_EXTENSIONS))
        if not found:
            raise DataError(f"the class folder {each} holds no images")
        sources += found
        targets += [number] * len(found)
    return Images(sources, targets, len(classes))


def fashion_mnist(folder: Path, part: str) -> Images:
    """Fashion-MNIST's images of 28 x 28 grey bytes."""
    pixels = read_idx(folder / f"{part}-images-idx3-ubyte.gz", 3)
    targets = read_idx(folder / f"{part}-labels-idx1-ubyte.gz", 1)
    if len(pixels) != len(targets):
        raise DataError(
            f"{folder} holds {counted(len(pixels), 'image')} and {counted(len(targets), 'label')} of part {part!r}"
        )
    return Images(pixels, targets.tolist(), FASHION_CLASSES)


def read_idx(path: Path, axes: int) -> np.ndarray:
    """The array of bytes in a gzipped IDX file: two zeros, type 8, the number of axes, their lengths, the bytes."""
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    start = 4 + 4 * axes
    lengths = np.frombuffer(content[4:start], ">u4").astype(int) if content[:4] == bytes([0, 0, 8, axes]) else None
    if lengths is None or len(lengths) != axes or len(content) != start + lengths.prod():
        raise DataError(f"{path} is no IDX file of bytes with {axes} axes, or is cut short")
    return np.frombuffer(content, np.uint8, offset=start).reshape(lengths)


class Prepared(Dataset[tuple[Tensor, int]]):
    """Images after their transform. An item is asked for by (epoch, index)."""

    def __init__(self, images: Images, transform: Transform, seed: int) -> None:
        self.images, self.transform, self.seed = images, transform, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: tuple[int, int]) -> tuple[Tensor, int]:
        epoch, index = place
        with isolated_chance(self.seed, epoch, index):
            return self.transform(self.images.load(index)), self.images.targets[index]


class Batches(Sampler[list[tuple[int, int]]]):
    """The batches of one process: its share of an epoch's permutation, or of the images in order.

    Training gives every process as many whole batches; evaluation leaves nothing out.
    """

    def __init__(self, count: int, settings: Settings, processes: Processes, *, training: bool) -> None:
        self.count, self.batch, self.seed = count, settings.batch, settings.seed
        self.processes, self.training = processes, training
        self.epoch = 0

    def __len__(self) -> int:
        if self.training:
            return self.count // (self.batch * self.processes.count)
        share = len(range(self.processes.rank, self.count, self.processes.count))
        return math.ceil(share / self.batch)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = list(range(self.count))
        if self.training:
            generator = torch.Generator().manual_seed(seed_of(self.seed, self.epoch))
            order = torch.randperm(self.count, generator=generator).tolist()
        share = order[self.processes.rank :: self.processes.count]
        for number in range(len(self)):
            yield [(self.epoch, index) for index in share[number * self.batch : (number + 1) * self.batch]]


@contextmanager
def isolated_chance(*seeds: int) -> Iterator[None]:
    """Chance as these seeds decide, in all generators that transforms use; restored where they have other users."""
    seed = seed_of(*seeds)
    states = None
    if get_worker_info() is None:  # a worker does nothing but read, and restoring costs as much as cutting an image
        states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - timm's transforms draw from this one, too
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        if states is not None:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002
            torch.set_rng_state(states[2])


def seed_of(*numbers: int) -> int:
    """One seed from several numbers, of which no two neighbours resemble each other."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def transforms(settings: Settings, *, fashion: bool) -> tuple[Transform, Transform]:
    """Timm's transforms of training and of evaluation, to bytes. Grey images of clothes are cropped less."""
    size = settings.image_size
    augment = None if settings.randaugment is None else f"rand-m{settings.randaugment}-n2"
    training = create_transform(
        size, is_training=True, auto_augment=augment, interpolation="bicubic",
        scale=(0.8, 1.0) if fashion else None, ratio=(0.9, 1.1) if fashion else None,
        color_jitter=None,  # type: ignore[arg-type]  # timm's word for none
        use_prefetcher=True,  # timm's word for bytes
    )  # fmt: skip
    crop = 1.0 if fashion else None
    return training, create_transform(size, interpolation="bicubic", crop_pct=crop, use_prefetcher=True)


class Normalisation:
    """Bytes (batch, 3, H, W) to float32 on a device, channels-last, with ImageNet's mean and deviation."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.mean, self.deviation = (
            255 * torch.tensor(values, device=device).view(3, 1, 1)
            for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
        )

    def __call__(self, images: Tensor) -> Tensor:
        """The images, normalised."""
        moved = images.to(self.device, non_blocking=True, memory_format=torch.channels_last)
        return (moved.float() - self.mean) / self.deviation


def loader(
    images: Images, transform: Transform, settings: Settings, processes: Processes, *, training: bool
) -> tuple[DataLoader[tuple[Tensor, Tensor]], Batches]:
    """The loader of a part of the data, and its batches, whose epoch the caller sets."""
    batches = Batches(len(images), settings, processes, training=training)
    if not len(batches):
        raise DataError(
            f"{settings.data} holds {counted(len(images), 'image')} to train on, less than a step's "
            f"{settings.batch * processes.count}"
        )
    prepared = Prepared(images, transform, settings.seed)
    workers = settings.workers if training else min(settings.workers, 4)
    made: DataLoader[tuple[Tensor, Tensor]] = DataLoader(
        prepared,  # type: ignore[arg-type]  # what is collated is no longer an item
        batch_sampler=batches, num_workers=workers, pin_memory=settings.device == "cuda",
        persistent_workers=workers > 0,
    )  # fmt: skip
    return made, batches
