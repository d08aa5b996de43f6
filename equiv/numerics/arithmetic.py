"""What a kernel computes in: product and accumulator precision, output rounding, flushing of subnormals.

An :class:`Arithmetic` turns the number of terms of a sum and their total magnitude into an error bound;
:func:`declared` says which arithmetic a right kernel of a dtype has on a device. The rules are stated and sourced in
docs/numerics.md; those of the CPU are measured, those of accelerators come from documentation and say so.

A new floating dtype needs its row in ``ACCUMULATORS``, and a case in ``_on_cpu`` or ``_accelerator`` where its kernels
do something else than add in that format and round once. Integers need nothing: they are exact modulo ``2**bits``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from equiv.arguments import check_choice, check_device_name, check_dtype, refusal
from equiv.dtypes import dtype_name
from equiv.numerics.checks import check_fields, check_terms
from equiv.numerics.formats import Format, format_of
from equiv.numerics.roundings import Rounding
from equiv.numerics.surroundings import flushing_is_on

OPS = ("linear", "full", "pointwise", "grad_input", "grad_weight", "grad_bias", "any")
"""What a kernel carries out: a form of a layer, a gradient, or ``any`` where that is not known.

Example:
    >>> "grad_weight" in OPS
    True
"""

ACCUMULATORS = {
    torch.float64: torch.float64,
    torch.float32: torch.float32,
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
}
"""The format in which right kernels add products of a floating dtype, unless a case below says otherwise."""


def accumulator_of(dtype: torch.dtype) -> Format:
    """The format in which right kernels add products of a floating dtype, or of the parts of a complex one.

    Example:
        >>> accumulator_of(torch.float16).precision, accumulator_of(torch.complex128).precision
        (24, 53)
    """
    return format_of(ACCUMULATORS[format_of(dtype).dtype])


@dataclass(frozen=True)
class Arithmetic:
    """How far a right kernel may be off: ``|acc - s| <= (factor*(K + extra_terms)*u*(1 + relative) + relative)*S + U``.

    ``s`` is the exact sum of an output, ``acc`` what the kernel has in its accumulator, ``K`` the number of terms that
    are not zero, ``S`` the sum of their magnitudes, ``U`` what underflow may take. The result is ``acc`` rounded to
    ``output``.

    Example:
        >>> declared(torch.bfloat16).u == 2.0**-24, declared(torch.bfloat16).flushes_inputs
        (True, True)

    Attributes:
        name: What messages call it.
        output: Dtype of the result (for complex, of its parts).
        u: Unit roundoff of the accumulator.
        accumulator_max: Largest finite value of the accumulator; no order overflows below it.
        underflow: Largest error that one product or sum commits by underflow, absolute.
        factor: Multiplies the terms (1 in IEEE arithmetic).
        extra_terms: Added to the terms.
        relative: Error of one product relative to it, before accumulation (TF32, bfloat16 products).
        factor_max: From this magnitude on a factor may be infinite, as it is rounded first; nothing else is known then.
        flushes_inputs: Subnormal inputs may be treated as zero.
        flushes_outputs: Subnormal results may be replaced by zero.
        infinity_spreads: An infinite or NaN input may make other outputs of its row NaN: a kernel that works on
            pairs multiplies a neighbour by a zero that pads the weight.
        bias_rounding: ``"once"``, or ``"either"`` where the sum of products may be rounded to ``output``
            before the bias is added and the result rounded again.
        output_rounding: ``"nearest"``, ties to even; ``"any"`` where results may be rounded in any direction.
        measured: True where this was measured, False where it was taken from documentation.
        note: A finding about this arithmetic that a verdict must repeat, such as that it is weaker than declared.
        operands: How inputs, weights and bias are rounded before anything is computed, each a
            :class:`equiv.numerics.Rounding` or None; None where none of them is. A :class:`Reference` rounds them so,
            and leaves ``relative`` to those who cannot.
        results: How the accumulator is rounded before it becomes a result of dtype ``output``; None where it is not.
        mixes: Whether a kernel computes with sums of several inputs, as Winograd's does: it returns no single weight
            exactly, and is held against its bound where inputs are of one size alone.
    """

    name: str
    output: torch.dtype
    u: float
    accumulator_max: float
    underflow: float
    factor: float = 1.0
    extra_terms: int = 0
    relative: float = 0.0
    flushes_inputs: bool = False
    flushes_outputs: bool = False
    infinity_spreads: bool = False
    bias_rounding: str = "once"
    output_rounding: str = "nearest"
    measured: bool = True
    note: str = ""
    factor_max: float = math.inf
    operands: tuple[Rounding | None, Rounding | None, Rounding | None] | None = None
    results: Rounding | None = None
    mixes: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        check_dtype("output", self.output, ACCUMULATORS, "a complex result is rounded in the dtype of its parts")

    def error(self, terms: Tensor | float, magnitude: Tensor, *, fewest: int = 0) -> Tensor:
        """Largest ``|acc - s|`` for ``terms`` non-zero terms of total ``magnitude`` (float64), same shape.

        ``fewest`` is a lower bound of ``terms``, where one is known.

        Example:
            >>> one = torch.ones(1, dtype=torch.float64)
            >>> declared(torch.float64).error(3, one).item() / 2.0**-53
            3.0
        """
        check_terms(terms, magnitude, fewest)
        relative = (terms + self.extra_terms if self.extra_terms else terms) * (self.factor * self.u)
        if self.relative:
            relative = relative * (1 + self.relative) + self.relative  # sums of products that are larger by it
        # `underflow` is charged for every product and every addition, as U = (2n+2)*nu does.
        error = relative * magnitude + (terms + 1) * (2 * self.underflow)
        if fewest <= 1 and self.factor == 1 and not (self.extra_terms or self.relative):
            # One term alone: its product is rounded once, and that is the rounding of the result, short of underflow.
            alone = (torch.as_tensor(terms, device=magnitude.device) <= 1) & (magnitude > 4 * self.underflow)
            error = error.masked_fill(alone, 0.0)
        return (
            error if fewest else error.masked_fill(torch.as_tensor(terms, device=magnitude.device) == 0, 0.0)
        )  # nothing is added: exact


def check_arithmetic(
    arithmetic: object, advice: str = "pass what equiv.numerics.declared(dtype) returns"
) -> Arithmetic:
    """``arithmetic`` if it is one.

    Example:
        >>> check_arithmetic("float32")
        Traceback (most recent call last):
        equiv.errors.EquivError: arithmetic: expected an equiv.numerics.Arithmetic, got 'float32'; pass what ...
    """
    if not isinstance(arithmetic, Arithmetic):
        raise refusal("arithmetic", "an equiv.numerics.Arithmetic", arithmetic, advice)
    return arithmetic


def declared(dtype: torch.dtype, device: torch.device | str = "cpu", op: str = "any") -> Arithmetic:
    """The arithmetic that right kernels of ``dtype`` have on ``device``, before anything is measured.

    Args:
        dtype: Dtype of input, weight and result; for complex dtypes the arithmetic of the parts.
        device: Where the kernel runs.
        op: One of ``OPS``: a form, a gradient, or ``"any"`` when the kernel is not known.

    Raises:
        EquivError: An unknown ``op``, or a dtype that is neither floating nor complex.

    Example:
        >>> declared(torch.bfloat16).u == 2.0**-24, declared(torch.bfloat16).flushes_inputs
        (True, True)
    """
    check_choice("op", op, OPS, "use any where the kernel is not known")
    out = format_of(check_dtype("dtype", dtype)).dtype
    kind = check_device_name("device", device).type
    if kind != "cpu":
        return _accelerator(_ieee(out, kind, flushing_is_on()), out, kind)
    return _on_cpu(out, op, flushing_is_on(), _cpu_products() if out == torch.float32 else "ieee")


def _ieee(out: torch.dtype, kind: str, flushing: bool) -> Arithmetic:
    """Results of dtype ``out``, rounded to nearest from the accumulator of that dtype."""
    acc = accumulator_of(out)
    base = Arithmetic(
        name=f"{dtype_name(out)} on {kind}, {dtype_name(acc.dtype)} accumulator",
        output=out,
        u=acc.u,
        accumulator_max=acc.max,
        underflow=acc.min_subnormal,
        measured=kind == "cpu",
    )
    return _flushing(base, acc.min_normal) if flushing else base


def _flushing(base: Arithmetic, min_normal: float) -> Arithmetic:
    note = "Subnormals are flushed in this thread (torch.set_flush_denormal)." if flushing_is_on() else ""
    return replace(base, flushes_inputs=True, flushes_outputs=True, underflow=min_normal, note=note)


@cache
def _on_cpu(out: torch.dtype, op: str, flushing: bool, products: str) -> Arithmetic:
    base = _ieee(out, "cpu", flushing)
    if out == torch.bfloat16:
        # oneDNN's bfloat16 kernels treat subnormals as zero, from sizes and in forms that vary.
        base = _flushing(base, format_of(torch.float32).min_normal)
        # docs/findings/infinity-spreads-in-bfloat16-conv.md: odd channels are padded to pairs.
        base = replace(base, infinity_spreads=op in ("full", "any"))
    if out in (torch.bfloat16, torch.float16):
        # docs/findings/linear-rounds-bias-twice.md: matmul, then add_. A convolution that does so is as right.
        base = replace(base, bias_rounding="either")
        if op == "grad_weight":
            # docs/findings/conv-weight-gradient-in-half.md: samples are accumulated in the dtype itself.
            base = replace(
                _kept_in_output(base), u=format_of(out).u, name=f"{dtype_name(out)} on cpu, 16-bit accumulator"
            )
    if out == torch.float32:
        base = replace(base, relative=_PRODUCTS[products], factor_max=_FACTOR_MAX[products])
        if products == "bf16":  # they treat subnormals as those of bfloat16 do
            base = _flushing(base, format_of(torch.float32).min_normal)
    return base


_PRODUCTS = {"ieee": 0.0, "tf32": 2 * 2.0**-10 + 2.0**-20, "bf16": 2 * 2.0**-8 + 2.0**-16}
"""Error of a float32 product whose factors are first rounded to bfloat16, or cut off to TF32: ``(1 + e)**2 - 1``."""


_FACTOR_MAX = {"ieee": math.inf, "tf32": (2 - 2.0**-11) * 2.0**127, "bf16": format_of(torch.bfloat16).overflow}
"""Smallest magnitude of a float32 factor that rounds to infinity in the format that it is rounded to."""


def _cpu_products() -> str:
    """The format to which torch's settings let oneDNN round float32 factors; whether it does depends on the CPU."""
    settings = _float32_settings("mkldnn", "mkldnn.matmul", "mkldnn.conv")
    if not settings:  # torch before 2.9 has one setting for all matrix products
        settings = {{"medium": "bf16", "high": "tf32"}.get(torch.get_float32_matmul_precision(), "ieee")}
    return next((word for word in ("bf16", "tf32") if word in settings), "ieee")


def _float32_settings(*places: str) -> set[str]:
    """The precisions that are set at these places, where this torch has such settings."""
    return {value for value in map(float32_setting, places) if value is not None}


def float32_setting(place: str) -> str | None:
    """``torch.backends.<place>.fp32_precision``; None where this torch, or this build of it, does not have it.

    Once it has been used, torch's older settings raise errors.
    """
    try:
        value = getattr(_setting(place), "fp32_precision", None)
    except RuntimeError:  # some builds know the name and not the setting
        return None
    return value if isinstance(value, str) else None


@cache
def _setting(place: str) -> object:
    holder: object = torch.backends
    for name in place.split("."):
        holder = getattr(holder, name, None)
    return holder


def _kept_in_output(base: Arithmetic) -> Arithmetic:
    """Partial sums may pass through the dtype of the result: they underflow and overflow where it does."""
    out = format_of(base.output)
    return replace(base, underflow=max(base.underflow, out.min_subnormal), accumulator_max=out.max)


def _accelerator(base: Arithmetic, dtype: torch.dtype, kind: str) -> Arithmetic:
    """Documented, not measured: tensor cores accumulate in float32 with 4(n+16) units; halves may reduce in 16 bit."""
    if dtype == torch.float64 or (dtype == torch.float32 and not _tf32_is_allowed(kind)):
        return base
    if dtype == torch.float32:
        return replace(base, relative=_PRODUCTS["tf32"], factor_max=_FACTOR_MAX["tf32"], factor=4.0, extra_terms=16)
    wide = replace(base, factor=4.0, extra_terms=16, bias_rounding="either")
    if not _reduced_precision_is_allowed(kind, dtype):
        return wide
    return replace(_kept_in_output(wide), relative=9 * format_of(dtype).u)


def _tf32_is_allowed(kind: str) -> bool:
    if kind != "cuda":
        return False
    settings = _float32_settings("cuda.matmul", "cudnn.conv")
    if settings:
        return "tf32" in settings
    return bool(torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32)


def _reduced_precision_is_allowed(kind: str, dtype: torch.dtype) -> bool:
    matmul = torch.backends.cuda.matmul
    bf16, fp16 = matmul.allow_bf16_reduced_precision_reduction, matmul.allow_fp16_reduced_precision_reduction
    return kind != "cuda" or bool(bf16 if dtype == torch.bfloat16 else fp16)
