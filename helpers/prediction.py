"""Asks the reader for a number before the run. Nobody has to answer: Run All goes on without."""

from typing import Any

from IPython import get_ipython
from IPython.display import Markdown, display


class Prediction:
    """What the reader predicted. `value` is None until they moved the slider."""

    def __init__(self) -> None:
        self.value: int | None = None

    def text(self, actual: int | None = None) -> str:
        """The prediction in words, beside what came out if `actual` is given."""
        if self.value is None:
            return "no prediction: the slider was not moved"
        words = f"you predicted {self.value:,}"
        return words if actual is None else f"{words}, it was {actual:,}"


def predict(question: str, low: int, high: int) -> Prediction:
    """Ask for a whole number from `low` to `high` with a slider, and return at once.

    Raises ValueError when the bounds are not whole numbers, or leave nothing to choose.
    """
    if type(low) is not int or type(high) is not int:
        raise ValueError(f"low and high must be whole numbers, got {low!r} and {high!r}")
    if low >= high:
        raise ValueError(f"low must be below high, got {low} and {high}")
    prediction = Prediction()
    if getattr(get_ipython(), "kernel", None) is not None:
        _ask(prediction, question, low, high)
    return prediction


def _ask(prediction: Prediction, question: str, low: int, high: int) -> None:
    from ipywidgets import IntSlider, Layout  # here: it costs 0.1 s, and plain Python needs none

    slider = IntSlider(
        value=(low + high) // 2,
        min=low,
        max=high,
        description="your prediction",  # a long question would leave the slider no room
        style={"description_width": "initial"},
        layout=Layout(width="100%", max_width="40em"),
    )

    def moved(change: dict[str, Any]) -> None:
        prediction.value = change["new"]

    slider.observe(moved, names="value")
    display(
        Markdown(
            f"**Predict:** {question} ({low:,} to {high:,}). "
            "Move the slider before you run the next cell (the arrow keys work too)."
        )
    )
    # Where no widget runs, such as on GitHub, this line stands in its place, not the widget's repr.
    bundle = slider._repr_mimebundle_() | {"text/plain": f"[slider: {low:,} to {high:,}]"}
    display(bundle, raw=True)
