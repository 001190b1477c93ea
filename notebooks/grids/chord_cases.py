"""Every known way in which a chord does not fire, what only folklore holds for one, and the fixes.

An experiment is a function of a case: `run` starts a stack, publishes the canvas, breaks one thing
at a named event, waits, and says what it saw. Writes chord_cases.csv beside this file, one row a
run. Half an hour on two cores.
"""

import contextlib
import json
import math
import multiprocessing
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import redis
from celery import chain, chord, group, states
from celery.result import AsyncResult, GroupResult

from helpers import Stack, chords, lens, private_directory, reaper
from helpers.errors import StackError
from helpers.trials import provenance

SILENT = "a part never reports"
COUNT = "the count is lost"
UNTOLD = "an error has nobody to tell"
UNREAD = "nobody consumes"
RESULT = "only the result is missing"
FOLKLORE = "no hang: folklore"
CHAIN = "a chain, no chord"
MECHANISMS = [SILENT, COUNT, UNTOLD, UNREAD, RESULT, CHAIN, FOLKLORE]

RUNS, HEADLINE_RUNS = 5, 20
# A chord without a fault takes `healthy` seconds. One that has not ended after three times as long,
# and of which nothing moves any more, is judged by what is left of it.
PATIENCE = 3
POOL = 3
QUICK = {
    "broker_transport_options": {
        "visibility_timeout": 3,
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
    }
}

SHOP = """
import functools
import os
import signal
import time

from celery import Celery, Task, chord, group, signals
from celery.app.task import Context
from celery.backends.redis import RedisBackend
from celery.exceptions import Ignore, NotRegistered, Reject, TaskRevokedError
from celery.result import allow_join_result
from kombu.serialization import register
from kombu.utils import json

app = Celery("shop")
task = functools.partial(app.task, shared=False)  # one process loads this many times
register("parcel", json.dumps, json.loads, "application/x-parcel", "utf-8")

@task
def charge(order, seconds=0):
    time.sleep(seconds)
    return order

@task
def total(amounts):
    return len(amounts)

@task
def fail(*_):
    raise ValueError("no such order")

@task
def tell(*_):
    return {"error": "no such order"}

@task(bind=True, max_retries=1)
def again(self):
    raise self.retry(exc=ValueError("no such order"), countdown=0)

@task
def ignore(*_):
    raise Ignore()

@task
def reject(*_):
    raise Reject("no such order", requeue=False)

@task
def crash(*_):
    os.kill(os.getpid(), signal.SIGKILL)

@task(default_retry_delay=0, max_retries=3)
def pill():
    os.kill(os.getpid(), signal.SIGKILL)

@task(time_limit=1)
def endless(*_):
    time.sleep(60)

@task
def unreadable():
    return object()

@task
def asks():
    with allow_join_result():
        return charge.delay(1).get()

@task(bind=True)
def splits(self, part):
    raise self.replace(group(app.signature(part, args=(n,)) for n in range(2)))

@task(ignore_result=True)
def unstored(order):
    return order

@task(ignore_result=True)
def unstored_total(amounts):
    return len(amounts)
"""


def nothing(run: "Run") -> None:
    """No fault."""


@dataclass(frozen=True)
class Case:
    """One way to build, break and perhaps mend a chord."""

    name: str
    mechanism: str
    expected: str
    canvas: Callable[[ModuleType], Any]
    fault: Callable[["Run"], None] = nothing
    fix: str = ""
    source: str = ""  # more lines of the application
    conf: dict[str, Any] = field(default_factory=dict)
    redis: dict[str, str] = field(default_factory=dict)
    results: dict[str, str] | None = None  # redis.conf of a second server for the results
    polls: bool = False  # the result backend is db+sqlite
    before: Callable[["Run"], None] = nothing  # after the start, before the publish
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
    def key(self) -> str:
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
    def worker(self) -> Any:
        return self.stack.workers[0]

    @property
    def last(self) -> list[AsyncResult]:
        """The results that the caller waits for."""
        return self.result.results if isinstance(self.result, GroupResult) else [self.result]

    def wait(self, event: str, count: int = 1, timeout: float = 15) -> None:
        """Wait for `count` events of a kind in the ledger."""
        self.until(lambda: self.stack.ledger.count(event) >= count, f"{count} {event}", timeout)

    def until(self, condition: Callable[[], bool], what: str, timeout: float = 30) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                told = "".join(worker.log.tail() for worker in self.stack.workers)
                raise StackError(f"{self.case.key}: not {what} within {timeout:g} s\n{told}")
            time.sleep(0.01)

    @property
    def ended(self) -> bool:
        return bool(self.refused) or self.state() in states.READY_STATES

    def wait_for_the_end(self, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not self.ended and time.monotonic() < deadline:
            time.sleep(0.05)

    def start_worker(self) -> None:
        self.stack.start_worker(*self.case.worker)

    @property
    def group(self) -> GroupResult | None:
        parent = self.result.parent
        return parent if isinstance(parent, GroupResult) else None

    def group_key(self, suffix: str) -> str:
        return f"celery-taskset-meta-{self.group.id}{suffix}"

    def state(self) -> str:
        """The stored state of the last task, without the caller's own subscription."""
        if self.case.polls:
            return AsyncResult(self.last[0].id, app=self.shop.app).state
        with contextlib.suppress(redis.RedisError):
            return _stored_state(self, self.last[0].id)
        return states.PENDING


def _stored_state(run: Run, task_id: str) -> str:
    with run.stack.results.client(_database(run), socket_timeout=2) as client:
        stored = client.get(f"celery-task-meta-{task_id}")
    return json.loads(stored)["status"] if stored else states.PENDING


def _database(run: Run) -> int:
    """The database of the result backend on its server."""
    return int(run.shop.app.conf.result_backend.rpartition("/")[2])


# --- what is built ------------------------------------------------------------------------------


def four(shop: ModuleType) -> Any:
    """Four parts of half a second; two run at a time."""
    return chord([shop.charge.s(n, 0.5) for n in range(4)], shop.total.s())


def two(shop: ModuleType) -> Any:
    """Two parts of half a second, side by side."""
    return chord([shop.charge.s(n, 0.5) for n in range(2)], shop.total.s())


def beside(part: Callable[[ModuleType], Any]) -> Callable[[ModuleType], Any]:
    """One part that succeeds at once, and the one under study."""
    return lambda shop: chord([shop.charge.s(0), part(shop)], shop.total.s())


def behind(part: Callable[[ModuleType], Any]) -> Callable[[ModuleType], Any]:
    """One part that keeps a worker with one process busy, and the one under study behind it."""
    return lambda shop: chord([shop.charge.s(0, 0.7), part(shop)], shop.total.s())


def task(name: str, *arguments: Any, **options: Any) -> Callable[[ModuleType], Any]:
    return lambda shop: getattr(shop, name).s(*arguments).set(**options)


def linked(name: str, **options: Any) -> Callable[[ModuleType], Any]:
    """A chain whose first link is under study."""
    return lambda shop: chain(getattr(shop, name).s(1).set(**options), shop.charge.s())


def unknown(shop: ModuleType) -> Any:
    return shop.app.signature("shop.renamed")


def past() -> datetime:
    return datetime.now(UTC) - timedelta(seconds=1)


# --- what is broken -----------------------------------------------------------------------------


def _in_the_middle(run: Run) -> None:
    """Wait until the worker has received every part, and runs two.

    Redis hands a message out before kombu notes it in `unacked`: a kill in between loses it even
    with late ack. And a shutdown while messages still arrive may not end.
    """
    for part in run.group:
        run.stack.wait_for("received", part, timeout=30)
    run.wait("started", 2)


def kill_and_replace(run: Run) -> None:
    """`kill -9` to the worker and its children in the middle of the header; a new one starts."""
    _in_the_middle(run)
    if not run.case.conf.get("task_acks_late"):
        # The child starts a little before its parent acknowledges.
        run.until(lambda: not _started(run) & _unacked(run), "acknowledged")
    run.worker.kill()
    run.start_worker()


def _started(run: Run) -> set[str]:
    return {event["id"] for event in _events(run, "started")}


def _unacked(run: Run) -> set[str]:
    return set(lens.unacked(run.stack.redis)["id"])


def resend_what_is_lost(run: Run) -> None:
    """After the kill, send each part that is nowhere again, with its id, group, index and body."""
    kill_and_replace(run)
    run.wait("finished", 2)
    time.sleep(0.2)
    app = run.shop.app
    parts = chords.parts(
        run.result, run.stack.redis, run.stack.results, running=lens.running(app, 0.5)
    )
    body = run.shop.total.s().set(task_id=run.result.id)
    for index, (task_id, part) in enumerate(parts.iterrows()):
        if part["resend"]:
            run.shop.charge.s(index).apply_async(
                task_id=task_id, group_id=run.group.id, group_index=index, chord=body
            )


def signalled(number: signal.Signals) -> Callable[[Run], None]:
    """One signal to the worker's parent process in the middle of the header; a new one starts."""

    def fault(run: Run) -> None:
        _in_the_middle(run)
        os.kill(run.worker.pid, number)
        run.worker.wait(timeout=30)
        run.start_worker()

    return fault


def kill_child(run: Run) -> None:
    """`kill -9` to the pool's children alone."""
    run.wait("started", 2)
    for child in run.worker.children():
        os.kill(child, signal.SIGKILL)


def revoke(terminate: bool) -> Callable[[Run], None]:
    """Revoke the first task of the part under study, behind a busy process or running."""

    def fault(run: Run) -> None:
        node = run.group.results[1] if run.group else run.result
        while node.parent is not None:
            node = node.parent
        run.stack.wait_for("started" if terminate else "received", node, timeout=30)
        run.shop.app.control.revoke(node.id, terminate=terminate)

    return fault


def revoke_middle(run: Run) -> None:
    run.wait("started")
    run.shop.app.control.revoke(run.result.parent.id)


def kill_while_unlock_waits(run: Run) -> None:
    """The header is done, and the unlock task waits for its countdown in the worker's memory."""
    run.wait("finished", 2)
    run.until(lambda: "celery.chord_unlock" in set(lens.unacked(run.stack.redis)["task"]), "there")
    run.worker.kill()
    run.start_worker()


def with_client(act: Callable[[Run, redis.Redis], Any], event: str = "started") -> Any:
    """Do something to the broker's database 0 at an event."""

    def fault(run: Run) -> None:
        run.wait(event)
        with run.stack.redis.client() as client:
            act(run, client)

    return fault


def delete_key(suffix: str) -> Callable[[Run], None]:
    """Delete one key of the group when the first part has reported."""

    def fault(run: Run) -> None:
        run.wait("finished")
        with run.stack.results.client(1) as client:
            assert client.delete(run.group_key(suffix)), f"{suffix} was not there"

    return fault


def fill_cache(run: Run) -> None:
    """Between two parts, a cache writes pages that expire until Redis evicts what idled longest."""
    run.wait("finished")
    time.sleep(1.5)  # the LRU clock ticks once a second
    with run.stack.redis.client() as cache:
        for page in range(5000):
            cache.set(f"page:{page}", "x" * 3000, ex=600)
    run.stack.start_worker("--concurrency=1", "--queues=parcels")


def fill_results(run: Run) -> None:
    """The result server is full while the last part ends, and has room again afterwards."""
    run.wait("finished")
    run.stack.results.config_set("maxmemory", "1")  # less than it holds: it refuses every write
    run.until(lambda: run.worker.log.errors != [], "an error in the log")
    run.stack.results.config_set("maxmemory", "0")


def stop_results(run: Run) -> None:
    """The result server is away while the last part ends, and comes back with what it saved."""
    run.wait("finished")
    run.stack.results.kill()
    run.until(lambda: _gave_up(run) or _retries(run), "noticed by the worker")
    run.stack.results.restart()


def _gave_up(run: Run) -> bool:
    return any("callback raised" in line or "Connection" in line for line in run.worker.log.errors)


def _retries(run: Run) -> bool:
    return "Retrying" in run.worker.log.text


def restart_results(run: Run) -> None:
    """The result server restarts between two parts."""
    run.wait("finished")
    run.stack.results.kill()
    run.stack.results.restart()


def stop_broker(run: Run) -> None:
    """The broker is away when the body is to be sent, and comes back when the caller knows."""
    run.wait("started", 2)
    run.stack.redis.kill()
    run.until(lambda: run.state() in states.READY_STATES, "ended", timeout=60)
    run.stack.redis.restart()


def results_elsewhere(run: Run) -> None:
    run.shop.app.conf.result_backend = run.stack.redis.url(2)


def forbid(*rules: str) -> Callable[[Run], None]:
    def before(run: Run) -> None:
        with run.stack.results.client() as client:
            client.execute_command("ACL", "SETUSER", "default", *rules)

    return before


def busy(seconds: float, count: int) -> Callable[[Run], None]:
    """Other work is in the queue first."""

    def before(run: Run) -> None:
        for number in range(count):
            run.shop.charge.delay(number, seconds)

    return before


def replace_after_death(run: Run) -> None:
    """The application killed its worker at a chosen line; a new one starts."""
    run.worker.wait(timeout=30)
    run.start_worker()


# --- applications that die or mend at a chosen line ---------------------------------------------

# The signals stand for a power cut at that line. Nothing else is changed.
DIES = """
import pathlib
LINE = pathlib.Path(__file__).with_name("died")

def die(group):
    if not LINE.exists():
        LINE.touch()
        os.killpg(0, signal.SIGKILL) if group else os.kill(os.getpid(), signal.SIGKILL)
"""
DIES_BEFORE_COUNT = """
count = RedisBackend.on_chord_part_return

def on_chord_part_return(self, request, *arguments, **options):
    if request.group_index == 1:
        die({group})
    return count(self, request, *arguments, **options)

RedisBackend.on_chord_part_return = on_chord_part_return
"""
DIES_BEFORE_BODY = """
publish = app.amqp._retry_publish

def _retry_publish(*arguments, **options):
    die({group})
    return publish(*arguments, **options)

app.amqp._retry_publish = _retry_publish
"""
TELL_UNKNOWN = """
@signals.task_unknown.connect(weak=False)
def report(sender, message, exc, name, id, **_):
    embed = message.decode()[2]
    request = Context(message.headers, chord=embed["chord"], chain=embed["chain"],
                      errbacks=embed["errbacks"], group_index=message.headers.get("group_index"))
    app.backend.mark_as_failure(id, NotRegistered(name), request=request)
"""
TELL_REVOKED = """
@signals.task_revoked.connect(weak=False)
def report(request, **_):
    app.backend._fail_chain(request.chain, TaskRevokedError("revoked"), state="REVOKED")
"""
TELL_OUTER = """
told = RedisBackend.chord_error_from_stack

def chord_error_from_stack(self, callback, exc=None):
    info = told(self, callback, exc)
    options = callback.options
    if isinstance(callback, chord):  # the body is a chord: its own body is what callers wait for
        self.chord_error_from_stack(callback.body, exc)
    elif options.get("chord"):  # the body is a part of an outer chord
        request = Context(id=callback.id, group=options["group_id"], chord=options["chord"],
                          group_index=options.get("group_index"))
        self.on_chord_part_return(request, "FAILURE", exc)
    return info

RedisBackend.chord_error_from_stack = chord_error_from_stack
"""


# --- the table ----------------------------------------------------------------------------------


def family(broken: Case, fixes: dict[str, dict[str, Any]]) -> list[Case]:
    """A broken case and its repairs: what each changes, and "expected" where it is not "fired"."""
    return [broken] + [
        replace(broken, fix=name, **{"expected": "fired", **changes})
        for name, changes in fixes.items()
    ]


def folklore(name: str, expected: str, canvas: Callable[[ModuleType], Any], **more: Any) -> Case:
    return Case(name, FOLKLORE, expected, canvas, **more)


ONE = ("--concurrency=1",)
LATE = {**QUICK, "task_acks_late": True}
DEDUPLICATE = {**LATE, "worker_deduplicate_successful_tasks": True}
PILL = {"task_acks_late": True, "task_reject_on_worker_lost": True}
BOTH_QUEUES = ("--concurrency=2", "--queues=celery,parcels")
OWN: dict[str, str] = {}  # a second server with nothing in its redis.conf
APPEND = {"appendonly": "yes"}
SMALL = {"maxmemory": "5mb", "maxmemory-policy": "volatile-lru"}
# A parent notices the death of a child at once, or ten seconds later (billiard's
# `LOST_WORKER_TIMEOUT`).
SLOW: dict[str, Any] = {"timeout": 30, "quiet": 12, "alone": True}
IMPATIENT = {
    "broker_transport_options": {**QUICK["broker_transport_options"], "visibility_timeout": 1}
}
PATIENT = {
    "task_acks_late": True,
    "broker_transport_options": {**QUICK["broker_transport_options"], "visibility_timeout": 30},
}


def ten_parts(shop: ModuleType) -> Any:
    return chord([shop.charge.s(0, 0.7), *(shop.charge.s(n) for n in range(9))], shop.total.s())


def inner(name: str) -> Callable[[ModuleType], Any]:
    return beside(lambda shop: chord([getattr(shop, name).s(), shop.charge.s(1)], shop.total.s()))


def grouped(name: str) -> Callable[[ModuleType], Any]:
    return beside(lambda s: chain(group(getattr(s, name).s(), s.charge.s(1)), s.total.s()))


def with_body(part: str, body: Callable[[ModuleType], Any]) -> Callable[[ModuleType], Any]:
    return lambda shop: chord([getattr(shop, part).s(1), shop.charge.s(1)], body(shop))


def chord_as_body(shop: ModuleType) -> Any:
    return chord([shop.charge.si(1), shop.charge.si(2)], shop.total.s())


def limited(shop: ModuleType) -> Any:
    body = shop.total.s().set(time_limit=2, soft_time_limit=1)
    return chord([shop.charge.s(n, 0.5) for n in range(4)], body)


def three(middle: Callable[[ModuleType], Any]) -> Callable[[ModuleType], Any]:
    return lambda shop: chain(shop.charge.s(1, 0.5), middle(shop), shop.charge.s())


def halfway(shop: ModuleType) -> Any:
    def orders() -> Any:
        yield from (shop.charge.s(n) for n in range(3))
        raise ValueError("the list of orders ended early")

    return chord(orders(), shop.total.s())


KILLED = Case(
    "worker killed, early ack", SILENT, "hung", four, kill_and_replace, conf=QUICK, n=HEADLINE_RUNS
)
EXPIRED = linked("charge", expires=past())
PARCEL = task("charge", 1, queue="parcels")
RECEIVED = {"fault": revoke(terminate=False), "worker": ONE}

CASES: list[Case] = [
    *family(
        KILLED,
        {
            "late ack": {"conf": LATE},
            "send the lost parts again": {"fault": resend_what_is_lost, "n": RUNS},
        },
    ),
    replace(KILLED, name="worker killed, time limits on the body", canvas=limited, n=RUNS),
    *family(
        Case(
            "worker killed, late ack, default visibility timeout",
            SILENT,
            "late",
            four,
            kill_and_replace,
            conf={"task_acks_late": True},
        ),
        {"visibility timeout of 3 s": {"conf": LATE}},
    ),
    *family(
        Case("cold shutdown, early ack", SILENT, "hung", four, signalled(signal.SIGQUIT)),
        {
            "worker_soft_shutdown_timeout": {"conf": {"worker_soft_shutdown_timeout": 3}},
            "warm shutdown instead": {"fault": signalled(signal.SIGTERM)},
        },
    ),
    *family(
        Case("part raises Ignore", SILENT, "hung", beside(task("ignore"))),
        {"Reject instead": {"canvas": beside(task("reject")), "expected": "error"}},
    ),
    *family(
        Case("part's name not registered", SILENT, "hung", beside(unknown)),
        {"task_unknown handler": {"source": TELL_UNKNOWN, "expected": "error"}},
    ),
    *family(
        Case(
            "part's content type refused",
            SILENT,
            "hung",
            beside(task("charge", 1, serializer="parcel")),
        ),
        {"accept_content": {"conf": {"accept_content": ["json", "parcel"]}}},
    ),
    *family(
        Case("chain in the header, first link expired", SILENT, "hung", beside(EXPIRED)),
        {"task_revoked handler": {"source": TELL_REVOKED, "expected": "error"}},
    ),
    *family(
        Case(
            "chain in the header, first link revoked",
            SILENT,
            "hung",
            behind(linked("charge")),
            **RECEIVED,
        ),
        {"task_revoked handler": {"source": TELL_REVOKED, "expected": "error"}},
    ),
    *family(
        Case(
            "chain in the header, first link terminated",
            SILENT,
            "hung",
            beside(lambda shop: chain(shop.charge.s(1, 9), shop.charge.s())),
            revoke(terminate=True),
        ),
        {"task_revoked handler": {"source": TELL_REVOKED, "expected": "error"}},
    ),
    *family(
        Case("chain in the header, first link ignores", SILENT, "hung", beside(linked("ignore"))),
        {"Reject instead": {"canvas": beside(linked("reject")), "expected": "error"}},
    ),
    *family(
        Case(
            "chain in the header, first link not registered",
            SILENT,
            "hung",
            beside(lambda shop: chain(unknown(shop), shop.charge.s())),
        ),
        {"task_unknown handler": {"source": TELL_UNKNOWN, "expected": "error"}},
    ),
    Case(
        "queue purged midway",
        SILENT,
        "hung",
        ten_parts,
        with_client(lambda run, client: run.shop.app.control.purge()),
        worker=(*ONE, "--prefetch-multiplier=1"),
    ),
    Case(
        "queue evicted midway",
        SILENT,
        "hung",
        ten_parts,
        with_client(lambda run, client: client.delete("celery")),
        worker=(*ONE, "--prefetch-multiplier=1"),
    ),
    Case(
        "FLUSHDB of the broker midway",
        SILENT,
        "hung",
        ten_parts,
        with_client(lambda run, client: client.flushdb()),
        worker=(*ONE, "--prefetch-multiplier=1"),
    ),
    *family(
        Case(
            "poison pill, task_reject_on_worker_lost",
            SILENT,
            "stuck",
            beside(task("pill")),
            conf=PILL,
            timeout=5,
            alone=True,
        ),
        {
            "task_retry_on_worker_lost, max_retries 3": {
                "conf": {**PILL, "task_retry_on_worker_lost": True},
                "expected": "error",
                **SLOW,
            }
        },
    ),
    Case(
        "child killed, task_retry_on_worker_lost",
        SILENT,
        "late",
        beside(task("crash")),
        conf={"task_retry_on_worker_lost": True},
        **{**SLOW, "timeout": 13},
    ),
    *family(
        Case(
            "part waits for another task, one process",
            SILENT,
            "stuck",
            beside(task("asks")),
            worker=ONE,
            alone=True,
            timeout=5,
        ),
        {"a chain instead of .get()": {"canvas": beside(linked("charge"))}},
    ),
    # --- the count is lost
    Case("key .s deleted", COUNT, "hung", beside(task("charge", 1, 0.7)), delete_key(".s")),
    Case("key .j deleted", COUNT, "hung", beside(task("charge", 1, 0.7)), delete_key(".j")),
    *family(
        Case("keys evicted, volatile-lru", COUNT, "hung", beside(PARCEL), fill_cache, redis=SMALL),
        {"results on a server of their own": {"results": OWN}},
    ),
    *family(
        Case(
            "result_expires shorter than a part",
            COUNT,
            "hung",
            lambda shop: chord([shop.charge.s(n, 2) for n in range(2)], shop.total.s()),
            alone=True,
            conf={"result_expires": 1},
        ),
        {"result_chord_expires": {"conf": {"result_expires": 1, "result_chord_expires": 600}}},
    ),
    *family(
        Case(
            "producer has another result database",
            COUNT,
            "hung",
            beside(task("charge", 1)),
            before=results_elsewhere,
        ),
        {"the same result database": {"before": nothing}},
    ),
    *family(
        Case(
            "result user may not run scripts",
            COUNT,
            "hung",
            beside(task("charge", 1)),
            results=OWN,
            before=forbid("-@scripting"),
        ),
        {"ACL +evalsha": {"before": forbid("-@scripting", "+evalsha", "+script|load")}},
    ),
    Case(
        "result server full",
        COUNT,
        "hung",
        beside(task("charge", 1, 1)),
        fill_results,
        results=OWN,
    ),
    *family(
        Case(
            "result server away while a part ends",
            COUNT,
            "hung",
            beside(task("charge", 1, 0.7)),
            stop_results,
            results=APPEND,
            timeout=40,
        ),
        {"result_backend_always_retry": {"conf": {"result_backend_always_retry": True}}},
    ),
    *family(
        Case(
            "result server restarts empty",
            COUNT,
            "hung",
            beside(task("charge", 1, 0.7)),
            restart_results,
            results=OWN,
        ),
        {"appendonly yes": {"results": APPEND}},
    ),
    Case(
        "child killed before its part is counted",
        COUNT,
        "hung",
        beside(task("charge", 1)),
        worker=ONE,
        **SLOW,
        source=DIES + DIES_BEFORE_COUNT.format(group=False),
    ),
    *family(
        Case(
            "worker killed before a part is counted",
            COUNT,
            "hung",
            beside(task("charge", 1)),
            replace_after_death,
            worker=ONE,
            source=DIES + DIES_BEFORE_COUNT.format(group=True),
            conf=QUICK,
        ),
        {"late ack": {"conf": LATE}},
    ),
    *family(
        Case(
            "worker killed before a part is counted, deduplication",
            COUNT,
            "hung",
            beside(task("charge", 1)),
            replace_after_death,
            worker=ONE,
            source=DIES + DIES_BEFORE_COUNT.format(group=True),
            conf=DEDUPLICATE,
        ),
        {"no deduplication": {"conf": LATE}},
    ),
    Case(
        "child killed before it sends the body",
        COUNT,
        "hung",
        beside(task("charge", 1)),
        worker=ONE,
        **SLOW,
        source=DIES + DIES_BEFORE_BODY.format(group=False),
    ),
    *family(
        Case(
            "worker killed before it sends the body, late ack",
            COUNT,
            "hung",
            beside(task("charge", 1)),
            replace_after_death,
            worker=ONE,
            source=DIES + DIES_BEFORE_BODY.format(group=True),
            conf=LATE,
        ),
        {"visibility timeout longer than the claim": {"conf": PATIENT, "timeout": 45}},
    ),
    # --- an error has nobody to tell
    *family(
        Case("inner chord's part raises", UNTOLD, "hung", inner("fail")),
        {
            "return an error value": {"canvas": inner("tell")},
            "backend tells the outer chord": {"source": TELL_OUTER, "expected": "error"},
        },
    ),
    *family(
        Case("chain(group, task) in the header raises", UNTOLD, "hung", grouped("fail")),
        {
            "return an error value": {"canvas": grouped("tell")},
            "backend tells the outer chord": {"source": TELL_OUTER, "expected": "error"},
        },
    ),
    *family(
        Case(
            "part replaced by a group that raises",
            UNTOLD,
            "hung",
            beside(task("splits", "shop.fail")),
            alone=True,
        ),
        {
            "return an error value": {"canvas": beside(task("splits", "shop.tell"))},
            "backend tells the outer chord": {"source": TELL_OUTER, "expected": "error"},
        },
    ),
    *family(
        Case("body is a chord, a part raises", UNTOLD, "hung", with_body("fail", chord_as_body)),
        {
            "return an error value": {"canvas": with_body("tell", chord_as_body)},
            "backend tells the inner body": {"source": TELL_OUTER, "expected": "error"},
        },
    ),
    # --- nobody consumes
    *family(
        Case("part's queue has no worker", UNREAD, "stuck", beside(PARCEL)),
        {"a worker for the queue": {"worker": BOTH_QUEUES}},
    ),
    *family(
        Case(
            "body's queue has no worker",
            UNREAD,
            "stuck",
            with_body("charge", task("total", queue="parcels")),
        ),
        {"a worker for the queue": {"worker": BOTH_QUEUES}},
    ),
    # --- only the result is missing
    *family(
        Case(
            "body has ignore_result",
            RESULT,
            "fired",
            with_body("charge", task("unstored_total")),
        ),
        {"a body that stores its result": {"canvas": with_body("charge", task("total"))}},
    ),
    *family(
        Case(
            "task_ignore_result for all",
            RESULT,
            "fired",
            with_body("charge", task("total")),
            conf={"task_ignore_result": True},
        ),
        {
            "ignore_result=False on the body": {
                "canvas": with_body("charge", task("total", ignore_result=False))
            }
        },
    ),
    # --- chains
    Case("middle raises", CHAIN, "error", three(task("fail"))),
    *family(
        Case("middle expired", CHAIN, "hung", three(task("charge", expires=past()))),
        {"task_revoked handler": {"source": TELL_REVOKED, "expected": "error"}},
    ),
    *family(
        Case("middle revoked", CHAIN, "hung", three(task("charge")), revoke_middle),
        {"task_revoked handler": {"source": TELL_REVOKED, "expected": "error"}},
    ),
    # --- folklore
    folklore("healthy", "fired", four, n=HEADLINE_RUNS),
    folklore("part raises", "error", beside(task("fail")), n=HEADLINE_RUNS),
    folklore("retries exhausted", "error", beside(task("again"))),
    folklore("child killed by SIGKILL", "error", four, fault=kill_child, **SLOW),
    folklore("hard time limit", "error", beside(task("endless")), alone=True),
    folklore("part revoked", "error", behind(task("charge", 1)), **RECEIVED),
    folklore(
        "part terminated", "error", beside(task("charge", 1, 9)), fault=revoke(terminate=True)
    ),
    folklore("part expired", "error", beside(task("charge", 1, expires=past()))),
    folklore("return value not serialisable", "error", beside(task("unreadable"))),
    folklore("part raises Reject", "error", beside(task("reject"))),
    folklore("chain in the header, first link raises", "error", beside(linked("fail"))),
    folklore("chain in the header, first link killed", "error", beside(linked("crash")), **SLOW),
    folklore(
        "chain in the header, first link hits its limit",
        "error",
        beside(linked("endless")),
        alone=True,
    ),
    folklore("chain in the header, first link rejects", "error", beside(linked("reject"))),
    folklore(
        "inner body raises",
        "error",
        beside(lambda shop: chord([shop.charge.s(1)] * 2, shop.fail.s())),
    ),
    folklore(
        "body is a group, a part raises",
        "error",
        with_body("fail", lambda shop: group(shop.total.s(), shop.total.s())),
    ),
    folklore(
        "body is a chain, a part raises",
        "error",
        with_body("fail", lambda shop: chain(shop.total.s(), shop.charge.s())),
    ),
    folklore("body's name not registered", "error", with_body("charge", unknown)),
    folklore("broker away when the body is sent", "error", two, fault=stop_broker, results=OWN),
    folklore("header generator raises halfway", "error", halfway, alone=True),
    folklore("empty header", "fired", lambda shop: chord([], shop.total.s())),
    folklore("header has ignore_result", "fired", beside(task("unstored", 1))),
    folklore(
        "group in the header",
        "fired",
        beside(lambda shop: group(shop.charge.s(1), shop.charge.s(2))),
    ),
    folklore(
        "chain that ends in a group",
        "fired",
        beside(lambda shop: chain(shop.charge.s(1), group(shop.charge.s(), shop.charge.s()))),
    ),
    folklore("inner chord", "fired", inner("tell")),
    folklore(
        "part replaced by a group", "fired", beside(task("splits", "shop.charge")), alone=True
    ),
    folklore("warm shutdown", "fired", four, fault=signalled(signal.SIGTERM)),
    folklore(
        "part runs twice, visibility timeout",
        "fired",
        beside(task("charge", 1, 3)),
        alone=True,
        conf={**IMPATIENT, "task_acks_late": True},
    ),
    folklore(
        "countdown longer than the visibility timeout",
        "fired",
        beside(task("charge", 1, countdown=4)),
        alone=True,
        conf=IMPATIENT,
    ),
    folklore("key .d deleted", "fired", beside(task("charge", 1, 0.7)), fault=delete_key(".d")),
]

POLLING: list[Case] = [
    folklore("healthy", "fired", four),
    folklore("part raises", "error", beside(task("fail"))),
    folklore("child killed by SIGKILL", "error", four, fault=kill_child, **SLOW),
    *family(
        Case("header has ignore_result", SILENT, "stuck", beside(task("unstored", 1))),
        {"store the result": {"canvas": beside(task("charge", 1))}},
    ),
    Case("part raises Ignore", SILENT, "stuck", beside(task("ignore"))),
    Case("part's name not registered", SILENT, "error", beside(unknown)),
    *family(
        Case("chain in the header, first link expired", SILENT, "stuck", beside(EXPIRED)),
        {"task_revoked handler": {"source": TELL_REVOKED, "expected": "error"}},
    ),
    Case("inner chord's part raises", UNTOLD, "error", inner("fail")),
    Case("body is a chord, a part raises", UNTOLD, "hung", with_body("fail", chord_as_body)),
    *family(
        replace(KILLED, expected="stuck", n=RUNS),
        {
            "late ack": {"conf": LATE, "timeout": 15},
            "max_retries=3 at the publish": {"options": {"max_retries": 3}, "expected": "error"},
        },
    ),
    *family(
        Case(
            "worker killed while the unlock waits",
            SILENT,
            "late",
            beside(task("charge", 1)),
            kill_while_unlock_waits,
        ),
        {"visibility timeout of 3 s": {"conf": QUICK, "timeout": 15}},
    ),
    *family(
        Case("part's queue has no worker", UNREAD, "stuck", beside(PARCEL)),
        {"a worker for the queue": {"worker": BOTH_QUEUES}},
    ),
    *family(
        Case(
            "body's queue has no worker",
            UNREAD,
            "stuck",
            with_body("charge", task("total", queue="parcels")),
        ),
        {"a worker for the queue": {"worker": BOTH_QUEUES}},
    ),
]


def _polls(case: Case) -> Case:
    """On db+sqlite. Five polls show that there is no end to them."""
    return replace(case, polls=True, timeout=5 if case.expected == "stuck" else case.timeout)


BEHIND_WORK = folklore(
    "five seconds of other work in front",
    "fired",
    beside(task("charge", 1)),
    before=busy(1, 5),
    worker=ONE,
)
CASES += [BEHIND_WORK, *(_polls(case) for case in [*POLLING, BEHIND_WORK])]


# --- one run ------------------------------------------------------------------------------------


def decide(
    state: str, body: set[str], alive: pd.DataFrame, missing: list[set[str]], polls: bool
) -> tuple[str, float]:
    """The outcome, and the seconds until the last event that it still needs.

    `state` is stored under the id that the caller waits for, `body` the fates of those tasks,
    `alive` the tasks that are somewhere (columns task and due: when each returns, infinite if no
    clock says so), `missing` the ids that each part which has not reported depends on.
    """
    if state == states.SUCCESS or (body and body <= {"done", "duplicated"}):
        return "fired", 0.0
    if state in states.EXCEPTION_STATES - {states.RETRY} or "failed" in body:
        return "error", 0.0
    poll = alive["task"] == "celery.chord_unlock"
    work = set(alive.index[~poll])
    if any(not ids & work for ids in missing):
        # What is nowhere cannot report. A poll asks for it without an end.
        return ("stuck", math.inf) if poll.any() else ("hung", math.inf)
    if alive.empty:
        return "hung", math.inf
    due = float(alive["due"].max())
    return ("late", due) if math.isfinite(due) else ("stuck", math.inf)


def run(case: Case, numbers: Sequence[int], healthy: float) -> list[dict[str, Any]]:
    """Run one case, one chord after the other on one stack; one row for each of `numbers`.

    `healthy` is how long a chord of the same size takes without a fault, in seconds.
    """
    here = private_directory()
    conf = f"app.conf.update({case.conf!r})\n"
    (here / "shop.py").write_text(SHOP + case.source + conf)
    backend: Any = case.results if case.results is not None else "same"
    if case.polls:
        backend = f"db+sqlite:///{here / 'results.sqlite'}"
    try:
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
    finally:
        reaper.remove(here)


def _publish(run: Run) -> None:
    run.began, run.wall = time.monotonic(), time.time()
    try:
        run.result = run.case.canvas(run.shop).apply_async(**run.case.options)
    except ValueError as error:  # the producer's own generator
        run.refused = f"{type(error).__name__} at the publish"
        run.refused_after = time.monotonic() - run.began


def _seen(run: Run, table: pd.DataFrame) -> dict[str, Any]:
    """What became of one chord; `table` has the fate of every task."""
    case = run.case
    if run.refused:
        told = {"outcome": "error", "seconds": run.refused_after, "get": run.refused}
        return {**told, "body_runs": 0, **_tasks(run, table)}
    if case.shared:
        table = table[table.index.isin(chords.family(run.result))]
    ids = [result.id for result in run.last]
    body = table[table.index.isin(ids)]
    alive = table[table["fate"].isin(["queued", "held", "stranded"])]
    alive = alive.assign(due=[_due(run, task_id, row) for task_id, row in alive.iterrows()])
    outcome, due = decide(run.state(), set(body["fate"]), alive, _missing(run, alive), case.polls)
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
        "body_runs": int(body["starts"].sum()),
        **_tasks(run, table[~table.index.isin(ids)]),
        "keys": "" if case.polls or not run.group else _keys(run),
    }


def _tasks(run: Run, table: pd.DataFrame) -> dict[str, Any]:
    """What became of the tasks other than the body."""
    parts = table[table["task"] != "celery.chord_unlock"]
    fates = sorted(Counter(parts["fate"]).items())
    return {
        "parts": ", ".join(f"{number} {fate}" for fate, number in fates),
        "starts": int(parts["starts"].sum()),
        "polls": sum(e["task"] == "celery.chord_unlock" for e in _events(run, "started")),
        "log_errors": sum(len(worker.log.errors) for worker in run.stack.workers),
    }


def _row(run: Run, table: pd.DataFrame) -> dict[str, Any]:
    case, seen = run.case, _seen(run, table)
    return {
        "backend": case.backend,
        "mechanism": case.mechanism,
        "case": case.name,
        "arm": case.arm,
        "fix": case.fix,
        "expected": case.expected,
        "run": run.number,
        **{name: round(x, 3) if isinstance(x, float) else x for name, x in seen.items()},
        "healthy_seconds": round(run.healthy, 3),
        **provenance(run.stack),
    }


def _events(run: Run, kind: str) -> list[dict[str, Any]]:
    return [event for event in run.stack.ledger.read() if event["event"] == kind]


def _due(run: Run, task_id: str, row: Any) -> float:
    """Seconds until the clock brings a task back or lets it run; infinite when no clock does."""
    if row["fate"] == "stranded":
        return float(row["latest_return"])
    with run.stack.redis.client() as client:
        for raw in client.hvals("unacked"):
            headers = json.loads(raw)[0]["headers"]
            if headers["id"] == task_id and headers["eta"]:
                return datetime.fromisoformat(headers["eta"]).timestamp() - time.time()
    return math.inf


def _missing(run: Run, alive: pd.DataFrame) -> list[set[str]]:
    """For each part that has not reported, the ids on which it depends."""
    if run.group is None:
        return []
    leaves = [r for child in run.group.results for r in chords.leaves(child)]
    if run.case.polls:
        return [chords.family(r) for r in leaves if r.state not in states.READY_STATES]
    held = alive.index[alive["fate"] == "held"]
    stack = run.stack
    parts = chords.parts(run.result, stack.redis, stack.results, _database(run), running=set(held))
    reported = set(parts.index[parts["reported"]])
    return [chords.family(r) for r in leaves if r.id not in reported]


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
    start = run.group_key("")
    names = lens.keys(run.stack.results, _database(run)).index
    return " ".join(sorted(name.removeprefix(start) for name in names if name.startswith(start)))


def run_by_key(key: str, numbers: Sequence[int], healthy: float) -> list[dict[str, Any]]:
    """A case cannot travel to another process; its name can."""
    case = next(case for case in CASES if case.key == key)
    try:
        return run(case, numbers, healthy)
    except Exception as error:
        raise StackError(f"{key}, run {numbers}: {error!r}") from error


def measure(cases: list[Case]) -> pd.DataFrame:
    """Every run of `cases`, three at a time, in the order of the table."""
    jobs: dict[Future[list[dict[str, Any]]], int] = {}
    rows = []
    with ProcessPoolExecutor(POOL, multiprocessing.get_context("spawn")) as pool:
        healthy = {}
        for case in CASES:
            if case.name == "healthy":
                took = [pool.submit(run_by_key, case.key, [number], 1.0) for number in range(POOL)]
                healthy[case.backend] = min(job.result()[0]["seconds"] for job in took)
        for place, case in enumerate(cases):
            size = case.n if case.shared else 1
            for first in range(0, case.n, size):
                numbers = range(first, first + size)
                job = pool.submit(run_by_key, case.key, numbers, healthy[case.backend])
                jobs[job] = place
        for done, job in enumerate(as_completed(jobs), start=1):
            case = cases[jobs[job]]
            if error := job.exception():
                print(error, file=sys.stderr, flush=True)
                continue
            for row in job.result():
                wrong = "" if row["outcome"] == case.expected else f" INSTEAD OF {case.expected}"
                seen = f"{case.key}: {row['outcome']}{wrong}, {row['seconds']} s"
                print(f"{done} of {len(jobs)} · {seen}", file=sys.stderr, flush=True)
                rows.append((jobs[job], row["run"], row))
    return pd.DataFrame([row for *_, row in sorted(rows, key=lambda entry: entry[:2])])


def main() -> None:
    measure(CASES).to_csv(Path(__file__).with_suffix(".csv"), index=False)


if __name__ == "__main__":
    main()
