"""The labs: their pages, and that no planted answer fools a check."""

import gzip
import json
from functools import cache
from pathlib import Path

import nbformat
import pytest

from helpers.authoring import lab_pages, neutral, page_rules
from helpers.authoring.live_labs import LABS, RECORDED, Answer, Case, cases, check, right
from helpers.checks.cells import cell, content
from helpers.checks.exercise import Evidence, exercises
from helpers.checks.verdict import CORRECT, INCONCLUSIVE, decide
from tests.exercises.answers import planted

SOLUTIONS = sorted((lab_pages.LABS / "solutions").glob("*.ipynb"))
every_lab = pytest.mark.parametrize("lab", LABS)
every_solution = pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)


@cache
def recorded(lab: str) -> dict[str, dict[str, dict[str, object]]]:
    return json.loads(gzip.decompress((RECORDED / f"{lab}.json.gz").read_bytes()))


@pytest.mark.parametrize(("case", "answer"), list(cases()), ids=lambda it: "-".join(it)[:80])
def test_recorded_answer_is_judged_right(case: Case, answer: Answer) -> None:
    arms = {name: Evidence(**arm) for name, arm in recorded(case[0])["/".join(case[1:])].items()}
    verdict = decide(exercises(case[0])[case[1]], answer, arms["given"], arms["yours"])
    assert right(case, verdict), (verdict.status, verdict.expected, verdict.seen)


def live() -> list[tuple[Case, Answer]]:
    """Per exercise its first right answer, the solution, and the wrong one that looks right."""
    chosen = []
    for lab in LABS:
        for name, answers in planted(lab).items():
            first = next(iter(answers.right))
            chosen.append(((lab, name, "right", first), answers.right[first]))
            wrong = answers.looks_right
            chosen.append(((lab, name, "wrong", wrong), answers.wrong[wrong]))
    return chosen


@pytest.mark.parametrize(("case", "answer"), live(), ids=lambda it: "-".join(it)[:80])
def test_live_answer_is_judged_right(case: Case, answer: Answer) -> None:
    verdict, _ = check(case, answer)
    assert right(case, verdict), (verdict.status, verdict.expected, verdict.seen)


@every_lab
def test_enough_answers_are_planted(lab: str) -> None:
    assert list(planted(lab)) == list(exercises(lab))
    for exercise in exercises(lab).values():
        answers = planted(lab)[exercise.name]
        assert len(answers.right) >= 3 and len(answers.wrong) >= 4
        assert len(exercise.hints) == 3


@every_lab
def test_nothing_can_be_said_when_what_was_given_holds(lab: str) -> None:
    for exercise in exercises(lab).values():
        name = next(iter(planted(lab)[exercise.name].right))
        arms = recorded(lab)[f"{exercise.name}/right/{name}"]
        holds = Evidence(**arms["yours"])
        assert decide(exercise, "an answer", holds, holds).status == INCONCLUSIVE


@every_lab
def test_each_exercise_has_one_given_cell_and_its_page_has_the_same(lab: str) -> None:
    page = nbformat.read(next(lab_pages.LABS.glob(f"{lab}_*.ipynb")), as_version=4)
    for exercise in exercises(lab).values():
        source = cell(lab, "given", exercise.name)  # raises unless there is exactly one
        tags = {"given", exercise.name}
        shown = [it.source for it in page.cells if tags <= set(it.metadata.get("tags", []))]
        assert shown == [source]
        assert source.startswith(
            f"%%writefile {exercise.file}\n" if exercise.file else "settings = "
        )
        assert any(f"check.{exercise.name}(" in it.source for it in page.cells)


@every_lab
def test_the_solution_on_the_page_is_a_planted_answer(lab: str) -> None:
    for exercise in exercises(lab).values():
        shown = content(cell(lab, "solution", exercise.name))
        name = next(iter(planted(lab)[exercise.name].right))
        answer = planted(lab)[exercise.name].right[name]
        if exercise.file:
            shown, answer = shown.strip(), answer.strip()
        assert shown == answer


@every_solution
def test_stored_solution_has_no_problems(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert page_rules.problems(notebook, path.stem) == []
    said = "".join(
        neutral.texts_of(out) and "\n".join(neutral.texts_of(out))
        for cell in notebook.cells
        for out in cell.get("outputs", [])
    )
    assert said.count(": correct") == len(exercises("_".join(path.stem.split("_")[:2])))


@every_solution
def test_page_is_made_from_its_solution(path: Path) -> None:
    made = nbformat.writes(lab_pages.page(path))
    assert (lab_pages.LABS / path.name).read_text().strip() == made.strip(), "run: make labs"


def test_a_recorded_verdict_is_not_correct_by_default() -> None:
    exercise = exercises("lab_02")["survive_a_kill"]
    assert decide(exercise, "", Evidence(error="broken"), Evidence()).status != CORRECT
