"""The law about convolutions with stride, padding, dilation and groups."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from equiv.backends import TorchEager
from equiv.dtypes import is_inexact
from equiv.laws.call import Call
from equiv.laws.checks.expected import goes_back, whole
from equiv.laws.checks.padded_back import gradients, second_order
from equiv.laws.checks.padded_values import gradients_on_values, on_values
from equiv.laws.checks.windows import Windows
from equiv.laws.known import crashes_in_padding
from equiv.laws.reach import EXACT_GRADIENTS, Reach, leaves, sizes
from equiv.laws.registry import Context, law
from equiv.laws.trial import Trial
from equiv.mapping import conv_to_linear
from equiv.strategies import SLIDING, Convolution, ConvolutionRecipe, build_convolution, convolutions, like

_WORK = 2**19  # products of a call
_DENSE_ENTRIES = 2**14  # of the dense layer that a convolution is


def _drawn(context: Context) -> SearchStrategy[Convolution]:
    return convolutions(dtype=context.dtype, device=context.device, spatial_dims=context.ranks, max_work=_WORK)


def _of_networks(context: Context) -> list[SearchStrategy[Convolution]]:
    options: dict[str, Any] = {"dtype": context.dtype, "device": context.device, "max_work": _WORK}
    return [like(layer, **options) for rank in context.ranks for layer in SLIDING[rank]]


_REACHES = (
    sizes("channels", most=16),
    *map(sizes, ("kernel", "map", "positions", "stride", "dilation", "padding")),
    Reach("groups", ("1", "several", "one for each channel"), needs=("groups",), forms=("full",)),
    leaves("input", "weight", "bias", "input and weight", "input, weight and bias"),
    *EXACT_GRADIENTS,
)


@law(16, "convolution", draw=_drawn, forms=("full",), weight=2.25, reaches=_REACHES, every=_of_networks)
def convolution(trial: Trial, case: Convolution) -> None:
    """A convolution with stride, padding, dilation and groups is the dense layer that it is, at every position.

    So are its gradients.
    """
    recipe = _served(trial, case.recipe)
    case = case if recipe == case.recipe else build_convolution(recipe)
    windows = Windows(recipe)
    call = _call(trial, case, windows)
    if call is None:
        return
    padding = recipe.steps[1]
    trial.cover("padding mode", recipe.padding_mode if any(padding) else "none")
    expected = windows.result(case.x, case.weight, case.bias)
    condition = _words(call)
    trial.same(call, trial.output(call, condition), expected, condition)
    if case.seed % 4 == 0:
        one = trial.taken(replace(call, input=call.input[0]))  # kernels take another path without a batch dimension
        if one is not None:
            trial.same(one, trial.output(one, condition), expected[0], f"without a batch dimension, {condition}")
    if case.dtype.is_floating_point and case.seed % (2 if recipe.channels >= 16 * recipe.groups else 4) == 1:
        on_values(trial, case, call, windows, condition)
    if case.seed % 4 == 2 and is_inexact(case.dtype):
        _as_dense(trial, case, expected)
    if goes_back(trial, "full"):
        gradients(trial, case, call, windows, condition)
        if case.seed % 4 == 3 and case.dtype in (torch.float32, torch.float64):  # 16-bit ones may be summed in 16 bits
            gradients_on_values(trial, case, call, windows, condition)
        if case.seed % 4 == 0 and case.dtype.is_floating_point and goes_back(trial, "full", order=2):
            second_order(trial, case, call, windows, condition)
    if case.seed % 4 == 2:
        _after_another(trial, case, call)


def _call(trial: Trial, case: Convolution, windows: Windows) -> Call | None:
    """The call of a convolution with the steps of ``windows``; its map is padded first where the backend cannot."""
    recipe = windows.recipe
    stride, padding, dilation = recipe.steps
    native = Call("full", case.x, case.weight, case.bias, stride, dilation, padding, recipe.groups)
    natively = recipe.padding_mode == "zeros" and any(padding) and trial.asks("padding", "full")
    finding = crashes_in_padding(native) if natively and type(trial.backend) is TorchEager else None
    if finding is not None:
        trial.cover("known defect of torch", finding)
        natively = False
    if natively or not any(padding):
        return trial.taken(native)
    return trial.taken(replace(native, input=windows.padded(case.x), padding=()))


def _words(call: Call) -> str:
    stride, dilation = call.steps
    steps = f"stride {stride}, padding {call.padding or 0}, dilation {dilation}, groups {call.groups}"
    return f"on a map of {tuple(call.input.shape[2:])}, {steps}"


def _after_another(trial: Trial, case: Convolution, call: Call) -> None:
    """The same tensors with another stride, dilation or padding right after: what was kept of the first is no use.

    Then the first once more.
    """
    recipe = _changed(trial, case)
    if recipe is None:
        return
    windows = Windows(recipe)
    another = _call(trial, case, windows)
    if another is None:
        return
    condition = f"{_words(another)}, after a call {_words(call)}"
    trial.same(another, trial.output(another, condition), windows.result(case.x, case.weight, case.bias), condition)
    if goes_back(trial, "full"):
        gradients(trial, case, another, windows, condition)
    expected = Windows(case.recipe).result(case.x, case.weight, case.bias)
    condition = f"{_words(call)}, after a call {_words(another)}"
    trial.same(call, trial.output(call, condition), expected, condition)


def _changed(trial: Trial, case: Convolution) -> ConvolutionRecipe | None:
    """A convolution that differs in one step of one dimension and has no more positions: as many, where there is one.

    A sum over positions then has no more terms, and stays exact.
    """
    recipe, found = case.recipe, []
    for name, steps in zip(("stride", "padding", "dilation"), recipe.steps, strict=True):
        if not trial.asks(name, "full"):
            continue
        for dimension, step in enumerate(steps):
            for other in (step + 1, step - 1)[: 1 + (step > (name != "padding"))]:
                changes: dict[str, Any] = {name: (*steps[:dimension], other, *steps[dimension + 1 :])}
                one = replace(recipe, **changes)
                sizes = zip(one.positions, recipe.positions, strict=True)
                if all(1 <= new <= old for new, old in sizes):
                    found.append(one)
    alike = [one for one in found if one.positions == recipe.positions] or found
    return alike[case.seed // 4 % len(alike)] if alike and recipe.padding_mode == "zeros" else None


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


def _as_dense(trial: Trial, case: Convolution, expected: Tensor) -> None:
    """The layer that ``conv_to_linear`` makes of it gives the same."""
    if case.x[0].numel() * expected[0].numel() > _DENSE_ENTRIES:
        return
    layer = conv_to_linear(case.module, tuple(case.x.shape[1:]))
    y = whole(case.x.flatten(1), layer.weight, layer.bias)
    words = f"becomes a layer with another result by conv_to_linear for {case.module}"
    trial.holds(torch.equal(y, expected.flatten(1)), "full", words)
