"""The forward kernel for Hopper: on a CPU behind an emulated warpgroup, against the oracle, and on a GPU."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from halobench.implementations import fused_cuda
from halobench.implementations.fused_cuda import launch, layouts, operator, shapes
from halobench.implementations.fused_cuda.hopper import forward, key_gradient
from halobench.implementations.fused_cuda.hopper.work import head_blocks
from halobench.implementations.fused_cuda.launch import Program
from halobench.implementations.fused_cuda.shapes import Shape
from torch import Tensor

from halobench import Geometry, Problem, backends, models
from halobench.attention import formula, oracle
from halobench.attention.problem import RelativeTables
from halobench.cases import accuracy
from halobench.cases.network import Network
from halobench.cases.operator_call import Call
from halobench.fuzz.draw import Magnitude, Trial
from halobench.fuzz.judge import compared, judge, poisoned
from halobench.measure.conformance import distinct_layers
from tests.emulator.on_hopper import launches, only, skip_elsewhere, watched


@pytest.fixture
def again() -> list[int]:
    """Of each launch of this kernel, how many tiles of values were loaded to compute something again."""
    return []


@pytest.fixture
def ran(kernels_folder: Path, again: list[int], monkeypatch: pytest.MonkeyPatch) -> list[Program]:
    """Launches run on the CPU as on Hopper, by its kernel wherever that can; the kernels that were launched."""
    return launches(kernels_folder, monkeypatch, again)


WHOLE = Problem(Geometry(8, 3), 24, 16, heads=4, dtype="bfloat16")
EMULATED = {
    "whole_blocks": WHOLE,
    "partial_blocks": Problem(Geometry(8, 3), 13, 19, batch=2, heads=4, dtype="float16"),
    "one_pixel": Problem(Geometry(8, 3, border="zero"), 1, 1, heads=2, dtype="bfloat16"),
    "one_block": Problem(Geometry(8, 3), 8, 8, heads=3, key_dim=64, value_dim=64, dtype="bfloat16"),
    "zero_border": Problem(Geometry(8, 3, border="zero"), 9, 17, heads=1, dtype="float16"),
    "no_tables": Problem(Geometry(8, 1), 10, 17, heads=2, key_dim=32, value_dim=32, relative=False, dtype="bfloat16"),
    "halo_2": Problem(Geometry(8, 2), 18, 8, heads=2, key_dim=32, value_dim=16, dtype="float16"),
    "halo_4": Problem(Geometry(8, 4), 17, 16, heads=2, value_dim=48, dtype="bfloat16"),
    "wide_values": Problem(Geometry(8, 4), 9, 9, heads=1, key_dim=32, value_dim=96, dtype="bfloat16"),
    "wide_heads": Problem(Geometry(8, 3), 9, 20, heads=1, key_dim=64, value_dim=64, dtype="bfloat16"),
    "three_warpgroups": Problem(Geometry(8, 3), 17, 13, heads=2, key_dim=32, value_dim=32, dtype="bfloat16"),
    "three_steps": Problem(Geometry(8, 2), 9, 9, heads=2, key_dim=48, value_dim=32, dtype="bfloat16"),
    "slices": Problem(Geometry(8, 2), 9, 9, heads=1, key_dim=32, value_dim=192, dtype="float16"),
}


@pytest.mark.parametrize("case", EMULATED)
def test_on_a_cpu(case: str, ran: list[Program]) -> None:
    """The output within the budget of every backend, and nothing of what was there before."""
    backend = replace(backends.load("strided_gather"), name="emulated", attend=fused_cuda.attend)
    with poisoned():
        assert accuracy.check(backend, EMULATED[case], "cpu", "forward").fault is None
    assert set(ran) == {"hopper"}


@pytest.mark.parametrize(("near", "images"), [(1, 1), (2**19, 2), (2**24, 4)])
def test_order(near: int, images: int, ran: list[Program], monkeypatch: pytest.MonkeyPatch) -> None:
    """All kernels meet each place of each image once, some images at a time."""
    problem = Problem(Geometry(8, 3), 13, 19, batch=4, heads=4, dtype="bfloat16")
    monkeypatch.setattr(launch, "NEAR_BYTES", near)
    only(monkeypatch, "hopper", "hopper_query", "hopper_key")
    launch.images_near.cache_clear()
    assert launch.images_near(4, key_gradient.row_bytes(shape_of(problem), 19)) == images
    backend = replace(backends.load("strided_gather"), name="emulated", attend=fused_cuda.attend)
    with poisoned():
        assert accuracy.check(backend, problem, "cpu", "training").fault is None
    assert set(ran) == {"hopper", "hopper_query", "hopper_key"}
    launch.images_near.cache_clear()


@pytest.mark.parametrize("height", [24, 32])
def test_last_round(height: int, ran: list[Program], monkeypatch: pytest.MonkeyPatch) -> None:
    """By five CTAs: the last of six blocks by four of them, a head each; the last three of eight, 12 heads, whole."""
    monkeypatch.setattr(launch, "resident", lambda *_: 5)
    only(monkeypatch, "hopper", "hopper_query")
    backend = replace(backends.load("strided_gather"), name="emulated", attend=fused_cuda.attend)
    with poisoned():
        assert accuracy.check(backend, replace(WHOLE, height=height), "cpu", "training").fault is None
    assert ran[:2] == ["hopper", "hopper_query"]


def around(problem: Problem, logit: float) -> dict[str, Tensor]:
    """Inputs whose logits all lie around one: the last channel of queries is 4, of keys this, of tables 0."""
    tensors = {name: tensor.detach().clone() for name, tensor in problem.inputs(seed=3).tensors.items()}
    tensors["query"] /= 4
    for name, number in {"query": 4.0, "key": logit * problem.key_dim**0.5 / 4, "rows": 0.0, "columns": 0.0}.items():
        tensors[name][..., -1] = number
    return tensors


def off(problem: Problem, tensors: dict[str, Tensor], logit: float) -> float:
    """The output's error, in least budgets: what any problem with such logits has, whatever the formula makes of it."""
    relative = RelativeTables(tensors["rows"], tensors["columns"])
    maps = (tensors["query"], tensors["key"], tensors["value"])
    with poisoned():
        found = fused_cuda.attend(*maps, relative, problem.geometry)
    truth = oracle.attend(*maps, relative, problem.geometry)
    error = float((found.double() - truth).norm() / truth.norm())
    return error / (2 * accuracy.roundings(problem.torch_dtype, gradient=False, growth=max(1.0, abs(logit) / 8)))


HALVES = ("bfloat16", "float16")
PART = Problem(Geometry(8, 3), 13, 19, heads=2)
ONE_WARP = (13 - 5) * 1  # rows of the window of the second row of blocks, tiles of 16 channels of values


@pytest.mark.usefixtures("ran")
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("kind", ["one_query", "huge_key", "all_above", "all_below", "huge_values"])
def test_computes_again(kind: str, dtype: str, again: list[int]) -> None:
    """What leaves the safe range, and no more: as exact as the dtype, at borders, in windows of all shapes."""
    problem = replace(PART, dtype=dtype)
    logit = {"one_query": 40.0, "all_above": 1e4, "all_below": -1.7e4}.get(kind, 0.0)
    tensors = around(problem, logit)
    if kind == "one_query":
        tensors["query"][..., -1] = 0
        tensors["query"][0, 1, 9, 18, -1] = 4
    elif kind == "huge_key":
        tensors["key"][:, :, 7, 8, -1] = 1000
    elif kind == "all_below":  # in float16, further below than keys that are hidden
        tensors["query"][..., -1], tensors["key"][..., -1] = 8, logit / 2
    elif kind == "huge_values":
        tensors["value"] = (tensors["value"].float().abs().clamp(0.5, 1) * torch.finfo(problem.torch_dtype).max).to(
            problem.torch_dtype
        )
    assert off(problem, tensors, logit) < 1
    if kind == "one_query":
        assert again == [ONE_WARP]
    else:
        assert (again[0] > ONE_WARP) == (kind != "huge_values" or dtype == "bfloat16")


@pytest.mark.usefixtures("ran")
@pytest.mark.parametrize(
    ("dtype", "logit", "safe"),
    [
        ("bfloat16", -46, True),
        ("bfloat16", -48, False),
        ("bfloat16", 36, True),
        ("bfloat16", 38, False),
        ("float16", -4, True),
        ("float16", -6, False),
        ("float16", 12, True),
        ("float16", 17, False),
    ],
)
def test_safe_sums(dtype: str, logit: float, safe: bool, again: list[int]) -> None:
    """The smallest and the largest: output and all gradients, and that beyond them all is computed again."""
    problem = replace(PART, height=16, width=16, heads=1, dtype=dtype)
    tensors = around(problem, logit)
    call = Call(tensors, problem.inputs(seed=4).query, problem.geometry)
    backend = replace(backends.load("strided_gather"), name="emulated", attend=fused_cuda.attend)
    found = compared(call.results(fused_cuda.attend), backend, call)
    assert found.status == "OK", found
    assert again == [0 if safe else 4 * 4 * 11]  # blocks, warps, rows of a window
    assert off(problem, tensors, logit) < 1


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("factor", [1, 60, -60])
def test_log_sum_exps(factor: float, dtype: str, ran: list[Program], monkeypatch: pytest.MonkeyPatch) -> None:
    """As the other kernel leaves them for the backward pass, also where sums leave the safe range."""
    query, key, value, relative = replace(EMULATED["partial_blocks"], batch=1, dtype=dtype).inputs(seed=1)
    assert relative is not None
    found = []
    for on_hopper in (True, False):
        monkeypatch.setattr(launch, "is_hopper", lambda _, on_hopper=on_hopper: on_hopper)
        found.append(operator.forward(factor * query, key, value, *relative, 8, 3, 1, "masked"))
    (output, sums), (expected, expected_sums) = found
    off = (sums - expected_sums)[expected_sums < 1e4].abs()
    assert off.max() < 1e-3
    assert (off < 2e-4).float().mean() > 0.9
    assert (output.double() - expected.double()).norm() < 5e-3 * expected.double().norm()
    assert ran == ["hopper", "forward"]


@pytest.mark.usefixtures("ran")
@pytest.mark.parametrize("dtype", HALVES)
def test_not_a_number(dtype: str) -> None:
    """NaN and infinities reach the blocks that see them, and no others, though blocks share shared memory."""
    query, key, value, relative = replace(WHOLE, width=24, batch=2, dtype=dtype).inputs()
    # The latter lies in a whole window, where the next one in this memory, which is at the map's border, has padding.
    key[0, 2, 20, 12], value[0, 1, 16, 7] = torch.inf, torch.nan
    value[1, 3, 5, 0, 4] = torch.inf  # the first of a row: what a row's padding weighs is zero
    found, expected = (
        attend(query, key, value, relative, WHOLE.geometry) for attend in (fused_cuda.attend, formula.attend)
    )
    assert torch.equal(found.isnan(), expected.isnan())
    assert 0 < found.isnan().sum() < found.numel() / 8
    assert torch.equal(found.isinf(), expected.isinf())
    assert 0 < found.isinf().sum() < found.numel() / 8
    finite = expected.isfinite()
    assert (found - expected)[finite].norm() < 0.02 * expected[finite].norm()


@pytest.mark.parametrize("layout", ["contiguous", "expanded"])
def test_others_take_the_other_kernel(layout: str, ran: list[Program]) -> None:
    """Heads that do not lie side by side, and images that are the same memory, are no boxes of a tensor map."""
    query, key, value, relative = replace(WHOLE, batch=2).inputs()
    maps = [x.contiguous() if layout == "contiguous" else x[:1].expand_as(x) for x in (query, key, value)]
    output = fused_cuda.attend(*maps, relative, WHOLE.geometry)
    assert ran == ["forward"]
    expected = formula.attend(*maps, relative, WHOLE.geometry)
    assert (output.double() - expected.double()).norm() < 1e-2 * expected.double().norm()


def test_counts_its_own_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Hopper: of a map of three blocks a side, windows of 11, 14 and 11 pixels, that of all three kernels."""
    problem = Problem(Geometry(8, 3), 21, 21, batch=64, heads=2, dtype="bfloat16")
    other = fused_cuda.execution(problem)
    monkeypatch.setattr(launch, "here", lambda: True)
    found, heads = fused_cuda.execution(problem), 64 * 2
    scored = heads * 64 * (4 * 128 + 4 * 160 + 200)
    summed = heads * 64 * (4 * 128 + 4 * 160 + 208)
    tables = heads * 9 * 64 * 56  # entries that a query meets: 24 by columns, and 32 by rows
    assert found.forward_exponentials == scored
    assert found.forward_flops == 2 * (scored * (16 + 32) + summed * (16 + 8) + tables * 16)
    # Tiles of keys begin 3 pixels before each block, each seen by it and by the one before: 3 + 2 visits an axis. Of
    # their 5 * 8 pixels one row of two is above the map, at -3 and -2, and the second block sees 6 of 8 (twice).
    tiles, rows = heads * 64 * 5 * 5 * 64, heads * 64 * 5 * 8 * (5 * 8 - 2 - 2 * 2)
    by_queries = scored * (16 + 32 + 16) + summed * (16 + 32) + (tables + heads * 5 * 64 * 56) * 16
    by_queries += heads * 9 * 64 * (48 + 64) * 16
    assert found.backward_exponentials == scored + rows
    assert found.backward_flops == 2 * (by_queries + tiles * (4 * 16 + 32))
    assert found.stored == other.stored
    assert found.forward_kernels == ("hopper/forward",)
    assert found.backward_kernels == ("hopper/query_gradient", "hopper/key_gradient")
    for change in ({"geometry": Geometry(8, 3, stride=2)}, {"geometry": Geometry(12, 2)}):
        different = replace(problem, **change)
        monkeypatch.setattr(launch, "here", lambda: True)
        found = fused_cuda.execution(different)
        monkeypatch.setattr(launch, "here", lambda: False)
        assert found == fused_cuda.execution(different)


def test_only_hopper() -> None:
    """The kernel is for one architecture, and asked for nowhere else."""
    assert not launch.is_hopper(torch.device("cpu"))


def shape_of(problem: Problem) -> Shape:
    """The shape class of a problem's first slice of values."""
    geometry = shapes.seen_geometry(problem.geometry, problem.height, problem.width)
    width = problem.value_dim // shapes.value_slices(problem.value_dim)
    dtype = problem.torch_dtype
    return shapes.shape_for(geometry, problem.key_dim, width, problem.heads, dtype, relative=problem.relative)


@pytest.mark.parametrize(("number", "served"), [(0, 4), (1, 4), (2, 4), (3, 0), (6, 3)])
def test_serves_stages_of_halonet(number: int, served: int) -> None:
    """All of H0 to H2 that are not strided, and of H6 those whose windows find room."""
    name = f"halonet_h{number}"
    slots = distinct_layers(Network(name, models.entry(name).image_size, 128, "bfloat16", "strided_gather"))
    found = [slot.problem for slot in slots if forward.chosen(shape_of(slot.problem), head_blocks(slot.problem))]
    assert len(found) == served
    assert all(problem.geometry.stride == 1 for problem in found)


@pytest.mark.parametrize(
    ("change", "served"),
    [
        ({}, True),
        ({"batch": 42}, False),
        ({"relative": False, "geometry": Geometry(8, 1, border="zero")}, True),
        ({"heads": 6}, True),
        ({"heads": 3}, False),
        ({"heads": 3, "key_dim": 32, "value_dim": 32}, True),
        ({"value_dim": 48}, True),
        ({"value_dim": 48, "geometry": Geometry(8, 4)}, True),
        ({"dtype": "float16"}, True),
        ({"geometry": Geometry(8, 0)}, True),
        ({"height": 8, "width": 7}, False),
        ({"height": 8, "width": 7, "batch": 256}, True),
        ({"geometry": Geometry(8, 3, stride=2)}, False),
        ({"geometry": Geometry(10, 3)}, False),
        ({"geometry": Geometry(8, 5)}, False),
    ],
)
def test_is_chosen_where_it_was_faster(change: dict[str, Any], served: bool) -> None:
    """And nowhere else, though it could serve more: of 6 blocks a head, 1024 blocks and more."""
    problem = replace(WHOLE, **({"batch": 64} | change))
    assert (forward.chosen(shape_of(problem), head_blocks(problem)) is not None) == served


@pytest.mark.parametrize("heads", [1, 2, 4, 6, 8])
@pytest.mark.parametrize(
    ("key_dim", "value_dim"), [(16, 16), (16, 48), (32, 32), (32, 96), (48, 16), (64, 64), (64, 16)]
)
@pytest.mark.parametrize("halo", range(5))
def test_layouts_fit(halo: int, key_dim: int, value_dim: int, heads: int) -> None:
    """A CTA finds room in an SM, and its warpgroups in the ring."""
    shape = shape_of(Problem(Geometry(8, halo), 24, 24, 1, heads, key_dim, value_dim, dtype="bfloat16"))
    layout = forward.layout_of(shape)
    if halo == 4 and key_dim > 32:  # three such windows are more than there is room for
        assert layout is None
        return
    assert layout is not None
    stage = forward.stage_bytes(shape, layout) + 16 + forward.NOTES
    needed = forward.constant_bytes(shape, layout) + layout.stages * stage
    assert needed <= layouts.MOST_SHARED_BYTES
    assert heads % layout.heads == layout.warpgroups % layout.heads == 0
    assert layout.warpgroups // layout.heads < layout.stages


def drawn(draw: random.Random) -> Problem:
    """A problem of the kernel's class."""
    key_dim, value_dim = draw.choice([(16, 16), (16, 48), (32, 32), (32, 96), (48, 16), (64, 64)])
    geometry = Geometry(8, draw.randint(0, 4 if key_dim <= 32 else 3), border=draw.choice(["masked", "zero"]))
    height, width, batch = draw.randint(1, 40), draw.randint(1, 40), draw.randint(1, 3)
    heads, relative = draw.choice([1, 2, 3, 4, 8]), draw.random() < 0.8
    return Problem(geometry, height, width, batch, heads, key_dim, value_dim, relative, draw.choice(HALVES))


@pytest.mark.gpu
@pytest.mark.parametrize("number", range(6))
def test_on_hopper(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fresh shapes of the class: output and all gradients, by this kernel, also of what it computes again."""
    launched = watched(monkeypatch, "hopper")
    draw = random.Random(f"{torch.seed()}/{number}")
    magnitudes: list[Magnitude] = ["standard", "large_query", "huge_key", "large_tables"]
    trial = Trial(drawn(draw), magnitude=draw.choice(magnitudes), seed=draw.getrandbits(32))
    found = judge(backends.load("fused_cuda"), trial, "cuda")
    assert found.status == "OK", (trial, found)
    assert launched[0] == "hopper", trial


@pytest.mark.gpu
@pytest.mark.parametrize("number", range(4))
def test_the_kernels_that_a_row_names_are_launched(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Hopper, for calls as layers make them."""
    launched = watched(monkeypatch)
    draw = random.Random(f"{torch.seed()}/{number}")
    problem = replace(drawn(draw), height=40, width=draw.randint(33, 80), batch=draw.choice([1, 16]))
    execution = fused_cuda.execution(problem)
    inputs = problem.inputs("cuda", requires_grad=True)
    output = fused_cuda.attend(*inputs, problem.geometry)
    output.backward(torch.ones_like(output))
    named = execution.forward_kernels + execution.backward_kernels
    assert [launch.file_of(kernel) for kernel in launched] == [f"{name}.cu" for name in named], problem


@pytest.mark.gpu
def test_captured_maps_are_their_own() -> None:
    """A replay reads what was captured, whatever was called since."""
    skip_elsewhere()
    inputs, others = (WHOLE.inputs("cuda", seed=seed) for seed in (0, 1))

    def call(tensors: tuple[Tensor, ...]) -> Tensor:
        return fused_cuda.attend(*tensors, WHOLE.geometry)  # type: ignore[arg-type, call-arg]

    expected = call(inputs)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = call(inputs)
    call(others)
    graph.replay()
    assert torch.equal(output, expected)
