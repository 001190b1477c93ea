"""Answers to the labs' exercises, right and wrong, that real learners would try."""

import importlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Planted:
    """Answers to one exercise by what they do. `looks_right` is the name of a wrong one."""

    right: dict[str, Any]
    wrong: dict[str, Any]
    looks_right: str


def planted(lab: str) -> dict[str, Planted]:
    """The planted answers of a lab such as "lab_02", by the name of the exercise."""
    return importlib.import_module(f"tests.exercises.answers.{lab}").ANSWERS
