"""The append-only record of what was attempted, accepted, received, started and finished.

It is a file outside the broker, so Redis cannot lose it. Each event is one line, written by one
`write` to a descriptor opened with `O_APPEND`: lines of several processes do not mix, and what was
written survives the `SIGKILL` of the writer.
"""

import gc
import itertools
import json
import os
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from helpers.errors import StackError

Event = dict[str, Any]


class Ledger:
    """Append events to, and read events from, one file."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._numbers = itertools.count()
        self._open()

    def _open(self) -> None:
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._pid = os.getpid()

    def append(self, event: str, task_id: str | None = None, **details: Any) -> None:
        """Write one event. Raises StackError when the disk is full.

        `at` is monotonic time and `wall` the time of day, both in seconds; `n` numbers the lines
        of a process, so that a missing one shows.
        """
        if (pid := os.getpid()) != self._pid:
            # A fork may have closed what it inherited (`celery/beat.py: _Process.run`), and the
            # number may be somebody else's by now.
            self._open()
        said = {
            "event": event,
            "at": time.monotonic(),
            "wall": time.time(),
            "id": task_id,
            "pid": pid,
            "n": next(self._numbers),
            **details,
        }
        # A new line on both sides: a line torn by a crash spoils itself and not its neighbour.
        line = b"\n%b\n" % _encoded(said)
        try:
            written = os.write(self._descriptor, line)
        except OSError as error:
            # Not an OSError: kombu would take that for a broken connection to the broker.
            raise StackError(
                f"the ledger takes no line, nothing can be counted: {error}"
            ) from error
        if written != len(line):
            raise StackError("the ledger took a part of a line, nothing can be counted: disk full?")

    def read(self) -> "History":
        """All events so far, in the order in which they were written."""
        return read(self.path)

    def of(self, event: str) -> list[Event]:
        """The events of one kind so far; quick, since other lines are not read."""
        start = b'{"event":"' + event.encode() + b'"'
        lines = self.path.read_bytes().split(b"\n")
        return _read_torn([line for line in lines if line.startswith(start)])[0]

    def count(self, event: str) -> int:
        """How many lines of one kind there are so far, without reading them one by one."""
        return count(self.path, event)

    def close(self) -> None:
        """Close the descriptor. Safe to call twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _encoded(event: Event) -> bytes:
    """As JSON. What has no place in it becomes text, and an infinite number null."""
    try:
        # Runs three times a task inside the worker under study: json takes four times as long.
        return orjson.dumps(event, str)
    except TypeError:  # half a surrogate pair, a number of more than 64 bits, one as a key
        return json.dumps(event, separators=(",", ":"), default=str).encode()


@contextmanager
def without_gc() -> Iterator[None]:
    """Search for no circles: a million objects without one take a fifth less time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@without_gc()
def read(path: Path) -> "History":
    """All events of the ledger at `path`, in the order in which they were written."""
    text = path.read_bytes()
    try:
        # All lines as one JSON list: faster than one by one.
        return History(orjson.loads(b"[" + text.strip(b"\n").replace(b"\n\n", b",") + b"]"))
    except ValueError:  # a torn line, or one that json has written
        return History(*_read_torn(text.split(b"\n")))


def count(path: Path, event: str) -> int:
    """How many lines of one kind the ledger at `path` has, without reading them one by one."""
    return path.read_bytes().count(b'{"event":"' + event.encode() + b'"')


def _read_torn(lines: list[bytes]) -> tuple[list[Event], int]:
    events: list[Event] = []
    torn = 0
    for line in filter(None, lines):
        try:
            events.append(json.loads(line))
        except ValueError:
            torn += 1
    return events, torn


class History(list[Event]):
    """Events of a ledger. `torn` counts lines that a crash cut short."""

    def __init__(self, events: list[Event], torn: int = 0) -> None:
        super().__init__(events)
        self.torn = torn

    def of(self, kind: str) -> list[Event]:
        """The events of one kind."""
        return [event for event in self if event["event"] == kind]

    @property
    def missing(self) -> int:
        """Lines that a process numbered and the file does not hold."""
        numbers: defaultdict[int, set[int]] = defaultdict(set)
        for event in self:
            numbers[event["pid"]].add(event["n"])
        return sum(max(seen) - min(seen) + 1 - len(seen) for seen in numbers.values())
