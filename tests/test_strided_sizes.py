"""Maps that are no multiple of the queries' stride, as in HaloNet-H7 at 600 pixels (75 -> 38)."""

from contextlib import nullcontext

import pytest
import torch

from halobench import Geometry, LayerSpec, Problem, Unsupported, backends
from halobench.cases import accuracy
from halobench.cases.workload import Slot

ODD = [
    (Geometry(4, 2, stride=2), 7, 9),
    (Geometry(10, 3, stride=2), 19, 15),
    (Geometry(1, 1, stride=2), 5, 7),  # SASA
    (Geometry(2, 1, stride=4), 9, 10),  # a stride beyond the block
    (Geometry(4, 2, stride=2, border="zero"), 7, 5),
]
IDS = [f"b{geometry.block}h{geometry.halo}s{geometry.stride}-{geometry.border}" for geometry, _, _ in ODD]


def test_queries_stand_on_every_stride_th_pixel_from_the_first_on():
    for stride in range(1, 6):
        geometry = Geometry(4, 1, stride)
        for size in range(1, 20):
            assert geometry.queries(size) == len(range(0, size, stride))


@pytest.mark.parametrize(("geometry", "height", "width"), ODD, ids=IDS)
@pytest.mark.parametrize("name", [name for name in backends.names() if name != "compiled"])  # slow; it is the formula
def test_odd_maps_agree_with_the_oracle(name, geometry, height, width):
    try:
        backend = backends.load(name)
    except ModuleNotFoundError as missing:
        pytest.skip(f"needs {missing.name}")
    problem = Problem(geometry, height, width, 2, 2, 8, 12)
    uncompiled = name == "flex" and geometry != ODD[0][0]  # the same masks and positions, without 15 s of compiling
    with torch.compiler.set_stance("force_eager") if uncompiled else nullcontext():
        try:
            if backend.attend:
                backend.attend(*problem.inputs(), geometry)
        except Unsupported as refusal:
            pytest.skip(str(refusal))
        for task in (problem, Slot(LayerSpec(8, 2, 8, 12, geometry), height, width, 2)):
            assert accuracy.check(backend, task, "cpu", "forward").fault is None


def test_a_layer_rounds_sizes_up():
    pixels = torch.randn(1, 8, 75, 7)
    layer = LayerSpec(8, 2, 8, 12, Geometry(10, 3, stride=2))
    for name in ("strided_gather", "conv"):
        assert backends.load(name).build(layer)(pixels).shape == (1, 24, 38, 4)
