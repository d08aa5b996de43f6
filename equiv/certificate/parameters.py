"""The parameters of two plain layers, compared bit for bit once both are written as one dense matrix and a bias.

Rows are compared in chunks, so that nothing is copied where a layer's weight is its matrix. Knows as well which mistake
turns the one layer's parameters into the other's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from equiv.causes import Cause, likely_cause, name_cause, on_maps
from equiv.certificate.sides import Differences, Layer, Side, dense_rows, resolved, same_values
from equiv.errors import EquivError
from equiv.mapping import Conv, covers, geometry_of, pads_and_positions
from equiv.numerics import surely_bit_equal

_ROW_BYTES = 2**21
_ROWS, _FEW = 32, 4  # inputs from whose results a cause is looked for; half of them of few entries, which are sharper
_NAMED = 2**25  # entries of a matrix up to which a cause is looked for: 4 seconds at most, on one core
_WHOLE, _SAMPLED = 2**22, 64  # above so many entries, first in so many of the rows


def compare_parameters(a: Layer, b: Layer, shape: tuple[int, ...]) -> Differences:
    """Differences of the dense matrices and biases, without a copy where a layer's weight is its matrix.

    Raises:
        EquivError: A parameter is infinite or not a number, or the map does not fit a layer.
    """
    same = _agree(a, b, shape)
    for name, layer in (("candidate", a), ("reference", b)):
        for key, value in layer.named_parameters():
            if not (same and key == "weight") and not _finite(value.detach()):
                raise EquivError(
                    f"{name}.{key}: expected finite entries, got {int((~value.isfinite()).sum()):,} infinite or not a "
                    "number; zero times infinity hides the others: compare such layers with equiv.assert_equivalent"
                )
    found = Differences()
    x, y = (_dense_bias(layer, shape)[None] for layer in (a, b))
    found.add(~same_values(x, y), x, y, None)
    if not same:
        n = math.prod(shape)
        for start, x, y in _in_rows(dense_rows(a, shape), dense_rows(b, shape), n):
            if not torch.equal(x, y):
                found.add(~same_values(x, y), x, y, lambda row, column, first=start: (first + row, column))  # type: ignore[misc]
    return found


def _agree(a: Layer, b: Layer, shape: tuple[int, ...]) -> bool:
    """Whether two weights that stand for the same matrix are equal and finite: one look at each entry."""
    same = geometry_of(a) == geometry_of(b) or all(isinstance(f, nn.Linear) or covers(f, shape) for f in (a, b))
    left, right = resolved(a.weight), resolved(b.weight)
    if not same or left.numel() != right.numel():
        return False
    rows = _in_rows(left, right, left[0].numel())
    return all((surely_bit_equal(x, y) or torch.equal(x, y)) and _finite(x) for _, x, y in rows)


def _in_rows(a: Tensor, b: Tensor, n: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Some rows of two weights at a time as ``(rows, n)``, with the index of the first."""
    step = max(1, _ROW_BYTES // (n * a.element_size()))
    for start in range(0, len(a), step):
        yield start, a[start : start + step].reshape(-1, n), b[start : start + step].reshape(-1, n)


def cause_of(a: Layer, b: Layer, shape: tuple[int, ...]) -> Cause | None:
    """The mistake that turns the parameters of layer ``b`` into those of ``a``, bit for bit; None if none is known."""
    n = math.prod(shape)
    if n * outputs_of(a, shape) > _NAMED:
        return None
    left, right = (dense_rows(layer, shape).reshape(-1, n) for layer in (a, b))
    biases = [_dense_bias(layer, shape) if layer.bias is not None else None for layer in (a, b)]
    conv = next((layer for layer in (b, a) if isinstance(layer, Conv)), None)
    if left.numel() > _WHOLE:
        # Where none fits some of the rows, none fits all: outputs in another order alone are missed.
        wrong = (left != right).any(1).nonzero().flatten()[:1].tolist()
        rows = sorted({*wrong, *range(0, len(left), -(-len(left) // _SAMPLED))})
        some = [None if bias is None else bias[rows] for bias in biases]
        if conv is None and name_cause(left[rows], right[rows], shape, *some) is None:
            return None
    return name_cause(left, right, shape, *biases, conv=conv)


def cause_of_results(sides: tuple[Side, Side], shape: tuple[int, ...], seed: int) -> Cause | None:
    """The formats in which the function on one side computes the plain layer on the other, from results of its own."""
    for side, other in (sides, sides[::-1]):
        layer = other.layer
        if side.layer is None and layer is not None and layer.weight.dtype.is_floating_point:
            n = math.prod(shape)
            if n * outputs_of(layer, shape) > _WHOLE:
                return None
            generator = torch.Generator("cpu").manual_seed(seed % 2**63)
            normal = torch.randn(_ROWS, n, generator=generator, device="cpu")
            some = torch.rand(_ROWS // 2, n, generator=generator, device="cpu").topk(min(n, _FEW)).indices
            normal[_ROWS // 2 :] *= torch.zeros(_ROWS // 2, n, device="cpu").scatter_(1, some, 1.0)
            x, weight = normal.to(layer.weight), dense_rows(layer, shape).reshape(-1, n)
            y, bias = side.run(x), _dense_bias(layer, shape)
            cause = likely_cause(y, x=x, weight=weight, bias=bias, feature_shape=shape)
            if cause is None or cause.arithmetic is None:
                return None
            if isinstance(layer, Conv) and layer.weight[0].numel() < n:  # it slides
                return on_maps(cause, layer, dense=True)
            return cause
    return None


def outputs_of(layer: Layer, shape: tuple[int, ...]) -> int:
    """How many outputs a layer has on a map of this shape, over all positions.

    Raises:
        EquivError: The map does not fit a convolution.
    """
    if isinstance(layer, nn.Linear):
        return layer.out_features
    return layer.out_channels * math.prod(pads_and_positions(layer, shape[1:])[1])


def _dense_bias(layer: Layer, shape: tuple[int, ...]) -> Tensor:
    """The bias at every position; zeros where there is none."""
    bias = layer.weight.detach().new_zeros(len(layer.weight)) if layer.bias is None else resolved(layer.bias)
    return bias.repeat_interleave(outputs_of(layer, shape) // len(bias))


def _finite(values: Tensor) -> bool:
    # A sum is infinite or not a number if an entry is; where finite entries overflow it, look at each.
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())
