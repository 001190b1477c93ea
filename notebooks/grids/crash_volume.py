"""How much one `SIGKILL` of a worker costs, with 100, 200 and 400 orders in its queue.

Early ack, four children, the default prefetch. Writes crash_volume.csv beside this file: one row a
run. Three minutes on two cores.
"""

import sys
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from helpers import Stack, private_directory
from helpers.trials import provenance

RUNS, VOLUMES, CONCURRENCY = 20, (100, 200, 400), 4
NUMBER = 40  # the kill is aimed at the start of this order
SHOP = """
import time

from celery import Celery

app = Celery("shop")

@app.task(ignore_result=True)
def charge(order):
    time.sleep(0.05)
"""


def crash(volume: int, run: int) -> dict[str, Any]:
    here = private_directory()
    (here / "shop.py").write_text(SHOP)
    with Stack(here, backend=None) as stack:
        shop = stack.load("shop")
        orders = [shop.charge.delay(number) for number in range(volume)]
        worker = stack.start_worker(f"--concurrency={CONCURRENCY}")
        stack.wait_for("started", orders[NUMBER], timeout=30)
        worker.kill()
        outcome = stack.settle(timeout=5, quiet=0.2)
        counts, lost = outcome.counts, outcome.table.query("fate == 'lost'")
        return {
            "orders": volume,
            "run": run,
            "concurrency": CONCURRENCY,
            "prefetch_multiplier": 4,  # the default of worker_prefetch_multiplier
            **{fate: counts.get(fate, 0) for fate in ("done", "lost", "stranded", "queued")},
            "lost_before_start": int((lost["starts"] == 0).sum()),
            **provenance(stack),
        }


def main() -> None:
    rows = []
    for run, volume in product(range(RUNS), VOLUMES):
        rows.append(crash(volume, run))
        print(f"{len(rows)} of {RUNS * len(VOLUMES)}", end="\r", file=sys.stderr, flush=True)
    pd.DataFrame(rows).to_csv(Path(__file__).with_suffix(".csv"), index=False)


if __name__ == "__main__":
    main()
