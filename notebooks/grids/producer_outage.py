"""What `.delay()` does while its broker or its result backend is away, and what is in the queue.

The producer is a process of its own, which has a connection when the outage begins. A call that has
not come back after 25 s counts as blocked; then the producer is killed. At last the server runs
again, and the messages of that id are counted: two of them are one order that runs twice.
Writes producer_outage.csv beside this file: one row a run. Ten minutes on two cores.
"""

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from helpers import Stack, private_directory, reaper
from helpers.brokers.redis import RedisServer
from helpers.process import poll
from helpers.trials import Case, Row, measure, provenance
from restart import producer
from restart.proxy import AnswerDropper
from restart.shop import ON_DISK

REFUSED, RECOVERED, FROZEN = "broker refuses", "broker refuses for 3 s", "broker frozen"
THAWED, ANSWER_LOST = "broker frozen for 3 s", "answer lost"
SAME_REFUSED = "broker refuses, results in it too"
BACKEND_REFUSED, BACKEND_FROZEN = "result backend refuses", "result backend frozen"
PATIENT = {"max_retries": 60, "interval_start": 0.2, "interval_step": 0.2, "interval_max": 1}
TIMEOUT = {"broker_transport_options": {"socket_timeout": 1}}
NO_CONNECTION_RETRY = {
    "broker_connection_retry": False,
    "broker_connection_retry_on_startup": False,
    "broker_connection_max_retries": 0,
}
# What is set besides, and the options of the call.
OF_BROKER: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "defaults": ({}, {}),
    "task_publish_retry=False": ({"task_publish_retry": False}, {}),
    "task_publish_retry_policy: 60 times": ({"task_publish_retry_policy": PATIENT}, {}),
    "socket_timeout=1": (TIMEOUT, {}),
    "socket_timeout=1, task_publish_retry=False": ({**TIMEOUT, "task_publish_retry": False}, {}),
    "broker_connection_retry=False, max_retries=0": (NO_CONNECTION_RETRY, {}),
}
FEW = {"result_backend_transport_options": {"retry_policy": {"max_retries": 2}}}
OF_BACKEND: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "defaults": ({}, {}),
    "ignore_result=True": ({}, {"ignore_result": True}),
    "result backend's retry_policy: 2 times": (FEW, {}),
    "redis_socket_timeout=1": ({"redis_socket_timeout": 1}, {}),
    "task_publish_retry=False": ({"task_publish_retry": False}, {}),
}
CASES = {
    **dict.fromkeys([REFUSED, RECOVERED, FROZEN, THAWED, ANSWER_LOST], OF_BROKER),
    **dict.fromkeys([SAME_REFUSED, BACKEND_REFUSED, BACKEND_FROZEN], OF_BACKEND),
}
RUNS, DEADLINE, AWAY = 5, 25.0, 3.0


def batches(n: int) -> Iterator[list[Case]]:
    """Each run has its own stack."""
    for run in range(min(n, RUNS)):
        for case, settings in CASES.items():
            for setting in settings:
                yield [{"case": case, "setting": setting, "run": run}]


class Producer:
    """`restart/producer.py` in a process of its own."""

    def __init__(self, here: Path, **told: Any) -> None:
        self._out = here / "producer.txt"
        with self._out.open("w") as out, (here / "errors.txt").open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, producer.__file__, json.dumps(told)],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=errors,
                text=True,
            )

    @property
    def said(self) -> list[str]:
        """Its whole lines so far. Raises RuntimeError, with its last words, when it has ended."""
        if self._process.poll() is not None:
            raise RuntimeError((self._out.parent / "errors.txt").read_text())
        return self._out.read_text().split("\n")[:-1]

    def publish(self) -> None:
        """Let it call `.delay()`."""
        assert self._process.stdin
        self._process.stdin.write("now\n")
        self._process.stdin.flush()

    def kill(self) -> None:
        """End it, whatever it waits for."""
        self._process.kill()
        self._process.communicate()


def begin(case: str, broker: RedisServer, results: RedisServer) -> None:
    """The outage begins."""
    if case in (REFUSED, SAME_REFUSED, RECOVERED):
        broker.kill()
    elif case in (FROZEN, THAWED):
        broker.pause()
    elif case == BACKEND_REFUSED:
        results.kill()
    elif case == BACKEND_FROZEN:
        results.pause()


def end(broker: RedisServer) -> None:
    """The broker runs again."""
    broker.resume()
    if not broker.alive:
        broker.restart()


def messages(broker: RedisServer, task_id: str) -> int:
    """How many messages have this id, once all that a dead producer had sent is read."""
    with broker.client() as client:
        poll(lambda: len(client.client_list(_type="normal")) == 1, timeout=5)
    return sum(list(ids).count(task_id) for ids in broker.queued().values())


def publish(batch: list[Case]) -> Iterator[Row]:
    """One run: one call of `.delay()`."""
    [case] = batch
    name, task_id, here = case["case"], str(uuid.uuid4()), private_directory()
    conf, options = CASES[name][case["setting"]]
    with ExitStack() as ending:
        ending.callback(reaper.remove, here)
        own: Any = {} if name in (BACKEND_REFUSED, BACKEND_FROZEN) else None
        stack = ending.enter_context(Stack(here, redis=ON_DISK, backend=own, name="outage"))
        broker, results = stack.redis, stack.results
        port, backend = broker.port, stack.backend_url
        if name == SAME_REFUSED:
            backend = broker.url(1)
        proxy = ending.enter_context(AnswerDropper(broker.port)) if name == ANSWER_LOST else None
        if proxy:
            port = proxy.port
        url = broker.url().replace(f":{broker.port}/", f":{port}/")
        sender = Producer(here, url=url, backend=backend, id=task_id, conf=conf, options=options)
        ending.callback(sender.kill)
        stack.wait_until(lambda: sender.said == ["ready"], "the producer ready", timeout=20)
        begin(name, broker, results)
        if proxy:
            proxy.arm()
        sender.publish()
        began = time.monotonic()
        if name in (RECOVERED, THAWED):
            poll(lambda: time.monotonic() - began > AWAY, timeout=AWAY + 1)
            end(broker)
        back = poll(lambda: len(sender.said) > 1, DEADLINE - (time.monotonic() - began))
        seen: dict[str, Any] = {"did": "blocked", "error": "", "seconds": DEADLINE}
        if back:
            seen = json.loads(sender.said[1])
        sender.kill()
        end(broker)
        yield {
            **case,
            "did": seen["did"],
            "error": seen["error"],
            "seconds": round(seen["seconds"], 2),
            "messages": messages(broker, task_id),
            "answers_lost": proxy.dropped if proxy else 0,
            **provenance(stack),
        }


if __name__ == "__main__":
    measure(__file__, batches, publish, n=RUNS, at_once=4)  # mostly they wait
