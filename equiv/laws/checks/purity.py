"""The law about side effects: calls and mappings change nothing that they are given, and keep nothing of it."""

from __future__ import annotations

from dataclasses import replace
from time import monotonic

import torch
from torch import Tensor, nn

from equiv.dtypes import is_inexact
from equiv.laws.call import Broken, Call
from equiv.laws.checks.drawing import value_cases
from equiv.laws.checks.expected import reference_of_call
from equiv.laws.checks.layouts import laid_out
from equiv.laws.inputs import memory, overlaps, places
from equiv.laws.reach import OF_A_LAYER
from equiv.laws.registry import law
from equiv.laws.trial import Trial, as_linear
from equiv.mapping import linear_to_full_conv, linear_to_pointwise_conv, to_channels, to_feature_map
from equiv.numerics import bit_equal
from equiv.strategies import Case

_OFTEN, _SECONDS = 256, 2.0  # calls of one layer, which some backends take long for


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
        trial.holds(not overlaps(again), form, "returns a result whose entries share memory with each other", call)
        _follows_its_inputs(trial, plain, with_bias=case.bias is not None and case.seed % 2 == 0)
        _called_often(trial, plain)
    _mapping_is_pure(trial, case, judged)


def _same_again(trial: Trial, call: Call, first: Tensor, again: Tensor) -> None:
    """A second call gives the same bits; from a backend that does not promise that, a right result."""
    if trial.asks("deterministic", call.form):
        same = bit_equal(first, again)
        trial.holds(same, call.form, "gives other bits in a second call with the same inputs", call)
    else:
        trial.judge(call, again, reference_of_call(call), "in a second call with the same inputs")


def _follows_its_inputs(trial: Trial, call: Call, *, with_bias: bool) -> None:
    """What was prepared for a weight, a bias or an input must not outlive a change of it in place."""
    bias = call.bias.clone() if with_bias and call.bias is not None else None
    call = replace(call, input=call.input.clone(), weight=call.weight.clone(), bias=bias)
    trial.cover("changed in place", "weight and bias" if with_bias else "weight, then input")
    before = trial.run(call).clone()
    call.weight.neg_()
    if bias is not None:
        bias.neg_()
    words = "the weight and the bias were" if with_bias else "the weight was"
    _negated(trial, call, -before, f"after {words} negated in place")
    if bias is None:
        call.input.neg_()
        _negated(trial, call, before, "after weight and input were negated in place")


def _negated(trial: Trial, call: Call, wanted: Tensor, condition: str) -> None:
    """The result is ``wanted``, or a right one of other bits, as of a kernel that keeps results by their content."""
    after = trial.run(call)
    if trial.asks("deterministic", call.form) and bool(((after == wanted) | (after.isnan() & wanted.isnan())).all()):
        trial.holds(True, call.form, "", call)
        return
    try:
        trial.judge(call, after, reference_of_call(call), condition)
    except Broken as broken:  # the program must be the whole case: this call alone need not show it
        raise Broken(broken.note, form=call.form, call=call) from None


def _called_often(trial: Trial, call: Call) -> None:
    """Once for each form a layer is called 256 times, or for two seconds: results are right, and the first stays."""
    condition = f"calls of one layer, {call.form}"
    if condition in trial.coverage or not call.input.numel():
        return
    one = replace(call, input=call.input.reshape(-1, *call.input.shape[1 - call.input.ndim :])[:1])
    one = replace(one, weight=call.weight[:1], bias=None)
    served = trial.taken(one)
    if served is None:
        return
    x = torch.ones_like(served.input)
    weight = torch.zeros_like(served.weight)
    weight.view(-1)[0] = 1
    served = replace(served, input=x, weight=weight)
    first = served.result(trial.backend)
    twice = replace(served, weight=2 * weight)
    number, until = 1, monotonic() + _SECONDS
    while number < _OFTEN and monotonic() < until:
        number += 1
        right = bool((twice.result(trial.backend) == 2).all())
        trial.holds(right, call.form, f"gives another result in call {number} of one layer", twice)
    twice.weight.neg_()
    follows = bool((twice.result(trial.backend) == -2).all())
    otherwise = f"gives the old result after {number} calls of one layer, once its weight was negated in place"
    trial.holds(follows, call.form, otherwise, twice)
    kept = bool((first == 1).all())
    trial.holds(kept, call.form, f"changes a result that it returned {number - 1} calls before", served)
    trial.cover(condition, number)


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
