"""``python -m halobench.detect``: train Mask R-CNN on images in COCO's format."""

import importlib.util
from collections.abc import Sequence

from halobench import terminal
from halobench.detect.run import DetectorRun
from halobench.detect.settings import NAME, parse
from halobench.train.command import Command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command, with the exit status of ``halobench.train``."""
    command = Command(NAME, parse, DetectorRun)
    if importlib.util.find_spec("faster_coco_eval") is None:
        return terminal.refuse(NAME, "needs the package faster-coco-eval: pip install 'halobench[detection]'")
    return command.main(arguments)


if __name__ == "__main__":
    terminal.end(NAME, main)
