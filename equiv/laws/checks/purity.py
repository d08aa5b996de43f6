"""The law about side effects: calls and mappings change nothing that they are given, and keep nothing of it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from equiv.dtypes import is_inexact
from equiv.laws.call import Call
from equiv.laws.checks.drawing import value_cases
from equiv.laws.checks.expected import reference_of_call
from equiv.laws.checks.layouts import laid_out
from equiv.laws.inputs import memory, places
from equiv.laws.reach import OF_A_LAYER
from equiv.laws.registry import law
from equiv.laws.trial import Trial, as_linear
from equiv.mapping import linear_to_full_conv, linear_to_pointwise_conv, to_channels, to_feature_map
from equiv.numerics import bit_equal
from equiv.strategies import Case


@law(9, "purity", draw=value_cases, reaches=OF_A_LAYER)
def purity(trial: Trial, case: Case) -> None:
    """No call changes its inputs, a second call gives the same bits, and dtype, device and requires_grad are kept."""
    judged = []
    for plain in trial.calls(case.x, case.weight, case.bias, case.feature_shape):
        call, form = trial.taken(laid_out(plain, case.layouts)), plain.form
        if call is None:
            continue
        judged.append(form)
        around, before, lies = memory(call), [t.clone() for t in memory(call)], places(call)
        first = trial.run(call).clone()
        again = trial.run(call)
        trial.owns(call, again)
        kept = all(torch.equal(a, b) for a, b in zip(around, before, strict=True))
        trial.holds(kept, form, "writes into the memory around its inputs", call)
        trial.holds(places(call) == lies, form, "changes the strides or requires_grad of its inputs", call)
        _same_again(trial, call, first, again)
        trial.holds(not again.requires_grad, form, "returns a result that requires a gradient unasked", call)
        _follows_its_weight(trial, plain)
    _mapping_is_pure(trial, case, judged)


def _same_again(trial: Trial, call: Call, first: Tensor, again: Tensor) -> None:
    """A second call gives the same bits; from a backend that does not promise that, a right result."""
    if trial.asks("deterministic", call.form):
        same = bit_equal(first, again)
        trial.holds(same, call.form, "gives other bits in a second call with the same inputs", call)
    else:
        trial.judge(call, again, reference_of_call(call), "in a second call with the same inputs")


def _follows_its_weight(trial: Trial, call: Call) -> None:
    """What was prepared for a weight must not outlive a change of it in place, as an optimizer makes."""
    call = replace(call, weight=call.weight.clone(), bias=None)
    before = trial.run(call).clone()
    call.weight.neg_()
    after, wanted = trial.run(call), -before
    if not trial.asks("deterministic", call.form):
        trial.judge(call, after, reference_of_call(call), "after the weight was negated in place")
        return
    same = bool(((after == wanted) | (after.isnan() & wanted.isnan())).all())
    trial.holds(same, call.form, "does not give the negated result after the weight was negated in place", call)


def _mapping_is_pure(trial: Trial, case: Case, forms: list[str]) -> None:
    layer = as_linear(case.weight.clone(), None if case.bias is None else case.bias.clone())
    if is_inexact(case.dtype):
        layer.weight.requires_grad_(case.seed % 2 == 0)
        if layer.bias is not None:
            layer.bias.requires_grad_(case.seed % 3 == 0)
    layer.train(case.seed % 5 == 0)
    if "full" in forms:
        _keeps_its_source(trial, case, layer, "full", linear_to_full_conv(layer, case.feature_shape))
        back = to_feature_map(case.x.clone(), case.feature_shape).flatten(case.x.ndim - 1)
        trial.holds(bit_equal(back, case.x), "full", "has a to_feature_map that changes values or their order")
    if "pointwise" in forms:
        conv = linear_to_pointwise_conv(layer, len(case.feature_shape) - 1)
        _keeps_its_source(trial, case, layer, "pointwise", conv)
        back = to_channels(case.x.clone()).flatten(case.x.ndim - 1)
        trial.holds(bit_equal(back, case.x), "pointwise", "has a to_channels that changes values or their order")


def _keeps_its_source(trial: Trial, case: Case, layer: nn.Linear, form: str, conv: nn.Module) -> None:
    mapping = "has a mapping that"
    trial.holds(bit_equal(layer.weight, case.weight), form, f"{mapping} changes the weight of its source")
    for name in ("weight", "bias"):
        old, new = getattr(layer, name), getattr(conv, name)
        trial.holds((old is None) == (new is None), form, f"{mapping} loses or invents the {name}")
        if old is None:
            continue
        same = old.dtype == new.dtype and old.device == new.device and old.requires_grad == new.requires_grad
        trial.holds(same, form, f"{mapping} changes dtype, device or requires_grad of the {name}")
        apart = old.numel() == 0 or old.untyped_storage().data_ptr() != new.untyped_storage().data_ptr()
        trial.holds(apart, form, f"{mapping} shares the memory of the {name} without share=True")
    trial.holds(conv.training == layer.training, form, f"{mapping} changes the training mode")
