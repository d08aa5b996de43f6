"""Exact probes: inputs whose results involve no rounding, so that all right kernels agree on them bit for bit.

If all entries are integers that the dtype holds, and the sum of the magnitudes of the terms of every output stays
within the accumulator's exact range, then every partial sum in every order is exact. The range is ``2**24`` for a
float32 accumulator, ``2**53`` for float64; within ``2**8`` (bfloat16) or ``2**11`` (float16) a 16-bit result needs no
rounding either, so that even a kernel that rounds in between gives the exact value. Integer dtypes are exact modulo
``2**bits``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from equiv.arguments import (
    check_bool,
    check_choice,
    check_device,
    check_dtype,
    check_integer,
    check_memory,
    refusal,
)
from equiv.dtypes import INTEGERS, is_inexact
from equiv.numerics.arithmetic import accumulator_of
from equiv.numerics.checks import check_layer_size, check_values
from equiv.numerics.formats import format_of
from equiv.numerics.surroundings import gradients_recorded

STYLES = ("sparse", "signs", "dense", "address", "one_hot")
"""Kinds of exact probe, the one with the fewest non-zeros first.

``sparse``: few non-zero inputs, large weights; ``signs``: inputs are -1 or 1, weights as large as fits; ``dense``: both
of middle size; ``address``: each weight's value encodes its place (``o * n + i``, shifted, as far as the dtype has
that many values); ``one_hot``: each row selects one weight.

Example:
    >>> STYLES[0]
    'sparse'
"""


def exact_range(dtype: torch.dtype, *, unrounded: bool = False) -> int:
    """Largest sum of magnitudes for which every partial sum is exact: ``2**p`` of the accumulator.

    Args:
        dtype: Dtype of input, weight and result. Integer dtypes have no limit of this kind: 2**62 is returned.
        unrounded: Also require that the result itself, and any partial sum, is held by ``dtype`` without rounding.

    Example:
        >>> exact_range(torch.bfloat16), exact_range(torch.bfloat16, unrounded=True)
        (16777216, 256)
    """
    check_dtype("dtype", dtype)
    check_bool("unrounded", unrounded)
    if not is_inexact(dtype):
        return 1 << 62
    fmt = format_of(dtype)
    return min(1 << (fmt if unrounded else accumulator_of(dtype)).precision, int(fmt.max))


def entry_range(dtype: torch.dtype) -> int:
    """Largest integer up to which ``dtype`` holds every integer; for integer dtypes the largest value.

    Example:
        >>> entry_range(torch.float16), entry_range(torch.uint8)
        (2048, 255)
    """
    check_dtype("dtype", dtype)
    if is_inexact(dtype):
        return 1 << format_of(dtype).precision
    return int(torch.iinfo(dtype).max)


@gradients_recorded()
def exact_case(  # noqa: PLR0913 - every option says what to draw; all are given by name
    *,
    seed: int,
    style: str,
    rows: int,
    in_features: int,
    out_features: int,
    bias: bool,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    unrounded: bool = True,
    reduction: int | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Input ``(rows, n)``, weight ``(O, n)`` and bias ``(O,)`` or None whose exact result every right kernel returns.

    Args:
        seed: Of an explicit generator; the global random state is neither read nor set.
        style: One of ``STYLES``.
        rows: N, at least 0.
        in_features: n, at least 1.
        out_features: O, at least 1.
        bias: Whether there is a bias.
        dtype: Any of ``equiv.numerics.DTYPES``. Complex entries are Gaussian integers.
        device: Where the tensors are put; they are drawn on the CPU.
        unrounded: For 16-bit dtypes keep even results below the dtype's own integer range.
        reduction: Longest sum that must be exact, default n; a law of gradients passes ``max(rows, O, n)``. Then the
            sums over a column of the weight, and over a column of the input, are exact for gradients of -1, 0 and 1.

    Raises:
        EquivError: An unknown style or dtype, or a size out of range.

    Example:
        >>> sizes = {"rows": 2, "in_features": 3, "out_features": 4}
        >>> x, w, b = exact_case(seed=1, style="dense", bias=True, dtype=torch.float32, **sizes)
        >>> x.shape, w.shape, b.shape, bool((w == w.round()).all())
        (torch.Size([2, 3]), torch.Size([4, 3]), torch.Size([4]), True)
    """
    sizes = _check(style, dtype, rows, in_features, out_features)
    check_bool("bias", bias)
    check_bool("unrounded", unrounded)
    device = check_device("device", device)
    if reduction is not None:
        reduction = check_integer("reduction", reduction, least=1, advice="leave it out for in_features")
    generator = torch.Generator().manual_seed(check_integer("seed", seed) & 0x7FFFFFFFFFFFFFFF)
    if is_inexact(dtype):
        budget = exact_range(dtype, unrounded=unrounded)
        x, w, b = _inexact_case(generator, style, sizes, bias, dtype, budget, reduction)
    else:
        x, w, b = _integer_case(generator, style, sizes, bias, dtype)
    return x.to(device), w.to(device), None if b is None else b.to(device)


def _inexact_case(
    generator: torch.Generator,
    style: str,
    sizes: tuple[int, int, int],
    bias: bool,
    dtype: torch.dtype,
    budget: int,
    reduction: int | None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Integers in a floating or complex dtype, so few or so small that no sum of magnitudes exceeds the budget."""
    rows, n, out_features = sizes
    length = max(n, reduction or 0)
    largest = min(entry_range(dtype), budget // 2)
    parts = 4 if dtype.is_complex else 1  # (|wr|+|wi|)(|xr|+|xi|) for the conv that multiplies with three products
    budget //= parts
    largest = min(largest, max(1, budget // 2))
    # A sum of `length` terms Rw*Rx and a bias Rb must stay within the budget; keep = how many terms may be non-zero.
    keep, rx, rw = _radii(style, length, budget, largest)
    rb = max(0, min(largest, budget - keep * rx * rw))
    w = _address(out_features, n, rw) if style == "address" else _integers((out_features, n), rw, generator)
    x = _integers((rows, n), rx, generator) if rx > 1 else _signs((rows, n), generator)
    b = _integers((out_features,), rb, generator) if bias else None
    if dtype.is_complex:
        x = torch.complex(x, _integers((rows, n), rx, generator))
        w = torch.complex(w, _integers((out_features, n), rw, generator))
        b = None if b is None else torch.complex(b, _integers((out_features,), rb, generator))
    if keep < length:
        x = _thin(x, keep, generator)
        if reduction is not None and reduction > keep:
            w = _thin(w.T, keep, generator).T.contiguous()
            x = _thin(x.T, max(1, budget // rx), generator).T.contiguous()  # the sums over rows of a weight's gradient
    return x.to(dtype), w.to(dtype), None if b is None else b.to(dtype)


def _radii(style: str, length: int, budget: int, largest: int) -> tuple[int, int, int]:
    """How many terms of a sum may be non-zero, and the largest magnitudes of an input and of a weight."""
    left = max(1, budget - min(largest, budget // 4))  # leave a quarter at most to the bias
    if style in ("sparse", "one_hot", "address"):
        keep = 1 if style == "one_hot" else min(length, 4)
        rw = min(largest, max(1, left // keep))
        rx = 1 if style == "one_hot" else max(1, min(largest, left // (keep * rw)))
        return keep, rx, rw
    keep = min(length, left)
    if style == "signs":
        return keep, 1, max(1, min(largest, left // keep))
    radius = max(1, math.isqrt(left // keep))
    return keep, min(largest, radius), min(largest, radius)


def _integers(shape: tuple[int, ...], radius: int, generator: torch.Generator) -> Tensor:
    return torch.randint(-radius, radius + 1, shape, generator=generator, dtype=torch.int64).double()


def _signs(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return (torch.randint(0, 2, shape, generator=generator, dtype=torch.int64) * 2 - 1).double()


def _address(outputs: int, n: int, radius: int) -> Tensor:
    """``o * n + i`` shifted to be centred, modulo the number of values there are; never 0, which would hide a term."""
    codes = torch.arange(outputs * n, dtype=torch.int64) % (2 * radius)
    codes = codes - radius
    return torch.where(codes >= 0, codes + 1, codes).view(outputs, n).double()


def _thin(values: Tensor, keep: int, generator: torch.Generator) -> Tensor:
    """Keep ``keep`` entries of every row, at random places; zero the others."""
    rows, n = values.shape
    if keep >= n or rows == 0:
        return values
    places = torch.rand((rows, n), generator=generator).topk(keep, dim=1).indices
    return torch.zeros_like(values).scatter_(1, places, values.gather(1, places))


def _integer_case(
    generator: torch.Generator, style: str, sizes: tuple[int, int, int], bias: bool, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Integer dtypes wrap modulo 2**bits, in any order to the same bits: the whole range may be used."""
    rows, n, outputs = sizes
    info = torch.iinfo(dtype)

    def draw(*shape: int, small: bool = False) -> Tensor:
        low, high = (-1 if info.min < 0 else 0, 1) if small else (int(info.min), int(info.max))
        high = min(high, (1 << 62))
        return torch.randint(max(low, -(1 << 62)), high + 1, shape, generator=generator, dtype=torch.int64)

    w = draw(outputs, n)
    if style == "address":
        w = _counted_up(outputs, n)
    x = draw(rows, n, small=style == "signs")
    if style in ("sparse", "one_hot"):
        x = _thin(torch.ones_like(x), 1, generator) if style == "one_hot" else _thin(x, 4, generator)
    return x.to(dtype), w.to(dtype), draw(outputs).to(dtype) if bias else None


def _counted_up(outputs: int, n: int) -> Tensor:
    return torch.arange(1, outputs * n + 1, dtype=torch.int64).view(outputs, n)


def one_hot_rows(indices: Tensor, in_features: int, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
    """Rows ``(len(indices), n)``, each with a single 1, which selects one column of the weight.

    ``y = layer(row)`` of a layer without bias is that column of its weight, exactly, for any finite weights.

    Example:
        >>> one_hot_rows(torch.tensor([2, 0]), 3, torch.float32).tolist()
        [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """
    places = check_values("indices", indices, INTEGERS)
    if places.ndim != 1:
        raise refusal("indices", "shape (rows,)", tuple(places.shape), "pass one place for each row")
    check_dtype("dtype", dtype)
    device = check_device("device", device)
    in_features = check_integer("in_features", in_features, least=0)
    least, most = (int(end) for end in torch.aminmax(places)) if len(places) else (0, -1)
    if least < 0 or most >= in_features:
        wrong = least if least < 0 else most
        raise refusal("indices", f"integers from 0 to {in_features - 1}", wrong, "pass places of a row")
    check_memory("in_features", in_features, len(places) * in_features * dtype.itemsize, "rows", device)
    rows = torch.zeros(len(indices), in_features, dtype=dtype, device=device)
    rows[torch.arange(len(indices), device=device), indices.to(device, torch.int64)] = 1
    return rows


def address_coded_weight(
    out_features: int, in_features: int, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> Tensor:
    """Weight ``(O, n)`` whose values encode their places, so that a permuted result shows which one took whose place.

    Values are distinct as long as ``2 * entry_range(dtype) >= O * n``, and never zero.

    Example:
        >>> address_coded_weight(2, 2, torch.float32).tolist()
        [[-2.0, -1.0], [1.0, 2.0]]
    """
    _, in_features, out_features = _check("address", dtype, 0, in_features, out_features)
    device = check_device("device", device)
    if dtype.is_signed:
        radius = min(entry_range(dtype), max(1, (out_features * in_features + 1) // 2))
        return _address(out_features, in_features, radius).to(dtype).to(device)
    return _counted_up(out_features, in_features).to(dtype).to(device)


def _check(style: str, dtype: torch.dtype, rows: int, in_features: int, out_features: int) -> tuple[int, int, int]:
    check_choice("style", style, STYLES, "see equiv.numerics.STYLES")
    check_dtype("dtype", dtype)
    sizes = {"rows": rows, "in_features": in_features, "out_features": out_features}
    checked = [
        check_integer(name, size, least=int(name != "rows"), advice="pass a size") for name, size in sizes.items()
    ]
    return check_layer_size(*checked)
