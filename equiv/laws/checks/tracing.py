"""Programs that torch records of a module, as ``torch.jit.trace`` and ``make_fx`` do, called on other inputs."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn


def traced_by_jit(module: nn.Module, x: Tensor) -> Tensor:
    """Recorded on zeros."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations
        trace: Any = torch.jit.trace
        y: Tensor = trace(module, (torch.zeros_like(x),), check_trace=False)(x)
    return y


def recorded_by_fx(module: nn.Module, x: Tensor) -> Tensor:
    """Recorded on zeros, with the parameters as constants."""
    from torch.fx.experimental.proxy_tensor import make_fx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        y: Tensor = make_fx(module)(torch.zeros_like(x))(x)
    return y
