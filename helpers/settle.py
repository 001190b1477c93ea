"""Heal, drain, count: waits until nothing moves, then asks the broker what it still has."""

import time
from collections.abc import Sequence
from typing import Protocol

from helpers.brokers import Broker
from helpers.errors import BrokerSilent
from helpers.fates import CHILD_GONE, Census, Outcome, classify
from helpers.ledger import Ledger
from helpers.process import Process
from helpers.status import Status
from helpers.worker import Worker

# A parent looks after its children every 5 s (`celery/concurrency/asynpool.py: AsynPool.timers`),
# and gives a dead one 10 s to have reported (`billiard/pool.py: LOST_WORKER_TIMEOUT`).
_NOTICING = 16


class Settling(Protocol):
    """What comes to rest: the parts of a `Stack` that matter here."""

    name: str
    ledger: Ledger
    broker: Broker
    workers: list[Worker]

    @property
    def alive(self) -> Sequence[Process]:
        """Servers and workers that are alive."""

    @property
    def patience(self) -> float:
        """How many times as long as usual to wait."""


def settle(stack: Settling, timeout: float, quiet: float) -> Outcome:
    """What `Stack.settle` says."""
    ledger = stack.ledger
    ledger.append("settle")  # a ledger that takes no line would count too little
    for process in stack.alive:
        process.resume()
    begin = time.monotonic()
    # Not so for a return from `unacked`: that is a matter of settings, not of the machine.
    returns = begin + timeout
    timeout, quiet = timeout * stack.patience, quiet * stack.patience
    deadline = begin + timeout
    with Status("waiting until nothing moves", deadline=timeout) as status:
        while True:
            while not _silent(ledger, 0.1) and time.monotonic() < deadline:
                status.update(f"{ledger.count('finished')} of {ledger.count('accepted')} finished")
            outcome = judge(stack)
            status.update(", ".join(f"{count} {fate}" for fate, count in outcome.counts.items()))
            if not (outcome.table["message"].any() or "lost" in outcome.counts):
                return outcome
            left = deadline - time.monotonic()
            if _silent(ledger, min(quiet, left)) or left <= 0:
                outcome = judge(stack)
                left = deadline - time.monotonic()
                unnoticed = outcome.table["where"].eq(CHILD_GONE).any()
                noticing = unnoticed and time.monotonic() - begin < _NOTICING
                if not (noticing or _moving(outcome, returns - time.monotonic())):
                    return outcome
                if left <= 0:
                    return judge(stack, moving=True)


def judge(stack: Settling, moving: bool = False) -> Outcome:
    """The outcome as of now. `moving` says that the drain ran out of time."""
    # A task crosses from the broker into the ledger. With the census first it may be seen twice on
    # its way, but never nowhere.
    seen = census(stack)
    outcome = classify(stack.ledger.read(), seen, title=stack.name, moving=moving)
    outcome.log_errors = sum(len(worker.log.errors) for worker in stack.workers)
    return outcome


def _silent(ledger: Ledger, seconds: float) -> bool:
    """True when no line comes for `seconds`, False as soon as one does."""
    end = time.monotonic() + seconds
    size = ledger.path.stat().st_size
    while time.monotonic() < end:
        time.sleep(min(0.1, seconds))
        if ledger.path.stat().st_size != size:
            return False
    return True


def _moving(outcome: Outcome, seconds: float) -> bool:
    """Does any task move, or will one come back within `seconds`?"""
    table = outcome.table
    consumed = (table["message"] == "queued") & ~table["where"].str.endswith("no consumer")
    returning = (table["message"] == "stranded") & (table["latest_return"] <= seconds)
    return bool((consumed | returning | (table["message"] == "held")).any())


def census(stack: Settling) -> Census | None:
    """What the broker holds and which processes live; None when the broker does not answer.

    A fetch moves a message from its queue to a worker's hands (Redis: `unacked`), a return moves it
    back. What is held is read before the queues and after them, so a message on its way is seen at
    least once.
    """
    live: set[int] = set()
    for worker in stack.workers:
        if worker.alive:
            live |= {worker.pid, *worker.children()}
    try:
        before = stack.broker.unacked()
        queued = stack.broker.queued()
        after = stack.broker.unacked()
    except BrokerSilent:
        return None
    back = {task_id for ids in queued.values() for task_id in ids}
    unacked = {entry.tag: entry for entry in before if entry.task_id not in back}
    unacked |= {entry.tag: entry for entry in after}
    return Census(time.time(), queued, list(unacked.values()), frozenset(live))
