"""Does a second worker bring back what a killed worker left in `unacked`? By its pool and its load.

A prefork worker takes four messages with late ack and gets `SIGKILL`. Another worker, on a queue of
its own in the same database, was up before or starts after. The visibility timeout is two seconds.
kombu looks for old messages from a timer of the event loop, at the start of that loop, and where a
consumer without one waits in vain (`kombu/transport/redis.py: Transport.register_with_event_loop`,
`MultiChannelPoller.on_poll_init`, `get`); a green pool has no event loop
(`celery/worker/loops.py: synloop`). `sweeps` counts these looks: no other command of a worker is
`ZRANGE`. Needs gevent and eventlet (requirements-dev.txt).
Writes return_by_pool.csv beside this file: one row a run. Fifteen minutes on two cores.
"""

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from helpers import Stack
from helpers.trials import Case, Row, directory_with, measure, provenance
from helpers.worker import Worker
from sweep.stranded import EVERY_SECOND, HELD, strand, sweeps

IDLE, BUSY, TRAFFIC = "idle", "long tasks", "traffic"
BEFORE, MINGLE, NO_MINGLE = "before", "after, with mingle", "after, without mingle"
NONE, POLLING, PREFORK, SOLO = "none", "polling_interval", "a prefork worker", "a solo worker"


class Cell(NamedTuple):
    """The second worker: what it does, when it starts, what is done about it."""

    pool: str
    load: str = IDLE
    start: str = BEFORE
    cure: str = NONE


CELLS = [
    Cell("prefork"),
    Cell("prefork", BUSY),
    Cell("threads"),
    Cell("solo"),
    Cell("solo", BUSY),
    Cell("gevent"),
    Cell("gevent", TRAFFIC),
    Cell("eventlet"),
    Cell("gevent", start=MINGLE),
    Cell("gevent", start=NO_MINGLE),
    Cell("gevent", cure=POLLING),
    Cell("gevent", TRAFFIC, cure=POLLING),
    Cell("gevent", cure=PREFORK),
    Cell("gevent", TRAFFIC, cure=PREFORK),
    Cell("gevent", cure=SOLO),
]
BESIDE = {PREFORK: "prefork", SOLO: "solo"}
RUNS, TIMEOUT, MESSAGES, WATCHED = 5, 2, 4, 20.0
AT_ONCE, EVERY, POLLING_INTERVAL = 2, 0.1, 5
SHOP = """
import time

from celery import Celery

app = Celery("shop")
app.conf.broker_transport_options = {options}

@app.task(ignore_result=True)
def busy(seconds):
    time.sleep(seconds)
"""


def batches(n: int) -> Iterator[list[Case]]:
    """Each run has its own stack."""
    for run in range(min(n, RUNS)):
        for cell in CELLS:
            yield [{**cell._asdict(), "run": run}]


def second(stack: Stack, shop: Any, cell: Cell) -> Worker:
    """The worker on another queue, doing what the cell says."""
    options = [f"--pool={cell.pool}", f"--concurrency={AT_ONCE}", "--queues=other"]
    if cell.start == NO_MINGLE:
        options.append("--without-mingle")
    # With gossip and heartbeat in both cells of a start: they differ in mingle alone.
    worker = stack.start_worker(*options, stock=cell.start != BEFORE)
    if cell.load == BUSY:
        running = 1 if cell.pool == "solo" else AT_ONCE
        for _ in range(running):
            shop.busy.apply_async((600,), queue="other")
        stack.wait_until(lambda: stack.ledger.count("started") == running, "running")
    return worker


def strand_all(stack: Stack, shop: Any) -> tuple[float, float]:
    """Leave messages of a killed worker in `unacked`: when they were taken, when it was killed."""
    victim = stack.start_worker("--concurrency=1", "--queues=celery")
    ids = strand(stack, shop, victim, MESSAGES)
    killed = time.monotonic()
    taken = min(e["at"] for e in stack.ledger.of("received") if e["id"] in ids)
    held = ids & {entry.task_id for entry in stack.redis.unacked()}
    # A long task under solo is held, too, and may have come back.
    if held != ids or any(event["id"] in ids for event in stack.ledger.of("restored")):
        raise RuntimeError(f"{len(held)} of {MESSAGES} were held at the kill, or some came back")
    return taken, killed


def back(stack: Stack) -> int:
    """How many of the stranded messages wait in their queue again, which nobody consumes."""
    return len(stack.redis.queued().get("celery", []))


def come_back(batch: list[Case]) -> Iterator[Row]:
    """One run: strand, watch the queue for twenty seconds, or until all are back."""
    [case] = batch
    cell = Cell(*(case[name] for name in Cell._fields))
    options = {
        "visibility_timeout": TIMEOUT,
        **EVERY_SECOND,
        **({"polling_interval": POLLING_INTERVAL} if cell.cure == POLLING else {}),
    }
    with (
        directory_with(shop=SHOP.format(options=options) + HELD) as here,
        Stack(here, backend=None, name="pools") as stack,
    ):
        shop = stack.load("shop")
        if cell.cure in BESIDE:
            beside = f"--pool={BESIDE[cell.cure]}"
            stack.start_worker(beside, "--concurrency=1", "--queues=unused")
        worker = second(stack, shop, cell) if cell.start == BEFORE else None
        taken, killed = strand_all(stack, shop)
        before = sweeps(stack)
        if worker is None:
            time.sleep(TIMEOUT + 0.5)  # until they are old enough
            worker = second(stack, shop, cell)
        seconds = watch(stack, shop, cell, killed)
        [ready] = [e["at"] for e in stack.ledger.of("ready") if e["pid"] == worker.pid]
        busy = [e for e in stack.ledger.of("started") if e["task"] == "shop.busy"]
        yield {
            **case,
            "visibility_timeout": TIMEOUT,
            "messages": MESSAGES,
            "seconds_held_before": round(killed - taken, 2),
            "ready": round(ready - killed, 2),
            "watched": WATCHED,
            "sweeps": sweeps(stack) - before,
            "back": back(stack),
            "returned": seconds is not None,
            "seconds": None if seconds is None else round(seconds, 2),
            "timeouts": None if seconds is None else round(seconds / TIMEOUT, 2),
            "others_started": len(busy),
            "lives": worker.alive,
            **provenance(stack),
        }


def watch(stack: Stack, shop: Any, cell: Cell, killed: float) -> float | None:
    """Seconds from the kill until all were back; None if that takes too long."""
    due = time.monotonic()
    while time.monotonic() < killed + WATCHED:
        if back(stack) == MESSAGES:
            return time.monotonic() - killed
        if cell.load == TRAFFIC and time.monotonic() >= due:
            shop.busy.apply_async((0,), queue="other")
            due += EVERY
        time.sleep(0.02)
    return None


if __name__ == "__main__":
    measure(__file__, batches, come_back, n=RUNS, at_once=2)  # mostly they wait
