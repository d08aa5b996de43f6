"""Inputs for a layer whose weights are the user's, on which results are sums of few terms, rounded once.

Rows are zero but for one or two entries. Their values are chosen for roundings that ordinary values seldom show: many
results are ties, and with a bias some are the bias and a little more or less.
"""

from __future__ import annotations

import math
from collections import Counter

import torch
from torch import Tensor

from equiv.numerics import format_of, last_bit

_COLUMNS = (2, 4)  # as few as show every output a weight that is not zero
_SEARCHED = 256
_TIES, _FULL = 20, 6  # rows of a column: mantissas that make ties, and random ones


def rounding_probes(weight: Tensor, bias: Tensor | None, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows ``(N, n)`` in the dtype of ``weight`` ``(O, n)``, and the columns in which they are not zero.

    Example:
        >>> x, columns = rounding_probes(torch.full((2, 64), 0.3).bfloat16(), None, torch.Generator().manual_seed(0))
        >>> (x.count_nonzero(1) <= 2).all().item(), len(columns)
        (True, 2)
    """
    fmt, n = format_of(weight.dtype), weight.shape[1]
    columns = _telling_columns(weight, generator)
    some = weight[:, columns].cpu().double()
    offset = None if bias is None else bias.cpu().double()
    single, pairs = [], []
    for k in range(len(columns)):
        values = torch.cat([_mantissas(fmt.precision), 1 + torch.rand(_FULL, generator=generator, dtype=torch.float64)])
        signs = torch.randint(0, 2, values.shape, generator=generator, dtype=torch.float64) * 2 - 1
        if offset is not None:
            values, signs = _with_bias(values, signs, some[:, k], offset, weight.dtype)
        single.append(_placed(values * signs, k, len(columns)))
        pairs.append(_pairs(k, len(columns), fmt.precision, generator))
    entries = torch.cat([*single, *pairs]).to(weight.dtype)
    rows = torch.zeros(len(entries), n, dtype=weight.dtype)
    rows[:, columns] = entries
    return rows.to(weight.device), columns.to(weight.device)


def _telling_columns(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Columns which together give every output a weight that is not zero, as far as a few can; in order."""
    n, (least, most) = weight.shape[1], _COLUMNS
    tried = torch.randperm(n, generator=generator)[:_SEARCHED]
    some = weight[:, tried].cpu()
    telling = (some != 0) & some.isfinite()
    chosen: list[int] = []
    missing = torch.ones(len(weight), dtype=torch.bool)
    for count in range(min(n, most)):
        if count >= least and not bool(missing.any()):
            break
        shown = (telling & missing[:, None]).sum(0)
        shown[chosen] = -1
        best = int(shown.argmax())
        chosen.append(best)
        missing &= ~telling[:, best]
    return tried[chosen].sort().values


def _mantissas(precision: int) -> Tensor:
    """Odd integers, scaled to [1, 2). Times most odd integers of the precision one of them gives a tie.

    The product of two odd integers is a tie where it has one bit more than the precision, and rounds down where it is 1
    modulo 4: away from zero is wrong there. For a factor congruent to 1 take ``2**k + 1``, for 3 ``2**k + 3``.
    """
    odd = sorted({3, 7, *(2**k + 1 for k in range(2, precision)), *(2**k + 3 for k in range(3, precision))})
    odd = odd[:: -(-len(odd) // _TIES)]
    values = torch.tensor([value for value in odd if value < 2**precision], dtype=torch.float64)
    return torch.ldexp(values, 1 - torch.frexp(values).exponent)


def _with_bias(
    values: Tensor, signs: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The same beside a bias: so large that it is lost, so small that it alone is seen, and ties of the two.

    ``weight`` and ``bias`` ``(O,)`` are what a row of a single entry is multiplied with and added to.
    """
    fmt, known = format_of(dtype), (weight != 0) & weight.isfinite() & (bias != 0) & bias.isfinite()
    w, b = weight[known], bias[known]
    if not len(w):
        return values, signs
    least, most = _exponent(fmt.min_normal), _exponent(fmt.max) - max(0, _exponent(float(w.abs().amax())) + 3) - 1
    even = _exponent(float(b.abs().median() / w.abs().median()))  # where products are as large as the bias
    large, small = max(0, min(even + 28, most)), max(even - fmt.precision - 3, least)
    # w * 2**t ends half an ulp of the bias below it: their sum is a tie, unless it has another exponent than the bias.
    t = torch.frexp(b).exponent.long() - fmt.precision - 1 - last_bit(w)
    usual = [exponent for exponent, _ in Counter(t.tolist()).most_common(8) if least <= exponent <= most]
    both = torch.tensor([2.0**t for t in (small, *usual)], dtype=torch.float64)
    values = torch.cat([values, values * 2.0**large, both, both])
    return values, torch.cat([signs, signs, torch.ones_like(both), -torch.ones_like(both)])


def _exponent(value: float) -> int:
    return math.frexp(value)[1] - 1


def _placed(values: Tensor, place: int, width: int) -> Tensor:
    rows = torch.zeros(len(values), width, dtype=torch.float64)
    rows[:, place] = values
    return rows


def _pairs(place: int, width: int, precision: int, generator: torch.Generator) -> Tensor:
    """Rows of two entries: random mantissas, and an even integer with half of one, which equal weights make a tie."""
    if width < 2:
        return torch.zeros(0, width, dtype=torch.float64)
    first = 1 + torch.rand(4, generator=generator, dtype=torch.float64)
    second = torch.randn(4, generator=generator, dtype=torch.float64)
    even = torch.randint(0, 2 ** (precision - 2), (4,), generator=generator).double() * 2 + 2.0 ** (precision - 1)
    halves = torch.tensor([0.5, -0.5, 0.5, -0.5], dtype=torch.float64)
    scale = 2.0 ** (1 - precision)
    rows = _placed(torch.cat([first, even * scale]), place, width)
    rows[:, (place + 1) % width] = torch.cat([second, halves * scale])
    return rows
