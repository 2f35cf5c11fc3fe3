"""Halo pixels on their way to the ranks that see them, and their gradients on the way back.

    forward    Depart: send and receive    ... interior blocks ...    Arrive: wait    ... blocks at the shard's edges
    backward   Depart: wait, add           ... interior blocks ...    Arrive: send    ... blocks at the shard's edges

Both ways are under way while the interior is computed, since autograd runs backward what was recorded forward. A
message is the keys and values of one rank's pixels for another, a rectangle: (pixels, batch, heads, key_dim +
value_dim). Corners have messages of their own, so that nothing waits for another message before it is sent.

What the blocks at the edges see is cut and put together in here, out of autograd's sight: of every part it would make a
gradient as large as the map, zeros but for the part, and add them up.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable
from torch.distributed import P2POp, ProcessGroup, Work

from halobench.attention.geometry import Geometry
from halobench.distributed.areas import Area, joined
from halobench.distributed.lost import ANYONE, waiting
from halobench.distributed.messages import Message, note
from halobench.distributed.shards import Parcels, Routes, Shards, routes

Mail = list[tuple[int, Tensor]]  # ranks of the group, and what is sent to them or received from them


class Piece(NamedTuple):
    """Keys and values of an area (b n rows columns d) and (b n rows columns e), or their gradients."""

    area: Area
    key: Tensor
    value: Tensor

    def within(self, area: Area) -> "Piece":
        """What lies in an area: views."""
        common = self.area.overlap(area)
        here = common.seen_from(self.area.rows.start, self.area.columns.start)
        return Piece(common, here.of(self.key), here.of(self.value))


@dataclass
class Exchange:
    """One exchange, of one call, as this rank sees it. ``travels`` is false for measuring what it costs.

    ``pieces`` are all pixels that queries see, by owner, until the parts that see them have theirs. Backward,
    ``shares`` are what the blocks at the edges add to the gradients of this rank's pixels, and ``returned`` what other
    ranks do.
    """

    shards: Shards
    geometry: Geometry
    group: ProcessGroup
    travels: bool = True
    on_their_way: list[tuple[int, Work]] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)
    shares: list[Piece] = field(default_factory=list)
    returned: list[Piece] | None = None

    @cached_property
    def routes(self) -> Routes:
        """What this rank holds, sees, receives and sends."""
        return routes(self.shards, self.group.rank(), self.geometry)

    def depart(self, key: Tensor, value: Tensor) -> None:
        """Send pixels of keys and values, and receive those of others that are seen here."""
        own = Piece(self.routes.own, key.detach(), value.detach())
        sent = [(rank, packed(own.within(area))) for rank, area in (self.routes.sent if self.travels else ())]
        received, others = self.room(self.routes.received, own)
        self.post(sent, received)
        self.pieces = [own, *others]

    def room(self, parcels: Parcels, like: Piece) -> tuple[Mail, list[Piece]]:
        """Where messages are received, and the keys and values in them: views. Zeros where nothing travels."""
        batch, heads, _, _, key_dim = like.key.shape
        made = like.key.new_empty if self.travels else like.key.new_zeros
        dims = key_dim, like.value.shape[-1]
        mail = [(rank, made(area.pixels, batch, heads, sum(dims))) for rank, area in parcels]
        return mail, [unpacked(message, area, dims) for (_, message), (_, area) in zip(mail, parcels, strict=True)]

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

    def seen(self, areas: Sequence[Area]) -> list[Tensor]:
        """Keys and values of each of these areas in turn, once others' pixels are there."""
        self.arrive()
        pieces, self.pieces = self.pieces, []
        keys, values = [(piece.area, piece.key) for piece in pieces], [(piece.area, piece.value) for piece in pieces]
        return [joined(area, each) for area in areas for each in (keys, values)]

    def depart_back(self, seen: Sequence[Piece], like: Piece) -> None:
        """Send the gradients of others' pixels to their owners, and receive those of the pixels sent.

        ``seen`` are the gradients of what the blocks at the edges see.
        """
        self.shares = [piece.within(self.routes.own) for piece in seen]
        sent = [(rank, added(area, seen)) for rank, area in (self.routes.received if self.travels else ())]
        received, self.returned = self.room(self.routes.sent, like)
        self.post(sent, received)

    def arrive_back(self, interior: Sequence[Piece]) -> tuple[Tensor, Tensor]:
        """The gradients of this shard's keys and values: those of the interior's queries, if any, and all others'."""
        self.arrive()
        assert self.returned is not None
        (_, *sums), *others = *interior, *self.shares, *self.returned  # without an interior, one part sees all pixels
        self.shares, self.returned = [], None
        if others:
            sums = [whole.clone() for whole in sums]  # autograd may have given them to others, too
        for area, *shares in others:
            for whole, share in zip(sums, shares, strict=True):
                area.of(whole).add_(share)
        key, value = sums
        return key, value


def packed(piece: Piece) -> Tensor:
    """A message, (pixels b n d+e)."""
    by_pixel = [pixels.permute(2, 3, 0, 1, 4) for pixels in piece[1:]]
    return torch.cat(by_pixel, -1).flatten(0, 1).contiguous()


def unpacked(message: Tensor, area: Area, dims: tuple[int, int]) -> Piece:
    """What was packed: views."""
    pixels = message.view(len(area.rows), len(area.columns), *message.shape[1:]).permute(2, 3, 0, 1, 4)
    return Piece(area, *pixels.split(dims, -1))


def added(area: Area, pieces: Sequence[Piece]) -> Tensor:
    """A message: the sum of what pieces hold of an area, each pixel of which one of them holds at least."""
    parts = [part for part in (piece.within(area) for piece in pieces) if part.area.pixels]
    if len(parts) == 1:
        return packed(parts[0])
    (_, key, value), corner = parts[0], (area.rows.start, area.columns.start)
    whole = key.new_zeros(area.pixels, *key.shape[:2], key.shape[-1] + value.shape[-1])
    _, *both = unpacked(whole, area, (key.shape[-1], value.shape[-1]))
    for common, *shares in parts:
        for sums, share in zip(both, shares, strict=True):
            common.seen_from(*corner).of(sums).add_(share)
    return whole


class Depart(torch.autograd.Function):
    """Keys and values as they are, if there is an ``interior`` to see them; and nothing, for ``Arrive`` to follow."""

    @staticmethod
    def forward(
        ctx: Any, exchange: Exchange, interior: bool, key: Tensor, value: Tensor  # noqa: FBT001 - as apply takes it
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """Send this rank's pixels."""
        ctx.exchange, ctx.interior = exchange, interior
        exchange.depart(key, value)
        nothing = key.new_empty(0), value.new_empty(0)
        return *((key.view_as(key), value.view_as(value)) if interior else nothing), key.new_empty(0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, key: Tensor, value: Tensor, _nothing: Tensor) -> tuple[None, None, Tensor, Tensor]:
        """Wait for the gradients of these pixels, and add them."""
        exchange: Exchange = ctx.exchange
        own = Piece(exchange.routes.own, key, value)
        if exchange.returned is None:  # no block sees others' pixels: there was no arrival to go back from
            exchange.depart_back((), own)
        return None, None, *exchange.arrive_back([own] if ctx.interior else [])


class Arrive(torch.autograd.Function):
    """Keys and values of what each part at an edge sees, once others' pixels are there; by areas."""

    @staticmethod
    def forward(ctx: Any, exchange: Exchange, areas: Sequence[Area], _nothing: Tensor) -> tuple[Tensor, ...]:
        """Wait for others' pixels."""
        ctx.exchange, ctx.areas = exchange, areas
        return tuple(exchange.seen(areas))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, None]:
        """Send the gradients of others' pixels back."""
        pairs = zip(ctx.areas, gradients[::2], gradients[1::2], strict=True)
        seen = [Piece(*each) for each in pairs]
        ctx.exchange.depart_back(seen, seen[0])
        return None, None, None  # what they add to this rank's is on its way to ``Depart``
