"""What each maxmemory-policy does to a queue, to results and to a chord, when a cache fills up.

Writes evict_policies.csv beside this file: one row a run. A quarter of an hour on two cores.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import product

from celery import chord

from helpers import Stack, lens, private_directory
from helpers.faults import fill_cache
from helpers.trials import Case, Row, measure, provenance

POLICIES = ["noeviction", "allkeys-lru", "allkeys-lfu", "allkeys-random"]
POLICIES += ["volatile-lru", "volatile-lfu", "volatile-random", "volatile-ttl"]
FRESH, IDLE = 1.5, 300.0  # seconds between the last publish and the cache
IDLE_RUNS = 10
ORDERS, RESULTS = 200, 50
SHOP = """
from celery import Celery

app = Celery("shop")

@app.task
def charge(order):
    return order

@app.task
def total(amounts):
    return sum(amounts)
"""


def prepare(stack: Stack) -> float:
    """Results, a chord with one of two parts done, 200 waiting orders. Returns when it was done."""
    worker = stack.start_worker("--concurrency=1")
    shop = stack.load("shop")
    results = [shop.charge.delay(order) for order in range(RESULTS)]
    parcel = shop.charge.s(1).set(queue="parcels")  # nobody consumes it: this part stays open
    chord([shop.charge.s(1), parcel])(shop.total.s())
    for result in results:
        result.get(timeout=30)
    stack.settle(timeout=3, quiet=0.3)
    worker.kill()
    for order in range(ORDERS):
        shop.charge.delay(order)
    return time.monotonic()


def left(stack: Stack) -> dict[str, int]:
    """What is still there, without touching it."""
    results = lens.keys(stack.redis, db=1).index
    return {
        "queue": int("celery" in lens.keys(stack.redis).index),
        "results": sum(key.startswith("celery-task-meta-") for key in results),
        "chord_keys": sum(not key.startswith("celery-task-meta-") for key in results),
    }


def batches(n: int) -> Iterator[list[Case]]:
    """Fresh queues come one run at a time, to be equally fresh. Idle ones wait together."""

    def cases(idle: float, runs: Iterable[int]) -> list[Case]:
        keys = product(runs, POLICIES)
        return [{"policy": policy, "idle_seconds": idle, "run": run} for run, policy in keys]

    yield from (cases(FRESH, [run]) for run in range(n))
    yield cases(IDLE, range(min(n, IDLE_RUNS)))


def run(batch: list[Case]) -> Iterator[Row]:
    """The stacks of a batch wait side by side."""
    here = private_directory()
    (here / "shop.py").write_text(SHOP)
    with ExitStack() as together:
        waiting = []
        for number, case in enumerate(batch):
            redis = {"maxmemory": "5mb", "maxmemory-policy": case["policy"]}
            stack = together.enter_context(Stack(here, redis=redis, name=f"stack {number}"))
            waiting.append((case, stack, prepare(stack)))
        for case, stack, since in waiting:
            before = left(stack)
            time.sleep(max(0.0, since + case["idle_seconds"] - time.monotonic()))
            refused = fill_cache(stack.redis.client(), seconds_to_live=600)
            after = left(stack)
            yield {
                **case,
                "accepted": ORDERS,
                "lost": 0 if after["queue"] else ORDERS,
                "results_before": before["results"],
                "results_after": after["results"],
                "chord_keys_before": before["chord_keys"],
                "chord_keys_after": after["chord_keys"],
                "cache_writes_refused": refused,
                "evicted": stack.redis.client().info("stats")["evicted_keys"],
                **provenance(stack),
            }


if __name__ == "__main__":
    measure(__file__, batches, run)
