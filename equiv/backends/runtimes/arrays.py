"""Runtimes that compute on numpy arrays: tensors go over as arrays, and results come back as tensors.

Those that take the weights as inputs keep a program for each kind of call; those that hold the weights build one for
every call.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from equiv.backends.runtimes.layers import Layer as Layer
from equiv.backends.runtimes.layers import LayerRuntime
from equiv.backends.runtimes.layers import Program as Program


class ArrayRuntime(LayerRuntime):
    """A backend whose programs take arrays and return one. Results carry no gradients.

    Convolutions without a batch dimension are not served.

    Attributes:
        holds_weights: Whether a program is built for every call, with its weights as constants.
    """

    holds_weights = False

    def _run(self, layer: Layer, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if layer.dims and x.ndim != weight.ndim:
            raise NotImplementedError(f"{self.title} has no convolutions without a batch dimension")
        given, *parameters = (as_array(one) for one in (x, weight, bias) if one is not None)
        if self.holds_weights:
            self.built += 1
            y = self.build(layer, tuple(parameters))(given)
        else:
            y = self.program(layer)(given, *parameters)
        return as_tensor(y)


def as_array(x: Tensor) -> Any:
    """A tensor's values as a contiguous array of numpy, which shares its memory where it is contiguous itself.

    Raises:
        NotImplementedError: numpy has no such dtype.
    """
    if x.dtype == torch.bfloat16:
        raise NotImplementedError("numpy has no bfloat16")
    return x.detach().resolve_conj().resolve_neg().contiguous().numpy()


def as_tensor(y: Any) -> Tensor:
    """An array as a tensor with memory of its own: some runtimes write to theirs again."""
    return torch.from_numpy(y if y.flags.owndata and y.flags.writeable else y.copy())
