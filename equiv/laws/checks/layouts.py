"""Laws about what must not matter: where values lie in memory, and strides and dilations of a single window."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from equiv.laws.call import Call
from equiv.laws.checks.drawing import exact_cases, generator_of, integer_grad, rows_of
from equiv.laws.checks.expected import exact_gradients, goes_back, same_gradients, stays_exact, whole
from equiv.laws.reach import EXACT_GRADIENTS, OF_A_LAYER, sizes
from equiv.laws.registry import Context, law
from equiv.laws.trial import Trial
from equiv.strategies import Case, Layout, all_layouts
from equiv.text import quoted


def _few_features(context: Context) -> SearchStrategy[Case]:
    """Each case runs in dozens of layouts: sizes beyond are for other laws."""
    return exact_cases(context, backward=True, max_features=2048 if context.deep else 256)


@law(4, "layout", draw=_few_features, reaches=(*OF_A_LAYER, *EXACT_GRADIENTS))
def layout(trial: Trial, case: Case) -> None:
    """Strides, offsets, memory formats and views of input, weight, bias and incoming gradient change nothing."""
    if True not in [trial.asks("layouts", form) for form in trial.forms]:
        return
    n, outputs = case.weight.shape[1], case.weight.shape[0]
    grad = integer_grad(case)
    _square(trial, case)
    _shared(trial, case)
    plain = _Exact(rows_of(case), case.weight, case.bias, grad if goes_back(trial) else None)
    for arranged in _calls(trial, case.x, case.weight, case.bias, case.feature_shape):
        backward = goes_back(trial, arranged.form)
        if arranged.form != "linear" and len(grad):
            _without_a_batch(trial, case, arranged, grad if backward else None)
        jointly = {role: case.layouts[role] for role in ("x", "weight", "bias", "grad")}
        for chosen in [jointly, *_one_at_a_time(arranged, case.dtype, case.seed, backward=backward)]:
            call = laid_out(arranged, chosen)
            incoming = chosen["grad"].apply(grad) if "grad" in chosen and backward else grad
            for role, place in chosen.items():
                trial.cover(f"layout of {role}", place.kind)
            condition = _in_words({role: place for role, place in chosen.items() if place.kind != "contiguous"})
            wanted = plain
            if any(place.changes_values for place in chosen.values()):
                x, w = call.input.reshape(-1, n), call.weight.reshape(outputs, n)
                if not stays_exact(x, w, call.bias, incoming if backward else None):
                    continue
                wanted = _Exact(x, w, call.bias, incoming if backward else None)
            if "grad" not in chosen or chosen is jointly:
                trial.gives(call, wanted.result, condition)
            if backward:
                same_gradients(trial, call, incoming, wanted.gradients, condition)


def _calls(trial: Trial, *layer: Any) -> Iterator[Call]:
    """The calls of the forms that take other layouts."""
    return (call for call in trial.calls(*layer) if trial.asks("layouts", call.form))


def _in_words(chosen: dict[str, Layout]) -> str:
    return ", ".join(f"{role} {place.name}" for role, place in chosen.items())


def _square(trial: Trial, case: Case) -> None:
    """A square layer whose input or weight is a transposed view, which its shape does not show."""
    size = min(case.weight.shape)
    x, w = rows_of(case)[:, :size].contiguous(), case.weight[:size, :size].contiguous()
    wanted = whole(x, w, None)
    maps = trial.forms[-1] != "linear" and not trial.asks("spatial_ranks", trial.forms[-1], wanted=1)
    dims = len(case.feature_shape) - 1 if maps else 1
    for call in _calls(trial, x, w, None, (size, *(1,) * dims)):
        for name in ("input", "weight"):
            changed: dict[str, Any] = {name: Layout("permuted").apply(getattr(call, name))}
            trial.gives(replace(call, **changed), wanted, f"a square layer with its {name} transposed in memory")


def _without_a_batch(trial: Trial, case: Case, call: Call, grad: Tensor | None) -> None:
    """One sample as it comes, an image of HWC seen as CHW for example: other kernels take it."""
    chosen = {
        role: Layout("permuted", case.seed % 64) if case.layouts[role].changes_values else case.layouts[role]
        for role in ("x", "weight", "bias")
    }
    one = laid_out(replace(call, input=call.input[0]), chosen)
    condition = f"without a batch dimension, {_in_words(chosen)}"
    exact = _Exact(rows_of(case)[:1], case.weight, case.bias, None if grad is None else grad[:1])
    trial.gives(one, exact.result, condition)
    if grad is not None:
        same_gradients(trial, one, grad[:1], exact.gradients, condition)


def _shared(trial: Trial, case: Case) -> None:
    """Tensors that lie in each other's memory, and rows whose leading dimensions are exchanged in memory."""
    weight, n = case.weight, case.weight.shape[1]
    for x, bias, condition in (
        (weight[:8], None, "rows of the weight as the input"),
        (rows_of(case)[:1], weight[:, 0], "the first column of the weight as the bias"),
    ):
        if len(x) and stays_exact(x, weight, bias):
            wanted = whole(x, weight, bias)
            for call in _calls(trial, x, weight, bias, case.feature_shape):
                trial.gives(call, wanted, condition)
    if "linear" in trial.forms and len(rows_of(case)) and trial.asks("layouts", "linear"):
        picked = rows_of(case)[torch.arange(6) % len(rows_of(case))]
        turned = picked.view(3, 2, n).transpose(0, 1)
        wanted = whole(turned.reshape(6, n), weight, case.bias)
        trial.gives(Call("linear", turned, weight, case.bias), wanted, "leading dimensions exchanged in memory")


class _Exact:
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
    spatial = [{"weight": Layout("step", (3**call.dims - 1) // 2 - 1)}] if call.dims > 0 else []
    return spatial + [
        {role: Layout(place.kind, seed % 64 if place.kind in ("permuted", "step", "broadcast", "odd_strides") else 0)}
        for role, rank in ranks.items()
        for place in all_layouts(rank, dtype)
        if place.kind != "contiguous"
    ]


def laid_out(call: Call, layouts: dict[str, Layout]) -> Call:
    """The same call with its tensors in layouts, for the roles ``x``, ``weight`` and ``bias``."""
    tensors: dict[str, Any] = {}
    for role, name in (("x", "input"), ("weight", "weight"), ("bias", "bias")):
        if role in layouts and getattr(call, name) is not None:
            tensors[name] = layouts[role].apply(getattr(call, name))
    return replace(call, **tensors)


_STEPS = (sizes("stride"), sizes("dilation", least=3, kinds=("float", "complex")))


@law(
    5,
    "free parameters",
    draw=partial(exact_cases, backward=True),
    forms=("full", "pointwise"),
    reaches=(*OF_A_LAYER, *_STEPS, *EXACT_GRADIENTS),
)
def free_parameters(trial: Trial, case: Case) -> None:
    """The stride of the full form, and stride and dilation of the pointwise form, change nothing."""
    generator = generator_of(case)
    expected = whole(rows_of(case), case.weight, case.bias)
    for plain in trial.calls(case.x, case.weight, case.bias, case.feature_shape):
        stride, dilation = (_free_sizes(case, generator, plain.dims) for _ in range(2))
        strides, dilates = trial.asks("stride", plain.form), _serves_dilation(trial, plain)
        # A kernel of size 1 along a dimension is not dilated, whatever the dilation: free there in either form.
        free = tuple(d if k == 1 and dilates else 1 for d, k in zip(dilation, plain.weight.shape[2:], strict=True))
        stride = stride if strides else (1,) * plain.dims
        roles = {"x": case.layouts["x"], "weight": case.layouts["weight"]}
        call = trial.taken(laid_out(replace(plain, stride=stride, dilation=free), roles))
        if call is None or (not strides and set(free) == {1}):
            continue  # nothing is left that could be free
        condition = f"stride {stride}, dilation {free}"
        x, w = call.input.reshape(rows_of(case).shape), call.weight.reshape(case.weight.shape)
        grad = case.layouts["grad"].apply(integer_grad(case))
        backward = goes_back(trial, call.form)
        changed = case.layouts["x"].changes_values or case.layouts["weight"].changes_values
        repeats = changed or case.layouts["grad"].changes_values
        if repeats and not stays_exact(x, w, call.bias, grad if backward else None):
            continue
        trial.gives(call, whole(x, w, call.bias) if changed else expected, condition)
        if backward:
            same_gradients(trial, call, grad, exact_gradients(x, w, grad, bias=call.bias is not None), condition)


_FREE = (*range(1, 17), 17, 32, 64)


def _free_sizes(case: Case, generator: torch.Generator, dims: int) -> tuple[int, ...]:
    """One size a dimension: as large as the kernel (a patch embedding), the same for all, or any."""
    kind = int(torch.randint(0, 4, (1,), generator=generator))
    drawn = [_FREE[i] for i in torch.randint(0, len(_FREE), (dims,), generator=generator).tolist()]
    if kind == 0:
        return tuple(case.feature_shape[1:])
    return (drawn[0],) * dims if kind == 1 else tuple(drawn)


def _serves_dilation(trial: Trial, call: Call) -> bool:
    """Whether dilation is served; for small integers it is not: docs/findings/dilation-of-integers.md."""
    if not trial.asks("dilation", call.form):
        return False
    one = torch.ones((1, 1, *(1,) * call.dims), dtype=trial.dtype, device=call.input.device)
    try:
        Call(call.form, one, one, None, dilation=(2,) * call.dims).result(trial.backend)
    except RuntimeError as error:  # torch 2.6 raises it plainly; NotImplementedError is one too
        if not isinstance(error, NotImplementedError) and "not implemented for" not in str(error):
            return True  # whatever else it is, the law's own calls show it
        trial.cover("dilation", f"not served for {trial.dtype}")
        trial.leave_out("dilation", call.form, f"{type(error).__name__}: {quoted(error)}", how="found")
        return False
    return True
