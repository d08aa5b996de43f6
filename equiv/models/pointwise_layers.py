"""Linear layers that compute as convolutions with kernel 1: subclasses that share everything else with their class.

Parameters keep their names and shapes, so that checkpoints, optimizers, ties and code that reads ``weight`` see no
change. Which modules may be given another class is decided by those who ask (``equiv.models.pointwise``).
"""

from __future__ import annotations

import functools
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize


def convolve(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``torch.nn.functional.linear`` by a convolution with kernel 1 over a map of one row.

    Every row of the input is a position of the map. Its channels lie next to each other, as the input has them, so that
    nothing is copied, and the result is contiguous.

    Args:
        input: (*batch, n), also with an empty batch.
        weight: (O, n).
        bias: (O,) or None.

    Returns:
        (*batch, O).

    Example:
        >>> import torch
        >>> convolve(torch.tensor([1.0, 2.0]), torch.tensor([[3.0, 5.0]]), None)
        tensor([13.])
    """
    kernel = weight[:, :, None, None]
    shape = input.shape[:-1] + weight.shape[:1]
    if input.numel() == 0:  # a map needs a position, a batch no sample
        return functional.conv2d(input.reshape(0, input.shape[-1], 1, 1), kernel, bias).reshape(shape)
    rows = input.reshape(1, 1, -1, input.shape[-1]).permute(0, 3, 1, 2)  # (1, n, 1, positions)
    return functional.conv2d(rows, kernel, bias).permute(0, 2, 3, 1).reshape(shape)


class PointwiseLinear(nn.Linear):
    """An `nn.Linear` with the same parameters that computes as a convolution with kernel 1.

    Example:
        >>> import torch
        >>> layer = PointwiseLinear(3, 2)
        >>> layer.weight.shape, layer(torch.zeros(4, 7, 3)).shape
        (torch.Size([2, 3]), torch.Size([4, 7, 2]))
    """

    def forward(self, input: Tensor) -> Tensor:
        """(*batch, n) to (*batch, O)."""
        return convolve(input, self.weight, self.bias)


PointwiseLinear._equiv_was = nn.Linear  # type: ignore[attr-defined]


def class_before(kind: type[nn.Module]) -> Any:
    """The class that a pointwise class was made of; None for any other.

    Example:
        >>> class_before(PointwiseLinear), class_before(nn.Linear)
        (<class 'torch.nn.modules.linear.Linear'>, None)
    """
    return vars(kind).get("_equiv_was")


@functools.cache
def pointwise_class(kind: Any) -> Any:
    """A subclass of a linear layer's class that computes as a convolution.

    Args:
        kind: `nn.Linear`, a class with its forward, or the ``Conv1D`` of transformers, whose weight is (n, O).

    Example:
        >>> pointwise_class(nn.Linear)
        <class 'equiv.models.pointwise_layers.PointwiseLinear'>
    """
    if kind is nn.Linear:
        return PointwiseLinear
    forward = _forward_of_linear if issubclass(kind, nn.Linear) else _forward_of_conv1d
    own = {"_equiv_was": kind, "forward": forward, "__reduce_ex__": _reduced, "__module__": kind.__module__}
    return type(f"Pointwise{kind.__name__}", (kind,), own)


def _forward_of_linear(self: Any, input: Tensor) -> Tensor:
    return convolve(input, self.weight, self.bias)


def _forward_of_conv1d(self: Any, x: Tensor) -> Tensor:
    return convolve(x, self.weight.t(), self.bias)


def _reduced(self: Any, _protocol: Any) -> Any:
    """For copy and pickle: the class is made again from the one that it was made of."""
    return _restored, (class_before(type(self)),), self.__getstate__()


def _restored(kind: Any) -> Any:
    made = pointwise_class(kind)
    return made.__new__(made)


def swap_class(module: Any, change: Any) -> None:
    """Give a module the class that ``change`` makes of its own.

    That of a parametrized module has its class as its base, to which removing the parametrization returns. It is made
    anew, since torch shares it between copies.
    """
    kind = type(module)
    if not parametrize.is_parametrized(module):
        module.__class__ = change(kind)
        return
    base = change(kind.__bases__[0])
    own = {key: value for key, value in vars(kind).items() if key not in ("__dict__", "__weakref__")}
    module.__class__ = type(f"Parametrized{base.__name__}", (base,), own)


def class_of(module: nn.Module) -> Any:
    """The class of a module, without parametrizations.

    Example:
        >>> class_of(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)))
        <class 'torch.nn.modules.linear.Linear'>
    """
    return parametrize.type_before_parametrizations(module)


def is_pointwise(module: nn.Module) -> bool:
    """Whether it computes as a convolution because :func:`equiv.to_pointwise` made it so.

    Example:
        >>> is_pointwise(PointwiseLinear(2, 2)), is_pointwise(nn.Conv1d(2, 2, 1))
        (True, False)
    """
    return class_before(class_of(module)) is not None
