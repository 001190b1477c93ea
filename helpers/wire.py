"""The commands that a task causes on the wire, each attributed to the process that sent it.

`MONITOR` gives the commands with the port of their client; the operating system says which process
owns the port. MONITOR costs the server about half its throughput: a lens, not a production tool.
"""

import os
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pandas as pd
import psutil

from helpers.redis_server import RedisServer
from helpers.stack import Stack

# What a connection says about itself, not about a task.
HOUSEKEEPING = {"AUTH", "CLIENT", "COMMAND", "CONFIG", "ECHO", "HELLO", "INFO", "PING", "SELECT"}

# (sender, command, start of the key) -> what it is for. The first match wins.
_STEPS = [
    ("producer", "LPUSH", "", "publish: put the message into the queue"),
    ("producer", "LLEN", "", "declare the queue: is it there?"),
    ("producer", "SADD", "_kombu.binding", "route: bind the queue to its exchange"),
    ("producer", "SMEMBERS", "_kombu.binding", "route: which queues does the exchange feed?"),
    ("worker", "LPUSH", "", "publish: a worker is a producer too"),
    ("worker", "BRPOP", "", "wait for a message and take it"),
    ("worker", "ZADD", "unacked_index", "hold: note when it was taken"),
    ("worker", "HSET", "unacked", "hold: keep a copy until the ack"),
    ("worker", "ZREM", "unacked_index", "acknowledge: forget when it was taken"),
    ("worker", "HDEL", "unacked", "acknowledge: drop the copy"),
    ("worker", "GET", "celery-task-meta-", "store: is there a result already?"),
    ("worker", "SET", "celery-task-meta-", "store the result"),
    ("worker", "SETEX", "celery-task-meta-", "store the result, to expire"),
    ("worker", "PUBLISH", "celery-task-meta-", "announce the result"),
    ("result reader", "SUBSCRIBE", "celery-task-meta-", "wait for the announcement"),
    ("result reader", "UNSUBSCRIBE", "celery-task-meta-", "stop waiting"),
    ("result reader", "GET", "celery-task-meta-", "read the result"),
    ("result reader", "MGET", "celery-task-meta-", "read the result"),
    ("", "MULTI", "", "begin a transaction"),
    ("", "EXEC", "", "commit it"),
]


class Wire:
    """Commands recorded so far. Made by `record`."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._owners: dict[int, str] = {}
        self._rows: list[tuple[float, str, str, str, str, str, str]] = []
        self._ready = threading.Barrier(3 if stack.results is not stack.redis else 2)

    def _listen(self, server: RedisServer, stop: str) -> None:
        with server.client().monitor() as monitor:
            self._ready.wait(timeout=10)
            for seen in monitor.listen():
                if stop in seen["command"]:
                    return
                self._add(server, seen)

    def _add(self, server: RedisServer, seen: dict[str, str]) -> None:
        command, _, rest = seen["command"].partition(" ")
        key, _, rest = rest.partition(" ")
        role = "Lua script" if seen["client_type"] == "lua" else self._owner(seen["client_port"])
        shared = self._stack.results is self._stack.redis
        of_results = str(seen["db"]) != "0" if shared else server is self._stack.results
        database = "result backend" if of_results else "broker"
        if role == "this process":
            role = "result reader" if of_results else "producer"
        elif role.startswith("worker"):
            role = "worker"
        row = (float(seen["time"]), role, database, command.upper(), key, rest)
        self._rows.append((*row, _step(role, command.upper(), key)))

    def _owner(self, port: str) -> str:
        if (number := int(port)) not in self._owners:
            self._owners[number] = _owner_of_port(self._stack, number)
        return self._owners[number]

    @property
    def table(self) -> pd.DataFrame:
        """One row a command, without housekeeping: seconds since the first, source, database."""
        columns = ["seconds", "source", "database", "command", "key", "rest", "step"]
        table = pd.DataFrame(sorted(self._rows), columns=columns)
        table = table[~table["command"].isin(HOUSEKEEPING)].reset_index(drop=True)
        table["seconds"] -= table["seconds"].min() if len(table) else 0
        return table


def _owner_of_port(stack: Stack, port: int) -> str:
    owners = {os.getpid(): "this process"}
    for worker in stack.workers:
        # The parent first: a child inherits its parent's sockets and does not use them.
        owners |= dict.fromkeys([worker.pid, *worker.children()], worker.name)
    for pid, owner in owners.items():
        try:
            connections = psutil.Process(pid).net_connections(kind="tcp")
        except psutil.Error:
            continue
        if any(connection.laddr and connection.laddr.port == port for connection in connections):
            return owner
    return "unknown"


def _step(source: str, command: str, key: str) -> str:
    for sender, verb, start, meaning in _STEPS:
        if sender in ("", source) and verb == command and key.startswith(start):
            return meaning
    return ""


@contextmanager
def record(stack: Stack) -> Iterator[Wire]:
    """Record every command that reaches the stack's servers while the block runs."""
    wire, stop = Wire(stack), f"stop-{secrets.token_hex(8)}"
    servers = list({id(server): server for server in (stack.redis, stack.results)}.values())
    listeners = [
        threading.Thread(target=wire._listen, args=(server, stop), daemon=True)
        for server in servers
    ]
    for listener in listeners:
        listener.start()
    wire._ready.wait(timeout=10)
    try:
        yield wire
        time.sleep(0.3)  # lets a worker's last commands arrive
    finally:
        for server, listener in zip(servers, listeners, strict=True):
            with server.client() as client:
                client.echo(stop)
            listener.join(timeout=5)
