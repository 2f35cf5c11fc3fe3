"""When a run's own numbers say that they cannot be right."""

from collections.abc import Iterable


def doubted(shares: Iterable[float]) -> str | None:
    """What to say of a run in which some calls were faster than their floors, by the shares of all."""
    beyond = sum(share > 1 for share in shares)
    if not beyond:
        return None
    return (
        f"{beyond} times are shorter than their floors, which cannot be: the machine was busy when its ceilings were "
        "measured. No share of the floor holds in this run"
    )
