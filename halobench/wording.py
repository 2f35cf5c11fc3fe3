"""Numbers in sentences: 1 file, 2 files; 1.3 times as long, and never "1 times" as long. Names of files as text."""

import os


def counted(number: float, noun: str, many: str | None = None) -> str:
    """How many of something there are: ``1 file``, ``0 files``. ``many`` is a plural that is not the noun and an s."""
    return f"{number:.15g} {noun if number == 1 else many or f'{noun}s'}"


def times_as(factor: float, what: str) -> str:
    """A factor in three digits in front of a comparison: ``1.3 times as long as``; where it rounds to one, without."""
    said = f"{factor:.3g}"
    return f"as {what} as" if said == "1" else f"{said} times as {what} as"


def told_apart(one: float, other: float) -> tuple[str, str]:
    """Two numbers in three digits, or in as many more as tell them apart."""
    said = [(f"{one:.{digits}g}", f"{other:.{digits}g}") for digits in range(3, 18)]
    return next((pair for pair in said if pair[0] != pair[1]), said[0])


def legible(name: str) -> str:
    """The name of a file as text: UTF-8 in any locale, with bytes that are none escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
