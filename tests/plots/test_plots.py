"""The charts show what the data says: marks are counted, words read, pictures opened."""

import base64
import html
import importlib
import io
from collections import Counter
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib
import pandas
import pytest
from matplotlib import pyplot as plt
from PIL import Image

from helpers import plots
from helpers.fates import FATES
from helpers.plots import figure as figure_module
from helpers.plots import theme
from helpers.prediction import Prediction
from tests.plots.charts import Page, check_legible

matplotlib.use("Agg")
fates_module = importlib.import_module("helpers.plots.fates")


def outcome(fates: list[str], title: str = "stack", finding: str = "a finding") -> SimpleNamespace:
    counts = Counter(fates)
    return SimpleNamespace(
        title=title,
        table=pandas.DataFrame({"fate": fates}, index=[f"id-{n}" for n in range(len(fates))]),
        counts={fate: counts[fate] for fate in theme.FATES if counts[fate]},
        sentence=f"survived · {len(fates)} accepted",
        finding=finding,
    )


def marks(panel: Any) -> dict[str, int]:
    """Squares of each fate in one panel. Each fate has one more mark: its legend."""
    found: Counter[str] = Counter()
    for collection in panel.collections:
        found[collection.get_gid()] += len(collection.get_offsets())
    return {fate: count - 1 for fate, count in found.items()}


# show


class Displayed(list):
    def __call__(self, shown: object) -> None:
        self.append(shown)


@pytest.fixture
def displayed(monkeypatch: pytest.MonkeyPatch) -> Displayed:
    displayed = Displayed()
    monkeypatch.setattr(figure_module, "display", displayed)
    return displayed


def test_show_puts_png_and_html_in_one_bundle_with_the_alt_text(
    displayed: Displayed, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn, _ = plt.subplots()
    alt = 'lost <b>"5"</b> & more'
    table = pandas.DataFrame({"a": [1]})
    figure_module.show(drawn, alt, "one sentence", table)

    picture, shown_table = displayed
    data, metadata = picture._repr_mimebundle_()
    assert set(data) == {"image/png", "text/html"}
    assert metadata == {"image/png": {"alt": alt}}
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG")
    assert f'alt="{html.escape(alt)}"' in data["text/html"]
    assert "<b>" not in data["text/html"]
    assert f"data:image/png;base64,{data['image/png']}" in data["text/html"]
    assert alt in repr(picture)
    assert capsys.readouterr().out == "one sentence\n"
    assert shown_table is table


def test_show_cuts_no_cell_of_the_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(figure_module, "display", print)  # shows as text what HTML would hold
    drawn, _ = plt.subplots()
    figure_module.show(drawn, "alt", "sentence", pandas.DataFrame({"a": ["word " * 20 + "end"]}))
    assert capsys.readouterr().out.rstrip().endswith("word end")


def test_show_closes_the_figure_and_needs_no_table(displayed: Displayed) -> None:
    drawn, _ = plt.subplots()
    figure_module.show(drawn, "alt", "sentence")
    assert drawn.number not in plt.get_fignums()
    assert len(displayed) == 1


def test_show_works_without_a_notebook(capsys: pytest.CaptureFixture[str]) -> None:
    plots.fates(outcome(["done"]))
    out = capsys.readouterr().out
    assert "[figure: Fate chart" in out
    assert "base64" not in out


def test_charts_leave_no_figure_and_no_style_behind(displayed: Displayed) -> None:
    before = dict(matplotlib.rcParams)
    plots.fates(outcome(["done", "lost"]))
    assert plt.get_fignums() == []
    assert dict(matplotlib.rcParams) == before


def test_pictures_stay_small(displayed: Displayed) -> None:
    plots.fates(outcome(["done"] * 40 + ["lost"] * 960))
    assert len(base64.b64decode(displayed[0].png)) < 40_000


def test_a_small_picture_keeps_each_colour_that_means_something() -> None:
    """All fates, once each: Pillow alone turns a colour into a similar one that fills more."""
    drawn = figure_module._png(fates_module._draw((outcome([*theme.FATES] + ["lost"] * 900),), 1))
    picture = Image.open(io.BytesIO(drawn))
    kept = {colour for _, colour in picture.convert("RGB").getcolors()}
    meant = {symbol.colour for symbol in theme.FATES.values()} | {"#FFFFFF"}
    assert {tuple(bytes.fromhex(colour[1:])) for colour in meant} <= kept
    assert picture.mode == "P" and len(kept) <= 64


# fates


@pytest.mark.parametrize("fates", [["lost"], ["done"] * 5 + ["lost"] * 195, [*theme.FATES] * 150])
def test_one_mark_a_task(page: Page, fates: list[str]) -> None:
    plots.fates(outcome(fates))
    (panel,) = page.figure.axes
    assert marks(panel) == Counter(fates)
    for fate, count in Counter(fates).items():
        assert f"{count} {fate}" in page.words()
        assert f"{count} {fate}" in page.alt
        assert page.table.loc[fate, "stack"] == count


def test_marks_follow_the_order_of_the_table(page: Page) -> None:
    plots.fates(outcome(["done", "lost", "done"]))
    places = {c.get_gid(): c.get_offsets()[:, 0] for c in page.figure.axes[0].collections[:2]}
    assert places["done"][0] < places["lost"][0] < places["done"][1]


def test_no_two_marks_touch_or_leave_the_panel(page: Page) -> None:
    plots.fates(outcome(["done"] * 2000), outcome(["lost"] * 1999, "b"))
    for panel in page.figure.axes:
        squares = panel.collections[0]
        side = squares.get_sizes()[0] ** 0.5 / 72
        xs = sorted({round(x, 6) for x in squares.get_offsets()[:, 0]})
        assert all(b - a > side for a, b in pairwise(xs))
        assert xs[0] - side / 2 >= 0
        assert xs[-1] + side / 2 <= panel.get_xlim()[1]


def test_beyond_two_thousand_a_square_stands_for_more_and_no_fate_vanishes(page: Page) -> None:
    plots.fates(outcome(["done"] * 2500 + ["lost"] + ["done"] * 2499))
    assert marks(page.figure.axes[0]) == {"done": 1667, "lost": 1}
    assert "One square stands for 3 tasks." in page.words()
    assert "3 tasks" in page.alt
    assert "4,999 done" in page.words()


def test_arms_have_a_panel_and_a_sentence_each(page: Page) -> None:
    broken, repaired = (
        outcome(["lost"] * 3, "cache"),
        outcome(["done"] * 3, "own Redis", "all done"),
    )
    plots.fates(broken, repaired)
    assert [marks(panel) for panel in page.figure.axes] == [{"lost": 3}, {"done": 3}]
    assert "cache: a finding" in page.words() and "own Redis: all done" in page.words()
    assert page.sentence == "cache: survived · 3 accepted\nown Redis: survived · 3 accepted"
    assert page.table.to_dict() == {
        "cache": {"done": 0, "lost": 3},
        "own Redis": {"done": 3, "lost": 0},
    }
    plots.fates(broken, repaired, outcome(["held"], "third"))
    assert len(page.figure.axes) == 3


def test_title_is_the_finding_and_math_signs_stay_text(page: Page) -> None:
    plots.fates(outcome(["lost"], finding="$5 of $9 are lost"))
    assert "$5 of $9 are lost" in page.words()


def test_the_prediction_ends_the_sentence(page: Page) -> None:
    prediction = Prediction()
    plots.fates(outcome(["done"]))
    assert page.sentence == "survived · 1 accepted"
    plots.fates(outcome(["done"]), prediction=prediction)
    said = "survived · 1 accepted · no prediction: the slider was not moved"
    assert page.sentence == said
    prediction.value = 120
    plots.fates(outcome(["done"]), prediction=prediction)
    assert page.sentence == "survived · 1 accepted · you predicted 120"


def test_nothing_to_draw(page: Page) -> None:
    with pytest.raises(ValueError, match="at least one outcome"):
        plots.fates()
    plots.fates(outcome([]))
    assert "no task" in page.words()


def test_a_chart_knows_every_fate_and_in_the_same_order() -> None:
    assert list(theme.FATES) == list(FATES)


def test_each_fate_has_a_shape_of_its_own() -> None:
    shapes = {symbol.shape.vertices.tobytes() for symbol in theme.FATES.values()}
    assert len(shapes) == len(theme.FATES)
    assert all(abs(symbol.shape.vertices).max() == 1 for symbol in theme.FATES.values())


# strips


def history(queue: list[int], limit: int = 5 << 20) -> pandas.DataFrame:
    samples = range(len(queue))
    frame = pandas.DataFrame(
        {
            "seconds": [float(n) for n in samples],
            "memory": [(n + 1) << 20 for n in samples],
            "queue": queue,
            "evicted": [1000 * n for n in samples],
        }
    )
    frame.attrs = {"maxmemory": limit, "faults": [("cache writes", 1.0, 2.0), ("cut", 1.1, 3.0)]}
    return frame


def test_strips_tell_peak_loss_and_evictions(page: Page) -> None:
    plots.strips(history([2048, 2048, 0, 0]), "title")
    assert page.sentence == (
        "peak memory 4.0 MB of 5.0 MB maxmemory · the queue key was gone at 2.0 s · "
        "3,000 keys evicted"
    )
    assert page.sentence in page.alt and "cache writes from 1.0 s to 2.0 s" in page.alt
    memory, queue, evicted = page.figure.axes
    assert [5, 5] in [list(line.get_ydata()) for line in memory.lines]
    assert list(queue.lines[0].get_ydata()) == [2, 2, 0, 0]
    assert list(evicted.lines[0].get_ydata()) == [0, 1000, 2000, 3000]
    assert [len(axes.patches) for axes in page.figure.axes] == [2, 2, 2]
    assert {"cache writes", "cut", "maxmemory", "memory (MB)", "queue key (KB)"} <= set(
        page.words()
    )
    assert list(page.table.loc["queue key (KB)"]) == ["2.0", "2.0", "0.0"]


@pytest.mark.parametrize(
    ("queue", "words"),
    [
        ([0, 9, 9], "the queue key stayed"),
        ([0, 0, 0], "the queue key was never there"),
        ([9, 0, 9], "the queue key was gone at 1.0 s, back later"),
    ],
)
def test_strips_tell_what_the_queue_key_did(page: Page, queue: list[int], words: str) -> None:
    plots.strips(history(queue, limit=0), "title")
    assert words in page.sentence.split(" · ")
    assert "no maxmemory" in page.sentence
    assert "maxmemory" not in page.words()


def test_strips_labels_that_would_collide_stand_on_two_lines(page: Page) -> None:
    plots.strips(history([9, 9, 0, 0]), "title")
    heights = {t.get_text(): t.xyann[1] for t in page.figure.axes[0].texts}
    assert heights["cut"] > heights["cache writes"]


def test_strips_need_a_sample(page: Page) -> None:
    with pytest.raises(ValueError, match="without a sample"):
        plots.strips(history([]), "title")


# sequence


def commands(*rows: tuple[float, str, str, str, str, str]) -> pandas.DataFrame:
    columns = ["seconds", "source", "database", "command", "key", "step"]
    return pandas.DataFrame(rows, columns=columns)


def test_sequence_draws_one_arrow_a_command_in_order_of_time(page: Page) -> None:
    plots.sequence(
        commands(
            (10.0125, "worker", "broker", "BRPOP", "celery", ""),
            (10.0, "producer", "broker", "LPUSH", "celery", "accepted when this returns"),
        ),
        "title",
    )
    words = page.words()
    assert words.index("LPUSH celery") < words.index("BRPOP celery")
    assert {"0.0", "12.5", "accepted when this returns", "producer", "broker", "worker"} <= set(
        words
    )
    assert "result reader" not in words and "result backend" not in words
    push, pop = [line for line in page.figure.axes[0].lines if line.get_marker() in "<>"]
    assert (push.get_marker(), pop.get_marker()) == (">", "<")  # both end at the broker
    assert push.get_color() != pop.get_color()
    assert page.sentence == "2 commands in 12 ms: producer 1, worker 1"
    assert "producer to broker: LPUSH celery; worker to broker: BRPOP celery" in page.alt
    assert page.table.loc["worker", "broker"] == 1


def test_sequence_shortens_long_keys_but_keeps_their_end(page: Page) -> None:
    key = "celery-task-meta-8f5c1e9a-77b0-4a0e-9c1c-1f30a1b2c3d4"
    plots.sequence(
        commands(
            (0.0, "producer", "broker", "LPUSH", "celery", ""),
            (0.1, "worker", "broker", "BRPOP", "celery", ""),
            (0.2, "worker", "result backend", "SETEX", key, "x" * 200),
            (0.3, "result reader", "result backend", "GET", key, ""),
        ),
        "title",
    )
    label = next(text for text in page.words() if text.startswith("SETEX"))
    assert label.endswith("…c3d4") and len(label) < 24


def test_sequence_grows_with_its_commands(page: Page) -> None:
    one = (0.0, "producer", "broker", "PING", "", "")
    plots.sequence(commands(one), "title")
    short = page.figure.get_figheight()
    plots.sequence(commands(*[one] * 40), "title")
    assert page.figure.get_figheight() == pytest.approx(short + 39 * 0.36)
    assert page.words().count("PING") == 40


def test_sequence_refuses_what_has_no_lane(page: Page) -> None:
    with pytest.raises(ValueError, match=r"no lane for \['cache'\]"):
        plots.sequence(commands((0.0, "cache", "broker", "SET", "page", "")), "title")
    with pytest.raises(ValueError, match="no command"):
        plots.sequence(commands(), "title")


# rates


def grid(*groups: str) -> pandas.DataFrame:
    return pandas.DataFrame(
        [
            (label, group, k, 30, k / 60, (k + 30) / 60)
            for label, k in (("noeviction", 0), ("allkeys-lru", 30))
            for group in groups
        ],
        columns=["label", "group", "k", "n", "low", "high"],
    )


def test_rates_draw_a_dot_and_an_interval_for_each_row(page: Page) -> None:
    plots.rates(grid("fresh", "idle"), "title", "runs that lost the queue")
    (axes,) = page.figure.axes
    dots = [line for line in axes.lines if line.get_label() in ("fresh", "idle")]
    assert [list(line.get_xdata()) for line in dots] == [[0, 100], [0, 100]]
    assert len({line.get_marker() for line in dots}) == 2
    assert len({y for line in dots for y in line.get_ydata()}) == 4
    whiskers = [segment[:, 0].tolist() for c in axes.collections for segment in c.get_segments()]
    assert whiskers == [[0, 50], [50, 100]] * 2
    words = page.words()
    assert words.count("0/30") == 2 and words.count("30/30") == 2
    assert {"fresh", "idle", "noeviction", "runs that lost the queue", "100 %"} <= set(words)
    assert "fresh: from 0/30 (noeviction) to 30/30 (allkeys-lru)" in page.sentence
    assert page.table.loc["allkeys-lru", "idle"] == "30/30 (50-100 %)"


def test_rates_without_a_difference(page: Page) -> None:
    table = grid("fresh").assign(k=0)
    plots.rates(table, "title", "x")
    assert page.sentence == "fresh: 0/30 in each row"


@pytest.mark.parametrize("groups", [(), tuple("abcde")])
def test_rates_need_one_to_four_groups(page: Page, groups: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="1 to 4 groups"):
        plots.rates(grid(*groups), "title", "x")


# shares


def left(*groups: str) -> pandas.DataFrame:
    cells = [
        (panel, label, group, share)
        for panel, runs in (("killed", (0.4, 0.6, 1.0)), ("lost", (0.0, 0.004, 0.005)))
        for label, bad in (("snapshot", True), ("log", False))
        for group in groups
        for share in (runs if bad else (1.0, 1.0, 1.0))
    ]
    return pandas.DataFrame(cells, columns=["panel", "label", "group", "share"])


def test_shares_draw_the_median_and_the_range_in_a_panel_each(page: Page) -> None:
    plots.shares(left("waiting", "held"), "title")
    assert [axes.get_title(loc="left") for axes in page.figure.axes] == ["killed", "lost"]
    for axes, middle, ends in zip(page.figure.axes, (60, 0.4), ([40, 100], [0, 0.5]), strict=True):
        dots = [line for line in axes.lines if line.get_gid() in ("waiting", "held")]
        assert [line.get_xdata()[0] for line in dots] == pytest.approx([middle, 100] * 2)
        assert len({line.get_marker() for line in dots}) == 2
        lines = [segment[:, 0].tolist() for c in axes.collections for segment in c.get_segments()]
        assert lines == [pytest.approx(ends), [100, 100]] * 2
    assert {"waiting", "held", "snapshot", "log", "60", "<1"} <= set(page.words())
    assert page.sentence == "all is left in every run after killed: log · after lost: log"
    assert page.table.loc[("snapshot", "held"), "killed"] == "60 % (40 to 100), n 3"
    assert page.table.loc[("log", "held"), "lost"] == "100 %, n 3"
    check_legible(page.figure)


def test_shares_where_nothing_is_left_in_every_run(page: Page) -> None:
    plots.shares(left("waiting").query("label == 'snapshot'"), "title")
    assert page.sentence == "all is left in every run after killed: nowhere · after lost: nowhere"


@pytest.mark.parametrize("groups", [(), tuple("abcd")])
def test_shares_need_one_to_three_groups(page: Page, groups: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="3 groups"):
        plots.shares(left(*groups), "title")


def test_each_chart_is_offered_and_tried() -> None:
    folder = Path(plots.__file__).parent
    charts = [path for path in folder.glob("*.py") if f"\ndef {path.stem}(" in path.read_text()]
    assert sorted(path.stem for path in charts) == sorted(set(plots.__all__) - {"expected"})
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert [path.stem for path in charts if f"plots.{path.stem}(" not in tests] == []
