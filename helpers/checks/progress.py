"""What a learner has done in the labs: kept beside the notebooks, and reported as one page."""

import html
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from IPython.display import display

from helpers.checks.verdict import CORRECT, NOT_ATTEMPTED

if TYPE_CHECKING:
    from helpers.checks.verdict import Verdict
    from helpers.prediction import Prediction

# Where the kernel started: beside its notebook. A lab's first cell then leaves this folder, and may
# be run again.
BESIDE = Path.cwd()
_COLUMNS = ["lab", "exercise", "result", "checks", "hints", "solution"]
_COLUMNS += ["predicted", "was", "minutes"]


class Progress:
    """The record of one lab, in the file progress.json of `folder`, which all labs share."""

    def __init__(self, folder: Path, lab: str, exercises: list[str]) -> None:
        self.lab = lab
        self._path = folder / "progress.json"
        self._since = time.monotonic()
        self._exercises = exercises

    def record(self, exercise: str, verdict: "Verdict", prediction: "Prediction | None") -> None:
        """Keep the result of one check. What was correct once stays so."""
        seen = self._load(exercise)
        seen["checks"] += 1
        if verdict.count is not None and prediction and prediction.value is not None:
            # The first one counts: later ones know the answer.
            seen.setdefault("predicted", prediction.value)
            seen.setdefault("was", verdict.count)
        if seen["result"] != CORRECT:
            seen["result"] = verdict.status
            if verdict.status == CORRECT:
                seen["minutes"] = round((time.monotonic() - self._since) / 60, 1)
                self._since = time.monotonic()
        self._save(exercise, seen)

    def hint(self, exercise: str, most: int) -> int:
        """Count one more hint, of `most`. Returns its number."""
        seen = self._load(exercise)
        seen["hints"] = min(seen["hints"] + 1, most)
        self._save(exercise, seen)
        return int(seen["hints"])

    def shown(self, exercise: str) -> None:
        """Remember that the solution was shown, unless the exercise was done by then."""
        seen = self._load(exercise)
        if seen["result"] != CORRECT:
            seen["solution"] = True
        self._save(exercise, seen)

    def _all(self) -> dict[str, Any]:
        return json.loads(self._path.read_text()) if self._path.exists() else {}

    def _load(self, exercise: str) -> dict[str, Any]:
        empty = {"result": NOT_ATTEMPTED, "checks": 0, "hints": 0, "solution": False}
        return self._all().get(self.lab, {}).get(exercise, empty)

    def _save(self, exercise: str, seen: dict[str, Any]) -> None:
        everything = self._all()
        everything.setdefault(self.lab, {})[exercise] = seen
        beside = self._path.with_suffix(".new")
        beside.write_text(json.dumps(everything, indent=1))
        os.replace(beside, self._path)

    def table(self) -> pd.DataFrame:
        """One row an exercise: of this lab all, of others those that were tried."""
        everything = self._all()
        mine = everything.get(self.lab, {})
        everything[self.lab] = {name: mine.get(name, {}) for name in self._exercises}
        rows = [
            {"lab": lab, "exercise": name, "result": NOT_ATTEMPTED, **seen}
            for lab, exercises in sorted(everything.items())
            for name, seen in exercises.items()
        ]
        table = pd.DataFrame(rows, columns=_COLUMNS)
        table["solution"] = table["solution"].map({True: "shown"})
        return table.astype(object).where(table.notna(), "").set_index(["lab", "exercise"])

    def report(self, name: str) -> None:
        """Display the table, and save it as report.html."""
        table = self.table()
        path = self._path.with_name("report.html")
        title = "Where Did My Task Go? · labs" + (f" · {name}" if name else "")
        style = "body{font:16px sans-serif;margin:2em}td,th{padding:.3em .8em;text-align:left}"
        path.write_text(
            f'<!doctype html><html lang="en"><meta charset="utf-8">'
            f"<title>{html.escape(title)}</title><style>{style}</style>"
            f"<h1>{html.escape(title)}</h1><p>{time.strftime('%Y-%m-%d %H:%M')}</p>"
            f"{table.to_html(border=0)}</html>\n"
        )
        done = int(table["result"].eq(CORRECT).sum())
        print(
            f"{done} of {len(table)} exercises correct · saved as {path.name} beside this notebook"
        )
        display(table)
