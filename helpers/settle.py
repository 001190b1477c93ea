"""Heal, drain, count: waits until nothing moves, then asks the broker what it still has."""

import time
from collections.abc import Collection, Sequence
from typing import Protocol

from helpers.brokers import Broker
from helpers.errors import BrokerSilent
from helpers.fates import Census, Outcome, classify
from helpers.ledger import Ledger
from helpers.process import Process
from helpers.program import Program
from helpers.status import Status

# A parent looks after its children every 5 s (`celery/concurrency/asynpool.py: AsynPool.timers`),
# and gives a dead one 10 s to have reported (`billiard/pool.py: LOST_WORKER_TIMEOUT`).
_NOTICING = 16


class Settling(Protocol):
    """What comes to rest: the parts of a `Stack` that matter here."""

    name: str
    ledger: Ledger
    broker: Broker

    @property
    def programs(self) -> Sequence[Program]:
        """Workers and beats, also those that ended."""

    @property
    def alive(self) -> Sequence[Process]:
        """Servers, workers and beats that are alive."""

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
            _wait_for_silence(ledger, deadline, status)
            outcome = count(stack)
            status.update(", ".join(f"{number} {fate}" for fate, number in outcome.counts.items()))
            if _at_rest(outcome):
                return outcome
            left = deadline - time.monotonic()
            if not _silent(ledger, min(quiet, left)) and left > 0:
                continue
            outcome = count(stack)
            now = time.monotonic()
            if not (_unnoticed(outcome, now - begin) or _will_move(outcome, returns - now)):
                return outcome
            if now >= deadline:
                lost = outcome.table.index[outcome.table["fate"] == "lost"]
                time.sleep(0.1)  # for a message that is just on its way
                return count(stack, out_of_time=True, lost_before=lost)


def count(
    stack: Settling, *, out_of_time: bool = False, lost_before: Collection[str] = ()
) -> Outcome:
    """The outcome as of now. The options say how the drain had to end, as in `classify`."""
    # A task crosses from the broker into the ledger. With the census first it may be seen twice on
    # its way, but never nowhere.
    seen = census(stack)
    history = stack.ledger.read()
    errors = sum(len(program.log.errors) for program in stack.programs)
    return classify(
        history,
        seen,
        title=stack.name,
        log_errors=errors,
        out_of_time=out_of_time,
        lost_before=lost_before,
    )


def _wait_for_silence(ledger: Ledger, deadline: float, status: Status) -> None:
    while not _silent(ledger, 0.1) and time.monotonic() < deadline:
        status.update(f"{ledger.count('finished')} of {ledger.count('accepted')} finished")


def _silent(ledger: Ledger, seconds: float) -> bool:
    """True when no line comes for `seconds`, False as soon as one does."""
    end = time.monotonic() + seconds
    size = ledger.path.stat().st_size
    while time.monotonic() < end:
        time.sleep(min(0.1, seconds))
        if ledger.path.stat().st_size != size:
            return False
    return True


def _at_rest(outcome: Outcome) -> bool:
    """No message is left anywhere, and none is missed: nothing to wait for."""
    return not outcome.table["message"].any() and "lost" not in outcome.counts


def _unnoticed(outcome: Outcome, waited: float) -> bool:
    """Has a child died, and its parent had no time yet to say so? `waited` is in seconds."""
    return waited < _NOTICING and bool(outcome.table["place"].eq("gone").any())


def _will_move(outcome: Outcome, seconds: float) -> bool:
    """Does any task move, or will one come back within `seconds`?"""
    table = outcome.table
    consumed = (table["message"] == "queued") & table["consumed"]
    returning = (table["message"] == "stranded") & (table["latest_return"] <= seconds)
    return bool((consumed | returning | (table["message"] == "held")).any())


def census(stack: Settling) -> Census | None:
    """What the broker holds and which processes live; None when the broker does not answer.

    A fetch moves a message from its queue to a worker's hands (Redis: `unacked`), a return moves it
    back. What is held is read before the queues and after them, so a message on its way is seen at
    least once.
    """
    live: set[int] = set()
    exits: dict[str, int] = {}
    ended: dict[int, float] = {}
    for program in stack.programs:
        if (code := program.exit_code) is None:
            live |= {program.pid, *program.children()}
        else:
            exits[program.name] = code
            ended[program.pid] = program.ended_at or 0.0
    try:
        before = stack.broker.unacked()
        queued = stack.broker.queued()
        after = stack.broker.unacked()
    except BrokerSilent:
        return None
    back = {task_id for ids in queued.values() for task_id in ids}
    unacked = {entry.tag: entry for entry in before if entry.task_id not in back}
    unacked |= {entry.tag: entry for entry in after}
    return Census(time.time(), queued, list(unacked.values()), frozenset(live), exits, ended)
