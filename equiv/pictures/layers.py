"""A diagnosis: the error of each pair of layers as a share of its bound, and how far the models part as they run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from equiv.pictures.canvas import Picture, our_style
from equiv.pictures.marks import BLACK, GREY, OUTCOMES, PALE, Sheet, number, power_of_ten
from equiv.text import quoted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ROW = 0.19  # inches of a row that has a name
_TALLEST = 6.0  # inches of all of them


def of_diagnosis(diagnosis: Any) -> Picture:
    """Of an :class:`equiv.Diagnosis`: a row for each pair of layers in the order in which they are called.

    To the left its error on the reference's own input, where 1 is the bound; to the right how far the two models are
    apart there when each is fed its own results, as a share of the largest value.
    """
    with our_style():
        layers = diagnosis.layers
        height = min(_TALLEST, max(3, len(layers)) * _ROW) if layers else -1.0
        sheet = Sheet(diagnosis.outcome.name, diagnosis.explanation, height=height + 0.95)
        sheet.picture.alt = _alt(diagnosis)
        if not layers:
            return sheet.picture
        free = [_share_apart(layer) for layer in layers]
        alone = sheet.axes(2.15, 0.25, 2.6 if any(free) else 4.6, height)
        _draw(alone, [_error(layer) for layer in layers], [layer.verdict.outcome.value for layer in layers])
        alone.axvline(0, color=BLACK, linewidth=1.2, linestyle="--")
        alone.set_title("error on the reference's input: 1 is the bound", fontsize=8, pad=4)
        _name_rows(alone, diagnosis, height)
        places = [alone]
        if any(free):
            apart = sheet.axes(5.05, 0.25, 1.75, height)
            _draw(apart, free, None)
            apart.set_yticks([])
            apart.set_title("apart when run freely (share)", fontsize=8, pad=4)
            places.append(apart)
        at = _first_of(diagnosis)
        for axes in places:
            axes.set_ylim(len(layers) - 0.4, -0.6)
            if at is not None:
                axes.axhspan(at - 0.5, at + 0.5, color=PALE, zorder=0)
        sheet.picture.legend(loc="lower left", ncols=4, fontsize=8, handletextpad=0.2)
        return sheet.picture


def _draw(axes: Axes, values: Sequence[float | None], outcomes: Sequence[str] | None) -> None:
    """Values on a line of decades; none, zero and infinity stand at its ends, in places of their own."""
    finite = [math.log10(value) for value in values if value and math.isfinite(value)]
    low, high = math.floor(min([*finite, -1.0])), math.ceil(max([*finite, 0.5 if outcomes else -1.0]))
    low = max(low, -12)
    high = max(low + 1, min(high, 12))
    places = [_place(value, low, high) for value in values]
    rows = range(len(values))
    ends = [(end, row) for row in rows for end in (low - 2.0, places[row], math.nan)]
    axes.plot(*zip(*ends, strict=True), color=GREY, linewidth=0.5, zorder=1)
    if outcomes is None:
        axes.plot(places, rows, ".-", color=BLACK, linewidth=1.0, markersize=4)
    for name, (colour, _, marker) in OUTCOMES.items():
        of = [row for row in rows if outcomes is not None and outcomes[row] == name]
        if of:
            look: dict[str, Any] = {"color": colour, "markeredgecolor": BLACK, "markeredgewidth": 0.6, "label": name}
            axes.plot([places[row] for row in of], of, marker, linestyle="", markersize=6, clip_on=False, **look)
    step = -(-(high - low) // (6 if outcomes else 3))
    ticks = [(float(decade), power_of_ten(decade)) for decade in range(low, high + 1) if decade % step == 0]
    ticks += [(low - 1.0, "0")] * any(value == 0 for value in values)
    ticks += [(low - 2.0, "none")] * any(value is None for value in values)
    ticks += [(high + 1.0, "∞")] * any(value is not None and not value <= 1e12 for value in values)
    axes.set_xticks([place for place, _ in ticks], [text for _, text in ticks], fontsize=8)
    shown = [low, high, *(place for place, _ in ticks)]
    axes.set_xlim(min(shown) - 0.4, max(shown) + 0.4)


def _place(value: float | None, low: float, high: float) -> float:
    """On the line of decades; NaN is as far out as infinity."""
    if value is None:
        return low - 2.0
    if not value:
        return low - 1.0
    return max(low, math.log10(value)) if value <= 1e12 else high + 1.0


def _error(layer: Any) -> float | None:
    """As a share of its bound; what has the same bits has none."""
    return 0.0 if layer.bound is None and layer.verdict.outcome.value == "identical" else layer.bound


def _name_rows(axes: Axes, diagnosis: Any, height: float) -> None:
    """All names where there is room; else those that matter, as close as can be read."""
    layers, at = diagnosis.layers, _first_of(diagnosis)
    apart = math.ceil(len(layers) * _ROW / height * 0.95)
    grave = [row for row, layer in enumerate(layers) if not layer.verdict.outcome.equivalent]
    kept: list[int] = []
    for row in (*([] if at is None else [at]), *grave, 0, len(layers) - 1, *range(len(layers))):
        if all(abs(row - other) >= apart for other in kept):
            kept.append(row)
    axes.set_yticks(kept, [_name(layers[row]) for row in kept], fontsize=8)
    axes.tick_params(axis="y", length=0)
    for row, label in zip(kept, axes.get_yticklabels(), strict=True):
        label.set_fontweight("bold" if row == at else "normal")


def _name(layer: Any) -> str:
    name = quoted({"input": "before ", "output": "(output) "}.get(layer.kind, "") + layer.candidate, 400)
    return name if len(name) <= 30 else f"...{name[-27:]}"


def _first_of(diagnosis: Any) -> int | None:
    first = diagnosis.first_difference
    return next((row for row, layer in enumerate(diagnosis.layers) if layer is first), None)


def _share_apart(layer: Any) -> float | None:
    """How far the models are apart after a layer, as a share of its largest value."""
    if layer.inherited is None or layer.size is None:
        return None
    if layer.inherited == 0:
        return 0.0
    return float(layer.inherited / layer.size) if layer.size else math.inf


def _alt(diagnosis: Any) -> str:
    text = f"{diagnosis.outcome.name}: {diagnosis.explanation} The error of each of {len(diagnosis.layers):,} rows"
    text += " against its bound"
    at = _first_of(diagnosis)
    if at is not None:
        layer = diagnosis.layers[at]
        text += f"; the first that differs on its own is row {at + 1:,}, {_name(layer)}, at {number(layer.bound, 3)}"
    return text + "."
