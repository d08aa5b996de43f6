"""A tensor's values from a small recipe: a kind, a seed, a window that stays, a few single entries.

Every kind is filled in with a handful of whole-tensor operations on an explicit generator, so that a large tensor takes
the time of its arithmetic alone. Recipes are drawn in ``tensor``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch

from equiv.arguments import (
    as_integer,
    check_choice,
    check_choices,
    check_device,
    check_dtype,
    check_integer,
    check_memory,
    check_several,
    check_shape,
    refusal,
)
from equiv.dtypes import INTEGERS, SIGNED_OF_SIZE
from equiv.numerics import format_of, gradients_recorded

KINDS = (
    "zeros",
    "one_hot",
    "constant",
    "small_integers",
    "distinct",
    "normals",
    "repeated",
    "wide",
    "cancelling",
    "subnormal",
    "near_overflow",
    "specials",
)
INTEGER_KINDS = ("zeros", "one_hot", "constant", "small_integers", "distinct", "wide")
FINITE_KINDS = KINDS[: KINDS.index("near_overflow")]
PROBE = "probe"  # values that equiv.numerics.probes makes: only build_case can serve it

_UNWINDOWED = ("zeros", "one_hot")  # already as sparse as can be


def short_repr(value: Any) -> str:
    """A dataclass as the call that makes it, without the fields that have their default."""
    shown = [f"{f.name}={getattr(value, f.name)!r}" for f in fields(value) if getattr(value, f.name) != f.default]
    return f"{type(value).__name__}({', '.join(shown)})"


@dataclass(frozen=True, repr=False)
class Window:
    """Which entries of a flat tensor keep their value; the others become 0.

    Kept are, among the ``length`` entries that precede ``end``, the first ``ends`` and the last ``ends``; None stands
    for all there are. A smaller value of any of the three keeps fewer entries, so Hypothesis, which looks for the
    smallest of each, ends with the few entries that matter: one wherever it lies, or two however far apart.

    Example:
        >>> Window(end=9, length=7, ends=1).keep_(torch.ones(10))
        tensor([0., 0., 1., 0., 0., 0., 0., 0., 1., 0.])
    """

    end: int | None = None
    length: int | None = None
    ends: int | None = None

    @classmethod
    def clipped(cls, numel: int, end: int, length: int, ends: int) -> Window:
        """The window of three integers, of which those that take nothing away are dropped."""
        stop = min(end, numel)
        span = min(length, stop)
        return cls(end if end < numel else None, length if length < stop else None, ends if 2 * ends < span else None)

    def keep_(self, flat: torch.Tensor) -> torch.Tensor:
        """Set to 0, in place, what lies outside; ``flat`` has one dimension."""
        for name in ("end", "length", "ends"):
            value = getattr(self, name)
            if value is not None and type(value) is not int:
                check_integer(name, value, advice="pass a number of entries, or None for all")
        n = flat.numel()
        end = n if self.end is None else min(self.end, n)
        length = end if self.length is None else min(self.length, end)
        if length < n:
            flat[: end - length] = 0
            flat[end:] = 0
        if self.ends is not None and 2 * self.ends < length:
            flat[end - length + self.ends : end - self.ends] = 0
        return flat

    __repr__ = short_repr


EVERYTHING = Window()


@dataclass(frozen=True, repr=False)
class Values:
    """A recipe for the values of a tensor of any shape and dtype.

    Kinds, simplest first: ``zeros``; ``one_hot``, a 1 at flat position ``seed``; ``constant``, 1 for seed 0;
    ``small_integers``, -4..4; ``distinct``, integers that differ from each other and from 0 as far as the dtype holds
    that many (float32: 33,554,432, float16: 4,096, bfloat16: 512, int8: 254); ``normals``; ``repeated``, normals in
    equal neighbours along the last dimension; ``wide``, exponents over half of the dtype's range, for integers the
    whole range with both its ends; ``cancelling``, neighbours along the last dimension that cancel but for a few ulp;
    ``subnormal``, half of them subnormal and a quarter just above; ``near_overflow``, a quarter within a factor 4 of
    the largest finite number; ``specials``, NaN, both infinities and both zeros among normals, at least one. Integer
    dtypes have ``INTEGER_KINDS``.

    Attributes:
        kind: one of ``KINDS``.
        seed: of the explicit generator; with 0 some kinds are plainer: all ones, 1, 2, 3 and so on.
        window: which entries keep their value.
        edits: pairs ``(flat index, value)``, put in last.

    Example:
        >>> Values("distinct").tensor((2, 3), torch.float32)
        tensor([[1., 2., 3.],
                [4., 5., 6.]])
        >>> Values("constant", edits=((1, 7),)).tensor((3,), torch.int8)
        tensor([1, 7, 1], dtype=torch.int8)
    """

    kind: str
    seed: int = 0
    window: Window = EVERYTHING
    edits: tuple[tuple[int, float], ...] = ()

    @gradients_recorded()
    def tensor(
        self, shape: Sequence[int], dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> torch.Tensor:
        """A contiguous tensor of ``shape``, the same bits at every call.

        Raises:
            EquivError: if the kind is unknown or ``dtype`` cannot hold it.
        """
        check_choice("kind", self.kind, kinds_for(dtype), f"choose another kind, or another dtype than {dtype}")
        size = check_shape("shape", shape)
        check_integer("seed", self.seed, least=0)
        if not isinstance(self.window, Window):
            raise refusal("window", "an equiv.strategies.Window", self.window, "leave it out to keep every entry")
        device = check_device("device", device)
        numel = math.prod(size)
        check_memory("shape", size, numel * dtype.itemsize, "values")
        edits = self._checked_edits(dtype)
        if numel == 0:
            return torch.zeros(size, dtype=dtype, device=device)
        flat = self._flat(numel, size[-1] if size else 1, dtype)
        if self.kind not in _UNWINDOWED:
            self.window.keep_(flat)
        for index, value in edits:
            flat[index % numel] = value
        return flat.view(size).to(device)

    def _checked_edits(self, dtype: torch.dtype) -> list[tuple[int, Any]]:
        found, expected = [], "pairs of a flat index and a value"
        for pair in check_several("edits", self.edits, expected, "pass such as ((0, 1.0),)"):
            index = as_integer(pair[0]) if isinstance(pair, (tuple, list)) and len(pair) == 2 else None
            try:
                value = None if index is None else torch.tensor(pair[1], dtype=dtype)
            except Exception:  # torch has errors of many kinds for what it does not take
                value = None
            if index is None or value is None or value.ndim:
                raise refusal("edits", f"{expected} that {dtype} holds", pair, "pass such as ((0, 1.0),)")
            found.append((index, pair[1]))
        return found

    def _flat(self, numel: int, last: int, dtype: torch.dtype) -> torch.Tensor:
        if self.kind in _UNWINDOWED:
            flat = torch.zeros(numel, dtype=dtype)
            if self.kind == "one_hot":
                flat[int(self.seed) % numel] = 1
            return flat
        fill, seed = _FILLS[self.kind], int(self.seed)
        generator = torch.Generator().manual_seed(seed)
        if not dtype.is_complex:
            return fill(numel, last, dtype, seed, generator)
        real = dtype.to_real()
        return torch.complex(fill(numel, last, real, seed, generator), fill(numel, last, real, seed + 1, generator))

    __repr__ = short_repr


def kinds_for(dtype: torch.dtype) -> tuple[str, ...]:
    """The kinds that ``dtype`` can hold, simplest first.

    Raises:
        EquivError: Not a dtype, or one that is not in ``equiv.dtypes.DTYPES``.

    Example:
        >>> kinds_for(torch.int8)[:3], "normals" in kinds_for(torch.int8)
        (('zeros', 'one_hot', 'constant'), False)
    """
    return INTEGER_KINDS if check_dtype("dtype", dtype) in INTEGERS else KINDS


def check_kinds(kinds: Sequence[str] | None, dtype: torch.dtype) -> tuple[str, ...]:
    """These kinds, or all that ``dtype`` can hold."""
    return kinds_for(dtype) if kinds is None else check_choices("kinds", kinds, kinds_for(dtype))


# The fills: (numel, size of the last dimension, real dtype, seed, generator) -> (numel,)


def _constant(n: int, _last: int, dtype: torch.dtype, seed: int, g: torch.Generator) -> torch.Tensor:
    drawn = torch.randint(1, 5, (), generator=g) if dtype in INTEGERS else torch.randn((), generator=g)
    return torch.full((n,), float(drawn) if seed else 1.0, dtype=dtype)


def _small_integers(n: int, _last: int, dtype: torch.dtype, _seed: int, g: torch.Generator) -> torch.Tensor:
    return torch.randint(-4 if dtype.is_signed else 0, 5, (n,), generator=g, dtype=dtype)


def most_distinct(dtype: torch.dtype) -> int:
    """The largest M such that 1..M are exact in the real ``dtype`` (capped at 2^40)."""
    return int(torch.iinfo(dtype).max) if dtype in INTEGERS else 2 ** min(format_of(dtype).precision, 40)


def _distinct(n: int, _last: int, dtype: torch.dtype, seed: int, _g: torch.Generator) -> torch.Tensor:
    small = n < 2**15  # then no product below leaves int32, whose remainder is faster
    index = torch.arange(n, dtype=torch.int32 if small else torch.int64)
    if seed and n > 2:
        step = (2 * seed + 1) % n or 1
        while math.gcd(step, n) != 1:
            step += 1
        index.mul_(step % n).add_(seed % n).remainder_(n)
    most = most_distinct(dtype)
    if n <= most:
        values = index.add_(1)
        if seed and dtype.is_signed:
            values[1::2].neg_()
    elif dtype.is_signed:
        index.remainder_(2 * most)
        values = torch.where(index < most, index + 1, most - 1 - index)
    else:
        values = index.remainder_(most).add_(1)
    return values.to(dtype)


def _normals(n: int, _last: int, dtype: torch.dtype, _seed: int, g: torch.Generator) -> torch.Tensor:
    return torch.randn(n, generator=g, dtype=_work(dtype)).to(dtype)


def _repeated(n: int, last: int, dtype: torch.dtype, seed: int, g: torch.Generator) -> torch.Tensor:
    values = _normals(n, last, dtype, seed, g)
    rows = values.view(-1, last)
    rows[:, 1::2] = rows[:, : last - last % 2 : 2]
    return values


def _wide(n: int, last: int, dtype: torch.dtype, seed: int, g: torch.Generator) -> torch.Tensor:
    if dtype in INTEGERS:
        bounds = torch.iinfo(dtype)
        values = torch.empty(n, dtype=dtype)
        high = None if dtype == torch.int64 else bounds.max + 1  # None: the whole range of int64
        values.random_(bounds.min, high, generator=g)
        ends = torch.tensor([bounds.min, bounds.max], dtype=dtype)
        return torch.where(_chosen(n, 16, g), ends[torch.randint(0, 2, (n,), generator=g)], values)
    quarter = int(math.log2(torch.finfo(dtype).max)) // 4
    exponents = torch.randint(-quarter, quarter + 1, (n,), generator=g, dtype=torch.int32)
    return torch.ldexp(_normals(n, last, _work(dtype), seed, g), exponents).to(dtype)


def _cancelling(n: int, last: int, dtype: torch.dtype, seed: int, g: torch.Generator) -> torch.Tensor:
    values = _repeated(n, last, dtype, seed, g)
    as_bits = SIGNED_OF_SIZE[dtype.itemsize]
    ulps = torch.randint(-2, 3, (n,), generator=g, dtype=as_bits)
    values = (values.view(as_bits) + ulps).view(dtype)
    values.view(-1, last)[:, 1::2].neg_()
    return values


def _subnormal(n: int, last: int, dtype: torch.dtype, seed: int, g: torch.Generator) -> torch.Tensor:
    stored, as_bits = format_of(dtype).precision - 1, SIGNED_OF_SIZE[dtype.itemsize]
    bits = torch.randint(1, 2**stored, (n,), generator=g, dtype=as_bits)
    signs = torch.randint(0, 2, (n,), generator=g, dtype=as_bits) * torch.iinfo(as_bits).min
    above = torch.randint(1, 6, (n,), generator=g, dtype=as_bits) << stored
    normals = torch.where(_chosen(n, 2, g), (bits | above | signs).view(dtype), _normals(n, last, dtype, seed, g))
    return torch.where(_chosen(n, 2, g), (bits | signs).view(dtype), normals)


def _near_overflow(n: int, last: int, dtype: torch.dtype, seed: int, g: torch.Generator) -> torch.Tensor:
    normals = _normals(n, last, dtype, seed, g)
    work = _work(dtype)
    share = 0.25 + 0.75 * torch.rand(n, generator=g, dtype=work)
    large = (share * torch.finfo(dtype).max).clamp_(max=torch.finfo(dtype).max).to(dtype)
    return torch.where(_chosen(n, 4, g), torch.copysign(large, normals), normals)


def _specials(n: int, last: int, dtype: torch.dtype, seed: int, g: torch.Generator) -> torch.Tensor:
    menu = torch.tensor([math.nan, math.inf, -math.inf, -0.0, 0.0], dtype=dtype)
    drawn = menu[torch.randint(0, 5, (n,), generator=g)]
    return torch.where(_chosen(n, 8, g), drawn, _normals(n, last, dtype, seed, g))


def _chosen(n: int, one_in: int, g: torch.Generator) -> torch.Tensor:
    """A mask of about n / one_in entries, at least one."""
    mask = torch.randint(0, one_in, (n,), generator=g, dtype=torch.uint8) == 0
    mask[torch.randint(0, n, (), generator=g)] = True
    return mask


def _work(dtype: torch.dtype) -> torch.dtype:
    """The dtype that random numbers are made in before they are rounded to ``dtype``."""
    return torch.float64 if dtype == torch.float64 else torch.float32


_Fill = Callable[[int, int, torch.dtype, int, torch.Generator], torch.Tensor]
_FILLS: dict[str, _Fill] = {
    "constant": _constant,
    "small_integers": _small_integers,
    "distinct": _distinct,
    "normals": _normals,
    "repeated": _repeated,
    "wide": _wide,
    "cancelling": _cancelling,
    "subnormal": _subnormal,
    "near_overflow": _near_overflow,
    "specials": _specials,
}
assert set(_FILLS) | set(_UNWINDOWED) == set(KINDS)
