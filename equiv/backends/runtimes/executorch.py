"""ExecuTorch: a program of one operator, exported by torch and run by ExecuTorch's runtime."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from equiv.backends.capabilities import Capabilities
from equiv.backends.runtimes.arrays import ArrayRuntime, Layer, Program
from equiv.backends.runtimes.spoiled import DEPTHWISE, FLUSHES, HALF_SUMS
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
    needs: ClassVar[Mapping[str, str]] = {
        name: name for name in ("executorch", "torchao", "ruamel.yaml", "tabulate", "expecttest")
    }
    extra = "executorch"
    slow = True
    defects = (*FLUSHES, HALF_SUMS, DEPTHWISE)
    holds_weights = True

    def __init__(self, *, kernels: Literal["xnnpack", "portable"] = "xnnpack") -> None:
        super().__init__(kernels=kernels)
        self.capabilities = Capabilities(
            dtypes=_XNNPACK if kernels == "xnnpack" else _PORTABLE,
            spatial_ranks=(1, 2),
            gradient_order=0,
            forward_mode=False,
            concurrent=False,
        )

    def build(self, layer: Layer, constants: tuple[Any, ...]) -> Program:
        """A program with these weights, loaded."""
        from executorch.exir import to_edge_transform_and_lower
        from executorch.runtime import Runtime

        partitioners = _partitioners() if self.arguments["kernels"] == "xnnpack" else []
        example = torch.zeros(layer.input, dtype=layer.dtype)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own deprecations
            exported = torch.export.export(_module(layer, *map(torch.from_numpy, constants)), (example,))
            program = to_edge_transform_and_lower(exported, partitioner=partitioners).to_executorch()
        loaded = Runtime.get().load_program(program.buffer)
        method = loaded.load_method("forward")

        def run(x: Any) -> Any:
            assert loaded  # a method whose program is gone reads memory that is free
            given = torch.empty(layer.input, dtype=layer.dtype).copy_(torch.from_numpy(x))  # with torch's own strides
            return method.execute([given])[0].numpy()

        return run


def _partitioners() -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

        return [XnnpackPartitioner()]


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
