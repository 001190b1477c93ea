"""A prediction is made only by moving the slider; nobody has to."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from helpers import prediction as module
from helpers.prediction import Prediction, predict


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Pretend to be in a kernel, and collect what is displayed."""
    shown: list[Any] = []
    monkeypatch.setattr(module, "get_ipython", lambda: SimpleNamespace(kernel=object()))
    monkeypatch.setattr(module, "display", lambda item, **_: shown.append(item))
    return shown


@pytest.fixture
def slider(monkeypatch: pytest.MonkeyPatch, shown: list[Any]) -> list[Any]:
    import ipywidgets

    made: list[Any] = []

    class Recorded(ipywidgets.IntSlider):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            made.append(self)

    monkeypatch.setattr(ipywidgets, "IntSlider", Recorded)
    return made


def test_no_prediction_until_the_slider_moves(slider: list[Any]) -> None:
    guess = predict("orders charged", 0, 200)
    assert guess.value is None
    assert guess.text() == guess.text(5) == "no prediction: the slider was not moved"
    slider[0].value = 120
    assert guess.value == 120
    assert guess.text() == "you predicted 120"
    assert guess.text(5) == "you predicted 120, it was 5"
    slider[0].value = 0
    assert guess.text(5) == "you predicted 0, it was 5"


def test_the_page_names_question_range_and_what_to_do(slider: list[Any], shown: list[Any]) -> None:
    predict("orders charged", 0, 2000)
    text, bundle = shown
    assert "orders charged (0 to 2,000)" in text.data
    assert "Move the slider before you run the next cell" in text.data
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert bundle["text/plain"] == "[slider: 0 to 2,000]"
    assert slider[0].description == "your prediction"
    assert (slider[0].min, slider[0].max) == (0, 2000)


def test_plain_python_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    guess = predict("orders charged", 0, 200)
    assert isinstance(guess, Prediction) and guess.value is None
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (5, 5, "low must be below high"),
        (9, 5, "low must be below high"),
        (0, 1.5, "whole numbers"),
        ("0", 5, "whole numbers"),
        (False, 5, "whole numbers"),
    ],
)
def test_bad_bounds(low: Any, high: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        predict("orders charged", low, high)


@pytest.mark.timeout(60)
def test_a_run_without_a_reader_goes_on() -> None:
    """In a real kernel: the widget is made, the next cell runs, and the figure has both forms."""
    cells = [
        "from helpers.prediction import predict\nguess = predict('orders charged', 0, 200)",
        "from matplotlib import pyplot\nfrom helpers.plots.figure import show\n"
        "show(pyplot.figure(), 'alt <text>', 'sentence')\nassert guess.value is None",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    root = {"metadata": {"path": str(Path(__file__).parents[1])}}
    NotebookClient(notebook, timeout=50, kernel_name="python3", resources=root).execute()

    asked, drawn = (cell.outputs for cell in notebook.cells)
    assert "Move the slider" in asked[0].data["text/markdown"]
    assert "application/vnd.jupyter.widget-view+json" in asked[1].data

    pictures = [output for output in drawn if "image/png" in output.get("data", {})]
    assert len(pictures) == 1  # not a second time at the end of the cell
    assert 'alt="alt &lt;text&gt;"' in pictures[0].data["text/html"]
    assert pictures[0].metadata["image/png"]["alt"] == "alt <text>"
    assert [output.text for output in drawn if output.output_type == "stream"] == ["sentence\n"]
