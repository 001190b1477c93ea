"""Write notebooks/settings.md: the settings that survived, with the counts of the stored runs.

`make settings`. No count, default, version or date on that page is typed.
"""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from helpers.authoring import ROOT

GRIDS = ROOT / "notebooks" / "grids"
PAGE = ROOT / "notebooks" / "settings.md"
TEXT = """# The settings that survived

What each setting prevents, what it costs, and where you can see both. *20/20 → 0/20* reads: in 20
of 20 runs without it, in none of 20 with it. {versions}; {dates}.

| setting | default | prevents | costs | seen in |
|---|---|---|---|---|
{rows}

No line makes a task run exactly once. What comes back may run twice: make its effect safe to repeat
([05](05_run_it_twice.ipynb)). `visibility_timeout` and `unacked_restore_…` belong in
`broker_transport_options`, the same for every worker. A managed Redis may start with other
defaults: ask it, with `CONFIG GET`.
"""


class Grids:
    """The stored runs, and what is counted in them."""

    def __init__(self, folder: Path) -> None:
        self.runs = {
            path.stem: pd.read_csv(path, keep_default_na=False) for path in folder.glob("*.csv")
        }

    def default(self, setting: str) -> str:
        rows = self.runs["defaults"].set_index("setting")["default"]
        return f"`{rows[setting]}`"

    def rate(self, grid: str, hit: str, **where: str) -> str:
        """In how many runs of a grid `hit` holds, as "19/20". Raises ValueError without a run."""
        some = self.runs[grid]
        for column, value in where.items():
            some = some[some[column] == value]
        if some.empty:
            raise ValueError(f"{grid}.csv has no runs with {where}")
        return f"{len(some.query(hit))}/{len(some)}"

    def worker(self, setting: str, moment: str, hit: str) -> str:
        return self.rate(
            "crash_worker", hit, setting=setting, process="whole worker killed", moment=moment
        )

    def child(self, setting: str, moment: str, hit: str) -> str:
        return self.rate(
            "crash_worker", hit, setting=setting, process="pool child killed", moment=moment
        )

    def chord(self, case: str, fix: str, outcome: str = "hung") -> str:
        """How often a chord ended so, without the fix and with it."""
        hit = f"outcome == '{outcome}'"
        ends = [
            self.rate("chord_cases", hit, backend="Redis", case=case, fix=one) for one in ("", fix)
        ]
        return " → ".join(ends)


def _seen(*names: str) -> str:
    """Links to notebooks (by their number) and to the runs of grids."""
    return ", ".join(
        f"[{name[:2]}]({name}.ipynb)" if name[0].isdigit() else f"[runs](grids/{name}.csv)"
        for name in names
    )


def _rows(grids: Grids) -> Iterator[tuple[str, str, str, str, str]]:
    """Setting, default, what it prevents, what it costs, where both are seen."""
    crash, twice, chord = "02_crash_a_worker", "05_run_it_twice", "06_hang_a_chord"
    early, late = "early ack (default)", "late ack"
    reject, retry = "late ack + reject on worker lost", "early ack + retry on worker lost"
    is_lost, has_failed, paid_twice = "fate == 'lost'", "fate == 'failed'", "charged == 2"
    yield (
        "`task_acks_late=True`",
        grids.default("task_acks_late"),
        f"a task is lost with its worker: {grids.worker(early, 'running', is_lost)} → "
        f"{grids.worker(late, 'running', is_lost)}",
        f"a kill after its effect repeats it: {grids.worker(late, 'effect done', paid_twice)}",
        _seen(crash, "crash_worker"),
    )
    yield (
        "`task_retry_on_worker_lost=True`, `max_retries`",
        grids.default("task_retry_on_worker_lost"),
        f"a task fails with its child: {grids.child(early, 'running', has_failed)} → "
        f"{grids.child(retry, 'running', has_failed)}",
        f"repeats it too, after a delay: {grids.child(retry, 'effect done', paid_twice)}",
        _seen(crash, "crash_worker"),
    )
    poison = "poison pill, task_reject_on_worker_lost"
    yield (
        "`task_reject_on_worker_lost=True` with late ack",
        grids.default("task_reject_on_worker_lost"),
        f"a task fails with its child: {grids.child(late, 'running', has_failed)} → "
        f"{grids.child(reject, 'running', has_failed)}",
        "a task that kills its child comes back for ever: "
        + grids.rate("chord_cases", "outcome == 'stuck'", case=poison, fix=""),
        _seen(crash, "crash_worker", "chord_cases"),
    )
    policies = grids.runs["evict_policies"]
    refused = policies[policies["policy"] == "noeviction"]["cache_writes_refused"].median()
    evicted = [
        grids.rate("evict_policies", "lost > 0", policy=policy)
        for policy in ("allkeys-lru", "noeviction")
    ]
    yield (
        "`maxmemory-policy noeviction`, and no cache on this server",
        grids.default("maxmemory-policy"),
        f"a cache evicts the queue (`allkeys-lru`): {' → '.join(evicted)}",
        f"a full server refuses writes: of a cache that shared it, {refused:,.0f} a run",
        _seen("03_evict_the_queue", "evict_policies"),
    )
    yield (
        "`result_backend` on a server without a cache",
        grids.default("result_backend"),
        "a cache evicts the counter of a chord, which hangs: "
        + grids.chord("keys evicted, volatile-lru", "results on a server of their own"),
        "one more server",
        _seen(chord, "chord_cases"),
    )
    yield (
        "`appendonly yes` on that server",
        grids.default("appendonly"),
        "a chord hangs when its results restart empty: "
        + grids.chord("result server restarts empty", "appendonly yes"),
        "disk writes",
        _seen(chord, "chord_cases"),
    )
    forgotten = "worker killed, late ack, default visibility timeout"
    yield (
        "`visibility_timeout` a little above the longest task plus its longest wait",
        f"{grids.default('visibility_timeout')} s",
        "what a dead worker held comes back late: "
        + grids.chord(forgotten, "visibility timeout of 3 s", "late"),
        "a message that is held longer runs again, beside itself",
        _seen(twice, chord, "chord_cases"),
    )
    delays = grids.runs["redelivery_delay"]
    longest = delays.groupby("cadence")["seconds"].max()
    yield (
        "`unacked_restore_interval=1`, `unacked_restore_throttle=1`",
        f"{grids.default('unacked_restore_interval')} s, "
        + grids.default("unacked_restore_throttle"),
        f"a slow return after a crash, with a timeout of {delays['visibility_timeout'].max()} s: "
        f"up to {longest['default']:.0f} s → {longest['one second']:.0f} s",
        "each worker looks once a second",
        _seen(twice, "redelivery_delay"),
    )
    yield (
        "`worker_soft_shutdown_timeout`",
        f"{grids.default('worker_soft_shutdown_timeout')} s",
        "a cold shutdown takes a part of a chord along, which hangs: "
        + grids.chord("cold shutdown, early ack", "worker_soft_shutdown_timeout"),
        "the worker stops up to that much later",
        _seen(crash, chord, "chord_cases"),
    )
    yield (
        "`result_backend_always_retry=True`",
        grids.default("result_backend_always_retry"),
        "a chord hangs when the results are away for a moment: "
        + grids.chord("result server away while a part ends", "result_backend_always_retry"),
        "the worker waits for them",
        _seen(chord, "chord_cases"),
    )
    yield (
        "`result_chord_expires` above the longest header",
        grids.default("result_chord_expires"),
        "a chord hangs when `result_expires` is short: "
        + grids.chord("result_expires shorter than a part", "result_chord_expires"),
        "its keys stay longer",
        _seen(chord, "chord_cases"),
    )


def page(folder: Path = GRIDS) -> str:
    """The page, from the CSV files in `folder`. Raises ValueError when a run it needs is gone."""
    grids = Grids(folder)
    rows = [f"| {' | '.join(row)} |" for row in _rows(grids)]
    every = pd.concat(grids.runs.values())
    versions = [
        ", ".join(sorted(name + every[column].unique()))
        for name, column in (("Celery ", "celery"), ("kombu ", "kombu"), ("", "server"))
    ]
    dates = " to ".join(sorted({every["date"].min(), every["date"].max()}))
    return TEXT.format(rows="\n".join(rows), versions=", ".join(versions), dates=dates)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE.relative_to(ROOT))
