"""What consecutive cases of networks share: their rival, prepared once and kept on the device until it is cleared."""

from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar

from halobench.measure import memory


class Resident(Protocol):
    """Something that stays in memory."""

    resident_bytes: int


Kept = TypeVar("Kept", bound=Resident)


class Rivals(Generic[Kept]):
    """The last thing prepared, by its key; another key takes its place."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, Kept] = {}

    def prepare(self, key: Hashable, make: Callable[[], Kept]) -> Kept:
        """What an earlier case kept under this key, or what ``make`` makes now."""
        if key not in self._kept:
            self.clear()
            self._kept[key] = make()
        return self._kept[key]

    @property
    def held_bytes(self) -> int:
        """Memory of what is kept, which is no leak."""
        return sum(kept.resident_bytes for kept in self._kept.values())

    def clear(self) -> None:
        """Let go of what is kept."""
        self._kept.clear()
        memory.release()
