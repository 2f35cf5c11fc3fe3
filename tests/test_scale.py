"""Training steps on several ranks: what is measured, on two ranks of a CPU, and what is made of it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from halobench import models
from halobench.figures import ranks as figure
from halobench.figures.selection import network_selections
from halobench.figures.style import look
from halobench.records.table import read
from halobench.scale import __main__ as command
from halobench.scale import collective
from halobench.scale.campaign import Campaign, Point
from halobench.scale.settings import Settings, counts_of, parse
from halobench.train.processes import Processes
from halobench.train.unusable import Unusable
from tests import results_files, scaled_calls
from tests.ranks import Ranks

SETTINGS = Settings(
    ("halonet_mini",), "sdpa", "cpu", "float32", 2, (1, 2), 2, 2, False, 25, False, False, Path("mine.json")
)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    with Ranks(2, tmp_path_factory.mktemp("ranks")) as two:
        yield two


@pytest.fixture(scope="module")
def rows(two: Ranks) -> list[dict]:
    (found, ceilings), (others, same) = two.ask(2, scaled_calls.campaign, SETTINGS)
    assert others == []
    assert ceilings == same  # ranks agree on times
    return found


def test_a_row_a_point(rows: list[dict]) -> None:
    """One rank, then weak and strong scaling on two; samples of all rounds."""
    points = [(row["scaling"]["kind"], row["scaling"]["ranks"]) for row in rows]
    assert points == [("weak", 1), ("weak", 2), ("strong", 2)]
    assert [row["throughput"]["batch"] for row in rows] == [2, 4, 2]
    assert all(len(row["samples_ms"]) == 4 for row in rows)
    assert rows[0]["scaling"]["efficiency"] == 1
    assert "communication_ms" not in rows[0]["scaling"]


def test_the_bytes_are_those_of_all_gradients(rows: list[dict], two: Ranks) -> None:
    """Of float32, and half of it where they are sent as bfloat16."""
    count = sum(parameter.numel() for parameter in models.create("halonet_mini", "sdpa").parameters())
    assert [row["scaling"].get("communicated_bytes") for row in rows] == [None, 4 * count, 4 * count]
    squeezed = replace(SETTINGS, compress=True, steps=1, rounds=1)
    [found, _] = two.ask(2, scaled_calls.campaign, squeezed)
    assert [row["scaling"].get("communicated_bytes") for row in found[0]] == [None, 2 * count, 2 * count]


def test_no_share_of_a_ceiling_is_above_one() -> None:
    """A ceiling is the best that the run has seen, in a step's own buckets, too."""
    made = object.__new__(Campaign)
    made.ceilings = {2: 10.0, 4: 10.0}
    seen = [
        {"ranks": 1},
        *({"ranks": ranks, "bus_bytes_per_s": rate} for ranks, rate in ((2, 5.0), (2, 20.0), (4, 5.0))),
    ]
    settled = made.settled([{"scaling": scaling} for scaling in seen])
    assert [row["scaling"].get("bus_share") for row in settled] == [None, 0.25, 1.0, 0.5]
    assert made.ceilings == {2: 20.0, 4: 10.0}


def test_communication_is_timed(rows: list[dict]) -> None:
    assert all(row["scaling"]["communication_ms"] > 0 and row["scaling"]["exposed_ms"] >= 0 for row in rows[1:])


def test_readers_know_the_file(rows: list[dict], tmp_path: Path) -> None:
    """Columns, and a figure with a panel a kind."""
    header = results_files.section(dtype="float32") | {"failures": []}
    command.write(tmp_path / "mine.json", header, rows)
    results = read(tmp_path / "mine.json")
    assert list(results.networks["ranks"]) == [1, 2, 2]
    assert list(results.networks["scaling"]) == ["weak", "weak", "strong"]
    assert results.networks["efficiency_low"].le(results.networks["efficiency_high"]).all()
    [selection] = network_selections(results)
    with look():
        [(name, drawn)] = figure.draw(selection)
    assert name == "efficiency"
    assert [axes.get_title() for axes in drawn.axes] == ["weak scaling", "strong scaling"]
    said = [command.said(row) for row in rows]
    assert said[0].startswith("halonet_mini, weak, 1 rank: ")
    assert ", strong, 2 ranks: " in said[2]
    assert "exposed" in said[2]


def test_efficiency_is_paired_by_rounds() -> None:
    """A machine that is slower in one round is slower for both; strong scaling shares the work."""
    network = SETTINGS.network("halonet_mini", 2)
    single = Point(1, "weak", network, None, step_ms=[[10, 10, 10], [20, 20, 20]])
    weak = Point(4, "weak", network, None, step_ms=[[12.5, 12.5, 99], [25, 25, 99]])
    strong = Point(4, "strong", network, None, step_ms=[[5, 5, 5], [10, 10, 10]])
    assert weak.efficiencies(single) == [0.8, 0.8]
    assert strong.efficiencies(single) == [0.5, 0.5]


@pytest.mark.parametrize(("ranks", "factor"), [(2, 1.0), (4, 1.5), (8, 1.75)])
def test_bus_bandwidth_is_that_of_nccl_tests(ranks: int, factor: float) -> None:
    assert collective.bus_bytes_per_s(10**9, 1000.0, ranks) == pytest.approx(factor * 1e9)


@pytest.mark.parametrize(
    ("text", "world", "counts"),
    [(None, 1, (1,)), (None, 2, (1, 2)), (None, 6, (1, 2, 4, 6)), (None, 8, (1, 2, 4, 8)), ("3", 4, (1, 3))],
)
def test_numbers_of_ranks(text: str | None, world: int, counts: tuple[int, ...]) -> None:
    assert counts_of(text, world) == counts


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--ranks", "0"], "--ranks must be numbers from 1 to 2, separated by commas, got '0'"),
        (["--ranks", "1,x"], "got '1,x'"),
        (["--ranks", "3"], "got '3'"),
        (["--models", "nobody"], "no model is called 'nobody'"),
        (["--backend", "nobody"], "no backend is called 'nobody'"),
        (["--batch", "0"], "argument --batch: must be at least 1, got 0"),
        (["--bucket-mib", "-1"], "argument --bucket-mib: must be at least 1, got -1"),
        (["--device", "cpu", "--sync-batch-norm"], "argument --sync-batch-norm: PyTorch's SyncBatchNorm needs a GPU"),
    ],
)
def test_options_that_cannot_be_are_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        parse([*arguments, "--output", "mine.json"], 2)
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("halobench.scale: ")
    assert said in line


def test_an_output_that_cannot_be_is_refused_first(tmp_path: Path) -> None:
    for output in (tmp_path / "mine.jsonl", tmp_path, tmp_path / "none" / "mine.json"):
        with pytest.raises(Unusable, match="--output"):
            command.check(output)


def test_memory_that_runs_out_is_said_in_words() -> None:
    assert "a smaller --batch" in command.problem_of(MemoryError("x"), Processes())
    assert command.problem_of(RuntimeError("a fault"), Processes()) is None
