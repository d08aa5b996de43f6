"""What is typed into an option of the command or of pytest: names, dtypes, devices and numbers, as text."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

import torch

from equiv.arguments import check_device, refusal
from equiv.dtypes import BY_NAME, OTHER_NAMES
from equiv.errors import EquivError


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


def parse_dtypes(option: str, texts: Iterable[str], allowed: Iterable[str] = BY_NAME) -> list[str]:
    """The names of dtypes in an option, by any name that torch has for them, with or without ``torch.``.

    Example:
        >>> parse_dtypes("--dtype", ["torch.float32,int8", "half"])
        ['float32', 'int8', 'float16']
    """
    return parse_names(option, map(_dtype_of, _entries(option, texts)), allowed)


def parse_dtype(option: str, text: str, allowed: Iterable[str] = BY_NAME) -> torch.dtype:
    """The one dtype in an option; see :func:`parse_dtypes`.

    Example:
        >>> parse_dtype("--dtype", "long")
        torch.int64
    """
    return BY_NAME[parse_name(option, ",".join(map(_dtype_of, _entries(option, [text]))), allowed)]


def _dtype_of(entry: str) -> str:
    name = entry.removeprefix("torch.")
    return OTHER_NAMES.get(name.lower(), name)


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
