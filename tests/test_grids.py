"""The stored grids hold what their scripts say: each cell with its n, and where it was run."""

import importlib
from pathlib import Path

import pandas as pd
import pytest

from helpers import stored

GRIDS = Path(__file__).parents[1] / "notebooks" / "grids"
# The columns that make a cell, the number of cells, the runs in each.
CELLS = {
    "acks_on_failure": (["setting", "end"], 8, 5),
    "chord_cases": (["backend", "case", "fix"], 139, 5),
    "connection_breaks": (["fault", "window", "pool", "ack", "cancel_on_loss"], 28, 5),
    "crash_volume": (["orders"], 3, 20),
    "crash_worker": (["setting", "process", "moment"], 40, 20),
    "eta_strands": (["eta_task_limit", "countdowns"], 6, 5),
    "evict_policies": (["policy", "idle_seconds"], 16, 10),
    "full_redis": (["ack", "broker_channel_error_retry"], 4, 10),
    "killed_in_a_sweep": (["killed", "mutex_expire"], 3, 5),
    "persistence": (["setting", "end"], 12, 20),
    "persistence_cost": (["setting"], 4, 20),
    "prefetch_hole": (["prefetch", "ack", "child", "end"], 30, 5),
    "producer_outage": (["case", "setting"], 45, 5),
    "redelivery_delay": (["cadence"], 2, 20),
    "restart_versions": (["celery", "kombu", "pool", "holds"], 28, 5),
    "restart_ways_out": (["way_out"], 4, 20),
    "return_by_pool": (["pool", "load", "start", "cure"], 15, 5),
    "stop_worker": (["pool", "signal", "soft_timeout", "task_seconds", "ack"], 28, 5),
    "watchers_sweep": (["watcher", "worker_timeout", "watcher_timeout"], 18, 5),
}


def test_each_grid_is_known_here() -> None:
    finished = [path.stem for path in GRIDS.glob("*.csv") if not path.stem.endswith(".part")]
    assert sorted(finished) == sorted(CELLS)
    assert sorted(path.stem for path in GRIDS.glob("*.py")) == sorted(CELLS)


@pytest.mark.parametrize("name", CELLS)
def test_a_grid_is_complete(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    keys, cells, least = CELLS[name]
    runs = stored(name)
    assert "Celery 5." in capsys.readouterr().out
    sizes = runs.groupby(keys, dropna=False).size()
    assert len(sizes) == cells and sizes.min() >= least
    assert runs[["server", "celery", "kombu", "date"]].notna().all().all()


@pytest.mark.parametrize("name", CELLS)
def test_a_full_run_has_the_runs_that_are_stored_in_their_order(name: str) -> None:
    cases = [case for batch in importlib.import_module(name).batches(20) for case in batch]
    runs = pd.read_csv(GRIDS / f"{name}.csv", keep_default_na=False)
    assert runs[list(cases[0])].to_dict("records") == cases


def test_what_each_kill_does() -> None:
    """Nineteen of twenty runs of each cell agree: a kill can miss its moment on a busy machine."""
    runs = pd.read_csv(GRIDS / "crash_worker.csv")
    results = runs.groupby(["setting", "process", "moment"])[["fate", "charged"]].value_counts()
    assert results.groupby(level=[0, 1, 2]).max().min() >= 19
    once = runs["charged"].eq(1).groupby([runs["setting"], runs["process"]]).mean().unstack()
    assert (once["whole worker killed"] < 1).all()


def test_who_survives_a_restart_of_redis() -> None:
    """Every run of a cell agrees. Celery 5.7.0 exits where it asks for more and holds something."""
    runs = pd.read_csv(GRIDS / "restart_versions.csv")
    exits = (runs["celery"] == "5.7.0") & runs["polls"] & (runs["held_before"] > 0)
    assert (runs["lives"] == ~exits).all()
    assert (runs["new_order_done"] == runs["lives"]).all() and runs["lost"].eq(0).all()
    assert set(runs.loc[exits, "exit_code"]) == {1}


def test_each_way_out_of_the_restart_is_one() -> None:
    runs = pd.read_csv(GRIDS / "restart_ways_out.csv")
    assert (runs["done"].eq(runs["orders"]) == runs["way_out"].ne("none")).all()


def test_which_pool_brings_back_what_a_killed_worker_held() -> None:
    """All four messages or none: a green pool looks as it starts with mingle, or with a cure."""
    runs = pd.read_csv(GRIDS / "return_by_pool.csv", keep_default_na=False)
    green = runs["pool"].isin(["gevent", "eventlet"])
    beside = runs["cure"].str.endswith("worker")
    polls = (runs["cure"] == "polling_interval") & (runs["load"] == "idle")
    mingles = runs["start"] == "after, with mingle"
    busy_solo = (runs["pool"] == "solo") & (runs["load"] == "long tasks")
    expected = (~green & ~busy_solo) | beside | polls | mingles
    assert (runs["returned"] == expected).all()
    assert (runs["sweeps"].gt(0) == expected).all()
    assert runs["back"].eq(runs["messages"].where(expected, 0)).all()


def test_a_message_in_no_store_is_lost_by_a_kill_and_put_back_by_a_warm_shutdown() -> None:
    """One at most, and only where a countdown came due in the worker."""
    runs = pd.read_csv(GRIDS / "prefetch_hole.csv")
    killed = runs["end"] == "SIGKILL"
    assert runs["in_no_store"].le(1).all() and runs["other"].eq(0).all()
    assert runs["lost"].eq(runs["in_no_store"].where(killed, 0)).all()
    assert runs["of_these_queued"].eq(runs["in_no_store"].mask(killed, 0)).all()
    assert runs.loc[runs["child"] == "an order runs", "in_no_store"].eq(0).all()
    by_cell = runs[runs["child"] == "a countdown runs"].groupby(["prefetch", "ack"])["in_no_store"]
    often = by_cell.mean()[lambda share: share > 0]
    assert often.min() >= 0.8 and sorted(often.index) == [
        ("--disable-prefetch", "early ack"),
        ("--disable-prefetch", "late ack"),
        ("--prefetch-multiplier=1", "late ack"),
    ]


def test_what_looks_puts_back_what_is_older_than_its_own_timeout() -> None:
    """All three or none. A second for answers nearly always sweeps; with two nothing is swept."""
    runs = pd.read_csv(GRIDS / "watchers_sweep.csv")
    asks = ["celery inspect ping", "celery status", "app.control.inspect().ping()"]
    sweeps = runs["watcher"].isin(asks)
    assert not runs.loc[~sweeps, "sweeps"].any() and runs.loc[sweeps, "sweeps"].gt(0).mean() > 0.9
    restored = runs["sweeps"].gt(0) & (runs["watcher_timeout"] == 2)
    assert runs["back"].eq(runs["messages"].where(restored, 0)).all()
    assert (runs["back"] + runs["still_stranded"]).eq(runs["messages"]).all()


def test_a_lock_that_is_left_stops_the_sweeps_until_it_expires() -> None:
    runs = pd.read_csv(GRIDS / "killed_in_a_sweep.csv")
    left = (runs["killed"] == "in a sweep") & (runs["mutex_expire"] == "default")
    assert runs.loc[left, "lock_expires_in"].between(290, 300).all()
    assert runs.loc[left, "still_stranded"].eq(runs.loc[left, "stranded_at_the_kill"]).all()
    assert runs["stranded_at_the_kill"].gt(0).all() and runs["still_stranded"].gt(0).eq(left).all()


def test_what_a_worker_does_on_a_full_redis() -> None:
    """With the setting it lives and goes on. Without, it exits; late ack may leave it idle."""
    runs = pd.read_csv(GRIDS / "full_redis.csv")
    retry, late = runs["broker_channel_error_retry"], runs["ack"] == "late ack"
    assert runs.loc[retry, "lives"].all() and not runs.loc[~retry & ~late, "lives"].any()
    idle = runs["queued"] > 0
    assert (idle == runs["lives"] & ~retry).all() and (runs["done"] < runs["accepted"]).all()


def test_what_persistence_gives_back() -> None:
    """A machine that is lost takes the last second of *everysec*; no end takes more than that."""
    runs = pd.read_csv(GRIDS / "persistence.csv")
    kinds = ["waiting", "held", "results"]
    before, after = (
        runs[[f"{kind}_{when}" for kind in kinds]].set_axis(kinds, axis=1)
        for when in ("before", "after")
    )
    lost = (before - after).sum(axis=1)
    everysec = (runs["setting"] == "AOF everysec") & (runs["end"] == "machine lost")
    kept = (runs["setting"].str.startswith("AOF") & ~everysec) | (
        (runs["setting"] == "RDB") & (runs["end"] == "clean shutdown")
    )
    assert lost[kept].eq(0).all() and after[runs["setting"] == "nothing"].eq(0).all().all()
    assert lost[everysec].gt(0).mean() > 0.5
    assert runs.loc[everysec, "seconds_since_sync"].max() < 2
