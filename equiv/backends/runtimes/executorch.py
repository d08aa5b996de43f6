"""ExecuTorch: a program of one operator, exported by torch and run by ExecuTorch's runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from equiv.backends.capabilities import Capabilities
from equiv.backends.runtimes.arrays import ArrayRuntime, Layer, Program
from equiv.mapping import CONVS, Conv

_XNNPACK = ["float32", "float16"]
_PORTABLE = ["float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8"]


class ExecuTorch(ArrayRuntime):
    """``nn.Linear`` and ``nn.Conv1d/2d``, lowered to ExecuTorch, with their weights in the program.

    Args:
        kernels: XNNPACK, to which the operator is delegated, or ExecuTorch's portable ones.

    Example:
        >>> import torch
        >>> ExecuTorch(kernels="portable").linear(torch.ones(1, 2), torch.ones(3, 2)).tolist()  # doctest: +SKIP
        [[2.0, 2.0, 2.0]]
    """

    title = "executorch"
    needs: ClassVar[Mapping[str, str]] = {"executorch": "executorch"}
    extra = "executorch"
    holds_weights = True

    def __init__(self, *, kernels: Literal["xnnpack", "portable"] = "xnnpack") -> None:
        super().__init__(kernels=kernels)
        self.capabilities = Capabilities(
            dtypes=_XNNPACK if kernels == "xnnpack" else _PORTABLE,
            spatial_ranks=(1, 2),
            empty_batches=False,  # it ends the process
            empty_layers=False,
            gradient_order=0,
            forward_mode=False,
            concurrent=False,
        )

    def build(self, layer: Layer, constants: tuple[Any, ...]) -> Program:
        """A program with these weights, loaded."""
        from executorch.exir import to_edge_transform_and_lower
        from executorch.runtime import Runtime

        if layer.is_empty:
            raise NotImplementedError("ExecuTorch ends the process where a tensor is empty")
        partitioners = []
        if self.arguments["kernels"] == "xnnpack":
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

            partitioners.append(XnnpackPartitioner())
        example = torch.zeros(layer.input, dtype=layer.dtype)
        exported = torch.export.export(_module(layer, *map(torch.from_numpy, constants)), (example,))
        program = to_edge_transform_and_lower(exported, partitioner=partitioners).to_executorch()
        method = Runtime.get().load_program(program.buffer).load_method("forward")
        return lambda x: method.execute([torch.from_numpy(x)])[0].numpy()


def _module(layer: Layer, weight: Tensor, bias: Tensor | None = None) -> nn.Module:
    made: nn.Linear | Conv
    if layer.dims:
        steps = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation, "groups": layer.groups}
        channels = layer.input[1], layer.weight[0]
        made = CONVS[layer.dims](*channels, layer.weight[2:], bias=layer.bias, device="meta", **steps)
    else:
        made = nn.Linear(layer.weight[1], layer.weight[0], bias=layer.bias, device="meta")
    made.weight = nn.Parameter(weight, requires_grad=False)
    made.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
    return made
