"""JAX: XLA's compiler for the CPU, through ``dot_general`` and ``conv_general_dilated``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from equiv.backends.capabilities import Capabilities
from equiv.backends.runtimes.arrays import ArrayRuntime, Layer, Program
from equiv.backends.runtimes.spoiled import FLUSHES
from equiv.dtypes import COMPLEX, FLOATS, INTEGERS, dtype_name


class Jax(ArrayRuntime):
    """One function for each kind of call, compiled ahead of time by XLA for the CPU. 64-bit values stay so.

    Example:
        >>> import torch
        >>> Jax().linear(torch.ones(1, 2), torch.ones(3, 2)).tolist()  # doctest: +SKIP
        [[2.0, 2.0, 2.0]]
    """

    title = "jax"
    needs: ClassVar[Mapping[str, str]] = {"jax": "jax"}
    extra = "jax"
    defects = FLUSHES
    capabilities = Capabilities(
        dtypes=[dtype for dtype in (*FLOATS, *COMPLEX, *INTEGERS) if dtype_name(dtype) != "bfloat16"],
        gradient_order=0,
        forward_mode=False,
    )

    def __init__(self) -> None:
        super().__init__()

    def build(self, layer: Layer, constants: tuple[Any, ...]) -> Program:  # noqa: ARG002 - it holds none
        """A compiled function of arrays."""
        import jax
        import numpy as np

        cpu, dtype = jax.devices("cpu")[0], dtype_name(layer.dtype)
        shapes = (layer.input, layer.weight, layer.weight[:1])[: 3 if layer.bias else 2]
        with jax.enable_x64(True), jax.default_device(cpu):
            kinds = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
            compiled = jax.jit(_function(layer)).lower(*kinds).compile()

        def program(*arrays: Any) -> Any:
            with jax.enable_x64(True), jax.default_device(cpu):
                return np.asarray(compiled(*arrays))

        return program


def _function(layer: Layer) -> Program:
    from jax import lax

    def product(x: Any, weight: Any) -> Any:
        if not layer.dims:
            return lax.dot_general(x, weight, (((x.ndim - 1,), (1,)), ((), ())))
        pads = [(pad, pad) for pad in layer.padding]
        steps = {"rhs_dilation": layer.dilation, "feature_group_count": layer.groups}
        return lax.conv_general_dilated(x, weight, layer.stride, pads, **steps)

    def function(x: Any, weight: Any, bias: Any = None) -> Any:
        y = product(x, weight)
        return y if bias is None else y + bias.reshape(-1, *(1,) * layer.dims)

    return function
