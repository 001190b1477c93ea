"""How fast and how heavy the harness is: one table of figures beside their bounds.

`make bench`, on a machine with nothing else to do. The figures are printed and never asserted.
Celery and pandas are imported where they are used, after the notebooks have run: a page that this
process shared with a kernel would count there for half.
"""

import itertools
import math
import os
import platform
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from importlib.metadata import version
from statistics import mean, median, stdev
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import psutil

from helpers import private_directory
from helpers.authoring import ROOT, notebooks
from helpers.ledger import Ledger

if TYPE_CHECKING:
    from helpers import Outcome, Stack
    from helpers.process import Process

SHOP = """
import time

from celery import Celery

app = Celery("shop")


@app.task(ignore_result=True)
def charge(order, seconds=0):
    time.sleep(seconds)


@app.task(ignore_result=True)
def mark():
    with open("marks", "a") as marks:
        print(time.monotonic(), file=marks)
"""
TASKS = 10_000
HISTORY = 100_000
PAIRS, TURNS, A_TURN = 20, 20, 150  # pairs, turns of each worker in a pair, tasks in a turn
T_95 = 2.093  # of Student with 19 degrees of freedom
HEAD = ("what", "bound", "median", "min to max", "n")
here = private_directory()
table: list[tuple[str, ...]] = [HEAD]


def note(what: str, values: Sequence[float], unit: str, bound: float | None = None) -> None:
    """Add a row to the table. Without a bound it is there for comparison."""
    places = 0 if unit == "MB" else 1 if unit == "%" else 2
    low, middle, high = (
        f"{value:.{places}f}" for value in (min(values), median(values), max(values))
    )
    limit = f"{bound:g} {unit}" if bound else ""
    spread = f"{low} to {high}" if len(values) > 1 else ""
    table.append((what, limit, f"{middle} {unit}", spread, str(len(values))))
    print("  ".join(table[-1]), file=sys.stderr, flush=True)


def seconds(action: Callable[[], object]) -> float:
    """How long one call takes."""
    start = time.monotonic()
    action()
    return time.monotonic() - start


def pages() -> None:
    """Each notebook from a fresh kernel: how long, and its peak memory."""
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        with peak_memory() as peak:
            took = seconds(partial(notebooks.execute, path))
        note(f"{path.stem}: start to end", [took], "s", 90)
        if peak:
            note(f"{path.stem}: peak memory, kernel and all that it started", peak, "MB", 350)


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    """The highest sum of PSS over this process's descendants, in MB, once the block has ended.

    PSS counts a page that several processes share once. Only Linux has it: nothing elsewhere.
    """
    peak = [0.0] if psutil.LINUX else []
    done = threading.Event()

    def sample() -> None:
        while not done.wait(0.2):
            total = 0
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):  # it ended while we looked
                    total += process.memory_full_info().pss
            peak[0] = max(peak[0], total / 2**20)

    thread = threading.Thread(target=sample)
    if peak:
        thread.start()
    else:
        print("no PSS on this system, so no row for memory", file=sys.stderr)
    try:
        yield peak
    finally:
        done.set()
        if peak:
            thread.join()


def ready() -> str:
    """A stack with one worker. Returns the version of the server."""
    from helpers import Stack

    times = []
    for _ in range(7):
        start = time.monotonic()
        with Stack(here) as stack:
            stack.start_worker("--concurrency=1")
            times.append(time.monotonic() - start)
            server = stack.redis.version
    note("a stack with one worker ready", times, "s", 1.5)
    return server


def publish_and_account() -> None:
    """Publish with and without the ledger; account for the tasks while they wait and when done."""
    from helpers import Stack
    from helpers.settle import count

    def publish(stack: Stack) -> float:
        charge = stack.load("shop").charge
        return seconds(lambda: [charge.delay(order) for order in range(TASKS)])

    bare, watched, waiting, done = [], [], [], []
    for _ in range(3):
        with Stack(here) as stack, patch("helpers.stack.watch_publishes"):
            bare.append(publish(stack))
        with Stack(here) as stack:
            watched.append(publish(stack))
            waiting.append(seconds(partial(count, stack)))
            stack.start_worker("--concurrency=1")
            expect(stack.settle(timeout=120), TASKS)
            done.append(seconds(partial(count, stack)))
    note(f"{TASKS:,} tasks published, with the ledger", watched, "s", 8)
    note(f"{TASKS:,} tasks published, without it", bare, "s")
    note(f"{TASKS:,} tasks accounted for, all waiting in the queue", waiting, "s", 1)
    note(f"{TASKS:,} tasks accounted for, all done", done, "s", 1)


def expect(outcome: "Outcome", done: int) -> None:
    """A figure for work that was not done would mislead."""
    if outcome.counts != {"done": done}:
        raise SystemExit(f"this run does not count: {outcome}")


def counting() -> None:
    """The census of 1,000 messages in workers' hands and 1,000 in a queue, under a prefix."""
    from helpers import Stack
    from helpers.brokers.redis_keys import KeyNames
    from helpers.settle import census

    prefix, names = "shop:", KeyNames(prefix="shop:")
    with Stack(here) as stack:
        shop = stack.load("shop")
        for order in range(1_000):
            shop.charge.delay(order)
        raw: list[Any] = stack.redis.client().lrange("celery", 0, -1)
        stack.redis.learn({"global_keyprefix": prefix})
        client = stack.redis.client()
        client.rename("celery", f"{prefix}celery")
        held: Any = {str(n): f'[{one}, "", "celery"]' for n, one in enumerate(raw)}
        client.hset(names.key(names.unacked), mapping=held)
        client.zadd(names.key(names.index), dict.fromkeys(held, time.time()))
        times = [seconds(lambda: census(stack)) for _ in range(7)]
    note("1,000 held and 1,000 queued messages counted, under a prefix", times, "s", 0.2)


def classifier() -> None:
    """Read and classify a ledger of tasks that are all done."""
    from helpers.fates import Census, classify

    ledger = Ledger(here / "long.jsonl")
    tags = {str(uuid.uuid4()): str(uuid.uuid4()) for _ in range(HISTORY)}
    details = {"task": "shop.charge", "retries": 0}
    for task_id in tags:
        ledger.append("attempted", task_id, **details)
        ledger.append("accepted", task_id, **details)
    for task_id, tag in tags.items():
        ledger.append("received", task_id, **details, redelivered=False, tag=tag)
        ledger.append("started", task_id, **details, redelivered=False)
        ledger.append("finished", task_id, task="shop.charge")
    ledger.close()

    def read_and_classify() -> None:
        expect(classify(ledger.read(), Census(time.time())), HISTORY)

    times = [seconds(read_and_classify) for _ in range(3)]
    ledger.path.unlink()
    note(f"a ledger of {HISTORY:,} tasks read and classified", times, "s", 3)


def eviction() -> None:
    """The headline of notebook 03, from the stack to the outcome."""
    from helpers import Stack, lens

    def experiment() -> None:
        with Stack(here, redis={"maxmemory": "5mb", "maxmemory-policy": "allkeys-lru"}) as stack:
            stack.start_worker("--concurrency=1")
            shop = stack.load("shop")
            with lens.watch(stack.redis) as watching:
                for order in range(200):
                    shop.charge.delay(order, 0.01 if order else 4)
                time.sleep(1.5)
                lens.keys(stack.redis)
                with watching.fault("the cache fills"):
                    cache = stack.redis.client()
                    for page in range(5000):
                        cache.set(f"page:{page}", "x" * 3000)
            print(stack.settle(timeout=20), file=sys.stderr)

    note(
        "the eviction of notebook 03, stack to outcome",
        [seconds(experiment) for _ in range(3)],
        "s",
        10,
    )


def witness() -> None:
    """How much longer a worker takes for empty tasks when the witness watches.

    Two workers, watched and bare, take turns of a tenth of a second: what slows the machine for a
    while slows both. A pair is the ratio of two sums of turns. Some pairs later both are made anew.
    """
    from helpers import Stack

    with Stack(here) as stack:
        shop = stack.load("shop")
        shop.mark.delay()
        for order in range(A_TURN):
            shop.charge.delay(order)
        shop.mark.delay()
        queue = stack.redis.client().lrange("celery", 0, -1)
        ratios: list[float] = []
        while len(ratios) < PAIRS:
            with bench_worker(stack, "watched") as watched, bench_worker(stack, "bare") as bare:
                pair = watched, bare
                for worker in pair:
                    drain(stack, worker, queue)  # warm
                for _ in range(PAIRS // 10):
                    turns = [pair, pair[::-1]] * (TURNS // 2)
                    took = {worker: 0.0 for worker in pair}
                    for worker in itertools.chain(*turns):
                        took[worker] += drain(stack, worker, queue)
                    ratios.append(100 * (took[watched] / took[bare] - 1))
    half = T_95 * stdev(ratios) / math.sqrt(len(ratios))
    note(f"the witness: more time for {A_TURN * TURNS:,} empty tasks", ratios, "%")
    note("the witness: upper end of the 95 % interval of the mean", [mean(ratios) + half], "%", 5)


@contextmanager
def bench_worker(stack: "Stack", name: str) -> Iterator["Process"]:
    """A worker of the queue of this name. Not `start_worker`: that one is always watched."""
    from helpers.process import Process
    from helpers.worker import QUICK_START

    command = [sys.executable, "-m", "celery", "-A", "shop", "worker", "--loglevel=INFO"]
    command += [*QUICK_START, "--concurrency=1", f"--queues={name}"]
    command += ["-I", "helpers.witness"] if name == "watched" else []
    log = stack.ledger.path.with_name(f"{name}.log")
    worker = Process(name, command, cwd=here, env=stack._environment(), log=log)
    try:
        yield worker
    finally:
        worker.kill()


def drain(stack: "Stack", worker: "Process", queue: list[Any]) -> float:
    """Seconds from the first to the last task of a queue: both note the time themselves."""
    marks = here / "marks"
    marks.unlink(missing_ok=True)
    stack.redis.client().rpush(worker.name, *queue)
    worker.wait_until(
        lambda: marks.exists() and marks.read_text().count("\n") == 2, "done", timeout=120
    )
    first, last = map(float, marks.read_text().split())
    return last - first


def main() -> None:
    """Measure everything, then print the table and the versions."""
    load = os.getloadavg()[0]
    (here / "shop.py").write_text(SHOP)
    pages()
    server = ready()
    publish_and_account()
    counting()
    classifier()
    eviction()
    witness()
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        cells = [f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)]
        print("  ".join([f"{row[0]:<{widths[0]}}", *cells[1:]]))
    print(
        f"\nPython {platform.python_version()} · Celery {version('celery')} · "
        f"kombu {version('kombu')} · {server} · {os.cpu_count()} cores · "
        f"load at the start {load:.1f}"
    )


if __name__ == "__main__":
    main()
