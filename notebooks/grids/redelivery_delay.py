"""How long a message that nobody acknowledges stays in `unacked`, by the cadence of the sweep.

The visibility timeout is two seconds in every run. Each run fetches one message, at another moment
in the life of its worker. Writes redelivery_delay.csv beside this file: one row a run. Four
minutes on two cores, most of them waiting.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pandas as pd

from helpers import Stack, private_directory
from helpers.trials import provenance

RUNS, TIMEOUT = 20, 2
CADENCES = {  # options of kombu, and the longest pause between two sweeps that they allow
    "default": ("", 100),
    "one second": ('"unacked_restore_interval": 1, "unacked_restore_throttle": 1', 1),
}
SHOP = """
import time

from celery import Celery

app = Celery("shop")
app.conf.broker_transport_options = {{"visibility_timeout": {timeout}, {options}}}

@app.task(acks_late=True, ignore_result=True)
def endless():
    time.sleep(600)
"""


def batch(cadence: str) -> Iterator[dict[str, Any]]:
    """All runs of one cadence side by side, their fetches spread over one period of the sweep."""
    options, period = CADENCES[cadence]
    here = private_directory()
    (here / "shop.py").write_text(SHOP.format(timeout=TIMEOUT, options=options))
    with ExitStack() as together:
        started, waiting = [], []
        for run in range(RUNS):
            stack = together.enter_context(Stack(here, backend=None, name=f"{cadence} {run}"))
            stack.start_worker("--concurrency=1")
            started.append((stack, time.monotonic()))
        for run, (stack, ready) in enumerate(started):
            time.sleep(max(0.0, ready + period * run / RUNS - time.monotonic()))
            waiting.append((stack, stack.load("shop").endless.delay()))
        for run, (stack, task) in enumerate(waiting):
            stack.wait_for("restored", task, timeout=2 * period + TIMEOUT + 10)
            # The first event of each kind.
            at = {event["event"]: event["at"] for event in reversed(stack.ledger.read())}
            yield {
                "cadence": cadence,
                "run": run,
                "visibility_timeout": TIMEOUT,
                "period": period,
                "fetched_after_start": round(at["received"] - at["ready"], 2),
                "seconds": round(at["restored"] - at["received"], 2),
                **provenance(stack),
            }


def main() -> None:
    rows = [row for cadence in CADENCES for row in batch(cadence)]
    pd.DataFrame(rows).to_csv(Path(__file__).with_suffix(".csv"), index=False)


if __name__ == "__main__":
    main()
