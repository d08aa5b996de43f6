"""Checks of arguments that public functions of several packages share, each with one message.

A check returns its argument or raises an `EquivError` that names the argument, its value, what was expected and what to
do. Checks of layers and feature shapes are in ``equiv.mapping``. What is typed into an option
is read in ``equiv.parsing``.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from numbers import Real
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.parameter import is_lazy

from equiv.dtypes import DTYPES, dtype_names
from equiv.errors import EquivError
from equiv.text import first_line, quoted, shown

T = TypeVar("T")


def refusal(argument: str, expected: str, got: object, advice: str) -> EquivError:
    """The error of this package, in its one pattern.

    Example:
        >>> str(refusal("rows", "an integer of at least 1", 0, "pass one row or more"))
        'rows: expected an integer of at least 1, got 0; pass one row or more'
    """
    return EquivError(f"{argument}: expected {expected}, got {shown(got, 200)}; {advice}")


def attribute_of(value: object, name: str, default: object = None) -> Any:
    """An attribute of whatever somebody passed; ``default`` where there is none, or where it cannot be read.

    Example:
        >>> attribute_of(3, "real"), attribute_of(3, "name")
        (3, None)
    """
    try:
        return getattr(value, name, default)
    except Exception:  # whatever its own __getattr__ or property raises
        return default


def as_integer(value: object) -> int | None:
    """An integer, numpy's included, as an int; None for anything else, bools and floats among them.

    Example:
        >>> as_integer(3), as_integer(True), as_integer(3.0)
        (3, None, None)
    """
    if type(value) is int:
        return value
    try:
        # numpy below 2.3 lets its booleans pass as indices; a dtype's own name tells them without importing numpy.
        if isinstance(value, bool) or str(getattr(value, "dtype", "")) in ("bool", "torch.bool"):
            return None
        return int(operator.index(value))  # type: ignore[arg-type]  # TypeError says that it is no integer
    except Exception:  # whatever its own __index__ raises
        return None


def check_integer(
    argument: str, value: object, *, least: int | None = None, most: int | None = None, advice: str = ""
) -> int:
    """``value`` as an int within the bounds, and within 64 bits; numpy's integers are welcome, bools are not.

    Example:
        >>> check_integer("seed", True)
        Traceback (most recent call last):
        equiv.errors.EquivError: seed: expected an integer, got True; pass a whole number
    """
    number = as_integer(value)
    low, high = -_MOST - 1 if least is None else least, _MOST if most is None else most
    if number is not None and low <= number <= high:
        return number
    bounds = "" if least is None else f" of at least {least}"
    if most is not None or (number is not None and number > _MOST):
        bounds = f" of at most {high}" if least is None else f" from {least} to {high}"
    raise refusal(argument, f"an integer{bounds}", value, advice or "pass a whole number")


_MOST = 2**63 - 1  # what torch's sizes and seeds hold


def check_number(
    argument: str, value: object, *, most: float = math.inf, advice: str = "pass one, or leave it out"
) -> float:
    """``value`` as a float from 0 to ``most``, which is excluded where it is infinity; numpy's numbers are welcome.

    Example:
        >>> check_number("rtol", float("nan"))
        Traceback (most recent call last):
        equiv.errors.EquivError: rtol: expected a finite number of at least 0, got nan; pass one, or leave it out
    """
    try:
        number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else math.nan
    except Exception:  # too large, or whatever its own __float__ raises
        number = math.nan
    if not 0 <= number <= most or math.isinf(number):
        bounds = "a finite number of at least 0" if math.isinf(most) else f"a number from 0 to {most:g}"
        raise refusal(argument, bounds, value, advice)
    return number


_LITTLE = 2**24  # bytes that nobody needs to ask for


def check_memory(argument: str, value: object, size: int, what: str, device: torch.device | str = "cpu") -> None:
    """Refuse ``value`` where ``size`` bytes cannot be had; ``what`` they would hold.

    Example:
        >>> check_memory("rows", 2**60, 4 * 2**60, "rows")
        Traceback (most recent call last):
        equiv.errors.EquivError: rows: expected rows that fit in memory, got 1152921504606846976, which needs \
4,294,967,296.0 GiB; pass a smaller one
    """
    if size <= _LITTLE:
        return
    try:
        torch.empty(size, dtype=torch.uint8, device=device)
    except Exception as error:  # a size beyond 64 bits, or what an allocator says
        needs = f"{shown(value)}, which needs {size / 2**30:,.1f} GiB" if size < 2**70 else shown(value)
        raise EquivError(f"{argument}: expected {what} that fit in memory, got {needs}; pass a smaller one") from error


def check_shape(argument: str, value: object) -> tuple[int, ...]:
    """The shape of a tensor as a tuple of ints: a tuple or list of integers of at least 0, whose product torch holds.

    Example:
        >>> check_shape("shape", [2, 0])
        (2, 0)
    """
    sizes = [as_integer(size) for size in value] if isinstance(value, (tuple, list)) else [None]
    shape = tuple(size for size in sizes if size is not None and size >= 0)
    if len(shape) != len(sizes):
        raise refusal(argument, "a tuple of integers of at least 0", value, "pass a shape such as (2, 3)")
    if math.prod(shape) > _MOST or max(shape, default=0) > _MOST:
        raise refusal(argument, f"a shape of at most {_MOST} entries", value, "pass a smaller one")
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


def check_words(argument: str, value: object, advice: str = "say it in words") -> str:
    """``value`` if it is a string.

    Example:
        >>> check_words("subject", None)
        Traceback (most recent call last):
        equiv.errors.EquivError: subject: expected a string, got None; say it in words
    """
    if not isinstance(value, str):
        raise refusal(argument, "a string", value, advice)
    return value


def check_choice(argument: str, value: T, allowed: Iterable[T], advice: str = "correct its spelling") -> T:
    """``value`` if it is one of ``allowed``; a word may be of a subclass of ``str``, such as numpy's.

    Example:
        >>> check_choice("form", "cubic", ("linear", "full"))
        Traceback (most recent call last):
        equiv.errors.EquivError: form: expected one of linear, full, got 'cubic'; correct its spelling
    """
    every = tuple(allowed)
    kinds = (type(value), *[str] * isinstance(value, str))
    for one in every:
        if type(one) in kinds and value == one:
            return one
    raise refusal(argument, f"one of {', '.join(map(str, every))}", value, advice)


def check_choices(argument: str, value: object, allowed: Iterable[T]) -> tuple[T, ...]:
    """Several of ``allowed``, at least one, in the order of ``allowed`` and without repeats.

    Example:
        >>> check_choices("forms", ["full", "linear"], ("linear", "full", "pointwise"))
        ('linear', 'full')
    """
    every = tuple(allowed)
    given = [
        check_choice(argument, one, every, "remove it or correct its spelling")
        for one in check_several(argument, value, f"members of {every!r}", f"pass such as {argument}=({every[0]!r},)")
    ]
    if not given:
        raise refusal(argument, f"at least one of {every!r}", value, f"leave {argument} out for all of them")
    return tuple(one for one in every if one in given)


def check_several(argument: str, value: object, expected: str, advice: str) -> list[Any]:
    """The members of a tuple, a list or a set: nothing that is read once, never ends or is one word.

    Example:
        >>> check_several("laws", "forward", "ids of laws", "pass a list, also for one")
        Traceback (most recent call last):
        equiv.errors.EquivError: laws: expected a tuple of ids of laws, got 'forward'; pass a list, also for one
    """
    if not isinstance(value, (tuple, list, set, frozenset, range)):
        raise refusal(argument, f"a tuple of {expected}", value, advice)
    return list(value)


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
    if type(value) is not Tensor:
        value = _known_tensor(argument, value, advice, meta=meta)
    if value.is_meta and not meta:
        raise _without_values(argument, "a tensor on the meta device")
    if value.is_nested or value.layout != torch.strided:
        kind = "a nested tensor" if value.is_nested else value.layout
        raise EquivError(f"{argument}: expected a strided tensor, got {kind}; convert it with to_dense()")
    if value.is_quantized:
        raise EquivError(f"{argument}: expected a tensor of numbers, got {value.dtype}; convert it with dequantize()")
    if shape is not None and value.shape != shape:
        raise EquivError(f"{argument}: expected shape {shape}, got {tuple(value.shape)}; {advice}")
    return value


def _known_tensor(argument: str, value: object, advice: str, *, meta: bool) -> Tensor:
    """``value`` if it is a tensor of a class that operations of torch serve."""
    if not isinstance(value, Tensor):
        raise EquivError(f"{argument}: expected a torch.Tensor, got {type(value).__name__}; {advice}")
    if is_lazy(value):
        got = f"an {type(value).__name__}, which has none yet"
        raise EquivError(f"{argument}: expected values, got {got}; run its module once on an example input first")
    if isinstance(value, FakeTensor) and not meta:
        raise _without_values(argument, "a FakeTensor")
    try:
        value.detach().layout  # noqa: B018 - a subclass of somebody else's may serve neither
    except Exception as error:
        raise EquivError(
            f"{argument}: expected a tensor that torch can compute with, got the subclass {type(value).__qualname__}, "
            f"which raises {type(error).__name__}: {quoted(error, 100)}; pass it as_subclass(torch.Tensor)"
        ) from error
    return value


def _without_values(argument: str, what: str) -> EquivError:
    return EquivError(f"{argument}: expected values, got {what}, which has none; compute it on a real device")


def shape_words(value: Tensor) -> str:
    """A tensor by its shape, or by its kind where it has none.

    Example:
        >>> shape_words(torch.zeros(2, 3))
        'a tensor of shape (2, 3)'
    """
    try:
        return f"a tensor of shape {tuple(value.shape)}"
    except Exception:  # one that is nested or uninitialized, or of a subclass that serves nothing
        return f"a {type(value).__name__}"


def check_device_name(argument: str, value: object) -> torch.device:
    """A device, from a ``torch.device`` or its name. It need not be present: see :func:`check_device`.

    Example:
        >>> check_device_name("device", "gpu")
        Traceback (most recent call last):
        equiv.errors.EquivError: device: expected a torch device or its name, got 'gpu'; pass such as 'cpu' or 'cuda:0'
    """
    if isinstance(value, torch.device):
        return value
    try:
        # A number is an accelerator's to torch, a bool too.
        return torch.device(value if isinstance(value, str) else check_integer(argument, value, least=0))
    except Exception as error:  # torch has errors of many kinds for names, and more for numbers without an accelerator
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
    if device.type == "cpu" and not device.index:
        return device
    try:
        torch.empty(0, device=device)
    except Exception as error:  # RuntimeError, AssertionError, NotImplementedError, of a backend that is a package any
        raise refusal(argument, expected, str(value), f"{advice} ({first_line(error, 80)})") from error
    if device.type in ("meta", "cpu"):
        raise refusal(argument, expected, str(value), advice)
    return device
