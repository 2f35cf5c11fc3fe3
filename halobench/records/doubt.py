"""When a run's own numbers say that they cannot be right."""

from collections.abc import Iterable

CERTAIN = 1 + 1e-6  # the call that raised a ceiling takes its floor, up to rounding


def brief(shares: Iterable[float]) -> str | None:
    """The same for the foot of a figure."""
    beyond = [share for share in shares if share > CERTAIN]
    if not beyond:
        return None
    said = "1 time beats its floor" if len(beyond) == 1 else f"{len(beyond)} times beat their floors"
    return f"shares too high: {said}, by up to {max(beyond):.3g}"


def doubted(shares: Iterable[float]) -> str | None:
    """What to say of a run in which some calls were faster than their floors, by the shares of all."""
    beyond = [share for share in shares if share > CERTAIN]
    if not beyond:
        return None
    said = (
        "1 time is shorter than its floor" if len(beyond) == 1 else f"{len(beyond)} times are shorter than their floors"
    )
    return (
        f"{said}, by a factor of up to {max(beyond):.3g}: this machine can "
        "do more than was measured at the start, when it may have been busy. All shares of the floor are too high here"
    )
