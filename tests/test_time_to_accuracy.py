"""The time-to-accuracy benchmark: runs in turn, a row each, also of those that do not arrive."""

import csv

import pytest

from halobench.train.time_to_accuracy import main as time_to_accuracy
from tests.training_runs import curves


def times(source, output, *more):
    """The arguments of a small time-to-accuracy benchmark."""
    given = ["--data", source, "--output", output, "--epochs", 2, "--workers", 0, "--device", "cpu", "--batch", 32]
    return [str(argument) for argument in (*given, "--image-size", 32, *more)]


def outcomes(output):
    with (output / "time-to-accuracy.csv").open() as file:
        return list(csv.DictReader(file))


def test_time_to_accuracy(fashion, tmp_path, capsys):
    """A run that arrives stops there; runs of the models take turns, with seeds of their own."""
    models = "halonet_mini", "convnet_mini"
    chosen = times(fashion, tmp_path, "--seeds", 3, 1, "--models", *models, "--target", 0.01, "--backend", "sdpa")
    assert time_to_accuracy(chosen) == 0
    rows = outcomes(tmp_path)
    assert [(row["model"], row["seed"]) for row in rows] == [(model, seed) for seed in "31" for model in models]
    assert [row["backend"] for row in rows] == ["sdpa", "none"] * 2
    for row in rows:
        assert (row["reached"], row["epochs"]) == ("True", "1")
        assert float(row["seconds"]) > 0
        assert len(curves(tmp_path / f"{row['model']}-{row['seed']}")) == 1
    with pytest.raises(SystemExit):
        time_to_accuracy(chosen)
    assert "exists: give another --output" in capsys.readouterr().err


@pytest.mark.parametrize("seeds", [(1, 1), (0, -1), (2**63,)])
def test_seeds_that_cannot_be(seeds, fashion, tmp_path, capsys):
    with pytest.raises(SystemExit):
        time_to_accuracy(times(fashion, tmp_path, "--seeds", *seeds))
    said = f"--seeds must be different numbers, at least 0 and below 2^63, got {', '.join(map(str, seeds))}"
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_run_that_does_not_arrive_says_so(fashion, tmp_path, capsys):
    time_to_accuracy(times(fashion, tmp_path, "--seeds", 0, "--models", "resnet_mini", "--target", 0.999))
    (row,) = outcomes(tmp_path)
    assert (row["reached"], row["epochs"]) == ("False", "2")
    assert float(row["best_accuracy"]) < 0.999
    assert "resnet_mini, seed 0: NOT reached" in capsys.readouterr().out
