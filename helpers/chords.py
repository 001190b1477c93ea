"""Which parts of a chord have reported, and where the rest is. Read-only."""

import json
from collections.abc import Collection

import pandas as pd
from celery.result import AsyncResult, GroupResult

from helpers import lens


def parts(
    result: AsyncResult,
    broker: lens.HasClient,
    results: lens.HasClient,
    db: int = 1,
    *,
    running: Collection[str],
) -> pd.DataFrame:
    """The header parts of the chord whose body is `result`: which have reported, where the rest is.

    `running` holds the ids that workers own to, as `lens.running(app)` finds them: under early ack
    the broker has no copy of a task that runs. `db` is the database of the result backend.

    Columns: state (of the stored result), reported (`.d` holds it), where (a queue, "unacked",
    "a worker", "nowhere"), resend (a plain task that is nowhere, while the chord still counts: sent
    again with its id, group and index it can only help, if the task may run twice). `attrs` has
    size (`.s`; None: the count is lost, or the chord has ended: no part can complete it), returned
    (`.j`) and body (`.c`: "waiting", "claimed" by a worker that is about to send it, or "sent").
    Raises ValueError for a result that does not know its parts, such as one made from an id.
    Source: `celery/backends/redis.py: RedisBackend.on_chord_part_return`.
    """
    group = result.parent
    if not isinstance(group, GroupResult):
        raise ValueError(
            "this result does not know its parts: keep result.as_tuple() when you send a chord, "
            "and restore it with celery.result.result_from_tuple()"
        )
    header = [leaf for child in group.results for leaf in leaves(child)]
    queues = {
        lens.task_of(message)[0]: own.key for own in lens.lists(broker) for message in own.messages
    }
    held = set(lens.unacked(broker)["id"])
    key = f"celery-taskset-meta-{group.id}"
    rows = []
    with lens.reader(results, db) as client:
        counted = {member.rpartition(":")[0] for member in client.smembers(f"{key}.d")}
        size, claim = client.get(f"{key}.s"), client.get(f"{key}.c")
        body = {None: "waiting", "done": "sent"}.get(claim, "claimed")
        returned = client.zcard(f"{key}.j")
        for part in header:
            stored = client.get(f"celery-task-meta-{part.id}")
            ids, where = family(part), "nowhere"
            if queue := next((queues[name] for name in ids if name in queues), None):
                where = f"queue {queue}"
            elif ids & held:
                where = "unacked"
            elif ids & set(running):
                where = "a worker"
            reported = body == "sent" or part.id in counted
            # Of a chain or an inner chord this is only the last task: sent alone, it would report
            # a wrong value.
            plain = part.parent is None
            resend = plain and where == "nowhere" and not reported and size is not None
            state = json.loads(stored)["status"] if stored else "PENDING"
            rows.append([part.id, state, reported, where, resend])
    table = pd.DataFrame(rows, columns=["id", "state", "reported", "where", "resend"])
    table.attrs = {"size": size and int(size), "returned": returned, "body": body}
    return table.set_index("id")


def leaves(part: AsyncResult | GroupResult) -> list[AsyncResult]:
    """The parts of a group in a header count one by one."""
    if isinstance(part, GroupResult):
        return [leaf for child in part.results for leaf in leaves(child)]
    return [part]


def family(part: AsyncResult | GroupResult | None) -> set[str]:
    """Ids of all that must run before `part` can report: links of its chain, an inner header."""
    ids: set[str] = set()
    while part is not None:
        ids.add(part.id)
        if isinstance(part, GroupResult):
            ids |= {name for child in part.results for name in family(child)}
        part = part.parent
    return ids
