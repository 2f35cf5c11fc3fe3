"""``python -m halobench.train``: train a model; under torchrun, on several GPUs and hosts."""

import sys

from halobench.train.command import Command
from halobench.train.run import Run
from halobench.train.settings import parse

main = Command("halobench.train", parse, Run).main

if __name__ == "__main__":
    sys.exit(main())
