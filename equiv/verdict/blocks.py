"""Results of a large layer, assessed a block of outputs at a time: each output is judged by itself.

The exact results need the weight in float64 three times over: in blocks, without the memory that this would take.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, replace

import torch
from torch import Tensor

from equiv.causes import Cause, likely_cause, on_maps, sliding_cause
from equiv.dtypes import is_inexact
from equiv.mapping import Conv
from equiv.numerics import Arithmetic, Assessment, Reference
from equiv.verdict.arguments import Comparison, on_cpu

_ENTRIES = 2**22  # weights of a block: 32 MiB in float64
_WIDE_TERMS, _WHOLE_TERMS = 2**25, 2**29  # products summed exactly in 3 seconds, in double-double and in integers
_EXPLAINED = 2**22  # weights up to which all outputs take part in finding a cause
_SAMPLED = 256


def assess_both(
    rows: Comparison, arithmetics: tuple[Arithmetic | None, Arithmetic | None]
) -> tuple[Assessment, Assessment]:
    """Both results of a comparison in rows against the exact ones, each in its arithmetic.

    Where the weights that a result may come from are several, every output is taken with the one that fits it best.
    """
    results = (rows.actual, rows.expected)
    known = any(weight is not None for tried in rows.alternative_weights for weight in tried)
    if not known or not bool(rows.input.isfinite().all()):  # copies of an infinity would meet zeros
        first, second = assess_blocks(results, arithmetics, rows.input, rows.weight, rows.bias)
    else:
        first, second = (
            _best(rows, result, arithmetic, [rows.weight if weight is None else weight for weight in tried])
            for result, arithmetic, tried in zip(results, arithmetics, rows.alternative_weights, strict=True)
        )
    return first, second


def assess_blocks(
    results: tuple[Tensor, ...],
    arithmetics: tuple[Arithmetic | None, ...],
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
) -> tuple[Assessment, ...]:
    """Each of ``results`` ``(N, O)`` against the exact ones of ``weight`` ``(O, n)`` on ``x``, in its arithmetic."""
    step = max(1, _ENTRIES // max(1, weight.shape[1]))
    found: list[list[Assessment]] = [[] for _ in results]
    for start in range(0, len(weight), step):
        block = slice(start, start + step)
        reference = Reference(x, weight[block], None if bias is None else bias[block])
        for each, result, arithmetic in zip(found, results, arithmetics, strict=True):
            each.append(reference.assess(result[:, block], arithmetic))
    return tuple(_joined(each) for each in found)


def _best(rows: Comparison, result: Tensor, arithmetic: Arithmetic | None, weights: Sequence[Tensor]) -> Assessment:
    """``result`` with each of ``weights``, ``(O, n)`` or ``(O, m*n)`` over m copies of the inputs."""
    best: Assessment | None = None
    for weight in weights:
        copies = weight.shape[1] // max(1, rows.input.shape[1])
        x = rows.input.repeat(1, copies) if copies > 1 else rows.input
        (found,) = assess_blocks((result,), (arithmetic,), x, weight, rows.bias)
        if best is not None:
            better = (found.inside & ~best.inside) | ((found.inside == best.inside) & (found.ratio < best.ratio))
            pairs = {name: (getattr(found, name), getattr(best, name)) for name in _NAMES}
            found = Assessment(**{name: torch.where(better, mine, theirs) for name, (mine, theirs) in pairs.items()})
        best = found
    assert best is not None
    return best


_NAMES = [entry.name for entry in fields(Assessment)]


def _joined(found: list[Assessment]) -> Assessment:
    if len(found) == 1:
        return found[0]
    return Assessment(**{name: torch.cat([getattr(each, name) for each in found], 1) for name in _NAMES})


def cause_of_outputs(
    rows: Comparison, worst: int, feature_shape: tuple[int, ...], conv: Conv | None = None
) -> Cause | None:
    """The likely cause; of a large layer from its ``worst`` output and others spread over all, 256 at most.

    ``conv`` is the convolution of which the rows are the dense layer on maps of the feature shape, if there is one.
    """
    slides = conv is not None and math.prod(conv.weight.shape[2:]) < math.prod(feature_shape[1:])
    if conv is not None and slides:
        cause = sliding_cause(rows.actual, conv, rows.input.reshape(-1, *feature_shape), rows.expected)
        if cause is not None:
            return cause
    if rows.weight.numel() > _EXPLAINED:
        outputs = len(rows.weight)
        rows = at_outputs(rows, torch.tensor(sorted({worst, *range(0, outputs, -(-outputs // (_SAMPLED - 1)))})))
    cause = likely_cause(rows.actual, x=rows.input, weight=rows.weight, bias=rows.bias, feature_shape=feature_shape)
    return on_maps(cause, conv, dense=True) if cause is not None and conv is not None and slides else cause


def at_outputs(rows: Comparison, some: Tensor) -> Comparison:
    """The comparison at some of its outputs, the last dimension of its results."""
    return replace(
        rows,
        actual=rows.actual[:, some],
        expected=rows.expected[:, some],
        weight=rows.weight[some],
        bias=None if rows.bias is None else rows.bias[some],
        alternative_weights=rows.alternatives(lambda weight: weight[some]),
    )


def outputs_to_judge(rows: Comparison) -> Tensor | None:
    """Which outputs to judge where exact results for all of them would take minutes; None for all of them.

    Results of float64, complex128 and integers are summed exactly term by term. Of more than 2^25 terms (2^29 of
    integers) those outputs are taken where the two results lie furthest apart for the size of their terms, those that
    exceed the tolerances that were asked for, and as many that are spread over all: what one kernel does wrong and the
    other does not is among the first.
    """
    dtype, (outputs, n) = rows.weight.dtype, rows.weight.shape
    exact = not is_inexact(dtype)
    if not exact and dtype not in (torch.float64, torch.complex128):
        return None
    terms = max(1, len(rows.input) * n) * (4 if dtype.is_complex else 1)
    count = max(2, (_WHOLE_TERMS if exact else _WIDE_TERMS) // terms)
    if count >= outputs or not rows.actual.shape == rows.expected.shape == (len(rows.input), outputs):
        return None
    wide = torch.complex128 if dtype.is_complex else torch.float64
    a, e = (on_cpu(t).to(wide) for t in (rows.actual, rows.expected))
    apart = (a - e).abs()
    if exact:
        apart = torch.where(
            rows.actual.cpu() == rows.expected.cpu(), 0.0, apart.clamp(min=1.0)
        )  # int64 has more digits
    step = max(1, _ENTRIES // max(1, n))
    x, parts = _sizes(rows.input), (rows.weight[start : start + step] for start in range(0, outputs, step))
    sizes = torch.cat([x @ _sizes(part).T for part in parts], 1)
    score = torch.where(apart == 0, 0.0, apart / sizes).nan_to_num(torch.inf, torch.inf).amax(0)
    furthest = score.topk(count // 2).indices.tolist()
    spread = range(0, outputs, -(-outputs // (count - count // 2)))
    beyond: list[int] = []
    if rows.tolerances is not None:
        close = torch.isclose(a, e, rtol=rows.tolerances[0], atol=rows.tolerances[1], equal_nan=True)
        beyond = (~close).any(0).nonzero().flatten()[:count].tolist()
    return torch.tensor(sorted({*furthest, *spread, *beyond}))


def _sizes(values: Tensor) -> Tensor:
    return on_cpu(values).abs().double()
