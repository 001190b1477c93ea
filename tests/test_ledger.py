import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.errors import StackError
from helpers.ledger import Ledger

WRITER = """
import sys
from helpers.ledger import Ledger
ledger = Ledger(sys.argv[1])
while True:
    ledger.append("started", "x" * 300)
"""


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    ledger.append("accepted", "a", retries=0)
    ledger.append("started", "a", retries=0)
    first, second = ledger.read()
    assert (first["event"], second["event"]) == ("accepted", "started")
    assert first["at"] <= second["at"] <= time.monotonic()
    assert first["pid"] == os.getpid()


def test_survives_kill_of_several_writers(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, path]) for _ in range(3)]
    deadline = time.monotonic() + 30
    pids = {writer.pid for writer in writers}
    while {event["pid"] for event in Ledger(path).read()} != pids:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for writer in writers:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    history = Ledger(path).read()
    assert {event["pid"] for event in history} == pids and len(history) > 100
    assert history.torn <= 3 and history.missing == 0


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_torn_last_line_is_told_and_spoils_no_other(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "ledger"
    ledger = Ledger(path)
    for number in range(3):
        ledger.append("accepted", str(number))
    os.truncate(path, path.stat().st_size - cut - 1)
    ledger.append("accepted", "next")
    history = ledger.read()
    assert history.torn == 1
    assert [event["id"] for event in history] == ["0", "1", "next"]


def test_a_missing_line_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    ledger = Ledger(path)
    for number in range(3):
        ledger.append("accepted", str(number))
    lines = [line for line in path.read_text().splitlines() if line]
    path.write_text("\n".join([lines[0], lines[2]]))
    assert ledger.read().missing == 1


def test_a_full_disk_is_an_error_and_not_silence() -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("not run: this system has no /dev/full")
    with pytest.raises(StackError, match="No space left"):
        Ledger("/dev/full").append("accepted", "a")


def test_each_event_is_one_line_of_json(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    ledger.append("failed", "a", why="line one\nline two")
    lines = [line for line in ledger.path.read_text().splitlines() if line]
    assert [json.loads(line)["why"] for line in lines] == ["line one\nline two"]


@pytest.mark.parametrize(
    ("odd", "read"),
    [
        ("half a pair \ud800", "half a pair \ud800"),
        (2**70, 2**70),
        (float("inf"), None),
        ({1: {"a"}}, {"1": "{'a'}"}),
        (ValueError("no"), "no"),
    ],
)
def test_whatever_a_task_says_is_one_line(tmp_path: Path, odd: object, read: object) -> None:
    ledger = Ledger(tmp_path / "ledger")
    ledger.append("failed", "a", why=odd)
    ledger.append("failed", "b", why="plain")
    history = ledger.read()
    assert [event["why"] for event in history] == [read, "plain"] and history.torn == 0
    assert [event["id"] for event in ledger.of("failed")] == ["a", "b"]


def test_close_twice(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    ledger.close()
    ledger.close()
