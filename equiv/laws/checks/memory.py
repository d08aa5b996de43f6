"""Laws about where values lie and how calls are cut: layouts, free parameters, batches, purity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from equiv.laws.call import Call
from equiv.laws.checks.common import (
    GRADIENT_NAMES,
    exact_cases,
    exact_gradients,
    gradients_of,
    integer_grad,
    rows_of,
    stays_exact,
    value_cases,
    whole,
)
from equiv.laws.registry import Context, law
from equiv.laws.trial import Trial, as_linear
from equiv.mapping import linear_to_full_conv, linear_to_pointwise_conv, to_channels, to_feature_map
from equiv.numerics import bit_equal
from equiv.strategies import Case, Layout, all_layouts, factorisations

_BATCH_SHAPES = ((), (1,), (3,), (2, 1), (1, 3, 2), (2, 1, 1, 2), (1, 2, 1, 1, 2))
_EMPTY_SHAPES = ((0,), (3, 0), (0, 2), (3, 0, 2), (0, 1, 1, 0))
_MANY_ROWS = (*range(2, 66), 100, 127, 128, 129, 255, 256, 257)
_RESHAPED_WORK = 2**19


def _gradient_cases(context: Context) -> SearchStrategy[Case]:
    # Each case runs in dozens of layouts: sizes beyond are for other laws.
    return exact_cases(context, gradients=context.kind != "integer", max_features=2048 if context.deep else 256)


@law(4, "layout", draw=_gradient_cases)
def layout(trial: Trial, case: Case) -> None:
    """Strides, offsets, memory formats and views of input, weight, bias and incoming gradient change nothing."""
    n, outputs = case.weight.shape[1], case.weight.shape[0]
    backward = case.dtype.is_floating_point or case.dtype.is_complex
    grad = integer_grad(case, math.prod(case.batch_shape))
    _square(trial, case)
    _shared(trial, case)
    plain = _Wanted(rows_of(case), case.weight, case.bias, grad if backward else None)
    for form in trial.forms:
        arranged = trial.arrange(form, case.x, case.weight, case.bias, case.feature_shape)
        if form != "linear" and len(grad):
            _without_a_batch(trial, case, arranged, grad if backward else None)
        jointly = {role: case.layouts[role] for role in ("x", "weight", "bias", "grad")}
        for plan in [jointly, *_one_at_a_time(arranged, case.dtype, case.seed, backward=backward)]:
            call = _laid_out(arranged, plan)
            incoming = plan["grad"].apply(grad) if "grad" in plan and backward else grad
            for role, chosen in plan.items():
                trial.cover(f"layout of {role}", chosen.kind)
            note = ", ".join(f"{role} {chosen.name}" for role, chosen in plan.items() if chosen.kind != "contiguous")
            wanted = plain
            if any(chosen.changes_values for chosen in plan.values()):
                x, w = call.input.reshape(-1, n), call.weight.reshape(outputs, n)
                if not stays_exact(x, w, call.bias, incoming if backward else None):
                    continue
                wanted = _Wanted(x, w, call.bias, incoming if backward else None)
            if "grad" not in plan or plan is jointly:
                trial.same(call, trial.run(call, note=note), wanted.result, note=note)
            if backward:
                found = gradients_of(trial, call, incoming, note=note)
                for name, a, e in zip(GRADIENT_NAMES, found, wanted.gradients, strict=False):
                    trial.same(call, a, e, note=f"gradient of the {name}; {note}", gradient=(name, incoming))


def _square(trial: Trial, case: Case) -> None:
    """A square weight that is a transposed view: its shape does not tell that it is one."""
    size = min(case.weight.shape)
    x, w = rows_of(case)[:, :size].contiguous(), case.weight[:size, :size].contiguous()
    wanted = whole(x, w, None)
    for form in trial.forms:
        call = trial.arrange(form, x, w, None, (size, 1))
        for name in ("input", "weight"):
            changed: dict[str, Any] = {name: Layout("permuted").apply(getattr(call, name))}
            turned = replace(call, **changed)
            trial.same(turned, trial.run(turned), wanted, note=f"a square layer, {name} transposed in memory")


def _without_a_batch(trial: Trial, case: Case, call: Call, grad: Tensor | None) -> None:
    """One sample as it comes, an image of HWC seen as CHW for example: other kernels take it."""
    plan = {
        role: Layout("permuted", case.seed % 64) if case.layouts[role].changes_values else case.layouts[role]
        for role in ("x", "weight", "bias")
    }
    one = _laid_out(replace(call, input=call.input[0]), plan)
    note = "without a batch dimension, " + ", ".join(f"{role} {chosen.name}" for role, chosen in plan.items())
    x = rows_of(case)[:1]
    trial.same(one, trial.run(one, note=note), whole(x, case.weight, case.bias), note=note)
    if grad is not None:
        found = gradients_of(trial, one, grad[:1], note=note)
        wanted = exact_gradients(x, case.weight, grad[:1], bias=case.bias is not None)
        for name, a, e in zip(GRADIENT_NAMES, found, wanted, strict=False):
            trial.same(one, a, e, note=f"gradient of the {name}; {note}", gradient=(name, grad[:1]))


def _shared(trial: Trial, case: Case) -> None:
    """Tensors that lie in each other's memory, and rows whose leading dimensions are exchanged in memory."""
    weight, n = case.weight, case.weight.shape[1]
    for x, bias, note in (
        (weight[:8], None, "rows of the weight as the input"),
        (rows_of(case)[:1], weight[:, 0], "the first column of the weight as the bias"),
    ):
        if len(x) and stays_exact(x, weight, bias):
            wanted = whole(x, weight, bias)
            for form in trial.forms:
                call = trial.arrange(form, x, weight, bias, case.feature_shape)
                trial.same(call, trial.run(call), wanted, note=note)
    if "linear" in trial.forms and len(rows_of(case)):
        picked = rows_of(case)[torch.arange(6) % len(rows_of(case))]
        turned = picked.view(3, 2, n).transpose(0, 1)
        call = Call("linear", turned, weight, case.bias)
        wanted = whole(turned.reshape(6, n), weight, case.bias)
        trial.same(call, trial.run(call), wanted, note="leading dimensions exchanged in memory")


class _Wanted:
    """The exact result and gradients of one set of values, whatever their layout."""

    def __init__(self, x: Tensor, weight: Tensor, bias: Tensor | None, grad: Tensor | None) -> None:
        self.result = whole(x, weight, bias)
        self.gradients = () if grad is None else exact_gradients(x, weight, grad, bias=bias is not None)


def _one_at_a_time(call: Call, dtype: torch.dtype, seed: int, *, backward: bool) -> list[dict[str, Layout]]:
    """Each kind of layout for each role alone, in a variant that the seed chooses."""
    ranks = {"x": call.input.ndim, "weight": call.weight.ndim}
    if call.bias is not None:
        ranks["bias"] = 1
    if backward:
        ranks["grad"] = 2
    # Every second entry in space, as in weight[:, :, ::2, ::2]: base-3 digits of variant + 1 are the steps less one.
    spatial = [{"weight": Layout("step", (3 ** (call.weight.ndim - 2) - 1) // 2 - 1)}] if call.weight.ndim > 2 else []
    return spatial + [
        {role: Layout(chosen.kind, seed % 64 if chosen.kind in ("permuted", "step", "broadcast", "odd_strides") else 0)}
        for role, rank in ranks.items()
        for chosen in all_layouts(rank, dtype)
        if chosen.kind != "contiguous"
    ]


def _laid_out(call: Call, plan: dict[str, Layout]) -> Call:
    tensors: dict[str, Any] = {}
    for role, name in (("x", "input"), ("weight", "weight"), ("bias", "bias")):
        tensor: Tensor | None = getattr(call, name)
        if role in plan and tensor is not None:
            tensors[name] = plan[role].apply(tensor)
    return replace(call, **tensors)


def _any_exact(context: Context) -> SearchStrategy[Case]:
    return exact_cases(context, gradients=context.kind != "integer")


@law(5, "free parameters", draw=_any_exact, forms=("full", "pointwise"))
def free_parameters(trial: Trial, case: Case) -> None:
    """The stride of the full form, and stride and dilation of the pointwise form, change nothing."""
    dims = len(case.feature_shape) - 1
    generator = torch.Generator().manual_seed(case.seed % 2**63)
    dilates = _serves_dilation(trial, case)
    expected = whole(rows_of(case), case.weight, case.bias)
    backward = case.dtype.is_floating_point or case.dtype.is_complex
    for form in trial.forms:
        plain = trial.arrange(form, case.x, case.weight, case.bias, case.feature_shape)
        stride, dilation = (_free_sizes(case, generator, dims) for _ in range(2))
        # A kernel of size 1 along a dimension is not dilated, whatever the dilation: free there in either form.
        free = tuple(d if k == 1 and dilates else 1 for d, k in zip(dilation, plain.weight.shape[2:], strict=True))
        call = _laid_out(
            replace(plain, stride=stride, dilation=free), {"x": case.layouts["x"], "weight": case.layouts["weight"]}
        )
        note = f"stride {stride}, dilation {free}"
        x, w = call.input.reshape(rows_of(case).shape), call.weight.reshape(case.weight.shape)
        grad = case.layouts["grad"].apply(integer_grad(case, x.shape[0]))
        changed = case.layouts["x"].changes_values or case.layouts["weight"].changes_values
        repeats = changed or case.layouts["grad"].changes_values
        if repeats and not stays_exact(x, w, call.bias, grad if backward else None):
            continue
        trial.same(call, trial.run(call, note=note), whole(x, w, call.bias) if changed else expected, note=note)
        if backward:
            found = gradients_of(trial, call, grad, note=note)
            for name, a, e in zip(
                GRADIENT_NAMES, found, exact_gradients(x, w, grad, bias=call.bias is not None), strict=False
            ):
                trial.same(call, a, e, note=f"gradient of the {name}, {note}", gradient=(name, grad))


_FREE = (*range(1, 17), 17, 32, 64)


def _free_sizes(case: Case, generator: torch.Generator, dims: int) -> tuple[int, ...]:
    """One size a dimension: as large as the kernel (a patch embedding), the same for all, or any."""
    kind = int(torch.randint(0, 4, (1,), generator=generator))
    drawn = [_FREE[i] for i in torch.randint(0, len(_FREE), (dims,), generator=generator).tolist()]
    if kind == 0:
        return tuple(case.feature_shape[1:])
    return (drawn[0],) * dims if kind == 1 else tuple(drawn)


def _serves_dilation(trial: Trial, case: Case) -> bool:
    """Whether dilation is served; for small integers it is not: docs/findings/dilation-of-integers.md."""
    one = torch.ones(1, 1, 1, dtype=case.dtype, device=case.device)
    try:
        trial.backend.conv(one, one, dilation=2)
    except RuntimeError as error:  # torch 2.6 raises it plainly; NotImplementedError is one too
        if not isinstance(error, NotImplementedError) and "not implemented for" not in str(error):
            return True  # whatever else it is, the law's own calls show it
        trial.cover("dilation", f"not served for {case.dtype}")
        return False
    return True


def _batches(context: Context) -> SearchStrategy[Case]:
    return exact_cases(context, layouts=False)


@law(6, "batch", draw=_batches)
def batch(trial: Trial, case: Case) -> None:
    """Whatever rows are passed together, under leading shapes of any rank up to 5, each row has its own result."""
    x, n = rows_of(case), case.weight.shape[1]
    expected = whole(x, case.weight, case.bias)
    trial.cover("batch rank", len(case.batch_shape))
    for form in trial.forms:
        call = trial.arrange(form, case.x, case.weight, case.bias, case.feature_shape)
        trial.same(call, trial.run(call), expected, note=f"batch shape {case.batch_shape}")
        _cut(trial, call, x, expected)
        _reshaped(trial, case, form, x, expected)
        if form != "linear" and len(x):
            one = replace(call, input=call.input[0])
            trial.same(
                one, trial.run(one, note="without a batch dimension"), expected[:1], note="without a batch dimension"
            )
        if case.dtype.is_floating_point and len(x) > 1:
            poisoned = x.clone()
            poisoned[case.seed % len(x)] = torch.nan
            call = trial.arrange(form, poisoned, case.weight, case.bias, case.feature_shape)
            wanted = expected.clone()
            wanted[case.seed % len(x)] = torch.nan
            trial.same(call, trial.run(call), wanted, note="with one row of NaN, which must stay in its row")
        if len(x):
            many = 1 + case.seed % 70
            repeated = x[:1].expand(many, n)
            call = trial.arrange(form, repeated, case.weight, case.bias, case.feature_shape)
            trial.same(call, trial.run(call), expected[:1].expand(many, -1), note=f"one row repeated {many} times")


def _cut(trial: Trial, call: Call, x: Tensor, expected: Tensor) -> None:
    """The first row, the last row and a middle block alone."""
    rows = len(x)
    flat = call.input.reshape(rows, *call.input.shape[-(call.weight.ndim - 1) :])
    for start, stop in {(0, 1), (rows - 1, rows), (rows // 3, rows // 3 + rows // 2)}:
        if 0 <= start < stop <= rows and (start, stop) != (0, rows):
            part = replace(call, input=flat[start:stop])
            trial.same(part, trial.run(part), expected[start:stop], note=f"rows {start}:{stop} alone")


def _reshaped(trial: Trial, case: Case, form: str, x: Tensor, expected: Tensor) -> None:
    """The same rows under other leading shapes, which the seed picks; rows are repeated or left out to fill them."""
    for shape in _other_shapes(case):
        size = math.prod(shape)
        if len(x) == 0 and size:
            continue
        picked = torch.arange(size, device=x.device) % max(1, len(x))
        rows = x[picked].reshape(*shape, x.shape[1]) if form == "linear" else x[picked]
        call = trial.arrange(form, rows, case.weight, case.bias, case.feature_shape)
        trial.cover("batch rank", len(shape))
        trial.same(call, trial.run(call), expected[picked], note=f"batch shape {shape}")


def _other_shapes(case: Case) -> tuple[tuple[int, ...], ...]:
    """One of few rows, one of none, and one of many rows in any rank."""
    generator = torch.Generator().manual_seed(case.seed % 2**63)
    most = max(2, _RESHAPED_WORK // case.weight.numel())
    totals = [rows for rows in _MANY_ROWS if rows <= most]

    def one_of(choices: Sequence[Any]) -> Any:
        return choices[int(torch.randint(0, len(choices), (1,), generator=generator))]

    many = one_of(factorisations(one_of(totals), one_of(range(1, 6))))
    return one_of(_BATCH_SHAPES), one_of(_EMPTY_SHAPES), many


def _anything(context: Context) -> SearchStrategy[Case]:
    return value_cases(context)


@law(9, "purity", draw=_anything)
def purity(trial: Trial, case: Case) -> None:
    """Nothing passed in changes, a second call gives the same bits, dtype, device and requires_grad are kept."""
    for form in trial.forms:
        plain = trial.arrange(form, case.x, case.weight, case.bias, case.feature_shape)
        call = _laid_out(plain, case.layouts)
        given = [t for t in (call.input, call.weight, call.bias) if t is not None]
        before = [t.clone() for t in given]
        first = trial.run(call).clone()
        again = trial.run(call)
        trial.owns(call, again)
        trial.holds(
            all(bit_equal(a, b) for a, b in zip(given, before, strict=True)), form, "the call changed its inputs", call
        )
        trial.holds(bit_equal(first, again), form, "a second call with the same inputs gave other bits", call)
        trial.holds(
            again.device == call.input.device,
            form,
            f"the result is on {again.device}, the input on {call.input.device}",
            call,
        )
        trial.holds(not again.requires_grad, form, "the result requires a gradient although nothing given does", call)
        _follows_its_weight(trial, plain)
    _mapping_is_pure(trial, case)


def _follows_its_weight(trial: Trial, call: Call) -> None:
    """What was prepared for a weight must not outlive a change of it in place, as an optimizer makes."""
    call = replace(call, weight=call.weight.clone(), bias=None)
    before = trial.run(call).clone()
    call.weight.neg_()
    after, wanted = trial.run(call), -before
    same = bool(((after == wanted) | (after.isnan() & wanted.isnan())).all())
    trial.holds(same, call.form, "after the weight was negated in place the result is not the negated one", call)


def _mapping_is_pure(trial: Trial, case: Case) -> None:
    bias = None if case.bias is None else case.bias.clone()
    layer = as_linear(case.weight.clone(), bias)
    if case.dtype.is_floating_point or case.dtype.is_complex:
        layer.weight.requires_grad_(case.seed % 2 == 0)
        if layer.bias is not None:
            layer.bias.requires_grad_(case.seed % 3 == 0)
    layer.train(case.seed % 5 == 0)
    x = case.x.clone()
    for form, conv in (
        ("full", linear_to_full_conv(layer, case.feature_shape)),
        ("pointwise", linear_to_pointwise_conv(layer, len(case.feature_shape) - 1)),
    ):
        if form not in trial.forms:
            continue
        trial.holds(bit_equal(layer.weight, case.weight), form, "the mapping changed the weight of its source")
        for name in ("weight", "bias"):
            old, new = getattr(layer, name), getattr(conv, name)
            trial.holds((old is None) == (new is None), form, f"the mapping lost or invented the {name}")
            if old is None:
                continue
            same = old.dtype == new.dtype and old.device == new.device and old.requires_grad == new.requires_grad
            trial.holds(same, form, f"the mapping changed dtype, device or requires_grad of the {name}")
            apart = old.numel() == 0 or old.untyped_storage().data_ptr() != new.untyped_storage().data_ptr()
            trial.holds(apart, form, f"the mapping shares the {name} with its source although nobody asked for it")
        trial.holds(conv.training == layer.training, form, "the mapping changed the training mode")
    if "full" in trial.forms:
        back = to_feature_map(x, case.feature_shape).flatten(case.x.ndim - 1)
        trial.holds(bit_equal(back, case.x), "full", "to_feature_map changed values or their order")
    if "pointwise" in trial.forms:
        trial.holds(
            bit_equal(to_channels(x).flatten(case.x.ndim - 1), case.x),
            "pointwise",
            "to_channels changed values or their order",
        )
