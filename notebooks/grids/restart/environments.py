"""Environments of other versions of Celery, made once and kept in the user's cache."""

import fcntl
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

HOME = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "where-did-my-task-go"
VERSIONS = """
from importlib.metadata import version
print(version("celery"), version("kombu"), version("redis"))
"""


@cache
def python_with(celery: str, kombu: str) -> Path:
    """The Python of an environment with these versions; redis-py is what pip finds for them.

    Raises RuntimeError, with what pip said, when there is no such environment.
    """
    place = HOME / f"celery-{celery}-kombu-{kombu}"
    place.mkdir(parents=True, exist_ok=True)
    python = place / "venv" / "bin" / "python"
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several processes may ask at once
        if not (place / "made").exists():
            _run(sys.executable, "-m", "venv", "--clear", str(place / "venv"))
            wanted = [f"celery[redis]=={celery}", f"kombu=={kombu}"]
            pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            _run(str(python), *pip, *wanted)
            (place / "made").touch()
    return python


@cache
def redis_py(python: Path) -> str:
    """The version of redis-py in an environment."""
    return _run(str(python), "-c", VERSIONS).split()[2]


def outside() -> dict[str, str]:
    """What a program of such an environment is started with: nothing of ours is on its path."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def _run(*command: str) -> str:
    done = subprocess.run(command, env=outside(), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:])}\n{done.stdout}{done.stderr}")
    return done.stdout
