"""One arm of a check, in a process of its own: whatever an answer does, it does it here.

`python -m helpers.checks.arm <lab> <exercise> <report>` reads the answer as JSON from the file
`answer.json`, runs the experiment in the current directory, and writes the evidence to `report`.
"""

import faulthandler
import json
import os
import signal
import sys
import traceback
import warnings
from dataclasses import asdict
from pathlib import Path

from helpers.checks.exercise import Evidence, exercises
from helpers.errors import AnotherBroker, StackError
from helpers.settle import census
from helpers.stack import Stack


def run(lab: str, name: str, here: Path) -> Evidence:
    """Run one arm in `here`, and gather its evidence."""
    answer = json.loads((here / "answer.json").read_text())
    warnings.simplefilter("error", AnotherBroker)
    Stack.most_patience = 1  # the seconds of an experiment are a part of its question
    try:
        stack, facts = exercises(lab)[name].experiment(answer, here)
        with stack:
            return _evidence(stack, facts)
    except AnotherBroker as error:
        return Evidence(error=f"refused: {error}")
    except StackError as error:
        return Evidence(error=str(error))
    except BaseException as error:  # SystemExit too: an answer may say sys.exit
        return Evidence(error=_where(error, here))


def _evidence(stack: Stack, facts: dict[str, object]) -> Evidence:
    counted = census(stack)
    if counted is None:
        return Evidence(error="the broker does not answer, so nothing can be counted")
    history = stack.ledger.read()
    if history.torn or history.missing:
        return Evidence(error="the ledger is damaged, so nothing can be counted")
    found = {
        "wall": counted.wall,
        "queued": counted.queued,
        "unacked": [[entry.tag, entry.task_id, entry.since] for entry in counted.unacked],
        "live": sorted(counted.live),
    }
    errors = sum(len(worker.log.errors) for worker in stack.workers)
    return Evidence(list(history), found, facts, log_errors=errors)


def _where(error: BaseException, here: Path) -> str:
    """The error with the line of the learner's file that it came from."""
    said = traceback.format_exception_only(error)[-1].strip()
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename).parent == here:
        return f"{Path(error.filename).name}, line {error.lineno}: {said}"
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).parent == here
    ]
    if own:
        return f"{Path(own[-1].filename).name}, line {own[-1].lineno}: {said}"
    # Not the learner's line: the whole of it, for whoever has to mend this.
    return "".join(traceback.format_exception(error))


def main() -> None:
    """Run the arm that the command line names."""
    lab, name, report = sys.argv[1:]
    # A learner's loop without an end is shown by where it was: `run` sends the signal.
    faulthandler.register(signal.SIGUSR1, all_threads=False)
    evidence = run(lab, name, Path.cwd())
    beside = Path(f"{report}.new")
    beside.write_text(json.dumps(asdict(evidence)))
    os.replace(beside, report)
    # At once: threads and exit handlers of an answer have no say in it.
    os._exit(0)


if __name__ == "__main__":
    main()
