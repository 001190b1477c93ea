"""What only folklore holds for a hang, on Redis: these end, or tell the caller."""

import signal

from celery import chain, chord, group

from chord.canvases import (
    behind,
    beside,
    four,
    halfway,
    inner,
    linked,
    past,
    task,
    two,
    unknown,
    with_body,
)
from chord.case import HEADLINE_RUNS, SLOW, Case, folklore
from chord.faults import RECEIVED, busy, evict_key, kill_child, revoke, signalled, stop_broker
from chord.shop import IMPATIENT, ONE, OWN

BEHIND_WORK = folklore(
    "five seconds of other work in front",
    "fired",
    beside(task("charge", 1)),
    before=busy(1, 5),
    worker=ONE,
)

CASES: list[Case] = [
    folklore("healthy", "fired", four, n=HEADLINE_RUNS),
    folklore("part raises", "error", beside(task("fail")), n=HEADLINE_RUNS),
    folklore("retries exhausted", "error", beside(task("again"))),
    folklore("child killed by SIGKILL", "error", four, fault=kill_child, **SLOW),
    folklore("hard time limit", "error", beside(task("endless")), alone=True),
    folklore("part revoked", "error", behind(task("charge", 1)), **RECEIVED),
    folklore(
        "part terminated", "error", beside(task("charge", 1, 9)), fault=revoke(terminate=True)
    ),
    folklore("part expired", "error", beside(task("charge", 1, expires=past()))),
    folklore("return value not serialisable", "error", beside(task("unreadable"))),
    folklore("part raises Reject", "error", beside(task("reject"))),
    folklore("chain in the header, first link raises", "error", beside(linked("fail"))),
    folklore("chain in the header, first link killed", "error", beside(linked("crash")), **SLOW),
    folklore(
        "chain in the header, first link hits its limit",
        "error",
        beside(linked("endless")),
        alone=True,
    ),
    folklore("chain in the header, first link rejects", "error", beside(linked("reject"))),
    folklore(
        "inner body raises",
        "error",
        beside(lambda shop: chord([shop.charge.s(1)] * 2, shop.fail.s())),
    ),
    folklore(
        "body is a group, a part raises",
        "error",
        with_body("fail", lambda shop: group(shop.total.s(), shop.total.s())),
    ),
    folklore(
        "body is a chain, a part raises",
        "error",
        with_body("fail", lambda shop: chain(shop.total.s(), shop.charge.s())),
    ),
    folklore("body's name not registered", "error", with_body("charge", unknown)),
    folklore("broker away when the body is sent", "error", two, fault=stop_broker, results=OWN),
    folklore("header generator raises halfway", "error", halfway, alone=True),
    folklore("empty header", "fired", lambda shop: chord([], shop.total.s())),
    folklore("header has ignore_result", "fired", beside(task("unstored", 1))),
    folklore(
        "group in the header",
        "fired",
        beside(lambda shop: group(shop.charge.s(1), shop.charge.s(2))),
    ),
    folklore(
        "chain that ends in a group",
        "fired",
        beside(lambda shop: chain(shop.charge.s(1), group(shop.charge.s(), shop.charge.s()))),
    ),
    folklore("inner chord", "fired", inner("tell")),
    folklore(
        "part replaced by a group", "fired", beside(task("splits", "shop.charge")), alone=True
    ),
    folklore("warm shutdown", "fired", four, fault=signalled(signal.SIGTERM)),
    folklore(
        "part runs twice, visibility timeout",
        "fired",
        beside(task("charge", 1, 3)),
        alone=True,
        conf={**IMPATIENT, "task_acks_late": True},
    ),
    folklore(
        "countdown longer than the visibility timeout",
        "fired",
        beside(task("charge", 1, countdown=4)),
        alone=True,
        conf=IMPATIENT,
    ),
    folklore("key .d deleted", "fired", beside(task("charge", 1, 0.7)), fault=evict_key(".d")),
    BEHIND_WORK,
]
