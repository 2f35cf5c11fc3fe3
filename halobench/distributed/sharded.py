"""Halo attention on shards: the interior while halo rows travel, then the blocks that see them.

    received   | above |                            | below |
    own rows           |  0  |  1  |  2  |  3  |  4  |         blocks
    calls              |--B--|--------A--------|--C--|

A asks a backend about the blocks that see own rows only, B and C about the others. Each call is a strip: its keys and
values are the rows that its queries see, and no pair is scored that belongs to another rank.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, distributed
from torch.distributed import ProcessGroup

from halobench.attention import backends
from halobench.attention.geometry import Geometry
from halobench.attention.problem import Attend, RelativeTables, check_inputs
from halobench.distributed.exchange import Arrive, Depart, Exchange
from halobench.distributed.messages import sum_over
from halobench.distributed.replicated import replicated
from halobench.distributed.shards import Shards, overhang, unit
from halobench.wording import counted


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    relative: RelativeTables | None,
    geometry: Geometry,
    group: ProcessGroup | None = None,
    *,
    backend: str,
    shards: Shards | None = None,
    exchanged: bool = True,
) -> Tensor:
    """Halo attention of this rank's rows of a map that the group holds.

    Every rank calls it with its rows: query (b n h/s W/s d), key (b n h W d), value (b n h W e), tables
    (2 * window - 1, d); the result is (b n h/s W/s e). ``h`` may be 0. The gradients of keys and values are those of
    the whole map. Those of the tables are summed over the group, which must not be done again, nor averaged.

    ``group`` is the default one if ``None``. ``shards`` says what all ranks hold; without it they ask one another at
    each call, which waits for the device. ``exchanged=False`` computes with zeros in place of other ranks' rows, and
    sums no gradients: wrong, for measuring what the exchange costs.

    Raises:
        ValueError: the arguments do not fit one another, the group or the shards.
        Unsupported: the backend refuses them, or knows no strips.
        RankLost: another rank did not answer within the group's time-out.
    """
    compute, group = backends.operator(backend), group or distributed.group.WORLD
    assert group is not None
    check_inputs(query, key, value, relative, geometry)
    shards = shards or asked(key, group)
    check_shard(key, geometry, group, shards)
    if relative is not None and exchanged:
        relative = RelativeTables(*replicated(group, *relative))
    if not key.shape[2]:
        return nothing(query, key, value, relative)
    exchange = Exchange(shards, geometry, group, travels=exchanged)
    key, value, received = Depart.apply(exchange, key, value)
    above, below = (len(rows) for rows in shards.needed(group.rank(), geometry))
    interior, edges = cut(key.shape[2], above, below, geometry)
    shard = Shard(query, key, value, received, above, below)
    try:
        outputs = {part: shard.attend(compute, relative, geometry, part) for part in interior}
    finally:  # also where the backend refuses: no message is left for the next call
        shard = replace(shard, received=Arrive.apply(exchange, received))
    outputs |= {part: shard.attend(compute, relative, geometry, part) for part in edges}
    return stacked([outputs[part] for part in sorted(outputs, key=lambda part: part.start)])


def asked(key: Tensor, group: ProcessGroup) -> Shards:
    """What all ranks hold, from each of them."""
    heights = torch.zeros(group.size(), dtype=torch.int64, device=key.device)
    heights[group.rank()] = key.shape[2]
    return Shards(tuple(sum_over(group, heights, "the heights of shards").tolist()))


def check_shard(key: Tensor, geometry: Geometry, group: ProcessGroup, shards: Shards) -> None:
    """Raise ``ValueError`` where this rank's keys are not what the shards say, or the shards no strips."""
    if geometry.strip:
        raise ValueError(f"a sharded map has no rows above or below it, got {geometry}")
    rank, height = group.rank(), key.shape[2]
    if len(shards.heights) != group.size() or shards.heights[rank] != height:
        raise ValueError(
            f"the shards of {counted(group.size(), 'rank')} must have {counted(height, 'row')}, the key's, "
            f"on rank {rank}, got {shards.heights}"
        )
    shards.check(geometry)


def cut(height: int, above: int, below: int, geometry: Geometry) -> tuple[list[range], list[range]]:
    """The rows of a shard in parts: blocks that see own rows only, and those at its edges.

    ``above`` and ``below`` are the rows that come from others. Where every block sees some, all are edge.
    """
    whole = unit(geometry)
    first = -(-geometry.halo // whole) * whole if above else 0
    last = (height - overhang(geometry)) // whole * whole if below else height
    if first >= last:
        return [], [range(height)]
    return [range(first, last)], [part for part in (range(first), range(last, height)) if part]


@dataclass(frozen=True)
class Shard:
    """Own queries, keys and values, and the rows received: (rows b n W d+e), ``above`` of them, then ``below``."""

    query: Tensor
    key: Tensor
    value: Tensor
    received: Tensor
    above: int
    below: int

    def attend(self, compute: Attend, relative: RelativeTables | None, geometry: Geometry, part: range) -> Tensor:
        """The output of the queries that stand on some rows: a strip's, with the rows that they see."""
        stride, height = geometry.stride, self.key.shape[2]
        last_query = (part.stop - 1) // stride * stride
        start = max(part.start - geometry.halo, -self.above)
        end = last_query // geometry.block * geometry.block + geometry.block + geometry.halo
        stop = max(min(end, height + self.below), part.stop)
        query = self.query[:, :, part.start // stride : last_query // stride + 1]
        strip = replace(geometry, above=part.start - start, below=stop - part.stop)
        return compute(query, *self.rows(start, stop), relative, strip)

    def rows(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Keys and values from row ``start`` to ``stop``, counted from the first own one: views where all are own."""
        height = self.key.shape[2]
        own = slice(max(start, 0), min(stop, height))
        if start >= 0 and stop <= height:
            return self.key[:, :, own], self.value[:, :, own]
        received = self.received.permute(1, 2, 0, 3, 4)  # [b n rows W d+e]
        first, last = received[:, :, self.above + min(start, 0) : self.above], received[:, :, self.above :]
        last = last[:, :, : max(stop - height, 0)]
        dims = self.key.shape[-1], self.value.shape[-1]
        pieces = zip(first.split(dims, -1), (self.key, self.value), last.split(dims, -1), strict=True)
        key, value = (torch.cat((before, mine[:, :, own], after), 2) for before, mine, after in pieces)
        return key, value


def stacked(outputs: list[Tensor]) -> Tensor:
    """Parts of a map above one another, channels-last in memory: (b n rows W e)."""
    if len(outputs) == 1:
        return outputs[0]
    return torch.cat([output.permute(0, 2, 3, 1, 4) for output in outputs], 1).permute(0, 3, 1, 2, 4)


def nothing(query: Tensor, key: Tensor, value: Tensor, relative: RelativeTables | None) -> Tensor:
    """The output of no rows, of which everything has a gradient: zeros."""
    tensors = query, key, value, *(relative or ())
    reached = torch.stack([tensor.sum() for tensor in tensors]).sum()
    return query.new_empty(*query.shape[:-1], value.shape[-1]) * reached
