"""A training run of a detector: ``halobench.train``'s, with objects for classes and COCO's judgement of each epoch."""

from collections.abc import Callable
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from halobench import models
from halobench.attention.compilation import INDUCTOR_OPTIONS
from halobench.detect import precision
from halobench.detect.coco import Coco
from halobench.detect.pasting import Found, in_their_images
from halobench.detect.pictures import Pictures
from halobench.detect.reading import Squares, Target, Whole, join_squares, join_whole
from halobench.detect.settings import DetectorSettings
from halobench.records import columns
from halobench.train.reading import loader
from halobench.train.report import Curves, Row
from halobench.train.run import Run
from halobench.train.step import DetectorStep, Step, total_loss
from halobench.train.unusable import DataError


class DetectorRun(Run):
    """A run of ``settings`` in this process, as ``Run`` has it.

    Raises:
        Unusable: the data, the checkpoint, the backend or a size cannot be used.
    """

    settings: DetectorSettings
    data: Coco  # type: ignore[assignment]  # what a run asks of its data, both answer
    training: Pictures
    test: Pictures
    kind_of_step: ClassVar[type[Step]] = DetectorStep
    clip: ClassVar[float | None] = 10.0  # fresh weights make gradients of any size, and one step of these ends a run
    curves: ClassVar[Curves] = Curves("precision.csv", tuple(columns.PRECISION))

    def found(self) -> Any:
        """The data in the folder."""
        return Coco.of(self.settings.data)

    def prepare_step(self) -> None:
        """The detector with fresh weights, which takes squares as they are, and all that trains it.

        The masks of what it finds are runs.
        """
        super().prepare_step()
        side = self.settings.image_size
        transform: Any = self.model.transform
        transform.min_size, transform.max_size, transform.size_divisible = (side,), side, side
        transform.postprocess = in_their_images
        transform._skip_resize = True  # noqa: SLF001 - in training; scaled by one, each box would be waited for
        for name in ("image_mean", "image_std"):  # of numbers on the host, each image would wait for the device, too
            setattr(transform, name, torch.tensor(getattr(transform, name), device=self.device))

    def build(self) -> nn.Module:
        """The detector with fresh weights, the same for the same seed."""
        settings = self.settings
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            return models.create(settings.model, settings.backend, len(self.data.classes) + 1)

    def criterion(self) -> Callable[[Any, Any], Tensor]:
        """The sum of all losses."""
        return total_loss

    def forward(self) -> nn.Module:
        """The detector as a step calls it: spread over the processes, its backbone compiled on request."""
        if self.settings.compile:
            body: Any = self.model.backbone.body  # type: ignore[union-attr]  # a detector has one
            body.compile(dynamic=False, options=INDUCTOR_OPTIONS)
        return self.processes.spread(self.model, self.device)

    def normalised(self, images: Any) -> Any:
        """Bytes on the host to numbers from 0 to 1 on the device; the detector normalises them itself."""
        if isinstance(images, Tensor):
            return images.to(self.device, non_blocking=True).float() / 255
        return [self.normalised(image) for image in images]

    def blank_targets(self) -> list[Target]:
        """An object in each image of a step of blank ones."""
        side = self.settings.image_size
        masks = torch.ones((1, side, side), dtype=torch.uint8)
        box = torch.tensor([[0.0, 0.0, side, side]])
        return [{"boxes": box, "labels": torch.ones(1, dtype=torch.long), "masks": masks}] * self.settings.batch

    def moved(self, targets: list[Target]) -> list[Target]:
        """The targets of a batch on the device."""
        return [{name: one.to(self.device, non_blocking=True) for name, one in target.items()} for target in targets]

    def open_images(self) -> None:
        """The images of both parts, and what reads them."""
        self.find_images()
        self.notes = self.data.notes
        self.truth = precision.Truth.of(self.data.parts["val"])
        training, test = Squares(self.training, self.settings), Whole(self.test, self.settings)
        self.loader, self.batches = loader(training, self.settings, self.processes, training=True, join=join_squares)
        self.test_loader, _ = loader(test, self.settings, self.processes, training=False, join=join_whole)

    def epoch(self, epoch: int) -> tuple[float, float]:
        """Train for an epoch. Each step has another number of objects: cuDNN's trials of each would never end."""
        with torch.backends.cudnn.flags(enabled=True, benchmark=False):
            return super().epoch(epoch)

    def evaluate(self) -> Row:
        """COCO's average precisions over the images to test on; empty in epochs without a test."""
        settings, epoch = self.settings, len(self.history) + 1
        if epoch % settings.evaluate_every and epoch != settings.epochs:
            return dict.fromkeys(precision.PRECISIONS)
        self.model.eval()
        mine: list[precision.Detection] = []
        tested: list[int] = []
        for images, numbers, unread in self.test_loader:
            self.unreadable.note(unread, self.report.warn)
            for number, found in zip(numbers, self.detected(images), strict=True):
                if number is not None:
                    tested.append(number)
                    mine += precision.detections(number, found)
        everything, images = ([*chain(*each)] for each in zip(*self.processes.gathered((mine, tested)), strict=True))
        if not images:
            raise DataError(f"{settings.data} has no image to test on that can be read")
        judged = None
        if self.processes.first:
            judged = precision.precisions(self.truth, everything, images)
        return dict(self.processes.gathered(judged)[0])

    @torch.no_grad()
    def detected(self, images: list[Tensor]) -> list[Found]:
        """What is found in each image, in its own pixels."""
        once = torch.backends.cudnn.flags(enabled=True, benchmark=False)
        with once, torch.autocast(self.device.type, self.step.dtype, enabled=self.step.dtype is not None):
            found: list[Found] = self.model(self.normalised(images))
        return found

    @staticmethod
    def said(judged: Row) -> str:
        """What an evaluation tells, in words."""
        if judged["ap_box"] is None:
            return "not tested"
        return f"AP {100 * judged['ap_box']:.1f} of boxes, {100 * judged['ap_mask']:.1f} of masks"
