"""Convolutions of inputs that are repeated, by their padding or before them: several taps land on one input.

The dense weight of such an entry is the sum of its taps, rounded once, while a convolution adds the taps, and its bias,
in an order of its own. So it is held against the envelope of that sum; every other entry must be the weight bit for
bit. Of a layer the taps are known from its attributes, of a function from what it returns with other weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from equiv.certificate.operations import with_weights
from equiv.certificate.sides import Layer, Side, dense_rows, resolved, same_values, with_parameters
from equiv.mapping import conv_to_linear
from equiv.numerics import Arithmetic, Exact, declared, format_of, judge, round_nearest


def repeats_inputs(layer: Layer | None) -> bool:
    """Whether several taps of a layer may land on one input."""
    return layer is not None and getattr(layer, "padding_mode", "zeros") != "zeros"


class Taps(NamedTuple):
    """The taps that land on one input, of which a convolution returns the sum: ``(1, c, O)`` float64 at ``e_i``.

    For complex dtypes ``(2, c, O)``, of the real parts of what it returns at ``e_i`` and at ``i*e_i``.
    """

    total: Tensor  # their sum
    size: Tensor  # the sum of their magnitudes
    terms: Tensor  # how many are not zero
    error: Tensor  # how far the total may be off

    @property
    def several(self) -> Tensor:
        """Where there is an order to choose: ``(c, O)``."""
        return (self.terms > 1).any(0)


def taps_of_function(side: Side, rows: list[Tensor]) -> Taps | None:
    """The taps of a function that is one convolution, at ``e_i`` and ``i*e_i``; None where each input meets but one."""
    x = torch.cat([*rows, torch.zeros_like(rows[0][:1])])

    def read(weights: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        y = with_weights(lambda: side.run(x), weights).real
        return (y[:-1] - y[-1]).view(len(rows), -1, y.shape[1]), y[-1].abs()  # a bias that is added later taken away

    terms = read(Tensor.bool)[0].abs().round()
    if not bool((terms > 1).any()):
        return None
    (total, bias), (size, _) = read(torch.clone), read(torch.abs)
    return Taps(total, size.abs(), terms, (terms + 2) * 2.0**-53 * (size.abs() + bias))


def judge_sums(
    y: Tensor, taps: Taps, factor: float, bias: Tensor, *, rounded: bool, arithmetic: Arithmetic | None = None
) -> tuple[Tensor, Tensor]:
    """Where results at ``factor * e_i``, shaped as ``taps``, are right, and how wide the envelope is: ``(c, O)`` both.

    They are sums of ``factor`` times the taps and of the bias ``(O,)``, in any order. ``rounded`` means that the taps
    may have been rounded to one weight before the bias came, as those of the dense layer are.
    """
    fmt, arithmetic = format_of(y.dtype), arithmetic or declared(y.dtype, y.device)
    value, beside = factor * taps.total, bias.real.double()
    size, biased = abs(factor) * taps.size + beside.abs(), beside != 0
    doubt = abs(factor) * taps.error + 2.0**-53 * size
    if rounded:
        error = taps.error + arithmetic.error(taps.terms, taps.size)
        once = [round_nearest(taps.total + far, fmt.dtype).double() for far in (-error, error)]
        lost = torch.maximum(*((end - taps.total).abs() for end in once)).nan_to_num(torch.inf, torch.inf)
        doubt = doubt + torch.where(biased, abs(factor) * lost, 0.0)
    flushed = abs(factor) * taps.terms * fmt.min_normal if arithmetic.flushes_inputs else torch.zeros_like(doubt)
    doubt = doubt + flushed
    terms = taps.terms + biased
    found = judge(y.real, Exact(value + beside, None, doubt, size, terms, beside, None, None), arithmetic)
    inside = found.inside.all(0)
    if y.is_complex():  # Im(w*1) and Im(w*i): from three products, as inexact as all parts together
        imaginary = torch.stack([-value[1], value[0]]) + bias.imag.double()
        reach = (2 * terms + 10) * fmt.u * (size.sum(0) + bias.imag.double().abs())
        reach = reach + flushed.sum(0) + 2 * (terms + 1) * arithmetic.underflow
        reach = reach + fmt.min_normal if arithmetic.flushes_outputs else reach
        inside &= ((y.imag.double() - imaginary).abs() <= reach).all(0)
    return inside, (found.upper - found.lower).amax(0)


class RepeatedTaps:
    """One plain layer of a floating or complex dtype, and the sums of its taps."""

    def __init__(self, side: Side, outputs: int, arithmetic: Arithmetic) -> None:
        assert side.layer is not None
        self.layer, self.shape, self.arithmetic = side.layer, side.shape, arithmetic
        weight = resolved(self.layer.weight)
        self.dense = dense_rows(self.layer, side.shape).reshape(outputs, -1)
        self.taps: Taps | None = None
        if repeats_inputs(self.layer):
            parts = (weight.real, -weight.imag) if weight.is_complex() else (weight,)
            total, size, terms = (
                torch.stack([self._matrix(change(part).double()).T for part in parts])
                for change in (torch.clone, torch.abs, Tensor.bool)
            )
            self.taps = Taps(total, size, terms, 2.0**-53 * size)

    def allows(self, columns: Tensor, results: Tensor) -> Tensor:
        """Where results ``(1, c, O)`` at ``e_i``, for complex ``(2, c, O)`` at ``i*e_i`` as well, are right.

        Of a layer that repeats inputs these are entries of several taps alone; any other must return its weight.
        """
        if self.taps is None:
            own = self.dense[:, columns].T
            parts = [own.real, -own.imag] if own.is_complex() else [own]
            return torch.stack([same_values(y.real, w) for y, w in zip(results, parts, strict=True)]).all(0)
        taps = Taps(*(matrix[:, columns] for matrix in self.taps))
        none = results.new_zeros(())
        return taps.several & judge_sums(results, taps, 1.0, none, rounded=False, arithmetic=self.arithmetic)[0]

    def _matrix(self, weight: Tensor) -> Tensor:
        return conv_to_linear(with_parameters(self.layer, weight, None), self.shape).weight.detach()
