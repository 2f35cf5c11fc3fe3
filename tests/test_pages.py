"""README and docs/ say what results/ and the schema say: marked sections are made, every column is explained."""

import json
import re
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest

from halobench.figures import bars
from halobench.figures.selection import network_selections, selections
from halobench.pages import operators
from halobench.pages.__main__ import made, main
from halobench.pages.dictionary import TABLES
from halobench.pages.marks import BEGIN, END, PageError, filled, marked
from halobench.pages.networks import BRIEFLY, pairs, pairs_briefly
from halobench.pages.sections import published, sections
from halobench.profile import show
from halobench.profile.recording import Kernel, Recording
from halobench.records import columns
from halobench.records.fields import FIELDS, NETWORK_FIELDS, Field
from halobench.records.roofline import Ceilings
from halobench.records.table import read_all
from halobench.report import headline, tables
from halobench.report.points import points
from tests import results_files

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"


@pytest.fixture(scope="module")
def pages():
    return made(ROOT)


def test_every_section_is_as_results_and_schema_make_it_today(pages):
    stale = [str(path.relative_to(ROOT)) for path, text in pages.items() if path.read_text(encoding="utf-8") != text]
    assert not stale, "python -m halobench.pages makes them anew"


def test_readme_and_pages_show_what_there_is(pages):
    """Each kind of table stands somewhere, and README has those of its promise."""
    shown = {path.relative_to(ROOT).as_posix(): set(marked(text)) for path, text in pages.items()}
    assert shown["README.md"] == {"reference-briefly", "pairs-briefly"}
    assert shown["docs/metrics.md"] == {f"columns-{name}" for name in TABLES}
    assert set().union(*shown.values()) == set(sections(RESULTS))


def h100():
    """The published operators and layers of the machine that docs/kernels/levels.md is about."""
    return next(one for one in selections(published(RESULTS)) if "H100" in one.machine and one.dtype == "bfloat16")


def test_the_table_of_readme_and_its_figure_are_of_the_same_rows():
    every = selections(published(RESULTS))
    chosen, table = operators.latest(every), operators.reference_briefly(every)
    drawn = bars.with_speedup(chosen.reference)
    assert f"(results/figures/{chosen.slug}-speedup.png)" in (ROOT / "README.md").read_text(encoding="utf-8")
    (figure,) = [figure for name, figure in bars.draw_speedup(chosen) if name == "speedup"]
    (footer,) = {text.get_text() for text in figure.texts if chosen.machine in text.get_text()}
    for file in set(drawn["file"]):
        assert file in table
        assert f"({next(text for text in footer.split('  ·  ') if text.startswith('commit'))}" in table
    naive = drawn[drawn["backend"] == "naive_unfold"].set_index("direction")["median_ms"]
    for _, row in drawn[drawn["direction"] == "forward"].iterrows():
        assert f"| `{row['variant']}` | {operators.milliseconds(row['median_ms'])} |" in table
        assert row["speedup"] == pytest.approx(naive["forward"] / row["median_ms"])


def cells(line):
    """The cells of a line of a Markdown table."""
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def test_levels_show_what_the_reference_point_shows():
    """The rows of docs/kernels/levels.md that are a backend's are as fast, and as near the floor, as it is today."""
    table = operators.reference([h100()]).splitlines()
    today = {
        name: (times, shares) for name, times, _, _, shares in map(cells, (line for line in table if line[:3] == "| `"))
    }
    levels = (ROOT / "docs" / "kernels" / "levels.md").read_text(encoding="utf-8").splitlines()
    rows = [cells(line) for line in levels if line.startswith("| `")]
    assert len(rows) >= 7
    for name, _, _, measured, share, _ in rows:
        assert (f"{measured} ms", share.removesuffix(" %")) == (today[name][0], today[name][1].partition(" / ")[0])


HEADING, LINK = re.compile(r"^#+ (.+)$", re.MULTILINE), re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")


def anchor(heading):
    """What GitHub makes of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize(
    "page",
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))],
    ids=lambda path: path.name,
)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for path, name in LINK.findall(text):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), path
        if name:
            assert name in map(anchor, HEADING.findall(target.read_text(encoding="utf-8"))), f"{path}#{name}"


def test_every_page_is_in_the_index():
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / path).resolve() for path, _ in LINK.findall(index.read_text(encoding="utf-8"))}
    assert {path for path in (ROOT / "docs").glob("*.md") if path != index} <= linked
    kernels = ROOT / "docs" / "kernels.md"
    linked = {(kernels.parent / path).resolve() for path, _ in LINK.findall(kernels.read_text(encoding="utf-8"))}
    assert set((ROOT / "docs" / "kernels").glob("*.md")) <= linked


PAGE = f"before\n{BEGIN.format('one')}\nold\n{END.format('one')}\nafter\n"


def test_a_section_is_made_anew_and_the_rest_is_left():
    once = filled(PAGE, {"one": lambda: "new"})
    assert once == f"before\n{BEGIN.format('one')}\n\nnew\n\n{END.format('one')}\nafter\n"
    assert filled(once, {"one": lambda: "new"}) == once


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (PAGE.replace("end of one", "end of two"), "<!-- end of two --> stands inside of one"),
        (PAGE.replace(END.format("one"), ""), "one has no <!-- end of one -->"),
        (PAGE.replace(BEGIN.format("one"), ""), "stands outside of any section"),
        (PAGE.replace("old", BEGIN.format("two")), "stands inside of one"),
        (PAGE.replace("one", "two"), "there is no section 'two'; there are one"),
    ],
)
def test_marks_that_cannot_be_understood(text, said):
    with pytest.raises(PageError, match=said):
        filled(text, {"one": lambda: "new"})


def test_the_command_names_what_it_changed(tmp_path, capsys):
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text(PAGE.replace("one", "columns-memory"), encoding="utf-8")
    (tmp_path / "docs" / "same.md").write_text("nothing is marked\n", encoding="utf-8")
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'README.md'}\n"
    assert "| `bytes` | bytes |" in (tmp_path / "README.md").read_text(encoding="utf-8")
    assert (main([str(tmp_path)]), capsys.readouterr().out) == (0, "")


def test_the_command_refuses_a_page_in_one_line(tmp_path, capsys):
    (tmp_path / "README.md").write_text(PAGE, encoding="utf-8")
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"halobench.pages: {tmp_path / 'README.md'}: there is no section 'one'")


def test_what_somebody_measured_here_is_not_published(tmp_path):
    results_files.write(tmp_path / "mine.json", [results_files.row()])
    results_files.write(tmp_path / "theirs.json", [results_files.row()])
    assert list(published(tmp_path).headers) == ["theirs.json"]


@pytest.mark.parametrize("table", TABLES)
def test_every_column_says_what_it_means_and_what_null_means(table):
    for name, column in TABLES[table].items():
        assert column.meaning.strip(), name
        assert column.null.strip() or (isinstance(column, Field) and column.required), name


def test_a_column_without_a_meaning_cannot_be_defined():
    with pytest.raises(TypeError, match="meaning"):
        Field("latency.new_ms", "positive")
    with pytest.raises(TypeError, match="meaning"):
        columns.Column()


@pytest.mark.parametrize("name", sorted({field.made for field in (*FIELDS.values(), *NETWORK_FIELDS.values())}))
def test_the_modules_that_columns_come_from_exist(name):
    assert find_spec(name) is not None


def leaves(prefix, value):
    """The paths of a JSON object's leaves."""
    if isinstance(value, dict) and value:
        return [path for key, inner in value.items() for path in leaves(f"{prefix}.{key}" if prefix else key, inner)]
    return [prefix]


def known(path, *explained):
    """Whether a path, or an object that it stands in, is explained."""
    parts = path.split(".")
    return any(".".join(parts[:count]) in each for count in range(1, len(parts) + 1) for each in explained)


@pytest.mark.parametrize("file", sorted(RESULTS.glob("*.json")), ids=lambda path: path.name)
def test_every_leaf_of_a_results_file_is_in_the_dictionary(file):
    document = json.loads(file.read_text(encoding="utf-8"))
    rows = [each["extra_info"]["halobench"] for each in document["benchmarks"]] + document["halobench"]["failures"]
    for row in rows:
        fields = {field.path for field in (NETWORK_FIELDS if "network" in row else FIELDS).values()}
        # An operator has none of the first, a network no floor, and none but a detector has parts.
        absent = ("layer", "paired", "accuracy", "floor", "parts_ms")
        found = [path for path in leaves("", row) if path not in absent]
        assert [path for path in found if not known(path, fields, columns.BESIDE, columns.SUMMED_UP)] == []
    found = [path for path in leaves("", document["halobench"]) if path != "ceilings"]  # halobench.scale has none
    assert [path for path in found if not known(path, columns.SECTION)] == []


@pytest.mark.parametrize(
    ("name", "explained"),
    [
        ("summary.csv", {**columns.OF_THE_FILE, **FIELDS, **columns.DOUBT, **columns.SUMMED_UP}),
        ("networks.csv", {**columns.OF_THE_FILE, **NETWORK_FIELDS, **columns.SUMMED_UP}),
        ("curves.csv", columns.CURVES),
        ("time-to-accuracy.csv", columns.TIMES),
    ],
)
def test_every_column_of_a_table_is_in_the_dictionary(name, explained):
    files = sorted(RESULTS.rglob(name))
    assert files
    for file in files:
        found = list(pd.read_csv(file, nrows=0).columns)
        assert found == [column for column in explained if column in found]  # older tables lack the columns of today


def test_the_tables_of_a_profile_are_in_the_dictionary(tmp_path):
    recording = Recording("a", "cpu", 1.0, [Kernel("one", 0.5, 1, None)], None, [(0.0, 0)], (tmp_path, tmp_path))
    show.write_table(recording, Ceilings("cpu", "float32", 1.0, 1.0, 1.0), tmp_path)
    show.write_memory(recording, tmp_path)
    for name, explained in (("kernels.csv", columns.KERNELS), ("memory.csv", columns.MEMORY)):
        assert list(pd.read_csv(tmp_path / name).columns) == list(explained)


def test_the_heads_of_the_page_are_in_the_dictionary(tmp_path):
    rows = [*results_files.campaign(("naive_unfold", "sdpa")), results_files.network_row("efficientnet_b0")]
    rows += [results_files.network_row("halonet_h0", "sdpa", rival="efficientnet_b0")]
    results = read_all(results_files.write(tmp_path / "mine.json", rows))
    heads = {head for one in headline.headlines(results) for head in one.table.head}
    heads |= {*tables.CASES.values(), *tables.failures(points(results)).head}
    explained = {*TABLES["page"], *FIELDS, *NETWORK_FIELDS}
    plain = {head.removeprefix("forward ").removeprefix("training ") for head in heads}
    assert plain - explained == set()


def pair_table(tmp_path, fused_ratio, *, fused=True):
    """The table of a pair whose HaloNet takes 0.9 of its rival, fused or not, which takes so much of timm's own."""
    same = {"compiled": True, "side": 224}
    rival = "fused_efficientnet_b0" if fused else "efficientnet_b0"
    rows = [
        results_files.network_row("efficientnet_b0", **same),
        results_files.network_row("halonet_h0", "fused", rival=rival, compiled=True),
    ]
    rows[1]["paired"] |= {"ratio": 0.9, "ratio_low": 0.89, "ratio_high": 0.91, "rival_median_ms": 20.0}
    if fused_ratio is not None:
        best = results_files.network_row(rival, rival="efficientnet_b0", groups=["accelerate"], **same)
        best["paired"] |= {"ratio": fused_ratio, "rival_median_ms": 25.0}
        rows.append(best)
    read = read_all(results_files.write(tmp_path / "mine.json", rows))
    head, _, line, *_ = pairs(network_selections(read)).splitlines()
    return dict(zip(*([cell.strip() for cell in text.split("|")[1:-1]] for text in (head, line)), strict=True))


def test_a_rivals_side_and_memory_are_those_beside_it_though_it_has_no_row_of_its_own(tmp_path):
    row = results_files.network_row("halonet_h0", "fused", rival="efficientnet_b0", compiled=True, side=256)
    row["paired"] |= {"rival_side": 224, "rival_peak_bytes": 2 * row["memory"]["peak_bytes"]}
    read = read_all(results_files.write(tmp_path / "mine.json", [row]))
    _, _, line, *_ = pairs(network_selections(read)).splitlines()
    assert [cell.strip() for cell in line.split("|")][2::5] == ["256 : 224", "0.50"]


def test_a_pair_stands_against_the_faster_rival_and_the_other_beside_it(tmp_path):
    """Timm's own is reached by way of the fused one; where that is slower, it is the other."""
    for fused_ratio, faster, other in ((0.8, "**0.90**", "0.72"), (1.1, "0.99", "**0.90**")):
        said = pair_table(tmp_path, fused_ratio)
        assert (said["EfficientNet as timm wrote it"], said["with fused normalisation"]) == ("25.0 ms", "20.0 ms")
        assert (said["ratio to the faster"], said["to the other"]) == (faster, other)
        assert said["image sides"] == "256 : 224"
        assert said["of peak memory"] != "-"


def test_a_pair_without_a_row_of_its_rival_says_what_is_known(tmp_path):
    alone = pair_table(tmp_path, None)
    assert (alone["EfficientNet as timm wrote it"], alone["ratio to the faster"]) == ("-", "**0.90**")
    usual = pair_table(tmp_path, None, fused=False)
    assert list(usual) == [
        "pair",
        "image sides",
        "batch",
        "HaloNet",
        "EfficientNet",
        "ratio of times",
        "of peak memory",
    ]
    assert (usual["EfficientNet"], usual["ratio of times"], usual["image sides"]) == (
        "20.0 ms",
        "**0.90**",
        "256 : 224",
    )


def test_a_brief_table_of_pairs_has_the_ratios_of_the_whole_ones():
    """Of every machine; a pair that it has not measured stays open."""
    chosen = network_selections(published(RESULTS))
    head, _, *brief = (cells(line) for line in pairs_briefly(chosen).splitlines() if line[:2] == "| ")
    found = {(place, said): dict(zip(head[2:], values, strict=True)) for place, said, *values in brief}
    assert len(found) == len(brief)
    expected = {}
    for one in chosen:
        names, _, *lines = (cells(line) for line in pairs([one]).splitlines() if line[:2] == "| ")
        for at, name in enumerate(names):
            if name in BRIEFLY:
                ratios = dict.fromkeys(head[2:], "-") | {line[0]: line[at] for line in lines}
                expected[f"{one.machine}, {one.dtype}", BRIEFLY[name]] = ratios
    assert found == expected
    assert len({place for place, _ in found}) > 1
