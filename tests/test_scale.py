"""Training steps on several ranks: what is measured, on two ranks of a CPU, and what is made of it."""

import errno
import os
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from halobench import Geometry, Problem, models, plot
from halobench.distributed import RankLost
from halobench.figures import predicted, shared
from halobench.figures import ranks as figure
from halobench.figures.selection import Selection, network_selections, selections
from halobench.figures.style import look
from halobench.pages import shared as page
from halobench.pages import steps
from halobench.records.table import read, read_all
from halobench.scale import __main__ as command
from halobench.scale import collective, replay, replica
from halobench.scale.campaign import Campaign
from halobench.scale.point import Calls, Point
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


@pytest.mark.parametrize("kind", ["weak", "strong"])
def test_one_kind_of_scaling_alone(kind: str) -> None:
    """Beside a single rank, which is of both; what is not asked for is not made."""
    settings = parse(["--scaling", kind, "--ranks", "1,2,3", "--batch", "4", "--output", "mine.json"], 4)
    [points] = replica.steps("halonet_mini", settings, dict.fromkeys(settings.counts), torch.device("cpu"))
    several = [("weak", 2), ("weak", 3)] if kind == "weak" else [("strong", 2)]  # four images are not for three ranks
    assert [(point.kind, point.ranks) for point in points] == [("weak", 1), *several]


def test_gradients_are_averaged_in_one_message(two: Ranks) -> None:
    """And not where a step is to be without communication."""
    assert two.ask(2, scaled_calls.averaged) == [[True] * 18] * 2


def test_one_message_is_measured_as_buckets_are(rows: list[dict], two: Ranks) -> None:
    (found, _), _ = two.ask(2, scaled_calls.campaign, replace(SETTINGS, flat=True, scaling=("weak",)))
    assert found[1]["scaling"]["communicated_bytes"] == rows[1]["scaling"]["communicated_bytes"]
    assert found[1]["scaling"]["communication_ms"] > 0
    assert not {row["case"] for row in found} & {row["case"] for row in rows}  # readers show both


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
    assert name == "efficiency-eager"
    assert [axes.get_title() for axes in drawn.axes] == ["weak scaling", "strong scaling"]
    said = [command.said(row) for row in rows]
    assert said[0].startswith("scaling/sdpa/training/halonet_mini-64-n2-float32-weak-x1: ")
    assert "-strong-x2: " in said[2]
    assert "exposed" in said[2]


def test_an_efficiency_beside_its_interval_is_drawn(
    rows: list[dict], of_one_image: dict[str, list[dict]], tmp_path: Path
) -> None:
    """A file of somebody else has any."""
    found = deepcopy([*rows, *of_one_image["operator"], *of_one_image["inference"][:2]])
    for number, row in enumerate(found):
        row["scaling"]["efficiency"] = (0.0, 9.0)[number % 2]
    header = results_files.section(dtype="float32") | {"failures": []}
    command.write(tmp_path / "mine.json", header, found)
    results = read(tmp_path / "mine.json")
    with look():
        drawn = [*shared.draw(selections(results)[0]), *shared.draw(network_selections(results)[0])]
        drawn += [*figure.draw(network_selections(results)[0])]
    assert {str(name) for name, one in drawn if not isinstance(one, str)} >= {
        "efficiency-eager",
        "shared-operator-forward",
    }


def test_efficiency_is_paired_by_rounds() -> None:
    """A machine that is slower in one round is slower for both; strong scaling shares the work."""
    single = point(1, "weak", [[10, 10, 10], [20, 20, 20]])
    assert point(4, "weak", [[12.5, 12.5, 99], [25, 25, 99]]).efficiencies(single) == [0.8, 0.8]
    assert point(4, "strong", [[5, 5, 5], [10, 10, 10]]).efficiencies(single) == [0.5, 0.5]
    assert point(4, "strong", [[5, 5, 5]]).efficiencies(point(1, "strong", [])) == []  # it did not fit, say


def point(ranks: int, kind: str, step_ms: list[list[float]]) -> Point:
    return Point(ranks, kind, 1, None, idle, {}, step_ms=step_ms)


def idle() -> Calls:
    return Calls(int, int, 0, int)


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
        (["--what", "training", "--compiled"], "argument --compiled: is for --what steps, got --what training"),
        (["--what", "operator", "--batch", "2"], "argument --batch: is for --what steps, got --what operator"),
        (["--what", "inference", "--models", "efficientnet_mini"], "models with attention, got 'efficientnet_mini'"),
        (
            ["--what", "training", "--models", "halonet_mini,seresnet50_halo_b8"],
            "argument --what training: is for HaloNets, got 'seresnet50_halo_b8'",
        ),
        (["--what", "operator", "--backend", "conv"], "backend 'conv' is no attention"),
        (["--what", "training", "--sides", "64,32"], "argument --sides: of more than 32 in training"),
        (
            ["--what", "inference", "--sides", "0"],
            "--sides must be numbers of at least 1, separated by commas, got '0'",
        ),
        (["--sides", "256"], "argument --sides: is for one image that ranks share, got --what steps"),
        (["--device", "cpu", "--captured"], "argument --captured: CUDA graphs need a GPU"),
        (["--grid", "1x2"], "argument --grid: is for one image that ranks share, got --what steps"),
        (["--what", "operator", "--grid", "2x2"], "--grid must have no more than the 2 ranks of this run, got '2x2'"),
        (["--what", "operator", "--grid", "2"], "--grid must be rows and columns of ranks, such as 2x2, got '2'"),
        (["--what", "operator", "--grid", "0x2"], "--grid must be rows and columns of ranks, such as 2x2, got '0x2'"),
        (
            ["--what", "operator", "--grid", "1x2", "--ranks", "2"],
            "argument --grid: says how many ranks there are, got --ranks 2",
        ),
        (["--what", "operator", "--scaling", "weak"], "argument --scaling: is for --what steps, got --what operator"),
        (
            ["--scaling", "strong", "--batch", "3"],
            "argument --scaling: strong divides the batch among ranks, got a batch of 3 for 2",
        ),
        (["--batch", "0"], "argument --batch: must be at least 1, got 0"),
        (["--flat", "--compress"], "argument --compress: is for buckets of gradients, got --flat"),
        (["--flat", "--bucket-mib", "50"], "argument --bucket-mib: is for buckets of gradients, got --flat"),
        (
            ["--what", "operator", "--bucket-mib", "5"],
            "argument --bucket-mib: is for --what steps, got --what operator",
        ),
        (["--what", "operator", "--flat"], "argument --flat: is for --what steps, got --what operator"),
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


SHARED = replace(SETTINGS, steps=1, rounds=1)


@pytest.fixture(scope="module")
def of_one_image(two: Ranks) -> dict[str, list[dict]]:
    """The rows of the first rank by what was measured."""
    sides = {"operator": (128,), "inference": (256, 128), "training": (256, 128)}
    settings = {what: replace(SHARED, what=what, sides=sides[what]) for what in sides}
    settings["columns"] = replace(settings["operator"], grid=(1, 2))
    return {name: two.ask(2, scaled_calls.campaign, asked)[0][0] for name, asked in settings.items()}


@pytest.mark.parametrize("what", ["operator", "columns", "inference", "training"])
def test_one_image_that_ranks_share(of_one_image: dict[str, list[dict]], what: str) -> None:
    """On one rank and on two, in turn; an image of too few blocks for the ranks is a row with its reason."""
    rows = of_one_image[what]
    assert [row["scaling"]["ranks"] for row in rows] == [1, 2] * (len(rows) // 2)
    names = [row["case"] for row in rows]
    assert len(set(names)) == len(names)
    columns = what == "columns"
    assert {row["scaling"]["grid"] for row in rows} == {"1x1", "1x2" if columns else "2x1"}
    assert all(name.endswith(("-x1", "-x1x2" if columns else "-x2")) for name in names)
    small = [row for row in rows if row["status"] != "OK"]
    if what in ("operator", "columns"):
        assert {row["direction"] for row in rows} == {"forward", "training"}
    else:
        assert [row["case"] for row in small] == [names[-1]]
    for row in small:
        assert (row["status"], row["scaling"]["ranks"]) == ("UNSUPPORTED", 2)
        assert f"are too few for {'1 x 2' if columns else '2 x 1'} ranks" in row["reason"]
        assert row["reason"] in command.said(row)
    for row in rows:
        if row["status"] == "OK":
            assert len(row["samples_ms"]) == 1
            assert ("exposed_ms" in row["scaling"]) == (row["scaling"]["ranks"] == 2)
            assert row["scaling"]["ranks"] == 1 or 0 < row["scaling"]["bus_share"] <= 1  # before the run has ended


@pytest.mark.parametrize(("what", "along"), [("operator", "width"), ("columns", "height")])
def test_the_bytes_are_those_of_halos(of_one_image: dict[str, list[dict]], what: str, along: str) -> None:
    """An operator's: halos of keys and values, of all heads; in training their gradients back, and the tables."""
    for row in of_one_image[what]:
        if row["scaling"]["ranks"] == 1 or row["status"] != "OK":
            continue
        problem = row["problem"]
        geometry = problem["geometry"]
        pixel = problem["heads"] * (problem["key_dim"] + problem["value_dim"]) * 4
        needed = geometry["halo"] * problem[along] * pixel  # of the rank behind; before, a strided halo may be less
        sent = row["scaling"]["communicated_bytes"]
        tables = 2 * (2 * (geometry["block"] + 2 * geometry["halo"]) - 1) * problem["key_dim"] * 4
        assert sent == needed if row["direction"] == "forward" else needed + tables < sent <= 2 * needed + tables


def test_training_sends_more_than_inference(of_one_image: dict[str, list[dict]]) -> None:
    """Gradients of rows and weights, and the sums of normalisations."""
    inference, training = (of_one_image[what][1]["scaling"]["communicated_bytes"] for what in ("inference", "training"))
    weights = 4 * sum(parameter.numel() for parameter in models.create("halonet_mini", "sdpa").parameters())
    assert 2 * inference < training < 2 * inference + 2 * weights


def test_figures_of_one_image(of_one_image: dict[str, list[dict]], tmp_path: Path) -> None:
    """A figure a direction, of the operator and of networks; a file with failures is read, too."""
    drawn = {}
    for what, rows in of_one_image.items():
        ended = [row for row in rows if row["status"] != "OK"]
        header = results_files.section(dtype="float32") | {"failures": ended}
        command.write(tmp_path / f"{what}.json", header, [row for row in rows if row["status"] == "OK"])
        results = read(tmp_path / f"{what}.json")
        with look():
            for selection in selections(results) or network_selections(results):
                drawn |= {(what, name): found for name, found in shared.draw(selection)}
    assert set(drawn) == {
        ("columns", "shared-operator-forward"),
        ("columns", "shared-operator-training"),
        ("operator", "shared-operator-forward"),
        ("operator", "shared-operator-training"),
        ("inference", "shared-network-forward"),
        ("training", "shared-network-training"),
    }
    for (what, _), found in drawn.items():
        assert [axes.get_title() for axes in found.axes] == ["time (ms)", "efficiency"]
        labels = [text.get_text() for legend in found.legends for text in legend.get_texts()]
        assert any(label.endswith("2 ranks, 1x2" if what == "columns" else "2 ranks") for label in labels)


def operator_rows(side: int, single_ms: float, shared_ms: float) -> list[dict]:
    """A layer on one rank and on two: an exchange of 0.02 ms and 10^6 bytes, on a link of 10^11 bytes/s."""
    problem = Problem(Geometry(8, 3), side, side, heads=4, dtype="bfloat16")
    rows = []
    for ranks, ms in ((1, single_ms), (2, shared_ms)):
        row = results_files.row("fused", problem=asdict(problem)) | {"suite": "sharded", "groups": ["sharded"]}
        row["case"] = f"sharded/fused/forward/{side}-x{ranks}"
        row["latency"] |= {"median_ms": ms, "low_ms": ms, "high_ms": ms}
        row["scaling"] = {"kind": "strong", "ranks": ranks}
        rows.append(row)
    rows[1]["scaling"] |= {
        "exposed_ms": 0.01, "communication_ms": 0.02, "communicated_bytes": 1e6,
        "bus_bytes_per_s": 5e10, "bus_share": 0.5, "efficiency": single_ms / 2 / shared_ms,
    }  # fmt: skip
    return rows


@pytest.fixture
def predictable(tmp_path: Path) -> Selection:
    """Three maps of a layer: a further call costs 0.01 ms, copies 0.001 ms on the first. The last is slower by 11 %.

    An exchange of 0.02 ms is in all times.
    """
    rows = operator_rows(256, 0.1, 0.081) + operator_rows(512, 0.4, 0.234) + operator_rows(1024, 1.6, 0.94)
    results_files.write(tmp_path / "mine.json", rows)
    [selection] = selections(read(tmp_path / "mine.json"))
    return selection


def test_more_ranks_are_predicted(predictable: Selection) -> None:
    """From one rank's time, the exchange, which nothing hides, and the overheads that the two smallest maps show."""
    [maps] = predicted.series(shared.named(predictable.rows("sharded")))
    overheads, [large] = predicted.held_back(maps, predicted.copying_ms([maps]))
    assert overheads == pytest.approx((0.01, 0.001 / (256 * 128)))
    assert large.predicted_ms((1, 1), overheads) == 1.6
    assert large.predicted_ms((2, 1), overheads) == pytest.approx(0.8 + 0.02 + 0.01 + 0.016)
    assert predicted.errors([maps]) == [pytest.approx(1 - 0.846 / 0.94)]
    # Two edges and two neighbours, and a second message adds 0.01 ms.
    assert large.predicted_ms((64, 1), overheads) == pytest.approx(0.025 + 0.03 + 0.02 + 0.0005)
    assert large.predicted_ms((512, 1), overheads) == large.predicted_ms((128, 1), overheads)  # no more blocks
    # Two neighbours each way, messages one eighth as long; two copies.
    assert large.predicted_ms((8, 8), overheads) == pytest.approx(0.025 + 0.015 + 0.04 + 0.001)
    exchange = 0.01 + 0.01 * (2 / 16 + 2 / 32)
    assert large.predicted_ms((32, 16), overheads) == pytest.approx(1.6 / 512 + exchange + 0.04 + 0.000125)


def test_the_table_of_one_image(predictable: Selection) -> None:
    """A line a map: one rank's time beside that of two, efficiency, exchange; a dash where nothing was measured."""
    lines = page.table([predictable]).splitlines()
    layer = "fused, block 8, halo 3, 4 heads of 16 and 16"
    assert lines[2] == f"| {layer} | 256 | 2 | 0.100 | 0.0810 | 62% | 20 / 10 | - | - | - | - |"
    assert len([line for line in lines if line.startswith(f"| {layer}")]) == 3


def test_the_table_of_networks_that_share_an_image(of_one_image: dict[str, list[dict]], tmp_path: Path) -> None:
    """A line an image, inference and training beside one another; none where the ranks had too few blocks."""
    rows = [row for what in ("inference", "training") for row in of_one_image[what] if row["status"] == "OK"]
    command.write(tmp_path / "mine.json", results_files.section(dtype="float32") | {"failures": []}, rows)
    head, _, *lines = page.table(network_selections(read(tmp_path / "mine.json"))).splitlines()
    assert head.startswith("| network | side of the image | ranks | forward, one rank (ms) | several (ms) |")
    [line] = [line for line in lines if line.startswith("| ")]
    assert line.startswith("| halonet_mini, sdpa, eager | 256 | 2 | ")
    assert "| - |" not in line


@pytest.mark.parametrize(("gradients", "called"), [("buckets", "eager"), ("flat", "eager, flat")])
def test_the_table_of_training_steps(rows: list[dict], gradients: str, called: str, tmp_path: Path) -> None:
    """A line a kind of scaling and number of ranks, beside one rank's step, which is of both kinds."""
    rows = deepcopy(rows)
    for row, ms in zip(rows, (10.0, 12.5, 8.0), strict=True):
        row["latency"] |= {"median_ms": ms}
        row["scaling"] |= {"gradients": gradients}
        if row["scaling"]["ranks"] > 1:
            row["scaling"] |= {"efficiency": 10 / ms / (1 if row["scaling"]["kind"] == "weak" else 2)}
            row["scaling"] |= {"efficiency_low": 0.5, "efficiency_high": 0.95}
            row["scaling"] |= {"communication_ms": 0.25, "exposed_ms": 1.5}
    command.write(tmp_path / "mine.json", results_files.section(dtype="float32") | {"failures": []}, rows)
    chosen = network_selections(read(tmp_path / "mine.json"))
    lines = steps.table(chosen).splitlines()[2:4]
    start = f"| halonet_mini, sdpa, {called} |"
    assert lines == [
        f"{start} strong | 2 | 2 | 10.0 | 8.00 | 62.5% [50.0%, 95.0%] | 250 / 1500 |",
        f"{start} weak | 2 | 4 | 10.0 | 12.5 | 80.0% [50.0%, 95.0%] | 250 / 1500 |",
    ]
    with look():
        [(name, drawn)] = figure.draw(chosen[0])
    assert name == f"efficiency-{called.replace(', ', '-')}"
    assert ("gradients in one message" in str([each.get_text() for each in drawn.texts])) == (gradients == "flat")


def test_a_mode_is_no_folder(rows: list[dict], tmp_path: Path) -> None:
    """A file of somebody else may have any."""
    found = deepcopy(rows)
    for row in found:
        row["network"] |= {"compiled": True, "compile_mode": "../a, b"}
    command.write(tmp_path / "mine.json", results_files.section(dtype="float32") | {"failures": []}, found)
    [selection] = network_selections(read(tmp_path / "mine.json"))
    with look():
        assert [*plot.saved(figure.draw(selection), tmp_path, "png")] == [tmp_path / "efficiency--a-b.png"]


def test_gradients_in_one_message_are_no_newer_buckets(rows: list[dict], tmp_path: Path) -> None:
    """What an older file says of buckets stays beside a newer one's single message."""
    for name, gradients in (("older", None), ("newer", "flat")):
        changed = deepcopy(rows)
        for row in changed:
            row["scaling"]["gradients"] = gradients
        command.write(tmp_path / f"{name}.json", results_files.section(dtype="float32") | {"failures": []}, changed)
    [chosen] = network_selections(read_all([tmp_path / "older.json", tmp_path / "newer.json"]))
    assert sorted(chosen.rows("scaling")["gradients"].fillna("-")) == ["-"] * 3 + ["flat"] * 3


def test_two_maps_predict_without_copies(predictable: Selection) -> None:
    """The second is left to hold the prediction against."""
    [[small, _, large]] = predicted.series(shared.named(predictable.rows("sharded")))
    assert predicted.copying_ms([[small, large]]) == 0
    overheads, held = predicted.held_back([small, large], 0)
    assert (overheads, held) == (pytest.approx((0.011, 0)), [large])
    inner = replace(small, ranks=4, shared_ms=0.1 / 4 + 0.02 + 0.02)  # measured between two neighbours
    assert predicted.held_back([inner, large], 0)[0] == pytest.approx((0.01, 0))


def test_a_number_of_any_layer_is_copied_at_one_rate(predictable: Selection) -> None:
    """A layer of four times the channels, whose second map takes no more than its first, has a share in it."""
    [maps] = predicted.series(shared.named(predictable.rows("sharded")))
    small, second, large = (replace(one, channels=4 * one.channels) for one in maps)
    wide = [small, replace(second, shared_ms=second.shared_ms - second.beyond_ms + small.beyond_ms), large]
    alone, rate = predicted.copying_ms([maps]), predicted.copying_ms([maps, wide])
    assert rate == pytest.approx(alone / 5)
    overheads, _ = predicted.held_back(wide, rate)
    assert overheads.copies_ms == pytest.approx(rate * 4 * maps[0].channels)
    assert overheads.calls_ms == pytest.approx(small.beyond_ms - overheads.copies_ms * 256 * 128)


def test_a_run_that_was_cut_short_is_predicted_from(tmp_path: Path) -> None:
    """Its rows have no share of the link: the best of their rates is the link's."""
    rows = operator_rows(256, 0.1, 0.081) + operator_rows(1024, 1.6, 0.94)
    for row in rows:
        row["scaling"].pop("bus_share", None)
    rows[1]["scaling"]["bus_bytes_per_s"] = 2e10
    results_files.write(tmp_path / "mine.json", rows)
    [selection] = selections(read(tmp_path / "mine.json"))
    [maps] = predicted.series(shared.named(selection.rows("sharded")))
    assert [one.neighbour_ms for one in maps] == [
        pytest.approx(0.02),
        pytest.approx(0.02),
    ]  # 10^6 bytes at 5e10 bytes/s


def test_the_prediction_is_drawn(predictable: Selection) -> None:
    """A line a layer over all numbers of ranks; how far off it is stands above."""
    with look():
        [(name, drawn)] = predicted.draw(predictable)
    assert name == "shared-operator-forward-predicted"
    assert "off by 10%" in " ".join(text.get_text() for text in drawn.texts).replace("\n", " ")
    rows, best = (line.get_data() for line in drawn.axes[0].lines[:2])
    for ranks, shares in (rows, best):
        assert list(ranks) == list(predicted.RANKS)
        assert list(shares) == sorted(shares, reverse=True)
    assert list(best[1][:2]) == list(rows[1][:2])
    assert best[1][-1] > rows[1][-1]  # columns where rows of blocks run out


def test_one_map_predicts_nothing(tmp_path: Path) -> None:
    results_files.write(tmp_path / "mine.json", operator_rows(256, 0.1, 0.081))
    [selection] = selections(read(tmp_path / "mine.json"))
    [(_, why)] = predicted.draw(selection)
    assert why == "no layer was measured on maps of two sizes, on one rank and on several"


def test_rows_are_kept_until_the_file_is_written(tmp_path: Path) -> None:
    """A run that ends before leaves its journal, which readers know."""
    header = results_files.section(dtype="float32")
    rows = [{**results_files.network_row("halonet_mini", "sdpa"), "case": case} for case in ("one", "another")]
    with pytest.raises(InterruptedError):
        interrupted(tmp_path / "mine.json", header, rows)
    assert list(read(tmp_path / "mine.jsonl").networks["case"]) == ["one", "another"]
    with command.kept(tmp_path / "mine.json", header, Processes()) as keep:
        keep(rows[0])
    assert [path.name for path in tmp_path.iterdir()] == ["mine-1.jsonl"]  # what was not finished has another name


def interrupted(output: Path, header: dict, rows: list[dict]) -> None:
    """A run that ends after these rows."""
    with command.kept(output, header, Processes()) as keep:
        for row in rows:
            keep(row)
        raise InterruptedError


def test_results_that_cannot_be_written_keep_earlier_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of them are on the full disk."""
    path = tmp_path / "mine.json"
    path.write_text("those of yesterday")

    def full(path: Path, text: str, **_options: object) -> None:
        with path.open("w") as file:
            file.write(text[:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(Unusable, match=r"mine.json cannot be written: No space left on device; the last one is kept"):
        command.write(path, results_files.section(dtype="float32"), [])
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("mine.json", "those of yesterday")]


@pytest.mark.parametrize(
    ("ends", "status", "said"),
    [
        (KeyboardInterrupt(), 130, "\nhalobench.scale: interrupted; the rows so far are in {}\n"),
        (RankLost(0, "its halo", [1]), 2, "halobench.scale: rank 0 waited in vain for its halo: no word from rank 1\n"),
    ],
)
def test_what_ends_a_run_is_one_line(
    ends: BaseException, status: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    def ended(*_: object) -> None:
        raise ends

    monkeypatch.setattr(command, "measure", ended)
    assert command.main(["--device", "cpu", "--output", str(tmp_path / "mine.json")]) == status
    assert capsys.readouterr().err == said.format(tmp_path / "mine.jsonl")


def test_what_runs_out_of_memory_alone_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """The image is too large for one rank: that is why it is shared."""
    made = object.__new__(Campaign)
    made.settings, made.rank, made.device = replace(SETTINGS, counts=(1,)), 0, torch.device("cpu")

    def too_large() -> Calls:
        raise MemoryError("no room")

    [row] = made.timed([Point(1, "strong", 1, None, too_large, {"case": "one"})])
    assert (row["status"], row["reason"]) == ("OOM", "no room")
    assert row["scaling"]["gradients"] == "buckets"


def test_a_call_that_answers_nothing_can_be_captured() -> None:
    assert replay.answering(lambda: None) is True
    assert replay.answering(lambda: 3) == 3
