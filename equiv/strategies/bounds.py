"""Which values an entry may have: least and largest, NaN, infinities, subnormal numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch

from equiv.arguments import check_bool, refusal
from equiv.dtypes import SIGNED_OF_SIZE
from equiv.errors import EquivError
from equiv.strategies.fills import FLOAT8, most_distinct
from equiv.strategies.words import pretty_repr, short_repr
from equiv.text import shown


@dataclass(frozen=True, repr=False)
class Bounds:
    """The values that an entry of a real tensor may have.

    Attributes:
        min_value: the least, -inf for none; one that the dtype holds.
        max_value: the largest, inf for none.
        nan: whether NaN is among them.
        infinity: whether infinities within the bounds are.
        subnormal: whether subnormal numbers are.

    Example:
        >>> Bounds(0, 1, nan=False).apply(torch.tensor([-0.25, 0.5, 9.75, float("nan")]))
        tensor([0.2500, 0.5000, 0.7500, 0.0000])
    """

    min_value: float = -math.inf
    max_value: float = math.inf
    nan: bool = True
    infinity: bool = True
    subnormal: bool = True

    @property
    def zero(self) -> float:
        """The allowed value nearest to 0."""
        return min(max(0, self.min_value), self.max_value)

    def apply(self, flat: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
        """A tensor in which entries that are not allowed became others that are; those that are stay.

        ``dtype`` is the one that its values will have, where that is another.
        """
        dtype = dtype or flat.dtype
        if not flat.dtype.is_floating_point:
            return self._within_integers(flat)
        if not self.nan:
            flat = torch.where(flat.isnan(), self.zero, flat)
        low, high = self.min_value, self.max_value
        if low > -math.inf or high < math.inf:
            flat = _folded(flat.double(), low, high).to(flat.dtype)
        if not self.infinity:
            largest = torch.finfo(dtype).max
            flat = flat.clamp(-largest, largest)
        if not self.subnormal:
            flat = torch.where(flat.abs() < torch.finfo(dtype).tiny, flat * 0, flat)
        return flat

    def _within_integers(self, flat: torch.Tensor) -> torch.Tensor:
        low, high = int(self.min_value), int(self.max_value)
        wide = flat.long()
        if low <= torch.iinfo(flat.dtype).min and high >= torch.iinfo(flat.dtype).max:
            return flat
        span = min(high - low + 1, 2**63 - 1)
        return torch.where((wide < low) | (wide > high), low + (wide - low).remainder(span), wide).to(flat.dtype)

    __repr__ = short_repr
    _repr_pretty_ = pretty_repr


def _folded(values: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Values outside are mirrored at a bound that stands alone, and wrapped between two."""
    if low > -math.inf and high < math.inf:
        inside = low + (values - low).abs().fmod(max(high - low, 2**-1074))
    else:
        inside = low + (low - values) if low > -math.inf else high - (values - high)
    kept = (values >= low) & (values <= high) | values.isnan()
    return torch.where(kept, values, torch.where(inside.isnan(), low, inside)).clamp(low, high)


@dataclass(frozen=True)
class Limits:
    """The options of ``tensors`` that say which values an entry may have, as they were given."""

    min_value: Any = None
    max_value: Any = None
    exclude_min: Any = False
    exclude_max: Any = False
    allow_nan: Any = None
    allow_infinity: Any = None
    allow_subnormal: Any = None

    @property
    def words(self) -> dict[str, Any]:
        """Those that are a bool or None, by name."""
        names = ("allow_nan", "allow_infinity", "allow_subnormal")
        return {name: getattr(self, name) for name in names}

    def check(self) -> None:
        """Refuse what is wrong in every dtype."""
        for name, word in self.words.items():
            if word is not None:
                check_bool(name, word, "pass a bool, or leave it out")
        _check_end("min", self.min_value, self.exclude_min)
        _check_end("max", self.max_value, self.exclude_max)
        bounded = [name for name in ("min_value", "max_value") if getattr(self, name) is not None]
        if self.allow_nan and bounded:
            raise refusal("allow_nan", f"False or None with {bounded[0]}", True, "leave one of them out")
        if self.allow_infinity and len(bounded) == 2:
            raise refusal("allow_infinity", "False or None with min_value and max_value", True, "leave one of them out")
        if len(bounded) == 2 and self.min_value > self.max_value:
            raise _disorder(self)

    def within(self, dtype: torch.dtype) -> Bounds | None:
        """The values that they describe in ``dtype``; None where that is all of them.

        A bound that the dtype does not hold is moved inwards to the next value that it does.
        """
        self.check()
        bounded = self.min_value is not None or self.max_value is not None
        inexact = dtype.is_floating_point or dtype.is_complex
        for name, word in self.words.items():
            if word and not inexact:
                raise refusal(name, f"False or None for {dtype}", word, "integers have none")
        if not bounded and (not inexact or all(word is not False for word in self.words.values())):
            return None
        if dtype.is_complex and bounded:
            raise refusal("dtype", "a real one with min_value or max_value", dtype, "complex numbers have no order")
        bounds = _float_bounds(self, dtype.to_real() if dtype.is_complex else dtype) if inexact else None
        bounds = bounds or _integer_bounds(self, dtype)
        if bounds.min_value > bounds.max_value:
            raise _disorder(self)
        return bounds


def _check_end(which: str, end: Any, excluded: Any) -> None:
    name = f"{which}_value"
    if end is not None and (isinstance(end, bool) or not isinstance(end, Real) or math.isnan(end)):
        raise refusal(name, "a real number", end, "pass one, or leave it out")
    if check_bool(f"exclude_{which}", excluded) and end is None:
        raise refusal(f"exclude_{which}", f"False without {name}", excluded, f"add {name}")


def _disorder(limits: Limits) -> EquivError:
    got = f"min_value={shown(limits.min_value)} and max_value={shown(limits.max_value)}"
    return EquivError(f"max_value: expected bounds with a value of the dtype between them, got {got}; widen them")


def _integer_bounds(limits: Limits, dtype: torch.dtype) -> Bounds:
    least, most = (0, 1) if dtype == torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    low, high = limits.min_value, limits.max_value
    first = least if low is None or low == -math.inf else math.ceil(low) if low < math.inf else most + 1
    last = most if high is None or high == math.inf else math.floor(high) if high > -math.inf else least - 1
    for name, bound, end in (("min_value", first, low), ("max_value", last, high)):
        if not least <= bound <= most:
            raise refusal(name, f"a number from {least} to {most} for {dtype}", end, "pass one that the dtype holds")
    return Bounds(first + (limits.exclude_min and first == low), last - (limits.exclude_max and last == high))


def _float_bounds(limits: Limits, dtype: torch.dtype) -> Bounds:
    low = -math.inf if limits.min_value is None else limits.min_value
    high = math.inf if limits.max_value is None else limits.max_value
    bounded = limits.min_value is not None or limits.max_value is not None
    nan = not bounded if limits.allow_nan is None else limits.allow_nan
    infinity = limits.allow_infinity
    if infinity is None:
        infinity = limits.min_value is None or limits.max_value is None
    largest, tiny = float(torch.finfo(dtype).max), float(torch.finfo(dtype).tiny)
    low, high = _inwards(low, dtype, 1, limits.exclude_min), _inwards(high, dtype, -1, limits.exclude_max)
    if not infinity:
        low, high = (max(low, -largest) if low <= largest else low), (min(high, largest) if high >= -largest else high)
    if limits.allow_subnormal is False:
        low = tiny if 0 < low < tiny else 0.0 if -tiny < low < 0 else low
        high = -tiny if -tiny < high < 0 else 0.0 if 0 < high < tiny else high
    if not infinity and (low == math.inf or high == -math.inf):
        low, high = 1, 0  # nothing is left
    return Bounds(low, high, nan, infinity, limits.allow_subnormal is not False)


def _inwards(value: Any, dtype: torch.dtype, step: int, excluded: bool) -> float:
    """The value of the dtype that is nearest to a bound on its inner side: above it for step 1, below it for -1."""
    largest = float(torch.finfo(dtype).max)
    if math.isinf(value):
        return math.copysign(largest, value) if excluded and value * step < 0 else float(value)
    if abs(value) > largest:
        return math.copysign(largest if value * step < 0 else math.inf, value)
    place = int(ordinals(torch.tensor(float(value), dtype=torch.float64).to(dtype).reshape(1)))
    held = float(from_ordinals(torch.tensor([place]), dtype).double())
    if (held - value) * step < 0 or (excluded and held == value):
        held = float(from_ordinals(torch.tensor([place + step]), dtype).double())
    return held


def ordinals(values: torch.Tensor) -> torch.Tensor:
    """The places of floating values in their order, int64: neighbours differ by 1, and both zeros have place 0."""
    kind = SIGNED_OF_SIZE[values.itemsize]
    bits = values.view(kind).long()
    return torch.where(bits < 0, torch.iinfo(kind).min - bits, bits)


def from_ordinals(places: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The values of ``dtype`` with these places, see :func:`ordinals`."""
    kind = SIGNED_OF_SIZE[dtype.itemsize]
    return torch.where(places < 0, torch.iinfo(kind).min - places, places).to(kind).view(dtype)


def distinct_within(numel: int, dtype: torch.dtype, seed: int, bounds: Bounds | None) -> torch.Tensor:
    """Finite values within the bounds that all differ: float32 for a float8, uint8 for bool.

    An even seed gives whole numbers, or multiples of a power of two, as near to 0 as there is room; an odd one, values
    from all over the range. They ascend for seed 0 alone.
    """
    whole = not dtype.is_floating_point
    work = torch.uint8 if dtype == torch.bool else torch.float32 if dtype in FLOAT8 else dtype
    plain = None if seed % 2 else _plain(numel, dtype, bounds)
    generator = torch.Generator().manual_seed(seed)
    if plain is not None:
        first, parts = plain
        values = torch.arange(numel, dtype=torch.int64).add_(first)
        made = values.to(work) if whole else (values.double() / parts).to(work)
    else:
        low, high = _ends(dtype, bounds)
        width = (high - low + 1) // numel if numel else 1
        inside = torch.randint(0, max(1, min(width, 2**62)), (numel,), generator=generator)
        made = torch.arange(numel, dtype=torch.int64).mul_(width).add_(low).add_(inside)
        made = made.to(work) if whole else from_ordinals(made, dtype).to(work)
    return made[torch.randperm(numel, generator=generator)] if seed else made


def _ends(dtype: torch.dtype, bounds: Bounds | None) -> tuple[int, int]:
    """The places of the least and the largest finite value that is allowed: integers are their own places."""
    if not dtype.is_floating_point:
        least, most = (0, 1) if dtype == torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
        return (least, most) if bounds is None else (int(bounds.min_value), int(bounds.max_value))
    largest = float(torch.finfo(dtype).max)
    ends = (-largest, largest) if bounds is None else (max(bounds.min_value, -largest), min(bounds.max_value, largest))
    tiny = float(torch.finfo(dtype).tiny)
    low, high, normal = ordinals(torch.tensor([*ends, tiny], dtype=torch.float64).to(dtype)).tolist()
    if bounds is None or bounds.subnormal:
        return low, high
    above, below = (max(low, normal), high), (low, min(high, -normal))  # the larger side alone
    longer = max(above, below, key=lambda side: side[1] - side[0])
    return longer if longer[0] <= longer[1] else (0, 0)


def _plain(numel: int, dtype: torch.dtype, bounds: Bounds | None) -> tuple[int, int] | None:
    """``first, parts``: all of (first + i) / parts for i < numel are allowed and exact; None if there are too many."""
    if not dtype.is_floating_point:
        low, high = _ends(dtype, bounds)
        return min(max(0, low), high - numel + 1), 1
    most = most_distinct(dtype)
    ends = (-most, most) if bounds is None else (max(bounds.min_value, -most), min(bounds.max_value, most))
    for parts in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024):
        first, last = max(math.ceil(ends[0] * parts), -most), min(math.floor(ends[1] * parts), most)
        if last - first + 1 >= numel:
            return min(max(0, first), last - numel + 1), parts
    return None


def count_within(dtype: torch.dtype, bounds: Bounds | None) -> int:
    """How many finite values are allowed."""
    low, high = _ends(dtype, bounds)
    return high - low + 1
