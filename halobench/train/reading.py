"""How images reach a run: in which order, with which augmentation, and what takes an unreadable one's place.

What happens to an image is a function of seed, epoch and the image, so that neither the number of reading processes
nor an interruption changes a run. Images travel as bytes, a quarter of what they are as floating-point numbers, and are
normalised where they are used.
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate, get_worker_info

from halobench import terminal
from halobench.train.data import Images
from halobench.train.processes import Processes
from halobench.train.settings import Settings
from halobench.train.transform import Transform
from halobench.train.unusable import DataError
from halobench.wording import counted

IGNORED = -100  # a target that PyTorch's losses leave out
Unread = tuple[str, str]
"""A file that could not be read: its path, and the message that says so."""
Item = tuple[Tensor, Any, list[Unread]]


class Batch(NamedTuple):
    """Bytes (batch, 3, side, side), their (batch,) classes, and the files that could not be read for them."""

    images: Tensor
    targets: Tensor
    unread: list[Unread]


class Prepared(Dataset[Item]):
    """Images after their transform. An item is asked for by (epoch, index).

    In training, the next readable image takes the place of an unreadable one; in evaluation, an image that counts for
    nothing. After more than ``skip`` unreadable files in a row the run ends anyway, and no further one is tried.
    """

    nothing: Any = IGNORED  # the target of an image that counts for nothing

    def __init__(self, images: Images, transform: Transform, settings: Settings, *, training: bool) -> None:
        self.images, self.transform, self.seed = images, transform, settings.seed
        self.tries = min(settings.skip_unreadable + 1, len(images)) if training else 1
        self.blank = torch.zeros((3, settings.image_size, settings.image_size), dtype=torch.uint8)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: tuple[int, int]) -> Item:
        epoch, asked = place
        unread: list[Unread] = []
        for index in range(asked, asked + self.tries):
            index %= len(self)  # noqa: PLW2901 - after the last image comes the first
            try:
                image = self.images.load(index)
                with isolated_chance(self.seed, epoch, index):
                    return *self.transformed(image, index), unread
            except DataError as error:  # returned: from a reading process, an exception comes with its traceback
                unread.append((str(self.images.sources[index]), str(error)))
        return self.blank, self.nothing, unread

    def transformed(self, image: Image.Image, index: int) -> tuple[Tensor, Any]:
        """An image after its transform, and its target."""
        return self.transform(image), self.images.targets[index]


def collate(items: Sequence[Item]) -> Batch:
    """One batch of several items."""
    images, targets = default_collate([item[:2] for item in items])
    return Batch(images, targets, unread_of(items))


def unread_of(items: Sequence[tuple[Any, Any, list[Unread]]]) -> list[Unread]:
    """The files that could not be read for several items."""
    return [each for item in items for each in item[2]]


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


def loader(
    prepared: Prepared, settings: Settings, processes: Processes, *, training: bool, join: Callable[..., Any] = collate
) -> tuple[DataLoader[Batch], Batches]:
    """The loader of a part of the data, and its batches, whose epoch the caller sets; ``join`` makes one of items.

    Raises:
        DataError: there are not enough images for one step of training.
    """
    batches = Batches(len(prepared), settings, processes, training=training)
    if training and not len(batches):
        raise DataError(
            f"{settings.data} holds {counted(len(prepared), 'image')} to train on, less than a step's "
            f"{settings.batch * processes.count}"
        )
    workers = settings.workers if training else min(settings.workers, 4)
    made: DataLoader[Batch] = DataLoader(
        prepared,  # type: ignore[arg-type]  # a batch is no item
        batch_sampler=batches, num_workers=workers, collate_fn=join, pin_memory=settings.device == "cuda",
        persistent_workers=workers > 0, worker_init_fn=terminal.leave_interrupts,
    )  # fmt: skip
    return made, batches
