"""How often a late-acked task runs, against what the visibility timeout allows."""

import math
from typing import Any

import numpy
import pandas
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from helpers.plots import theme
from helpers.plots.figure import show, wrapped

_WIDE, _DEEP, _DOT = 7.2, 3.1, 0.075  # inches: the axes, and a dot with its margin


def expected(duration: float, timeout: float, period: float) -> tuple[int, int]:
    """The fewest and the most executions of one late-acked task; all arguments in seconds.

    kombu puts a message back at the first sweep after it has been unacked for `timeout`; a sweep
    comes every `period`, which is `unacked_restore_interval` times `unacked_restore_throttle`
    (`QoS.restore_visible`). Each fetch starts the clock anew. The first copy to finish acknowledges
    for all: they share one delivery tag. So this holds while a worker fetches each copy at once,
    and not for a duration where the band has a step: there, milliseconds decide.
    Raises ValueError unless duration >= 0, timeout > 0 and period > 0.
    """
    if duration < 0 or timeout <= 0 or period <= 0:
        raise ValueError(f"no such task: {duration=}, {timeout=}, {period=}")
    # Rounded, or 0.6 / (0.2 + 0.1) is less than 2.
    slowest, fastest = round(duration / (timeout + period), 9), round(duration / timeout, 9)
    return 1 + math.floor(slowest), max(1, math.ceil(fastest))


def executions(
    runs: pandas.DataFrame,
    title: str,
    *,
    duration: str,
    executions: str,
    timeout: float,
    period: float,
) -> None:
    """Show how often each task ran (a dot) by its duration, over the band of `expected`.

    One row a task. `duration` (in seconds) and `executions` name its columns; `timeout` and
    `period` are those of `expected`. Raises ValueError without a task.
    """
    if runs.empty:
        raise ValueError("executions() got no task to draw")
    bounds = [expected(seconds, timeout, period) for seconds in runs[duration]]
    runs = pandas.DataFrame(
        {
            "times": runs[duration] / timeout,
            "executions": runs[executions],
            "low": [low for low, _ in bounds],
            "high": [high for _, high in bounds],
        }
    )
    runs["inside"] = runs["executions"].between(runs["low"], runs["high"])
    runs = runs.sort_values(["times", "executions"])
    with rc_context(theme.RC):
        figure = _draw(runs, title, timeout, period)
    sentence = _sentence(runs)
    alt = f"{title}. Executions by duration of the task, a dot a task: {sentence}."
    show(figure, alt, sentence, _table(runs))


def _draw(runs: pandas.DataFrame, title: str, timeout: float, period: float) -> Figure:
    title, above = wrapped(title)
    height = _DEEP + 1.03 + above
    figure = Figure(figsize=(theme.WIDTH, height))
    axes = figure.add_axes((0.08, 0.6 / height, _WIDE / theme.WIDTH, _DEEP / height))
    figure.text(0.02, 1 - 0.1 / height, title, **theme.TITLE)
    end = max(1.08 * runs["times"].max(), 1.2)
    times = numpy.linspace(0, end, 3000)
    low, high = numpy.transpose([expected(t * timeout, timeout, period) for t in times])
    # A step stands for a whole number, so the band reaches a little beyond its two curves.
    low, high = low - 0.38, high + 0.38
    label = f"what the mechanism allows (a sweep every {period:g} s)"
    axes.fill_between(times, low, high, color="#D6E8F5", linewidth=0, label=label)
    for edge in (low, high):
        axes.plot(times, edge, color=theme.BLUE, linewidth=1)

    most = max(high.max(), runs["executions"].max()) + 0.3
    look: dict[str, Any] = {"markeredgecolor": "white", "markeredgewidth": 0.5}
    look |= {"clip_on": False, "zorder": 3}
    for inside, marker, size, colour, words in (
        (True, "o", 5.4, theme.INK, "one task"),
        (False, "X", 9, theme.DEEP_VERMILION, "one task, outside"),
    ):
        some = runs[runs["inside"] == inside]
        if not some.empty:
            spread = _spread(some, end / _WIDE, most / _DEEP)
            axes.plot(*spread, marker, color=colour, markersize=size, label=words, **look)
    axes.set(xlim=(0, end), ylim=(0, most))
    axes.set_xlabel(f"duration of the task / visibility timeout ({timeout:g} s)")
    axes.set_ylabel("executions of the task")
    axes.xaxis.set_major_locator(MaxNLocator(12, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(10, integer=True))
    look = {"frameon": False, "borderaxespad": 0.2, "handletextpad": 0.4}
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, **look)
    return figure


def _spread(some: pandas.DataFrame, across: float, up: float) -> tuple[list[float], list[float]]:
    """Where the dots go: those that would hide one another form a block around their place.

    `across` and `up` tell how much of either axis is one inch.
    """
    x, y = [], []
    for count, its in some.groupby("executions")["times"]:
        blocks: list[list[float]] = []
        for times in its:
            if not blocks or times > blocks[-1][0] + 3 * _DOT * across:
                blocks.append([])
            blocks[-1].append(times)
        for block in blocks:
            columns = math.ceil(len(block) / max(1, int(0.66 / up / _DOT)))
            rows = math.ceil(len(block) / columns)
            apart = min(_DOT, 0.4 / columns) * across
            for number, times in enumerate(block):
                column, row = divmod(number, rows)
                x.append(times + (column - (columns - 1) / 2) * apart)
                y.append(count + (row - (rows - 1) / 2) * _DOT * up)
    return x, y


def _sentence(runs: pandas.DataFrame) -> str:
    def at(row: pandas.Series) -> str:
        plural = "" if row["executions"] == 1 else "s"
        return f"{row['executions']:.0f} execution{plural} at {row['times']:.3g} timeouts"

    ends = f"from {at(runs.iloc[0])} to {at(runs.iloc[-1])}"
    return f"{runs['inside'].sum()} of {len(runs)} tasks within the band; {ends}"


def _table(runs: pandas.DataFrame) -> pandas.DataFrame:
    """One row a duration, in timeouts: the predicted range, and how many tasks ran how often."""
    rows = {}
    for times, some in runs.groupby(runs["times"].round(2)):
        low, high = some["low"].min(), some["high"].max()
        counts = some["executions"].value_counts().sort_index()
        measured = ", ".join(f"{n} ({tasks} of {len(some)})" for n, tasks in counts.items())
        rows[f"{times:g}"] = [f"{low}-{high}" if high > low else f"{low}", measured]
    columns = ["predicted executions", "measured executions"]
    table = pandas.DataFrame.from_dict(rows, orient="index", columns=columns)
    return table.rename_axis("duration / timeout")
