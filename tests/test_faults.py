"""Each fault does to real processes what its name says."""

import signal
import time
from pathlib import Path

import psutil
import pytest
import redis

from helpers import Stack
from helpers.errors import StackError
from helpers.faults import (
    cut_connections,
    die_between_pop_and_hold,
    down,
    evict,
    fill_cache,
    kill_between_sweeps,
)

SWEEPS = """
app.conf.task_acks_late = True
app.conf.broker_transport_options = {
    "visibility_timeout": 1, "unacked_restore_interval": 0.1, "unacked_restore_throttle": 1
}
"""


def test_a_kill_between_sweeps_leaves_no_lock(stack: Stack, shop_directory: Path) -> None:
    with (shop_directory / "shop.py").open("a") as file:
        file.write(SWEEPS)
    worker = stack.start_worker("--concurrency=1")
    task = stack.load("shop").nap.delay(60)
    stack.wait_for("started", task)
    with stack.redis.client() as client:
        client.set("unacked_mutex", "a sweep", px=300)  # as if the worker held it now
        kill_between_sweeps(stack, worker)
        assert not worker.alive and not client.exists("unacked_mutex")
    stack.start_worker("--concurrency=1", "--queues=other")
    stack.wait_for("restored", task, timeout=3)


@pytest.mark.parametrize("message", [0, 1])
def test_death_between_pop_and_hold(stack: Stack, shop_directory: Path, message: int) -> None:
    options = die_between_pop_and_hold(shop_directory, message)
    worker = stack.start_worker("--concurrency=1", *options, app="shop")
    shop = stack.load("shop")
    tasks = [shop.late.delay(60) for _ in range(3)]
    worker.wait()
    assert worker.exit_code == -signal.SIGKILL and worker.children() == []
    fates = stack.settle(timeout=1, quiet=0.1).table["fate"]
    expected = ["stranded"] * message + ["lost"] + ["queued"] * (2 - message)
    assert [fates[task.id] for task in tasks] == expected


def test_a_cache_that_fills(shop_directory: Path) -> None:
    settings = {"maxmemory": "3mb", "maxmemory-policy": "volatile-ttl"}
    with Stack(shop_directory, redis=settings, backend=None) as stack:
        cache = stack.redis.client()
        assert fill_cache(cache, pages=10, size=100, seconds_to_live=60) == 0
        assert {cache.ttl(key) for key in cache.scan_iter("page:*")} <= {59, 60}
        assert fill_cache(cache, pages=1500) > 500  # nothing more expires, so it refuses
        assert not cache.exists("page:1499") and cache.strlen("page:0") == 3000


def test_an_eviction_takes_the_whole_queue(stack: Stack) -> None:
    shop = stack.load("shop")
    for _ in range(3):
        shop.nap.delay(0)
    evict(stack.redis, "celery")
    assert stack.settle(timeout=1, quiet=0.1).counts == {"lost": 3}
    with pytest.raises(StackError, match="redis has no key celery in database 0"):
        evict(stack.redis, "celery")


def test_a_server_that_is_down_for_a_moment(shop_directory: Path) -> None:
    with Stack(shop_directory, redis={"appendonly": "yes"}, backend=None) as stack:
        task = stack.load("shop").nap.delay(0)
        with down(stack.redis):
            assert not stack.redis.alive
            with pytest.raises(redis.ConnectionError):
                stack.redis.client().ping()
        stack.start_worker("--concurrency=1")
        stack.wait_for("finished", task)


def test_a_block_that_fails_leaves_no_server_down(stack: Stack) -> None:
    with pytest.raises(ZeroDivisionError), down(stack.redis):
        1 / 0  # noqa: B018
    assert stack.redis.client().ping()


def test_connections_that_are_cut(stack: Stack) -> None:
    worker = stack.start_worker("--concurrency=1")
    other = stack.start_worker("--concurrency=1", "--queues=other")
    shop = stack.load("shop")
    running, children = shop.nap.delay(0.5), worker.children()
    stack.wait_for("started", running)
    assert cut_connections(worker, stack.redis) >= 2
    stack.wait_until(lambda: "Connection to broker lost" in worker.log.text, "noticed")
    after = shop.add.delay(1, 2)
    for task in (running, after):
        stack.wait_for("finished", task)
    assert worker.alive and worker.children() == children  # they live, and connect again
    assert "Connection to broker lost" not in other.log.text


def test_no_connection_to_cut(stack: Stack) -> None:
    cache = stack.start_server("cache")
    worker = stack.start_worker("--concurrency=1")
    with pytest.raises(StackError, match="worker1 has no connection to cache"):
        cut_connections(worker, cache)


def test_a_signal_to_the_group_reaches_the_children(stack: Stack) -> None:
    worker = stack.start_worker("--concurrency=1")
    children = worker.children()
    task = stack.load("shop").nap.delay(60)
    stack.wait_for("started", task)
    worker.signal_group(signal.SIGTERM)
    worker.wait()  # a signal to the parent alone would wait a minute for the task
    assert not any(psutil.pid_exists(child) for child in children)
    assert stack.settle(timeout=1, quiet=0.1).counts == {"failed": 1}
    with pytest.raises(StackError, match="worker1 has ended"):
        worker.signal_group(signal.SIGTERM)


def test_a_frozen_worker_receives_nothing_until_it_thaws(stack: Stack) -> None:
    worker = stack.start_worker("--concurrency=1")
    shop = stack.load("shop")
    stack.wait_for("finished", shop.add.delay(1, 2))
    worker.pause()
    task = shop.add.delay(3, 4)
    time.sleep(0.3)
    assert worker.alive and stack.ledger.count("received") == 1
    worker.resume()
    stack.wait_for("finished", task)
