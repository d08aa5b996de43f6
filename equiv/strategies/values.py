"""A tensor's values from a small recipe: a kind, a seed, a window that stays, a few single entries.

Every kind is filled in with a handful of whole-tensor operations on an explicit generator, so that a large tensor takes
the time of its arithmetic alone. Recipes are drawn in ``tensor``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
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
from equiv.dtypes import DTYPES, INTEGERS
from equiv.numerics import gradients_recorded
from equiv.strategies.bounds import Bounds, distinct_within
from equiv.strategies.fills import FLOAT8, filled
from equiv.strategies.words import pretty_repr, short_repr

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
"""The kinds of values, the simplest first; see :class:`Values`.

Example:
    >>> KINDS[:2]
    ('zeros', 'one_hot')
"""

INTEGER_KINDS = ("zeros", "one_hot", "constant", "small_integers", "distinct", "wide")
"""The kinds of values that integers may have.

Example:
    >>> "subnormal" in INTEGER_KINDS
    False
"""

FINITE_KINDS = KINDS[: KINDS.index("near_overflow")]
"""The kinds of finite values whose sums stay far from overflow.

Example:
    >>> "near_overflow" in FINITE_KINDS
    False
"""

BOOL_KINDS = ("zeros", "one_hot", "constant", "small_integers")
FLOAT8_KINDS = tuple(kind for kind in KINDS if kind not in ("cancelling", "subnormal", "near_overflow"))
DRAWABLE = (*DTYPES, torch.bool, *FLOAT8)
"""The dtypes that tensors are drawn in: those of layers, bool, and the float8 that this version of torch has."""
PROBE = "probe"  # values that equiv.numerics.probes makes: only build_case can serve it
UNIQUE = "unique"  # finite values that all differ, within bounds

_WORK = {torch.bool: torch.uint8, **dict.fromkeys(FLOAT8, torch.float32)}  # where torch computes nothing in a dtype
_UNWINDOWED = ("zeros", "one_hot")  # already as sparse as can be


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

    def keep_(self, flat: torch.Tensor, outside: float = 0) -> torch.Tensor:
        """Set to 0, or ``outside``, in place, what lies outside; ``flat`` has one dimension."""
        for name in ("end", "length", "ends"):
            value = getattr(self, name)
            if value is not None and type(value) is not int:
                check_integer(name, value, advice="pass a number of entries, or None for all")
        n = flat.numel()
        end = n if self.end is None else min(self.end, n)
        length = end if self.length is None else min(self.length, end)
        if length < n:
            flat[: end - length] = outside
            flat[end:] = outside
        if self.ends is not None and 2 * self.ends < length:
            flat[end - length + self.ends : end - self.ends] = outside
        return flat

    __repr__ = short_repr
    _repr_pretty_ = pretty_repr


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

    The other attributes make what was drawn plainer; Hypothesis shrinks towards them.

    Attributes:
        kind: one of ``KINDS``.
        seed: of the explicit generator; with 0 some kinds are plainer: all ones, 1, 2, 3 and so on.
        window: which entries keep their value.
        edits: pairs ``(flat index, value)``, put in last.
        unit: every finite entry but 0 becomes this number with the entry's sign; None keeps magnitudes.
        most: entries of a larger magnitude become this number with their sign; None keeps them.
        bits: every finite entry is rounded to so many binary places; None for no rounding.
        absolute: entries lose their sign.
        bounds: the values that entries may have; 0 stands for the nearest of them.

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
    unit: float | None = None
    most: float | None = None
    bits: int | None = None
    absolute: bool = False
    bounds: Bounds | None = None

    @gradients_recorded()
    def tensor(
        self, shape: Sequence[int], dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> torch.Tensor:
        """A contiguous tensor of ``shape``, the same bits at every call.

        Raises:
            EquivError: if the kind is unknown or ``dtype`` cannot hold it.
        """
        size, device, edits = self._checked(shape, dtype, device)
        numel = math.prod(size)
        if numel == 0:
            return torch.zeros(size, dtype=dtype, device=device)
        flat = self._flat(numel, size[-1] if size else 1, dtype)
        flat = self.plainer(flat)
        outside: float = 0
        if self.bounds is not None:
            real = dtype.to_real() if dtype.is_complex else dtype
            flat, outside = _of_parts(flat, partial(self.bounds.apply, dtype=real)), self.bounds.zero
        if self.kind not in _UNWINDOWED:
            self.window.keep_(flat, outside)
        flat = flat.to(dtype)
        for index, value in edits:
            flat[index % numel] = value
        return flat.view(size).to(device)

    def _checked(
        self, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str
    ) -> tuple[tuple[int, ...], torch.device, list[tuple[int, Any]]]:
        if self.kind != UNIQUE:
            check_choice("kind", self.kind, kinds_for(dtype), f"choose another kind, or another dtype than {dtype}")
        size = check_shape("shape", shape)
        check_integer("seed", self.seed, least=0)
        if not isinstance(self.window, Window):
            raise refusal("window", "an equiv.strategies.Window", self.window, "leave it out to keep every entry")
        if self.bits is not None:
            check_integer("bits", self.bits, least=0, most=64)
        place = check_device("device", device)
        check_memory("shape", size, math.prod(size) * dtype.itemsize, "values")
        return size, place, self._checked_edits(dtype)

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
        """The values of the kind; where torch computes nothing in ``dtype``, in one that holds them too."""
        seed = int(self.seed)
        if self.kind in _UNWINDOWED:
            flat = torch.zeros(numel, dtype=_WORK.get(dtype, dtype))
            if self.kind == "one_hot":
                flat[seed % numel] = 1
            return flat
        make = partial(filled, self.kind, numel, last)
        if self.kind == UNIQUE:
            make = partial(distinct_within, numel, bounds=self.bounds)
        if not dtype.is_complex:
            return make(dtype=dtype, seed=seed)
        real = make(dtype=dtype.to_real(), seed=seed)
        if self.kind == "constant" and not seed:
            return torch.complex(real, torch.zeros_like(real))
        return torch.complex(real, make(dtype=dtype.to_real(), seed=seed + 1))

    def plainer(self, values: torch.Tensor) -> torch.Tensor:
        """Values with ``unit``, ``most``, ``bits`` and ``absolute`` applied, but no window and no edits."""
        if self.unit is None and self.most is None and self.bits is None and not self.absolute:
            return values
        return _of_parts(values, self._plainer)

    def _plainer(self, values: torch.Tensor) -> torch.Tensor:
        if self.bits is not None and values.dtype.is_floating_point:
            scale = 2.0**self.bits
            exact = values.abs() >= 2.0**52 / scale  # or NaN: comparisons with it are false
            values = torch.where(exact, values, (values * scale).round() / scale)
        if self.unit is not None:
            flat = values.sign() * self.unit
            values = torch.where(values.isfinite() & (values != 0), flat.to(values.dtype), values)
        if self.most is not None:
            most = self.most if values.is_floating_point() else min(self.most, torch.iinfo(values.dtype).max)
            values = values.clamp(-most if values.dtype.is_signed else 0, most)
        return values.abs() if self.absolute and values.dtype != torch.uint8 else values

    __repr__ = short_repr
    _repr_pretty_ = pretty_repr


def _of_parts(flat: torch.Tensor, change: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """``change`` applied to a real tensor, or to both parts of a complex one."""
    return torch.view_as_complex(change(torch.view_as_real(flat))) if flat.is_complex() else change(flat)


def kinds_for(dtype: torch.dtype) -> tuple[str, ...]:
    """The kinds that ``dtype`` can hold, simplest first.

    Raises:
        EquivError: Not a dtype, or one that is neither in ``equiv.dtypes.DTYPES`` nor bool nor a float8.

    Example:
        >>> kinds_for(torch.int8)[:3], "normals" in kinds_for(torch.int8)
        (('zeros', 'one_hot', 'constant'), False)
    """
    if check_dtype("dtype", dtype, DRAWABLE) in INTEGERS:
        return INTEGER_KINDS
    return BOOL_KINDS if dtype == torch.bool else FLOAT8_KINDS if dtype in FLOAT8 else KINDS


def check_kinds(kinds: Sequence[str] | None, dtype: torch.dtype) -> tuple[str, ...]:
    """These kinds, or all that ``dtype`` can hold."""
    return kinds_for(dtype) if kinds is None else check_choices("kinds", kinds, kinds_for(dtype))
