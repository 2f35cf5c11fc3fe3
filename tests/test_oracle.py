"""Properties that make the oracle the truth, and a check by loops that shares no code with it."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from halobench import Geometry, Problem, RelativeTables
from halobench.attention import oracle
from halobench.attention.problem import Inputs
from tests.cases import CASES

SMALL = {
    "partial": Problem(Geometry(3, 1), 5, 4, heads=2, key_dim=3, value_dim=2, dtype="float64"),
    "sasa": Problem(Geometry(1, 1), 3, 4, key_dim=2, value_dim=3, dtype="float64"),
    "stride": Problem(Geometry(4, 1, stride=2), 6, 4, batch=2, key_dim=3, value_dim=2, dtype="float64"),
    "stride_of_uneven_blocks": Problem(Geometry(3, 1, stride=2), 6, 8, key_dim=2, value_dim=2, dtype="float64"),
    "no_positions": Problem(Geometry(2, 2), 3, 5, key_dim=3, value_dim=2, relative=False, dtype="float64"),
}


def bordered(problem: Problem, border: str) -> Problem:
    """The problem under a border."""
    return replace(problem, geometry=replace(problem.geometry, border=border))  # type: ignore[arg-type]


def logits(inputs: Inputs, geometry: Geometry, batch: int, head: int, y: int, x: int) -> dict[tuple[int, int], float]:
    """The logit of one query for every pixel of its window, those outside the image with a key of zero."""
    query = inputs.query[batch, head, y, x].tolist()
    height, width = inputs.key.shape[2:4]
    i, j = y * geometry.stride, x * geometry.stride
    top, left = i // geometry.block * geometry.block, j // geometry.block * geometry.block
    found = {}
    for a in range(top - geometry.halo, top + geometry.block + geometry.halo):
        for b in range(left - geometry.halo, left + geometry.block + geometry.halo):
            inside = 0 <= a < height and 0 <= b < width
            key = inputs.key[batch, head, a, b].tolist() if inside else [0.0] * len(query)
            if inputs.relative is not None:
                row = inputs.relative.rows[a - i + geometry.window - 1].tolist()
                column = inputs.relative.columns[b - j + geometry.window - 1].tolist()
                key = [sum(parts) for parts in zip(key, row, column, strict=True)]
            found[a, b] = sum(p * q for p, q in zip(query, key, strict=True)) / math.sqrt(len(query))
    return found


@pytest.mark.parametrize("border", ["masked", "zero"])
@pytest.mark.parametrize("name", SMALL)
def test_loops_agree(name: str, border: str) -> None:
    """The definition, written with Python's numbers and loops, gives the oracle's output."""
    problem = bordered(SMALL[name], border)
    inputs, geometry = problem.inputs(), problem.geometry
    output = oracle.attend(*inputs, geometry)
    inside = set(itertools.product(range(problem.height), range(problem.width)))
    for place in itertools.product(*map(range, output.shape[:4])):
        batch, head = place[:2]
        weights = {pixel: math.exp(logit) for pixel, logit in logits(inputs, geometry, *place).items()}
        total = sum(weight for pixel, weight in weights.items() if border == "zero" or pixel in inside)
        for channel in range(problem.value_dim):
            expected = sum(
                weight * inputs.value[batch, head, *pixel, channel].item()
                for pixel, weight in weights.items()
                if pixel in inside
            )
            assert output[*place, channel].item() == pytest.approx(expected / total, rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("name", [name for name in CASES if name != "batch_0"])
def test_constant_values_come_back(name: str) -> None:
    """Where only real keys count, weights sum to one: a constant value map is returned as it is."""
    query, key, value, relative = CASES[name].inputs()
    value = torch.full_like(value, 0.625)
    output = oracle.attend(query, key, value, relative, CASES[name].geometry)
    torch.testing.assert_close(output, torch.full_like(output, 0.625), rtol=1e-14, atol=0)


def test_one_block_is_plain_attention() -> None:
    """A block over the whole image without positions is softmax(q k^T / sqrt(d)) v over all pixels."""
    query, key, value, _ = Problem(Geometry(8, 2), 7, 8, batch=2, heads=2, relative=False, dtype="float64").inputs()
    flat = [tokens.flatten(2, 3) for tokens in (query, key, value)]
    weights = (flat[0] @ flat[1].mT / math.sqrt(16)).softmax(-1)
    output = oracle.attend(query, key, value, None, Geometry(8, 2)).flatten(2, 3)
    torch.testing.assert_close(output, weights @ flat[2], rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("name", ["partial_blocks", "sasa", "stride_2", "halo_beyond_block"])
def test_query_of_zero_gives_the_mean_of_the_window(name: str) -> None:
    """Without a query all logits are equal, positions too: the output is the mean over the visible window."""
    problem = CASES[name]
    query, key, value, relative = problem.inputs()
    output = oracle.attend(torch.zeros_like(query), key, value, relative, problem.geometry)
    for y, x in itertools.product(*map(range, output.shape[2:4])):
        rows = problem.geometry.seen(y * problem.geometry.stride, problem.height)
        columns = problem.geometry.seen(x * problem.geometry.stride, problem.width)
        window = value.double()[:, :, rows.start : rows.stop, columns.start : columns.stop]
        torch.testing.assert_close(output[:, :, y, x], window.mean((2, 3)), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("border", ["masked", "zero"])
@pytest.mark.parametrize("name", ["partial_blocks", "sasa", "stride_2"])
def test_a_key_changes_those_who_see_it_and_no_others(name: str, border: str) -> None:
    """Changing one pixel's key and value leaves every query that does not see it as it was, bit for bit."""
    problem = bordered(CASES[name], border)
    geometry = problem.geometry
    query, key, value, relative = problem.inputs()
    before = oracle.attend(query, key, value, relative, geometry)
    a, b = 2, problem.width - 2
    key[:, :, a, b], value[:, :, a, b] = 3.0, -50.0
    changed = (oracle.attend(query, key, value, relative, geometry) != before).any(-1)
    for y, x in itertools.product(*map(range, before.shape[2:4])):
        sees_row = a in geometry.seen(y * geometry.stride, problem.height)
        sees_column = b in geometry.seen(x * geometry.stride, problem.width)
        assert changed[:, :, y, x].all() == changed[:, :, y, x].any() == (sees_row and sees_column)


@pytest.mark.parametrize("border", ["masked", "zero"])
@pytest.mark.parametrize("axis", ["rows", "columns"])
def test_flips_commute(axis: str, border: str) -> None:
    """On a map of whole blocks, flipping the inputs and that axis' table flips the output."""
    problem = bordered(Problem(Geometry(4, 2), 8, 12, heads=2, dtype="float64"), border)
    query, key, value, relative = problem.inputs()
    assert relative is not None
    place = {"rows": 2, "columns": 3}[axis]
    tables = relative._replace(**{axis: getattr(relative, axis).flip(0)})
    output = oracle.attend(query, key, value, relative, problem.geometry)
    flipped = oracle.attend(query.flip(place), key.flip(place), value.flip(place), tables, problem.geometry)
    torch.testing.assert_close(flipped, output.flip(place), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("border", ["masked", "zero"])
@pytest.mark.parametrize("name", ["partial_blocks", "stride_2", "sasa"])
def test_transposition_commutes(name: str, border: str) -> None:
    """Swapping rows and columns of the map and of the tables swaps them in the output, on any map."""
    problem = bordered(CASES[name], border)
    query, key, value, relative = problem.inputs()
    assert relative is not None
    swapped = [pixels.transpose(2, 3) for pixels in (query, key, value)]
    output = oracle.attend(query, key, value, relative, problem.geometry)
    other = oracle.attend(*swapped, RelativeTables(relative.columns, relative.rows), problem.geometry)
    torch.testing.assert_close(other, output.transpose(2, 3), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("border", ["masked", "zero"])
@pytest.mark.parametrize("name", SMALL)
def test_gradients(name: str, border: str) -> None:
    """The gradients of all inputs, the tables too, are those of finite differences."""
    problem = bordered(SMALL[name], border)
    inputs = problem.inputs(requires_grad=True)

    def attend(query: Tensor, key: Tensor, value: Tensor, *tables: Tensor) -> Tensor:
        return oracle.attend(query, key, value, RelativeTables(*tables) if tables else None, problem.geometry)

    assert torch.autograd.gradcheck(attend, tuple(inputs.tensors.values()))


@pytest.mark.parametrize("border", ["masked", "zero"])
@pytest.mark.parametrize(("block", "stride"), [(8, 2), (4, 4), (5, 2), (2, 4), (1, 2)])
def test_stride_subsamples_the_queries(block: int, stride: int, border: str) -> None:
    """Strided attention of the subsampled queries is the subsampled attention of all, also where blocks are uneven."""
    problem = Problem(Geometry(block, 2, border=border), 12, 8, heads=2)  # type: ignore[arg-type]
    query, key, value, relative = problem.inputs()
    whole = oracle.attend(query, key, value, relative, problem.geometry)
    strided = replace(problem.geometry, stride=stride)
    output = oracle.attend(query[:, :, ::stride, ::stride], key, value, relative, strided)
    torch.testing.assert_close(output, whole[:, :, ::stride, ::stride], rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("name", SMALL)
def test_the_borders_are_tied(name: str) -> None:
    """out_zero = out_masked * sigmoid(lse_inside - lse_padding), the padding's logits from positions alone."""
    problem = SMALL[name]
    inputs, geometry = problem.inputs(), problem.geometry
    masked = oracle.attend(*inputs, geometry)
    zero = oracle.attend(*inputs, replace(geometry, border="zero"))
    at_border = 0
    for place in itertools.product(*map(range, masked.shape[:4])):
        scores = logits(inputs, geometry, *place)
        real = {(a, b) for a, b in scores if 0 <= a < problem.height and 0 <= b < problem.width}
        padding = [scores[pixel] for pixel in scores.keys() - real]
        at_border += bool(padding)
        lse_inside = torch.tensor([scores[pixel] for pixel in real], dtype=torch.float64).logsumexp(0)
        lse_padding = torch.tensor(padding, dtype=torch.float64).logsumexp(0)  # -inf where there is none
        torch.testing.assert_close(zero[place], masked[place] * F.sigmoid(lse_inside - lse_padding), rtol=1e-12, atol=0)
    assert at_border


def test_the_padding_factors() -> None:
    """The padded keys' sum of exponentials is that of the whole window less that of its rectangle inside the image."""
    problem = SMALL["partial"]
    (query, key, value, relative), geometry = problem.inputs(), problem.geometry
    assert relative is not None
    for y, x in itertools.product(range(problem.height), range(problem.width)):
        scores = logits(Inputs(query, torch.zeros_like(key), value, relative), geometry, 0, 0, y, x)
        rows, columns = sorted({a for a, _ in scores}), sorted({b for _, b in scores})
        scaled = query[0, 0, y, x] / math.sqrt(problem.key_dim)
        r = {a: math.exp(scaled @ relative.rows[a - y + geometry.window - 1]) for a in rows}
        c = {b: math.exp(scaled @ relative.columns[b - x + geometry.window - 1]) for b in columns}
        padding = sum(math.exp(score) for (a, b), score in scores.items() if not (a in range(5) and b in range(4)))
        inside = sum(r[a] for a in rows if a in range(5)) * sum(c[b] for b in columns if b in range(4))
        assert sum(r.values()) * sum(c.values()) - inside == pytest.approx(padding, rel=1e-9, abs=1e-9)


def test_block_of_one_slides_the_window() -> None:
    """SASA: every pixel is the centre of its own window, so the interior commutes with shifts of one pixel."""
    problem = Problem(Geometry(1, 1), 6, 6, dtype="float64")
    query, key, value, relative = problem.inputs()
    output = oracle.attend(query, key, value, relative, problem.geometry)
    shifted = [pixels.roll(1, 3) for pixels in (query, key, value)]
    moved = oracle.attend(*shifted, relative, problem.geometry)
    torch.testing.assert_close(moved[:, :, :, 2:5], output[:, :, :, 1:4], rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("border", ["masked", "zero"])
def test_images_do_not_mix(border: str) -> None:
    """A batch is its images side by side; an empty batch gives an empty output."""
    problem = bordered(CASES["batch_3"], border)
    query, key, value, relative = problem.inputs()
    whole = oracle.attend(query, key, value, relative, problem.geometry)
    for image in range(3):
        one = slice(image, image + 1)
        alone = oracle.attend(query[one], key[one], value[one], relative, problem.geometry)
        torch.testing.assert_close(alone, whole[one], rtol=1e-13, atol=1e-14)
    empty = oracle.attend(query[:0], key[:0], value[:0], relative, problem.geometry)
    assert empty.shape == (0, *whole.shape[1:])


def test_truth_is_float64() -> None:
    """Whatever the inputs' dtype; their gradients keep it."""
    inputs = replace(CASES["one_pixel"], dtype="bfloat16").inputs(requires_grad=True)
    output = oracle.attend(*inputs, CASES["one_pixel"].geometry)
    assert output.dtype == torch.float64
    assert torch.autograd.grad(output.sum(), inputs.value)[0].dtype == torch.bfloat16
