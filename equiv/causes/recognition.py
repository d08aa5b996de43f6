"""Which profile explains the outputs of a layer: in which formats it was computed.

Every combination of formats is a hypothesis: operands are rounded, outputs computed in float64 from them, and it fits
where all outputs lie in the envelope of its own arithmetic. Of those that fit the one with the fewest roundings is
taken, unless another is twice as close.

How much the outputs say is counted in bits, as a likelihood ratio counts it: each output is worth the logarithm of how
much closer it is to the profile than to the right layer. A profile that is one of thousands needs more of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product as combinations
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from equiv.causes.low_sums import Fit, in_low_sums
from equiv.causes.mistakes import Cause
from equiv.causes.profiles import Kept, Profile, cause_of_profile, known_as
from equiv.causes.steps import common_step, steps_of
from equiv.numerics import Reference, Rounding, format_of, ordinal, rounding_to

if TYPE_CHECKING:
    from equiv.causes.hypotheses import Outputs

_SAMPLE, _OUTPUTS = 64, 16  # outputs in all and of a row, on which all combinations are tried
_ENTRIES = 2**19  # weights of these outputs
_SHORT = 24  # combinations that are tried in full
_NEAR = 0.25  # errors beyond this share of the size of the terms are none of roundings
_SAME = 0.8  # the share of rounded results that must be the very same: few lie so near the middle of two
_FLIPS = 3  # rounded results so near the middle of two that they may go either way: no evidence for fine steps
_BITS, _KNOWN_BITS = 36.0, 20.0  # evidence that a profile needs: one of thousands, one of the few that engines have

_TF32, _AWAY, _CUT = Rounding("TF32"), Rounding("TF32 (ties away)"), Rounding("TF32 (cut off)")
_HALF, _BRAIN, _SINGLE = (rounding_to(dtype) for dtype in (torch.float16, torch.bfloat16, torch.float32))
_PRECISION = {
    "float32": 24,
    "TF32": 11,
    "TF32 (ties away)": 11,
    "TF32 (cut off)": 11,
    "float16": 11,
    "bfloat16": 8,
    "steps": 0,
}


class Operand(NamedTuple):
    """Inputs, weights or bias under a rounding; ``half_too`` where TF32 and float16 make the same of them."""

    rounding: Kept
    values: Tensor
    half_too: bool = False


def recognised(y: Outputs) -> Iterator[tuple[Cause, float]]:
    """The profile that explains every output, if one does, as a cause with its distance."""
    if not y.a.numel() or not _is_near(y):
        return
    found = _in_wide_sums(y) or min(in_low_sums(y, *_sampled(y)), key=lambda fit: fit.distance, default=None)
    if found is None:
        return
    profile, distance, note = found.profile, found.distance, ""
    if profile.sums != y.dtype and profile.results == _SINGLE:
        distance = 0.0  # outputs of float64 that are numbers of float32 say all: sums in it are off as much as rounding
    if profile.x == profile.weight == _TF32 and all(torch.equal(_HALF(t), _TF32(t)) for t in (y.xs, y.ws)):
        note = "or to float16, which rounds these values alike"
    formats = {rounding.format for rounding in profile.roundings}
    wanted = _BITS if "steps" in formats or len(formats) > 1 else _KNOWN_BITS
    if _bits(y, distance) >= wanted:
        yield cause_of_profile(profile, y.dtype, note), distance


def _settled(operands: list[Operand], results: Kept) -> tuple[Kept, Kept, Kept]:
    """The roundings of the operands, where TF32 that is also float16 is called what the other parts are."""
    every = [operand.rounding for operand in operands]
    told = [kept for operand, kept in zip(operands, every, strict=True) if not operand.half_too]
    # Kernels of TF32 round both factors, and nothing else.
    if _TF32 not in told and (_HALF in (*told, results) or None in every[:2] or every[2] is not None):
        every = [_HALF if operand.half_too else operand.rounding for operand in operands]
    x, weight, bias = every
    return x, weight, bias


def _is_near(y: Outputs) -> bool:
    """Whether all is finite, of real numbers that the dtype holds, and off by what roundings may cost."""
    if not all(bool(t.isfinite().all()) for t in (y.xs, y.ws, y.b, y.e)):
        return False
    if any(bool((t.to(y.dtype).to(t.dtype) != t).any()) for t in (y.xs, y.ws, y.b)):
        return False
    far = (y.a - y.e).abs() / y.size.clamp(min=torch.finfo(torch.float64).tiny)
    return float(far[far.isfinite()].median()) < _NEAR if bool(far.isfinite().any()) else False


def _bits(y: Outputs, distance: float) -> float:
    """How much the outputs say for a profile at this distance, against the right layer."""
    shares = format_of(y.dtype).u * y.e.abs() / y.size
    least = 0.3 * float(shares.nan_to_num(0.0).square().mean().sqrt())  # rounding of the result itself
    far = y.distance(y.e)
    return y.a.numel() * math.log2(far / max(distance, least)) if far > 0 and max(distance, least) > 0 else 0.0


def _formats(dtype: torch.dtype) -> list[Rounding]:
    """The formats below a dtype, the finer ones first."""
    every = [_SINGLE, _TF32, _AWAY, _CUT, _HALF, _BRAIN]
    return [kept for kept in every if _PRECISION[kept.format] < format_of(dtype).precision]


def _different(values: Tensor, tried: list[Rounding], some: Tensor) -> list[Operand]:
    """The values (m, n) as they are and under each rounding that changes them, each result once; ``some`` rows of it.

    Which results are the same is told by 64-bit sums of their bits, so that no copy of them is kept.
    """
    generator = torch.Generator().manual_seed(0)
    odd = torch.randint(-(2**62), 2**62, (values.shape[1],), generator=generator) * 2 + 1
    more = torch.randint(-(2**62), 2**62, (len(values),), generator=generator) * 2 + 1
    found = [Operand(None, values[some].double())]
    known = {_key(values, odd, more): 0}
    for rounding in tried:
        kept = rounding(values)
        place = known.setdefault(_key(kept, odd, more), len(found))
        if place == len(found):
            found.append(Operand(rounding, kept[some].double()))
        elif rounding == _HALF and found[place].rounding == _TF32:
            found[place] = found[place]._replace(half_too=True)
    return found


def _key(values: Tensor, odd: Tensor, more: Tensor) -> int:
    return int(((ordinal(values) * odd).sum(1) * more).sum())


def _results(y: Outputs) -> list[Kept]:
    """The formats and steps that every output is a number of."""
    seen = y.a.to(y.dtype)
    tried = (kept for kept in _formats(y.dtype) if kept not in (_AWAY, _CUT))
    found: list[Kept] = [None, *(kept for kept in tried if torch.equal(kept(seen), seen))]
    if _HALF in found and _TF32 in found:
        found.remove(_TF32)
    step = common_step(y.a)
    if step is not None and y.a.numel() >= 8:
        low, high = float((y.a.min() / step).round()), float((y.a.max() / step).round())
        full = 250 <= high - low <= 255
        found.append(Rounding("steps", step, least=low, most=high) if full else Rounding("steps", step))
    return found


def _in_wide_sums(y: Outputs) -> Fit | None:
    """The best profile with sums in float32, or in the wider dtype of the layer, that all outputs lie in."""
    rows, outs = _sampled(y)
    x, w, b = (t.to(y.dtype) for t in (y.xs, y.ws, y.b))
    xs = _different(x, [*_formats(y.dtype), *steps_of(x, weights=False)], rows)
    ws = _different(w, [*_formats(y.dtype), *steps_of(w, weights=True)], outs)
    bs = _different(b[:, None], _formats(y.dtype), outs)
    x, w = torch.stack([t.values for t in xs]), torch.stack([t.values for t in ws])  # (X, r, n), (W, o, n)
    shape = len(xs), len(rows), len(ws), len(outs)
    h, size = ((t.flatten(0, 1) @ u.flatten(0, 1).T).view(shape) for t, u in ((x, w), (x.abs(), w.abs())))
    a, e_size = (t[rows][:, outs][:, None] for t in (y.a, y.size))  # (r, 1, o)
    sums = [torch.float32, y.dtype] if format_of(y.dtype).precision > 24 else [torch.float32]
    narrow = [torch.equal(_SINGLE(t), t) for t in (y.xs, y.ws, y.b)]
    found: list[tuple[float, float, Profile]] = []
    for bias, kept, acc in combinations(bs, _results(y), sums):
        b = bias.values[:, 0]
        error = 1.01 * (x.shape[-1] + 5) * (format_of(acc).u + 2.0**-52) * (size + b.abs())
        error = error + _half_steps(a.abs() + h.abs(), kept, y.dtype)
        ends = (h + b,) if kept is None else (kept(h + b), kept(kept(h) + b))
        off = torch.stack([((a - end) / e_size).square().mean((1, 3)).sqrt() for end in ends]).amin(0)  # (X, W)
        for i, j in ((a - (h + b)).abs() <= error).all(3).all(1).nonzero().tolist():
            profile = Profile(*_settled([xs[i], ws[j], bias], kept), acc, kept)
            if profile.roundings and (acc == y.dtype or y.dtype != torch.float64 or _can_be_summed(profile, narrow)):
                found.append((float(off[i, j]), _cost(profile), profile))
    close = sorted(found, key=lambda f: f[0])[:_SHORT]
    few = sorted(found, key=lambda f: f[1:2] + f[0:1])[:_SHORT]
    fits = [_fit(y, profile) for _, _, profile in {id(f[2]): f for f in (*few, *close)}.values()]
    left = sorted((fit for fit in fits if fit is not None), key=lambda fit: (_cost(fit.profile), fit.distance))
    while left:
        best = _best(left)
        if _is_inside(y, best.profile):
            return best
        left.remove(best)
    return None


def _can_be_summed(profile: Profile, narrow: list[bool]) -> bool:
    """Whether what is summed in float32 are numbers of float32, and the results are."""
    operands = zip((profile.x, profile.weight, profile.bias), narrow, strict=True)
    return profile.results is not None and all(fits or kept is not None for kept, fits in operands)


def _half_steps(size: Tensor, kept: Kept, dtype: torch.dtype) -> Tensor:
    """How far rounding may move results, twice where the bias comes after it; ``size`` is that of both together."""
    if kept is None:
        return 2.1 * format_of(dtype).u * size + format_of(dtype).min_subnormal
    if kept.format == "steps":
        return torch.full_like(size, math.inf if math.isfinite(kept.least) else 0.51 * kept.step)
    return 2.1 * 2.0 ** -_PRECISION[kept.format] * size + (2.0**-23 if kept.format == "float16" else 2.0**-126)


def _sampled(y: Outputs) -> tuple[Tensor, Tensor]:
    """Rows and outputs on which all combinations are tried: the worst ones, and others spread over all."""
    n = max(1, y.ws.shape[1])
    outs = _spread(len(y.ws), max(1, min(_OUTPUTS, _ENTRIES // n)), y.out)
    return _spread(len(y.xs), max(1, _SAMPLE // len(outs)), y.row), outs


def _spread(count: int, wanted: int, first: int) -> Tensor:
    return torch.tensor(sorted({first, *range(0, count, -(-count // wanted))}))


def _is_inside(y: Outputs, profile: Profile) -> bool:
    """Whether all outputs lie in the envelope of its arithmetic."""
    reference = Reference(*(t.to(y.dtype) for t in (y.xs, y.ws, y.b)))
    return reference.assess(y.a.to(y.dtype), profile.arithmetic(y.dtype)).all_inside


def _fit(y: Outputs, profile: Profile) -> Fit | None:
    """How closely a profile gives all outputs; None where it rounds results and most are not its very own."""
    x, w, b = (t if kept is None else kept(t.to(y.dtype)).to(y.wide) for t, kept in _operands(y, profile))
    products, kept = x @ w.T, profile.results
    if kept is None:
        return Fit(profile, y.distance(products + b))
    ends = [end.to(y.dtype).to(y.wide) for end in (kept(products + b), kept(kept(products) + b))]
    missed = min(int((y.a != end).sum()) for end in ends)
    if _PRECISION[kept.format] < format_of(profile.sums).precision and missed > (1 - _SAME) * y.a.numel():
        return None
    return Fit(profile, min(map(y.distance, ends)), missed)


def _operands(y: Outputs, profile: Profile) -> tuple[tuple[Tensor, Kept], ...]:
    return (y.xs, profile.x), (y.ws, profile.weight), (y.b, profile.bias)


def _best(fits: list[Fit]) -> Fit:
    """The first, which has the fewest roundings, unless another is twice as close."""
    best = fits[0]
    for fit in fits[1:]:
        same_results = fit.profile.results is not None and fit.profile.results == best.profile.results
        fine = same_results and any(kept is not None and kept.format == "steps" for kept in _factors(fit.profile))
        if fit.distance < best.distance / 2 and not (fine and best.missed - fit.missed < _FLIPS):
            best = fit
    return best


def _factors(profile: Profile) -> tuple[Kept, Kept]:
    return profile.x, profile.weight


def _cost(profile: Profile) -> float:
    """How many roundings, steps and formats that differ counting more."""
    formats = {rounding.format for rounding in profile.roundings}
    return len(profile.roundings) + 2 * len(formats) + 2 * ("steps" in formats) - 0.5 * (known_as(profile) is not None)
