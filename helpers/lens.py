"""Read-only views of a Redis broker, and of what one task does on the wire.

Looking can change what is looked at: `LLEN` and `LRANGE` refresh the clock by which Redis evicts.
`keys`, `compare` and `watch` use only commands that leave that clock alone (`MEMORY USAGE`, `OBJECT
IDLETIME`, `TYPE`, `PTTL`, `INFO`). `depth`, `unacked` and `messages` must read the queue itself.
They leave it alone only on servers that know `CLIENT NO-TOUCH` (Redis 7.2, Valkey), so keep them
out of an eviction under study.
"""

import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol

import pandas as pd
import redis
from celery import Celery

# kombu keeps one list a priority step: `celery`, `celery\x06\x163`, ... (`Channel._q_for_pri`).
PRIORITY_MARK = "\x06\x16"


class HasClient(Protocol):
    """Anything that can make a redis-py client for one of its databases."""

    def client(self, db: int = 0, **options: Any) -> redis.Redis:
        """A client for database `db`; `options` are those of redis-py."""


@contextmanager
def reader(server: HasClient, db: int = 0) -> Iterator[Any]:
    """A client that leaves the clock of evictions alone where the server can."""
    with server.client(db, single_connection_client=True) as client:
        with suppress(redis.ResponseError):  # an older server, see the top of this file
            client.execute_command("CLIENT", "NO-TOUCH", "ON")
        yield client


def keys(server: HasClient, db: int = 0) -> pd.DataFrame:
    """Every key of database `db`: type, bytes, seconds idle, seconds to live (NaN: for ever)."""
    with reader(server, db) as client:
        names = sorted(client.scan_iter(count=1000))
        rows = []
        for start in range(0, len(names), 1000):
            pipe: Any = client.pipeline(transaction=False)
            for name in names[start : start + 1000]:
                pipe.type(name).memory_usage(name).object("IDLETIME", name).pttl(name)
            answers = pipe.execute(raise_on_error=False)
            rows += [_key_row(answers[i : i + 4]) for i in range(0, len(answers), 4)]
    table = pd.DataFrame(rows, columns=["type", "bytes", "idle", "expires_in"])
    table.insert(0, "key", [name.replace(PRIORITY_MARK, "\\x06\\x16") for name in names])
    return table[table["type"] != "none"].set_index("key")  # none: it went while we looked


def _key_row(answers: list[Any]) -> list[Any]:
    kind, size, idle, ttl = (None if isinstance(a, Exception) else a for a in answers)
    return [kind, size, idle, ttl / 1000 if ttl and ttl > 0 else float("nan")]


def compare(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """The keys of the snapshot `before`, and whether `after` still holds each: kept or gone."""
    return before[["type", "bytes", "idle"]].assign(
        now=["kept" if key in after.index else "gone" for key in before.index]
    )


def messages(server: HasClient, db: int = 0) -> dict[str, list[dict[str, Any]]]:
    """The waiting messages of each queue, undecoded; the next to be taken comes first."""
    found: dict[str, list[dict[str, Any]]] = {}
    with reader(server, db) as client:
        for name in sorted(client.scan_iter(_type="list", count=1000)):
            waiting = []
            for raw in client.lrange(name, 0, -1):
                try:
                    message = json.loads(raw)
                    message["headers"], message["properties"]  # a Celery message has both
                except (ValueError, TypeError, KeyError):
                    continue  # somebody else's list
                waiting.append(message)
            if waiting:
                found[name] = waiting[::-1]  # LPUSH on one end, BRPOP from the other
    return found


def depth(server: HasClient, db: int = 0) -> pd.DataFrame:
    """Messages that wait in each queue, with one row for each priority list."""
    rows = []
    for name, waiting in messages(server, db).items():
        queue, _, priority = name.partition(PRIORITY_MARK)
        rows.append([queue, int(priority or 0), len(waiting)])
    return pd.DataFrame(rows, columns=["queue", "priority", "waiting"])


def unacked(server: HasClient, db: int = 0) -> pd.DataFrame:
    """Messages that a worker took and has not acknowledged: delivery tag, task, age in seconds."""
    with reader(server, db) as client:
        # At once, or a message that comes between would have no score. Not with MULTI: a full Redis
        # refuses to queue even a reading command (`server.c: processCommand`, reject_cmd_on_oom).
        pipe: Any = client.pipeline(transaction=False)
        pipe.hgetall("unacked").zrange("unacked_index", 0, -1, withscores=True)
        held, scores = pipe.execute()
    index = dict(scores)
    now = time.time()
    rows = []
    for tag, raw in held.items():
        message, _exchange, queue = json.loads(raw)
        headers = message["headers"]
        # No score: unacked_index was lost, and nothing will ever bring this message back.
        since = index.get(tag, float("nan"))
        rows.append([tag, headers["id"], headers["task"], queue, since, now - since])
    return pd.DataFrame(rows, columns=["tag", "id", "task", "queue", "since", "age"])


def decode(message: dict[str, Any]) -> dict[str, Any]:
    """One message of `messages` with its body decoded from base64 and JSON."""
    body = message["body"]
    if message["properties"].get("body_encoding") == "base64":
        body = base64.b64decode(body)
    return {**message, "body": json.loads(body)}


def running(app: Celery, timeout: float = 1.0) -> set[str]:
    """Ids of the tasks that live workers run or keep in memory. Waits `timeout` seconds for them.

    A worker that is busy with something else than tasks, or paused, does not answer.
    """
    inspect = app.control.inspect(timeout=timeout)
    reserved, active = inspect.reserved() or {}, inspect.active() or {}
    return {task["id"] for answer in (reserved, active) for own in answer.values() for task in own}


class Watch:
    """What a server's memory and one queue did over time. Made by `watch`."""

    def __init__(self, server: HasClient, queue: str, db: int) -> None:
        self._server, self._queue, self._db = server, queue, db
        self._start = time.monotonic()
        self._rows: list[list[float]] = []
        self._faults: list[tuple[str, float, float]] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def _sample(self) -> None:
        with reader(self._server, self._db) as client:
            while not self._done.wait(0.05):
                try:
                    info = client.info()
                    size = client.memory_usage(self._queue) or 0
                except redis.RedisError:
                    continue  # the server is paused or gone: the strip shows a gap
                seconds = time.monotonic() - self._start
                self._rows.append([seconds, info["used_memory"], size, info["evicted_keys"]])

    @contextmanager
    def fault(self, label: str) -> Iterator[None]:
        """Mark what happens inside as a band on the strips."""
        begin = time.monotonic() - self._start
        try:
            yield
        finally:
            self._faults.append((label, begin, time.monotonic() - self._start))

    @property
    def history(self) -> pd.DataFrame:
        """Seconds since the start, used memory and queue key in bytes, keys evicted so far."""
        table = pd.DataFrame(self._rows, columns=["seconds", "memory", "queue", "evicted"])
        with self._server.client() as client:
            table.attrs["maxmemory"] = int(client.config_get("maxmemory")["maxmemory"])
        table.attrs["faults"] = list(self._faults)
        return table


@contextmanager
def watch(server: HasClient, queue: str = "celery", db: int = 0) -> Iterator[Watch]:
    """Sample memory, the size of `queue` and evictions twenty times a second, touching nothing."""
    watching = Watch(server, queue, db)
    watching._thread.start()
    try:
        yield watching
    finally:
        watching._done.set()
        watching._thread.join(timeout=5)
