"""The layer: weights that move between backends, shapes, layout, positions."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from halobench import Geometry, HaloAttention, LayerSpec, RelativeTables, backends, formula
from halobench.attention import oracle
from halobench.attention.layer import RelativePositions

SPEC = LayerSpec(channels=12, heads=2, key_dim=8, value_dim=10, geometry=Geometry(4, 1))
ATTENTION = [name for name in backends.names() if name != "conv"]


@pytest.mark.parametrize("name", ATTENTION)
def test_every_attention_has_the_same_weights(name: str) -> None:
    """The state dict depends on the specification alone, so weights move between backends."""
    expected = {
        "query.weight": (16, 12, 1, 1),
        "key.weight": (16, 12, 1, 1),
        "value.weight": (20, 12, 1, 1),
        "relative.rows": (11, 4),
        "relative.columns": (11, 4),
    }
    layer = backends.load(name).build(SPEC)
    assert {key: tuple(tensor.shape) for key, tensor in layer.state_dict().items()} == expected


@pytest.mark.parametrize("name", ["naive_unfold", "sdpa", "strided_gather"])
@pytest.mark.parametrize("positions", ["split", "sum", None])
def test_weights_move_between_backends(name: str, positions: str | None) -> None:
    """With the same weights, every backend's layer computes what the oracle's layer does."""
    spec = replace(SPEC, positions=positions)  # type: ignore[arg-type]
    truth, layer = HaloAttention(spec, oracle.attend).double(), backends.load(name).build(spec).double()
    layer.load_state_dict(truth.state_dict())
    pixels = torch.randn(2, 12, 8, 6, dtype=torch.float64)
    torch.testing.assert_close(layer(pixels), truth(pixels), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", ["conv", "flex", "naive_unfold", "sdpa", "strided_gather"])
@pytest.mark.parametrize(("stride", "side"), [(1, (8, 12)), (2, (4, 6))])
def test_shape_and_layout(name: str, stride: int, side: tuple[int, int]) -> None:
    """Attention downsampling halves the sides; a channels-last map comes out channels-last, without a copy."""
    spec = replace(SPEC, geometry=replace(SPEC.geometry, stride=stride))
    layer = backends.load(name).build(spec).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    pixels = torch.randn(2, 12, 8, 12).to(memory_format=torch.channels_last)
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):  # type: ignore[no-untyped-call]
        output = layer(pixels)
    assert output.shape == (2, 20, *side)
    assert output.is_contiguous(memory_format=torch.channels_last)


def test_downsampling_subsamples() -> None:
    """A strided layer gives every second pixel of the layer without stride: keys and values stay whole."""
    strided = HaloAttention(replace(SPEC, geometry=Geometry(4, 1, stride=2)), formula.attend)
    whole = HaloAttention(SPEC, formula.attend)
    whole.load_state_dict(strided.state_dict())
    pixels = torch.randn(2, 12, 8, 12)
    torch.testing.assert_close(strided(pixels), whole(pixels)[:, :, ::2, ::2], rtol=1e-5, atol=1e-6)


def test_split_positions_meet_one_half_each() -> None:
    """Rows meet the first half of a head's channels and columns the rest; an odd channel goes to the columns."""
    positions = RelativePositions(replace(SPEC, key_dim=7))
    rows, columns = positions(torch.float64)
    assert rows.shape == columns.shape == (11, 7)
    assert rows.dtype == torch.float64
    assert torch.equal(rows[:, :3], positions.rows.double())
    assert torch.equal(columns[:, 3:], positions.columns.double())
    assert not rows[:, 3:].any()
    assert not columns[:, :3].any()


def test_sum_positions_are_full_width() -> None:
    """Both tables are as wide as a head, as the public ports have them."""
    positions = RelativePositions(replace(SPEC, positions="sum"))
    rows, columns = positions(torch.float32)
    assert rows.all()
    assert columns.all()
    assert rows.shape == columns.shape == (11, 8)


def test_no_positions_have_no_weights() -> None:
    """``positions=None`` learns nothing and hands over ``None``."""
    given: list[RelativeTables | None] = []

    def attend(
        query: Tensor, key: Tensor, value: Tensor, relative: RelativeTables | None, geometry: Geometry
    ) -> Tensor:
        given.append(relative)
        return formula.attend(query, key, value, relative, geometry)

    layer = HaloAttention(replace(SPEC, positions=None), attend)
    layer(torch.randn(1, 12, 4, 4))
    assert given == [None]
    assert layer.state_dict().keys() == {"query.weight", "key.weight", "value.weight"}


def test_tables_follow_the_projections_dtype() -> None:
    """Under autocast the tables are as narrow as the queries."""
    layer = HaloAttention(SPEC, backends.load("strided_gather").attend or formula.attend)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(1, 12, 4, 4)).dtype == torch.bfloat16


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (6, 1), (6, 2), (1, 2)])
def test_convolution_keeps_the_centre(kernel: int, stride: int) -> None:
    """Of any kernel, an output pixel on a map divides as an attention's does; a delta stays on its pixel."""
    spec = replace(SPEC, kernel=kernel, geometry=Geometry(4, 1, stride=stride))
    layer = backends.load("conv").build(spec)
    weight = next(layer.parameters())
    torch.nn.init.zeros_(weight)
    centre = (kernel - 1) // 2
    with torch.no_grad():
        weight[0, 0, centre, centre] = 1
    pixels = torch.randn(1, 12, 8, 12)
    output = layer(pixels)
    assert output.shape == (1, 20, 8 // stride, 12 // stride)
    assert torch.equal(output[:, 0], pixels[:, 0, ::stride, ::stride])
    assert not output[:, 1:].any()


def test_print_shows_the_specification() -> None:
    """``print(layer)`` tells block and halo."""
    assert "Geometry(block=4, halo=1" in str(HaloAttention(SPEC, formula.attend))
