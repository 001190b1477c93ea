"""The catalogue shows each cause once, its outcomes and fixes: symbols counted, words read."""

from collections import Counter
from pathlib import Path

import pandas
import pytest

from helpers import plots
from helpers.plots import theme
from tests.plots.charts import Page, check_legible

COLUMNS = ["mechanism", "case", "arm", "fix", "outcome", "seconds"]
STORED = Path(__file__).parents[2] / "notebooks" / "grids" / "chord_cases.csv"
SILENT, UNREAD = "a part never reports", "nobody consumes"
NO_FIX = "no fix measured"


def runs(*rows: tuple[str, str, str, str | None, str, list[float]]) -> pandas.DataFrame:
    each = [(*row, seconds) for *row, several in rows for seconds in several]
    return pandas.DataFrame(each, columns=COLUMNS)


SMALL = runs(
    (SILENT, "worker killed", "broken", None, "hung", [10, 10, 10]),
    (SILENT, "worker killed", "fix", "late ack", "fired", [6, 7, 3]),
    (SILENT, "worker killed", "fix", "a deadline", "error", [0.02, 0.04]),
    (SILENT, "worker killed", "fix", "a deadline", "hung", [9]),
    (SILENT, "queue purged", "broken", None, "late", [10]),
    (SILENT, "queue purged", "broken", None, "error", [1, 3]),
    (UNREAD, "no worker", "broken", None, "stuck", [10]),
    (UNREAD, "no worker", "fix", "hope", "stuck", [10]),
    (UNREAD, "result ignored", "broken", None, "fired", [0.1]),
)
CONTROLS = runs(
    ("folklore", "healthy", "control", None, "fired", [1.1]),
    ("folklore", "part raises", "control", None, "error", [0.1]),
)


def symbols(page: Page) -> Counter[str]:
    """How often each symbol was drawn, less its legend."""
    (axes,) = page.figure.axes
    drawn = Counter(line.get_gid() for line in axes.lines)
    assert set(drawn) <= set(theme.OUTCOMES)
    return Counter({outcome: n - 1 for outcome, n in drawn.items()})


def places(page: Page) -> dict[str, tuple[float, float]]:
    return {text.get_text(): text.get_position() for text in page.figure.axes[0].texts}


def test_each_cause_and_each_fix_has_its_outcome_as_symbol_and_words(page: Page) -> None:
    plots.catalogue(SMALL, "title")
    assert symbols(page) == {"hung": 2, "fired": 2, "error": 2, "late": 1, "stuck": 2}
    words = Counter(page.words())
    once = [*SMALL["case"].unique(), *SMALL["mechanism"].unique(), *SMALL["fix"].dropna().unique()]
    assert [words[text] for text in once] == [1] * len(once)
    outcomes = ["hung 3/3", "fired 3/3 after 6.0 s", "error 2/3 within 0.1 s", "hung 1/3"]
    assert set(outcomes) <= set(words) and words["stuck 1/1"] == 2
    assert words[NO_FIX] == 2
    check_legible(page.figure)


def test_where_runs_differ_each_outcome_is_shown_the_most_frequent_first(page: Page) -> None:
    plots.catalogue(SMALL, "title")
    at = places(page)
    assert at["error 2/3 after 2.0 s"][1] < at["late 1/3"][1] < at["no worker"][1]
    assert page.table.loc["queue purged", "outcome"] == "error 2/3 after 2.0 s, late 1/3"


def test_rows_stand_under_their_mechanism_and_fixes_beside_their_cause(page: Page) -> None:
    plots.catalogue(SMALL.iloc[::-1], "title")  # and not in the order of the alphabet
    at = places(page)
    causes = [UNREAD, "result ignored", "no worker", SILENT, "queue purged", "worker killed"]
    assert sorted(causes, key=lambda text: at[text][1]) == causes
    assert at["worker killed"][1] == at["a deadline"][1] < at["late ack"][1]
    assert list(page.table.index) == [text for text in causes if text not in (UNREAD, SILENT)]


def test_the_sentence_counts_causes_and_what_a_fix_ends(page: Page) -> None:
    plots.catalogue(SMALL, "title")
    assert page.sentence == (
        "4 causes: 1 hung, 1 stuck, 1 fired, 1 ended differently from run to run; "
        "with a fix, 1 of the 3 that did not always end did so"
    )
    assert page.alt == f"title. Catalogue, {page.sentence}. The table has each cause."
    assert list(page.table.columns) == ["mechanism", "outcome", "fix"]
    assert page.table.loc["worker killed"].to_list() == [
        SILENT,
        "hung 3/3",
        "late ack: fired 3/3 after 6.0 s; a deadline: error 2/3 within 0.1 s, hung 1/3",
    ]
    assert page.table.loc["queue purged", "fix"] == NO_FIX


def test_a_fix_that_does_not_always_end_does_not_count(page: Page) -> None:
    plots.catalogue(SMALL[SMALL["fix"] != "late ack"], "title")
    assert "with a fix, 0 of the 3" in page.sentence


def test_a_hang_whose_errback_ran_has_not_ended(page: Page) -> None:
    told = (SILENT, "queue purged", "fix", "an errback", "told", [9.0])
    plots.catalogue(runs((SILENT, "queue purged", "broken", None, "hung", [10]), told), "title")
    assert symbols(page) == {"hung": 1, "told": 1} and "told 1/1" in page.words()
    assert "with a fix, 0 of the 1" in page.sentence


def test_controls_have_no_column_for_a_fix(page: Page) -> None:
    plots.catalogue(CONTROLS, "title")
    assert page.sentence == "2 controls: 1 error, 1 fired"
    assert not {"fix", "with the fix", NO_FIX} & set(page.words())
    assert list(page.table.columns) == ["mechanism", "outcome"]
    assert symbols(page) == {"fired": 1, "error": 1}  # and no other one in the legend


@pytest.mark.parametrize("arms", [["broken", "fix"], ["control"], ["broken", "fix", "control"]])
@pytest.mark.parametrize("backend", ["Redis", "polling"])
def test_the_stored_grid_fits(page: Page, backend: str, arms: list[str]) -> None:
    stored = pandas.read_csv(STORED)
    some = stored[(stored["backend"] == backend) & stored["arm"].isin(arms)]
    plots.catalogue(some, "A title " * 20)
    check_legible(page.figure)
    assert page.figure.get_figwidth() == theme.WIDTH
    cases, words = some["case"].unique(), Counter(page.words())
    assert [words[case] for case in cases] == [1] * len(cases)
    assert sorted(page.table.index) == sorted(cases)
    drawn = some.fillna({"fix": ""}).drop_duplicates(["mechanism", "case", "fix", "outcome"])
    assert symbols(page) == Counter(drawn["outcome"])


def test_catalogue_refuses_what_it_cannot_draw(page: Page) -> None:
    with pytest.raises(ValueError, match="no run"):
        plots.catalogue(runs(), "title")
    with pytest.raises(ValueError, match=r"no symbol for \['eaten'\]: the outcomes are fired"):
        plots.catalogue(runs((SILENT, "a", "broken", None, "eaten", [1])), "title")
    with pytest.raises(ValueError, match="'a' has runs with a fix, and none without"):
        plots.catalogue(runs((SILENT, "a", "fix", "b", "fired", [1])), "title")
