"""Does looking put stranded messages back? By the tool, by the visibility timeout that it goes by.

A worker takes three messages with late ack and gets `SIGKILL`; no other is alive. Three seconds
later somebody looks, once, from an application of its own, which may have a shorter visibility
timeout than the worker's. Whatever waits for answers consumes, and sweeps where its waiting time
ends before that of its `BRPOP`: a second each by default, and the answer of Redis mostly comes
last (`kombu/transport/redis.py: MultiChannelPoller.get`, `QoS.restore_visible`). `sweeps` counts
the `ZRANGE` of a sweep, which nothing else sends.
Writes watchers_sweep.csv beside this file: one row a run. Five minutes on two cores.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from helpers import Stack
from helpers.trials import Case, Row, directory_with, measure, provenance
from sweep.stranded import HELD, strand, sweeps

INSPECT = "from watcher import app; print(app.control.inspect().ping())"
LLEN, PYTHON = "LLEN", "app.control.inspect().ping()"
CELERY = [
    "celery inspect ping",
    "celery inspect ping --timeout 2",
    "celery status",
    "celery report",
]
WATCHERS = [*CELERY, PYTHON, LLEN]
TIMEOUTS = [(3600, 3600), (3600, 2), (2, 2)]  # of the worker, of the watcher
RUNS, MESSAGES, AGE, SECONDS = 5, 3, 3.0, 30
SHOP = """
import time

from celery import Celery

app = Celery("shop")
app.conf.broker_transport_options = {{"visibility_timeout": {timeout}}}
"""
WATCHER = """
from celery import Celery

app = Celery("watcher", broker={url!r})
app.conf.broker_transport_options = {{"visibility_timeout": {timeout}}}
"""


def batches(n: int) -> Iterator[list[Case]]:
    """Each run has its own stack."""
    for run, watcher, (worker, own) in product(range(min(n, RUNS)), WATCHERS, TIMEOUTS):
        key = {"watcher": watcher, "worker_timeout": worker, "watcher_timeout": own}
        yield [{**key, "run": run}]


def look(stack: Stack, watcher: str, here: Path) -> int:
    """One look by the watcher, as a user types it; its exit code."""
    if watcher == LLEN:
        with stack.redis.client() as client:
            client.llen("celery")
        return 0
    command = ["-c", INSPECT]
    if watcher != PYTHON:
        command = ["-m", "celery", "-A", "watcher", *watcher.split()[1:]]
    done = subprocess.run(
        [sys.executable, *command], cwd=here, env=os.environ, capture_output=True, timeout=SECONDS
    )
    return done.returncode


def watch(batch: list[Case]) -> Iterator[Row]:
    """One run: strand, wait, look, count."""
    [case] = batch
    with (
        directory_with(shop=SHOP.format(timeout=case["worker_timeout"]) + HELD) as here,
        Stack(here, backend=None, name="watchers") as stack,
    ):
        own = WATCHER.format(url=stack.redis.url(), timeout=case["watcher_timeout"])
        with directory_with(watcher=own) as elsewhere:
            worker = stack.start_worker("--concurrency=1")
            ids = strand(stack, stack.load("shop"), worker, MESSAGES)
            killed = time.monotonic()
            time.sleep(AGE)
            stranded = len(stack.redis.unacked())
            before, began = sweeps(stack), time.monotonic()
            code = look(stack, case["watcher"], elsewhere)
            ended = time.monotonic()
            swept = sweeps(stack) - before
            waiting = ids & set(stack.redis.queued().get("celery", []))
            left = ids & {entry.task_id for entry in stack.redis.unacked()}
            yield {
                **case,
                "messages": MESSAGES,
                "stranded_before": stranded,
                "age": round(began - killed, 1),
                "seconds": round(ended - began, 1),
                "exit_code": code,
                "sweeps": swept,
                "back": len(waiting),
                "still_stranded": len(left),
                **provenance(stack),
            }


if __name__ == "__main__":
    measure(__file__, batches, watch, n=RUNS, at_once=2)  # mostly they wait
