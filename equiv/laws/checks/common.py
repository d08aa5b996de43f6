"""What several laws share: drawing cases for a context, exact results in the case's dtype, gradients of a call."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from equiv.dtypes import is_inexact
from equiv.laws.call import Call, raised
from equiv.laws.registry import Context
from equiv.laws.trial import Trial
from equiv.numerics import Reference, exact_case, exact_integers, exact_range
from equiv.strategies import Case, cases

VALUES_WORK, EXACT_WORK = 2**17, 2**17
WIDE_WORK = 2**14  # double-double references of float64 and complex128 cost some forty operations a term
GRADIENT_NAMES = ("input", "weight", "bias")


def exact_cases(context: Context, **options: Any) -> SearchStrategy[Case]:
    """Cases on which every right kernel gives the same bits."""
    return _cases(context, exact=True, **{"max_work": EXACT_WORK, **options})


def value_cases(context: Context, **options: Any) -> SearchStrategy[Case]:
    """Cases of ordinary and extreme values, for envelopes."""
    return _cases(context, max_work=WIDE_WORK if context.is_wide else VALUES_WORK, **options)


def _cases(context: Context, **options: Any) -> SearchStrategy[Case]:
    if context.deep:
        options = {"max_features": 2048, "max_out": 1024, "max_rows": 1024, **options}
    options.setdefault("max_features", 1024)  # the patches of a vision transformer have 768
    return cases(dtype=context.dtype, device=context.device, **options)


def rows_of(case: Case) -> Tensor:
    """The input as ``(rows, n)``."""
    return case.x.reshape(-1, case.weight.shape[1])


def generator_of(case: Any, offset: int = 0) -> torch.Generator:
    """A generator that the case's seed sets; another ``offset`` gives other numbers."""
    return torch.Generator().manual_seed(case.seed % 2**63 + offset)


def exact_case_like(case: Case, **changed: Any) -> tuple[Tensor, Tensor, Tensor | None]:
    """Input, weight and bias on which right kernels are exact, with the case's sizes but for the options changed.

    See :func:`equiv.numerics.exact_case`.
    """
    outputs, n = case.weight.shape
    sizes = {"rows": len(rows_of(case)), "in_features": n, "out_features": outputs, "bias": case.bias is not None}
    style = case.recipe.style or "dense"
    options = {"seed": case.seed, "style": style, "dtype": case.dtype, "device": case.device, **sizes}
    return exact_case(**{**options, **changed})


def reference_of(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, gradient: bool = False) -> Reference:
    """The exact result of ``x @ weight.T + bias``, computed on the CPU."""
    return Reference(x.cpu(), weight.cpu(), None if bias is None else bias.cpu(), gradient=gradient)


def whole(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias`` of integers, exactly, in the dtype and on the device of ``x``.

    Args:
        x: ``(N, n)``, integers in any dtype.
        weight: ``(O, n)``.
        bias: ``(O,)`` or None.
    """
    x = x.detach()
    y = exact_integers(x.cpu(), weight.detach().cpu(), None if bias is None else bias.detach().cpu())
    if x.is_complex():
        y = torch.complex(y[..., 0].double(), y[..., 1].double())
    return y.to(x.dtype).to(x.device)


def gradients_of(
    trial: Trial, call: Call, grad: Tensor, condition: str = "", *, result: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Gradients of input, weight and bias of one call, for an incoming gradient ``(rows, O)``.

    They come back in the shapes ``(rows, n)``, ``(O, n)`` and ``(O,)``; ``grad`` reaches autograd with its own strides.
    Nothing comes back where torch refuses the call, or would damage memory, for a defect that is written down. The
    result computed while gradients are recorded must be ``result``, where that is given.
    """
    tensors = {name: getattr(call, name) for name in GRADIENT_NAMES}
    leaves = {name: t.detach().requires_grad_() for name, t in tensors.items() if t is not None}
    y = trial.run(replace(call, **leaves), condition)
    if result is not None:
        trial.same(call, y, result, f"while gradients are recorded{condition and ', '}{condition}")
    if trial.is_known_to_corrupt(call, y):
        return ()
    try:
        found = torch.autograd.grad(y, [*leaves.values()], grad)
    except Exception as error:
        if trial.is_known_refusal(call, error):
            return ()
        raise raised(error, call, condition=condition, where="in the backward pass") from error
    n, outputs = call.weight[0].numel(), call.weight.shape[0]
    return (found[0].reshape(-1, n), found[1].reshape(outputs, n), *found[2:])


def same_gradients(
    trial: Trial,
    call: Call,
    grad: Tensor,
    expected: tuple[Tensor, ...],
    condition: str = "",
    *,
    result: Tensor | None = None,
) -> None:
    """The gradients of a call must be those that are expected; see :func:`gradients_of`."""
    found = gradients_of(trial, call, grad, condition, result=result)
    for name, actual, exact in zip(GRADIENT_NAMES, found, expected, strict=False):
        trial.same(call, actual, exact, condition, gradient=(name, grad))


def exact_gradients(x: Tensor, weight: Tensor, grad: Tensor, *, bias: bool) -> tuple[Tensor, ...]:
    """What :func:`gradients_of` must give on integers: ``g @ conj(W)``, ``g.T @ conj(x)``, column sums of ``g``."""
    grad = grad.detach().resolve_conj()
    x, weight = x.detach().conj().resolve_conj(), weight.detach().conj().resolve_conj()
    ones = torch.ones(1, grad.shape[0], dtype=grad.dtype, device=grad.device)
    found = (whole(grad, weight.T), whole(grad.T, x.T))
    return (*found, whole(grad.T, ones)[:, 0]) if bias else found


def integer_grad(case: Case) -> Tensor:
    """An incoming gradient ``(rows, O)`` of -1, 0 and 1 from the case's seed: small enough for sums over O and rows."""
    values = torch.randint(-1, 2, (len(rows_of(case)), case.weight.shape[0]), generator=generator_of(case, 17))
    return values.to(case.dtype).to(case.device)


def stays_exact(x: Tensor, weight: Tensor, bias: Tensor | None, grad: Tensor | None = None) -> bool:
    """Whether all sums of magnitudes, forward and backward, are within the exact range still.

    A broadcast layout repeats entries, which may put more or larger ones into a sum than the probe was made with.
    """
    if not is_inexact(x.dtype):
        return True
    limit = exact_range(x.dtype, unrounded=True) // (4 if x.dtype.is_complex else 1)
    a, w = _magnitudes(x), _magnitudes(weight)
    sums = [a @ w.T + (0.0 if bias is None else _magnitudes(bias))]
    if grad is not None:
        g = _magnitudes(grad)
        sums += [g @ w, g.T @ a, g.sum(0)]
    return all(s.numel() == 0 or float(s.max()) <= limit for s in sums)


def _magnitudes(t: Tensor) -> Tensor:
    t = t.detach().cpu().resolve_conj().resolve_neg()
    return torch.view_as_real(t).double().abs().sum(-1) if t.is_complex() else t.double().abs()
