"""Named faults, each written once: pages, grids and labs break things with these.

What is a method of a process stays there:

- kill a worker and its children, or a server: `kill`; one child of a pool: `kill_child`;
- freeze a worker or a server: `pause`, and `resume`;
- signal a worker and its children alike: `signal_group`; a worker's parent alone, and wait: `stop`.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import redis

from helpers import lens
from helpers.brokers.redis import RedisServer
from helpers.errors import StackError
from helpers.stack import Stack
from helpers.worker import Worker

# All else is kombu as it is (`kombu/transport/redis.py: QoS.append`).
_DIE = """\
import itertools
import os
import signal

from kombu.transport.redis import QoS

numbers, append = itertools.count(), QoS.append


def die_between_pop_and_hold(self, message, tag):
    if next(numbers) == {message}:
        os.killpg(0, signal.SIGKILL)
    append(self, message, tag)


QoS.append = die_between_pop_and_hold
"""


def kill_between_sweeps(stack: Stack, worker: Worker) -> None:
    """Kill a worker, but not while it looks for old messages, so that others can look.

    The lock of a sweep outlives its worker, and stops the sweeps of all for five minutes
    (`kombu/transport/redis.py: QoS.restore_visible`, `unacked_mutex_expire`).
    """
    locks = {kind.key(kind.mutex) for kind in lens.key_names(stack.redis)}
    with stack.redis.client() as client:
        worker.pause()
        while client.exists(*locks):
            worker.resume()
            time.sleep(0.01)
            worker.pause()
        worker.kill()


def die_between_pop_and_hold(directory: Path, message: int = 0) -> tuple[str, ...]:
    """Options for a worker that gets `SIGKILL` after a `BRPOP` and before its note in `unacked`.

    Between the two the worker's memory has the only copy. That takes about one round trip to Redis,
    too short to aim at from outside: a module in `directory`, where the application is, does it.
    `message` is the number of the message that dies with the worker, from 0.
    """
    path = directory / "die_between_pop_and_hold.py"
    path.write_text(_DIE.format(message=message))
    return (f"--include={path.stem}",)


def fill_cache(
    cache: redis.Redis, pages: int = 5000, size: int = 3000, seconds_to_live: int | None = None
) -> int:
    """Write `pages` of `size` bytes, as a cache does; how many of them the server refused."""
    refused = 0
    for hundred in range(0, pages, 100):  # at once, or a busy machine takes seconds for them
        with cache.pipeline(transaction=False) as batch:
            for page in range(hundred, min(hundred + 100, pages)):
                batch.set(f"page:{page}", "x" * size, ex=seconds_to_live)
            answers = batch.execute(raise_on_error=False)
        refused += sum(isinstance(answer, redis.ResponseError) for answer in answers)  # OOM
    return refused


def evict(server: RedisServer, key: str, db: int = 0) -> None:
    """Take one key away, as an eviction does: the whole key, and nobody is told.

    Raises StackError when the server has no such key.
    """
    with server.client(db) as client:
        if not client.delete(key):
            raise StackError(f"{server.name} has no key {key} in database {db}: nothing to evict")
    server.note("eviction", f"eviction in {server.name}")


@contextmanager
def down(server: RedisServer) -> Iterator[None]:
    """`with down(server): ...`: killed, and after the block started again with what it saved."""
    server.kill()
    try:
        yield
    finally:
        server.restart()


def cut_connections(worker: Worker, server: RedisServer) -> int:
    """Cut each connection of a worker and its children to `server`; how many there were.

    As a firewall or a proxy does; both ends live on. Raises StackError when there is none to cut.
    """
    addresses = set()
    for pid in (worker.pid, *worker.children()):
        with suppress(psutil.NoSuchProcess):
            for own in psutil.Process(pid).net_connections("tcp"):
                addresses.add(f"{own.laddr.ip}:{own.laddr.port}")
    with server.client() as client:
        cut = sum(int(client.client_kill_filter(addr=address)) for address in addresses)
    if not cut:
        raise StackError(f"{worker.name} has no connection to {server.name}")
    worker.note("cut", f"connections of {worker.name} to {server.name} cut")
    return cut
