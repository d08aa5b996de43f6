"""Which conditions a run is expected to meet, and which of them its laws did not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Missed = dict[str, list[str]]
"""By condition, the values that were not met."""

Coverage = dict[str, dict[str, int]]
"""How often each value of each condition was met."""


def missed_by_law(items: Iterable[Any]) -> dict[str, Missed]:
    """By law and condition, the values that some items of a model were to reach and none did.

    Items of a broken law end early, so that nothing is expected of them.
    """
    due: dict[tuple[str, str], dict[str, None]] = {}
    met: dict[tuple[str, str], set[str]] = {}
    for item in items:
        for condition, counts in item.coverage.items():
            met.setdefault((item.law, condition), set()).update(counts)
        for condition, values in item.not_reached.items() if item.outcome == "holds" else ():
            due.setdefault((item.law, condition), {}).update(dict.fromkeys(values))
    found: dict[str, Missed] = {}
    for (law, condition), values in due.items():
        if missed := [value for value in values if value not in met.get((law, condition), ())]:
            found.setdefault(law, {})[condition] = missed
    return found


def expected_conditions() -> dict[str, list[str]]:
    """The conditions that a complete run meets on any machine; which convolution kernels there are depends on it."""
    from equiv.dtypes import BY_NAME
    from equiv.strategies import LAYOUTS

    four_dimensional = ("permuted", "channels_last")
    layouts = {
        f"layout of {role}": [kind for kind in LAYOUTS if role != "bias" or kind not in four_dimensional]
        for role in ("x", "weight", "bias", "grad")
    }
    return {
        "dtype": list(BY_NAME),
        **layouts,
        "batch rank": [str(rank) for rank in range(6)],
        "spatial dimensions": ["1", "2", "3"],
        "bias": ["False", "True"],
        **{f"{size} modulo {m}": [str(r) for r in range(m)] for size in ("n", "O", "rows", "C") for m in (8, 16)},
    }
