"""Who held and who ran which message when: one row a delivery, over one time axis."""

from collections.abc import Sequence
from itertools import combinations, count, pairwise
from typing import Any

import pandas
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.path import Path
from matplotlib.textpath import TextPath
from matplotlib.transforms import offset_copy

from helpers.plots import theme
from helpers.plots.figure import shorten, show, wrapped

MOST_ROWS = 24  # beyond that the figure is taller than a screen

Look = dict[str, Any]
_OPEN: Look = {"markersize": 9, "markerfacecolor": "none", "markeredgewidth": 1.6}
_CHECK = Path([(-1, 0), (-0.35, -0.7), (1, 0.8)])
_LOOP = Path.make_compound_path(Path.arc(60, 360), Path([(0.4, -0.3), (1, 0.3), (1.6, -0.3)]))
_ENDS: dict[str, Look] = {
    "finished": _OPEN | {"marker": _CHECK},
    "failed": {"marker": theme.FATES["failed"].shape, "markersize": 7},
    "retried": _OPEN | {"marker": _LOOP},
    "rejected": {"marker": theme.FATES["discarded"].shape, "markersize": 7},
    "killed": {"marker": "X", "markersize": 9, "markeredgecolor": "white"},
    "": {"marker": ">", "markersize": 6},
}
_PUBLISHED: Look = {"marker": "o", "markersize": 5.5, "markerfacecolor": "white"}
_DUE: Look = {"marker": "|", "markersize": 9, "markeredgewidth": 2}
_RESTORED: Look = {"marker": "D", "markersize": 7.5, "markeredgecolor": "white"}
_WAITS: Look = {"color": theme.QUIET, "linestyle": ":", "linewidth": 1.4}
_AWAY: Look = {"facecolor": "#E8E8E8", "edgecolor": theme.QUIET, "hatch": "....", "linewidth": 0}
_OVERLAP: Look = {"facecolor": "#FCE4D2", "edgecolor": "#E3A06E", "hatch": "////", "linewidth": 0}
_WORKERS = (theme.BLUE, theme.DEEP_VERMILION, theme.DEEP_GREEN, theme.DEEP_PURPLE)
_SUFFIXES = {1: "st", 2: "nd", 3: "rd"}
_ROW, _LINE, _EDGE, _RIGHT = 0.34, 0.19, 0.15, 0.4  # inches

Overlap = tuple[int, int, float, float]  # two rows that ran at once, from when, until when
Outage = tuple[str, float, float]  # its label, from when, until when


def timeline(deliveries: pandas.DataFrame, title: str) -> None:
    """Show who held and who ran which message when, one row a delivery.

    Columns: task (a label), worker, delivery (1, 2, ...); published, received, started, ended and
    restored (put back by a worker's sweep), in seconds since the start, NaN where it did not
    happen; end (finished, failed, retried, rejected, killed; empty: never started, or still runs).
    `deliveries.attrs`: end (the last second of the record), visibility_timeout (seconds or None),
    marks (moments with a name: label, seconds) and, if there were any, outages (label, start and
    end in seconds), which are bands through all rows. Raises ValueError without a delivery, with
    more than 24, and for an end that is none of these or has no moment.
    """
    if not 0 < len(deliveries) <= MOST_ROWS:
        raise ValueError(f"timeline() draws 1 to {MOST_ROWS} deliveries, got {len(deliveries)}")
    wrong = ~deliveries["end"].isin(_ENDS) | (deliveries["end"].ne("") & deliveries["ended"].isna())
    if wrong.any():
        ends = deliveries.loc[wrong, ["end", "ended"]].to_dict("records")
        raise ValueError(f"timeline() cannot draw these ends: {ends}")
    marks, outages = deliveries.attrs["marks"], deliveries.attrs.get("outages", [])
    rows = _rows(deliveries, deliveries.attrs["end"], deliveries.attrs["visibility_timeout"])
    overlaps = _overlaps(rows)
    with rc_context(theme.RC):
        figure = _draw(rows, overlaps, title, marks, outages, deliveries.attrs["end"])
    sentence = _sentence(rows, overlaps)
    alt = f"{title}. {_alt(rows, marks, outages)} {sentence}."
    show(figure, alt, sentence, _table(rows))


def _rows(deliveries: pandas.DataFrame, end: float, timeout: float | None) -> pandas.DataFrame:
    """The deliveries in the order of the rows, each task's together, with what they imply."""
    tasks = list(dict.fromkeys(deliveries["task"]))
    rows = deliveries.assign(group=deliveries["task"].map(tasks.index))
    rows = rows.sort_values(["group", "received"], kind="stable", ignore_index=True)
    rows["label"] = [
        f"{n}{_SUFFIXES.get(n if n < 20 else n % 10, 'th')} to {worker}"
        for n, worker in zip(rows["delivery"], rows["worker"], strict=True)
    ]
    rows["published"] = rows["published"].mask(rows.duplicated(["task", "published"]))
    runs_on = rows["started"].notna() & rows["ended"].isna()
    rows["stopped"] = rows["ended"].mask(runs_on, end)
    rows["held"] = rows["started"].fillna(rows["restored"]).fillna(rows["ended"]).fillna(end)
    due = rows["received"] + (timeout or float("nan"))
    rows["due"] = due.where(rows["restored"].notna() & (due <= end))
    return rows


def _overlaps(rows: pandas.DataFrame) -> list[Overlap]:
    """Each two executions of one task at the same time."""
    pairs = [
        (a.Index, b.Index, max(a.started, b.started), min(a.stopped, b.stopped))
        for a, b in combinations(rows[rows["started"].notna()].itertuples(), 2)
        if a.task == b.task
    ]
    return [pair for pair in pairs if pair[2] < pair[3]]


def _draw(
    rows: pandas.DataFrame,
    overlaps: list[Overlap],
    title: str,
    marks: Sequence[tuple[str, float]],
    outages: Sequence[Outage],
    end: float,
) -> Figure:
    tasks = [shorten(task, 26) for task in rows["task"]]
    middle = _EDGE + max(_width(task, "bold") for task in tasks) + 0.12
    left = middle + max(map(_width, rows["label"])) + 0.15
    width = theme.WIDTH - left - _RIGHT
    low = -0.025 * end  # room for what happens at 0

    figure = Figure(figsize=(theme.WIDTH, 1))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(low, end), ylim=(len(rows) - 0.5, -0.5), xlabel="seconds since the start")
    axes.set_yticks([])
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.8)
    axes.set_axisbelow(True)
    legend = _bars(axes, rows, overlaps) | _symbols(figure, axes, rows)
    for label, start, back in outages:
        legend[label] = axes.axvspan(start, back, gid=label, zorder=0.5, **_AWAY)

    def name(inches: float, row: float, text: str, **look: Any) -> None:
        look |= {"transform": axes.get_yaxis_transform(), "va": "center_baseline", "size": 9}
        axes.text((inches - left) / width, row, text, **look)

    name(_EDGE, -0.8, "task", color=theme.QUIET)
    name(middle, -0.8, "delivery", color=theme.QUIET)
    for row, first in zip(rows.itertuples(), ~rows["task"].duplicated(), strict=True):
        name(_EDGE, row.Index, tasks[row.Index] if first else "", weight="bold")
        name(middle, row.Index, row.label)
        if row.group % 2 == 0:
            axes.axhspan(row.Index - 0.5, row.Index + 0.5, color=theme.BAND, linewidth=0, zorder=0)
    highest = 1
    for label, at, start, line in _places(marks, low, end, (end - low) / width):
        top = -0.5 - _LINE * line / _ROW
        ends = (len(rows) - 0.5, top)
        axes.plot([at, at], ends, "--", color=theme.INK, linewidth=1, clip_on=False, zorder=2)
        ground = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
        axes.text(start, top, label, va="top", size=9, zorder=6, bbox=ground)
        highest = max(highest, line)

    title, above = wrapped(title)
    lines = -(-len(legend) // 4)
    head, foot = 0.2 + above + _LINE * highest, 0.6 + 0.2 * lines
    inner = _ROW * len(rows)
    height = head + inner + foot
    figure.set_figheight(height)
    axes.set_position((left / theme.WIDTH, foot / height, width / theme.WIDTH, inner / height))
    x, y = _EDGE / theme.WIDTH, 1 - 0.1 / height
    figure.text(x, y, title, **theme.TITLE)
    look: Look = {"frameon": False, "borderpad": 0, "borderaxespad": 0, "fontsize": 9}
    look |= {"bbox_to_anchor": (x, 0.08 / height), "ncols": -(-len(legend) // lines)}
    figure.legend(legend.values(), legend.keys(), loc="lower left", **look)
    return figure


def _width(text: str, weight: str = "normal") -> float:
    """Of a text of 9 points, in inches."""
    return TextPath((0, 0), text, 9, FontProperties(weight=weight)).get_extents().width / 72


def _places(
    marks: Sequence[tuple[str, float]], low: float, high: float, inch: float
) -> list[tuple[str, float, float, int]]:
    """Each mark, where its label starts, and its line above the rows: no two labels meet.

    From right to left: the stroke of a mark rises on the left of the labels that are there.
    """
    places: list[tuple[str, float, float, int]] = []
    taken: list[tuple[int, float, float]] = []
    for label, at in sorted(marks, key=lambda mark: -mark[1]):
        length = (_width(label) + 0.1) * inch
        start = at + 0.05 * inch
        if start + length > high + _RIGHT * inch:  # no room on the right of the stroke
            start = max(low, at - length + 0.05 * inch)
        end = start + length
        line = next(
            n for n in count(1) if all(n != m or end <= a or b <= start for m, a, b in taken)
        )
        taken.append((line, start, end))
        places.append((label, at, start, line))
    return places


def _bars(axes: Axes, rows: pandas.DataFrame, overlaps: list[Overlap]) -> dict[str, Artist]:
    """Draw what lasts. Returns its legend."""
    low, high = axes.get_xlim()
    held, runs = rows["held"] - rows["received"], rows["stopped"] - rows["started"]
    queued, left = rows["received"] - rows["published"], rows["restored"] - rows["ended"]
    axes.hlines(rows.index, rows["published"], rows["received"], **_WAITS)
    axes.hlines(rows.index, rows["ended"], rows["restored"].where(left > 0), **_WAITS)
    workers = list(dict.fromkeys(rows["worker"]))
    colours = [_WORKERS[workers.index(worker) % len(_WORKERS)] for worker in rows["worker"]]
    look: Look = {"edgecolor": colours, "linewidth": 1.2, "zorder": 3}
    axes.barh(rows.index, held, 0.24, rows["received"], color="white", **look)
    axes.barh(rows.index, runs, 0.5, rows["started"], color=colours, **look)
    for above, below, start, end in overlaps:
        axes.fill_between([start, end], above - 0.5, below + 0.5, zorder=1, **_OVERLAP)
    arrow = {"arrowstyle": "-|>", "color": theme.INK, "shrinkA": 4, "shrinkB": 5, "linewidth": 1}
    again = [
        axes.annotate("", (b.received, b.Index), (a.restored, a.Index), arrowprops=arrow)
        for a, b in pairwise(rows.itertuples())
        if a.task == b.task and a.restored <= b.received
    ]
    seen = 0.01 * (high - low)  # what is shorter needs no legend
    legend = {
        "waits in Redis": (Line2D([], [], **_WAITS), max(queued.max(), left.max()) > seen),
        "held, not started": (Patch(facecolor="white", edgecolor=theme.INK), held.max() > seen),
        "runs": (Patch(color=theme.INK), runs.any()),
        "executions overlap": (Patch(**_OVERLAP), overlaps),
        "delivered again": (Line2D([], [], marker=">", color=theme.INK, linewidth=1), again),
    }
    return {name: artist for name, (artist, shown) in legend.items() if shown}


def _symbols(figure: Figure, axes: Axes, rows: pandas.DataFrame) -> dict[str, Artist]:
    """Draw what happens at a moment. Returns its legend."""
    ends = {end: rows["stopped"].where(rows["end"] == end) for end in _ENDS}
    # Beside their moment stand the publish and the end: the shortest bar stays visible between.
    symbols = [
        ("published", rows["published"], _PUBLISHED, (-4, 0)),
        *(
            (end or "still runs", at, _ENDS[end], (3 if end == "killed" else 7, 0))
            for end, at in ends.items()
        ),
        ("visibility timeout passed", rows["due"], _DUE, (0, 7.5)),
        ("put back by a sweep", rows["restored"], _RESTORED, (0, 0)),
    ]
    legend: dict[str, Artist] = {}
    for name, at, look, points in symbols:
        if at.notna().any():
            look = {"color": theme.INK, "linestyle": "none", "gid": name} | look
            place = offset_copy(axes.transData, figure, *points, units="points")
            axes.plot(at, rows.index, transform=place, clip_on=False, zorder=5, **look)
            legend[name] = Line2D([], [], **look)
    return legend


def _sentence(rows: pandas.DataFrame, overlaps: list[Overlap]) -> str:
    def number(count: int, noun: str) -> str:
        return f"{count} {noun}" if count == 1 else f"{count} {noun}s"

    overlapping = len({row for pair in overlaps for row in pair[:2]}) or "none"
    return (
        f"{number(rows['started'].count(), 'execution')} of "
        f"{number(rows['task'].nunique(), 'task')} · "
        f"{overlapping} overlapped another of the same task · "
        f"{number(rows['restored'].count(), 'return')} by a sweep"
    )


def _alt(
    rows: pandas.DataFrame, marks: Sequence[tuple[str, float]], outages: Sequence[Outage]
) -> str:
    parts = ["Timeline, one row a delivery."]
    for row in rows.itertuples():
        moments = [("received", row.received), ("started", row.started), (row.end, row.ended)]
        moments.append(("put back by a sweep", row.restored))
        told = sorted((at, name) for name, at in moments if pandas.notna(at))
        said = [f"{name} at {at:.1f} s" for at, name in told]
        parts.append(f"{row.task} {row.label}: {', '.join(said)}.")
    parts += [f"{label}: {at:.1f} s." for label, at in marks]
    parts += [f"{label} from {start:.1f} to {back:.1f} s." for label, start, back in outages]
    return " ".join(parts)


def _table(rows: pandas.DataFrame) -> pandas.DataFrame:
    """One row a delivery, moments in seconds."""
    columns = ["delivery", "worker", "received", "started", "ended", "end", "restored"]
    table = rows.set_index("task")[columns]
    for name in ("received", "started", "ended", "restored"):
        table[name] = ["" if pandas.isna(at) else f"{at:.1f}" for at in table[name]]
    return table
