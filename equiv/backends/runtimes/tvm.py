"""Apache TVM: a Relax function with one operator, compiled by LLVM for this machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from equiv.backends.capabilities import Capabilities
from equiv.backends.runtimes.arrays import ArrayRuntime, Layer, Program
from equiv.backends.runtimes.spoiled import HALF_SUMS
from equiv.dtypes import dtype_name


class Tvm(ArrayRuntime):
    """``relax.op.linear`` and ``relax.op.nn.conv1d/2d/3d`` through TVM's default pipeline.

    Example:
        >>> import torch
        >>> Tvm().linear(torch.ones(1, 2), torch.ones(3, 2)).tolist()  # doctest: +SKIP
        [[2.0, 2.0, 2.0]]
    """

    title = "tvm"
    needs: ClassVar[Mapping[str, str]] = {"tvm": "apache-tvm"}
    extra = "tvm"
    defects = (HALF_SUMS,)
    capabilities = Capabilities(
        dtypes=["float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8"],
        gradient_order=0,
        forward_mode=False,
        concurrent=False,
    )

    def __init__(self) -> None:
        super().__init__()

    def build(self, layer: Layer, constants: tuple[Any, ...]) -> Program:  # noqa: ARG002 - it holds none
        """A compiled function of arrays."""
        import tvm
        from tvm import relax

        dtype = dtype_name(layer.dtype)
        shapes = {"x": layer.input, "weight": layer.weight, "bias": layer.weight[:1]}
        if not layer.bias:
            del shapes["bias"]
        given = [relax.Var(name, relax.TensorType(shape, dtype)) for name, shape in shapes.items()]
        builder = relax.BlockBuilder()
        with builder.function("main", given):
            builder.emit_func_output(builder.emit(_result(layer, *given)))
        compiled = tvm.compile(builder.get(), target="llvm")
        main = relax.VirtualMachine(compiled, tvm.cpu())["main"]
        return lambda *arrays: main(*map(tvm.runtime.tensor, arrays)).numpy()


def _result(layer: Layer, x: Any, weight: Any, bias: Any = None) -> Any:
    from tvm import relax

    if not layer.dims:
        return relax.op.linear(x, weight, bias)
    conv = (relax.op.nn.conv1d, relax.op.nn.conv2d, relax.op.nn.conv3d)[layer.dims - 1]
    y = conv(x, weight, layer.stride, layer.padding, layer.dilation, layer.groups)
    return y if bias is None else y + relax.op.reshape(bias, (1, -1, *(1,) * layer.dims))
