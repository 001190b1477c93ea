"""Every known way in which a chord does not fire, what only folklore holds for one, and the fixes.

An experiment is a function of a case: it starts a stack, publishes the canvas, breaks one thing at
a named event, waits, and says what it saw. The table of hangs is here; `chord/` has two more tables
(folklore.py, polling.py), what is built (canvases.py), broken (faults.py) and repaired (shop.py),
and the experiment (runs.py). Writes chord_cases.csv beside this file, one row a run. Half an hour
on two cores.
"""

import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

from celery import chain, chord

from chord import folklore, polling, runs
from chord.canvases import (
    EXPIRED,
    PARCEL,
    alarmed,
    behind,
    beside,
    chord_as_body,
    four,
    grouped,
    inner,
    limited,
    linked,
    past,
    task,
    ten_parts,
    three,
    unknown,
    with_body,
)
from chord.case import (
    CHAIN,
    COUNT,
    HEADLINE_RUNS,
    RESULT,
    RUNS,
    SILENT,
    SLOW,
    UNREAD,
    UNTOLD,
    Case,
    family,
    nothing,
)
from chord.faults import (
    RECEIVED,
    at_the_start,
    evict_key,
    fill_results,
    fill_with_pages,
    forbid,
    kill_and_replace,
    replace_after_death,
    resend_what_is_lost,
    restart_results,
    results_elsewhere,
    revoke,
    revoke_middle,
    signalled,
    stop_results,
)
from chord.shop import (
    APPEND,
    BOTH_QUEUES,
    DEDUPLICATE,
    DIES,
    DIES_BEFORE_BODY,
    DIES_BEFORE_COUNT,
    LATE,
    ON_HEADER,
    ONE,
    OWN,
    PATIENT,
    PILL,
    QUICK,
    SMALL,
    TELL_OUTER,
    TELL_REVOKED,
    TELL_UNKNOWN,
)
from helpers.faults import evict
from helpers.trials import Row, measure

ON_CHORD = ".on_error() on the chord, not on its body"
ON_PARTS = "the same, on each part too"

KILLED = Case(
    "worker killed, early ack", SILENT, "hung", four, kill_and_replace, conf=QUICK, n=HEADLINE_RUNS
)

HANGS: list[Case] = [
    *family(
        KILLED,
        {
            "late ack": {"conf": LATE},
            "send the lost parts again": {"fault": resend_what_is_lost, "n": RUNS},
        },
    ),
    replace(KILLED, name="worker killed, time limits on the body", canvas=limited, n=RUNS),
    *family(
        Case(
            "worker killed, late ack, default visibility timeout",
            SILENT,
            "late",
            four,
            kill_and_replace,
            conf={"task_acks_late": True},
        ),
        {"visibility timeout of 3 s": {"conf": LATE}},
    ),
    *family(
        Case("cold shutdown, early ack", SILENT, "hung", four, signalled(signal.SIGQUIT)),
        {
            "worker_soft_shutdown_timeout": {"conf": {"worker_soft_shutdown_timeout": 3}},
            "warm shutdown instead": {"fault": signalled(signal.SIGTERM)},
        },
    ),
    *family(
        Case("part raises Ignore", SILENT, "hung", beside(task("ignore"))),
        {"Reject instead": {"canvas": beside(task("reject")), "expected": "error"}},
    ),
    *family(
        Case("part's name not registered", SILENT, "hung", beside(unknown)),
        {"task_unknown handler": {"source": TELL_UNKNOWN, "expected": "error"}},
    ),
    *family(
        Case(
            "part's content type refused",
            SILENT,
            "hung",
            beside(task("charge", 1, serializer="parcel")),
        ),
        {"accept_content": {"conf": {"accept_content": ["json", "parcel"]}}},
    ),
    *family(
        Case("chain in the header, first link expired", SILENT, "hung", beside(EXPIRED)),
        {"task_revoked handler": {"source": TELL_REVOKED, "expected": "error"}},
    ),
    *family(
        Case(
            "chain in the header, first link revoked",
            SILENT,
            "hung",
            behind(linked("charge")),
            **RECEIVED,
        ),
        {"task_revoked handler": {"source": TELL_REVOKED, "expected": "error"}},
    ),
    *family(
        Case(
            "chain in the header, first link terminated",
            SILENT,
            "hung",
            beside(lambda shop: chain(shop.charge.s(1, 9), shop.charge.s())),
            revoke(terminate=True),
        ),
        {"task_revoked handler": {"source": TELL_REVOKED, "expected": "error"}},
    ),
    *family(
        Case("chain in the header, first link ignores", SILENT, "hung", beside(linked("ignore"))),
        {"Reject instead": {"canvas": beside(linked("reject")), "expected": "error"}},
    ),
    *family(
        Case(
            "chain in the header, first link not registered",
            SILENT,
            "hung",
            beside(lambda shop: chain(unknown(shop), shop.charge.s())),
        ),
        {"task_unknown handler": {"source": TELL_UNKNOWN, "expected": "error"}},
    ),
    Case(
        "queue purged midway",
        SILENT,
        "hung",
        ten_parts,
        at_the_start(lambda run: run.shop.app.control.purge()),
        worker=(*ONE, "--prefetch-multiplier=1"),
    ),
    Case(
        "queue evicted midway",
        SILENT,
        "hung",
        ten_parts,
        at_the_start(lambda run: evict(run.stack.redis, "celery")),
        worker=(*ONE, "--prefetch-multiplier=1"),
    ),
    Case(
        "FLUSHDB of the broker midway",
        SILENT,
        "hung",
        ten_parts,
        at_the_start(lambda run: run.stack.redis.client().flushdb()),
        worker=(*ONE, "--prefetch-multiplier=1"),
    ),
    *family(
        Case(
            "poison pill, task_reject_on_worker_lost",
            SILENT,
            "stuck",
            beside(task("pill")),
            conf=PILL,
            timeout=5,
            alone=True,
        ),
        {
            "task_retry_on_worker_lost, max_retries 3": {
                "conf": {**PILL, "task_retry_on_worker_lost": True},
                "expected": "error",
                **SLOW,
            }
        },
    ),
    Case(
        "child killed, task_retry_on_worker_lost",
        SILENT,
        "late",
        beside(task("crash")),
        conf={"task_retry_on_worker_lost": True},
        **{**SLOW, "timeout": 13},
    ),
    *family(
        Case(
            "part waits for another task, one process",
            SILENT,
            "stuck",
            beside(task("asks")),
            worker=ONE,
            alone=True,
            timeout=5,
        ),
        {"a chain instead of .get()": {"canvas": beside(linked("charge"))}},
    ),
    # --- the count is lost
    Case("key .s deleted", COUNT, "hung", beside(task("charge", 1, 0.7)), evict_key(".s")),
    Case("key .j deleted", COUNT, "hung", beside(task("charge", 1, 0.7)), evict_key(".j")),
    *family(
        Case(
            "keys evicted, volatile-lru",
            COUNT,
            "hung",
            beside(PARCEL),
            fill_with_pages,
            redis=SMALL,
        ),
        {"results on a server of their own": {"results": OWN}},
    ),
    *family(
        Case(
            "result_expires shorter than a part",
            COUNT,
            "hung",
            lambda shop: chord([shop.charge.s(n, 2) for n in range(2)], shop.total.s()),
            alone=True,
            conf={"result_expires": 1},
        ),
        {"result_chord_expires": {"conf": {"result_expires": 1, "result_chord_expires": 600}}},
    ),
    *family(
        Case(
            "producer has another result database",
            COUNT,
            "hung",
            beside(task("charge", 1)),
            before=results_elsewhere,
        ),
        {"the same result database": {"before": nothing}},
    ),
    *family(
        Case(
            "result user may not run scripts",
            COUNT,
            "hung",
            beside(task("charge", 1)),
            results=OWN,
            before=forbid("-@scripting"),
        ),
        {"ACL +evalsha": {"before": forbid("-@scripting", "+evalsha", "+script|load")}},
    ),
    Case(
        "result server full",
        COUNT,
        "hung",
        beside(task("charge", 1, 1)),
        fill_results,
        results=OWN,
    ),
    *family(
        Case(
            "result server away while a part ends",
            COUNT,
            "hung",
            beside(task("charge", 1, 0.7)),
            stop_results,
            results=APPEND,
            timeout=40,
        ),
        {"result_backend_always_retry": {"conf": {"result_backend_always_retry": True}}},
    ),
    *family(
        Case(
            "result server restarts empty",
            COUNT,
            "hung",
            beside(task("charge", 1, 0.7)),
            restart_results,
            results=OWN,
        ),
        {"appendonly yes": {"results": APPEND}},
    ),
    Case(
        "child killed before its part is counted",
        COUNT,
        "hung",
        beside(task("charge", 1)),
        worker=ONE,
        **SLOW,
        source=DIES + DIES_BEFORE_COUNT.format(group=False),
    ),
    *family(
        Case(
            "worker killed before a part is counted",
            COUNT,
            "hung",
            beside(task("charge", 1)),
            replace_after_death,
            worker=ONE,
            source=DIES + DIES_BEFORE_COUNT.format(group=True),
            conf=QUICK,
        ),
        {"late ack": {"conf": LATE}},
    ),
    *family(
        Case(
            "worker killed before a part is counted, deduplication",
            COUNT,
            "hung",
            beside(task("charge", 1)),
            replace_after_death,
            worker=ONE,
            source=DIES + DIES_BEFORE_COUNT.format(group=True),
            conf=DEDUPLICATE,
        ),
        {"no deduplication": {"conf": LATE}},
    ),
    Case(
        "child killed before it sends the body",
        COUNT,
        "hung",
        beside(task("charge", 1)),
        worker=ONE,
        **SLOW,
        source=DIES + DIES_BEFORE_BODY.format(group=False),
    ),
    *family(
        Case(
            "worker killed before it sends the body, late ack",
            COUNT,
            "hung",
            beside(task("charge", 1)),
            replace_after_death,
            worker=ONE,
            source=DIES + DIES_BEFORE_BODY.format(group=True),
            conf=LATE,
        ),
        {"visibility timeout longer than the claim": {"conf": PATIENT, "timeout": 45}},
    ),
    # --- an error has nobody to tell
    *family(
        Case("inner chord's part raises", UNTOLD, "hung", inner("fail")),
        {
            "return an error value": {"canvas": inner("tell")},
            "backend tells the outer chord": {"source": TELL_OUTER, "expected": "error"},
            ON_CHORD: {"canvas": alarmed(inner("fail")), "expected": "told", "alone": True},
        },
    ),
    *family(
        Case("chain(group, task) in the header raises", UNTOLD, "hung", grouped("fail")),
        {
            "return an error value": {"canvas": grouped("tell")},
            "backend tells the outer chord": {"source": TELL_OUTER, "expected": "error"},
            ON_CHORD: {"canvas": alarmed(grouped("fail")), "expected": "told", "alone": True},
        },
    ),
    *family(
        Case(
            "part replaced by a group that raises",
            UNTOLD,
            "hung",
            beside(task("splits", "shop.fail")),
            alone=True,
        ),
        {
            "return an error value": {"canvas": beside(task("splits", "shop.tell"))},
            "backend tells the outer chord": {"source": TELL_OUTER, "expected": "error"},
            ON_CHORD: {
                "canvas": alarmed(beside(task("splits", "shop.fail"))),
                "expected": "hung",
            },
            ON_PARTS: {
                "canvas": alarmed(beside(task("splits", "shop.fail"))),
                "conf": ON_HEADER,
                "expected": "told",
            },
        },
    ),
    *family(
        Case("body is a chord, a part raises", UNTOLD, "hung", with_body("fail", chord_as_body)),
        {
            "return an error value": {"canvas": with_body("tell", chord_as_body)},
            "backend tells the inner body": {"source": TELL_OUTER, "expected": "error"},
            ON_CHORD: {
                "canvas": alarmed(with_body("fail", chord_as_body)),
                "expected": "hung",
                "alone": True,
            },
            ON_PARTS: {
                "canvas": alarmed(with_body("fail", chord_as_body)),
                "conf": ON_HEADER,
                "expected": "told",
                "alone": True,
            },
        },
    ),
    # --- nobody consumes
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
    # --- only the result is missing
    *family(
        Case(
            "body has ignore_result",
            RESULT,
            "fired",
            with_body("charge", task("unstored_total")),
        ),
        {"a body that stores its result": {"canvas": with_body("charge", task("total"))}},
    ),
    *family(
        Case(
            "task_ignore_result for all",
            RESULT,
            "fired",
            with_body("charge", task("total")),
            conf={"task_ignore_result": True},
        ),
        {
            "ignore_result=False on the body": {
                "canvas": with_body("charge", task("total", ignore_result=False))
            }
        },
    ),
    # --- chains
    Case("middle raises", CHAIN, "error", three(task("fail"))),
    *family(
        Case("middle expired", CHAIN, "hung", three(task("charge", expires=past()))),
        {"task_revoked handler": {"source": TELL_REVOKED, "expected": "error"}},
    ),
    *family(
        Case("middle revoked", CHAIN, "hung", three(task("charge")), revoke_middle),
        {"task_revoked handler": {"source": TELL_REVOKED, "expected": "error"}},
    ),
]

CASES = [*HANGS, *folklore.CASES, *polling.CASES]


def batches(n: int) -> Iterator[list[Row]]:
    """The runs of a case come one after the other on one stack, where no fault is aimed at it."""
    for case in CASES:
        rows = [{**case.columns, "run": number} for number in range(min(n, case.n))]
        yield from [rows] if case.shared else ([row] for row in rows)


def run(batch: list[Row]) -> Iterator[Row]:
    """Some runs of one case."""
    columns = {name: value for name, value in batch[0].items() if name != "run"}
    case = next(case for case in CASES if case.columns == columns)
    for row in runs.run(case, [row["run"] for row in batch], healthy(case.backend)):
        if row["outcome"] != case.expected:
            print(f"{case.key}: {row['outcome']} INSTEAD OF {case.expected}", file=sys.stderr)
        yield row


@cache
def healthy(backend: str) -> float:
    """How long a chord without a fault takes, in seconds: the shortest of three."""
    case = next(case for case in CASES if (case.backend, case.name) == (backend, "healthy"))
    return float(min(row["seconds"] for row in runs.run(case, range(3), 1.0)))


if __name__ == "__main__":
    measure(__file__, batches, run, n=HEADLINE_RUNS, at_once=3)
