"""Which tensors and arithmetics the functions of this package serve; each refusal is one sentence."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from equiv.arguments import (
    check_bool,
    check_dtype,
    check_integer,
    check_memory,
    check_number,
    check_tensor,
    check_words,
    refusal,
)
from equiv.dtypes import DTYPES, FLOATS, INTEGERS
from equiv.errors import EquivError


def check_values(
    argument: str, value: object, dtypes: Iterable[torch.dtype] = DTYPES, advice: str = "convert it first"
) -> Tensor:
    """``value`` if it is a strided tensor that holds values of one of these dtypes.

    Example:
        >>> check_values("values", torch.ones(2, dtype=torch.int8), FLOATS)
        Traceback (most recent call last):
        equiv.errors.EquivError: values: expected one of float32, float64, float16, bfloat16, got torch.int8; ...
    """
    tensor = check_tensor(argument, value)
    check_dtype(argument, tensor.dtype, dtypes, advice)
    return tensor


def check_alike(name: str, value: object, other: str, like: Tensor) -> Tensor:
    """``value`` if it is a tensor of the dtype and on the device of ``like``, which is the argument ``other``."""
    tensor = check_tensor(name, value)
    if tensor.dtype != like.dtype:
        check_dtype(name, tensor.dtype, (like.dtype,), f"convert it to the dtype of {other}")
    check_device_of(name, tensor, other, like)
    return tensor


def check_device_of(name: str, tensor: Tensor, other: str, like: Tensor) -> None:
    """Refuse a tensor on another device than that of ``like``, which is the argument ``other``."""
    if tensor.device != like.device:
        raise refusal(name, f"a tensor on {like.device}, as {other} is", str(tensor.device), "move one with .to()")


def check_layer(
    x: object, weight: object, bias: object, dtypes: Iterable[torch.dtype] = DTYPES, advice: str = "convert it first"
) -> None:
    """Refuse what is not rows ``(N, n)``, weight ``(O, n)`` and bias ``(O,)`` or None of one dtype, on one device."""
    rows = check_values("x", x, dtypes, advice)
    matrix = check_alike("weight", weight, "x", rows)
    if rows.ndim != 2:
        raise EquivError(f"x: expected rows (N, n), got shape {tuple(rows.shape)}; reshape it to (-1, n)")
    if matrix.ndim != 2 or matrix.shape[1] != rows.shape[1]:
        wanted = f"weight: expected shape (O, {rows.shape[1]})"
        raise EquivError(f"{wanted}, got {tuple(matrix.shape)}; flatten a kernel with weight.flatten(1)")
    if bias is not None and check_alike("bias", bias, "x", rows).shape != matrix.shape[:1]:
        wanted = f"bias: expected shape ({len(matrix)},), one entry per row of weight"
        raise EquivError(f"{wanted}, got {tuple(bias.shape)}; pass the bias of that layer")  # type: ignore[attr-defined]


def check_layer_size(rows: int, in_features: int, out_features: int) -> tuple[int, int, int]:
    """The three sizes, where memory holds an input, a weight and a result of them in eight bytes an entry."""
    sizes = {"rows": rows, "in_features": in_features, "out_features": out_features}
    largest = max(sizes, key=lambda name: sizes[name])
    entries = rows * in_features + in_features * out_features + rows * out_features
    check_memory(largest, sizes[largest], 8 * entries, "an input, a weight and a result")
    return rows, in_features, out_features


def check_terms(terms: object, magnitude: object, fewest: object) -> None:
    """Refuse numbers of terms that do not go with the sums of their magnitudes."""
    sizes = check_values("magnitude", magnitude, (torch.float64,))
    check_integer("fewest", fewest, least=0)
    if not isinstance(terms, Tensor):
        check_number("terms", terms, advice="pass how many terms are not zero")
        return
    check_values("terms", terms, FLOATS + INTEGERS)
    check_device_of("terms", terms, "magnitude", sizes)
    if terms.ndim and terms.shape != sizes.shape:
        check_broadcast("terms", terms, "magnitude", tuple(sizes.shape))


def check_broadcast(name: str, value: Tensor, other: str, shape: tuple[int, ...]) -> None:
    """Refuse a tensor that does not broadcast to the shape of the argument ``other``."""
    try:
        fits = tuple(value.expand(shape).shape) == shape
    except RuntimeError:
        fits = False
    if not fits:
        raise refusal(name, f"a shape that broadcasts to {shape}, that of {other}", tuple(value.shape), "make them fit")


def check_fields(record: Any) -> None:
    """Refuse fields of a dataclass that are not what their annotation says: str, int, float, bool or torch.dtype.

    Numbers are at least 0, and finite unless the default is not.
    """
    for field in fields(record):
        value, kind = getattr(record, field.name), str(field.type)
        if kind == "str":
            check_words(field.name, value)
        elif kind == "float" and not (isinstance(value, float) and value == field.default):
            check_number(field.name, value, advice="pass what equiv.numerics.declared(dtype) has there")
        elif kind == "int":
            check_integer(field.name, value, least=0)
        elif kind == "bool":
            check_bool(field.name, value)
        elif kind == "torch.dtype":
            check_dtype(field.name, value)
