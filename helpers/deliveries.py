"""The life of each message as the ledger saw it: one row for each time a worker received it."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from helpers.ledger import Event, History
from helpers.process import Fault

_ENDS = {"finished": "finished", "failed": "failed", "retried": "retried", "cancelled": "killed"}
_COLUMNS = ["id", "task", "name", "args", "delivery", "worker"]
_COLUMNS += ["published", "received", "started", "ended", "restored", "end"]
_Row = dict[str, Any]


def deliveries(history: History, faults: Sequence[Fault] = ()) -> pd.DataFrame:
    """One row a delivery, in seconds since the first publish (NaN: it did not happen).

    `task` is a label such as `charge(3)`, of the task's `name` and its `args` as Celery writes them
    into the message. `restored` is when a worker put the message back into its queue. `end` says
    how the execution ended: finished, failed, retried, rejected, killed, or nothing if it had not.
    `attrs` has marks (label and second of the `faults`, and of each worker that got ready), outages
    (label, and from when until when a server was away), end (the last second of the record, or of
    the faults) and visibility_timeout (the shortest of all).
    """
    zero = next((event["at"] for event in history.of("attempted")), 0.0)
    lives = _Lives()
    for event in history:
        if read := _READ.get(event["event"]):
            read(lives, event, event["at"] - zero)
    found = [row for several in lives.rows.values() for row in several]
    for row in found:
        _kill(row, faults, zero)
    table = pd.DataFrame(found, columns=_COLUMNS)
    ready = history.of("ready")
    timeouts = [event["visibility_timeout"] for event in ready if "visibility_timeout" in event]
    table.attrs["marks"] = _marks(faults, ready, zero)
    table.attrs["outages"] = _outages(faults, zero)
    table.attrs["visibility_timeout"] = min(timeouts, default=None)
    ends = [event["at"] - zero for event in history] + [fault.at - zero for fault in faults]
    table.attrs["end"] = max(ends, default=0.0)
    return table


def _marks(faults: Sequence[Fault], ready: list[Event], zero: float) -> list[tuple[str, float]]:
    marks = [(fault.label, fault.at - zero) for fault in faults]
    marks += [(f"{event['worker']} ready", event["at"] - zero) for event in ready]
    return sorted((mark for mark in marks if mark[1] > 0), key=lambda mark: mark[1])


def _outages(faults: Sequence[Fault], zero: float) -> list[tuple[str, float, float]]:
    """From each kill to the restart of the same server."""
    found, away = [], dict[str, float]()
    for fault in sorted(faults, key=lambda fault: fault.at):
        if fault.what == "SIGKILL":
            away[fault.process] = fault.at - zero
        elif fault.what == "restart" and fault.process in away:
            begin = away.pop(fault.process)
            found.append((f"{fault.process} is away", begin, fault.at - zero))
    return found


class _Lives:
    """The deliveries of each task so far, one method for each kind of event that tells of one."""

    def __init__(self) -> None:
        self.rows: defaultdict[str, list[_Row]] = defaultdict(list)
        self._args: dict[str, str] = {}
        self._published: dict[str, float] = {}

    def attempted(self, event: Event, at: float) -> None:
        self._published[event["id"]] = at
        self._args[event["id"]] = event.get("args") or "()"

    def received(self, event: Event, at: float) -> None:
        task_id, name = event["id"], event["task"]
        rows, args = self.rows[task_id], self._args.get(task_id, "")
        row = {"id": task_id, "task": _label(name, args), "name": name, "args": args, "end": ""}
        row |= {"worker": event["worker"], "published": self._published.get(task_id)}
        row["parent"] = event["pid"]
        rows.append(row | {"received": at, "delivery": len(rows) + 1})

    def started(self, event: Event, at: float) -> None:
        # A worker that holds the same message twice runs the first copy first.
        run = _latest(self.rows[event["id"]][::-1], worker=event["worker"], started=None)
        run.update(started=at, pid=event["pid"])

    def ended(self, event: Event, at: float) -> None:
        # The child that ran the task says so itself. The parent says it for a child that was lost.
        rows = self.rows[event["id"]]
        run = _latest(rows, pid=event["pid"], end="") or _latest(rows, parent=event["pid"], end="")
        run.update(ended=at, end=_ENDS[event["event"]])

    def restored(self, event: Event, at: float) -> None:
        # The line is written after the fact: by then another worker may have received it.
        at -= event["at"] - event.get("moved_at", event["at"])
        rows = [row for row in self.rows[event["id"]] if row["received"] <= at]
        _latest(rows, restored=None).update(restored=at)
        if event["requeued"]:
            _latest(rows, end="").update(ended=at, end="rejected")


_READ: dict[str, Callable[[_Lives, Event, float], None]] = {
    "attempted": _Lives.attempted,
    "received": _Lives.received,
    "started": _Lives.started,
    "restored": _Lives.restored,
    **dict.fromkeys(_ENDS, _Lives.ended),
}


def _label(name: str, args: str) -> str:
    """`charge(3)` for the task `shop.charge` and the arguments `(3,)`, if they are known."""
    return name.rpartition(".")[2] + args.replace(",)", ")") if args else name


def _latest(rows: list[_Row], **known: Any) -> _Row:
    """The last row with these values (None: it has no such value yet), or an empty one."""
    matching = (row for row in reversed(rows) if all(row.get(k) == v for k, v in known.items()))
    return next(matching, {})


def _kill(row: _Row, faults: Sequence[Fault], zero: float) -> None:
    """An execution without an end was cut short by the kill or the exit of its worker."""
    if row["end"] or "started" not in row:
        return
    for fault in faults:
        ends = fault.process == row["worker"] and fault.what in ("SIGKILL", "exit")
        if ends and fault.at - zero >= row["started"]:
            row.update(ended=fault.at - zero, end="killed")
            return
