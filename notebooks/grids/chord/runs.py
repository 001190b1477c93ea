"""One run of a case: start a stack, publish, break, wait, and say what was seen."""

import math
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pandas as pd
from celery.result import AsyncResult

from chord.case import Case, Run
from chord.shop import SHOP
from helpers import Stack, chords, lens
from helpers.trials import Row, directory_with, provenance

# A chord without a fault takes `healthy` seconds. One that has not ended after three times as long,
# and of which nothing moves any more, is judged by what is left of it.
PATIENCE = 3


def run(case: Case, numbers: Sequence[int], healthy: float) -> list[Row]:
    """Run one case, one chord after the other on one stack; one row for each of `numbers`.

    `healthy` is how long a chord of the same size takes without a fault, in seconds.
    """
    conf = f"app.conf.update({case.conf!r})\n"
    backend: Any = case.results if case.results is not None else "same"
    with directory_with(shop=SHOP + case.source + conf) as here:
        if case.polls:
            backend = f"db+sqlite:///{here / 'results.sqlite'}"
        with Stack(here, redis=case.redis, backend=backend, name="chord") as stack:
            stack.start_worker(*case.worker)
            shop = stack.load("shop")
            runs = [Run(case, stack, shop, number, healthy) for number in numbers]
            case.before(runs[0])
            for one in runs:
                _publish(one)
                case.fault(one)
                one.wait_for_the_end(PATIENCE * healthy if one is runs[-1] else healthy)
            ended = all(one.ended for one in runs)
            settled = (3, 0.3) if ended else (case.timeout, case.quiet)
            table = stack.settle(*settled).table
            return [_row(one, table) for one in runs]


def _publish(run: Run) -> None:
    run.began, run.wall = time.monotonic(), time.time()
    try:
        run.result = run.case.canvas(run.shop).apply_async(**run.case.options)
    except ValueError as error:  # the producer's own generator
        run.refused = f"{type(error).__name__} at the publish"
        run.refused_after = time.monotonic() - run.began


def _seen(run: Run, table: pd.DataFrame) -> Row:
    """What became of one chord; `table` has the fate of every task."""
    case = run.case
    if run.refused:
        seen = {"outcome": "error", "seconds": run.refused_after, "due": "", "get": run.refused}
        return {**seen, "get_by_id": "", "body_runs": 0, **_tasks(run, table), "keys": ""}
    if case.shared:
        table = chords.own(run.result, table)
    results, db = (None, 0) if case.polls else (run.stack.results, run.database)
    outcome, due = chords.outcome(run.result, table, run.stack.redis, results, db)
    if outcome == "hung" and any(e["task"] == "shop.alarm" for e in _events(run, "started")):
        outcome = "told"
    ids = [result.id for result in run.last]
    own = table.index.isin(ids)
    seconds = time.monotonic() - run.began
    if outcome == "fired":
        seconds = max(e["at"] for e in _events(run, "finished") if e["id"] in ids) - run.began
    elif outcome == "error" and (done := _date_done(run)):
        seconds = done - run.wall
    return {
        "outcome": outcome,
        "seconds": seconds,
        "due": due if outcome == "late" else math.nan,
        "get": _raised(run.result),
        "get_by_id": _raised(AsyncResult(ids[0], app=run.shop.app)),
        "body_runs": int(table[own]["starts"].sum()),
        **_tasks(run, table[~own]),
        "keys": "" if case.polls or not run.header else _keys(run),
    }


def _tasks(run: Run, table: pd.DataFrame) -> Row:
    """What became of the tasks other than the body."""
    parts = table[table["task"] != "celery.chord_unlock"]
    fates = sorted(Counter(parts["fate"]).items())
    return {
        "parts": ", ".join(f"{number} {fate}" for fate, number in fates),
        "starts": int(parts["starts"].sum()),
        "polls": sum(e["task"] == "celery.chord_unlock" for e in _events(run, "started")),
        "log_errors": sum(len(worker.log.errors) for worker in run.stack.workers),
    }


def _row(run: Run, table: pd.DataFrame) -> Row:
    seen = _seen(run, table)
    return {
        **run.case.columns,
        "run": run.number,
        **{name: round(x, 3) if isinstance(x, float) else x for name, x in seen.items()},
        "healthy_seconds": round(run.healthy, 3),
        **provenance(run.stack),
    }


def _events(run: Run, kind: str) -> list[Row]:
    return [event for event in run.stack.ledger.read() if event["event"] == kind]


def _date_done(run: Run) -> float | None:
    done = AsyncResult(run.last[0].id, app=run.shop.app).date_done
    if isinstance(done, datetime):
        done = done if done.tzinfo else done.replace(tzinfo=UTC)
    return done.timestamp() if done else None


def _raised(result: Any) -> str:
    """The name of what `.get()` raises; empty when it returns."""
    try:
        result.get(timeout=0.2)
    except Exception as error:
        return type(error).__name__
    return ""


def _keys(run: Run) -> str:
    """The endings of the keys that the group left, such as ".d .j .s"."""
    start = run.key("")
    names = lens.keys(run.stack.results, run.database).index
    return " ".join(sorted(name.removeprefix(start) for name in names if name.startswith(start)))
