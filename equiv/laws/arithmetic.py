"""What one call is measured to compute in: its backend, form, sizes, strides, stride and dilation, on other values.

It names the arithmetic behind a result that left the envelope; and, where the user asks for it, it is what the envelope
follows, with a finding wherever it is weaker than the declared one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from equiv.backends import Backend, capabilities_of, identity
from equiv.causes import Cause
from equiv.dtypes import FLOATS, is_inexact
from equiv.errors import EquivError
from equiv.laws.call import Call
from equiv.numerics import Arithmetic, Measured, Reference, format_of, measure

MODES = ("declared", "measured")
"""What an envelope follows: what right kernels of the dtype and device have, or what this one was found to have."""

_LARGEST = 2**22  # entries of input, weight and result together: larger calls are taken as declared


def arithmetic_of(backend: Backend, call: Call) -> Measured | None:
    """What ``backend`` computes in, in this very form, size and layout; None where it cannot be measured.

    Some 300 calls of the same sizes, 0.1 s for a small layer; kept for calls of the same sizes and strides.
    Complex and integer dtypes, and a backend that fails the probes, are not measured.
    """
    if call.input.dtype not in FLOATS or 0 in call.input.shape or 0 in call.weight.shape or not call.is_plain:
        return None
    rows, outputs, n = call.sizes
    if rows * n + outputs * n + rows * outputs > _LARGEST:
        return None

    def run(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        kernel = weight.reshape(-1, *call.weight.shape[1:])
        if kernel.shape == call.weight.shape:
            kernel = _laid_as(kernel, call.weight)
        given = _laid_as(x.reshape(call.input.shape), call.input)
        return replace(call, input=given, weight=kernel, bias=bias).result(backend).reshape(rows, -1)

    who, layouts = identity(backend), [(tuple(t.shape), t.stride()) for t in (call.input, call.weight)]
    sizes: dict[str, Any] = {"rows": rows, "out_features": outputs, "in_features": n, "bias": call.bias is not None}
    try:
        return measure(
            run,
            **sizes,
            dtype=call.input.dtype,
            device=call.input.device,
            op=call.form,
            subject=f"{call.form}, {backend.name}",
            order_limit=0,
            key=None if who is None else ("call", who, call.form, *layouts, *call.steps, call.padding, call.groups),
        )
    except EquivError:  # it computes something else altogether
        return None


def usable(measured: Measured | None) -> Measured | None:
    """The measurement if an envelope may follow it: factors of a format that exists, and products right in it.

    A kernel whose products are wrong in another way is no weaker arithmetic, and gets no wider envelope.
    """
    if measured is None:
        return None
    bits = measured.operands.value
    whole = (bits is None or bits >= 24) and measured.arithmetic.relative > measured.declared.relative
    unnamed = bits is not None and bits < 24 and bits not in (8, 11)
    return None if unnamed or (whole and measured.reduction.value in (None, measured.accumulator.value)) else measured


@dataclass(frozen=True)
class WeakerArithmetic:
    """In which ways the arithmetic of a call is weaker than declared, and the error over the envelope that it has."""

    discrepancies: tuple[str, ...]
    ratio: float

    @property
    def cause(self) -> Cause:
        """As a cause of a result outside the declared envelope."""
        found = "; ".join(self.discrepancies)
        return Cause("arithmetic-weaker-than-declared", f"weaker arithmetic than declared: {found}")


def weaker_arithmetic(backend: Backend, call: Call, y: Tensor) -> WeakerArithmetic | None:
    """How the call's arithmetic is weaker than declared, if that explains ``y`` ``(N, O)``: it lies in its envelope."""
    rows, outputs, _ = call.sizes
    if call.input.dtype not in FLOATS or y.shape != (rows, outputs) or y.numel() == 0:
        return None
    measured = usable(arithmetic_of(backend, call))
    discrepancies = () if measured is None else measured.agrees_with()
    if measured is None or not discrepancies:
        return None
    return _within(measured.arithmetic, call, y, discrepancies)


def own_arithmetic(backend: Backend, dtype: torch.dtype) -> Arithmetic | str | None:
    """What a backend declares that its results of a dtype are computed in: an arithmetic, a mode, or nothing."""
    own = capabilities_of(backend).arithmetic
    if not isinstance(own, Arithmetic):
        return own
    return own if is_inexact(dtype) and own.output == format_of(dtype).dtype else None


def within_weaker(own: Arithmetic, expected: Arithmetic, call: Call, y: Tensor) -> WeakerArithmetic | None:
    """The same for an arithmetic that the backend declares, if that is weaker than expected of right kernels."""
    weaker = own.u > expected.u or own.relative > expected.relative or own.output_rounding != "nearest"
    rows, outputs, _ = call.sizes
    if not (weaker or own.operands or own.results) or y.shape != (rows, outputs) or y.numel() == 0:
        return None
    return _within(own, call, y, (f"declared by the backend, {own.name}",))


def _within(arithmetic: Arithmetic, call: Call, y: Tensor, discrepancies: tuple[str, ...]) -> WeakerArithmetic | None:
    _, outputs, n = call.sizes
    x, weight = call.input.detach().reshape(-1, n).cpu(), call.weight.detach().reshape(outputs, n).cpu()
    reference = Reference(x, weight, None if call.bias is None else call.bias.detach().cpu())
    found = reference.assess(y.detach().cpu(), arithmetic)
    return WeakerArithmetic(discrepancies, float(found.ratio.max())) if found.all_inside else None


def _laid_as(values: Tensor, like: Tensor) -> Tensor:
    """The values in the strides of another tensor of this shape, where those keep all entries apart."""
    if values.stride() == like.stride() or not _is_apart(like):
        return values
    size = 1 + sum((length - 1) * step for length, step in zip(like.shape, like.stride(), strict=True))
    memory = torch.zeros(size, dtype=values.dtype, device=values.device)
    return memory.as_strided(like.shape, like.stride()).copy_(values)


def _is_apart(t: Tensor) -> bool:
    """Whether no two entries share memory: each stride reaches beyond what the smaller ones cover."""
    reach = 0
    for step, length in sorted((step, length) for step, length in zip(t.stride(), t.shape, strict=True) if length > 1):
        if step <= reach:
            return False
        reach += step * (length - 1)
    return True
