"""For readers with another colour vision: two meanings differ in colour, or in a second sign."""

from importlib import import_module
from itertools import combinations

import pytest
from matplotlib.figure import Figure

from helpers.plots import theme
from tests.plots import colours
from tests.plots.charts import check_legible
from tests.plots.colours import VISIONS

LEAST = 10  # delta E; four times what is just noticeable

Looks = dict[str, tuple[str, object]]  # meaning: its colour, and its second sign (None: no such)


def _looks() -> dict[str, Looks]:
    """Per chart, what the code draws: the colours with a meaning, and what else tells it."""
    counts, rates, sequence, shares, survival, timeline = (
        import_module(f"helpers.plots.{name}")
        for name in ("counts", "rates", "sequence", "shares", "survival", "timeline")
    )
    charged = survival._CHARGED
    return {
        "fate": {name: (s.colour, s.shape.vertices.tobytes()) for name, s in theme.FATES.items()},
        "outcome": {n: (s.colour, s.shape.vertices.tobytes()) for n, s in theme.OUTCOMES.items()},
        "rates": {marker: (colour, marker) for marker, colour in rates._LOOKS},
        "shares": {marker: (colour, marker) for marker, colour in shares._LOOKS},
        "counts": {m: (c, m) for m, c in zip(counts._MARKERS, counts._COLOURS, strict=True)},
        "sequence": {name: look for name, look in sequence._SOURCES.items()},
        "survival, tint": {words: (tint, hatch) for words, tint, hatch, _ in charged},
        "survival, edge": {words: (colour, hatch) for words, _, hatch, colour in charged},
        # The label of its row names the worker, but far from a long bar: colour has to do.
        "timeline": {f"worker {n}": (c, None) for n, c in enumerate(timeline._WORKERS)},
    }


def alike(looks: Looks) -> list[str]:
    """The pairs that only their colour tells apart, and for whom it does not."""
    return [
        f"{a} and {b}, {vision}"
        for (a, (one, sign)), (b, (other, its)) in combinations(looks.items(), 2)
        if sign == its
        for vision in VISIONS
        if colours.difference(one, other, vision) < LEAST
    ]


@pytest.mark.parametrize("chart", _looks())
def test_what_has_two_meanings_has_two_looks(chart: str) -> None:
    assert alike(_looks()[chart]) == []


def test_only_these_rely_on_their_shape_or_hatching() -> None:
    found = {
        frozenset((a, b))
        for looks in _looks().values()
        for (a, (one, _)), (b, (other, _)) in combinations(looks.items(), 2)
        if min(colours.difference(one, other, vision) for vision in VISIONS) < LEAST
    }
    assert found == {
        frozenset(("lost", "refused")),  # square or round
        frozenset(("held", "recovered")),
        frozenset(("never charged", "charged more than once")),  # the tint; the edge is hatched
    }


@pytest.mark.parametrize("vision", VISIONS)
def test_the_simulation_keeps_grey(vision: str) -> None:
    assert colours.difference("#000000", "#FFFFFF", vision) == pytest.approx(100, abs=0.01)
    assert VISIONS[vision].sum(axis=1) == pytest.approx(1, abs=1e-5)


def test_a_bad_palette_is_found() -> None:
    """The usual red, green and orange."""
    usual = {"red": "tab:red", "green": "tab:green", "orange": "tab:orange"}
    assert alike({name: (colour, None) for name, colour in usual.items()}) == [
        "red and green, deuteranopia",
        "green and orange, protanopia",
    ]
    assert alike({name: (colour, name) for name, colour in usual.items()}) == []


def test_known_values() -> None:
    assert colours.contrast("#FFFFFF", "#000000") == pytest.approx(21)
    assert colours.contrast("#767676", "#FFFFFF") == pytest.approx(4.54, abs=0.01)
    # Red's L*a*b* is 53.24, 80.09, 67.20.
    assert colours.difference("#FF0000", "#000000", "typical") == pytest.approx(117.34, abs=0.1)


@pytest.mark.parametrize("ground", ["white", theme.BLUE, theme.ORANGE])
def test_a_faint_text_is_found(ground: str) -> None:
    """White on blue can be read; white on white, and on orange, cannot."""
    figure = Figure()
    figure.text(0.2, 0.5, "clear", color=theme.INK)
    figure.text(0.6, 0.5, "faint?", color="white", backgroundcolor=ground)
    if ground == theme.BLUE:
        check_legible(figure)
    else:
        with pytest.raises(AssertionError, match="faint"):
            check_legible(figure)


def test_the_ground_of_a_text_is_what_is_drawn_behind_it() -> None:
    figure = Figure()
    axes = figure.add_axes((0, 0, 1, 0.5))
    axes.axis("off")
    axes.axhspan(0, 1, color=theme.INK)
    figure.text(0.5, 0.25, "dark on dark", color=theme.QUIET)
    with pytest.raises(AssertionError, match="dark on dark"):
        check_legible(figure)
