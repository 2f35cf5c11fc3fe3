"""Pages in headless Chromium: what they ask of the network, what they show, and what can be chosen on them."""

import json
import re
import shutil
import time
from contextlib import contextmanager

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1200,900",
)  # fmt: skip


@contextmanager
def chromium(profile):
    """Headless Chromium, its console and its requests logged."""
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("no chromium and chromedriver on the PATH")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=DRIVER))
    try:
        yield driver
    finally:
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
    """Wait until it holds."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def shown(browser):
    """The rows of the table of cases that are visible, cell by cell."""
    script = """return [...document.querySelectorAll("#cases .dt-scroll-body tbody tr")]
        .map(row => [...row.cells].map(cell => cell.innerText))"""
    return browser.execute_script(script)


def times(browser):
    """The column of medians."""
    return [float(row[11]) for row in shown(browser)]


def marks(browser, name):
    """The accessible names of a chart's marks."""
    script = "return [...document.querySelectorAll(arguments[0])].map(mark => mark.getAttribute('aria-label'))"
    return browser.execute_script(script, f"#{name} path[aria-roledescription='point']")


def type_into(browser, selector, text):
    """Type into a field in place of what stands there."""
    field = browser.find_element("css selector", selector)
    field.clear()
    field.send_keys(text)


def choose(browser, chart, label, value):
    """Choose from a drop-down list with the keyboard's events."""
    from selenium.webdriver.support.ui import Select  # noqa: PLC0415 - only where there is a browser

    path = f"//section[@id='{chart}']//label[span[starts-with(text(), '{label}')]]/select"
    Select(browser.find_element("xpath", path)).select_by_visible_text(value)


# The colours of what a selector finds and shows: of its text, and of what lies behind.
COLOURS = """
const seen = [...document.querySelectorAll(arguments[0])].filter(element => element.checkVisibility());
return seen.map(element => {
  const style = getComputedStyle(element), ink = element instanceof SVGElement ? style.fill : style.color;
  for (let behind = element; behind; behind = behind.parentElement) {
    const paper = getComputedStyle(behind).backgroundColor;
    if (!/, 0\\)$/.test(paper)) return [ink, paper];
  }
})"""


def luminance(colour):
    """The relative luminance of WCAG 2."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in (
        int(number) / 255 for number in re.findall(r"\d+", colour)[:3]
    )]  # fmt: skip
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    """The contrast ratio of WCAG 2."""
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)
