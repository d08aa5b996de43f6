"""Convolutions whose padding repeats the input, so that several taps of the kernel land on one input.

The dense weight of such an entry is the sum of its taps, rounded once, while a convolution adds the taps in an order of
its own. So it is held against the envelope of that sum; every other entry must be the weight bit for bit.
"""

from __future__ import annotations

import torch
from torch import Tensor

from equiv.certificate.sides import Layer, Side, dense_rows, resolved, same_values, with_parameters
from equiv.mapping import conv_to_linear
from equiv.numerics import Exact, declared, format_of, judge


def repeats_inputs(layer: Layer | None) -> bool:
    """Whether several taps of a layer may land on one input."""
    return layer is not None and getattr(layer, "padding_mode", "zeros") != "zeros"


class RepeatedTaps:
    """One plain layer of a floating or complex dtype, and the sums of its taps."""

    def __init__(self, side: Side, outputs: int) -> None:
        assert side.layer is not None
        self.layer, self.shape = side.layer, side.shape
        weight = resolved(self.layer.weight)
        self.dtype, self.device = weight.dtype, weight.device
        self.dense = dense_rows(self.layer, side.shape).reshape(outputs, -1)
        self.taps: Tensor | None = None
        if repeats_inputs(self.layer):
            parts = (weight.real, weight.imag) if weight.is_complex() else (weight,)
            self.taps = self._matrix(torch.ones_like(parts[0], dtype=torch.float64))
            self.sums = [self._matrix(part.double()) for part in parts]
            self.sizes = [self._matrix(part.double().abs()) for part in parts]

    def allows(self, columns: Tensor, results: Tensor) -> Tensor:
        """Where results ``(1, c, O)`` at ``e_i``, for complex ``(2, c, O)`` at ``i*e_i`` as well, are right.

        Of a layer that repeats inputs these are entries of several taps alone; any other must return its weight.
        """
        seen = [results[0].real, *(-y.real for y in results[1:])]
        if self.taps is None:
            own = self.dense[:, columns].T
            parts = [own.real, own.imag] if own.is_complex() else [own]
            return torch.stack([same_values(y, w) for y, w in zip(seen, parts, strict=True)]).all(0)
        taps = self.taps[:, columns].T
        arithmetic = declared(self.dtype, self.device)
        flushed = taps * format_of(self.dtype).min_normal if arithmetic.flushes_inputs else 0.0
        right = taps > 1
        for y, total, size in zip(seen, self.sums, self.sizes, strict=True):
            value, magnitude = total[:, columns].T, size[:, columns].T
            exact = Exact(value, None, 2.0**-52 * magnitude + flushed, magnitude, taps, None, None, None)
            right = right & judge(y, exact, arithmetic).inside
        if len(results) == 2:
            reach = (2 * taps + 10) * format_of(self.dtype).u * sum(size[:, columns].T for size in self.sizes)
            for y, total in zip(results, reversed(self.sums), strict=True):  # Im(w*1) and Im(w*i)
                right = right & ((y.imag.double() - total[:, columns].T).abs() <= reach)
        return right

    def _matrix(self, weight: Tensor) -> Tensor:
        return conv_to_linear(with_parameters(self.layer, weight, None), self.shape).weight.detach()
