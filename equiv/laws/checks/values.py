"""Laws about the values of results: envelope, exactness, weights read back, special values, scaling."""

from __future__ import annotations

from dataclasses import replace

import torch
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from equiv.laws.checks.common import exact_cases, rows_of, value_cases, whole
from equiv.laws.registry import Context, law
from equiv.laws.trial import Trial
from equiv.numerics import Reference, exact_case, format_of, one_hot_rows
from equiv.strategies import FINITE_KINDS, INTEGER_KINDS, Case

_PROBED_COLUMNS = 48


def _finite(context: Context) -> SearchStrategy[Case]:
    kinds = INTEGER_KINDS if context.kind == "integer" else FINITE_KINDS
    return value_cases(context, kinds=kinds, layouts=False)


def _exact(context: Context) -> SearchStrategy[Case]:
    return exact_cases(context, layouts=False)


@law(1, "forward", draw=_finite, weight=1.5)
def forward(trial: Trial, case: Case) -> None:
    """On any values, every form lies in its envelope around the exact result, and so close to each other."""
    reference = Reference(rows_of(case).cpu(), case.weight.cpu(), None if case.bias is None else case.bias.cpu())
    for form in trial.forms:
        call = trial.arrange(form, case.x, case.weight, case.bias, case.feature_shape)
        trial.judge(call, trial.run(call), reference)


@law(2, "exact", draw=_exact, weight=1.5)
def exact(trial: Trial, case: Case) -> None:
    """On integer probes all forms give the same bits, and they are the exact integer result."""
    expected = whole(rows_of(case), case.weight, case.bias)
    for form in trial.forms:
        call = trial.arrange(form, case.x, case.weight, case.bias, case.feature_shape)
        trial.same(call, trial.run(call), expected)
    if case.dtype in (torch.float16, torch.bfloat16):
        _exact_but_for_the_last_rounding(trial, case)


def _exact_but_for_the_last_rounding(trial: Trial, case: Case) -> None:
    """16-bit results of sums up to 2^24 are one rounding of an exact sum, as long as no bias is added in between."""
    outputs, n = case.weight.shape
    rows = rows_of(case).shape[0]
    x, weight, _ = exact_case(
        seed=case.seed,
        style=case.recipe.style or "dense",
        rows=rows,
        in_features=n,
        out_features=outputs,
        bias=False,
        dtype=case.dtype,
        device=case.device,
        unrounded=False,
    )
    expected = whole(x, weight)
    for form in trial.forms:
        call = trial.arrange(form, x, weight, None, case.feature_shape)
        trial.same(call, trial.run(call), expected, note="where the exact sum is rounded once, to the result")


@law(3, "weights read back", draw=_finite)
def readback(trial: Trial, case: Case) -> None:
    """One-hot inputs return exactly the weights that were put in, and the zero input returns the bias.

    Read the other way: one-hot weights return exactly the inputs.
    """
    n = case.weight.shape[1]
    columns = _some_columns(n, case.seed)
    probes = one_hot_rows(columns, n, case.dtype, case.device)
    weights = case.weight[:, columns.to(case.device)].T
    reference = Reference(probes.cpu(), case.weight.cpu())
    strict = case.dtype in (torch.float32, torch.float64, torch.float16) or not reference.parts
    inputs = rows_of(case)[:, columns.to(case.device)]
    passed = Reference(rows_of(case).cpu(), probes.cpu())
    for form in trial.forms:
        call = trial.arrange(form, case.x, probes, None, case.feature_shape)
        y = trial.run(call, note="one-hot weights")
        trial.owns(call, y)
        if strict:
            trial.same(call, y, inputs, note="an output must be the input that its weights choose")
        else:
            trial.judge(call, y, passed, note="an output must be the input that its weights choose")
        call = trial.arrange(form, probes, case.weight, None, case.feature_shape)
        y = trial.run(call, note="one-hot inputs")
        if strict:
            trial.same(call, y, weights, note="row i must be the weights of input i")
        else:
            trial.judge(call, y, reference, note="row i must be the weights of input i")
        if case.bias is not None:
            zeros = torch.zeros(1, n, dtype=case.dtype, device=case.device)
            call = trial.arrange(form, zeros, case.weight, case.bias, case.feature_shape)
            nothing = Reference(zeros.cpu(), case.weight.cpu(), case.bias.cpu())
            y = trial.run(call, note="zero input")
            trial.owns(call, y)
            if strict:
                trial.same(call, y, case.bias[None, :], note="a zero input must return the bias")
            else:
                trial.judge(call, y, nothing, note="a zero input must return the bias")


def _some_columns(n: int, seed: int) -> Tensor:
    if n <= _PROBED_COLUMNS:
        return torch.arange(n)
    generator = torch.Generator().manual_seed(seed % 2**63)
    chosen = torch.randperm(n, generator=generator)[: _PROBED_COLUMNS - 4]
    return torch.cat([torch.tensor([0, 1, n - 2, n - 1]), chosen])


def _specials(context: Context) -> SearchStrategy[Case]:
    return value_cases(context, kinds=("specials", "normals", "near_overflow", "small_integers"), layouts=False)


@law(8, "special values", draw=_specials, kinds=("float",))
def special_values(trial: Trial, case: Case) -> None:
    """NaN, infinities and signed zeros propagate alike; where overflow frees right kernels, nothing is judged.

    So does a single one in input, weight or bias, among numbers of ordinary size.
    """
    note, single = _with_one_special(case)
    for x, weight, bias, words in ((case.x, case.weight, case.bias, ""), (*single, note)):
        rows = x.reshape(-1, weight.shape[1])
        reference = Reference(rows.cpu(), weight.cpu(), None if bias is None else bias.cpu())
        for form in trial.forms:
            call = trial.arrange(form, x, weight, bias, case.feature_shape)
            trial.judge(call, trial.run(call, note=words), reference, note=words)


def _with_one_special(case: Case) -> tuple[str, tuple[Tensor, Tensor, Tensor | None]]:
    """The case's ordinary numbers, with NaN or an infinity in one place of one tensor; the case itself chooses."""
    generator = torch.Generator().manual_seed(case.seed % 2**63)

    def below(count: int) -> int:
        return int(torch.randint(0, count, (1,), generator=generator))

    tensors = {"input": case.x, "weight": case.weight, "bias": case.bias}
    ordinary = {name: None if t is None else torch.where(t.abs() <= 8, t, 1.0) for name, t in tensors.items()}
    chosen = [name for name, t in ordinary.items() if t is not None and t.numel()]
    name, value = chosen[below(len(chosen))], (torch.nan, torch.inf, -torch.inf)[below(3)]
    changed = ordinary[name]
    assert changed is not None
    changed.view(-1)[below(changed.numel())] = value
    x, weight, bias = ordinary.values()
    assert x is not None
    assert weight is not None
    return f"{value} in the {name} alone", (x, weight, bias)


def _scalable(context: Context) -> SearchStrategy[Case]:
    kinds = ("small_integers", "normals", "distinct", "cancelling", "constant")
    return value_cases(context, kinds=kinds, layouts=False)


@law(14, "scaling", draw=_scalable, kinds=("float", "complex"))
def scaling(trial: Trial, case: Case) -> None:
    """A power of two on input or weight multiplies the result exactly, short of overflow and underflow."""
    exponent = (case.seed % 9 - 4) or 5
    factor = 2.0**exponent
    for form in trial.forms:
        call = trial.arrange(form, case.x, case.weight, case.bias, case.feature_shape)
        y = trial.run(call)
        bias = None if call.bias is None else call.bias * factor
        for what, scaled in (
            ("input", replace(call, input=call.input * factor, bias=bias)),
            ("weight", replace(call, weight=call.weight * factor, bias=bias)),
        ):
            if not _scaled_exactly(call, scaled, factor):
                continue
            z = trial.run(scaled)
            safe = _far_from_limits(y) & _far_from_limits(z)
            note = f"{what} and bias times 2**{exponent} must give the result times 2**{exponent}"
            trial.same(scaled, torch.where(safe, z, 0.0), torch.where(safe, y * factor, 0.0), note=note)
    if case.bias is None:
        _negation(trial, case)


def _negation(trial: Trial, case: Case) -> None:
    for form in trial.forms:
        call = trial.arrange(form, case.x, case.weight, None, case.feature_shape)
        opposite = replace(call, input=-call.input)
        trial.same(
            opposite, trial.run(opposite), -trial.run(call), note="the negated input must give the negated result"
        )


def _scaled_exactly(call: object, scaled: object, factor: float) -> bool:
    """Whether no entry left the range in which a power of two changes the exponent alone, products included."""
    smallest = 1.0
    for before, after in ((getattr(call, name), getattr(scaled, name)) for name in ("input", "weight", "bias")):
        if before is None or before.numel() == 0:
            continue
        if before is not after and not torch.equal(after / factor, before):
            return False
        size = torch.minimum(*(_sizes(t) for t in (before, after)))
        smallest *= float(torch.where(size > 0, size, 1.0).min())
    accumulator = format_of(torch.float32 if before_dtype(call) != torch.float64 else torch.float64)
    return smallest > accumulator.min_normal * 2.0**24


def before_dtype(call: object) -> torch.dtype:
    """The real dtype of a call's tensors."""
    return format_of(getattr(call, "input").dtype).dtype  # noqa: B009 - calls are structural here


def _sizes(t: Tensor) -> Tensor:
    t = t.detach().resolve_conj()
    if t.is_complex():
        parts = torch.view_as_real(t).abs()
        return torch.where(parts > 0, parts, torch.inf).amin(-1).nan_to_num(posinf=0.0).double()
    return t.abs().double()


def _far_from_limits(y: Tensor) -> Tensor:
    fmt = format_of(y.dtype)
    y = y.detach().resolve_conj()
    sizes = torch.view_as_real(y).abs() if y.is_complex() else y.abs()[..., None]
    return ((sizes >= fmt.min_normal * 2.0**6) & (sizes <= fmt.max * 2.0**-6)).all(-1)
