"""Results of a chain of affine layers, held against what right kernels and right folds of it may give.

Let ``s`` be the exact result and ``M`` what becomes of ``|x|`` under the sizes of all parameters. Layers evaluated one
by one err by at most ``sum(K_i*u + U)*M``, a layer into which they were folded by ``(sum(c_i)*U + K*u)*M``: ``c_i``
roundings of a parameter to the dtype, of unit roundoff ``U``. docs/numerics.md derives both. Samples are
taken a few at a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from equiv.dtypes import dtype_name, is_inexact
from equiv.errors import EquivError
from equiv.numerics import Arithmetic, Exact, Judgement, format_of, judge, same_bits
from equiv.verdict.arguments import on_cpu
from equiv.verdict.links import Affine, Chain, Norm, Pool, Sum, as_wide, parameters_of, real_links
from equiv.verdict.tally import Found, Tally

_ENTRIES = 2**20  # of the largest map of a chain, in float64, of the samples that are taken together
_JUDGED = 2**18
NORM_ROUNDINGS, NORM_STEPS = 7, 8  # of a folded parameter; of a batch norm by itself
_FLUSHED = 2.0**-90  # far above what flushing of subnormals takes, far below any result


class Carried(NamedTuple):
    """What a chain makes of some samples.

    Attributes:
        value: ``s``, ``(N, outputs)``: float64, complex128, or int64.
        size: ``M``, float64; for integers the value again.
        overflow: Bool ``(N,)``; a layer before the last may give infinities in the dtype.
    """

    value: Tensor
    size: Tensor
    overflow: Tensor


def shapes_of(chain: Chain, x: Tensor, name: str = "layer") -> list[torch.Size]:
    """The shape that each link is given for one sample, and that of the result.

    Raises:
        EquivError: The chain does not take such samples.
    """
    v, shapes = as_wide(x[:1]), [x[:1].shape]
    for link in chain:
        try:
            v = link.map(v)
        except (RuntimeError, ValueError, IndexError) as error:
            words = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise EquivError(
                f"input: expected samples that {name} takes, got shape {tuple(x.shape)}, which {link.place} refuses as "
                f"{tuple(shapes[-1][1:])} for each: {words}; pass the very input of the first layer"
            ) from error
        shapes.append(v.shape)
    return shapes


def carried(chain: Chain, x: Tensor, dtype: torch.dtype) -> Carried:
    """What the chain makes of samples ``(N, ...)``, for results of ``dtype``."""
    v, overflow = as_wide(x), torch.zeros(len(x), dtype=torch.bool)
    if not is_inexact(dtype):
        for link in chain:
            v = link.map(v)
        v = v.flatten(1)
        return Carried(v, v, overflow)
    fmt, size, left = format_of(dtype), as_wide(x, size=True), len(real_links(chain))
    tiny = _FLUSHED if dtype == torch.bfloat16 else 8 * fmt.min_normal
    for link in chain:
        v = link.map(v)
        size = link.map(size, size=True)
        if isinstance(link, (Affine, Norm, Pool, Sum)):
            left -= 1
            size = size + tiny
            if left:
                overflow |= ~(v.abs().flatten(1).amax(1) < fmt.max / 2) | ~(size.flatten(1).amax(1) < fmt.max * 64)
    return Carried(v.flatten(1), size.flatten(1), overflow)


@dataclass(frozen=True)
class Bound:
    """How far right results may lie from the exact ones: ``(relative + reference)*M``.

    Attributes:
        relative: What right kernels, and right folds, may be off, of ``M``.
        reference: What the float64 arithmetic of the exact results leaves open, of ``M``.
        folded: What the rounding of folded parameters takes of that.
        merged: What the sums take that merge parameters of two layers into one.
    """

    relative: float
    reference: float
    folded: float
    merged: float


def bound_of(chain: Chain, shapes: list[torch.Size], arithmetic: Arithmetic, dtype: torch.dtype) -> Bound:
    """The bound for results in an arithmetic of a chain of ``dtype``; see docs/numerics.md.

    Example:
        >>> from equiv.numerics import declared
        >>> from equiv.verdict.links import links_of
        >>> chain = links_of(torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.BatchNorm1d(4)).eval())
        >>> x = torch.ones(1, 8)
        >>> bound = bound_of(chain, shapes_of(chain, x), declared(torch.float32), torch.float32)
        >>> round(bound.relative * 2**24, 3), round(bound.folded * 2**24)
        (18.0, 7)
    """
    unit, out = format_of(dtype).u, format_of(arithmetic.output).u
    layered = folded = merged = 0.0
    product, links, reference = 1, 0, 0.0
    bias = False
    for link, shape in zip(chain, shapes, strict=False):
        if not isinstance(link, (Affine, Norm, Pool, Sum)):
            continue
        terms = link.terms(shape)
        links += 1
        reference += (6 * terms + 12) * 2.0**-53
        layered += _sums(NORM_STEPS if isinstance(link, Norm) else terms, arithmetic, dtype) + out
        if isinstance(link, Norm):
            folded += NORM_ROUNDINGS * unit
        elif isinstance(link, (Pool, Sum)):
            folded += 4 * unit
        elif product > 1:
            folded += unit
        merged += _sums(terms, arithmetic, dtype) if product > 1 and not isinstance(link, Norm) else 0.0
        bias = bias or isinstance(link, (Norm, Sum)) or (isinstance(link, Affine) and link.module.bias is not None)
        product *= max(1, terms)
    once = merged + folded + _sums(min(product, 2**40) + 1, arithmetic, dtype)
    relative = max(layered - out, once) if links <= 2 else layered + once
    if bias and arithmetic.bias_rounding == "either":
        relative += links * out
    return Bound(relative * (1 + relative) if relative < 1 else 2 * relative, reference, folded, merged)


def _sums(terms: int, arithmetic: Arithmetic, dtype: torch.dtype) -> float:
    """The error of a sum of so many terms, of their sizes."""
    count = 6 * terms + 4 if dtype.is_complex else terms
    relative = arithmetic.factor * (count + arithmetic.extra_terms) * arithmetic.u
    return relative * (1 + arithmetic.relative) + arithmetic.relative


class ChainResults:
    """Two results of a chain on one input, which are judged a few samples at a time."""

    def __init__(self, actual: Tensor, expected: Tensor, x: Tensor, chain: Chain) -> None:
        dtype = actual.dtype
        for name, value in (("input", x), *(("layer", t) for t in parameters_of(chain))):
            if value.dtype != dtype:
                raise EquivError(
                    f"{name}: expected the dtype of actual, {dtype_name(dtype)}, got {dtype_name(value.dtype)}; the "
                    "envelope belongs to one dtype, so pass what the layers were given"
                )
        if not is_inexact(dtype) and any(not isinstance(link, Affine) for link in real_links(chain)):
            raise EquivError(
                f"layer: expected Linear layers and convolutions alone for {dtype_name(dtype)}, got a chain with batch "
                "norm or pooling, which integers have not; convert it to float64"
            )
        self.chain, self.dtype = chain, dtype
        self.input = _batched(on_cpu(x), chain)
        self.shapes = shapes_of(chain, self.input) if len(self.input) else []
        self.outputs = math.prod(self.shapes[-1][1:]) if self.shapes else 0
        if actual.numel() != len(self.input) * self.outputs:
            made = (len(self.input), *(self.shapes[-1][1:] if self.shapes else ()))
            raise EquivError(
                f"input: expected one sample for each result of shape {tuple(actual.shape)}, got {tuple(x.shape)}, of "
                f"which the layer makes {made}; pass the very input that gave `actual`"
            )
        self.results = tuple(on_cpu(y).reshape(len(self.input), self.outputs) for y in (actual, expected))
        largest = max((math.prod(shape) for shape in self.shapes), default=1)
        self.terms = sum(
            link.terms(shape)
            for link, shape in zip(chain, self.shapes, strict=False)
            if isinstance(link, (Affine, Norm, Pool, Sum))
        )
        self.step = max(1, _ENTRIES // max(1, largest))

    def one(self, flat: int, arithmetic: Arithmetic | None) -> tuple[Carried, Judgement, tuple[Tensor, Tensor]]:
        """What is known of one output: of its sample, its judgement, and both results."""
        row, at = divmod(flat, self.outputs)
        known = carried(self.chain, self.input[row : row + 1], self.dtype)
        y, e = (result[row : row + 1] for result in self.results)
        return known, self.judged(y, known, arithmetic, slice(at, at + 1)), (y[0, at], e[0, at])

    def furthest(self) -> tuple[float, int]:
        """The largest difference between the two results, and where it is; NaN and infinities count for nothing."""
        wide = torch.complex128 if self.dtype.is_complex else torch.float64
        largest, flat = 0.0, 0
        for start in range(0, len(self.input), self.step):
            y, e = (result[start : start + self.step].flatten().to(wide) for result in self.results)
            apart = (y - e).abs().nan_to_num(0.0, 0.0, 0.0)
            if apart.numel() and float(apart.amax()) > largest:
                largest, flat = float(apart.amax()), int(apart.argmax()) + start * self.outputs
        return largest, flat

    def tally(
        self, arithmetics: tuple[Arithmetic | None, Arithmetic | None], tolerances: tuple[float, float] | None
    ) -> Tally:
        """Every output of both results."""
        tally = Tally()
        for start in range(0, len(self.input) if self.outputs else 0, self.step):
            here = slice(start, start + self.step)
            known = carried(self.chain, self.input[here], self.dtype)
            y, e = (result[here] for result in self.results)
            for first in range(0, y.numel(), _JUDGED):
                some = slice(first, first + _JUDGED)
                pair = self._pair((y, e), known, arithmetics, some)
                a, b = y.flatten()[some], e.flatten()[some]
                breaks = None if tolerances is None else apart(a, b, tolerances)
                base = start * self.outputs + first
                tally.add(~same_bits(a.to(b.dtype), b), pair, breaks, partial(_moved, base))
        return tally

    def _pair(
        self,
        results: tuple[Tensor, Tensor],
        known: Carried,
        arithmetics: tuple[Arithmetic | None, Arithmetic | None],
        some: slice,
    ) -> tuple[Found, Found]:
        found = []
        for result, arithmetic in zip(results, arithmetics, strict=True):
            quick = None if arithmetic is None else self._surely_inside(result, known, arithmetic, some)
            if quick is None:
                judged = self.judged(result, known, arithmetic, some)
                quick = Found(torch.arange(len(judged.inside)), judged.inside, judged.undecided, judged.ratio)
            found.append(quick)
        return found[0], found[1]

    def _surely_inside(self, result: Tensor, known: Carried, arithmetic: Arithmetic, some: slice) -> Found | None:
        """The output that is furthest off, where all are within the bound before anything is rounded; else None."""
        s, size = known.value.flatten()[some], known.size.flatten()[some]
        if s.is_complex() or not s.numel() or bool(known.overflow.any()):
            return None
        bound = bound_of(self.chain, self.shapes, arithmetic, self.dtype)
        share = (result.flatten()[some].double() - s).abs_().div_(size).div_(bound.relative + bound.reference)
        at = share.argmax()[None]
        largest = float(share[at])
        if not largest < 1 or not float(size.amax()) < arithmetic.accumulator_max / 4:
            return None
        right = torch.ones(1, dtype=torch.bool)
        return Found(at, right, ~right, share[at])

    def judged(self, result: Tensor, known: Carried, arithmetic: Arithmetic | None, some: slice) -> Judgement:
        """Outputs ``some`` of the flat results of samples, against their envelopes."""
        y, s = result.flatten()[some], known.value.flatten()[some]
        if arithmetic is None:
            inside = y == s.to(y.dtype)
            none = torch.zeros_like(inside)
            ratio = torch.where(inside, 0.0, math.inf).double()
            return Judgement(inside, none, ratio, s, s)
        size = known.size.flatten()[some]
        samples = torch.arange(some.start, min(some.stop, result.numel())) // self.outputs
        unknown = ~(s.isfinite() & size.isfinite()) | known.overflow[samples]
        s, size = (torch.where(unknown, 0.0, t) for t in (s, size))
        bound = bound_of(self.chain, self.shapes, arithmetic, self.dtype)
        error = (bound.relative + bound.reference) * size
        plain = replace(arithmetic, factor=0.0, relative=0.0, extra_terms=0, bias_rounding="once", operands=None)
        if s.is_complex():
            parts = [judge(a, _exact(b, size, error), plain) for a, b in ((y.real, s.real), (y.imag, s.imag))]
            found = Judgement(
                parts[0].inside & parts[1].inside,
                parts[0].undecided | parts[1].undecided,
                torch.maximum(parts[0].ratio, parts[1].ratio),
                torch.complex(parts[0].lower, parts[1].lower),
                torch.complex(parts[0].upper, parts[1].upper),
            )
        else:
            found = judge(y, _exact(s, size, error), plain)
        undecided = found.undecided | unknown
        return replace(
            found, undecided=undecided, inside=found.inside | undecided, ratio=found.ratio.masked_fill(undecided, 0.0)
        )


def _moved(base: int, at: Tensor) -> Tensor:
    return at + base


def _exact(value: Tensor, size: Tensor, error: Tensor) -> Exact:
    return Exact(value, None, error, size, torch.ones_like(value), None, None, None, plain=False)


def _batched(x: Tensor, chain: Chain) -> Tensor:
    """The input with a dimension for samples; a map alone is one sample of a convolution."""
    first = next(iter(real_links(chain)), None)
    conv = isinstance(first, Affine) and not isinstance(first.module, torch.nn.Linear)
    rank = first.module.weight.ndim - 1 if conv and isinstance(first, Affine) else 1
    return x[None] if x.ndim == rank else x


def apart(y: Tensor, e: Tensor, tolerances: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """``|y - e|``, infinite where it is no number, and which of them exceed the caller's tolerance."""
    wide = torch.complex128 if y.is_complex() else torch.float64
    a, b = y.to(wide), e.to(wide)
    close = torch.isclose(a, b, rtol=tolerances[0], atol=tolerances[1], equal_nan=True)
    return (a - b).abs().nan_to_num(math.inf, math.inf), ~close
