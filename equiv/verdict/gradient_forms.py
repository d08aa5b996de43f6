"""Gradients of a layer as layers themselves, each with what its results are summed from.

With an incoming gradient ``G`` ``(N, O)`` the gradient of the input is ``G @ conj(W)``, that of the weight ``G.T @
conj(X)``, that of the bias the sum of the rows of ``G``: each is ``x @ weight.T`` of some ``x`` and ``weight``, and has
an envelope like any result. Letters as in ``equiv.mapping.geometry``: P output positions, Q input positions, T taps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from equiv.causes import Cause, likely_cause
from equiv.dtypes import is_inexact
from equiv.mapping import Conv, ConvTranspose, inputs_read, is_unpadded, pads_and_positions
from equiv.numerics import Arithmetic, declared, exact_range, format_of
from equiv.verdict.arguments import Alternatives, on_cpu

_EXPLAINED = 2**22  # products up to which a cause is looked for
_PRODUCTS = {"input": "incoming @ weight", "weight": "incoming.T @ input", "bias": "the sum of the incoming rows"}

Layer = nn.Linear | Conv | ConvTranspose


@dataclass(frozen=True, eq=False)
class Form:
    """A gradient, or a part of it, as a layer: right is ``x @ weight.T``.

    Attributes:
        of: ``input``, ``weight`` or ``bias``.
        x: ``(R, K)``.
        weight: ``(M, K)``.
        part: Takes it from the gradient in its own shape: ``(R, M)``.
        alternatives: Other weights that it may be computed with, see :class:`equiv.verdict.arguments.Comparison`.
        in_steps: Whether 16-bit kernels may add taps, or samples, one by one in the dtype of the result.
    """

    of: str
    x: Tensor
    weight: Tensor
    part: Callable[[Tensor], Tensor]
    alternatives: Alternatives = (None,)
    in_steps: bool = False

    @property
    def is_exact(self) -> bool:
        """Whether all its terms are integers, of sums that no kernel rounds."""
        if not all(_are_integers(t) for t in (self.x, self.weight)) or self.alternatives != (None,):
            return False
        dtype = self.x.dtype
        a, b = (_sizes(t) for t in (self.x, self.weight))
        if not (a.numel() and b.numel()):
            return True
        most = min(float(a.sum(1).max() * b.max()), float(b.sum(1).max() * a.max()))
        return most <= exact_range(dtype, unrounded=True) // (4 if dtype.is_complex else 1)

    def arithmetic(self, given: Arithmetic | None, device: torch.device) -> Arithmetic:
        """What right kernels compute it in, or what the candidate was said to compute in."""
        dtype = self.x.dtype
        own = declared(dtype, device, f"grad_{self.of}")
        if self.in_steps:
            # docs/findings/transposed-conv-adds-taps-in-16-bits.md, conv-weight-gradient-in-half.md: of K terms no more
            # than K steps are rounded.
            own = declared(dtype, device, "grad_weight")
        if given is None:
            return own
        return replace(
            given,
            operands=None,
            u=max(given.u, own.u),
            factor=max(given.factor, own.factor),
            underflow=max(given.underflow, own.underflow),
            accumulator_max=min(given.accumulator_max, own.accumulator_max),
        )


def input_form(dense: Tensor, taps: Alternatives, grad: Tensor, *, slides: bool) -> Form:
    """The gradient ``(N, n)`` of the input of a layer of weight ``(O, n)``.

    ``taps`` are weights ``(O, m*n)`` over copies of the inputs, None for the dense ones.
    """
    outputs, n = dense.shape
    others = tuple(
        None if w is None else on_cpu(w.conj()).view(outputs, -1, n).permute(2, 1, 0).reshape(n, -1) for w in taps
    )
    return Form("input", on_cpu(grad), on_cpu(dense.conj()).T, lambda g: g, others, slides)


def weight_forms(layer: Layer, shape: tuple[int, ...], x: Tensor, grad: Tensor) -> Iterator[Form]:
    """The gradient of the weight, for inputs ``(N, n)`` and ``(N, O)``; one form for each group."""
    x, grad = on_cpu(x.conj()), on_cpu(grad)
    if isinstance(layer, nn.Linear):
        yield Form("weight", grad.T, x.T, lambda g: g)
        return
    reads = inputs_read(layer, shape[1:])  # (P, T)
    groups, transposed = layer.groups, isinstance(layer, ConvTranspose)
    maps = x.view(len(x), groups, shape[0] // groups, -1)
    incoming = grad.view(len(x), groups, layer.out_channels // groups, len(reads))
    for group in range(groups):
        columns = maps[:, group][..., reads.clamp(min=0)].masked_fill(reads < 0, 0)  # (N, Cg, P, T)
        weight = columns.permute(1, 3, 0, 2).flatten(2).flatten(0, 1)  # (Cg*T, N*P)
        rows = incoming[:, group].transpose(0, 1).flatten(1)  # (O/G, N*P)
        yield Form("weight", rows, weight, _kernel_of(group, groups, transposed))


def _kernel_of(group: int, groups: int, transposed: bool) -> Callable[[Tensor], Tensor]:
    """Takes the rows ``(O/G, Cg*T)`` of a group from a kernel in its own shape."""

    def part(kernel: Tensor) -> Tensor:
        own = kernel.view(groups, -1, *kernel.shape[1:])[group]
        return (own.transpose(0, 1) if transposed else own).flatten(1)

    return part


def bias_form(layer: Layer, grad: Tensor, *, in_steps: bool) -> Form:
    """The gradient of the bias, for an incoming gradient ``(N, O*P)``."""
    outputs = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    rows = on_cpu(grad).view(len(grad), outputs, -1).transpose(0, 1).flatten(1)
    return Form("bias", rows, torch.ones_like(rows[:1]), lambda g: g.view(-1, 1), in_steps=in_steps)


def slides(layer: object, shape: tuple[int, ...]) -> bool:
    """Whether several output positions of a convolution may read one input: then its gradient is a sum of taps."""
    if not isinstance(layer, Conv):
        return False  # of a transposed one it is a convolution
    repeats = layer.padding_mode != "zeros" and not is_unpadded(layer)
    taps, positions = math.prod(layer.weight.shape[2:]), math.prod(pads_and_positions(layer, shape[1:])[1])
    return repeats or (taps > 1 and positions > 1)


def cause_of_gradient(form: Form, actual: Tensor, rows: int) -> Cause | None:
    """The likely mistake in ``actual`` ``(R, M)``, for a batch of so many ``rows``."""
    if form.x.numel() * len(form.weight) > _EXPLAINED or form.alternatives != (None,):
        return None
    cause = _scaled(form, actual, rows)
    if cause is None:
        shape = (form.x.shape[1], 1)
        found = likely_cause(actual, x=form.x, weight=form.weight, bias=None, feature_shape=shape)
        if found is None or found.name.startswith(("output-zero", "output-scaled", "output-negated")):
            return None
        cause = Cause(found.name, f"taken as {_PRODUCTS[form.of]}: {found.sentence}")
    return cause


def _scaled(form: Form, actual: Tensor, rows: int) -> Cause | None:
    """All entries of the gradient are zero, or those of the right one times a factor."""
    wide = torch.complex128 if actual.is_complex() else torch.float64
    y, x, weight = (t.to(wide) for t in (actual, form.x, form.weight))
    right, size = x @ weight.T, x.abs() @ weight.abs().T
    at = int(right.abs().argmax())
    factor, terms = complex(y.flatten()[at] / right.flatten()[at]), form.x.shape[1]
    u = format_of(actual.dtype).u

    def explains(factor: complex) -> bool:
        slack = (terms + 4) * u * abs(factor) * size + u * y.abs()
        return bool(((y - factor * right).abs() <= slack).all())

    if not explains(factor) or explains(1) or abs(factor.imag) > abs(factor) * 2**-6:
        return None
    near = [n for n in sorted({rows, terms, len(form.x)}) if n > 1 and abs(factor.real * n - 1) < 2.0**-8]
    if factor == 0:
        return Cause("gradient-zero", "every entry of the gradient is zero")
    if near and form.of != "input":
        what = "rows of the batch" if near[0] == rows else "terms"
        sentence = f"averaged over the {near[0]} {what} instead of summed"
        return Cause("gradient-averaged", sentence, f"grad = grad * {near[0]}")
    scale = f"{factor.real:.6g}"
    return Cause("gradient-scaled", f"every entry of the gradient is multiplied by {scale}", f"grad = grad / {scale}")


def _are_integers(values: Tensor) -> bool:
    parts = torch.view_as_real(values) if values.is_complex() else values
    return is_inexact(values.dtype) and bool((parts == parts.round()).all())


def _sizes(values: Tensor) -> Tensor:
    parts = torch.view_as_real(values).abs().sum(-1) if values.is_complex() else values.abs()
    return parts.double()
