"""A case: one way to build, break and perhaps mend a chord. A run: the case on live processes."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

import redis
from celery import states
from celery.result import AsyncResult, GroupResult

from helpers import Stack, chords
from helpers.process import poll
from helpers.worker import Worker

SILENT = "a part never reports"
COUNT = "the count is lost"
UNTOLD = "an error has nobody to tell"
UNREAD = "nobody consumes"
RESULT = "only the result is missing"
FOLKLORE = "no hang: folklore"
CHAIN = "a chain, no chord"
MECHANISMS = [SILENT, COUNT, UNTOLD, UNREAD, RESULT, CHAIN, FOLKLORE]

RUNS, HEADLINE_RUNS = 5, 20
Canvas = Callable[[ModuleType], Any]
Fault = Callable[["Run"], Any]
# A parent notices the death of a child at once, or ten seconds later (billiard's
# `LOST_WORKER_TIMEOUT`).
SLOW: dict[str, Any] = {"timeout": 30, "quiet": 12, "alone": True}


def nothing(run: "Run") -> None:
    """No fault."""


@dataclass(frozen=True)
class Case:
    """One way to build, break and perhaps mend a chord."""

    name: str
    mechanism: str
    expected: str
    canvas: Canvas
    fault: Fault = nothing
    fix: str = ""
    source: str = ""  # more lines of the application
    conf: dict[str, Any] = field(default_factory=dict)
    redis: dict[str, str] = field(default_factory=dict)
    results: dict[str, str] | None = None  # redis.conf of a second server for the results
    polls: bool = False  # the result backend is db+sqlite
    before: Fault = nothing  # after the start, before the publish
    worker: tuple[str, ...] = ("--concurrency=2",)
    options: dict[str, Any] = field(default_factory=dict)  # of the publish
    timeout: float = 15  # for what moves to come to rest, seconds
    quiet: float = 1  # how long nothing may happen before that is believed, seconds
    alone: bool = False  # each run needs a stack of its own, although no fault is aimed at it
    n: int = RUNS

    @property
    def shared(self) -> bool:
        """Do all runs happen on one stack, one after the other?"""
        aimed = self.fault is not nothing or self.before is not nothing
        return not (aimed or self.alone or self.polls or self.n > RUNS)

    @property
    def arm(self) -> str:
        if self.fix:
            return "fix"
        ends = self.expected in ("fired", "error")
        return "control" if ends and self.mechanism != RESULT else "broken"

    @property
    def backend(self) -> str:
        return "polling" if self.polls else "Redis"

    @property
    def columns(self) -> dict[str, str]:
        """What tells it apart from other cases in the stored grid."""
        return {
            "backend": self.backend,
            "mechanism": self.mechanism,
            "case": self.name,
            "arm": self.arm,
            "fix": self.fix,
            "expected": self.expected,
        }

    @property
    def key(self) -> str:
        """Its name for a reader."""
        return " · ".join(filter(None, [self.backend, self.name, self.fix]))


@dataclass
class Run:
    """A case on live processes."""

    case: Case
    stack: Stack
    shop: ModuleType
    number: int
    healthy: float
    result: Any = None
    refused: str = ""  # the publish raised this
    refused_after: float = 0.0
    began: float = 0.0
    wall: float = 0.0

    @property
    def worker(self) -> Worker:
        """The first one."""
        return self.stack.workers[0]

    def start_worker(self) -> None:
        """One more, with the options of the case."""
        self.stack.start_worker(*self.case.worker)

    def wait(self, event: str, count: int = 1) -> None:
        """Wait for `count` events of a kind in the ledger."""
        ledger = self.stack.ledger
        self.stack.wait_until(lambda: ledger.count(event) >= count, f"{event} {count} times", 15)

    @property
    def ended(self) -> bool:
        """The caller knows the end of it."""
        return bool(self.refused) or self.state() in states.READY_STATES

    def wait_for_the_end(self, timeout: float) -> None:
        """Until it has ended, or `timeout` seconds have."""
        poll(lambda: self.ended, timeout, pause=0.05)

    @property
    def last(self) -> list[AsyncResult]:
        """The results that the caller waits for."""
        return chords.leaves(self.result)

    @property
    def header(self) -> GroupResult | None:
        """The parts, of a chord; None of a chain."""
        parent = self.result.parent
        return parent if isinstance(parent, GroupResult) else None

    @property
    def parts(self) -> GroupResult:
        """The parts of what must be a chord."""
        assert self.header is not None, f"{self.case.key} is no chord"
        return self.header

    def key(self, suffix: str) -> str:
        """The name of one key of its header in the result backend, such as of ".s"."""
        return f"celery-taskset-meta-{self.parts.id}{suffix}"

    @property
    def database(self) -> int:
        """The database of the result backend on its server."""
        return int(self.shop.app.conf.result_backend.rpartition("/")[2])

    def state(self) -> str:
        """The stored state of the last task, without the caller's own subscription."""
        task_id = self.last[0].id
        if self.case.polls:
            return str(AsyncResult(task_id, app=self.shop.app).state)
        with suppress(redis.RedisError):  # it is away, or full
            return chords.stored_state(self.stack.results, self.database, task_id)
        return states.PENDING


def family(broken: Case, fixes: Mapping[str, Mapping[str, Any]]) -> list[Case]:
    """A broken case and its repairs: what each changes, and "expected" where it is not "fired"."""
    return [broken] + [
        replace(broken, fix=name, **{"expected": "fired", **changes})
        for name, changes in fixes.items()
    ]


def folklore(name: str, expected: str, canvas: Canvas, **more: Any) -> Case:
    """A case that only folklore holds for a hang."""
    return Case(name, FOLKLORE, expected, canvas, **more)
