"""Chords on a backend that cannot count, and sends a task that polls (`celery.chord_unlock`)."""

from dataclasses import replace

from chord.canvases import (
    EXPIRED,
    PARCEL,
    beside,
    chord_as_body,
    four,
    inner,
    task,
    unknown,
    with_body,
)
from chord.case import SILENT, SLOW, UNREAD, UNTOLD, Case, family, folklore
from chord.faults import kill_and_replace, kill_child, kill_while_unlock_waits
from chord.folklore import BEHIND_WORK
from chord.shop import BOTH_QUEUES, LATE, QUICK, TELL_REVOKED

_TABLE: list[Case] = [
    folklore("healthy", "fired", four),
    folklore("part raises", "error", beside(task("fail"))),
    folklore("child killed by SIGKILL", "error", four, fault=kill_child, **SLOW),
    *family(
        Case("header has ignore_result", SILENT, "stuck", beside(task("unstored", 1))),
        {"store the result": {"canvas": beside(task("charge", 1))}},
    ),
    Case("part raises Ignore", SILENT, "stuck", beside(task("ignore"))),
    Case("part's name not registered", SILENT, "error", beside(unknown)),
    *family(
        Case("chain in the header, first link expired", SILENT, "stuck", beside(EXPIRED)),
        {"task_revoked handler": {"source": TELL_REVOKED, "expected": "error"}},
    ),
    Case("inner chord's part raises", UNTOLD, "error", inner("fail")),
    Case("body is a chord, a part raises", UNTOLD, "hung", with_body("fail", chord_as_body)),
    *family(
        Case("worker killed, early ack", SILENT, "stuck", four, kill_and_replace, conf=QUICK),
        {
            "late ack": {"conf": LATE, "timeout": 15},
            "max_retries=3 at the publish": {"options": {"max_retries": 3}, "expected": "error"},
        },
    ),
    *family(
        Case(
            "worker killed while the unlock waits",
            SILENT,
            "late",
            beside(task("charge", 1)),
            kill_while_unlock_waits,
        ),
        {"visibility timeout of 3 s": {"conf": QUICK, "timeout": 15}},
    ),
    *family(
        Case("part's queue has no worker", UNREAD, "stuck", beside(PARCEL)),
        {"a worker for the queue": {"worker": BOTH_QUEUES}},
    ),
    *family(
        Case(
            "body's queue has no worker",
            UNREAD,
            "stuck",
            with_body("charge", task("total", queue="parcels")),
        ),
        {"a worker for the queue": {"worker": BOTH_QUEUES}},
    ),
    BEHIND_WORK,
]


def _polls(case: Case) -> Case:
    """On db+sqlite. Five polls show that there is no end to them."""
    return replace(case, polls=True, timeout=5 if case.expected == "stuck" else case.timeout)


CASES = [_polls(case) for case in _TABLE]
