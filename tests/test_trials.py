"""Rates and their intervals, and grids: what is measured, kept, and gone on with."""

import csv
import io
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from helpers import interval, stored, tally, trials
from helpers.trials import Case, Row, measure
from tests.conftest import processes_in


# Reference values: Wilson score interval at 95 %, from the formula in Newcombe (1998), table I.
@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_interval_matches_published_values(k: int, n: int, low: float, high: float) -> None:
    assert interval(k, n) == pytest.approx((low, high), abs=5e-5)


def test_interval_is_never_certain() -> None:
    assert interval(20, 20)[0] < 1 and interval(20, 20)[1] == 1


@pytest.mark.parametrize(("k", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_no_rate(k: int, n: int) -> None:
    with pytest.raises(ValueError, match="is no rate"):
        interval(k, n)


def test_tally_counts_each_label_in_each_group_by_its_name() -> None:
    runs = pd.DataFrame(
        {"policy": ["lru"] * 3 + ["ttl"], "idle": [1.5, 1.5, 300, 1.5], "lost": [200, 0, 200, 0]}
    )
    table = tally(runs, hit="lost", label="policy", group="idle", names={1.5: "fresh", 300: "idle"})
    seen = table[["label", "group", "k", "n"]].to_numpy().tolist()
    assert seen == [["lru", "fresh", 1, 2], ["lru", "idle", 1, 1], ["ttl", "fresh", 0, 1]]
    assert tuple(table.loc[0, ["low", "high"]]) == interval(1, 2)
    assert set(tally(runs, hit="lost", label="policy", group="idle")["group"]) == {1.5, 300}


# --- measure ------------------------------------------------------------------------------------

MADE = {"server": "Redis 7.0", "celery": "5.7.0", "kombu": "5.7.0", "date": "2026-11-25"}


def batches(n: int) -> Iterator[list[Case]]:
    """Two colours; a run of both is a batch."""
    for run in range(n):
        yield [{"colour": colour, "run": run} for colour in ("red", "green")]


def look(batch: list[Case]) -> Iterator[Row]:
    """In a process of its own, too."""
    for case in batch:
        yield {**case, "seen": len(case["colour"]), "process": os.getpid(), **MADE}


class Grid:
    """A grid of fake runs: `ran` are the cases that were run, in their order."""

    def __init__(self, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.csv, self.part = here / "grid.csv", here / "grid.part.csv"
        self.ran: list[tuple[Any, ...]] = []
        self._patch = monkeypatch
        monkeypatch.setattr(trials, "_versions", lambda: MADE)

    def run(self, batch: list[Case]) -> Iterator[Row]:
        for case in batch:
            self.ran.append(tuple(case.values()))
            yield {**case, "seen": len(case["colour"]), **MADE}

    def measure(self, *words: str, **options: Any) -> int:
        """The exit code of the command line `words`."""
        self._patch.setattr(sys, "argv", ["grid.py", *words])
        self.ran.clear()
        given = {"batches": batches, "run": self.run, "n": 3, **options}
        try:
            measure(str(self.csv.with_suffix(".py")), **given)
        except SystemExit as end:
            if isinstance(end.code, str):  # Python itself would print it, and exit with 1
                print(end.code, file=sys.stderr)
                return 1
            return int(end.code or 0)
        return 0

    def rows(self, path: Path) -> list[tuple[str, ...]]:
        """The first three columns of what was written."""
        return [tuple(row.values())[:3] for row in csv.DictReader(path.read_text().splitlines())]


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Grid:
    return Grid(tmp_path, monkeypatch)


ALL = [("red", 0), ("green", 0), ("red", 1), ("green", 1), ("red", 2), ("green", 2)]
WRITTEN = [(colour, str(run), str(len(colour))) for colour, run in ALL]
Capture = pytest.CaptureFixture[str]


def test_a_full_run_becomes_the_grid(grid: Grid, capsys: Capture) -> None:
    grid.csv.write_text("the old one")
    assert grid.measure() == 0
    assert grid.ran == ALL and grid.rows(grid.csv) == WRITTEN and not grid.part.exists()
    said = capsys.readouterr().err.splitlines()
    assert said[:2] == ["grid: 6 runs", "1 of 6 · 0 s left · red"]
    assert said[-1].startswith("wrote ") and said[-1].endswith("grid.csv")


def test_a_sample_counts_for_the_full_run(grid: Grid, capsys: Capture) -> None:
    grid.csv.write_text("the old one")
    assert grid.measure("--n", "1") == 0
    assert grid.ran == ALL[:2] and grid.rows(grid.part) == WRITTEN[:2]
    assert "a sample, in " in capsys.readouterr().err and grid.csv.read_text() == "the old one"
    assert grid.measure("--n", "1") == 0 and grid.ran == []
    assert grid.measure() == 0
    assert grid.ran == ALL[2:] and grid.rows(grid.csv) == WRITTEN
    assert "grid: 6 runs, 2 of them are there already\n3 of 6" in capsys.readouterr().err


def test_only_some_cases_and_the_order_of_the_batches(grid: Grid) -> None:
    assert grid.measure("--only", "GREEN") == 0  # with all their runs, and still a sample
    assert grid.ran == ALL[1::2] and not grid.csv.exists()
    assert grid.measure() == 0
    assert grid.ran == ALL[::2]  # of a batch, only what is missing
    assert grid.rows(grid.csv) == WRITTEN


def test_more_runs_than_the_script_asks_for(grid: Grid) -> None:
    assert grid.measure("--n", "4") == 0
    assert len(grid.rows(grid.csv)) == 8


def test_interrupted_is_gone_on_with(grid: Grid, capsys: Capture) -> None:
    def interrupted(batch: list[Case]) -> Iterator[Row]:
        for row in grid.run(batch):
            if row["run"] == 1 and row["colour"] == "green":
                raise KeyboardInterrupt
            yield row

    assert grid.measure(run=interrupted) == 130
    assert grid.rows(grid.part) == WRITTEN[:3] and not grid.csv.exists()
    assert "stopped with 3 of 6 runs: the same command goes on" in capsys.readouterr().err
    assert grid.measure() == 0
    assert grid.ran == ALL[3:] and grid.rows(grid.csv) == WRITTEN


@pytest.mark.parametrize("at_once", [1, 2])
def test_a_failed_batch_costs_only_itself(grid: Grid, capsys: Capture, at_once: int) -> None:
    assert grid.measure(run=fails, at_once=at_once) == 1
    assert sorted(grid.rows(grid.part)) == sorted([*WRITTEN[:3], *WRITTEN[4:]])
    said = capsys.readouterr().err
    assert "failed, and goes on with the others: red\nTraceback" in said
    assert "ZeroDivisionError" in said and "runs that failed: 1. The same command" in said
    assert grid.measure() == 0
    assert grid.ran == [("green", 1)] and grid.rows(grid.csv) == WRITTEN


def fails(batch: list[Case]) -> Iterator[Row]:
    """The second half of the second batch."""
    for case in batch:
        yield {
            **case,
            "seen": len(case["colour"]) // (case != {"colour": "green", "run": 1}),
            **MADE,
        }


def test_side_by_side(grid: Grid) -> None:
    assert grid.measure("--at-once", "2", run=look) == 0
    rows = list(csv.DictReader(grid.csv.read_text().splitlines()))
    assert [(row["colour"], row["run"], row["seen"]) for row in rows] == WRITTEN
    assert str(os.getpid()) not in {row["process"] for row in rows}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--n", "0"], "argument --n: 0 is no number of at least 1"),
        (["--n", "some"], "argument --n: some is no number"),
        (["--at-once", "-1"], "argument --at-once: -1 is no number"),
        (["--only", "blue"], "no case has 'blue' in its columns. Some of 2:\n  green\n  red"),
        (["--most", "3"], "unrecognized arguments: --most 3"),
    ],
)
def test_what_makes_no_sense(grid: Grid, capsys: Capture, words: list[str], said: str) -> None:
    assert grid.measure(*words) == 2
    assert said in capsys.readouterr().err and grid.ran == []


@pytest.mark.parametrize("name", ["server", "celery", "kombu"])
def test_other_versions_are_another_measurement(
    grid: Grid, capsys: Capture, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    assert grid.measure("--n", "1") == 0
    monkeypatch.setattr(trials, "_versions", lambda: {**MADE, name: "new"})
    assert grid.measure() == 1
    said = capsys.readouterr().err
    assert f"was measured with {name} {MADE[name]}, and this is new. To begin again, type:" in said
    assert f"\n  rm {os.path.relpath(grid.part)}\n" in said
    assert grid.ran == [] and grid.rows(grid.part) == WRITTEN[:2]


def test_a_grid_may_compare_versions(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    def versions(n: int) -> Iterator[list[Case]]:
        yield from ([{"celery": version, "run": 0}] for version in ("5.5.0", "5.7.0"))

    def run(batch: list[Case]) -> Iterable[Row]:
        return [{**MADE, **case} for case in batch]

    options: dict[str, Any] = {"batches": versions, "run": run, "n": 1}
    assert grid.measure("--only", "5.5", **options) == 0
    monkeypatch.setattr(trials, "_versions", lambda: {**MADE, "celery": "5.7.0"})
    assert grid.measure(**options) == 0 and len(grid.rows(grid.csv)) == 2


def test_a_script_with_other_columns(grid: Grid, capsys: Capture) -> None:
    def more(batch: list[Case]) -> Iterator[Row]:
        yield from ({**row, "more": 1} for row in grid.run(batch))

    assert grid.measure("--n", "1") == 0
    assert grid.measure(run=more) == 1
    assert "has other columns than this script. To begin again" in capsys.readouterr().err
    assert grid.rows(grid.part) == WRITTEN[:2]


def test_half_a_line_is_measured_again(grid: Grid) -> None:
    assert grid.measure("--n", "1") == 0
    grid.part.write_text(grid.part.read_text()[:-5])  # the machine died in the middle of it
    assert grid.measure() == 0
    assert grid.ran == ALL[1:] and grid.rows(grid.csv) == WRITTEN


def test_values_are_written_as_pandas_writes_them(grid: Grid) -> None:
    values = [None, math.nan, np.float64(0.5), np.int64(3), True, "a, b", ""]

    def run(batch: list[Case]) -> Iterator[Row]:
        for case in batch:
            yield {**case, **{str(place): value for place, value in enumerate(values)}}

    assert grid.measure(run=run, n=1) == 0
    assert grid.csv.read_text().splitlines()[1] == 'red,0,,,0.5,3,True,"a, b",'


def test_the_time_that_is_left(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 30.0, 1200.0])
    monkeypatch.setattr(trials, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    progress = trials._Progress("grid", every=20, missing=10)
    progress.done("red")
    progress.done("late ack · held")
    assert capsys.readouterr().err.splitlines() == [
        "grid: 20 runs, 10 of them are there already",
        "11 of 20 · 4 min left · red",
        "12 of 20 · 80 min left · late ack · held",
    ]


def test_progress_in_a_terminal_stays_on_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "40")
    trials._Progress("grid", every=2, missing=2).done("word " * 20)
    line = terminal.getvalue().rpartition("\x1b[2K")[2]
    assert line.startswith("1 of 2 · 0 s left · word ") and line.endswith("\r") and len(line) == 40


# A grid whose second run takes for ever, until a file says that it need not.
SCRIPT = """
import time
from pathlib import Path

from helpers import Stack, private_directory, trials
from helpers.trials import measure

trials._versions = lambda: {"server": "fake"}
HERE = Path(__file__).parent

def batches(n):
    return [[{"run": run}] for run in range(n)]

def run(batch):
    with (HERE / "ran").open("a") as file:
        print(batch[0]["run"], file=file)
    if batch[0]["run"] == 1 and not (HERE / "quick").exists():
        with Stack(private_directory(), backend=None):
            (HERE / "busy").touch()
            time.sleep(60)
    yield {**batch[0], "server": "fake"}

if __name__ == "__main__":
    measure(__file__, batches, run, n=3)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("at_once", ["1", "2"])
def test_a_grid_that_is_killed_leaves_its_rows_and_nothing_else(
    tmp_path: Path, number: signal.Signals, at_once: str
) -> None:
    script = tmp_path / "grid.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), "--at-once", at_once]
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(command, stderr=said, start_new_session=True)
    part = tmp_path / "grid.part.csv"
    deadline = time.monotonic() + 20
    while not ((tmp_path / "busy").exists() and part.exists()):
        assert time.monotonic() < deadline, (tmp_path / "said").read_text()
        time.sleep(0.02)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # Ctrl-C goes to all of a terminal's processes
    else:
        process.kill()
    assert process.wait(5) == (130 if number == signal.SIGINT else -number)
    deadline = time.monotonic() + 5
    while left := processes_in(tmp_path):
        assert time.monotonic() < deadline, left
        time.sleep(0.02)
    kept = {line.split(",")[0] for line in part.read_text().splitlines()[1:]}
    assert kept in ({"0"}, {"0", "2"})
    (tmp_path / "quick").touch()
    subprocess.run(command, check=True, timeout=30, stderr=subprocess.DEVNULL)
    assert (tmp_path / "grid.csv").read_text() == "run,server\n0,fake\n1,fake\n2,fake\n"
    ran = (tmp_path / "ran").read_text().split()
    assert ran.count("0") == 1 and ran.count("1") == 2


# --- where a row comes from ---------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for name in ("code.py", "grid.csv"):
        (tmp_path / name).write_text("1\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "-c", "user.name=A", "-c", "user.email=a@b", "commit", "-qm", "first")
    trials.commit.cache_clear()
    return tmp_path


def git(here: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(here), *words], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_the_commit_of_a_row(repository: Path) -> None:
    name = git(repository, "rev-parse", "--short", "HEAD")
    assert trials.commit(repository) == name
    trials.commit.cache_clear()
    (repository / "grid.csv").write_text("2\n")  # what a grid writes is no change of the code
    assert trials.commit(repository) == name
    trials.commit.cache_clear()
    (repository / "code.py").write_text("2\n")
    assert trials.commit(repository) == f"{name}+"


def test_no_commit(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = repository / "copy"
    inside.mkdir()
    assert trials.commit(inside) == ""  # the repository around it is somebody else's
    assert trials.commit(repository.parent) == ""
    monkeypatch.setenv("PATH", "")
    assert trials.commit(repository) == ""


OLD = "lost,server,celery,kombu,date\n1,Redis 7.0,5.7.0,5.7.0,2026-11-20\n"
NEW = "lost,server,celery,kombu,date,commit\n1,Redis 7.0,5.7.0,5.7.0,2026-11-20,{}\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [(OLD, "5.7.0\n"), (NEW.format(""), "5.7.0\n"), (NEW.format("1234567"), " · commit 1234567\n")],
)
def test_what_is_stored_says_where_it_comes_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, text: str, said: str
) -> None:
    monkeypatch.setattr(trials, "ROOT", tmp_path)
    (tmp_path / "notebooks" / "grids").mkdir(parents=True)
    (tmp_path / "notebooks" / "grids" / "grid.csv").write_text(text)
    assert stored("grid")["lost"].tolist() == [1]
    first = "stored: 1 runs · 2026-11-20 · Redis 7.0 · Celery 5.7.0 · kombu 5.7.0"
    assert capsys.readouterr().out.startswith(first + said.removeprefix("5.7.0"))


def test_a_run_has_a_directory_of_its_own_and_leaves_none() -> None:
    with pytest.raises(KeyError), trials.directory_with(shop="a = 1\n", other="b = 2\n") as here:
        files = {path.name: path.read_text() for path in here.iterdir()}
        raise KeyError
    assert files == {"shop.py": "a = 1\n", "other.py": "b = 2\n"}
    assert not here.exists()


def test_fates_are_counted_by_name_and_the_rest_together() -> None:
    fates = pd.Series(["done", "lost", "done", "failed", "queued"])
    assert trials.fate_columns(fates, ("done", "stranded", "lost")) == {
        **{"done": 2, "stranded": 0, "lost": 1},
        "other": 2,
    }
