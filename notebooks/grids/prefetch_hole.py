"""Where a message is while the only child of a worker is busy, by how the worker prefetches.

A message comes every tenth of a second. What keeps the child busy waited for its countdown in this
worker, or came as the others do; or orders leave one place of the window free, and a countdown
comes due behind them half a second before the messages come. Then the worker gets `SIGKILL`, or
shuts down warm. A message is *in no store* that was accepted, is in no list of Redis, not in
`unacked`, and was received by no worker. A `BRPOP` from before, which waits a second at most, took
it, and kombu leaves the answer unread on its socket until the worker has room
(`kombu/transport/redis.py: MultiChannelPoller.on_readable`, `_pause_brpop`). Without prefetch that
is a number of reserved tasks, a countdown among them once it is due
(`celery/worker/consumer/tasks.py: Tasks.start`). Else it is a number of unacknowledged messages,
and a countdown takes its extra place along when it comes due
(`celery/worker/consumer/consumer.py: Consumer.apply_eta_task`), which the worker notes when its
loop turns next (`celery/worker/loops.py: asynloop`).
Writes prefetch_hole.csv beside this file: one row a run. Twenty-five minutes on two cores.
"""

import os
import signal
import time
from collections.abc import Iterator
from itertools import product
from typing import Any

from celery.result import AsyncResult

from helpers import Stack
from helpers.trials import Case, Row, directory_with, fate_columns, measure, provenance
from helpers.worker import Worker

DEFAULT, ONE, DISABLED = "default", "--prefetch-multiplier=1", "--disable-prefetch"
EARLY, LATE = "early ack", "late ack"
RUNS_DUE, RUNS_SENT, WAITS_DUE = "a countdown runs", "an order runs", "a countdown waits"
# Orders that leave one place free beside the countdown: what runs with early ack has none.
ORDERS = {(DEFAULT, EARLY): 4, (DEFAULT, LATE): 3, (ONE, EARLY): 1}
KILL, WARM = "SIGKILL", "warm shutdown"
RUNS, MOST_RUNS, EVERY, COUNTDOWN, SECONDS = 5, 10, 0.1, 2.0, 9.0
BUSY, FREE = 4.0, 0.5  # seconds until the end, and until a message finds the place or does not
FATES = ("done", "queued", "stranded", "lost")
SHOP = """
import time

from celery import Celery

app = Celery("shop")
app.conf.task_acks_late = {late}

@app.task(ignore_result=True)
def charge(order, seconds):
    time.sleep(seconds)
"""


def batches(n: int) -> Iterator[list[Case]]:
    """Each run has its own stack. Where it depends on tenths of a second there are 10 runs."""
    ways = product([DEFAULT, ONE, DISABLED], [EARLY, LATE], [RUNS_DUE, RUNS_SENT, WAITS_DUE])
    cells = [way for way in ways if way[2] != WAITS_DUE or way[:2] in ORDERS]
    for run, (prefetch, ack, child), end in product(range(min(n, MOST_RUNS)), cells, [KILL, WARM]):
        if run < RUNS or child == WAITS_DUE:
            yield [{"prefetch": prefetch, "ack": ack, "child": child, "end": end, "run": run}]


class Watch:
    """Since when each message has been in no store, and the longest time that one was."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.since: dict[str, float] = {}
        self.longest = 0.0

    def look(self, accepted: list[AsyncResult]) -> None:
        """In the order in which a message goes: what moves on meanwhile is met again."""
        ids = {result.id for result in accepted}
        ids -= {task_id for waiting in self._stack.redis.queued().values() for task_id in waiting}
        ids -= {entry.task_id for entry in self._stack.redis.unacked()}
        ids -= {event["id"] for event in self._stack.ledger.of("received")}
        now = time.monotonic()
        self.since = {task_id: self.since.get(task_id, now) for task_id in ids}
        self.longest = max([self.longest, *(now - since for since in self.since.values())])


def hole(batch: list[Case]) -> Iterator[Row]:
    """One run: what keeps the child busy, messages, the end, the fates."""
    [case] = batch
    options = () if case["prefetch"] == DEFAULT else (case["prefetch"],)
    with (
        directory_with(shop=SHOP.format(late=case["ack"] == LATE)) as here,
        Stack(here, backend=None, name="hole") as stack,
    ):
        worker = stack.start_worker("--concurrency=1", *options)
        shop = stack.load("shop")
        watch, sent = Watch(stack), list[AsyncResult]()
        long, began = keep_busy(stack, shop, case, watch, sent)
        while time.monotonic() < began + BUSY:
            publish(shop, watch, sent)
        nowhere, busy = set(watch.since), time.monotonic() - began
        end(worker, case["end"], watch, sent)
        table = stack.settle().table
        fates = table.loc[[result.id for result in sent], "fate"]
        after = fate_columns(table.loc[sorted(nowhere), "fate"], ("lost", "queued"))
        yield {
            **case,
            "messages": len(sent),
            "busy_seconds": round(busy, 1),
            "in_no_store": len(nowhere),
            "seconds_in_no_store": round(watch.longest, 1),
            **fate_columns(fates, FATES),
            "of_these_lost": after["lost"],
            "of_these_queued": after["queued"],
            "fate_of_the_long": table.loc[long.id, "fate"],
            "exit_code": worker.exit_code,
            **provenance(stack),
        }


def keep_busy(
    stack: Stack, shop: Any, case: Case, watch: Watch, sent: list[AsyncResult]
) -> tuple[AsyncResult, float]:
    """Publish until the long task runs, or is due and waits. The task, and when that was."""
    orders, countdown = 0, COUNTDOWN
    if case["child"] == WAITS_DUE:
        orders = ORDERS[case["prefetch"], case["ack"]]
        first, *_ = [shop.charge.delay(-1, SECONDS) for _ in range(orders)]
        stack.wait_for("started", first)
        countdown += case["run"] / MOST_RUNS  # BRPOP, and what turns the loop, come every second
    began = time.monotonic()
    if case["child"] != RUNS_SENT:
        long = shop.charge.apply_async((-1, SECONDS), countdown=countdown)
    if orders:
        held = orders if case["ack"] == EARLY else orders + 1
        stack.wait_until(lambda: len(stack.redis.unacked()) == held, f"{held} held")
        time.sleep(max(0.0, began + countdown + FREE - time.monotonic()))
        return long, time.monotonic()
    while time.monotonic() < began + COUNTDOWN - EVERY:
        publish(shop, watch, sent)
    if case["child"] == RUNS_SENT:
        long = shop.charge.delay(-1, SECONDS)
    while time.monotonic() < began + COUNTDOWN + 10:
        if starts := [e["at"] for e in stack.ledger.of("started") if e["id"] == long.id]:
            return long, starts[0]
        publish(shop, watch, sent)
    raise RuntimeError("the long task did not start")


def publish(shop: Any, watch: Watch, sent: list[AsyncResult]) -> None:
    """One message, and a look when the next is due."""
    due = time.monotonic() + EVERY
    sent.append(shop.charge.delay(len(sent), 0))
    time.sleep(max(0.0, due - time.monotonic()))
    watch.look(sent)


def end(worker: Worker, how: str, watch: Watch, sent: list[AsyncResult]) -> None:
    """`SIGKILL` at once, or `SIGTERM` and a look now and then until the worker has ended."""
    if how == KILL:
        worker.kill()
        return
    worker.note("SIGTERM", f"SIGTERM to {worker.name}")
    os.kill(worker.pid, signal.SIGTERM)
    deadline = time.monotonic() + SECONDS + 20
    while worker.alive and time.monotonic() < deadline:
        watch.look(sent)
        time.sleep(EVERY)
    worker.stop()


if __name__ == "__main__":
    measure(__file__, batches, hole, n=MOST_RUNS, at_once=2)  # mostly they wait
