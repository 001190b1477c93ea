"""The timeline shows each delivery when it happened: bars and symbols are read from the figure."""

from typing import Any

import pandas
import pytest
from matplotlib.collections import LineCollection
from matplotlib.text import Annotation

from helpers import plots
from tests.plots.charts import Page, check_legible

NEVER = float("nan")
COLUMNS = ["task", "worker", "delivery", "published", "received", "started", "ended", "restored"]

Row = tuple[str, str, int, float, float, float, float, float, str]


def deliveries(*rows: Row, end: float, timeout: float | None = 2.0) -> pandas.DataFrame:
    frame = pandas.DataFrame(list(rows), columns=[*COLUMNS, "end"])
    frame.attrs = {"end": end, "visibility_timeout": timeout, "marks": []}
    return frame


def marked(frame: pandas.DataFrame, *marks: tuple[str, float]) -> pandas.DataFrame:
    frame = frame.copy()
    frame.attrs["marks"] = list(marks)
    return frame


TOO_LONG = deliveries(
    ("charge(3)", "worker1", 1, 0.0, 0.05, 0.06, 4.06, 2.31, "finished"),
    ("charge(3)", "worker2", 2, 0.0, 2.32, 2.33, 6.33, NEVER, "finished"),
    end=7,
)
COUNTDOWN = deliveries(
    *(
        (f"remind({n})", worker, delivery, 0.0, received, 5.0, 5.5, restored, "finished")
        for n in range(3)
        for delivery, worker, received, restored in (
            (1, "worker1", 0.02, 2.1),
            (2, "worker2", 2.11, 4.2),
            (3, "worker1", 4.21, NEVER),
        )
    ),
    end=6.5,
)
KILLED = deliveries(
    ("charge(0)", "worker1", 1, 0.0, 0.02, 0.02, 1.3, NEVER, "killed"),
    *(
        row
        for n in range(1, 5)
        for row in (
            (f"charge({n})", "worker1", 1, 0.0, 0.05, NEVER, NEVER, 3.3, ""),
            (f"charge({n})", "worker2", 2, 0.0, 3.4, 3 + n / 2, 3.5 + n / 2, NEVER, "finished"),
        )
    ),
    end=6,
)
KILLED_MARKS = [("SIGKILL to worker1", 1.3), ("worker2 starts", 2.0)]
DEFAULT_CADENCE = deliveries(
    ("charge(3)", "worker1", 1, 0.0, 0.1, 0.1, 1.0, 100.2, "killed"),
    ("charge(3)", "worker2", 2, 0.0, 100.21, 100.21, 103.2, NEVER, "finished"),
    end=110,
)
ENDS = ["finished", "failed", "retried", "rejected", "killed"]
EACH_END = deliveries(
    *(("t" + end, "worker1", 1, 0.0, 0.1, 0.2, 1.0, NEVER, end) for end in ENDS),
    ("t still runs", "worker2", 1, 0.0, 0.1, 0.2, NEVER, NEVER, ""),
    ("t held", "worker3", 1, 0.0, 0.1, NEVER, NEVER, NEVER, ""),
    end=2,
    timeout=None,
)
FIVE_MARKS = [("Redis stops", 0.0), ("Redis starts", 0.1), ("SIGKILL to worker1", 1.0)]
FIVE_MARKS += [("SIGKILL to worker2", 1.9), ("worker3 starts", 1.98)]


def bars(page: Page, kind: int) -> dict[int, tuple[float, float]]:
    """From when to when, by row: 0 for the outlined bars, 1 for the solid ones."""
    found = page.figure.axes[0].containers[kind].patches
    spans = {round(p.get_y() + p.get_height() / 2): (p.get_x(), p.get_width()) for p in found}
    return {row: (x, round(x + w, 6)) for row, (x, w) in spans.items() if w > 0}


def symbols(page: Page, name: str) -> dict[int, float]:
    """When, by row, the symbol `name` stands."""
    lines = [line for line in page.figure.axes[0].lines if line.get_gid() == name]
    points = (zip(line.get_ydata(), line.get_xdata(), strict=True) for line in lines)
    return {int(row): at for each in points for row, at in each if at == at}


def legend(page: Page) -> list[str]:
    return [text.get_text() for text in page.figure.legends[0].get_texts()]


def arrows(page: Page) -> list[tuple[Any, Any]]:
    notes = [t for t in page.figure.axes[0].texts if isinstance(t, Annotation)]
    return [(note.xyann, note.xy) for note in notes]


def test_timeline_of_a_task_that_runs_twice_at_once(page: Page) -> None:
    plots.timeline(TOO_LONG, "title")
    assert bars(page, 1) == {0: (0.06, 4.06), 1: (2.33, 6.33)}
    assert symbols(page, "finished") == {0: 4.06, 1: 6.33}
    assert symbols(page, "visibility timeout passed") == {0: 2.05}
    assert symbols(page, "put back by a sweep") == {0: 2.31}
    assert symbols(page, "published") == {0: 0.0}  # one message, delivered twice
    assert arrows(page) == [((2.31, 0), (2.32, 1))]
    overlap = page.figure.axes[0].collections[-1].get_datalim(page.figure.axes[0].transData)
    assert (overlap.x0, overlap.x1) == (2.33, 4.06)
    assert {"charge(3)", "1st to worker1", "2nd to worker2", "seconds since the start"} <= {
        *page.words()
    }
    assert page.sentence == (
        "2 executions of 1 task · 2 overlapped another of the same task · 1 return by a sweep"
    )
    assert page.sentence in page.alt
    assert (
        "charge(3) 1st to worker1: received at 0.1 s, started at 0.1 s, "
        "put back by a sweep at 2.3 s, finished at 4.1 s." in page.alt
    )
    assert page.table.to_dict("records")[1] == {
        "delivery": 2,
        "worker": "worker2",
        "received": "2.3",
        "started": "2.3",
        "ended": "6.3",
        "end": "finished",
        "restored": "",
    }


def test_timeline_of_a_countdown_longer_than_the_timeout(page: Page) -> None:
    plots.timeline(COUNTDOWN, "title")
    assert bars(page, 0)[1] == (2.11, 5.0)
    assert bars(page, 1) == {row: (5.0, 5.5) for row in range(9)}
    assert len(arrows(page)) == 6
    assert page.words().count("remind(1)") == 1
    assert page.sentence.startswith("9 executions of 3 tasks · 9 overlapped")
    assert page.sentence.endswith("6 returns by a sweep")


def test_timeline_of_a_killed_worker(page: Page) -> None:
    plots.timeline(marked(KILLED, *KILLED_MARKS), "title")
    assert symbols(page, "killed") == {0: 1.3}
    assert bars(page, 0)[1] == (0.05, 3.3)  # held until it was put back
    assert set(bars(page, 1)) == {0, 2, 4, 6, 8}
    assert "none overlapped" in page.sentence and "executions overlap" not in legend(page)
    assert "SIGKILL to worker1: 1.3 s." in page.alt
    assert {"SIGKILL to worker1", "worker2 starts"} <= set(page.words())


def test_timeline_shows_an_outage_as_a_band_through_all_rows(page: Page) -> None:
    away = TOO_LONG.copy()
    away.attrs = TOO_LONG.attrs | {"outages": [("redis is away", 1.0, 2.5)]}
    plots.timeline(away, "title")
    [band] = [p for p in page.figure.axes[0].patches if p.get_gid() == "redis is away"]
    assert band.get_extents().transformed(
        page.figure.axes[0].transData.inverted()
    ).intervalx.tolist() == (pytest.approx([1.0, 2.5]))
    assert "redis is away" in legend(page)
    assert "redis is away from 1.0 to 2.5 s." in page.alt
    check_legible(page.figure)
    plots.timeline(TOO_LONG, "title")
    assert "redis is away" not in legend(page)


def test_timeline_shows_what_lies_in_redis_after_a_kill(page: Page) -> None:
    plots.timeline(DEFAULT_CADENCE, "title")
    waits = [
        segment[:, 0].tolist()
        for collection in page.figure.axes[0].findobj(LineCollection)
        for segment in collection.get_segments()
        if len(segment)  # nothing waited
    ]
    assert [1.0, 100.2] in waits
    assert "waits in Redis" in legend(page)


def test_timeline_has_a_symbol_for_each_end_and_names_only_what_occurs(page: Page) -> None:
    plots.timeline(EACH_END, "title")
    lasting = {"waits in Redis", "held, not started", "runs"}
    assert set(legend(page)) == {*ENDS, "still runs", "published", *lasting}
    shapes = [symbols(page, name) for name in [*ENDS, "still runs"]]
    assert shapes == [{row: 1.0} for row in range(5)] + [{5: 2}]
    looks = {str(line.get_marker()) for line in page.figure.axes[0].lines if line.get_gid()}
    assert len(looks) == 7
    assert bars(page, 0)[6] == (0.1, 2)  # still held at the end of the record
    plots.timeline(KILLED.head(1).copy(), "title")
    assert set(legend(page)) == {"published", "runs", "killed"}


def test_timeline_groups_rows_by_task_in_order_of_receipt(page: Page) -> None:
    mixed = TOO_LONG.iloc[[1, 0]].copy()
    mixed.loc[1, "restored"] = 4.5
    mixed.loc[9] = ["other", "worker1", 1, 0.0, 5.0, 5.0, 6.0, NEVER, "finished"]
    plots.timeline(mixed, "title")
    assert page.table.index.tolist() == ["charge(3)", "charge(3)", "other"]
    assert page.table["delivery"].tolist() == [1, 2, 1]
    assert arrows(page) == [((2.31, 0), (2.32, 1))]  # none from one task to the next


@pytest.mark.parametrize(
    ("data", "marks"),
    [
        (TOO_LONG, []),
        (COUNTDOWN, []),
        (KILLED, KILLED_MARKS),
        (DEFAULT_CADENCE, [("SIGKILL to worker1", 1.0), ("worker2 starts", 2.5)]),
        (EACH_END, FIVE_MARKS),
        (EACH_END.assign(task="long_task_name(order=123456)"), FIVE_MARKS),
    ],
)
def test_no_two_texts_of_a_timeline_meet_or_are_cut(
    page: Page, data: pandas.DataFrame, marks: list[tuple[str, float]]
) -> None:
    plots.timeline(marked(data, *marks), "A finding that is long enough for two lines " * 3)
    check_legible(page.figure)


def test_timeline_refuses_what_it_cannot_draw(page: Page) -> None:
    with pytest.raises(ValueError, match="1 to 24 deliveries, got 0"):
        plots.timeline(deliveries(end=1), "title")
    row = ("t", "worker1", 1, 0.0, 0.1, 0.2, 0.5, NEVER, "finished")
    plots.timeline(deliveries(*[row] * 24, end=1), "title")
    with pytest.raises(ValueError, match="1 to 24 deliveries, got 25"):
        plots.timeline(deliveries(*[row] * 25, end=1), "title")
    with pytest.raises(ValueError, match=r"cannot draw these ends: .*lost"):
        plots.timeline(deliveries((*row[:-1], "lost"), end=1), "title")
    with pytest.raises(ValueError, match=r"cannot draw these ends: .*killed"):
        plots.timeline(deliveries((*row[:6], NEVER, NEVER, "killed"), end=1), "title")
