"""Two users of one machine, as on a workshop's shared host, cannot reach each other's stacks."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from tempfile import TemporaryDirectory
from typing import Any

import pytest

USERS = (23001, 23002)  # nobody has these numbers, and a process needs no more

# One user: starts a stack, says where it is, and tries to get into the stack of the other.
USER = """
import json, os, pathlib, sys
import redis
from helpers import Stack

pathlib.Path("shop.py").write_text('''
from celery import Celery
app = Celery("shop")
@app.task
def add(x, y):
    return x + y
''')

def tried(action):
    try:
        return f"got in: {action()!r}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"

with Stack(os.getcwd()) as stack:
    stack.start_worker("--concurrency=1")
    password = stack.redis.client().connection_pool.connection_kwargs["password"]
    mine = {"port": stack.redis.port, "place": str(stack._private), "password": password}
    mine["worker"] = stack.workers[0].pid
    print(json.dumps(mine), flush=True)
    other = json.loads(sys.stdin.readline())
    worker, place = other["worker"], pathlib.Path(other["place"])
    stranger = redis.Redis(port=other["port"])
    own = redis.Redis(port=other["port"], password=password)
    said = {
        "no password": tried(stranger.keys),
        "own password": tried(own.keys),
        "flush": tried(stranger.flushall),
        "directory": tried(lambda: os.listdir(place)),
        "redis.conf": tried((place / "redis" / "redis.conf").read_text),
        "environment": tried(pathlib.Path(f"/proc/{worker}/environ").read_bytes),
        "kill": tried(lambda: os.kill(worker, 9)),
        "done": stack.load("shop").add.delay(20, 22).get(timeout=10),
    }
    print(json.dumps(said), flush=True)
    sys.stdin.readline()  # until the other has tried too
"""


@pytest.fixture
def people() -> Iterator[list[subprocess.Popen[str]]]:
    """Both users' processes. Their folders are not in `tmp_path`, which only root can enter."""
    if os.geteuid() != 0:
        pytest.skip("not run: becoming two users needs root")
    try:
        reading = [sys.executable, "-c", "import helpers"]
        subprocess.run(reading, user=USERS[0], cwd="/", check=True, capture_output=True)
    except (PermissionError, subprocess.CalledProcessError):
        pytest.skip("not run: other users may not read this environment or this folder")
    with ExitStack() as ends:
        started = []
        for user in USERS:
            home = ends.enter_context(TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True))
            os.chown(home, user, user)
            started.append(_start(user, home))
            ends.callback(started[-1].communicate, timeout=20)
        yield started


def _start(user: int, home: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", USER],
        user=user,
        group=user,
        extra_groups=[],
        cwd=home,
        env={"HOME": home, "TMPDIR": home, "PATH": os.environ["PATH"]},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _line(person: subprocess.Popen[str]) -> Any:
    assert person.stdout and person.stderr
    return json.loads(person.stdout.readline() or pytest.fail(person.stderr.read()))


def test_neither_gets_into_the_others_stack(people: list[subprocess.Popen[str]]) -> None:
    places = [_line(person) for person in people]
    for person, other in zip(people, reversed(places), strict=True):
        print(json.dumps(other), file=person.stdin, flush=True)
    answers = [_line(person) for person in people]
    command_lines = subprocess.check_output(["ps", "-eo", "args"], text=True)
    for answer, place in zip(answers, places, strict=True):
        assert place["password"] not in command_lines
        assert answer.pop("done") == 42
        assert {name: said.partition(":")[0] for name, said in answer.items()} == {
            "no password": "AuthenticationError",
            "own password": "AuthenticationError",
            "flush": "AuthenticationError",
            "directory": "PermissionError",
            "redis.conf": "PermissionError",
            "environment": "PermissionError",
            "kill": "PermissionError",
        }
