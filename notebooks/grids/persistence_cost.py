"""What persistence costs a producer: the time of one `.delay()`, as a ratio within one run.

Four servers side by side, one a setting. The producer sends to each in turn, a few orders at a
time, so that all of them see the same machine. Writes persistence_cost.csv beside this file: one
row a run and setting. Half a minute on two cores, and nothing else should run meanwhile.
"""

import time
from collections.abc import Iterator
from statistics import median, quantiles
from typing import Any

from celery import Celery
from persistence import SETTINGS

from helpers import Stack
from helpers.trials import Case, Row, measure, provenance

ROUNDS, AT_A_TIME = 20, 25
BASE = "nothing"


def batches(n: int) -> Iterator[list[Case]]:
    """All settings together."""
    for run in range(n):
        yield [{"setting": setting, "run": run} for setting in SETTINGS]


def task_at(url: str) -> Any:
    """A task of an application of its own, which nothing watches."""
    app = Celery("shop", broker=url, set_as_current=False)

    def charge(order: int) -> None: ...

    return app.task(charge, name="shop.charge", ignore_result=True)


def publish(batch: list[Case]) -> Iterator[Row]:
    """One run: the same orders to each server."""
    with Stack(backend=None, redis=SETTINGS[BASE], name="cost") as stack:
        servers = {BASE: stack.redis}
        for number, (setting, config) in enumerate(SETTINGS.items()):
            if setting != BASE:
                servers[setting] = stack.start_server(f"server {number}", config)
        tasks = {setting: task_at(server.url()) for setting, server in servers.items()}
        for task in tasks.values():
            task.delay(0)  # connects
        took: dict[str, list[float]] = {setting: [] for setting in tasks}
        for number in range(ROUNDS):
            turn = number % len(tasks)
            for setting in [*tasks][turn:] + [*tasks][:turn]:
                for order in range(AT_A_TIME):
                    began = time.perf_counter()
                    tasks[setting].delay(order)
                    took[setting].append(time.perf_counter() - began)
        base = median(took[BASE])
        for case in batch:
            mine = took[case["setting"]]
            yield {
                **case,
                "publishes": len(mine),
                "median_ms": round(1000 * median(mine), 3),
                "p99_ms": round(1000 * quantiles(mine, n=100)[-1], 3),
                "ratio": round(median(mine) / base, 3),
                **provenance(stack),
            }
        for task in tasks.values():
            task.app.close()


if __name__ == "__main__":
    measure(__file__, batches, publish)
