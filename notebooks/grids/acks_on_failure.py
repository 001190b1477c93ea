"""What `task_acks_on_failure` and `task_acks_on_timeout` do on Redis when they are False.

A task that raises, and one that passes its hard time limit, watched for six seconds after their
first end: how often received, and what is left of the message. Prefork, as no other pool has time
limits that end a task. Writes acks_on_failure.csv beside this file: one row a run. Three minutes on
two cores.
"""

import time
from collections.abc import Iterator
from itertools import product

from helpers import Stack
from helpers.trials import Case, Row, directory_with, measure, provenance

ENDS = {"raises": "refuse", "hard time limit": "hang"}
LATE = {"task_acks_late": True}
SETTINGS = {
    "late ack": LATE,
    "late ack, task_acks_on_failure=False": {**LATE, "task_acks_on_failure": False},
    "late ack, task_acks_on_timeout=False": {**LATE, "task_acks_on_timeout": False},
    "early ack, both False": {"task_acks_on_failure": False, "task_acks_on_timeout": False},
}
RUNS, WATCHED, LIMIT = 5, 6.0, 1
SHOP = """
import time

from celery import Celery

app = Celery("shop")
app.conf.update({settings})

@app.task
def refuse(order):
    raise ValueError("no such order")

@app.task(time_limit={limit})
def hang(order):
    time.sleep(60)
"""


def batches(n: int) -> Iterator[list[Case]]:
    """Each run has its own stack."""
    for run, setting, end in product(range(min(n, RUNS)), SETTINGS, ENDS):
        yield [{"setting": setting, "end": end, "run": run}]


def fail(batch: list[Case]) -> Iterator[Row]:
    """One run: one worker, one task, what is left of it."""
    [case] = batch
    settings = SETTINGS[case["setting"]]
    with (
        directory_with(shop=SHOP.format(settings=settings, limit=LIMIT)) as here,
        Stack(here, name="acks") as stack,
    ):
        stack.start_worker("--concurrency=1")
        shop = stack.load("shop")
        order = getattr(shop, ENDS[case["end"]]).delay(0)
        stack.wait_until(lambda: order.state == "FAILURE", "failed")
        time.sleep(WATCHED)
        waiting = sum(list(ids).count(order.id) for ids in stack.redis.queued().values())
        held = sum(entry.task_id == order.id for entry in stack.redis.unacked())
        yield {
            **case,
            "seconds_watched": WATCHED,
            "time_limit": LIMIT,
            "received": stack.ledger.count("received"),
            "state": order.state,
            "in_queue": waiting,
            "in_unacked": held,
            **provenance(stack),
        }


if __name__ == "__main__":
    measure(__file__, batches, fail, n=RUNS, at_once=4)  # mostly they wait
