"""Many draws, several at once, each in one of a few processes, and their summary."""

import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence

from helpers.authoring.draws.comparing import Report, judge
from helpers.authoring.draws.drawing import GREEN, SLOW, Draw, draw, green_pools

# An application that was loaded stays in its process: a fresh process now and then.
_DRAWS_A_PROCESS = 10
_DEADLINE = 120  # seconds without any draw that ends


def left_out(quick: bool = False) -> list[str]:
    """Pools that are not installed, which CI does not forgive, and what is too slow for a test."""
    absent = [pool for pool in GREEN if pool not in green_pools()]
    if absent and os.environ.get("CI"):
        raise RuntimeError(f"not installed: {', '.join(absent)} (requirements-dev.txt has them)")
    return absent + list(SLOW) * quick


def play(work: tuple[Draw, str]) -> Report:
    """One draw, timed."""
    began = time.monotonic()
    report = judge(*work)
    report.seconds = time.monotonic() - began
    return report


def reports(works: Sequence[tuple[Draw, str]], at_once: int) -> Iterator[Report]:
    """Judge draws in processes of their own, as they end."""
    # No ProcessPoolExecutor: with max_tasks_per_child that of Python 3.11 stops for ever.
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(at_once, maxtasksperchild=_DRAWS_A_PROCESS) as pool:
        coming = pool.imap_unordered(play, works)
        for _ in works:
            yield coming.next(_DEADLINE)


def drawn(seed: int, number: int, quick: bool = False) -> list[tuple[Draw, str]]:
    """The first draws of a seed, each with the seed of its own."""
    out = left_out(quick)
    return [(draw(f"{seed}/{one}", out), f"{seed}/{one}") for one in range(number)]


def summary(done: Sequence[Report]) -> str:
    """All draws in a few lines."""
    tasks, seconds = sum(one.tasks for one in done), sorted(one.seconds for one in done)
    undecided = Counter(why for one in done for why in one.undecided)
    fates: Counter[str] = Counter()
    for one in done:
        fates.update(one.fates)
    share = 100 * undecided.total() / max(tasks, 1)
    lines = [
        f"{len(done)} draws of {tasks} tasks, {sum(bool(one.wrong) for one in done)} disagreements",
        f"seconds a draw: median {seconds[len(seconds) // 2]:.1f}, most {seconds[-1]:.1f}",
        "in truth: " + ", ".join(f"{fate} {number}" for fate, number in fates.most_common()),
        f"moments of return tried: {sum(one.returns for one in done)}",
        f"undecided: {undecided.total()} tasks ({share:.1f} %), "
        f"the verdict of {sum(one.verdict_undecided for one in done)} draws",
    ]
    lines += [f"  {number} x {why}" for why, number in undecided.most_common()]
    missed = Counter(note.partition("(")[0] for one in done for note in one.notes)
    lines += [f"not done as drawn: {number} x {note}" for note, number in missed.most_common()]
    return "\n".join(lines)
