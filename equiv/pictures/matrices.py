"""A counterexample: the dense matrix of a layer beside that of the closest 1x1 convolution, the witness marked."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from equiv.pictures.canvas import Picture, our_style
from equiv.pictures.marks import BLACK, GREY, RED, WHITE, Sheet, number
from equiv.text import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.image import AxesImage

_SIDE = 2.55  # inches of a matrix
_SPELLED = 8  # rows and columns of a matrix whose entries are written into it
_CHARACTERS = 50  # of a row


def of_counterexample(found: Any) -> Picture:
    """Of an :class:`equiv.Counterexample`: W beside K (x) I around the entry that differs, which is framed.

    An entry of 0 is white, so that the pattern is seen that a 1x1 convolution cannot leave; complex entries are shown
    by their size.
    """
    with our_style():
        head = "EQUIVALENT" if found.equivalent else "NOT EQUIVALENT"
        matrices = [_plain(matrix) for matrix in (found.window.layer, found.window.conv)]
        largest = max((abs(value) for matrix in matrices for row in matrix for value in row), default=0) or 1
        rows, columns = found.window.layer.shape
        width, height = (max(0.3, _SIDE * min(1.0, ratio)) for ratio in (columns / rows, rows / columns))
        sheet = Sheet(head, f"{found.reason}.", height=height + 1.25)
        for left, matrix, title, value in zip((0.85, 4.1), matrices, _titles(found), _values(found), strict=True):
            axes = sheet.axes(left, 0.55, width, height)
            shades = _draw(axes, matrix, largest)
            axes.set_title(title, fontsize=8.5, pad=16)
            _frame(axes, found, value)
        axes.tick_params(axis="y", labelleft=False)
        legend = sheet.axes(0.85, height + 0.85, _SIDE, 0.1)
        sheet.picture.colorbar(shades, cax=legend, orientation="horizontal", ticks=[-1, 0, 1])
        legend.set_xticklabels([number(sign * float(largest), 3) for sign in (-1, 0, 1)], fontsize=8)
        legend.set_title("entries; 0 is white", fontsize=8, pad=3)
        if (rows, columns) != (found.out_features, found.in_features):
            sheet.axes(4.1, height + 0.75, _SIDE, 0.3).set_axis_off()
            sheet.picture.axes[-1].text(0, 0, _section(found), fontsize=8)
        sheet.picture.alt = _alt(found, head)
        return sheet.picture


def _draw(axes: Axes, matrix: list[list[Any]], largest: Any) -> AxesImage:
    """The entries as shades, and in words where they are few and short."""
    shares = [[entry / largest if entry else math.nan for entry in row] for row in matrix]
    shades = axes.imshow(shares, cmap=_colours(), vmin=-1, vmax=1, interpolation="none", aspect="auto")
    decimals = 1 - math.floor(math.log10(largest))
    form = f".{decimals}f" if 0 <= decimals <= 3 else ".2g"
    columns = len(matrix[0])
    words = [(x, y, f"{entry:{form}}" if entry else "0") for y, row in enumerate(matrix) for x, entry in enumerate(row)]
    if max(len(matrix), columns) <= _SPELLED and max(len(text) for *_, text in words) * columns <= _CHARACTERS:
        for x, y, text in words:
            colour = WHITE if shares[y][x] < 0.25 else BLACK  # not where it is 0, and so NaN
            axes.text(x, y, text, ha="center", va="center", fontsize=6, color=colour)
    return shades


def _section(found: Any) -> str:
    window, (rows, columns) = found.window, found.window.layer.shape
    return (
        f"rows {window.row:,} to {window.row + rows - 1:,} of {found.out_features:,},\n"
        f"columns {window.column:,} to {window.column + columns - 1:,} of {found.in_features:,}"
    )


def _plain(matrix: Any) -> list[list[Any]]:
    """Real entries; of complex ones the size."""
    return (matrix.abs() if matrix.is_complex() else matrix).tolist()  # type: ignore[no-any-return]


def _titles(found: Any) -> tuple[str, str]:
    hw = math.prod(found.feature_shape[1:])
    conv = f"K (x) I_{hw}, the closest 1x1 conv"
    return "W, the layer", conv if found.readout == "positions" else f"the closest 1x1 conv, {found.readout} over map"


def _values(found: Any) -> tuple[str, str]:
    """The entry that the witness reads in both matrices, in as many digits as it takes to see them differ."""
    if found.entry is None:
        return "", ""
    at = found.entry[0] - found.window.row, found.entry[1] - found.window.column
    a, b = found.window.layer[at].item(), found.window.conv[at].item()
    digits = next((digits for digits in (4, 9) if number(a, digits) != number(b, digits)), 17)
    return number(a, digits), number(b, digits)


def _colours() -> Colormap:
    """From dark to light as from negative to positive, also in grey; what is not there is white."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    shades = ListedColormap(colormaps["cividis"]([step / 255 * 0.88 for step in range(256)]))
    return shades.with_extremes(bad=WHITE)


def _frame(axes: Axes, found: Any, value: str) -> None:
    """Lines between channels, and a frame around the entry that the witness reads, with its place in words."""
    from matplotlib.patches import Rectangle

    window, hw = found.window, math.prod(found.feature_shape[1:])
    rows, columns = window.layer.shape
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(True)
    if hw > 1:
        for column in range(-window.column % hw, columns, hw):
            axes.axvline(column - 0.5, color=GREY, linewidth=0.5)
        for row in range(-window.row % hw, rows if found.readout == "positions" else 0, hw):
            axes.axhline(row - 0.5, color=GREY, linewidth=0.5)
    if found.entry is None:
        return
    row, column = found.entry[0] - window.row, found.entry[1] - window.column
    spare = 0.0 if max(rows, columns) <= 2 * _SPELLED else max(rows, columns) / 40  # a small entry must be seen inside
    corner, side = (column - 0.5 - spare, row - 0.5 - spare), 1 + 2 * spare
    for colour, wide in ((WHITE, 4.0), (RED, 2.2)):
        frame = Rectangle(corner, side, side, fill=False, edgecolor=colour, linewidth=wide, zorder=4, clip_on=False)
        axes.add_patch(frame)
    axes.set_xticks([column], [f"x{list(found.witness_index)} = 1 reads {value}"], fontsize=8)
    axes.xaxis.tick_top()
    label = axes.get_xticklabels()[0]
    label.set_horizontalalignment("left" if column < columns / 2 else "right")
    axes.set_yticks([row], [f"output\n{list(found.output_index)}"], fontsize=8)


def _alt(found: Any, head: str) -> str:
    rows, columns = found.window.layer.shape
    text = (
        f"{head}: {found.reason}. Heat maps of {rows} x {columns} entries of the layer's weight W and, beside it, of "
    )
    text += "the closest 1x1 convolution as a dense matrix"
    if found.entry is not None:
        mine, other = _values(found)
        text += f"; framed, row {found.entry[0]}, column {found.entry[1]}: {mine} and {other}"
    return f"{text}. The layer has {counted(found.layer_weights, 'weight')}, the convolution {found.conv_weights:,}."
