"""What bounds a case, in one sentence: its launches, or the ceiling that its executed work comes closest to."""

from dataclasses import dataclass

from halobench.cases.cost import Cost
from halobench.profile.recording import Recording
from halobench.records.roofline import Ceilings
from halobench.wording import counted, times_as

IDLE = 0.5
"""A call whose kernels are at work for less than this share of it waits for launches first of all."""
CEILINGS = ("memory", "arithmetic", "exponentials")


@dataclass(frozen=True)
class Verdict:
    """``bound`` is launches, memory, arithmetic or exponentials; ``times_ms`` what each ceiling alone would take."""

    bound: str
    times_ms: dict[str, float]
    sentence: str


def verdict(recording: Recording, executed: Cost | None, floor_ms: float | None, ceilings: Ceilings) -> Verdict:
    """Judge a recording. ``executed`` is the closed form of its work; without one, what was counted is taken."""
    amounts = work_of(recording, executed)
    rates = (ceilings.copy_bytes_per_s, ceilings.matmul_flops_per_s, ceilings.exponentials_per_s)
    times = {
        word: amount / rate * 1e3
        for word, amount, rate in zip(CEILINGS, amounts or (), rates, strict=False)
        if rate is not None
    }
    busy = min(recording.busy_ms / recording.loop_ms, 1.0)
    gap = (
        "" if floor_ms is None else f", {times_as(recording.loop_ms / floor_ms, 'long')} its floor of {floor_ms:.3g} ms"
    )
    kind = "kernel" if recording.device == "cuda" else "operation"
    start = f"{recording.name} takes {recording.loop_ms:.3g} ms a call{gap}, and is bound by"
    if busy < IDLE:
        launched = counted(round(recording.launches), kind)
        said = f"launches: {launched} at work for {busy:.0%} of that"
        return Verdict("launches", times, f"{start} {said}.")
    if not times:
        return Verdict("unknown", times, f"{start} what cannot be told: nothing is known of its work.")
    bound = max(times, key=lambda word: times[word])
    alone = times[bound] / recording.loop_ms
    far = "" if alone >= IDLE else ", more than any other limit, but its kernels stay far below that rate"
    said = f"{bound}: at this machine's best rate that alone takes {alone:.0%} of the time{far}"
    return Verdict(bound, times, f"{start} {said}.")


def work_of(recording: Recording, executed: Cost | None) -> tuple[float, float, float] | None:
    """Bytes, FLOPs and exponentials: the more of closed form and count, for each may miss what the other sees."""
    counted = recording.work
    if executed is None and counted is None:
        return None
    known = [one for one in (executed, counted) if one is not None]
    return (
        max(one.bytes for one in known),
        max(one.flops for one in known),
        max(one.exponentials for one in known),
    )
