"""Halo pixels on their way to the ranks that see them, and their gradients on the way back.

    forward    Depart: send and receive    ... interior blocks ...    Arrive: wait    ... blocks at the shard's edges
    backward   Depart: wait, add           ... interior blocks ...    Arrive: send    ... blocks at the shard's edges

Both ways are under way while the interior is computed, since autograd runs backward what was recorded forward. A
message is the keys and values of one rank's pixels for another, a rectangle: (pixels, batch, heads, key_dim +
value_dim). Corners have messages of their own, so that nothing waits for another message before it is sent.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable
from torch.distributed import P2POp, ProcessGroup, Work

from halobench.attention.geometry import Geometry
from halobench.distributed.areas import Area
from halobench.distributed.lost import ANYONE, waiting
from halobench.distributed.messages import Message, note
from halobench.distributed.shards import Routes, Shards, routes

Mail = list[tuple[int, Tensor]]  # ranks of the group, and what is sent to them or received from them


class Piece(NamedTuple):
    """Keys and values of an area (b n rows columns d) and (b n rows columns e)."""

    area: Area
    key: Tensor
    value: Tensor


@dataclass
class Exchange:
    """One exchange, of one call, as this rank sees it. ``travels`` is false for measuring what it costs."""

    shards: Shards
    geometry: Geometry
    group: ProcessGroup
    travels: bool = True
    on_their_way: list[tuple[int, Work]] = field(default_factory=list)
    returned: Mail | None = None

    @cached_property
    def routes(self) -> Routes:
        """What this rank holds, sees, receives and sends."""
        return routes(self.shards, self.group.rank(), self.geometry)

    def depart(self, key: Tensor, value: Tensor) -> Tensor:
        """Send pixels of keys and values; where those of others will be: (pixels, batch, heads, both dims)."""
        batch, heads, _, _, key_dim = key.shape
        count = sum(area.pixels for _, area in self.routes.received)
        into = key.new_zeros(count, batch, heads, key_dim + value.shape[-1])
        sent = self.routes.sent if self.travels else ()
        self.post([(rank, packed(area.of(key), area.of(value))) for rank, area in sent], self.split(into))
        return into

    def split(self, pixels: Tensor) -> Mail:
        """The received pixels, or their gradient, by the rank they came from."""
        parts = pixels.split([area.pixels for _, area in self.routes.received])
        return [(rank, part) for (rank, _), part in zip(self.routes.received, parts, strict=True)]

    def pieces(self, key: Tensor, value: Tensor, received: Tensor) -> list[Piece]:
        """The frame's keys and values, once they are there: this rank's, and those of others by owner."""
        dims, areas = (key.shape[-1], value.shape[-1]), (area for _, area in self.routes.received)
        parts = zip(areas, self.split(received), strict=True)
        others = [Piece(area, *unpacked(part, area, dims)) for area, (_, part) in parts]
        return [Piece(self.routes.own, key, value), *others]

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
            RankLost: a rank did not send or take its pixels within the group's time-out.
        """
        for rank, work in self.on_their_way:
            with waiting(self.group, rank, "its halo"):
                work.wait()
        self.on_their_way = []

    def depart_back(self, gradient: Tensor) -> None:
        """Send the gradients of received pixels to their owners, and receive those of the pixels sent."""
        pixel = gradient.shape[1:]
        self.returned = [(rank, gradient.new_zeros(area.pixels, *pixel)) for rank, area in self.routes.sent]
        self.post(self.split(gradient.contiguous()), self.returned)

    def arrive_back(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients of this shard's keys and values, those of other ranks' queries added."""
        self.arrive()
        assert self.returned is not None
        if self.returned:
            key, value = key.clone(), value.clone()  # autograd may have given them to others, too
        dims = key.shape[-1], value.shape[-1]
        for (_, area), (_, gradient) in zip(self.routes.sent, self.returned, strict=True):
            for whole, share in zip((key, value), unpacked(gradient, area, dims), strict=True):
                area.of(whole).add_(share)
        self.returned = None
        return key, value


def packed(key: Tensor, value: Tensor) -> Tensor:
    """A message: the keys and values of an area (b n H W d), (b n H W e) -> (pixels b n d+e)."""
    return torch.cat((key, value), -1).permute(2, 3, 0, 1, 4).flatten(0, 1).contiguous()


def unpacked(message: Tensor, area: Area, dims: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The same back again: views."""
    pixels = message.view(len(area.rows), len(area.columns), *message.shape[1:]).permute(2, 3, 0, 1, 4)
    key, value = pixels.split(dims, -1)
    return key, value


class Depart(torch.autograd.Function):
    """Keys and values as they are, and the pixels of others, which are there only after ``Arrive``."""

    @staticmethod
    def forward(ctx: Any, exchange: Exchange, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Send this rank's pixels."""
        ctx.exchange = exchange
        return key.view_as(key), value.view_as(value), exchange.depart(key, value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, key: Tensor, value: Tensor, received: Tensor) -> tuple[None, Tensor, Tensor]:
        """Wait for the gradients of these pixels, and add them."""
        exchange: Exchange = ctx.exchange
        if exchange.returned is None:  # nothing was received: there was no arrival to go back from
            exchange.depart_back(received)
        return None, *exchange.arrive_back(key, value)


class Arrive(torch.autograd.Function):
    """The pixels of others, once they are there."""

    @staticmethod
    def forward(ctx: Any, exchange: Exchange, received: Tensor) -> Tensor:
        """Wait for others' pixels."""
        ctx.exchange = exchange
        exchange.arrive()
        return received.view_as(received)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None]:
        """Send their gradients back."""
        ctx.exchange.depart_back(gradient)
        return None, None  # it leaves this rank's graph
