"""Are the parameters of two layers the same once both are written as one dense matrix, bit for bit?

Rows are compared in chunks, so that nothing is copied where a layer's weight is its matrix.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from equiv.causes import name_cause
from equiv.certificate.sides import CAP, Difference, bias_of, dense_rows, same_values, weight_of
from equiv.errors import EquivError
from equiv.mapping import geometry_of, pads_and_positions

_ROW_BYTES = 2**21
_NAMED = 2**25  # entries of a matrix up to which a cause is looked for: 4 seconds at most, on one core
_WHOLE, _SAMPLED = 2**22, 64  # above so many entries, first in so many of the rows


def compare_parameters(a: Any, b: Any, shape: tuple[int, ...]) -> tuple[list[Difference], int]:
    """Differences of the dense matrices and biases, without a copy where a layer's weight is its matrix."""
    for name, layer in (("candidate", a), ("reference", b)):
        for key, value in (("weight", weight_of(layer)), ("bias", bias_of(layer))):
            if value is not None and not _finite(value):
                raise EquivError(
                    f"{name}.{key}: expected finite entries, got {int((~value.isfinite()).sum()):,} infinite or not a "
                    "number; zero times infinity hides the others: compare such layers with equiv.assert_equivalent"
                )
    found: list[Difference] = []
    total = _compare_bias(a, b, shape, found)
    if geometry_of(a) == geometry_of(b) and _equal(weight_of(a), weight_of(b)):
        return found, total
    left, right = dense_rows(a, shape), dense_rows(b, shape)
    n, outputs = math.prod(shape), len(left)
    step = max(1, _ROW_BYTES // (n * left.element_size()))
    for start in range(0, outputs, step):
        x, y = (rows[start : start + step].reshape(-1, n) for rows in (left, right))
        if torch.equal(x, y):
            continue
        wrong = ~same_values(x, y)
        total += int(wrong.sum())
        for row, column in wrong.nonzero()[: max(0, CAP - len(found))].tolist():
            found.append(Difference(start + row, column, x[row, column].item(), y[row, column].item()))
    return found, total


def cause_of(a: Any, b: Any, shape: tuple[int, ...]) -> str | None:
    """The mistake that turns the parameters of layer ``b`` into those of ``a``, bit for bit; None if none is known."""
    n = math.prod(shape)
    if n * outputs_of(a, shape) > _NAMED:
        return None
    left, right = (dense_rows(layer, shape).reshape(-1, n) for layer in (a, b))
    biases = [_dense_bias(layer, shape) if layer.bias is not None else None for layer in (a, b)]
    if left.numel() > _WHOLE:
        # Where none fits some of the rows, none fits all: outputs in another order alone are missed.
        wrong = (left != right).any(1).nonzero().flatten()[:1].tolist()
        rows = sorted({*wrong, *range(0, len(left), -(-len(left) // _SAMPLED))})
        some = [None if bias is None else bias[rows] for bias in biases]
        if name_cause(left[rows], right[rows], shape, *some) is None:
            return None
    found = name_cause(left, right, shape, *biases)
    return None if found is None else found.sentence


def _dense_bias(layer: Any, shape: tuple[int, ...]) -> Tensor:
    """The bias at every position; zeros where there is none."""
    bias = bias_of(layer)
    bias = layer.weight.detach().new_zeros(layer.weight.shape[0]) if bias is None else bias
    return bias.repeat_interleave(outputs_of(layer, shape) // len(bias))


def _compare_bias(a: Any, b: Any, shape: tuple[int, ...], found: list[Difference]) -> int:
    values = [_dense_bias(layer, shape) for layer in (a, b)]
    wrong = ~same_values(*values)
    for (output,) in wrong.nonzero()[:CAP].tolist():
        found.append(Difference(output, None, values[0][output].item(), values[1][output].item()))
    return int(wrong.sum())


def _equal(a: Tensor, b: Tensor) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def _finite(values: Tensor) -> bool:
    if not (values.is_floating_point() or values.is_complex()):
        return True
    # A sum is infinite or not a number if an entry is; where finite entries overflow it, look at each.
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())


def outputs_of(layer: Any, shape: tuple[int, ...]) -> int:
    """How many outputs a layer has on a map of this shape, over all positions.

    Raises:
        EquivError: The map does not fit a convolution.
    """
    if isinstance(layer, nn.Linear):
        return layer.out_features
    return int(layer.out_channels * math.prod(pads_and_positions(layer, shape[1:])[1]))
