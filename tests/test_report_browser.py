"""The report, opened in a real browser from ``file://``: nothing is asked of the network, nothing is executed that a
results file names, and what can be chosen changes what is shown."""

import re

import pytest

from halobench.records.table import read_all
from halobench.report.__main__ import main
from halobench.report.page import page
from tests import results_files as files
from tests.browser import COLOURS, choose, chromium, contrast, luminance, marks, opened, shown, times, type_into, wait

HOSTILE = "</script><script>window.pwned = 1</script><img src=x onerror='window.pwned = 1'>{{ 7 * 7 }}"
SMALL = {"backends": ("naive_unfold", "sdpa", "global_sa"), "sides": (32, 64, 128), "blocks": (4, 8), "halos": (3,)}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """One for all tests here: it takes seconds to start."""
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The pages of runs of operators alone, of networks alone, and of both in one file."""
    folder = tmp_path_factory.mktemp("report")
    of_operators, of_networks = files.campaign(**SMALL), files.network_campaign()
    both = [*of_operators, *of_networks]
    for name, rows in {"operators": of_operators, "networks": of_networks, "both": both}.items():
        (folder / name).mkdir()
        files.write(folder / name / "mine.json", rows, gpu=files.H100)
        assert main([str(folder / name), "-o", str(folder / f"{name}.html")]) == 0
    return {path.stem: path for path in folder.glob("*.html")}


@pytest.fixture(scope="module")
def report(pages):
    """The page of operators."""
    return pages["operators"]


OF_OPERATORS = {"axes", "reference", "grid", "stages", "roofline", "models"}
OF_NETWORKS = {"rivals", "networks", "grid"}


@pytest.mark.parametrize(
    ("name", "figures"),
    [("operators", OF_OPERATORS), ("networks", OF_NETWORKS), ("both", OF_OPERATORS | OF_NETWORKS)],
)
def test_it_opens_from_a_file_without_an_error_or_a_request(browser, pages, name, figures):
    sent, console = opened(browser, pages[name])
    assert console == []
    assert {url.partition(":")[0] for url in sent} <= {"file", "blob", "data"}
    assert [url for url in sent if url.startswith("file:")] == [pages[name].as_uri()]
    sections = browser.find_elements("css selector", "section.figure")
    assert {element.get_attribute("id") for element in sections} == figures


def test_the_content_security_policy_keeps_requests_in(browser, report):
    """Even a script that got into the page could not call out."""
    opened(browser, report)
    tried = (
        "const done = arguments[0]; fetch('https://example.invalid/').then(() => done('sent'), e => done(String(e)))"
    )
    assert "Failed to fetch" in browser.execute_async_script(tried)
    assert any("Content Security Policy" in entry["message"] for entry in browser.get_log("browser"))


def test_the_table_searches_filters_and_sorts(browser, report):
    opened(browser, report)
    assert len(shown(browser)) == 15
    type_into(browser, "#cases .dt-search input", "OOM")
    wait(lambda: {row[10] for row in shown(browser)} == {"OOM"})
    type_into(browser, "#cases .dt-search input", " ")
    type_into(browser, "#cases .dt-scroll-foot input[placeholder*='backend']", "sdpa")
    wait(lambda: {row[1] for row in shown(browser)} == {"sdpa"})
    head = next(
        each for each in browser.find_elements("css selector", "#cases .dt-scroll-head th") if each.text == "median ms"
    )
    head.click()
    wait(lambda: sorted(times(browser)) == times(browser))
    head.click()
    wait(lambda: sorted(times(browser), reverse=True) == times(browser))


def test_a_choice_changes_a_chart(browser, report):
    opened(browser, report)
    before = marks(browser, "axes")
    assert any("sdpa" in label for label in before)
    choose(browser, "axes", "backend", "naive_unfold")
    wait(lambda: all("naive_unfold" in label for label in marks(browser, "axes")))
    few = marks(browser, "axes")
    assert 0 < len(few) < len(before)
    choose(browser, "axes", "metric", "peak memory (MiB)")
    wait(lambda: marks(browser, "axes") != few)
    assert "peak memory (MiB)" in browser.find_element("css selector", "#axes svg.marks").text


def test_hovering_shows_case_interval_and_environment(browser, report):
    from selenium.webdriver import ActionChains  # noqa: PLC0415 - only where there is a browser

    opened(browser, report)
    mark = browser.find_element("css selector", "#reference path[role='graphics-symbol']")
    ActionChains(browser).move_to_element(mark).perform()
    wait(lambda: browser.find_elements("css selector", "#vg-tooltip-element.visible"))
    said = browser.find_element("id", "vg-tooltip-element").text
    assert "operator/" in said
    assert re.search(r"interval\s+[\d.e-]+ to [\d.e-]+ ms", said)
    assert "torch 2.14.1, commit 0123456+dirty, tier full, mine.json" in said


@pytest.mark.parametrize("name", ["operators", "networks"])
def test_it_is_accessible(browser, pages, name):
    """A language, one main heading, a text for each chart, a label for each control, heads for each table's columns."""
    opened(browser, pages[name])

    def find(*of):
        found = browser.find_elements(*of)
        assert found, of
        return found

    assert browser.find_element("css selector", "html").get_attribute("lang") == "en"
    assert len(find("css selector", "h1")) == 1
    for chart in find("css selector", ".chart [role='graphics-document']"):
        assert len(chart.get_attribute("aria-label")) > 30
    for control in find("css selector", "select, input"):
        assert control.accessible_name, control.get_attribute("outerHTML")
    for table in find("css selector", ".wide table"):
        assert table.find_elements("css selector", "caption")
        assert table.find_elements("css selector", "th[scope='col']")
    sortable = find("css selector", "#cases .dt-column-order[role='button'][tabindex='0']")
    assert len(sortable) >= 15


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize(("name", "charts"), [("operators", ["axes"]), ("networks", ["rivals", "networks"])])
def test_text_is_legible_in_both_themes(browser, pages, name, charts, theme):
    """WCAG 2 AA: a contrast of at least 4.5 between text and page, of the table and of the charts too."""
    features = [{"name": "prefers-color-scheme", "value": theme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    opened(browser, pages[name])
    of_charts = [f"#{chart} svg.marks text" for chart in charts]
    for selector in ("body", "a", "caption", "#cases td", "#cases th", "#cases .dt-info", *of_charts):
        found = browser.execute_script(COLOURS, selector)
        assert found, selector
        for ink, paper in found:
            assert contrast(ink, paper) >= 4.5, (selector, ink, paper)
            assert (luminance(paper) > 0.5) == (theme == "light")


@pytest.mark.parametrize("name", ["operators", "networks"])
def test_it_prints(browser, pages, name):
    """On paper there are no controls, nothing is cut off, and the page is white whatever the theme."""
    browser.set_window_size(1050, 900)
    opened(browser, pages[name])
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": dark})
    script = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
    assert browser.execute_script(script, "nav", "display") == "none"
    assert browser.execute_script(script, "#cases .dt-search", "display") == "none"
    assert luminance(browser.execute_script(script, "body", "backgroundColor")) == pytest.approx(1)
    widest = (
        "return Math.max(...[...document.querySelectorAll(arguments[0])].map(one => one.getBoundingClientRect().right))"
    )
    for content in ("svg.marks", ".wide table", "#cases .dt-scroll-body table"):
        assert browser.execute_script(widest, content) <= 1050  # a landscape sheet
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})


def hostile():
    """Rows whose every free text is an attack."""
    rows = [*files.campaign(**SMALL), files.failed("CRASHED", HOSTILE, "sdpa", height=256)]
    rows.append(files.row("sdpa", suite=HOSTILE, label=HOSTILE))
    rows.append(files.row(HOSTILE, label=HOSTILE, groups=["side", "block", "halo", "stages"]))
    groups = [HOSTILE, "pairs", "side", "grid"]
    of_networks = [(HOSTILE, HOSTILE, "training", HOSTILE), (HOSTILE, None, "forward", None)]
    rows += [files.network_row(*network, label=HOSTILE, suite=HOSTILE, groups=groups) for network in of_networks]
    rows.append(files.failed_network("CRASHED", HOSTILE, HOSTILE, HOSTILE, rival=HOSTILE, side=99, groups=groups))
    return rows


@pytest.mark.fault
def test_names_are_text_and_nothing_else(browser, tmp_path):
    gpu = {**files.H100, "name": HOSTILE, HOSTILE: HOSTILE}
    files.write(tmp_path / "mine.json", hostile(), gpu=gpu, tier=HOSTILE, commit=HOSTILE, datetime=HOSTILE)
    assert main([str(tmp_path), "-o", str(tmp_path / "report.html")]) == 0
    _, console = opened(browser, tmp_path / "report.html")
    assert console == []
    assert browser.execute_script("return window.pwned") is None
    images = {image.get_attribute("src").partition(",")[0] for image in browser.find_elements("css selector", "img")}
    assert images == {"data:image/png;base64"}  # the page's own pictures
    assert HOSTILE in browser.find_element("css selector", "#failures").text
    assert HOSTILE in browser.find_element("css selector", "#environment").text


@pytest.mark.fault
def test_no_name_stands_in_the_page_unescaped(tmp_path):
    path = files.write(tmp_path / "mine.json", hostile(), gpu={**files.H100, "name": HOSTILE}, commit=HOSTILE)
    made = page(read_all(path))
    assert "pwned" in made
    assert "<script>window.pwned" not in made
    assert "<img src=x" not in made


def test_two_runs_are_compared_and_more_have_a_history(browser, tmp_path):
    def rows():
        return [files.row("sdpa"), files.row("conv"), files.network_row("halonet_h0", "fused")]

    slower = [*rows(), files.network_row("halonet_h1", "fused")]
    for row in slower[0], slower[2]:
        for name in ("median_ms", "low_ms", "high_ms"):
            row["latency"][name] *= 2
    halved = files.network_row("halonet_h1", "fused")
    halved["throughput"]["batch"] = 64
    paths = [tmp_path / f"{number}.json" for number in range(3)]
    for number, path in enumerate(paths):
        files.write(
            path,
            slower if number == 1 else [*rows(), halved],
            gpu=files.H100,
            datetime=f"2026-11-2{number}T10:00:00",
            commit=f"{number}" * 40,
        )
    output = tmp_path / "out.html"
    assert main([*map(str, paths[:2]), "-o", str(output)]) == 0
    opened(browser, output)
    ratios = [float(re.search(r"newer / older: ([\d.]+)", label)[1]) for label in marks(browser, "versus") if label]
    assert sorted(ratios) == pytest.approx([1, 2, 2])  # what did not fit at its batch any more is another step
    assert main([*map(str, paths), "-o", str(output)]) == 0
    opened(browser, output)
    choose(browser, "history", "task", "training: halonet_h0-256-n128-bfloat16")
    choose(browser, "history", "direction", "training")
    wait(lambda: len(marks(browser, "history")) == 3)
    choose(browser, "history", "task", history_of("sdpa"))
    choose(browser, "history", "direction", "forward")
    wait(lambda: len(marks(browser, "history")) == 6)
    choose(browser, "history", "backend", "sdpa")
    wait(lambda: len(marks(browser, "history")) == 3)


def history_of(backend):
    """How the history calls the task of a row."""
    suite, _, _, task = files.row(backend)["case"].split("/", 3)
    return f"{suite}: {task}"


def test_networks_stand_beside_their_rivals(browser, pages):
    opened(browser, pages["networks"])
    rows = [row for row in files.network_campaign() if row["status"] == "OK" and row["groups"] == ["pairs"]]
    (best,) = [row for row in rows if row["case"] == "training/fused/training/halonet_h1-306-n128-bfloat16-compiled"]
    ratio, low, high = (best["paired"][name] for name in ("ratio", "ratio_low", "ratio_high"))
    assert f"{ratio:.3f} [{low:.3f}, {high:.3f}]" in browser.find_element("css selector", "#headline table").text
    beside = [label for label in marks(browser, "rivals") if "over the rival" in label]
    assert len(beside) == len([row for row in rows if row["rival"]])
    assert "strided_gather: OOM" in browser.find_element("css selector", "#rivals svg.marks").text
    choose(browser, "rivals", "comparison", "hybrids, training step")
    wait(lambda: {float(found[1]) for found in map(PUBLISHED.search, marks(browser, "rivals")) if found} == {
        1.9, 1.4, 1.0, 0.5
    })  # fmt: skip
    choose(browser, "rivals", "backend", "fused")
    wait(lambda: not any("sdpa" in label for label in marks(browser, "rivals")))


PUBLISHED = re.compile(r"published: ([\d.]+)")


def test_networks_are_drawn_over_their_size(browser, pages):
    opened(browser, pages["networks"])
    said = browser.find_element("css selector", "#networks svg.marks").text.splitlines()
    assert {"images a second", "parameters (millions)"} <= set(said)
    names = [name for name in said if re.fullmatch(r"[HB]\d", name)]
    assert sorted(names) == ["B0", "B1", "B2", "B7", "H0", "H1", "H2", "H7"]  # each once
    rows = [row for row in files.pair_rows() if row["status"] == "OK" and row["direction"] == "training"]
    wanted = [row["throughput"]["images_per_s"] for row in rows if not row["network"]["compiled"]]
    drawn = [float(re.search(r"value: ([\d.]+)", label)[1]) for label in marks(browser, "networks")]
    assert sorted(drawn) == pytest.approx(sorted(wanted), rel=1e-6)
    choose(browser, "networks", "view", "training step, captured, over image side (pixels)")
    wait(lambda: len(marks(browser, "networks")) == 9)
    assert "image side (pixels)" in browser.find_element("css selector", "#networks svg.marks").text
    choose(browser, "networks", "metric", "peak memory (MiB)")
    wait(lambda: "peak memory (MiB)" in browser.find_element("css selector", "#networks svg.marks").text)


def test_it_opens_with_two_pictures_and_tables_and_no_sentence_of_numbers(browser, pages):
    """The reference point, and HaloNet over its rivals; then the tables behind them."""
    opened(browser, pages["both"])
    of = browser.find_elements("css selector", "#headline img, #headline table, #headline p:not(.cue)")
    assert [one.tag_name for one in of] == ["img", "img", "table", "p", "table", "p"]
    assert "reference point" in of[0].get_attribute("alt")
    assert "HaloNet over EfficientNet's" in of[1].get_attribute("alt")
    for picture in of[:2]:
        assert browser.execute_script("return arguments[0].naturalWidth", picture) > 500
    assert "times as long" not in browser.find_element("css selector", "#headline").text


def test_on_a_narrow_screen_what_is_wider_says_that_it_scrolls(browser, pages):
    """The page itself does not; each part that does has the cue above it."""
    wide = (
        "return [...document.querySelectorAll('.wide, .chart, .cases')].map(one => {"
        "const cue = one.previousElementSibling; const body = one.querySelector('.dt-scroll-body') || one;"
        "return [body.scrollWidth > body.clientWidth, cue !== null && cue.matches('.cue') && cue.checkVisibility()]})"
    )
    for width in (400, 1200):
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        try:
            opened(browser, pages["both"])
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width
            found = browser.execute_script(wide)
        finally:
            browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        assert len(found) > 8
        assert all(cued for scrolls, cued in found if scrolls) if width == 400 else not any(cued for _, cued in found)
        assert any(scrolls for scrolls, _ in found) or width == 1200


def test_a_status_stands_inside_its_cell(browser, tmp_path):
    of = {"groups": ["stages"], "label": "H0 stage 1"}
    failed = [files.failed("UNSUPPORTED", "no", name, **of) for name in ("flex", "compiled")]
    files.write(tmp_path / "mine.json", [files.row("sdpa", **of), *failed], gpu=files.H100)
    assert main([str(tmp_path), "-o", str(tmp_path / "report.html")]) == 0
    opened(browser, tmp_path / "report.html")
    script = """const of = document.querySelector("#stages svg.marks");
        const box = one => { const b = one.getBoundingClientRect(); return [b.left, b.right]; };
        return [[...of.querySelectorAll("text")].filter(one => one.textContent === "UNSUPPORTED").map(box),
            [...of.querySelectorAll("g.mark-rect path")].map(box)]"""
    texts, cells = browser.execute_script(script)
    assert len(texts) == 2
    assert all(any(left < start and end < right for left, right in cells) for start, end in texts)


def test_axes_are_named_by_what_is_chosen(browser, report):
    opened(browser, report)

    def said(chart):
        return browser.find_element("css selector", f"#{chart} svg.marks").text.splitlines()

    assert {"feature-map side (pixels)", "latency (ms)"} <= set(said("axes"))
    choose(browser, "axes", "axis", "block side (pixels)")
    wait(lambda: "block side (pixels)" in said("axes"))
    assert {"executed FLOPs (GFLOP)", "useful FLOPs (GFLOP)"} <= set(said("models"))
    choose(browser, "models", "what", "peak memory over its closed form (MiB)")
    wait(lambda: {"peak memory (MiB)", "its closed form (MiB)"} <= set(said("models")))
    assert {"backend", "latency (ms)"} <= set(said("reference"))


def test_legends_list_what_is_chosen(browser, report):
    opened(browser, report)

    def said(chart):
        return set(browser.find_element("css selector", f"#{chart} svg.marks").text.splitlines())

    for chart in ("axes", "roofline", "models"):
        assert {"sdpa", "naive_unfold"} <= said(chart)
        choose(browser, chart, "backend", "sdpa")
        wait(lambda chart=chart: "naive_unfold" not in said(chart))
        assert "sdpa" in said(chart)


def test_networks_stand_in_the_table_of_all_cases(browser, pages):
    opened(browser, pages["both"])
    script = "return [...document.querySelectorAll('#cases .dt-scroll-head th')].map(head => head.textContent)"
    heads = browser.execute_script(script)
    first = dict(zip(heads, shown(browser)[0], strict=False))
    assert (first["suite"], first["network"], first["mode"], first["rival"]) == ("operator", "", "", "")
    type_into(browser, "#cases .dt-scroll-foot input[placeholder*='network']", "halonet_h7_conv")
    wait(lambda: len(shown(browser)) == 6)
    found = [dict(zip(heads, row, strict=False)) for row in shown(browser)]
    assert {row["rival"] for row in found} == {"efficientnet_b7"}
    wanted = {
        row["paired"]["ratio"] for row in files.table_rows() if "_conv" in row["network"]["model"] and row["paired"]
    }
    assert {float(row["over rival"]) for row in found} <= {float(f"{ratio:.4g}") for ratio in wanted}
    assert {row["mode"] for row in found} == {"compiled"}


def test_no_chart_begins_empty_where_two_machines_measured_different_things(browser, tmp_path):
    rows = [files.network_row("halonet_h0", "sdpa", groups=["grid"], overrides={"block": "8", "halo": "1"})]
    files.write(tmp_path / "gpu.json", files.campaign(**SMALL), gpu=files.H100)
    files.write(tmp_path / "cpu.json", [{**row, "device": "cpu"} for row in rows])
    assert main([str(tmp_path), "-o", str(tmp_path / "report.html")]) == 0
    _, console = opened(browser, tmp_path / "report.html")
    assert console == []  # Vega warns of charts without data
    assert "8" in browser.find_element("css selector", "#grid svg.marks").text
