"""Which parameters are the weight and the bias of a layer: a layer's own, and those of a module that computes the same.

A parameter of a module is taken for the weight or the bias of a layer if it has the same values, in any order, and if
other values in its place change the results as they would change the layer's. So a weight from which another one is
computed (weight_norm, a product of two) is none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from equiv.backends import Function, shallow
from equiv.errors import EquivError
from equiv.mapping import Conv, conv_to_linear, tap_weights
from equiv.verdict.arguments import Comparison
from equiv.verdict.gradient_forms import Layer
from equiv.verdict.results import compare_rows

_ROWS = 4  # of the inputs on which a parameter is tried
_LARGEST = 3  # integers that take the place of its values


class Side(Protocol):
    """The candidate or the reference; ``dense`` is the Linear that it is, if it is a layer, and ``taps`` its terms."""

    @property
    def name(self) -> str:
        """``candidate`` or ``reference``."""

    @property
    def function(self) -> Function:
        """What runs it."""

    @property
    def dense(self) -> nn.Linear | None:
        """The layer, if it is one."""

    @property
    def taps(self) -> Tensor | None:
        """See :func:`equiv.mapping.tap_weights`."""


@dataclass(frozen=True, eq=False)
class Held:
    """A parameter that is the weight or bias, ``key``, of a layer.

    ``index`` says where its flattened entries are in the parameter; None for the same places.
    """

    name: str
    parameter: nn.Parameter
    layer: Layer
    key: str
    index: Tensor | None = None

    def in_layer(self, values: Tensor) -> Tensor:
        """Values in the parameter's shape, in that of the layer's weight or bias."""
        shape = getattr(self.layer, self.key).shape
        flat = values.reshape(-1)
        return (flat if self.index is None else flat[self.index]).view(shape)

    def in_parameter(self, values: Tensor) -> Tensor:
        """The same backwards, in the parameter's own strides."""
        flat, own = values.reshape(-1), torch.empty_like(self.parameter, requires_grad=False)
        if self.index is not None:
            flat = torch.empty_like(flat).index_copy_(0, self.index, flat)
        return own.copy_(flat.view(own.shape))


def layer_with(layer: Layer, shape: tuple[int, ...], **values: Tensor) -> tuple[nn.Linear, Tensor | None]:
    """The dense layer that a layer is with other values of weight or bias, and its taps."""
    own = {key: nn.Parameter(value, requires_grad=False) for key, value in values.items()}
    changed: Any = shallow(layer, _parameters={**layer._parameters, **own})
    if isinstance(changed, nn.Linear):
        return changed, None
    return conv_to_linear(changed, shape), tap_weights(changed, shape) if isinstance(changed, Conv) else None


def held_by(side: Side, other: Side, shape: tuple[int, ...]) -> tuple[list[Held], str]:
    """The parameters of a side that are a layer's, and in words which gradients are left out for want of them."""
    call = side.function.call
    if side.dense is not None:
        own: list[tuple[str, nn.Parameter | None]] = [(key, getattr(call, key)) for key in ("weight", "bias")]
        return [Held(key, value, call, key) for key, value in own if value is not None], ""
    if not isinstance(call, nn.Module):
        return [], f"the {side.name}'s weights are not known, so only the gradient of its input was asked"
    found = [] if isinstance(call, torch.jit.ScriptModule) else list(_recognised(side, other, shape))
    unknown = [name for name, value in call.named_parameters() if all(h.parameter is not value for h in found)]
    words = f"no weight or bias of the layer was recognised in the {side.name}'s {', '.join(unknown[:4])}"
    return found, words if unknown else ""


def _recognised(side: Side, other: Side, shape: tuple[int, ...]) -> Iterator[Held]:
    module, layer, dense = side.function.call, other.function.call, other.dense
    if dense is None:
        return
    layers = [layer] if layer is dense else [layer, dense]
    for name, parameter in module.named_parameters():
        tried = ((one, key) for one in layers for key in ("weight", "bias"))
        places = (
            Held(name, parameter, one, key, index)
            for one, key in tried
            if getattr(one, key) is not None
            for index in _places(getattr(one, key), parameter)
        )
        found = next((held for held in places if _is_confirmed(side, held, shape)), None)
        if found is not None:
            yield found


def _places(values: Tensor, parameter: Tensor) -> Iterator[Tensor | None]:
    """Where the flattened ``values`` may be in a parameter: in the same places, transposed, or in another order."""
    if values.numel() != parameter.numel() or (values.dtype, values.device) != (parameter.dtype, parameter.device):
        return
    mine, theirs = values.detach().flatten(), parameter.detach().flatten()
    if torch.equal(mine, theirs):
        yield None
    if values.ndim > 1:
        turned = torch.arange(len(theirs), device=theirs.device).view(-1, len(values)).T.flatten()
        if torch.equal(mine, theirs[turned]):
            yield turned
    if mine.is_complex():
        return
    (first, here), (second, there) = mine.sort(), theirs.sort()
    if torch.equal(first, second) and bool((first[1:] != first[:-1]).all()):
        yield torch.empty_like(there).index_copy_(0, here, there)


def _is_confirmed(side: Side, held: Held, shape: tuple[int, ...]) -> bool:
    """Whether other values of the parameter change the results as they change the layer's."""
    generator = torch.Generator().manual_seed(0)

    def integers(*sizes: int) -> Tensor:
        drawn = torch.randint(-_LARGEST, _LARGEST + 1, sizes, generator=generator)
        return drawn.to(held.parameter.dtype).to(held.parameter.device)

    values = integers(held.parameter.numel())
    values = values.view(getattr(held.layer, held.key).shape)
    dense, taps = layer_with(held.layer, shape, **{held.key: values})
    x = integers(_ROWS, dense.in_features)
    try:
        y = side.function.recorded(x, {id(held.parameter): nn.Parameter(held.in_parameter(values))}).detach()
    except EquivError:
        return False
    if y.dtype != x.dtype:
        return False
    tried = ((None, taps), (None, taps)) if taps is not None else ((None,), (None,))
    bias = None if dense.bias is None else dense.bias.detach()
    weight = dense.weight.detach()
    rows = Comparison(y.reshape(_ROWS, -1), y.reshape(_ROWS, -1), x, weight, bias, alternative_weights=tried)
    return y.numel() == _ROWS * len(weight) and compare_rows(rows)[0].equivalent
