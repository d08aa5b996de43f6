"""Numbers and values in words, as messages and reports show them."""

from __future__ import annotations

import math
from typing import Any


def counted(count: int, noun: str, plural: str = "") -> str:
    """A number of things, with a comma between thousands and the noun in the singular or plural.

    Example:
        >>> counted(1, "item"), counted(25088, "column"), counted(0, "entry", "entries")
        ('1 item', '25,088 columns', '0 entries')
    """
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def shown(value: object, limit: int = 80) -> str:
    r"""The ``repr`` of a value in one line of at most ``limit`` characters.

    Example:
        >>> shown("a\nb"), shown(list(range(100)), 12)
        ("'a\\nb'", '[0, 1, 2, 3,')
    """
    return " ".join(repr(value).split())[:limit]


def first_line(error: BaseException, limit: int = 120) -> str:
    r"""The first line of an error's message, at most ``limit`` characters; empty where it has none.

    Example:
        >>> first_line(ValueError("no\nsecond"))
        'no'
    """
    return (str(error).splitlines() or [""])[0][:limit]


def plain_json(value: Any) -> Any:
    """Values in the types that JSON has: tuples become lists, and what has no form there its ``str``.

    That holds for infinities, NaN and complex numbers too.

    Example:
        >>> plain_json({"worst": float("inf"), "at": (2, 1 - 3j)})
        {'worst': 'inf', 'at': [2, '(1-3j)']}
    """
    if isinstance(value, dict):
        return {str(key): plain_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
