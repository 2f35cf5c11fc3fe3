"""What ``fused_cuda`` serves and what it refuses, how its kernels are laid out, and the pairs that they score."""

from typing import get_args

import pytest
import torch
from halobench.implementations.fused_cuda import layouts, operator, shapes
from halobench.implementations.fused_cuda.shapes import Kernel

from halobench import Geometry, Problem, RelativeTables, Unsupported, models
from halobench.attention.geometry import Border
from halobench.cases.network import Network
from halobench.measure.conformance import distinct_layers


@pytest.mark.parametrize(
    ("border", "octets"),
    # 15 rows: 14 queries see rows 2 to 16 of their window, four fours and a piece; the last one's block sees 0 to 2.
    [("masked", 14 * 5 + 1), ("zero", 15 * 5)],
)
def test_columns_that_come_apart(border: Border, octets: int) -> None:
    """Windows of 18 pixels: 16 columns of each row, and an octet for each four rows that are begun."""
    geometry = Geometry(14, 2, border=border)
    rows = geometry.seen_along(15) if border == "masked" else 15 * 18
    assert shapes.scored_pairs(geometry, 15, 20) == (rows * 16 + octets * 8) * 28


def refused(problem: Problem, change: str | None = None) -> str:
    """Why a call is refused."""
    query, key, value, relative = problem.inputs()
    if change == "layout":
        query = query.movedim(-1, 0).contiguous().movedim(0, -1)
    with pytest.raises(Unsupported) as refusal:
        layouts.served(shapes.shape_of(query, key, value, relative, problem.geometry))
    return str(refusal.value)


@pytest.mark.parametrize(
    ("problem", "change", "reason"),
    [
        (Problem(Geometry(8, 3), 8, 8), None, "computes in bfloat16 and float16, got torch.float32"),
        (Problem(Geometry(14, 6), 15, 8, dtype="bfloat16"), None, "windows of up to 24 pixels, got 26"),
        (Problem(Geometry(16, 1), 17, 8, dtype="bfloat16"), None, "up to 33 pixels together, got 18 and 16"),
        (
            Problem(Geometry(8, 8), 9, 9, key_dim=64, value_dim=88, dtype="bfloat16"),
            None,
            "heads of 64 and 88, whose query_gradient needs 238592",
        ),
        (Problem(Geometry(8, 3, 3), 9, 9, dtype="bfloat16"), None, "stride that divides the block, got 3, 8"),
        (Problem(Geometry(8, 3), 8, 8, key_dim=8, dtype="bfloat16"), None, "key heads of 16, 32, 48, 64, got 8"),
        (
            Problem(Geometry(8, 3), 8, 8, value_dim=20, dtype="bfloat16"),
            None,
            "of 8 up to 128 and of 16 up to 256, got 20",
        ),
        (
            Problem(Geometry(8, 3), 8, 8, value_dim=272, dtype="bfloat16"),
            None,
            "of 8 up to 128 and of 16 up to 256, got 272",
        ),
        (Problem(Geometry(8, 3), 8, 8, dtype="bfloat16"), "layout", "reads channels-last memory, got a query"),
    ],
)
def test_refusals_say_why(problem: Problem, change: str | None, reason: str) -> None:
    """What is outside the class is refused by name."""
    assert reason in refused(problem, change)


@pytest.mark.parametrize("heads", [1, 6, 8])
@pytest.mark.parametrize(("key_dim", "value_dim"), [(16, 16), (16, 48), (32, 32), (48, 128), (64, 64)])
@pytest.mark.parametrize(
    "geometry",
    [
        Geometry(1, 3),
        Geometry(8, 3),
        Geometry(8, 3, 2),
        Geometry(10, 3),
        Geometry(14, 2),
        Geometry(15, 1),
        Geometry(16, 0),
    ],
)
def test_layouts_fit(geometry: Geometry, key_dim: int, value_dim: int, heads: int) -> None:
    """A CTA serves whole groups of heads and all tiles of a block, within the threads and registers of an SM."""
    shape = shapes.shape_for(geometry, key_dim, value_dim, heads, torch.bfloat16, relative=True)
    for kernel in get_args(Kernel):
        layout = layouts.layout_of(shape, kernel)
        threads = 32 * layout.warps(shape.tiles(kernel))
        assert heads % layout.heads == 0
        assert threads <= 1024
        assert layout.min_ctas * threads <= 2048
        assert layout.min_ctas * threads * 64 <= layouts.REGISTERS


@pytest.mark.parametrize("number", range(8))
def test_serves_every_layer_of_halonet(number: int) -> None:
    """All attention layers at the published image size are in the class, which shared memory limits, too."""
    name = f"halonet_h{number}"
    slots = distinct_layers(Network(name, models.entry(name).image_size, 1, "bfloat16", "strided_gather"))
    assert len(slots) >= 4
    for slot in slots:
        problem = slot.problem
        like = torch.empty(1, problem.heads, 1, 1, 1, dtype=torch.bfloat16, device="meta")
        query, key, value = (
            operator.channels_last(like, height, width, dim)
            for height, width, dim in (
                (problem.geometry.queries(problem.height), problem.geometry.queries(problem.width), problem.key_dim),
                (problem.height, problem.width, problem.key_dim),
                (problem.height, problem.width, problem.value_dim),
            )
        )
        # The tables take shared memory, too; what is in them does not matter.
        relative = RelativeTables(query, query)
        shape = shapes.shape_of(query, key, value, relative, problem.geometry)
        assert layouts.served(shape).heads == problem.heads
