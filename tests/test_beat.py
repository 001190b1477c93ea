"""A beat of the stack: what it sends is counted like any other publish."""

import re
from pathlib import Path

import pytest

from helpers import Stack
from helpers.errors import StackError

TICKING = """
from celery import Celery

app = Celery("shop")
app.conf.beat_schedule = {"bill": {"task": "shop.bill", "schedule": 0.5}}

@app.task(name="shop.bill", ignore_result=True)
def bill():
    pass
"""


@pytest.fixture
def ticking(stack: Stack, shop_directory: Path) -> Stack:
    (shop_directory / "shop.py").write_text(TICKING)
    return stack


def until_ticks(stack: Stack, number: int) -> None:
    stack.wait_until(lambda: stack.ledger.count("accepted") >= number, f"{number} ticks", 20)


def test_its_ticks_are_published_run_and_counted(ticking: Stack) -> None:
    worker, beat = ticking.start_worker("--concurrency=1"), ticking.start_beat()
    until_ticks(ticking, 3)
    assert ticking.processes() == ["redis", "worker1", "beat1"]
    assert "-A shop beat" in beat.command_line and "beat1 · ready in" in repr(ticking)
    beat.stop()
    outcome = ticking.settle()
    sent = ticking.ledger.count("accepted")
    assert outcome.counts == {"done": sent} and outcome.verdict == "survived"
    assert {event["pid"] for event in ticking.ledger.of("accepted")} == {beat.pid}
    assert {event["pid"] for event in ticking.ledger.of("received")} == {worker.pid}
    assert "beat1 ended with exit code 0" in str(outcome)


def test_two_beats_send_each_tick_twice_under_an_id_of_its_own(ticking: Stack) -> None:
    beats = [ticking.start_beat(), ticking.start_beat("--max-interval=1")]
    until_ticks(ticking, 6)
    for beat in beats:
        beat.stop()
    ids = [event["id"] for event in ticking.ledger.of("accepted")]
    assert len(set(ids)) == len(ids)
    assert {event["pid"] for event in ticking.ledger.of("accepted")} == {b.pid for b in beats}
    assert ticking.settle(timeout=1, quiet=0.2).counts == {"queued": len(ids)}
    assert not list(ticking.directory.glob("celerybeat-schedule*"))


def test_a_tick_that_the_broker_refuses_is_refused(ticking: Stack) -> None:
    ticking.redis.config_set("maxmemory", "1")
    beat = ticking.start_beat()
    ticking.wait_until(lambda: ticking.ledger.of("refused") and beat.log.errors, "refused", 20)
    beat.stop()
    outcome = ticking.settle(timeout=1, quiet=0.2)
    assert outcome.counts == {"refused": ticking.ledger.count("attempted")}
    assert outcome.log_errors > 0  # also those of the beat's log


def test_a_killed_beat_ends_with_the_stack_or_before(ticking: Stack) -> None:
    beat = ticking.start_beat()
    beat.pause()
    ticking.settle(timeout=0.5, quiet=0.1)  # wakes it up
    until_ticks(ticking, ticking.ledger.count("accepted") + 1)
    beat.kill()
    assert "beat1 ended with exit code -9" in str(ticking.settle(timeout=0.5, quiet=0.1))


def test_the_beat_in_a_worker_is_witnessed_too(ticking: Stack) -> None:
    """Its process closes what it inherited (`celery/beat.py: _Process.run`).

    Killed and not stopped: in 1 of 12 warm shutdowns a worker with `-B` did not end within 10 s.
    """
    worker = ticking.start_worker("--concurrency=1", "-B")
    until_ticks(ticking, 3)
    (sender,) = {event["pid"] for event in ticking.ledger.of("accepted")}
    worker.kill_child(sender)
    assert ticking.settle().counts == {"done": ticking.ledger.count("accepted")}
    assert "Broken pipe" not in worker.log.text and worker.log.errors == []


@pytest.mark.parametrize("option", ["--detach", "--app=mail", "--workdir=/tmp"])
def test_what_a_stack_cannot_serve_is_refused_in_words(stack: Stack, option: str) -> None:
    with pytest.raises(StackError, match=re.escape(option.partition("=")[0])):
        stack.start_beat(option)
    assert stack.beats == []
