"""How long a message that nobody acknowledges stays in `unacked`, by the cadence of the sweep.

The visibility timeout is two seconds in every run. Each run fetches one message, at another moment
in the life of its worker. Writes redelivery_delay.csv beside this file: one row a run. Four
minutes on two cores, most of them waiting.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack

from helpers import Stack, private_directory
from helpers.trials import Case, Row, measure, provenance

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


def batches(n: int) -> Iterator[list[Case]]:
    """All runs of one cadence side by side."""
    for cadence in CADENCES:
        yield [{"cadence": cadence, "run": run} for run in range(n)]


def run(batch: list[Case]) -> Iterator[Row]:
    """The fetches of a full batch are spread over one period of the sweep."""
    options, period = CADENCES[batch[0]["cadence"]]
    here = private_directory()
    (here / "shop.py").write_text(SHOP.format(timeout=TIMEOUT, options=options))
    with ExitStack() as together:
        started, waiting = [], []
        for case in batch:
            stack = together.enter_context(Stack(here, backend=None, name=f"run {case['run']}"))
            stack.start_worker("--concurrency=1")
            started.append((case, stack, time.monotonic()))
        for case, stack, ready in started:
            time.sleep(max(0.0, ready + period * case["run"] / RUNS - time.monotonic()))
            waiting.append((case, stack, stack.load("shop").endless.delay()))
        for case, stack, task in waiting:
            stack.wait_for("restored", task, timeout=2 * period + TIMEOUT + 10)
            # The first event of each kind.
            at = {event["event"]: event["at"] for event in reversed(stack.ledger.read())}
            yield {
                **case,
                "visibility_timeout": TIMEOUT,
                "period": period,
                "fetched_after_start": round(at["received"] - at["ready"], 2),
                "seconds": round(at["restored"] - at["received"], 2),
                **provenance(stack),
            }


if __name__ == "__main__":
    measure(__file__, batches, run, n=RUNS)
