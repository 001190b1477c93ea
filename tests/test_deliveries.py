"""The life of each message, read from hand-written ledgers: each ending is planted."""

import importlib
import math
from typing import Any

import pandas as pd
import pytest

from helpers import plots
from helpers.deliveries import _ENDS as ended
from helpers.deliveries import deliveries
from helpers.ledger import History
from helpers.process import Fault

PARENT, CHILD = 10, 11


def history(*events: tuple[float, str, dict[str, Any]]) -> History:
    base = {"id": "a", "task": "shop.charge", "pid": CHILD, "n": 0}
    return History([base | {"at": 100 + at, "event": event} | more for at, event, more in events])


PUBLISHED = (0.0, "attempted", {"args": "(3,)", "retries": 0})
READY = (-1.0, "ready", {"id": None, "worker": "worker1", "visibility_timeout": 2.0})


def received(at: float, worker: str = "worker1") -> tuple[float, str, dict[str, Any]]:
    return (at, "received", {"worker": worker, "tag": "t", "pid": PARENT})


def started(at: float, worker: str = "worker1", pid: int = CHILD) -> tuple[float, str, dict]:
    return (at, "started", {"worker": worker, "pid": pid, "retries": 0})


def restored(at: float, requeued: bool = False) -> tuple[float, str, dict[str, Any]]:
    return (at, "restored", {"requeued": requeued})


def test_a_return_is_told_after_another_worker_has_received_it() -> None:
    told = (2.8, "restored", {"requeued": True, "moved_at": 102.5})
    table = deliveries(history(*RUNS, received(2.6, "worker2"), told, started(2.9, "worker2", 21)))
    assert rows(table) == [
        [1, "worker1", 0.1, 0.2, 2.5, 2.5, "rejected"],
        [2, "worker2", 2.6, 2.9, None, None, ""],
    ]


RUNS = (PUBLISHED, received(0.1), started(0.2))
KILLS = [
    Fault("SIGKILL", "worker2", 100.3, "two is killed"),
    Fault("SIGKILL", "worker1", 100.5, "one is killed"),
]
AGAIN = (*RUNS, restored(2.5), received(2.6, "worker2"), started(2.7, "worker2", pid=21))


def rows(table: pd.DataFrame) -> list[list[Any]]:
    values = table[["delivery", "worker", "received", "started", "ended", "restored", "end"]]
    return [
        [None if isinstance(v, float) and math.isnan(v) else v for v in row]
        for row in values.round(6).to_numpy().tolist()
    ]


def test_a_task_that_runs_once() -> None:
    table = deliveries(history(READY, *RUNS, (1.0, "finished", {})))
    assert rows(table) == [[1, "worker1", 0.1, 0.2, 1.0, None, "finished"]]
    known = table.loc[0, ["task", "name", "args", "published"]].tolist()
    assert known == ["charge(3)", "shop.charge", "(3,)", 0]
    assert table.attrs == {"marks": [], "outages": [], "end": 1.0, "visibility_timeout": 2.0}


def test_a_task_that_a_sweep_hands_out_while_it_runs() -> None:
    table = deliveries(
        history(
            *AGAIN,
            (4.2, "finished", {}),
            (6.7, "finished", {"pid": 21}),
        )
    )
    assert rows(table) == [
        [1, "worker1", 0.1, 0.2, 4.2, 2.5, "finished"],
        [2, "worker2", 2.6, 2.7, 6.7, None, "finished"],
    ]


def test_one_child_runs_both_copies_one_after_the_other() -> None:
    table = deliveries(
        history(
            *RUNS,
            restored(2.5),
            received(2.6),
            (4.2, "finished", {}),
            started(4.3),
            (8.3, "finished", {}),
        )
    )
    assert [row[2:5] for row in rows(table)] == [[0.1, 0.2, 4.2], [2.6, 4.3, 8.3]]


def test_a_worker_is_killed() -> None:
    table = deliveries(history(*AGAIN), KILLS)
    assert rows(table) == [
        [1, "worker1", 0.1, 0.2, 0.5, 2.5, "killed"],
        [2, "worker2", 2.6, 2.7, None, None, ""],  # killed before it started: not this run
    ]
    marks = [(label, round(at, 3)) for label, at in table.attrs["marks"]]
    assert marks == [("two is killed", 0.3), ("one is killed", 0.5)]


def test_a_server_is_away_from_its_kill_to_its_restart() -> None:
    told = [
        Fault("restart", "redis", 101.5, "redis is back"),
        Fault("SIGKILL", "redis", 100.5, "SIGKILL to redis"),
        Fault("SIGKILL", "cache", 100.7, "SIGKILL to cache"),  # for good
        Fault("restart", "results", 100.9, "results is back"),  # it had ended by itself
    ]
    table = deliveries(history(*RUNS, (1.0, "finished", {})), told)
    [(label, begin, end)] = table.attrs["outages"]
    assert label == "redis is away" and (begin, end) == pytest.approx((0.5, 1.5))
    assert table.attrs["end"] == pytest.approx(1.5)  # a figure shows the fault, too


def test_only_what_ends_a_worker_ends_its_execution() -> None:
    harmless = [
        Fault("child", "worker1", 100.4, "SIGKILL to worker1"),
        Fault("SIGTERM", "worker1", 100.5, "exit of worker1"),
        Fault("SIGKILL", "worker2", 100.6, "SIGKILL to worker1"),
    ]
    assert deliveries(history(*RUNS), harmless)["end"].tolist() == [""]
    exits = [*harmless, Fault("exit", "worker1", 100.7, "")]
    assert rows(deliveries(history(*RUNS), exits))[0][4:] == [0.7, None, "killed"]


def test_the_parent_reports_a_lost_child() -> None:
    table = deliveries(history(*RUNS, (5.2, "failed", {"pid": PARENT})))
    assert rows(table) == [[1, "worker1", 0.1, 0.2, 5.2, None, "failed"]]


def test_a_message_that_is_requeued_ends_its_execution() -> None:
    table = deliveries(history(*RUNS, restored(0.3, requeued=True), received(0.4)))
    assert rows(table) == [
        [1, "worker1", 0.1, 0.2, 0.3, 0.3, "rejected"],
        [2, "worker1", 0.4, None, None, None, ""],
    ]


def test_a_retry_is_a_delivery_of_its_own() -> None:
    table = deliveries(
        history(
            *RUNS,
            (0.3, "attempted", {"args": "(3,)", "retries": 1}),
            (0.4, "retried", {}),
            received(0.5),
            started(1.5),
            (1.6, "finished", {}),
        )
    )
    assert [row[-1] for row in rows(table)] == ["retried", "finished"]
    assert table["published"].round(6).tolist() == [0.0, 0.3]


def test_a_timeline_has_a_symbol_for_each_end() -> None:
    timeline = importlib.import_module("helpers.plots.timeline")
    assert set(timeline._ENDS) == {*ended.values(), "rejected", ""}


def test_nothing_was_published() -> None:
    table = deliveries(history(READY))
    assert table.empty
    with pytest.raises(ValueError, match="draws 1 to"):
        plots.timeline(table, "nothing")
