"""Numbers as a reader wants them: counted things, and thousands apart."""

from __future__ import annotations


def counted(count: int, noun: str, plural: str = "") -> str:
    """A number of things, with its thousands apart and its noun in the right number.

    Example:
        >>> counted(1, "item"), counted(25088, "column"), counted(0, "entry", "entries")
        ('1 item', '25,088 columns', '0 entries')
    """
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"
