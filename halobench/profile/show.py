"""A profile on the terminal and on disk: the table of kernels, the memory over time, and two beside each other."""

from pathlib import Path

import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Group
from rich.text import Text

from halobench import terminal
from halobench.profile.recording import Kernel, Recording
from halobench.records.roofline import Ceilings
from halobench.wording import counted, times_as

ROWS = 25
LEAST_SHARE = 0.005
LONGEST = 70
COLUMNS = ("kernel", "ms", "share", "launches", "MB", "GFLOP", "floor ms", "x floor")


def kernels(recording: Recording, ceilings: Ceilings, title: str) -> Group:
    """The kernels that take longest. ``floor`` is what the best rates allow the work of a kernel, where it is known."""
    long = [kernel for kernel in recording.kernels if kernel.ms >= LEAST_SHARE * recording.busy_ms][:ROWS]
    rows = [row(kernel, recording.busy_ms, ceilings) for kernel in long]
    rest = recording.kernels[len(long) :]
    if rest:
        launches = sum(kernel.launches for kernel in rest)
        rows.append(
            row(Kernel(f"{len(rest)} more", sum(one.ms for one in rest), launches, None), recording.busy_ms, ceilings)
        )
    rows.append(row(Kernel("all", recording.busy_ms, recording.launches, recording.work), recording.busy_ms, ceilings))
    return Group(Text(title, style="bold"), terminal.table("", COLUMNS, rows))


def row(kernel: Kernel, busy_ms: float, ceilings: Ceilings) -> list[object]:
    """A line of the table, per call."""
    work, floor = kernel.work, least_ms(kernel, ceilings)
    return [
        kernel.name[:LONGEST],
        f"{kernel.ms:.4g}",
        f"{kernel.ms / busy_ms:.1%}" if busy_ms else None,
        f"{kernel.launches:g}",
        f"{work.bytes / 1e6:.4g}" if work and work.bytes else None,
        f"{work.flops / 1e9:.4g}" if work and work.flops else None,
        f"{floor:.4g}" if floor else None,
        f"{kernel.ms / floor:.3g}" if floor else None,
    ]


def least_ms(kernel: Kernel, ceilings: Ceilings) -> float | None:
    """The longest of a kernel's bytes, FLOPs and exponentials at the best rates of the machine."""
    if kernel.work is None:
        return None
    pairs = (
        (kernel.work.bytes, ceilings.copy_bytes_per_s),
        (kernel.work.flops, ceilings.matmul_flops_per_s),
        (kernel.work.exponentials, ceilings.exponentials_per_s),
    )
    return (
        max(amount / rate * 1e3 for amount, rate in pairs if rate is not None)
        if any(rate for _, rate in pairs)
        else None
    )


def write_table(recording: Recording, ceilings: Ceilings, folder: Path) -> None:
    """``kernels.csv``: all kernels, unrounded."""
    records = [
        {
            "kernel": kernel.name,
            "ms": kernel.ms,
            "share": kernel.ms / recording.busy_ms,
            "launches": kernel.launches,
            "bytes": kernel.work and kernel.work.bytes,
            "flops": kernel.work and kernel.work.flops,
            "exponentials": kernel.work and kernel.work.exponentials,
            "floor_ms": least_ms(kernel, ceilings),
        }
        for kernel in recording.kernels
    ]
    pd.DataFrame(records).to_csv(folder / "kernels.csv", index=False, lineterminator="\n")


def write_memory(recording: Recording, folder: Path) -> None:
    """``memory.csv`` and ``memory.png``: the bytes that one call holds above what was there before it, over time."""
    times, in_use = zip(*recording.memory, strict=True)
    pd.DataFrame({"ms": times, "bytes": in_use}).to_csv(folder / "memory.csv", index=False, lineterminator="\n")
    figure = Figure((8, 3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    mib = [bytes_ / 2**20 for bytes_ in in_use]
    axes.step(times, mib, where="post")
    axes.fill_between(times, mib, step="post", alpha=0.3)
    axes.set(
        xlabel="ms since the call began, under the profiler", ylabel="MiB in use", title=f"Memory of {recording.name}"
    )
    figure.savefig(folder / "memory.png", dpi=120)


def difference(one: Recording, other: Recording) -> Group:
    """Two profiles of one problem: the totals first, then the kernels by how far they are apart."""
    totals: list[tuple[str, float, float]] = [
        ("time of a call, ms", one.loop_ms, other.loop_ms),
        ("kernels at work, ms", one.busy_ms, other.busy_ms),
        ("launches", one.launches, other.launches),
        ("peak memory, MiB", one.peak_bytes / 2**20, other.peak_bytes / 2**20),
    ]
    if one.work and other.work:
        totals.append(("bytes of all operations, MB", one.work.bytes / 1e6, other.work.bytes / 1e6))
        totals.append(("FLOPs of all operations, GFLOP", one.work.flops / 1e9, other.work.flops / 1e9))
    times = {kernel.name: [kernel.ms, 0.0] for kernel in one.kernels}
    for kernel in other.kernels:
        times.setdefault(kernel.name, [0.0, 0.0])[1] = kernel.ms
    least = LEAST_SHARE * max(one.busy_ms, other.busy_ms)
    apart = sorted(times.items(), key=lambda item: -abs(item[1][1] - item[1][0]))[:ROWS]
    apart = [(name, pair) for name, pair in apart if abs(pair[1] - pair[0]) >= least]
    rows = [*totals, *((f"{name[:LONGEST]}, ms", pair[0], pair[1]) for name, pair in apart)]
    lines = [[name, f"{left:.4g}", f"{right:.4g}", f"{right - left:+.4g}"] for name, left, right in rows]
    columns = ("", one.name, other.name, "difference")
    return Group(Text(f"{other.name} against {one.name}", style="bold"), terminal.table("", columns, lines))


def compared(one: Recording, other: Recording) -> str:
    """Who is faster, and which kernels make most of the difference, in a sentence."""
    ratio = one.loop_ms / other.loop_ms
    verb = f"is {times_as(ratio, 'fast')}" if ratio >= 1 else f"takes {times_as(1 / ratio, 'long')}"
    work = f"{counted(round(other.launches), 'launch', 'launches')} instead of {one.launches:.0f}"
    peak = f"a peak of {other.peak_bytes / 2**20:.4g} MiB instead of {one.peak_bytes / 2**20:.4g}"
    return f"{other.name} {verb} {one.name}, with {work} and {peak}."
