"""Results inside their envelopes that rounding to nearest does not give all the same; see docs/numerics.md.

The envelope of an output allows for every order of summation, and for both ways to add a bias. What the terms of an
output leave of that, and what all outputs together say, comes in here.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from equiv.numerics import Arithmetic, Assessment, Rounded, misrounding
from equiv.verdict.arguments import Comparison


def held_to_nearest(
    rows: Comparison, result: Tensor, found: Assessment, arithmetic: Arithmetic | None
) -> tuple[Assessment, str | None]:
    """What was found of ``result`` ``(N, O)``, with those results outside that no rounding to nearest gives.

    And the name of the rounding that gives all results, if there is one: ``equiv.numerics.Misrounding``.
    """
    several = any(weight is not None for tried in rows.alternative_weights for weight in tried)
    if arithmetic is None or not result.is_floating_point() or several:
        return found, None
    usable = ~found.undecided & found.exact.isfinite() & found.magnitude.isfinite()
    weights = rows.weight, rows.bias
    seen = Rounded(result, rows.input, *weights, found.exact, found.magnitude, found.terms, usable, arithmetic)
    wrong = misrounding(seen)
    if wrong is None:
        return found, None
    at = (wrong.off & found.inside).nonzero(as_tuple=True)
    lower, upper, values = wrong.lower[at], wrong.upper[at], result[at].double()
    beyond = torch.where(values > upper, values - upper, lower - values)
    bounds = {"inside": torch.zeros_like(at[0], dtype=torch.bool), "lower": lower, "upper": upper}
    changes = {**bounds, "ratio": 1 + beyond / values.abs()}
    changed = {name: getattr(found, name).index_put(at, new) for name, new in changes.items()}
    return replace(found, **changed), wrong.name
