"""Words are for readers: noise in place of all of them changes no fate, verdict or decision."""

import ast
import itertools
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import nbformat
import pytest

from helpers import fates, settle
from helpers.authoring import ROOT
from helpers.checks import verdict
from helpers.checks.exercise import Evidence, Exercise, Wrong
from helpers.deliveries import deliveries
from helpers.fates import FATES, Census, Unacked
from helpers.ledger import Event, History
from tests.test_deliveries import AGAIN, KILLS, history
from tests.test_fates import NOW, PLANTED, VERDICTS, WORKER, Story, census, lost_child

WORDS = ["where", "why"]  # the columns for readers; every other one holds facts
FACTS = {
    "fate": set(FATES),
    "message": {"", "queued", "held", "stranded"},
    "place": {"", "queue", "unacked", "running", "memory", "gone"},
    "queue": {"", "celery", "mail"},
    "task": {"shop.charge", None},
}
HISTORIES = [
    *PLANTED.values(),
    *((story, at) for story, at, _ in VERDICTS),
    (Story().ready().publish("a"), census(queued={"mail": ["a"]})),
    (Story().ready().publish("a"), census(queued={"celery": ["a"]})),
    (Story().ready().publish("a").receive("a"), census()),
    (Story().ready().publish("a").run("a").receive("a").start("a"), census()),
    (Story().ready().publish("a").run("a"), census(queued={"celery": ["a"]})),
    (Story().ready().publish("a").run("a"), census(unacked=[Unacked("tag-a", "a", NOW)])),
    (lost_child(), census()),
    (lost_child().say("failed", "a", WORKER), census()),
]
_numbers = itertools.count()


def noise(*_: object) -> str:
    """Never the same, so that no comparison with it is true."""
    return f"noise {next(_numbers)}"


@pytest.fixture
def noisy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every text that `fates` makes for a reader is noise."""
    said = fates._verdict
    monkeypatch.setattr(fates, "_where", noise)
    for story, _ in HISTORIES:
        monkeypatch.setattr(story, "events", noisy_events(story.events))
    monkeypatch.setattr(fates, "_verdict", lambda *a: (said(*a)[0], [noise() for _ in said(*a)[1]]))
    for name, fate in FATES.items():
        monkeypatch.setitem(FATES, name, fate._replace(meaning=noise()))


def at_rest(story: Story, name: str) -> Any:
    """A stack in which nothing happens any more."""
    ledger = SimpleNamespace(append=noise, count=noise, read=lambda: History(story.events))
    return SimpleNamespace(name=name, ledger=ledger, alive=[], programs=[], patience=1.0)


def settled(story: Story, at: Census) -> list[Any]:
    """Fates and verdict, whether the drain gave up, and whether it would wait for longer."""
    gave_up: list[bool] = []

    def classify(*known: Any, out_of_time: bool, **rest: Any) -> fates.Outcome:
        gave_up.append(out_of_time)
        return fates.classify(*known, out_of_time=out_of_time, **rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settle, "_silent", lambda *_: True)
        patch.setattr(settle, "census", lambda _: at)
        patch.setattr(settle, "classify", classify)
        outcome = settle.settle(at_rest(story, noise()), timeout=0, quiet=0)
    facts = outcome.table.drop(columns=WORDS).reset_index().astype(object).fillna("none")
    waits = settle._will_move(outcome, 5000), settle._unnoticed(outcome, 1)
    return [facts.to_numpy().tolist(), outcome.verdict, outcome.counts, gave_up, waits]


def survives(evidence: Evidence) -> Wrong | None:
    survived = evidence.outcome(noise()).verdict == "survived"
    return None if survived else Wrong(noise(), noise())


def evidence(story: Story, at: Census) -> Evidence:
    unacked = [[entry.tag, entry.task_id, entry.since] for entry in at.unacked]
    counted = {"wall": at.wall, "queued": at.queued, "unacked": unacked, "live": list(at.live)}
    return Evidence(story.events, counted)


def checked(story: Story, at: Census) -> tuple[str, set[str]]:
    """What a lab says of an answer with this history, and what still runs in it."""
    exercise = Exercise(noise(), noise(), "", lambda *_: None, survives, hints=())  # type: ignore
    given, yours = evidence(*PLANTED["lost"]), evidence(story, at)
    status = verdict.decide(exercise, "", given, yours).status
    return status, verdict._running(yours.outcome(noise()))


def decided() -> list[Any]:
    return [[settled(*planted), checked(*planted)] for planted in HISTORIES]


def noisy_events(events: list[Event]) -> History:
    return History([event | {"why": noise()} for event in events])


def test_noise_changes_no_decision(request: pytest.FixtureRequest) -> None:
    plain = decided()
    assert {rest[1] for rest, _ in plain} == {"broke", "survived", "inconclusive"}
    assert {tuple(rest[3]) for rest, _ in plain} > {(False,), (False, False, True)}
    assert {rest[4] for rest, _ in plain} >= {(False, False), (True, False), (False, True)}
    assert {(status, *runs) for status, runs in (lab for _, lab in plain)} >= {
        (verdict.CORRECT,),
        (verdict.NOT_YET, "shop.charge"),
    }
    request.getfixturevalue("noisy")
    assert decided() == plain


def test_the_noise_reaches_every_text_of_an_outcome(noisy: None) -> None:
    for story, at in HISTORIES:
        outcome = fates.classify(History(story.events), at)
        if outcome.table.empty:
            continue
        assert all(text.startswith("noise") for text in [*outcome.table["where"], *outcome.reasons])
        assert not any(fate.meaning in outcome.sentence for fate in FATES.values())
        texts = outcome.table.select_dtypes(exclude=["number", "bool"]).drop(columns=WORDS)
        # A new column of words has to be named above, and a new fact too.
        assert set(texts) == set(FACTS)
        for column, values in texts.items():
            assert {None if value != value else value for value in values} <= FACTS[str(column)]


def test_noise_changes_no_delivery(monkeypatch: pytest.MonkeyPatch) -> None:
    told = history(*AGAIN)
    plain = deliveries(told, KILLS).drop(columns="task")
    assert plain["end"].tolist() == ["killed", ""]
    faults = [kill._replace(label=noise()) for kill in KILLS]
    monkeypatch.setattr("helpers.deliveries._label", noise)
    assert deliveries(noisy_events(told), faults).drop(columns="task").equals(plain)


# Who decides by words in a page or in another module


def programs() -> Iterator[tuple[str, str]]:
    """Each piece of code of the package, the grids and the pages, with its place."""
    for folder in ("helpers", "notebooks/grids"):
        for path in (ROOT / folder).rglob("*.py"):
            yield str(path.relative_to(ROOT)), path.read_text()
    for folder in ("notebooks", "labs"):
        for path in (ROOT / folder).rglob("*.ipynb"):
            for number, cell in enumerate(nbformat.read(path, as_version=4).cells):
                other = re.match(r"%%writefile \S+(?<!\.py)\n", cell.source)  # a unit file
                if cell.cell_type == "code" and not other:
                    lines = cell.source.splitlines()
                    code = "\n".join(line for line in lines if not line.startswith(("%", "!")))
                    yield f"{path.relative_to(ROOT)}, cell {number}", code


def reads_words(code: str) -> bool:
    """Does it take a column of words from a table, or query one, other than to show it?"""
    tree = ast.parse(code)
    texts = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    shown = {part for text in texts for part in ast.walk(text)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and node not in shown:
            names = {each.value for each in ast.walk(node.slice) if isinstance(each, ast.Constant)}
            if names & set(WORDS):
                return True
        query = isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "query"
        if query and re.search(rf"\b({'|'.join(WORDS)})\b", ast.unparse(node)):
            return True
    return False


def test_no_program_takes_words_from_a_table() -> None:
    readers = [place for place, code in programs() if reads_words(code)]
    assert readers == ["helpers/tasks.py"]  # where they are made


@pytest.mark.parametrize(
    "code",
    [
        'table["where"] == "running"',
        'table.loc["a", ["fate", "where"]]',
        "table.query(f\"{fate} and where == 'unacked'\")",
    ],
)
def test_such_a_program_would_be_found(code: str) -> None:
    assert reads_words(code)
