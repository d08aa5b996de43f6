"""The ONNX graph of a layer, as exporters write it: Gemm or MatMul for a dense layer, Conv for a convolution."""

from __future__ import annotations

from typing import Any

import torch

from equiv.backends.runtimes.arrays import Layer
from equiv.dtypes import dtype_name

DYNAMIC, INPUT, STATIC = "dynamic", "input", "static"
"""Which sizes of a graph are open: all, those of the input, or none."""


def onnx_model(
    layer: Layer, *, opset: int, linear: str = "Gemm", shapes: str = DYNAMIC, int8: str = "", constants: Any = ()
) -> bytes:
    """A model of one layer from ``input``, ``weight`` and ``bias`` to ``output``.

    Args:
        layer: The kind of call.
        opset: Version of ONNX's operators.
        linear: ``Gemm``, which exporters write for inputs ``(N, n)``, or ``MatMul``, which they write for others.
        shapes: Which sizes are open: ``dynamic`` for all, ``input`` for those of the input alone, or ``static``.
        int8: For layers of int8 and uint8: ``integer``, the operators MatMulInteger and ConvInteger, which return
            int32; or ``qdq``, dequantized operands and a quantized result, of scale 1.
        constants: Weight and bias, where they are not inputs.
    """
    from onnx import TensorProto, helper, numpy_helper

    name = dtype_name(layer.dtype)
    if (name := _NAMES.get(name, name)) not in _NAMED:
        raise NotImplementedError(f"ONNX has no operators of {dtype_name(layer.dtype)}")
    types: dict[str, int] = {dtype: getattr(TensorProto, dtype.upper()) for dtype in _NAMED}
    kind = types[name]
    wide = kind if not int8 or int8 == "qdq" else TensorProto.INT32
    sizes: dict[str, tuple[Any, ...]] = {
        "input": layer.input,
        "weight": layer.weight,
        **({"bias": layer.weight[:1]} if layer.bias else {}),
    }
    fixed = {DYNAMIC: (), INPUT: ("weight", "bias"), STATIC: (*sizes, "output")}[shapes]
    sizes = {name: size if name in fixed else _open(name, size) for name, size in sizes.items()}
    result = layer.result if "output" in fixed else _open("output", layer.result)
    held = dict(zip(("weight", "bias"), constants, strict=False))
    of = {"bias": TensorProto.INT32} if int8 else {}
    nodes = _quantized(helper, layer, linear) if int8 == "qdq" else _plain(helper, layer, linear, bool(int8))
    initializers = [numpy_helper.from_array(value, name) for name, value in held.items()]
    if int8 == "qdq":
        initializers += [
            helper.make_tensor("one", TensorProto.FLOAT, (), [1.0]),
            helper.make_tensor("zero", kind, (), [0]),
            helper.make_tensor("zero_32", TensorProto.INT32, (), [0]),
        ]
    inputs = [
        helper.make_tensor_value_info(name, of.get(name, kind), size)
        for name, size in sizes.items()
        if name not in held
    ]
    outputs = [helper.make_tensor_value_info("output", wide, result)]
    graph = helper.make_graph(nodes, "layer", inputs, outputs, initializers)
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets))
    serialized: bytes = model.SerializeToString()
    return serialized


def _open(name: str, size: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(f"{name}_{i}" for i in range(len(size)))


_NAMES = {"float32": "float", "float64": "double"}
_NAMED = ("float", "double", "float16", "bfloat16", "int8", "uint8", "int16", "int32", "int64")


def _plain(
    helper: Any, layer: Layer, linear: str, integer: bool, names: tuple[str, str, str] | None = None
) -> list[Any]:
    x, weight, bias = names or ("input", "weight", "bias")
    given = [x, weight, bias][: 2 + layer.bias]
    if layer.dims:
        pads = [*layer.padding, *layer.padding]
        steps: dict[str, Any] = {
            "strides": layer.stride,
            "dilations": layer.dilation,
            "pads": pads,
            "group": layer.groups,
        }
        if not integer:
            return [helper.make_node("Conv", given, ["output"], **steps)]
        nodes = [helper.make_node("ConvInteger", given[:2], ["product"], **steps)]
        if not layer.bias:
            return [helper.make_node("ConvInteger", given[:2], ["output"], **steps)]
        column = [1, -1, *(1,) * layer.dims]
        shape = helper.make_node("Constant", [], ["column"], value_ints=column)
        return [
            *nodes,
            shape,
            helper.make_node("Reshape", [bias, "column"], ["column_bias"]),
            helper.make_node("Add", ["product", "column_bias"], ["output"]),
        ]
    if linear == "Gemm" and len(layer.input) == 2 and not integer and layer.dtype.is_floating_point:
        return [helper.make_node("Gemm", given, ["output"], transB=1)]
    product = "product" if layer.bias else "output"
    nodes = [
        helper.make_node("Transpose", [weight], ["columns"], perm=[1, 0]),
        helper.make_node("MatMulInteger" if integer else "MatMul", [x, "columns"], [product]),
    ]
    return nodes + [helper.make_node("Add", [product, bias], ["output"])] * layer.bias


def _quantized(helper: Any, layer: Layer, linear: str) -> list[Any]:
    """Operands dequantized, the layer in float32, its result quantized again."""
    names = ["input", "weight", *["bias"] * layer.bias]
    zeros = {"bias": "zero_32"}
    nodes = [
        helper.make_node("DequantizeLinear", [name, "one", zeros.get(name, "zero")], [f"{name}_real"]) for name in names
    ]
    nodes += _plain(helper, layer, linear, False, ("input_real", "weight_real", "bias_real"))
    nodes[-1].output[0] = "output_real"
    return [*nodes, helper.make_node("QuantizeLinear", ["output_real", "one", "zero"], ["output"])]


def is_integer(layer: Layer) -> bool:
    """Whether a layer is of int8 or uint8, for which ONNX has operators of their own."""
    return layer.dtype in (torch.int8, torch.uint8)
