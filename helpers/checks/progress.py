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

# Of this process: a notebook leaves the folder of the labs before it makes its Lab again.
_folder: Path | None = None
_COLUMNS = ["lab", "task", "result", "checks", "hints", "solution", "predicted", "was", "minutes"]


class Progress:
    """The record of one lab, in progress.json in the folder in which the notebook started."""

    def __init__(self, lab: str, tasks: list[str]) -> None:
        global _folder
        _folder = _folder or Path.cwd()
        self.lab = lab
        self._path = _folder / "progress.json"
        self._since = time.monotonic()
        self._tasks = tasks

    def record(self, task: str, verdict: "Verdict", prediction: "Prediction | None") -> None:
        """Keep the result of one check. What was correct once stays so."""
        seen = self._load(task)
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
        self._save(task, seen)

    def hint(self, task: str, most: int) -> int:
        """Count one more hint, of `most`. Returns its number."""
        seen = self._load(task)
        seen["hints"] = min(seen["hints"] + 1, most)
        self._save(task, seen)
        return int(seen["hints"])

    def shown(self, task: str) -> None:
        """Remember that the solution was shown, unless the task was done by then."""
        seen = self._load(task)
        if seen["result"] != CORRECT:
            seen["solution"] = True
        self._save(task, seen)

    def _all(self) -> dict[str, Any]:
        return json.loads(self._path.read_text()) if self._path.exists() else {}

    def _load(self, task: str) -> dict[str, Any]:
        empty = {"result": NOT_ATTEMPTED, "checks": 0, "hints": 0, "solution": False}
        return self._all().get(self.lab, {}).get(task, empty)

    def _save(self, task: str, seen: dict[str, Any]) -> None:
        everything = self._all()
        everything.setdefault(self.lab, {})[task] = seen
        beside = self._path.with_suffix(".new")
        beside.write_text(json.dumps(everything, indent=1))
        os.replace(beside, self._path)

    def table(self) -> pd.DataFrame:
        """One row a task: of this lab all, of others those that were tried."""
        everything = self._all()
        mine = everything.get(self.lab, {})
        everything[self.lab] = {task: mine.get(task, {}) for task in self._tasks}
        rows = [
            {"lab": lab, "task": task, "result": NOT_ATTEMPTED, **seen}
            for lab, tasks in sorted(everything.items())
            for task, seen in tasks.items()
        ]
        table = pd.DataFrame(rows, columns=_COLUMNS)
        table["solution"] = table["solution"].map({True: "shown"})
        return table.astype(object).where(table.notna(), "").set_index(["lab", "task"])

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
        print(f"{done} of {len(table)} tasks correct · saved as {path.name} beside this notebook")
        display(table)
