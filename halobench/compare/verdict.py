"""A verdict a case, and what they mean together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from statistics import median

from halobench.compare.evidence import ENOUGH_RUNS, Evidence, enough, weigh
from halobench.compare.settings import Settings
from halobench.compare.sides import EXACT, Repeated
from halobench.compare.statistics import SIGNIFICANCE, Estimate, adjusted, least_p

BROKEN = ("INCORRECT", "TIMEOUT", "CRASHED")
"""Failures that are wrong wherever they appear; the others say what a case needs."""


class Verdict(StrEnum):
    """What became of a case."""

    SAME = "SAME"
    FASTER = "FASTER"
    SLOWER = "SLOWER"
    LARGER = "LARGER"
    AMBIGUOUS = "AMBIGUOUS"
    DISTURBED = "DISTURBED"
    NEW = "NEW"
    MISSING = "MISSING"
    FAILED = "FAILED"


@dataclass(frozen=True)
class Judged:
    """A case with its verdict.

    Args:
        case: its name.
        verdict: on the time, or on whether there is one; ``LARGER`` if that is no regression but something grew.
        reason: what decided it, in words.
        base_ms: the median of the base's runs, and ``head_ms`` of the head's; ``None`` where it has no time.
        time: head over base, ``cycles`` the same in SM cycles; ``q`` is the p-value corrected for all cases.
        threshold: the relative change that counts.
        advisory: why the time does not fail the gate, or ``None``.
        grown: the exact quantities that grew beyond their tolerance, in words, and ``shrunk`` those that fell.
    """

    case: str
    verdict: Verdict
    reason: str = ""
    base_ms: float | None = None
    head_ms: float | None = None
    time: Estimate | None = None
    cycles: Estimate | None = None
    q: float | None = None
    threshold: float = 0.0
    advisory: str | None = None
    grown: tuple[str, ...] = ()
    shrunk: tuple[str, ...] = ()

    @property
    def regressed(self) -> bool:
        """Whether the case fails the gate."""
        slower = self.verdict is Verdict.SLOWER and self.advisory is None
        return slower or self.exactly_regressed

    @property
    def exactly_regressed(self) -> bool:
        """Whether something got worse that no noise can explain: a new failure, memory, FLOPs."""
        return self.verdict is Verdict.FAILED or bool(self.grown)


def judge(base: Mapping[str, Repeated], head: Mapping[str, Repeated], settings: Settings) -> list[Judged]:
    """The verdicts of all cases of two sides, those of the base first."""
    names = list(dict.fromkeys([*base, *head]))
    judged: dict[str, Judged] = {}
    timed: list[str] = []
    for name in names:
        fate = without_time(name, base.get(name), head.get(name))
        if fate is None:
            timed.append(name)
        else:
            judged[name] = fate
    for each in conclude(weigh(timed, base, head), settings):
        judged[each.case] = under_load(each, base[each.case], head[each.case])
    return [with_exact(judged[name], base.get(name), head.get(name), settings) for name in names]


def without_time(name: str, base: Repeated | None, head: Repeated | None) -> Judged | None:
    """The verdict of a case that cannot be compared in time, or ``None``."""
    if head is None:
        return Judged(name, Verdict.MISSING, "the head did not measure it")
    before, after = (side.failures[0] if side and side.failures else None for side in (base, head))
    reason = f"{after[0]}: {after[1]}" if after else f"was {before[0]}" if before else ""
    if base is None or not base.samples_ms:
        if after is None:
            return Judged(name, Verdict.NEW, reason)
        broke = after[0] in BROKEN and (before is None or before[0] not in BROKEN)
        verdict = Verdict.FAILED if broke else Verdict.NEW if before is None else Verdict.SAME
        return Judged(name, verdict, reason)
    if after is not None and before is None:
        return Judged(name, Verdict.FAILED, reason)
    if not head.samples_ms:
        return Judged(name, Verdict.AMBIGUOUS, f"fails in some runs of the base too; {reason}")
    return refitted(name, base.batch, head.batch) or unsampled(name, base, head)


def unsampled(name: str, base: Repeated, head: Repeated) -> Judged | None:
    """The verdict where runs gave their medians alone and are too few to be compared; else ``None``."""
    if enough(base, head) or all(len(samples) > 1 for samples in (*base.samples_ms, *head.samples_ms)):
        return None
    before, after = (median(side.medians_ms) for side in (base, head))
    reason = f"{after / before - 1:+.1%} of one median a run: no raw samples, and fewer than {ENOUGH_RUNS} runs a side"
    return Judged(name, Verdict.AMBIGUOUS, reason, base_ms=before, head_ms=after)


def under_load(judged: Judged, base: Repeated, head: Repeated) -> Judged:
    """The verdict, unless something else was at work while a side was measured: its times say nothing of the code."""
    for name, side in (("base", base), ("head", head)):
        if side.under_load is not None:
            reason = f"{name} was measured under {side.under_load}"
            return replace(judged, verdict=Verdict.DISTURBED, reason=reason)
    return judged


def refitted(name: str, before: float | None, after: float | None) -> Judged | None:
    """The verdict of a network whose batch was halved until it fitted, and is another one now; else ``None``."""
    if before is None or after is None or before == after:
        return None
    verdict = Verdict.FAILED if after < before else Verdict.NEW
    return Judged(name, verdict, f"fits at batch {after:g}, before at {before:g}")


def conclude(evidence: Mapping[str, Evidence], settings: Settings) -> list[Judged]:
    """The verdicts on times, of all cases together: the more there are, the stronger each must be."""
    corrected = adjusted([each.time.p for each in evidence.values()])
    judged = []
    for (name, each), q in zip(evidence.items(), corrected, strict=True):
        threshold, hardest_q = settings.threshold(name), least_p(*each.replicates) * len(evidence)
        between = max(threshold, settings.between_runs_percent / 100)
        if each.few_runs:
            threshold = between
        case = Judged(
            name,
            Verdict.SAME,
            base_ms=each.base_ms,
            head_ms=each.head_ms,
            time=each.time,
            cycles=each.cycles,
            q=q,
            threshold=threshold,
            advisory=settings.advised(name, each.base_ms),
        )
        least = settings.threshold_us / 1e3 / each.base_ms
        verdict, reason = decide(each, q, max(threshold, least), hardest_q, max(between, least))
        judged.append(replace(case, verdict=verdict, reason=reason))
    return judged


def decide(evidence: Evidence, q: float, least: float, hardest_q: float, between: float) -> tuple[Verdict, str]:
    """Whether a time changed by more than ``least``, and why not if it looks so.

    ``hardest_q`` is the corrected p-value that a case can reach if it alone has changed. Where that is not enough,
    there are too few replicates for so many cases, and a change must exceed ``between``, which two runs may differ by.
    """
    kinds = [evidence.time] if evidence.cycles is None else [evidence.time, evidence.cycles]
    changed = direction(kinds, least)
    if changed is not None and q <= SIGNIFICANCE:
        return changed, ""
    if changed is not None and hardest_q > SIGNIFICANCE:
        few = f"too few runs for {least:.1%} among so many cases"
        return (changed, "") if direction(kinds, between) is changed else (Verdict.AMBIGUOUS, few)
    if changed is not None:
        return Verdict.AMBIGUOUS, f"not significant, q = {q:.2g}"
    if evidence.time.low >= 1 / (1 + least) and evidence.time.high <= 1 + least:
        return Verdict.SAME, ""
    if evidence.cycles is not None and (evidence.time.low > 1 + least or evidence.time.high < 1 / (1 + least)):
        return Verdict.AMBIGUOUS, "not in SM cycles: the clock differed"
    return Verdict.AMBIGUOUS, f"{least:.1%} neither shown nor excluded"


def direction(kinds: Sequence[Estimate], least: float) -> Verdict | None:
    """Whether all estimates agree on a change by more than ``least``."""
    if all(kind.low > 1 + least for kind in kinds):
        return Verdict.SLOWER
    return Verdict.FASTER if all(kind.high < 1 / (1 + least) for kind in kinds) else None


def with_exact(judged: Judged, base: Repeated | None, head: Repeated | None, settings: Settings) -> Judged:
    """The verdict with what changed in memory and FLOPs, of the same work."""
    if base and head and not head.at_batch(base.batch):
        return judged
    grown, shrunk = [], []
    for name in EXACT:
        before, after = (side.value(name) if side else None for side in (base, head))
        if before is None or after is None:
            continue
        tolerance = before * settings.memory_percent / 100 if name == "peak_bytes" else 0.0
        change = f"{name} {before:.0f} -> {after:.0f}" + (f" ({after / before - 1:+.1%})" if before else "")
        if after > before + tolerance:
            grown.append(change)
        elif after < before - tolerance:
            shrunk.append(change)
    alone = bool(grown) and judged.verdict not in (Verdict.SLOWER, Verdict.FAILED)
    verdict = Verdict.LARGER if alone else judged.verdict
    return replace(judged, verdict=verdict, grown=tuple(grown), shrunk=tuple(shrunk))
