"""What is broken, at a named event in the life of a chord."""

import signal
import time
from typing import Any

from chord.case import Fault, Run
from chord.shop import ONE
from helpers import chords, lens
from helpers.faults import down, evict, fill_cache


def _in_the_middle(run: Run) -> None:
    """Wait until the worker has received every part, and runs two.

    Redis hands a message out before kombu notes it in `unacked`: a kill in between loses it even
    with late ack. And a shutdown while messages still arrive may not end.
    """
    for part in run.parts:
        run.stack.wait_for("received", part, timeout=30)
    run.wait("started", 2)


def kill_and_replace(run: Run) -> None:
    """`kill -9` to the worker and its children in the middle of the header; a new one starts."""
    _in_the_middle(run)
    if not run.case.conf.get("task_acks_late"):
        # The child starts a little before its parent acknowledges.
        run.stack.wait_until(lambda: not _started(run) & _unacked(run), "acknowledged", 30)
    run.worker.kill()
    run.start_worker()


def _started(run: Run) -> set[str]:
    return {event["id"] for event in run.stack.ledger.read() if event["event"] == "started"}


def _unacked(run: Run) -> set[str]:
    return set(lens.unacked(run.stack.redis)["id"])


def resend_what_is_lost(run: Run) -> None:
    """After the kill, send each part that is nowhere again, with its id, group, index and body."""
    kill_and_replace(run)
    run.wait("finished", 2)
    time.sleep(0.2)
    app = run.shop.app
    found = chords.parts(
        run.result, run.stack.redis, run.stack.results, running=lens.running(app, 0.5)
    )
    body = run.shop.total.s().set(task_id=run.result.id)
    for index, (task_id, part) in enumerate(found.iterrows()):
        if part["resend"]:
            run.shop.charge.s(index).apply_async(
                task_id=task_id, group_id=run.parts.id, group_index=index, chord=body
            )


def signalled(number: signal.Signals) -> Fault:
    """One signal to the worker's parent process in the middle of the header; a new one starts."""

    def fault(run: Run) -> None:
        _in_the_middle(run)
        run.worker.stop(number, timeout=30)
        run.start_worker()

    return fault


def kill_child(run: Run) -> None:
    """`kill -9` to the pool's children alone."""
    run.wait("started", 2)
    for child in run.worker.children():
        run.worker.kill_child(child)


def revoke(terminate: bool) -> Fault:
    """Revoke the first task of the part under study, behind a busy process or running."""

    def fault(run: Run) -> None:
        node = run.parts.results[1]
        while node.parent is not None:
            node = node.parent
        run.stack.wait_for("started" if terminate else "received", node, timeout=30)
        run.shop.app.control.revoke(node.id, terminate=terminate)

    return fault


def revoke_middle(run: Run) -> None:
    """Revoke the second of three links."""
    run.wait("started")
    run.shop.app.control.revoke(run.result.parent.id)


def kill_while_unlock_waits(run: Run) -> None:
    """The header is done, and the unlock task waits for its countdown in the worker's memory."""
    run.wait("finished", 2)
    unacked = lambda: set(lens.unacked(run.stack.redis)["task"])  # noqa: E731
    run.stack.wait_until(lambda: "celery.chord_unlock" in unacked(), "held by the worker", 30)
    run.worker.kill()
    run.start_worker()


def at_the_start(act: Fault) -> Fault:
    """Do something as soon as the first part runs."""

    def fault(run: Run) -> None:
        run.wait("started")
        act(run)

    return fault


def evict_key(suffix: str) -> Fault:
    """One key of the header is gone when the first part has reported."""

    def fault(run: Run) -> None:
        run.wait("finished")
        evict(run.stack.results, run.key(suffix), db=1)

    return fault


def fill_with_pages(run: Run) -> None:
    """Between two parts, a cache writes pages that expire until Redis evicts what idled longest."""
    run.wait("finished")
    time.sleep(1.5)  # the LRU clock ticks once a second
    fill_cache(run.stack.redis.client(), seconds_to_live=600)
    run.stack.start_worker("--concurrency=1", "--queues=parcels")


def fill_results(run: Run) -> None:
    """The result server is full while the last part ends, and has room again afterwards."""
    run.wait("finished")
    run.stack.results.config_set("maxmemory", "1")  # less than it holds: it refuses every write
    run.stack.wait_until(lambda: run.worker.log.errors, "an error in the log", 30)
    run.stack.results.config_set("maxmemory", "0")


def stop_results(run: Run) -> None:
    """The result server is away while the last part ends, and comes back with what it saved."""
    run.wait("finished")
    with down(run.stack.results):
        run.stack.wait_until(lambda: _gave_up(run) or _retries(run), "noticed by the worker", 30)


def _gave_up(run: Run) -> bool:
    return any("callback raised" in line or "Connection" in line for line in run.worker.log.errors)


def _retries(run: Run) -> bool:
    return "Retrying" in run.worker.log.text


def restart_results(run: Run) -> None:
    """The result server restarts between two parts."""
    run.wait("finished")
    with down(run.stack.results):
        pass


def stop_broker(run: Run) -> None:
    """The broker is away when the body is to be sent, and comes back when the caller knows."""
    run.wait("started", 2)
    with down(run.stack.redis):
        run.stack.wait_until(lambda: run.ended, "ended", 60)


def results_elsewhere(run: Run) -> None:
    """The caller's process has another result database than the worker."""
    run.shop.app.conf.result_backend = run.stack.redis.url(2)


def forbid(*rules: str) -> Fault:
    """The user of the result server gets these rules of an ACL."""

    def before(run: Run) -> None:
        with run.stack.results.client() as client:
            client.execute_command("ACL", "SETUSER", "default", *rules)

    return before


def busy(seconds: float, count: int) -> Fault:
    """Other work is in the queue first."""

    def before(run: Run) -> None:
        for number in range(count):
            run.shop.charge.delay(number, seconds)

    return before


def replace_after_death(run: Run) -> None:
    """The application killed its worker at a chosen line; a new one starts."""
    run.worker.wait(timeout=30)
    run.start_worker()


RECEIVED: dict[str, Any] = {"fault": revoke(terminate=False), "worker": ONE}
