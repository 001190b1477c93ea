"""The settings page says what the table and the grids say, with the defaults of installed parts."""

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from helpers.authoring import settings_page
from helpers.settings import SETTINGS, Where

STORED = settings_page.PAGE.read_text(encoding="utf-8")
DEFAULTS = {name: "somehow" for setting in SETTINGS for name in setting.asked}
PARTS = {"celery": "5", "kombu": "5", "server": "Redis 7"}


def rows(page: str) -> list[list[str]]:
    """The cells of each setting: what is set, what it prevents, what it costs, when it holds."""
    return [line.strip("| ").split(" | ") for line in page.splitlines() if "<br>default" in line]


def defaults_in(page: str) -> list[str]:
    return [setting.split("<br>")[1] for setting, *_ in rows(page)]


def without_defaults(page: str) -> str:
    return re.sub(r"(<br>default: .*?<br>|^Defaults: .*)", "", page, flags=re.MULTILINE)


def test_the_stored_page_is_what_the_table_and_the_grids_say_now() -> None:
    """On every machine: all but the defaults, which depend on what is installed."""
    now = settings_page.page(DEFAULTS, PARTS)
    assert without_defaults(STORED) == without_defaults(now), "make settings writes it again"


def named(page: str) -> dict[Where, str]:
    """The versions whose defaults a page shows."""
    (line,) = re.findall(r"^Defaults: (.*)\.$", page, flags=re.MULTILINE)
    return dict(zip((Where.CELERY, Where.TRANSPORT, Where.SERVER), line.split(", "), strict=True))


def test_the_stored_defaults_are_those_of_the_installed_parts() -> None:
    """Another version may have another default. The version that the page names may not."""
    page = settings_page.page(*settings_page.ask())
    others = []
    for setting, stored, here in zip(SETTINGS, defaults_in(STORED), defaults_in(page), strict=True):
        if stored != here:
            names, part = " and ".join(setting.names), named(page)[setting.where]
            assert part != named(STORED)[setting.where], f"make settings: {names} is {here}"
            others.append(f"{names}: {here} in {part}")
    if others:
        pytest.skip(f"not compared: {'; '.join(others)}")


def test_another_count_makes_another_page(tmp_path: Path) -> None:
    for grid in settings_page.GRIDS.glob("*.csv"):
        shutil.copy(grid, tmp_path)
    path = tmp_path / "crash_worker.csv"
    runs = pd.read_csv(path)
    one = runs.query(
        "setting == 'late ack' and process == 'whole worker killed' and moment == 'running'"
    )
    runs.loc[one.index[0], "fate"] = "lost"
    runs.to_csv(path, index=False)
    assert "the task is lost: 20/20 → 1/20" in settings_page.page(DEFAULTS, PARTS, tmp_path)
    runs.drop(one.index).to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"crash_worker\.csv has no runs"):
        settings_page.page(DEFAULTS, PARTS, tmp_path)


def test_it_is_short_and_fits_a_screen() -> None:
    """Its columns: few, and no long name in those that have to share what the first one leaves."""
    table = rows(STORED)
    assert 8 <= len(table) <= 13, "people print it: take a row out"
    assert {len(row) for row in table} == {4}
    for row in table:
        told = re.sub(r"\]\([^)]*\)", "", " | ".join(row))
        assert len(told) < 420, told
        assert max(map(len, " ".join(row[1:]).split())) < 20, told
