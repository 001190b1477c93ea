"""Applications that nobody chose: the outcome against the truth told by other means."""

import ast
import secrets
from pathlib import Path

import pytest

from helpers.authoring import draws
from helpers.authoring.draws.drawing import GREEN, Draw, draw, green_pools
from helpers.authoring.draws.lane import drawn, left_out, reports
from helpers.authoring.draws.oracle import Answers, Line, Look, truths, verdicts
from tests.draws.kept import KEPT


@pytest.mark.timeout(150)
def test_what_was_once_wrong_is_right() -> None:
    done = list(reports([(Draw.of(literal), name) for name, literal in KEPT.items()], at_once=2))
    assert [str(report) for report in done if report.wrong] == []


@pytest.mark.timeout(300)
def test_ten_that_nobody_chose() -> None:
    """Other ones each time. A disagreement tells its draw: `make test-draws`, CONTRIBUTING."""
    seed = secrets.randbelow(10**6)
    print(f"seed {seed}, without {left_out(quick=True)}")
    done = list(reports(drawn(seed, 10, quick=True), at_once=2))
    assert [str(report) for report in done if report.wrong] == []


def test_pools_that_are_not_installed_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    absent = [pool for pool in GREEN if pool not in green_pools()]
    assert left_out() == absent
    if absent:
        monkeypatch.setenv("CI", "true")
        with pytest.raises(RuntimeError, match=absent[0]):
            left_out()
        monkeypatch.delenv("CI")
        pytest.skip(f"not drawn: {', '.join(absent)} (pip install -r requirements-dev.txt)")


def test_a_draw_is_the_same_again() -> None:
    for number in range(200):
        one = draw(f"some/{number}")
        assert one == draw(f"some/{number}") == Draw.of(one.literal)


def test_each_choice_occurs() -> None:
    many = [draw(f"many/{number}") for number in range(500)]
    assert len({pool for one in many for pool in one.pools}) == 5
    assert len({(fault, one.moment) for one in many for fault in one.faults}) == 13 * 4
    assert {task.kind for one in many for task in one.tasks} == {
        "ok",
        "fail",
        "retry",
        "limit",
        "ignore",
        "broadcast",
        "misrouted",
        "unknown",
        "refused",
        "expired",
    }


def imports(path: Path) -> set[str]:
    """The modules of ours that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("." * node.level + (node.module or ""))
    return {name for name in found if name.startswith(("helpers", "."))}


def test_the_oracle_shares_no_code_with_what_it_judges() -> None:
    folder = Path(draws.__file__).parent
    own = "helpers.authoring.draws"
    assert imports(folder / "oracle.py") == set()
    assert imports(folder / "drawing.py") == set()
    needed = {name for path in folder.glob("*.py") for name in imports(path)}
    # What runs the draw, and what is to be judged.
    assert {name for name in needed if not name.startswith(own)} == {
        "helpers.fates",
        "helpers.stack",
        "helpers.worker",
    }


# --- the oracle itself, on what it could see -----------------------------------------------------

START, END = Line("start", "a", 7, 0), Line("end", "a", 7, 0)


def look(
    *lines: Line, queue: str = "", unacked: int = 0, state: str = "", live: bool = False
) -> Look:
    return Look(
        queued={queue: ["a"]} if queue else {},
        unacked=("a",) * unacked,
        foreign=0,
        states={"a": state} if state else {},
        lines=lines,
        live=frozenset({7} if live else ()),
    )


KNOWN = Answers(frozenset({"w"}), {"w": {"a"}}, {}, {"w": {"mail"}})
DROPPED = Answers(dropped=frozenset("a"))
SILENT = Answers(frozenset({"w"}))


@pytest.mark.parametrize(
    ("seen", "answers", "fate", "verdict"),
    [
        (look(START, END, state="SUCCESS"), Answers(), "done", {"survived"}),
        (look(START, END, state="SUCCESS", unacked=1), Answers(), "done", {"inconclusive"}),
        (look(START, START, END, state="SUCCESS"), Answers(), "duplicated", {"broke"}),
        (look(START, state="FAILURE"), Answers(), "failed", {"survived"}),
        (look(state="REVOKED"), DROPPED, "discarded", {"broke"}),
        (look(START), Answers(), "lost", {"broke"}),
        (look(START, live=True), Answers(), "held", {"inconclusive"}),
        (look(START, unacked=1), Answers(), "stranded", {"broke"}),
        (look(unacked=1), KNOWN, "held", {"inconclusive"}),
        (look(queue="mail"), KNOWN, "queued", {"inconclusive"}),
        (look(unacked=1), SILENT, None, {"broke", "survived", "inconclusive"}),
        (look(START, END), Answers(), None, {"broke", "survived", "inconclusive"}),
    ],
)
def test_truth(seen: Look, answers: Answers, fate: str | None, verdict: set[str]) -> None:
    found = truths({"a": "ok"}, seen, answers, seen)
    assert found["a"].fate == fate
    assert verdicts(found) == verdict


def test_what_one_holder_drops_another_runs() -> None:
    seen = look(unacked=1)
    told = {"v": {"a"}, "w": {"a"}}
    for revoked, fate in (({"v": {"a"}}, "held"), (told, "discarded")):
        answers = Answers(frozenset(told), told, revoked, {})
        assert truths({"a": "ok"}, seen, answers, seen)["a"].fate == fate


def test_a_broadcast_that_failed_before_it_wrote_a_line_is_not_decided() -> None:
    for state, fate in (("FAILURE", None), ("", "lost")):
        seen = look(state=state)
        assert truths({"a": "broadcast"}, seen, Answers(), seen)["a"].fate == fate


def test_a_retry_is_no_repetition() -> None:
    lines = (START, Line("retry", "a", 7, 0), Line("start", "a", 7, 1), Line("end", "a", 7, 1))
    seen = look(*lines, state="SUCCESS")
    assert truths({"a": "retry"}, seen, Answers(), seen)["a"].fate == "done"


def test_what_moves_is_not_decided() -> None:
    before, after = look(queue="mail"), look(START, live=True)
    assert truths({"a": "ok"}, before, KNOWN, after)["a"].fate is None
