"""The truth of a run, told without the package: redis-py, process ids, the tasks' own notes.

It shares no code with what it judges: not the ledger, not the census, not the names of keys, not
the classifier. Its sources are the lists, `unacked` and the results as redis-py reads them under
the names that were drawn, the lines that each task writes into a file of its own, the operating
system's processes, and what the workers answer to `celery inspect`. Where these cannot tell, it
says so.
"""

import json
import math
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import redis
from celery import Celery

# What the oracle itself asks with must bring nothing back.
_NEVER = 10**6
# Seconds in which a process that wrote a line of its own may not have told Celery's signals.
_AT_ONCE = 0.05


class Line(NamedTuple):
    """What a task wrote: start, then end, fail, retry, ignore or broken."""

    what: str
    id: str
    pid: int
    retries: int
    worker: str = ""
    at: float = 0.0


@dataclass(frozen=True)
class Look:
    """Broker, results and notes at one moment."""

    queued: Mapping[str, list[str]]  # ids by queue
    unacked: tuple[str, ...]  # ids, one for each message
    foreign: int
    states: Mapping[str, str]  # of results, by id
    lines: tuple[Line, ...]
    live: frozenset[int]  # processes that appear in the notes

    def of(self, task_id: str) -> tuple[Any, ...]:
        """All that it says of one task."""
        return (
            [queue for queue, ids in self.queued.items() if task_id in ids],
            self.unacked.count(task_id),
            self.states.get(task_id),
            [line for line in self.lines if line.id == task_id],
            [pid in self.live for pid in self.pids(task_id)],
        )

    def pids(self, task_id: str) -> list[int]:
        """Processes that have begun and not ended it."""
        open_: Counter[int] = Counter()
        for line in self.lines:
            if line.id == task_id:
                open_[line.pid] += 1 if line.what == "start" else -1
        return [pid for pid, number in open_.items() if number > 0]


@dataclass(frozen=True)
class Answers:
    """What the workers say of themselves, by their names."""

    asked: frozenset[str] = frozenset()
    known: Mapping[str, set[str]] = field(default_factory=dict)  # ids that a worker has in hand
    revoked: Mapping[str, set[str]] = field(default_factory=dict)
    queues: Mapping[str, set[str]] = field(default_factory=dict)
    told: frozenset[str] = frozenset()  # ids that any worker has logged
    dropped: frozenset[str] = frozenset()  # ids that a worker has logged to be revoked, and gone
    refusals: int = 0  # of contents, whose ids no log names
    killed: Mapping[int, float] = field(default_factory=dict)  # processes, and when

    @property
    def complete(self) -> bool:
        """Whether each worker that was asked has answered."""
        return self.asked <= set(self.known)


class Truth(NamedTuple):
    """The fate that a task must have, or None, and why it is not decidable."""

    fate: str | None
    why: str = ""
    again: bool = False  # ended, and a copy of its message is about
    consumed: bool | None = None  # of a queued one: is its queue consumed by anybody


class Oracle:
    """Looks at one broker, whose names for keys are those of `options`."""

    def __init__(self, url: str, results: str, options: Mapping[str, Any], notes: Path) -> None:
        self._broker: Any = redis.Redis.from_url(url, decode_responses=True)
        self._results: Any = redis.Redis.from_url(results, decode_responses=True)
        self._options, self._notes, self._url = dict(options), notes, url

    def close(self) -> None:
        """Close its connections."""
        self._broker.close()
        self._results.close()

    def key(self, name: str) -> str:
        """A name under the drawn prefix."""
        return self._options.get("global_keyprefix", "") + name

    def delete_unacked(self) -> None:
        """As an eviction does."""
        self._broker.delete(self.key(self._options.get("unacked_key", "unacked")))

    def in_hand(self) -> list[str]:
        """The messages in `unacked`, as text."""
        return list(self._broker.hvals(self.key(self._options.get("unacked_key", "unacked"))))

    def lines(self) -> tuple[Line, ...]:
        """What the tasks wrote so far."""
        if not self._notes.exists():
            return ()
        words = (line.split() for line in self._notes.read_text().splitlines())
        return tuple(
            Line(what, id_, int(pid), int(tries), worker, float(at))
            for what, id_, pid, tries, worker, at in words
        )

    def unmoved(self) -> dict[str, tuple[str, float]]:
        """Each message in `unacked`: its task, and the moment of its delivery, by its tag."""
        held = self._broker.hgetall(self.key(self._options.get("unacked_key", "unacked")))
        index = self.key(self._options.get("unacked_index_key", "unacked_index"))
        since = dict(self._broker.zrange(index, 0, -1, withscores=True))
        return {tag: (_id(json.loads(text)[0]), since.get(tag, 0.0)) for tag, text in held.items()}

    def look(self, ids: Iterable[str], queues: Iterable[str]) -> Look:
        """Read all there is, `unacked` last: a message that is fetched meanwhile is seen twice."""
        queued: dict[str, list[str]] = {}
        waiting: list[dict[str, Any]] = []
        for queue in queues:
            messages = [json.loads(text) for name in self._lists(queue) for text in self._all(name)]
            queued[queue] = [_id(message) for message in messages]
            waiting += messages
        # A broadcast waits nowhere, but is put back into a list of the worker that had it.
        for name in self._broker.scan_iter(self.key("bcast.*").replace("{", "?"), _type="list"):
            queued[name] = [_id(json.loads(text)) for text in self._all(name)]
        held = [json.loads(text)[0] for text in self.in_hand()]
        lines = self.lines()
        return Look(
            queued=queued,
            unacked=tuple(_id(message) for message in held),
            foreign=sum(not _id(message) for message in waiting + held),
            states={id_: state for id_ in ids if (state := self._state(id_))},
            lines=lines,
            live=frozenset(pid for pid in {line.pid for line in lines} if lives(pid)),
        )

    def _lists(self, queue: str) -> list[str]:
        sep = self._options.get("sep", "\x06\x16")
        steps = self._options.get("priority_steps", (0, 3, 6, 9))
        return [self.key(queue), *(self.key(f"{queue}{sep}{step}") for step in steps if step)]

    def _all(self, name: str) -> list[str]:
        # With `sep` a colon, "a:3" is a queue and may be a list of "a" as well: the type says.
        return list(self._broker.lrange(name, 0, -1)) if self._broker.exists(name) else []

    def _state(self, task_id: str) -> str | None:
        stored = self._results.get(f"celery-task-meta-{task_id}")
        return json.loads(stored)["status"] if stored else None

    def ask(self, logs: Mapping[str, str], timeout: float) -> Answers:
        """What workers know, over the broker. `logs` are theirs; seconds for each question."""
        names = sorted(logs)
        if not names:
            return Answers()
        app = Celery("oracle", broker=self._url, set_as_current=False)
        app.conf.broker_transport_options = {**self._options, "visibility_timeout": _NEVER}
        try:
            inspect = app.control.inspect(destination=names, timeout=timeout)
            parts = [inspect.active(), inspect.reserved(), inspect.scheduled()]
            revoked, queues = inspect.revoked() or {}, inspect.active_queues() or {}
        finally:
            app.close()
        parts[2] = _without_forgotten(parts[2] or {}, logs)
        complete = [name for name in names if all(name in (part or {}) for part in parts)]
        known = {
            name: {_entry(one) for part in parts for one in (part or {})[name]} for name in complete
        }
        return Answers(
            asked=frozenset(names),
            known=known,
            revoked={name: set(ids) for name, ids in revoked.items()},
            queues={name: _read(own) for name, own in queues.items()},
        )


def _id(message: Mapping[str, Any]) -> str:
    """Celery gives it as correlation id in both of its protocols; a foreign message has none."""
    headers, properties = message.get("headers") or {}, message.get("properties") or {}
    return str(properties.get("correlation_id") or headers.get("id") or "")


def _without_forgotten(
    scheduled: Mapping[str, list[Any]], logs: Mapping[str, str]
) -> dict[str, list[Any]]:
    """What a worker waits to run, without what it received before it lost its connection.

    It cancels these (`celery/worker/consumer/consumer.py: Consumer.on_close`), never runs them, and
    goes on to list them: a cancelled entry stays in its timer's queue until its time comes.
    """
    kept = {}
    for name, entries in scheduled.items():
        lost = logs[name].rfind("Connection to broker lost")
        kept[name] = [
            one for one in entries if logs[name].rfind(f"[{_entry(one)}] received") > lost
        ]
    return kept


def _read(queues: Iterable[Mapping[str, Any]]) -> set[str]:
    """The queues that a worker pops messages from: a broadcast comes by subscription instead."""
    return {one["name"] for one in queues if one["exchange"]["type"] != "fanout"}


def _entry(one: Mapping[str, Any]) -> str:
    return str(one.get("request", one)["id"])


def lives(pid: int) -> bool:
    """Whether a process runs."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def truths(
    kinds: Mapping[str, str],
    before: Look,
    answers: Answers,
    after: Look,
    there: Collection[str] = (),
) -> dict[str, Truth]:
    """The truth of each task. `kinds` is what each was drawn to be, by its id.

    `there` are the workers for which a broadcast was meant.
    """
    found = {}
    for task_id, kind in kinds.items():
        if before.of(task_id) != after.of(task_id):
            found[task_id] = Truth(None, "it moved while it was looked at")
        elif any(_cut_short(line, answers) for line in after.lines if line.id == task_id):
            found[task_id] = Truth(None, "its process was killed as it began or ended")
        elif kind in ("broadcast", "misrouted"):
            found[task_id] = _broadcast(task_id, after, answers, there)
        else:
            found[task_id] = _truth(task_id, kind, after, answers)
    return found


def _cut_short(line: Line, answers: Answers) -> bool:
    return line.at > answers.killed.get(line.pid, math.inf) - _AT_ONCE


def _truth(task_id: str, kind: str, look: Look, answers: Answers) -> Truth:
    state, lines = look.states.get(task_id), [one for one in look.lines if one.id == task_id]
    wrote = Counter(line.what for line in lines)
    where, why, consumed = _where(task_id, look, answers)
    if kind in ("unknown", "refused"):  # nothing can run it
        if where or why:
            return Truth(where, why, consumed=consumed)
        if kind == "refused" and answers.refusals and task_id not in answers.told:
            return Truth(None, "refused or lost, and one of several")
        return Truth("discarded" if task_id in answers.told else "lost")
    finished = wrote["end"] + wrote["ignore"]  # of which the latter stores no result
    ended = state in ("SUCCESS", "FAILURE") or bool(wrote["ignore"])
    cut_off = wrote["end"] == wrote["start"] == 1 and state == "FAILURE"
    if cut_off or ((wrote["end"] or wrote["fail"]) and not ended):
        return Truth(None, "its process died between its last line and its result")
    if ended:
        fate = "duplicated" if _repeated(lines) else "done" if finished else "failed"
        return Truth(None if why else fate, why, where is not None)
    if where or why:
        return Truth(where, why, consumed=consumed)
    if state == "REVOKED":
        return _revoked(task_id, kind, wrote["start"], answers)
    if any(task_id in ids for ids in answers.revoked.values()):
        # A dropped copy says REVOKED, and the one that asked for the retry may say RETRY later.
        return Truth(None, "revoked, and nothing says that it was dropped")
    return Truth("lost")


def _broadcast(task_id: str, look: Look, answers: Answers, there: Collection[str]) -> Truth:
    """Once on each worker that was there when it was published."""
    lines = [line for line in look.lines if line.id == task_id]
    starts = Counter(line.worker for line in lines if line.what == "start")
    ended = sum(line.what in ("end", "fail") for line in lines)
    where, why, consumed = _where(task_id, look, answers)
    if where == "queued" and not starts:
        return Truth("queued", consumed=consumed)
    if max(starts.values(), default=0) > 1 and not (where or why):
        return Truth("duplicated")
    if where or why:
        return Truth(None, "a broadcast that is still somewhere")
    if look.states.get(task_id) == "REVOKED":
        return Truth(None, "a broadcast that was revoked")
    if look.states.get(task_id, "" if starts else "SUCCESS") != "SUCCESS":
        return Truth(None, "a broadcast that failed, or was cut off, somewhere")
    if set(starts) >= set(there) and starts and ended == starts.total():
        return Truth("done")
    return Truth(None if starts else "lost", "a broadcast that some workers have run")


def _revoked(task_id: str, kind: str, starts: int, answers: Answers) -> Truth:
    """Dropped before it ran, or ended while it ran: Celery calls both REVOKED."""
    if not starts:
        if kind == "expired" or task_id in answers.dropped:
            return Truth("discarded")
        return Truth(None, "revoked, and no worker says that it dropped it")
    told = kind == "expired" or any(task_id in ids for ids in answers.revoked.values())
    if told or not answers.asked or answers.asked != set(answers.revoked):
        return Truth(None, "ended while it ran, or a second message of it was dropped")
    return Truth("failed")


def _repeated(lines: list[Line]) -> bool:
    """Whether it was started more often than it was published; each retry publishes it anew."""
    starts = Counter(line.retries for line in lines if line.what == "start")
    retries = Counter(line.retries + 1 for line in lines if line.what == "retry")
    return any(number > retries.get(tries, 1) for tries, number in starts.items())


def _where(task_id: str, look: Look, answers: Answers) -> tuple[str | None, str, bool | None]:
    """Where its message is: queued, held, stranded, discarded (revoked in hand) or nowhere."""
    queues = [queue for queue, ids in look.queued.items() if task_id in ids]
    if queues:
        if not answers.complete or answers.asked != set(answers.queues):
            return "queued", "", None
        return "queued", "", any(queues[0] in own for own in answers.queues.values())
    if look.unacked.count(task_id) > 1:
        return None, "several of its messages are in unacked", None
    if any(pid in look.live for pid in look.pids(task_id)):
        return "held", "", None
    holders = {name for name, ids in answers.known.items() if task_id in ids}
    if holders and all(task_id in answers.revoked.get(name, ()) for name in holders):
        return "discarded", "", None
    if holders:
        return "held", "", None
    if not answers.complete:
        return None, "a live worker does not answer", None
    return ("stranded" if task_id in look.unacked else None), "", None


def verdicts(found: Mapping[str, Truth]) -> set[str]:
    """The verdicts that a run of these truths may get. More than one: not decidable here."""
    fates = Counter(truth.fate for truth in found.values())
    if fates[None]:
        return {"broke", "survived", "inconclusive"}
    if fates["duplicated"] or fates["lost"] or fates["discarded"]:
        return {"broke"}
    opened = fates["queued"] or fates["held"] or any(truth.again for truth in found.values())
    if fates["stranded"]:  # it may be on its way back if the time ran out with others in hand
        return {"broke", "inconclusive"} if opened else {"broke"}
    return {"inconclusive"} if opened else {"survived"}


def wait_until(condition: Any, timeout: float) -> bool:
    """Poll; whether it came true within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True
