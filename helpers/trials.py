"""Repeat an experiment, keep what each run gave, and say how sure the rate is."""

import argparse
import csv
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from datetime import date
from functools import cache
from importlib.metadata import version
from pathlib import Path
from statistics import NormalDist
from typing import Any

import pandas as pd

from helpers import reaper
from helpers.stack import Stack

ROOT = Path(__file__).parents[1]
Case = dict[str, Any]  # the key columns of one run
Row = dict[str, Any]
Run = Callable[[list[Case]], Iterable[Row]]


def interval(k: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval of a rate of `k` in `n`, as proportions.

    Raises ValueError unless 0 <= k <= n and n > 0.
    """
    if not 0 <= k <= n or n == 0:
        raise ValueError(f"{k} of {n} is no rate")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    centre = (k + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * (k * (n - k) / n + z * z / 4) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)


def tally(
    runs: pd.DataFrame, hit: str, label: str, group: str, names: Mapping[Any, str] | None = None
) -> pd.DataFrame:
    """How often the column `hit` is true, with its interval, for each `label` and `group`.

    `names` says in words what a value of `group` is. Columns label, group, k, n, low, high: what
    `plots.rates` draws.
    """
    rows = []
    for (name, series), some in runs.groupby([label, group], sort=False):
        k, n = int(some[hit].astype(bool).sum()), len(some)
        rows.append([name, names[series] if names else series, k, n, *interval(k, n)])
    return pd.DataFrame(rows, columns=["label", "group", "k", "n", "low", "high"])


@contextmanager
def directory_with(**sources: str) -> Iterator[Path]:
    """A private directory for one run, with its applications: `shop=SHOP` writes shop.py there."""
    here = reaper.private_directory()
    try:
        for name, source in sources.items():
            (here / f"{name}.py").write_text(source)
        yield here
    finally:
        reaper.remove(here)


def fate_columns(fates: pd.Series, names: Iterable[str]) -> dict[str, int]:
    """How many of `fates`, a word a task, are each of `names`, and how many are none of them."""
    counts = {name: int((fates == name).sum()) for name in names}
    return {**counts, "other": len(fates) - sum(counts.values())}


def provenance(stack: Stack) -> dict[str, str]:
    """Where and when a run was made: the columns that every stored grid has."""
    return {
        "server": stack.redis.version,
        "celery": version("celery"),
        "kombu": version("kombu"),
        "date": date.today().isoformat(),
        "commit": commit(),
    }


@cache
def commit(root: Path = ROOT) -> str:
    """The commit in `root`, with a "+" if a file was changed since; empty where git has none."""
    git = ["git", "-C", str(root)]
    # What `make grids` writes does not change what it measures.
    files = ["--", ".", ":(exclude)*.csv", ":(exclude)notebooks/settings.md"]
    try:
        head = subprocess.run(
            [*git, "rev-parse", "--show-toplevel", "--short", "HEAD"],
            capture_output=True,
            text=True,
        )
        changed = subprocess.run([*git, "status", "--porcelain", *files], capture_output=True)
    except FileNotFoundError:  # no git on this machine
        return ""
    place, _, name = head.stdout.strip().partition("\n")
    # Somebody else's repository may lie around a copy of this one.
    if head.returncode or Path(place).resolve() != root.resolve():
        return ""
    return name + "+" * bool(changed.stdout.strip())


def stored(name: str) -> pd.DataFrame:
    """The runs that `make grids` stored, one row a run; prints where and when they ran.

    Raises FileNotFoundError when there is no such grid.
    """
    runs = pd.read_csv(ROOT / "notebooks" / "grids" / f"{name}.csv", dtype={"commit": str})
    run = runs.iloc[0].dropna()
    print(f"stored: {len(runs):,} runs · {run['date']} · {run['server']}", end=" · ")
    celery, kombu = (", ".join(runs[name].unique()) for name in ("celery", "kombu"))
    print(f"Celery {celery} · kombu {kombu}", end="")
    print(f" · commit {run['commit']}" if "commit" in run else "")
    print("repeat with: make grids")
    return runs


def measure(
    script: str,
    batches: Callable[[int], Iterable[list[Case]]],
    run: Run,
    n: int = 20,
    at_once: int = 1,
) -> None:
    """The command line of a grid: what its script ends with, under `if __name__ == "__main__":`.

    A case is the key columns of one run, "run" among them, which counts from 0. `batches(n)` gives
    the cases of `n` runs, in lists that have to run together, such as on one stack. `run(batch)`
    yields one row a case as it ends: the key columns, what was seen, `provenance`. `at_once`
    batches run side by side, in processes of their own.

    Rows are kept beside the script, in a `.part.csv`: who runs it again goes on from there. When
    every case of a full run is there, it replaces the `.csv`, in the order of the batches.
    """
    arguments, wanted = _asked(script, batches, n, at_once)
    grid = Path(script).resolve().with_suffix(".csv")
    part = _Part(grid.with_suffix(".part.csv"), list(wanted[0][0]))
    every = [case for batch in wanted for case in batch]
    missing = [[case for case in batch if part.key(case) not in part.rows] for batch in wanted]
    missing = [batch for batch in missing if batch]
    progress = _Progress(grid.stem, len(every), sum(map(len, missing)))
    results = _in_turn if arguments.at_once == 1 else _side_by_side
    try:
        with closing(results(run, missing, arguments.at_once)) as seen:
            for row in seen:
                if isinstance(row, str):
                    progress.say(f"failed, and goes on with the others: {row}")
                else:
                    part.add(row)
                    progress.done(_words({key: row[key] for key in part.keys}))
    except KeyboardInterrupt:
        kept = sum(part.key(case) in part.rows for case in every)
        progress.say(f"stopped with {kept} of {len(every)} runs: the same command goes on")
        sys.exit(130)
    if failed := sum(part.key(case) not in part.rows for case in every):
        progress.say(f"runs that failed: {failed}. The same command tries them again")
        sys.exit(1)
    if arguments.n >= n and not arguments.only:
        part.become(grid, every)
        progress.say(f"wrote {_short(grid)}")
    else:
        progress.say(f"a sample, in {_short(part.path)}: a full run begins with it")


def _asked(
    script: str, batches: Callable[[int], Iterable[list[Case]]], n: int, at_once: int
) -> tuple[argparse.Namespace, list[list[Case]]]:
    """What the command line says, and the batches that it asks for."""
    parser = argparse.ArgumentParser(Path(script).name, description=sys.modules["__main__"].__doc__)
    parser.add_argument(
        "--only", metavar="TEXT", help="only cases with TEXT in their columns, such as 'late ack'"
    )
    parser.add_argument("--n", type=_positive, default=n, help="runs a case (default: %(default)s)")
    parser.add_argument(
        "--at-once",
        type=_positive,
        default=at_once,
        metavar="N",
        help="batches side by side (default: %(default)s)",
    )
    arguments = parser.parse_args()
    everything = list(batches(arguments.n))
    text = (arguments.only or "").lower()
    chosen = [[case for case in batch if text in _words(case).lower()] for batch in everything]
    chosen = [batch for batch in chosen if batch]
    if not chosen:
        names = sorted({_words(case) for batch in everything for case in batch})
        shown = "".join(f"\n  {name}" for name in names[:10])
        parser.error(f"no case has {arguments.only!r} in its columns. Some of {len(names)}:{shown}")
    return arguments, chosen


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text} is no number of at least 1")
    return int(text)


def _words(case: Case) -> str:
    return " · ".join(str(value) for key, value in case.items() if key != "run" and value != "")


def _short(path: Path) -> str:
    return os.path.relpath(path)


def _text(value: Any) -> str:
    """A value as pandas writes it."""
    return "" if value is None or value != value else str(value)


class _Part:
    """The rows so far of a run that may be interrupted, by their key."""

    def __init__(self, path: Path, keys: list[str]) -> None:
        self.path, self.keys = path, keys
        self.rows: dict[tuple[str, ...], dict[str, str]] = {}
        self.columns: list[str] = []
        if path.exists():
            self._read()

    def _read(self) -> None:
        text = self.path.read_text()
        whole = text[: text.rfind("\n") + 1]
        if whole != text:  # a machine that died in the middle of a line
            self.path.write_text(whole)
        reader = csv.DictReader(whole.splitlines())
        self.columns = list(reader.fieldnames or [])
        if self.columns and not set(self.keys) <= set(self.columns):
            self._refuse("has other columns than this script")
        rows = list(reader)
        self.rows = {self.key(row): row for row in rows}
        self._check_versions(rows)

    def _check_versions(self, rows: list[dict[str, str]]) -> None:
        """Other versions make another measurement, except where they are what is compared."""
        columns = {"server", "celery", "kombu"} & set(self.columns) - set(self.keys)
        if not rows or not columns:
            return
        now = _versions()
        for name in sorted(columns):
            if others := {row[name] for row in rows} - {now[name]}:
                was = ", ".join(sorted(others))
                self._refuse(f"was measured with {name} {was}, and this is {now[name]}")

    def _refuse(self, why: str) -> None:
        raise SystemExit(
            f"{_short(self.path)} {why}. To begin again, type:\n  rm {_short(self.path)}"
        )

    def key(self, row: Row) -> tuple[str, ...]:
        return tuple(_text(row[name]) for name in self.keys)

    def add(self, row: Row) -> None:
        """Keep a row: it is in the file when this returns."""
        text = {name: _text(value) for name, value in row.items()}
        if not self.columns:
            self.columns = list(text)
            self._write(self.path, [self.columns])
        if list(text) != self.columns:
            self._refuse("has other columns than this script")
        self._write(self.path, [text.values()])
        self.rows[self.key(row)] = text

    def become(self, grid: Path, cases: Sequence[Case]) -> None:
        """Replace `grid` by the rows of `cases`, in their order."""
        beside = grid.with_suffix(".new")
        beside.unlink(missing_ok=True)
        rows = [self.rows[self.key(case)].values() for case in cases]
        self._write(beside, [self.columns, *rows])
        os.replace(beside, grid)
        self.path.unlink()

    @staticmethod
    def _write(path: Path, rows: Iterable[Iterable[str]]) -> None:
        with path.open("a", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)


def _versions() -> dict[str, str]:
    with Stack(backend=None, name="versions") as stack:
        return provenance(stack)


class _Progress:
    """How many runs are done, and how long the rest will take, on standard error."""

    def __init__(self, name: str, every: int, missing: int) -> None:
        self._every, self._missing, self._done = every, missing, 0
        self._began = time.monotonic()
        kept = every - missing
        self.say(f"{name}: {every} runs" + f", {kept} of them are there already" * bool(kept))

    def done(self, what: str) -> None:
        """One run has ended."""
        self._done += 1
        left = (time.monotonic() - self._began) / self._done * (self._missing - self._done)
        wait = f"{left:.0f} s" if left < 100 else f"{left / 60:.0f} min"
        line = f"{self._every - self._missing + self._done} of {self._every} · {wait} left · {what}"
        if sys.stderr.isatty():
            line = line[: shutil.get_terminal_size().columns - 1]
            print(f"\x1b[2K{line}", end="\r", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def say(self, text: str) -> None:
        """A line that stays."""
        start = "\x1b[2K" if sys.stderr.isatty() else ""
        print(f"{start}{text}", file=sys.stderr, flush=True)


def _in_turn(run: Run, batches: list[list[Case]], _: int) -> Generator[Row | str]:
    """Each row when its run ends; the text of the error instead of the rows that it cost."""
    for batch in batches:
        try:
            yield from run(batch)
        except Exception:
            yield f"{_words(batch[0])}\n{traceback.format_exc()}"


def _side_by_side(run: Run, batches: list[list[Case]], at_once: int) -> Generator[Row | str]:
    """The same, with `at_once` batches in processes of their own."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(at_once, spawn, initializer=_follow_the_parent) as pool:
        try:
            for job in as_completed([pool.submit(_collect, run, batch) for batch in batches]):
                yield from job.result()
        except BrokenProcessPool as error:
            yield str(error)
        except BaseException:  # Ctrl-C: without this, each process would begin its next batch
            for child in multiprocessing.active_children():
                child.kill()
            raise


def _collect(run: Run, batch: list[Case]) -> list[Row | str]:
    return list(_in_turn(run, [batch], 1))


def _follow_the_parent() -> None:
    """A process of the pool leaves Ctrl-C to its parent, and ends with it however that ends."""
    signal.signal(signal.SIGINT, lambda *_: None)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)  # the reaper of this process ends what it started

    threading.Thread(target=follow, daemon=True).start()
