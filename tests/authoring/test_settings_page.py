"""The page of settings says what the grids say, and names the defaults of the installed parts."""

import re
import shutil
from pathlib import Path

import defaults
import pandas as pd
import pytest

from helpers.authoring import settings_page


def test_the_stored_page_is_what_the_grids_say_now() -> None:
    stored = settings_page.PAGE.read_text(encoding="utf-8")
    assert stored == settings_page.page(), "make settings writes it again"


def test_another_count_makes_another_page(tmp_path: Path) -> None:
    for grid in settings_page.GRIDS.glob("*.csv"):
        shutil.copy(grid, tmp_path)
    assert settings_page.page(tmp_path) == settings_page.page()
    path = tmp_path / "crash_worker.csv"
    runs = pd.read_csv(path)
    one = runs.query(
        "setting == 'late ack' and process == 'whole worker killed' and moment == 'running'"
    )
    runs.loc[one.index[0], "fate"] = "lost"
    runs.to_csv(path, index=False)
    assert "with its worker: 20/20 → 1/20" in settings_page.page(tmp_path)
    runs.drop(one.index).to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"crash_worker\.csv has no runs"):
        settings_page.page(tmp_path)


def test_it_is_one_page_of_short_words() -> None:
    rows = re.findall(r"^\| `.*$", settings_page.page(), flags=re.MULTILINE)
    assert 8 <= len(rows) <= 12
    assert all(len(re.sub(r"\]\([^)]*\)", "", row)) < 230 for row in rows)


# The stored defaults are of the versions that are stored with them. Other versions are no failure.
@pytest.mark.parametrize("part", ["celery", "kombu", "server"])
def test_the_defaults_are_those_of_the_parts(part: str) -> None:
    names = {"celery": defaults.CELERY, "kombu": defaults.KOMBU, "server": defaults.SERVER}[part]
    stored = pd.read_csv(settings_page.GRIDS / "defaults.csv", keep_default_na=False, dtype=str)
    stored = stored[stored["setting"].isin(names)].set_index("setting")
    now = pd.DataFrame(defaults.ask()).set_index("setting").loc[stored.index]
    if (stored[part] != now[part]).any():
        pytest.skip(f"stored for {stored[part].iloc[0]}, here is {now[part].iloc[0]}")
    assert len(stored) == len(names)
    assert stored["default"].to_dict() == now["default"].to_dict()
