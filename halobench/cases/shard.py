"""A shard of a sweep: the cases that one of several runs takes, the same on every machine.

Which cases it takes depends on the cases alone, and not on what is installed or how fast a machine is. They are
weighed by a prediction: what a run on an H100 spent on a case, to the order of magnitude (``results/h100-default.json``
and ``h100-training.json``). Cases that share a rival, or compiled code, stay together, so that it is made once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from halobench.cases.case import Case
from halobench.cases.network import AnyCase, Network

OPERATOR_S = 0.4  # compiling, warming up, checking and measuring, whatever the size
FLOPS_PER_S = 5e11  # of one call over full windows, for all the calls of a case
NETWORK_S, COMPILING_S = 4.0, 20.0


@dataclass(frozen=True)
class Shard:
    """Number ``number`` of ``count`` shards, from 1 on.

    Raises:
        ValueError: there is no such shard.
    """

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise ValueError(f"--shard must be a number of a count, such as 2/8, got {self.number}/{self.count}")

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """The shard that ``2/8`` names.

        Raises:
            ValueError: it names none.
        """
        number, _, count = text.partition("/")
        if not (number.isascii() and number.isdigit() and count.isascii() and count.isdigit()):
            raise ValueError(f"--shard must be a number of a count, such as 2/8, got {text!r}")
        return cls(int(number), int(count))

    def takes(self, cases: Sequence[AnyCase]) -> list[bool]:
        """Whether this shard takes each case: the longest groups first, each to the shard that has least to do."""
        groups = [list(group) for _, group in groupby(range(len(cases)), lambda index: together(cases[index]))]
        seconds = [predicted_s([cases[index] for index in group]) for group in groups]
        load, owner = [0.0] * self.count, [0] * len(cases)
        for group, spent in sorted(zip(groups, seconds, strict=True), key=lambda one: -one[1]):
            least = load.index(min(load))
            load[least] += spent
            for index in group:
                owner[index] = least + 1
        return [number == self.number for number in owner]


def together(case: AnyCase) -> object:
    """What neighbours share that are to stay together: a rival; of operators and layers, nothing does."""
    return case.name if isinstance(case, Case) else case.scope


def predicted_s(cases: Sequence[AnyCase]) -> float:
    """Seconds that a run needs for these neighbours, roughly."""
    total, networks = 0.0, set[Network]()
    for case in cases:
        if isinstance(case, Case):
            problem = case.problem
            forward = 2 * problem.window_pairs * (problem.key_dim + problem.value_dim)
            total += OPERATOR_S + (forward if case.direction == "forward" else 3.5 * forward) / FLOPS_PER_S
        else:
            total += NETWORK_S
            networks |= {network for network in (case.network, case.rival) if network is not None and network.compiled}
    return total + COMPILING_S * len(networks)
