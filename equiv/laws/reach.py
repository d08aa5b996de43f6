"""Which conditions a law is tried under: what its calls meet, and what a law declares that a full run meets.

A condition such as ``kernel`` has values such as ``"3"``. Those of calls are told here from their shapes and leaves;
others are counted by the laws with ``trial.cover(condition, value)``. What nobody declared is counted all the same.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from equiv.laws.call import Call
from equiv.laws.capabilities import NotAsked

KINDS = ("float", "complex", "integer")

_SIZES: dict[str, tuple[int, ...]] = {
    "samples": (0, 1, 2, 17, 65),
    "channels": (1, 2, 3, 4, 8, 16, 64),
    "kernel": (1, 2, 3, 4, 7),
    "map": (1, 2, 7, 16),
    "positions": (1, 2, 9, 65),
    "stride": (1, 2, 3),
    "dilation": (1, 2, 3),
    "padding": (0, 1, 2, 3),
}
"""Where the classes of each size begin; the last has no end. Sides are the longest of a call, samples its rows."""

_NEEDED = {
    "samples": ("empty_batches",),
    "stride": ("stride",),
    "dilation": ("dilation",),
    "padding": ("padding",),
    "groups": ("groups",),
    "leaves": ("gradient_order",),
}
_LIMITED = ("calls", "largest", "spatial_ranks")  # a backend that refuses sizes cannot be held to any
_GROUPS = ("1", "several", "one for each channel")
_CONVOLUTIONS = frozenset(("channels", "kernel", "map", "positions", "stride", "dilation", "padding", "groups"))


@dataclass(frozen=True)
class Reach:
    """Values of a condition that a law meets in a full run; it stands in ``reaches`` of ``@law``.

    Attributes:
        condition: Such as ``transform``, a name given to ``trial.cover``.
        values: Of it, as text.
        kinds: The kinds of dtype in which they are met.
        dtypes: Names of the only dtypes in which they are met; empty for all of the kinds.
        needs: Capabilities, one of which a backend may lack and then is not asked; nobody expects the values then.
        forms: The forms that meet them, one of which is enough; empty for any.

    Example:
        >>> Reach("transform", ("vmap", "compile"), kinds=("float",)).values
        ('vmap', 'compile')
    """

    condition: str
    values: tuple[str, ...]
    kinds: tuple[str, ...] = KINDS
    dtypes: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    forms: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(map(str, self.values)))


def sizes(condition: str, *, least: int = 0, most: int | None = None, **options: Any) -> Reach:
    """The classes of a size of calls that a law meets: those with a size in ``least..most``.

    Example:
        >>> sizes("kernel", least=2, most=3).values
        ('2', '3')
    """
    starts = _SIZES[condition]
    ends = [*(start - 1 for start in starts[1:]), None]
    found = [
        _class_of(condition, start)
        for start, end in zip(starts, ends, strict=True)
        if (most is None or start <= most) and (end is None or end >= least)
    ]
    needs = (*_LIMITED, *_NEEDED.get(condition, ()))
    forms = ("full", "pointwise") if condition in _CONVOLUTIONS else ()
    return Reach(condition, tuple(found), **{"needs": needs, "forms": forms, **options})


def leaves(*values: str) -> Reach:
    """Which tensors of a call need gradients: ``"input"``, ``"weight and bias"``."""
    return Reach("leaves", values, kinds=("float", "complex"), needs=_NEEDED["leaves"])


def trace_of(call: Call) -> tuple[Hashable, ...]:
    """All of a call that conditions are told from: short to take, since every call is counted."""
    x, weight, bias = call.input, call.weight, call.bias
    needing = (x.requires_grad, weight.requires_grad, bias is not None and bias.requires_grad)
    padding = getattr(call, "padding", ()) or ()
    return (call.form == "linear", x.shape, weight.shape, call.stride, call.dilation, padding, needing)


def conditions_of(traces: Mapping[tuple[Any, ...], int]) -> dict[str, Counter[str]]:
    """By condition, how often each value was met by calls with these traces."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for trace, count in traces.items():
        for condition, value in _met(*trace).items():
            found[condition][value] += count
    return found


def not_reached(
    reaches: Iterable[Reach],
    coverage: Mapping[str, Mapping[str, int]],
    *,
    kind: str,
    dtype: str,
    forms: Iterable[str],
    not_asked: Iterable[NotAsked],
) -> dict[str, list[str]]:
    """By condition, what a law was to reach with such a dtype and backend and did not."""
    lacking, served = {one.what for one in not_asked}, set(forms)
    missed: dict[str, list[str]] = defaultdict(list)
    for one in reaches:
        is_due = kind in one.kinds and (not one.dtypes or dtype in one.dtypes) and not lacking & {*one.needs}
        if is_due and (not one.forms or served & {*one.forms}):
            met = coverage.get(one.condition, {})
            missed[one.condition] += [value for value in one.values if value not in met]
    return {condition: values for condition, values in missed.items() if values}


def _met(
    is_linear: bool,
    x: tuple[int, ...],
    weight: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    padding: tuple[int, ...],
    needing: tuple[bool, ...],
) -> dict[str, str]:
    """The value of each condition that one call meets."""
    names = [name for name, needs in zip(("input", "weight", "bias"), needing, strict=True) if needs]
    found = {"leaves": _listed(names)}
    dims = len(weight) - 2
    if is_linear:
        return {**found, "samples": _class_of("samples", math.prod(x[:-1]))}
    channels, size, kernel = x[-dims - 1], x[-dims:], weight[2:]
    ones = (1,) * dims
    whole = zip(size, kernel, stride or ones, dilation or ones, padding or (0,) * dims, strict=True)
    positions = math.prod((s + 2 * p - e * (k - 1) - 1) // step + 1 for s, k, step, e, p in whole)
    numbers = {
        "samples": math.prod(x[: -dims - 1]),
        "channels": channels,
        "kernel": max(kernel),
        "map": max(size),
        "positions": positions,
        "stride": max(stride or ones),
        "dilation": max(dilation or ones),
        "padding": max(padding or (0,)),
    }
    groups = channels // weight[1] if weight[1] else 1
    found["groups"] = _GROUPS[0 if groups == 1 else 1 + (groups == channels)]
    return {**found, **{name: _class_of(name, number) for name, number in numbers.items()}}


@lru_cache(maxsize=4096)
def _class_of(condition: str, size: int) -> str:
    """The class of a size in words: ``3``, ``4 to 6``, ``7 and more``."""
    starts = _SIZES[condition]
    place = sum(start <= size for start in starts) - 1
    if place == len(starts) - 1:
        return f"{starts[place]} and more"
    first, last = starts[max(place, 0)], starts[max(place, 0) + 1] - 1
    return str(first) if first == last else f"{first} to {last}"


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names) or "none"


OF_A_LAYER = (sizes("samples"), sizes("channels"), sizes("kernel"), sizes("map"))
"""What a law meets whose cases are layers of any size, on maps as large as the kernel."""

EXACT_GRADIENTS = (
    leaves("input and weight", "input, weight and bias"),
    Reach(
        "gradients judged",
        ("input exactly", "weight exactly", "bias exactly"),
        kinds=("float", "complex"),
        needs=_NEEDED["leaves"],
    ),
)
"""What a law meets that asks for all gradients, each of which is exact."""
