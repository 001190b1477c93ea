"""Lab checks: each runs the experiment live, on what was given and on the learner's answer.

`exercise` says what an exercise is, `lab_*` define them, `trial` runs both arms in processes of
their own (`arm`), `verdict` decides, and `lab` is what a learner calls.
"""

from helpers.checks.lab import Lab

__all__ = ["Lab"]
