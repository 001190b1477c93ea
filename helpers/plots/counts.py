"""A count against a volume: does it grow, or does it stay under its bound?"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy
import pandas
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from helpers.plots import theme
from helpers.plots.figure import show, wrapped

_MARKERS, _COLOURS = "oD^s", (theme.DEEP_VERMILION, theme.DEEP_PURPLE, theme.BLUE, theme.INK)
_NOTE = "tick: one run · mark: their mean, with its 95 % interval (Student's t)"
_WIDE = 5.85  # inches: the axes

Cells = dict[str, dict[float, pandas.Series]]  # series, x: the count of each run
Bounds = Mapping[str, float]  # series: the most that a run may count


def counts(
    runs: pandas.DataFrame,
    title: str,
    *,
    x: str,
    series: Sequence[str],
    bounds: Mapping[str, float],
    ylabel: str,
) -> None:
    """Show the count of each run (a tick), and their mean with a 95 % interval.

    One row a run. `x` is its column with the volume, a number; `series` are its columns with the
    counts, at most four; `bounds` gives the upper bound of each. The interval is Student's t, cut
    at zero; where all runs are equal there is none. Raises ValueError without a run or a series,
    with more series than there are markers, or when one has no bound.
    """
    if runs.empty or not 0 < len(series) <= len(_MARKERS):
        found = f"{len(series)} of {len(runs)} runs"
        raise ValueError(f"counts() draws 1 to {len(_MARKERS)} series, got {found}")
    if missing := [name for name in series if name not in bounds]:
        raise ValueError(f"bounds has none for {missing}")
    cells: Cells = {name: dict(list(runs.groupby(x)[name])) for name in series}
    with rc_context(theme.RC):
        figure = _draw(cells, bounds, title, x, ylabel)
    sentence = " · ".join(_range(name, cells[name], bounds[name]) for name in cells)
    alt = f"{title}. Vertical: {ylabel}. Horizontal: {x}. One tick a run. {sentence}."
    show(figure, alt, sentence, _table(cells, x))


def _interval(values: pandas.Series) -> tuple[float, float]:
    """The 95 % interval of the mean by Student's t, cut at zero; the mean where all are equal."""
    mean, free = values.mean(), len(values) - 1
    if values.nunique() == 1:
        return mean, mean
    # Between zero and the t that we need lies 0.475 of the density. This sum finds it to three
    # decimals, without SciPy.
    step = 0.0005
    t = numpy.arange(step / 2, 15, step)
    scale = math.exp(math.lgamma((free + 1) / 2) - math.lgamma(free / 2))
    density = scale / math.sqrt(free * math.pi) * (1 + t * t / free) ** (-(free + 1) / 2)
    quantile = t[numpy.searchsorted(density.cumsum() * step, 0.475)]
    half = quantile * values.std() / math.sqrt(len(values))
    return max(0.0, mean - half), mean + half


def _draw(cells: Cells, bounds: Bounds, title: str, xlabel: str, ylabel: str) -> Figure:
    title, above = wrapped(title)
    height = 3.88 + above
    figure = Figure(figsize=(theme.WIDTH, height))
    axes = figure.add_axes((0.08, 0.6 / height, _WIDE / theme.WIDTH, 2.6 / height))
    volumes = sorted({x for some in cells.values() for x in some})
    gap = min(numpy.diff(volumes), default=1)
    start, end = volumes[0] - 0.55 * gap, volumes[-1] + 0.55 * gap
    inch = (end - start) / _WIDE
    slot = min(0.9 * gap / len(cells), 1.25 * inch)  # the part of the x axis that one series has
    side = len(cells) / 2 * slot
    every = [values for some in cells.values() for values in some.values()]
    # Equal runs stand side by side, in each place with the same pitch: more runs, more ink.
    apart = min(0.06 * inch, 0.65 * slot / max(values.value_counts().max() for values in every))
    tick: dict[str, Any] = {"markersize": 9, "markeredgewidth": 45 * apart / inch, "clip_on": False}
    for x in volumes:
        axes.axvspan(x - side, x + side, color=theme.BAND, linewidth=0, zorder=0)
    for number, (name, marker, colour) in enumerate(zip(cells, _MARKERS, _COLOURS, strict=False)):
        look: dict[str, Any] = {"color": colour, "markeredgecolor": "white", "clip_on": False}
        axes.plot([], [], marker, markersize=9, label=name, **look)
        for x, values in cells[name].items():
            left = x - side + (number + 0.1) * slot
            for value, equal in values.value_counts().items():
                places = left + max(0.18 * slot, 0.1 * inch) + apart * numpy.arange(equal)
                axes.plot(places, [value] * equal, "|", color=colour, gid="run", **tick)
            axes.plot([left], [values.mean()], marker, markersize=8, gid="mean", **look)
            if values.nunique() > 1:
                ends = _interval(values)
                axes.plot([left] * 2, ends, "_-", color=colour, markersize=11, markeredgewidth=1.8)
    most = max(*bounds.values(), *(values.max() for values in every), 1)
    _lines(axes, bounds, apart=0.08 * most)
    axes.set(xlim=(start, end), ylim=(0, 1.1 * most), xlabel=xlabel, ylabel=ylabel)
    axes.set_xticks(volumes, [f"{x:,g}" for x in volumes])
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))

    equal = any(values.nunique() == 1 for values in every)
    note = _NOTE + (" · no bar: all runs equal" if equal else "")
    figure.text(0.02, 1 - 0.1 / height, title, **theme.TITLE)
    figure.text(0.08, 3.45 / height, note, va="top", size=8.5, color=theme.QUIET)
    look = {"frameon": False, "borderaxespad": 0, "borderpad": 0, "handletextpad": 0.3}
    figure.legend(loc="lower left", bbox_to_anchor=(0.08, 3.5 / height), ncols=len(cells), **look)
    return figure


def _lines(axes: Axes, bounds: Bounds, apart: float) -> None:
    """A dashed line for each bound, labelled on its right; labels stand `apart` at least."""
    colours = dict(zip(bounds, _COLOURS, strict=False))
    look: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center", "size": 9}
    place = -apart
    for name, bound in sorted(bounds.items(), key=lambda item: item[1]):
        place = max(bound, place + apart)
        axes.axhline(bound, color=colours[name], linestyle="--", linewidth=1.2, zorder=1)
        label = textwrap.fill(f"at most {bound:g} {name}", 20)
        axes.text(1.01, place, label, color=colours[name], **look)


def _range(name: str, some: dict[float, pandas.Series], bound: float) -> str:
    """The fewest and the most of one series at each x, in words."""
    ends = {x: (values.min(), values.max()) for x, values in some.items()}
    parts = [f"{a} at {x:,g}" if a == b else f"{a} to {b} at {x:,g}" for x, (a, b) in ends.items()]
    above = sum((values > bound).sum() for values in some.values())
    n = sum(len(values) for values in some.values())
    said = f"{above} of {n} runs above the bound of {bound:g}" if above else f"bound {bound:g}"
    return f"{name}: {', '.join(parts)} ({said})"


def _table(cells: Cells, xlabel: str) -> pandas.DataFrame:
    """One row an x, one column a series: mean, interval and number of runs."""

    def text(values: pandas.Series) -> str:
        low, high = _interval(values)
        spread = "all equal" if low == high else f"{low:.1f}-{high:.1f}"
        return f"{values.mean():.1f} ({spread}), n {len(values)}"

    columns = {name: {x: text(v) for x, v in some.items()} for name, some in cells.items()}
    return pandas.DataFrame(columns).sort_index().fillna("").rename_axis(xlabel)
