"""What a chart put on the page, and whether it can be read."""

from collections import Counter
from itertools import combinations

import matplotlib
import numpy
import pandas
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from helpers.plots import figure as figure_module
from tests.plots import colours


class Page:
    """What a chart put on the page."""

    figure: Figure
    alt: str
    sentence: str
    table: pandas.DataFrame

    def show(self, figure: Figure, alt: str, sentence: str, table: pandas.DataFrame) -> None:
        self.figure, self.alt, self.sentence, self.table = figure, alt, sentence, table
        figure_module._png(figure)  # drawing must not fail either

    def words(self) -> list[str]:
        """Each text on the figure."""
        found = [t.get_text() for t in self.figure.findobj(matplotlib.text.Text) if t.get_text()]
        return [" ".join(text.split()) for text in found]


def check_legible(figure: Figure) -> None:
    """No text is under eight points, faint, overlaps another one or leaves the figure."""
    canvas = FigureCanvasAgg(figure)
    drawn: list[Text] = []  # a figure also holds texts that it never draws
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", lambda text, renderer: drawn.append(text))
        canvas.draw()
    texts = [text for text in drawn if text.get_text() and text.get_visible()]
    boxes = [(text.get_text(), text.get_window_extent(canvas.get_renderer())) for text in texts]
    assert min(text.get_fontsize() for text in texts) >= 8
    for text, box in boxes:
        assert box.x0 >= 0 and box.x1 <= figure.bbox.x1, text
        assert box.y0 >= 0 and box.y1 <= figure.bbox.y1, text
    for text, (words, box) in zip(texts, boxes, strict=True):
        assert colours.contrast(text.get_color(), _ground(canvas, text, box)) >= 4.5, words
    for (text, box), (other, its) in combinations(boxes, 2):
        apart = box.x1 < its.x0 or its.x1 < box.x0 or box.y1 < its.y0 or its.y1 < box.y0
        assert apart, f"{text!r} and {other!r}"


def _ground(canvas: FigureCanvasAgg, text: Text, box: Bbox) -> str:
    """What is behind a text, on a canvas without texts: its own patch, or the commonest pixel."""
    if patch := text.get_bbox_patch():
        return to_hex(patch.get_facecolor())
    height = canvas.get_width_height()[1]
    rows = slice(int(height - box.y1), int(height - box.y0) + 1)
    pixels = numpy.asarray(canvas.buffer_rgba())[rows, int(box.x0) : int(box.x1) + 1, :3]
    ((pixel, _),) = Counter(map(tuple, pixels.reshape(-1, 3).tolist())).most_common(1)
    return "#{:02X}{:02X}{:02X}".format(*pixel)
