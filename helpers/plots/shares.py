"""What share of something is left after each of several ends: a panel an end, a row a setting."""

from typing import Any

import pandas
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.plots import theme
from helpers.plots.figure import show, wrapped

_LOOKS = (("o", theme.BLUE), ("D", theme.DEEP_VERMILION), ("^", theme.DEEP_GREEN))
_OFFSET, _PANELS, _RIGHT = 0.2, 4, 0.15  # inches between the groups of a row; most panels
_NOTE = "mark: the median of the runs, in per cent · line: from the lowest to the highest run"


def shares(runs: pandas.DataFrame, title: str) -> None:
    """Show the share (0 to 1) of each run by panel (side by side), label (row), group (marker).

    Columns: panel, label, group, share; one row a run and group. Raises ValueError without a run,
    or for more than four panels or three groups.
    """
    panels, labels, groups = (list(dict.fromkeys(runs[c])) for c in ("panel", "label", "group"))
    if not (0 < len(panels) <= _PANELS and len(groups) <= len(_LOOKS)):
        counted = f"{len(panels)} panels and {len(groups)} groups"
        raise ValueError(f"shares() draws 1 to {_PANELS} panels, {len(_LOOKS)} groups: {counted}")
    keys = ["panel", "label", "group"]
    cells = runs.groupby(keys, sort=False)["share"].agg(["min", "median", "max", "size"])
    with rc_context(theme.RC):
        figure = _draw(cells, panels, labels, groups, title)
    table = _table(cells, panels, labels, groups)
    whole = [f"after {panel}: {_whole(cells.loc[panel], labels)}" for panel in panels]
    sentence = f"all is left in every run {' · '.join(whole)}"
    show(figure, f"{title}. Shares by {', '.join(panels)}. {sentence}.", sentence, table)


def _whole(panel: pandas.DataFrame, labels: list[str]) -> str:
    """The rows of a panel of which nothing was missing in any run."""
    lowest = panel["min"].groupby("label").min()
    return ", ".join(label for label in labels if lowest[label] == 1) or "nowhere"


def _draw(
    cells: pandas.DataFrame, panels: list[str], labels: list[str], groups: list[str], title: str
) -> Figure:
    row = _OFFSET * len(groups) + 0.12  # inches
    title, above = wrapped(title)
    head, foot = 0.2 + above + 0.75, 0.62
    inner = row * len(labels)
    height = head + inner + foot
    left = 0.3 + 0.085 * max(map(len, labels))
    width = (theme.WIDTH - left - _RIGHT) / len(panels)
    figure = Figure(figsize=(theme.WIDTH, height))
    for number, panel in enumerate(panels):
        place = (left + number * width) / theme.WIDTH, foot / height
        axes = figure.add_axes((*place, (width - 0.55) / theme.WIDTH, inner / height))
        _panel(axes, cells.loc[panel], labels, groups, row)
        axes.set_title(panel, pad=6)
        axes.set_yticks(range(len(labels)), labels if number == 0 else [""] * len(labels))
    figure.text(0.15 / theme.WIDTH, 1 - 0.1 / height, title, **theme.TITLE)
    look: dict[str, Any] = {"size": 8.5, "color": theme.QUIET, "va": "bottom"}
    figure.text(left / theme.WIDTH, 0.08 / height, _NOTE, **look)
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        handles,
        names,
        loc="upper left",
        bbox_to_anchor=(left / theme.WIDTH, 1 - (0.17 + above) / height),
        ncols=len(groups),
        frameon=False,
        borderaxespad=0,
        handletextpad=0.3,
    )
    return figure


def _panel(
    axes: Axes, cells: pandas.DataFrame, labels: list[str], groups: list[str], row: float
) -> None:
    for place in range(0, len(labels), 2):
        axes.axhspan(place - 0.5, place + 0.5, color=theme.BAND, linewidth=0, zorder=0)
    for number, (group, (marker, colour)) in enumerate(zip(groups, _LOOKS, strict=False)):
        axes.plot([], [], marker, color=colour, markersize=7, label=group)
        for place, label in enumerate(labels):
            if (label, group) not in cells.index:
                continue
            low, middle, high, _ = cells.loc[(label, group)]
            y = place + (number - (len(groups) - 1) / 2) * _OFFSET / row
            axes.hlines(y, 100 * low, 100 * high, color=colour, linewidth=1.6)
            look: dict[str, Any] = {
                "color": colour,
                "markersize": 6.5,
                "clip_on": False,
                "zorder": 3,
            }
            axes.plot([100 * middle], [y], marker, gid=group, **look)
            axes.annotate(
                _per_cent(middle),
                (100 * max(high, middle), y),
                xytext=(7, 0),
                textcoords="offset points",
                va="center_baseline",
                size=8.5,
                annotation_clip=False,
            )
    axes.set(xlim=(0, 100), ylim=(len(labels) - 0.5, -0.5))
    axes.tick_params(axis="y", length=0, pad=9)
    axes.set_xticks([0, 50, 100], ["0 %", "50 %", "100 %"])
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.8)
    axes.set_axisbelow(True)


def _per_cent(share: float) -> str:
    """Never rounded to nothing or to all."""
    if 0 < share < 0.01:
        return "<1"
    return f"{100 * share:.0f}" if share == 1 or share < 0.99 else ">99"


def _table(
    cells: pandas.DataFrame, panels: list[str], labels: list[str], groups: list[str]
) -> pandas.DataFrame:
    """One row a label and group, one column a panel: median, lowest and highest run."""

    def text(key: tuple[str, str, str]) -> str:
        if key not in cells.index:
            return ""
        low, middle, high, n = cells.loc[key]
        ends = "" if low == high else f" ({_per_cent(low)} to {_per_cent(high)})"
        return f"{_per_cent(middle)} %{ends}, n {n:.0f}"

    index = pandas.MultiIndex.from_product([labels, groups], names=["", ""])
    rows = [[text((panel, label, group)) for panel in panels] for label, group in index]
    return pandas.DataFrame(rows, index=index, columns=panels)
