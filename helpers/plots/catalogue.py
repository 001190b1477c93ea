"""The catalogue: every known cause of a failure, how it ends, and what a fix makes of it."""

import textwrap
from typing import Any, NamedTuple

import pandas
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from helpers.plots import theme
from helpers.plots.figure import show, wrapped

_MEANING = {
    "hung": "nothing is left that could complete it",
    "stuck": "something is left, but no bounded event completes it",
    "late": "a bounded event will complete it",
    "told": "hung, but its errback has run",
    "error": "it failed, and the caller is told",
    "fired": "the last task has run",
}
_ENDS = {"fired", "error"}
_NOTE = "5/5: 5 of 5 runs. Seconds: the median, from the publish to the end."
_NO_FIX = "no fix measured"
_BAND = "#E3E7EB"  # under a mechanism, and the line between two rows

# All sizes are in inches: the axes use inches as their data units.
_LEFT, _LINE, _PAD, _SYMBOL = 0.12, 0.145, 0.075, 0.19
_CHARACTERS = 17.5  # of 8 points to the inch
_WITH_FIXES = (_LEFT, 2.78, 4.28, 6.38)  # where cause, outcome, fix and its outcome start
_WITHOUT = (_LEFT, 4.28)

Ends = dict[str, str]  # for each outcome, what is written beside its symbol


class _Row(NamedTuple):
    mechanism: str
    case: str
    arm: str
    ends: Ends
    fixes: dict[str, Ends]


def catalogue(runs: pandas.DataFrame, title: str) -> None:
    """Show for each cause, under its mechanism, the outcome of its runs and of those with a fix.

    One row a run: mechanism, case, arm (broken, control or fix), fix (in words, for that arm),
    outcome (one of theme.OUTCOMES), seconds (to the end). Rows come in the order of their first
    run. Raises ValueError without a run, for an unknown outcome, or for a fix of nothing.
    """
    if runs.empty:
        raise ValueError("catalogue() got no run")
    if unknown := set(runs["outcome"]) - set(theme.OUTCOMES):
        known = ", ".join(theme.OUTCOMES)
        raise ValueError(f"no symbol for {sorted(map(str, unknown))}: the outcomes are {known}")
    rows = [
        _row(mechanism, case, some)
        for mechanism, group in runs.groupby("mechanism", sort=False)
        for case, some in group.groupby("case", sort=False)
    ]
    with rc_context(theme.RC):
        figure = _draw(rows, title)
    sentence = _sentence(rows)
    alt = f"{title}. Catalogue, {sentence}. The table has each {_noun(rows)}."
    show(figure, alt, sentence, _table(rows))


def _row(mechanism: str, case: str, some: pandas.DataFrame) -> _Row:
    fixed = some["arm"] == "fix"
    if fixed.all():
        raise ValueError(f"{case!r} has runs with a fix, and none without")
    fixes = {fix: _ends(tried) for fix, tried in some[fixed].groupby("fix", sort=False)}
    return _Row(mechanism, case, some[~fixed]["arm"].iloc[0], _ends(some[~fixed]), fixes)


def _ends(some: pandas.DataFrame) -> Ends:
    """Each outcome with its count, the most frequent first."""
    ends = {}
    for outcome, n in some["outcome"].value_counts().items():
        words = f"{outcome} {n}/{len(some)}"
        if outcome in _ENDS:
            seconds = some.loc[some["outcome"] == outcome, "seconds"].median()
            words += " within 0.1 s" if seconds < 0.1 else f" after {seconds:.1f} s"
        ends[outcome] = words
    return ends


def _draw(rows: list[_Row], title: str) -> Figure:
    figure = Figure()
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    title, above = wrapped(title)
    axes.text(_LEFT, 0.1, title, **theme.TITLE)
    y = _legend(axes, 0.28 + above, rows)

    places = _WITH_FIXES if any(row.fixes for row in rows) else _WITHOUT
    for x, head in zip(places, (_noun(rows), "outcome", "fix", "with the fix"), strict=False):
        axes.text(x, y, head, va="center_baseline", size=9, weight="bold")
    y += 0.2
    for number, row in enumerate(rows):
        if number == 0 or rows[number - 1].mechanism != row.mechanism:
            axes.add_patch(Rectangle((0, y - 0.07), theme.WIDTH, 0.24, color=_BAND, linewidth=0))
            axes.text(_LEFT, y + 0.05, row.mechanism, va="center_baseline", size=9, weight="bold")
            y += 0.17 + (_LINE + _PAD) / 2
        else:
            line = y - (_LINE + _PAD) / 2
            axes.hlines(line, _LEFT, theme.WIDTH - _LEFT, color=_BAND, linewidth=0.9)
        y = _draw_row(axes, row, places, y)
    height = y + 0.02
    figure.set_size_inches(theme.WIDTH, height)
    axes.set(xlim=(0, theme.WIDTH), ylim=(height, 0))
    return figure


def _draw_row(axes: Axes, row: _Row, places: tuple[float, ...], y: float) -> float:
    """Draw one row, its first line in the middle at `y`. Returns where the next one starts."""
    low = _words(axes, places[0], y, row.case, places[1] - places[0])
    low = max(low, _outcomes(axes, places[1], y, row.ends))
    if len(places) > 2 and row.arm == "broken" and not row.fixes:
        _words(axes, places[2], y, _NO_FIX, places[3] - places[2], color=theme.QUIET)
    for fix, ends in row.fixes.items():
        below = _outcomes(axes, places[3], y, ends)
        y = max(below, _words(axes, places[2], y, fix, places[3] - places[2]))
    return max(low, y) + _PAD


def _words(axes: Axes, x: float, y: float, words: str, room: float, **look: Any) -> float:
    """Write, wrapped, the first line in the middle at `y`. Returns where the next one starts."""
    text = textwrap.fill(words, int(room * _CHARACTERS))
    axes.text(x, y - 0.06, text, va="top", size=8, linespacing=1.2, **look)
    return y + _LINE * (text.count("\n") + 1)


def _outcomes(axes: Axes, x: float, y: float, ends: Ends) -> float:
    for outcome, words in ends.items():
        symbol = theme.OUTCOMES[outcome]
        look: dict[str, Any] = {"marker": symbol.shape, "color": symbol.colour, "gid": outcome}
        axes.plot([x + 0.06], [y], markersize=0.12 * 72, markeredgewidth=0, **look)
        y = _words(axes, x + _SYMBOL, y, words, theme.WIDTH)
    return y


def _legend(axes: Axes, y: float, rows: list[_Row]) -> float:
    """Say what each outcome that occurs means. Returns where the next line starts."""
    seen = {o for row in rows for ends in (row.ends, *row.fixes.values()) for o in ends}
    words = [(o, f"{o}: {meaning}") for o, meaning in _MEANING.items() if o in seen]
    half = (len(words) + 1) // 2
    bottom = _outcomes(axes, _LEFT, y, dict(words[:half]))
    _outcomes(axes, _WITHOUT[1], y, dict(words[half:]))
    return _words(axes, _LEFT, bottom + 0.03, _NOTE, theme.WIDTH, color=theme.QUIET) + 0.1


def _noun(rows: list[_Row]) -> str:
    return "cause" if any(row.arm == "broken" for row in rows) else "control"


def _sentence(rows: list[_Row]) -> str:
    kinds = [list(row.ends) for row in rows]
    parts = [f"{n} {outcome}" for outcome in _MEANING if (n := kinds.count([outcome]))]
    if several := sum(len(kind) > 1 for kind in kinds):
        parts.append(f"{several} ended differently from run to run")
    sentence = f"{len(rows)} {_noun(rows)}s: {', '.join(parts)}"
    broken = [row for row in rows if row.ends.keys() - _ENDS]
    mended = sum(any(ends.keys() <= _ENDS for ends in row.fixes.values()) for row in broken)
    if broken:
        sentence += f"; with a fix, {mended} of the {len(broken)} that did not always end did so"
    return sentence


def _table(rows: list[_Row]) -> pandas.DataFrame:
    """Mechanism, outcome and fix of each case (rows); without a fix anywhere, no such column."""
    cells = []
    for row in rows:
        fixes = [f"{fix}: {', '.join(ends.values())}" for fix, ends in row.fixes.items()]
        quiet = _NO_FIX if row.arm == "broken" else ""
        cells.append((row.mechanism, ", ".join(row.ends.values()), "; ".join(fixes) or quiet))
    cases = pandas.Index([row.case for row in rows], name="case")
    table = pandas.DataFrame(cells, cases, columns=["mechanism", "outcome", "fix"])
    return table if any(row.fixes for row in rows) else table.drop(columns="fix")
