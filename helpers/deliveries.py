"""The life of each message as the ledger saw it: one row for each time a worker received it."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import pandas as pd

from helpers.ledger import History

_ENDS = {"finished": "finished", "failed": "failed", "retried": "retried", "cancelled": "killed"}
_COLUMNS = ["id", "task", "delivery", "worker"]
_COLUMNS += ["published", "received", "started", "ended", "restored", "end"]
_Row = dict[str, Any]


def deliveries(history: History, faults: Sequence[tuple[str, float]] = ()) -> pd.DataFrame:
    """One row a delivery, in seconds since the first publish (NaN: it did not happen).

    `restored` is when a worker put the message back into its queue. `end` says how the execution
    ended: finished, failed, retried, rejected, killed, or nothing if it had not. `attrs` has marks
    (what was done to the workers, from `faults` as label and monotonic seconds, and which got
    ready), end (the last second of the record) and visibility_timeout (the shortest of all).
    """
    zero = next((event["at"] for event in history if event["event"] == "attempted"), 0.0)
    faults = [(label, at - zero) for label, at in faults]
    rows: defaultdict[str, list[_Row]] = defaultdict(list)
    names: dict[str, str] = {}
    published: dict[str, float] = {}
    for event in history:
        kind, task_id, at = event["event"], event["id"], event["at"] - zero
        if kind == "attempted":
            published[task_id] = at
            names[task_id] = _call(event["task"], event.get("args"))
        elif kind == "received":
            row = {"id": task_id, "task": names.get(task_id, event["task"]), "received": at}
            row |= {"worker": event["worker"], "published": published.get(task_id), "end": ""}
            rows[task_id].append(row | {"delivery": len(rows[task_id]) + 1})
        elif kind == "started":
            # A worker that holds the same message twice runs the first copy first.
            run = _latest(rows[task_id][::-1], worker=event["worker"], started=None)
            run.update(started=at, pid=event["pid"])
        elif kind in _ENDS:
            # A child tells by itself; of a child that was lost, the parent tells.
            run = _latest(rows[task_id], pid=event["pid"], end="") or _latest(rows[task_id], end="")
            run.update(ended=at, end=_ENDS[kind])
        elif kind == "restored":
            _latest(rows[task_id], restored=None).update(restored=at)
            if event["requeued"]:
                _latest(rows[task_id], end="").update(ended=at, end="rejected")
    found = [row for several in rows.values() for row in several]
    for row in found:
        _kill(row, faults)
    ready = [event for event in history if event["event"] == "ready"]
    marks = [*faults, *((f"{event['worker']} ready", event["at"] - zero) for event in ready)]
    table = pd.DataFrame(found, columns=_COLUMNS)
    table.attrs["marks"] = sorted((mark for mark in marks if mark[1] > 0), key=lambda m: m[1])
    timeouts = [event["visibility_timeout"] for event in ready if "visibility_timeout" in event]
    table.attrs["visibility_timeout"] = min(timeouts, default=None)
    table.attrs["end"] = max((event["at"] - zero for event in history), default=0.0)
    return table


def _call(task: str, args: str | None) -> str:
    """`charge(3)` of the task `shop.charge` and the arguments `(3,)`."""
    return task.rpartition(".")[2] + (args or "()").replace(",)", ")")


def _latest(rows: list[_Row], **known: Any) -> _Row:
    """The last row with these values (None: it has no such value yet), or an empty one."""
    matching = (row for row in reversed(rows) if all(row.get(k) == v for k, v in known.items()))
    return next(matching, {})


def _kill(row: _Row, faults: list[tuple[str, float]]) -> None:
    """An execution without an end was cut short by the kill or the exit of its worker."""
    if row["end"] or "started" not in row:
        return
    for label, at in faults:
        ends = label in (f"SIGKILL to {row['worker']}", f"exit of {row['worker']}")
        if ends and at >= row["started"]:
            row.update(ended=at, end="killed")
            return
