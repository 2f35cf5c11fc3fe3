"""What a task costs in closed form: the useful work, and what a backend executes. FLOPs count a multiply-add as two.

Useful work is what no implementation can avoid: visible pairs only, every input read once, every output written once.
A training call is two passes. The backward pass recomputes scores and exponentials instead of keeping them, as any
backward near the hardware's limit does, so it has five products where the forward has two.
"""

from dataclasses import dataclass

import torch

from halobench.problem import Backend, Direction, Problem
from halobench.workload import Slot, Task

LSE_BYTES = 4  # one float32 log-sum-exp a query and head, from the forward pass to the backward pass


@dataclass(frozen=True)
class Cost:
    """FLOPs, bytes to and from device memory, and exponentials."""

    flops: int
    bytes: int
    exponentials: int

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.flops + other.flops, self.bytes + other.bytes, self.exponentials + other.exponentials)


@dataclass(frozen=True)
class Sizes:
    """Bytes of the tensors of a problem."""

    query: int
    key: int
    value: int
    output: int
    tables: int
    lse: int

    @classmethod
    def of(cls, problem: Problem) -> "Sizes":
        """The sizes of a problem's tensors."""
        item = torch.finfo(problem.torch_dtype).bits // 8
        pixels = problem.batch * problem.heads * problem.height * problem.width
        tables = 2 * (2 * problem.geometry.window - 1) * problem.key_dim if problem.relative else 0
        return cls(
            query=problem.queries * problem.key_dim * item,
            key=pixels * problem.key_dim * item,
            value=pixels * problem.value_dim * item,
            output=problem.queries * problem.value_dim * item,
            tables=tables * item,
            lse=problem.queries * LSE_BYTES,
        )


def forward(problem: Problem, *, keeps_lse: bool = False) -> Cost:
    """The useful forward pass: query . key and weights . value for visible pairs, positions for visible offsets."""
    pairs, sizes = problem.visible_pairs, Sizes.of(problem)
    flops = 2 * (problem.key_dim + problem.value_dim) * pairs + position_flops(problem)
    moved = sizes.query + sizes.key + sizes.value + sizes.tables + sizes.output
    return Cost(flops, moved + (sizes.lse if keeps_lse else 0), pairs)


def backward(problem: Problem) -> Cost:
    """The useful backward pass: scores again, then the gradients of weights, value, query and key.

    In: query, key, value, output, its gradient, log-sum-exp, tables. Out: the gradients of query, key, value, tables.
    """
    pairs, sizes = problem.visible_pairs, Sizes.of(problem)
    flops = (3 * 2 * problem.key_dim + 2 * 2 * problem.value_dim) * pairs + 3 * position_flops(problem)
    moved = 2 * (sizes.query + sizes.key + sizes.value + sizes.tables + sizes.output) + sizes.lse
    return Cost(flops, moved, pairs)


def position_flops(problem: Problem) -> int:
    """One product of a query with a table's vector for each row and each column that the query sees."""
    if not problem.relative:
        return 0
    geometry = problem.geometry
    rows = geometry.seen_along(problem.height) * geometry.queries(problem.width)
    columns = geometry.seen_along(problem.width) * geometry.queries(problem.height)
    return 2 * problem.key_dim * problem.batch * problem.heads * (rows + columns)


def passes(backend: Backend, task: Task, direction: Direction) -> list[Cost] | None:
    """The useful passes of a task, in order; of a backend that is no attention, its own. ``None``: unknown.

    A layer's projections are passes of their own: they read the map and write queries, keys and values.
    """
    problem = task.problem if isinstance(task, Slot) else task
    training = direction == "training"
    if backend.attend is None:
        return mixing_passes(backend, problem, direction)
    found = [forward(problem, keeps_lse=training)]
    if isinstance(task, Slot):
        projected = projections(task)
        found.insert(0, projected)
        if training:  # the gradients of the map and of the weights: twice the products, every tensor moved again
            found.append(Cost(2 * projected.flops, 2 * projected.bytes, 0))
    return [*found, backward(problem)] if training else found


def mixing_passes(backend: Backend, problem: Problem, direction: Direction) -> list[Cost] | None:
    """The passes of a backend that maps keys' channels to values' channels in some way of its own."""
    if backend.execution is None:
        return None
    execution, sizes = backend.execution(problem), Sizes.of(problem)
    moved = sizes.key + sizes.output
    found = [Cost(execution.forward_flops, moved, execution.forward_exponentials)]
    if direction == "training":
        found.append(Cost(execution.backward_flops, 2 * moved, execution.backward_exponentials))
    return found


def projections(slot: Slot) -> Cost:
    """The 1x1 convolutions of an attention layer: FLOPs, and bytes of the map, the weights and their results."""
    problem, sizes = slot.problem, Sizes.of(slot.problem)
    item = torch.finfo(problem.torch_dtype).bits // 8
    pixels = problem.batch * problem.heads * problem.height * problem.width
    outputs = problem.queries * problem.key_dim + pixels * (problem.key_dim + problem.value_dim)
    weights = slot.layer.channels * problem.heads * (2 * problem.key_dim + problem.value_dim)
    image = problem.batch * slot.layer.channels * problem.height * problem.width
    moved = (image + weights) * item + sizes.query + sizes.key + sizes.value
    return Cost(2 * slot.layer.channels * outputs, moved, 0)


def useful(backend: Backend, task: Task, direction: Direction) -> Cost | None:
    """The sum of the useful passes of a call; ``None``: unknown."""
    found = passes(backend, task, direction)
    return None if found is None else sum(found[1:], start=found[0])


def executed(backend: Backend, task: Task, direction: Direction) -> Cost | None:
    """What the backend executes by its own account, padding and dense masks included; ``None``: it gives none.

    Bytes are the useful ones, and each stored intermediate written once and read once; in training, so is the
    gradient of each. Caches may save some of them and badly fused kernels move more: it is a model, not a reading.
    """
    least = useful(backend, task, direction)
    if backend.execution is None or least is None:
        return None
    problem = task.problem if isinstance(task, Slot) else task
    execution = backend.execution(problem)
    training = direction == "training"
    flops, exponentials = execution.forward_flops, execution.forward_exponentials
    if training:
        flops, exponentials = flops + execution.backward_flops, exponentials + execution.backward_exponentials
    if isinstance(task, Slot) and backend.attend is not None:
        flops += projections(task).flops * (3 if training else 1)
    stored = execution.stored * torch.finfo(problem.torch_dtype).bits // 8
    return Cost(flops, least.bytes + 2 * stored * (2 if training else 1), exponentials)


def memory_bytes(backend: Backend, task: Task, direction: Direction) -> int | None:
    """A lower bound of the peak memory above the inputs, in closed form; ``None``: the backend gives no account.

    Forward: the output and the stored intermediates. Training: also the gradients of the operator's inputs, and of
    the stored intermediates. A layer adds its queries, keys and values.
    """
    if backend.execution is None:
        return None
    problem = task.problem if isinstance(task, Slot) else task
    sizes = Sizes.of(problem)
    stored = backend.execution(problem).stored * torch.finfo(problem.torch_dtype).bits // 8
    projected = sizes.query + sizes.key + sizes.value if isinstance(task, Slot) and backend.attend else 0
    if direction == "forward":
        return sizes.output + stored + projected
    gradients = sizes.key if backend.attend is None else sizes.query + sizes.key + sizes.value
    return sizes.output + 2 * stored + projected + gradients
