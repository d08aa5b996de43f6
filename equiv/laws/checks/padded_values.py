"""Any convolution on normal values: results and gradients lie in the envelopes of their sums."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from equiv.laws.call import Call
from equiv.laws.checks.drawing import generator_of
from equiv.laws.checks.expected import backward, reference_of
from equiv.laws.checks.padded_back import recorded
from equiv.laws.checks.windows import Windows
from equiv.laws.trial import Trial
from equiv.strategies import Convolution

_WORK = 2**14  # terms that are judged: references in double-double cost some forty operations each


def on_values(trial: Trial, case: Convolution, call: Call, windows: Windows, condition: str) -> None:
    """Results of one group lie in their envelopes: at all positions, or at some of them spread over all."""
    generator = generator_of(case)
    x, weight = _normal(case.x, generator), _normal(case.weight, generator)
    bias = None if case.bias is None else _normal(case.bias, generator)
    given = x if call.input.shape == x.shape else windows.padded(x)
    given_call = replace(call, input=given, weight=weight, bias=bias)
    group, outputs = _group(case)
    y = windows.by_group(trial.output(given_call, f"on normal values, {condition}"))[group]
    rows = windows.rows(x)[group]
    some = _some(len(rows), rows.shape[1] * y.shape[1], generator)
    reference = reference_of(rows[some], weight[outputs].flatten(1), None if bias is None else bias[outputs])
    trial.judge(given_call, y[some], reference, f"one row for each window of group {group}, {condition}")


def gradients_on_values(trial: Trial, case: Convolution, call: Call, windows: Windows, condition: str) -> None:
    """So do the gradients: of the bias, of some taps of the weight and some entries of the map.

    All incoming entries have one sign in every other case: a sum that stops growing is furthest off there.
    """
    generator = generator_of(case)
    given = {"input": case.x, "weight": case.weight, "bias": case.bias}
    leaves: dict[str, Any] = {
        name: _normal(t, generator).requires_grad_() for name, t in given.items() if t is not None
    }
    grad = _normal(windows.incoming(case), generator)
    grad = grad.abs() if case.seed // 4 % 2 else grad
    y = trial.output(recorded(call, leaves, windows), condition)
    found = dict(zip(leaves, backward(trial, call, y, leaves, grad, condition), strict=False))
    if not found:
        return
    x, weight = leaves["input"].detach(), leaves["weight"].detach()
    group, outputs = _group(case)
    g, rows = windows.by_group(grad)[group], windows.rows(x)[group]  # (N * positions, O or C * taps in the group)

    def judge(name: str, actual: Tensor, reference: Any) -> None:
        trial.judge(call, actual, reference, f"gradient of the {name} on normal values, {condition}", gradient=name)

    if "bias" in found:
        some = _some(g.shape[1], len(g), generator)
        judge("bias", found["bias"][outputs][some, None], reference_of(g.T[some], g.new_ones(1, len(g))))
    some = _some(rows.shape[1], g.numel(), generator)
    judge("weight", found["weight"][outputs].flatten(1)[:, some], reference_of(g.T, rows.T[some]))
    if case.recipe.padding_mode != "zeros":
        return  # an entry that is repeated gets rounded parts
    entries = _some(math.prod(case.recipe.size), windows.read.shape[0] * g.shape[1], generator)
    channel = case.seed % (case.recipe.channels // case.recipe.groups)
    taps = _taps(windows, weight[outputs, channel].flatten(1), entries)
    sample = grad[0].view(case.recipe.groups, -1)[group]
    of_map = found["input"][0].view(case.recipe.channels, -1)[group * (case.recipe.channels // case.recipe.groups) :]
    judge("input", of_map[channel, entries][None], reference_of(sample[None], taps))


def _taps(windows: Windows, weight: Tensor, entries: Tensor) -> Tensor:
    """What each output of a group and position takes of some entries of one channel: ``(entries, O * positions)``."""
    positions, taps = windows.read.shape
    reads = windows.read.to(weight.device)[None] == (entries + 1).to(weight.device)[:, None, None]  # (entries, P, taps)
    found = torch.zeros(len(entries), len(weight), positions, dtype=weight.dtype, device=weight.device)
    for tap in range(taps):  # of one position at most one tap reads an entry
        found += torch.where(reads[:, None, :, tap], weight[None, :, tap, None], 0)
    return found.flatten(1)


def _group(case: Convolution) -> tuple[int, slice]:
    """One group, and its outputs."""
    each, group = case.recipe.outputs // case.recipe.groups, case.seed // 8 % case.recipe.groups
    return group, slice(group * each, (group + 1) * each)


def _some(count: int, each: int, generator: torch.Generator) -> Tensor:
    """Which of ``count`` sums of ``each`` terms are judged: all, or as many as there is work for."""
    return torch.randperm(count, generator=generator)[: max(1, _WORK // max(1, each))]


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    values = torch.randn(like.shape, generator=generator, dtype=torch.float64)
    return values.to(like.dtype).to(like.device)
