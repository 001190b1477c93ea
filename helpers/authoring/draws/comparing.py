"""Both answers side by side: what the outcome says that the truth does not."""

import traceback
from collections import Counter
from dataclasses import dataclass, field

from helpers.authoring.draws.drawing import SLOW, Draw
from helpers.authoring.draws.oracle import Truth, truths, verdicts
from helpers.authoring.draws.scene import LATE, Seen, run


@dataclass
class Report:
    """The comparison of one draw."""

    literal: str
    seed: str = ""
    tasks: int = 0
    undecided: list[str] = field(default_factory=list)  # why, one for each such task
    verdict_undecided: bool = False
    returns: int = 0  # stranded messages that were waited for
    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    logs: dict[str, str] = field(default_factory=dict)
    sentence: str = ""
    fates: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def __str__(self) -> str:
        lines = [f"seed {self.seed}", f"draw {self.literal}", f"said {self.sentence}"]
        lines += [f"  wrong: {one}" for one in self.wrong]
        lines += [f"  note: {one}" for one in self.notes]
        lines += [f"--- {name}\n{log}" for name, log in self.logs.items()]
        return "\n".join(lines)


def judge(draw: Draw, seed: str = "") -> Report:
    """Run a draw and compare. What raises is a disagreement too."""
    report = Report(draw.literal, seed, len(draw.tasks))
    try:
        # A lost child is noticed after 10 to 16 seconds.
        seen = run(draw, 18 if set(SLOW) & set(draw.faults) else 3)
    except Exception as error:
        report.wrong = ["it raised " + "".join(traceback.format_exception(error, limit=-6))]
        return report
    return compare(report, seen)


def compare(report: Report, seen: Seen) -> Report:
    """Fill in the report."""
    found = truths(seen.kinds, seen.before, seen.answers, seen.after, seen.there)
    report.sentence, report.notes, report.logs = seen.outcome.sentence, seen.notes, seen.logs
    report.undecided = [truth.why for truth in found.values() if truth.fate is None]
    report.fates = dict(Counter(truth.fate for truth in found.values() if truth.fate))
    report.wrong = _rows(seen, found) + _whole(seen, found) + _returns(seen)
    report.returns = len(seen.stayed)
    report.verdict_undecided = len(verdicts(found)) > 1
    return report


def _rows(seen: Seen, found: dict[str, Truth]) -> list[str]:
    table, wrong = seen.outcome.table, []
    if missing := set(found) - set(table.index):
        wrong.append(f"it has no row for {sorted(missing)}")
    for task_id, truth in found.items():
        if task_id in missing or truth.fate is None:
            continue
        row, lines, here = table.loc[task_id], seen.after.lines, len(wrong)
        told = f"{seen.kinds[task_id]} {task_id}"
        if row["fate"] != truth.fate:
            wrong.append(f"{told} is {row['fate']} ({row['where']}), and in truth {truth.fate}")
        for column, words in (("starts", ("start",)), ("finishes", ("end", "ignore"))):
            number = sum(line.id == task_id and line.what in words for line in lines)
            # Celery starts a task, stores STARTED, and only then the task can write its first line.
            begins = column == "starts" and truth.fate != "done"
            if row[column] - number not in (0, int(begins)):
                wrong.append(f"{told} has {row[column]} {column}, and in truth {number}")
        if truth.consumed is not None and bool(row["consumed"]) != truth.consumed:
            wrong.append(f"{told}: consumed is {row['consumed']}, and in truth {truth.consumed}")
        if not row["accepted"]:
            wrong.append(f"{told} is not accepted, and its publish returned")
        if wrong[here:]:
            holders = [name for name, ids in seen.answers.known.items() if task_id in ids]
            wrong.append(f"    seen: {seen.after.of(task_id)}, in the hands of {holders}")
    return wrong


def _returns(seen: Seen) -> list[str]:
    wrong = []
    for task_id, stayed in seen.stayed.items():
        if task_id not in seen.outcome.table.index:
            continue
        row = seen.outcome.table.loc[task_id]
        if row["message"] != "stranded":
            continue
        told = f"{task_id} returns in {row['earliest_return']:.1f} to {row['latest_return']:.1f} s"
        if stayed and row["latest_return"] + LATE <= seen.waited:
            wrong.append(f"{told}, and was still there after {seen.waited:.1f} s")
        if not stayed and row["latest_return"] == float("inf"):
            wrong.append(f"{told}, and came back within {seen.waited:.1f} s")
        if not stayed and row["earliest_return"] > seen.waited:
            wrong.append(f"{told}, and came back within {seen.waited:.1f} s")
    return wrong


def _whole(seen: Seen, found: dict[str, Truth]) -> list[str]:
    outcome, wrong = seen.outcome, []
    allowed = verdicts(found)
    if outcome.verdict not in allowed:
        wrong.append(
            f"the verdict is {outcome.verdict} ({outcome.reasons}), and in truth {allowed}"
        )
    if extra := set(outcome.table.index) - set(found):
        wrong.append(f"it has rows of nobody: {sorted(map(str, extra))}")
    if outcome.foreign != seen.after.foreign == seen.before.foreign:
        wrong.append(f"foreign messages: {outcome.foreign}, and in truth {seen.after.foreign}")
    gone = {name for name, alive in seen.alive.items() if not alive}
    if not seen.gone_before <= set(outcome.exits) <= gone:
        wrong.append(f"ended workers: {sorted(outcome.exits)}, and in truth {sorted(gone)}")
    return wrong
