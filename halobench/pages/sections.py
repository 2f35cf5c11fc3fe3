"""Which sections there are, and what makes each: functions of the results, in the order of the pages that show them."""

from functools import cache, partial
from pathlib import Path

from halobench.figures.selection import network_selections, selections
from halobench.pages import agreement, detection, dictionary, networks, operators, precision, runs, shared, steps
from halobench.pages.marks import Sections
from halobench.records.table import SUFFIXES, Results, read, read_all

TWICE = ("h100-default.json", "h100-default-again.json")
"""Two runs of one commit, one after the other."""
IGNORED = "mine"
"""What the names of results begin with that are not to be published."""


def sections(folder: Path) -> Sections:
    """What makes each section, by name, from the results files in this folder. Nothing is read before it is asked for.

    Raises:
        ResultsError: when a section is made whose results cannot be read.
    """
    every = cache(partial(published, folder))
    made = {
        "reference": lambda: operators.reference(selections(every())),
        "reference-briefly": lambda: operators.reference_briefly(selections(every())),
        "stages": lambda: operators.stages(selections(every())),
        "pairs": lambda: networks.pairs(network_selections(every())),
        "pairs-briefly": lambda: networks.pairs_briefly(network_selections(every())),
        "modes": lambda: networks.modes(network_selections(every())),
        "compile-modes": lambda: networks.compile_modes(network_selections(every())),
        "recomputed": lambda: networks.recomputed(network_selections(every())),
        "hybrids": lambda: networks.hybrids(network_selections(every())),
        "inference": lambda: networks.inference(network_selections(every())),
        "transfer": lambda: networks.transfer(network_selections(every())),
        "accelerated": lambda: networks.accelerated(network_selections(every())),
        "steps": lambda: steps.table(network_selections(every())),
        "shared": lambda: shared.table(selections(every())),
        "shared-networks": lambda: shared.table(network_selections(every())),
        "detection": lambda: detection.ratios(network_selections(every())),
        "precision": lambda: precision.table(folder),
        "time-to-accuracy": lambda: runs.time_to_accuracy(folder),
        "agreement": lambda: agreement.table(*(read(folder / name) for name in TWICE)),
    }
    return made | {f"columns-{name}": partial(dictionary.table, name) for name in dictionary.TABLES}


def published(folder: Path) -> Results:
    """The results files of a folder, but for those that git ignores: what somebody measured here is nobody else's."""
    files = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and not path.name.startswith(IGNORED))
    return read_all(files)
