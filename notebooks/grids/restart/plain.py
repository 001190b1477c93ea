"""A worker without any instrument, of any version: the command that its documentation gives."""

import re
import time
from collections.abc import Callable
from pathlib import Path

from helpers import Stack
from helpers.process import Process, poll
from restart.environments import outside

SUPERVISOR = """
while :; do
    "$@"
    code=$?
    echo "exited with code $code"
    [ $code = 0 ] && break
done
"""


class PlainWorker(Process):
    """`celery -A shop worker` with its default flags, or a shell that starts it again for ever."""

    def __init__(
        self, stack: Stack, here: Path, python: Path, *options: str, supervised: bool = False
    ) -> None:
        command = [str(python), "-m", "celery", "-A", "shop", "worker", "--loglevel=INFO", *options]
        if supervised:
            command = ["sh", "-c", SUPERVISOR, "supervisor", *command]
        environment = {**outside(), "CELERY_BROKER_URL": stack.redis.url(), "TMPDIR": str(here)}
        super().__init__("worker", command, cwd=here, env=environment, log=here / "worker.log")
        self.wait_until(lambda: self.starts, "ready", timeout=30)

    @property
    def starts(self) -> int:
        """How often it got ready."""
        return len(re.findall(r"^\[.* ready\.$", self.log.text, flags=re.MULTILINE))

    @property
    def connections(self) -> int:
        """How often it got a connection to its broker."""
        return self.log.text.count("Connected to redis")

    @property
    def exits(self) -> list[int]:
        """The exit codes so far, of a supervised one too."""
        codes = [int(code) for code in re.findall(r"^exited with code (\d+)$", self.log.text, re.M)]
        return codes if codes or self.exit_code is None else [self.exit_code]

    @property
    def unrecoverable(self) -> str:
        """The name and the text of the error that ended it; empty if none did."""
        found = re.search(r"Unrecoverable error: (\w+)\((.*)\)$", self.log.text, re.M)
        return f"{found[1]}: {found[2].strip(chr(34))}" if found else ""


def wait_quiet(
    here: Path, over: Callable[[], object], quiet: float = 5, timeout: float = 60
) -> None:
    """Wait until it is `over`, or until the tasks have noted nothing for `quiet` seconds."""
    seen, since = -1, time.monotonic()

    def still() -> bool:
        nonlocal seen, since
        path = here / "notes.txt"
        size = path.stat().st_size if path.exists() else 0
        if size != seen:
            seen, since = size, time.monotonic()
        return bool(over()) or time.monotonic() - since > quiet

    poll(still, timeout, pause=0.05)
