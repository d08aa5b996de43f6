"""A rounding of the results that is not to nearest, as a cause."""

from __future__ import annotations

import torch
from torch import Tensor

from equiv.arguments import check_dtype, check_tensor
from equiv.causes.mistakes import Cause, cause_of
from equiv.numerics import (
    Arithmetic,
    Rounded,
    check_arithmetic,
    declared,
    exact_affine,
    misrounding,
    subnormals_kept,
)


def name_misrounding(
    actual: Tensor, *, x: Tensor, weight: Tensor, bias: Tensor | None = None, arithmetic: Arithmetic | None = None
) -> Cause | None:
    """The rounding that is not to nearest and that all results come from; None where there is no evidence of one.

    A cause that is named is a proof, or the pattern that docs/numerics.md describes: a kernel that rounds to nearest
    does not give these results in any practical order of summation.

    Args:
        actual: ``(N, O)``, what the kernel returned: a real floating dtype.
        x: ``(N, n)``, its inputs.
        weight: ``(O, n)``.
        bias: ``(O,)`` or None. All of the dtype of ``actual``, on the CPU.
        arithmetic: By default what is declared for the dtype on the CPU.

    Example:
        >>> import torch
        >>> x, w = torch.randn(32, 4).bfloat16(), torch.randn(16, 4).bfloat16()
        >>> exact = (x.double() @ w.double().T).float()
        >>> cut = (exact.view(torch.int32) >> 16).short().view(torch.bfloat16)
        >>> name_misrounding(cut, x=x, weight=w).name
        'rounding-toward-zero'
    """
    with subnormals_kept():
        exact = exact_affine(x, weight, bias)
        check_tensor("actual", actual, tuple(exact.value.shape), advice="pass rows (N, O), one for each input")
        check_dtype("actual", actual.dtype, (x.dtype,), "pass what the kernel returned for x")
        kept = declared(x.dtype) if arithmetic is None else check_arithmetic(arithmetic)
        if exact.classes is not None:
            return None
        usable = exact.magnitude * (1 + 2 * exact.terms * kept.u) < kept.accumulator_max
        terms = torch.as_tensor(exact.terms, dtype=torch.float64).expand(exact.value.shape)
        seen = Rounded(actual, x, weight, bias, exact.value, exact.magnitude, terms, usable, kept)
        found = misrounding(seen)
    return None if found is None or found.name is None else rounding_cause(found.name)


def rounding_cause(name: str) -> Cause:
    """The cause for a name of ``equiv.numerics.Misrounding``."""
    return cause_of(f"rounding-{name}")
