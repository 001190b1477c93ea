"""What several experiments need: an answer's file and its functions, and the shop's own table."""

import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

from celery.result import AsyncResult

from helpers.checks.exercise import Evidence, Wrong
from helpers.errors import StackError
from helpers.ledger import Event
from helpers.stack import Stack, import_file
from helpers.tables import effects


def load_function(path: Path, name: str) -> Callable[..., Any]:
    """Import the file of an answer, and return its function `name`.

    Raises StackError when it has none, and whatever the file itself raises.
    """
    return member(import_file(path), name)


def member(module: ModuleType, name: str) -> Any:
    """A task or function of an answer. Raises StackError when the answer has none of that name."""
    try:
        return getattr(module, name)
    except AttributeError as error:
        raise StackError(
            f"{module.__name__}.py has no {name}: keep the names of the page"
        ) from error


def task_of(module: ModuleType, name: str) -> Any:
    """A task of an answer. Raises StackError when it has none of that name, or a mere function."""
    found = member(module, name)
    if not hasattr(found, "delay"):
        raise StackError(f"{name} is no task: above its def belongs @app.task")
    return found


def open_shop(
    here: Path, *tables: str, redis: Mapping[str, str] | None = None, **files: str
) -> Stack:
    """A stack in `here`, with the shop's tables and files.

    `tables` are such as "charges (number)". `files` are texts, by the name of the module. `redis`
    is what stands in the redis.conf of the broker.
    """
    for name, text in files.items():
        (here / f"{name}.py").write_text(text)
    if tables:
        with closing(sqlite3.connect(here / "shop.db")) as database:
            for table in tables:
                database.execute(f"CREATE TABLE {table}")
    return Stack(here, redis=redis)


def rows(here: Path, table: str, key: str) -> dict[str, int]:
    """How many rows `table` of the shop's database has for each value of the column `key`."""
    return {
        str(value): int(count) for value, count in effects(here / "shop.db", table, key).items()
    }


def interrupted(stack: Stack, here: Path, charge: AsyncResult, number: int) -> bool:
    """Whether a kill by now interrupts a charge: it has not ended, and has written no row."""
    ended = any(
        event["id"] == charge.id and event["event"] in ("finished", "failed")
        for event in stack.ledger.read()
    )
    return not ended and str(number) not in rows(here, "charges", "number")


def not_interrupted(number: int) -> Wrong:
    """What `interrupted` found wrong with an answer, for its learner."""
    return Wrong(
        f"order {number} at the bank when its worker is killed",
        "its task had ended by then, or its row was there before the bank had answered: the "
        "bank takes its time, whatever the code says",
    )


def judge_said(evidence: Evidence, what: str) -> Wrong | None:
    """The test of an answer that only looks: does it say what is true of each of some `what`?"""
    pairs = _said_and_true(evidence)
    expected = f"the right word for each of {len(pairs)} {what}, and nothing changed by looking"
    if evidence.facts["touched"]:
        return Wrong(expected, "your function changed something in Redis: it may only read")
    wrong = [(said, true) for said, true in pairs if said != true]
    if not wrong:
        return None
    examples = "; ".join(f'said "{said}", was "{true}"' for said, true in sorted(set(wrong)))
    return Wrong(expected, f"{len(wrong)} of {len(pairs)} {what} wrong: {examples}")


def confuses(evidence: Evidence, said: str, truth: str) -> bool:
    """Whether an answer said the one word where the other was true."""
    return (said, truth) in _said_and_true(evidence)


def _said_and_true(evidence: Evidence) -> list[tuple[str, str]]:
    """Both words for each thing that was asked for: these are in a list, or known by an id."""
    said, truth = evidence.facts["said"], evidence.facts["truth"]
    if isinstance(truth, list):
        return list(zip(said, truth, strict=True))
    return [(said.get(key, "nothing"), true) for key, true in truth.items()]


def changes(stack: Stack) -> int:
    """How often the data in the stack's Redis was changed so far, by whomever."""
    return int(stack.redis.client().info("persistence")["rdb_changes_since_last_save"])


def sent_by_hand(events: list[Event], task: str) -> int:
    """How many tasks of a name the answer's own process sent, and no worker."""
    workers = {event["pid"] for event in events if event["event"] in ("received", "ready")}
    workers |= {event["pid"] for event in events if event["event"] in ("started", "finished")}
    sent = [event for event in events if event["event"] == "attempted" and event["task"] == task]
    return sum(event["pid"] not in workers for event in sent)


def shortest_run(evidence: Evidence, task: str) -> float:
    """Seconds of the shortest execution of a task that finished; NaN without one."""
    runs = evidence.deliveries()
    mine = runs["name"].str.split(".").str[-1].eq(task)
    runs = runs[mine & runs["end"].eq("finished")]
    return float((runs["ended"] - runs["started"]).min())
