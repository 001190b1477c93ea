"""What a worker that is killed in a sweep leaves: the lock of the sweeps, and nobody sweeps.

A worker holds two thousand messages, all with a countdown, and gets `SIGKILL`. A second one, on a
queue of its own, sweeps once they are two seconds old, which takes it a moment with so many: it
gets `SIGKILL` in that moment, or had it before, between two sweeps. Then a third worker looks every
second, and waits for the lock as long as it lasts (`kombu/transport/redis.py:
QoS.restore_visible`, `unacked_mutex_expire`).
Writes killed_in_a_sweep.csv beside this file: one row a run. Five minutes on two cores.
"""

import time
from collections.abc import Iterator
from itertools import product

from helpers import Stack
from helpers.faults import kill_between_sweeps
from helpers.process import poll
from helpers.trials import Case, Row, directory_with, measure, provenance
from helpers.worker import Worker
from sweep.stranded import EVERY_SECOND

IN, BETWEEN = "in a sweep", "between sweeps"
EXPIRES = {"default": None, "5 s": 5}  # unacked_mutex_expire
RUNS, TIMEOUT, MESSAGES, WATCHED = 5, 2, 2000, 20.0
SHOP = """
from celery import Celery

app = Celery("shop")
app.conf.broker_transport_options = {options}

@app.task(name="charge", ignore_result=True)
def charge(order):
    pass
"""


def batches(n: int) -> Iterator[list[Case]]:
    """Each run has its own stack. A lock that is not left behind does not expire."""
    for run, (killed, expires) in product(
        range(min(n, RUNS)), [(BETWEEN, "default"), (IN, "default"), (IN, "5 s")]
    ):
        yield [{"killed": killed, "mutex_expire": expires, "run": run}]


def lock(stack: Stack) -> float | None:
    """Seconds until the lock of the sweeps expires; None where there is no lock."""
    with stack.redis.client() as client:
        left = client.pttl("unacked_mutex")
    return left / 1000 if left > 0 else None


def held(stack: Stack) -> int:
    """How many messages are in `unacked`."""
    with stack.redis.client() as client:
        return int(client.hlen("unacked"))


def strand(stack: Stack) -> None:
    """Leave all messages in `unacked`; their worker itself would leave them there for an hour."""
    holder = stack.start_worker("--concurrency=1", "--queues=celery", app="holder")
    stack.wait_until(lambda: held(stack) == MESSAGES, "all held", timeout=30)
    kill_between_sweeps(stack, holder)


def kill_in_sweep(stack: Stack, worker: Worker) -> None:
    """`SIGKILL` while it has the lock, and some messages are back."""

    def sweeping() -> bool:
        worker.pause()
        if lock(stack) is not None and held(stack) < MESSAGES:
            return True
        worker.resume()
        return False

    if not poll(sweeping, timeout=20, pause=0.02):
        raise RuntimeError("no sweep was met")
    worker.kill()


def sweep(batch: list[Case]) -> Iterator[Row]:
    """One run: strand, kill the second worker, let a third one look for twenty seconds."""
    [case] = batch
    expire = EXPIRES[case["mutex_expire"]]
    options = {
        "visibility_timeout": TIMEOUT,
        **EVERY_SECOND,
        **({"unacked_mutex_expire": expire} if expire else {}),
    }
    unused = ("--concurrency=1", "--queues=unused")
    sources = {"shop": SHOP.format(options=options), "holder": SHOP.format(options={})}
    with directory_with(**sources) as here, Stack(here, backend=None, name="sweeps") as stack:
        shop = stack.load("shop")
        for order in range(MESSAGES):
            shop.charge.apply_async((order,), countdown=3600)
        if case["killed"] == BETWEEN:
            kill_between_sweeps(stack, stack.start_worker(*unused, app="shop"))
            strand(stack)
        else:
            strand(stack)
            kill_in_sweep(stack, stack.start_worker(*unused, app="shop"))
        killed, left, before = time.monotonic(), lock(stack), held(stack)
        stack.start_worker(*unused, app="shop")
        poll(lambda: not held(stack), killed + WATCHED - time.monotonic(), pause=0.05)
        after, seconds = held(stack), time.monotonic() - killed
        yield {
            **case,
            "messages": MESSAGES,
            "stranded_at_the_kill": before,
            "lock_expires_in": None if left is None else round(left, 1),
            "watched": WATCHED,
            "still_stranded": after,
            "seconds_until_all_back": None if after else round(seconds, 1),
            **provenance(stack),
        }


if __name__ == "__main__":
    measure(__file__, batches, sweep, n=RUNS, at_once=2)
