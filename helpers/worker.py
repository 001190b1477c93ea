"""A real `celery worker`, started by the command line that a user would type."""

import os
import shlex
import signal
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

import psutil

from helpers.errors import StackError
from helpers.process import Process

# Three chatty features that no experiment here needs. Without them a worker is ready in 0.4 s
# instead of 1.4 s (mingle alone waits a second for the answers of other workers).
QUICK_START = ("--without-gossip", "--without-mingle", "--without-heartbeat")


def _included(options: tuple[str, ...]) -> list[str]:
    """The options with the witness beside what they include: of two `-I` Celery takes the last."""
    modules, rest, left = ["helpers.witness"], [], iter(options)
    for option in left:
        name, sep, value = option.partition("=")
        if name in ("-I", "--include"):
            modules.append(value if sep else next(left, ""))
        elif option.startswith("-I"):
            modules.append(option[2:])
        else:
            rest.append(option)
    return ["-I", ",".join(filter(None, modules)), *rest]


class Worker(Process):
    """One worker: its parent process and its pool."""

    def __init__(
        self, app: str, options: tuple[str, ...], *, name: str, cwd: Path, env: Mapping[str, str]
    ) -> None:
        arguments = ["-A", app, "worker", f"--hostname={name}@stack", "--loglevel=INFO"]
        arguments += [*QUICK_START, *_included(options)]
        super().__init__(
            name,
            [sys.executable, "-m", "celery", *arguments],
            cwd=cwd,
            env=env,
            log=Path(env["TMPDIR"]) / f"{name}.log",
        )
        self.seconds_to_ready = 0.0
        self.command_line = "python -m " + shlex.join(["celery", *arguments])

    def children(self) -> list[int]:
        """Process ids of the pool's children."""
        try:
            return [child.pid for child in psutil.Process(self.pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def kill_child(self, pid: int | None = None) -> None:
        """`SIGKILL` one child of the pool, the first by default, and leave the parent alone.

        Raises StackError when the pool has no such child.
        """
        children = self.children()
        if not children or pid not in (None, *children):
            raise StackError(f"{self.name} has no such pool child: it ended, or its pool has none")
        self.note("child", f"SIGKILL to a child of {self.name}")
        os.kill(pid or children[0], signal.SIGKILL)

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout: float = 10) -> None:
        """Ask the worker to end, and wait until it has; `timeout` in seconds.

        `SIGTERM` is the warm shutdown: finish what runs, take nothing new. `SIGQUIT` is the cold
        one. Raises StackError when tasks still run after `timeout`.
        """
        # To the parent alone: a signal to the whole group would reach its children too.
        if self.alive:
            self.note(number.name, f"{number.name} to {self.name}")
            os.kill(self.pid, number)
        self.wait(timeout)
        self.note("exit", f"exit of {self.name}")
        self.kill()  # what the pool may have left in the process group

    def __repr__(self) -> str:
        state = f"ended with exit code {self.exit_code}"
        if self.alive:
            state = f"ready in {self.seconds_to_ready:.1f} s"
        # In lines that fit a notebook and that a shell would take.
        lines = textwrap.wrap(self.command_line, 84, break_long_words=False, break_on_hyphens=False)
        return f"{self.name} · {state}\n    " + " \\\n      ".join(lines)
