"""Halo attention on shards: the interior while halo pixels travel, then the blocks that see them.

    +-----------------+
    |        B        |    A: the blocks that see own pixels only
    +---+---------+---+    B and C: those that see pixels of the ranks above or below
    | D |    A    | E |    D and E: of the others, those that see pixels of the ranks at the left or at the right
    +---+---------+---+
    |        C        |
    +-----------------+

Each of them is a call of the backend, on a strip: its keys and values are the pixels that its queries see, and no pair
is scored that belongs to another rank.
"""

from dataclasses import replace

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from halobench.attention import backends
from halobench.attention.geometry import Geometry
from halobench.attention.problem import RelativeTables, check_inputs
from halobench.distributed.areas import Area, Parted, joined
from halobench.distributed.exchange import Arrive, Depart, Exchange
from halobench.distributed.messages import group_of, sum_over
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
    """Halo attention of this rank's pixels of a map that the group holds.

    Every rank calls it with its pixels: query (b n h/s w/s d), key (b n h w d), value (b n h w e), tables
    (2 * window - 1, d); the result is (b n h/s w/s e). ``h`` and ``w`` may be 0. The gradients of keys and values are
    those of the whole map. Those of the tables are summed over the group, which must not be done again, nor averaged.

    ``group`` is the default one if ``None``. ``shards`` says what all ranks hold; without it each holds whole rows, and
    they ask one another for how many at each call, which waits for the device. ``exchanged=False`` computes with zeros
    in place of other ranks' pixels, and sums no gradients: wrong, for measuring what the exchange costs.

    Raises:
        ValueError: the arguments do not fit one another, the group or the shards.
        Unsupported: the backend refuses them, or knows no strips.
        RankLost: another rank did not answer within the group's time-out.
    """
    compute, group = backends.operator(backend), group_of(group)
    check_inputs(query, key, value, relative, geometry)
    shards = (shards or asked(key, group)).of_width(key.shape[3])
    check_shard(key, geometry, group, shards)
    if relative is not None and exchanged:
        relative = RelativeTables(*replicated(group, *relative))
    if 0 in key.shape[2:4]:
        return nothing(query, key, value, relative)
    exchange, stride = Exchange(shards, geometry, group, travels=exchanged), geometry.stride
    own, frame = exchange.routes[:2]
    interior, edges = cut(own, frame, geometry)
    places = [asking(part, stride) for part in (*interior, *edges)]
    queries = Parted.apply(query, places)
    strips = [(part, own) for part in interior] + [(part, visible(part, frame, geometry)) for part in edges]

    def computed(number: int, key: Tensor, value: Tensor) -> Tensor:
        return compute(queries[number], key, value, relative, strip(geometry, *strips[number]))

    key, value, departed = Depart.apply(exchange, bool(interior), key, value)
    try:
        outputs = [computed(number, key, value) for number in range(len(interior))]
    finally:  # also where the backend refuses: no message is left for the next call
        seen = Arrive.apply(exchange, [around for _, around in strips[len(interior) :]], departed)
    for pair in zip(seen[::2], seen[1::2], strict=True):
        outputs.append(computed(len(outputs), *pair))
    return joined(asking(own, stride), zip(places, outputs, strict=True))


def asked(key: Tensor, group: ProcessGroup) -> Shards:
    """What all ranks hold, from each of them, which must not split columns: ranks cannot see what grid they stand in.

    Raises:
        ValueError: they hold different numbers of columns.
    """
    sizes = torch.zeros(group.size(), 2, dtype=torch.int64, device=key.device)
    sizes[group.rank(), 0], sizes[group.rank(), 1] = key.shape[2:4]
    heights, widths = sum_over(group, sizes, "the sizes of shards").T.tolist()
    if len(set(widths)) > 1:
        raise ValueError(f"ranks that split columns must be told the shards, got {widths} columns and no shards")
    return Shards(tuple(heights))


def check_shard(key: Tensor, geometry: Geometry, group: ProcessGroup, shards: Shards) -> None:
    """Raise ``ValueError`` where this rank's keys are not what the shards say, or the shards no strips."""
    if geometry.strip:
        raise ValueError(f"a sharded map has no pixels beyond it, got {geometry}")
    rank, (height, width) = group.rank(), key.shape[2:4]
    if shards.ranks != group.size() or shards.size(rank) != (height, width):
        raise ValueError(
            f"the shards of {counted(group.size(), 'rank')} must have {height} x {width} pixels, the key's, "
            f"on rank {rank}, got {shards}"
        )
    shards.check(geometry)


def cut(own: Area, frame: Area, geometry: Geometry) -> tuple[list[Area], list[Area]]:
    """A shard in parts: the blocks that see own pixels only, and those at its edges.

    Where every block sees pixels of others, all are edge.
    """
    rows, columns = (inner(*axis, geometry) for axis in zip(own, frame, strict=True))
    if not (rows and columns):
        return [], [own]
    above, below = range(rows.start), range(rows.stop, own.rows.stop)
    left, right = range(columns.start), range(columns.stop, own.columns.stop)
    edges = [Area(part, own.columns) for part in (above, below)] + [Area(rows, part) for part in (left, right)]
    return [Area(rows, columns)], [edge for edge in edges if edge.pixels]


def inner(own: range, frame: range, geometry: Geometry) -> range:
    """Along an axis, the blocks of a shard that see nothing of others; there may be none."""
    whole = unit(geometry)
    first = -(-geometry.halo // whole) * whole if frame.start < own.start else 0
    last = (own.stop - overhang(geometry)) // whole * whole if frame.stop > own.stop else own.stop
    return range(first, last)


def visible(part: Area, frame: Area, geometry: Geometry) -> Area:
    """What of the frame the queries on a part see, and the part."""
    return Area(*(along(*axis, geometry) for axis in zip(part, frame, strict=True)))


def along(part: range, frame: range, geometry: Geometry) -> range:
    """The same along an axis."""
    last_query = (part.stop - 1) // geometry.stride * geometry.stride
    end = geometry.seen(last_query, frame.stop).stop
    return range(max(part.start - geometry.halo, frame.start), max(end, part.stop))


def strip(geometry: Geometry, part: Area, seen: Area) -> Geometry:
    """That of the queries on a part, whose keys and values are those of what is seen."""
    return replace(
        geometry,
        above=part.rows.start - seen.rows.start,
        below=seen.rows.stop - part.rows.stop,
        left=part.columns.start - seen.columns.start,
        right=seen.columns.stop - part.columns.stop,
    )


def asking(pixels: Area, stride: int) -> Area:
    """The queries that stand on some pixels, the first of which has one."""
    return Area(*(range(along.start // stride, -(-along.stop // stride)) for along in pixels))


def nothing(query: Tensor, key: Tensor, value: Tensor, relative: RelativeTables | None) -> Tensor:
    """The output of no pixels, of which everything has a gradient: zeros."""
    tensors = query, key, value, *(relative or ())
    reached = torch.stack([tensor.sum() for tensor in tensors]).sum()
    return query.new_empty(*query.shape[:-1], value.shape[-1]) * reached
