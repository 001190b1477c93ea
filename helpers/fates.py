"""What became of each task: the ledger and a census of the broker, read together.

*Accepted*: the publish returned to the producer. *Acknowledged*: the consumer's ack, nothing else.
"""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import pandas as pd

from helpers.consumers import Consumers, Delivery
from helpers.ledger import Event, History, without_gc
from helpers.tasks import Seen, collect


class Fate(NamedTuple):
    """What a fate means, in words, and whether nobody is told when it happens."""

    meaning: str
    silent: bool = False


# A new fate goes here and into `plots.theme`; the tests name the place that lacks it.
FATES = {
    "done": Fate("one publish, started once, finished"),
    "duplicated": Fate("started more than once for one publish", silent=True),
    "lost": Fate("accepted, and neither finished nor anywhere any more", silent=True),
    "stranded": Fate("in `unacked`, last received by a process that is gone", silent=True),
    "held": Fate("in the hands of a live worker: reserved, running or waiting for its ETA"),
    "queued": Fate("in a queue"),
    "failed": Fate("Celery recorded a failure: exception, time limit, worker lost"),
    "discarded": Fate(
        "dropped without running: unknown name, refused content, revoked, expired", silent=True
    ),
    "refused": Fate("the publish did not return, and nothing ran"),
    "recovered": Fate("the publish did not return, and it ran all the same", silent=True),
    "unexpected": Fate("ran, and no process of ours sent it"),
}
SILENT = tuple(name for name, fate in FATES.items() if fate.silent)


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
    queued: Mapping[str, Sequence[str | None]] = field(default_factory=dict)  # ids by queue
    unacked: list[Unacked] = field(default_factory=list)
    live: frozenset[int] = frozenset()
    exits: Mapping[str, int] = field(default_factory=dict)  # exit codes of workers that ended
    ended: Mapping[int, float] = field(default_factory=dict)  # when that was seen, by process id

    @property
    def foreign(self) -> int:
        """Messages that are no tasks: somebody else's."""
        waiting = sum(task_id is None for ids in self.queued.values() for task_id in ids)
        return waiting + sum(entry.task_id is None for entry in self.unacked)


@dataclass(frozen=True, eq=False, repr=False)
class Outcome:
    """The fates of all tasks of one run.

    `table` has one row a task (`classify` says which columns). `verdict` is *broke*, *survived* or
    *inconclusive*; `reasons` say why. A `caption` stands in place of the verdict where a chart asks
    something else of the run. `exits` has the exit code of each worker that ended, `foreign` how
    many messages are no tasks of anybody.
    """

    title: str
    table: pd.DataFrame
    verdict: str
    reasons: list[str]
    log_errors: int = 0
    caption: str = ""
    exits: Mapping[str, int] = field(default_factory=dict)
    foreign: int = 0

    def titled(self, title: str) -> "Outcome":
        """The same under another title, for a chart that shows several."""
        return replace(self, title=title)

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
        parts = [self.caption or self.verdict, f"accepted {self.accepted}"]
        parts += [f"{fate} {number}" for fate, number in self.counts.items()]
        parts += [f"messages of somebody else {self.foreign}"] * bool(self.foreign)
        parts += [f"{worker} ended with exit code {code}" for worker, code in self.exits.items()]
        parts.append(f"error lines in the workers' logs: {self.log_errors}")
        if not self.caption and self.verdict != "survived":
            parts += [reason for reason in self.reasons if reason not in parts]
        return " · ".join(parts)

    def __repr__(self) -> str:
        return self.sentence


class _Whereabouts(NamedTuple):
    """Where a task is, apart from what became of it. Facts only: `_where` has the words."""

    message: str = ""
    place: str = ""
    queue: str = ""
    consumed: bool = False
    earliest_return: float = math.nan
    latest_return: float = math.nan


_NOWHERE = _Whereabouts()
_RUNNING = _Whereabouts("held", "running")
_IN_MEMORY = _Whereabouts("held", "memory")
# The parent will report it, unless the result was stored just before the child died.
_CHILD_GONE = _Whereabouts(place="gone")
# Its holder drops it when its time comes.
_REVOKED = _Whereabouts(place="revoked")


_WORDS = {
    "": "",
    "unacked": "in unacked",
    "running": "running in a worker",
    "memory": "in a worker's memory",
    "gone": "nowhere: its child is gone",
    "revoked": "revoked, and dropped when its time comes",
}


def _where(spot: _Whereabouts) -> str:
    """For readers, who see it in a table."""
    if spot.place == "queue":
        return f"queue {spot.queue}" + ("" if spot.consumed else ", no consumer")
    return _WORDS[spot.place]


class _Sight:
    """The census by task, and the workers that were alive then."""

    def __init__(self, history: History, census: Census) -> None:
        self._census = census
        self._consumers = Consumers(history, census.live, census.ended)
        self._names = {event.get("worker") for event in self._consumers.now}
        self._consumed = self._consumers.consumed
        self._prefixes = {event.get("prefix", "") for event in self._consumers.ever}
        self._unacked: dict[str, list[Unacked]] = {}
        for entry in census.unacked:
            if entry.task_id:
                self._unacked.setdefault(entry.task_id, []).append(entry)
        self._queue = {
            task_id: queue for queue, ids in census.queued.items() for task_id in ids if task_id
        }

    @property
    def leaving(self) -> bool:
        """Whether a live worker shuts down."""
        return self._consumers.leaving

    def ids(self) -> list[str]:
        """Of the tasks whose message the broker has."""
        return [*self._queue, *self._unacked]

    def whereabouts(self, task_id: str, task: Seen) -> _Whereabouts:
        """A message in the broker comes first: what a process has besides may be seen later."""
        if (queue := self._queue.get(task_id)) is not None:
            # As the application calls it, where one is known.
            name = min((queue.removeprefix(one) for one in self._prefixes), key=len, default=queue)
            return _Whereabouts("queued", "queue", name, queue in self._consumed)
        if entries := self._unacked.get(task_id):
            return self._in_unacked(task_id, task, entries)
        return self._in_a_process(task_id, task)

    def _in_unacked(self, task_id: str, task: Seen, entries: list[Unacked]) -> _Whereabouts:
        if self._runs(task):
            return _RUNNING
        known = filter(None, (self._consumers.has(own.tag) for own in entries))
        if hands := [*known, *self._waiting(task)]:
            return _REVOKED if self._dropped(task_id, hands) else _Whereabouts("held", "unacked")
        now, ever, wall = self._consumers.now, self._consumers.ever, self._census.wall
        returns = min(_return(entry, wall, now, ever) for entry in entries)
        return _Whereabouts("stranded", "unacked", "", False, *returns)

    def _in_a_process(self, task_id: str, task: Seen) -> _Whereabouts:
        if self._runs(task):
            return _RUNNING
        if hands := self._waiting(task):
            return _REVOKED if self._dropped(task_id, hands) else _IN_MEMORY
        if task.running and any(task.on[pid] in self._names for pid in task.running):
            return _CHILD_GONE
        return _NOWHERE

    def _waiting(self, task: Seen) -> list[Delivery]:
        return self._consumers.waiting(task.deliveries, task.begun)

    def _dropped(self, task_id: str, hands: list[Delivery]) -> bool:
        return all(self._consumers.will_drop(own, task_id) for own in hands)

    def _runs(self, task: Seen) -> bool:
        return not self._census.live.isdisjoint(task.running)

    def meant_for(self, task: Seen) -> Counter[tuple[str, int]]:
        """How often each worker was to start a broadcast, by number of retries.

        It was meant for those that were subscribed when it was published.
        """
        meant: Counter[tuple[str, int]] = Counter()
        for exchange, at, retries in task.broadcasts:
            for worker in self._consumers.subscribed(exchange, at):
                meant[worker, retries] += 1
        return meant


_COLUMNS = ["id", "task", "fate", "accepted", "starts", "finishes", "where", "why"]
_COLUMNS += _Whereabouts._fields


@without_gc()
def classify(
    history: History,
    census: Census | None,
    *,
    title: str = "stack",
    log_errors: int = 0,
    out_of_time: bool = False,
    lost_before: Collection[str] = (),
) -> Outcome:
    """Give each task id its fate, and the run its verdict.

    A task may have its fate while a copy of its message is still about. The columns `message`
    (queued, held, stranded), `place` (queue, unacked, running, a worker's memory, gone with its
    child), `queue` and `consumed` (by somebody, now) say how and where, or are empty;
    `earliest_return` and `latest_return` are seconds after the census. `where` and `why` say it to
    a reader: no program decides by them. `out_of_time` says that tasks were still moving when the
    drain had to end; a task is then surely lost if it is among `lost_before` too, as one on its way
    from the broker to a worker is nowhere for a moment.
    Without a census there is no verdict.
    """
    seen = collect(history)
    at = census or Census(wall=math.nan)
    sight = _Sight(history, at)
    ids = dict.fromkeys([*seen, *sight.ids()])
    rows = [_row(task_id, seen.get(task_id) or Seen(), sight) for task_id in ids]
    table = pd.DataFrame(rows, columns=_COLUMNS).set_index("id")
    certain = Counter(table["fate"])
    lost_now = (table["fate"] == "lost") & (table["place"] != "gone")
    certain["lost"] = int(lost_now.sum())
    if out_of_time:  # what is stranded may be on its way back, what is nowhere to a worker
        lost = table.index[lost_now]
        certain["lost"], certain["stranded"] = len(set(lost) & set(lost_before)), 0
    doubts = _doubts(table, out_of_time)
    if sight.leaving and (unseen := sum(not seen[it].on for it in table.index[lost_now])):
        certain["lost"] = max(0, certain["lost"] - unseen)
        doubts.append(f"{unseen} tasks may be in the socket of a worker that shuts down")
    verdict, reasons = _verdict(certain, _void(history, census), doubts + _undecided(table))
    return Outcome(title, table, verdict, reasons, log_errors, exits=at.exits, foreign=at.foreign)


def _row(task_id: str, task: Seen, sight: _Sight) -> tuple[Any, ...]:
    spot = sight.whereabouts(task_id, task)
    fate, starts = _fate(task, spot, sight), sum(task.started.values())
    ended = task.ends.get("finished", 0)
    row = (task_id, task.task, fate, task.accepted > 0, starts, ended, _where(spot), task.why)
    return row + spot


_FINAL = frozenset(("finished", "failed"))


def _fate(task: Seen, spot: _Whereabouts, sight: _Sight) -> str:
    """What became of it, or where nothing final happened, how its message is about."""
    if task.started and not (task.attempted and task.accepted):
        return "recovered" if task.attempted else "unexpected"
    if task.broadcasts:
        return _fate_of_broadcast(task, spot, sight.meant_for(task))
    if not _FINAL.isdisjoint(task.ends):
        return _end(task)
    return _open(task, spot)


def _open(task: Seen, spot: _Whereabouts) -> str:
    """The fate of a task that has not ended."""
    if ("discarded" in task.ends and not spot.message) or spot.place == "revoked":
        return "discarded"
    return spot.message or ("lost" if task.accepted else "refused")


def _end(task: Seen) -> str:
    """The fate of a task that was published, ran and ended."""
    if any(number > task.attempted.get(key, 0) for key, number in task.started.items()):
        return "duplicated"
    return "done" if "finished" in task.ends else "failed"


def _fate_of_broadcast(task: Seen, spot: _Whereabouts, meant_for: Counter[tuple[str, int]]) -> str:
    """Done is: once for each publish, on each worker that was subscribed at that moment."""
    # Who is not known to have been subscribed, and heard it all the same, hears each publish once.
    if any(starts > task.attempted.get(key[1], 0) for key, starts in task.by.items()):
        return "duplicated"
    missed = any(task.by.get(key, 0) < times for key, times in meant_for.items())
    unended = bool(task.running)
    if missed or unended or not task.by:
        return _open(task, spot)
    return "failed" if "failed" in task.ends else "done"


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
    # None where a worker never looks: no event loop, or about to end.
    sweeps = [
        wait + event["sweep_period"]
        for wait, event in zip(due, sweepers, strict=True)
        if live and event["sweep_period"] is not None
    ]
    return earliest, min(sweeps, default=math.inf)


def _void(history: History, census: Census | None) -> list[str]:
    """Why nothing can be said of this run at all."""
    void = []
    if census is None:
        void.append("the broker does not answer, so nothing could be counted")
    if not history.of("attempted"):
        void.append("no task was published")
    if history.torn or history.missing:
        void.append(f"{history.torn + history.missing} ledger lines are missing or torn")
    return void


def _doubts(table: pd.DataFrame, out_of_time: bool) -> list[str]:
    """What keeps a run from a good verdict, and hides no certain loss or repetition."""
    doubts = []
    if unexpected := table["fate"].eq("unexpected").sum():
        doubts.append(f"{unexpected} tasks came from somebody else")
    if gone := (table["fate"].eq("lost") & table["place"].eq("gone")).sum():
        doubts.append(f"{gone} tasks went with their child, and their worker does not say how")
    if out_of_time:
        doubts.append("tasks were still moving when the time ran out")
    return doubts


def _verdict(certain: Counter[str], void: list[str], undecided: list[str]) -> tuple[str, list[str]]:
    """A certain loss or repetition outweighs what is still undecided, which stands beside it."""
    if void:
        return "inconclusive", void
    if broken := [f"{fate} {certain[fate]}" for fate in SILENT if certain[fate]]:
        return "broke", broken + undecided
    if undecided:
        return "inconclusive", undecided
    return "survived", ["every accepted task ended, or somebody was told"]


def _undecided(table: pd.DataFrame) -> list[str]:
    """What may still happen to tasks of this run."""
    count, reasons = Counter(table["fate"]), []
    if count["queued"]:
        reasons.append(f"{count['queued']} tasks wait in a queue")
    if count["held"]:
        reasons.append(f"{count['held']} tasks are still in a worker's hands")
    again = table["fate"].isin(["done", "failed"]) & (table["place"] != "")
    if again.any():
        reasons.append(f"{again.sum()} ended tasks still have a message, and would run again")
    return reasons
