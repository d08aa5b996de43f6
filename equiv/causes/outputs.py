"""The mistake under which a layer's outputs are what was seen, within the rounding of right kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from equiv.arguments import check_dtype, check_number, check_tensor
from equiv.causes.directions import name_misrounding
from equiv.causes.hypotheses import Outputs, closest, output_causes
from equiv.causes.mistakes import AGAIN, Cause
from equiv.causes.roundings import ROUNDINGS
from equiv.causes.several import beside_another_bias
from equiv.errors import EquivError
from equiv.mapping import FeatureShape, check_feature_shape, check_product
from equiv.numerics import format_of

_FROM_ONE_OUTPUT = {"bias-dropped", "bias-doubled", "bias-negated", "subnormals-flushed", *ROUNDINGS}
_FROM_ONE_OUTPUT |= {"reduction-cut-short", "reduction-starts-late"}
"""What a single number can show; one fits too many changes of order."""
_EXACT = {"batch-permuted", "outputs-permuted", "output-negated"}  # mended without arithmetic


def likely_cause(
    actual: Tensor, *, x: Tensor, weight: Tensor, bias: Tensor | None, feature_shape: FeatureShape
) -> Cause | None:
    """The mistake that explains the results of a layer, or None; never an error.

    A cause is a help beside a finding and must not get in its way: what cannot be served has none. The arguments are
    those of :func:`name_output_cause`, ``actual`` real and floating; how far right results may lie from the exact ones
    is taken from its dtype.

    Example:
        >>> x, w, b = torch.ones(2, 4), torch.arange(4.0).view(1, 4), torch.tensor([10.0])
        >>> likely_cause(x @ w.T, x=x, weight=w, bias=b, feature_shape=(4, 1))
        Cause(name='bias-dropped', sentence='the bias is dropped', fix='y = y + reference.bias')
    """
    try:
        for name, value in (("actual", actual), ("x", x), ("weight", weight), *[("bias", bias)] * (bias is not None)):
            check_tensor(name, value)
        if not actual.is_floating_point() or actual.ndim != 2:
            return None
        rows, matrix = x.detach().double().cpu(), weight.detach().double().cpu()
        offset = None if bias is None else bias.detach().double().cpu()
        exact = rows @ matrix.T if offset is None else rows @ matrix.T + offset
        size = rows.abs() @ matrix.abs().T
        terms = (rows != 0).double() @ (matrix != 0).double().T
        u = format_of(actual.dtype).u
        bound = 4 * u * exact.abs() + (terms + 1) * min(u, 2.0**-24) * size
        found = name_output_cause(
            actual.detach().cpu(), exact, x=rows, weight=matrix, bias=offset, feature_shape=feature_shape, bound=bound
        )
        if found is None:
            return name_misrounding(actual, x=x, weight=weight, bias=bias)
    except (ValueError, RuntimeError, IndexError):
        return None
    if found is None or (int(exact.count_nonzero()) < 2 and found.name not in _FROM_ONE_OUTPUT):
        return None
    return found


def name_output_cause(
    actual: Tensor,
    expected_exact: Tensor,
    *,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    feature_shape: FeatureShape,
    bound: Tensor | float,
) -> Cause | None:
    """Name the mistake under which every output is what was seen, within ``bound``; None if the right layer fits too.

    Of several that fit, the first wins unless a later one is twice as close (root mean square of the errors in units of
    sum |w||x| + |b|); the first must be twice as close as the right layer.

    Each mistake is computed in float64 (complex128, int64) from x, weight and bias, first for the worst row alone, and
    in full where that fits. Of layers above 2^22 weights only 64 rows and outputs, the worst first, enter the products.

    Args:
        actual: (N, O), the outputs to explain, in the dtype that the kernel returned.
        expected_exact: (N, O), the right ones, in float64 (complex128, or int64 for integers).
        x: (N, n), the inputs.
        weight: (O, n).
        bias: (O,) or None.
        feature_shape: (C, *spatial) with product n, or (n, 1) where no map is known.
        bound: (N, O) or a number, how far a right kernel's output may lie from the exact one. 0 asks for equality.

    Raises:
        EquivError: the shapes do not fit each other or the feature shape.

    Example:
        >>> import torch
        >>> from equiv.causes import name_output_cause
        >>> x, w, b = torch.ones(2, 4), torch.arange(4.0).view(1, 4), torch.tensor([10.0])
        >>> exact = (x @ w.T + b).double()
        >>> name_output_cause(x @ w.T, exact, x=x, weight=w, bias=b, feature_shape=(1, 2, 2), bound=0.0).name
        'bias-dropped'
    """
    shape = check_feature_shape(feature_shape)
    _check_shapes(shape, actual, weight, expected_exact=expected_exact, x=x, bias=bias, bound=bound)
    with torch.device("cpu"), torch.no_grad():
        far = bound if isinstance(bound, Tensor) else float(bound)
        outputs = Outputs(actual, expected_exact, (x, weight, bias), far)
        if outputs.explained_by(outputs.expected):
            return None
        found = closest(outputs, output_causes(outputs, shape))
        if found is not None and outputs.half_ulp and found.fix.startswith("y") and found.name not in _EXACT:
            return found.mended_by(AGAIN)  # 16-bit results would be rounded once more
        return found or beside_another_bias(actual, expected_exact, (x, weight, bias), far, shape)


def _check_shapes(shape: tuple[int, ...], actual: Tensor, weight: Tensor, **others: Tensor | float | None) -> None:
    dense = check_tensor("weight", weight, advice="pass the weight as a matrix")
    if dense.ndim != 2:
        raise EquivError(
            f"weight: expected shape (O, n), got {tuple(weight.shape)}; flatten a kernel with weight.flatten(1)"
        )
    out, n = weight.shape
    check_product(shape, n, "n")
    check_tensor("actual", actual, advice="flatten batch and positions first")
    rows = actual.shape[0] if actual.ndim else 0
    expected = {"x": (rows, n), "bias": (out,)}
    for name, value in {"actual": actual, **others}.items():
        if name == "bound" and not isinstance(value, Tensor):
            check_number("bound", value, advice="pass how far a right output may lie from the exact one")
        elif name != "bias" or value is not None:
            tensor = check_tensor(name, value, advice="flatten batch and positions first")
            if name != "bound" or tensor.ndim:
                check_tensor(name, tensor, expected.get(name, (rows, out)), advice="flatten batch and positions first")
            check_dtype(name, tensor.dtype, advice="convert it first")
    check_dtype("weight", weight.dtype, advice="convert it first")
