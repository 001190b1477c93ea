"""A child process with a log: alive, pause, resume, kill, the tail of the log in every error."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from helpers import reaper
from helpers.errors import StackError


def poll(condition: Callable[[], object], timeout: float, pause: float = 0.01) -> bool:
    """Wait until `condition` is true: True then, False after `timeout` seconds without it."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
    return True


class Log:
    """The log of one process: what it printed, then what it wrote into a file of its choice."""

    def __init__(self, path: Path, *more: Path) -> None:
        self.path = path
        self._paths = (path, *more)

    @property
    def text(self) -> str:
        """The whole log so far."""
        files = (path for path in self._paths if path.is_file())  # a device would have no end
        return "".join(path.read_text(errors="replace") for path in files)

    @property
    def errors(self) -> list[str]:
        """The lines that a Celery process logged as ERROR or CRITICAL."""
        return re.findall(r"^\[[^]]*: (?:ERROR|CRITICAL)/.*$", self.text, flags=re.MULTILINE)

    def tail(self, lines: int = 20) -> str:
        """The last `lines` lines."""
        return "\n".join(self.text.splitlines()[-lines:])


class Fault(NamedTuple):
    """What was done to a process, or what it did: a signal's name, "exit", ... in one word.

    `at` is `time.monotonic`. The `label` is for a figure, and nothing decides by it.
    """

    what: str
    process: str
    at: float
    label: str


class Process:
    """One child in its own process group.

    `command` is the whole command line; standard output and error go to `log`. `faults` lists what
    was done to it and when.
    """

    def __init__(
        self, name: str, command: Sequence[str], *, cwd: Path, env: Mapping[str, str], log: Path
    ) -> None:
        self.name = name
        self.command = list(command)
        self.log = Log(log)
        self._cwd, self._env = cwd, dict(env)
        self._paused = False
        self.faults: list[Fault] = []
        self._ended_at: float | None = None
        self._process = self._spawn()

    def _spawn(self) -> subprocess.Popen[bytes]:
        self._ended_at = None
        with self.log.path.open("ab") as out:
            return reaper.spawn(self.command, cwd=self._cwd, env=self._env, log=out)

    @property
    def pid(self) -> int:
        """Process id, and id of the process group."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """True until the process has ended. A paused process is alive."""
        return self.exit_code is None

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative is the signal that ended it."""
        code = self._process.poll()
        if code is not None and self._ended_at is None:
            self._ended_at = time.monotonic()
        return code

    @property
    def ended_at(self) -> float | None:
        """When it was first seen to have ended (`time.monotonic`); None while it runs."""
        return self._ended_at if self.exit_code is not None else None

    def kill(self) -> None:
        """`SIGKILL` the process and its children, as when its container is killed."""
        if self.alive:
            self.note("SIGKILL", f"SIGKILL to {self.name}")
        reaper.kill_group(self._process)
        _ = self.exit_code  # notes when

    def wait(self, timeout: float = 10) -> None:
        """Wait until the process has ended by itself; `timeout` in seconds.

        Raises StackError, with the end of its log, when it still runs then.
        """
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise StackError(
                f"{self.name} still runs after {timeout:g} s; kill() ends it. "
                f"Its log says:\n\n{self.log.tail()}"
            ) from error

    def signal_group(self, number: signal.Signals) -> None:
        """One signal to the process and its children alike, as systemd and supervisor can send it.

        Raises StackError when the process has ended.
        """
        if not self.alive:
            raise StackError(f"{self.name} has ended (exit code {self.exit_code})")
        self.note(number.name, f"{number.name} to {self.name}")
        os.killpg(self.pid, number)

    def pause(self) -> None:
        """`SIGSTOP`: it keeps its connections and answers nobody."""
        self.signal_group(signal.SIGSTOP)
        self._paused = True

    def resume(self) -> None:
        """`SIGCONT` after `pause`; nothing to do otherwise."""
        if self._paused:
            self.signal_group(signal.SIGCONT)
            self._paused = False

    def note(self, what: str, label: str) -> None:
        """Remember a fault of now: `what` in one word, `label` as a figure says it."""
        self.faults.append(Fault(what, self.name, time.monotonic(), label))

    def wait_until(self, ready: Callable[[], object], what: str, timeout: float) -> None:
        """Poll `ready` until it is true; `timeout` in seconds.

        Raises StackError with the tail of the log when the process ends first or time runs out.
        """
        if poll(lambda: ready() or not self.alive, timeout) and (self.alive or ready()):
            return
        missed = f"{self.name}: not {what} within {timeout:g} s"
        if not self.alive:
            missed = f"{self.name} ended with exit code {self.exit_code} before {what}"
        raise StackError(f"{missed}. Its log says:\n\n{self.log.tail() or '(nothing)'}")
