"""Laws about the values of results: envelope, exactness, recovery of the weights, special values, scaling."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from equiv.dtypes import is_inexact
from equiv.laws.call import Call
from equiv.laws.checks.drawing import exact_case_like, exact_cases, generator_of, rows_of, value_cases
from equiv.laws.checks.elsewhere import SURROUNDINGS, elsewhere
from equiv.laws.checks.expected import reference_of, reference_of_call, whole
from equiv.laws.reach import OF_A_LAYER, sizes
from equiv.laws.registry import law
from equiv.laws.trial import Trial
from equiv.numerics import format_of, one_hot_rows
from equiv.strategies import Case

_PROBED_COLUMNS = 48
_SPECIALS = ("specials", "normals", "near_overflow", "small_integers")
_SCALABLE = ("small_integers", "normals", "distinct", "cancelling", "constant")


@law(1, "forward", draw=partial(value_cases, finite=True, layouts=False), weight=1.5, reaches=OF_A_LAYER)
def forward(trial: Trial, case: Case) -> None:
    """On any values, every form gives the exact result up to rounding: it lies in the envelope of right kernels."""
    reference = reference_of(rows_of(case), case.weight, case.bias)
    for call in trial.calls(case.x, case.weight, case.bias, case.feature_shape):
        trial.judge(call, trial.run(call), reference)


@law(2, "exact", draw=partial(exact_cases, layouts=False), weight=1.5, reaches=(*OF_A_LAYER, SURROUNDINGS))
def exact(trial: Trial, case: Case) -> None:
    """On integer probes all forms give the same bits, and they are the exact integer result."""
    expected = whole(rows_of(case), case.weight, case.bias)
    for call in trial.calls(case.x, case.weight, case.bias, case.feature_shape):
        trial.gives(call, expected)
        if case.seed % 3 == 0 and call.form == trial.forms[case.seed // 9 % len(trial.forms)]:
            elsewhere(trial, call, expected, case.seed // 3)
    if case.dtype in (torch.float16, torch.bfloat16):
        # Sums up to 2^24 are rounded once, to the result, as long as no bias is added in between.
        x, weight, _ = exact_case_like(case, bias=False, unrounded=False)
        expected = whole(x, weight)
        for call in trial.calls(x, weight, None, case.feature_shape):
            trial.gives(call, expected, "where the exact sum is rounded once, to the result")


@law(3, "weight recovery", draw=partial(value_cases, finite=True, layouts=False), reaches=OF_A_LAYER)
def weight_recovery(trial: Trial, case: Case) -> None:
    """One-hot inputs return exactly the weights that were put in, and the zero input returns the bias.

    Likewise one-hot weights return exactly the inputs.
    """
    n = case.weight.shape[1]
    columns = _some_columns(n, case.seed)
    probes = one_hot_rows(columns, n, case.dtype, case.device)
    picked = columns.to(case.device)
    zeros = torch.zeros(1, n, dtype=case.dtype, device=case.device)
    copies: list[tuple[str, Tensor, Tensor, Tensor | None, Tensor]] = [
        ("one-hot weights must return the inputs", case.x, probes, None, rows_of(case)[:, picked]),
        ("one-hot inputs must return the weights", probes, case.weight, None, case.weight[:, picked].T),
    ]
    if case.bias is not None:
        copies.append(("a zero input must return the bias", zeros, case.weight, case.bias, case.bias[None, :]))
    is_copied = case.dtype in (torch.float32, torch.float64, torch.float16) or not is_inexact(case.dtype)
    references = [None if is_copied else reference_of(x.reshape(-1, n), w, b) for _, x, w, b, _ in copies]
    for form in trial.forms:
        for (condition, x, weight, bias, expected), reference in zip(copies, references, strict=True):
            call = trial.taken(trial.arrange(form, x, weight, bias, case.feature_shape))
            if call is None:
                continue
            y = trial.run(call, condition)
            if x is not probes:
                trial.owns(call, y)
            if reference is None:
                trial.same(call, y, expected, condition)
            else:
                trial.judge(call, y, reference, condition)


def _some_columns(n: int, seed: int) -> Tensor:
    if n <= _PROBED_COLUMNS:
        return torch.arange(n)
    generator = torch.Generator().manual_seed(seed % 2**63)
    chosen = torch.randperm(n, generator=generator)[: _PROBED_COLUMNS - 4]
    return torch.cat([torch.tensor([0, 1, n - 2, n - 1]), chosen])


@law(
    8,
    "special values",
    draw=partial(value_cases, kinds=_SPECIALS, layouts=False),
    kinds=("float",),
    reaches=[sizes("samples"), sizes("kernel")],
)
def special_values(trial: Trial, case: Case) -> None:
    """NaN, infinities and signed zeros propagate alike; where an overflow lets right kernels differ, none is judged.

    Also tried with a single one in input, weight or bias, among numbers of ordinary size.
    """
    with_one, single = _with_one_special(case)
    for x, weight, bias, condition in ((case.x, case.weight, case.bias, ""), (*single, with_one)):
        reference = reference_of(x.reshape(-1, weight.shape[1]), weight, bias)
        for call in trial.calls(x, weight, bias, case.feature_shape):
            trial.judge(call, trial.run(call, condition), reference, condition)


def _with_one_special(case: Case) -> tuple[str, tuple[Tensor, Tensor, Tensor | None]]:
    """The case's ordinary numbers, with NaN or an infinity in one place of one tensor; the case itself chooses."""
    generator = generator_of(case)

    def below(count: int) -> int:
        return int(torch.randint(0, count, (1,), generator=generator))

    x, weight = (torch.where(t.abs() <= 8, t, 1.0) for t in (case.x, case.weight))
    bias = None if case.bias is None else torch.where(case.bias.abs() <= 8, case.bias, 1.0)
    tensors = {"input": x, "weight": weight, **({} if bias is None else {"bias": bias})}
    filled = [name for name, t in tensors.items() if t.numel()]
    name, value = filled[below(len(filled))], (torch.nan, torch.inf, -torch.inf)[below(3)]
    changed = tensors[name]
    changed.view(-1)[below(changed.numel())] = value
    return f"{value} in the {name} alone", (x, weight, bias)


@law(
    14,
    "scaling",
    draw=partial(value_cases, kinds=_SCALABLE, layouts=False),
    kinds=("float", "complex"),
    reaches=OF_A_LAYER,
)
def scaling(trial: Trial, case: Case) -> None:
    """A power of two on input or weight multiplies the result exactly, short of overflow and underflow."""
    exponent = (case.seed % 9 - 4) or 5
    factor = 2.0**exponent
    for call in trial.calls(case.x, case.weight, case.bias, case.feature_shape):
        y = trial.run(call)
        bias = None if call.bias is None else call.bias * factor
        for what, scaled in (
            ("input", replace(call, input=call.input * factor, bias=bias)),
            ("weight", replace(call, weight=call.weight * factor, bias=bias)),
        ):
            if not _is_scaled_exactly(call, scaled, factor):
                continue
            z = trial.run(scaled)
            condition = f"{what} and bias times 2**{exponent} must give the result times 2**{exponent}"
            if not trial.asks("deterministic", call.form):
                trial.judge(scaled, z, reference_of_call(scaled), condition)
                continue
            safe = _is_far_from_limits(y) & _is_far_from_limits(z)
            trial.same(scaled, torch.where(safe, z, 0.0), torch.where(safe, y * factor, 0.0), condition)
    if case.bias is None:
        for call in trial.calls(case.x, case.weight, None, case.feature_shape):
            negated, condition = replace(call, input=-call.input), "the negated input must give the negated result"
            if trial.asks("deterministic", call.form):
                trial.gives(negated, -trial.run(call), condition)
            else:
                trial.judge(negated, trial.run(negated), reference_of_call(negated), condition)


def _is_scaled_exactly(call: Call, scaled: Call, factor: float) -> bool:
    """Whether no entry left the range in which a power of two changes the exponent alone, products included."""
    smallest = 1.0
    for before, after in ((call.input, scaled.input), (call.weight, scaled.weight), (call.bias, scaled.bias)):
        if before is None or after is None or before.numel() == 0:
            continue
        if before is not after and not torch.equal(after / factor, before):
            return False
        size = torch.minimum(_smaller_parts(before), _smaller_parts(after))
        smallest *= float(torch.where(size > 0, size, 1.0).min())
    is_double = format_of(call.input.dtype).dtype == torch.float64
    accumulator = format_of(torch.float64 if is_double else torch.float32)
    return smallest > accumulator.min_normal * 2.0**24


def _smaller_parts(t: Tensor) -> Tensor:
    """Magnitudes of real numbers; of complex numbers that of the smaller part that is not zero."""
    t = t.detach().resolve_conj()
    if t.is_complex():
        parts = torch.view_as_real(t).abs()
        return torch.where(parts > 0, parts, torch.inf).amin(-1).nan_to_num(posinf=0.0).double()
    return t.abs().double()


def _is_far_from_limits(y: Tensor) -> Tensor:
    fmt = format_of(y.dtype)
    y = y.detach().resolve_conj()
    sizes = torch.view_as_real(y).abs() if y.is_complex() else y.abs()[..., None]
    return ((sizes >= fmt.min_normal * 2.0**6) & (sizes <= fmt.max * 2.0**-6)).all(-1)
