"""Where the time of a detector's call goes: marks between its parts, in calls that nobody else times."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

CALLS = 5
BEGIN = "begin"
Mark = tuple[str, Any]
"""The part that has just ended, and when: seconds, or an event of the device."""


def parts_ms(model: Any, call: Callable[[], object], device: str) -> dict[str, float]:
    """Median milliseconds of each part of a call, in their order.

    Of inference: preparation of the images, backbone, pyramid (with the region proposal network), heads,
    postprocessing; of a training step: preparation, backbone, pyramid, heads (with all losses), backward, optimizer.
    On a GPU the device's time between two marks, waiting for the host included.
    """
    found: list[dict[str, float]] = []
    with marked(model, device) as marks:
        for _ in range(CALLS):
            marks.clear()
            call()
            if torch.device(device).type == "cuda":
                torch.cuda.synchronize()
            found.append(between(marks))
    return {name: median(one[name] for one in found) for name in found[0]}


@contextmanager
def marked(model: Any, device: str) -> Iterator[list[Mark]]:
    """Marks where the parts of a call begin and end, by hooks that are gone afterwards."""
    marks: list[Mark] = []

    def mark(name: str) -> Callable[..., None]:
        def note(*_: object) -> None:
            marks.append((name, now(device)))

        return note

    with ExitStack() as stack:
        for handle in (
            model.register_forward_pre_hook(mark(BEGIN)),
            model.backbone.register_forward_pre_hook(mark("preparation")),
            model.backbone.fpn.register_forward_pre_hook(mark("backbone")),
            model.rpn.register_forward_hook(mark("pyramid")),
            model.roi_heads.register_forward_hook(mark("heads")),
            *([] if model.training else [model.register_forward_hook(mark("postprocessing"))]),
            register_optimizer_step_pre_hook(mark("backward")),
            register_optimizer_step_post_hook(mark("optimizer")),
        ):
            stack.callback(handle.remove)
        yield marks


def now(device: str) -> Any:
    """This moment: on a GPU an event that is on its way."""
    if torch.device(device).type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def between(marks: list[Mark]) -> dict[str, float]:
    """Milliseconds from each mark to the next, by the name of the latter."""
    return {
        name: (then - before) * 1e3 if isinstance(then, float) else before.elapsed_time(then)
        for (_, before), (name, then) in pairwise(marks)
    }
