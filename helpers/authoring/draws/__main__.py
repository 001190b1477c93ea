"""`python -m helpers.authoring.draws --seed N --n 200 --at-once 2`, and `--replay LITERAL`."""

import argparse
import secrets
import sys

from helpers.authoring.draws.drawing import Draw
from helpers.authoring.draws.lane import drawn, left_out, reports, summary


def main() -> int:
    """Draw, judge, tell."""
    parser = argparse.ArgumentParser(description="Draws applications and judges the instrument.")
    parser.add_argument("--seed", type=int, help="a fresh one by default")
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="without what takes over ten seconds")
    parser.add_argument("--replay", metavar="LITERAL", help="run this draw, n times")
    asked = parser.parse_args()
    seed = secrets.randbelow(10**6) if asked.seed is None else asked.seed
    if asked.replay:
        works = [(Draw.of(asked.replay), "replay")] * asked.n
    else:
        print(f"seed {seed}", flush=True)
        works = drawn(seed, asked.n, asked.quick)
        if out := left_out(asked.quick):
            print(f"left out: {', '.join(out)}", flush=True)
    done = []
    for report in reports(works, asked.at_once):
        done.append(report)
        if report.wrong:
            print(f"\n=== disagreement ===\n{report}\n", flush=True)
        elif len(done) % 10 == 0:
            print(f"{len(done)} of {len(works)}", flush=True)
    print(summary(done))
    return int(any(report.wrong for report in done))


if __name__ == "__main__":
    sys.exit(main())
