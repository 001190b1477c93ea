"""What a Redis has after it was killed, shut down, or lost with its machine, by persistence.

A producer sends for two seconds and a half: orders that wait in a queue, orders that a worker holds
for their countdown, orders that leave a result. At half time a snapshot is taken where snapshots
are on, as a server does after enough changes. When the producer stops, the worker is frozen, all
is counted, and the server is gone; the moment is another one in each run.
*machine lost* cuts the server's files to what was synced (`restart/machine.py`).
Needs a C compiler. Writes persistence.csv beside this file: one row a run. Eight minutes on two
cores.
"""

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

from helpers import Stack
from helpers.errors import StackError
from helpers.trials import Case, Row, directory_with, measure, provenance
from restart.machine import LosableRedis

SNAPSHOTS = "3600 1 300 100 60 10000"  # Redis's own default
SETTINGS = {
    "nothing": {"save": ""},
    "RDB": {"save": SNAPSHOTS},
    "AOF everysec": {"save": "", "appendonly": "yes", "appendfsync": "everysec"},
    "AOF always": {"save": "", "appendonly": "yes", "appendfsync": "always"},
}
KILLED, SHUT_DOWN, LOST = "SIGKILL", "clean shutdown", "machine lost"
ENDS = [KILLED, SHUT_DOWN, LOST]
RUNS, SECONDS, PACE = 20, 2.5, 0.005  # the load; PACE is the pause between two sends of each kind
SHOP = """
from celery import Celery

app = Celery("shop")
app.conf.task_routes = {"shop.later": {"queue": "later"}}

@app.task(ignore_result=True)
def later(order):
    pass

@app.task
def charge(order):
    return order
"""


def batches(n: int) -> Iterator[list[Case]]:
    """Each run has its own stack."""
    for run in range(n):
        for setting in SETTINGS:
            for end in ENDS:
                yield [{"setting": setting, "end": end, "run": run}]


def count(server: LosableRedis) -> dict[str, int]:
    """How many orders wait and are held, and how many results there are."""
    with server.client(1) as results:
        kept = sum(1 for _ in results.scan_iter("celery-task-meta-*", count=1000))
    waiting = len(server.queued().get("later", []))
    return {"waiting": waiting, "held": len(server.unacked()), "results": kept}


def load(shop: Any, server: LosableRedis, seconds: float, snapshots: bool) -> None:
    """Send for some seconds, as evenly as it goes."""
    began, taken = time.monotonic(), not snapshots
    while (passed := time.monotonic() - began) < seconds:
        shop.later.delay(0)
        shop.charge.delay(0)
        shop.later.apply_async((0,), queue="celery", countdown=3600)
        if not taken and passed > seconds / 2:
            taken = True
            with server.client() as client:
                client.bgsave()
        time.sleep(PACE)


def end_server(server: LosableRedis, end: str) -> int:
    """End it; how many bytes of its files were not on disk."""
    if end == LOST:
        return server.lose_machine()
    if end == SHUT_DOWN:
        os.kill(server.pid, signal.SIGTERM)
        server.note("SIGTERM", "clean shutdown")
        server.wait()
    else:
        server.kill()
    return 0


def lose(batch: list[Case]) -> Iterator[Row]:
    """One run: the load, the counts, the end, the start, the counts."""
    [case] = batch
    config = SETTINGS[case["setting"]]
    with (
        directory_with(shop=SHOP) as here,
        Stack(here, broker=lambda home: LosableRedis(home, config), name="persistence") as stack,
    ):
        server = stack.redis
        assert isinstance(server, LosableRedis)
        worker = stack.start_worker("--concurrency=1", "--queues=celery")
        shop = stack.load("shop")
        shop.charge.delay(0).get(timeout=10)
        # A moment of its own in the second between two syncs.
        load(shop, server, SECONDS + case["run"] / RUNS, config["save"] != "")
        worker.pause()
        with server.client() as client:
            saved = config["save"] != ""
            stack.wait_until(
                lambda: client.info("persistence")["rdb_saves"] >= saved, "the snapshot saved"
            )
            snapshots = client.info("persistence")["rdb_saves"]
        before = count(server)
        synced_at = server.lengths.stat().st_mtime if server.lengths.exists() else None
        since = None if synced_at is None else round(time.time() - synced_at, 2)
        cut = end_server(server, case["end"])
        if "appendonly" in config and not any(".incr." in str(f) for f in server.synced_names):
            raise StackError("no sync of the append-only file was seen: is the shim preloaded?")
        server.restart()
        after = count(server)
        yield {
            **case,
            **{f"{kind}_before": number for kind, number in before.items()},
            **{f"{kind}_after": number for kind, number in after.items()},
            "snapshots": snapshots,
            "seconds_since_sync": since,
            "bytes_cut": cut,
            **provenance(stack),
        }
        worker.kill()


if __name__ == "__main__":
    measure(__file__, batches, lose, n=RUNS, at_once=2)
