"""Checks of arguments that public functions of several packages share, each with one message.

A check returns its argument or raises an `EquivError` that names the argument, its value, what was expected and what to
do. Checks of layers and feature shapes are in ``equiv.mapping``. The functions named ``parse_`` read what was typed as
an option of a command.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import Tensor

from equiv.dtypes import BY_NAME
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


def check_integer(
    argument: str, value: object, *, least: int | None = None, most: int | None = None, advice: str = ""
) -> int:
    """``value``, an int within the bounds; a bool is not an integer here.

    Example:
        >>> check_integer("seed", True)
        Traceback (most recent call last):
        equiv.errors.EquivError: seed: expected an integer, got True; pass a whole number
    """
    fits = isinstance(value, int) and not isinstance(value, bool)
    if not fits or (least is not None and value < least) or (most is not None and value > most):  # type: ignore[operator]
        bounds = "" if least is None else f" of at least {least}"
        if most is not None:
            bounds = f" of at most {most}" if least is None else f" from {least} to {most}"
        raise refusal(argument, f"an integer{bounds}", value, advice or "pass a whole number")
    return value  # type: ignore[return-value]


def check_bool(argument: str, value: object, advice: str = "pass a bool") -> bool:
    """``value`` if it is True or False."""
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


def check_device(argument: str, value: object, advice: str = "pass such as 'cpu' or 'cuda:0'") -> torch.device:
    """A device that is present and holds values, from a ``torch.device`` or its name.

    Example:
        >>> check_device("device", "cpu")
        device(type='cpu')
        >>> check_device("device", "meta")
        Traceback (most recent call last):
        equiv.errors.EquivError: device: expected a torch device that is present and holds values, got 'meta'; ...
    """
    expected = "a torch device that is present and holds values"
    try:
        device = torch.device(value)  # type: ignore[call-overload]
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        raise refusal(argument, expected, value, f"{advice} ({first_line(error, 80)})") from error
    if device.type == "meta" or (device.type == "cpu" and device.index):
        raise refusal(argument, expected, value, advice)
    return device  # type: ignore[no-any-return]


def check_tensor(
    argument: str, value: object, shape: tuple[int, ...] | None = None, *, advice: str = "pass a tensor"
) -> Tensor:
    """``value`` if it is a strided tensor that holds values, and of this shape.

    Example:
        >>> check_tensor("bias", torch.zeros(3), (2,), advice="give one entry per output")
        Traceback (most recent call last):
        equiv.errors.EquivError: bias: expected shape (2,), got (3,); give one entry per output
    """
    if not isinstance(value, Tensor):
        raise EquivError(f"{argument}: expected a torch.Tensor, got {type(value).__name__}; {advice}")
    if value.device.type == "meta":
        raise EquivError(
            f"{argument}: expected values, got a tensor on the meta device, which has none; compute it on a real device"
        )
    if value.is_nested or value.layout != torch.strided:
        kind = "a nested tensor" if value.is_nested else value.layout
        raise EquivError(f"{argument}: expected a strided tensor, got {kind}; convert it with to_dense()")
    if shape is not None and tuple(value.shape) != shape:
        raise EquivError(f"{argument}: expected shape {shape}, got {tuple(value.shape)}; {advice}")
    return value


def parse_names(option: str, texts: Iterable[str], allowed: Iterable[str]) -> list[str]:
    """The names in an option that may be repeated and may hold commas: each once, in order, ``-`` being ``_``.

    Example:
        >>> parse_names("--law", ["forward,Free-Parameters", "forward"], ["forward", "free_parameters"])
        ['forward', 'free_parameters']
    """
    known = {name.replace("-", "_"): name for name in allowed}
    found = []
    for entry in _entries(option, texts):
        key = entry.lower().replace("-", "_")
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            advice = f"did you mean {known[close[0]]!r}?" if close else "choose one of these"
            raise refusal(option, f"one of {', '.join(known.values())}", entry, advice)
        found.append(known[key])
    return list(dict.fromkeys(found))


def _entries(option: str, texts: Iterable[str]) -> list[str]:
    found = []
    for text in texts:
        found += [part.strip() for part in text.split(",")]
        if "" in found:
            raise refusal(option, "names separated by commas", text, "write one or more, and leave no gap")
    return list(dict.fromkeys(found))


def parse_name(option: str, text: str, allowed: Iterable[str]) -> str:
    """The one name in an option; see :func:`parse_names`."""
    chosen = parse_names(option, [text], allowed)
    if len(chosen) != 1:
        raise refusal(option, "one name", text, "run the command once for each")
    return chosen[0]


def parse_dtypes(option: str, texts: Iterable[str]) -> list[str]:
    """The names of dtypes in an option, as torch prints them or without ``torch.``.

    Example:
        >>> parse_dtypes("--dtype", ["torch.float32,int8"])
        ['float32', 'int8']
    """
    return parse_names(option, [text.replace("torch.", "") for text in texts], BY_NAME)


def parse_devices(option: str, texts: Iterable[str], advice: str) -> list[str]:
    """The names of devices in an option, each of a device that is present."""
    found = []
    for entry in _entries(option, texts):
        try:
            found.append(str(check_device(option, entry)))
        except EquivError as error:
            raise refusal(option, "a device that is present", entry, advice) from error
    return found


def parse_integer(option: str, text: str, *, least: int, most: int | None = None) -> int:
    """The whole number in an option, within its bounds.

    Example:
        >>> parse_integer("--section", "5", least=1, most=4)
        Traceback (most recent call last):
        equiv.errors.EquivError: --section: expected a whole number from 1 to 4, got '5'; choose one in this range
    """
    expected = f"a whole number of at least {least}" if most is None else f"a whole number from {least} to {most}"
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", text.strip()):
        raise refusal(option, expected, text[:40], "write digits")
    value = int(text)
    if value < least or (most is not None and value > most):
        raise refusal(option, expected, text.strip(), "choose one in this range")
    return value
