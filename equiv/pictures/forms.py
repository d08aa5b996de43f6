"""The three forms of one layer: rows of numbers, a kernel as large as the map, and a 1x1 kernel over all features."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from equiv.pictures.canvas import Picture, our_style
from equiv.pictures.marks import BLACK, BLUE, GREY, RED, WHITE, YELLOW

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_CELL = 0.25  # inches
_CHANNELS = (YELLOW, BLUE)
_ALT = (
    "One layer in three forms, each with the same 8 numbers in, called 0 to 7, and 3 numbers out. Left, linear: a row "
    "of 8 numbers, weight (3, 8). Middle, full: the 8 numbers as a map of 2 channels, 2 high and 2 wide, and a kernel "
    "as large as the map, weight (3, 2, 2, 2). Right, pointwise: the 8 numbers as 8 channels of one position, and a "
    "1x1 kernel, weight (3, 8, 1, 1). In each, output o is the sum over i of w[o, i] times x[i], plus b[o]."
)


def of_forms() -> Picture:
    """One layer over a map of 2 channels of 2 x 2 as ``linear``, ``full`` and ``pointwise``: the same sums."""
    with our_style():
        picture = Picture(figsize=(8.0, 3.0))
        picture.alt = _ALT
        axes = picture.add_axes((0, 0, 1, 1))
        axes.set_xlim(0, 8.0)
        axes.set_ylim(0, 3.0)
        axes.set_axis_off()
        for middle, draw in ((1.4, _linear), (4.0, _full), (6.6, _pointwise)):
            draw(axes, middle)
        _say(axes, 4.0, 0.42, "framed: the kernel, and the output that it gives", size=8)
        _say(axes, 4.0, 0.17, "the same sum in each:  y[o] = w[o, 0] x[0] + ... + w[o, 7] x[7] + b[o]", size=9.5)
        return picture


def _linear(axes: Axes, middle: float) -> None:
    _head(axes, middle, "linear", "8 numbers in a row", "weight (3, 8)")
    corners = [(middle + (number - 4) * _CELL, 1.6) for number in range(8)]
    for number, corner in enumerate(corners):
        _cell(axes, corner, number)
    _frame(axes, corners[0], (8 * _CELL, _CELL))
    _outputs(axes, middle, [(x + _CELL / 2, y) for x, y in corners])


def _full(axes: Axes, middle: float) -> None:
    _head(axes, middle, "full", "2 channels of 2 x 2, kernel 2 x 2", "weight (3, 2, 2, 2)")
    ends = []
    for channel, x in enumerate((middle - 2.4 * _CELL, middle + 0.4 * _CELL)):
        for number in range(4):
            down, across = divmod(number, 2)
            _cell(axes, (x + across * _CELL, 1.5 + (1 - down) * _CELL), 4 * channel + number)
        _frame(axes, (x, 1.5), (2 * _CELL, 2 * _CELL))
        ends += [(x + _CELL * part, 1.5) for part in (0.25, 0.75, 1.25, 1.75)]
    _outputs(axes, middle, ends)


def _pointwise(axes: Axes, middle: float) -> None:
    _head(axes, middle, "pointwise", "8 channels of 1 x 1, kernel 1 x 1", "weight (3, 8, 1, 1)")
    corners = [(middle + (number - 4) * 0.78 * _CELL, 1.5 + number * 0.06) for number in range(8)]
    for number in range(8)[::-1]:
        _frame(axes, corners[number], (_CELL, _CELL), spare=0.02)
        _cell(axes, corners[number], number)
    _outputs(axes, middle, [(x + _CELL / 2, y) for x, y in corners])


def _head(axes: Axes, middle: float, name: str, *lines: str) -> None:
    _say(axes, middle, 2.83, name, size=11, weight="bold")
    for number, line in enumerate(lines):
        _say(axes, middle, 2.59 - 0.19 * number, line, size=8)


def _cell(axes: Axes, corner: tuple[float, float], number: int) -> None:
    """One number of the input, in the colour of its channel."""
    from matplotlib.patches import Rectangle

    colour = _CHANNELS[number // 4]
    axes.add_patch(Rectangle(corner, _CELL, _CELL, facecolor=colour, edgecolor=BLACK, linewidth=0.8))
    _say(axes, corner[0] + _CELL / 2, corner[1] + _CELL / 2, str(number), size=8)


def _frame(axes: Axes, corner: tuple[float, float], size: tuple[float, float], spare: float = 0.04) -> None:
    """What the kernel covers of one channel."""
    from matplotlib.patches import Rectangle

    place = corner[0] - spare, corner[1] - spare
    sides = size[0] + 2 * spare, size[1] + 2 * spare
    axes.add_patch(Rectangle(place, *sides, fill=False, edgecolor=RED, linewidth=1.8))


def _outputs(axes: Axes, middle: float, ends: list[tuple[float, float]]) -> None:
    """Three numbers out; the weights of the first as lines."""
    from matplotlib.patches import Rectangle

    for number, x in enumerate(_spread(middle)):
        edge = RED if number == 0 else BLACK
        if number == 0:
            for end in ends:
                axes.plot([x + _CELL / 2, end[0]], [0.6 + _CELL, end[1] - 0.04], color=GREY, linewidth=0.8, zorder=0)
        wide = 1.8 if number == 0 else 0.8
        axes.add_patch(Rectangle((x, 0.6), _CELL, _CELL, facecolor=WHITE, edgecolor=edge, linewidth=wide))
        _say(axes, x + _CELL / 2, 0.6 + _CELL / 2, f"y{number}", size=8)


def _spread(middle: float) -> Iterator[float]:
    for number in range(3):
        yield middle + (number - 1) * 1.6 * _CELL - _CELL / 2


def _say(axes: Axes, x: float, y: float, text: str, *, size: float, weight: str = "normal") -> None:
    axes.text(x, y, text, ha="center", va="center", fontsize=size, fontweight=weight)
