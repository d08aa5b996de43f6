"""Results inside their envelopes that rounding to nearest does not give all the same; see docs/numerics.md.

The envelope of an output allows for every order of summation, and for both ways to add a bias. What the terms of an
output leave of that, and what all outputs together say, comes in here.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from equiv.numerics import Arithmetic, Assessment, Misrounding, Rounded, misrounding
from equiv.verdict.arguments import Comparison

_OUTPUTS = 2**18  # taken at once


def held_to_nearest(
    rows: Comparison, result: Tensor, found: Assessment, arithmetic: Arithmetic | None
) -> tuple[Assessment, str | None]:
    """What was found of ``result`` ``(N, O)``, with those results outside that no rounding to nearest gives.

    And the name of the rounding that gives all results, if there is one: ``equiv.numerics.Misrounding``.
    """
    several = any(weight is not None for tried in rows.alternative_weights for weight in tried)
    if arithmetic is None or not result.is_floating_point() or several:
        return found, None
    name, step = None, max(1, _OUTPUTS // max(1, len(rows.weight)))
    for start in range(0, len(result), step):
        at = slice(start, start + step)
        usable = ~found.undecided[at] & found.exact[at].isfinite() & found.magnitude[at].isfinite()
        known = found.exact[at], found.magnitude[at], found.terms[at], usable
        wrong = misrounding(Rounded(result[at], rows.input[at], rows.weight, rows.bias, *known, arithmetic))
        if wrong is not None:
            found, name = _with(found, result, wrong, start), name or wrong.name
    return found, name


def _with(found: Assessment, result: Tensor, wrong: Misrounding, start: int) -> Assessment:
    """What was found, but for the rows from ``start`` on."""
    off = wrong.off & found.inside[start : start + len(wrong.off)]
    lower, upper, (row, output) = wrong.lower[off], wrong.upper[off], off.nonzero(as_tuple=True)
    at = row + start, output
    values = result[at].double()
    ratio = 1 + torch.where(values > upper, values - upper, lower - values) / values.abs()
    changes = {"inside": torch.zeros_like(values, dtype=torch.bool), "lower": lower, "upper": upper, "ratio": ratio}
    return replace(found, **{name: getattr(found, name).index_put(at, new) for name, new in changes.items()})
