"""A stack behind Redis Sentinel: the master dies or hangs, and the tasks are counted all the same.

Published through a connection of its own each time: after a failover, the pool still has those to
the old master (`kombu/pools.py` keeps one for each URL).
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import Stack
from helpers.errors import BrokerSilent
from helpers.settle import count
from tests.brokers.sentinel import Sentinel


@pytest.fixture
def stack(shop_directory: Path) -> Iterator[Stack]:
    with Stack(shop_directory, broker=Sentinel, backend=None) as stack:
        yield stack


@pytest.fixture
def broker(stack: Stack) -> Sentinel:
    assert isinstance(stack.broker, Sentinel)
    return stack.broker


def publish(stack: Stack, number: int) -> None:
    add = stack.load("shop").add
    with add.app.connection_for_write() as connection:
        for n in range(number):
            add.apply_async((n, 1), connection=connection)


def until_promoted(stack: Stack, broker: Sentinel) -> None:
    second = broker.servers[1]

    def promoted() -> bool:
        return broker.master is second and second.client().role()[0] == "master"

    stack.wait_until(promoted, "promoted", timeout=20)


def test_published_run_and_counted(stack: Stack, broker: Sentinel) -> None:
    publish(stack, 10)
    assert stack.settle(timeout=1, quiet=0.2).counts == {"queued": 10}
    stack.start_worker("--concurrency=1")
    assert stack.settle().counts == {"done": 10}
    assert stack.processes() == ["redis-a", "redis-b", "sentinel", "worker1"]
    assert broker.version.endswith("with Sentinel")
    held = stack.load("shop").late.delay(30)
    stack.wait_for("started", held)
    assert stack.settle(timeout=0.5, quiet=0.2).counts == {"done": 10, "held": 1}


def test_a_master_that_dies_is_replaced(stack: Stack, broker: Sentinel) -> None:
    stack.start_worker("--concurrency=1")
    publish(stack, 5)
    assert stack.settle().counts == {"done": 5}
    broker.master.kill()
    until_promoted(stack, broker)
    publish(stack, 5)
    assert stack.settle(timeout=30).counts == {"done": 10}
    assert stack.processes() == ["redis-b", "sentinel", "worker1"]


def test_what_waited_in_the_dead_master_waits_in_the_new_one(
    stack: Stack, broker: Sentinel
) -> None:
    publish(stack, 5)
    first = broker.master
    with first.client() as client:
        client.execute_command("WAIT", 1, 5000)
    first.kill()
    until_promoted(stack, broker)
    assert stack.settle(timeout=1, quiet=0.2).counts == {"queued": 5}
    stack.start_worker("--concurrency=1")
    assert stack.settle().counts == {"done": 5}


def test_a_worker_does_not_follow_a_master_that_hangs(stack: Stack, broker: Sentinel) -> None:
    """No answer is no closed connection: it waits at the old one while its tasks wait at the new.

    `settle` heals: the old master wakes up, is made a replica, and lets the worker go.
    """
    worker = stack.start_worker("--concurrency=1")
    publish(stack, 5)
    assert stack.settle().counts == {"done": 5}
    broker.master.pause()
    until_promoted(stack, broker)
    publish(stack, 5)
    with pytest.raises(Exception, match="not all done"):
        stack.wait_until(lambda: len(stack.ledger.of("finished")) > 5, "all done", timeout=4)
    outcome = count(stack)
    assert outcome.counts == {"done": 5, "queued": 5} and outcome.verdict == "inconclusive"
    assert worker.alive
    assert stack.settle(timeout=40).counts == {"done": 10}


def test_no_sentinel_is_no_verdict(stack: Stack, broker: Sentinel) -> None:
    publish(stack, 1)
    broker.sentinel.kill()
    with pytest.raises(BrokerSilent, match="sentinel"):
        broker.queued()
    assert stack.settle(timeout=0.5, quiet=0.1).verdict == "inconclusive"
