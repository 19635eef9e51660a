"""Make the pictures of the documentation from real runs, some in a headless browser.

    tox -e pictures

Debian's packages chromium and chromium-driver must be there.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
IMAGES = DOCS / "images"
RANKS = 6

#: Seconds that anything may take here.
LIMIT = 120

CHROMIUM_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--hide-scrollbars", "--force-device-scale-factor=1"),
)

#: How many rows the data of a page of Bokeh's have that have such a column.
ROWS = """
const documents = window.Bokeh?.documents ?? [];
const sources = documents.flatMap((document) => [...document._all_models.values()])
  .filter((model) => model.type == "ColumnDataSource" && model.columns().includes(arguments[0]));
return sources.reduce((rows, source) => rows + source.get_length(), 0);
"""

#: Without this, axes have a second line, such as "20760 days" since 1970; and fractions of a second
#: stand without their seconds.
PLAIN_TIMES = """
const models = window.Bokeh.documents.flatMap((document) => [...document._all_models.values()]);
for (const model of models)
  if (model.type == "TimedeltaTickFormatter")
    model.setv({context: null, milliseconds: "%H:%M:%S.%MS", strip_leading_zeros: false});
"""


@contextlib.contextmanager
def browser(width: int, height: int) -> Iterator[webdriver.Chrome]:
    """Start Chromium with an empty profile, and stop it."""
    with tempfile.TemporaryDirectory() as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium") or "chromium"
        options.add_argument(f"--user-data-dir={profile}")
        options.add_argument(f"--window-size={width},{height}")
        for flag in CHROMIUM_FLAGS:
            options.add_argument(flag)
        service = webdriver.ChromeService(shutil.which("chromedriver") or "chromedriver")
        chrome = webdriver.Chrome(options=options, service=service)
        try:
            yield chrome
        finally:
            chrome.quit()


#: What plots look like in each mode: a picture's name ends with the key.
MODES = {"": {}, "-dark": {"MATPLOTLIBRC": str(DOCS / "dark.matplotlibrc")}}


def start(
    directory: Path, program: Path | str, *args: str, **environment: str
) -> subprocess.Popen[str]:
    """Start a program under mpirun, an example by its name."""
    mpirun = str(Path(sys.executable).with_name("mpirun"))
    command = [mpirun, "-n", str(RANKS), sys.executable, str(ROOT / "examples" / program)]
    return subprocess.Popen(
        [*command, *args],
        cwd=directory,
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait(job: subprocess.Popen[str]) -> None:
    """Wait for the good end of an example."""
    _, said = job.communicate(timeout=LIMIT)
    if job.returncode:
        sys.exit(said)


def shoot(chrome: webdriver.Chrome, name: str, **rows: int) -> None:
    """Take a picture, and make a dark one, as soon as the columns named have so many rows."""
    for column, wanted in rows.items():
        WebDriverWait(chrome, LIMIT).until(
            lambda page, column=column, wanted=wanted: page.execute_script(ROWS, column) >= wanted
        )
    chrome.execute_script(PLAIN_TIMES)
    drawn = "requestAnimationFrame(() => requestAnimationFrame(arguments[0]))"
    chrome.execute_async_script(drawn)
    chrome.save_screenshot(str(IMAGES / f"{name}.png"))
    darken(IMAGES / f"{name}.png", IMAGES / f"{name}-dark.png")


def darken(light: Path, dark: Path) -> None:
    """Turn light colours into dark ones of the same hue, and white into the grey of dark pages."""
    pixels = np.asarray(Image.open(light).convert("RGB")).astype(float)
    turned = 255 + pixels - pixels.max(axis=2, keepdims=True) - pixels.min(axis=2, keepdims=True)
    Image.fromarray((20 + 0.9 * turned).astype("uint8")).save(dark, optimize=True)


def plots(directory: Path, mode: str) -> None:
    """Let the examples, and the program of the tutorial, draw their plots."""
    for example in ("flights", "heat", "climatology"):
        path = IMAGES / f"{example}{mode}.png"
        wait(start(directory, f"{example}.py", "--plot", str(path), **MODES[mode]))
    program = directory / "analysis.py"
    program.write_text(last_program(DOCS / "tutorial.md", "errors"))
    wait(start(directory, program, **MODES[mode]))
    shutil.copy(directory / "delays.png", IMAGES / f"tutorial{mode}.png")


def last_program(page: Path, word: str) -> str:
    """Find the last listing of a page with some word."""
    listings = re.findall(
        r"^```[^\n]*python\n(?::[^\n]*\n)*(.*?)^```$", page.read_text(), re.DOTALL | re.M
    )
    return next(listing for listing in reversed(listings) if word in listing)


def performance_report(directory: Path) -> None:
    """Show the task stream of a performance report."""
    job = start(
        directory,
        "array_svd.py",
        DASK_MPIDASK__PERFORMANCE_REPORT="report.html",
        BOKEH_RESOURCES="inline",
    )
    wait(job)
    with browser(1200, 560) as chrome:
        chrome.get((directory / "report.html").as_uri())
        tab = WebDriverWait(chrome, LIMIT).until(find_tab("Task Stream"))
        tab.click()
        shoot(chrome, "performance-report", duration=1)


def find_tab(title: str) -> Any:
    """Find a tab of Bokeh's, which are in a shadow root."""

    def found(chrome: webdriver.Chrome) -> Any:
        root = chrome.find_element(By.CSS_SELECTOR, "[data-root-id] > *").shadow_root
        tabs = root.find_elements(By.CSS_SELECTOR, ".bk-tab")
        return next((tab for tab in tabs if tab.text == title), None)

    return found


def dashboard(directory: Path) -> None:
    """Show the dashboard of a job that runs, by the link that it printed."""
    with browser(1200, 760) as chrome:  # it takes longer to start than some jobs take
        job = start(directory, "hyperparameters.py")
        try:
            assert job.stderr is not None
            link = re.search(r"dashboard ([^\s,]+)", job.stderr.readline())
            assert link
            WebDriverWait(chrome, LIMIT).until(lambda page: opened(page, link[1]))
            shoot(chrome, "dashboard", all=1, duration=16)
        finally:
            job.terminate()
            job.communicate(timeout=LIMIT)


def opened(chrome: webdriver.Chrome, link: str) -> bool:
    """Load a page again: the first request makes the dashboard load."""
    chrome.get(link)
    return "Bokeh" in chrome.page_source


def main() -> None:
    """Make all pictures."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        for mode in MODES:
            plots(Path(directory), mode)
        performance_report(Path(directory))
        dashboard(Path(directory))


if __name__ == "__main__":
    main()
