"""A training run: epochs of steps, an evaluation and a checkpoint after each."""

import math
import time
from typing import Any

import torch
from timm.utils.model_ema import ModelEmaV3
from torch import nn

from halobench.machine.environment import fingerprint
from halobench.train import checkpoint, data
from halobench.train.processes import Processes
from halobench.train.recipe import build, optimizer, schedule
from halobench.train.repeatable import repeatable
from halobench.train.report import Report, Row
from halobench.train.settings import Settings
from halobench.train.step import Step


class Diverged(Exception):
    """The loss is no longer a finite number; the message says where, and which checkpoint is left."""


class Run:
    """A run of ``settings`` in this process. It begins, or goes on where its checkpoint ends (``resume``).

    The clock of ``history`` starts here, before any data is touched.

    Raises:
        DataError: the data cannot be used.
        CheckpointError: there is no checkpoint to resume from, or it has other settings.
    """

    def __init__(self, settings: Settings, processes: Processes, device: torch.device, *, resume: bool) -> None:
        self.started = time.monotonic()
        self.settings, self.processes, self.device = settings, processes, device
        training, test = (data.open_images(settings.data, part) for part in ("train", "val"))
        if test.classes != training.classes:
            raise data.DataError(
                f"{settings.data} must have the same classes in train/ and val/, "
                f"got {training.classes} and {test.classes}"
            )
        fashion = not isinstance(training.sources, list)
        for_training, for_test = data.transforms(settings, fashion=fashion)
        self.loader, self.batches = data.loader(training, for_training, settings, processes, training=True)
        self.test_loader, _ = data.loader(test, for_test, settings, processes, training=False)
        self.normalised = data.Normalisation(device)
        self.model = build(settings, training.classes).to(device).to(memory_format=torch.channels_last)
        self.ema = None if settings.ema is None else ModelEmaV3(self.model, decay=settings.ema, use_warmup=True)
        self.optimizer = optimizer(settings, self.model)
        self.schedule = schedule(settings, self.optimizer, len(self.batches))
        self.step = Step(
            self.model,
            nn.CrossEntropyLoss(label_smoothing=settings.label_smoothing),
            self.optimizer,
            None if settings.dtype == "float32" else getattr(torch, settings.dtype),
            self.forward(),
        )
        self.history: list[Row] = []
        self.known = described(settings, processes, self.model)
        if resume:
            self.restore()

    def forward(self) -> nn.Module:
        """The model as a step calls it: spread over the processes, compiled on request."""
        spread = self.processes.spread(self.model, self.device)
        return torch.compile(spread, dynamic=False) if self.settings.compile else spread  # type: ignore[return-value]

    def fixed(self) -> dict[str, Any]:
        """What a resumed run must share with this one."""
        return {**self.settings.fixed(), "processes": self.processes.count}

    def restore(self) -> None:
        """Go on from the checkpoint."""
        state = checkpoint.read(self.settings.checkpoint, self.fixed())
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
        self.history = state["history"]
        self.started -= self.history[-1]["seconds"]

    def save(self) -> None:
        """Write the checkpoint, in the first process."""
        if self.processes.first:
            state = {
                "fixed": self.fixed(),
                "model": self.model.state_dict(),
                "ema": None if self.ema is None else self.ema.module.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "history": self.history,
            }
            checkpoint.write(self.settings.checkpoint, state)

    def go(self, target: float | None = None) -> list[Row]:
        """Train until the last epoch, or until the test accuracy reaches ``target``; a row an epoch.

        Raises:
            Diverged: the loss is no finite number.
        """
        with (
            repeatable(fast=self.settings.fast),
            Report(self.settings.output, silent=not self.processes.first) as report,
        ):
            for epoch in range(len(self.history), self.settings.epochs):
                train_loss, images_per_s = self.epoch(epoch, report)
                test_loss, accuracy = self.evaluate()
                self.history.append(
                    {
                        **self.known,
                        "epoch": epoch + 1,
                        "step": (epoch + 1) * len(self.batches),
                        "seconds": time.monotonic() - self.started,
                        "learning_rate": self.optimizer.param_groups[0]["lr"],
                        "train_loss": train_loss,
                        "test_loss": test_loss,
                        "test_accuracy": accuracy,
                        "images_per_s": images_per_s,
                    }
                )
                self.save()
                report.end(self.history)
                if target is not None and accuracy >= target:
                    break
        return self.history

    def epoch(self, epoch: int, report: Report) -> tuple[float, float]:
        """Train for an epoch: the mean loss over all processes, and images a second of all."""
        torch.manual_seed(data.seed_of(self.settings.seed, epoch, self.processes.rank))  # for stochastic depth
        self.batches.epoch = epoch
        self.model.train()
        steps = len(self.batches)
        report.begin(epoch, self.settings.epochs, steps)
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        started = time.monotonic()
        for done, (images, targets) in enumerate(self.loader, 1):
            number = epoch * steps + done
            self.schedule.step_update(number - 1)
            total += self.step(self.normalised(images), targets.to(self.device, non_blocking=True))
            if self.ema is not None:
                self.ema.update(self.model, step=number)
            if report.due or done == steps:
                mean = float(total) / done
                self.check(mean, epoch, number)
                rate = done * self.settings.batch * self.processes.count / (time.monotonic() - started)
                report.step(done, number, mean, rate, self.optimizer.param_groups[0]["lr"])
        mean = float(self.processes.total(total)) / steps / self.processes.count
        self.check(mean, epoch, (epoch + 1) * steps)
        return mean, rate

    def check(self, loss: float, epoch: int, number: int) -> None:
        """Stop where the mean loss of an epoch is no finite number: one bad step makes it so."""
        if math.isfinite(loss):
            return
        left = (
            f"the last good checkpoint is {self.settings.checkpoint} (epoch {epoch})" if epoch else "no checkpoint yet"
        )
        raise Diverged(f"the loss became {loss} in epoch {epoch + 1}, by step {number}; {left}")

    @torch.no_grad()
    def evaluate(self) -> tuple[float, float]:
        """The loss and the accuracy over all images of the test part, of the averaged weights where there are any."""
        model = (self.ema.module if self.ema is not None else self.model).eval()
        dtype = self.step.dtype
        sums = torch.zeros(3, dtype=torch.float64, device=self.device)  # loss, right answers, images
        for images, targets in self.test_loader:
            wanted = targets.to(self.device)
            with torch.autocast(self.device.type, dtype, enabled=dtype is not None):
                logits = model(self.normalised(images)).float()
            right = (logits.argmax(1) == wanted).sum()
            loss = nn.functional.cross_entropy(logits, wanted, reduction="sum")
            sums += torch.stack([loss.double(), right.double(), torch.tensor(len(wanted), device=self.device).double()])
        loss, right, images = self.processes.total(sums).tolist()
        return loss / images, right / images


def described(settings: Settings, processes: Processes, model: nn.Module) -> Row:
    """The columns of the curves that hold for the whole run."""
    machine = fingerprint(settings.device)
    chip = machine["gpu"] or machine["cpu"]
    commit = machine["commit"] or {}
    assert isinstance(chip, dict)
    assert isinstance(commit, dict)
    return {
        "model": settings.model,
        "backend": settings.backend or "none",
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seed": settings.seed,
        "machine": chip.get("name") or chip.get("model"),
        "torch": str(torch.__version__),
        "halobench": machine["halobench"],
        "commit": f"{commit.get('id', 'unknown')}{' (declared)' if commit.get('declared') else ''}",
        "dirty": "unknown" if commit.get("dirty") is None else str(commit["dirty"]).lower(),
        "processes": processes.count,
        "batch": settings.batch * processes.count,
        "image_size": settings.image_size,
    }
