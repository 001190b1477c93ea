"""Puts a figure on the page, once, with its alt text, one sentence and a small table."""

import base64
import html
import io
from typing import Any

import matplotlib.pyplot as plt
import pandas
from IPython.display import display
from matplotlib.figure import Figure
from PIL import Image

from helpers.plots import theme

_DPI = 144  # 1.5 pixels a screen pixel; an 8 x 3 inch chart stays under 30 KB


class _Picture:
    """A PNG with its alt text.

    JupyterLab drops the alt text of a PNG but prefers HTML, so the HTML twin carries it there.
    GitHub sanitises HTML and shows the PNG. Where there is neither, the alt text is the picture.
    """

    def __init__(self, png: bytes, alt: str, width: int) -> None:
        self.png, self.alt, self.width = base64.b64encode(png).decode("ascii"), alt, width

    def __repr__(self) -> str:
        return f"[figure: {self.alt}]"

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
        image = (
            f'<img alt="{html.escape(self.alt)}" width="{self.width}" '
            f'style="max-width:100%" src="data:image/png;base64,{self.png}">'
        )
        return {"image/png": self.png, "text/html": image}, {"image/png": {"alt": self.alt}}


def _png(figure: Figure) -> bytes:
    """Render with a palette of 256 colours: half the bytes, and no difference to the eye."""
    full, small = io.BytesIO(), io.BytesIO()
    with plt.rc_context(theme.RC):
        figure.savefig(full, format="png", dpi=_DPI)
    Image.open(full).convert("RGB").quantize(256).save(small, format="png", optimize=True)
    return small.getvalue()


def show(figure: Figure, alt: str, sentence: str, table: pandas.DataFrame | None = None) -> None:
    """Display `figure` with `alt`, print `sentence`, display `table`; then close the figure."""
    png = _png(figure)
    plt.close(figure)  # or the notebook draws it a second time at the end of the cell
    display(_Picture(png, alt, width=round(figure.get_figwidth() * 96)))
    print(sentence)
    if table is not None:
        with pandas.option_context("display.max_colwidth", None):  # or a long cell ends in "..."
            display(table)


def shorten(text: str, most: int) -> str:
    """Keep the start and the end: a key's kind is at its start, its id ends differently."""
    if len(text) <= most:
        return text
    return f"{text[: most - 5]}…{text[-4:]}"
