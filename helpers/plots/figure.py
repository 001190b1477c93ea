"""Puts a figure on the page, once, with its alt text, one sentence and a small table."""

import base64
import html
import io
import textwrap
from typing import Any

import matplotlib.pyplot as plt
import numpy
import pandas
from IPython.display import display
from matplotlib.figure import Figure
from PIL import Image

from helpers.plots import theme

_DPI = 120  # 1.25 pixels a screen pixel; an 8 x 3 inch chart stays under 20 KB


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
    """Render with a small palette: half the bytes, and no difference to the eye."""
    full, small = io.BytesIO(), io.BytesIO()
    with plt.rc_context(theme.RC):
        figure.savefig(full, format="png", dpi=_DPI)
    _few_colours(Image.open(full).convert("RGB")).save(small, format="png", optimize=True)
    return small.getvalue()


def _few_colours(image: Image.Image) -> Image.Image:
    """The same picture in at most 64 colours. A colour with a meaning stays exactly what it was.

    Pillow alone would merge the colour of a small mark with a similar one: it counts pixels. So
    what fills an area, however small, comes first, and Pillow chooses 24 more for the soft edges.
    """
    pixels = numpy.asarray(image).astype(int) @ numpy.array((1 << 16, 1 << 8, 1))
    corner = pixels[1:, 1:]
    inside = (
        (corner == pixels[:-1, 1:]) & (corner == pixels[1:, :-1]) & (corner == pixels[:-1, :-1])
    )
    areas, sizes = numpy.unique(corner[inside], return_counts=True)
    areas = areas[numpy.argsort(-sizes)[:40]]
    edges = numpy.reshape(image.quantize(24).getpalette() or [], (-1, 3))[:24]
    palette = numpy.vstack([numpy.stack([areas >> 16, areas >> 8 & 255, areas & 255], 1), edges])

    colours, places = numpy.unique(pixels, return_inverse=True)
    each = numpy.stack([colours >> 16, colours >> 8 & 255, colours & 255], 1)
    nearest = ((each[:, None] - palette) ** 2).sum(-1).argmin(1).astype("uint8")
    small = Image.fromarray(nearest[places].reshape(pixels.shape))
    small.putpalette(palette.astype("uint8").tobytes())
    return small


def show(figure: Figure, alt: str, sentence: str, table: pandas.DataFrame | None = None) -> None:
    """Display `figure` with `alt`, print `sentence`, display `table`; then close the figure."""
    png = _png(figure)
    plt.close(figure)  # or the notebook draws it a second time at the end of the cell
    display(_Picture(png, alt, width=round(figure.get_figwidth() * 96)))
    print(sentence)
    if table is not None:
        with pandas.option_context("display.max_colwidth", None):  # or a long cell ends in "..."
            display(table)


def wrapped(title: str) -> tuple[str, float]:
    """The title in lines that fit on a chart, and how many inches they take."""
    text = textwrap.fill(title, 76)
    return text, 0.22 * (text.count("\n") + 1)


def shorten(text: str, most: int) -> str:
    """Keep the start and the end: a key's kind is at its start, its id ends differently."""
    if len(text) <= most:
        return text
    return f"{text[: most - 5]}…{text[-4:]}"
