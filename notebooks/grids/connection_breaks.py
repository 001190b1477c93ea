"""What becomes of orders when a worker's connections break, by pool, by acknowledgement.

Redis lives on and the connections are cut, once or six times, as a firewall does; or Redis has
every write on disk, gets `SIGKILL` and is back after a second. A worker whose window is full does
not ask for more; one that has room does, and would not survive the restart (restart_versions.csv).
With `worker_cancel_long_running_tasks_on_connection_loss`, and without.
Writes connection_breaks.csv beside this file: one row a run. Fifteen minutes on two cores.
"""

import time
from collections.abc import Iterator
from itertools import product

from helpers import Stack, lens
from helpers.faults import cut_connections, down
from helpers.process import poll
from helpers.trials import Case, Row, directory_with, fate_columns, measure, provenance
from helpers.worker import Worker
from restart.shop import ON_DISK

ONCE, SIX_TIMES, RESTART = "connections cut", "connections cut six times", "restart of Redis"
CUTS = {ONCE: 1, SIX_TIMES: 6, RESTART: 0}
POOLS, ACKS = ["prefork", "threads"], ["early ack", "late ack"]
ROOM, FULL = "has room", "is full"
WINDOWS = {ROOM: (6, 4), FULL: (12, 8)}  # orders, and how many are held beside those that run
RUNS, MOST_RUNS, AT_ONCE, SECONDS, DOWN = 5, 20, 2, 1.0, 1.0
FATES = ("done", "duplicated", "failed", "stranded", "queued", "lost")
SHOP = """
import time

from celery import Celery

app = Celery("shop")
app.conf.task_acks_late = {late}
app.conf.worker_cancel_long_running_tasks_on_connection_loss = {cancel}

@app.task(ignore_result=True)
def charge(order, seconds):
    time.sleep(seconds)
"""


def batches(n: int) -> Iterator[list[Case]]:
    """Each run has its own stack. What goes otherwise now and then has 20 runs, all else 5."""
    cells = [(ONCE, ROOM), (ONCE, FULL), (SIX_TIMES, FULL), (RESTART, FULL)]
    for run, (fault, window), pool, ack in product(range(n), cells, POOLS, ACKS):
        rare = fault == SIX_TIMES and pool == "prefork" and ack == "late ack"
        if run >= RUNS and not rare:
            continue
        for cancel in (False,) if fault == SIX_TIMES else (False, True):
            key = {"fault": fault, "window": window, "pool": pool, "ack": ack}
            yield [{**key, "cancel_on_loss": cancel, "run": run}]


def break_connection(stack: Stack, worker: Worker, fault: str) -> None:
    """The fault; each cut waits until the worker consumes again."""
    if fault == RESTART:
        with down(stack.redis):
            time.sleep(DOWN)  # how long it is away
    for _ in range(CUTS[fault]):
        _cut_and_wait(stack, worker)


def _cut_and_wait(stack: Stack, worker: Worker) -> None:
    connected = stack.ledger.count("connected")
    cut_connections(worker, stack.redis)
    poll(lambda: not worker.alive or stack.ledger.count("connected") > connected, timeout=20)


def cut(batch: list[Case]) -> Iterator[Row]:
    """One run: orders, two of them running and others held, the fault, the fates."""
    [case] = batch
    number, prefetched = WINDOWS[case["window"]]
    late, cancel = case["ack"] == "late ack", case["cancel_on_loss"]
    with (
        directory_with(shop=SHOP.format(late=late, cancel=cancel)) as here,
        Stack(here, redis=ON_DISK, backend=None, name="breaks") as stack,
    ):
        worker = stack.start_worker(f"--pool={case['pool']}", f"--concurrency={AT_ONCE}")
        shop = stack.load("shop")
        orders = [shop.charge.delay(order, SECONDS) for order in range(number)]
        stack.wait_until(lambda: stack.ledger.count("started") == AT_ONCE, "running")
        # Late, what runs counts among what is held.
        held = prefetched + AT_ONCE if late and case["window"] == ROOM else prefetched
        stack.wait_until(lambda: len(stack.redis.unacked()) == held, f"holding {held}")
        break_connection(stack, worker, case["fault"])
        outcome = stack.settle(timeout=40)
        new = shop.charge.delay(number, 0)
        consumes = poll(lambda: new.id in {e["id"] for e in stack.ledger.of("finished")}, 15)
        table = outcome.table.loc[[order.id for order in orders]]
        known = lens.running(shop.app, timeout=2) if worker.alive else set()
        yield {
            **case,
            "orders": number,
            "running": AT_ONCE,
            "held_before": held,
            "lives": worker.alive,
            "consumes_again": consumes,
            "starts": int(table["starts"].sum()),
            "finishes": int(table["finishes"].sum()),
            "most_starts": int(table["starts"].max()),
            **fate_columns(table["fate"], FATES),
            "held_and_known": sum(e.task_id in known for e in stack.redis.unacked()),
            "verdict": outcome.verdict,
            **provenance(stack),
        }


if __name__ == "__main__":
    measure(__file__, batches, cut, n=MOST_RUNS, at_once=2)  # mostly they wait
