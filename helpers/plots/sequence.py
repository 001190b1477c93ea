"""Who said what to whom: a sequence diagram of the commands that went over the wire."""

import textwrap

import pandas
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.plots import theme
from helpers.plots.figure import shorten, show, wrapped

# A silence of at least this share of the whole time gets a row of its own.
_LONG = 0.3

# The databases stand between those who talk to them, so that most arrows are short.
_LANES = ("producer", "broker", "worker", "result backend", "result reader")
_SOURCES: dict[str, tuple[str, str]] = {
    "producer": (theme.BLUE, "-"),
    "worker": (theme.DEEP_VERMILION, "--"),
    "result reader": (theme.DEEP_GREEN, ":"),
}

# All sizes are in inches: the axes use inches as their data units.
_ROW = 0.36
_HEAD = 0.45
_TIME = 0.68
_STEP = 1.95


def sequence(commands: pandas.DataFrame, title: str) -> None:
    """Show recorded commands as arrows from who sent them to the database that got them.

    Columns: seconds, source (producer, worker, result reader), database (broker, result backend),
    command, key and step (both may be empty). Times are drawn in ms since the first command.
    Raises ValueError without a command, or when a source or a database is not one of these.
    """
    if commands.empty:
        raise ValueError("sequence() got no command to draw")
    unknown = {*commands["source"], *commands["database"]} - set(_LANES)
    if unknown:
        raise ValueError(f"no lane for {sorted(unknown)}: the lanes are {', '.join(_LANES)}")
    commands = commands.sort_values("seconds", kind="stable")
    commands = commands.assign(ms=(commands["seconds"] - commands["seconds"].iloc[0]) * 1000)
    with rc_context(theme.RC):
        figure = _draw(commands, title)
    sentence = _sentence(commands)
    show(
        figure,
        f"{title}. Sequence diagram, {sentence}. {_alt(commands)}",
        sentence,
        _table(commands),
    )


def _draw(commands: pandas.DataFrame, title: str) -> Figure:
    title, above = wrapped(title)
    top = 0.12 + above
    first = top + _HEAD + 0.05
    silences = commands["ms"].diff().fillna(0)
    silences = silences[silences > max(_LONG * commands["ms"].iloc[-1], 1)]
    height = first + (len(commands) + len(silences)) * _ROW + 0.12

    figure = Figure(figsize=(theme.WIDTH, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, theme.WIDTH), ylim=(height, 0))
    axes.axis("off")
    axes.text(0.12, 0.1, title, **theme.TITLE)

    steps = commands["step"].any()
    x = _lanes(commands, theme.WIDTH - (_STEP if steps else 0.1))
    axes.text(_TIME - 0.12, top + _HEAD / 2, "ms", ha="right", va="center", color=theme.QUIET)
    y = first - _ROW / 2
    for row, command in enumerate(commands.itertuples()):
        if command.Index in silences.index:
            y += _ROW
            said = f"{silences[command.Index]:,.0f} ms without a command"
            axes.text(sum(x.values()) / len(x), y, said, ha="center", va="center", style="italic")
        y += _ROW
        ground = "white" if row % 2 else theme.BAND
        axes.axhspan(y - _ROW / 2, y + _ROW / 2, color=ground, linewidth=0, zorder=0)
        axes.text(_TIME - 0.12, y, f"{command.ms:,.1f}", ha="right", va="center", size=9)
        label = f"{command.command} {command.key}".strip()
        _arrow(axes, x[command.source], x[command.database], y, command.source, label, ground)
        step = textwrap.fill(command.step, 31, max_lines=2, placeholder=" …")
        axes.text(theme.WIDTH - _STEP + 0.06, y, step, va="center", size=8, linespacing=1.1)
    for lane, place in x.items():
        colour, _ = _SOURCES.get(lane, (theme.QUIET, "-"))
        axes.vlines(place, top + _HEAD / 2, height - 0.06, color=colour, linewidth=0.8, zorder=1)
        axes.text(
            place,
            top + _HEAD / 2,
            lane.replace(" ", "\n"),
            ha="center",
            va="center",
            size=9.5,
            linespacing=1.05,
            color="white" if lane in _SOURCES else theme.INK,
            bbox={
                "boxstyle": "round,pad=0.3" if lane in _SOURCES else "square,pad=0.3",
                "facecolor": colour if lane in _SOURCES else "white",
                "edgecolor": colour,
            },
        )
    return figure


def _lanes(commands: pandas.DataFrame, right: float) -> dict[str, float]:
    """Where each lifeline stands, in inches, left to right; only those that are used."""
    present = [lane for lane in _LANES if lane in {*commands["source"], *commands["database"]}]
    left = _TIME + 0.34
    apart = (right - 0.36 - left) / max(len(present) - 1, 1)
    return {lane: left + place * apart for place, lane in enumerate(present)}


def _arrow(
    axes: Axes, start: float, end: float, y: float, source: str, label: str, ground: str
) -> None:
    colour, style = _SOURCES[source]
    forward = end > start
    y += 0.09  # the label stands above its arrow
    tip = end - 0.05 if forward else end + 0.05
    axes.hlines(y, start, tip, color=colour, linestyle=style, linewidth=1.5, zorder=2)
    axes.plot([tip], [y], ">" if forward else "<", color=colour, markersize=6.5, zorder=4)
    axes.text(
        (start + end) / 2,
        y - 0.04,
        shorten(label, int(abs(end - start) * 15.5)),
        ha="center",
        va="bottom",
        size=8,
        zorder=3,
        bbox={"facecolor": ground, "edgecolor": "none", "pad": 0.3},  # hides the lifelines behind
    )


def _sentence(commands: pandas.DataFrame) -> str:
    counts = commands["source"].value_counts(sort=False)
    each = ", ".join(f"{lane} {counts[lane]}" for lane in _LANES if lane in counts)
    return f"{len(commands)} commands in {commands['ms'].iloc[-1]:,.0f} ms: {each}"


def _alt(commands: pandas.DataFrame) -> str:
    return "; ".join(
        f"{c.source} to {c.database}: {shorten(f'{c.command} {c.key}'.strip(), 32)}"
        for c in commands.itertuples()
    )


def _table(commands: pandas.DataFrame) -> pandas.DataFrame:
    """How many commands each source (rows) sent to each database (columns)."""
    table = pandas.crosstab(commands["source"], commands["database"])
    table = table.reindex([lane for lane in _LANES if lane in table.index])
    return table.rename_axis(index="commands from", columns="to")
