"""Repeat an experiment, and say how sure the rate is."""

from collections.abc import Callable, Mapping
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import pandas as pd

from helpers.status import Status

if TYPE_CHECKING:
    from helpers.stack import Stack


def repeat(experiment: Callable[[], Mapping[str, Any]], n: int) -> pd.DataFrame:
    """Run `experiment` `n` times; one row a run, with what it returned."""
    rows = []
    with Status(f"{n} runs") as status:
        for done in range(n):
            rows.append(dict(experiment()))
            status.update(f"{done + 1} of {n} runs")
    return pd.DataFrame(rows)


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


def tally(runs: pd.DataFrame, hit: str, label: str, group: str) -> pd.DataFrame:
    """How often the column `hit` is true, with its interval, for each `label` and `group`.

    Columns label, group, k, n, low, high: what `plots.rates` draws.
    """
    rows = []
    for (name, series), some in runs.groupby([label, group], sort=False):
        k, n = int(some[hit].astype(bool).sum()), len(some)
        rows.append([name, series, k, n, *interval(k, n)])
    return pd.DataFrame(rows, columns=["label", "group", "k", "n", "low", "high"])


def provenance(stack: "Stack") -> dict[str, str]:
    """Where and when a run was made: the columns that every stored grid has."""
    return {
        "server": stack.redis.version,
        "celery": version("celery"),
        "kombu": version("kombu"),
        "date": date.today().isoformat(),
    }


def stored(name: str) -> pd.DataFrame:
    """The runs that `make grids` stored, one row a run; prints where and when they ran.

    Raises FileNotFoundError when there is no such grid.
    """
    path = Path(__file__).parents[1] / "notebooks" / "grids" / f"{name}.csv"
    runs = pd.read_csv(path)
    run = runs.iloc[0]
    print(f"stored: {len(runs):,} runs · {run['date']} · {run['server']}", end=" · ")
    print(f"Celery {run['celery']} · kombu {run['kombu']}")
    print("repeat with: make grids")
    return runs
