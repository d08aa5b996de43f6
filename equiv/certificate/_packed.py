"""Numbers and tensors in JSON's types, bit for bit: the state of a certificate that is not finished."""

from __future__ import annotations

import base64
import ctypes
from typing import Any

import torch
from torch import Tensor


def plain(value: Any) -> Any:
    """A Python number in JSON's types, bit for bit."""
    if isinstance(value, complex):
        return [value.real.hex(), value.imag.hex()]
    return value.hex() if isinstance(value, float) else value


def value_of(value: Any) -> Any:
    """The number that :func:`plain` was given."""
    if isinstance(value, list):
        return complex(float.fromhex(value[0]), float.fromhex(value[1]))
    return float.fromhex(value) if isinstance(value, str) else int(value)


def packed(values: Tensor) -> str:
    """A tensor's bytes as text."""
    flat = (torch.view_as_real(values) if values.is_complex() else values).cpu().contiguous().view(torch.uint8)
    return base64.b64encode(ctypes.string_at(flat.data_ptr(), flat.numel())).decode()


def unpacked(text: str, like: Tensor) -> Tensor:
    """The tensor that :func:`packed` was given, in the dtype and shape of ``like``."""
    flat = torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
    return flat.view(like.dtype).view(like.shape)
