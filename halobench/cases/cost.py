"""What a problem costs, in closed form, and what other people's counters say.

**Conventions.** A multiply-add is two FLOPs. FLOPs are those of the matrix products; additions, comparisons and
divisions of the softmax are not counted, its exponentials are counted apart. Bytes are traffic with the device's
memory. Two counts are kept apart and never mixed:

- *useful*: what any implementation must do. Only visible pairs of a query and a real key count, never padding; every
  input is read once and every output written once. ``useful`` depends on the problem alone.
- *executed*: what a backend does, padding, dense masks, gathered windows and recomputation included, from its own
  ``execution``.

Under border ``"zero"`` the useful pairs are the same: the padded keys act through their relative logits alone, which
factor into rows and columns, so that one factor per query accounts for them (``docs/semantics.md``).

The derivations stand in ``docs/semantics.md``.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from halobench.attention import formula
from halobench.attention.layer import HaloAttention
from halobench.attention.problem import Backend, Direction, Execution, LayerSpec, Problem
from halobench.cases.workload import Slot, Task, stand_in

FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Cost:
    """The cost of a call: FLOPs (a multiply-add is two), bytes of memory traffic, exponentials."""

    flops: int
    bytes: int
    exponentials: int

    def __add__(self, other: "Cost") -> "Cost":
        """The cost of one after the other."""
        return Cost(self.flops + other.flops, self.bytes + other.bytes, self.exponentials + other.exponentials)

    def __sub__(self, other: "Cost") -> "Cost":
        """The cost of what is left after the other."""
        return Cost(self.flops - other.flops, self.bytes - other.bytes, self.exponentials - other.exponentials)


def useful(task: Task, direction: Direction) -> Cost:
    """The least that a call must do, in one direction.

    Training is a forward pass that keeps its log-sum-exp, and a backward pass. For a layer, the projections come on
    top, and nothing between the map and the output needs to reach memory. A convolution does other work: its floor
    is what it executes.
    """
    if isinstance(task, Slot):
        return useful_layer(task, direction)
    if direction == "forward":
        return forward(task)
    return forward(task) + Cost(0, log_sum_exp_bytes(task), 0) + backward(task)


def least(backend: Backend, task: Task, direction: Direction) -> Cost | None:
    """The useful cost of a call of the backend; one that is no attention does other work, so it is what it executes."""
    return useful(task, direction) if backend.attend is not None else executed(backend, task, direction)


def passes(backend: Backend, task: Task, direction: Direction) -> list[Cost] | None:
    """``least``, pass by pass: the forward pass and, in training, the backward pass after it."""
    whole, first = least(backend, task, direction), least(backend, task, "forward")
    if whole is None or first is None:
        return None
    return [first] if direction == "forward" else [first, whole - first]


def forward(problem: Problem) -> Cost:
    """The useful cost of the forward pass: the scores and the weighted sum of values, two products per visible pair.

    Every query meets the table's vector of each visible row and of each visible column once, not once per pair.
    One exponential per visible pair. Reads query, key, value and the tables, writes the output.
    """
    pairs = problem.visible_pairs
    flops = 2 * (problem.key_dim + problem.value_dim) * pairs + position_flops(problem)
    return Cost(flops, input_bytes(problem) + output_bytes(problem), pairs)


def backward(problem: Problem) -> Cost:
    """The useful cost of the backward pass: five products and one exponential per visible pair.

    The five are the scores again, and the gradients of the weights, the value, the query and the key. Keeping the
    scores instead would save one product, and cost their traffic: no pass near the roofline does. Without that
    recomputation the count is four products, twice the forward's, the convention of most papers. Positions cost
    three times the forward's: the biases again, the query's gradient, the tables' gradients.

    Reads query, key, value, tables, output, its gradient and the log-sum-exp; writes a gradient for every input.
    """
    pairs = problem.visible_pairs
    flops = 2 * (3 * problem.key_dim + 2 * problem.value_dim) * pairs + 3 * position_flops(problem)
    traffic = 2 * input_bytes(problem) + 2 * output_bytes(problem) + log_sum_exp_bytes(problem)
    return Cost(flops, traffic, pairs)


def position_flops(problem: Problem) -> int:
    """FLOPs of one product between every query and the table's vectors of its visible rows and columns."""
    if not problem.relative:
        return 0
    geometry = problem.geometry
    rows = geometry.seen_along(problem.height) * geometry.queries(problem.width)
    columns = geometry.seen_along(problem.width) * geometry.queries(problem.height)
    return 2 * problem.key_dim * problem.batch * problem.heads * (rows + columns)


def input_bytes(problem: Problem) -> int:
    """Bytes of query, key, value and the tables."""
    pixels = problem.batch * problem.heads * problem.height * problem.width
    tables = 2 * (2 * problem.geometry.window - 1) * problem.key_dim if problem.relative else 0
    elements = problem.queries * problem.key_dim + pixels * (problem.key_dim + problem.value_dim) + tables
    return elements * problem.torch_dtype.itemsize


def output_bytes(problem: Problem) -> int:
    """Bytes of the output."""
    return problem.queries * problem.value_dim * problem.torch_dtype.itemsize


def log_sum_exp_bytes(problem: Problem) -> int:
    """Bytes of one float32 per query: what a backward pass needs to recompute the weights."""
    return problem.queries * FLOAT32_BYTES


def executed(backend: Backend, task: Task, direction: Direction) -> Cost | None:
    """What the backend executes on a task, by its own account; ``None`` where it gives none.

    Bytes are the compulsory ones, and the stored intermediates: written once and read once by the forward pass; in
    training they are read again, and their gradients are written and read. A model: copies that a framework makes on
    top are not in it, and caches that keep an intermediate from memory are not credited.

    A backend that is no attention is costed as the layer that stands in for the operator (``workload.stand_in``).
    """
    if isinstance(task, Slot):
        return layer(backend, task, direction)
    if backend.attend is None:
        return layer(backend, stand_in(task), direction)
    if backend.execution is None:
        return None
    return of_execution(backend.execution(task), task, useful(task, direction).bytes, direction)


def kernels(backend: Backend, task: Task, direction: Direction) -> str | None:
    """The backend's own kernels in a call, in order; ``None`` where it names none."""
    if backend.execution is None:
        return None
    execution = backend.execution(task.problem if isinstance(task, Slot) else task)
    names = execution.forward_kernels + (execution.backward_kernels if direction == "training" else ())
    return ", ".join(names) or None


def of_execution(execution: Execution, problem: Problem, compulsory_bytes: int, direction: Direction) -> Cost:
    """An execution's cost in one direction."""
    stored = execution.stored * problem.torch_dtype.itemsize
    if direction == "forward":
        return Cost(execution.forward_flops, compulsory_bytes + 2 * stored, execution.forward_exponentials)
    return Cost(
        execution.forward_flops + execution.backward_flops,
        compulsory_bytes + 5 * stored,
        execution.forward_exponentials + execution.backward_exponentials,
    )


def layer(backend: Backend, slot: Slot, direction: Direction) -> Cost | None:
    """What a whole layer executes, projections included; ``None`` where the backend gives no account.

    Around an attention, the projections read the map and their weights and write query, key and value, which the
    operator reads; backward, they read all of these again and write the gradients of map and weights. The padding of
    split tables to full width is not counted.
    """
    if backend.attend is None:
        if backend.layer_execution is None:
            return None
        execution = backend.layer_execution(slot.layer, slot.problem)
        return of_execution(execution, slot.problem, layer_bytes(slot, backend.build, direction), direction)
    operator = executed(backend, slot.problem, direction)
    if operator is None:
        return None
    outer = (map_elements(slot) + projection_weights(slot)) * slot.problem.torch_dtype.itemsize
    traffic = outer + projected_bytes(slot)
    if direction == "training":
        traffic += 2 * outer + projected_bytes(slot)
    return operator + Cost(projection_flops(slot, direction), traffic, 0)


def useful_layer(slot: Slot, direction: Direction) -> Cost:
    """The useful cost of an attention layer: the operator's products and the projections', bytes of the layer alone."""
    operator = useful(slot.problem, direction)
    return replace(
        operator,
        flops=operator.flops + projection_flops(slot, direction),
        bytes=layer_bytes(slot, partial(HaloAttention, attend=formula.attend), direction),
    )


def layer_bytes(slot: Slot, build: Callable[[LayerSpec], nn.Module], direction: Direction) -> int:
    """Compulsory bytes of a layer: map and weights in, output out; backward also both gradients' way back."""
    inputs = layer_input_bytes(slot, build)
    outputs = output_bytes(slot.problem)
    # Backward: map, weights and the output's gradient in; gradients of map and weights out.
    return inputs + outputs if direction == "forward" else 3 * inputs + 2 * outputs


def layer_input_bytes(slot: Slot, build: Callable[[LayerSpec], nn.Module]) -> int:
    """Bytes of the map and of all weights of the layer that ``build`` makes."""
    with torch.device("meta"):
        weights = sum(parameter.numel() for parameter in build(slot.layer).parameters())
    return (map_elements(slot) + weights) * slot.problem.torch_dtype.itemsize


def map_elements(slot: Slot) -> int:
    """Elements of the layer's input."""
    return slot.batch * slot.height * slot.width * slot.layer.channels


def projected(slot: Slot) -> int:
    """Elements of query, key and value."""
    problem = slot.problem
    pixels = slot.batch * slot.height * slot.width * problem.heads
    return problem.queries * problem.key_dim + pixels * (problem.key_dim + problem.value_dim)


def projected_bytes(slot: Slot) -> int:
    """Bytes of query, key and value."""
    return projected(slot) * slot.problem.torch_dtype.itemsize


def projection_weights(slot: Slot) -> int:
    """Elements of the three projections' weights."""
    return slot.layer.channels * (2 * slot.layer.heads * slot.layer.key_dim + slot.layer.value_channels)


def projection_flops(slot: Slot, direction: Direction) -> int:
    """FLOPs of the 1x1 projections; backward, the gradients of the map and of the weights are a product each."""
    return (1 if direction == "forward" else 3) * 2 * slot.layer.channels * projected(slot)


def memory_bytes(backend: Backend, task: Task, direction: Direction) -> int | None:
    """A model of the peak of memory above a call's inputs; ``None`` where the backend gives no account.

    Forward: the output and everything stored, for a layer query, key and value too. Training: a gradient for each
    of these and for each input on top. It takes every stored intermediate as one tensor that lives to the end of the
    call. It is meant as the part of the peak that follows from the algorithm, not as a bound: a framework holds
    temporary copies besides (softmax and mask of an eager formula: two or three score matrices at once), or frees
    an intermediate before the next is made.
    """
    slot = task if isinstance(task, Slot) else stand_in(task) if backend.attend is None else None
    problem = task.problem if isinstance(task, Slot) else task
    if backend.attend is None:
        execution = backend.layer_execution(slot.layer, problem) if slot and backend.layer_execution else None
    else:
        execution = backend.execution(problem) if backend.execution else None
    if execution is None:
        return None
    held = output_bytes(problem) + execution.stored * problem.torch_dtype.itemsize
    inputs = input_bytes(problem)
    if slot is not None:
        inputs = layer_input_bytes(slot, backend.build)
        held += 0 if backend.attend is None else projected_bytes(slot)
    return held if direction == "forward" else 2 * held + inputs
