"""What became of each task: the ledger and a census of the broker, read together.

*Accepted*: the publish returned to the producer. *Acknowledged*: the consumer's ack, nothing else.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from helpers.ledger import Event, History

FATES = {
    "done": "one publish, started once, finished",
    "duplicated": "started more than once for one publish",
    "lost": "accepted, and neither finished nor anywhere any more",
    "stranded": "in `unacked`, last received by a process that is gone",
    "held": "in the hands of a live worker: reserved, running or waiting for its ETA",
    "queued": "in a queue",
    "failed": "Celery recorded a failure: exception, time limit, worker lost",
    "discarded": "dropped without running: unknown name, refused content, revoked, expired",
    "refused": "the publish did not return, and nothing ran",
    "recovered": "the publish did not return, and it ran all the same",
    "unexpected": "ran, and no process of ours sent it",
}
# The parent will report it, unless the result was stored just before the child died.
CHILD_GONE = "nowhere: its child is gone"
# Nobody is told when one of these happens.
SILENT = ("duplicated", "lost", "stranded", "discarded", "recovered")


@dataclass(frozen=True)
class Unacked:
    """A message in a worker's hands, as the broker knows it (Redis: an entry of `unacked`).

    `tag` is its delivery tag, `since` the wall time of delivery (NaN: unknown, it never returns).
    """

    tag: str
    task_id: str | None
    since: float


@dataclass(frozen=True)
class Census:
    """The broker and the processes at one moment, `wall` seconds of the day's clock."""

    wall: float
    queued: Mapping[str, Sequence[str]] = field(default_factory=dict)  # ids by queue
    unacked: list[Unacked] = field(default_factory=list)
    live: frozenset[int] = frozenset()


@dataclass
class Outcome:
    """The fates of all tasks of one run.

    `table` has one row a task. `verdict` is *broke*, *held* or *inconclusive*; `reasons` say why.
    """

    title: str
    table: pd.DataFrame
    verdict: str
    reasons: list[str]
    log_errors: int = 0

    @property
    def counts(self) -> dict[str, int]:
        """Tasks of each fate that occurs."""
        seen = Counter(self.table["fate"])
        return {fate: seen[fate] for fate in FATES if seen[fate]}

    @property
    def accepted(self) -> int:
        """Tasks whose publish returned to the producer."""
        return int(self.table["accepted"].sum())

    @property
    def finding(self) -> str:
        """The outcome in a few words, for the title of a figure."""
        total, counts = self.accepted, self.counts
        if not total:
            return "no task was accepted"
        silent = [f"{counts[fate]} {fate}" for fate in SILENT if fate in counts]
        if silent:
            return f"{', '.join(silent)} of {total:,} accepted tasks"
        if counts.get("done") == total:
            return f"all {total:,} accepted tasks are done"
        return ", ".join(f"{number} {fate}" for fate, number in counts.items())

    @property
    def sentence(self) -> str:
        """The outcome in one line, with every count."""
        parts = [self.verdict, f"accepted {self.accepted}"]
        parts += [f"{fate} {number}" for fate, number in self.counts.items()]
        parts.append(f"error lines in the workers' logs: {self.log_errors}")
        if self.verdict == "inconclusive":
            parts += self.reasons
        return " · ".join(parts)

    def __repr__(self) -> str:
        return self.sentence


@dataclass
class _Seen:
    """What the ledger says of one task id."""

    task: str | None = None
    attempted: dict[int, int] = field(default_factory=dict)  # how often, by number of retries
    started: dict[int, int] = field(default_factory=dict)
    accepted: int = 0
    ends: dict[str, int] = field(default_factory=dict)
    running: dict[int, int] = field(default_factory=dict)  # by process id
    on: dict[int, str] = field(default_factory=dict)  # the worker of that process
    received_by: int | None = None
    why: str = ""


_ENDS = {"finished", "failed", "retried", "cancelled"}


def _collect(history: History) -> tuple[dict[str, _Seen], dict[str, int]]:
    """Per task id what was seen; per delivery tag the process that received it last."""
    seen: defaultdict[str, _Seen] = defaultdict(_Seen)
    receiver: dict[str, int] = {}
    for event in history:
        if (task_id := event["id"]) is None:
            continue
        task, kind = seen[task_id], event["event"]
        task.task = event.get("task") or task.task
        task.why = event.get("why", task.why)
        if kind == "attempted":
            _add(task.attempted, event["retries"])
        elif kind == "accepted":
            task.accepted += 1
        elif kind == "received":
            task.received_by = receiver[event["tag"]] = event["pid"]
        elif kind == "started":
            _add(task.started, event["retries"])
            _add(task.running, event["pid"])
            task.on[event["pid"]] = event.get("worker", "")
        elif kind == "restored":
            if event["requeued"]:  # its child was lost
                task.running.clear()
        elif kind != "refused":
            _add(task.ends, kind)
            if kind in _ENDS and task.running.get(event["pid"]):
                task.running[event["pid"]] -= 1
            elif kind in _ENDS:  # the parent reports for a child that was lost
                task.running.clear()
    return seen, receiver


def _add(counts: dict[Any, int], key: Any) -> None:
    # A Counter for each of these would take a third of the time of `classify`.
    counts[key] = counts.get(key, 0) + 1


def classify(
    history: History, census: Census | None, *, title: str = "stack", moving: bool = False
) -> Outcome:
    """Give each task id its fate, and the run its verdict.

    A task may have its fate while a copy of its message is still about: the column `message` says
    how (queued, held or stranded), and `where` says where. `moving` says that the drain ran out of
    time. Without a census there is no verdict.
    """
    seen, receiver = _collect(history)
    ready = [event for event in history if event["event"] == "ready"]
    at = census or Census(wall=math.nan)
    workers = [event for event in ready if event["pid"] in at.live]
    names = {event.get("worker") for event in workers}
    consumed = {queue for event in workers for queue in event["queues"]}
    queue_of = {task_id: queue for queue, ids in at.queued.items() for task_id in ids}
    unacked = {entry.task_id: entry for entry in at.unacked}
    rows = []
    for task_id in dict.fromkeys([*seen, *queue_of, *unacked]):
        task = seen.get(task_id) or _Seen()
        entry = unacked.get(task_id)
        owner = receiver.get(entry.tag) if entry else None
        message, where, earliest, latest = "", "", math.nan, math.nan
        if task_id in queue_of:
            queue = queue_of[task_id]
            message = "queued"
            where = f"queue {queue}" + ("" if queue in consumed else ", no consumer")
        elif entry:
            message = "held" if owner in at.live else "stranded"
            where = "unacked"
            if message == "stranded":
                earliest, latest = _return(entry, at.wall, workers, ready)
        elif any(number and pid in at.live for pid, number in task.running.items()):
            message, where = "held", "running"
        elif task.received_by in at.live and not task.started and not task.ends:
            message, where = "held", "in a worker's memory"
        elif any(number and task.on[pid] in names for pid, number in task.running.items()):
            where = CHILD_GONE
        fate = _final(task, message or ("lost" if task.accepted else "refused"))
        starts, finishes = sum(task.started.values()), task.ends.get("finished", 0)
        row = (task_id, task.task, fate, task.accepted > 0, starts, finishes, where)
        rows.append((*row, task.why, message, earliest, latest))
    columns = ["id", "task", "fate", "accepted", "starts", "finishes", "where", "why"]
    columns += ["message", "earliest_return", "latest_return"]
    table = pd.DataFrame(rows, columns=columns).set_index("id")
    verdict, reasons = _verdict(table, history, census, moving)
    return Outcome(title, table, verdict, reasons)


def _final(task: _Seen, whereabouts: str) -> str:
    """The fate, given where the task would be found if nothing final had happened to it."""
    started = bool(task.started)
    if started and not task.attempted:
        return "unexpected"
    if started and task.attempted and not task.accepted:
        return "recovered"
    again = any(number > task.attempted.get(key, 0) for key, number in task.started.items())
    if "finished" in task.ends or "failed" in task.ends:
        if again:
            return "duplicated"
        return "done" if "finished" in task.ends else "failed"
    if "discarded" in task.ends and whereabouts not in ("queued", "held", "stranded"):
        return "discarded"
    return whereabouts


def _return(
    entry: Unacked, now: float, live: list[Event], ever: list[Event]
) -> tuple[float, float]:
    """Earliest and latest moment of return, in seconds after the census.

    A worker's sweep puts the message back once it is older than that worker's visibility timeout
    (`kombu/transport/redis.py: QoS.restore_visible`). The worker that looks first wins. With no
    worker alive nobody looks: the latest moment is infinite. A worker that starts looks at once.
    """
    if math.isnan(entry.since):
        return math.inf, math.inf
    age = now - entry.since
    # A transport without a visibility timeout has no clock that brings anything back.
    sweepers = [event for event in live or ever if "visibility_timeout" in event]
    due = [max(0.0, event["visibility_timeout"] - age) for event in sweepers]
    earliest = min(due, default=math.nan)
    sweeps = [
        wait + event["sweep_period"] for wait, event in zip(due, sweepers, strict=True) if live
    ]
    return earliest, min(sweeps, default=math.inf)


def _verdict(
    table: pd.DataFrame, history: History, census: Census | None, moving: bool
) -> tuple[str, list[str]]:
    count = Counter(table["fate"])
    doubts = []
    if census is None:
        doubts.append("the broker does not answer, so nothing could be counted")
    if not any(event["event"] == "attempted" for event in history):
        doubts.append("no task was published")
    if history.torn or history.missing:
        doubts.append(f"{history.torn + history.missing} ledger lines are missing or torn")
    if count["unexpected"]:
        doubts.append(f"{count['unexpected']} tasks came from somebody else")
    if moving:
        doubts.append("tasks were still moving when the time ran out")
    if doubts:
        return "inconclusive", doubts
    broken = [f"{fate} {count[fate]}" for fate in SILENT if count[fate]]
    if broken:
        return "broke", broken
    if count["queued"]:
        doubts.append(f"{count['queued']} tasks wait in a queue")
    if count["held"]:
        doubts.append(f"{count['held']} tasks are still in a worker's hands")
    again = table["fate"].isin(["done", "failed"]) & (table["where"] != "")
    if again.any():
        doubts.append(f"{again.sum()} ended tasks still have a message, and would run again")
    if doubts:
        return "inconclusive", doubts
    return "held", ["every accepted task ended, or somebody was told"]
