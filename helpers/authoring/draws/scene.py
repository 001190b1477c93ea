"""Runs one draw through `Stack`, and looks at it with the oracle before it goes."""

import os
import re
import signal
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import redis

from helpers.authoring.draws.drawing import FAR, TO_ALL, WITHOUT_WORKERS, Draw, Task
from helpers.authoring.draws.oracle import Answers, Look, Oracle, lives, wait_until
from helpers.fates import Outcome
from helpers.stack import Stack
from helpers.worker import Worker

# Seconds: for which return it is waited, and how late it may be. The oracle's own questions hold
# the lock of the sweeps for a moment, and a sweep that meets it is left out.
MOST_WAIT, LATE = 8, 2

_APPLICATION = '''\
import os, time
from celery import Celery
from celery.exceptions import Ignore
from kombu.common import Broadcast

app = Celery("drawn")
app.conf.update({conf!r})
if {to_all!r}:
    app.conf.task_queues = [Broadcast({to_all!r})]
NOTES = {notes!r}


def note(task, what):
    """One line, whole: it is there whatever happens to the process next."""
    file = os.open(NOTES, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    line = f"{{what}} {{task.request.id}} {{os.getpid()}} {{task.request.retries}} "
    line += f"{{task.request.hostname}} {{time.monotonic()}}\\n"
    os.write(file, line.encode())
    os.close(file)


def work(task, seconds, kind):
    note(task, "start")
    try:
        time.sleep(seconds)
    except BaseException:
        note(task, "broken")
        raise
    if kind == "fail":
        note(task, "fail")
        raise ValueError("drawn to fail")
    if kind == "retry" and not task.request.retries:
        note(task, "retry")
        raise task.retry(countdown=0.2)
    if kind == "ignore":
        note(task, "ignore")
        raise Ignore()
    note(task, "end")


@app.task(bind=True, max_retries=1)
def early(self, seconds, kind):
    work(self, seconds, kind)


@app.task(bind=True, max_retries=1, acks_late=True)
def late(self, seconds, kind):
    work(self, seconds, kind)
'''


@dataclass
class Seen:
    """What a run showed: the outcome to be judged, and what the oracle saw around it."""

    outcome: Outcome
    before: Look
    answers: Answers
    after: Look
    kinds: dict[str, str]  # by task id
    alive: dict[str, bool]  # by worker
    there: set[str]  # workers that were there at the publish
    notes: list[str]  # what the run could not do as drawn
    logs: dict[str, str] = field(default_factory=dict)  # their ends, by worker
    gone_before: set[str] = field(default_factory=set)  # workers, when `settle` began
    waited: float = 0.0  # seconds from the outcome until it was seen whether messages came back
    stayed: dict[str, bool] = field(default_factory=dict)  # in `unacked` all the while, by task


def run(draw: Draw, patience: float = 3) -> Seen:
    """Run one draw to its end. `patience` is the time that `settle` gets, in seconds."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "application"
        folder.mkdir()
        notes = Path(place) / "notes"
        conf = {**draw.conf, "broker_transport_options": draw.options}
        to_all = TO_ALL if draw.broadcasts else ""
        text = _APPLICATION.format(conf=conf, notes=str(notes), to_all=to_all)
        (folder / "drawn.py").write_text(text)
        disk = {"appendonly": "yes", "appendfsync": "always"}
        with Stack(folder, redis=disk, name=f"draw {os.getpid()}") as stack:
            oracle = Oracle(stack.redis.url(0), stack.redis.url(1), draw.options, notes)
            scene = _Scene(draw, stack, oracle)
            try:
                return scene.play(patience)
            finally:
                scene.end()


class _Scene:
    def __init__(self, draw: Draw, stack: Stack, oracle: Oracle) -> None:
        self.draw, self.stack, self.oracle = draw, stack, oracle
        self.kinds: dict[str, str] = {}
        self.there: set[str] = set()
        self.missed: list[str] = []
        self.killed: dict[int, float] = {}  # processes, and when
        self.somebody: Any = None

    def play(self, patience: float) -> Seen:
        draw, module = self.draw, self.stack.load("drawn")
        self._leave_foreign(module)
        if draw.published_first:
            self._publish(module)
        early = [fault for fault in draw.faults if fault in WITHOUT_WORKERS]
        late = [fault for fault in draw.faults if fault not in WITHOUT_WORKERS]
        if draw.moment == "before":
            self._break(module, early)
        self._start(draw.pools)
        if draw.moment == "before":
            self._break(module, late)
        if not draw.published_first:
            self._publish(module)
        if draw.moment != "before":
            wait_until(self._moment(), 3)
            self._break(module, draw.faults)
        if draw.take_over:
            self._start(draw.pools[:1])
        gone = {worker.name for worker in self.stack.workers if not lives(worker.pid)}
        seen = self._look(self.stack.settle(timeout=patience))
        seen.gone_before = gone
        self._wait_for_returns(seen)
        return seen

    def end(self) -> None:
        """Close what this process opened, while its server is there."""
        if self.somebody is not None:
            self.somebody.close()
        self.oracle.close()

    def _start(self, pools: tuple[str, ...]) -> None:
        for pool in pools:
            queues = ",".join([*self.draw.consumed, *[TO_ALL] * self.draw.broadcasts])
            self.stack.start_worker("-P", pool, "-c", str(self.draw.concurrency), "-Q", queues)

    def _publish(self, module: ModuleType) -> None:
        self.there = {f"{worker.name}@stack" for worker in self.stack.workers if worker.alive}
        for task in self.draw.tasks:
            options: dict[str, Any] = {"queue": task.queue, "priority": task.priority}
            if task.countdown:
                options["countdown"] = task.countdown
            if task.kind == "expired":
                options["expires"] = 0.01
            if task.kind == "broadcast":
                # Without the declaration Redis keeps it in lists that nobody reads: "misrouted".
                exchange = module.app.amqp.queues[TO_ALL].exchange
                options |= {"exchange": TO_ALL, "routing_key": "celery", "declare": [exchange]}
            if task.kind == "refused":
                options["serializer"] = "pickle"  # which no worker accepts by default
            if task.kind == "unknown":
                result = module.app.send_task("nobody.knows", **options)
            else:
                function = module.late if task.late else module.early
                if task.kind == "limit":
                    options["time_limit"] = 0.5
                seconds = 5 if task.kind == "limit" else task.seconds
                result = function.apply_async((seconds, task.kind), **options)
            self.kinds[result.id] = task.kind

    def _leave_foreign(self, module: ModuleType) -> None:
        """Somebody else's messages. Who holds one keeps his connection: its end gives it back."""
        self.somebody = module.app.connection_for_write()
        producer = self.somebody.Producer()
        for number in range(self.draw.foreign):
            producer.publish({"nothing": number}, routing_key=self.draw.foreign_queue)
        if self.draw.foreign and self.draw.foreign_held:
            self.somebody.default_channel.basic_get(self.draw.foreign_queue)

    def _moment(self) -> Callable[[], object]:
        started = self.oracle.lines
        match self.draw.moment:
            case "held":
                return lambda: self.oracle.in_hand() or started()
            case "running":
                return lambda: any(line.what == "start" for line in started())
        due = sum(_comes(task) for task in self.draw.tasks)
        return lambda: len({line.id for line in started() if line.what != "start"}) >= due

    def _break(self, module: ModuleType, faults: Sequence[str]) -> None:
        for fault in faults:
            time.sleep(self.draw.offset)
            try:
                _FAULTS[fault](self, module)
            except Exception as error:  # such as a worker that ended by itself meanwhile
                self.missed.append(f"{fault}: {error!r}"[:300])

    @property
    def _worker(self) -> Worker:
        return self.stack.workers[0]

    def _kill(self, module: ModuleType) -> None:
        pids = [self._worker.pid, *self._worker.children()]
        self.killed |= dict.fromkeys(pids, time.monotonic())
        self._worker.kill()

    def _kill_child(self, module: ModuleType) -> None:
        for worker, pool in zip(self.stack.workers, self.draw.pools, strict=False):
            if pool == "prefork":
                child = psutil.Process(worker.pid).children()[0].pid
                self.killed[child] = time.monotonic()
                os.kill(child, signal.SIGKILL)
                return

    def _warm(self, module: ModuleType) -> None:
        os.kill(self._worker.pid, signal.SIGTERM)
        wait_until(lambda: not self._worker.alive, 8)

    def _cold(self, module: ModuleType) -> None:
        os.kill(self._worker.pid, signal.SIGQUIT)
        wait_until(lambda: not self._worker.alive, 8)

    def _freeze(self, module: ModuleType) -> None:
        self._worker.pause()
        time.sleep(1.5)

    def _cut(self, module: ModuleType) -> None:
        pids = [self._worker.pid]
        pids += [child.pid for child in psutil.Process(self._worker.pid).children(recursive=True)]
        addresses = set()
        for pid in pids:
            with suppress(psutil.NoSuchProcess):
                for own in psutil.Process(pid).net_connections("tcp"):
                    addresses.add(f"{own.laddr.ip}:{own.laddr.port}")
        with redis.Redis.from_url(self.stack.redis.url(0)) as client:
            for address in addresses:
                client.client_kill_filter(addr=address)
        time.sleep(1)

    def _restart(self, module: ModuleType) -> None:
        self.stack.redis.kill()
        time.sleep(0.5)
        self.stack.redis.restart()
        time.sleep(2.5)  # a worker tries again after two seconds

    def _cancel(self, module: ModuleType) -> None:
        module.app.control.cancel_consumer(
            self.draw.consumed[0], destination=[f"{self._worker.name}@stack"]
        )

    def _add(self, module: ModuleType) -> None:
        # Not of the broadcast: that ends the worker (NotEquivalentError), and is another matter.
        queues = [task.queue for task in self.draw.tasks if task.queue != TO_ALL]
        module.app.control.add_consumer(
            [*self.draw.consumed, *queues][-1], destination=[f"{self._worker.name}@stack"]
        )

    def _purge(self, module: ModuleType) -> None:
        with module.app.connection_for_write() as connection:
            connection.default_channel.queue_purge(self.draw.consumed[0])

    def _delete(self, module: ModuleType) -> None:
        self.oracle.delete_unacked()

    def _group(self, module: ModuleType) -> None:
        os.killpg(self._worker.pid, signal.SIGTERM)
        wait_until(lambda: not self._worker.alive, 8)

    def _revoke(self, module: ModuleType) -> None:
        module.app.control.revoke(list(self.kinds)[::2] or [str(uuid.uuid4())])

    def _look(self, outcome: Outcome) -> Seen:
        queues = sorted({task.queue for task in self.draw.tasks} | {self.draw.foreign_queue})
        self.counted = time.monotonic()
        before = self.oracle.look(self.kinds, queues)
        workers = self.stack.workers
        alive = {worker.name: lives(worker.pid) for worker in workers}
        asked = {f"{own.name}@stack": own.log.text for own in workers if alive[own.name]}
        answers = self.oracle.ask(asked, timeout=1.5) if self._open(before) else Answers()
        logs = "".join(worker.log.text for worker in workers)
        told = frozenset(task_id for task_id in self.kinds if task_id in logs)
        dropped = frozenset(re.findall(r"Discarding revoked task: \S+\[(\S+)\]", logs))
        refused = {task_id for task_id, kind in self.kinds.items() if kind == "refused"}
        refusals = logs.count("kombu.exceptions.ContentDisallowed")  # which does not name it
        if refusals >= len(refused):
            told |= refused
        return Seen(
            outcome=outcome,
            before=before,
            answers=replace(
                answers, told=told, dropped=dropped, refusals=refusals, killed=self.killed
            ),
            after=self.oracle.look(self.kinds, queues),
            kinds=self.kinds,
            alive=alive,
            there=self.there,
            notes=self.missed,
            logs={worker.name: worker.log.tail(25) for worker in workers},
        )

    def _wait_for_returns(self, seen: Seen) -> None:
        """Is a moment of return kept, that the outcome gives to a stranded message?"""
        table = seen.outcome.table
        stranded = table[table["message"] == "stranded"]
        if stranded.empty or self.draw.options.get("visibility_timeout", 3600) > MOST_WAIT:
            return
        there = self.oracle.unmoved()
        latest = stranded["latest_return"]
        wait = latest[latest < MOST_WAIT].max() if (latest < MOST_WAIT).any() else 1.5
        time.sleep(max(0.0, self.counted + wait + LATE - time.monotonic()))
        seen.waited, now = time.monotonic() - self.counted, self.oracle.unmoved()
        for tag, (task_id, since) in there.items():
            seen.stayed[task_id] = now.get(tag) == (task_id, since)

    def _open(self, look: Look) -> bool:
        """Is there a task of which only the workers can tell? They take a second to answer."""
        ended = ("SUCCESS", "FAILURE")
        queued = any(id_ in self.kinds for ids in look.queued.values() for id_ in ids)
        open_ = any(look.states.get(id_) not in ended for id_ in self.kinds)
        return bool(open_ or queued or look.unacked)


def _comes(task: Task) -> bool:
    """Whether a task ends soon where nothing is broken."""
    return task.countdown < FAR and task.kind in ("ok", "fail", "retry", "ignore")


_FAULTS: dict[str, Callable[[_Scene, ModuleType], None]] = {
    "kill worker": _Scene._kill,
    "kill child": _Scene._kill_child,
    "SIGTERM": _Scene._warm,
    "SIGQUIT": _Scene._cold,
    "freeze": _Scene._freeze,
    "cut connections": _Scene._cut,
    "restart broker": _Scene._restart,
    "cancel consumer": _Scene._cancel,
    "add consumer": _Scene._add,
    "revoke": _Scene._revoke,
    "purge": _Scene._purge,
    "delete unacked": _Scene._delete,
    "SIGTERM to the group": _Scene._group,
}
