"""How much one `SIGKILL` of a worker costs, with 100, 200 and 400 orders in its queue.

Early ack, four children, the default prefetch. Writes crash_volume.csv beside this file: one row a
run. Three minutes on two cores.
"""

from collections.abc import Iterator

from helpers import Stack, private_directory
from helpers.trials import Case, Row, measure, provenance

VOLUMES, CONCURRENCY = (100, 200, 400), 4
NUMBER = 40  # the kill is aimed at the start of this order
SHOP = """
import time

from celery import Celery

app = Celery("shop")

@app.task(ignore_result=True)
def charge(order):
    time.sleep(0.05)
"""


def batches(n: int) -> Iterator[list[Case]]:
    """One run after the other."""
    for run in range(n):
        for volume in VOLUMES:
            yield [{"orders": volume, "run": run}]


def crash(batch: list[Case]) -> Iterator[Row]:
    """One run: the orders, one worker, the kill."""
    [case] = batch
    here = private_directory()
    (here / "shop.py").write_text(SHOP)
    with Stack(here, backend=None) as stack:
        shop = stack.load("shop")
        orders = [shop.charge.delay(number) for number in range(case["orders"])]
        worker = stack.start_worker(f"--concurrency={CONCURRENCY}")
        stack.wait_for("started", orders[NUMBER], timeout=30)
        worker.kill()
        outcome = stack.settle(timeout=5, quiet=0.2)
        counts, lost = outcome.counts, outcome.table.query("fate == 'lost'")
        yield {
            **case,
            "concurrency": CONCURRENCY,
            "prefetch_multiplier": 4,  # the default of worker_prefetch_multiplier
            **{fate: counts.get(fate, 0) for fate in ("done", "lost", "stranded", "queued")},
            "lost_before_start": int((lost["starts"] == 0).sum()),
            **provenance(stack),
        }


if __name__ == "__main__":
    measure(__file__, batches, crash)
