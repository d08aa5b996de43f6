"""Numbers and values in words, as messages and reports show them."""

from __future__ import annotations

import json
import math
import re
from typing import Any


def counted(count: int, noun: str, plural: str = "") -> str:
    """A number of things, with a comma between thousands and the noun in the singular or plural.

    Example:
        >>> counted(1, "item"), counted(25088, "column"), counted(0, "entry", "entries")
        ('1 item', '25,088 columns', '0 entries')
    """
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def shown(value: object, limit: int = 80) -> str:
    r"""The ``repr`` of a value in one line of at most ``limit`` characters, which the terminal shows as they stand.

    Example:
        >>> shown("a\nb"), shown(list(range(100)), 12)
        ("'a\\nb'", '[0, 1, 2,...')
    """
    if isinstance(value, int) and value.bit_length() > 4096:  # Python refuses to print very long ones
        return f"an integer of {value.bit_length():,} bits"[:limit]
    try:
        text = repr(value)
    except Exception as error:
        text = f"an object of type {type(value).__name__}, whose repr raises {type(error).__name__}"
    return quoted(text, limit)


def quoted(text: str | BaseException, limit: int = 500) -> str:
    r"""What somebody else said, or the message of their error, in one line of at most ``limit`` characters.

    White space, newlines among it, becomes one space; control characters and half surrogates are shown escaped, so that
    no terminal obeys them and every encoding of Unicode holds them. Empty where there is no message.

    Example:
        >>> quoted(ValueError("no\n  second\x1b[31m")), quoted("x" * 20, 8)
        ('no second\\x1b[31m', 'xxxxx...')
    """
    if isinstance(text, BaseException):
        text = _message(text)
    head = text[: 8 * limit]  # enough to fill the line, however large the message
    line = re.sub(r"[ \t\r\n\f\v]+", " ", head).strip()
    line = visible(line)
    return line if len(line) <= limit and len(head) == len(text) else line[: limit - 3] + "..."


def visible(text: str) -> str:
    r"""Text with lines and tabs as they are and every other character that is not printed shown escaped.

    Among them are control characters, half surrogates, and those that turn the direction of writing.

    Example:
        >>> print(visible("a\nb\x1b[31m\u202ec"))
        a
        b\x1b[31m\u202ec
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


def first_line(error: BaseException, limit: int = 120) -> str:
    r"""The first line of an error's message as :func:`quoted` shows it; empty where it has none.

    Example:
        >>> first_line(ValueError("no\nsecond"))
        'no'
    """
    return quoted((_message(error).splitlines() or [""])[0], limit)


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as other:
        return f"a message that cannot be read, since its str raises {type(other).__name__}"


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


def json_lines(payload: dict[str, Any]) -> str:
    """JSON with a line for each key, and for each entry of a list or dict that is its value.

    Example:
        >>> print(json_lines({"ids": ["a", "b"], "worst": float("inf")}), end="")
        {
          "ids": [
            "a",
            "b"
          ],
          "worst": "inf"
        }
    """
    lines = [f'  "{key}": {_entries(value)}' for key, value in plain_json(payload).items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _entries(value: Any) -> str:
    if isinstance(value, list | dict) and len(value) > 1:
        if isinstance(value, dict):
            lines = [f"{json.dumps(key)}: {json.dumps(entry, allow_nan=False)}" for key, entry in value.items()]
        else:
            lines = [json.dumps(entry, allow_nan=False) for entry in value]
        start, end = "{}" if isinstance(value, dict) else "[]"
        return start + "\n    " + ",\n    ".join(lines) + "\n  " + end
    return json.dumps(value, allow_nan=False)
