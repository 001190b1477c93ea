"""How often, out of how many, and how sure: dots with intervals."""

import pandas
from matplotlib import rc_context
from matplotlib.figure import Figure

from helpers.plots import theme
from helpers.plots.figure import show, wrapped

_LOOKS = (
    ("o", theme.BLUE),
    ("D", theme.VERMILION),
    ("^", theme.DEEP_GREEN),
    ("s", theme.INK),
)
_OFFSET = 0.22  # inches between the groups of one row


def rates(table: pandas.DataFrame, title: str, xlabel: str) -> None:
    """Show k of n, with an interval, for each label (row) and group (marker; at most four).

    Columns: label, group, k, n, low and high (the interval, 0 to 1). Raises ValueError without a
    row, or with more groups than there are markers.
    """
    groups = list(dict.fromkeys(table["group"]))
    if not 0 < len(groups) <= len(_LOOKS):
        raise ValueError(f"rates() draws 1 to {len(_LOOKS)} groups, got {len(groups)}")
    with rc_context(theme.RC):
        figure = _draw(table, title, xlabel, groups)
    sentence = " · ".join(_range(group, table[table["group"] == group]) for group in groups)
    show(figure, f"{title}. Rates with intervals, {xlabel}: {sentence}.", sentence, _table(table))


def _draw(table: pandas.DataFrame, title: str, xlabel: str, groups: list[str]) -> Figure:
    labels = list(dict.fromkeys(table["label"]))
    row = _OFFSET * len(groups) + 0.12  # inches
    title, above = wrapped(title)
    head = 0.15 + above + 0.32
    height = head + row * len(labels) + 0.6

    figure = Figure(figsize=(theme.WIDTH, height))
    longest = max(len(label) for label in labels)
    left = 0.3 + 0.085 * longest
    axes = figure.add_axes(
        (
            left / theme.WIDTH,
            0.6 / height,
            (theme.WIDTH - left - 0.6) / theme.WIDTH,
            row * len(labels) / height,
        )
    )
    for place in range(0, len(labels), 2):
        axes.axhspan(place - 0.5, place + 0.5, color=theme.BAND, linewidth=0, zorder=0)
    for number, (group, (marker, colour)) in enumerate(zip(groups, _LOOKS, strict=False)):
        part = table[table["group"] == group]
        middle = [labels.index(label) for label in part["label"]]
        y = [place + (number - (len(groups) - 1) / 2) * _OFFSET / row for place in middle]
        rate, low, high = 100 * part["k"] / part["n"], 100 * part["low"], 100 * part["high"]
        axes.hlines(y, low, high, color=colour, linewidth=1.6)
        axes.plot(rate, y, marker, color=colour, markersize=7, label=group, clip_on=False, zorder=3)
        for k, n, end, at in zip(part["k"], part["n"], high, y, strict=True):
            axes.annotate(
                f"{k}/{n}",
                (end, at),
                xytext=(8, 0),
                textcoords="offset points",
                va="center_baseline",
                size=9,
                annotation_clip=False,
            )
    axes.set(xlim=(0, 100), ylim=(len(labels) - 0.5, -0.5), xlabel=xlabel)
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(axis="y", length=0, pad=9)
    axes.xaxis.set_major_formatter("{x:.0f} %")
    axes.grid(axis="x", color="#DDDDDD", linewidth=0.8)
    axes.set_axisbelow(True)
    figure.text(
        0.15 / theme.WIDTH,
        1 - 0.1 / height,
        title,
        **theme.TITLE,
    )
    figure.legend(
        loc="upper left",
        bbox_to_anchor=(left / theme.WIDTH, 1 - (head - 0.36) / height),
        ncols=len(groups),
        frameon=False,
        borderaxespad=0,
        borderpad=0.2,
        handletextpad=0.3,
        columnspacing=1.6,
    )
    return figure


def _range(group: str, part: pandas.DataFrame) -> str:
    """The lowest and the highest row of one group, in words."""
    ordered = part.assign(rate=part["k"] / part["n"]).sort_values("rate", kind="stable")
    low, high = ordered.iloc[0], ordered.iloc[-1]
    if low["rate"] == high["rate"]:
        return f"{group}: {low['k']}/{low['n']} in each row"
    return (
        f"{group}: from {low['k']}/{low['n']} ({low['label']}) "
        f"to {high['k']}/{high['n']} ({high['label']})"
    )


def _table(table: pandas.DataFrame) -> pandas.DataFrame:
    """One row a label, one column a group: k of n and the interval in per cent."""
    cells = {
        (row.label, row.group): f"{row.k}/{row.n} ({100 * row.low:.0f}-{100 * row.high:.0f} %)"
        for row in table.itertuples()
    }
    labels, groups = (list(dict.fromkeys(table[column])) for column in ("label", "group"))
    return pandas.DataFrame(
        [[cells.get((label, group), "") for group in groups] for label in labels],
        index=pandas.Index(labels, name=""),
        columns=groups,
    )
