"""Checks of arguments that public functions of several packages share, each with one message.

A check returns its argument or raises an `EquivError` that names the argument, its value, what was expected and what to
do. Checks of layers and feature shapes are in ``equiv.mapping``. What is typed into an option
is read in ``equiv.parsing``.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor

from equiv.dtypes import DTYPES, dtype_names
from equiv.errors import EquivError
from equiv.text import first_line, shown

T = TypeVar("T")


def refusal(argument: str, expected: str, got: object, advice: str) -> EquivError:
    """The error of this package, in its one pattern.

    Example:
        >>> str(refusal("rows", "an integer of at least 1", 0, "pass one row or more"))
        'rows: expected an integer of at least 1, got 0; pass one row or more'
    """
    return EquivError(f"{argument}: expected {expected}, got {shown(got, 200)}; {advice}")


def as_integer(value: object) -> int | None:
    """An integer, numpy's included, as an int; None for anything else, bools and floats among them.

    Example:
        >>> as_integer(3), as_integer(True), as_integer(3.0)
        (3, None, None)
    """
    # numpy below 2.3 lets its booleans pass as indices; a dtype's own name tells them without importing numpy.
    if isinstance(value, bool) or str(getattr(value, "dtype", "")) in ("bool", "torch.bool"):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]  # TypeError says that it is no integer
    except (TypeError, RuntimeError):
        return None


def check_integer(
    argument: str, value: object, *, least: int | None = None, most: int | None = None, advice: str = ""
) -> int:
    """``value`` as an int within the bounds; numpy's integers are welcome, bools are not.

    Example:
        >>> check_integer("seed", True)
        Traceback (most recent call last):
        equiv.errors.EquivError: seed: expected an integer, got True; pass a whole number
    """
    number = as_integer(value)
    if number is None or (least is not None and number < least) or (most is not None and number > most):
        bounds = "" if least is None else f" of at least {least}"
        if most is not None:
            bounds = f" of at most {most}" if least is None else f" from {least} to {most}"
        raise refusal(argument, f"an integer{bounds}", value, advice or "pass a whole number")
    return number


def check_shape(argument: str, value: object) -> tuple[int, ...]:
    """The shape of a tensor as a tuple of ints: a tuple or list of integers of at least 0.

    Example:
        >>> check_shape("shape", [2, 0])
        (2, 0)
    """
    sizes = [as_integer(size) for size in value] if isinstance(value, (tuple, list)) else [None]
    shape = tuple(size for size in sizes if size is not None and size >= 0)
    if len(shape) != len(sizes):
        raise refusal(argument, "a tuple of integers of at least 0", value, "pass a shape such as (2, 3)")
    return shape


def check_bool(argument: str, value: object, advice: str = "pass a bool") -> bool:
    """``value`` if it is True or False.

    Example:
        >>> check_bool("bias", 1)
        Traceback (most recent call last):
        equiv.errors.EquivError: bias: expected True or False, got 1; pass a bool
    """
    if not isinstance(value, bool):
        raise refusal(argument, "True or False", value, advice)
    return value


def check_choice(argument: str, value: T, allowed: Iterable[T], advice: str = "correct its spelling") -> T:
    """``value`` if it is one of ``allowed``.

    Example:
        >>> check_choice("form", "cubic", ("linear", "full"))
        Traceback (most recent call last):
        equiv.errors.EquivError: form: expected one of linear, full, got 'cubic'; correct its spelling
    """
    every = tuple(allowed)
    if not any(type(value) is type(one) and value == one for one in every):
        raise refusal(argument, f"one of {', '.join(map(str, every))}", value, advice)
    return value


def check_choices(argument: str, value: object, allowed: Iterable[T]) -> tuple[T, ...]:
    """Several of ``allowed``, at least one, in the order of ``allowed`` and without repeats.

    Example:
        >>> check_choices("forms", ["full", "linear"], ("linear", "full", "pointwise"))
        ('linear', 'full')
    """
    every = tuple(allowed)
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise refusal(argument, f"a tuple of members of {every!r}", value, f"pass such as {argument}=({every[0]!r},)")
    given: list[Any] = list(value)
    for one in given:
        check_choice(argument, one, every, "remove it or correct its spelling")
    if not given:
        raise refusal(argument, f"at least one of {every!r}", value, f"leave {argument} out for all of them")
    return tuple(one for one in every if one in given)


def check_dtype(argument: str, value: object, allowed: Iterable[torch.dtype] = DTYPES, advice: str = "") -> torch.dtype:
    """``value`` if it is one of these dtypes.

    Example:
        >>> check_dtype("dtype", torch.bool, (torch.float32, torch.float64))
        Traceback (most recent call last):
        equiv.errors.EquivError: dtype: expected one of float32, float64, got torch.bool; pass such as torch.float32
    """
    every = tuple(allowed)
    if not isinstance(value, torch.dtype) or value not in every:
        raise refusal(argument, f"one of {dtype_names(every)}", value, advice or f"pass such as {every[0]}")
    return value


def check_tensor(
    argument: str,
    value: object,
    shape: tuple[int, ...] | None = None,
    *,
    meta: bool = False,
    advice: str = "convert it with torch.as_tensor",
) -> Tensor:
    """``value`` if it is a strided tensor, of this shape, that holds values or may be without (``meta``).

    Example:
        >>> check_tensor("bias", torch.zeros(3), (2,), advice="give one entry per output")
        Traceback (most recent call last):
        equiv.errors.EquivError: bias: expected shape (2,), got (3,); give one entry per output
    """
    if not isinstance(value, Tensor):
        raise EquivError(f"{argument}: expected a torch.Tensor, got {type(value).__name__}; {advice}")
    if value.device.type == "meta" and not meta:
        raise EquivError(
            f"{argument}: expected values, got a tensor on the meta device, which has none; compute it on a real device"
        )
    if value.is_nested or value.layout != torch.strided:
        kind = "a nested tensor" if value.is_nested else value.layout
        raise EquivError(f"{argument}: expected a strided tensor, got {kind}; convert it with to_dense()")
    if shape is not None and tuple(value.shape) != shape:
        raise EquivError(f"{argument}: expected shape {shape}, got {tuple(value.shape)}; {advice}")
    return value


def check_device_name(argument: str, value: object) -> torch.device:
    """A device, from a ``torch.device`` or its name. It need not be present: see :func:`check_device`.

    Example:
        >>> check_device_name("device", "gpu")
        Traceback (most recent call last):
        equiv.errors.EquivError: device: expected a torch device or its name, got 'gpu'; pass such as 'cpu' or 'cuda:0'
    """
    try:
        return torch.device(value)  # type: ignore[call-overload, no-any-return]
    except (RuntimeError, TypeError) as error:
        raise refusal(argument, "a torch device or its name", value, "pass such as 'cpu' or 'cuda:0'") from error


def check_device(
    argument: str, value: object, advice: str = "see `equiv env` for those of this machine"
) -> torch.device:
    """A device that is present and holds values, from a ``torch.device`` or its name.

    Example:
        >>> check_device("device", "cpu")
        device(type='cpu')
        >>> check_device("device", "meta")
        Traceback (most recent call last):
        equiv.errors.EquivError: device: expected a torch device that is present and holds values, got 'meta'; ...
    """
    expected = "a torch device that is present and holds values"
    device = check_device_name(argument, value)
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise refusal(argument, expected, str(value), f"{advice} ({first_line(error, 80)})") from error
    if device.type == "meta" or (device.type == "cpu" and device.index):
        raise refusal(argument, expected, str(value), advice)
    return device
