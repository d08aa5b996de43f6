"""Results of a large layer, assessed a block of outputs at a time: each output is judged by itself.

The exact results need the weight in float64 three times over: in blocks, without the memory that this would take.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import torch
from torch import Tensor

from equiv.causes import likely_cause
from equiv.numerics import Arithmetic, Assessment, Reference

_ENTRIES = 2**22  # weights of a block: 32 MiB in float64
_WIDE_TERMS, _WHOLE_TERMS = 2**25, 2**29  # products summed exactly in 3 seconds, in double-double and in integers
_EXPLAINED = 2**22  # weights up to which all outputs take part in finding a cause
_SAMPLED = 256


def assess_blocks(
    results: tuple[Tensor, ...],
    arithmetics: tuple[Arithmetic | None, ...],
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
) -> tuple[Assessment, ...]:
    """Each of ``results`` ``(N, O)`` against the exact outputs of ``(weight, bias)`` on ``x``, in its arithmetic.

    Args:
        results: ``(N, O)`` each.
        arithmetics: One for each; not used for integer dtypes.
        x: ``(N, n)``.
        weight: ``(O, n)``.
        bias: ``(O,)`` or None.
    """
    step = max(1, _ENTRIES // max(1, weight.shape[1]))
    found: list[list[Assessment]] = [[] for _ in results]
    for start in range(0, len(weight), step):
        block = slice(start, start + step)
        reference = Reference(x, weight[block], None if bias is None else bias[block])
        for each, result, arithmetic in zip(found, results, arithmetics, strict=True):
            each.append(reference.assess(result[:, block], arithmetic))
    return tuple(_joined(each) for each in found)


def assess_ways(
    result: Tensor, arithmetic: Arithmetic | None, x: Tensor, weights: Sequence[Tensor], bias: Tensor | None
) -> Assessment:
    """``result`` against each of several ways to compute one layer, every output in the way that fits it best.

    Args:
        result: ``(N, O)``.
        arithmetic: Not used for integer dtypes.
        x: ``(N, n)``.
        weights: ``(O, n)``, or ``(O, m*n)`` over m copies of the inputs, see :func:`equiv.verdict.arguments.tap_weights`.
        bias: ``(O,)`` or None.
    """
    best: Assessment | None = None
    for weight in weights:
        copies = weight.shape[1] // max(1, x.shape[1])
        (found,) = assess_blocks((result,), (arithmetic,), x.repeat(1, copies) if copies > 1 else x, weight, bias)
        if best is None:
            best = found
            continue
        better = (found.inside & ~best.inside) | ((found.inside == best.inside) & (found.ratio < best.ratio))
        pairs = {field.name: (getattr(found, field.name), getattr(best, field.name)) for field in fields(Assessment)}
        best = Assessment(**{name: torch.where(better, mine, theirs) for name, (mine, theirs) in pairs.items()})
    assert best is not None
    return best


def _joined(found: list[Assessment]) -> Assessment:
    if len(found) == 1:
        return found[0]
    names = [entry.name for entry in fields(Assessment)]
    return Assessment(**{name: torch.cat([getattr(each, name) for each in found], 1) for name in names})


def cause_of_outputs(
    actual: Tensor, worst: int, *, x: Tensor, weight: Tensor, bias: Tensor | None, feature_shape: tuple[int, ...]
) -> str | None:
    """The likely cause; of a large layer from its worst output and others spread over all, 256 at most.

    Args:
        actual: ``(N, O)``.
        worst: The output that is furthest off.
        x: ``(N, n)``.
        weight: ``(O, n)``.
        bias: ``(O,)`` or None.
        feature_shape: As for :func:`equiv.causes.weights.likely_cause`.
    """
    if weight.numel() > _EXPLAINED:
        outputs = len(weight)
        some = torch.tensor(sorted({worst, *range(0, outputs, -(-outputs // (_SAMPLED - 1)))}))
        actual, weight = actual[:, some], weight.detach().cpu()[some]
        bias = None if bias is None else bias.detach().cpu()[some]
    found = likely_cause(actual, x=x, weight=weight, bias=bias, feature_shape=feature_shape)
    return None if found is None else found.sentence


def outputs_to_judge(
    actual: Tensor, expected: Tensor, x: Tensor, weight: Tensor, tolerances: tuple[float, float] | None = None
) -> Tensor | None:
    """Which outputs to judge where exact results for all of them would take minutes; None for all of them.

    Results of float64, complex128 and integers are summed exactly term by term. Of more than 2^25 terms (2^29 of
    integers) those outputs are taken where the two results lie furthest apart for the size of their terms, and as many
    that are spread over all: what one kernel does wrong and the other does not is among the first.

    Args:
        actual: ``(N, O)``.
        expected: ``(N, O)``.
        x: ``(N, n)``.
        weight: ``(O, n)``.
        tolerances: ``(rtol, atol)`` that the caller asked for; outputs that exceed them are among those to judge.
    """
    dtype, (outputs, n) = weight.dtype, weight.shape
    exact = not (dtype.is_floating_point or dtype.is_complex)
    if not exact and dtype not in (torch.float64, torch.complex128):
        return None
    terms = max(1, len(x) * n) * (4 if dtype.is_complex else 1)
    count = max(2, (_WHOLE_TERMS if exact else _WIDE_TERMS) // terms)
    if count >= outputs or actual.shape != expected.shape or actual.shape != (len(x), outputs):
        return None
    wide = torch.complex128 if dtype.is_complex else torch.float64
    a, e = (t.detach().cpu().resolve_conj().to(wide) for t in (actual, expected))
    apart = (a - e).abs()
    if exact:
        apart = torch.where(actual.cpu() == expected.cpu(), 0.0, apart.clamp(min=1.0))  # int64 has more digits
    step = max(1, _ENTRIES // max(1, n))
    sizes = [_sizes(x) @ _sizes(weight[start : start + step]).T for start in range(0, outputs, step)]
    score = torch.where(apart == 0, 0.0, apart / torch.cat(sizes, 1)).nan_to_num(torch.inf, torch.inf).amax(0)
    furthest = score.topk(count // 2).indices.tolist()
    spread = range(0, outputs, -(-outputs // (count - count // 2)))
    beyond: list[int] = []
    if tolerances is not None:
        close = torch.isclose(a, e, rtol=tolerances[0], atol=tolerances[1], equal_nan=True)
        beyond = (~close).any(0).nonzero().flatten()[:count].tolist()
    return torch.tensor(sorted({*furthest, *spread, *beyond}))


def _sizes(t: Tensor) -> Tensor:
    return t.detach().abs().double().cpu()
