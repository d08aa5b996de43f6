"""The law about convolutions with stride, padding, dilation and groups."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from hypothesis.strategies import SearchStrategy
from torch import Tensor
from torch.nn import functional

from equiv.backends import TorchEager
from equiv.dtypes import is_inexact
from equiv.laws.call import Call
from equiv.laws.checks.drawing import generator_of
from equiv.laws.checks.expected import GRADIENT_NAMES, backward, goes_back, reference_of, whole
from equiv.laws.known import crashes_in_padding
from equiv.laws.reach import EXACT_GRADIENTS, Reach, leaves, sizes
from equiv.laws.registry import Context, law
from equiv.laws.trial import Trial
from equiv.mapping import conv_to_linear
from equiv.strategies import Convolution, ConvolutionRecipe, build_convolution, convolutions

_DENSE_ENTRIES = 2**14  # of the dense layer that a convolution is
_VALUES_WORK = 2**14  # terms: references in double-double cost some forty operations each


def _drawn(context: Context) -> SearchStrategy[Convolution]:
    return convolutions(dtype=context.dtype, device=context.device, spatial_dims=context.ranks)


_REACHES = (
    sizes("channels", most=16),
    *map(sizes, ("kernel", "map", "positions", "stride", "dilation", "padding")),
    Reach("groups", ("1", "several", "one for each channel"), needs=("groups",), forms=("full",)),
    leaves("input", "weight", "bias", "input and weight", "input, weight and bias"),
    *EXACT_GRADIENTS,
)


@law(16, "convolution", draw=_drawn, forms=("full",), weight=2, reaches=_REACHES)
def convolution(trial: Trial, case: Convolution) -> None:
    """A convolution with stride, padding, dilation and groups is the dense layer that it is, at every position.

    So are its gradients.
    """
    recipe = _served(trial, case.recipe)
    case = case if recipe == case.recipe else build_convolution(recipe)
    windows = _Windows(recipe)
    natively = recipe.padding_mode == "zeros" and any(recipe.steps[1]) and trial.asks("padding", "full")
    stride, padding, dilation = recipe.steps
    native = Call("full", case.x, case.weight, case.bias, stride, dilation, padding, recipe.groups)
    finding = crashes_in_padding(native) if natively and type(trial.backend) is TorchEager else None
    if finding is not None:
        trial.cover("known defect of torch", finding)
        natively = False
    x = case.x if natively or not any(padding) else windows.padded(case.x)
    added = padding if natively else ()
    call = trial.taken(Call("full", x, case.weight, case.bias, stride, dilation, added, recipe.groups))
    if call is None:
        return
    trial.cover("padding mode", recipe.padding_mode if any(padding) else "none")
    expected = windows.result(case.x, case.weight, case.bias)
    words = f"of {tuple(x.shape[2:])}, stride {stride}, padding {added or 0}, dilation {dilation}, groups {call.groups}"
    condition = f"on a map {words}"
    trial.same(call, trial.output(call, condition), expected, condition)
    if case.seed % 4 == 0:
        one = trial.taken(replace(call, input=call.input[0]))  # kernels take another path without a batch dimension
        if one is not None:
            trial.same(one, trial.output(one, condition), expected[0], f"without a batch dimension, {condition}")
    if case.seed % 4 == 1 and case.dtype.is_floating_point:
        _on_ordinary_values(trial, case, call, windows, condition)
    if case.seed % 4 == 2 and is_inexact(case.dtype):
        _as_dense(trial, case, expected)
    if goes_back(trial, "full"):
        _gradients(trial, case, call, windows, expected, condition)


def _served(trial: Trial, recipe: ConvolutionRecipe) -> ConvolutionRecipe:
    """The convolution without the steps and groups that the backend does not serve."""
    for name in ("stride", "dilation"):
        if any(step != 1 for step in getattr(recipe, name)) and not trial.asks(name, "full"):
            changed: dict[str, Any] = {name: ()}
            recipe = replace(recipe, **changed)
    if recipe.groups > 1 and not trial.asks("groups", "full"):
        channels, outputs = (count // recipe.groups for count in (recipe.channels, recipe.outputs))
        recipe = replace(recipe, channels=channels, outputs=outputs, groups=1)
    return recipe


@dataclass(frozen=True)
class _Windows:
    """Where a convolution reads its map, and what follows from that in a dtype in which every sum is exact."""

    recipe: ConvolutionRecipe

    @cached_property
    def map(self) -> Tensor:
        """For each place of the padded map which entry lies there, counted from 1; 0 for none. ``(*padded)``."""
        size, padding = self.recipe.size, self.recipe.steps[1]
        places = torch.arange(1.0, math.prod(size) + 1, dtype=torch.float64).view(1, 1, *size)
        mode = "constant" if self.recipe.padding_mode == "zeros" else self.recipe.padding_mode
        return functional.pad(places, [p for each in reversed(padding) for p in (each, each)], mode)[0, 0].long()

    @cached_property
    def read(self) -> Tensor:
        """The same for each position and tap: ``(positions, taps)``."""
        found, (stride, _, dilation) = self.map, self.recipe.steps
        for d, (k, s, e) in enumerate(zip(self.recipe.kernel, stride, dilation, strict=True)):
            found = found.unfold(d, e * (k - 1) + 1, s)[..., ::e]
        return found.reshape(-1, math.prod(self.recipe.kernel))

    def padded(self, x: Tensor) -> Tensor:
        """The padded map, ``(N, C, *padded)``."""
        return torch.cat([x.new_zeros(*x.shape[:2], 1), x.flatten(2)], 2)[:, :, self.map.to(x.device)]

    def rows(self, x: Tensor) -> Tensor:
        """What each output of a group reads: ``(groups, N * positions, C / groups * taps)``."""
        r = self.recipe
        flat = torch.cat([x.new_zeros(*x.shape[:2], 1), x.flatten(2)], 2)[:, :, self.read.to(x.device)]
        parts = flat.view(len(x), r.groups, -1, *self.read.shape).permute(1, 0, 3, 2, 4)
        return parts.reshape(r.groups, len(x) * len(self.read), -1)

    def by_group(self, y: Tensor) -> Tensor:
        """``(N, O, *positions)`` as ``(groups, N * positions, O / groups)``."""
        parts = y.reshape(len(y), self.recipe.groups, -1, len(self.read)).permute(1, 0, 3, 2)
        return parts.reshape(self.recipe.groups, len(y) * len(self.read), -1)

    def result(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The exact result ``(N, O, *positions)`` of integers."""
        groups, kind = self.recipe.groups, _wide(x)
        y = self.rows(x.to(kind)) @ weight.to(kind).view(groups, weight.shape[0] // groups, -1).mT
        y = y.view(groups, len(x), len(self.read), -1).permute(1, 0, 3, 2).reshape(len(x), len(weight), -1)
        y = y if bias is None else y + bias.to(kind)[:, None]
        return y.view(*y.shape[:2], *self.recipe.positions).to(x.dtype)

    def gradients(self, x: Tensor, weight: Tensor, grad: Tensor) -> dict[str, Tensor]:
        """The exact gradients of integers, for an incoming gradient ``(N, O, *positions)``."""
        groups, kind = self.recipe.groups, _wide(x)
        g, rows = self.by_group(grad.to(kind)), self.rows(x.to(kind)).conj()
        parts = g @ weight.to(kind).view(groups, len(weight) // groups, -1).conj()
        taps = self.read.shape[1]
        parts = parts.view(groups, len(x), len(self.read), -1, taps).permute(1, 0, 3, 2, 4)
        spread = parts.new_zeros(*x.shape[:2], 1 + math.prod(self.recipe.size))
        spread.index_add_(2, self.read.flatten().to(x.device), parts.reshape(*x.shape[:2], -1))
        found = {"input": spread[..., 1:], "weight": g.mT @ rows, "bias": grad.to(kind).flatten(2).sum((0, 2))}
        shapes = {"input": x.shape, "weight": weight.shape, "bias": weight.shape[:1]}
        return {name: t.resolve_conj().reshape(shapes[name]).to(x.dtype) for name, t in found.items()}


def _wide(t: Tensor) -> torch.dtype:
    return torch.complex128 if t.is_complex() else torch.float64 if t.is_floating_point() else torch.int64


def _gradients(
    trial: Trial, case: Convolution, call: Call, windows: _Windows, expected: Tensor, condition: str
) -> None:
    """Of all leaves, or of some: kernels take other paths back where not all gradients are asked for."""
    assert case.grad is not None
    given = {"input": case.x, "weight": case.weight, "bias": case.bias}
    which = 7 if case.seed % 3 else 1 + case.seed // 4 % 6
    names = [name for bit, name in enumerate(GRADIENT_NAMES) if which >> bit & 1 and given[name] is not None]
    names = names or ["weight"]
    leaves: dict[str, Any] = {name: t.detach().requires_grad_() for name in names if (t := given[name]) is not None}
    changed = dict(leaves)
    if "input" in leaves and call.input.shape != case.x.shape:
        changed["input"] = windows.padded(leaves["input"])
    recorded = replace(call, **changed)
    y = trial.output(recorded, condition)
    if y.requires_grad:
        trial.same(call, y, expected, f"while gradients are recorded, {condition}")
    wanted = windows.gradients(case.x, case.weight, case.grad)
    found = backward(trial, call, y, leaves, case.grad, condition)
    for name, gradient in zip(names, found, strict=False):
        trial.same(call, gradient, wanted[name], condition, gradient=(name, case.grad))


def _on_ordinary_values(trial: Trial, case: Convolution, call: Call, windows: _Windows, condition: str) -> None:
    """One group on normal values lies in the envelope of its sums."""
    r, generator = case.recipe, generator_of(case)
    rows, terms = r.samples * math.prod(r.positions), r.channels // r.groups * math.prod(r.kernel)
    if rows * terms * (r.outputs // r.groups) > _VALUES_WORK:
        return

    def normal(like: Tensor) -> Tensor:
        values = torch.randn(like.shape, generator=generator, dtype=torch.float64)
        return values.to(like.dtype).to(like.device)

    x, weight = normal(case.x), normal(case.weight)
    bias = None if case.bias is None else normal(case.bias)
    given = x if call.input.shape == x.shape else windows.padded(x)
    given_call = replace(call, input=given, weight=weight, bias=bias)
    y = windows.by_group(trial.output(given_call, f"on normal values, {condition}"))
    group = case.seed // 4 % r.groups
    outputs = slice(group * (r.outputs // r.groups), (group + 1) * (r.outputs // r.groups))
    kept = None if bias is None else bias[outputs]
    reference = reference_of(windows.rows(x)[group], weight[outputs].flatten(1), kept)
    trial.judge(given_call, y[group], reference, f"one row for each window of group {group}, {condition}")


def _as_dense(trial: Trial, case: Convolution, expected: Tensor) -> None:
    """The layer that ``conv_to_linear`` makes of it gives the same."""
    if case.x[0].numel() * expected[0].numel() > _DENSE_ENTRIES:
        return
    layer = conv_to_linear(case.module, tuple(case.x.shape[1:]))
    y = whole(case.x.flatten(1), layer.weight, layer.bias)
    words = f"becomes a layer with another result by conv_to_linear for {case.module}"
    trial.holds(torch.equal(y, expected.flatten(1)), "full", words)
