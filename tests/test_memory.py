"""Peak memory of a call: exact for allocations that are known, and in the order that theory gives the backends."""

import gc

import pytest
import torch

from halobench import Geometry, Problem, backends
from halobench.cases.workload import bind
from halobench.measure.memory import peak_bytes

MB = 2**20


def megabytes(count):
    return torch.empty(count * MB, dtype=torch.uint8)


def two_at_once():
    first, second = megabytes(4), megabytes(4)
    return first[0] + second[0]


def one_after_the_other():
    first = megabytes(4)
    del first
    return megabytes(4)


def test_blocks_left_by_others(device):
    """A block that is larger than what is asked for, because somebody left it, counts as what is asked for."""
    with torch.device(device):
        left = torch.empty(5 * MB + MB // 2, dtype=torch.uint8)
        del left
        found = peak_bytes(lambda: megabytes(5), device)
    assert 5 * MB <= found < 5 * MB + 4096


def result_counts():
    return [megabytes(1) for _ in range(6)]


@pytest.mark.parametrize(("call", "peak"), [(two_at_once, 8), (one_after_the_other, 4), (result_counts, 6)])
def test_known_allocations(device, call, peak):
    with torch.device(device):
        found = peak_bytes(call, device)
    assert peak * MB <= found < peak * MB + 4096  # one element, rounded up


def test_inputs_do_not_count(device):
    with torch.device(device):
        given = megabytes(16)
        assert peak_bytes(lambda: given + given, device) == 16 * MB


def test_no_allocation():
    assert peak_bytes(lambda: None, "cpu") in (0, None)


def test_garbage_of_earlier_calls_does_not_lower_the_peak(device):
    """A reference cycle that is collected during the call frees memory that the call never used."""
    with torch.device(device):
        gc.collect()
        gc.disable()
        try:
            cycle = [megabytes(32)]
            cycle.append(cycle)
            del cycle

            def call():
                gc.collect()
                return megabytes(4)

            assert peak_bytes(call, device) == 4 * MB
        finally:
            gc.enable()


def test_what_replaces_a_block_of_the_call_before_does_not_count(device):
    """As the gradients of a training step replace those of the step before."""
    kept = []

    def call():
        kept.clear()
        kept.append(megabytes(8))

    with torch.device(device):
        call()
        assert peak_bytes(call, device) == 0


def peak(name, problem, direction="forward"):
    return peak_bytes(bind(backends.load(name), problem, "cpu").call(direction), "cpu")


@pytest.mark.parametrize("direction", ["forward", "training"])
def test_strided_gather_needs_no_more_than_naive_unfold(direction):
    problem = Problem(Geometry(8, 3), 32, 32, heads=4)
    assert peak("strided_gather", problem, direction) <= peak("naive_unfold", problem, direction)


@pytest.mark.parametrize("relative", [False, True])
def test_sdpa_holds_no_score_matrix(relative):
    problem = Problem(Geometry(16, 3), 64, 64, heads=4, relative=relative)
    scores = 4 * problem.window_pairs
    assert 0 < peak("sdpa", problem) < scores < peak("strided_gather", problem)
