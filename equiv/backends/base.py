"""The interface of a backend, which users implement for their own kernels, runtimes and devices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

FORMS = ("linear", "full", "pointwise")
"""The forms of one layer: a Linear, a convolution as large as the map, a 1x1 convolution over all features."""


@runtime_checkable
class Backend(Protocol):
    """Carries out a layer as a matrix product or as a convolution.

    A backend may also have ``supports(dtype, form) -> bool``; without it every dtype is tried once on a tiny layer.
    Results carry gradients if the backend is differentiable; laws of gradients are left out where they do not.

    Attributes:
        name: Part of every id; letters, digits, dots and underscores.
        device: Where inputs are put before they are handed over.

    Example:
        >>> class Mine:
        ...     name, device = "mine", torch.device("cpu")
        ...     def linear(self, input, weight, bias=None):
        ...         return torch.nn.functional.linear(input, weight, bias)
        ...     def conv(self, input, weight, bias=None, *, stride=1, dilation=1):
        ...         convs = (torch.nn.functional.conv1d, torch.nn.functional.conv2d, torch.nn.functional.conv3d)
        ...         return convs[weight.ndim - 3](input, weight, bias, stride=stride, dilation=dilation)
        >>> isinstance(Mine(), Backend)
        True
    """

    name: str
    device: torch.device

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """``(*batch, n)``, ``(O, n)``, ``(O,)`` -> ``(*batch, O)``."""
        ...

    def conv(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        stride: int | Sequence[int] = 1,
        dilation: int | Sequence[int] = 1,
    ) -> Tensor:
        """``(N, C, *spatial)`` or ``(C, *spatial)``, ``(O, C, *kernel)``, ``(O,)`` -> ``(N, O, *out)``."""
        ...
