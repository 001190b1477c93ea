"""A check survives whatever a learner writes, says what it was, and leaves nothing behind."""

import json
import os
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from helpers import reaper
from helpers.checks import Lab, cells, run
from helpers.checks.cells import given
from helpers.checks.progress import Progress
from helpers.checks.verdict import CORRECT, INCONCLUSIVE, NOT_ATTEMPTED, NOT_YET
from helpers.prediction import Prediction
from tests.exercises.answers.lab_02 import ANSWERS, LATE, READ, SHOP


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    monkeypatch.chdir(tmp_path)
    patient = partial(run.run, deadline=60)  # tests are not alone on the machine
    monkeypatch.setattr(run, "run", patient)
    yield Lab("lab_02", tmp_path)
    # The reaper lives as long as this process.
    assert {it.pid for it in run._processes_of(tmp_path)} <= {reaper._reaper and reaper._reaper.pid}
    assert list(tmp_path.glob("where-did-my-task-go-*/*")) == []


def judged(lab: Lab, name: str, text: str) -> tuple[str, str]:
    check = getattr(lab, name)
    Path(check._exercise.file).write_text(text)
    check(check._exercise.file)
    return check.verdict.status, check.verdict.seen


HOSTILE = {
    "syntax": ("survive_a_kill", "def (", "line 1"),
    "exits at import": ("survive_a_kill", SHOP + "\nimport sys\nsys.exit(0)\n", "SystemExit"),
    "exits hard": ("survive_a_kill", SHOP + "\nimport os\nos._exit(3)\n", "exit code"),
    "raises at import": ("survive_a_kill", "1 / 0\n" + SHOP, "shop.py"),
    "another broker": (
        "survive_a_kill",
        LATE.replace('Celery("shop")', 'Celery("shop", broker="redis://localhost:6379")'),
        "refused",
    ),
    "no such task": ("survive_a_kill", LATE.replace("def charge", "def bill"), "has no charge"),
    "no application": ("survive_a_kill", "def charge(order): pass", "no application"),
    "loops at import": ("find_the_lost", READ + "\nwhile True:\n    pass\n", "never finished"),
    "worker dies": (
        "survive_a_kill",
        LATE.replace("    time.sleep(bank)", "    import os\n    os.kill(os.getppid(), 9)"),
        "",
    ),
    "forks away": (
        "survive_a_kill",
        SHOP.replace(
            "    time.sleep(bank)",
            "    import subprocess\n"
            '    subprocess.Popen(["sleep", "77"], start_new_session=True)\n'
            "    import os\n"
            "    if os.fork() == 0:\n"
            "        os.setsid()\n"
            "        time.sleep(77)",
        ),
        "",
    ),
    "returns nothing": ("find_the_lost", READ.replace("return {", "{"), "NoneType"),
    "raises": ("find_the_lost", READ.replace('"headers"', '"header"'), "find.py, line"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_answer_is_named_and_leaves_nothing(lab: Lab, name: str) -> None:
    exercise, text, says = HOSTILE[name]
    status, seen = judged(lab, exercise, text)
    assert status == NOT_YET and says in seen, (status, seen)


def test_unchanged_answer_is_not_attempted_and_starts_nothing(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "run", None)
    assert judged(lab, "survive_a_kill", "# a comment\n" + SHOP)[0] == NOT_ATTEMPTED
    lab.three_promises(dict(given("lab_02", "three_promises")))
    assert lab.three_promises.verdict.status == NOT_ATTEMPTED
    lab.three_promises(...)
    assert lab.three_promises.verdict.status == NOT_ATTEMPTED


def test_bad_arguments_say_what_to_give(lab: Lab) -> None:
    with pytest.raises(FileNotFoundError, match=r"%%writefile shop\.py"):
        lab.survive_a_kill("nowhere.py")
    with pytest.raises(TypeError, match=r"'shop\.py'"):
        lab.survive_a_kill({"acks_late": True})
    with pytest.raises(TypeError, match="plain values"):
        lab.three_promises({"charge": object()})
    with pytest.raises(AttributeError, match="survive_a_kill"):
        lab.survive  # noqa: B018
    with pytest.raises(ValueError, match="no lab_99"):
        Lab("lab_99")


def test_trap_is_named(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = ANSWERS["find_the_lost"].wrong["no unacked"]
    assert judged(lab, "find_the_lost", wrong)[0] == NOT_YET
    assert "a known trap: a task in `unacked` is not lost" in capsys.readouterr().out


def test_what_given_does_not_break_is_inconclusive(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = run.run

    def both_mended(name: str, exercise: str, answers: dict[str, str]) -> object:
        return both(name, exercise, {**answers, "given": READ})

    monkeypatch.setattr(run, "run", both_mended)
    assert judged(lab, "find_the_lost", READ)[0] == INCONCLUSIVE


def test_progress_hints_solution_and_report(
    lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    guess = Prediction()
    guess.value = 4
    Path("find.py").write_text(READ)
    lab.find_the_lost.hint()
    lab.find_the_lost.hint()
    lab.find_the_lost("find.py", prediction=guess)
    lab.find_the_lost.solution()  # after it was correct: no matter
    lab.survive_a_kill.solution()
    for _ in range(4):
        lab.three_promises.hint()
    lab.report("Ada <admin>")
    said = capsys.readouterr().out
    assert "you predicted 4, it was " in said and "hint 3 of 3" in said and "acks_late=True" in said
    kept = json.loads((tmp_path / "progress.json").read_text())["lab_02"]
    assert kept["find_the_lost"]["result"] == CORRECT and kept["find_the_lost"]["hints"] == 2
    assert not kept["find_the_lost"]["solution"] and kept["survive_a_kill"]["solution"]
    page = (tmp_path / "report.html").read_text()
    assert "Ada &lt;admin&gt;" in page and "find_the_lost" in page and "shown" in page
    # What was correct stays so; another lab's progress stays too.
    lab.find_the_lost(...)
    again = Lab("lab_02", tmp_path)._progress.table()
    assert again.loc[("lab_02", "find_the_lost"), "result"] == CORRECT
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == [
        "find.py",
        "progress.json",
        "report.html",
    ]


def test_progress_of_an_earlier_course_is_kept(tmp_path: Path) -> None:
    done = {"result": CORRECT, "checks": 2, "hints": 1, "solution": False, "minutes": 3.5}
    (tmp_path / "progress.json").write_text(json.dumps({"lab_02": {"survive_a_kill": done}}))
    progress = Progress(tmp_path, "lab_03", ["lose_no_order"])
    progress.hint("lose_no_order", most=3)
    table = progress.table()
    assert list(table["result"]) == [CORRECT, NOT_ATTEMPTED]
    assert table.loc[("lab_02", "survive_a_kill"), "minutes"] == 3.5
    assert json.loads((tmp_path / "progress.json").read_text())["lab_02"]["survive_a_kill"] == done


def test_a_cell_that_is_missing_or_there_twice_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells, "SOLUTIONS", tmp_path)
    with pytest.raises(LookupError, match=r"no lab_09_\*\.ipynb"):
        given("lab_09", "stay_calm")
    one = {"metadata": {"tags": ["given", "stay_calm"]}, "source": ["settings = {\n", "}"]}
    notebook = {"cells": [one, {"metadata": {}, "source": []}]}
    (tmp_path / "lab_09_stay_calm.ipynb").write_text(json.dumps(notebook))
    assert given("lab_09", "stay_calm") == {}
    with pytest.raises(LookupError, match="has 0 cells that are tagged 'given' and 'panic'"):
        given("lab_09", "panic")
    notebook["cells"].append(one)
    (tmp_path / "lab_09_stay_calm.ipynb").write_text(json.dumps(notebook))
    with pytest.raises(LookupError, match="has 2 cells"):
        given("lab_09", "stay_calm")


def test_deadline_keeps_the_promise_of_twenty_seconds() -> None:
    assert run.DEADLINE < 20 - 1.5  # the rest is for the end of every process, and the chart


def test_processes_are_found_by_their_environment(tmp_path: Path) -> None:
    process = subprocess.Popen(
        ["sleep", "60"], env={**os.environ, "TMPDIR": str(tmp_path)}, start_new_session=True
    )
    run.end_processes_of(tmp_path)
    assert process.wait(timeout=5) == -9


def test_a_process_without_its_environment_is_ended(tmp_path: Path) -> None:
    with subprocess.Popen(["/bin/sleep", "60"], cwd=tmp_path, env={}) as process:
        run.end_processes_of(tmp_path)
    assert process.returncode < 0
