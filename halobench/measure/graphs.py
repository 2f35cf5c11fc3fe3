"""A call captured as one CUDA graph: the device does its work again without the host launching kernel after kernel."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Generic, TypeVar

import torch

from halobench.machine.clock import no_collection
from halobench.machine.memory import ran_out

Outcome = TypeVar("Outcome")


class Uncapturable(Exception):
    """A call cannot be captured; the message is one line.

    PyTorch may believe that the capture goes on, so this process is not to measure anything else.
    """


@dataclass
class Replay(Generic[Outcome]):
    """A captured call. Calling it repeats the work and returns ``output``, which each replay overwrites.

    ``call`` is never called again. It holds the tensors whose addresses are in the graph.
    """

    call: Callable[[], Outcome]
    graph: torch.cuda.CUDAGraph
    output: Outcome

    def __call__(self) -> Outcome:
        """Launch the graph on the current stream."""
        self.graph.replay()
        return self.output


@cache
def stream() -> torch.cuda.Stream:
    """The stream of all captures. cuBLAS keeps a workspace for each stream, so that one for each call would leak."""
    return torch.cuda.Stream()


def adopt(device: str) -> None:
    """Let this process do everything on the stream of the captures, from now on.

    Nodes of autograd that a backend leaves in a reference cycle would bring another stream into a graph.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.set_stream(stream())


@contextmanager
def side_stream() -> Iterator[None]:
    """Work on the stream of the captures, from the first call on.

    The default stream cannot be captured. What a first call leaves behind (workspaces, nodes that accumulate
    gradients) belongs to the stream it was made on, and a capture that meets another stream fails.
    """
    torch.cuda.synchronize()
    with torch.cuda.stream(stream()):
        yield
        torch.cuda.synchronize()


def warmed(call: Callable[[], Outcome], name: str) -> Replay[Outcome]:
    """``capture`` of a call that may have run elsewhere only, after once on this stream: its workspaces are its own.

    Raises:
        Uncapturable, MemoryError, torch.OutOfMemoryError: as ``capture``.
    """
    with side_stream():
        call()
        return capture(call, name)


def capture(call: Callable[[], Outcome], name: str, errors: str = "global") -> Replay[Outcome]:
    """The call, as a graph; ``name`` says in messages whose call it is.

    ``errors`` says whose calls end the capture where they cannot be in it (``torch.cuda.graph``'s
    ``capture_error_mode``). The call must be warm: everything that compiles, benchmarks or allocates for good has
    happened. The graph has memory of its own, as much as the call needs, until it is freed.

    Raises:
        Uncapturable: the call synchronizes, for example.
        MemoryError, torch.OutOfMemoryError: the graph's memory does not fit.
    """
    graph = torch.cuda.CUDAGraph()
    output: Outcome | None = None
    fault: Exception | None = None
    try:
        capturing = torch.cuda.graph(graph, stream=stream(), capture_error_mode=errors)
        with no_collection(), capturing:  # a collection might free another graph
            try:
                output = call()
            except Exception as error:  # noqa: BLE001 - the end of the capture would raise an error that hides it
                fault = error
    except RuntimeError as error:
        raise Uncapturable(reason(name, fault or error)) from (fault or error)
    if fault is not None and ran_out(fault):
        raise fault
    if output is None:
        raise Uncapturable(reason(name, fault)) from fault
    return Replay(call, graph, output)


def reason(name: str, error: Exception | None) -> str:
    """Why a call could not be captured, in one line."""
    said = " ".join(str(error).split())
    return f"{name} cannot be captured as a CUDA graph: {type(error).__name__}: {said[:300]}"
