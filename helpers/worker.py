"""A real `celery worker`, started by the command line that a user would type."""

import os
import signal
from collections.abc import Mapping
from pathlib import Path

from celery.bin.worker import worker

from helpers.errors import StackError
from helpers.program import Program, read_options

# Three chatty features that no experiment here needs. Without them a worker is ready in 0.4 s
# instead of 1.4 s (mingle alone waits a second for the answers of other workers).
QUICK_START = ("--without-gossip", "--without-mingle", "--without-heartbeat")
MINGLE = 1.0  # seconds


class Worker(Program):
    """One worker: its parent process and its pool.

    Started quickly, or with `stock` as Celery starts it: with gossip, mingle and heartbeat.
    """

    def __init__(
        self,
        app: str,
        options: tuple[str, ...],
        *,
        name: str,
        cwd: Path,
        env: Mapping[str, str],
        stock: bool = False,
    ) -> None:
        read = read_options(
            worker,
            options,
            {"hostname": "the stack names its workers, by which it tells them apart: leave it out"},
        )
        arguments = ["-A", app, "worker", f"--hostname={name}@stack", "--loglevel=INFO"]
        if read.get("beat") and not read.get("schedule_filename"):
            arguments += ["--schedule", str(Path(env["TMPDIR"]) / f"{name}-schedule")]
        arguments += [*(() if stock else QUICK_START), "-I", "helpers.witness", *options]
        if include := read.get("include"):  # of two `-I` Celery takes the last
            arguments += ["-I", f"helpers.witness,{include}"]
        super().__init__(arguments, read.get("logfile"), name=name, cwd=cwd, env=env)
        self.usual_start += MINGLE if stock else 0

    def kill_child(self, pid: int | None = None) -> None:
        """`SIGKILL` one child of the pool, the first by default, and leave the parent alone.

        Raises StackError when the pool has no such child.
        """
        children = self.children()
        if not children or pid not in (None, *children):
            raise StackError(f"{self.name} has no such pool child: it ended, or its pool has none")
        self.note("child", f"SIGKILL to a child of {self.name}")
        os.kill(pid or children[0], signal.SIGKILL)
