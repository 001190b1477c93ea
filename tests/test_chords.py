"""The catalogue of chords: the verdict on planted situations, live cases, the stored grid."""

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import chord_cases
import fakeredis
import pandas as pd
import pytest
from celery import Celery
from celery.result import AsyncResult, GroupResult
from chord_cases import CASES

from chord import runs
from chord.case import MECHANISMS, Case
from helpers import chords
from helpers.trials import Row
from tests.test_lens import FakeServer, message

GRID = Path(chord_cases.__file__).with_suffix(".csv")
UNLOCK = "celery.chord_unlock"


def alive(*rows: tuple[str, float], task: str = "shop.charge") -> pd.DataFrame:
    """Tasks that are somewhere: id and seconds until a clock brings each back."""
    table = pd.DataFrame(rows, columns=["id", "due"]).set_index("id").assign(task=task)
    return table.astype({"due": float})


POLL = alive(("unlock", math.inf), task=UNLOCK)
# state, fates of the body, what is alive, what has not reported, polling -> outcome, seconds
SITUATIONS: dict[str, tuple[Any, ...]] = {
    "the body returned": ("SUCCESS", {"done"}, alive(), [], False, "fired", 0),
    "a body that stores nothing": ("PENDING", {"done"}, alive(), [], False, "fired", 0),
    "the body ran twice": ("PENDING", {"duplicated"}, alive(), [], False, "fired", 0),
    "an error was stored": ("FAILURE", set(), alive(), [], False, "error", 0),
    "revoked": ("REVOKED", set(), alive(), [], False, "error", 0),
    "a body that stores nothing raised": ("PENDING", {"failed"}, alive(), [], False, "error", 0),
    "a retry is no end": ("RETRY", set(), alive(), [{"a"}], False, "hung", math.inf),
    "a lost part": ("PENDING", set(), alive(), [{"a"}], False, "hung", math.inf),
    "all reported, no body": ("PENDING", set(), alive(), [], False, "hung", math.inf),
    "one part lost, one comes back": (
        "PENDING",
        set(),
        alive(("b", 60.0)),
        [{"a"}, {"b"}],
        False,
        "hung",
        math.inf,
    ),
    "no consumer": ("PENDING", set(), alive(("a", math.inf)), [{"a"}], False, "stuck", math.inf),
    "the body waits unread": (
        "PENDING",
        set(),
        alive(("x", math.inf)),
        [],
        False,
        "stuck",
        math.inf,
    ),
    "both come back": (
        "PENDING",
        set(),
        alive(("a", 60.0), ("b", 3600.0)),
        [{"a"}, {"b"}],
        False,
        "late",
        3600,
    ),
    "one comes back, one runs without an end": (
        "PENDING",
        set(),
        alive(("a", 60.0), ("b", math.inf)),
        [{"a"}, {"b"}],
        False,
        "stuck",
        math.inf,
    ),
    "a link of its chain comes back": (
        "PENDING",
        set(),
        alive(("link", 60.0)),
        [{"last", "link"}],
        False,
        "late",
        60,
    ),
    "a poll for a lost part": ("PENDING", set(), POLL, [{"a"}], True, "stuck", math.inf),
    "a poll that comes back too late for a lost part": (
        "PENDING",
        set(),
        alive(("unlock", 60.0), task=UNLOCK),
        [{"a"}],
        True,
        "stuck",
        math.inf,
    ),
    "a poll that comes back": (
        "PENDING",
        set(),
        alive(("unlock", 60.0), task=UNLOCK),
        [],
        True,
        "late",
        60,
    ),
    "a lost poll": ("PENDING", set(), alive(), [], True, "hung", math.inf),
}


@pytest.mark.parametrize("name", SITUATIONS)
def test_the_outcome_of_a_planted_situation(name: str) -> None:
    *situation, outcome, due = SITUATIONS[name]
    assert chords.decide(*situation) == (outcome, due)


READER = Celery("reader", broker="memory://", backend="cache+memory://", set_as_current=False)
result_of = partial(AsyncResult, app=READER)


def chord_of(*parts: AsyncResult | GroupResult) -> AsyncResult:
    return result_of("body", parent=GroupResult("g", list(parts), app=READER))


@pytest.fixture
def fake() -> FakeServer:
    """A chord of six parts: one reported, one queued, one held, one running, two nowhere."""
    server = FakeServer()
    with server.client(0) as client:
        client.lpush("celery", json.dumps(message("queued")), json.dumps(message("link")))
        client.hset("unacked", "tag", json.dumps([message("held"), "", "celery"]))
        client.zadd("unacked_index", {"tag": 1.0})
    with server.client(1) as client:
        key = "celery-taskset-meta-g"
        client.set(f"{key}.s", 7)
        client.sadd(f"{key}.d", "reported:0")
        client.zadd(f"{key}.j", {"[1]": 0})
        for name in ("reported", "uncounted"):
            client.set(f"celery-task-meta-{name}", json.dumps({"status": "SUCCESS"}))
    return server


def parts(server: FakeServer) -> pd.DataFrame:
    chained = result_of("last", parent=result_of("link"))
    names = ["reported", "queued", "held", "runs", "lost", "uncounted"]
    result = chord_of(*map(result_of, names), chained)
    return chords.parts(result, server, server, running={"runs"})


def test_the_reader_says_where_each_part_is(fake: FakeServer) -> None:
    table = parts(fake)
    assert table["where"].to_dict() == {
        "reported": "nowhere",
        "queued": "queue celery",
        "held": "unacked",
        "runs": "a worker",
        "lost": "nowhere",
        "uncounted": "nowhere",
        "last": "queue celery",
    }
    assert list(table.index[table["reported"]]) == ["reported"]
    assert list(table.index[table["resend"]]) == ["lost", "uncounted"]
    assert table.loc["uncounted", "state"] == "SUCCESS"  # it ran: sent again it runs twice
    assert table.attrs == {"size": 7, "returned": 1, "body": "waiting"}


def counted(**fates: str) -> pd.DataFrame:
    """The fate of each task, as `Outcome.table` has them."""
    rows = [{"id": name, "task": "shop.charge", "fate": fate} for name, fate in fates.items()]
    return pd.DataFrame(rows).set_index("id").assign(latest_return=60.0)


@pytest.mark.parametrize(
    ("lost", "stands"),
    [("done", ("late", 60.0)), ("queued", ("stuck", math.inf)), ("lost", ("hung", math.inf))],
)
def test_how_a_chord_stands(fake: FakeServer, lost: str, stands: tuple[str, float]) -> None:
    """One part has reported, one comes back from `unacked`, and a third decides."""
    result = chord_of(*map(result_of, ["reported", "held", "third"]))
    table = counted(reported="done", held="stranded", third=lost)
    with fake.client(1) as client:
        if lost == "done":
            client.sadd("celery-taskset-meta-g.d", "third:2")
        assert chords.outcome(result, table, fake, fake) == stands
        client.set("celery-task-meta-body", json.dumps({"status": "SUCCESS"}))
        assert chords.outcome(result, table, fake, fake) == ("fired", 0)


def test_of_several_workflows_its_own_tasks_count() -> None:
    """The parts, the links before them and the body; not what another chord has lost."""
    chained = result_of("last", parent=result_of("link"))
    table = counted(link="done", last="lost", third="done", body="queued", other="lost")
    own = chords.own(chord_of(chained, result_of("third")), table)
    assert list(own.index) == ["link", "last", "third", "body"]


def test_a_chain_has_no_parts(fake: FakeServer) -> None:
    last = result_of("last", parent=result_of("link"))
    assert chords.outcome(last, counted(link="discarded"), fake, fake) == ("hung", math.inf)
    assert chords.outcome(last, counted(link="stranded"), fake, fake) == ("late", 60)


def test_nothing_is_sent_again_when_the_count_is_lost(fake: FakeServer) -> None:
    with fake.client(1) as client:
        client.delete("celery-taskset-meta-g.s")
    table = parts(fake)
    assert table.attrs["size"] is None and not table["resend"].any()


def test_a_part_of_several_tasks_is_not_sent_again(fake: FakeServer) -> None:
    with fake.client(0) as client:
        client.delete("celery")  # the link of the chain is nowhere now
    table = parts(fake)
    assert table.loc["last", "where"] == "nowhere" and not table.loc["last", "resend"]


def test_an_id_alone_does_not_know_its_parts(fake: FakeServer) -> None:
    with pytest.raises(ValueError, match=r"keep result\.as_tuple\(\)"):
        chords.parts(result_of("body"), fake, fake, running=set())


def test_nothing_is_missing_when_the_body_was_sent(fake: FakeServer) -> None:
    with fake.client(1) as client:
        client.set("celery-taskset-meta-g.c", "a worker's token")
        assert parts(fake).attrs["body"] == "claimed"
        client.set("celery-taskset-meta-g.c", "done")
    table = parts(fake)
    assert table.attrs["body"] == "sent"
    assert table["reported"].all() and not table["resend"].any()


def test_the_reader_writes_nothing(fake: FakeServer) -> None:
    def dump() -> dict[Any, Any]:
        reader = {db: fakeredis.FakeRedis(server=fake._server, db=db) for db in (0, 1)}
        return {(db, key): r.dump(key) for db, r in reader.items() for key in r.keys()}  # noqa: SIM118

    before = dump()
    parts(fake)
    assert dump() == before and before


LIVE = [
    "Redis · healthy",
    "Redis · part raises",
    "Redis · worker killed, early ack",
    "Redis · worker killed, early ack · late ack",
    "Redis · worker killed, early ack · send the lost parts again",
    "Redis · key .s deleted",
    "Redis · inner chord's part raises",
    "Redis · inner chord's part raises · .on_error() on the chord, not on its body",
    "Redis · part's queue has no worker",
    "Redis · body has ignore_result",
    "Redis · middle expired",
    "polling · part's name not registered",
]


def by_key(key: str) -> Case:
    return next(case for case in CASES if case.key == key)


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> float:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", str(tmp_path_factory.mktemp("healthy")))
        return float(runs.run(by_key("Redis · healthy"), [0], 1.0)[0]["seconds"])


def test_each_mechanism_has_a_live_case() -> None:
    assert {by_key(key).mechanism for key in LIVE} == set(MECHANISMS)


@pytest.mark.parametrize("key", LIVE)
def test_a_case_ends_as_the_table_says(key: str, healthy: float) -> None:
    case = by_key(key)
    [row] = runs.run(case, [0], healthy)
    assert row["outcome"] == case.expected, row
    assert row["body_runs"] == (case.expected == "fired")
    if key.endswith("early ack"):
        assert (row["parts"], row["keys"]) == ("2 done, 2 lost", ".d .j .s")


def test_case_names_are_unique() -> None:
    assert len({case.key for case in CASES}) == len(CASES)


def test_the_stored_grid_covers_the_table_and_ends_as_expected() -> None:
    grid = pd.read_csv(GRID, keep_default_na=False)
    names = [" · ".join(filter(None, row)) for row in grid[["backend", "case", "fix"]].to_numpy()]
    counts = pd.Series(names).value_counts().to_dict()
    assert counts == {case.key: case.n for case in CASES}
    assert (grid["outcome"] == grid["expected"]).all()
    expected = {case.key: case.expected for case in CASES}
    assert all(row == expected[name] for name, row in zip(names, grid["outcome"], strict=True))


def test_the_cases_of_a_sample_and_of_a_full_run() -> None:
    def sizes(n: int) -> tuple[int, int]:
        batches = list(chord_cases.batches(n))
        assert all(len({str(run(case)) for case in batch}) == 1 for batch in batches)
        return len(batches), sum(map(len, batches))

    def run(case: Row) -> Row:
        return {name: value for name, value in case.items() if name != "run"}

    assert sizes(1)[1] == len(CASES) and sizes(2)[1] == 2 * len(CASES)
    assert sizes(20)[1] == len(pd.read_csv(GRID)) > sizes(20)[0]
