"""A verdict: how many outputs came to what, and the one that decides, on a number line with what right kernels give."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from equiv.pictures.canvas import Picture, our_style
from equiv.pictures.marks import BLACK, BLUE, GREY, OUTCOMES, PALE, RED, WHITE, Sheet, number, power_of_ten, size_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_CLOSE = {
    **dict.fromkeys(("float64", "complex128"), (1e-7, 1e-7)),
    **dict.fromkeys(("float32", "complex64"), (1.3e-6, 1e-5)),
    **dict.fromkeys(("float16", "complex32"), (1e-3, 1e-5)),
    "bfloat16": (1.6e-2, 1e-5),
}
"""``rtol`` and ``atol`` that ``torch.testing.assert_close`` takes by default; 0 for integers."""

_LINE_HEIGHT = 1.95
_SPARE = 3.0  # how far beyond the results what assert_close accepts is followed
_FAR = Fraction(10**6)  # places beyond are no longer told apart
_LINEAR = 20.0  # beyond so many units the line has a decade for each tick


@dataclass(frozen=True)
class _Part:
    """The real numbers of an output, or those of its real or imaginary part; None where unknown.

    ``digits`` are shown of each, ``tolerance`` is how far from ``expected`` ``assert_close`` goes, ``accepts`` whether
    that is far enough.
    """

    name: str
    digits: int
    tolerance: float
    accepts: bool
    exact: Any
    lower: Any
    upper: Any
    actual: Any
    expected: Any

    @property
    def reach(self) -> Fraction | None:
        """How far the envelope goes from the exact value, on the side where it goes further."""
        if not all(map(_is_finite, (self.exact, self.lower, self.upper))):
            return None
        return max(Fraction(self.upper) - Fraction(self.exact), Fraction(self.exact) - Fraction(self.lower))


@dataclass(frozen=True)
class _Line:
    """A number line: what its 0 and 1 stand for, and whether it grows by decades beyond 1."""

    centre: Fraction
    unit: Fraction
    decades: bool
    words: str

    def place(self, value: Any) -> float:
        """Where a value stands: infinite where it is, NaN where that is nowhere."""
        if not _is_finite(value):
            return math.nan if value is None else float(value)
        steps = (Fraction(value) - self.centre) / self.unit
        if not self.decades or abs(steps) <= 1:
            return float(min(max(steps, -_FAR), _FAR))
        return (1 if steps > 0 else -1) * (1 + _log10(abs(steps)))


def of_verdict(verdict: Any) -> Picture:
    """Of an :class:`equiv.Verdict`: counts of outputs by outcome, and the output that decides.

    On the number line stand the exact value, the envelope, both results, and what ``assert_close`` accepts.
    """
    with our_style():
        parts = [] if verdict.worst is None else _parts(verdict.worst, verdict.dtype)
        bar = 0.5 * any(verdict.counts.get(name) for name in OUTCOMES)
        sheet = Sheet(verdict.outcome.name, verdict.explanation, height=bar + _LINE_HEIGHT * len(parts))
        if bar:
            _draw_counts(sheet.axes(0.1, 0.05, 6.8, 0.17), verdict.counts)
        for number_of, part in enumerate(parts):
            _draw_part(sheet.axes(0.95, bar + _LINE_HEIGHT * number_of + 0.3, 4.3, 1.15), part)
        sheet.picture.alt = _alt(verdict, parts)
        return sheet.picture


def _parts(entry: Any, dtype: str) -> list[_Part]:
    """The output; of a complex one the real and the imaginary part."""
    numbers: tuple[Any, ...] = (entry.exact, entry.lower, entry.upper, entry.actual, entry.expected)
    rtol, atol = _CLOSE.get(dtype, (0.0, 0.0))
    tolerance = atol + rtol * size_of(entry.expected)
    accepts = entry.actual == entry.expected or bool(size_of(entry.actual - entry.expected) <= tolerance < math.inf)
    digits = 15 if dtype in ("float64", "complex128") else 9
    at = f"entry [{', '.join(map(str, entry.index))}]" if entry.index else "entry"
    if not any(isinstance(value, complex) for value in numbers):
        return [_Part(at, digits, tolerance, accepts, *numbers)]
    halves = {"real": "real", "imaginary": "imag"}
    return [
        _Part(f"{at}, {name} part", digits, tolerance, accepts, *(getattr(value, half, None) for value in numbers))
        for name, half in halves.items()
    ]


def _draw_counts(axes: Axes, counts: Mapping[str, int]) -> None:
    """One bar of all outputs; what occurs at all is seen, however rare."""
    axes.set_axis_off()
    total, left = sum(counts.get(name, 0) for name in OUTCOMES), 0.0
    present = {name: counts[name] for name in OUTCOMES if counts.get(name)}
    widths = {name: max(0.02, count / total) for name, count in present.items()}
    for name, count in present.items():
        colour, hatch, _ = OUTCOMES[name]
        width = widths[name] / sum(widths.values())
        label = f"{name} {count:,}"
        axes.barh(
            0, width, 1, left, color=colour, hatch=hatch, edgecolor=BLACK, linewidth=0.6, label=label, clip_on=False
        )
        left += width
    axes.set_xlim(0, 1)
    if present:
        axes.legend(loc="upper left", bbox_to_anchor=(0, 0), ncols=4, borderaxespad=0.2, handlelength=1.2, fontsize=8)


def _draw_part(axes: Axes, part: _Part) -> None:
    """Lanes below each other on one number line, with the numbers in words to their right."""
    line = _line_of(part)
    low, high = _ends(line, part)
    rows = [("exact value", number(part.exact, part.digits)), ("envelope", _envelope_words(part))]
    rows += [(name, number(getattr(part, name), part.digits)) for name in ("actual", "expected")]
    rows.append(("assert_close", f"{'accepts' if part.accepts else 'refuses'}, ±{number(part.tolerance, 3)}"))
    lanes = range(len(rows))[::-1]
    if part.exact is not None:
        _band(axes, line, (part.lower, part.upper), (-0.6, 4.6), color=PALE, linewidth=0)
        _band(axes, line, (part.lower, part.upper), (2.7, 3.3), facecolor=BLUE, edgecolor=BLACK, linewidth=0.8)
        axes.axvline(line.place(part.exact), color=BLACK, linewidth=1.1)
    if _is_finite(part.expected):
        ends = Fraction(part.expected) - Fraction(part.tolerance), Fraction(part.expected) + Fraction(part.tolerance)
        _band(axes, line, ends, (-0.25, 0.25), facecolor=WHITE, edgecolor=GREY, hatch="////", linewidth=0.8)
    _mark(axes, line.place(part.actual), 2, (low, high), marker="o", color=RED)
    _mark(axes, line.place(part.expected), 1, (low, high), marker="D", color=WHITE)
    axes.set_xlim(low, high)
    axes.set_ylim(-0.6, 4.6)
    axes.set_yticks(list(lanes), [name for name, _ in rows])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    for lane, (_, words) in zip(lanes, rows, strict=True):
        axes.text(1.03, lane, words, transform=axes.get_yaxis_transform(), va="center", fontsize=8)
    _ticks(axes, line, (low, high))
    axes.set_xlabel(line.words, fontsize=8)
    axes.set_title(f"The {part.name}" + ", which decides" * (part.exact is not None), fontsize=8.5, pad=4)


def _line_of(part: _Part) -> _Line:
    """In units of the envelope where there is one, of assert_close's tolerance where that is all, else plain."""
    centre, of = next(
        (
            (Fraction(value), name)
            for value, name in ((part.exact, "the exact value"), (part.expected, "expected"), (part.actual, "actual"))
            if _is_finite(value)
        ),
        (Fraction(0), "0"),
    )
    away = [abs(Fraction(value) - centre) for value in (part.actual, part.expected) if _is_finite(value)]
    furthest = max(away, default=Fraction(0))
    if part.reach:
        unit, words = part.reach, f"distance from {of}, in envelopes: 1 is the edge"
    elif part.exact is None and 0 < part.tolerance < math.inf:
        unit, words = Fraction(part.tolerance), f"distance from {of}, in tolerances of assert_close"
    else:
        power = math.floor(_log10(furthest)) if furthest else 0
        power = power if abs(power) > 3 else 0
        unit, words = (
            Fraction(10) ** power,
            f"distance from {of}" + f", in units of {power_of_ten(power)}" * bool(power),
        )
    if _is_finite(part.tolerance):
        furthest += Fraction(part.tolerance)
    return _Line(centre, unit, furthest / unit > _LINEAR, words)


def _ends(line: _Line, part: _Part) -> tuple[float, float]:
    """Of the line: all that is finite, and a little more."""
    values = [part.exact, part.lower, part.upper, part.actual, part.expected]
    seen = [-1.0, 1.0, *(line.place(value) for value in values if _is_finite(value))]
    if _is_finite(part.expected) and _is_finite(part.tolerance):  # it may run off the picture, results may not
        low, high = min(seen) - _SPARE, max(seen) + _SPARE
        close = [line.place(Fraction(part.expected) + sign * Fraction(part.tolerance)) for sign in (-1, 1)]
        seen += [min(max(place, low), high) for place in close]
    spare = 0.08 * (max(seen) - min(seen))
    return min(seen) - spare, max(seen) + spare


def _band(axes: Axes, line: _Line, ends: Iterable[Any], rows: tuple[float, float], **look: Any) -> None:
    """What lies between two values, infinities among them, as a rectangle that is seen however narrow it is."""
    from matplotlib.patches import Rectangle

    far = float(_FAR)
    low, high = (min(max(line.place(end), -far), far) for end in ends)
    if not math.isnan(low + high):
        axes.add_patch(Rectangle((low, rows[0]), high - low, rows[1] - rows[0], **look))


def _mark(axes: Axes, place: float, lane: float, ends: tuple[float, float], *, marker: str, color: str) -> None:
    """A result; an arrow at the end of the line for an infinite one, nothing for NaN."""
    if math.isinf(place):
        place, marker = (ends[1], ">") if place > 0 else (ends[0], "<")
    if not math.isnan(place):
        axes.plot([place], [lane], marker, color=color, markeredgecolor=BLACK, markersize=7, clip_on=False, zorder=5)


def _ticks(axes: Axes, line: _Line, ends: tuple[float, float]) -> None:
    if not line.decades:
        return
    last = math.ceil(max(map(abs, ends)))
    kept = range(0, last, -(-last // 6))
    if ends[1] - ends[0] > 40:  # the first would stand on each other
        kept = kept[1:]
    signed = [(0.0, "0")]
    for sign, text in ((1, ""), (-1, "-")):
        signed += [(sign * (1.0 + decade), text + power_of_ten(decade)) for decade in kept]
    shown = [(place, text) for place, text in signed if ends[0] <= place <= ends[1]]
    axes.set_xticks([place for place, _ in shown], [text for _, text in shown])


def _envelope_words(part: _Part) -> str:
    if part.exact is None:
        return "unknown without the layer"
    if part.reach is None:
        return f"{number(part.lower, 3)} to {number(part.upper, 3)}"
    return f"±{number(_as_float(part.reach), 3)}" if part.reach else "this value alone"


def _alt(verdict: Any, parts: list[_Part]) -> str:
    """The picture in words."""
    text = f"{verdict.outcome.name}: {verdict.explanation}"
    for part in parts:
        text += (
            f" Number line of the {part.name}: exact value {number(part.exact)}, envelope {_envelope_words(part)}, "
            f"actual {number(part.actual)}, expected {number(part.expected)}; assert_close "
            f"{'accepts' if part.accepts else 'refuses'} it."
        )
    return text


def _is_finite(value: Any) -> bool:
    return value is not None and (isinstance(value, (int, Fraction)) or math.isfinite(value))


def _as_float(value: Fraction) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _log10(value: Fraction) -> float:
    return math.log10(value.numerator) - math.log10(value.denominator)
