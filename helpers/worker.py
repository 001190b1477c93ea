"""A real `celery worker`, started by the command line that a user would type."""

import os
import shlex
import signal
import subprocess
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


class Worker(Process):
    """One worker: its parent process and its pool."""

    def __init__(
        self, app: str, options: tuple[str, ...], *, name: str, cwd: Path, env: Mapping[str, str]
    ) -> None:
        arguments = ["-A", app, "worker", f"--hostname={name}@stack", "--loglevel=INFO"]
        arguments += [*QUICK_START, "-I", "helpers.witness", *options]
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

    def stop(self, timeout: float = 10) -> None:
        """One `SIGTERM`, the warm shutdown: finish what runs, take nothing new. Seconds.

        Raises StackError when tasks still run after `timeout`.
        """
        # To the parent alone, and once: a second SIGTERM turns a warm shutdown cold.
        if self.alive:
            os.kill(self.pid, signal.SIGTERM)
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise StackError(
                f"{self.name} still works {timeout:g} s after SIGTERM; kill() ends it. "
                f"Its log says:\n\n{self.log.tail()}"
            ) from error
        self.kill()  # what the pool may have left in the process group

    def __repr__(self) -> str:
        state = f"ended with exit code {self.exit_code}"
        if self.alive:
            state = f"ready in {self.seconds_to_ready:.1f} s"
        # In lines that fit a notebook and that a shell would take.
        lines = textwrap.wrap(self.command_line, 84, break_long_words=False, break_on_hyphens=False)
        return f"{self.name} · {state}\n    " + " \\\n      ".join(lines)
