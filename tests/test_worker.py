"""The worker's command line: any option of Celery's, and what a stack refuses; signals."""

import signal
from pathlib import Path

import pytest

from helpers import Stack
from helpers.errors import StackError

# Several at once, so that it is quick: each list is one worker.
OPTIONS = [
    ("-lWARNING", "-f", "own.log", "-EPthreads", "-c2", "-O", "fair", "--heartbeat-interval=5"),
    ("--loglevel", "ERROR", "--autoscale=2,1", "--max-tasks-per-child=1", "-S", "own", "--purge"),
    ("--logfile=%n%I.log", "-Q", "celery,parcels", "-Xparcels", "-Psolo", "--pidfile=own.pid"),
    ("--time-limit=9", "--soft-time-limit", "8", "-c", "1", "--prefetch-multiplier=1"),
    ("--max-memory-per-child=200000", "-c1", "--disable-prefetch", "-I", "json,csv", "-B"),
    ("--concurrency=1", "--pool-start-method=spawn"),
]


@pytest.mark.parametrize("options", OPTIONS, ids=" ".join)
def test_any_option_of_celery_works(stack: Stack, options: tuple[str, ...]) -> None:
    stack.start_worker(*options)
    stack.load("shop").add.delay(2, 3)
    assert stack.settle().counts == {"done": 1}
    assert not list(stack.directory.glob("celerybeat-schedule*"))


def test_a_log_of_its_own_is_read_too(stack: Stack, shop_directory: Path) -> None:
    worker = stack.start_worker("--concurrency=1", "--logfile=%n-of-mine.log")
    stack.wait_for("failed", stack.load("shop").fail.delay())
    stack.wait_until(lambda: worker.log.errors, "an error in the log")
    assert (shop_directory / "worker1-of-mine.log").exists()
    assert stack.settle().log_errors == 1


REFUSED = {
    "--hostname=w1@%h": "names its workers",
    "-nw1": "names its workers",
    "-ED": "leave it out",
    "--detach": "leave it out",
    "-A": "app='shop'",
    "--app=mail": "app='shop'",
    "-b": "Stack\\(redis=",
    "--broker=redis://": "Stack\\(redis=",
    "--result-backend=redis://": "Stack\\(backend=",
    "--workdir=/tmp": "Stack\\(directory\\)",
    "--uid=nobody": "private files",
    "--executable=python": "this notebook's Python",
}


@pytest.mark.parametrize("option", REFUSED)
def test_what_a_stack_cannot_serve_is_refused_in_words(stack: Stack, option: str) -> None:
    with pytest.raises(StackError, match=REFUSED[option]):
        stack.start_worker("--concurrency", "1", option)
    assert stack.workers == []


def test_what_looks_like_a_refused_option_is_a_value(stack: Stack) -> None:
    stack.start_worker("--concurrency=1", "-Q", "-D")
    assert [event["queues"] for event in stack.ledger.of("ready")] == [["-D"]]


def test_a_stock_worker_has_gossip_mingle_and_heartbeat(stack: Stack) -> None:
    quick = stack.start_worker("--concurrency=1")
    stock = stack.start_worker("--concurrency=1", stock=True)
    assert "--without-" in quick.command_line and "--without-" not in stock.command_line
    assert "mingle: searching for neighbors" in stock.log.text
    assert "mingle" not in quick.log.text
    app = stack.load("shop").app
    assert stack.patience < stock.seconds_to_ready / quick.usual_start  # mingle is no slow machine
    with app.connection_for_read() as connection:
        heard: list[str] = []

        def beat(event: dict[str, str]) -> None:
            heard.append(event["hostname"])
            receiver.should_stop = True

        receiver = app.events.Receiver(connection, handlers={"worker-heartbeat": beat})
        receiver.capture(timeout=10)
    assert heard == ["worker2@stack"]


def test_a_signal_to_the_group_reaches_the_children(stack: Stack) -> None:
    """As systemd sends it: a child does not finish what it runs, though the shutdown is warm."""
    worker = stack.start_worker("--concurrency=2")
    nap = stack.load("shop").nap
    running = [nap.delay(3) for _ in range(2)]
    for task in running:
        stack.wait_for("started", task)
        stack.wait_for("acknowledged", task)
    worker.stop(signal.SIGTERM, timeout=20, group=True)
    assert worker.exit_code == 0
    outcome = stack.settle(timeout=2)
    assert outcome.counts == {"failed": 2}
    assert outcome.table["why"].str.contains("signal 15").all()
    assert [fault.what for fault in worker.faults] == ["SIGTERM", "exit"]


def test_a_signal_to_the_parent_lets_the_children_finish(stack: Stack) -> None:
    worker = stack.start_worker("--concurrency=1")
    task = stack.load("shop").nap.delay(2)
    stack.wait_for("started", task)
    stack.wait_for("acknowledged", task)  # the parent knows by then that the task runs
    worker.stop(timeout=20)
    assert stack.settle().counts == {"done": 1}
