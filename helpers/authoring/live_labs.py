"""Every planted answer to every lab, live. Before a release: `make test-labs`.

`--record` keeps the evidence of one run of each, which `make test` judges without running it.
"""

import argparse
import gzip
import itertools
import json
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

from helpers.authoring import ROOT
from helpers.checks import run
from helpers.checks.exercise import Answer, Evidence, exercises
from helpers.checks.verdict import CORRECT, INCONCLUSIVE, Verdict, decide
from tests.exercises.answers import planted

HERE = ROOT / "tests" / "exercises"
LABS = sorted(path.stem for path in (HERE / "answers").glob("lab_*.py"))
RECORDED = HERE / "recorded"
Case = tuple[str, str, str, str]  # lab, exercise, right or wrong, name of the answer


def cases(labs: list[str] | None = None) -> Iterator[tuple[Case, Answer]]:
    """Every planted answer."""
    for lab in labs or LABS:
        for exercise, answers in planted(lab).items():
            for kind in ("right", "wrong"):
                for name, answer in getattr(answers, kind).items():
                    yield (lab, exercise, kind, name), answer


def check(case: Case, answer: Answer, deadline: float = 60) -> tuple[Verdict, dict[str, Evidence]]:
    """One live check, as a learner's. More patient in tests, which are not alone on a machine."""
    lab, name, _, _ = case
    exercise = exercises(lab)[name]
    answers = {"given": exercise.given, "yours": answer}
    arms = run.run(lab, name, answers, deadline)
    return decide(exercise, answer, arms["given"], arms["yours"]), arms


def right(case: Case, verdict: Verdict) -> bool:
    """Whether the check said what it has to say of this answer."""
    return verdict.status != INCONCLUSIVE and (verdict.status == CORRECT) == (case[2] == "right")


def record(labs: list[str]) -> None:
    """Run each answer once, and keep what both arms left behind."""
    RECORDED.mkdir(exist_ok=True)
    for lab in labs:
        kept: dict[str, dict[str, object]] = {}
        for case, answer in cases([lab]):
            verdict, arms = check(case, answer)
            assert right(case, verdict), (case, verdict.status, verdict.seen)
            kept["/".join(case[1:])] = {name: asdict(arm) for name, arm in arms.items()}
            print(*case, verdict.status, flush=True)
        text = json.dumps(kept).replace(sys.prefix, ".venv")  # tracebacks name files
        packed = gzip.compress(text.encode(), mtime=0)
        (RECORDED / f"{lab}.json.gz").write_bytes(packed)


def repeat(labs: list[str], times: int) -> int:
    """Run each answer `times` times, three at once, and print a table. 1 if any came out wrong."""
    runs = list(itertools.chain.from_iterable(itertools.repeat(list(cases(labs)), times)))
    said: dict[Case, Counter[str]] = {case: Counter() for case, _ in cases(labs)}
    with ThreadPoolExecutor(3) as pool:
        verdicts = pool.map(lambda it: check(it[0], it[1], run.DEADLINE)[0], runs)
        for number, ((case, _), verdict) in enumerate(zip(runs, verdicts, strict=True), 1):
            said[case][verdict.status] += 1
            if not right(case, verdict):
                print("WRONG", *case, verdict.status, verdict.seen, flush=True)
            if number % len(said) == 0:
                print(f"round {number // len(said)} of {times}: {len(said)} answers", flush=True)
    good = 0
    print("| lab | exercise | answer | | said |\n|---|---|---|---|---|")
    for case, counts in said.items():
        words = ", ".join(f"{word} {n}/{times}" for word, n in counts.items())
        print(f"| {case[0]} | {case[1]} | {case[3]} | {case[2]} | {words} |")
        good += counts[CORRECT] == (times if case[2] == "right" else 0) and not counts[INCONCLUSIVE]
    print(f"{good} of {len(said)} answers were judged right {times} times of {times}")
    return int(good < len(said))


def main() -> int:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("labs", nargs="*", default=LABS)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--record", action="store_true")
    arguments = parser.parse_args()
    if arguments.record:
        record(arguments.labs)
        return 0
    return repeat(arguments.labs, arguments.times)


if __name__ == "__main__":
    sys.exit(main())
