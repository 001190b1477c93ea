"""The survival grid: what becomes of one order when a process is killed at a named moment."""

import textwrap
from typing import Any

import pandas
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from helpers.plots import theme
from helpers.plots.figure import show, wrapped

MOST_COLUMNS = 8  # beyond that the words of a cell do not fit

# How often the customer was charged in the end, 0, 1 or more: words, tint, hatching and its colour.
# The hatching alone tells the three apart; the tint repeats it.
_CHARGED = (
    ("never charged", "#FBE3D3", "/////", theme.VERMILION),
    ("charged exactly once", "#E4F1FA", "", theme.BLUE),
    ("charged more than once", "#FFF0B8", "xxxxx", theme.BLACK),
)
_NOTE = "Symbol and word: right after the kill. Charged: at the very end. 20/20: 20 of 20 runs."
_TIMES, _NONE = "\N{MULTIPLICATION SIGN}", "\N{EN DASH}"

# All sizes are in inches: the axes use inches as their data units.
_LEFT, _LABELS, _GAP, _SPACE = 0.12, 0.84, 0.16, 0.04
_BLOCK, _LINE, _EDGE, _FOOT = 0.7, 0.17, 0.09, 0.62

# Setting, process, moment: one row for each distinct result, and `n` for its runs.
Results = dict[tuple[str, str, str], pandas.DataFrame]


def survival(runs: pandas.DataFrame, title: str, note: str = "") -> None:
    """Show, for each setting (row) and moment of the kill (column), what became of one order.

    One row a run: setting, process (a group of columns), moment, fate (right after the kill),
    charged (how often, in the end). Rows and columns come in the order of their first row; a moment
    that a process never has gets no column. A `note` stands below. Raises ValueError without a row,
    for an unknown fate, or for more than MOST_COLUMNS columns.
    """
    unknown = set(runs["fate"]) - set(theme.FATES)
    if unknown:
        raise ValueError(f"no symbol for {sorted(unknown)}: the fates are {', '.join(theme.FATES)}")
    keys = ["setting", "process", "moment", "fate", "charged"]
    cells = runs.groupby(keys, sort=False).size().reset_index(name="n")
    results: Results = {
        key: some.sort_values("n", ascending=False, kind="stable")
        for key, some in cells.groupby(["setting", "process", "moment"], sort=False)
    }
    columns = cells.groupby("process", sort=False)["moment"].unique().explode()
    if not 0 < len(columns) <= MOST_COLUMNS:
        raise ValueError(f"survival() draws 1 to {MOST_COLUMNS} columns, got {len(columns)}")
    table = _table(results, list(columns.items()))
    with rc_context(theme.RC):
        figure = _draw(results, table, title, note)
    sentence = _sentence(results)
    alt = f"{title}. Survival grid, {sentence}. The table has each cell." + f" {note}" * bool(note)
    show(figure, alt, sentence, table)


def _draw(results: Results, table: pandas.DataFrame, title: str, note: str) -> Figure:
    title, above = wrapped(title)
    processes = list(table.columns.unique(0))
    room = theme.WIDTH - 2 * _LEFT - _LABELS - _GAP * (len(processes) - 1)
    pitch = min(room / len(table.columns), 1.1)
    wide = pitch - _SPACE
    head = 0.24 + above
    most = [max(len(some) for key, some in results.items() if key[0] == s) for s in table.index]
    foot = head + 0.55 + sum(most) * _BLOCK + len(most) * _SPACE

    notes = [_NOTE, *textwrap.wrap(note, 100)]
    high = foot + _FOOT + (len(notes) - 1) * _LINE
    figure = Figure(figsize=(theme.WIDTH, high))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, theme.WIDTH), ylim=(high, 0))
    axes.axis("off")
    axes.text(_LEFT, 0.1, title, **theme.TITLE)
    middle: dict[str, Any] = {"ha": "center", "va": "center"}
    for number, (process, moment) in enumerate(table.columns):
        x = _LEFT + _LABELS + number * pitch + _GAP * processes.index(process)
        if moment == table[process].columns[0]:
            end = x + table[process].shape[1] * pitch - _SPACE
            axes.text((x + end) / 2, head + 0.1, process, weight="bold", **middle)
            axes.hlines(head + 0.24, x, end, color=theme.QUIET, linewidth=1)
        axes.text(x + wide / 2, head + 0.41, moment, size=8, **middle)
        top = head + 0.55
        for setting, blocks in zip(table.index, most, strict=True):
            deep = blocks * _BLOCK
            if number == 0:
                label = textwrap.fill(setting.replace("_", "_ "), 12).replace("_ ", "_")
                axes.text(_LEFT, top + deep / 2, label, va="center", size=8.5, linespacing=1.2)
            if (setting, process, moment) in results:
                _cell(axes, results[setting, process, moment], x, top, wide, deep)
            else:
                axes.text(x + wide / 2, top + deep / 2, _NONE, color=theme.QUIET, **middle)
            top += deep + _SPACE
    _legend(axes, foot + 0.2, holes=len(results) < table.size)
    for number, line in enumerate(notes):
        y = foot + 0.46 + number * _LINE
        axes.text(_LEFT, y, line, va="center", size=8.5, color=theme.QUIET)
    return figure


def _cell(
    axes: Axes, some: pandas.DataFrame, x: float, top: float, wide: float, deep: float
) -> None:
    """One block a result, the most frequent first; it takes the room that the others leave."""
    heights = [deep - (len(some) - 1) * _BLOCK] + [_BLOCK] * (len(some) - 1)
    for result, tall in zip(some.itertuples(), heights, strict=True):
        _ground(axes, result.charged, x, top, wide, tall)
        y, symbol = top + (tall - _EDGE) / 2, theme.FATES[result.fate]
        look = {"marker": symbol.shape, "color": symbol.colour, "gid": result.fate}
        axes.plot([x + 0.13], [y - _LINE], markersize=0.15 * 72, markeredgewidth=0, **look)
        share, charged = f"{result.n}/{some['n'].sum()}", f"charged {result.charged}{_TIMES}"
        for dx, dy, text in ((0.27, -_LINE, share), (0.05, 0, result.fate), (0.05, _LINE, charged)):
            axes.text(x + dx, y + dy, text, va="center_baseline", size=8)
        top += tall


def _ground(axes: Axes, charged: int, x: float, top: float, wide: float, tall: float) -> None:
    """The tint behind the words, and the hatched edge below them."""
    _, tint, hatch, colour = _CHARGED[min(charged, 2)]
    axes.add_patch(Rectangle((x, top), wide, tall, color=tint, linewidth=0))
    edge = Rectangle((x, top + tall - _EDGE), wide, _EDGE, linewidth=0, hatch=hatch)
    edge.set(edgecolor=colour, facecolor=tint if hatch else colour)
    axes.add_patch(edge)


def _legend(axes: Axes, y: float, holes: bool) -> None:
    x = _LEFT
    for charged in (1, 0, 2):
        words = _CHARGED[charged][0]
        _ground(axes, charged, x, y - 0.1, 0.3, 0.2)
        axes.text(x + 0.38, y + 0.01, words, va="center", size=9)
        x += 0.38 + 0.078 * len(words) + 0.2
    if holes:
        axes.text(x, y + 0.01, f"{_NONE}  cannot happen", va="center", size=9)


def _sentence(results: Results) -> str:
    ends = [{min(times, 2) for times in some["charged"]} for some in results.values()]
    parts = [f"{ends.count({times})} {_CHARGED[times][0]}" for times in (1, 0, 2)]
    if several := sum(len(end) > 1 for end in ends):
        parts.append(f"{several} charged differently from run to run")
    return f"{len(results)} cells: {', '.join(parts)}"


def _table(results: Results, columns: list[tuple[str, str]]) -> pandas.DataFrame:
    """Settings (rows) by process and moment (columns): fate, times charged, k/n."""
    table = pandas.DataFrame(
        _NONE,
        index=pandas.Index(dict.fromkeys(key[0] for key in results), name="setting"),
        columns=pandas.MultiIndex.from_tuples(columns, names=["process", "moment"]),
    )
    for (setting, *column), some in results.items():
        n = some["n"].sum()
        each = [f"{row.fate}, {row.charged}{_TIMES} ({row.n}/{n})" for row in some.itertuples()]
        table.loc[setting, tuple(column)] = "; ".join(each)
    return table
