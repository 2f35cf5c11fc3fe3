"""When a run's own numbers say that they cannot be right."""

from collections.abc import Iterable

from halobench.wording import counted

CERTAIN = 1 + 1e-6  # the call that raised a ceiling takes its floor, up to rounding


def doubted(shares: Iterable[float]) -> str | None:
    """What to say of a run in which some calls were faster than their floors, by the shares of all."""
    if not (beyond := too_high(shares)):
        return None
    return (
        f"{counted(len(beyond), 'case')} took less time than the floor, by a factor of up to {max(beyond):.3g}: "
        "this machine can do more than was measured at the start, when it may have been busy. All shares of the floor "
        "are too high here"
    )


def brief(shares: Iterable[float]) -> str | None:
    """The same for the foot of a figure."""
    if not (beyond := too_high(shares)):
        return None
    return f"shares too high: {counted(len(beyond), 'case')} below the floor, by up to {max(beyond):.3g}"


def too_high(shares: Iterable[float]) -> list[float]:
    """Those of the shares that no call can have reached."""
    return [share for share in shares if share > CERTAIN]
