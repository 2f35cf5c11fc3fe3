"""The files of a run that cannot be read: found before it, named once, and counted."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from torch.utils.data import DataLoader, Dataset

from halobench import terminal
from halobench.train.data import Images
from halobench.train.processes import Processes
from halobench.train.reading import Unread
from halobench.train.unusable import DataError
from halobench.wording import counted


class Unreadable:
    """The unreadable files of a run on the images in a folder, up to ``allowed``; each is named once."""

    def __init__(self, folder: Path, allowed: int) -> None:
        self.folder, self.allowed = folder, allowed
        self.names: set[str] = set()  # relative to the folder, which may be another one when a run goes on

    def note(self, found: Iterable[Unread], say: Callable[[str], None]) -> None:
        """Name the files that were found, and pass over them.

        Raises:
            DataError: they are too many.
        """
        for path, message in found:
            name = os.path.relpath(path, self.folder)
            if name in self.names:
                continue
            if not self.allowed:
                raise DataError(f"{message} (--check-data lists such files, --skip-unreadable goes on without them)")
            self.names.add(name)
            say(f"passed over: {message}")
        self.refuse_too_many()

    def add(self, found: Iterable[Unread]) -> None:
        """Pass over files that were named already. Raises as ``note`` does."""
        self.names.update(os.path.relpath(path, self.folder) for path, _ in found)
        self.refuse_too_many()

    def share(self, processes: Processes) -> None:
        """Know what the other processes found; called by all of them at the same time. Raises as ``note`` does."""
        self.names = {name for names in processes.gathered(self.names) for name in names}
        self.refuse_too_many()

    def refuse_too_many(self) -> None:
        """Raise ``DataError`` where there are more than allowed."""
        if len(self.names) > self.allowed:
            raise DataError(
                f"{counted(len(self.names), 'file')} of {self.folder} cannot be read, "
                f"more than --skip-unreadable {self.allowed}"
            )


class Headers(Dataset[list[Unread]]):
    """Images whose headers alone are read: an item is what is wrong with one."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> list[Unread]:
        try:
            self.images.examine(index)
        except DataError as error:
            return [(str(self.images.sources[index]), str(error))]
        return []


def bad_headers(parts: Iterable[Images], workers: int, processes: Processes) -> list[Unread]:
    """The files whose headers cannot be read, found by all processes together and known to all."""
    found: list[Unread] = []
    for images in parts:
        share = range(processes.rank, len(images), processes.count)
        loaded: DataLoader[list[Unread]] = DataLoader(
            Headers(images), batch_size=64, sampler=share, num_workers=workers, collate_fn=flat,
            worker_init_fn=terminal.leave_interrupts,
        )  # fmt: skip
        mine = [each for batch in loaded for each in batch]
        found += sorted(each for theirs in processes.gathered(mine) for each in theirs)
    return found


def flat(items: Iterable[list[Unread]]) -> list[Unread]:
    """Several lists as one."""
    return [each for item in items for each in item]
