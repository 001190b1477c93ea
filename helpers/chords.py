"""Which parts of a chord have reported, where the rest is, and how it stands. Read-only."""

import json
import math
import time
from collections.abc import Collection
from datetime import datetime

import pandas as pd
from celery import states
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
            ids = family(part)
            waiting = [f"queue {queues[name]}" for name in ids if name in queues]
            places = waiting + ["unacked"] * bool(ids & held)
            places += ["a worker"] * bool(ids & set(running))
            reported = body == "sent" or part.id in counted
            # Of a chain or an inner chord this is only the last task: sent alone, it would report
            # a wrong value.
            plain = part.parent is None
            resend = plain and not places and not reported and size is not None
            state = json.loads(stored)["status"] if stored else "PENDING"
            rows.append([part.id, state, reported, next(iter(places), "nowhere"), resend])
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


def own(result: AsyncResult | GroupResult, table: pd.DataFrame) -> pd.DataFrame:
    """The rows of `Outcome.table` that `result` names: where several workflows share a stack."""
    return table[table.index.isin(family(result))]


def outcome(
    result: AsyncResult | GroupResult,
    table: pd.DataFrame,
    broker: lens.HasClient,
    results: lens.HasClient | None,
    db: int = 1,
) -> tuple[str, float]:
    """How a chord or a chain stands, and the seconds until the last event that it still needs.

    *fired* and *error* are ends. Without one it is *hung* (nothing is left that could complete it),
    *stuck* (something is left, but no bounded event completes it) or *late* (a bounded event will).
    `table` has the fates of what can belong to it, out of `Outcome.table` (`own`). The results are
    in database `db` of `results`; None: the backend is no Redis, and is asked itself.
    """
    last = leaves(result)
    body = table[table.index.isin([one.id for one in last])]
    alive = table[table["fate"].isin(["queued", "held", "stranded"])]
    alive = alive.assign(due=[_due(broker, task_id, row) for task_id, row in alive.iterrows()])
    header = result.parent if isinstance(result.parent, GroupResult) else None
    parts_of = leaves(header) if header else []
    if results is None:
        missing = [family(part) for part in parts_of if not part.ready()]
        return decide(last[0].state, set(body["fate"]), alive, missing, polls=True)
    missing = []
    if header:
        held = set(alive.index[alive["fate"] == "held"])
        known = parts(result, broker, results, db, running=held)
        missing = [family(part) for part in parts_of if not known.loc[part.id, "reported"]]
    state = stored_state(results, db, last[0].id)
    return decide(state, set(body["fate"]), alive, missing, polls=False)


def decide(
    state: str, body: set[str], alive: pd.DataFrame, missing: list[set[str]], polls: bool
) -> tuple[str, float]:
    """What `outcome` says.

    `state` is stored under the id that the caller waits for, `body` the fates of those tasks,
    `alive` the tasks that are somewhere (columns task and due: when each returns, infinite if no
    clock says so), `missing` the ids that each part which has not reported depends on.
    """
    if state == states.SUCCESS or (body and body <= {"done", "duplicated"}):
        return "fired", 0.0
    if state in states.EXCEPTION_STATES - {states.RETRY} or "failed" in body:
        return "error", 0.0
    poll = alive["task"] == "celery.chord_unlock"
    work = set(alive.index[~poll])
    if any(not ids & work for ids in missing):
        # What is nowhere cannot report. A poll asks for it without an end.
        return ("stuck", math.inf) if poll.any() else ("hung", math.inf)
    if alive.empty:
        return "hung", math.inf
    due = float(alive["due"].max())
    return ("late", due) if math.isfinite(due) else ("stuck", math.inf)


def stored_state(results: lens.HasClient, db: int, task_id: str) -> str:
    """The state of a task, without a subscription of one's own."""
    with lens.reader(results, db) as client:
        stored = client.get(f"celery-task-meta-{task_id}")
    return str(json.loads(stored)["status"]) if stored else states.PENDING


def _due(broker: lens.HasClient, task_id: str, row: pd.Series) -> float:
    """Seconds until the clock brings a task back or lets it run; infinite when no clock does."""
    if row["fate"] == "stranded":
        return float(row["latest_return"])
    for _, message, _, _ in lens.held(broker):
        eta = message["headers"].get("eta")
        if eta and lens.task_of(message)[0] == task_id:
            return datetime.fromisoformat(eta).timestamp() - time.time()
    return math.inf
