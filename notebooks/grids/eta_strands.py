"""How many messages with a countdown one worker holds, and one `SIGKILL` strands.

One child, the default prefetch, and some values of `worker_eta_task_limit`. When the worker holds
what it can, one order without a countdown is sent: does it get past them?
Writes eta_strands.csv beside this file: one row a run. Three minutes on two cores.
"""

from collections.abc import Iterator
from itertools import product

from helpers import Stack
from helpers.process import poll
from helpers.trials import Case, Row, directory_with, fate_columns, measure, provenance

LIMITS, COUNTDOWNS = {"no limit": None, "16": 16, "64": 64}, (50, 200)
RUNS, COUNTDOWN, PATIENCE = 5, 600, 3.0
SHOP = """
from celery import Celery

app = Celery("shop")
app.conf.task_ignore_result = True
app.conf.worker_eta_task_limit = {limit}

@app.task
def remind(order):
    pass

@app.task
def charge(order):
    pass
"""


def batches(n: int) -> Iterator[list[Case]]:
    """One run after the other."""
    for run, limit, number in product(range(min(n, RUNS)), LIMITS, COUNTDOWNS):
        yield [{"eta_task_limit": limit, "countdowns": number, "run": run}]


def held(stack: Stack) -> int:
    """How many messages the worker holds, once it takes no more."""
    seen = -1
    while seen != (seen := len(stack.redis.unacked())):
        poll(lambda: False, timeout=1)
    return seen


def strand(batch: list[Case]) -> Iterator[Row]:
    """One run: the countdowns, one worker, one order without a countdown, the kill."""
    [case] = batch
    with (
        directory_with(shop=SHOP.format(limit=LIMITS[case["eta_task_limit"]])) as here,
        Stack(here, backend=None, name="eta") as stack,
    ):
        worker = stack.start_worker("--concurrency=1")
        shop = stack.load("shop")
        for order in range(case["countdowns"]):
            shop.remind.apply_async((order,), countdown=COUNTDOWN)
        before = held(stack)
        order = shop.charge.delay(0)
        passed = poll(lambda: stack.ledger.count("finished"), timeout=PATIENCE)
        worker.kill()
        outcome = stack.settle(timeout=5, quiet=0.2)
        reminders = outcome.table.drop(index=order.id)["fate"]
        yield {
            **case,
            "concurrency": 1,
            "prefetch_multiplier": 4,  # the default of worker_prefetch_multiplier
            "held": before,
            "order_without_countdown": "done" if passed else "waits",
            **fate_columns(reminders, ("stranded", "queued")),
            **provenance(stack),
        }


if __name__ == "__main__":
    measure(__file__, batches, strand, n=RUNS, at_once=2)  # mostly they wait
