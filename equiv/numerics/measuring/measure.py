"""Small probes that find out what a kernel computes in, at the size and layout in question.

Every probe has terms for which the arithmetics in question give different results, none of them by a hair: a factor
``1 + 2^-k`` alone shows how many of its bits arrive; ``2^p + 1 - 2^p`` shows whether a sum holds ``p + 1`` bits. The
order of summation comes from :mod:`equiv.numerics.measuring.fprev`. A probe shows what the kernel did, on the places that were
tried; what it does elsewhere is inferred. What the findings mean is the business of :mod:`equiv.numerics.measuring.findings`.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from typing import Any

import torch

from equiv.errors import EquivError
from equiv.numerics.arithmetic import _flushing_is_on, check_device, declared
from equiv.numerics.formats import format_of
from equiv.numerics.measuring import edges, products, sums
from equiv.numerics.measuring import order as orders
from equiv.numerics.measuring.bench import Bench, Run
from equiv.numerics.measuring.findings import Measured

_KEPT = 256
_cache: dict[Hashable, Measured] = {}


def measure(
    run: Run,
    *,
    dtype: torch.dtype,
    rows: int,
    out_features: int,
    in_features: int,
    bias: bool = True,
    device: torch.device | str = "cpu",
    op: str = "any",
    subject: str = "kernel",
    order_limit: int = 256,
    key: Hashable | None = None,
) -> Measured:
    """Find out what ``run`` computes in, by some hundred small calls.

    Args:
        run: ``run(x, weight, bias) -> y`` on rows: ``(rows, n)``, ``(O, n)``, ``(O,)`` or None -> ``(rows, O)``. What
            it does with their layout is its own business, and part of what is measured.
        dtype: float16, bfloat16, float32 or float64, of x, weight and bias; the result may have another of these.
        rows: N, at least 1.
        out_features: O, at least 1.
        in_features: n, at least 1; some properties need three terms.
        bias: Whether a bias is passed.
        device: Where the tensors are put.
        op: Whose declared arithmetic it is held against, one of ``equiv.numerics.OPS``.
        subject: What is measured, in words.
        order_limit: Most terms whose order is looked for (at most 256); of a longer sum a sample. 0 leaves it out.
        key: What identifies ``run``, its layout included. With it, the result is kept and returned again for the same
            sizes and settings of torch; see :func:`forget`.

    Raises:
        EquivError: A size below 1, a dtype that is not real and floating, a result of the wrong shape, a kernel that
            computes something else.

    Example:
        >>> linear = torch.nn.functional.linear
        >>> found = measure(linear, dtype=torch.float32, rows=2, out_features=3, in_features=8)
        >>> found.operands.value
        24

    """
    device = _present(check_device(device))
    if isinstance(order_limit, bool) or not isinstance(order_limit, int) or order_limit < 0:
        raise EquivError(
            f"order_limit: expected an integer of at least 0, got {order_limit!r:.60}; 0 leaves the order out"
        )
    if not isinstance(key, Hashable):
        raise EquivError(f"key: expected something hashable, got {key!r:.60}; pass a tuple or a name, or leave it out")
    full = None
    if key is not None:
        sizes = (rows, out_features, in_features, bias, order_limit)
        full = (key, dtype, str(device), op, sizes, settings())
        try:
            known = _cache.get(full)
        except TypeError as error:  # a tuple that holds a list
            raise EquivError(
                f"key: expected something hashable, got {key!r:.60}: {error}; pass a tuple of names and numbers"
            ) from error
        if known is not None:
            return replace(known, subject=subject)
    bench = Bench(
        run,
        dtype=dtype,
        rows=rows,
        out_features=out_features,
        in_features=in_features,
        bias=bias,
        device=device,
    )
    expected = declared(dtype, device, op)
    operands, operand_rounding = products.operands(bench)
    bits = operands.value or format_of(dtype).precision
    product_error, output_rounding = products.rounding_of_products(bench, bits)
    reach = products.operand_range(bench)
    narrow = dtype == torch.float16 or reach.value == "float16"
    accumulator, reduction, triple = sums.sums(bench, narrow=narrow)
    order, bias_place = orders.order_of(bench, min(order_limit, 256))
    found = Measured(
        subject=subject,
        dtype=dtype,
        output=bench.output,
        size=(rows, out_features, in_features),
        operands=operands,
        operand_rounding=operand_rounding,
        operand_range=reach,
        product_error=product_error,
        accumulator=accumulator,
        accumulator_rounding=sums.rounding_of_sums(bench, accumulator.value, triple, narrow=narrow),
        reduction=reduction,
        products=sums.fused(bench, bits, accumulator.value, order.value),
        output_rounding=output_rounding,
        flushes_inputs=edges.flushes_inputs(bench),
        flushes_sums=edges.flushes_sums(bench, accumulator.value),
        flushes_outputs=edges.flushes_outputs(bench),
        infinity_spreads=edges.infinity_spreads(bench),
        bias_bits=edges.bias_bits(bench),
        bias_rounding=edges.bias_rounding(bench, accumulator.value, output_rounding.value),
        bias_place=bias_place,
        order=order,
        declared=expected,
        calls=bench.calls,
    )
    if full is not None:
        while len(_cache) >= _KEPT:
            del _cache[next(iter(_cache))]
        _cache[full] = found
    return found


def _present(device: torch.device) -> torch.device:
    """Refuse a device that has no values, or that is not there."""
    if device.type != "meta":
        try:
            torch.empty(0, device=device)
            return device
        except (RuntimeError, AssertionError, NotImplementedError):  # torch built without it; another number
            pass
    raise EquivError(f"device: expected one that is present and holds values, got {str(device)!r}; pass 'cpu'")


def forget() -> None:
    """Drop every measurement that was kept, such as after a kernel was replaced."""
    _cache.clear()


def settings() -> tuple[Hashable, ...]:
    """The settings of torch that change a kernel's arithmetic: threads, libraries, precisions, flushing."""
    backends: Any = torch.backends
    matmul = backends.cuda.matmul
    precisions = []
    for room, part in (("cuda", "matmul"), ("cudnn", "conv"), ("mkldnn", "matmul"), ("mkldnn", "conv")):
        try:
            precisions.append(str(getattr(getattr(getattr(backends, room), part, None), "fp32_precision", None)))
        except RuntimeError:  # some builds know the name and not the setting
            precisions.append("unknown")
    return (
        torch.get_num_threads(),
        bool(backends.mkldnn.enabled),
        bool(backends.cudnn.enabled),
        bool(backends.cudnn.benchmark),
        torch.are_deterministic_algorithms_enabled(),
        *precisions,
        bool(matmul.allow_bf16_reduced_precision_reduction),
        bool(matmul.allow_fp16_reduced_precision_reduction),
        _flushing_is_on(),
    )
