"""A training run: epochs of steps, an evaluation and a checkpoint after each."""

import math
import time
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from halobench.attention.compilation import INDUCTOR_OPTIONS
from halobench.train import checkpoint, preamble, trial
from halobench.train.data import Data
from halobench.train.evaluation import evaluate
from halobench.train.processes import Processes
from halobench.train.reading import Prepared, loader, seed_of
from halobench.train.recipe import build, optimizer, schedule
from halobench.train.repeatable import repeatable
from halobench.train.report import CURVES, Curves, Report, Row
from halobench.train.settings import Settings
from halobench.train.step import Step
from halobench.train.transform import Normalisation, for_evaluation, for_training
from halobench.train.unreadable import Unreadable, bad_headers
from halobench.train.unusable import DataError
from halobench.wording import counted


class Diverged(Exception):
    """The loss is no longer a finite number; the message says where, and which checkpoint is left."""


class Run:
    """A run of ``settings`` in this process. It begins, or goes on where its checkpoint ends (``resume``).

    The clock of ``history`` starts here, before any data is touched.

    Raises:
        Unusable: the data, the checkpoint, the backend or a size cannot be used.
    """

    kind_of_step: ClassVar[type[Step]] = Step
    curves: ClassVar[Curves] = CURVES
    clip: ClassVar[float | None] = None

    def __init__(self, settings: Settings, processes: Processes, device: torch.device, *, resume: bool) -> None:
        self.started = time.monotonic()
        self.settings, self.processes, self.device = settings, processes, device
        self.data = self.found()
        saved = checkpoint.read(settings.checkpoint) if resume else None
        self.changes = [] if saved is None else self.compared(saved)
        self.normalisation = Normalisation(device)
        self.notes: list[str] = []
        with trial.explained(settings, processes):
            self.prepare_step()
            size = settings.image_size
            blank = torch.zeros((settings.batch, 3, size, size), dtype=torch.uint8)
            trial.take(self.step, self.normalised(blank), self.moved(self.blank_targets()))
        self.open_images()
        self.schedule = schedule(settings, self.optimizer, len(self.batches))
        self.history: list[Row] = []
        self.unreadable = Unreadable(settings.data, settings.skip_unreadable)
        if saved is not None:
            self.restore(saved)
        self.taken = self.history[-1]["step"] if self.history else 0
        self.report = Report(settings.output, silent=not processes.first, begun=self.taken + 1, curves=self.curves)

    def found(self) -> Data:
        """The data in the folder."""
        return Data.of(self.settings.data)

    def blank_targets(self) -> Any:
        """The targets of a step of blank images."""
        return torch.zeros(self.settings.batch, dtype=torch.long)

    def normalised(self, images: Tensor) -> Tensor:
        """Bytes on the host to numbers on the device."""
        return self.normalisation(images)

    def moved(self, targets: Any) -> Any:
        """The targets of a batch on the device."""
        return targets.to(self.device, non_blocking=True)

    def compared(self, saved: dict[str, Any]) -> list[str]:
        """What is done otherwise than before, a line each; refuses a checkpoint of another run."""
        path = self.settings.checkpoint
        with checkpoint.fitting(path):
            checkpoint.refuse_other_classes(path, saved["classes"], self.data.classes)
            return list(checkpoint.changes(path, saved["fixed"], self.fixed()))

    def prepare_step(self) -> None:
        """The model with fresh weights, and all that trains it."""
        settings = self.settings
        model = self.build().to(self.device).to(memory_format=torch.channels_last)
        self.model, self.optimizer = model, optimizer(settings, model)
        self.ema = None if settings.ema is None else ModelEmaV3(model, decay=settings.ema, use_warmup=True)
        self.step = self.kind_of_step(
            model,
            self.criterion(),
            self.optimizer,
            None if settings.dtype == "float32" else getattr(torch, settings.dtype),
            self.forward(),
            self.clip,
            GradScaler(settings.device, enabled=settings.dtype == "float16"),
        )
        self.known = preamble.described(settings, self.processes, model)

    def build(self) -> nn.Module:
        """The model with fresh weights, the same for the same seed."""
        return build(self.settings, len(self.data.classes))

    def criterion(self) -> Callable[[Any, Any], Tensor]:
        """What makes a loss of the model's outputs and the targets."""
        return nn.CrossEntropyLoss(label_smoothing=self.settings.label_smoothing)

    def forward(self) -> nn.Module:
        """The model as a step calls it: spread over the processes, compiled on request."""
        spread = self.processes.spread(self.model, self.device)
        if not self.settings.compile:
            return spread
        return torch.compile(spread, dynamic=False, options=INDUCTOR_OPTIONS)  # type: ignore[return-value]

    def find_images(self) -> None:
        """The images of both parts, and their names in few letters."""
        self.training, self.test = self.data.part("train"), self.data.part("val")
        self.names = {"train": self.data.digest("train", self.training), "val": self.data.digest("val", self.test)}

    def open_images(self) -> None:
        """The images of both parts, and what reads them."""
        settings, fashion = self.settings, self.data.fashion
        self.find_images()
        augmented, plain = for_training(settings, fashion=fashion), for_evaluation(settings, fashion=fashion)
        training, test = (
            Prepared(images, transform, settings, training=images is self.training)
            for images, transform in ((self.training, augmented), (self.test, plain))
        )
        self.loader, self.batches = loader(training, settings, self.processes, training=True)
        self.test_loader, _ = loader(test, settings, self.processes, training=False)

    def fixed(self) -> dict[str, Any]:
        """What a resumed run must share with this one, as far as ``checkpoint.changes`` asks for it."""
        return {**self.settings.fixed(), "processes": self.processes.count}

    def counts(self) -> dict[str, int]:
        """How many images there are."""
        return {"train": len(self.training), "val": len(self.test)}

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from what was saved."""
        path = self.settings.checkpoint
        with checkpoint.fitting(path):
            checkpoint.refuse_other_counts(path, saved["images"], self.counts())
            checkpoint.refuse_other_names(path, saved["names"], self.names, self.data.told_by)
            self.model.load_state_dict(saved["model"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.step.scaler.load_state_dict(saved["scaler"])
            if self.ema is not None:
                self.ema.module.load_state_dict(saved["ema"])
            self.unreadable.names.update(saved["unreadable"])
            self.history = saved["history"]
            self.started -= self.history[-1]["seconds"]

    def save(self) -> None:
        """Write the checkpoint, in the first process."""
        if self.processes.first:
            state = {
                "fixed": self.fixed(),
                "classes": list(self.data.classes),
                "images": self.counts(),
                "names": self.names,
                "unreadable": sorted(self.unreadable.names),
                "model": self.model.state_dict(),
                "ema": None if self.ema is None else self.ema.module.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.step.scaler.state_dict(),
                "history": self.history,
            }
            checkpoint.write(self.settings.checkpoint, state)

    def go(self, target: float | None = None) -> list[Row]:
        """Train until the last epoch, or until the test accuracy reaches ``target``; a row an epoch.

        Raises:
            Diverged: the loss is no finite number.
            Unusable: too many images cannot be read, or what is written finds no place.
        """
        with repeatable(fast=self.settings.fast), self.report as report:
            self.begin()
            for epoch in range(len(self.history), self.settings.epochs):
                train_loss, images_per_s = self.epoch(epoch)
                judged = self.evaluate()
                self.unreadable.share(self.processes)
                self.history.append(
                    {
                        **self.known,
                        "epoch": epoch + 1,
                        "step": self.taken,
                        "seconds": time.monotonic() - self.started,
                        "learning_rate": self.optimizer.param_groups[0]["lr"],
                        "train_loss": train_loss,
                        **judged,
                        "images_per_s": images_per_s,
                    }
                )
                self.save()
                report.end(self.history, tuple(judged), self.said(judged))
                if target is not None and judged["test_accuracy"] >= target:
                    break
        return self.history

    def begin(self) -> None:
        """Say what is done to which images, and examine these on request."""
        settings, say = self.settings, self.report.line
        for line in preamble.lines(settings, self.known, self.data, self.training, self.test, self.curves.name):
            say(line)
        if self.history:
            epoch = len(self.history)
            done = epoch == settings.epochs
            say("all epochs are done" if done else f"goes on after epoch {epoch} of {settings.epochs}")
        for line in (*self.notes, *self.changes):
            say(line)
        if settings.check_data:
            bad = bad_headers((self.training, self.test), settings.workers, self.processes)
            for _, message in bad:
                say(message)
            checked = counted(len(self.training) + len(self.test), "image")
            unreadable = len(bad)
            say(f"{unreadable} of {checked} cannot be read, as far as their headers tell")
            self.unreadable.add(bad)

    def epoch(self, epoch: int) -> tuple[float, float]:
        """Train for an epoch: the mean loss over all processes, and images a second of all."""
        torch.manual_seed(seed_of(self.settings.seed, epoch, self.processes.rank))  # for stochastic depth
        self.batches.epoch = epoch
        self.model.train()
        steps = len(self.batches)
        self.report.begin(epoch, self.settings.epochs, steps)
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        started = time.monotonic()
        for done, (images, targets, unread) in enumerate(self.loader, 1):
            self.unreadable.note(unread, self.report.warn)
            self.schedule.step_update(epoch * steps + done - 1)
            total += self.step(self.normalised(images), self.moved(targets))
            self.taken += 1
            if self.ema is not None:
                self.ema.update(self.model, step=self.taken)
            if self.report.due or done == steps:
                mean = float(total) / done
                self.check(mean, epoch)
                rate = done * self.settings.batch * self.processes.count / (time.monotonic() - started)
                self.report.step(done, self.taken, mean, rate, self.optimizer.param_groups[0]["lr"])
        mean = float(self.processes.total(total)) / steps / self.processes.count
        self.check(mean, epoch)
        return mean, rate

    def check(self, loss: float, epoch: int) -> None:
        """Stop where the mean loss of an epoch is no finite number: one bad step makes it so."""
        if math.isfinite(loss):
            return
        left = (
            f"the last good checkpoint is {self.settings.checkpoint} (epoch {epoch})" if epoch else "no checkpoint yet"
        )
        raise Diverged(f"the loss became {loss} in epoch {epoch + 1}, by step {self.taken}; {left}")

    def evaluate(self) -> Row:
        """Loss and accuracy over all images of the test part, of the averaged weights where there are any."""
        model = self.ema.module if self.ema is not None else self.model
        sums = torch.zeros(3, dtype=torch.float64, device=self.device)
        for images, targets, unread in self.test_loader:
            self.unreadable.note(unread, self.report.warn)
            sums += evaluate(model, self.normalised(images), self.moved(targets), self.step.dtype)
        loss, right, count = self.processes.total(sums).tolist()
        if not count:
            raise DataError(f"{self.settings.data} has no image to test on that can be read")
        return {"test_loss": loss / count, "test_accuracy": right / count}

    @staticmethod
    def said(judged: Row) -> str:
        """What an evaluation tells, in words."""
        return f"test loss {judged['test_loss']:.3f}, test accuracy {100 * judged['test_accuracy']:.2f} %"
