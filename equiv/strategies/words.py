"""What a value prints as: the call that makes it again, for ``repr``, for Hypothesis and for IPython."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any


def short_repr(value: Any) -> str:
    """A dataclass as the call that makes it, without the fields that have their default."""
    given = ((f.name, getattr(value, f.name)) for f in fields(value) if getattr(value, f.name) != f.default)
    return f"{type(value).__name__}({', '.join(f'{name}={literal(one)}' for name, one in given)})"


def pretty_repr(value: Any, printer: Any, _cycle: bool) -> None:
    """``_repr_pretty_``: what ``repr`` says, also for a dataclass, of which Hypothesis would print the fields."""
    printer.text(repr(value))


def literal(value: Any) -> str:
    """Python's own text, but for numbers that it has no literal of.

    Example:
        >>> literal(0.5), literal(float("inf"))
        ('0.5', "float('inf')")
    """
    return f"float({str(value)!r})" if isinstance(value, float) and not math.isfinite(value) else repr(value)
