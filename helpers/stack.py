"""One private broker, its result backend, its workers and its ledger, as one object."""

import importlib.util
import json
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Literal, Self

import pandas as pd
from celery import Celery, _state
from celery.result import AsyncResult

from helpers import reaper
from helpers.addresses import (
    BACKEND,
    SETTINGS,
    VARIABLES,
    check_backend,
    check_broker,
    forget_addresses,
)
from helpers.beat import Beat
from helpers.brokers import Broker
from helpers.brokers.redis import RedisServer
from helpers.deliveries import deliveries
from helpers.errors import AnotherBroker, StackError
from helpers.fates import Outcome
from helpers.ledger import Event, Ledger
from helpers.process import Process, poll
from helpers.program import Program
from helpers.settle import settle
from helpers.status import Status
from helpers.witness import (
    LEDGER_VARIABLE,
    OPTIONS_VARIABLE,
    add_transport_options,
    watch_publishes,
)
from helpers.worker import Worker


def import_file(path: Path) -> ModuleType:
    """Import a file afresh, under its own name. Raises whatever the file itself raises."""
    # A cached bytecode file goes by whole seconds, and a cell can be run twice within one.
    reaper.remove(path.parent / "__pycache__")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # a dataclass, for one, looks itself up there
    spec.loader.exec_module(module)
    return module


class Stack:
    """A broker, a result backend, workers and a ledger that belong to one notebook.

    `directory` holds the application's file; without one the stack makes its own. `redis` is what
    would stand in redis.conf. `broker` makes another broker than Redis in the empty directory that
    it is given. `backend` is "same" (database 1 of the same Redis), a mapping (a second server with
    that redis.conf), a URL that Celery understands, or None. A stack closes an earlier one of the
    same name first, so a cell or a notebook can be run again.
    Raises StackError when the server or the directory cannot be used.
    """

    most_patience = 4.0
    _open: ClassVar[dict[str, "Stack"]] = {}  # by name

    def __init__(
        self,
        directory: Path | str | None = None,
        *,
        redis: Mapping[str, str] | None = None,
        broker: Callable[[Path], Broker] | None = None,
        backend: Mapping[str, str] | str | Literal["same"] | None = "same",
        name: str = "stack",
    ) -> None:
        self.name = _checked(name)
        self.directory = Path(directory).resolve() if directory else reaper.private_directory()
        self.workers: list[Worker] = []
        self.beats: list[Beat] = []
        self._servers: list[RedisServer] = []
        self._apps: list[Celery] = []
        # What stood in their place before each load: module, current application.
        self._loaded: list[tuple[str, ModuleType | None, Celery | None]] = []
        self._closed = False
        if earlier := self._open.pop(name, None):
            earlier.close()
        forget_addresses()
        if isinstance(backend, str) and backend != "same":
            check_backend(backend)
        self._private = self.directory / f".{name}"
        try:
            reaper.remove(self._private)
            self._private.mkdir(mode=0o700)
            reaper.check_writable(self._private)
            self.ledger = Ledger(self._private / "ledger.jsonl")
            self.broker = self._start_broker(broker, redis)
            check_broker(self.broker.broker_url)
            self._results: RedisServer | None = None
            if isinstance(backend, Mapping):
                self._results = self._start_server("results", backend)
                backend = self._results.url(0)
            self.backend_url = self.redis.url(1) if backend == "same" else backend
        except OSError as error:
            self.close()
            raise StackError(
                f"cannot write in {self.directory.name}: {error.strerror}. "
                "Free some space, or name another place with: export TMPDIR=/path/with/space"
            ) from error
        except BaseException:
            self.close()
            raise
        self._open[name] = self

    def _start_broker(
        self, make: Callable[[Path], Broker] | None, config: Mapping[str, str] | None
    ) -> Broker:
        if make is None:
            return self._start_server("redis", config)
        if config is not None:
            raise StackError("redis= configures a Redis, and broker= is another one: give one")
        home = self._private / "broker"
        home.mkdir(mode=0o700)
        return make(home)

    @property
    def redis(self) -> RedisServer:
        """The broker, where it is Redis. Raises StackError where it is another one."""
        if not isinstance(self.broker, RedisServer):
            raise StackError(
                "this stack's broker is no Redis: say where results go, as in backend=None or "
                "backend={} (a Redis for results), and ask stack.broker instead of stack.redis"
            )
        return self.broker

    @property
    def results(self) -> RedisServer:
        """The Redis that keeps the results: the broker's, or one of its own."""
        return self._results or self.redis

    def _start_server(self, name: str, config: Mapping[str, str] | None) -> RedisServer:
        home = self._private / name
        home.mkdir(mode=0o700)
        server = RedisServer(home, config, name)
        self._servers.append(server)
        return server

    def start_server(self, name: str, redis: Mapping[str, str] | None = None) -> RedisServer:
        """Start one more server beside the broker, such as a cache, that ends with the stack.

        It replaces an earlier one of the same name.
        """
        self._check_open()
        if _checked(name) in ("redis", "results"):
            raise StackError(f"the stack has a server called {name}: choose another name")
        for earlier in [server for server in self._servers if server.name == name]:
            earlier.kill()
            reaper.remove(self._private / name)
            self._servers.remove(earlier)
        return self._start_server(name, redis)

    def start_worker(
        self, *options: str, app: str | None = None, stock: bool = False, timeout: float = 30
    ) -> Worker:
        """Start `celery -A app worker *options` and wait until it is ready; `timeout` in seconds.

        `app` is the name of the application's file, needed only where there are several. `stock`
        keeps gossip, mingle and heartbeat on, as Celery does; without them it starts sooner.
        Raises StackError with the worker's log when it does not get ready, and in words for an
        option that is the stack's affair.
        """
        self._check_open()
        worker = Worker(
            app or self._only_application(),
            options,
            name=f"worker{len(self.workers) + 1}",
            cwd=self.directory,
            env=self._environment(),
            stock=stock,
        )
        self.workers.append(worker)
        for event in self._started(worker, "ready", timeout):
            self.broker.learn(event["transport_options"])
        return worker

    def start_beat(self, *options: str, app: str | None = None, timeout: float = 30) -> Beat:
        """Start `celery -A app beat *options` and wait until it sends; `timeout` in seconds.

        What it sends is recorded like any other publish. `app` and the errors are those of
        `start_worker`.
        """
        self._check_open()
        beat = Beat(
            app or self._only_application(),
            options,
            name=f"beat{len(self.beats) + 1}",
            cwd=self.directory,
            env=self._environment(),
        )
        self.beats.append(beat)
        self._started(beat, "beating", timeout)
        return beat

    def _started(self, program: Program, event: str, timeout: float) -> list[Event]:
        """Wait for its own word in the ledger: what it logs, and where, is its own affair."""

        def said() -> list[Event]:
            return [line for line in self.ledger.of(event) if line["pid"] == program.pid]

        started = time.monotonic()
        try:
            program.wait_until(said, event, timeout)
        except BaseException:
            program.kill()
            raise
        program.seconds_to_ready = time.monotonic() - started
        return said()

    def _only_application(self) -> str:
        files = sorted(path.stem for path in self.directory.glob("*.py"))
        if len(files) != 1:
            found = ", ".join(f"{name}.py" for name in files) or "none"
            raise StackError(
                f"expected one application file in the stack's directory, found {found}. "
                "Write one with %%writefile shop.py, or name it: start_worker(app='shop')"
            )
        return files[0]

    def _environment(self) -> dict[str, str]:
        environment = dict(os.environ)
        environment.update(dict.fromkeys(VARIABLES, self.broker.broker_url))
        environment[OPTIONS_VARIABLE] = json.dumps(dict(self.broker.broker_transport_options))
        if self.backend_url:
            environment[BACKEND] = self.backend_url
        environment[LEDGER_VARIABLE] = str(self.ledger.path)
        # A killed prefork worker leaves a `pymp-*` folder in its temporary directory.
        environment["TMPDIR"] = str(self._private)
        return environment

    def load(self, name: str) -> ModuleType:
        """Import `name`.py afresh and point its application at this stack. Returns the module.

        From now on the application's publishes are recorded. Raises StackError when there is no
        such file or no Celery application in it, and whatever the file itself raises.
        """
        self._check_open()
        path = self.directory / f"{name}.py"
        if not path.exists():
            found = ", ".join(file.name for file in sorted(self.directory.glob("*.py")))
            raise StackError(
                f"no {name}.py in the stack's directory, which has: {found or 'no file yet'}. "
                f"Write it first with %%writefile {name}.py"
            )
        # Celery offers the tasks of one application to all later ones (`shared=True`), under the
        # same names here: a file that is loaded again would get the functions of the first load.
        shared = set(_state._on_app_finalizers)
        self._loaded.append((name, sys.modules.get(name), _state._tls.current_app))
        try:
            module = import_file(path)
            apps = _applications(module)
            for app in apps:
                app.finalize()  # now, while it is offered the file's own `@shared_task`s
        finally:
            _state._on_app_finalizers.intersection_update(shared)
        if not apps:
            raise StackError(f'{name}.py has no application: app = Celery("{name}")')
        if any(app.conf[setting] for app in apps for setting in SETTINGS):
            warnings.warn(
                f"{name}.py points at a broker of its own. Leave the address out: "
                "the stack gives it its private Redis",
                AnotherBroker,
                stacklevel=2,
            )
        for app in apps:
            self._point_here(app)
        return module

    def _point_here(self, app: Celery) -> None:
        for setting in SETTINGS:
            app.conf[setting] = self.broker.broker_url
        add_transport_options(app, self.broker.broker_transport_options)
        self.broker.learn(app.conf.broker_transport_options)
        app.conf.result_backend = self.backend_url
        watch_publishes(app, self.ledger)
        self._apps.append(app)

    def settle(self, timeout: float = 15, quiet: float = 1.0) -> Outcome:
        """Heal, drain, count: the fate of every task. Seconds.

        Resumes what was paused, waits until nothing moves (no new event for `quiet` seconds,
        nothing running, nothing bound to come back before `timeout`), then reads the broker. Where
        workers start slowly, what is silent or moves gets more time (`patience`).
        Raises StackError when the ledger cannot be written.
        """
        self._check_open()
        return settle(self, timeout, quiet)

    @property
    def patience(self) -> float:
        """How many times as long as usual to wait for what only has to happen: at least 1.

        Measured by the slowest start among this stack's workers and beats; 1 before the first.
        """
        slowest = max((p.seconds_to_ready / p.usual_start for p in self.programs), default=0.0)
        return min(max(slowest, 1.0), self.most_patience)

    def wait_for(self, moment: str, result: AsyncResult, timeout: float = 10) -> None:
        """Wait until one task has reached a moment; `timeout` in seconds, times `patience`.

        A moment is an event of the ledger (received, started, finished, failed, retried, ...), or
        acknowledged: received, and no longer in a worker's hands. Raises StackError, with the end
        of each worker's log, when the time runs out.
        """
        self._wait(
            lambda: self._reached(moment, result.id), f"task {result.id} was", moment, timeout
        )

    def wait_until(self, condition: Callable[[], object], what: str, timeout: float = 10) -> None:
        """Poll `condition` until it is true; `timeout` in seconds, times `patience`.

        `what` says what it waits for, such as "charged". Raises StackError, with the end of each
        worker's log, when the time runs out.
        """
        self._wait(condition, f"{self.name}:", what, timeout)

    def _wait(self, condition: Callable[[], object], who: str, what: str, timeout: float) -> None:
        self._check_open()
        timeout *= self.patience
        with Status("waiting", deadline=timeout) as status:

            def reached() -> object:
                status.update(f"until {what}")
                return condition()

            if poll(reached, timeout):
                return
            status.detail = f"not {what}"
        why = "" if self.ledger.count("attempted") else " No task went to the broker at all."
        logs = "".join(f"\n\n{program.name}:\n{program.log.tail()}" for program in self.programs)
        raise StackError(f"{who} not {what} within {timeout:.1f} s.{why}{logs}")

    def _reached(self, moment: str, task_id: str) -> bool:
        event = "received" if moment == "acknowledged" else moment
        if not any(e["id"] == task_id for e in self.ledger.of(event)):
            return False
        if moment != "acknowledged":
            return True
        return all(entry.task_id != task_id for entry in self.broker.unacked())

    def deliveries(self) -> pd.DataFrame:
        """One row for each time a worker received a message, in seconds since the first publish.

        What `plots.timeline` draws.
        """
        faults = [fault for process in self._processes for fault in process.faults]
        faults += [fault for program in self.programs for fault in program.own_exit()]
        return deliveries(self.ledger.read(), faults)

    @property
    def programs(self) -> list[Program]:
        """Its workers and beats, also those that ended."""
        return [*self.workers, *self.beats]

    @property
    def alive(self) -> list[Process]:
        """The servers, workers and beats of this stack that are alive."""
        return [process for process in self._processes if process.alive]

    @property
    def _processes(self) -> list[Process]:
        # A stack whose broker did not start is closed all the same.
        broker = self.broker.processes if hasattr(self, "broker") else ()
        return list(dict.fromkeys([*broker, *self._servers, *self.programs]))

    def processes(self) -> list[str]:
        """The names of the servers, workers and beats that are alive."""
        return [process.name for process in self.alive]

    def close(self) -> None:
        """End every process and remove every file of the stack. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        if self._open.get(self.name) is self:
            del self._open[self.name]
        # Results that are garbage-collected after their Redis is gone can block for 19 s.
        for app in self._apps:
            _detach(app)
            app.send_task = lambda *_, **__: self._check_open()
        self._unload()
        for process in reversed(self._processes):
            process.kill()
        if hasattr(self, "ledger"):
            self.ledger.close()
        reaper.remove(self._private)

    def _unload(self) -> None:
        """Put back what was there before, as `celery/contrib/testing/app.py` does for its tests.

        Unless somebody else took the place meanwhile.
        """
        for name, module, app in reversed(self._loaded):
            ours = getattr(sys.modules.get(name), "__file__", None)
            if ours == str(self.directory / f"{name}.py"):
                del sys.modules[name]
                if module is not None:
                    sys.modules[name] = module
            if _state._tls.current_app in self._apps:
                _state._tls.current_app = app

    def _check_open(self) -> None:
        if self._closed:
            raise StackError("this stack is closed: run the cell that makes it again")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._closed:
            return f"Stack {self.name} · closed"
        servers = [f"{s.name} · {s!r}" for s in dict.fromkeys([self.broker, *self._servers])]
        return "\n  ".join([f"Stack {self.name}", *servers, *map(repr, self.programs)])


def _checked(name: str) -> str:
    """A name becomes a folder that is emptied, so it must not lead anywhere else."""
    if not re.fullmatch(r"\w[\w -]*", name):
        raise StackError(f"{name!r} is no name: use letters, digits, spaces and hyphens")
    return name


def _applications(module: ModuleType) -> list[Celery]:
    """Each once: `current_app` is a name for one of them."""
    found = [value for value in vars(module).values() if isinstance(value, Celery)]
    return list(
        dict.fromkeys(getattr(app, "_get_current_object", lambda a=app: a)() for app in found)
    )


def _detach(app: Celery) -> None:
    """Make results forget their connection (`celery/result.py: AsyncResult.__del__`)."""
    backend: Any = app.backend
    consumer = getattr(backend, "result_consumer", None)
    if consumer is not None:
        consumer.cancel_for = lambda task_id: None
        consumer.stop()
    app.close()
