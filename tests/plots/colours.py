"""How different two colours look, to whom; how well a text stands out."""

import numpy
from matplotlib.colors import to_rgb

# What the eye makes of linear RGB: Machado, Oliveira and Fernandes, "A Physiologically-based Model
# for Simulation of Color Vision Deficiency", IEEE TVCG 15 (6), 2009, at severity 1.0.
VISIONS = {
    "typical": numpy.eye(3),
    "protanopia": numpy.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": numpy.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": numpy.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}
# Linear sRGB to CIE XYZ, white D65 (IEC 61966-2-1). Its middle row is the luminance.
_XYZ = numpy.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)


def _linear(colour: str) -> numpy.ndarray:
    rgb = numpy.array(to_rgb(colour))
    return numpy.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def _lab(rgb: numpy.ndarray) -> numpy.ndarray:
    """CIE L*a*b* of a linear RGB."""
    share = _XYZ @ rgb.clip(0, 1) / _XYZ.sum(axis=1)
    x, y, z = numpy.where(share > (6 / 29) ** 3, numpy.cbrt(share), share * 841 / 108 + 4 / 29)
    return numpy.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def difference(one: str, other: str, vision: str) -> float:
    """CIE 1976 delta E. About 2.3 is just noticeable, side by side."""
    seen = VISIONS[vision]
    return float(numpy.linalg.norm(_lab(seen @ _linear(one)) - _lab(seen @ _linear(other))))


def contrast(one: str, other: str) -> float:
    """The contrast ratio of WCAG 2.2, from 1 to 21. Text needs 4.5, a large symbol 3."""
    low, high = sorted(float(_XYZ[1] @ _linear(colour)) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)
