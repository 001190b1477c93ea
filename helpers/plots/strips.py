"""A Redis under pressure: memory, the queue's key and evictions over one time axis."""

import pandas
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from helpers.plots import theme
from helpers.plots.figure import show

# Redis counts in powers of two: its "5mb" is 5 x 1024 x 1024 bytes, and the axis should read 5.
_KB, _MB = 1 << 10, 1 << 20


def strips(history: pandas.DataFrame, title: str) -> None:
    """Show `history`: columns seconds, memory and queue (bytes), evicted (keys so far).

    `history.attrs["maxmemory"]` is in bytes, 0 for no limit. `history.attrs["faults"]` lists
    (label, start, end) in seconds, shaded through all strips. Raises ValueError without a sample.
    """
    if history.empty:
        raise ValueError("strips() got a history without a sample")
    limit = history.attrs["maxmemory"]
    gone = _vanished(history)
    peak = f"peak memory {history['memory'].max() / _MB:.1f} MB"
    peak += f" of {limit / _MB:.1f} MB maxmemory" if limit else ", no maxmemory"
    evicted = f"{history['evicted'].iloc[-1]:,} keys evicted"
    sentence = " · ".join([peak, _queue_words(history, gone), evicted])
    with rc_context(theme.RC):
        figure = _draw(history, title, limit, gone)
    faults = "".join(f" {label} from {a:.1f} s to {b:.1f} s." for label, a, b in _faults(history))
    show(figure, f"{title}. Three strips over time: {sentence}.{faults}", sentence, _table(history))


def _faults(history: pandas.DataFrame) -> list[tuple[str, float, float]]:
    return history.attrs["faults"]


def _vanished(history: pandas.DataFrame) -> float | None:
    """The first moment, in seconds, at which a queue key that had been there was not."""
    there = history["queue"] > 0
    gone = history.loc[there.cummax() & ~there, "seconds"]
    return None if gone.empty else float(gone.iloc[0])


def _queue_words(history: pandas.DataFrame, gone: float | None) -> str:
    there = history["queue"] > 0
    if not there.any():
        return "the queue key was never there"
    if gone is None:
        return "the queue key stayed"
    later = ", back later" if there[history["seconds"] > gone].any() else ""
    return f"the queue key was gone at {gone:.1f} s{later}"


def _draw(history: pandas.DataFrame, title: str, limit: int, gone: float | None) -> Figure:
    seconds = history["seconds"]
    figure = Figure(figsize=(theme.WIDTH, 4.2), layout="constrained")
    memory, queue, evicted = figure.subplots(3, 1, sharex=True)

    memory.plot(seconds, history["memory"] / _MB, color=theme.BLUE)
    if limit:
        memory.axhline(limit / _MB, color=theme.INK, linestyle="--", linewidth=1.2)
        memory.annotate(
            "maxmemory",
            (0, limit / _MB),
            xycoords=("axes fraction", "data"),
            xytext=(4, 4),
            textcoords="offset points",
            size=9,
        )
    memory.set_ylabel("memory\n(MB)")

    queue.step(seconds, history["queue"] / _KB, where="post", color=theme.VERMILION)
    if gone is not None:
        queue.plot([gone], [0], "X", color=theme.INK, markersize=8, clip_on=False, zorder=3)
        queue.annotate(
            f"gone at {gone:.1f} s",
            (gone, 0),
            xytext=(8, 5),
            textcoords="offset points",
            size=9,
        )
    queue.set_ylabel("queue key\n(KB)")

    evicted.step(seconds, history["evicted"], where="post", color=theme.INK)
    evicted.set_ylabel("evicted\n(keys)")
    evicted.set_xlabel("seconds since the start")

    for axes, column in ((memory, "memory"), (queue, "queue"), (evicted, "evicted")):
        unit = {"memory": _MB, "queue": _KB}.get(column, 1)
        most = max(history[column].max(), limit if column == "memory" else 0) / unit or 1
        axes.set_ylim(-0.05 * most, 1.3 * most)  # a line at zero stands clear of the axis
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.margins(x=0.01)
        for _, start, end in _faults(history):
            axes.axvspan(start, end, facecolor="#E8E8E8", edgecolor=theme.QUIET, linewidth=0.6)
    evicted.yaxis.set_major_formatter("{x:,.0f}")

    levels = _label_faults(memory, history)
    memory.set_title(title, pad=8 + 13 * levels)
    figure.align_ylabels()
    return figure


def _label_faults(axes: Axes, history: pandas.DataFrame) -> int:
    """Name each fault above the strips, on the lowest line with room. Returns the lines used."""
    low, high = axes.get_xlim()
    ends: list[float] = []  # where the last label of each line ends, in seconds
    for label, start, _ in sorted(_faults(history), key=lambda fault: fault[1]):
        length = (len(label) + 2) * (high - low) / 95  # 95 characters of 9 points fill the axis
        start = max(low, min(start, high - length))
        line = next((n for n, end in enumerate(ends) if end <= start), len(ends))
        ends[line:] = [start + length, *ends[line + 1 :]]
        axes.annotate(
            label,
            (start, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3 + 13 * line),
            textcoords="offset points",
            size=9,
        )
    return len(ends)


def _table(history: pandas.DataFrame) -> pandas.DataFrame:
    """Each strip at the start, at its peak and at the end, in the units of the chart."""
    columns = {
        "memory (MB)": history["memory"] / _MB,
        "queue key (KB)": history["queue"] / _KB,
        "evicted (keys)": history["evicted"],
    }
    rows = [
        [f"{v:,.{d}f}" for v in (c.iloc[0], c.max(), c.iloc[-1])]
        for c, d in zip(columns.values(), (1, 1, 0), strict=True)
    ]
    return pandas.DataFrame(rows, index=list(columns), columns=["start", "peak", "end"])
