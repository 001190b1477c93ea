"""No process and no file outlives the kernel that started it.

One small helper process holds the read end of a pipe, the kernel holds the write end. However the
kernel ends (shutdown, restart, `SIGKILL`, out of memory), the helper sees the end of the pipe,
kills each process group that it was told about and removes each directory.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from helpers.errors import StackError

# Runs as `python -I -S -c`: the standard library only, and it starts in 20 ms.
_REAPER = """
import os, shutil, signal, sys
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
groups, folders = set(), set()
for line in sys.stdin:
    verb, name = line.rstrip("\\n").split(" ", 1)
    known, name = (groups, int(name)) if verb.endswith("group") else (folders, name)
    (known.add if verb.startswith("add") else known.discard)(name)
for group in groups:
    try:
        os.killpg(group, signal.SIGKILL)
    except OSError:
        pass
for folder in folders:
    shutil.rmtree(folder, ignore_errors=True)
"""

# The child waits for one line before it becomes the program. If the kernel dies between fork and
# registration the line never comes, and the child ends by itself.
_WAIT_THEN_EXEC = 'read -r _ && exec "$@" </dev/null'

_lock = threading.Lock()
_reaper: subprocess.Popen[str] | None = None


def _tell(verb: str, name: object) -> None:
    """Send one line to the reaper of this process, starting it if need be."""
    global _reaper
    with _lock:
        if _reaper is None or _reaper.poll() is not None:
            _reaper = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _REAPER],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                text=True,
                start_new_session=True,
                cwd="/",
            )
        assert _reaper.stdin is not None
        print(verb, name, file=_reaper.stdin, flush=True)


def spawn(
    command: Sequence[str], *, cwd: Path, env: Mapping[str, str], log: IO[bytes]
) -> subprocess.Popen[bytes]:
    """Start `command` in its own process group, registered with the reaper before it runs.

    Its own group means that Interrupt in Jupyter stops the cell and not the server.
    Standard output and standard error go to `log`.
    """
    process = subprocess.Popen(
        ["/bin/sh", "-c", _WAIT_THEN_EXEC, "sh", *command],
        cwd=cwd,
        env=dict(env),
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        _tell("add-group", process.pid)
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.close()
    except BaseException:
        kill_group(process)
        raise
    return process


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """`SIGKILL` the process and all it started, and wait until it is gone. Safe to call twice."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    _tell("drop-group", process.pid)


def private_directory() -> Path:
    """Make a directory (mode 0700) that is removed when this kernel ends.

    Raises StackError when the temporary directory is full or read-only.
    """
    try:
        path = Path(tempfile.mkdtemp(prefix="where-did-my-task-go-"))
        check_writable(path)
    except OSError as error:
        raise StackError(
            f"cannot write in a temporary directory: {error}. "
            "Free some space, or name another place with: export TMPDIR=/path/with/space"
        ) from error
    _tell("add-folder", path)
    return path


def check_writable(path: Path) -> None:
    """Write and remove 1 MB in `path`. Raises OSError when that is not possible."""
    probe = path / ".probe"
    try:
        probe.write_bytes(bytes(1 << 20))
    finally:
        probe.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Remove a directory now. Safe to call twice."""
    shutil.rmtree(path, ignore_errors=True)
