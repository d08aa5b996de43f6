"""What pictures share: colours that the colour-blind tell apart, hatches for those who see grey, numbers in words."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING, Any

from equiv.pictures.canvas import Picture
from equiv.text import quoted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap

BLACK, GREY, PALE, WHITE = "#1a1a1a", "#767676", "#dfe6ec", "#ffffff"
BLUE, GREEN, RED, YELLOW = "#56b4e9", "#a6dcc6", "#d55e00", "#f0e442"  # of Okabe and Ito's palette, green paler

OUTCOMES = {
    "identical": (GREEN, "", "s"),
    "rounding": (BLUE, "///", "o"),
    "different": (RED, "xxx", "X"),
    "undecided": (YELLOW, "---", "D"),
}
"""Colour, hatch and marker of each outcome."""

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def power_of_ten(exponent: int) -> str:
    """A power of ten as an axis shows it.

    Example:
        >>> power_of_ten(2), power_of_ten(-12)
        ('100', '10⁻¹²')
    """
    return f"{10**exponent:,}" if 0 <= exponent <= 3 else "10" + str(exponent).translate(_RAISED)


def size_of(value: Any) -> Any:
    """The absolute value; infinite where that of a complex number overflows.

    Example:
        >>> size_of(-3), size_of(3 + 4j), size_of(complex(1.7e308, 1.7e308))
        (3, 5.0, inf)
    """
    return math.hypot(value.real, value.imag) if isinstance(value, complex) else abs(value)


def number(value: Any, digits: int = 9) -> str:
    """A value in few characters; None is unknown.

    Example:
        >>> number(0.1), number(1 - 2j), number(float("nan")), number(None)
        ('0.1', '1-2j', 'NaN', 'unknown')
    """
    if value is None:
        return "unknown"
    if isinstance(value, complex):
        return f"{number(value.real, digits)}{'' if value.imag < 0 else '+'}{number(value.imag, digits)}j"
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else f"{value:.{digits}g}".replace("inf", "infinity")
    return str(value) if len(str(value)) < 24 else f"{str(value)[:12]}... ({len(str(value))} digits)"


def shades() -> Colormap:
    """From light to dark, also in grey."""
    from matplotlib import colormaps

    return colormaps["cividis_r"]


class Sheet:
    """A picture under a headline, laid out in inches from its upper left corner.

    Args:
        headline: In bold.
        text: What was found, shown in at most three lines.
        height: What is needed below them.
        width: Of all.
    """

    def __init__(self, headline: str, text: str, *, height: float, width: float = 7.0) -> None:
        columns = round(14.6 * width)
        lines = textwrap.wrap(quoted(text, 2000), columns)
        if len(lines) > _LINES:
            rest = textwrap.shorten(" ".join(lines[_LINES - 1 :]), columns, placeholder=" ...")
            lines = [*lines[: _LINES - 1], rest]
        self.top = 0.42 + 0.155 * len(lines)
        self.width, self.height = width, self.top + height
        self.picture = Picture(figsize=(self.width, self.height))
        left, top = 0.1 / self.width, 1 - 0.1 / self.height
        self.picture.text(left, top, headline, va="top", weight="bold", fontsize=11)
        self.picture.text(left, top - 0.26 / self.height, "\n".join(lines), va="top", fontsize=8.5, linespacing=1.25)

    def axes(self, left: float, down: float, width: float, height: float) -> Axes:
        """Axes whose upper left corner is so far from the left edge and from the text above."""
        bottom = self.height - self.top - down - height
        return self.picture.add_axes(
            (left / self.width, bottom / self.height, width / self.width, height / self.height)
        )


_LINES = 3
