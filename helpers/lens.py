"""Read-only views of a Redis broker, and of what one task does on the wire.

Looking can change what is looked at: `LLEN` and `LRANGE` refresh the clock by which Redis evicts.
`keys`, `compare` and `watch` use only commands that leave that clock alone (`MEMORY USAGE`, `OBJECT
IDLETIME`, `TYPE`, `PTTL`, `INFO`). `depth`, `unacked` and `messages` must read the queue itself.
They leave it alone only on servers that know `CLIENT NO-TOUCH` (Redis 7.2, Valkey), so keep them
out of an eviction under study.
"""

import base64
import json
import re
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

import pandas as pd
import redis
from celery import Celery
from kombu.compression import decompress
from kombu.transport.redis import Channel

from helpers.brokers.redis_keys import KeyNames, of_key


class HasClient(Protocol):
    """Anything that can make a redis-py client for one of its databases."""

    def client(self, db: int = 0, **options: Any) -> redis.Redis:
        """A client for database `db`; `options` are those of redis-py."""


@contextmanager
def reader(server: HasClient, db: int = 0) -> Iterator[Any]:
    """A client that leaves the clock of evictions alone where the server can."""
    # Somebody else's names and lists can be any bytes: none is refused, and each is found again.
    options = {"single_connection_client": True, "encoding_errors": "surrogateescape"}
    with server.client(db, **options) as client:
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
    table.insert(0, "key", [name.replace(Channel.sep, "\\x06\\x16") for name in names])
    return table[table["type"] != "none"].set_index("key")  # none: it went while we looked


def _key_row(answers: list[Any]) -> list[Any]:
    kind, size, idle, ttl = (None if isinstance(a, Exception) else a for a in answers)
    return [kind, size, idle, ttl / 1000 if ttl and ttl > 0 else float("nan")]


def compare(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """The keys of the snapshot `before`, and whether `after` still holds each: kept or gone."""
    return before[["type", "bytes", "idle"]].assign(
        now=["kept" if key in after.index else "gone" for key in before.index]
    )


@dataclass(frozen=True)
class Waiting:
    """One list of a broker: a queue has one for each of its priorities."""

    key: str
    prefix: str
    queue: str
    priority: int
    messages: list[dict[str, Any]]


def lists(server: HasClient, db: int = 0) -> list[Waiting]:
    """The lists that hold messages of kombu, which has the next to be taken come first."""
    found = []
    with reader(server, db) as client:
        kinds = key_names(server)
        known = {kind: _bound(client, kind) for kind in kinds if kind.sep != Channel.sep}
        # SCAN can give a key twice.
        for key in sorted(set(client.scan_iter(_type="list", count=1000))):
            # LPUSH on one end, BRPOP from the other.
            waiting = list(filter(None, map(_message, client.lrange(key, 0, -1))))[::-1]
            if waiting:
                found.append(Waiting(key, *of_key(key, kinds, known), waiting))
    return found


def key_names(server: HasClient) -> Collection[KeyNames]:
    """What the applications of this server call their keys, as far as it was told."""
    return getattr(server, "key_names", ()) or (KeyNames(),)


def _bound(client: Any, kind: KeyNames) -> set[str]:
    """Names of the queues that are bound to an exchange (`Channel._queue_bind`)."""
    plain = re.sub(r"[*?\[\]\\^]", r"\\\g<0>", kind.prefix)
    pattern = plain + Channel.keyprefix_queue % "*"
    bindings = (b for key in client.scan_iter(pattern, _type="set") for b in client.smembers(key))
    return {kind.bound(binding) for binding in bindings}


def _message(raw: str) -> dict[str, Any] | None:
    """A message of kombu; None for what is somebody else's."""
    try:
        return _of_kombu(json.loads(raw))
    except ValueError:
        return None


def _of_kombu(message: Any) -> dict[str, Any] | None:
    # It has all of them (`kombu/transport/virtual/base.py: prepare_message`).
    return message if isinstance(message, dict) and message.keys() >= _PARTS else None


_PARTS = {"body", "headers", "properties"}


def task_of(message: dict[str, Any]) -> tuple[str | None, str | None]:
    """The id and the name of the task that a message asks for; None for what is no task.

    Protocol 2 has them in its headers, protocol 1 in its body (`celery/app/amqp.py: as_task_v1`).
    """
    if found := _both(message["headers"]):
        return found
    try:
        body = decode(message)["body"]
    except (ValueError, TypeError, KeyError, AttributeError):
        # A pickle is not opened: it runs code. A task of protocol 1 has these two beside it; the
        # reply of a worker has no `reply_to`, and that of a queue of kombu's own has neither.
        properties = message["properties"]
        asks = isinstance(properties, dict) and properties.get("reply_to")
        return (properties.get("correlation_id"), None) if asks else (None, None)
    return _both(body) or (None, None)


def _both(part: Any) -> tuple[str, str] | None:
    """The id and the name of a task, where a part of a message has both."""
    if not isinstance(part, dict):
        return None
    task_id, task = part.get("id"), part.get("task")
    return (task_id, task) if isinstance(task_id, str) and isinstance(task, str) else None


def messages(server: HasClient, db: int = 0) -> dict[str, list[dict[str, Any]]]:
    """The waiting messages of each list, undecoded; the next to be taken comes first."""
    return {waiting.key: waiting.messages for waiting in lists(server, db)}


def depth(server: HasClient, db: int = 0) -> pd.DataFrame:
    """Messages that wait in each queue, with one row for each priority list."""
    rows = [[own.queue, own.priority, len(own.messages)] for own in lists(server, db)]
    return pd.DataFrame(rows, columns=["queue", "priority", "waiting"])


def held(server: HasClient, db: int = 0) -> Iterator[tuple[str, dict[str, Any], str, float]]:
    """Each message that a worker has and has not acknowledged: tag, message, routing key, since.

    `since` is the time of day at which it was taken. NaN: its score is gone from the index, and
    nothing will ever bring it back.
    """
    with reader(server, db) as client:
        # Two applications may differ in other names only.
        for unacked, by_time in {(k.key(k.unacked), k.key(k.index)) for k in key_names(server)}:
            # At once, or a message that comes between would have no score. Not with MULTI: a full
            # Redis refuses to queue even a reading command (`server.c: processCommand`,
            # reject_cmd_on_oom).
            pipe = client.pipeline(transaction=False)
            pipe.hgetall(unacked)
            pipe.zrange(by_time, 0, -1, withscores=True)
            entries, scores = pipe.execute()
            index = dict(scores)
            for tag, raw in entries.items():
                try:
                    message, _exchange, routing_key = json.loads(raw)
                except (ValueError, TypeError):
                    continue  # somebody else's
                if _of_kombu(message):
                    yield tag, message, routing_key, index.get(tag, float("nan"))


def unacked(server: HasClient, db: int = 0) -> pd.DataFrame:
    """Messages that a worker took and has not acknowledged: delivery tag, task, age in seconds.

    A message that is no task has no id.
    """
    now = time.time()
    rows = [
        [tag, *task_of(message), queue, since, now - since]
        for tag, message, queue, since in held(server, db)
    ]
    table = pd.DataFrame(rows, columns=["tag", "id", "task", "queue", "since", "age"])
    table["id"] = pd.Series([row[1] for row in rows], dtype=object)  # None, which pandas makes NaN
    return table


def decode(message: dict[str, Any]) -> dict[str, Any]:
    """One message of `messages` with its body decoded from base64, compression and JSON.

    Raises ValueError where it is something else.
    """
    body = message["body"]
    if message["properties"].get("body_encoding") == "base64":
        body = base64.b64decode(body)
    if compression := (message["headers"] or {}).get("compression"):
        try:
            body = decompress(body, compression)
        except Exception as error:  # each method of compression has errors of its own
            raise ValueError(f"not compressed by {compression}") from error
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
