"""Each test gets its own temporary directory, and must leave no process behind in it."""

import importlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from helpers import Stack

if TYPE_CHECKING:
    from tests.plots.charts import Page

TEMPORARY = tempfile.gettempdir()  # while it is still short: each test has a longer one
# A shell that starts the tests in the background has them ignore SIGINT, and all that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SHOP = """
import os, signal, time
from celery import Celery
from celery.exceptions import Ignore, Reject

app = Celery("shop")

@app.task
def add(a, b):
    return a + b

@app.task
def nap(seconds):
    time.sleep(seconds)

@app.task
def fail():
    raise ValueError("no such order")

@app.task(bind=True, max_retries=1)
def again(self):
    if self.request.retries == 0:
        raise self.retry(countdown=0)

@app.task(acks_late=True)
def late(seconds):
    time.sleep(seconds)

@app.task
def crash():
    os.kill(os.getpid(), signal.SIGKILL)

@app.task(time_limit=1)
def endless():
    time.sleep(60)

@app.task
def ignore():
    raise Ignore()

@app.task
def total(numbers):
    return sum(numbers)
"""


def processes_in(directory: Path) -> list[str]:
    """Command lines of living processes that run in `directory` or name it."""
    found = []
    for process in psutil.process_iter():
        try:
            words = [process.cwd(), *process.cmdline()]
            if process.status() != psutil.STATUS_ZOMBIE and any(str(directory) in w for w in words):
                found.append(f"{process.pid} {' '.join(words)}")
        except psutil.Error:
            continue
    return found


def wait_until_gone(directory: Path, timeout: float = 5) -> list[str]:
    """Wait for the processes of `directory` to end; those that are left after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while (left := processes_in(directory)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


@pytest.fixture(autouse=True)
def leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.delenv("CELERY_BROKER_URL", raising=False)
    before = os.getcwd()
    yield
    os.chdir(before)
    left = wait_until_gone(tmp_path)
    for line in left:
        psutil.Process(int(line.split()[0])).kill()
    assert left == []


@pytest.fixture
def shop_directory(tmp_path: Path) -> Path:
    directory = tmp_path / "the shop"  # a path with a space in it
    directory.mkdir()
    (directory / "shop.py").write_text(SHOP)
    return directory


@pytest.fixture
def stack(shop_directory: Path) -> Iterator[Stack]:
    with Stack(shop_directory) as stack:
        yield stack


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> "Page":
    """Catches what the charts show."""
    # Here: matplotlib is for the tests of charts only.
    from helpers import plots
    from tests.plots.charts import Page

    page = Page()
    for name in set(plots.__all__) - {"expected"}:
        monkeypatch.setattr(importlib.import_module(f"helpers.plots.{name}"), "show", page.show)
    return page


@pytest.fixture
def chromium() -> str:
    """The browser's program."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None or find_spec("playwright") is None:
        pytest.skip("not run: no Chromium on this machine")
    return found


@pytest.fixture
def tab(chromium: str) -> Iterator[Any]:
    """A tab of a real browser, that also gathers the errors of the page in `errors`."""
    from playwright.sync_api import sync_playwright

    arguments = ["--disable-gpu", "--disable-dev-shm-usage"]
    if os.geteuid() == 0:
        arguments.append("--no-sandbox")  # Chromium refuses to run as root with one
    with tempfile.TemporaryDirectory(dir=TEMPORARY) as short, sync_playwright() as playwright:
        # Chromium puts a socket there, whose path has to be shorter than 108 characters.
        browser = playwright.chromium.launch(
            executable_path=chromium, args=arguments, env={**os.environ, "TMPDIR": short}
        )
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        tab.errors = []
        tab.on("pageerror", lambda error: tab.errors.append(str(error)))
        yield tab
        browser.close()
