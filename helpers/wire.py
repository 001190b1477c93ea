"""The commands that a task causes on the wire, each attributed to the process that sent it.

`MONITOR` gives the commands with the port of their client; the operating system says which process
owns the port. MONITOR costs the server about half its throughput: a lens, not a production tool.
"""

import os
import re
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pandas as pd
import psutil

from helpers.stack import Stack

# What a connection says about itself, not about a task.
HOUSEKEEPING = {"AUTH", "CLIENT", "COMMAND", "CONFIG", "ECHO", "HELLO", "INFO", "PING", "SCRIPT"}
HOUSEKEEPING |= {"SELECT"}

# A worker's timers talk to the broker whether there is a task or not: they renew the bindings of
# queues that expire, and sweep `unacked` (`kombu/transport/redis.py: maybe_refresh_binding_expiry`,
# `maybe_restore_messages`).
_TIMERS = ("_kombu.binding_deadlines", "unacked_mutex", "ZRANGE unacked_index")

_SELF = "this process"

# (sender, command, pattern of the key) -> what it is for. The first match wins.
_STEPS = [
    ("producer", "LPUSH", "", "publish: put the message into the queue"),
    ("producer", "LLEN", "", "declare the queue: is it there?"),
    ("producer", "SADD", "_kombu.binding", "route: bind the queue to its exchange"),
    ("producer", "SMEMBERS", "_kombu.binding", "route: which queues does the exchange feed?"),
    ("worker", "LPUSH", "", "publish: a worker is a producer too"),
    ("worker", "BRPOP", "", "ask for the next message"),
    ("worker", "PSUBSCRIBE", "", "listen for remote control"),
    ("worker", "ZADD", "unacked_index", "hold: note when it was taken"),
    ("worker", "HSET", "unacked", "hold: keep a copy until the ack"),
    ("worker", "ZREM", "unacked_index", "acknowledge: forget when it was taken"),
    ("worker", "HDEL", "unacked", "acknowledge: drop the copy"),
    ("result reader", "SET", r".*\.s$", "count: how many parts there are"),
    ("worker", "ZADD", r".*\.j$", "count: the result of a part"),
    ("worker", "SADD", r".*\.d$", "count: this part has reported"),
    ("worker", "ZCOUNT", r".*\.j$", "count: how many are in?"),
    ("worker", "GET", r".*\.s$", "count: how many are expected?"),
    ("worker", "SET", r".*\.c$", "count: claim the body, or mark it as sent"),
    ("worker", "ZRANGE", r".*\.j$", "read all results, for the body"),
    ("worker", "DEL", r".*\.j$", "count: no longer needed"),
    ("worker", "GET", "celery-task-meta-", "store: is there a result already?"),
    ("worker", "SET", "celery-task-meta-", "store the result"),
    ("worker", "SETEX", "celery-task-meta-", "store the result, to expire"),
    ("worker", "PUBLISH", "celery-task-meta-", "announce the result"),
    ("result reader", "SUBSCRIBE", "celery-task-meta-", "wait for the announcement"),
    ("result reader", "UNSUBSCRIBE", "celery-task-meta-", "stop waiting"),
    ("result reader", "GET", "celery-task-meta-", "read the result, if it is there"),
    ("result reader", "MGET", "celery-task-meta-", "read the result, if it is there"),
    ("", "MULTI", "", "begin a transaction"),
    ("", "EXEC", "", "commit it"),
]


class Wire:
    """Commands recorded so far. Made by `record`."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._owners: dict[tuple[int, int], str] = {}
        self.servers = list({id(s): s for s in (stack.redis, stack.results)}.values())
        self._seen: list[list[dict[str, str]]] = [[] for _ in self.servers]
        self.ready = threading.Barrier(len(self.servers) + 1)

    def listen(self, number: int, stop: str) -> None:
        """Record what reaches one server until a command contains `stop`."""
        with self.servers[number].client().monitor() as monitor:
            self.ready.wait(timeout=10)
            for seen in monitor.listen():
                if stop in seen["command"]:
                    return
                if seen["client_type"] != "lua":  # the owner may be gone when somebody asks later
                    self._owner(number, seen["client_port"])
                self._seen[number].append(seen)

    def _owner(self, number: int, port: str) -> str:
        ends = int(port), self.servers[number].port
        if ends not in self._owners:
            self._owners[ends] = _owner_of_connection(self._stack, *ends)
        return self._owners[ends]

    @property
    def table(self) -> pd.DataFrame:
        """One row a command, without housekeeping: seconds since the first, source, database.

        `cause` is "timer" for what a worker does by the clock, "other" for clients that are not of
        the stack, such as a redis-cli of yours, and "task" for the rest.
        """
        rows = [row for number in range(len(self.servers)) for row in self._rows(number)]
        columns = ["seconds", "source", "database", "command", "key", "step", "cause"]
        table = pd.DataFrame(rows, columns=columns).sort_values("seconds", kind="stable")
        table = table[~table["command"].isin(HOUSEKEEPING)].reset_index(drop=True)
        table["seconds"] -= table["seconds"].min() if len(table) else 0
        return table

    def _rows(self, number: int) -> Iterator[list[object]]:
        """The rows of one server, a transaction or a script with its commands at a time."""
        unit: list[dict[str, str]] = []
        open_transaction = False
        for seen in self._seen[number]:
            verb = seen["command"].partition(" ")[0].upper()
            if not open_transaction and seen["client_type"] != "lua":
                yield from self._unit(number, unit)
                unit = []
            unit.append(seen)
            open_transaction = verb == "MULTI" or (open_transaction and verb != "EXEC")
        yield from self._unit(number, unit)

    def _unit(self, number: int, unit: list[dict[str, str]]) -> Iterator[list[object]]:
        by_clock = any(timer in seen["command"] for seen in unit for timer in _TIMERS)
        # The commands of a script count for the client that called it.
        callers = (s["client_port"] for s in unit if s["client_type"] != "lua")
        owner = next((self._owner(number, port) for port in callers), "")
        for seen in unit:
            of_results = number == 1 or (len(self.servers) == 1 and str(seen["db"]) != "0")
            source = "worker" if owner.startswith("worker") else owner
            if owner == _SELF:
                source = "result reader" if of_results else "producer"
            command, _, rest = seen["command"].partition(" ")
            command, key = command.upper(), rest.partition(" ")[0]
            step = "a timer of the worker" if by_clock else _step(source, command, key)
            database = "result backend" if of_results else "broker"
            cause = "timer" if by_clock else "other" if source == "unknown" else "task"
            yield [float(seen["time"]), source, database, command, key, step, cause]


def _owner_of_connection(stack: Stack, port: int, server: int) -> str:
    """Who connects from `port` to `server`: the same port can lead to several servers."""
    owners = {os.getpid(): _SELF}
    for worker in stack.workers:
        # The parent first: a child inherits its parent's sockets and does not use them.
        owners |= dict.fromkeys([worker.pid, *worker.children()], worker.name)
    for pid, owner in owners.items():
        try:
            connections = psutil.Process(pid).net_connections(kind="tcp")
        except psutil.Error:
            continue
        if any(c.raddr and (c.laddr.port, c.raddr.port) == (port, server) for c in connections):
            return owner
    return "unknown"


def _step(source: str, command: str, key: str) -> str:
    for sender, verb, pattern, meaning in _STEPS:
        if sender in ("", source) and verb == command and re.match(pattern, key):
            return meaning
    return ""


@contextmanager
def record(stack: Stack) -> Iterator[Wire]:
    """Record every command that reaches the stack's servers while the block runs."""
    wire, stop = Wire(stack), f"stop-{secrets.token_hex(8)}"
    listeners = [
        threading.Thread(target=wire.listen, args=(number, stop), daemon=True)
        for number in range(len(wire.servers))
    ]
    for listener in listeners:
        listener.start()
    wire.ready.wait(timeout=10)
    try:
        yield wire
        time.sleep(0.3)  # lets a worker's last commands arrive
    finally:
        for server, listener in zip(wire.servers, listeners, strict=True):
            with server.client() as client:
                client.echo(stop)
            listener.join(timeout=5)
