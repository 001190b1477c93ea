"""Heal, drain, count, with real workers: each fate comes about, and is found."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kombu.exceptions import OperationalError

from helpers import Stack, lens
from helpers.brokers import redis as redis_server
from helpers.errors import StackError
from helpers.faults import kill_between_sweeps
from helpers.settle import census
from tests.conftest import SHOP


def test_settle_heals_a_paused_worker(stack: Stack) -> None:
    worker = stack.start_worker("--concurrency=1")
    shop = stack.load("shop")
    worker.pause()
    shop.add.delay(1, 1)
    assert stack.settle().counts == {"done": 1}


def test_settle_without_a_server_is_inconclusive(stack: Stack) -> None:
    stack.load("shop").add.delay(1, 1)
    stack.redis.kill()
    outcome = stack.settle(timeout=2, quiet=0.2)
    assert outcome.verdict == "inconclusive"
    assert "does not answer" in outcome.sentence


def test_a_slow_machine_gets_more_time(stack: Stack) -> None:
    assert stack.patience == 1
    worker = stack.start_worker("--concurrency=1")
    task = stack.load("shop").nap.delay(1)
    for seconds, patience in [(0.3, 1), (1.8, pytest.approx(3)), (100, 4)]:
        worker.seconds_to_ready = seconds
        assert stack.patience == patience
    with pytest.raises(StackError, match=r"not failed within 0\.4 s"):
        stack.wait_for("failed", task, timeout=0.1)
    assert stack.settle(timeout=2, quiet=0.1).counts == {"done": 1}


def test_a_slow_machine_does_not_wait_longer_for_a_return(
    stack: Stack, shop_directory: Path
) -> None:
    with (shop_directory / "shop.py").open("a") as file:
        file.write(
            "\napp.conf.broker_transport_options = {'visibility_timeout': 20, "
            "'unacked_restore_interval': 1, 'unacked_restore_throttle': 1}\n"
        )
    first = stack.start_worker("--concurrency=1")
    order = stack.load("shop").late.delay(1)
    stack.wait_for("started", order)
    first.kill()
    stack.start_worker("--concurrency=1").seconds_to_ready = 100.0
    assert stack.settle(timeout=10, quiet=0.1).counts == {"stranded": 1}


def test_done_failed_retried_ignored_and_unknown(stack: Stack) -> None:
    stack.start_worker("--concurrency=2")
    shop = stack.load("shop")
    sent = {
        "done": shop.add.delay(1, 1),
        "retried": shop.again.delay(),
        "ignored": shop.ignore.delay(),
        "raised": shop.fail.delay(),
        "killed": shop.crash.delay(),
        "too long": shop.endless.delay(),
        "unknown": shop.app.send_task("shop.renamed"),
        "pickled": shop.add.apply_async((1, 1), serializer="pickle"),
        "expired": shop.add.apply_async((1, 1), expires=-1),
    }
    table = stack.settle(timeout=20).table
    fates = {name: table.loc[result.id, "fate"] for name, result in sent.items()}
    assert fates == {
        "done": "done",
        "retried": "done",
        "ignored": "done",
        "raised": "failed",
        "killed": "failed",
        "too long": "failed",
        "unknown": "discarded",
        "pickled": "discarded",
        "expired": "discarded",
    }


def test_lost_when_a_worker_dies_with_an_early_ack(stack: Stack) -> None:
    worker = stack.start_worker("--concurrency=1")
    shop = stack.load("shop")
    shop.nap.delay(30)
    stack.wait_until(
        lambda: stack.ledger.of("started") and not len(lens.unacked(stack.redis)), "acknowledged"
    )
    worker.kill()
    assert stack.settle(timeout=5, quiet=0.3).counts == {"lost": 1}


def test_stranded_then_back_within_the_window(stack: Stack, shop_directory: Path) -> None:
    with (shop_directory / "shop.py").open("a") as file:
        file.write(
            "\napp.conf.broker_transport_options = {'visibility_timeout': 8, "
            "'unacked_restore_interval': 1, 'unacked_restore_throttle': 1}\n"
        )
    first = stack.start_worker("--concurrency=1")
    shop = stack.load("shop")
    shop.late.delay(0.5)
    stack.wait_until(lambda: stack.ledger.of("started"), "started")
    kill_between_sweeps(stack, first)  # its lock would outlast the window
    row = stack.settle(timeout=0.5, quiet=0.2).table.iloc[0]
    assert row["fate"] == "stranded"
    assert 2 < row["earliest_return"] <= 8 and row["latest_return"] == float("inf")

    census = time.monotonic()
    stack.start_worker("--concurrency=1")
    row = stack.settle(timeout=0.5, quiet=0.2).table.iloc[0]
    assert row["fate"] == "stranded"
    seen = time.monotonic()
    earliest, latest = row["earliest_return"], row["latest_return"]
    assert latest - earliest == pytest.approx(1.0)

    outcome = stack.settle(timeout=20)
    assert outcome.counts == {"duplicated": 1}
    came_back = stack.ledger.of("started")[-1]["at"]
    # Both bounds with half a second for a busy machine: the sweep itself takes time.
    assert census + earliest - 0.5 < came_back < seen + latest + 1.5


def test_settle_waits_for_a_copy_that_still_runs(stack: Stack, shop_directory: Path) -> None:
    impatient = (
        SHOP
        + """
app.conf.broker_transport_options = {
    "visibility_timeout": 1, "unacked_restore_interval": 1, "unacked_restore_throttle": 1
}
"""
    )
    (shop_directory / "shop.py").write_text(impatient)
    stack.start_worker("--concurrency=2")
    stack.load("shop").late.delay(2.5)
    outcome = stack.settle(timeout=30)
    assert outcome.counts == {"duplicated": 1}
    table = stack.deliveries()
    assert len(table) >= 2 and table["end"].eq("finished").all()
    assert table["restored"].notna().sum() == len(table) - 1
    assert table.attrs["visibility_timeout"] == 1


def test_held_by_a_live_worker_until_its_eta(stack: Stack) -> None:
    stack.start_worker("--concurrency=1")
    stack.load("shop").add.apply_async((1, 1), countdown=60)
    stack.wait_until(lambda: len(lens.unacked(stack.redis)), "held")
    outcome = stack.settle(timeout=1.5, quiet=0.3)
    assert (outcome.counts, outcome.verdict) == ({"held": 1}, "inconclusive")


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("to", ["celery", "unacked"])
def test_a_message_on_its_way_is_seen(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, when: str, to: str
) -> None:
    """A sweep or a fetch between two readings of the census."""
    client = stack.redis.client()
    order = stack.load("shop").add.delay(1, 1)
    raw = client.lindex("celery", 0)

    def move(place: str) -> None:
        client.delete("celery", "unacked")
        if place == "celery":
            client.lpush("celery", raw)
        else:
            client.hset("unacked", "tag", json.dumps([json.loads(raw), "", "celery"]))

    def moved_meanwhile(server: redis_server.RedisServer) -> dict[str, list[dict]]:
        if when == "before":
            move(to)
        found = read(server)
        move(to)
        return found

    read = lens.messages
    monkeypatch.setattr(lens, "messages", moved_meanwhile)
    move("unacked" if to == "celery" else "celery")
    seen = census(stack)
    assert seen is not None
    held = [entry.task_id for entry in seen.unacked]
    assert order.id in held + seen.queued.get("celery", [])


def test_queued_and_refused(shop_directory: Path) -> None:
    with Stack(shop_directory) as stack:
        shop = stack.load("shop")
        shop.add.delay(1, 1)
        stack.redis.config_set("maxmemory", "1")
        with pytest.raises(OperationalError, match="maxmemory"):
            shop.add.delay(1, 1)
        stack.redis.config_set("maxmemory", "0")
        assert stack.settle(timeout=3, quiet=0.2).counts == {"queued": 1, "refused": 1}


def test_recovered_when_the_producer_was_told_wrong(stack: Stack) -> None:
    shop = stack.load("shop")
    shop.app.conf.broker_transport_options = {"socket_timeout": 0.3, "max_retries": 1}
    shop.app.conf.task_publish_retry = False
    shop.add.delay(0, 0)  # opens the connection
    stack.redis.pause()
    with pytest.raises(Exception, match=r"(?i)time"):
        shop.nap.apply_async((0,), ignore_result=True)
    stack.redis.resume()
    stack.start_worker("--concurrency=1")
    assert stack.settle().counts == {"done": 1, "recovered": 1}


def test_unexpected_when_a_stranger_publishes(stack: Stack) -> None:
    stack.start_worker("--concurrency=1")
    stack.load("shop").add.delay(1, 1)
    code = (
        "import sys; sys.path.insert(0, '.'); import shop; shop.app.send_task('shop.add', (1, 1))"
    )
    environment = {**os.environ, "CELERY_BROKER_URL": stack.redis.url(0)}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    subprocess.run(
        [sys.executable, "-c", code], cwd=stack.directory, env=environment, check=True, timeout=30
    )
    outcome = stack.settle()
    assert outcome.counts == {"done": 1, "unexpected": 1}
    assert outcome.verdict == "inconclusive"


def test_what_a_worker_publishes_is_not_unexpected(stack: Stack) -> None:
    from celery import chord

    stack.start_worker("--concurrency=2")
    shop = stack.load("shop")
    assert chord([shop.add.s(i, i) for i in range(3)])(shop.total.s()).get(timeout=10) == 6
    assert stack.settle().counts == {"done": 4}
