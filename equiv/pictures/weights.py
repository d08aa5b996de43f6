"""A certificate: which weights differ, by input and output, and the biases in a column of their own."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from equiv.pictures.canvas import Picture, our_style
from equiv.pictures.marks import BLACK, GREY, Sheet, number, shades, size_of
from equiv.text import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_CHANNELS = 64  # whose limits are drawn
_SMALLEST = -8.0  # decimal logarithm of a relative difference that is the lightest


def of_certificate(certificate: Any) -> Picture:
    """Of an :class:`equiv.Certificate`: its differences as marks at output and input, the darker the larger."""
    with our_style():
        head = "EQUIVALENT" if certificate.equivalent else f"NOT CERTIFIED: {certificate.reason}"
        differences = certificate.differences
        sheet = Sheet(head, certificate.explanation, height=3.15 if differences else 0.1)
        sheet.picture.alt = _alt(certificate, head)
        if not differences:
            return sheet.picture
        shape = _shape_of(certificate)
        matrix, bias = sheet.axes(0.75, 0.25, 4.6, 2.3), sheet.axes(5.5, 0.25, 0.35, 2.3)
        last = max(difference.output for difference in differences)
        sizes = [_size(difference.candidate, difference.reference) for difference in differences]
        for axes, of_bias, width in ((matrix, False, math.prod(shape)), (bias, True, 1)):
            marks = [
                (0 if of_bias else one.input, one.output, size)
                for one, size in zip(differences, sizes, strict=True)
                if (one.input is None) == of_bias
            ]
            _draw(axes, marks, (width, last + 1))
        _name(matrix, bias, shape)
        more = certificate.difference_count - len(differences)
        if more > 0:
            said = f"the first {len(differences):,} of {counted(certificate.difference_count, 'difference')}"
            matrix.set_title(said, fontsize=8.5, pad=4)
        legend = sheet.axes(6.15, 0.25, 0.12, 2.3)
        scale = sheet.picture.colorbar(matrix.collections[0], cax=legend, ticks=[-8, -6, -4, -2, 0])
        scale.set_ticklabels(["10⁻⁸", "10⁻⁶", "10⁻⁴", "1 %", "100 %"], fontsize=8)
        legend.set_title("differs by", fontsize=8, pad=4)
        return sheet.picture


def _draw(axes: Axes, marks: list[tuple[int, int, float]], shape: tuple[int, int]) -> None:
    """Squares as large as an entry is, or as can be seen."""
    width, height = axes.get_window_extent().width / axes.figure.dpi, axes.get_window_extent().height / axes.figure.dpi
    side = max(4.0, min(16.0, 64 * width / shape[0], 64 * height / shape[1]))
    x, y, sizes = ([mark[k] for mark in marks] for k in range(3))
    look: dict[str, Any] = {"cmap": shades(), "vmin": _SMALLEST, "vmax": 0, "edgecolors": BLACK, "linewidths": 0.5}
    axes.scatter(x, y, side**2, sizes, marker="s", clip_on=False, zorder=3, **look)
    axes.set_xlim(-0.5, shape[0] - 0.5)
    axes.set_ylim(shape[1] - 0.5, -0.5)
    for spine in axes.spines.values():
        spine.set_visible(True)


def _name(matrix: Axes, bias: Axes, shape: tuple[int, ...]) -> None:
    from matplotlib.ticker import MaxNLocator

    for axis in (matrix.xaxis, matrix.yaxis):
        axis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    matrix.set_xlabel(f"input {' x '.join(map(str, shape))}, flattened", fontsize=8)
    matrix.set_ylabel("output, as far as one differs", fontsize=8)
    positions = math.prod(shape[1:])
    if positions > 1 and shape[0] <= _CHANNELS:
        for channel in range(1, shape[0]):
            matrix.axvline(channel * positions - 0.5, color=GREY, linewidth=0.5)
    bias.set_xticks([0], ["bias"], fontsize=8)
    bias.tick_params(axis="x", length=0)
    bias.set_yticks([])


def _shape_of(certificate: Any) -> tuple[int, ...]:
    """Of the input, as far as is known."""
    try:
        return tuple(int(size) for size in certificate.scope["input"].split("x"))
    except (KeyError, ValueError):
        return (1 + max((one.input or 0) for one in certificate.differences),)


def _size(a: Any, b: Any) -> float:
    """Decimal logarithm of how far apart two values are, relative to the larger; what is no number is as far as can be.

    Example:
        >>> _size(1.0, 1.01) > _size(1.0, 1.0001), _size(1.0, float("nan"))
        (True, 0.0)
    """
    sizes = size_of(a), size_of(b)
    largest = max(sizes)
    if not largest or not all(map(math.isfinite, sizes)):
        return 0.0
    return math.log10(max(10**_SMALLEST, min(1.0, size_of(a / largest - b / largest))))


def _alt(certificate: Any, head: str) -> str:
    text = f"{head}. {certificate.explanation}"
    for one in certificate.differences[:3]:
        where = "the bias" if one.input is None else f"input {one.input:,}"
        text += f" Output {one.output:,}, {where}: {number(one.candidate)} instead of {number(one.reference)}."
    return text
