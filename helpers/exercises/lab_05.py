"""Lab 05, run it twice."""

import random
import re
import time
from math import inf
from pathlib import Path
from typing import Any

from helpers.checks.cells import given
from helpers.checks.exercise import Answer, Evidence, Exercise, Misconception, Wrong
from helpers.errors import StackError
from helpers.exercises.tools import (
    interrupted,
    load_function,
    not_interrupted,
    open_shop,
    rows,
    shortest_run,
    task_of,
)
from helpers.faults import kill_between_sweeps
from helpers.stack import Stack

MISPLACED = (
    "conf.visibility_timeout",
    "visibility_timeout=",
    "result_backend_transport_options",
)
STRANDED, WAITING = 0, (1, 2, 3, 4)
PATIENCE, LEAST = 7.0, 0.7


def _dead_and_busy(answer: Answer, here: Path) -> tuple[Stack, dict[str, Any]]:
    """A worker dies with order 0. The new one has one child, and four orders to do."""
    stack = open_shop(here, "charges (number)", shop=answer)
    charge = task_of(stack.load("shop"), "charge")
    worker = stack.start_worker("--concurrency=1")
    stranded = charge.delay(STRANDED)
    stack.wait_for("started", stranded)
    time.sleep(0.4)  # an early ack has reached Redis by then
    kill_between_sweeps(stack, worker)
    cut = interrupted(stack, here, stranded, STRANDED)
    orders = [charge.delay(number) for number in WAITING]
    stack.start_worker("--concurrency=1")
    outcome = stack.settle(timeout=PATIENCE, quiet=0.3)
    starts = outcome.table["starts"]
    runs = {number: int(starts[order.id]) for number, order in zip(WAITING, orders, strict=True)}
    charged = rows(here, "charges", "number")
    return stack, {"interrupted": cut, "charged": charged, "runs": runs}


def _judge_timeout(evidence: Evidence) -> Wrong | None:
    if not evidence.facts["interrupted"]:
        return not_interrupted(STRANDED)
    shortest = shortest_run(evidence, "charge")
    if shortest < LEAST:
        return Wrong("orders that take their 0.8 s at the bank", f"one that took {shortest:.1f} s")
    charged, runs = evidence.facts["charged"], evidence.facts["runs"]
    again = [f"order {number} ran {times} times" for number, times in runs.items() if times > 1]
    amiss = [
        f"order {number} charged {charged.get(str(number), 0)} times"
        for number in (STRANDED, *WAITING)
        if charged.get(str(number)) != 1
    ]
    if not again and not amiss:
        return None
    return Wrong(
        "each of the orders 1 to 4 runs once, and all five are charged once within "
        f"{PATIENCE:.0f} seconds of the new worker's start",
        f"{', '.join(again + amiss)}; {evidence.outcome('').finding}",
    )


def _ran_again(evidence: Evidence) -> bool:
    return any(times > 1 for times in evidence.facts["runs"].values())


def _stranded(evidence: Evidence) -> bool:
    return "stranded" in evidence.outcome("").counts


def _timeouts(evidence: Evidence) -> set[float]:
    """The visibility timeouts that the workers of this arm really had."""
    ready = [event for event in evidence.events if event["event"] == "ready"]
    return {event["visibility_timeout"] for event in ready}


CHOOSE_THE_TIMEOUT = Exercise(
    name="choose_the_timeout",
    title="choose the timeout",
    file="shop.py",
    given=given("lab_05", "choose_the_timeout"),
    experiment=_dead_and_busy,
    judge=_judge_timeout,
    count=lambda evidence: sum(evidence.facts["runs"].values()),
    hints=(
        "What counts is how long a message stays unacknowledged. The worker fetches four orders "
        "at once and has one child: how long does it hold the last one?",
        "Two bounds. Below: the longest time that a healthy worker holds a message. Above: what "
        "a killed worker held must come back, wait for a sweep, run, and all within the limit.",
        'The fourth order is held for 3.2 seconds: "visibility_timeout": 5, and leave the sweep '
        "as fast as it is.",
    ),
    misconceptions=(
        Misconception(
            "the setting is accepted in several places without a word. For the messages of the "
            "broker only `broker_transport_options` counts.",
            lambda answer, evidence: (
                any(place in answer for place in MISPLACED) and _timeouts(evidence) <= {2, 3600}
            ),
        ),
        Misconception(
            "a longer timeout is not simply better: what a dead worker held waits that long too.",
            lambda _, evidence: _stranded(evidence) and min(_timeouts(evidence)) > 5,
        ),
        Misconception(
            "a message that is old enough still waits for a sweep: by default one comes every 100 "
            "seconds.",
            lambda _, evidence: _stranded(evidence),
        ),
        Misconception(
            "with early ack no order comes back from a worker that died, and the orders that wait "
            "behind another are as unacknowledged as before.",
            lambda _, evidence: "lost" in evidence.outcome("").counts,
        ),
        Misconception(
            "above the longest order is not enough: an order that waits behind others is held, "
            "and its time runs.",
            lambda _, evidence: _ran_again(evidence),
        ),
    ),
)


def _killed_and_sent_twice(answer: Answer, here: Path) -> tuple[Stack, dict[str, Any]]:
    """Order 1 is at the bank when its worker dies; order 2 is sent twice."""
    tables = "charges (number)", "keys (number PRIMARY KEY)"
    stack = open_shop(here, *tables, shop=answer, bank=given("lab_05", "bank.py"))
    charge = task_of(stack.load("shop"), "charge")
    worker = stack.start_worker("--concurrency=1", app="shop")
    killed = charge.delay(1)
    worker.wait_until(lambda: _at_the_bank(stack, here), "at the bank", timeout=5)
    kill_between_sweeps(stack, worker)
    stack.start_worker("--concurrency=4", app="shop")
    for _ in range(2):
        charge.delay(2)
    outcome = stack.settle(timeout=9, quiet=0.3)
    return stack, {
        "charged": rows(here, "charges", "number"),
        "heard": [number for number in (1, 2) if (here / f"order-{number}").exists()],
        "starts": int(outcome.table["starts"][killed.id]),
    }


def _at_the_bank(stack: Stack, here: Path) -> bool:
    ended = any(stack.ledger.count(end) for end in ("finished", "failed", "retried"))
    return ended or (here / "order-1").exists()


def _judge_once(evidence: Evidence) -> Wrong | None:
    charged, heard = evidence.facts["charged"], evidence.facts["heard"]
    expected = "both orders charged exactly once, by the bank"
    if unheard := [number for number in (1, 2) if number not in heard]:
        return Wrong(expected, f"the bank never heard of order {unheard[0]}: keep the call of pay")
    if charged == {"1": 1, "2": 1}:
        if _side_by_side(evidence):
            return None
        return Wrong(
            "a worker with four children, where both messages of order 2 run at the same time",
            "one ran after the other. A second worker would not wait for this one",
        )
    killed, twice = charged.get("1", 0), charged.get("2", 0)
    return Wrong(
        expected,
        f"charges of order 1, whose worker died: {killed}; of order 2, sent twice: {twice}; "
        f"{evidence.outcome('').finding}",
    )


def _side_by_side(evidence: Evidence) -> bool:
    """Whether an execution of order 2 began while another one ran."""
    runs = evidence.deliveries().query("name == 'shop.charge' and args == '(2,)'")
    runs = runs.sort_values("started")
    return bool((runs["started"] < runs["ended"].fillna(inf).cummax().shift()).any())


def _charges(evidence: Evidence, number: int) -> int:
    return int(evidence.facts["charged"].get(str(number), 0))


CHARGE_ONCE = Exercise(
    name="charge_once",
    title="charge once",
    file="shop.py",
    given=given("lab_05", "charge_once"),
    experiment=_killed_and_sent_twice,
    judge=_judge_once,
    count=lambda evidence: sum(evidence.facts["charged"].values()),
    hints=(
        "Something has to remember which order is charged. What is the same in both messages of "
        "order 2: the task id, or the order?",
        "To remember first loses the order of a worker that dies in between. To remember "
        "afterwards lets two copies pass. Key and charge must be one transaction.",
        "Inside `with`: `added = database.execute('INSERT OR IGNORE INTO keys VALUES (?)', "
        "(order,))`, then pay only `if added.rowcount:`. The second copy waits at the INSERT.",
    ),
    misconceptions=(
        Misconception(
            "a lock outlives the worker that died with it. It has to expire, and soon enough for "
            "the copy that comes back.",
            lambda answer, evidence: (
                ("lock(" in answer or ("retry" in answer and bool(re.search(r"\b[ep]x=", answer))))
                and not _charges(evidence, 1)
                and _charges(evidence, 2) == 1
            ),
        ),
        Misconception(
            "a key that is set before the effect says 'charged' for good, also when the worker "
            "died between the two. At most once is not exactly once.",
            lambda answer, evidence: (
                ("nx" in answer or "keys" in answer)
                and evidence.facts["starts"] > 1
                and not _charges(evidence, 1)
                and _charges(evidence, 2) == 1
            ),
        ),
        Misconception(
            "the order of the dead worker comes back when its visibility timeout is over, and that "
            "was later than nine seconds.",
            lambda _, evidence: (
                "stranded" in evidence.outcome("").counts and _charges(evidence, 2) == 1
            ),
        ),
        Misconception(
            "no setting of the timeout helps against an order that is sent twice, and a long one "
            "keeps what a dead worker held.",
            lambda _, evidence: min(_timeouts(evidence)) > 1 and _charges(evidence, 2) > 1,
        ),
        Misconception(
            "the task id is the key of a message. An order that is sent twice has two ids.",
            lambda answer, evidence: "request.id" in answer and _charges(evidence, 2) == 2,
        ),
        Misconception(
            "early ack does not mean once: here the killed order never comes back, and what waits "
            "for its start is handed out again all the same.",
            lambda _, evidence: "lost" in evidence.outcome("").counts,
        ),
        Misconception(
            "to look and then to pay are two steps. Another copy looks in between.",
            lambda answer, evidence: "SELECT" in answer.upper() and _charges(evidence, 2) > 1,
        ),
    ),
)


FIND_SHOP = """\
import time

from celery import Celery

app = Celery("shop")


@app.task(acks_late=True)
def charge(order):
    time.sleep(60)
"""
OPTIONS = """\
from shop import app

app.conf.broker_transport_options = {}
"""


def _incident() -> dict[str, dict[str, Any]]:
    """The options of three workers, by the queue that each one serves. Their order is random."""
    fast = {"unacked_restore_interval": 0.5, "unacked_restore_throttle": 1}
    sweeping = {"unacked_restore_interval": 0.4, "unacked_restore_throttle": random.choice([2, 3])}
    slow = random.choice([{}, {"unacked_restore_interval": 5}, {"unacked_restore_throttle": 9}])
    options: list[tuple[str, dict[str, Any]]] = [
        ("orders", {"visibility_timeout": 1.5} | fast),
        ("letters", {"visibility_timeout": random.choice([2, 2.5])} | sweeping),
        ("parcels", {"visibility_timeout": 1} | slow),
    ]
    random.shuffle(options)
    return dict(options)


def _three_workers(answer: Answer, here: Path) -> tuple[Stack, dict[str, Any]]:
    """The worker that serves `orders` dies with one. The answer says what the others will do."""
    stack = open_shop(here, shop=FIND_SHOP, find=answer)
    options = _incident()
    for queue, settings in options.items():
        (here / f"{queue}.py").write_text(OPTIONS.format(settings))
    workers = {
        queue: stack.start_worker("--concurrency=1", f"--queues={queue}", app=queue)
        for queue in options
    }
    order = stack.load("shop").charge.apply_async((1,), queue="orders")
    stack.wait_for("started", order)
    kill_between_sweeps(stack, workers["orders"])
    known = [
        {
            "name": worker.name,
            "alive": worker.alive,
            "queues": [queue],
            "broker_transport_options": options[queue],
        }
        for queue, worker in workers.items()
    ]
    said = load_function(here / "find.py", "forecast")(known, "orders")
    said = _checked_forecast(said)
    stack.wait_for("restored", order, timeout=8)
    return stack, {
        "said": said,
        "alive": [w["name"] for w in known if w["alive"]],
        **_return(stack),
    }


def _checked_forecast(said: Any) -> list[Any]:
    try:
        name, least, most = said
        return [str(name), float(least), float(most)]
    except (TypeError, ValueError) as error:
        raise StackError(
            f"forecast returned {said!r}, expected a name and two numbers of seconds"
        ) from error


def _return(stack: Stack) -> dict[str, Any]:
    """Who put the message back and after how many seconds, and that worker's own settings."""
    events = stack.ledger.read()
    fetched = next(event for event in events if event["event"] == "received")
    back = next(event for event in events if event["event"] == "restored")
    sweeper = next(e for e in events if e["event"] == "ready" and e["pid"] == back["pid"])
    least = sweeper["visibility_timeout"]
    return {
        "who": sweeper["worker"],
        "seconds": back["at"] - fetched["at"],
        "least": least,
        "most": least + sweeper["sweep_period"],
    }


def _judge_forecast(evidence: Evidence) -> Wrong | None:
    facts = evidence.facts
    name, least, most = facts["said"]
    if name == facts["who"] and _near(least, facts["least"]) and _near(most, facts["most"]):
        return None
    return Wrong(
        "the worker that puts the message back, and the seconds between which it does: not "
        "before its timeout, and one sweep later at the latest",
        f"said {name}, after {least:g} to {most:g} s; it was {facts['who']}, after "
        f"{facts['seconds']:.1f} s, and its settings mean {facts['least']:g} to "
        f"{facts['most']:g} s",
    )


def _near(said: float, true: float) -> bool:
    return abs(said - true) < 0.05


WHO_SWEEPS = Exercise(
    name="who_sweeps",
    title="who sweeps",
    file="find.py",
    given=given("lab_05", "who_sweeps"),
    experiment=_three_workers,
    judge=_judge_forecast,
    count=lambda evidence: round(evidence.facts["seconds"]),
    fates=False,
    hints=(
        "Who can look at a message of a dead worker, and does a worker look at the messages of "
        "its own queues only?",
        "A worker looks every `unacked_restore_interval` times `unacked_restore_throttle` seconds. "
        "The shortest timeout does not win when its worker hardly ever looks.",
        "Leave the dead out. For each other worker: timeout (default 3600), plus interval "
        "(default 10) times throttle (default 10). The smallest sum wins: from timeout to sum.",
    ),
    misconceptions=(
        Misconception(
            "what a worker fetched is not its own: when it is dead, its settings count no more.",
            lambda _, evidence: evidence.facts["said"][0] not in evidence.facts["alive"],
        ),
        Misconception(
            "the shortest timeout wins only if its worker looks often enough. A setting that is "
            "missing has its default: 10 s, and 10.",
            lambda _, evidence: evidence.facts["said"][0] != evidence.facts["who"],
        ),
        Misconception(
            "a message that is old enough still waits for the next sweep.",
            lambda _, evidence: evidence.facts["said"][2] < evidence.facts["most"] - 0.05,
        ),
    ),
)

EXERCISES = (CHOOSE_THE_TIMEOUT, CHARGE_ONCE, WHO_SWEEPS)
