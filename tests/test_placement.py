"""A workload that is moved stays what it was."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from halobench import Geometry, LayerSpec, Problem, backends
from halobench.cases.workload import Slot, bind
from halobench.measure import graphs
from halobench.measure.graphs import Replay
from halobench.measure.placement import Placement

SHORT = Problem(Geometry(8, 3), 16, 16, 8, 4, dtype="bfloat16")
TASKS = [Problem(Geometry(4, 1), 12, 8, 2, 2), Slot(LayerSpec(24, 2, 8, 8, Geometry(4, 1)), 8, 8, 2)]


@pytest.mark.parametrize("task", TASKS, ids=["operator", "layer"])
def test_everything_moves_and_nothing_changes(task, device):
    backend = backends.load("strided_gather")
    workload = bind(backend, task, device)
    tensors = [*workload.tensors.values(), workload.cotangent]
    call = workload.call("training")
    placement, before = Placement(backend, workload, call), call()
    seen, strides, values = [], [tensor.stride() for tensor in tensors], [tensor.detach().clone() for tensor in tensors]
    for _ in range(3):
        seen.append([tensor.data_ptr() for tensor in tensors])
        here = placement.move()
    seen.append([tensor.data_ptr() for tensor in tensors])
    for places in zip(*seen, strict=True):
        assert all(one != other for one, other in pairwise(places))
    assert [tensor.stride() for tensor in tensors] == strides
    assert all(map(torch.equal, tensors, values))
    assert all(map(torch.equal, call(), before))
    assert all(map(torch.equal, here(), before))


def test_on_a_cpu_nothing_is_captured():
    backend, task = backends.load("strided_gather"), TASKS[0]
    workload = bind(backend, task, "cpu")
    call = workload.call("forward")
    assert Placement(backend, workload, call).move() is call


@pytest.mark.gpu
def test_what_a_call_allocates_moves_too():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    backend = replace(backends.load("sdpa"), capturable=False)
    workload = bind(backend, SHORT, "cuda")
    placement = Placement(backend, workload, workload.call("forward"))
    assert len({placement.move()().data_ptr() for _ in range(5)}) > 1


@pytest.mark.gpu
@pytest.mark.parametrize("direction", ["forward", "training"])
@pytest.mark.parametrize("name", backends.names())
def test_every_backend_can_be_captured_in_any_place(name, direction):
    """A replay computes what the call computes, from what the tensors hold then."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    backend = backends.load(name)
    border = backend.borders[0]
    with graphs.side_stream():  # as in a worker
        workload = bind(backend, replace(SHORT, geometry=replace(SHORT.geometry, border=border)), "cuda")
        call = workload.call(direction)
        placement = Placement(backend, workload, call)
        for _ in range(2):
            here = placement.move()
            assert isinstance(here, Replay)
            with torch.no_grad():
                for tensor in workload.tensors.values():
                    tensor.copy_(torch.randn_like(tensor))
            found, expected = ([each] if isinstance(each, torch.Tensor) else each for each in (here(), call()))
            for one, other in zip(found, expected, strict=True):
                assert (one - other).float().norm() <= 2e-2 * other.float().norm()
            del here


@pytest.mark.gpu
def test_a_backend_that_synchronizes_and_says_so_is_launched():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")

    def attend(query, *rest):
        return backends.load("strided_gather").attend(query * float(query.abs().amax().item() > 0), *rest)

    backend = replace(backends.load("strided_gather"), name="waits", attend=attend, capturable=False)
    workload = bind(backend, SHORT, "cuda")
    call = workload.call("forward")
    assert Placement(backend, workload, call).move() is call
