"""What a learner calls: `check = Lab("lab_02")`, then `check.late_ack("shop.py")`."""

import ast
import contextlib
import json
from pathlib import Path
from typing import Any

from helpers import plots
from helpers.checks import cells, progress, run
from helpers.checks.exercise import Answer, Exercise, exercises
from helpers.checks.verdict import CORRECT, INCONCLUSIVE, NOT_ATTEMPTED, NOT_YET, Verdict, decide
from helpers.prediction import Prediction

_MARKS = {CORRECT: "✔", NOT_YET: "✘", INCONCLUSIVE: "?", NOT_ATTEMPTED: "·"}


class Lab:
    """The checks of one lab, one attribute an exercise, and the report of all labs.

    Progress is kept in `folder`: beside the notebook, if it is not named and the notebook imports
    this class before it changes its directory. Raises ValueError when there is no such lab.
    """

    def __init__(self, name: str, folder: Path = progress.BESIDE) -> None:
        try:
            known = exercises(name)
        except ModuleNotFoundError as error:
            raise ValueError(f"there is no {name}: say it as in check = Lab('lab_02')") from error
        self.name = name
        self._progress = progress.Progress(folder, name, list(known))
        self._checks = {key: Check(self, exercise) for key, exercise in known.items()}

    def __getattr__(self, name: str) -> "Check":
        if name in (checks := self.__dict__.get("_checks", {})):
            return checks[name]
        raise AttributeError(f"{self.name} has no exercise {name!r}; it has: {', '.join(checks)}")

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._checks]

    def report(self, name: str = "") -> None:
        """Show what is done in every lab, and save it as report.html beside the notebook.

        `name` is who hands it in, if anybody should know.
        """
        self._progress.report(name)

    def __repr__(self) -> str:
        return f"{self.name}: " + ", ".join(f"check.{name}" for name in self._checks)


class Check:
    """Checks one exercise live. Call it with your answer."""

    def __init__(self, lab: Lab, exercise: Exercise) -> None:
        self._lab, self._exercise = lab, exercise
        self._progress = lab._progress
        self.verdict: Verdict | None = None

    def __call__(self, answer: Answer, prediction: Prediction | None = None) -> None:
        """Run what was given and `answer` side by side, and say what came of it, within 20 s.

        `answer` is the name of a file where the page asks for a file, else a value.
        Raises FileNotFoundError or TypeError when it is neither.
        """
        if answer is ...:
            answer = None
        elif self._exercise.file:
            answer = _text(answer, self._exercise.file)
        else:
            _check_value(answer)
        self.verdict = self._judge(answer)
        self._show(self.verdict, prediction)
        self._progress.record(self._exercise.name, self.verdict, prediction)

    def _judge(self, answer: Answer) -> Verdict:
        given = self._exercise.given
        if answer is None or _same(answer, given):
            return Verdict(NOT_ATTEMPTED, seen="the answer is what was given: change it first")
        if self._exercise.file and (error := _syntax_error(answer, self._exercise.file)):
            return Verdict(NOT_YET, "a file that Python can read", error)
        arms = run.run(self._lab.name, self._exercise.name, {"given": given, "yours": answer})
        return decide(self._exercise, answer, arms["given"], arms["yours"])

    def _show(self, verdict: Verdict, prediction: Prediction | None) -> None:
        print(f"{_MARKS[verdict.status]} {self._exercise.title}: {verdict.status}")
        for label, text in (("expected", verdict.expected), ("seen", _cut(verdict.seen))):
            if text:
                print(f"  {label}: {text}")
        if verdict.misconception:
            print(f"  a known trap: {verdict.misconception}")
        if verdict.count is not None and prediction:
            print(f"  {prediction.text(verdict.count)}")
        if verdict.status == NOT_YET:
            print(f"  stuck? check.{self._exercise.name}.hint()")
        if not self._exercise.fates:
            return
        fates = [outcome.counts for outcome in verdict.outcomes]
        if len(fates) == 2 and fates[0] == fates[1]:
            print(f"  fates, the same in both runs: {verdict.outcomes[0].finding}")
        elif fates:
            plots.fates(*verdict.outcomes)

    def hint(self) -> None:
        """Print the next hint. The last one is nearly the answer."""
        hints = self._exercise.hints
        number = self._progress.hint(self._exercise.name, len(hints))
        print(f"hint {number} of {len(hints)}: {hints[number - 1]}")
        if number == len(hints):
            print(f"after that: check.{self._exercise.name}.solution()")

    def solution(self) -> None:
        """Print one solution. The report says that it was shown."""
        self._progress.shown(self._exercise.name)
        print("One solution; there are others. The report says that you looked.\n")
        print(cells.cell(self._lab.name, "solution", self._exercise.name))


def _cut(text: str, most: int = 12) -> str:
    """Of a long text, such as one that ends in a log, the start and the end."""
    lines = text.splitlines()
    if len(lines) <= most:
        return text
    return "\n".join([*lines[: most // 2], "    ...", *lines[-most // 2 :]])


def _text(path: Any, file: str) -> str:
    if not isinstance(path, str | Path):
        raise TypeError(f"this exercise asks for a file: give its name, such as {file!r}")
    try:
        return Path(path).read_text()
    except OSError as error:
        raise FileNotFoundError(
            f"no {path} here: run the cell that writes it first (%%writefile {file})"
        ) from error


def _check_value(answer: Any) -> None:
    try:
        json.dumps(answer)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"this exercise asks for plain values, as given in the page: {error}"
        ) from error


def _same(answer: Answer, given: Answer) -> bool:
    """Comments and blank lines are no attempt."""
    with contextlib.suppress(SyntaxError, TypeError, ValueError):
        return ast.dump(ast.parse(answer)) == ast.dump(ast.parse(given))
    return bool(answer == given)


def _syntax_error(text: str, file: str) -> str:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError) as error:
        return f"{file}, line {getattr(error, 'lineno', '?')}: {error}"
    return ""
