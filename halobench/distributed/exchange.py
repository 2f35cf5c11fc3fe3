"""Halo rows on their way to the ranks that see them, and their gradients on the way back.

    forward    Depart: send and receive    ... interior blocks ...    Arrive: wait    ... blocks at the shard's edges
    backward   Depart: wait, add           ... interior blocks ...    Arrive: send    ... blocks at the shard's edges

Both ways are under way while the interior is computed, since autograd runs backward what was recorded forward. A
message is the keys and values of one rank's rows for another: (rows, batch, heads, width, key_dim + value_dim).
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable
from torch.distributed import P2POp, ProcessGroup, Work

from halobench.attention.geometry import Geometry
from halobench.distributed.lost import ANYONE, waiting
from halobench.distributed.messages import Message, note
from halobench.distributed.shards import Shards

Mail = list[tuple[int, Tensor]]  # ranks of the group, and what is sent to them or received from them


@dataclass
class Exchange:
    """One exchange, of one call, as this rank sees it. ``travels`` is false for measuring what it costs."""

    shards: Shards
    geometry: Geometry
    group: ProcessGroup
    travels: bool = True
    on_their_way: list[tuple[int, Work]] = field(default_factory=list)
    returned: Mail | None = None

    @property
    def rank(self) -> int:
        """This rank in its group."""
        return self.group.rank()

    @property
    def received(self) -> list[tuple[int, range]]:
        """From whom which rows of the map come."""
        return self.shards.pieces(self.rank, self.geometry)

    @property
    def sent(self) -> list[tuple[int, slice]]:
        """To whom which rows go, counted within this shard."""
        first = self.shards.rows(self.rank).start
        return [
            (rank, slice(rows.start - first, rows.stop - first))
            for rank in range(len(self.shards.heights))
            for owner, rows in self.shards.pieces(rank, self.geometry)
            if owner == self.rank and rank != owner
        ]

    def depart(self, key: Tensor, value: Tensor) -> Tensor:
        """Send rows of keys and values; where those of others will be: (rows, batch, heads, width, both dims)."""
        batch, heads, _, width, key_dim = key.shape
        count = sum(len(rows) for _, rows in self.received)
        into = key.new_zeros(count, batch, heads, width, key_dim + value.shape[-1])
        outgoing = [(rank, packed(key, value, rows)) for rank, rows in self.sent] if self.travels else []
        self.post(outgoing, self.split(into))
        return into

    def split(self, rows: Tensor) -> Mail:
        """The received rows, or their gradient, by the rank they came from."""
        parts = rows.split([len(piece) for _, piece in self.received])
        return [(rank, part) for (rank, _), part in zip(self.received, parts, strict=True)]

    def post(self, outgoing: Mail, incoming: Mail) -> None:
        """Send and receive, without waiting."""
        if not self.travels:
            return
        operations = [
            P2POp(operation, tensor, distributed.get_global_rank(self.group, rank), self.group)
            for operation, mail in ((distributed.isend, outgoing), (distributed.irecv, incoming))
            for rank, tensor in mail
        ]
        if not operations:
            return
        with waiting(self.group, ANYONE, "a connection"):
            works = distributed.batch_isend_irecv(operations)
        sent, received = ([(rank, tensor.nbytes) for rank, tensor in mail] for mail in (outgoing, incoming))
        note(Message(tuple(sent), tuple(received)))
        peers = [rank for rank, _ in outgoing + incoming]
        if len(works) != len(peers):  # NCCL makes one work of them
            peers = [ANYONE] * len(works)
        self.on_their_way = list(zip(peers, works, strict=True))

    def arrive(self) -> None:
        """Wait for what is on its way: on a GPU, its stream does.

        Raises:
            RankLost: a rank did not send or take its rows within the group's time-out.
        """
        for rank, work in self.on_their_way:
            with waiting(self.group, rank, "halo rows"):
                work.wait()
        self.on_their_way = []

    def depart_back(self, gradient: Tensor) -> None:
        """Send the gradients of received rows to their owners, and receive those of the rows sent."""
        row = gradient.shape[1:]
        self.returned = [(rank, gradient.new_zeros(rows.stop - rows.start, *row)) for rank, rows in self.sent]
        self.post(self.split(gradient.contiguous()), self.returned)

    def arrive_back(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients of this shard's keys and values, those of other ranks' queries added."""
        self.arrive()
        assert self.returned is not None
        if self.returned:
            key, value = key.clone(), value.clone()  # autograd may have given them to others, too
        for (_, rows), (_, gradient) in zip(self.sent, self.returned, strict=True):
            shares = gradient.permute(1, 2, 0, 3, 4).split((key.shape[-1], value.shape[-1]), -1)
            key[:, :, rows] += shares[0]
            value[:, :, rows] += shares[1]
        self.returned = None
        return key, value


def packed(key: Tensor, value: Tensor, rows: slice) -> Tensor:
    """A message: these rows of keys and values (b n H W d), (b n H W e) -> (rows b n W d+e)."""
    return torch.cat((key[:, :, rows], value[:, :, rows]), -1).permute(2, 0, 1, 3, 4).contiguous()


class Depart(torch.autograd.Function):
    """Keys and values as they are, and the rows of others, which are there only after ``Arrive``."""

    @staticmethod
    def forward(ctx: Any, exchange: Exchange, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Send this rank's rows."""
        ctx.exchange = exchange
        return key.view_as(key), value.view_as(value), exchange.depart(key, value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, key: Tensor, value: Tensor, received: Tensor) -> tuple[None, Tensor, Tensor]:
        """Wait for the gradients of these rows, and add them."""
        exchange: Exchange = ctx.exchange
        if exchange.returned is None:  # nothing was received: there was no arrival to go back from
            exchange.depart_back(received)
        return None, *exchange.arrive_back(key, value)


class Arrive(torch.autograd.Function):
    """The rows of others, once they are there."""

    @staticmethod
    def forward(ctx: Any, exchange: Exchange, received: Tensor) -> Tensor:
        """Wait for others' rows."""
        ctx.exchange = exchange
        exchange.arrive()
        return received.view_as(received)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None]:
        """Send their gradients back."""
        ctx.exchange.depart_back(gradient)
        return None, None  # it leaves this rank's graph
