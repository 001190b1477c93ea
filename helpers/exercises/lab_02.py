"""Lab 02, crash a worker."""

import json
import random
import time
from pathlib import Path
from typing import Any

from helpers.checks.cells import given
from helpers.checks.exercise import Answer, Evidence, Exercise, Misconception, Wrong
from helpers.errors import StackError
from helpers.exercises.tools import (
    changes,
    confuses,
    interrupted,
    judge_said,
    load_function,
    not_interrupted,
    open_shop,
    rows,
    task_of,
)
from helpers.faults import kill_between_sweeps
from helpers.stack import Stack

ORDERS, PATIENCE = 5, 10.0


def _kill_in_the_middle(answer: Answer, here: Path) -> tuple[Stack, dict[str, Any]]:
    """Order 1 is running when the whole worker gets SIGKILL. A new worker has ten seconds."""
    stack = open_shop(here, "charges (number)", shop=answer)
    charge = task_of(stack.load("shop"), "charge")
    worker = stack.start_worker("--concurrency=1")
    orders = [charge.delay(number, bank=1.5 if number == 1 else 0.2) for number in range(ORDERS)]
    stack.wait_for("started", orders[1], timeout=6)
    time.sleep(0.5)
    kill_between_sweeps(stack, worker)
    end = time.monotonic() + PATIENCE
    cut = interrupted(stack, here, orders[1], 1)
    stack.start_worker("--concurrency=1")
    stack.settle(timeout=end - time.monotonic(), quiet=0.3)
    return stack, {"interrupted": cut, "charged": rows(here, "charges", "number")}


def _judge_kill(evidence: Evidence) -> Wrong | None:
    if not evidence.facts["interrupted"]:
        return not_interrupted(1)
    charged = evidence.facts["charged"]
    missing = [number for number in range(ORDERS) if not charged.get(str(number))]
    if not missing:
        return None
    return Wrong(
        f"each of the orders 0 to {ORDERS - 1} charged within {PATIENCE:.0f} seconds of the kill",
        f"never charged: {', '.join(map(str, missing))}; {evidence.outcome('').finding}",
    )


SURVIVE = Exercise(
    name="survive_a_kill",
    title="survive a kill",
    file="shop.py",
    given=given("lab_02", "survive_a_kill"),
    experiment=_kill_in_the_middle,
    judge=_judge_kill,
    count=lambda evidence: ORDERS - len(evidence.facts["charged"]),
    hints=(
        "Which order is gone, and which only came late? See the moment at which its message left "
        "Redis: `lens.unacked` in the notebook.",
        "The message of order 1 was acknowledged before its task ran. The option that moves the "
        "acknowledgement belongs to the task.",
        "@app.task(acks_late=True)",
    ),
    misconceptions=(
        Misconception(
            "reject_on_worker_lost is about a child that dies. Here the parent died too, and with "
            "early ack the message was gone by then.",
            lambda answer, _: "worker_lost" in answer and "acks_late" not in answer,
        ),
        Misconception(
            "a retry needs a process that is alive to ask for it. SIGKILL leaves none.",
            lambda answer, _: "retry" in answer and "acks_late" not in answer,
        ),
        Misconception(
            "the visibility timeout brings back what is in `unacked`. An order that was "
            "acknowledged is not there.",
            lambda answer, _: "acks_late" not in answer and _timeout_changed(answer),
        ),
    ),
)


def _timeout_changed(answer: str) -> bool:
    return '"visibility_timeout": 3,' not in answer


def _incident(answer: Answer, here: Path) -> tuple[Stack, dict[str, Any]]:
    """A worker was killed, some orders wait in two queues. The answer says where each one is."""
    stack = open_shop(here, "charges (number)", shop=SURVIVE.given, find=answer)
    worker = stack.start_worker("--concurrency=2", app="shop")
    charge = stack.load("shop").charge
    quick = [charge.delay(number, bank=0) for number in range(random.randint(2, 5))]
    for order in quick:
        stack.wait_for("finished", order)
    running = [charge.delay(number, bank=30) for number in (10, 11)]
    for order in running:
        stack.wait_for("started", order)
        stack.wait_for("acknowledged", order)
    waiting = [charge.delay(number) for number in range(20, 30 + random.randint(2, 6))]
    waiting += [charge.apply_async((40,), queue="parcels") for _ in range(random.randint(1, 3))]
    stack.wait_for("received", waiting[7])
    worker.kill()
    outcome = stack.settle(timeout=3, quiet=0.3)
    truth = outcome.table["fate"].to_dict()
    sent = [order.id for order in (*quick, *running, *waiting)]
    random.shuffle(sent)
    whereabouts = load_function(here / "find.py", "whereabouts")
    before = changes(stack)
    said = whereabouts(stack.redis.client(0), stack.redis.client(1), list(sent))
    if not isinstance(said, dict):
        raise StackError(f"whereabouts returned {type(said).__name__}, expected a dict by task id")
    said = {str(task_id): str(where) for task_id, where in said.items()}
    return stack, {"truth": truth, "said": said, "touched": changes(stack) != before}


FIND_THE_LOST = Exercise(
    name="find_the_lost",
    title="find the lost",
    file="find.py",
    given=given("lab_02", "find_the_lost"),
    experiment=_incident,
    judge=lambda evidence: judge_said(evidence, "ids"),
    count=lambda evidence: list(evidence.facts["truth"].values()).count("lost"),
    fates=False,
    hints=(
        "There are three places to look: the lists of the broker, its hash `unacked`, and the keys "
        "`celery-task-meta-<id>` of the result backend. Lost is what is in none of them.",
        "A message in a list is JSON; its id is under `headers`, `id`. An entry of `unacked` is "
        "JSON too: a list of message, exchange and queue.",
        "`broker.scan_iter(_type='list')` finds every queue, `broker.lrange(key, 0, -1)` reads "
        "one, `broker.hvals('unacked')` reads the hash. None of them changes anything.",
    ),
    misconceptions=(
        Misconception(
            "a task in `unacked` is not lost: its message is still in Redis and comes back.",
            lambda _, evidence: confuses(evidence, said="lost", truth="stranded"),
        ),
        Misconception(
            "PENDING means only that there is no result. A task that waits has none either.",
            lambda _, evidence: confuses(evidence, said="lost", truth="queued"),
        ),
    ),
)


PROMISES: dict[str, Any] = given("lab_02", "three_promises")
PROMISES_SHOP = """\
import json
import sqlite3
import time
from pathlib import Path

from celery import Celery

settings = json.loads(Path("settings.json").read_text())
app = Celery("shop")
app.conf.worker_prefetch_multiplier = settings["worker_prefetch_multiplier"]
app.conf.broker_transport_options = {
    "visibility_timeout": 3,
    "unacked_restore_interval": 1,
    "unacked_restore_throttle": 1,
}


def note(what):
    with sqlite3.connect("shop.db", timeout=10) as database:
        database.execute("INSERT INTO effects VALUES (?)", (what,))


@app.task(**settings["charge"])
def charge():
    time.sleep(1.5)  # the bank takes its time
    note("charge")


@app.task(**settings["remind"])
def remind():
    note("remind")  # the message is out
    time.sleep(1.5)  # and its receipt takes its time


@app.task(**settings["report"])
def report():
    time.sleep(1.5)
    note("report")


@app.task
def pack():
    pass
"""
OPTIONS = {"acks_late", "reject_on_worker_lost"}
MOST_FETCHED = 6


def _check_promises(answer: Answer) -> None:
    if not isinstance(answer, dict) or set(answer) != set(PROMISES):
        raise StackError(f"settings must have the keys {', '.join(PROMISES)}, and no other")
    fetched = answer["worker_prefetch_multiplier"]
    if type(fetched) is not int or fetched < 0:
        raise StackError("worker_prefetch_multiplier must be a whole number, 0 or more")
    for task in set(PROMISES) - {"worker_prefetch_multiplier"}:
        options = answer[task]
        if not isinstance(options, dict) or not set(options) <= OPTIONS:
            raise StackError(f"{task} takes the options {', '.join(sorted(OPTIONS))}, and no other")


def _three_tasks(answer: Answer, here: Path) -> tuple[Stack, dict[str, Any]]:
    """The worker is killed while one of each kind runs, and ten parcels wait behind them."""
    _check_promises(answer)
    (here / "settings.json").write_text(json.dumps(answer))
    stack = open_shop(here, "effects (what)", shop=PROMISES_SHOP)
    worker = stack.start_worker("--concurrency=3")
    shop = stack.load("shop")
    running = [task.delay() for task in (shop.charge, shop.remind, shop.report)]
    for task in running:
        stack.wait_for("started", task)
    for _ in range(20):
        shop.pack.delay()
    worker.wait_until(lambda: "remind" in rows(here, "effects", "what"), "reminded", timeout=5)
    time.sleep(0.5)
    kill_between_sweeps(stack, worker)
    stranded = stack.settle(timeout=1, quiet=0.3).counts.get("stranded", 0)
    stack.start_worker("--concurrency=3")
    stack.settle(timeout=8, quiet=0.3)
    return stack, {"effects": rows(here, "effects", "what"), "stranded": stranded}


def _judge_promises(evidence: Evidence) -> Wrong | None:
    effects, stranded = evidence.facts["effects"], evidence.facts["stranded"]
    seen = [f"{task} took effect {effects.get(task, 0)} times" for task in ("charge", "report")]
    seen += [f"remind took effect {effects.get('remind', 0)} times", f"{stranded} in `unacked`"]
    if (
        effects.get("charge", 0) >= 1
        and effects.get("report", 0) >= 1
        and effects.get("remind", 0) == 1
        and stranded <= MOST_FETCHED
    ):
        return None
    return Wrong(
        "charge and report once or more, remind exactly once, and at most "
        f"{MOST_FETCHED} messages in `unacked` after the kill",
        ", ".join(seen),
    )


def _late(answer: Answer, task: str) -> bool:
    return bool(answer[task].get("acks_late"))


THREE_PROMISES = Exercise(
    name="three_promises",
    title="three promises",
    given=PROMISES,
    experiment=_three_tasks,
    judge=_judge_promises,
    count=lambda evidence: evidence.facts["stranded"],
    hints=(
        "Take the tasks one by one: which one must never be missing, which one must never happen "
        "twice? No setting gives you both.",
        "Late ack runs a task again after a kill, early ack does not. What a worker fetches in "
        "advance is `worker_prefetch_multiplier` times its children, three here.",
        "Late ack for charge and report, early ack for remind, and a multiplier of 1 or 2.",
    ),
    misconceptions=(
        Misconception(
            "late ack is not safer for every task: what may not happen twice needs early ack.",
            lambda answer, _: all(_late(answer, task) for task in ("charge", "remind", "report")),
        ),
        Misconception(
            "a multiplier of 0 does not turn prefetching off. It takes the limit away.",
            lambda answer, _: answer["worker_prefetch_multiplier"] == 0,
        ),
        Misconception(
            "reject_on_worker_lost is about a child that dies while its parent lives.",
            lambda answer, _: any(
                answer[task].get("reject_on_worker_lost") and not _late(answer, task)
                for task in ("charge", "report")
            ),
        ),
    ),
)

EXERCISES = (SURVIVE, FIND_THE_LOST, THREE_PROMISES)
