"""Lab 06, hang a chord."""

import random
import time
from pathlib import Path
from typing import Any

from celery import chord
from celery.result import AsyncResult

from helpers import lens
from helpers.checks.cells import given
from helpers.checks.exercise import Answer, Evidence, Exercise, Misconception, Wrong
from helpers.exercises.tools import (
    changes,
    confuses,
    judge_said,
    load_function,
    member,
    open_shop,
    rows,
    sent_by_hand,
    shortest_run,
)
from helpers.faults import evict, kill_between_sweeps
from helpers.process import poll
from helpers.stack import Stack

PARTS, CHILDREN, LEAST, AT_ONCE = 4, 2, 0.9, 3.0


def _kill_in_the_header(answer: Answer, here: Path) -> tuple[Stack, dict[str, Any]]:
    """The worker gets SIGKILL while two of four parts run. A new one has ten seconds."""
    stack = open_shop(here, "invoices (number, total)", shop=answer)
    send_invoice = member(stack.load("shop"), "send_invoice")
    worker = stack.start_worker(f"--concurrency={CHILDREN}")
    orders = random.sample(range(1, 50), PARTS)
    send_invoice(1, orders)
    # A message that a worker has popped and not yet noted in `unacked` would be lost even with
    # late ack.
    count = stack.ledger.count
    worker.wait_until(
        lambda: count("started") >= CHILDREN and count("received") >= count("accepted"),
        "at work on two parts, with all that was sent fetched,",
        timeout=5,
    )
    # A child starts a little before its parent acknowledges. With late ack the parent does not.
    poll(lambda: not _ids(stack, "started") & _unacked(stack), 0.5)
    kill_between_sweeps(stack, worker)
    early = sum(rows(here, "invoices", "total").values())
    cut = _ids(stack, "started") - _ids(stack, "finished") - _ids(stack, "failed")
    stack.start_worker(f"--concurrency={PARTS}")
    stack.settle(timeout=10, quiet=0.3)
    return stack, {
        "cut": len(cut),
        "early": early,
        "totals": rows(here, "invoices", "total"),
        "expected": str(10 * sum(orders)),
    }


def _ids(stack: Stack, kind: str) -> set[str]:
    return {event["id"] for event in stack.ledger.read() if event["event"] == kind}


def _unacked(stack: Stack) -> set[str]:
    return set(lens.unacked(stack.redis)["id"])


def _judge_invoice(evidence: Evidence) -> Wrong | None:
    facts = evidence.facts
    if facts["cut"] < CHILDREN:
        return Wrong(
            f"{CHILDREN} parts that run when the worker is killed",
            f"{facts['cut']}: a part has to take its second, and send_invoice must not wait",
        )
    shortest = shortest_run(evidence, "price")
    if shortest < LEAST:
        return Wrong(
            "parts that take their second, as somebody has to look each price up",
            f"one that took {shortest:.1f} s",
        )
    if facts["early"] or sent_by_hand(evidence.events, "shop.total"):
        return Wrong(
            "a chord that sends its body itself, when all parts are done",
            "send_invoice has sent `total`, or called it",
        )
    if facts["totals"] == {facts["expected"]: 1} and _ran(evidence, "shop.total"):
        return None
    seen = ", ".join(f"{number} of {total}" for total, number in facts["totals"].items())
    return Wrong(
        f"one invoice over all {PARTS} orders, of {facts['expected']}, within ten seconds",
        f"invoices: {seen or 'none'}; {evidence.outcome('').finding}",
    )


def _ran(evidence: Evidence, task: str) -> bool:
    """Whether a worker has finished such a task."""
    return any(e["event"] == "finished" and e["task"] == task for e in evidence.events)


FIRE = Exercise(
    name="fire_the_body",
    title="fire the body",
    file="shop.py",
    given=given("lab_06", "fire_the_body"),
    experiment=_kill_in_the_header,
    judge=_judge_invoice,
    count=lambda evidence: evidence.outcome("").counts.get("done", 0),
    hints=(
        "The body waits for two parts that no longer exist. Nothing about the body can bring them "
        "back: look at what became of their messages.",
        "A part must not be acknowledged before it has run. The visibility timeout is short enough "
        "to bring it back in time.",
        "@app.task(acks_late=True) on `price`",
    ),
    misconceptions=(
        Misconception(
            "an invoice that is too low is worse than none: nobody looks for it.",
            lambda _, evidence: any(
                _number(total) < _number(evidence.facts["expected"])
                for total in evidence.facts["totals"]
            ),
        ),
        Misconception(
            "acks_late belongs to the task. In .set() it travels with the message, and no worker "
            "reads it there.",
            lambda answer, _: ".set(acks_late" in answer,
        ),
        Misconception(
            "an errback needs a part that fails. A part that died with its worker reports nothing, "
            "not even a failure.",
            lambda answer, _: "on_error" in answer or "link_error" in answer,
        ),
        Misconception(
            "a time limit on the body limits a task that was never sent.",
            lambda answer, _: "time_limit" in answer,
        ),
        Misconception(
            "reject_on_worker_lost is about a child that dies. Here its parent died too, and with "
            "early ack the message was gone by then.",
            lambda answer, _: "worker_lost" in answer and "acks_late" not in answer,
        ),
        Misconception(
            "SIGKILL raises nothing in the task: there is nobody left to catch it, or to retry.",
            lambda answer, _: "retry" in answer or "except" in answer,
        ),
        Misconception(
            "with late ack the chord is not hung, but late: the parts come back when the "
            "visibility timeout is over.",
            lambda answer, _: "acks_late" in answer and '"visibility_timeout": 3,' not in answer,
        ),
        Misconception(
            "it is the parts that were lost, so it is the parts that need late ack.",
            lambda answer, evidence: (
                "acks_late" in answer and "lost" in evidence.outcome("").counts
            ),
        ),
    ),
)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _unknown_order(answer: Answer, here: Path) -> tuple[Stack, dict[str, Any]]:
    """Two invoices. One has an order without a price."""
    stack = open_shop(here, "invoices (number, total)", "alarms (invoice)", billing=answer)
    send_invoice = member(stack.load("billing"), "send_invoice")
    healthy, failing = random.sample(range(100, 1000), 2)
    orders = random.sample(range(1, 6), PARTS)
    unknown = [*random.sample(range(1, 6), PARTS - 1), random.randint(6, 99)]
    random.shuffle(unknown)
    sendings = [(healthy, orders), (failing, unknown)]
    random.shuffle(sendings)
    began = time.monotonic()
    for sending in sendings:
        send_invoice(*sending)
    seconds = time.monotonic() - began
    # No worker runs so far, so nothing has failed, and nobody can know of it.
    early = sum(rows(here, "alarms", "invoice").values())
    early += sent_by_hand(stack.ledger.read(), "billing.alarm")
    stack.start_worker(f"--concurrency={CHILDREN}")
    stack.settle(timeout=5)
    return stack, {
        "seconds": seconds,
        "early": early,
        "healthy": str(healthy),
        "failing": str(failing),
        "expected": str(10 * sum(orders)),
        "invoices": rows(here, "invoices", "number"),
        "totals": rows(here, "invoices", "total"),
        "alarms": rows(here, "alarms", "invoice"),
    }


def _judge_alarm(evidence: Evidence) -> Wrong | None:
    facts = evidence.facts
    healthy, failing = facts["healthy"], facts["failing"]
    alarms = facts["alarms"]
    wrong = []
    if failing in facts["invoices"]:
        wrong.append("the invoice with the unknown order was written")
    if facts["invoices"].get(healthy) != 1 or facts["expected"] not in facts["totals"]:
        wrong.append("the healthy invoice is not right")
    asked = evidence.outcome("").table["task"].eq("billing.price").sum()
    if asked < 2 * PARTS:
        wrong.append(f"{asked} of {2 * PARTS} orders were given to `price`")
    if facts["seconds"] > AT_ONCE:
        wrong.append(f"send_invoice took {facts['seconds']:.1f} s: it must not wait")
    if facts["early"]:
        wrong.append("an alarm before any order was looked up: send_invoice has no prices")
    if failing not in alarms:
        wrong.append("nobody was told of the invoice with the unknown order")
    if strangers := sorted(set(alarms) - {failing}):
        healthy_too = strangers == [healthy]
        wrong.append(
            "an alarm for the healthy invoice" if healthy_too else f"alarms for {strangers}"
        )
    if not wrong:
        return None
    return Wrong(
        "within five seconds: the healthy invoice written once, with its total; no invoice with "
        "the unknown order, and its number in `alarms`; no other alarm",
        "; ".join(wrong),
    )


def _parts_done(evidence: Evidence) -> int:
    """Prices found for the failing invoice."""
    priced = [event for event in evidence.events if event["event"] == "finished"]
    return sum(event["task"].endswith(".price") for event in priced) - PARTS


TELL = Exercise(
    name="tell_somebody",
    title="tell somebody",
    file="billing.py",
    given=given("lab_06", "tell_somebody"),
    experiment=_unknown_order,
    judge=_judge_alarm,
    count=_parts_done,
    hints=(
        "Celery knows that the chord has failed: it stores a ChordError for the body. `alarm` is "
        "there, and nothing calls it.",
        "A task that Celery calls when another one fails is an errback. The chord has one place "
        "that fails exactly when the chord does: its body.",
        "total.s(invoice).on_error(alarm.s(invoice))",
    ),
    misconceptions=(
        Misconception(
            "a price of 0 is a wrong invoice that looks right. What cannot be priced must fail, or "
            "be told apart.",
            lambda _, evidence: evidence.facts["failing"] in evidence.facts["invoices"],
        ),
        Misconception(
            "an order that does not exist will not exist at the next try either. Retry what may "
            "pass, such as a connection that broke.",
            lambda answer, _: "retry" in answer,
        ),
        Misconception(
            "an alarm that rings for every invoice tells nobody anything.",
            lambda _, evidence: evidence.facts["healthy"] in evidence.facts["alarms"],
        ),
        Misconception(
            "on_failure of the body is not called: its failure is stored, but it never ran.",
            lambda answer, _: "on_failure" in answer,
        ),
        Misconception(
            "Celery calls the errback with the id of what failed, and your arguments after it. "
            "With .si() it gets yours alone, and with .s() nobody says which invoice.",
            lambda answer, _: "alarm.si(" in answer or "alarm.s()" in answer,
        ),
        Misconception(
            "default arguments help a body that is called. This one is never sent.",
            lambda answer, _: "total(prices=" in answer,
        ),
        Misconception(
            "propagate=False only keeps the caller from hearing of it.",
            lambda answer, _: "propagate=False" in answer,
        ),
        Misconception(
            "`Ignore` stores nothing and counts nothing: now the chord hangs.",
            lambda answer, _: "Ignore" in answer,
        ),
    ),
)


CHORDS_SHOP = """\
import time

from celery import Celery

app = Celery("shop")


@app.task
def price(order, seconds=0):
    time.sleep(seconds)
    return 10 * order


@app.task
def total(prices):
    return sum(prices)
"""


def _incident(answer: Answer, here: Path) -> tuple[Stack, dict[str, Any]]:
    """Ten chords: some have fired, some lack a part or their count, some wait for a worker."""
    stack = open_shop(here, shop=CHORDS_SHOP, find=answer)
    shop = stack.load("shop")
    price, unread = shop.price, {"queue": "parcels"}

    def send(*parts: Any) -> AsyncResult:
        quick = [price.s(order) for order in range(random.randint(1, 3))]
        # The quick ones come first, so that no child is busy when they arrive.
        return chord([*quick, *parts])(shop.total.s())

    fired = [send(price.s(9)) for _ in range(random.randint(1, 3))]
    waiting = [send(price.s(9).set(**unread)) for _ in range(4 - len(fired))]
    # Of the second no part reports either.
    unread_parts = [price.s(order).set(**unread) for order in (8, 9)]
    uncounted = [send(price.s(9)), chord(unread_parts)(shop.total.s())]
    for one in uncounted:  # no worker yet, so nothing is counted before it is gone
        evict(stack.results, f"celery-taskset-meta-{one.parent.id}.s", db=1)
    broken = send(shop.app.signature("shop.renamed"))
    worker = stack.start_worker(f"--concurrency={CHILDREN}", app="shop")
    for body in fired:
        stack.wait_for("finished", body)
    stack.wait_for("discarded", broken.parent.results[-1])
    slow = price.s(9, seconds=60)
    cut = [send(slow), send(slow, price.s(9).set(**unread))]
    for one, place in zip(cut, (-1, -2), strict=True):  # both children: all before is finished
        stack.wait_for("started", one.parent.results[place])
        stack.wait_for("acknowledged", one.parent.results[place])
    fetched = send(price.s(9))
    for part in fetched.parent.results:
        stack.wait_for("received", part)
    worker.kill()
    fates = stack.settle(timeout=3, quiet=0.3).table["fate"].to_dict()
    chords = [*fired, *waiting, *uncounted, broken, *cut, fetched]
    random.shuffle(chords)
    truth = [_truth(one, fates, one in uncounted) for one in chords]
    before = changes(stack)
    why = load_function(here / "find.py", "why")
    clients = stack.redis.client(0), stack.results.client(1)
    said = []
    for one in chords:
        parts = [part.id for part in one.parent.results]
        said.append(str(why(*clients, one.parent.id, random.sample(parts, len(parts)))))
    return stack, {"truth": truth, "said": said, "touched": changes(stack) != before}


def _truth(body: AsyncResult, fates: dict[str, str], uncounted: bool) -> str:
    """What the ledger knows of one chord."""
    if fates.get(body.id) == "done":
        return "fired"
    if uncounted:
        return "count lost"
    gone = {"lost", "discarded"} & {fates[part.id] for part in body.parent.results}
    return "part lost" if gone else "waiting"


FIND_THE_HANG = Exercise(
    name="find_the_hang",
    title="find the hang",
    file="find.py",
    given=given("lab_06", "find_the_hang"),
    experiment=_incident,
    judge=lambda evidence: judge_said(evidence, "chords"),
    count=lambda evidence: sum(where.endswith(" lost") for where in evidence.facts["truth"]),
    fates=False,
    hints=(
        "Ask in this order. Was the body sent? Is the count there? Only then: where is each part "
        "that has not reported?",
        "With `key = f'celery-taskset-meta-{group_id}'`: the text `done` in `key + '.c'` says that "
        "the body was sent, `key + '.s'` is the count, and the members of the set `key + '.d'` "
        "start with the ids of the parts that have reported.",
        "A part that has not reported waits if its id is in a message of any list of the broker "
        "(`headers`, `id`), or in the hash `unacked` (there the message is the first of three). If "
        "one part is in neither, it is lost, and so is the chord.",
    ),
    misconceptions=(
        Misconception(
            "looking must not change what is looked at: another count or another message now "
            "hides what happened.",
            lambda _, evidence: evidence.facts["touched"],
        ),
        Misconception(
            "PENDING means only that there is no result. A part that waits in a queue or in "
            "`unacked` has none either.",
            lambda _, evidence: confuses(evidence, said="part lost", truth="waiting"),
        ),
        Misconception(
            "all parts can be done without a body: without `.s` nobody knows that they are all.",
            lambda _, evidence: confuses(evidence, said="fired", truth="count lost"),
        ),
        Misconception(
            "a result can be stored and not counted, as for a task that no worker knows. `.d` says "
            "who has reported.",
            lambda answer, evidence: (
                "celery-task-meta" in answer
                and confuses(evidence, said="waiting", truth="part lost")
            ),
        ),
        Misconception(
            "one part that waits does not save a chord of which another part is nowhere.",
            lambda _, evidence: confuses(evidence, said="waiting", truth="part lost"),
        ),
        Misconception(
            "without its count a chord never fires, wherever its parts are.",
            lambda _, evidence: confuses(evidence, said="waiting", truth="count lost"),
        ),
    ),
)

EXERCISES = (FIRE, TELL, FIND_THE_HANG)
