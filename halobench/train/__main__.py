"""``python -m halobench.train``: train a model; under torchrun, on several GPUs and hosts."""

from halobench import terminal
from halobench.train.command import Command
from halobench.train.run import Run
from halobench.train.settings import NAME, parse

main = Command(NAME, parse, Run).main

if __name__ == "__main__":
    terminal.end(NAME, main)
