"""Ranks of a group, processes that stay: on the CPU, forked from one that has imported PyTorch; or on a GPU each."""

import multiprocessing
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import distributed
from torch.distributed import ProcessGroup

from tests import forked

LONGEST_S = {"gloo": 60, "nccl": 240}  # kernels are compiled on GPUs


class Ranks:
    """``count`` processes of one group, of gloo or NCCL, and what they answer."""

    def __init__(self, count: int, folder: Path, backend: str = "gloo") -> None:
        context = forked.SERVER if backend == "gloo" else multiprocessing.get_context("spawn")  # CUDA cannot be forked
        self.longest_s = LONGEST_S[backend]
        self.connections: list[Connection] = []
        self.processes = []
        for rank in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=serve, args=(rank, count, backend, str(folder / "store"), theirs), daemon=True
            )
            process.start()
            theirs.close()
            self.connections.append(ours)
            self.processes.append(process)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for process, connection in zip(self.processes, self.connections, strict=True):
            connection.close()  # the end of its input is the end of it
            process.join(5)
            process.kill()
            process.join()

    def ask(self, count: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What ``function(group, *arguments)`` returns on each of the first ``count`` ranks, or the error it raises.

        A rank that ends answers ``EOFError``.
        """
        asked = self.connections[:count]
        for connection in asked:
            connection.send((count, function, arguments))
        return [answer(connection, self.longest_s) for connection in asked]


def answer(connection: Connection, longest_s: float) -> Any:
    """What a rank sent back."""
    assert connection.poll(longest_s), "a rank hangs"
    try:
        return connection.recv()
    except (EOFError, ConnectionResetError):
        return EOFError()


def serve(rank: int, count: int, backend: str, store: str, connection: Connection) -> None:
    """Answer until there are no more questions."""
    torch.set_num_threads(1)
    device = torch.device("cuda", rank) if backend == "nccl" else None
    if device:
        torch.cuda.set_device(device)
    distributed.init_process_group(
        backend, store=distributed.FileStore(store, count), rank=rank, world_size=count,
        timeout=timedelta(seconds=LONGEST_S[backend]), device_id=device,
    )  # fmt: skip
    groups: dict[int, Any] = {size: distributed.new_group(range(size)) for size in range(1, count)}
    groups[count] = distributed.group.WORLD
    while True:
        try:
            size, function, arguments = connection.recv()
        except EOFError:
            return
        try:
            connection.send(function(groups[size], *arguments))
        except Exception as error:  # noqa: BLE001 - whatever it is, the test is to see it
            traceback.print_exc()
            connection.send(error)


def device_of(group: ProcessGroup) -> torch.device:
    """Where a rank of the group computes."""
    return torch.device("cuda", group.rank()) if distributed.get_backend(group) == "nccl" else torch.device("cpu")


def short_lived(group: ProcessGroup, timeout_s: float) -> ProcessGroup:
    """A group of the same ranks that waits no longer than this, to be broken."""
    ranks = distributed.get_process_group_ranks(group)
    made = distributed.new_group(ranks, timeout=timedelta(seconds=timeout_s), use_local_synchronization=True)
    assert isinstance(made, ProcessGroup)
    return made
