"""The seam: a stack with a broker that is no Redis. Real workers, nothing of Redis but its name."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import Stack
from helpers.errors import StackError
from helpers.settle import census
from tests.brokers.filesystem import Filesystem


@pytest.fixture
def stack(shop_directory: Path) -> Iterator[Stack]:
    with Stack(shop_directory, broker=Filesystem, backend=None) as stack:
        yield stack


def test_published_run_and_counted_by_a_real_worker(stack: Stack) -> None:
    shop = stack.load("shop")
    for number in range(20):
        shop.add.delay(number, 1)
    assert stack.settle(timeout=1, quiet=0.2).counts == {"queued": 20}
    worker = stack.start_worker("--concurrency=2")
    outcome = stack.settle(timeout=15)
    assert outcome.counts == {"done": 20}
    assert {event["pid"] for event in stack.ledger.of("received")} == {worker.pid}
    assert len(stack.deliveries()) == 20
    assert "filesystem of kombu" in stack.broker.version


def test_waits_for_a_moment_and_sees_a_loss(stack: Stack) -> None:
    """An early ack or a late one: this transport keeps no copy of what a worker took."""
    worker = stack.start_worker("--concurrency=1")
    late = stack.load("shop").late.delay(30)
    stack.wait_for("started", late)
    stack.wait_for("acknowledged", late)
    running = stack.settle(timeout=0.5, quiet=0.2)
    assert running.counts == {"held": 1}
    worker.kill()
    assert stack.settle(timeout=1, quiet=0.2).counts == {"lost": 1}


def test_who_consumes_is_asked_of_the_worker(stack: Stack) -> None:
    stack.load("shop").add.apply_async((1, 1), queue="parcels")
    stack.start_worker("--concurrency=1")
    assert stack.settle(timeout=1, quiet=0.2).table["where"].tolist() == [
        "queue parcels, no consumer"
    ]
    stack.start_worker("--concurrency=1", "--queues=parcels")
    assert stack.settle().counts == {"done": 1}
    assert [event["queues"] for event in stack.ledger.of("ready")] == [["celery"], ["parcels"]]


def test_a_silent_broker_is_no_verdict(stack: Stack) -> None:
    stack.load("shop").add.delay(1, 1)
    shutil.rmtree(stack.broker.broker_transport_options["data_folder_in"])
    assert census(stack) is None
    assert stack.settle(timeout=0.5, quiet=0.1).verdict == "inconclusive"


def test_what_only_redis_has_says_so(shop_directory: Path) -> None:
    with pytest.raises(StackError, match="backend=None"):
        Stack(shop_directory, broker=Filesystem)
    with pytest.raises(StackError, match="give one"):
        Stack(shop_directory, broker=Filesystem, redis={"maxmemory": "5mb"}, backend=None)


def test_results_in_a_redis_of_their_own(shop_directory: Path) -> None:
    with Stack(shop_directory, broker=Filesystem, backend={}) as stack:
        stack.start_worker("--concurrency=1")
        assert stack.load("shop").add.delay(2, 3).get(timeout=15) == 5
        assert stack.processes() == ["results", "worker1"]
