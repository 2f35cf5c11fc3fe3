"""What a run says before it begins, and the columns of its curves that hold for all of it."""

from collections.abc import Iterator

import torch
from torch import nn

from halobench.machine.environment import fingerprint
from halobench.train.data import Data, Images, left_out
from halobench.train.processes import Processes
from halobench.train.report import Row
from halobench.train.settings import Settings, half_precision
from halobench.wording import counted


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


def lines(settings: Settings, known: Row, found: Data, training: Images, test: Images, table: str) -> Iterator[str]:
    """What is trained, where, on which images, and where it is written."""
    backend = f", backend {settings.backend}" if settings.backend else ""
    step = f"{counted(known['batch'], 'image')} of {counted(settings.image_size, 'pixel')} a step"
    yield (
        f"{settings.model}{backend}: {known['parameters']:,} parameters, on {known['machine']} ({settings.device}) in "
        f"{settings.dtype}{why(settings)}; {step}, processes: {known['processes']}"
    )
    yield f"{settings.data}: {counted(len(found.classes), 'class', 'classes')}"
    yield f"  to train on: {counted(len(training), 'image')}{left_out(training)}"
    missing = found.without_images(test)
    none = (
        f"; none of {counted(len(missing), 'class', 'classes')}: {', '.join(map(repr, missing[:5]))}" if missing else ""
    )
    yield f"  to test on: {counted(len(test), 'image')}{none}{left_out(test)}"
    yield f"{settings.output}: checkpoint.pt, {table}, tensorboard/"


def why(settings: Settings) -> str:
    """What there is to say about the dtype."""
    if settings.dtype != "float16":
        return ""
    lacking = settings.device == "cuda" and half_precision() == "float16"
    return " with scaled gradients" + (", as this GPU has no bfloat16" if lacking else "")
