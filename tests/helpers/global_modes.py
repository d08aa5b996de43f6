"""What a program may have switched on around a call: default device and dtype, autocast, grad modes, flush to zero."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import torch


@contextmanager
def default_device() -> Iterator[None]:
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def default_dtype() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def flushing() -> Iterator[None]:
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormals")
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@contextmanager
def everything() -> Iterator[None]:
    with ExitStack() as stack:
        for name, mode in MODES.items():
            if name not in ("everything", "anomaly detection"):
                stack.enter_context(mode())
        yield


MODES: dict[str, Callable[[], Any]] = {
    "default device meta": default_device,
    "device context meta": lambda: torch.device("meta"),
    "default dtype float64": default_dtype,
    "autocast bfloat16": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast float16": lambda: torch.autocast("cpu", torch.float16),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "anomaly detection": torch.autograd.detect_anomaly,
    "flushing": flushing,
    "everything": everything,
}
