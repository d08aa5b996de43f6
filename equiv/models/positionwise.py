"""Convolutions as linear layers where they stand: at every position of a map, and on every patch of one."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from equiv.backends import shallow
from equiv.errors import EquivError
from equiv.mapping import CONVS, check_conv
from equiv.models.patches import PatchLinear, to_patch_linear
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


class FullMapLinear(PatchLinear):
    """A linear layer over a whole flattened map, made of a convolution whose kernel is the map."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, *kernel) to (N, O, 1, ..).

        Raises:
            EquivError: A map of another size than the kernel's.
        """
        size = tuple(x.shape[-len(self.kernel_size) :])
        if size != self.kernel_size:
            expected = f"a map of the size of the kernel, {self.kernel_size}, got one of {size}"
            raise EquivError(f"x: expected {expected}; keep the convolution, which slides over larger maps")
        return super().forward(x)


def convolution_kind(conv: Any, sizes: set[tuple[int, ...]]) -> tuple[Any, str]:
    """Which linear layer a convolution is, and if none, why not.

    Args:
        conv: A convolution.
        sizes: The sizes of the maps that it had in an example, if there was one.

    Returns:
        `PositionwiseLinear`, `PatchLinear`, `FullMapLinear` or None; and a reason for None, else ''.
    """
    plain = shallow(conv, _forward_hooks={}, _forward_pre_hooks={})
    try:
        check_conv(plain)
    except EquivError as error:
        return None, quoted(str(error).partition(": ")[2], 200)
    kernel = tuple(conv.weight.shape[2:])
    padded = any((0,) if isinstance(conv.padding, str) else conv.padding)
    if max(kernel) == 1 and conv.groups == 1 and not padded:
        return PositionwiseLinear, ""
    if sizes == {kernel} and not padded:
        return FullMapLinear, ""
    try:
        to_patch_linear(plain)
    except EquivError:
        words = f"its kernel {'x'.join(map(str, kernel))} slides in steps of {'x'.join(map(str, conv.stride))}"
        hint = "" if sizes else "; if it is as large as its map, example_inputs= shows it"
        return None, words + hint
    return PatchLinear, ""


def make_linear(conv: Any, kind: Any, made: dict[Any, nn.Parameter]) -> None:
    """Give a convolution the class of a linear layer where it stands, so that all that refers to it sees that.

    Args:
        conv: A convolution.
        kind: What :func:`convolution_kind` says of it.
        made: The parameters that were made of others before, so that what is tied stays tied.
    """
    if kind is PositionwiseLinear:
        conv._parameters["weight"] = _reshaped(conv._parameters["weight"], (), made)
        vars(conv).update(in_features=conv.in_channels, out_features=conv.out_channels)
    else:
        whole = shallow(conv, _forward_hooks={}, _forward_pre_hooks={})
        if kind is FullMapLinear:
            vars(whole)["stride"] = tuple(conv.weight.shape[2:])
        made_of = vars(to_patch_linear(whole))
        vars(conv).update({name: made_of[name] for name in ("stride", "kernel_size", "dilation", "padding")})
    conv.__class__ = kind


def make_convolution(module: Any, made: dict[Any, nn.Parameter]) -> None:
    """Give a `PositionwiseLinear` the class and the weight of its convolution again; ``made`` as above."""
    module._parameters["weight"] = _reshaped(module._parameters["weight"], module.kernel_size, made)
    del module.in_features, module.out_features
    module.__class__ = CONVS[len(module.kernel_size)]


def _reshaped(weight: Any, kernel: tuple[int, ...], made: dict[Any, nn.Parameter]) -> nn.Parameter:
    """A parameter (O, n, *kernel) of the same memory, made once of each."""
    if weight not in made:
        shape = (*weight.shape[:2], *kernel)
        made[weight] = nn.Parameter(weight.detach().reshape(shape), requires_grad=weight.requires_grad)
        if weight.grad is not None:
            made[weight].grad = weight.grad.reshape(shape)
    return made[weight]
