"""Short waits stay silent, long ones show one line, and what is stored reads well."""

from types import SimpleNamespace
from typing import Any

import pytest

from helpers import status as module
from helpers.status import Status


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Page:
    """Stands for the notebook's display: what was shown, and each update in place."""

    def __init__(self) -> None:
        self.displays: list[str] = []
        self.lines: list[str] = []

    def display(self, bundle: dict[str, str], **_: Any) -> SimpleNamespace:
        self.displays.append(bundle["text/plain"])
        self.lines.append(bundle["text/plain"])
        return SimpleNamespace(update=lambda bundle, **_: self.lines.append(bundle["text/plain"]))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "monotonic", clock)
    return clock


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Page:
    page = Page()
    monkeypatch.setattr(module, "get_ipython", lambda: SimpleNamespace(kernel=object()))
    monkeypatch.setattr(module, "display", page.display)
    return page


def test_a_short_wait_leaves_nothing(page: Page, clock: Clock) -> None:
    with Status("waiting for the worker") as status:
        for _ in range(29):
            status.update("0 of 200 done")
            clock.now += 0.1
    assert page.lines == []


def test_a_long_wait_is_one_line_that_ends_well(page: Page, clock: Clock) -> None:
    with Status("waiting for the worker") as status:
        clock.now += 4
        status.update("3 of 200 done")
        clock.now += 3
        status.update("200 of 200 done")
    assert page.displays == ["waiting for the worker · 4 s · 3 of 200 done"]
    assert page.lines[-1] == "waited 7 s · 200 of 200 done"


def test_at_most_five_updates_a_second_and_the_last_word_is_kept(page: Page, clock: Clock) -> None:
    with Status("waiting") as status:
        clock.now += 3
        for n in range(200):
            status.update(f"{n} of 200 done")
            clock.now += 0.01
    assert 9 <= len(page.lines) - 1 <= 11  # two seconds at five a second
    assert page.lines[-1] == "waited 5 s · 199 of 200 done"


def test_the_deadline_is_shown_and_never_overruns_its_bar(page: Page, clock: Clock) -> None:
    with Status("waiting", deadline=15) as status:
        clock.now += 7.5
        status.update("half")
        clock.now += 20
        status.update("late")
    assert page.lines[0] == f"waiting · {'█' * 10}{'░' * 10} 8 of 15 s · half"
    assert page.lines[1].startswith(f"waiting · {'█' * 20} 28 of 15 s")


def test_an_error_passes_and_the_line_still_ends(page: Page, clock: Clock) -> None:
    with pytest.raises(TimeoutError), Status("waiting") as status:
        clock.now += 6
        status.update("3 of 200 done")
        raise TimeoutError
    assert page.lines[-1] == "waited 6 s · 3 of 200 done"


def test_silent_outside_a_notebook(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Status("waiting") as status:
        clock.now += 10
        status.update("3 of 200 done")
    assert capsys.readouterr().out == ""
