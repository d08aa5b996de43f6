"""The dtypes that a layer can have, and their names: the one place that lists them.

A floating dtype that is added here also needs its row in ``equiv/numerics/arithmetic.py``, an integer nothing more;
torch must add, negate, multiply, compare and index in it:
formats, probes, drawn values, laws, options and reports follow from these tuples and from torch's own description.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
"""The floating-point dtypes that Linear and the convolutions of torch serve.

Example:
    >>> import torch
    >>> torch.bfloat16 in FLOATS
    True
"""

COMPLEX = (torch.complex64, torch.complex128)
"""The complex dtypes.

Example:
    >>> import torch
    >>> torch.complex64 in COMPLEX
    True
"""

INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
"""The integer dtypes, in which every right kernel gives the same bits.

Example:
    >>> import torch
    >>> torch.int8 in INTEGERS
    True
"""

DTYPES = FLOATS + COMPLEX + INTEGERS
"""Every dtype that both Linear and the convolutions of torch serve; strategies shrink towards the first.

Example:
    >>> DTYPES[0]
    torch.float32
"""

WIDE_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)
"""Dtypes of weights that can be mapped, but that no kernel of torch computes in."""

SIGNED_OF_SIZE = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""The signed integers of a number of bytes: the same memory seen as bits."""


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a dtype without its module.

    Example:
        >>> dtype_name(torch.bfloat16)
        'bfloat16'
    """
    return str(dtype).removeprefix("torch.")


def dtype_names(dtypes: Iterable[torch.dtype]) -> str:
    """Names for a message.

    Example:
        >>> dtype_names(COMPLEX)
        'complex64, complex128'
    """
    return ", ".join(map(dtype_name, dtypes))


BY_NAME = {dtype_name(dtype): dtype for dtype in DTYPES}
"""The members of ``DTYPES`` by name, in the same order."""

_SHORT = ("half", "float", "double", "cfloat", "cdouble", "short", "int", "long")
OTHER_NAMES = {name: dtype_name(getattr(torch, name)) for name in _SHORT}
"""The second names that torch has for some of them, such as ``half`` for ``float16``."""


def is_inexact(dtype: torch.dtype) -> bool:
    """Whether arithmetic in it rounds: floating and complex dtypes. Integers are exact modulo ``2**bits``.

    Example:
        >>> is_inexact(torch.complex64), is_inexact(torch.int8)
        (True, False)
    """
    return dtype.is_floating_point or dtype.is_complex
