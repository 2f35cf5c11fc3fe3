"""Tiny training runs in tests: their command line, their settings, and the curves that they leave behind."""

import csv

from halobench.train.settings import parse

TINY = {"--batch": 32, "--image-size": 32, "--epochs": 2, "--workers": 0, "--device": "cpu", "--learning-rate": 0.05}


def command(source, output, *flags, **changes):
    """The arguments of a tiny run. ``changes`` are options, underscores for dashes."""
    options = TINY | {"--data": source, "--output": output}
    options |= {f"--{name.replace('_', '-')}": value for name, value in changes.items()}
    return [*(str(part) for pair in options.items() for part in pair), *flags]


def settings_of(source, output, **changes):
    return parse(command(source, output, **changes), 1)[0]


def curves(output):
    with (output / "curves.csv").open() as file:
        return list(csv.DictReader(file))
