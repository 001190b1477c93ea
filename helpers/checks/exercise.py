"""What one exercise is: what is given, the live experiment, and the test that an arm must pass."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from helpers.deliveries import deliveries
from helpers.fates import Census, Outcome, Unacked, classify
from helpers.ledger import Event, History
from helpers.stack import Stack

# The text of a file, or a value that JSON can hold.
Answer = Any


@dataclass
class Evidence:
    """What one arm left behind: its ledger, the census of its broker, and what else was seen.

    `facts` are the experiment's own observations, with JSON's types. `error` says why the arm did
    not come to its end, in words for the learner; empty when it did.
    """

    events: list[Event] = field(default_factory=list)
    census: dict[str, Any] | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    log_errors: int = 0

    def deliveries(self) -> pd.DataFrame:
        """One row a delivery, as of `Stack.deliveries`."""
        return deliveries(History(self.events))

    def outcome(self, title: str) -> Outcome:
        """The fate of every task of this arm."""
        census = None
        if self.census:
            unacked = [Unacked(*entry) for entry in self.census["unacked"]]
            live = frozenset(self.census["live"])
            census = Census(self.census["wall"], self.census["queued"], unacked, live)
        history = History(self.events)
        return classify(history, census, title=title, log_errors=self.log_errors)


@dataclass(frozen=True)
class Wrong:
    """Why an arm does not hold: what was expected, and what was seen instead."""

    expected: str
    seen: str


@dataclass(frozen=True)
class Misconception:
    """A known wrong belief: `explains` says whether an answer that does not hold rests on it."""

    says: str
    explains: Callable[[Answer, Evidence], bool]


@dataclass(frozen=True)
class Exercise:
    """One exercise of a lab.

    `given` is the broken answer that stands in the page, and is read from there (`cells.given`):
    the text of `file`, or without a file a value. `experiment` runs it, or a learner's answer, in
    an empty directory, and returns the stack and its facts. `judge` is the one test for both arms:
    the given one must fail it, an answer must pass it. `count` is the number that the page asks the
    learner to predict, of the given arm. `fates` is False where the answer only looks: then the
    fates of its tasks say nothing about it.
    """

    name: str
    title: str
    given: Answer
    experiment: Callable[[Answer, Path], tuple[Stack, dict[str, Any]]]
    judge: Callable[[Evidence], Wrong | None]
    hints: Sequence[str]
    file: str = ""
    count: Callable[[Evidence], int] | None = None
    misconceptions: Sequence[Misconception] = ()
    fates: bool = True


def exercises(lab: str) -> dict[str, Exercise]:
    """The exercises of a lab such as "lab_02", by name, in the order of its page."""
    module = importlib.import_module(f"helpers.exercises.{lab}")
    return {exercise.name: exercise for exercise in module.EXERCISES}
