"""The charts of grids show what the data says: cells, ticks and dots are counted, words read."""

from collections import Counter

import pandas
import pytest

from helpers import plots
from helpers.plots import expected, theme
from tests.plots.charts import Page, check_legible

# survival

TIMES, NONE = "\N{MULTIPLICATION SIGN}", "\N{EN DASH}"
CHILD, WORKER = "pool child killed", "whole worker killed"


def cells(*rows: tuple[str, str, str, str, int, int]) -> pandas.DataFrame:
    """The runs of these results, the last number of each being how many there are."""
    columns = ["setting", "process", "moment", "fate", "charged", "n"]
    table = pandas.DataFrame(rows, columns=columns)
    return table.loc[table.index.repeat(table.pop("n").to_numpy())]


SMALL = cells(
    ("early ack", CHILD, "running", "failed", 0, 20),
    ("early ack", WORKER, "fetched", "stranded", 1, 20),
    ("early ack", WORKER, "running", "lost", 0, 2),
    ("early ack", WORKER, "running", "done", 1, 18),
    ("late ack", WORKER, "fetched", "stranded", 1, 20),
    ("late ack", WORKER, "running", "duplicated", 25, 20),
)

RESULTS = SMALL.drop_duplicates()


def test_survival_shows_each_result_with_its_symbol(page: Page) -> None:
    plots.survival(SMALL, "title")
    (axes,) = page.figure.axes
    assert Counter(line.get_gid() for line in axes.lines) == Counter(RESULTS["fate"])
    words = Counter(page.words())
    assert [words[f"charged {times}{TIMES}"] for times in (0, 1, 25)] == [2, 3, 1]
    assert [words[share] for share in ("20/20", "18/20", "2/20")] == [4, 1, 1]
    assert [words[text] for text in ("stranded", CHILD, WORKER)] == [2, 1, 1]
    assert words["running"] == 2 and words["fetched"] == 1  # nothing dies there, so no column


def test_survival_tells_how_often_it_charged_by_hatching(page: Page) -> None:
    plots.survival(SMALL, "title")
    hatches = Counter(patch.get_hatch() for patch in page.figure.axes[0].patches)
    assert hatches["/////"] == 2 + 1 and hatches["xxxxx"] == 1 + 1  # one more each: the legend
    assert {"never charged", "charged exactly once", "charged more than once"} <= set(page.words())


def test_survival_shows_the_most_frequent_result_first(page: Page) -> None:
    plots.survival(SMALL, "title")
    heights = {t.get_text(): t.get_position()[1] for t in page.figure.axes[0].texts}
    assert heights["18/20"] < heights["2/20"]
    assert page.table.loc["early ack", (WORKER, "running")] == (
        f"done, 1{TIMES} (18/20); lost, 0{TIMES} (2/20)"
    )


def test_survival_counts_its_cells_in_one_sentence(page: Page) -> None:
    plots.survival(SMALL, "title")
    assert page.sentence == (
        "5 cells: 2 charged exactly once, 1 never charged, 1 charged more than once, "
        "1 charged differently from run to run"
    )
    assert page.alt == f"title. Survival grid, {page.sentence}. The table has each cell."
    plots.survival(SMALL.iloc[:40], "title")
    assert page.sentence == (
        "2 cells: 1 charged exactly once, 1 never charged, 0 charged more than once"
    )


def test_survival_marks_what_cannot_happen(page: Page) -> None:
    plots.survival(SMALL, "title")
    assert page.words().count(NONE) == 1 and f"{NONE} cannot happen" in page.words()
    assert page.table.loc["late ack", (CHILD, "running")] == NONE
    plots.survival(SMALL.iloc[:60], "title")
    assert not any(NONE in text for text in page.words())


def test_survival_fits_four_settings_and_eight_columns(page: Page) -> None:
    settings = ["early ack (default)", "late ack", "late ack + reject_on_worker_lost"]
    moments = ["fetched", "held", "running", "effect done", "acknowledged"]
    columns = [(CHILD, moment) for moment in moments[2:]] + [(WORKER, m) for m in moments]
    grid = [
        (setting, *column, "duplicated", 25, n)
        for setting in [*settings, "retry_on_worker_lost"]
        for column in columns
        for n in ([18, 2] if column[1] == "running" else [20])
    ]
    plots.survival(cells(*grid, ("none", CHILD, "running", "lost", 0, 20)), "A title " * 20)
    check_legible(page.figure)
    assert page.figure.get_figwidth() == theme.WIDTH
    assert list(page.table.columns) == columns


def test_survival_says_a_note_of_its_own_below(page: Page) -> None:
    plots.survival(SMALL, "title", "*fetched* is staged. " * 10)
    assert page.alt.endswith("The table has each cell. " + "*fetched* is staged. " * 10)
    assert sum("staged" in words for words in page.words()) > 1  # in lines
    check_legible(page.figure)


def test_survival_refuses_what_it_cannot_draw(page: Page) -> None:
    with pytest.raises(ValueError, match=r"no symbol for \['eaten'\]: the fates are done"):
        plots.survival(cells(("a", CHILD, "running", "eaten", 0, 1)), "title")
    with pytest.raises(ValueError, match="1 to 8 columns, got 0"):
        plots.survival(cells(), "title")
    with pytest.raises(ValueError, match="1 to 8 columns, got 9"):
        plots.survival(cells(*(("a", CHILD, f"{n}", "lost", 0, 1) for n in range(9))), "title")


# counts


def runs(counts: dict[int, dict[str, list[int]]]) -> pandas.DataFrame:
    tables = [pandas.DataFrame(some).assign(orders=x) for x, some in counts.items()]
    return pandas.concat(tables, ignore_index=True)


TWO = runs(
    {
        100: {"lost": [4, 4], "stranded": [10, 12]},
        400: {"lost": [4, 3, 4], "stranded": [1, 3, 2]},
    }
)
BOUNDS = {"lost": 4, "stranded": 16}


def draw(frame: pandas.DataFrame, bounds: dict[str, int], *series: str) -> None:
    plots.counts(frame, "title", x="orders", series=series, bounds=bounds, ylabel="a kill")


def test_counts_draw_a_tick_for_each_run_and_none_hides_another(page: Page) -> None:
    draw(TWO, BOUNDS, *BOUNDS)
    (axes,) = page.figure.axes
    ticks = [line for line in axes.lines if line.get_gid() == "run"]
    places = [place for line in ticks for place in zip(*line.get_data(), strict=True)]
    assert Counter(y for _, y in places) == Counter([*TWO["lost"], *TWO["stranded"]])
    assert len(set(places)) == len(places)
    assert axes.get_ylim()[0] == 0 and list(axes.get_xticks()) == [100, 400]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("orders", "a kill")
    check_legible(page.figure)


def test_counts_show_the_mean_and_its_interval(page: Page) -> None:
    draw(TWO, BOUNDS, *BOUNDS)
    (axes,) = page.figure.axes
    means = [line for line in axes.lines if line.get_gid() == "mean"]
    assert [line.get_ydata()[0] for line in means] == pytest.approx([4, 11 / 3, 11, 2])
    assert len({line.get_marker() for line in means}) == 2
    # Student's t for 0.975: 4.303 with two degrees of freedom, 12.706 with one.
    assert page.table.to_dict() == {
        "lost": {100: "4.0 (all equal), n 2", 400: "3.7 (2.2-5.1), n 3"},
        "stranded": {100: "11.0 (0.0-23.7), n 2", 400: "2.0 (0.0-4.5), n 3"},
    }
    assert any("no bar: all runs equal" in text for text in page.words())


def test_counts_label_each_bound_even_where_two_are_equal(page: Page) -> None:
    for bounds in (BOUNDS, {"lost": 16, "stranded": 16}):
        draw(TWO, bounds, *bounds)
        dashed = [line for line in page.figure.axes[0].lines if line.get_linestyle() == "--"]
        assert [line.get_ydata()[0] for line in dashed] == list(bounds.values())
        assert {f"at most {bound} {name}" for name, bound in bounds.items()} <= set(page.words())
        check_legible(page.figure)


def test_counts_tell_the_range_and_what_broke_the_bound(page: Page) -> None:
    draw(TWO, BOUNDS, *BOUNDS)
    assert page.sentence == (
        "lost: 4 at 100, 3 to 4 at 400 (bound 4) · "
        "stranded: 10 to 12 at 100, 1 to 3 at 400 (bound 16)"
    )
    assert page.sentence in page.alt
    draw(runs({1000: {"lost": [2, 7]}}), BOUNDS, "lost")
    assert page.sentence == "lost: 2 to 7 at 1,000 (1 of 2 runs above the bound of 4)"
    assert page.figure.axes[0].get_ylim()[1] > 7


def test_counts_refuse_what_they_cannot_draw(page: Page) -> None:
    with pytest.raises(ValueError, match="1 to 4 series, got 1 of 0 runs"):
        draw(TWO.iloc[:0], BOUNDS, "lost")
    with pytest.raises(ValueError, match="1 to 4 series, got 5 of 5 runs"):
        draw(TWO, BOUNDS, *"abcde")
    with pytest.raises(ValueError, match=r"bounds has none for \['lost'\]"):
        draw(TWO, {"stranded": 4}, "lost")


# executions


@pytest.mark.parametrize(
    ("duration", "bounds"),
    [
        (0, (1, 1)),
        (1.9, (1, 1)),
        (2, (1, 1)),
        (2.01, (1, 2)),  # a sweep may come at once, or 0.99 seconds too late
        (2.99, (1, 2)),
        (3, (2, 2)),
        (4, (2, 2)),
        (4.01, (2, 3)),
        (6.01, (3, 4)),
        (2000.5, (667, 1001)),
    ],
)
def test_expected(duration: float, bounds: tuple[int, int]) -> None:
    assert expected(duration, timeout=2, period=1) == bounds


def test_expected_counts_as_people_do_and_refuses_what_cannot_be() -> None:
    assert expected(0.6, timeout=0.2, period=0.1) == (3, 3)
    assert all(
        low <= high
        for tenths in range(200)
        for low, high in [expected(tenths / 10, timeout=0.7, period=0.3)]
    )
    for wrong in ({"duration": -1}, {"timeout": 0}, {"period": 0}):
        with pytest.raises(ValueError, match="no such task"):
            expected(**{"duration": 1, "timeout": 1, "period": 1, **wrong})


def tasks(*rows: tuple[float, int]) -> pandas.DataFrame:
    return pandas.DataFrame(rows, columns=["seconds", "starts"])


def draw_executions(runs: pandas.DataFrame, title: str = "title") -> None:
    columns = {"duration": "seconds", "executions": "starts"}
    plots.executions(runs, title, **columns, timeout=2, period=1)


def test_executions_draw_a_dot_for_each_task_and_none_hides_another(page: Page) -> None:
    draw_executions(tasks(*[(5, 2)] * 20, (5, 3), (1, 1)))
    (axes,) = page.figure.axes
    (dots,) = [line for line in axes.lines if line.get_label() == "one task"]
    places = {(round(x, 6), round(y, 6)) for x, y in zip(*dots.get_data(), strict=True)}
    assert len(places) == 22
    assert Counter(round(y) for _, y in places) == {2: 20, 3: 1, 1: 1}
    assert all(abs(x - 2.5) < 0.2 for x, y in places if y > 1.5)
    assert page.sentence == (
        "22 of 22 tasks within the band; from 1 execution at 0.5 timeouts "
        "to 3 executions at 2.5 timeouts"
    )
    assert page.sentence in page.alt
    assert page.table.to_numpy().tolist() == [
        ["1", "1 (1 of 1)"],
        ["2-3", "2 (20 of 21), 3 (1 of 21)"],
    ]
    assert list(page.table.index) == ["0.5", "2.5"]
    check_legible(page.figure)


def test_executions_mark_what_the_mechanism_does_not_allow(page: Page) -> None:
    draw_executions(tasks((1, 1), (1, 2), (5, 9)), "A title " * 20)
    (wrong,) = [
        line for line in page.figure.axes[0].lines if line.get_label() == "one task, outside"
    ]
    assert wrong.get_ydata().tolist() == [2, 9] and wrong.get_marker() != "o"
    assert page.sentence.startswith("1 of 3 tasks within the band")
    check_legible(page.figure)


def test_executions_draw_the_band_that_expected_gives(page: Page) -> None:
    draw_executions(tasks((1, 1), (9, 5)))
    low, high = page.figure.axes[0].lines[:2]
    for x, bottom, top in zip(low.get_xdata(), low.get_ydata(), high.get_ydata(), strict=True):
        assert (round(bottom), round(top)) == expected(2 * x, timeout=2, period=1)
    assert "what the mechanism allows (a sweep every 1 s)" in page.words()


def test_executions_need_a_task(page: Page) -> None:
    with pytest.raises(ValueError, match="no task"):
        draw_executions(tasks())
