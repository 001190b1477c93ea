"""Kinds of applications and failures that an instrument can misread, each of them live."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from helpers import Stack, faults
from helpers.settle import count
from helpers.worker import Worker

KINDS = """
import time
from celery import Celery
from kombu.common import Broadcast
from kombu import Queue

app = Celery("kinds")
app.conf.update({settings!r})
if {listens}:
    app.conf.task_queues = (Queue("celery"), Broadcast("everyone"))
app.conf.task_ignore_result = True

@app.task
def work(seconds=0):
    time.sleep(seconds)

@app.task(acks_late=True)
def late(seconds=0):
    time.sleep(seconds)

@app.task(bind=True, max_retries=1)
def again(self):
    if not self.request.retries:
        raise self.retry(countdown=0.1)
"""
KEEPS = {"appendonly": "yes", "appendfsync": "always"}


def kinds(directory: Path, name: str = "kinds", listens: bool = False, **settings: Any) -> None:
    (directory / f"{name}.py").write_text(KINDS.format(settings=settings, listens=listens))


@pytest.fixture
def here(tmp_path: Path) -> Path:
    directory = tmp_path / "kinds"
    directory.mkdir()
    kinds(directory)
    return directory


def known(app: Any, workers: int = 1) -> set[str]:
    """What the live workers know of, in their own words."""
    inspect = app.control.inspect(timeout=10, limit=workers)
    asked = [inspect.active(), inspect.reserved(), inspect.scheduled()]
    found = [it for answer in asked for own in (answer or {}).values() for it in own]
    return {it.get("request", it)["id"] for it in found}


def said(stack: Stack, event: str, times: int = 1) -> None:
    stack.wait_until(lambda: stack.ledger.count(event) >= times, f"{event} {times} times", 20)


# The broker restarts, or a connection breaks.


def test_a_live_worker_forgot_what_it_had_prefetched(here: Path) -> None:
    """Its window is full, so that it survives (Celery 5.7.0 exits otherwise)."""
    with Stack(here, redis=KEEPS) as stack:
        worker = stack.start_worker("--concurrency=2")
        module = stack.load("kinds")
        for _ in range(12):
            module.work.delay(1.5)
        said(stack, "received", 10)
        client = stack.redis.client()
        stack.wait_until(lambda: not client.info()["blocked_clients"], "full: it asks no more")
        with faults.down(stack.redis):
            pass
        said(stack, "connected", 2)
        outcome = stack.settle(timeout=15, quiet=0.3)
        assert worker.alive
        assert (outcome.counts, outcome.verdict) == ({"done": 4, "stranded": 8}, "broke")
        assert outcome.table["latest_return"].max() > 3000
        assert known(module.app) == set()
        stack.start_worker("--concurrency=1")  # another one changes nothing
        assert count(stack).counts == {"done": 4, "stranded": 8}


@pytest.mark.parametrize("what", ["runs", "waits"])
def test_a_message_in_a_workers_hands_when_redis_restarts(here: Path, what: str) -> None:
    """Celery 5.7.0 mostly exits with code 1, by chance it lives on; 5.6.3 lives on."""
    with Stack(here, redis=KEEPS) as stack:
        worker = stack.start_worker("--concurrency=2")
        module = stack.load("kinds")
        task = module.late.apply_async((30,), countdown=60 if what == "waits" else None)
        stack.wait_for("received" if what == "waits" else "started", task)
        with faults.down(stack.redis):
            pass
        back = lambda: stack.ledger.count("connected") == 2  # noqa: E731
        ends = lambda: stack.ledger.count("leaving") or not worker.alive  # noqa: E731
        stack.wait_until(lambda: back() or ends(), "over", 20)
        if ends() and what == "waits":  # else it waits for what runs
            worker.wait(20)
        if worker.alive:
            assert count(stack).counts == ({"held": 1} if what == "runs" else {"stranded": 1})
            worker.kill()
        outcome = stack.settle(timeout=2, quiet=0.3)
        assert outcome.counts == {"stranded": 1}
        assert f"worker1 ended with exit code {worker.exit_code}" in outcome.sentence


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_held_is_what_the_worker_knows_after_a_reset(here: Path, pool: str) -> None:
    with Stack(here) as stack:
        worker = stack.start_worker("--concurrency=1", f"--pool={pool}")
        module = stack.load("kinds")
        far = module.work.apply_async((), countdown=600)
        for _ in range(3):
            module.late.delay(1)
        said(stack, "received", 4)
        said(stack, "started")
        faults.cut_connections(worker, stack.redis)
        said(stack, "connected", 2)
        stack.wait_until(lambda: far.id in known(module.app), "received again")
        before, table, after = known(module.app), count(stack).table, known(module.app)
        held = set(table.index[table["message"] == "held"])
        assert held <= before | after
        assert far.id in held
        stack.wait_until(lambda: not known(module.app) - {far.id}, "idle", 20)
        fates = count(stack).counts
        assert fates.pop("held") == 1 and set(fates) <= {"done", "duplicated"}


# Broadcasts.


@pytest.fixture
def hearing(here: Path) -> Path:
    """Of an application that listens, so that its workers poll whatever they hold."""
    kinds(here, listens=True)
    return here


def listener(stack: Stack, *options: str) -> Worker:
    """It subscribes a moment after it is ready, and misses what is said before."""
    worker = stack.start_worker("--concurrency=1", *options)

    def subscribed() -> bool:
        told = [event for event in stack.ledger.of("consuming") if event["pid"] == worker.pid]
        return bool(told and told[-1]["broadcasts"])

    stack.wait_until(subscribed, "subscribed")
    return worker


def everyone(module: Any, task: Any, **options: Any) -> Any:
    exchange = module.app.amqp.queues["everyone"].exchange
    return task.apply_async(exchange=exchange, routing_key="celery", declare=[exchange], **options)


def test_a_broadcast_is_meant_for_who_listens_at_that_moment(hearing: Path) -> None:
    with Stack(hearing) as stack:
        gone, *rest = [listener(stack) for _ in range(2)]
        module = stack.load("kinds")
        gone.kill()
        first = everyone(module, module.work)
        assert stack.settle(quiet=0.3).table.loc[first.id, ["fate", "starts"]].tolist() == [
            "done",
            1,
        ]
        stack.start_worker("--concurrency=1", "--queues=celery")  # does not listen
        listener(stack, "--pool=threads")
        second = everyone(module, module.work)
        twice = [everyone(module, module.work, task_id="twice") for _ in range(2)]
        table = stack.settle(quiet=0.5).table
        called = [first.id, second.id, twice[0].id]
        assert table["fate"].to_dict() == dict.fromkeys(called, "done")
        assert table.loc[called, "starts"].tolist() == [1, 2, 4]
        # A retry declares no exchange, so kombu puts it into lists of which nobody takes anything.
        retried = everyone(module, module.again)
        row = stack.settle(timeout=5, quiet=0.5).table.loc[retried.id]
        assert row[["fate", "starts", "consumed"]].tolist() == ["queued", 2, False]
        assert rest[0].alive


def test_a_worker_killed_in_a_broadcast_lost_it(hearing: Path) -> None:
    with Stack(hearing) as stack:
        workers = [listener(stack) for _ in range(2)]
        module = stack.load("kinds")
        everyone(module, module.work, args=(2,))
        said(stack, "started", 2)
        workers[0].kill()
        outcome = stack.settle(quiet=0.3)
        assert (outcome.counts, outcome.verdict) == ({"lost": 1}, "broke")


def test_a_broadcast_that_nobody_hears_is_lost(hearing: Path) -> None:
    with Stack(hearing) as stack:
        stack.start_worker("--concurrency=1", "--queues=celery")
        module = stack.load("kinds")
        everyone(module, module.work)
        assert stack.settle(timeout=5, quiet=0.3).counts == {"lost": 1}


# Remote control.


def test_one_of_two_workers_takes_up_and_gives_up_a_queue(here: Path) -> None:
    with Stack(here) as stack:
        for _ in range(2):
            stack.start_worker("--concurrency=1")
        module = stack.load("kinds")
        control, one = module.app.control, ["worker1@stack"]

        def consumed(queue: str) -> bool:
            task = module.work.apply_async((0,), queue=queue)
            row = stack.settle(timeout=1.5, quiet=0.3).table.loc[task.id]
            assert row["fate"] == "done" or (row["fate"], row["consumed"]) == ("queued", False)
            return bool(row["fate"] == "done")

        assert not consumed("parcels")
        control.add_consumer("parcels", destination=one, reply=True)
        assert consumed("parcels")
        control.cancel_consumer("celery", destination=one, reply=True)
        assert consumed("celery")  # the other one has it
        control.cancel_consumer("celery", reply=True)
        assert not consumed("celery")
        control.cancel_consumer("parcels", destination=one, reply=True)
        assert not consumed("parcels")


def test_what_a_revoke_does_depends_on_where_the_task_is(here: Path) -> None:
    with Stack(here) as stack:
        stack.start_worker("--concurrency=1")
        module = stack.load("kinds")
        runs = module.work.delay(1.5)
        stack.wait_for("started", runs)
        reserved = module.work.delay()
        far = module.work.apply_async((), countdown=600)
        free = module.work.apply_async((), countdown=600)
        for task in (reserved, far, free):
            stack.wait_for("received", task)
        queued = module.work.apply_async((), queue="nobody")
        told = [task.id for task in (runs, reserved, far, queued)]
        module.app.control.revoke(told, reply=True)
        fates = count(stack).table["fate"].to_dict()
        assert fates == {
            runs.id: "held",
            reserved.id: "discarded",
            far.id: "discarded",
            free.id: "held",
            queued.id: "queued",
        }
        module.app.control.add_consumer("nobody", reply=True)
        stack.wait_for("discarded", queued)
        endless = module.work.delay(60)
        stack.wait_for("started", endless)
        module.app.control.revoke(endless.id, terminate=True, reply=True)
        stack.wait_for("failed", endless)
        fates = count(stack).table["fate"].to_dict()
        assert fates.pop(runs.id) == "done" and fates.pop(endless.id) == "failed"
        assert fates.pop(free.id) == "held" and set(fates.values()) == {"discarded"}


def test_who_was_told_of_a_revoke_is_gone_and_another_has_it(here: Path) -> None:
    sweep = {"visibility_timeout": 3, "unacked_restore_interval": 1, "unacked_restore_throttle": 1}
    kinds(here, broker_transport_options=sweep)
    with Stack(here) as stack:
        first = stack.start_worker("--concurrency=1")
        module = stack.load("kinds")
        task = module.work.apply_async((), countdown=600)
        stack.wait_for("received", task)
        module.app.control.revoke(task.id, reply=True)
        assert count(stack).counts == {"discarded": 1}
        faults.kill_between_sweeps(stack, first)
        assert count(stack).counts == {"stranded": 1}
        stack.start_worker("--concurrency=1")
        said(stack, "received", 2)
        assert count(stack).counts == {"held": 1}


# Applications side by side.


def test_two_applications_with_prefixes_on_one_server(here: Path) -> None:
    for name in ("shop", "mail"):
        options = {"global_keyprefix": f"{name}:", "visibility_timeout": 3600}
        kinds(here, name, broker_transport_options=options)
    with Stack(here) as stack:
        worker = stack.start_worker("--concurrency=1", app="shop")
        shop, mail = stack.load("shop"), stack.load("mail")
        slow = shop.late.delay(30)
        stack.wait_for("started", slow)
        theirs = [mail.work.delay() for _ in range(2)]
        prefetched = [shop.late.delay() for _ in range(3)]
        for task in prefetched:
            stack.wait_for("received", task)
        worker.kill()
        rest = shop.work.delay()
        table = stack.settle(timeout=1, quiet=0.2).table
        assert set(table.loc[[slow.id, *(it.id for it in prefetched)], "fate"]) == {"stranded"}
        assert set(table.loc[[rest.id, *(it.id for it in theirs)], "fate"]) == {"queued"}
        stack.start_worker("--concurrency=1", app="shop")
        table = stack.settle(timeout=2, quiet=0.3).table
        assert table.loc[rest.id, "fate"] == "done"
        assert not table.loc[[it.id for it in theirs], "consumed"].any()


def test_protocol_1_from_the_publish_to_a_return(here: Path) -> None:
    kinds(here, task_protocol=1, broker_transport_options={"visibility_timeout": 3600})
    with Stack(here) as stack:
        worker = stack.start_worker("--concurrency=1")
        module = stack.load("kinds")
        done, slow = module.work.delay(), module.late.delay(30)
        stack.wait_for("started", slow)
        assert count(stack).counts == {"done": 1, "held": 1}
        worker.stop(signal.SIGQUIT)
        assert [event["id"] for event in stack.ledger.of("restored")] == [slow.id]
        assert stack.settle(timeout=1, quiet=0.2).table["fate"].to_dict() == {
            done.id: "done",
            slow.id: "queued",
        }


# How a worker ends.


def test_the_sentence_says_how_each_worker_ended(here: Path) -> None:
    with Stack(here) as stack:
        killed, stopped, exited, alive = (stack.start_worker("--concurrency=1") for _ in range(4))
        stack.load("kinds").work.delay()
        said(stack, "finished")
        killed.kill()
        stopped.stop()
        os.kill(exited.pid, signal.SIGKILL)
        exited.wait()
        sentence = stack.settle(timeout=2, quiet=0.2).sentence
        for number, code in ((1, -9), (2, 0), (3, -9)):
            assert f"worker{number} ended with exit code {code}" in sentence
        assert "worker4" not in sentence and alive.alive


def test_a_worker_that_shuts_down_is_no_consumer_and_holds_what_it_has(here: Path) -> None:
    with Stack(here) as stack:
        worker: Worker = stack.start_worker("--concurrency=1")
        module = stack.load("kinds")
        tasks = [module.late.delay(2) for _ in range(4)]  # a full window: it asks for no more
        for task in tasks:
            stack.wait_for("received", task)
        stack.wait_for("started", tasks[0])
        os.kill(worker.pid, signal.SIGTERM)
        said(stack, "leaving")
        late = module.work.delay()
        table = count(stack).table
        assert table.loc[[it.id for it in tasks], "fate"].tolist() == ["held"] * 4
        assert table.loc[late.id, "where"] == "queue celery, no consumer"
        stack.wait_until(lambda: not worker.alive, "ended")
        assert stack.settle(timeout=1, quiet=0.2).counts == {"done": 1, "queued": 4}


# A sweep takes a message from `unacked`, not from the worker that waits to run it.

SWEEPS = {"visibility_timeout": 2, "unacked_restore_interval": 1, "unacked_restore_throttle": 1}


def test_a_task_that_is_done_and_waits_in_another_worker(here: Path) -> None:
    kinds(here, broker_transport_options=SWEEPS)
    with Stack(here) as stack:
        stack.start_worker("--concurrency=1")
        module = stack.load("kinds")
        module.work.delay(10)
        second = module.work.delay()
        stack.wait_for("received", second)
        stack.start_worker("--concurrency=1")
        stack.wait_for("finished", second, timeout=20)
        row = count(stack).table.loc[second.id]
        assert (row["fate"], row["place"]) == ("done", "memory")
        assert second.id in known(module.app, workers=2)
        assert count(stack).verdict == "inconclusive"
        outcome = stack.settle(timeout=30)
        assert (outcome.counts, outcome.verdict) == ({"done": 1, "duplicated": 1}, "broke")


def test_a_copy_that_celery_deduplicates_is_gone(here: Path) -> None:
    kinds(
        here,
        broker_transport_options=SWEEPS,
        worker_deduplicate_successful_tasks=True,
        task_ignore_result=False,
    )
    (here / "kinds.py").write_text((here / "kinds.py").read_text().replace("task_ignore", "not_"))
    with Stack(here) as stack:
        for _ in range(2):
            stack.start_worker("--concurrency=1")
        task = stack.load("kinds").late.delay(5)
        outcome = stack.settle(timeout=30)
        row = outcome.table.loc[task.id]
        # Each worker ran it once: it was handed out again before the first had succeeded.
        assert (row["fate"], row["starts"], row["message"]) == ("duplicated", 2, "")
        assert stack.ledger.count("deduplicated") >= 1
        assert outcome.reasons == ["duplicated 1"]


def test_a_message_that_no_task_can_run_is_told_though_the_results_are_away(here: Path) -> None:
    """Celery stores a failure before its signal: a dead result backend swallows that."""
    with Stack(here, backend={}) as stack:
        assert stack.results is not None
        module = stack.load("kinds")
        stack.start_worker("--concurrency=1")
        stack.results.kill()
        task = module.app.send_task("nobody.knows", ignore_result=True)
        said(stack, "discarded")
        assert stack.ledger.of("discarded")[0]["id"] == task.id
