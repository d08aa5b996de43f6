"""Measure what a backend's form computes in, at one size and in one layout."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from equiv.arguments import (
    check_bool,
    check_choice,
    check_dtype,
    check_integer,
    check_memory,
    check_shape,
    check_tensor,
    refusal,
)
from equiv.backends.base import Backend, check_backend
from equiv.backends.capabilities import FORMS
from equiv.backends.eager import TorchEager
from equiv.dtypes import FLOATS
from equiv.errors import EquivError
from equiv.mapping import check_feature_shape
from equiv.numerics import Measured, measure, plain_torch
from equiv.text import quoted

Lay = Callable[[Tensor], Tensor]
"""Puts a tensor into a layout: another tensor of the same shape, dtype and values."""


@plain_torch()
def measure_form(  # noqa: PLR0913 - every option says what the form is called with; all are given by name
    backend: Backend,
    form: str,
    *,
    dtype: torch.dtype,
    out_features: int,
    feature_shape: Sequence[int],
    batch_shape: Sequence[int] = (1,),
    bias: bool = True,
    lay_input: Lay | None = None,
    lay_weight: Lay | None = None,
    order_limit: int = 256,
    keep: bool = True,
) -> Measured:
    """Find out what one form of a backend computes in; see :func:`equiv.numerics.measuring.measure`.

    Args:
        backend: Who runs the form.
        form: One of ``equiv.backends.FORMS``.
        dtype: float16, bfloat16, float32 or float64.
        out_features: O.
        feature_shape: ``(C, *spatial)``; its product is n, and a pointwise convolution has as many spatial dimensions.
        batch_shape: Leading shape of the input of ``linear``; the convolutions take its product as N.
        bias: Whether there is a bias.
        lay_input: Puts the input of the form into a layout. By default it is contiguous.
        lay_weight: The same for the weight.
        order_limit: Most terms whose order is looked for.
        keep: Return an earlier measurement if backend, form, sizes, strides and torch's settings are the same. Other
            backends than ``TorchEager`` are compared with ``==``: one that changes while it stays equal to itself
            needs ``keep=False``.

    Raises:
        EquivError: An unknown form, sizes or dtype that cannot be served, a layout that changes shape or values.

    Example:
        >>> found = measure_form(
        ...     TorchEager(), "full", dtype=torch.float32, out_features=2, feature_shape=(3, 2, 2), batch_shape=(4,)
        ... )
        >>> found.subject, found.operands.value
        ('full, eager.cpu', 24)
    """
    check_choice("form", form, FORMS)
    check_backend("backend", backend)
    check_dtype("dtype", dtype, FLOATS, "a complex kernel computes in the dtype of its parts")
    check_bool("keep", keep)
    out_features = check_integer("out_features", out_features, least=1)
    shape, batch = check_feature_shape(feature_shape), check_shape("batch_shape", batch_shape)
    rows, n, spatial = math.prod(batch), math.prod(shape), (1,) * (len(shape) - 1)
    of_input = {"linear": (*batch, n), "full": (rows, *shape), "pointwise": (rows, n, *spatial)}[form]
    of_weight = {"linear": (n,), "full": shape, "pointwise": (n, *spatial)}[form]
    strides = (
        _strides("lay_input", lay_input, of_input, dtype, backend.device),
        _strides("lay_weight", lay_weight, (out_features, *of_weight), dtype, backend.device),
    )

    who = identity(backend) if keep else None

    def run(x: Tensor, weight: Tensor, b: Tensor | None) -> Tensor:
        given, kernel = x.reshape(of_input), weight.reshape(-1, *of_weight)
        given = given if lay_input is None else lay_input(given)
        kernel = kernel if lay_weight is None else lay_weight(kernel)
        y = backend.linear(given, kernel, b) if form == "linear" else backend.conv(given, kernel, b)
        return check_tensor("the result", y).reshape(-1, out_features)

    return measure(
        run,
        dtype=dtype,
        rows=rows,
        out_features=out_features,
        in_features=n,
        bias=bias,
        device=backend.device,
        op=form,
        subject=f"{form}, {backend.name}",
        order_limit=order_limit,
        key=None if who is None else (who, form, of_input, of_weight, strides),
    )


def _strides(
    name: str, lay: Lay | None, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Hashable, ...]:
    """What kernels may depend on in a layout: its strides and where it starts."""
    if lay is None or 0 in shape:
        return ()
    if not callable(lay):
        raise refusal(name, "a function of a tensor", lay, "leave it out for contiguous tensors")
    check_memory("feature_shape", shape, 8 * math.prod(shape), "tensors")
    values = torch.arange(math.prod(shape), device=device).remainder(251).to(dtype).view(shape)
    try:
        laid = check_tensor(name, lay(values))
    except EquivError:
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {quoted(error)}"
        raise EquivError(f"{name}: expected to lay out a tensor of shape {shape}, got {what}; only move it") from error
    if laid.shape != values.shape or laid.dtype != dtype or not torch.equal(laid, values):
        raise EquivError(f"{name}: expected a tensor of the same shape, dtype and values, got another; only move it")
    return (laid.stride(), laid.storage_offset() % 64)


def identity(backend: Backend) -> Hashable | None:
    """A value that is equal for backends that compute alike; None where there is none, so that nothing can be kept."""
    if type(backend) is TorchEager:  # all of them, unless somebody has replaced the functions that they call
        return ("eager", functional.linear, functional.conv1d, functional.conv2d, functional.conv3d)
    return backend if isinstance(backend, Hashable) else None
