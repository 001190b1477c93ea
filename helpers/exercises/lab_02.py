"""Lab 02, crash a worker."""

import json
import random
import time
from pathlib import Path
from typing import Any

from helpers.checks.exercise import Answer, Evidence, Exercise, Misconception, Wrong
from helpers.errors import StackError
from helpers.exercises.tools import (
    changes,
    interrupted,
    load_function,
    make_tables,
    not_interrupted,
    rows,
    task_of,
)
from helpers.faults import kill_between_sweeps
from helpers.stack import Stack

SHOP = """\
import sqlite3
import time

from celery import Celery

app = Celery("shop")
app.conf.broker_transport_options = {
    "visibility_timeout": 3,  # default: 3600 s
    "unacked_restore_interval": 1,  # default: 10 s
    "unacked_restore_throttle": 1,  # default: 10
}


@app.task
def charge(order, bank=0.2):
    time.sleep(bank)  # the bank takes its time
    with sqlite3.connect("shop.db") as database:
        database.execute("INSERT INTO charges VALUES (?)", (order,))
"""
ORDERS, PATIENCE = 5, 10.0


def _kill_in_the_middle(answer: Answer, here: Path) -> tuple[Stack, dict[str, Any]]:
    """Order 1 is running when the whole worker gets SIGKILL. A new worker has ten seconds."""
    (here / "shop.py").write_text(answer)
    make_tables(here, "charges (number)")
    stack = Stack(here)
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
    given=SHOP,
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


FIND = '''\
def whereabouts(broker, results, sent):
    """Where each task is: "done", "queued", "stranded" or "lost", by its id.

    `broker` and `results` are redis-py clients of the two databases, `sent` is a list of ids.
    """
    return {task_id: "done" for task_id in sent}
'''
NAMES = {"done", "queued", "stranded", "lost"}


def _incident(answer: Answer, here: Path) -> tuple[Stack, dict[str, Any]]:
    """A worker was killed, some orders wait in two queues. The answer says where each one is."""
    (here / "shop.py").write_text(SHOP)
    (here / "find.py").write_text(answer)
    make_tables(here, "charges (number)")
    stack = Stack(here)
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


def _judge_find(evidence: Evidence) -> Wrong | None:
    truth, said = evidence.facts["truth"], evidence.facts["said"]
    expected = "for each id the place that the ledger knows, and nothing moved by looking"
    if evidence.facts["touched"]:
        return Wrong(expected, "your function moved messages, or removed them: it may only read")
    wrong = [task_id for task_id in truth if said.get(task_id) != truth[task_id]]
    if not wrong:
        return None
    pairs = {(said.get(task_id, "nothing"), truth[task_id]) for task_id in wrong}
    examples = "; ".join(f'said "{here}", was "{there}"' for here, there in sorted(pairs))
    return Wrong(expected, f"{len(wrong)} of {len(truth)} ids wrong: {examples}")


FIND_THE_LOST = Exercise(
    name="find_the_lost",
    title="find the lost",
    file="find.py",
    given=FIND,
    experiment=_incident,
    judge=_judge_find,
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
            lambda _, evidence: _confuses(evidence, said="lost", truth="stranded"),
        ),
        Misconception(
            "PENDING means only that there is no result. A task that waits has none either.",
            lambda _, evidence: _confuses(evidence, said="lost", truth="queued"),
        ),
    ),
)


def _confuses(evidence: Evidence, said: str, truth: str) -> bool:
    answers = evidence.facts["said"]
    return any(
        where == truth and answers.get(task_id) == said
        for task_id, where in evidence.facts["truth"].items()
    )


PROMISES: dict[str, Any] = {
    "worker_prefetch_multiplier": 4,
    "charge": {"acks_late": False, "reject_on_worker_lost": False},
    "remind": {"acks_late": False, "reject_on_worker_lost": False},
    "report": {"acks_late": False, "reject_on_worker_lost": False},
}
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
    (here / "shop.py").write_text(PROMISES_SHOP)
    make_tables(here, "effects (what)")
    stack = Stack(here)
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
