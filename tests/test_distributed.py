"""Halo attention on shards: as on the whole map, on one rank to four; and a rank that is lost ends the others."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributed, nn

from halobench import Geometry, LayerSpec, Problem, Unsupported, models
from halobench.attention import oracle
from halobench.attention.layer import AttentionLayer, HaloAttention
from halobench.distributed import RankLost, Shards, attend, shard_map, shard_network
from halobench.distributed.areas import Area
from halobench.distributed.sharded import cut
from halobench.distributed.shards import overhang, routes
from halobench.models.norm import module
from tests import sharded_calls
from tests.ranks import Ranks

COUNTS = (1, 2, 3, 4, 6)
SEEDS = range(24)  # for each number of ranks, on a grid of them


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    with Ranks(max(COUNTS), tmp_path_factory.mktemp("ranks")) as ranks:
        yield ranks


@pytest.fixture(scope="module")
def answers(ranks: Ranks) -> dict[int, list]:
    """For each number of ranks, what every rank found of every problem."""
    return {count: ranks.ask(count, sharded_calls.calls, SEEDS) for count in COUNTS}


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("seed", SEEDS)
def test_as_on_the_whole_map(answers: dict[int, list], count: int, seed: int) -> None:
    """Output and all gradients, by the accuracy rule; those of the tables are the same on all ranks."""
    one = sharded_calls.drawn(seed, count)
    for part in answers[count]:
        assert not isinstance(part, Exception), part
    assert sharded_calls.fault(one, seed, [part[seed] for part in answers[count]]) is None, one


def test_what_is_drawn_is_hard_enough(answers: dict[int, list]) -> None:
    """Among the problems: ranks that hold nothing, halos over several shards and around corners, all parts."""
    every = [(sharded_calls.drawn(seed, count), rank) for count in COUNTS for seed in SEEDS for rank in range(count)]
    geometries = [one.problem.geometry for one, _ in every]
    assert {geometry.border for geometry in geometries} == {"masked", "zero"}
    assert any(geometry.stride > geometry.block for geometry in geometries)
    assert any(1 < geometry.stride <= geometry.block for geometry in geometries)
    known = [(one.shards.of_width(one.problem.width), rank) for one, rank in every]
    assert any(not height for shards, _ in known for height in shards.heights[:-1])
    assert any(not width for shards, _ in known for width in (shards.widths or ())[:-1])
    assert {shards.grid for shards, _ in known} >= {(1, 3), (3, 1), (2, 2), (2, 3), (3, 2)}
    steps = {  # from a rank to those whose pixels it sees, in the grid
        (abs(rank // across - owner // across), abs(rank % across - owner % across))
        for (shards, rank), geometry in zip(known, geometries, strict=True)
        for across in shards.grid[1:]
        for owner, _ in routes(shards, rank, geometry).received
    }
    assert steps >= {(0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (1, 2), (2, 1)}
    parts = {
        tuple(map(len, cut(*routes(shards, rank, geometry)[:2], geometry)))
        for (shards, rank), geometry in zip(known, geometries, strict=True)
    }
    assert parts >= {(0, 1), (1, 0), (1, 1), (1, 2)}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("geometry", [Geometry(2, 1), Geometry(2, 1, stride=2, border="zero")])
def test_an_interior_with_edges_on_three_sides(ranks: Ranks, geometry: Geometry, dtype: str) -> None:
    """That of the middle ranks of 2 x 3, all uneven."""
    problem = Problem(geometry, 13, 15, batch=2, heads=2, dtype=dtype)
    one = sharded_calls.Drawn(problem, Shards((6, 7), (4, 8, 3)), "strided_gather", told=True)
    parts = ranks.ask(6, sharded_calls.call, one, 0)
    assert not [part for part in parts if isinstance(part, Exception)]
    assert sharded_calls.fault(one, 0, parts) is None


@pytest.mark.parametrize("geometry", [Geometry(4, 1), Geometry(3, 4), Geometry(2, 3, stride=4)])
def test_parts_are_the_shard(geometry: Geometry) -> None:
    """Each pixel is in one of them, the interior of which sees no pixel of others."""
    own, frame = Area(range(20), range(24)), Area(range(-geometry.halo, 20 + geometry.halo), range(24 + geometry.halo))
    interior, edges = cut(own, frame, geometry)
    assert (len(interior), len(edges)) == (1, 3)
    pixels = Counter((row, column) for part in (*interior, *edges) for row in part.rows for column in part.columns)
    assert pixels == Counter((row, column) for row in own.rows for column in own.columns)
    for inner, along in zip(interior[0], own, strict=True):
        assert {geometry.seen(pixel, 99).stop <= along.stop for pixel in inner[:: geometry.stride]} == {True}
    assert interior[0].rows.start >= geometry.halo


def test_what_is_sent(ranks: Ranks) -> None:
    """To the next column, the next row and the next corner: keys and values, then as many gradients back."""
    pixel = (4 + 4) * 4
    right, below, corner = (pixels * pixel for pixels in (8 * 3, 3 * 12, 3 * 3))
    answers = ranks.ask(4, sharded_calls.sent, Geometry(4, 3), Shards((8, 4), (12, 8)))
    assert answers[0] == [((1, right), (2, below), (3, corner)), ((1, right), (2, below), (3, corner))]
    back = ((0, corner), (1, 3 * 8 * pixel), (2, 3 * 4 * pixel))
    assert answers[3] == [back, back]


def test_what_a_training_step_sends(ranks: Ranks) -> None:
    """Two sums a normalisation, one a convolution, one for the tables of a layer, and one for the mean.

    Halos of what mixes pixels: attention, and convolutions and pooling wider than a pixel. The image has no gradient.
    """
    model = models.create("halonet_mini", "sdpa", 10)
    sought = AttentionLayer, nn.BatchNorm2d, nn.Conv2d, nn.MaxPool2d
    layers, norms, convolutions, poolings = (sum(isinstance(part, kind) for part in model.modules()) for kind in sought)
    wide = sum(isinstance(part, nn.Conv2d) and max(part.kernel_size) > 1 for part in model.modules())
    halos = layers + wide + poolings
    for forward, backward in ranks.ask(2, sharded_calls.sent_in_training, Shards((128, 128))):
        assert (sum(forward), forward.count(False)) == (norms + 1, halos)
        assert (sum(backward), backward.count(False)) == (norms + convolutions + layers, halos - 1)


def test_a_normalisation_puts_statistics_together_in_eight_launches(ranks: Ranks) -> None:
    """What exchanges them adds eight operators forward, and none backward."""
    for with_messages, without in ranks.ask(2, sharded_calls.written_by_normalisation, Shards((8, 4))):
        assert with_messages == (without[0] + 8, without[1])


@pytest.mark.parametrize("shards", [Shards((128, 128)), Shards((128, 128, 128)), Shards((128, 128), (128, 128))])
def test_a_map_is_copied_once(ranks: Ranks, shards: Shards) -> None:
    """Forward the output; backward the gradients of queries, keys and values. The rest is as small as the edges.

    A grid's are two copies, of the rows of parts and of the parts in a row.
    """
    rows_alone, inner = shards.widths is None, 1
    forward, backward = ranks.ask(shards.ranks, sharded_calls.copied, shards)[inner]
    copies = 1 if rows_alone else 2
    assert copies < forward < copies + 1
    assert 2 + copies < backward < 2 + copies + 1


@pytest.mark.parametrize("grid", [(2, 1), (1, 2), (2, 2)])
def test_without_exchange_the_edges_are_wrong_and_the_interior_is_not(ranks: Ranks, grid: tuple[int, int]) -> None:
    """For measuring: zeros take the place of others' pixels, and nothing is waited for."""
    problem = Problem(Geometry(2, 1), 8, 8, dtype="float64")
    shards = shard_map(8, grid, problem.geometry, 8)
    one, count = sharded_calls.Drawn(problem, shards, "strided_gather", told=True), shards.ranks
    right, wrong = (
        sharded_calls.together([{"output": part["output"]} for part in parts], shards, set())["output"]
        for parts in (ranks.ask(count, sharded_calls.call, one, 0), ranks.ask(count, sharded_calls.unexchanged, one, 0))
    )
    edge = torch.tensor([False, False, True, True, True, True, False, False])
    none = torch.zeros_like(edge)
    rows, columns = (edge if number > 1 else none for number in grid)
    assert torch.equal((right != wrong).any(-1).any(0).any(0), rows[:, None] | columns)


def test_corners(ranks: Ranks) -> None:
    """The last query of the first of 2 x 3 ranks sees pixels of all others, its halo beyond one of two columns."""
    shards, wanted = Shards((4, 4), (4, 2, 4)), np.zeros((8, 10), bool)
    wanted[0:7, 0:7] = True  # from the last block's corner (2, 2), block 2 and halo 3
    parts = ranks.ask(6, sharded_calls.corner, Geometry(2, 3), shards)
    found = sharded_calls.together([{"seen": part[None, None]} for part in parts], shards, set())["seen"]
    np.testing.assert_array_equal(found[0, 0], wanted)


LAYERS = {
    "split": LayerSpec(6, 2, 4, 4, Geometry(2, 1)),
    "downsampling": LayerSpec(6, 2, 4, 6, Geometry(4, 5, stride=2, border="zero"), positions="sum"),
    "no_positions": LayerSpec(6, 1, 4, 4, Geometry(3, 2), positions=None),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("grid", [(2, 1), (4, 1), (2, 2)])
def test_layer(ranks: Ranks, name: str, grid: tuple[int, int]) -> None:
    """The whole layer's weights, the whole map's output, and gradients of both; of four rows of ranks one has none."""
    spec = LAYERS[name]
    pixels, state = torch.randn(2, 6, 3 * spec.geometry.block - 1, 5, dtype=torch.float64), None
    shards = shard_map(pixels.shape[2], grid, spec.geometry, 5)
    whole = sharded_calls.whole_layer(spec, pixels, oracle.attend)
    leaf = pixels.clone().requires_grad_()
    output = whole(leaf)
    cotangent = torch.randn_like(output)
    output.backward(cotangent)
    state = whole.state_dict()
    parts = ranks.ask(shards.ranks, sharded_calls.layer, spec, shards, pixels, cotangent, state)
    assert not [part for part in parts if isinstance(part, Exception)]
    weights = {name: weight.grad for name, weight in whole.named_parameters()}
    found = sharded_calls.together(parts, shards, set(weights))
    for one, wanted in {"output": output.detach(), "map": leaf.grad, **weights}.items():
        torch.testing.assert_close(found[one], wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("grid", [(2, 1), (4, 1), (1, 2)])
def test_projections_that_are_more_than_a_weight(ranks: Ranks, grid: tuple[int, int]) -> None:
    """Adapters, hooks and biases act as in a layer of the whole map, also on a rank that has no pixels."""
    spec = LAYERS["downsampling"]
    pixels = torch.randn(2, 6, 3 * spec.geometry.block - 1, 5, dtype=torch.float64)
    shards = shard_map(pixels.shape[2], grid, spec.geometry, 5)
    whole = sharded_calls.dressed(HaloAttention(spec, oracle.attend).double())
    torch.nn.init.normal_(whole.value.bias)
    output = whole(pixels)
    output.square().sum().backward()
    weights = {name: weight.grad for name, weight in whole.named_parameters()}
    parts = ranks.ask(shards.ranks, sharded_calls.dressed_layer, spec, shards, pixels, whole.state_dict())
    assert not [part for part in parts if isinstance(part, Exception)]
    found = sharded_calls.together(parts, shards, set(weights))
    for one, wanted in {"output": output.detach(), **weights}.items():
        torch.testing.assert_close(found[one], wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("overrides", "shards"),
    [
        ({}, Shards((128, 128))),
        ({}, Shards((128, 128, 117))),
        ({"border": "zero"}, Shards((128, 122))),
        ({}, Shards((128, 69), (128, 75))),
    ],
)
def test_network(ranks: Ranks, overrides: dict, shards: Shards) -> None:
    """The logits of the whole image on every rank; the last rank's part may end anywhere."""
    model = sharded_calls.unlike_itself(models.create("halonet_mini", "sdpa", 10, **overrides).double())
    image = torch.randn(1, 3, shards.height, sum(shards.widths or (72,)), dtype=torch.float64)
    with torch.no_grad():
        whole = model.eval()(image).numpy()
    asked = "halonet_mini", overrides, image, model.state_dict(), shards
    for answer in ranks.ask(shards.ranks, sharded_calls.network, *asked):
        np.testing.assert_allclose(answer, whole, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"squeeze_excitation": "all"}, "stages.0.0.squeeze, a SEModule,"),
        ({"convolution_stages": (1,)}, "stages.0.0.layer, a Convolution,"),
        ({"stem": "patch"}, "stem.0, a WholePatches,"),
    ],
)
def test_networks_that_are_not_sharded(overrides: dict, named: str) -> None:
    """By the name of what may mix pixels; the network is then as it was."""
    model = models.create("halonet_mini", "sdpa", 10, **overrides)
    with pytest.raises(Unsupported, match=f"{named} may mix pixels in a way that is not sharded"):
        shard_network(model, Alone(), backend="sdpa")
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 10)


TRAINING = {
    "one_rank": ({}, Shards((256,)), 2),
    "uneven": ({}, Shards((128, 256)), 1),
    "image_that_ends_anywhere": ({"border": "zero"}, Shards((128, 256, 117)), 2),
    "four": ({}, Shards((128, 128, 128, 60)), 1),
    "rows_and_columns": ({"border": "zero"}, Shards((128, 45), (128, 61)), 2),
    "projected_again": ({"recompute_projections": True}, Shards((128, 100)), 1),
    "computed_again": ({}, Shards((128, 100)), 1),
}


@pytest.mark.parametrize("name", TRAINING)
def test_training_step_of_a_network(ranks: Ranks, name: str) -> None:
    """Loss, logits, all gradients and the running statistics after two steps, as on the whole image."""
    overrides, shards, batch = TRAINING[name]
    again = name == "computed_again"
    torch.manual_seed(0)
    model = sharded_calls.unlike_itself(models.create("halonet_mini", "sdpa", 10, **overrides).double())
    images = 2 + 3 * torch.randn(batch, 3, shards.height, sum(shards.widths or (40,)), dtype=torch.float64)
    targets = torch.arange(batch)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.set_grad_checkpointing(again)  # statistics then move twice, here as there
    whole = sharded_calls.stepped(model, images, targets)
    parts = ranks.ask(shards.ranks, sharded_calls.training, overrides, images, targets, state, shards, again)
    sharded_calls.assert_alike(parts, whole, shards)


def test_two_images_before_their_gradients(ranks: Ranks) -> None:
    """Of different heights: each backward pass knows its own image, also where it computes blocks again.

    Of the first the last rank has 16 rows, which are one row of both last maps.
    """
    torch.manual_seed(0)
    model = sharded_calls.unlike_itself(models.create("halonet_mini", "sdpa", 10).double())
    images = tuple(torch.randn(1, 3, height, 33, dtype=torch.float64) for height in (144, 192))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    whole = sharded_calls.gradients_of(model, list(images))
    for again in (False, True):
        parts = ranks.ask(2, sharded_calls.before_any_backward, images, state, again)
        sharded_calls.assert_alike(parts, whole, Shards((0, 0)))


def test_a_network_that_is_changed_after_it_was_sharded(ranks: Ranks) -> None:
    """A copy, with weights that were assigned and a new head, called method by method."""
    torch.manual_seed(0)
    model = sharded_calls.unlike_itself(models.create("halonet_mini", "sdpa", 10).double()).eval()
    images, shards = torch.randn(1, 3, 177, 33, dtype=torch.float64), Shards((128, 49))
    parts = ranks.ask(2, sharded_calls.changed_network, images, model.state_dict(), shards)
    sharded_calls.assert_alike(parts, sharded_calls.by_parts(model.train(), images), shards)


def test_training_step_under_autocast(ranks: Ranks) -> None:
    """No further from the truth than twice what the unsharded network is: statistics and sums stay in float32."""
    torch.manual_seed(0)
    model = sharded_calls.unlike_itself(models.create("halonet_mini", "sdpa", 10))
    images, targets = torch.randn(1, 3, 228, 40), torch.tensor([1])
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plain = sharded_calls.stepped(model, images, targets, autocast=True)
    model.load_state_dict(state)
    truth = sharded_calls.stepped(model.double(), images.double(), targets)
    shards = Shards((128, 100))
    parts = ranks.ask(2, sharded_calls.training, {}, images, targets, state, shards, False, True)
    found = sharded_calls.together(parts, shards, set(truth) - {"images"})
    for kind in ("running_mean", "running_var", "gradient of"):
        names = [name for name in truth if kind in name]
        off, allowed = (
            sum(float(np.linalg.norm(each[name] - truth[name]) / np.linalg.norm(truth[name])) for name in names)
            for each in ({name: found[name].numpy() for name in names}, plain)
        )
        assert off <= 2 * allowed, kind


def test_a_compiled_step_keeps_the_statistics_of_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator of compiled steps, which sees one rank's rows, does not take a sharded normalisation's place."""
    monkeypatch.setattr(module, "serves", lambda *_: True)
    model = models.create("halonet_mini", "sdpa", 10)
    assert module.fuses(model.stem.parts(), torch.zeros(1), None)
    shard_network(model, Alone(), backend="sdpa")
    assert not module.fuses(model.stem.parts(), torch.zeros(1), None)


def test_dropout_is_not_sharded() -> None:
    """Each rank would drop other channels of the same mean."""
    model = models.create("halonet_mini", "sdpa", 10, drop_rate=0.1)
    shard_network(model, Alone(), backend="sdpa")
    with pytest.raises(Unsupported, match=r"dropout .* would differ on each rank, got drop_rate 0.1"):
        model(torch.zeros(2, 3, 64, 64))


def test_maps_that_are_not_told_apart_are_not_sharded() -> None:
    model = models.create("halonet_mini", "sdpa", 10)
    shard_network(model, Alone(), backend="sdpa", shards=Shards((128, 16), (16,)))
    with pytest.raises(Unsupported, match=r"every rank needs more than 16 rows of an image, or as many columns, got "):
        model(torch.zeros(2, 3, 128, 16))


class Alone:
    """A group of one, that nobody asks."""

    def rank(self) -> int:
        return 0


@pytest.mark.fault
@pytest.mark.parametrize("way", ["forward", "backward"])
def test_a_rank_that_lags_ends_the_others_and_is_named(ranks: Ranks, way: str, tmp_path: Path) -> None:
    """Rank 3 waits for rank 2, which waits for rank 1: all name rank 1."""
    answers = ranks.ask(4, sharded_calls.lagging, 1.0, 1, tmp_path, way)
    for rank in (0, 2, 3):
        assert isinstance(answers[rank], RankLost), answers[rank]
        assert answers[rank].ranks == [1]
    assert str(answers[1]).endswith("the others had given up")


@pytest.mark.parametrize(
    ("height", "count", "geometry", "heights"),
    [
        (20, 3, Geometry(4, 1), (8, 8, 4)),
        (21, 3, Geometry(4, 1), (8, 8, 5)),
        (5, 4, Geometry(4, 1), (4, 1, 0, 0)),
        (12, 2, Geometry(2, 1, stride=4), (8, 4)),
        (13, 2, Geometry(3, 1, stride=2), (12, 1)),
    ],
)
def test_shards_are_whole_units(height: int, count: int, geometry: Geometry, heights: tuple[int, ...]) -> None:
    """As even as blocks allow; what is left over goes to the first ranks, and the last row to the last with rows."""
    for shards in (shard_map(height, count, geometry).of_width(7), shard_map(height, (count, 1), geometry, 7)):
        assert shards == Shards(heights, (7,))
        assert [row for rank in range(count) for row in shards.area(rank).rows] == list(range(height))
        shards.check(geometry)
    columns = shard_map(7, (1, count), geometry, height)
    assert columns == Shards((7,), heights)
    columns.check(geometry)


def test_a_halo_may_span_shards() -> None:
    """From the first row to the last, by owner; what one receives, the other sends."""
    shards, geometry = Shards((2, 0, 2, 4, 2), (6,)), Geometry(2, 3)
    wanted = [(0, range(-3, -2)), (2, range(-2, 0)), (4, range(4, 6))]
    assert routes(shards, 3, geometry).received == tuple((owner, (rows, range(6))) for owner, rows in wanted)
    assert routes(shards, 1, geometry)[2:] == ((), ())
    for one in (shards, Shards((4, 6), (0, 2, 1))):
        every = [routes(one, rank, geometry) for rank in range(one.ranks)]
        received = {(rank, owner): area.pixels for rank, each in enumerate(every) for owner, area in each.received}
        sent = {(rank, owner): area.pixels for owner, each in enumerate(every) for rank, area in each.sent}
        assert received == sent != {}


@pytest.mark.parametrize(
    "geometry", [Geometry(4, 1), Geometry(2, 1, stride=5), Geometry(1, 2, stride=6), Geometry(5, 2, 2)]
)
def test_rows_seen_behind_a_unit(geometry: Geometry) -> None:
    """Counted: the furthest key of any query before row 60, where units end."""
    furthest = max(geometry.seen(pixel, 1000).stop for pixel in range(0, 60, geometry.stride))
    assert overhang(geometry) == furthest - 60


def test_bad_input_is_one_error() -> None:
    """Each names what was given and what was expected."""
    with pytest.raises(ValueError, match=r"ranks must be at least 1, got 0"):
        shard_map(8, 0, Geometry(4, 1))
    with pytest.raises(ValueError, match=r"ranks must be at least 1, got 0"):
        shard_map(8, (2, 0), Geometry(4, 1), 8)
    with pytest.raises(ValueError, match=r"width must be at least 1, got 0"):
        shard_map(8, 2, Geometry(4, 1), 0)
    with pytest.raises(ValueError, match=r"the map's width must be given where 2 x 3 ranks split it"):
        shard_map(8, (2, 3), Geometry(4, 1))
    with pytest.raises(ValueError, match=r"every 4 rows for block 4 and stride 1, got 6 rows in place 0 of \(6, 2\)"):
        Shards((6, 2)).check(Geometry(4, 1))
    with pytest.raises(ValueError, match=r"every 4 columns for .*, got 5 columns in place 1 of \(4, 5, 0, 1\)"):
        Shards((8,), (4, 5, 0, 1)).check(Geometry(4, 1))
    with pytest.raises(ValueError, match=r"above must be an integer >= 0, got -1"):
        Geometry(4, 1, above=-1)


@pytest.mark.parametrize(
    ("group", "said"),
    [(None, "got None before init_process_group"), (distributed.GroupMember.NON_GROUP_MEMBER, "who are not in it")],
)
def test_a_group_that_is_none_of_this_process(group: Any, said: str) -> None:
    pixels = torch.zeros(1, 1, 4, 4, 4)
    with pytest.raises(ValueError, match=said):
        attend(pixels, pixels, pixels, None, Geometry(4, 1), group, backend="sdpa")
    with pytest.raises(ValueError, match=said):
        shard_network(models.create("halonet_mini", "sdpa", 10), group, backend="sdpa")


@pytest.mark.parametrize(
    ("count", "backend", "shards", "geometry", "message"),
    [
        (
            1,
            "sdpa",
            Shards((4, 4)),
            Geometry(4, 1),
            r"of 1 rank must have 8 x 8 pixels, .* got Shards\(heights=\(4, 4\)",
        ),
        (2, "sdpa", Shards((4, 4)), Geometry(4, 1), r"must have 8 x 8 pixels, the key's, on rank ., got Shards"),
        (2, "sdpa", Shards((8,), (4, 4)), Geometry(4, 1), r"must have 8 x 8 pixels, .* widths=\(4, 4\)"),
        (2, "sdpa", Shards((8, 8)), Geometry(4, 1, below=0, above=4), "no pixels beyond it"),
        (2, "nobody", Shards((8, 8)), Geometry(4, 1), "no backend is called 'nobody'"),
        (2, "global_sa", Shards((8, 8)), Geometry(4, 1), "global_sa knows no strips"),
        (2, "global_sa", Shards((8,), (8, 8)), Geometry(4, 1), "global_sa knows no strips"),
    ],
)
def test_errors_of_a_call(
    ranks: Ranks, count: int, backend: str, shards: Shards, geometry: Geometry, message: str
) -> None:
    """On all ranks alike; the next call is as if nothing had happened."""
    for answer in ranks.ask(count, sharded_calls.refused, geometry, shards, backend):
        assert isinstance(answer, Unsupported if "strips" in message else ValueError)
        assert re.search(message, str(answer))
    part, _ = ranks.ask(2, sharded_calls.calls, SEEDS)
    assert not isinstance(part, Exception)


def test_ranks_that_split_columns_are_told_the_shards(ranks: Ranks) -> None:
    """Otherwise a map of some rows seems to be what they hold."""
    for answer in ranks.ask(2, sharded_calls.untold, Geometry(4, 1), Shards((8,), (8, 4))):
        assert isinstance(answer, ValueError)
        assert str(answer).endswith("must be told the shards, got [8, 4] columns and no shards")


@pytest.mark.fault
def test_a_rank_that_dies_ends_the_others_and_is_named(ranks: Ranks) -> None:
    """Its neighbours; rank 0 needs nothing of it. The last test of the ranks: one of them is gone."""
    answers = ranks.ask(4, sharded_calls.dying, 2)
    assert isinstance(answers[2], EOFError)
    assert answers[0] is None
    for rank in (1, 3):
        assert isinstance(answers[rank], RankLost), answers[rank]
        assert str(answers[rank]).endswith("no word from rank 2")
