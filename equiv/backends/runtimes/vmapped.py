"""``torch.vmap``: a layer on one sample, or with one output, over all of them at once."""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from torch import Tensor

from equiv.backends.capabilities import Capabilities
from equiv.backends.runtimes.layers import Layer, LayerRuntime, Program


class Vmapped(LayerRuntime):
    """torch.vmap of torch's own functions, over the samples or over the outputs.

    Args:
        over: ``input`` for one sample at a time, ``weight`` for a layer of one output at a time.

    Example:
        >>> Vmapped(over="weight").linear(torch.ones(1, 2), torch.ones(3, 2)).tolist()
        [[2.0, 2.0, 2.0]]
    """

    title = "torch.vmap"
    torchs = True
    capabilities = Capabilities()

    def __init__(self, *, over: Literal["input", "weight"] = "input") -> None:
        super().__init__(over=over)

    def key(self, layer: Layer) -> Layer:
        """A function serves all sizes."""
        return layer.of_any_size

    def build(self, layer: Layer, constants: tuple[Any, ...]) -> Program:  # noqa: ARG002 - it holds none
        """A function of tensors."""
        function, steps = layer.function, layer.steps
        if self.arguments["over"] == "input":
            return _over_samples(layer)
        if layer.groups > 1:
            raise NotImplementedError("an output of a convolution in groups takes the channels of its group alone")

        def one(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
            return function(x, weight[None], None if bias is None else bias[None], **steps)

        def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
            given = (x, weight) if bias is None else (x, weight, bias)
            over = (None, 0, 0)[: len(given)]
            y: Any = torch.vmap(one, in_dims=over, out_dims=-1)(*given)
            # (*batch, 1, O), or (N, 1, *out, O)
            return cast(Tensor, y.movedim(-1, -2 - layer.dims).squeeze(-1 - layer.dims))

        return run


def _over_samples(layer: Layer) -> Program:
    function, steps = layer.function, layer.steps
    if len(layer.input) == max(1, layer.dims + 1):
        raise NotImplementedError("there is no batch dimension to map over")

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        y: Tensor = torch.vmap(lambda sample: function(sample, weight, bias, **steps))(x)
        if y.ndim != x.ndim and not len(x):
            raise NotImplementedError("vmap over no samples, see docs/findings/vmap-of-convolutions-over-no-samples.md")
        return y

    return run
