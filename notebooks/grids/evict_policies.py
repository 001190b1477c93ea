"""What each maxmemory-policy does to a queue, to results and to a chord, when a cache fills up.

Writes evict_policies.csv beside this file: one row a run. A quarter of an hour on two cores.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
from celery import chord
from redis import ResponseError

from helpers import Stack, lens, private_directory
from helpers.trials import provenance

POLICIES = ["noeviction", "allkeys-lru", "allkeys-lfu", "allkeys-random"]
POLICIES += ["volatile-lru", "volatile-lfu", "volatile-random", "volatile-ttl"]
FRESH, IDLE = 1.5, 300.0  # seconds between the last publish and the cache
FRESH_RUNS, IDLE_RUNS = 20, 10
ORDERS, RESULTS, PAGES = 200, 50, 5000
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


def fill_cache(stack: Stack) -> int:
    """Write the pages, each to live ten minutes; how many the server refused."""
    cache, refused = stack.redis.client(), 0
    for page in range(PAGES):
        try:
            cache.set(f"page:{page}", "x" * 3000, ex=600)
        except ResponseError:  # OOM command not allowed
            refused += 1
    return refused


def batch(idle: float, runs: range) -> Iterator[dict[str, Any]]:
    """Each policy in each of `runs`. The stacks wait side by side."""
    here = private_directory()
    (here / "shop.py").write_text(SHOP)
    with ExitStack() as together:
        waiting = []
        for run, policy in product(runs, POLICIES):
            redis = {"maxmemory": "5mb", "maxmemory-policy": policy}
            stack = together.enter_context(Stack(here, redis=redis, name=f"{policy}-{run}"))
            waiting.append((stack, policy, run, prepare(stack)))
        for stack, policy, run, since in waiting:
            before = left(stack)
            time.sleep(max(0.0, since + idle - time.monotonic()))
            refused, after = fill_cache(stack), left(stack)
            yield {
                "policy": policy,
                "idle_seconds": idle,
                "run": run,
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


def main() -> None:
    rows = []
    # Fresh queues come one run at a time, so that all are equally fresh. Idle ones wait together.
    batches = [(FRESH, range(run, run + 1)) for run in range(FRESH_RUNS)]
    batches.append((IDLE, range(IDLE_RUNS)))
    for idle, runs in batches:
        print(f"idle {idle:g} s, run {runs}", file=sys.stderr, flush=True)
        rows += batch(idle, runs)
    pd.DataFrame(rows).to_csv(Path(__file__).with_suffix(".csv"), index=False)


if __name__ == "__main__":
    main()
