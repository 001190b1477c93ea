"""Lab checks: each runs the experiment live, on what was given and on the learner's answer.

`exercise` says what an exercise is, `helpers.exercises` has those of each lab, `cells` reads what
they give, `run` runs both arms in processes of their own (`arm`), `verdict` decides, `progress`
keeps what came of it, and `lab` is what a learner calls.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from helpers.checks.lab import Lab

__all__ = ["Lab"]


def __getattr__(name: str) -> Any:
    # On first use: an arm needs no charts, and each of its seconds is the learner's.
    if name == "Lab":
        from helpers.checks.lab import Lab

        return Lab
    raise AttributeError(f"module 'helpers.checks' has no attribute {name!r}")
