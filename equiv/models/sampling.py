"""Results of one affine layer held against its envelope, at as many outputs as cost little beside the layer itself.

Those where the two results differ most are among them: what one kernel does wrong and the other does not is seen there.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from equiv.errors import EquivError
from equiv.mapping import Conv, pads_and_positions, plain_form
from equiv.models.layouts import Form, form_of
from equiv.models.trees import equal
from equiv.text import counted, quoted
from equiv.verdict import Outcome, Verdict, compare

_ROWS, _OUTPUTS = 16, 32
_TERMS = 2**24  # of the products that are summed again


def judged(layer: nn.Module, x: Tensor, actual: Tensor, expected: Tensor) -> Verdict:
    """Two results of a plain layer on one input, all as the layer takes and returns them.

    Under autocast results are in another dtype than inputs and weights, which the layer rounds to it first.

    Example:
        >>> linear, x = nn.Linear(8, 2), torch.rand(3, 8)
        >>> judged(linear, x, linear(x), linear(x)).outcome.name
        'IDENTICAL'
    """
    if actual.dtype == expected.dtype and equal(actual, expected):
        return same(actual)
    if actual.dtype != expected.dtype:
        kinds = [str(t.dtype).removeprefix("torch.") for t in (actual, expected)]
        text = f"it returns {kinds[0]} where the reference returns {kinds[1]}: another arithmetic."
        return verdict_of(Outcome.DIFFERENT, text, actual)
    try:
        plain, given = plain_form(layer, x)
        form = form_of(plain, tuple(given.shape))
        if form is None:
            return _sliding(plain, given, actual, expected)
        return _rows(form, plain, given, actual, expected)
    except EquivError as error:
        return verdict_of(Outcome.UNDECIDED, f"nobody can hold it against an envelope: {quoted(error, 300)}", actual)


def judged_chain(chain: nn.Sequential, x: Tensor, actual: Tensor, expected: Tensor) -> Verdict | None:
    """Two results of a chain of affine layers, folded or not, at two samples; None where it serves none."""
    if equal(actual, expected):
        return same(actual)
    if actual.ndim < 2 or len(x) != len(actual):
        return None
    apart = (actual - expected).abs().float().flatten(1).amax(1).nan_to_num(math.inf, math.inf)
    some = sorted({0, int(apart.argmax())})
    try:
        verdict = compare(actual[some], expected[some], input=x[some], layer=chain)
    except EquivError:
        return None
    worst = verdict.worst
    if worst is not None and worst.index:
        worst = replace(worst, index=(some[worst.index[0]], *worst.index[1:]))
    text = f"judged at {counted(len(some), 'sample')} of {len(x):,}: {verdict.explanation}"
    return replace(verdict, explanation=text, worst=worst, shape=tuple(actual.shape))


def verdict_of(outcome: Outcome, text: str, result: Tensor, **more: Any) -> Verdict:
    """A verdict on a result in words."""
    kind = str(result.dtype).removeprefix("torch.")
    return Verdict(outcome, text, kind, tuple(result.shape), **more)


def same(result: Tensor) -> Verdict:
    """The verdict on equal bits."""
    count = result.numel()
    counts = {"identical": count, "rounding": 0, "different": 0, "undecided": 0, "total": count}
    text = f"{counted(count, 'output')} the same bit for bit."
    return verdict_of(Outcome.IDENTICAL, text, result, counts=counts)


def _rows(form: Form, layer: Any, x: Tensor, actual: Tensor, expected: Tensor) -> Verdict:
    rows, a, e = form.rows_in(x), form.rows_out(actual), form.rows_out(expected)
    weight = layer.weight.detach().flatten(1)
    apart = (a - e).abs().float().nan_to_num(math.inf, math.inf)
    size = rows.detach().abs().float().amax(1, keepdim=True).clamp(min=1e-30)
    some = furthest((apart / size).amax(1), max(2, min(_ROWS, _TERMS // max(1, weight.numel() // 8))))
    outputs = furthest(apart[some].amax(0), _OUTPUTS)
    chosen, w = rows[some].to(a.dtype), weight[outputs].to(a.dtype)
    bias = None if layer.bias is None else layer.bias.detach()[outputs].to(a.dtype)
    results = (a[some][:, outputs], e[some][:, outputs])
    read = (chosen != 0).any(0).nonzero().flatten()
    if 4 * len(read) < chosen.shape[1] and bool(w.isfinite().all()):  # a probe: few columns decide
        verdict = compare(*results, input=chosen[:, read], weight=w[:, read], bias=bias)
        if verdict.equivalent:
            return _placed(verdict, some, outputs, actual, a.shape)
    verdict = compare(*results, input=chosen, weight=w, bias=bias)
    return _placed(verdict, some, outputs, actual, a.shape)


def furthest(score: Tensor, count: int) -> Tensor:
    """Indices of so many scores: half of them where the score is largest, half spread over all; in order."""
    total = len(score)
    if total <= count:
        return torch.arange(total, device=score.device)
    top = score.topk(count // 2).indices.tolist()
    return torch.tensor(sorted({*top, *range(0, total, -(-total // (count - count // 2)))}), device=score.device)


def _placed(verdict: Verdict, rows: Tensor, outputs: Tensor, result: Tensor, shape: Any) -> Verdict:
    """The verdict with the place of its worst entry, a row and an output, and how many were judged."""
    worst = verdict.worst
    if worst is not None:
        row, output = (*worst.index, 0, 0)[:2]
        worst = replace(worst, index=(int(rows[row]), int(outputs[output])))
    text = verdict.explanation
    if len(rows) * len(outputs) < math.prod(shape):
        text = f"judged at {len(rows) * len(outputs):,} of {result.numel():,} outputs: {text}"
    return replace(verdict, explanation=text, worst=worst, shape=tuple(result.shape))


def _sliding(conv: Conv, x: Tensor, actual: Tensor, expected: Tensor) -> Verdict:
    """At some positions of the map, a group of channels at a time."""
    rank = conv.weight.ndim - 2
    if x.ndim == rank + 1:
        x, actual, expected = (t.unsqueeze(0) for t in (x, actual, expected))
    apart = (actual - expected).abs().float().nan_to_num(math.inf, math.inf)
    places = apart.amax(1).flatten()  # (N * positions)
    channels = apart.amax((0, *range(2, apart.ndim)))
    each = conv.out_channels // conv.groups
    groups = furthest(channels.view(conv.groups, each).amax(1), 4)
    some = furthest(places, _ROWS)
    positions = tuple(actual.shape[2:])
    index = torch.unravel_index(some, (len(x), *positions))
    patches = _patches(conv, x, index)  # (R, C, *kernel)
    inputs = conv.in_channels // conv.groups
    found = []
    for group in groups.tolist():
        outputs = furthest(channels[group * each : (group + 1) * each], _OUTPUTS) + group * each
        a, e = (t.movedim(1, -1).reshape(-1, conv.out_channels)[some][:, outputs] for t in (actual, expected))
        part = patches[:, group * inputs : (group + 1) * inputs].to(a.dtype)
        weight = conv.weight.detach()[outputs].to(a.dtype)
        bias = None if conv.bias is None else conv.bias.detach()[outputs].to(a.dtype)
        verdict = compare(a, e, input=part, weight=weight, bias=bias)
        found.append(_placed(verdict, some, outputs, actual, (len(places), conv.out_channels)))
    return worst_of(found)


def _patches(conv: Conv, x: Tensor, index: tuple[Tensor, ...]) -> Tensor:
    """What the kernel reads at some positions, ``(R, C, *kernel)``; ``index`` of the batch and of each axis."""
    pads = pads_and_positions(conv, tuple(x.shape[2:]))[0]
    flat = [side for pad in pads[::-1] for side in pad]
    mode = conv.padding_mode if conv.padding_mode in ("reflect", "replicate", "circular") else "constant"
    batch, places = torch.unique(index[0], return_inverse=True)
    padded = functional.pad(x[batch], flat, mode=mode) if any(flat) else x[batch]
    axes = zip(index[1:], conv.stride, conv.dilation, conv.kernel_size, strict=True)
    reads = [at[:, None] * int(s) + torch.arange(k, device=x.device) * int(d) for at, s, d, k in axes]  # (R, k)
    rank = len(reads)
    spread = [r.view(len(r), *(-1 if axis == other else 1 for other in range(rank))) for axis, r in enumerate(reads)]
    found = padded[(places.view(-1, *[1] * rank), slice(None), *spread)]  # (R, *kernel, C)
    return found.movedim(-1, 1)


_ORDER = (Outcome.DIFFERENT, Outcome.UNDECIDED, Outcome.ROUNDING, Outcome.IDENTICAL)


def worst_of(verdicts: list[Verdict]) -> Verdict:
    """The first of the worst outcome; of ``ROUNDING`` the one that fills most of its envelope."""
    return min(verdicts, key=lambda v: (_ORDER.index(v.outcome), -(v.max_ratio or 0.0)))


def probe_like(layer: nn.Module, x: Tensor, seed: int) -> Tensor:
    """An input of few entries with full mantissas, of which most windows of the layer read one or two.

    On it right kernels have hardly any freedom: the sum of one product is rounded once.
    """
    generator = torch.Generator().manual_seed(seed)
    form = form_of(layer, tuple(x.shape))
    draw: Any = {"generator": generator, "device": "cpu"}
    if form is not None:
        rows = form.rows_in(x)
        values = (1 + torch.rand(rows.shape[0], 1, **draw)) * (torch.randint(0, 2, (rows.shape[0], 1), **draw) * 2 - 1)
        places = torch.randint(0, rows.shape[1], (rows.shape[0], 1), **draw)
        probe = torch.zeros(rows.shape, device="cpu").scatter_(1, places, values.float())
        return form.like_in(probe.to(rows.device, rows.dtype), tuple(x.shape))
    share = 1.0 / max(1, layer.weight[0].numel())  # type: ignore[index]
    chosen = torch.rand(x.shape, **draw) < share
    values = (1 + torch.rand(x.shape, **draw)) * (torch.randint(0, 2, x.shape, **draw) * 2 - 1)
    return torch.where(chosen, values, torch.zeros((), device="cpu")).to(x.device, x.dtype)
