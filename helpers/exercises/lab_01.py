"""Lab 01, follow one task."""

import json
import random
import re
import uuid
from pathlib import Path
from typing import Any

from helpers import lens
from helpers.checks.cells import given
from helpers.checks.exercise import Answer, Evidence, Exercise, Misconception, Wrong
from helpers.errors import StackError
from helpers.exercises.tools import changes, judge_said, load_function, open_shop, rows, task_of
from helpers.process import poll
from helpers.stack import Stack

SHOP = """\
import sqlite3
import time

from celery import Celery

app = Celery("shop")
# A sweep writes its lock. None comes while an answer is watched for what it changes.
app.conf.broker_transport_options = {"unacked_restore_interval": 3600}


@app.task
def charge(order, articles, bank=0):
    time.sleep(bank)  # how long the bank takes
    with sqlite3.connect("shop.db") as database:
        database.execute("INSERT INTO charges VALUES (?)", (order,))


@app.task(acks_late=True)
def ship(parcel):
    time.sleep(30)


@app.task(ignore_result=True)
def note(line):
    pass


@app.task
def chase(task_id):
    pass
"""

# Queue, priority, and how many orders wait there.
WAITING = (("celery", 0, 6), ("celery", 3, 2), ("celery", 9, 1), ("parcels", 0, 3))
ORDERS = sum(count for _, _, count in WAITING)


def _no_worker(answer: Answer, here: Path) -> tuple[Stack, dict[str, Any]]:
    """Orders wait and no worker runs. The answer reads them, then a worker does them."""
    stack = open_shop(here, "charges (number)", shop=SHOP, find=answer)
    charge = stack.load("shop").charge
    numbers = iter(random.sample(range(100, 1000), ORDERS))
    sent: dict[str, list[Any]] = {}
    later: list[str] = []
    for queue, priority, count in WAITING:
        for _ in range(count):
            # Celery cuts the `argsrepr` of the first, which is longer than 1,024 characters.
            first, size = random.randrange(1000, 9000), random.randint(1, 3) if sent else 300
            args = [next(numbers), list(range(first, first + size))]
            order = charge.apply_async(args, queue=queue, priority=priority)
            sent[order.id] = args
            later += [order.id] if priority else []
    before = changes(stack)
    said = _plain(load_function(here / "find.py", "waiting")(stack.redis.client()))
    changed = changes(stack) - before
    stack.start_worker("--concurrency=1", "--queues=celery,parcels", app="shop")
    stack.settle(timeout=10)
    charged = rows(here, "charges", "number")
    return stack, {
        "sent": sent,
        "later": later,
        "said": said,
        "changes": changed,
        "charged": charged,
    }


def _plain(said: Any) -> Any:
    """What came through JSON comes out of JSON unchanged."""
    if not isinstance(said, dict):
        raise StackError(f"waiting returned {type(said).__name__}, expected a dict by task id")
    try:
        return json.loads(json.dumps(said))
    except (TypeError, ValueError) as error:
        raise StackError(f"waiting returned what no message can hold: {error}") from error


def _judge_read(evidence: Evidence) -> Wrong | None:
    sent, said, changed = (evidence.facts[name] for name in ("sent", "said", "changes"))
    expected = f"id and arguments of all {ORDERS} orders, nothing changed, and each charged once"
    charged = evidence.facts["charged"]
    once = sum(charged.get(str(order)) == 1 for order, _ in sent.values())
    if changed or once < ORDERS:
        return Wrong(
            expected,
            f"your function changed the data in Redis, {changed} times; after that a worker "
            f"charged {once} of the {ORDERS} orders once",
        )
    found = [task_id for task_id in sent if task_id in said]
    wrong = [task_id for task_id in found if said[task_id] != sent[task_id]]
    seen = f"found {len(found)} of {ORDERS} orders, {len(wrong)} of them with other arguments"
    if wrong:
        seen += f": {_short(said[wrong[0]])} where {_short(sent[wrong[0]])} was sent"
    if others := len(said) - len(found):
        seen += f"; {others} keys are no id of an order"
    return Wrong(expected, seen) if wrong or others or len(found) < ORDERS else None


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 50 else f"{text[:30]} … {text[-15:]}"


def _misses_priorities(evidence: Evidence) -> bool:
    facts = evidence.facts
    return any(task_id not in facts["said"] for task_id in facts["later"])


READ_THE_QUEUE = Exercise(
    name="read_the_queue",
    title="read the queue",
    file="find.py",
    given=given("lab_01", "read_the_queue"),
    experiment=_no_worker,
    judge=_judge_read,
    count=lambda evidence: len(evidence.facts["said"]),
    fates=False,
    hints=(
        "Which lists does the broker hold? One queue is several of them when its messages have "
        "priorities: `lens.depth` in the notebook counts each.",
        "`broker.scan_iter(_type='list')` finds every list. The arguments are in the message's "
        "`body`: base64, and in it JSON of [args, kwargs, what comes after].",
        "for key in broker.scan_iter(_type='list'), for raw in broker.lrange(key, 0, -1): "
        "json.loads(base64.b64decode(json.loads(raw)['body']))[0]",
    ),
    misconceptions=(
        Misconception(
            "a pop is no look. It removes what it returns, and if you die before you put that "
            "back, it is lost.",
            lambda answer, _: bool(re.search(r"broker\.\w*pop", answer)),
        ),
        Misconception(
            "a queue is not one list. kombu keeps one for each priority: `celery`, "
            r"`celery\x06\x163`, `celery\x06\x166`, `celery\x06\x169`.",
            lambda _, evidence: _misses_priorities(evidence),
        ),
        Misconception(
            "`argsrepr` is for people who read logs: a text, and a long one is cut. The worker "
            "takes its arguments from the body.",
            lambda answer, _: "argsrepr" in answer,
        ),
    ),
)


PRICES, LINES = 4, 20
PATIENCE = 4.0  # seconds for all prices together


def _ask_for_prices(answer: Answer, here: Path) -> tuple[Stack, dict[str, Any]]:
    """Prices are asked for by id, as the next request of a web page would, among lines of log."""
    stack = open_shop(here, "lines (line)", shop=answer)
    shop = stack.load("shop")
    price, log = task_of(shop, "price"), task_of(shop, "log")
    stack.start_worker("--concurrency=1")
    orders = random.sample(range(10, 1000), PRICES)
    asked = [price.delay(order).id for order in orders]
    lines = [log.delay(number).id for number in range(LINES)]
    results = [price.AsyncResult(task_id) for task_id in asked]
    poll(lambda: all(result.ready() for result in results), PATIENCE, pause=0.05)
    right = sum(result.result == 10 * order for order, result in zip(orders, results, strict=True))
    stack.settle(timeout=8)
    keys = lens.keys(stack.redis, db=1).index
    return stack, {
        "asked": asked,
        "right": right,
        "stored": sum(f"celery-task-meta-{task_id}" in keys for task_id in asked),
        "left": sum(any(task_id in key for key in keys) for task_id in lines),
        "logged": rows(here, "lines", "line"),
    }


def _judge_get(evidence: Evidence) -> Wrong | None:
    facts, done = evidence.facts, _done(evidence)
    logged = sum(facts["logged"].get(str(number)) == 1 for number in range(LINES))
    all_priced = done == facts["stored"] == facts["right"] == PRICES
    if all_priced and logged == LINES and not facts["left"]:
        return None
    return Wrong(
        f"{PRICES} prices done by a worker, stored, and right within {PATIENCE:.0f} s; "
        f"{LINES} lines logged, and no key of them",
        f"{done} prices done by a worker, {facts['stored']} stored, {facts['right']} right in "
        f"time; {logged} lines logged, {facts['left']} keys of them",
    )


def _done(evidence: Evidence) -> int:
    """Prices that a worker has worked out."""
    table = evidence.outcome("").table
    return sum(table["fate"].get(task_id) == "done" for task_id in evidence.facts["asked"])


GET_THE_RESULT = Exercise(
    name="get_the_result",
    title="get the result",
    file="shop.py",
    given=given("lab_01", "get_the_result"),
    experiment=_ask_for_prices,
    judge=_judge_get,
    count=_done,
    hints=(
        "The worker does work out each price. Which of the eight steps in the notebook's figure "
        "does it leave out, and which line of shop.py says so?",
        "`task_ignore_result` is the default for all tasks. Each task may have its own word on it.",
        "@app.task(ignore_result=False) for price, or the setting off and "
        "@app.task(ignore_result=True) for log",
    ),
    misconceptions=(
        Misconception(
            "an eager task runs inside its caller. Nothing went through the broker, and no worker "
            "did anything.",
            lambda answer, _: "always_eager" in answer,
        ),
        Misconception(
            "with the setting off for all, log stores its results again, even one that is None: "
            "that is why somebody had turned it on.",
            lambda _, evidence: evidence.facts["left"] > 0,
        ),
        Misconception(
            "`result_expires` says how long a stored result lives. An ignored one is never stored.",
            lambda answer, _: "result_expires" in answer,
        ),
        Misconception(
            "`task_track_started` adds a state to a task that stores its state. This one does not.",
            lambda answer, _: "track_started" in answer,
        ),
    ),
)


def _live_incident(answer: Answer, here: Path) -> tuple[Stack, dict[str, Any]]:
    """A busy worker with tasks in every place. The answer says for each id where it is."""
    stack = open_shop(here, "charges (number)", shop=SHOP, find=answer)
    stack.start_worker("--concurrency=2", "--prefetch-multiplier=1", app="shop")
    shop = stack.load("shop")
    done = [shop.charge.delay(number, []) for number in range(random.randint(2, 4))]
    noted = shop.note.delay("all is well")
    for task in (*done, noted):
        stack.wait_for("finished", task)
    running, late = shop.charge.delay(10, [], bank=30), shop.ship.delay(11)
    stack.wait_for("acknowledged", running)
    for task in (running, late):
        stack.wait_for("started", task)
    planned = shop.charge.apply_async((12, []), countdown=60)
    stack.wait_for("received", planned)
    # The worker takes one more message, and no second: two for its two children, and one for the
    # task that waits for its time. The one that runs is acknowledged and does not count.
    reserved = shop.chase.delay(running.id)
    stack.wait_for("received", reserved)
    waiting = [shop.chase.delay(noted.id), shop.charge.apply_async((13, []), priority=6)]
    waiting += [shop.charge.delay(number, []) for number in range(20, 20 + random.randint(2, 4))]
    waiting += [shop.charge.apply_async((30, []), queue="parcels")]
    truth = dict.fromkeys((task.id for task in waiting), "queue")
    truth |= dict.fromkeys((task.id for task in (late, planned, reserved)), "unacked")
    truth |= dict.fromkeys((task.id for task in done), "result")
    truth |= dict.fromkeys((running.id, noted.id, unknown := str(uuid.uuid4())), "nowhere")
    before = changes(stack)
    where = load_function(here / "find.py", "where")
    clients = stack.redis.client(0), stack.redis.client(1)
    said = {
        task_id: str(where(*clients, task_id)) for task_id in random.sample(list(truth), len(truth))
    }
    return stack, {
        "truth": truth,
        "said": said,
        "mentioned": [running.id, noted.id],
        "unknown": unknown,
        "touched": changes(stack) != before,
    }


def _only_mentioned(evidence: Evidence) -> bool:
    """Wrong about ids that stand in other messages, right about one that stands nowhere."""
    said = evidence.facts["said"]
    return said[evidence.facts["unknown"]] == "nowhere" and any(
        said[task_id] != "nowhere" for task_id in evidence.facts["mentioned"]
    )


WHERE_IS_IT = Exercise(
    name="where_is_it",
    title="where is it",
    file="find.py",
    given=given("lab_01", "where_is_it"),
    experiment=_live_incident,
    judge=lambda evidence: judge_said(evidence, "ids"),
    # The unknown id was never sent.
    count=lambda evidence: list(evidence.facts["truth"].values()).count("nowhere") - 1,
    fates=False,
    hints=(
        "A task without a result may wait in a list of the broker, lie in the hash `unacked`, or "
        "be in neither. The stub says the first of all three.",
        "The fields of `unacked` are delivery tags. Each value is JSON: message, exchange, queue. "
        "The id of a message is under `headers`, `id`, and nowhere else.",
        "json.loads(raw)['headers']['id'] for the messages of each list that "
        "broker.scan_iter(_type='list') finds; json.loads(raw)[0]['headers']['id'] for "
        "broker.hvals('unacked')",
    ),
    misconceptions=(
        Misconception(
            "an id in the arguments of a message is not the message's own. Only `headers`, `id` "
            "says whose it is.",
            lambda _, evidence: _only_mentioned(evidence),
        ),
        Misconception(
            "no result does not mean that a task waits. Celery says PENDING of every id that it "
            "has no result for, even of one that was never sent.",
            lambda _, evidence: evidence.facts["said"][evidence.facts["unknown"]] == "queue",
        ),
        Misconception(
            "the fields of `unacked` are delivery tags, not ids of tasks.",
            lambda answer, _: "hexists" in answer or "hget(" in answer,
        ),
    ),
)

EXERCISES = (READ_THE_QUEUE, GET_THE_RESULT, WHERE_IS_IT)
