"""One of the two sides of a comparison, run on rows."""

from __future__ import annotations

from torch import Tensor

from equiv.backends import Function
from equiv.dtypes import dtype_name
from equiv.verdict.outcome import NotEquivalent, Outcome, Verdict


def run(side: Function, x: Tensor) -> Tensor:
    """Results for rows ``(N, n)``, as rows where they are one for each.

    Raises:
        NotEquivalent: They have another dtype than the rows.
    """
    y = side.run(x)
    if y.dtype != x.dtype:
        text = (
            f"the {side.name}{asked(side)} returns {dtype_name(y.dtype)} for an input of {dtype_name(x.dtype)}: "
            "another arithmetic, not the same function."
        )
        raise NotEquivalent(Verdict(Outcome.DIFFERENT, text, dtype_name(y.dtype), tuple(y.shape)))
    return y


def asked(side: Function) -> str:
    """How a function is asked, for a sentence about it; empty if in the usual way."""
    return f" (asked {side.asked})" if side.asked else ""
