"""Files that are written whole or not at all."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from halobench.train.unusable import Unusable


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to: it takes the old file's place at the end of the context, or disappears.

    Raises:
        Unusable: it cannot be written, the disk being full for example; the old file is kept.
    """
    beside = path.with_name(f"{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield beside
        beside.replace(path)
    except (OSError, RuntimeError) as error:
        cause = refusal(error)
        if cause is None:
            raise
        kept = "the last one is kept" if path.exists() else "there is none yet"
        raise Unusable(f"{path} cannot be written: {cause}; {kept}") from error
    finally:
        beside.unlink(missing_ok=True)


def refusal(error: BaseException | None) -> str | None:
    """What the system said where this error began, or ``None``: ``torch.save`` turns it into one of its own."""
    while error is not None and not isinstance(error, OSError):
        error = error.__context__
    return None if error is None else error.strerror or str(error)


def write_table(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows as CSV, the whole file at once. Raises ``Unusable`` as ``whole`` does."""
    with whole(path) as beside, beside.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, columns, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
