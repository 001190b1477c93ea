"""What a prefork worker does while its Redis is full of orders, and what it leaves in `unacked`.

With `broker_channel_error_retry`, and without; early and late ack. Orders are published until ten
seconds after the first refusal, so memory stays full. Then Redis gets room; a worker that has ended
is replaced. The visibility timeout is an hour: what is in `unacked` when all is quiet stays there.
Writes full_redis.csv beside this file: one row a run. Twenty minutes on two cores.
"""

import time
from collections.abc import Iterator
from itertools import product

from celery import Celery

from helpers import Stack
from helpers.process import poll
from helpers.trials import Case, Row, directory_with, fate_columns, measure, provenance

RUNS, FULL_FOR, ROOM = 10, 10.0, "100mb"
ACKS = ["early ack", "late ack"]
REDIS = {"maxmemory": "2200kb", "maxmemory-policy": "noeviction"}
SLOW = 20  # orders that take a second, so that the queue grows
FATES = ("done", "duplicated", "stranded", "queued", "lost")
SHOP = """
import time

from celery import Celery

app = Celery("shop")
app.conf.task_acks_late = {late}
app.conf.broker_channel_error_retry = {retry}

@app.task(name="shop.charge", ignore_result=True)
def charge(order, bank):
    time.sleep(bank)
"""


def batches(n: int) -> Iterator[list[Case]]:
    """Each run has its own stack."""
    for run, ack, retry in product(range(min(n, RUNS)), ACKS, (False, True)):
        yield [{"ack": ack, "broker_channel_error_retry": retry, "run": run}]


def publish(app: Celery) -> tuple[int, int]:
    """Publish orders until Redis has been full for a while: how many calls returned, and raised."""
    accepted = refused = 0
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            app.tasks["shop.charge"].delay(accepted, bank=1 if accepted < SLOW else 0.01)
            accepted += 1
        except Exception:  # kombu 5.7 does not always raise the same
            refused += 1
            deadline = min(deadline, time.monotonic() + FULL_FOR)
    return accepted, refused


def fill(batch: list[Case]) -> Iterator[Row]:
    """One run: a full Redis, room, and what became of the orders."""
    [case] = batch
    late, retry = case["ack"] == "late ack", case["broker_channel_error_retry"]
    with (
        directory_with(shop=SHOP.format(late=late, retry=retry)) as here,
        Stack(here, redis=REDIS, backend=None, name="full") as stack,
    ):
        worker = stack.start_worker("--concurrency=1")
        accepted, refused = publish(stack.load("shop").app)
        poll(lambda: not worker.alive, timeout=10)  # it may be about to end
        lives, code = worker.alive, worker.exit_code
        finished = stack.ledger.count("finished")
        stack.redis.config_set("maxmemory", ROOM)
        if not lives:
            stack.start_worker("--concurrency=1")
        outcome = stack.settle(timeout=90, quiet=5)
        table = outcome.table[outcome.table["accepted"]]
        ran = table["finishes"] > 0
        yield {
            **case,
            "accepted": accepted,
            "refused": refused,
            "lives": lives,
            "exit_code": code,
            "finished_before_room": finished,
            **fate_columns(table["fate"], FATES),
            "in_unacked": len(stack.redis.unacked()),
            "ran_and_in_unacked": int((ran & (table["place"] == "unacked")).sum()),
            "verdict": outcome.verdict,
            **provenance(stack),
        }


if __name__ == "__main__":
    measure(__file__, batches, fill, n=RUNS)
