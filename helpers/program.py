"""What a `celery worker` and a `celery beat` of a stack have in common: options, log, shutdown."""

import os
import shlex
import signal
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import psutil
from celery.utils.nodenames import node_format

from helpers.errors import StackError
from helpers.process import Fault, Log, Process

# Options that no program of a stack can have, and what to do instead. Some are Celery's own, before
# the name of the command (`celery/bin/celery.py`).
_APP = "name the application's file instead: app='shop'"
_BROKER = "the stack has a broker of its own: Stack(redis={...}) configures it"
_RESULTS = "the stack says where results go: Stack(backend=...)"
_HERE = "it runs in the stack's directory: Stack(directory)"
_USER = "it has to write into the stack's private files: leave it out"
_REFUSED = {
    "-A": _APP,
    "--app": _APP,
    "-b": _BROKER,
    "--broker": _BROKER,
    "--result-backend": _RESULTS,
    "--workdir": _HERE,
    "--loader": "the application names it: Celery('shop', loader=...)",
    "--config": "the application names it: app.config_from_object(...)",
    "detach": "the stack has to know it to end it, and it does not wait for it: leave it out",
    "executable": "it runs with this notebook's Python: leave it out",
    "uid": _USER,
    "gid": _USER,
}


def read_options(
    command: click.Command, options: tuple[str, ...], refused: Mapping[str, str]
) -> dict[str, Any]:
    """What the options say, by the parameters of the command, as its own parser reads them.

    What it does not know is left to the command to say. Raises StackError for what a stack cannot
    serve: `refused` adds to that.
    """
    refused = {**_REFUSED, **refused}
    try:
        read, _, _ = command.make_parser(click.Context(command)).parse_args(list(options))
    except click.NoSuchOption as error:
        if error.option_name in refused:
            raise StackError(f"{error.option_name}: {refused[error.option_name]}") from None
        return {}
    except click.UsageError:
        return {}
    for parameter in command.params:
        if parameter.name in refused and parameter.name in read:
            raise StackError(f"{'/'.join(parameter.opts)}: {refused[parameter.name]}")
    return dict(read)


class Program(Process):
    """One `python -m celery ...` of a stack."""

    # Seconds until it is ready on a machine with two idle cores: 0.35 to 0.6 were measured. With a
    # quarter of a core it takes 1.7 to 2.5.
    usual_start = 0.6

    def __init__(
        self,
        arguments: list[str],
        logfile: str | None,
        *,
        name: str,
        cwd: Path,
        env: Mapping[str, str],
    ) -> None:
        super().__init__(
            name,
            [sys.executable, "-m", "celery", *arguments],
            cwd=cwd,
            env=env,
            log=Path(env["TMPDIR"]) / f"{name}.log",
        )
        if logfile:  # it logs there, and still prints what goes wrong before it can log
            self.log = Log(self.log.path, cwd / node_format(logfile, f"{name}@stack"))
        self.seconds_to_ready = 0.0
        self.command_line = "python -m " + shlex.join(["celery", *arguments])

    def own_exit(self) -> list[Fault]:
        """When and how it ended, if it did so by itself and nobody has noted it."""
        code = self.exit_code
        if code is None or self.ended_at is None:
            return []
        if any(fault.what in ("SIGKILL", "exit") for fault in self.faults):
            return []
        return [Fault("exit", self.name, self.ended_at, f"{self.name} exits with code {code}")]

    def children(self) -> list[int]:
        """Process ids of its children: of a worker's pool, and of the beat that `-B` embeds."""
        try:
            return [child.pid for child in psutil.Process(self.pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def stop(
        self,
        number: signal.Signals = signal.SIGTERM,
        timeout: float = 10,
        *,
        group: bool = False,
    ) -> None:
        """Ask it to end, and wait until it has; `timeout` in seconds.

        `SIGTERM` is a worker's warm shutdown: finish what runs, take nothing new. `SIGQUIT` is the
        cold one. The signal goes to the parent alone, as `kill` and `docker stop` send it. With
        `group` its children get it too, as from systemd (`KillMode=control-group`, its default).
        Raises StackError when tasks still run after `timeout`.
        """
        if self.alive:
            if group:
                self.signal_group(number)
            else:
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
