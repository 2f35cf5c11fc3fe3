"""Calls that communicate, captured as CUDA graphs: NCCL's kernels are nodes of the graph like all others.

As https://docs.pytorch.org/docs/stable/notes/cuda.html asks under "Usage with DistributedDataParallel": eleven calls
before, all on one side stream, where the model was made, too; and no watchdog that looks at events of the capture.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch

from halobench.measure import graphs
from halobench.scale.settings import Settings
from halobench.train.unusable import Unusable

CALLS = 3  # DistributedDataParallel orders its buckets anew after the first
CALLS_BEFORE_CAPTURE = 11
WATCHDOG = "TORCH_NCCL_ASYNC_ERROR_HANDLING"


@contextmanager
def prepared(settings: Settings, device: torch.device) -> Iterator[None]:
    """What must hold before processes join, and while calls are captured."""
    if not settings.captured:
        yield
        return
    os.environ[WATCHDOG] = "0"
    torch.cuda.set_device(device)
    with graphs.side_stream():
        yield


def warm(call: Callable[[], object], settings: Settings) -> None:
    """Call it until everything that happens once has happened."""
    for _ in range(CALLS_BEFORE_CAPTURE if settings.captured else CALLS):
        call()


def replayed(call: Callable[[], object]) -> Callable[[], object]:
    """The warm call as a graph.

    It is called once more, since DistributedDataParallel does other things after a step without communication than
    after one with it.

    Raises:
        Unusable: it cannot be captured.
    """
    call()
    torch.cuda.synchronize()
    try:
        return graphs.capture(partial(answering, call), "the call", errors="thread_local")  # the watchdog is a thread
    except graphs.Uncapturable as error:
        raise Unusable(f"{error}; without --captured it is launched") from error


def answering(call: Callable[[], object]) -> object:
    """What the call returns; what communicates alone returns nothing, which to a capture is a failure."""
    answer = call()
    return True if answer is None else answer
