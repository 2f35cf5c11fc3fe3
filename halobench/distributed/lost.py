"""Which rank is to blame when an exchange fails.

Whoever waits in vain first says so in the group's store: "I wait for rank 2". A rank whose partner waits itself follows
it to the one that nobody has heard of. So all name the same rank, the one that died or lags, and not their neighbour
who waits for it as they do.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from torch import distributed
from torch.distributed import ProcessGroup
from torch.distributed.distributed_c10d import Store, _get_process_group_store

GRACE = timedelta(seconds=3)  # in which another rank that waits, too, should have said so
ANYONE = -1  # what a rank waits for in a collective


class RankLost(RuntimeError):
    """Other ranks did not answer within the group's time-out, and the group is of no more use.

    ``ranks`` are they, as the default group counts; none where all others had given up before: on the rank that lags.
    """

    def __init__(self, rank: int, wanted: str, ranks: list[int]) -> None:
        super().__init__(rank, wanted, ranks)
        self.ranks = ranks

    def __str__(self) -> str:
        rank, wanted, ranks = self.args
        reason = f"no word from rank {', '.join(map(str, ranks))}" if ranks else "the others had given up"
        return f"rank {rank} waited in vain for {wanted}: {reason}"


@contextmanager
def waiting(group: ProcessGroup, peer: int, wanted: str) -> Iterator[None]:
    """Wait here for the ``peer``'s part (a rank of the group, or ``ANYONE``).

    Raises:
        RankLost: it did not come within the group's time-out, or the connection broke.
    """
    try:
        yield
    except RuntimeError as error:
        ranks = [distributed.get_global_rank(group, rank) for rank in silent(group, peer)]
        raise RankLost(distributed.get_rank(), wanted, ranks) from error


def silent(group: ProcessGroup, peer: int) -> list[int]:
    """The ranks of the group that keep the others waiting, as far as this rank, which waits for ``peer``, can tell."""
    store: Store = _get_process_group_store(group)
    me = group.rank()
    followed = {me}
    try:
        store.set(f"halobench/waits/{me}", str(peer))
        while peer not in followed and peer != ANYONE:
            followed.add(peer)
            awaited = waits_for(store, peer)
            if awaited is None:
                return [peer]
            peer = awaited
        return [rank for rank in range(group.size()) if rank not in followed and waits_for(store, rank) is None]
    except RuntimeError:  # whoever kept the store is gone
        return [] if peer == ANYONE else [peer]


def waits_for(store: Store, rank: int) -> int | None:
    """For which rank this one waits, or ``None`` where nothing is heard of it."""
    key = f"halobench/waits/{rank}"
    try:
        store.wait([key], GRACE)
    except RuntimeError:
        return None
    return int(store.get(key))
