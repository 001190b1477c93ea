"""Colours, symbols and type of all charts. A symbol alone tells the fate; the colour repeats it."""

import math
from dataclasses import dataclass
from typing import Any

from matplotlib.path import Path

WIDTH = 8.0  # inches: fills a notebook cell, and needs no scrolling on a small screen

INK = "#222222"
QUIET = "#666666"
BAND = "#F1F3F5"

# Okabe and Ito's palette, which colour-blind readers can tell apart (see tests/test_colours.py).
BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, BLACK, GREY = "#E69F00", "#56B4E9", "#000000", "#767676"

# The same hues, dark enough for thin lines and for white text on them. A lighter green would be
# DEEP_PURPLE without the cones for green, and BLUE without those for blue.
DEEP_VERMILION, DEEP_GREEN, DEEP_PURPLE = "#B34E00", "#005229", "#8C3B69"

# The finding, above each chart.
TITLE: dict[str, Any] = {"va": "top", "weight": "bold", "size": 11, "linespacing": 1.3}

RC: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # ships with matplotlib, so each machine draws the same
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.5,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "axes.facecolor": "white",
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "text.parse_math": False,  # a dollar sign in a reader's text is a dollar sign
}

Ring = list[tuple[float, float]]


@dataclass(frozen=True)
class Symbol:
    """How a fate or an outcome is drawn: a filled outline in the square from -1 to 1, a colour."""

    shape: Path
    colour: str


def _shape(*rings: Ring) -> Path:
    """One path of closed rings: anticlockwise ones are filled, clockwise ones are holes."""
    return Path.make_compound_path(*(Path([*ring, ring[0]], closed=True) for ring in rings))


def _box(left: float, bottom: float, right: float, top: float) -> Ring:
    return [(left, bottom), (right, bottom), (right, top), (left, top)]


def _bar(start: tuple[float, float], end: tuple[float, float], width: float = 0.3) -> Ring:
    (x0, y0), (x1, y1) = start, end
    half = width / 2 / math.hypot(x1 - x0, y1 - y0)
    x, y = -(y1 - y0) * half, (x1 - x0) * half
    return [(x0 - x, y0 - y), (x1 - x, y1 - y), (x1 + x, y1 + y), (x0 + x, y0 + y)]


def _disc(radius: float) -> Ring:
    angles = [2 * math.pi * step / 32 for step in range(32)]
    return [(radius * math.cos(angle), radius * math.sin(angle)) for angle in angles]


_FULL = _box(-1, -1, 1, 1)
_FRAME = (_FULL, _box(-0.78, -0.78, 0.78, 0.78)[::-1])
_COPY = [(-0.4, 0.65), (0.65, 0.65), (0.65, -0.4), (1, -0.4), (1, 1), (-0.4, 1)]
_RISING = _bar((-0.85, -0.85), (0.85, 0.85))
_FALLING = _bar((-0.85, 0.85), (0.85, -0.85))

# Square: the broker took the task. Round: the publish raised. In the order in which fates are told.
FATES: dict[str, Symbol] = {
    "done": Symbol(_shape(_FULL), BLUE),
    "duplicated": Symbol(_shape(_box(-1, -1, 0.4, 0.4), _COPY), ORANGE),
    "lost": Symbol(_shape(*_FRAME, _RISING, _FALLING), VERMILION),
    "stranded": Symbol(_shape([(-1, 1), (0, 0), (1, 1)], [(-1, -1), (1, -1), (0, 0)]), DEEP_PURPLE),
    "held": Symbol(_shape(*_FRAME, _disc(0.42)), GREEN),
    "queued": Symbol(
        _shape(_box(-1, 0.6, 1, 1), _box(-1, -0.2, 1, 0.2), _box(-1, -1, 1, -0.6)), SKY
    ),
    "failed": Symbol(_shape([(-1, -1), (1, -1), (0, 1)]), BLACK),
    "discarded": Symbol(_shape(*_FRAME, _RISING), GREY),
    "refused": Symbol(_shape(_disc(1), _box(-0.65, -0.24, 0.65, 0.24)[::-1]), VERMILION),
    "recovered": Symbol(_shape(_disc(1)), GREEN),
    "unexpected": Symbol(
        _shape([(1, 0), (0, 1), (-1, 0), (0, -1)], [(0.45, 0), (0, -0.45), (-0.45, 0), (0, 0.45)]),
        PURPLE,
    ),
}

# How a chord or chain ended, or did not. No frame: a square is a task that the broker took.
OUTCOMES: dict[str, Symbol] = {
    "fired": Symbol(
        _shape([(-1, -0.05), (-0.3, -0.85), (1, 0.6), (0.7, 0.9), (-0.3, -0.2), (-0.7, 0.25)]), BLUE
    ),
    "error": Symbol(
        _shape(
            [(-1, -0.9), (1, -0.9), (0, 1)],
            _box(-0.14, -0.2, 0.14, 0.4)[::-1],
            _box(-0.14, -0.7, 0.14, -0.42)[::-1],
        ),
        BLACK,
    ),
    "told": Symbol(
        _shape(
            [(-1, -0.3), (-0.6, -0.3), (-0.6, -1), (0.1, -0.3), (1, -0.3), (1, 0.9), (-1, 0.9)],
            _box(-0.6, 0.15, 0.6, 0.45)[::-1],
        ),
        SKY,
    ),
    "hung": Symbol(
        _shape(_bar((-0.8, -0.8), (0.8, 0.8), 0.5), _bar((-0.8, 0.8), (0.8, -0.8), 0.5)), VERMILION
    ),
    "stuck": Symbol(_shape(_box(-0.8, -0.9, -0.2, 0.9), _box(0.2, -0.9, 0.8, 0.9)), DEEP_PURPLE),
    "late": Symbol(
        _shape(
            _disc(1),
            [(-0.15, 0.7), (0.15, 0.7), (0.15, 0.1), (0.6, 0.1), (0.6, -0.2), (-0.15, -0.2)],
        ),
        ORANGE,
    ),
}
