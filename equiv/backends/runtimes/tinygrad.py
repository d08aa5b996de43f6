"""tinygrad: kernels that it generates as C and compiles with clang."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from equiv.backends.capabilities import Capabilities
from equiv.backends.runtimes.arrays import ArrayRuntime, Layer, Program


class Tinygrad(ArrayRuntime):
    """``Tensor.linear`` and ``Tensor.conv2d`` on tinygrad's CPU device, which needs clang.

    Example:
        >>> import torch
        >>> Tinygrad().linear(torch.ones(1, 2), torch.ones(3, 2)).tolist()  # doctest: +SKIP
        [[2.0, 2.0, 2.0]]
    """

    title = "tinygrad"
    needs: ClassVar[Mapping[str, str]] = {"tinygrad": "tinygrad"}
    extra = "tinygrad"
    capabilities = Capabilities(
        dtypes=["float32", "float64", "float16", "int32", "int64"],  # it adds smaller integers in int32
        gradient_order=0,
        forward_mode=False,
        concurrent=False,
    )

    def __init__(self) -> None:
        super().__init__()

    def build(self, layer: Layer, constants: tuple[Any, ...]) -> Program:  # noqa: ARG002 - it holds none
        """A function of arrays; tinygrad keeps its kernels itself."""
        from tinygrad import Tensor

        def program(*arrays: Any) -> Any:
            x, weight, *bias = (Tensor(one, device="CPU") for one in arrays)
            if not layer.dims:
                return x.linear(weight.T, *bias).numpy()
            steps = {"stride": layer.stride, "dilation": layer.dilation, "padding": layer.padding}
            return x.conv2d(weight, *bias, groups=layer.groups, **steps).numpy()

        return program
