"""What the ledger says of each task: published, received, begun, ended, how often and where."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from helpers.consumers import Delivery
from helpers.ledger import Event, History


@dataclass(slots=True)
class Seen:
    """What the ledger says of one task id: a reading without a judgement."""

    task: str | None = None
    attempted: dict[int, int] = field(default_factory=dict)  # how often, by number of retries
    started: dict[int, int] = field(default_factory=dict)
    accepted: int = 0
    ends: dict[str, int] = field(default_factory=dict)
    running: dict[int, int] = field(default_factory=dict)  # by process id
    since: dict[int, float] = field(default_factory=dict)  # the last start there
    on: dict[int, str] = field(default_factory=dict)  # the worker of that process
    deliveries: list[Delivery] = field(default_factory=list)
    begun: list[tuple[str, float]] = field(default_factory=list)  # by which worker, when
    why: str = ""
    broadcasts: tuple[tuple[str, float, int], ...] = ()  # exchange, when, number of retries
    by: dict[tuple[str, int], int] = field(default_factory=dict)  # of a broadcast: starts


def _attempted(task: Seen, event: Event) -> None:
    _add(task.attempted, event["retries"])
    if exchange := event.get("broadcast"):
        task.broadcasts += ((exchange, event["at"], event["retries"]),)


def _accepted(task: Seen, event: Event) -> None:
    task.accepted += 1


def _noted(task: Seen, event: Event) -> None:
    """Nothing to count: refused is attempted and not accepted, and `Consumers` reads revokes."""


def _received(task: Seen, event: Event) -> None:
    task.deliveries.append((event["pid"], event["tag"], event["at"]))
    task.on[event["pid"]] = event.get("worker", "")


def _started(task: Seen, event: Event) -> None:
    worker = event.get("worker", "")
    _add(task.started, event["retries"])
    _add(task.running, event["pid"])
    task.on[event["pid"]] = worker
    task.since[event["pid"]] = event["at"]
    task.begun.append((worker, event["at"]))
    if task.broadcasts:
        _add(task.by, (worker, event["retries"]))


def _restored(task: Seen, event: Event) -> None:
    """What a sweep puts back, its holder still has."""
    if event["requeued"]:  # its child was lost
        # The line is written after the fact: by then it may have come to the same process again.
        moved_at: float = event["moved_at"] if "moved_at" in event else event["at"]
        _stop(task, event["pid"], moved_at)


def _ended(task: Seen, event: Event) -> None:
    _add(task.ends, event["event"])
    pid = event["pid"]
    if pid in task.running:
        task.running[pid] -= 1
        if not task.running[pid]:
            del task.running[pid]
    else:  # the parent reports for a child that was lost
        _stop(task, pid, event["at"])


def _stop(task: Seen, parent: int, before: float) -> None:
    """What a parent had, and got or began before a moment, it has no more."""
    worker = task.on.get(parent, "")
    task.deliveries = [it for it in task.deliveries if it[0] != parent or it[2] > before]
    task.begun = [it for it in task.begun if it[0] != worker or it[1] > before]
    for pid in list(task.running):
        if task.on[pid] == task.on.get(parent, task.on[pid]) and task.since[pid] <= before:
            del task.running[pid]


def _dropped(task: Seen, event: Event) -> None:
    _add(task.ends, event["event"])
    task.begun.append((task.on.get(event["pid"], ""), event["at"]))


def _skipped(task: Seen, event: Event) -> None:
    task.begun.append((event["worker"], event["at"]))


_READ: dict[str, Callable[[Seen, Event], None]] = {
    "attempted": _attempted,
    "accepted": _accepted,
    "refused": _noted,
    "received": _received,
    "started": _started,
    "restored": _restored,
    "discarded": _dropped,
    "deduplicated": _skipped,
    "revoked": _noted,
    **dict.fromkeys(("finished", "failed", "retried", "cancelled"), _ended),
}


def collect(history: History) -> dict[str, Seen]:
    """What was seen of each task id."""
    seen: defaultdict[str, Seen] = defaultdict(Seen)
    for event in history:
        if (task_id := event["id"]) is None:
            continue
        task = seen[task_id]
        if name := event.get("task"):
            task.task = name
        if "why" in event:
            task.why = event["why"]
        _READ[event["event"]](task, event)
    return seen


def _add(counts: dict[Any, int], key: Any) -> None:
    # A Counter for each of these would take a third of the time of `classify`.
    counts[key] = counts.get(key, 0) + 1
