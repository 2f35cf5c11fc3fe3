"""Marked sections of a Markdown page: what stands between two comments is made, all around them is written."""

import re
from collections.abc import Callable, Mapping

Sections = Mapping[str, Callable[[], str]]
BEGIN = "<!-- {}: made by python -m halobench.pages -->"
END = "<!-- end of {} -->"
MARK = re.compile(
    r"^<!-- (?:(?P<begun>[\w-]+): made by python -m halobench\.pages|end of (?P<ended>[\w-]+)) -->$", re.MULTILINE
)


class PageError(ValueError):
    """A page whose marks cannot be understood; the message names what is wrong."""


def marked(text: str) -> list[str]:
    """The names of a page's sections, in their order.

    Raises:
        PageError: a section is not ended, or ended where none began.
    """
    names, inside = [], None
    for mark in MARK.finditer(text):
        begun, ended = mark["begun"], mark["ended"]
        if (begun is not None) == (inside is not None) or (ended is not None and ended != inside):
            raise PageError(f"{mark[0]} stands {f'inside of {inside}' if inside else 'outside of any section'}")
        inside = begun
        names += [begun] if begun else []
    if inside is not None:
        raise PageError(f"{inside} has no {END.format(inside)}")
    return names


def filled(text: str, sections: Sections) -> str:
    """The page with its sections made anew.

    Raises:
        PageError: the marks cannot be understood, or there is no section of a name.
    """
    for name in marked(text):
        if name not in sections:
            raise PageError(f"there is no section {name!r}; there are {', '.join(sorted(sections))}")
        before, _, rest = text.partition(f"{BEGIN.format(name)}\n")
        _, _, after = rest.partition(END.format(name))
        text = f"{before}{BEGIN.format(name)}\n\n{sections[name]().strip()}\n\n{END.format(name)}{after}"
    return text
