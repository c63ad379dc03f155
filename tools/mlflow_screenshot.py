"""Take the README's picture: the noise conditions of one task and cell, compared in MLflow's real UI.

Does with a headless Chromium what a reader does by hand: open the experiment, filter for one cell and repetition,
tick its runs, press *Compare*::

    python -m tools.mlflow_screenshot --task fx --cell lstm
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args
from urllib.parse import quote

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from pipeline import cli, params, records, tracking

DESTINATION = Path("docs/images/mlflow_comparison.png")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
)  # fmt: skip
AXES = ("kind", "mode", "place")
PATIENCE = 90
"""Seconds to wait for the server, and for each page."""


def _program(*names: str) -> str:
    for name in names:
        found = shutil.which(name)
        if found:
            return found
    raise FileNotFoundError(f"expected one of {', '.join(names)} on PATH, found none; install Chromium and its driver")


@contextmanager
def server() -> Iterator[str]:
    """Run MLflow's server on a free loopback port and yield its address.

    Raises:
        TimeoutError: it does not answer.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(tracking.server_command(port), stdout=quiet, stderr=quiet, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                with urllib.request.urlopen(f"{address}/health", timeout=2):
                    break
            except OSError:
                if process.poll() is not None or time.monotonic() > end:
                    raise TimeoutError(
                        f"expected MLflow's server to answer on {address} within {PATIENCE} s, found silence; run "
                        "`make ui` to see its messages"
                    ) from None
                time.sleep(0.5)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


@contextmanager
def browser() -> Iterator[webdriver.Chrome]:
    """Yield a headless Chromium with a fresh profile."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = Options()
        options.binary_location = _program("chromium", "chromium-browser", "google-chrome")
        for flag in (*FLAGS, f"--user-data-dir={profile}", "--window-size=1500,1150"):
            options.add_argument(flag)
        driver = webdriver.Chrome(options=options, service=Service(_program("chromedriver")))
        try:
            yield driver
        finally:
            driver.quit()


class Page:
    """MLflow's UI, by what a reader sees in it."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def find(self, selector: str, text: str | None = None) -> WebElement:
        """Wait for an element, optionally with this text, and return it."""

        def ready(driver: webdriver.Chrome) -> list[WebElement]:
            every = driver.find_elements(By.CSS_SELECTOR, selector)
            return [element for element in every if text is None or element.text.strip() == text]

        message = f"expected {text or selector!r} on {self.driver.current_url}, found no such element"
        patient = WebDriverWait(self.driver, PATIENCE, ignored_exceptions=[WebDriverException])
        return patient.until(ready, message)[0]

    def click(self, selector: str, text: str | None = None) -> None:
        """Wait for an element and click it, even under a floating button."""
        self.driver.execute_script("arguments[0].click()", self.find(selector, text))

    def close_assistant(self) -> None:
        """Close the panel that covers the right-hand side of a fresh profile."""
        self.click("[data-component-id='mlflow.assistant.chat_panel.close']")

    def tick(self, expected: int) -> None:
        """Unfold the parent run, and tick its children."""
        self.click("[role=row] button[data-component-id*='runnamecellrenderer']")

        def unfolded(driver: webdriver.Chrome) -> list[WebElement]:
            boxes = driver.find_elements(By.CSS_SELECTOR, ".ag-row .ag-selection-checkbox input")
            return boxes if len(boxes) == expected + 1 else []

        boxes = WebDriverWait(self.driver, PATIENCE).until(
            unfolded, f"expected one parent and {expected} runs in the list"
        )
        for box in boxes[1:]:
            self.driver.execute_script("arguments[0].click()", box)

    def choose(self, box: WebElement, names: tuple[str, ...]) -> None:
        """Pick entries of a drop-down list, by keyboard as its list is drawn only where it is seen."""
        box.send_keys(Keys.ENTER)
        for name in names:
            for _ in range(200):
                active = box.get_attribute("aria-activedescendant")
                options = self.driver.find_elements(By.CSS_SELECTOR, f"#{active}") if active else []
                if options and (options[0].get_attribute("aria-label") or options[0].text) == name:
                    break
                box.send_keys(Keys.ARROW_DOWN)
            else:
                raise ValueError(f"expected {name!r} in the drop-down list, found no such entry")
            box.send_keys(Keys.ENTER)
        box.send_keys(Keys.ESCAPE)


def take(task: str, cell: str, conditions: int, repetition: int, destination: Path) -> None:
    """Open the comparison of one repetition's conditions and save what the browser shows.

    Args:
        task: the task.
        cell: the recurrent cell.
        conditions: how many runs there must be.
        repetition: which repetition.
        destination: PNG file.

    Raises:
        FileNotFoundError: no browser, no driver, or no such experiment.
        TimeoutError: the server, or a part of the page, does not appear.
    """
    experiment = tracking.experiment_id(task)
    wanted = quote(f"params.cell = '{cell}' and params.repetition = '{repetition}'")
    with server() as address, browser() as driver:
        page = Page(driver)
        try:
            order = "orderByKey=attributes.start_time&orderByAsc=true"
            driver.get(f"{address}/#/experiments/{experiment}/runs?searchFilter={wanted}&{order}")
            page.close_assistant()
            page.tick(conditions)
            page.click("[data-testid='runs-compare-button']")
            page.find("h2", f"Comparing {conditions} Runs from 1 Experiment")
            page.click("button", "Clear All")
            boxes = driver.find_elements(By.CSS_SELECTOR, "input[role=combobox]")
            page.choose(boxes[0], AXES)
            page.choose(boxes[1], ("test_loss_at_R",))
            page.find(".js-plotly-plot svg")
            for folded in ("Run details", "Parameters"):
                page.click("[role=button]", folded)
            time.sleep(2)  # the plot and the folding sections move
            records.write_bytes(destination, driver.get_screenshot_as_png())
        except WebDriverException as error:
            raise TimeoutError(f"expected MLflow's comparison page, found: {error.msg}") from error


def main(arguments: list[str] | None = None) -> int:
    """Take the picture; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", choices=get_args(params.Task), default="fx")
    parser.add_argument("--cell", choices=get_args(params.Cell), default="lstm")
    parser.add_argument("--repetition", type=int, default=0)
    parser.add_argument("--output", type=Path, default=DESTINATION)
    options = parser.parse_args(arguments)

    def work() -> None:
        conditions = len(params.load().training.conditions)
        take(options.task, options.cell, conditions, options.repetition, options.output)
        print(f"mlflow_screenshot: {options.output}")

    return cli.run("mlflow_screenshot", work)


if __name__ == "__main__":
    sys.exit(main())
