"""Finds the exercises of a lab."""

import importlib

from helpers.checks.exercise import Exercise


def exercises(lab: str) -> dict[str, Exercise]:
    """The exercises of a lab such as "lab_02", by name, in the order of its page."""
    module = importlib.import_module(f"helpers.checks.{lab}")
    return {exercise.name: exercise for exercise in module.EXERCISES}


def find(lab: str, name: str) -> Exercise:
    """One exercise."""
    return exercises(lab)[name]
