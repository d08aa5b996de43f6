"""IREE: StableHLO, compiled for this machine's CPU and run by IREE's own runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from equiv.backends.capabilities import Capabilities
from equiv.backends.runtimes.arrays import ArrayRuntime, Layer, Program
from equiv.backends.runtimes.spoiled import FLUSHES, HALF_SUMS

_ELEMENTS = {
    torch.float32: "f32",
    torch.float64: "f64",
    torch.float16: "f16",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.int16: "i16",
    torch.int8: "i8",
}


class Iree(ArrayRuntime):
    """``stablehlo.dot_general`` and ``stablehlo.convolution``, compiled by IREE with its target ``llvm-cpu``.

    Example:
        >>> import torch
        >>> Iree().linear(torch.ones(1, 2), torch.ones(3, 2)).tolist()  # doctest: +SKIP
        [[2.0, 2.0, 2.0]]
    """

    title = "iree"
    needs: ClassVar[Mapping[str, str]] = {
        "iree.compiler": "iree-base-compiler",
        "iree.runtime": "iree-base-runtime",
    }
    extra = "iree"
    defects = (*FLUSHES, HALF_SUMS)
    capabilities = Capabilities(dtypes=list(_ELEMENTS), gradient_order=0, forward_mode=False, concurrent=False)

    def __init__(self) -> None:
        super().__init__()

    def build(self, layer: Layer, constants: tuple[Any, ...]) -> Program:  # noqa: ARG002 - it holds none
        """A compiled module, loaded."""
        from iree import compiler, runtime

        options = ["--iree-llvmcpu-target-cpu=host", "--iree-input-demote-f64-to-f32=false"]
        try:
            module = compiler.compile_str(
                _program(layer), input_type="stablehlo", target_backends=["llvm-cpu"], extra_args=options
            )
        except compiler.CompilerToolError as error:
            if layer.dims and 1 in layer.result[2:] and "inferred input/output operand" in str(error):
                reason = "IREE does not compile it, docs/findings/iree-stride-beyond-the-map.md"
                raise NotImplementedError(reason) from error
            raise
        main = runtime.load_vm_flatbuffer(module, driver="local-sync").main
        return lambda *arrays: main(*arrays).to_host()


def _program(layer: Layer) -> str:
    """The function as text."""
    x, weight, bias, y = (
        _tensor(shape, layer.dtype) for shape in (layer.input, layer.weight, layer.weight[:1], layer.result)
    )
    last = f", %bias: {bias}" if layer.bias else ""
    lines = [f"func.func @main(%x: {x}, %weight: {weight}{last}) -> {y} {{"]
    lines.append(f"%sums = {_product(layer)} : ({x}, {weight}) -> {y}")
    if layer.bias:
        channels = 1 if layer.dims else len(layer.result) - 1
        lines.append(f"%wide = stablehlo.broadcast_in_dim %bias, dims = [{channels}] : ({bias}) -> {y}")
        lines.append(f"%y = stablehlo.add %sums, %wide : {y}")
    return "\n".join([*lines, f"return %{'y' if layer.bias else 'sums'} : {y}", "}"])


def _product(layer: Layer) -> str:
    if not layer.dims:
        return f"stablehlo.dot_general %x, %weight, contracting_dims = [{len(layer.input) - 1}] x [1]"
    places = ", ".join(map(str, range(layer.dims)))
    pads = ", ".join(f"[{pad}, {pad}]" for pad in layer.padding)
    return (
        f"stablehlo.convolution(%x, %weight) dim_numbers = [b, f, {places}]x[o, i, {places}]->[b, f, {places}], "
        f"window = {{stride = {list(layer.stride)}, pad = [{pads}], rhs_dilate = {list(layer.dilation)}}} "
        f"{{batch_group_count = 1 : i64, feature_group_count = {layer.groups} : i64}}"
    )


def _tensor(shape: Sequence[int], dtype: torch.dtype) -> str:
    return f"tensor<{''.join(f'{size}x' for size in shape)}{_ELEMENTS[dtype]}>"
