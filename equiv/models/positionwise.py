"""Linear layers that are applied at every position of a map: what a convolution with kernel 1 computes."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from equiv.backends import shallow
from equiv.errors import EquivError
from equiv.mapping import Conv, check_conv
from equiv.text import quoted


class PositionwiseLinear(nn.Linear):
    """An `nn.Linear` over the channels of a map (N, n, *spatial), or of one without batch.

    Made of a convolution with kernel 1 by :func:`equiv.to_linear`, whose attributes and hooks it keeps. Its weight has
    shape (O, n). In a ``state_dict`` it has the convolution's, (O, n, 1, ..), so that checkpoints of the one load into
    the other; it loads (O, n) too.
    """

    stride: tuple[int, ...]
    kernel_size: tuple[int, ...]

    def forward(self, input: Tensor) -> Tensor:
        """(N, n, *spatial) to (N, O, *spatial), or fewer positions with a stride, contiguous where the input is."""
        rank = len(self.kernel_size)
        if max(self.stride) > 1:
            places: Any = (..., *(slice(None, None, step) for step in self.stride))
            input = input[places]
        result = functional.linear(input.movedim(-1 - rank, -1), self.weight, self.bias).movedim(-1, -1 - rank)
        return result.contiguous() if input.is_contiguous() else result

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        weight = destination[f"{prefix}weight"]
        destination[f"{prefix}weight"] = weight.reshape(*weight.shape, *self.kernel_size)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        weight = state_dict.get(f"{prefix}weight")
        if weight is None or tuple(weight.shape) != (*self.weight.shape, *self.kernel_size):
            super()._load_from_state_dict(state_dict, prefix, *args)
            return
        flat = {**state_dict, f"{prefix}weight": weight.reshape(self.weight.shape)}
        super()._load_from_state_dict(flat, prefix, *args)


def why_not_positionwise(conv: Any) -> str:
    """Why a convolution is no linear layer at every position; empty where it is one."""
    try:
        check_conv(shallow(conv, _forward_hooks={}, _forward_pre_hooks={}))
    except EquivError as error:
        return quoted(str(error).partition(": ")[2], 200)
    if any(size != 1 for size in conv.kernel_size):
        return f"its kernel is {'x'.join(map(str, conv.kernel_size))}"
    if conv.groups != 1:
        return f"it has {conv.groups} groups"
    padding = (0,) if isinstance(conv.padding, str) else conv.padding
    return "it pads its input" if any(padding) else ""


def make_positionwise(conv: Conv, made: dict[Any, nn.Parameter]) -> None:
    """Turn a convolution into a `PositionwiseLinear` where it stands, so that all that refers to it sees one.

    Args:
        conv: One of which :func:`why_not_positionwise` says nothing.
        made: The parameters that were made of others before, so that what is tied stays tied.
    """
    held: Any = conv._parameters
    weight = held["weight"]
    if weight not in made:
        flat = weight.detach().reshape(weight.shape[:2])
        made[weight] = nn.Parameter(flat, requires_grad=weight.requires_grad)
        if weight.grad is not None:
            made[weight].grad = weight.grad.reshape(weight.shape[:2])
    held["weight"] = made[weight]
    vars(conv).update(in_features=conv.in_channels, out_features=conv.out_channels)
    conv.__class__ = PositionwiseLinear  # type: ignore[assignment]
