"""What :func:`equiv.compare` accepts: results, a layer and its input, tolerances; and all of them as rows on the CPU.

Every refusal is here, in one sentence that names the argument. What is found is the business of ``verdict``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from equiv.errors import EquivError
from equiv.numerics import DTYPES
from equiv.numerics.formats import ordinal


def check_results(actual: Tensor, expected: Tensor) -> None:
    for name, value in (("actual", actual), ("expected", expected)):
        if not isinstance(value, Tensor):
            advice = "pass the result of a layer"
            if callable(value):
                advice += ", or compare two layers or functions with equiv.assert_equivalent or equiv.certify"
            raise EquivError(f"{name}: expected a torch.Tensor, got {type(value).__name__}; {advice}")
        if value.dtype not in DTYPES:
            served = ", ".join(word(d) for d in DTYPES)
            raise EquivError(f"{name}: expected a dtype among {served}, got {word(value.dtype)}; convert it first")
        _check_values(name, value)

    if expected.dtype != actual.dtype and not is_wider(expected.dtype, actual.dtype):
        raise EquivError(
            f"expected: expected the dtype of actual, {word(actual.dtype)}, or a wider one of its kind, got "
            f"{word(expected.dtype)}; pass them the other way round, or compute it in {word(actual.dtype)}"
        )


def _check_values(name: str, value: Tensor) -> None:
    if value.device.type == "meta":
        raise EquivError(
            f"{name}: expected values, got a tensor on the meta device, which has none; run the layer on a real device"
        )
    if value.is_nested or value.layout != torch.strided:
        kind = "a nested tensor" if value.is_nested else value.layout
        raise EquivError(f"{name}: expected a strided tensor, got {kind}; convert it with to_dense()")


def layer_tensors(
    layer: nn.Module | None, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    if layer is None:
        return weight, bias
    if weight is not None or bias is not None:
        raise EquivError("layer: expected either layer or weight and bias, got both; drop one of them")
    found = getattr(layer, "weight", None)
    if not isinstance(layer, (nn.Linear, nn.modules.conv._ConvNd)) or not isinstance(found, Tensor):
        raise EquivError(
            f"layer: expected a Linear or a convolution, got {type(layer).__name__}; pass weight= and bias= instead"
        )
    if is_lazy(found):
        raise EquivError(
            f"layer: expected an initialized layer, got {type(layer).__name__}; run it once on an example input first"
        )
    groups, transposed = getattr(layer, "groups", 1), getattr(layer, "transposed", False)
    if groups != 1 or transposed:
        raise EquivError(
            f"layer: expected a convolution of one group, got {layer}; pass equiv.conv_to_linear(layer, feature_shape)"
        )
    return found, getattr(layer, "bias", None)


def tolerances_of(rtol: float | None, atol: float | None) -> tuple[float, float] | None:
    for name, value in (("rtol", rtol), ("atol", atol)):
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf
        ):
            raise EquivError(
                f"{name}: expected a finite number of at least 0, got {value!r:.60}; pass one, or leave it out"
            )
    return None if rtol is None and atol is None else (float(rtol or 0.0), float(atol or 0.0))


def rows_of(x: Tensor, weight: Tensor, bias: Tensor | None, actual: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Input, weight and bias as ``(N, n)``, ``(O, n)``, ``(O,)`` on the CPU, checked against the result."""
    given: list[tuple[str, Tensor | None]] = [("input", x), ("weight", weight), ("bias", bias)]
    for name, value in given:
        if value is None:
            continue
        if not isinstance(value, Tensor):
            raise EquivError(
                f"{name}: expected a torch.Tensor, got {type(value).__name__}; pass what the kernel was given"
            )
        _check_values(name, value)
        if value.dtype != actual.dtype:
            raise EquivError(
                f"{name}: expected the dtype of actual, {word(actual.dtype)}, got {word(value.dtype)}; the envelope "
                "belongs to one dtype, so pass what the kernel was given"
            )
    if weight.ndim < 2 or weight.shape[0] == 0:
        raise EquivError(
            f"weight: expected shape (O, n) or (O, C, *kernel) with O of at least 1, got {tuple(weight.shape)}; "
            "pass the weight of the layer"
        )
    w = weight.detach().cpu().reshape(weight.shape[0], -1)
    outputs, n = w.shape
    if bias is not None and tuple(bias.shape) != (outputs,):
        raise EquivError(
            f"bias: expected shape ({outputs},), one per row of weight, got {tuple(bias.shape)}; pass the layer's"
        )
    if x.ndim == 0 or (n and x.numel() % n) or (not n and x.shape[-1] != 0):
        raise EquivError(
            f"input: expected (*batch, {n}) or (*batch, C, *spatial) with C*prod(spatial) = {n}, got "
            f"{tuple(x.shape)}; pass what the layer was given"
        )
    fitting = [batch for batch in _batches_of(tuple(x.shape), n) if trimmed((*batch, outputs)) == trimmed(actual.shape)]
    if not fitting:
        raise EquivError(
            f"input: expected one row of {n} features, or one map of as many, per result of shape "
            f"{tuple(actual.shape)}, got {tuple(x.shape)}; pass the very input that gave `actual`"
        )
    batch = fitting[0]
    b = None if bias is None else bias.detach().cpu()
    return x.detach().cpu().resolve_conj().resolve_neg().reshape(math.prod(batch), n), w, b


def _batches_of(shape: tuple[int, ...], n: int) -> list[tuple[int, ...]]:
    """What may be the leading dimensions: all cuts that leave ``n`` features (sizes of 1 can belong to either side)."""
    return [shape[:cut] for cut in range(len(shape) - 1, -1, -1) if math.prod(shape[cut:]) == n]


def trimmed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without its trailing ones: ``(N, O, 1, 1)`` and ``(N, O)`` are the same result."""
    end = len(shape)
    while end and shape[end - 1] == 1:
        end -= 1
    return tuple(shape[:end])


_ULPS = 10**6  # a larger number of them tells a reader nothing


def gap_words(value: Tensor, other: Tensor) -> str:
    """How far apart two real numbers of one floating dtype are, in the words that fit; empty where none do.

    Example:
        >>> one = torch.tensor(1.0)
        >>> gap_words(one, torch.nextafter(one, 2 * one)), gap_words(one, 3 * one), gap_words(one, -one)
        ('1 ulp apart', 'a factor of 3 apart', 'of opposite sign')
        >>> gap_words(one.double(), one.double() + 1e-5)
        '1e-05 of its size apart'
    """
    if not value.is_floating_point() or not bool(torch.isfinite(value) & torch.isfinite(other)):
        return ""
    ulps = abs(int(ordinal(value)) - int(ordinal(other)))
    if ulps <= _ULPS:
        return f"{ulps:,} ulp apart"
    a, b = float(value), float(other)
    if a * b == 0:
        return ""
    if (a < 0) != (b < 0):
        return "of opposite sign"
    ratio = max(abs(a), abs(b)) / min(abs(a), abs(b))
    return f"a factor of {ratio:.3g} apart" if ratio >= 1.01 else f"{abs(a - b) / abs(b):.2g} of its size apart"


def word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def is_wider(wide: torch.dtype, narrow: torch.dtype) -> bool:
    kinds = [(dtype.is_complex, dtype.is_floating_point) for dtype in (wide, narrow)]
    return kinds[0] == kinds[1] != (False, False) and wide.itemsize > narrow.itemsize
