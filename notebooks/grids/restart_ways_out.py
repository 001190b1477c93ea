"""A busy worker of Celery 5.7.0 and a restart of its Redis: three ways out, and none, same load.

Redis has every write on disk, gets `SIGKILL` and is back after a second. Two orders run with late
ack, two are prefetched, two wait for their countdown, and two come after the restart. The
visibility timeout is in proportion to the tasks: 8 s, and none is in a worker's hands for longer
than 5. Writes restart_ways_out.csv beside this file: one row a run. Ten minutes on two cores.
"""

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from helpers import Stack
from helpers.faults import down
from helpers.process import poll
from helpers.trials import Case, Row, directory_with, measure, provenance
from restart.environments import python_with, redis_py
from restart.plain import PlainWorker, wait_quiet
from restart.shop import ON_DISK, PATCH, SHOP, notes, places

NONE, SUPERVISOR, OLDER, PATCHED = "none", "a supervisor", "Celery 5.6.3", "a patch"
WAYS_OUT = [NONE, SUPERVISOR, OLDER, PATCHED]
DOWN, SECONDS, COUNTDOWN, TIMEOUT = 1.0, 1.0, 4.0, 8
OPTIONS = {
    "visibility_timeout": TIMEOUT,
    "unacked_restore_interval": 1,
    "unacked_restore_throttle": 1,
}


def batches(n: int) -> Iterator[list[Case]]:
    """Each run has its own stack."""
    for run in range(n):
        for way_out in WAYS_OUT:
            celery = "5.6.3" if way_out == OLDER else "5.7.0"
            yield [{"way_out": way_out, "celery": celery, "kombu": "5.7.0", "run": run}]


def restart(batch: list[Case]) -> Iterator[Row]:
    """One run: six orders in a worker's hands, the restart, two more orders."""
    [case] = batch
    python = python_with(case["celery"], case["kombu"])
    patch = PATCH if case["way_out"] == PATCHED else ""
    with directory_with(shop=SHOP.format(options=OPTIONS) + patch) as here:
        yield {**_run(case, here, python), "celery": case["celery"], "kombu": case["kombu"]}


def _run(case: Case, here: Path, python: Path) -> Row:
    with Stack(here, redis=ON_DISK, backend=None, name="ways out") as stack:
        shop = stack.load("shop")
        supervised = case["way_out"] == SUPERVISOR
        worker = PlainWorker(stack, here, python, "--concurrency=2", supervised=supervised)
        try:
            sent = [shop.charge_late.delay(order, SECONDS) for order in range(4)]
            sent += [
                shop.charge.apply_async((order, SECONDS), countdown=COUNTDOWN) for order in (4, 5)
            ]
            stack.wait_until(lambda: len(notes(here, "started")) == 2, "running")
            stack.wait_until(lambda: len(stack.redis.unacked()) == 6, "holding six")
            with stack.redis.client() as client:  # it asks for the next message
                stack.wait_until(lambda: client.info("clients")["blocked_clients"] > 0, "polling")
            died = time.monotonic()
            with down(stack.redis):
                time.sleep(DOWN)  # how long it is away
            poll(lambda: worker.exits or worker.connections > 1, timeout=20)
            for order in (6, 7):
                with suppress(Exception):  # whatever it says, the notes say if it ran
                    sent.append(shop.charge.delay(order, SECONDS))
            orders = {result.id: order for order, result in enumerate(sent)}
            done = set(orders.values())
            # A worker that has exited for good notes nothing more.
            wait_quiet(here, lambda: done <= set(notes(here, "finished")), quiet=2 * TIMEOUT)
            seconds = time.monotonic() - died if done <= set(notes(here, "finished")) else None
            return {
                **case,
                "redis_py": redis_py(python),
                "visibility_timeout": TIMEOUT,
                "orders": len(orders),
                "lives": worker.alive,
                "exits": len(worker.exits),
                "exit_code": worker.exits[0] if worker.exits else None,
                "exception": worker.unrecoverable.partition(":")[0],
                "worker_starts": worker.starts,
                **places(stack, here, orders),
                "seconds_until_done": None if seconds is None else round(seconds, 1),
                **provenance(stack),
            }
        finally:
            worker.kill()


if __name__ == "__main__":
    measure(__file__, batches, restart, at_once=2)  # mostly they wait
