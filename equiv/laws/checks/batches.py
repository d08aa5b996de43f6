"""The law about batches: rows do not influence each other, whatever their number and leading shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from equiv.laws.call import Call
from equiv.laws.checks.drawing import exact_cases, generator_of, rows_of
from equiv.laws.checks.expected import whole
from equiv.laws.inputs import overlaps
from equiv.laws.reach import OF_A_LAYER
from equiv.laws.registry import law
from equiv.laws.trial import Trial
from equiv.strategies import Case, factorisations

_BATCH_SHAPES = ((), (1,), (3,), (2, 1), (1, 3, 2), (2, 1, 1, 2), (1, 2, 1, 1, 2))
_EMPTY_SHAPES = ((0,), (3, 0), (0, 2), (3, 0, 2), (0, 1, 1, 0))
_MANY_ROWS = (*range(2, 66), 100, 127, 128, 129, 255, 256, 257)
_RESHAPED_WORK = 2**19


@law(6, "batch", draw=partial(exact_cases, layouts=False), reaches=OF_A_LAYER)
def batch(trial: Trial, case: Case) -> None:
    """Each row of a batch has the result that it has alone, under leading shapes of any rank up to 5."""
    x, n = rows_of(case), case.weight.shape[1]
    expected = whole(x, case.weight, case.bias)
    trial.cover("batch rank", len(case.batch_shape))
    for call in trial.calls(case.x, case.weight, case.bias, case.feature_shape):
        trial.gives(call, expected, f"batch shape {case.batch_shape}")
        _cut(trial, call, x, expected)
        _reshaped(trial, case, call.form, x, expected)
        if call.form != "linear" and len(x):
            trial.gives(replace(call, input=call.input[0]), expected[:1], "without a batch dimension")
        if case.dtype.is_floating_point and len(x) > 1:
            poisoned, wanted = x.clone(), expected.clone()
            poisoned[case.seed % len(x)] = wanted[case.seed % len(x)] = torch.nan
            with_nan = trial.arrange(call.form, poisoned, case.weight, case.bias, case.feature_shape)
            trial.gives(with_nan, wanted, "with one row of NaN, which must stay in its row")
        if len(x):
            many = 1 + case.seed % 70
            repeated = trial.arrange(call.form, x[:1].expand(many, n), case.weight, case.bias, case.feature_shape)
            _equal_rows(trial, repeated, expected[:1].expand(many, -1), f"one row repeated {many} times")


def _equal_rows(trial: Trial, call: Call, expected: Tensor, condition: str) -> None:
    """The results of equal rows are equal, and lie each in memory of their own."""
    served = trial.taken(call)
    if served is None:
        return
    y = trial.output(served, condition)
    trial.same(served, y.reshape(expected.shape), expected, condition)
    words = f"returns a result whose entries share memory with each other, {condition}"
    trial.holds(not overlaps(y), call.form, words, served)


def _cut(trial: Trial, call: Call, x: Tensor, expected: Tensor) -> None:
    """The first row, the last row and a middle block alone."""
    rows = len(x)
    flat = call.input.reshape(rows, *call.input.shape[-(call.weight.ndim - 1) :])
    for start, stop in {(0, 1), (rows - 1, rows), (rows // 3, rows // 3 + rows // 2)}:
        if 0 <= start < stop <= rows and (start, stop) != (0, rows):
            trial.gives(replace(call, input=flat[start:stop]), expected[start:stop], f"rows {start}:{stop} alone")


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
        trial.gives(call, expected[picked], f"batch shape {shape}")


def _other_shapes(case: Case) -> tuple[tuple[int, ...], ...]:
    """One of few rows, one of none, and one of many rows in any rank."""
    generator = generator_of(case)
    most = max(2, _RESHAPED_WORK // case.weight.numel())
    totals = [rows for rows in _MANY_ROWS if rows <= most]

    def one_of(choices: Sequence[Any]) -> Any:
        return choices[int(torch.randint(0, len(choices), (1,), generator=generator))]

    many = one_of(factorisations(one_of(totals), one_of(range(1, 6))))
    return one_of(_BATCH_SHAPES), one_of(_EMPTY_SHAPES), many
