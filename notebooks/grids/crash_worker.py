"""What becomes of one order when `SIGKILL` hits the pool's child or the whole worker.

Each setting, each process, each moment that this process can be in; *acknowledged* means over, too.
Writes crash_worker.csv beside this file: one row a run. Twenty minutes on two cores.
"""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import product

from helpers import Stack, effects, private_directory
from helpers.faults import die_between_pop_and_hold
from helpers.trials import Case, Row, measure, provenance

SETTINGS = {
    "early ack (default)": "",
    "late ack": "acks_late=True",
    "late ack + reject on worker lost": "acks_late=True, reject_on_worker_lost=True",
    "early ack + retry on worker lost": "retry_on_worker_lost=True, default_retry_delay=1",
    "late ack + retry on worker lost": (
        "acks_late=True, retry_on_worker_lost=True, default_retry_delay=1"
    ),
}
CHILD, WORKER = "pool child killed", "whole worker killed"
MOMENTS = {
    CHILD: ["running", "effect done", "acknowledged"],
    WORKER: ["popped", "held", "running", "effect done", "acknowledged"],
}
# A live worker keeps what it holds, however long its pool takes to notice a dead child. What a dead
# worker held has to come back while we wait.
TIMEOUT = {CHILD: 60, WORKER: 4}
SHOP = """
import sqlite3
import time

from celery import Celery

app = Celery("shop")
app.conf.broker_transport_options = {{
    "visibility_timeout": {timeout}, "unacked_restore_interval": 1, "unacked_restore_throttle": 1
}}

@app.task({options})
def charge(order):
    time.sleep(0.5)
    with sqlite3.connect("charges.db") as database:
        database.execute("INSERT INTO charges VALUES (?)", (order,))
    time.sleep(0.3)
"""


def batches(n: int) -> Iterator[list[Case]]:
    """Each run has its own stack."""
    cells = [(process, moment) for process in MOMENTS for moment in MOMENTS[process]]
    for run, setting, (process, moment) in product(range(n), SETTINGS, cells):
        yield [{"setting": setting, "process": process, "moment": moment, "run": run}]


def crash(batch: list[Case]) -> Iterator[Row]:
    """One run: three orders, one worker with one child, the fault at the second order."""
    [case] = batch
    setting, process, moment = case["setting"], case["process"], case["moment"]
    here = private_directory()
    code = SHOP.format(timeout=TIMEOUT[process], options=SETTINGS[setting])
    (here / "shop.py").write_text(code)
    charges = here / "charges.db"
    with closing(sqlite3.connect(charges)) as database:
        database.execute("CREATE TABLE charges (number)")
    with Stack(here) as stack:
        options = die_between_pop_and_hold(here, message=1) if moment == "popped" else ()
        worker = stack.start_worker("--concurrency=1", *options, app="shop")
        shop = stack.load("shop")
        orders = [shop.charge.delay(number) for number in range(3)]
        target = orders[1]
        if moment == "popped":
            worker.wait()
        else:
            event = {"held": "received", "acknowledged": "finished"}.get(moment, "started")
            stack.wait_for(event, target)
            # Early: its ack follows the start. Late: its ack follows the end.
            if moment == "acknowledged" or (moment != "held" and "late" not in setting):
                stack.wait_for("acknowledged", target)
            if moment == "effect done":
                stack.wait_until(
                    lambda: 1 in effects(charges, "charges", "number").index, "charged"
                )
            worker.kill() if process == WORKER else worker.kill_child()
        killed = time.monotonic()
        after = stack.settle(timeout=30, quiet=0.5).table.loc[target.id]
        settled = time.monotonic() - killed
        if process == WORKER:
            stack.start_worker("--concurrency=1", app="shop")
        end = stack.settle(timeout=30, quiet=0.5).table.loc[target.id]
        yield {
            **case,
            "fate": after["fate"],
            "final_fate": end["fate"],
            "starts": end["starts"],
            "charged": int(effects(charges, "charges", "number").get(1, 0)),
            "seconds_to_settle": round(settled, 1),
            **provenance(stack),
        }


if __name__ == "__main__":
    measure(__file__, batches, crash, at_once=4)  # mostly they wait
