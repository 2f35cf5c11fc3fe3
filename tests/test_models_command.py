"""``python -m halobench.models``: the table, and how it refuses and ends."""

from pathlib import Path

import pytest

from halobench import models
from halobench.models import costs
from halobench.models.__main__ import main

PAGE = Path(__file__).parents[1] / "docs" / "costs.md"


def test_the_table_of_the_models_named(capsys):
    assert main(["halonet_mini"]) == 0
    head, _, rows = capsys.readouterr().out.partition("|---|")
    assert head.startswith("# What the models cost")
    assert [line.split(" | ")[0] for line in rows.splitlines()[1:]] == ["| halonet_mini"]


def test_the_page_of_costs_is_what_the_command_prints():
    """Of every model, with today's words; the numbers of two small ones, since all take minutes.

    The last column is left out: how much PyTorch keeps is its version's.
    """
    page = PAGE.read_text(encoding="utf-8")
    assert page.startswith(costs.HEADER)
    _, _, *rows = [line for line in page.splitlines() if line.startswith("|")]
    stands = {row.split(" | ")[0].removeprefix("| "): row.split(" | ")[:-1] for row in rows}
    assert list(stands) == list(models.names())
    _, _, _, *made = costs.table(["halonet_mini", "convnet_mini"])
    assert [row.split(" | ")[:-1] for row in made] == [stands["halonet_mini"], stands["convnet_mini"]]


def test_an_unknown_name_is_refused_in_one_line_before_anything_is_counted(capsys):
    assert main(["halonet_mini", "halonet_h8"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("halobench.models: no model is called 'halonet_h8'; there are halonet_h0, ")
    assert said.err.count("\n") == 1


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    assert "python -m halobench.models halonet_h0 efficientnet_b0" in capsys.readouterr().out
