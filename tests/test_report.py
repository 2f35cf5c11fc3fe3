"""The report, opened in a real browser from ``file://``: nothing is asked of the network, nothing is executed that a
results file names, and what can be chosen changes what is shown."""

import json
import re
import shutil
import time

import pytest

from halobench.report.__main__ import main
from halobench.report.page import page
from halobench.results import read_all
from tests import results_files as files

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1200,900",
)  # fmt: skip
HOSTILE = "</script><script>window.pwned = 1</script><img src=x onerror='window.pwned = 1'>{{ 7 * 7 }}"
SMALL = {"backends": ("naive_unfold", "sdpa", "global_sa"), "sides": (32, 64, 128), "blocks": (4, 8), "halos": (3,)}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Headless Chromium, its console and its requests logged."""
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("no chromium and chromedriver on the PATH")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=DRIVER))
    yield driver
    driver.quit()


def opened(browser, path):
    """Open a page and wait until its charts and its table are drawn; the requests it made and its console."""
    browser.get("about:blank")
    for log in ("browser", "performance"):
        browser.get_log(log)
    browser.get(path.as_uri())
    wait(lambda: browser.execute_script(
        "return document.querySelectorAll('.chart').length === document.querySelectorAll('.chart svg.marks').length"
        " && document.querySelectorAll('#cases tbody tr').length > 0"
        " && document.querySelector('#cases .dt-container') !== null"
    ))  # fmt: skip
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"]
    return sent, browser.get_log("browser")


def wait(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def shown(browser):
    """The rows of the table of cases that are visible, cell by cell."""
    script = """return [...document.querySelectorAll("#cases .dt-scroll-body tbody tr")]
        .map(row => [...row.cells].map(cell => cell.innerText))"""
    return browser.execute_script(script)


def marks(browser, name):
    """The accessible names of a chart's marks."""
    script = "return [...document.querySelectorAll(arguments[0])].map(mark => mark.getAttribute('aria-label'))"
    return browser.execute_script(script, f"#{name} path[aria-roledescription='point']")


def type_into(browser, selector, text):
    field = browser.find_element("css selector", selector)
    field.clear()
    field.send_keys(text)


def choose(browser, chart, label, value):
    """Choose from a drop-down list with the keyboard's events."""
    from selenium.webdriver.support.ui import Select  # noqa: PLC0415 - only where there is a browser

    path = f"//section[@id='{chart}']//label[span[starts-with(text(), '{label}')]]/select"
    Select(browser.find_element("xpath", path)).select_by_visible_text(value)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The page of one run."""
    folder = tmp_path_factory.mktemp("report")
    files.write(folder / "mine.json", files.campaign(**SMALL), gpu=files.H100)
    assert main([str(folder), "-o", str(folder / "report.html")]) == 0
    return folder / "report.html"


def test_it_opens_from_a_file_without_an_error_or_a_request(browser, report):
    sent, console = opened(browser, report)
    assert console == []
    assert {url.partition(":")[0] for url in sent} <= {"file", "blob", "data"}
    assert [url for url in sent if url.startswith("file:")] == [report.as_uri()]
    assert {element.get_attribute("id") for element in browser.find_elements("css selector", "section.figure")} == {
        "axes", "reference", "grid", "stages", "roofline", "models"
    }  # fmt: skip


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


def times(browser):
    """The column of medians."""
    return [float(row[11]) for row in shown(browser)]


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


def test_it_is_accessible(browser, report):
    """A language, one main heading, a text for each chart, a label for each control, heads for each table's columns."""
    opened(browser, report)
    find = browser.find_elements
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
def test_text_is_legible_in_both_themes(browser, report, theme):
    """WCAG 2 AA: a contrast of at least 4.5 between text and page, of the table and of the charts too."""
    features = [{"name": "prefers-color-scheme", "value": theme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    opened(browser, report)
    for selector in ("body", "a", "caption", "#cases td", "#cases th", "#cases .dt-info", "#axes svg.marks text"):
        ink, paper = browser.execute_script(COLOURS, selector)
        assert contrast(ink, paper) >= 4.5, (selector, ink, paper)
        assert (luminance(paper) > 0.5) == (theme == "light")


COLOURS = """
const element = document.querySelector(arguments[0]), style = getComputedStyle(element);
const ink = element instanceof SVGElement ? style.fill : style.color;
for (let behind = element; behind; behind = behind.parentElement) {
  const paper = getComputedStyle(behind).backgroundColor;
  if (!/, 0\\)$/.test(paper)) return [ink, paper];
}"""


def luminance(colour):
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in (
        int(number) / 255 for number in re.findall(r"\d+", colour)[:3]
    )]  # fmt: skip
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def test_it_prints(browser, report):
    """On paper there are no controls, nothing is cut off, and the page is white whatever the theme."""
    browser.set_window_size(1050, 900)
    opened(browser, report)
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
    return rows


@pytest.mark.fault
def test_names_are_text_and_nothing_else(browser, tmp_path):
    gpu = {**files.H100, "name": HOSTILE, HOSTILE: HOSTILE}
    files.write(tmp_path / "mine.json", hostile(), gpu=gpu, tier=HOSTILE, commit=HOSTILE, datetime=HOSTILE)
    assert main([str(tmp_path), "-o", str(tmp_path / "report.html")]) == 0
    _, console = opened(browser, tmp_path / "report.html")
    assert console == []
    assert browser.execute_script("return window.pwned") is None
    assert browser.find_elements("css selector", "img") == []
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
    slower = [files.row("sdpa"), files.row("conv")]
    for name in ("median_ms", "low_ms", "high_ms"):
        slower[0]["latency"][name] *= 2
    paths = [tmp_path / f"{number}.json" for number in range(3)]
    for number, path in enumerate(paths):
        rows = slower if number == 1 else [files.row("sdpa"), files.row("conv")]
        files.write(path, rows, gpu=files.H100, datetime=f"2026-11-2{number}T10:00:00", commit=f"{number}" * 40)
    output = tmp_path / "out.html"
    assert main([*map(str, paths[:2]), "-o", str(output)]) == 0
    opened(browser, output)
    ratios = [float(re.search(r"newer / older: ([\d.]+)", label)[1]) for label in marks(browser, "versus") if label]
    assert sorted(ratios) == pytest.approx([1, 2])
    assert main([*map(str, paths), "-o", str(output)]) == 0
    opened(browser, output)
    assert len(marks(browser, "history")) == 6
    choose(browser, "history", "backend", "sdpa")
    wait(lambda: len(marks(browser, "history")) == 3)


def test_results_without_a_time_make_a_page(tmp_path):
    path = files.write(tmp_path / "mine.json", [files.failed("OOM", "too large", "sdpa")])
    made = page(read_all(path))
    assert "too large" in made
    assert "data-chart=" not in made.partition("<main>")[2].partition("</main>")[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["absent.json"], "absent.json: No such file or directory"),
        (["mine.json", "-o", "mine.json"], "--output must name an HTML file, got mine.json"),
        (["mine.json", "-o", "absent/report.html"], "absent/report.html cannot be written: No such file or directory"),
    ],
)
def test_what_cannot_be_gets_one_line(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    path = files.write(tmp_path / "mine.json", [files.row()])
    before = path.read_bytes()
    assert main(arguments) == 2
    assert capsys.readouterr().err == f"halobench.report: {said}\n"
    assert path.read_bytes() == before


def test_help_has_examples(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "python -m halobench.report results/" in capsys.readouterr().out
