"""``torch.export``: a layer as a module whose graph is traced once for each kind of call."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from equiv.backends.capabilities import Capabilities
from equiv.backends.runtimes.layers import Layer, LayerRuntime, Program


class Exported(LayerRuntime):
    """torch.export, with input, weight and bias as inputs of the program.

    Args:
        dynamic: Whether the first size of the input is left open, where it is above 1, or each has its program.

    Example:
        >>> Exported().linear(torch.ones(1, 2), torch.ones(3, 2)).tolist()
        [[2.0, 2.0, 2.0]]
    """

    title = "torch.export"
    torchs = True
    slow = True
    capabilities = Capabilities(gradient_order=0, forward_mode=False)

    def __init__(self, *, dynamic: bool = True) -> None:
        super().__init__(dynamic=dynamic)

    def key(self, layer: Layer) -> Layer:
        """Programs for batches of every size above 1, or for each size."""
        return layer.of_any_batch if self.arguments["dynamic"] else layer

    def build(self, layer: Layer, constants: tuple[Any, ...]) -> Program:  # noqa: ARG002 - it holds none
        """The module of an exported program."""
        return cast(Program, program_of(layer, dynamic=self.arguments["dynamic"]).module())


class AsModule(nn.Module):
    """A call of this kind as a module of input, weight and bias."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.function, self.steps = layer.function, layer.steps

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """What torch's own function returns."""
        return self.function(x, weight, bias, **self.steps)


def program_of(layer: Layer, *, dynamic: bool) -> Any:
    """The exported program of a kind of call."""
    shapes = [layer.input, layer.weight, *[layer.weight[:1]] * layer.bias]
    if dynamic and layer.has_open_batch:
        shapes[0] = (3, *layer.input[1:])
    given = tuple(torch.ones(shape, dtype=layer.dtype) for shape in shapes)
    names = ("x", "weight", "bias")[: len(given)]
    sizes: dict[str, Any] = dict.fromkeys(names)
    if dynamic and layer.has_open_batch:
        sizes["x"] = {0: torch.export.Dim("batch", min=2)}
    return torch.export.export(AsModule(layer), given, dynamic_shapes=sizes)
