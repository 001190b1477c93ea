"""What a warm, a cold and a soft shutdown leave of the orders in hand, by pool.

One order runs, acknowledged early or late, and a second one is held. The signal goes to the parent
alone. The soft shutdown has a short order, which ends in time, and one that does not; it is tried
with SIGTERM too, as it is and with REMAP_SIGTERM. Prefork in all cases, other pools warm and cold.
Writes stop_worker.csv beside this file: one row a run. Five minutes on two cores.
"""

import os
import signal
import time
from collections.abc import Iterator
from itertools import product

from helpers import Stack
from helpers.trials import Case, Row, directory_with, measure, provenance
from helpers.worker import Worker

SHORT, LONG, SOFT, PATIENCE = 1.0, 6.0, 3.0, 40.0  # seconds
TERM, QUIT, REMAPPED = "SIGTERM", "SIGQUIT", "SIGTERM, REMAP_SIGTERM=SIGQUIT"
# The signal, worker_soft_shutdown_timeout, how long the running order takes.
PREFORK = [
    (TERM, 0.0, LONG),
    (QUIT, 0.0, LONG),
    (QUIT, SOFT, SHORT),
    (QUIT, SOFT, LONG),
    (TERM, SOFT, LONG),
    (REMAPPED, SOFT, LONG),
]
CELLS = [("prefork", *cell) for cell in PREFORK] + [
    (pool, *cell) for pool in ("threads", "solo", "gevent", "eventlet") for cell in PREFORK[:2]
]
ACKS = ("early ack", "late ack")
RUNS = 5
SHOP = """
import time

from celery import Celery

app = Celery("shop")
app.conf.task_acks_late = {late}
app.conf.worker_soft_shutdown_timeout = {soft}

@app.task
def charge(order, seconds):
    try:
        time.sleep(seconds)
    except BaseException as error:
        with open("raised.txt", "w") as file:
            file.write(type(error).__name__)
        raise
"""


def batches(n: int) -> Iterator[list[Case]]:
    """Each run has its own stack."""
    for run, (pool, sent, soft, seconds), ack in product(range(min(n, RUNS)), CELLS, ACKS):
        key = {"pool": pool, "signal": sent, "soft_timeout": soft, "task_seconds": seconds}
        yield [{**key, "ack": ack, "run": run}]


def signalled(stack: Stack, worker: Worker, sent: str, task_id: str) -> tuple[float, float]:
    """Send it to the parent alone: seconds until it ended, and until one task left `unacked`."""
    began, unacked = time.monotonic(), 0.0
    worker.note(sent, f"{sent} to {worker.name}")
    os.kill(worker.pid, signal.Signals[sent[: len(TERM)]])
    while worker.alive and time.monotonic() < began + PATIENCE:
        if task_id in {entry.task_id for entry in stack.redis.unacked()}:
            unacked = time.monotonic() - began
        time.sleep(0.02)
    seconds = time.monotonic() - began
    worker.stop()  # it has ended: what its pool may have left
    return round(seconds, 1), round(unacked, 1)


def shut_down(batch: list[Case]) -> Iterator[Row]:
    """One run: one worker with room for one task, two orders, the signal, what is left."""
    [case] = batch
    late = case["ack"] == "late ack"
    with (
        directory_with(shop=SHOP.format(late=late, soft=case["soft_timeout"])) as here,
        Stack(here, name="shutdown") as stack,
    ):
        # Read by billiard when the worker starts.
        if case["signal"] == REMAPPED:
            os.environ["REMAP_SIGTERM"] = "SIGQUIT"
        try:
            worker = stack.start_worker(f"--pool={case['pool']}", "--concurrency=1")
        finally:
            os.environ.pop("REMAP_SIGTERM", None)
        shop = stack.load("shop")
        running = shop.charge.delay(0, case["task_seconds"])
        stack.wait_for("started", running)
        held = shop.charge.delay(1, 0)
        if case["pool"] == "solo":  # it fetches nothing while a task runs
            time.sleep(0.5)
        else:
            stack.wait_for("received", held)
        if not late and case["pool"] != "solo":
            stack.wait_for("acknowledged", running)
        began = time.monotonic()
        seconds, unacked = signalled(stack, worker, case["signal"], running.id)
        table = stack.settle(timeout=5, quiet=0.5).table
        ended = [e["at"] - began for e in stack.ledger.of("finished") if e["id"] == running.id]
        raised = here / "raised.txt"
        yield {
            **case,
            "running": table.loc[running.id, "fate"],
            "state": running.state,
            "held": table.loc[held.id, "fate"],
            "raised": raised.read_text() if raised.exists() else "",
            "seconds": seconds,
            "seconds_to_finish": round(ended[0], 1) if ended else None,
            "seconds_in_unacked": unacked,
            "exit_code": worker.exit_code,
            **provenance(stack),
        }


if __name__ == "__main__":
    measure(__file__, batches, shut_down, n=RUNS, at_once=3)  # mostly they wait
