"""Geometry: the integers that say which keys a query sees."""

import itertools

import pytest

from halobench import Geometry


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"block": 0, "halo": 1}, "block must be an integer >= 1, got 0"),
        ({"block": 8, "halo": -1}, "halo must be an integer >= 0, got -1"),
        ({"block": 8, "halo": 1, "stride": 0}, "stride must be an integer >= 1, got 0"),
        ({"block": 8.0, "halo": 1}, "block must be an integer >= 1, got 8.0"),
        ({"block": True, "halo": 1}, "block must be an integer >= 1, got True"),
        ({"block": "8", "halo": 1}, "block must be an integer >= 1, got '8'"),
        ({"block": 8, "halo": 1, "border": "wrap"}, r"border must be one of \('masked', 'zero'\), got 'wrap'"),
    ],
)
def test_bad_fields_are_named(fields: dict[str, object], message: str) -> None:
    """The message names the field, what it expects, and the value."""
    with pytest.raises(ValueError, match=message):
        Geometry(**fields)  # type: ignore[arg-type]


def test_window_of_the_published_models() -> None:
    """Windows of H0 (8, 3), H4 (12, 2) and H5 (14, 2)."""
    assert [Geometry(block, halo).window for block, halo in ((8, 3), (12, 2), (14, 2))] == [14, 16, 18]


@pytest.mark.parametrize(
    ("block", "stride", "side", "step", "tiles"),
    [(8, 1, 8, 8, True), (8, 2, 4, 8, True), (1, 2, 1, 2, True), (2, 4, 1, 4, True), (5, 2, 2, 5, False)],
)
def test_blocks_of_queries(block: int, stride: int, side: int, step: int, tiles: bool) -> None:
    """Queries along a block, the distance between blocks with queries, and whether all blocks hold as many."""
    geometry = Geometry(block, 1, stride)
    assert geometry.tiles is tiles
    assert geometry.step == step
    assert not tiles or geometry.side == side


@pytest.mark.parametrize(("size", "count"), [(1, 1), (8, 1), (9, 2), (16, 2), (17, 3)])
def test_last_block_may_be_partial(size: int, count: int) -> None:
    """An axis has as many blocks as it takes to cover it."""
    assert Geometry(8, 3).blocks(size) == count


def test_seen_is_clipped_to_the_image() -> None:
    """All queries of a block see the block and its halo, as far as there are pixels."""
    geometry = Geometry(4, 1)
    assert geometry.seen(0, 10) == geometry.seen(3, 10) == range(5)
    assert geometry.seen(4, 10) == range(3, 9)
    assert geometry.seen(9, 10) == range(7, 10)


@pytest.mark.parametrize(
    ("block", "halo", "stride", "height", "width"),
    [(4, 1, 1, 10, 7), (1, 3, 1, 5, 5), (4, 1, 2, 8, 6), (16, 2, 1, 5, 6), (2, 1, 4, 8, 4), (5, 2, 2, 10, 4)],
)
def test_visible_pairs_is_a_count(block: int, halo: int, stride: int, height: int, width: int) -> None:
    """The closed form equals the number of (query, key) pairs that the definition allows, counted one by one."""

    def sees(query: int, key: int) -> bool:
        corner = query - query % block
        return corner - halo <= key < corner + block + halo

    count = sum(
        sees(i, a) and sees(j, b)
        for i, j in itertools.product(range(0, height, stride), range(0, width, stride))
        for a, b in itertools.product(range(height), range(width))
    )
    assert Geometry(block, halo, stride).visible_pairs(height, width) == count
