"""A workload that is moved stays what it was."""

from itertools import pairwise

import pytest
import torch

from halobench import Geometry, LayerSpec, Problem, backends
from halobench.measure.placement import Placement
from halobench.workload import Slot, bind

TASKS = [Problem(Geometry(4, 1), 12, 8, 2, 2), Slot(LayerSpec(24, 2, 8, 8, Geometry(4, 1)), 8, 8, 2)]


@pytest.mark.parametrize("task", TASKS, ids=["operator", "layer"])
def test_everything_moves_and_nothing_changes(task, device):
    workload = bind(backends.load("strided_gather"), task, device)
    tensors = [*workload.tensors.values(), workload.cotangent]
    call = workload.call("training")
    placement, before = Placement(workload), call()
    seen, strides, values = [], [tensor.stride() for tensor in tensors], [tensor.clone() for tensor in tensors]
    for _ in range(3):
        seen.append([tensor.data_ptr() for tensor in tensors])
        placement.move()
    seen.append([tensor.data_ptr() for tensor in tensors])
    for places in zip(*seen, strict=True):
        assert all(one != other for one, other in pairwise(places))
    assert [tensor.stride() for tensor in tensors] == strides
    assert all(map(torch.equal, tensors, values))
    assert all(map(torch.equal, call(), before))


@pytest.mark.gpu
def test_what_a_call_allocates_moves_too():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    task = Problem(Geometry(8, 3), 16, 16, 8, 4, dtype="bfloat16")
    workload = bind(backends.load("sdpa"), task, "cuda")
    call, placement = workload.call("forward"), Placement(workload)
    places = set()
    for _ in range(5):
        placement.move()
        places.add(call().data_ptr())
    assert len(places) > 1
