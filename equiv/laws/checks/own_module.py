"""A form of a backend as a module of torch: what modules, vmap, compile and autocast are tried on."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from equiv.backends import Backend, TorchEager


class OwnModule(nn.Module):
    """The backend's own function on the parameters of a layer, which it shares.

    Args:
        backend: Who runs the form; a copy of the module has the same.
        form: One of ``equiv.backends.FORMS``.
        layer: A Linear or a convolution of stride 1, whose parameters are shaped as the form takes them.
    """

    def __init__(self, backend: Backend, form: str, layer: nn.Module) -> None:
        super().__init__()
        for name in ("weight", "bias"):
            self.register_parameter(name, getattr(layer, name))
        self.form, self.backend = form, backend

    def forward(self, x: Tensor) -> Tensor:
        """``(*batch, n)`` -> ``(*batch, O)``, or ``(*batch, C, *spatial)`` -> ``(*batch, O, 1, ...)``."""
        weight: Any = self.weight
        bias: Any = self.bias
        if self.form == "linear":
            return self.backend.linear(x, weight, bias)
        ones = (1,) * (weight.ndim - 2)
        return self.backend.conv(x, weight, bias, stride=ones, dilation=ones)

    def __deepcopy__(self, memo: dict[int, Any]) -> OwnModule:
        layer = nn.Module()
        for name in ("weight", "bias"):
            layer.register_parameter(name, copy.deepcopy(getattr(self, name), memo))
        return OwnModule(self.backend, self.form, layer).train(self.training)


def is_own(backend: Backend) -> bool:
    """Whether torch's modules are not what a backend runs: it has functions of its own."""
    theirs = type(backend)
    return not all(getattr(theirs, name, None) is getattr(TorchEager, name) for name in ("linear", "conv"))
