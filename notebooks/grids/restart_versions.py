"""Does a worker survive a restart of its Redis? By version of Celery, by pool, by what it holds.

Redis has every write on disk, gets `SIGKILL` and is back after a second. The workers are of other
environments, with nothing but Celery in them, made by this script in the user's cache: 5.7.0 is the
newest that pip found on 25 November 2026. Writes restart_versions.csv beside this file: one row a
run. Ten minutes on two cores.
"""

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from helpers import Stack
from helpers.faults import down
from helpers.process import poll
from helpers.trials import Case, Row, directory_with, measure, provenance
from restart.environments import python_with, redis_py
from restart.plain import PlainWorker, wait_quiet
from restart.shop import ON_DISK, SHOP, notes, places

# Celery and kombu: what pip installs beside each Celery, unless something else is asked for.
VERSIONS = [("5.5.3", "5.5.4"), ("5.6.3", "5.7.0"), ("5.7.0", "5.7.0")]
FAULTY = "5.7.0"  # which is measured with every pool
RUNNING_LATE = "one running, late ack"
HOLDS = [
    "nothing",
    "one running, early ack",
    RUNNING_LATE,
    "two prefetched",
    "a countdown",
    "a full window",
]
POOLS = {"prefork": 2, "threads": 2, "solo": 1}  # and how many tasks it runs at once
RUNS, HEADLINE_RUNS = 5, 20
DOWN, SECONDS, COUNTDOWN, MULTIPLIER = 1.0, 2.0, 4.0, 4  # the last is Celery's default
NEW = 1000  # the order that comes after the restart


def batches(n: int) -> Iterator[list[Case]]:
    """Each run has its own stack. The headline has 20 runs where the others have 5."""
    for run in range(n):
        for celery, kombu in VERSIONS:
            for pool in POOLS if celery == FAULTY else ["prefork"]:
                # Solo takes nothing while it runs: it prefetches nothing and fills no window.
                for holds in HOLDS if pool != "solo" else [*HOLDS[:3], "a countdown"]:
                    headline = pool == "prefork" and holds == RUNNING_LATE
                    if headline or run < RUNS:
                        key = {"celery": celery, "kombu": kombu, "pool": pool, "holds": holds}
                        yield [{**key, "run": run}]


def publish(shop: Any, holds: str, at_once: int) -> tuple[dict[str, int], int, int]:
    """Send the orders: the order of each id, how many will start, how many will be held."""
    sent = []
    if holds == "one running, early ack":
        sent = [shop.charge.delay(0, SECONDS)]
    elif holds == RUNNING_LATE:
        sent = [shop.charge_late.delay(0, SECONDS)]
    elif holds == "two prefetched":
        sent = [shop.charge.delay(order, SECONDS) for order in range(at_once + 2)]
    elif holds == "a countdown":
        sent = [shop.charge.apply_async((0, SECONDS), countdown=COUNTDOWN)]
    elif holds == "a full window":
        count = at_once * (MULTIPLIER + 1) + 2
        sent = [shop.charge.delay(order, SECONDS) for order in range(count)]
    held = {RUNNING_LATE: 1, "two prefetched": 2, "a countdown": 1}.get(holds, 0)
    if holds == "a full window":
        held = at_once * MULTIPLIER
    running = 0 if holds in ("nothing", "a countdown") else min(at_once, len(sent))
    return {result.id: order for order, result in enumerate(sent)}, running, held


def restart(batch: list[Case]) -> Iterator[Row]:
    """One run: a worker that holds something, the restart, one more order."""
    [case] = batch
    python = python_with(case["celery"], case["kombu"])
    with directory_with(shop=SHOP.format(options={})) as here:
        yield _run(case, here, python)


def _run(case: Case, here: Path, python: Path) -> Row:
    pool, holds = case["pool"], case["holds"]
    at_once = POOLS[pool]
    with Stack(here, redis=ON_DISK, backend=None, name="versions") as stack:
        shop = stack.load("shop")
        options = (f"--pool={pool}", f"--concurrency={at_once}")
        worker = PlainWorker(stack, here, python, *options)
        try:
            orders, running, held = publish(shop, holds, at_once)
            if pool == "solo" and running:  # it acknowledges at the end, early ack or late
                held = running
            stack.wait_until(lambda: len(notes(here, "started")) == running, "running")
            stack.wait_until(lambda: len(stack.redis.unacked()) == held, f"{held} held")
            with stack.redis.client() as client:
                if pool != "solo" or not running:  # it asks for the next message, or does not
                    full = holds == "a full window"
                    stack.wait_until(
                        lambda: (client.info("clients")["blocked_clients"] == 0) == full,
                        "polling, or not",
                    )
                polls = client.info("clients")["blocked_clients"] > 0
            died = time.monotonic()
            with down(stack.redis):
                time.sleep(DOWN)  # how long it is away
            poll(lambda: not worker.alive or worker.connections > 1, timeout=20)
            connected = time.monotonic() - died if worker.connections > 1 else None
            with suppress(Exception):  # whatever it says, the notes say if it ran
                shop.charge.delay(NEW, 0)
            poll(lambda: not worker.alive or NEW in notes(here, "finished"), timeout=15)
            done = set(orders.values()) | {NEW}
            wait_quiet(here, lambda: not worker.alive or done <= set(notes(here, "finished")))
            lives, new = worker.alive, NEW in notes(here, "finished")
            name, _, text = worker.unrecoverable.partition(": ")
            return {
                **case,
                "redis_py": redis_py(python),
                "orders": len(orders),
                "running": running,
                "held_before": held,
                "polls": polls,
                "lives": lives,
                "exit_code": worker.exit_code,
                "exception": name,
                "error": text,
                "seconds_to_reconnect": None if connected is None else round(connected, 1),
                **places(stack, here, orders),
                "new_order_done": new,
                **provenance(stack),
                "celery": case["celery"],
                "kombu": case["kombu"],
            }
        finally:
            worker.kill()


if __name__ == "__main__":
    measure(__file__, batches, restart, n=HEADLINE_RUNS, at_once=2)  # mostly they wait
