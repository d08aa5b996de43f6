"""The entry that decides a comparison, and what follows from counts of entries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from equiv.numerics import Arithmetic, Assessment
from equiv.verdict.arguments import Comparison
from equiv.verdict.outcome import Entry, Outcome


def index_in(flat: int, shape: Sequence[int]) -> tuple[int, ...]:
    """Where a flat entry stands in a tensor of this shape.

    Example:
        >>> index_in(7, (2, 3, 2))
        (1, 0, 1)
    """
    index = []  # torch.unravel_index imports a second's worth of modules
    for size in reversed(shape):
        flat, place = divmod(flat, size)
        index.append(place)
    return tuple(reversed(index))


def outcome_of(counts: dict[str, int]) -> Outcome:
    """The gravest outcome that some entry has.

    Example:
        >>> outcome_of({"identical": 7, "rounding": 2, "different": 0, "undecided": 0}).name
        'ROUNDING'
    """
    order = (Outcome.DIFFERENT, Outcome.UNDECIDED, Outcome.ROUNDING)
    return next((outcome for outcome in order if counts[outcome.value]), Outcome.IDENTICAL)


def entry_of(
    at: tuple[int, int],
    index: tuple[int, ...],
    rows: Comparison,
    found: Assessment,
    expected: Any,
    arithmetic: Arithmetic | None,
) -> Entry:
    """Everything known about the output ``at`` row and column, which is called ``index`` in the report."""
    actual, exact = rows.actual[at].item(), found.exact[at].item()
    lower, upper = found.lower[at].item(), found.upper[at].item()
    entry = Entry(index, actual, expected, exact, lower, upper, float(found.ratio[at]))
    if arithmetic is None:
        return entry
    size = float(found.magnitude[at])
    entry = replace(entry, magnitude=size, terms=int(found.terms[at]))
    if not (arithmetic.u * size > 0 and math.isfinite(size)):
        return entry
    cancelled = math.log2(size / abs(exact)) if exact and math.isfinite(abs(exact)) else None
    return replace(entry, error_in_uS=abs(actual - exact) / (arithmetic.u * size), bits_cancelled=cancelled)
