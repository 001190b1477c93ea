"""Decides a check from the evidence of both arms. Starts nothing, so it can be tried on records."""

from contextlib import suppress
from dataclasses import dataclass, replace

from helpers.checks.exercise import Answer, Evidence, Exercise
from helpers.fates import Outcome

CORRECT, NOT_YET = "correct", "not yet"
INCONCLUSIVE, NOT_ATTEMPTED = "inconclusive", "not attempted"


@dataclass(frozen=True)
class Verdict:
    """The answer to an answer: one of four words, and why."""

    status: str
    expected: str = ""
    seen: str = ""
    misconception: str = ""
    outcomes: tuple[Outcome, ...] = ()
    count: int | None = None


def decide(exercise: Exercise, answer: Answer, given: Evidence, yours: Evidence) -> Verdict:
    """Compare both arms. The given one has to break, or nothing can be said about the other."""
    broken = exercise.judge(given) if not given.error else None
    if broken is None:
        why = "what was given did not break on this machine, so a repair proves nothing"
        if given.error:
            why = f"what was given did not come to its end; is the machine busy? {given.error}"
        return Verdict(INCONCLUSIVE, seen=why)
    count = exercise.count(given) if exercise.count else None
    outcomes = [_panel(given, "as given", passed=False)]
    if yours.error:
        return Verdict(
            NOT_YET, broken.expected, yours.error, _trap(exercise, answer, yours), count=count
        )
    wrong = exercise.judge(yours)
    outcomes.append(_panel(yours, "yours", passed=wrong is None))
    if wrong is None:
        return Verdict(CORRECT, outcomes=tuple(outcomes), count=count)
    return Verdict(
        NOT_YET,
        wrong.expected,
        wrong.seen + _unfinished(*outcomes),
        _trap(exercise, answer, yours),
        tuple(outcomes),
        count,
    )


def _trap(exercise: Exercise, answer: Answer, evidence: Evidence) -> str:
    """The first known misconception that explains a wrong answer, in words; else nothing."""
    for misconception in exercise.misconceptions:
        with suppress(LookupError, ValueError):  # an arm that did not end has no facts
            if misconception.explains(answer, evidence):
                return misconception.says
    return ""


def _panel(evidence: Evidence, title: str, *, passed: bool) -> Outcome:
    """For the chart: what this exercise demands is more, or less, than that a run survives."""
    caption = "passed this check" if passed else "failed this check"
    return replace(evidence.outcome(title), caption=caption)


def _unfinished(given: Outcome, yours: Outcome) -> str:
    """Tasks that run in this answer only: what is given may leave some running on purpose."""
    running = sorted(_running(yours) - _running(given))
    return f"; never finished: {', '.join(running)}" if running else ""


def _running(outcome: Outcome) -> set[str]:
    return set(outcome.table.loc[outcome.table["place"].eq("running"), "task"])
