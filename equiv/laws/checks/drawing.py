"""What a law draws and derives from a case: values and sizes, rows, a generator, integers of other sizes."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from equiv.laws.registry import Context
from equiv.numerics import exact_case
from equiv.strategies import FINITE_KINDS, INTEGER_KINDS, Case, cases

_WORK = 2**17
_WIDE_WORK = 2**14  # double-double references of float64 and complex128 cost some forty operations a term


def exact_cases(context: Context, *, backward: bool = False, **options: Any) -> SearchStrategy[Case]:
    """Cases on which every right kernel gives the same bits; with ``backward`` its gradients too, where there are."""
    backward = backward and context.kind != "integer"
    return _cases(context, exact=True, gradients=backward, **{"max_work": _WORK, **options})


def value_cases(context: Context, *, finite: bool = False, **options: Any) -> SearchStrategy[Case]:
    """Cases of ordinary and extreme values, for envelopes; with ``finite`` of none but finite ones."""
    if finite:
        options["kinds"] = INTEGER_KINDS if context.kind == "integer" else FINITE_KINDS
    return _cases(context, max_work=_WIDE_WORK if context.is_wide else _WORK, **options)


def _cases(context: Context, **options: Any) -> SearchStrategy[Case]:
    sizes = {"max_features": 2048, "max_out": 1024, "max_rows": 1024} if context.deep else {"max_features": 1024}
    largest = None if context.largest is None else max(context.largest, options.get("min_positions", 1))
    options = {**sizes, "max_entries": largest, **options}
    return cases(dtype=context.dtype, device=context.device, spatial_dims=context.ranks, **options)


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


def integer_grad(case: Case) -> Tensor:
    """An incoming gradient ``(rows, O)`` of -1, 0 and 1 from the case's seed: small enough for sums over O and rows."""
    values = torch.randint(-1, 2, (len(rows_of(case)), case.weight.shape[0]), generator=generator_of(case, 17))
    return values.to(case.dtype).to(case.device)
