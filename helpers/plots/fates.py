"""The fate chart: one square a task, so that a reader sees what became of each."""

import math
import textwrap
from typing import Protocol

import pandas
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.plots import theme
from helpers.plots.figure import show

MOST_SQUARES = 2000  # beyond that a square is too small to tell its symbol

# All sizes are in inches: a panel's axes use inches as their data units.
_MARGIN, _GAP = 0.15, 0.45
_LARGEST_CELL = 0.32
_LINE = 0.23
_LEGEND_COLUMN = 1.75


class Outcome(Protocol):
    """What the chart needs to know of one arm of an experiment."""

    @property
    def title(self) -> str:
        """Which arm it is."""

    @property
    def table(self) -> pandas.DataFrame:
        """One row a task; its column `fate`."""

    @property
    def counts(self) -> dict[str, int]:
        """Tasks of each fate that occurs."""

    @property
    def sentence(self) -> str:
        """What is printed under the chart."""

    @property
    def finding(self) -> str:
        """What stands above it."""


class Prediction(Protocol):
    """What the reader predicted, in words."""

    def text(self) -> str:
        """What was predicted, or that nobody did."""


def fates(*outcomes: Outcome, prediction: Prediction | None = None) -> None:
    """Show what became of each task, one panel an outcome: two side by side, more stacked.

    Prints the sentence of each outcome, and what the reader predicted.
    Raises ValueError without an outcome.
    """
    if not outcomes:
        raise ValueError("fates() needs at least one outcome to draw")
    each = max(math.ceil(len(outcome.table) / MOST_SQUARES) for outcome in outcomes) or 1
    with rc_context(theme.RC):
        figure = _draw(outcomes, each)
    several = len(outcomes) > 1
    sentences = [f"{o.title}: {o.sentence}" if several else o.sentence for o in outcomes]
    guess = f" · {prediction.text()}" if prediction else ""
    show(
        figure,
        alt=_alt(outcomes, each),
        sentence="\n".join(sentences) + guess,
        table=_table(outcomes),
    )


def _draw(outcomes: tuple[Outcome, ...], each: int) -> Figure:
    across = 2 if len(outcomes) == 2 else 1
    down = math.ceil(len(outcomes) / across)
    width = (theme.WIDTH - 2 * _MARGIN - (across - 1) * _GAP) / across

    shown = [_squares(outcome.table, each) for outcome in outcomes]
    most = max(len(squares) for squares in shown)
    columns, cell = _grid(most, width, tallest=2.5 if down == 1 else 1.5)
    titles = [_title(outcome, width, len(outcomes) > 1) for outcome in outcomes]

    # All panels are alike, so that the arms can be compared by eye.
    top = max(title.count("\n") + 1 for title in titles) * _LINE + 0.1
    legend = top + math.ceil(max(most, 1) / columns) * cell + 0.2
    per_line = int(width // _LEGEND_COLUMN)
    lines = max(math.ceil(len(outcome.counts) / per_line) for outcome in outcomes)
    height = legend + max(lines, 1) * _LINE - 0.1
    total = _MARGIN + down * (height + _MARGIN) + (_LINE if each > 1 else 0)

    figure = Figure(figsize=(theme.WIDTH, total))
    for place, (outcome, squares, title) in enumerate(zip(outcomes, shown, titles, strict=True)):
        row, column = divmod(place, across)
        left = _MARGIN + column * (width + _GAP)
        bottom = total - (row + 1) * (height + _MARGIN)
        axes = figure.add_axes(
            (left / theme.WIDTH, bottom / total, width / theme.WIDTH, height / total)
        )
        axes.set(xlim=(0, width), ylim=(height, 0))
        axes.axis("off")
        axes.text(0, 0, title, **theme.TITLE)
        _waffle(axes, squares, columns, cell, top)
        _legend(axes, outcome.counts, per_line, legend)
    if each > 1:
        note = f"One square stands for {each} tasks."
        x, y = _MARGIN / theme.WIDTH, 0.5 * _MARGIN / total
        figure.text(x, y, note, size=9, color=theme.QUIET)
    return figure


def _squares(table: pandas.DataFrame, each: int) -> list[str]:
    """The fates to draw, in the order of the table: one in `each` of every fate: none vanishes."""
    return table["fate"][table.groupby("fate").cumcount() % each == 0].tolist()


def _grid(count: int, width: float, tallest: float) -> tuple[int, float]:
    """How many squares go in a row, and the side of one: the largest that stays under `tallest`."""
    for columns in (10, 20, 25, 40, 50, 60, 80, 100):
        cell = min(_LARGEST_CELL, width / columns)
        if math.ceil(count / columns) * cell <= tallest:
            break
    return columns, cell


def _title(outcome: Outcome, width: float, several: bool) -> str:
    text = f"{outcome.title}: {outcome.finding}" if several else outcome.finding
    return textwrap.fill(text, int(width * 10.5))  # 10.5 bold characters of 11 points to the inch


def _waffle(axes: Axes, squares: list[str], columns: int, cell: float, top: float) -> None:
    for fate in dict.fromkeys(squares):
        places = [divmod(place, columns) for place, each in enumerate(squares) if each == fate]
        x = [(column + 0.5) * cell for _, column in places]
        y = [top + (row + 0.5) * cell for row, _ in places]
        _mark(axes, fate, x, y, side=0.8 * cell)
    if not squares:
        axes.text(0, top + cell / 2, "no task", va="center", color=theme.QUIET)


def _legend(axes: Axes, counts: dict[str, int], per_line: int, top: float) -> None:
    for place, (fate, count) in enumerate(counts.items()):
        row, column = divmod(place, per_line)
        x, y = column * _LEGEND_COLUMN, top + row * _LINE
        _mark(axes, fate, [x + 0.08], [y], side=0.15)
        axes.text(x + 0.24, y, f"{count:,} {fate}", va="center_baseline")


def _mark(axes: Axes, fate: str, x: list[float], y: list[float], side: float) -> None:
    """Draw one symbol at each place: one collection, whose id is the fate."""
    symbol = theme.FATES[fate]
    axes.scatter(
        x,
        y,
        s=(side * 72) ** 2,
        marker=symbol.shape,
        color=symbol.colour,
        linewidth=0,
        clip_on=False,
        gid=fate,
    )


def _alt(outcomes: tuple[Outcome, ...], each: int) -> str:
    parts = [f"Fate chart, one square for {f'{each} tasks' if each > 1 else 'each task'}."]
    for outcome in outcomes:
        counts = ", ".join(f"{count} {fate}" for fate, count in outcome.counts.items())
        parts.append(f"{outcome.title}: {outcome.finding}. {counts or 'no task'}.")
    return " ".join(parts)


def _table(outcomes: tuple[Outcome, ...]) -> pandas.DataFrame:
    """Tasks by fate (rows) and outcome (columns); only the fates that occur."""
    rows = [fate for fate in theme.FATES if any(fate in outcome.counts for outcome in outcomes)]
    return pandas.DataFrame(
        [[outcome.counts.get(fate, 0) for outcome in outcomes] for fate in rows],
        index=pandas.Index(rows, name="fate"),
        columns=[outcome.title for outcome in outcomes],
    )
