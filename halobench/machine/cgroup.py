"""What a container may use: the limits of this process's control groups, of version 1, 2 or both.

Limits hold along the whole path from a group up to the root that can be seen, so the least of them counts. Where there
are no control groups, nothing is limited.
"""

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

START, PLACE = 3, 4  # of the fields of a mount: what of the file system is mounted, and where
UNLIMITED = 2**60  # version 1 says "no limit" with a number that no machine has


@dataclass(frozen=True)
class Cgroup:
    """The groups that a process is in. ``root`` is where its files are looked for: ``/`` but in tests."""

    root: Path = field(default=Path("/"))

    def folders(self, controller: str) -> list[tuple[int, Path]]:
        """The group of a controller and those above it, the innermost first, each with its version, 1 or 2."""
        found: list[tuple[int, Path]] = []
        mounts = list(self.mounts())
        for line in lines(self.root / "proc/self/cgroup"):
            if line.count(":") < 2:  # it names no group
                continue
            _, controllers, path = line.split(":", 2)
            version = 1 if controllers else 2
            if version == 1 and controller not in controllers.split(","):
                continue
            for kind, options, start, place in mounts:
                if kind == version and (version == 2 or controller in options):
                    found += [(version, folder) for folder in upwards(self.root / place.lstrip("/"), start, path)]
                    break
        return found

    def mounts(self) -> Iterator[tuple[int, list[str], str, str]]:
        """The mounted hierarchies: version, controllers, the group that is at the mount point, and the mount point."""
        for line in lines(self.root / "proc/self/mountinfo"):
            before, _, after = line.partition(" - ")
            fields, (kind, *others) = before.split(" "), after.split(" ")
            if kind in ("cgroup", "cgroup2") and others and len(fields) > PLACE:
                start, place = (unescaped(fields[at]) for at in (START, PLACE))
                yield (2 if kind == "cgroup2" else 1), others[-1].split(","), start, place

    def memory_limit(self) -> int | None:
        """The least limit of memory, bytes."""
        limits = [limit for limit, _ in self.memory()]
        return min(limits, default=None)

    def memory_free(self) -> int | None:
        """What may still be taken before some group's limit is reached, bytes; ``None`` where there is none.

        Cached pages of files that nobody has used lately count as free: the kernel drops them first.
        """
        return min((max(limit - used, 0) for limit, used in self.memory()), default=None)

    def memory(self) -> Iterator[tuple[int, int]]:
        """Limit and use of each group that has a limit, bytes."""
        for version, folder in self.folders("memory"):
            names = (
                ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
            )
            limit, used = (number(folder / name) for name in names)
            if limit is not None and limit < UNLIMITED:
                cached = table(folder / "memory.stat").get(
                    "inactive_file" if version == 2 else "total_inactive_file", 0
                )
                yield limit, max((used or 0) - cached, 0)

    def processors(self) -> float:
        """How many processors may be used at once: by affinity, sets of processors, and quota, which may be a part."""
        known = [float(affinity()), *self.quotas()]
        for version, folder in self.folders("cpuset"):
            names = ("cpuset.cpus.effective",) if version == 2 else ("cpuset.effective_cpus", "cpuset.cpus")
            known += [count for name in names if (count := members(folder / name))]
        return min(known)

    def quotas(self) -> Iterator[float]:
        """Processor time a second that each group may use."""
        for version, folder in self.folders("cpu"):
            if version == 2:
                given = text(folder / "cpu.max").split()
            else:
                given = [text(folder / name) for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")]
            if len(given) == 2 and all(part.isdecimal() for part in given) and int(given[1]) > 0:
                yield int(given[0]) / int(given[1])

    def throttled_s(self) -> float | None:
        """Seconds for which processors were kept from this process's groups because their quota was used up."""
        known = []
        for version, folder in self.folders("cpu"):
            found = table(folder / "cpu.stat")
            name, unit = ("throttled_usec", 1e-6) if version == 2 else ("throttled_time", 1e-9)
            known += [found[name] * unit] if name in found else []
        return max(known, default=None)

    def killed(self) -> int | None:
        """How many processes the kernel has killed for want of memory: in this group, or else on the machine."""
        for version, folder in self.folders("memory"):
            found = table(folder / ("memory.events" if version == 2 else "memory.oom_control"))
            if "oom_kill" in found:
                return found["oom_kill"]
        return table(self.root / "proc/vmstat").get("oom_kill")


def upwards(place: Path, start: str, path: str) -> list[Path]:
    """The folders of a group and of those above it, up to the mount point, which shows the group ``start``.

    Inside a container the path may be the host's; what can be seen there is the mount point alone.
    """
    inside = os.path.relpath(path, start)
    folder = place / inside if not inside.startswith("..") else place
    if not folder.is_dir():
        folder = place
    return [each for each in (folder, *folder.parents) if each == place or place in each.parents]


def affinity() -> int:
    """The processors that this process may be put on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def whole(processors: float) -> int:
    """So many processors as a number of threads or processes: a part of one would only wait for its quota."""
    return max(1, math.floor(processors + 0.01))


def workers() -> int:
    """How many processes or threads may work at once here, one at least."""
    return whole(Cgroup().processors())


def text(file: Path) -> str:
    """What a file holds, without the line's end; empty where there is none. Names in it may be of any bytes."""
    try:
        return os.fsdecode(file.read_bytes()).strip()
    except OSError:
        return ""


def unescaped(name: str) -> str:
    """The name of a file as it is, where the kernel writes a space as a backslash and 040."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), name)


def lines(file: Path) -> list[str]:
    """The lines of a file; none where there is no file."""
    return [line for line in text(file).split("\n") if line]


def number(file: Path) -> int | None:
    """The number in a file; ``None`` where there is none, as for "max"."""
    found = text(file)
    return int(found) if found.isdecimal() else None


def table(file: Path) -> dict[str, int]:
    """A file of names and numbers."""
    pairs = (line.split() for line in lines(file))
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}


def members(file: Path) -> float | None:
    """How many processors a list such as ``0-2,8`` names."""
    count = 0
    for part in text(file).split(","):
        first, _, last = part.partition("-")
        if not first.isdecimal():
            return None
        count += int(last or first) - int(first) + 1
    return float(count)
