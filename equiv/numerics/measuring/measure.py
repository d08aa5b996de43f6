"""Measure what a kernel computes in, at the size and layout in question, by small probes.

Every probe has terms for which the arithmetics in question give clearly different results: a factor ``1 + 2^-k`` alone
shows how many of its bits arrive; ``2^p + 1 - 2^p`` shows whether a sum holds ``p + 1`` bits. The probes are in
``products``, ``sums``, ``edges`` and ``order``; what their findings mean is in ``findings``. A probe shows what the
kernel did, on the places that were tried; what it does elsewhere is inferred.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace

import torch

from equiv.arguments import check_device, check_integer, check_words, refusal
from equiv.numerics.arithmetic import Arithmetic, declared, float32_setting
from equiv.numerics.formats import format_of
from equiv.numerics.measuring import edges, products, sums
from equiv.numerics.measuring import order as orders
from equiv.numerics.measuring.bench import Bench, Run
from equiv.numerics.measuring.findings import Measured
from equiv.numerics.surroundings import flushing_is_on, plain_torch

_KEPT = 256
_cache: dict[Hashable, Measured] = {}


@plain_torch()
def measure(  # noqa: PLR0913 - every option says what the kernel is called with; all but it are given by name
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
        run: ``run(x, weight, bias) -> y`` on rows: ``(rows, n)``, ``(O, n)``, ``(O,)`` or None -> ``(rows, O)``.
            Whatever it does to their layout is part of what is measured.
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
    device = check_device("device", device)
    check_words("subject", subject)
    order_limit = check_integer("order_limit", order_limit, least=0, advice="0 leaves the order out")
    full = None
    if key is not None:
        sizes = (rows, out_features, in_features, bias, order_limit)
        full = (key, dtype, str(device), op, sizes, settings())
        try:
            known = _cache.get(full)
        except Exception as error:  # a list, a tuple that holds one, or whatever its own __hash__ raises
            advice = "pass a tuple of names and numbers, or leave it out"
            raise refusal("key", "something hashable", key, advice) from error
        if known is not None:
            return replace(known, subject=subject)
    bench = Bench(
        run, dtype=dtype, rows=rows, out_features=out_features, in_features=in_features, bias=bias, device=device
    )
    found = _measured(bench, declared(dtype, device, op), subject, min(order_limit, 256))
    if full is not None:
        while len(_cache) >= _KEPT:
            del _cache[next(iter(_cache))]
        _cache[full] = found
    return found


def _measured(bench: Bench, expected: Arithmetic, subject: str, order_limit: int) -> Measured:
    operands, operand_rounding = products.operands(bench)
    bits = operands.value or format_of(bench.dtype).precision
    product_error, output_rounding = products.rounding_of_products(bench, bits)
    reach = products.operand_range(bench)
    narrow = format_of(bench.dtype).max < 2.0**100 or reach.value == "float16"
    accumulator, reduction, triple = sums.sums(bench, narrow=narrow)
    order, bias_place = orders.order_of(bench, order_limit)
    return Measured(
        subject=subject,
        dtype=bench.dtype,
        output=bench.output,
        size=(bench.rows, bench.outputs, bench.n),
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


def forget() -> None:
    """Drop every measurement that was kept under a ``key``: to be called after a kernel was replaced.

    Example:
        >>> forget()  # the next measurement of every kernel is a new one
    """
    _cache.clear()


def settings() -> tuple[Hashable, ...]:
    """The settings of torch that change a kernel's arithmetic: threads, libraries, precisions, flushing."""
    backends = torch.backends
    matmul = backends.cuda.matmul
    return (
        torch.get_num_threads(),
        bool(backends.mkldnn.enabled),
        bool(backends.cudnn.enabled),
        bool(backends.cudnn.benchmark),
        torch.are_deterministic_algorithms_enabled(),
        *map(float32_setting, ("cuda.matmul", "cudnn.conv", "mkldnn.matmul", "mkldnn.conv")),
        bool(matmul.allow_bf16_reduced_precision_reduction),
        bool(matmul.allow_fp16_reduced_precision_reduction),
        flushing_is_on(),
    )
