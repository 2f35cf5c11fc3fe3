"""Runs of two sides, invented, for tests of comparing: a case of one side may be slower, or larger."""

import copy
import random

from halobench.compare import sides
from halobench.compare.outcome import Outcome
from halobench.compare.settings import Settings
from halobench.compare.sides import Repeated
from halobench.compare.verdict import judge
from tests import results_files

SLOW = "operator/sdpa/forward"
SLOW_NETWORK = "training/sdpa/training"
NOISE = 0.002


def operators():
    """The rows of two backends, both ways."""
    return [results_files.row(backend, way) for backend in ("sdpa", "flex") for way in ("forward", "training")]


def networks():
    """The rows of a network with two backends, and of its rival."""
    rows = [results_files.network_row("efficientnet_b0")]
    return [
        *rows,
        *[results_files.network_row("halonet_h0", each, rival="efficientnet_b0") for each in ("sdpa", "fused")],
    ]


def mixed():
    """The rows of operators and of networks."""
    return [*operators(), *networks()]


def rows(seed, *, made=operators, slow=SLOW, factor=1.0, samples=30, mhz=1980.0, change=None):
    """The rows of a run; the times of ``slow`` are longer by a factor, and every process is a little off."""
    source = random.Random(seed)
    made = copy.deepcopy(made())
    for row in made:
        middle = row["latency"]["median_ms"] * 10 * source.gauss(1, NOISE)
        middle *= factor if row["case"].startswith(slow) else 1.0
        row["samples_ms"] = [middle * source.gauss(1, NOISE) for _ in range(samples)]
        row["clock"]["sm_mhz"] = mhz
        if change:
            change(row)
    return made


def folder(tmp_path, name, seed, runs=8, **changes):
    """A folder of runs."""
    place = tmp_path / name
    place.mkdir()
    for number in range(runs):
        results_files.write(place / f"{number}.json", rows(f"{seed}-{number}", **changes), gpu=results_files.H100)
    return place


def case_of(judged, start=SLOW):
    """The one case whose name starts so."""
    (case,) = [case for case in judged if case.case.startswith(start)]
    return case


def judged(tmp_path, *, base=None, head=None, chosen=None, **more):
    """The verdicts on a folder of runs of each side. ``base`` and ``head`` change the rows of one, ``more`` of both."""
    one, other = (
        folder(tmp_path, "base", 1, **(base or {}), **more),
        folder(tmp_path, "head", 2, **(head or {}), **more),
    )
    return judge(sides.load(one).cases, sides.load(other).cases, chosen or Settings())


def times(seed, factor=1.0, runs=8, noise=0.001):
    """A case over runs of one sample each, of about 1 ms."""
    source = random.Random(seed)
    return Repeated(samples_ms=[(factor * source.gauss(1, noise),) for _ in range(runs)])


def failing(status):
    """A case of this status in its only run."""
    return Repeated(failures=[(status, "why")])


def outcome(*cases, control=()):
    """What these verdicts mean together."""
    return Outcome("base", "head", cases, Settings(), control=control)
