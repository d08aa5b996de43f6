"""Small ONNX graphs of both forms, as exporters write them, each with the torch module that it must compute."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

C, H, W, OUT, ROWS = 3, 4, 5, 7, 6
"""Channels, height and width of a map, outputs of a layer, and rows or samples."""


@dataclass(frozen=True)
class Graph:
    """An ONNX model with one input ``x`` and one output ``y``, and what it must compute.

    Attributes:
        name: What is special about it; ``-integers`` is added where all of its numbers are small integers.
        model: The ``onnx.ModelProto``.
        layer: The same map as a torch module in eval mode.
        inputs: Of the module; the last ones are integers.
        is_exact: Whether no right kernel rounds anything, for inputs of integers.
        turned: Whether the graph takes the input transposed.
    """

    name: str
    model: Any
    layer: nn.Module
    inputs: tuple[Tensor, ...]
    is_exact: bool = False
    turned: bool = False

    def feed(self, x: Tensor) -> Tensor:
        """What the graph takes for an input of the module."""
        return x.mT.contiguous() if self.turned else x

    def exact(self, x: Tensor) -> Tensor:
        """The result in float64."""
        import copy

        with torch.no_grad():
            y: Tensor = copy.deepcopy(self.layer).double()(x.double())
        return y


@dataclass
class _Builder:
    """Nodes and constants of a graph as they come, on drawn numbers."""

    integers: bool
    seed: int
    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(self.seed)

    def drawn(self, *shape: int) -> Tensor:
        """Numbers for a parameter or an input."""
        if self.integers:
            return torch.randint(-4, 5, shape, generator=self.generator).float()
        return torch.randn(shape, generator=self.generator)

    def node(self, op: str, given: Sequence[str], output: str, **attributes: Any) -> str:
        from onnx import helper

        self.nodes.append(helper.make_node(op, list(given), [output], name=output, **attributes))
        return output

    def constant(self, name: str, value: Any) -> str:
        from onnx import numpy_helper

        values = torch.as_tensor(value).detach().contiguous().numpy()
        self.constants.append(numpy_helper.from_array(values, name))
        return name

    def reshape(self, given: str, shape: Sequence[int], output: str) -> str:
        shape_of = self.constant(f"{output}_shape", torch.tensor(shape, dtype=torch.int64))
        return self.node("Reshape", [given, shape_of], output)

    def linear(self, n: int = C * H * W) -> nn.Linear:
        linear: nn.Linear = _filled(nn.Linear(n, OUT, device="meta"), self)
        return linear

    def conv(self, kernel: tuple[int, int], **options: Any) -> nn.Conv2d:
        conv: nn.Conv2d = _filled(nn.Conv2d(C, OUT, kernel, device="meta", **options), self)
        return conv

    def norm(self, norm: Any) -> Any:
        """A batch norm with statistics far from the usual; its epsilon shows beside the variance."""
        made = _filled(norm, self)
        made._buffers["running_mean"] = self.drawn(OUT)
        made._buffers["running_var"] = torch.rand(OUT, generator=self.generator) * 0.01 + 0.001
        return made.eval()

    def bn(self, given: str, norm: Any, output: str) -> str:
        parts = {"scale": norm.weight, "shift": norm.bias, "mean": norm.running_mean, "var": norm.running_var}
        names = [self.constant(name, value) for name, value in parts.items()]
        return self.node("BatchNormalization", [given, *names], output, epsilon=norm.eps)

    def gemm(self, given: str, layer: nn.Linear, output: str, **attributes: Any) -> str:
        weight = layer.weight if attributes.get("transB") else layer.weight.T
        names = [self.constant("weight", weight), self.constant("bias", layer.bias)]
        return self.node("Gemm", [given, *names], output, **attributes)

    def convolve(self, given: str, conv: nn.Conv2d, output: str) -> str:
        names = [self.constant("weight", conv.weight)]
        names += [] if conv.bias is None else [self.constant("bias", conv.bias)]
        pads = [int(p) for p in conv.padding] * 2
        return self.node("Conv", [given, *names], output, pads=pads, strides=list(conv.stride))


def _filled(module: Any, b: _Builder) -> Any:
    """A module with drawn parameters, without a draw from torch's global generator."""
    for name, parameter in tuple(module.named_parameters()):
        setattr(module, name, nn.Parameter(b.drawn(*parameter.shape), requires_grad=False))
    return module.eval()


def _gemm(b: _Builder) -> nn.Module:
    layer = b.linear()
    b.gemm("x", layer, "y", transB=1)
    return layer


def _gemm_of_a_transposed_input(b: _Builder) -> nn.Module:
    layer = b.linear()
    b.gemm(b.node("Transpose", ["x"], "rows", perm=[1, 0]), layer, "y", transB=1)
    return layer


def _gemm_of_a_transposed_weight(b: _Builder) -> nn.Module:
    layer = b.linear()
    columns = b.node("Transpose", [b.constant("weight", layer.weight)], "columns", perm=[1, 0])
    b.node("Gemm", ["x", columns, b.constant("bias", layer.bias)], "y")
    return layer


def _square_gemm(b: _Builder) -> nn.Module:
    """Where a transposed weight has the same shape."""
    layer = b.linear(OUT)
    b.gemm("x", layer, "y")
    return layer


def _matmul_and_add(b: _Builder) -> nn.Module:
    layer = b.linear()
    product = b.node("MatMul", ["x", b.constant("weight", layer.weight.T)], "product")
    b.node("Add", [product, b.constant("bias", layer.bias)], "y")
    return layer


def _gemm_and_batch_norm(b: _Builder) -> nn.Module:
    layer, norm = b.linear(), b.norm(nn.BatchNorm1d(OUT, device="meta"))
    b.bn(b.gemm("x", layer, "dense", transB=1), norm, "y")
    return nn.Sequential(layer, norm)


def _flattened_gemm(b: _Builder) -> nn.Module:
    layer = b.linear()
    b.gemm(b.node("Flatten", ["x"], "rows", axis=1), layer, "y", transB=1)
    return nn.Sequential(nn.Flatten(), layer)


def _full_conv_and_reshape(b: _Builder) -> nn.Module:
    conv = b.conv((H, W))
    b.reshape(b.convolve("x", conv, "map"), (-1, OUT), "y")
    return nn.Sequential(conv, nn.Flatten())


def _full_conv_between_reshapes(b: _Builder) -> nn.Module:
    conv = b.conv((H, W))
    b.reshape(b.convolve(b.reshape("x", (-1, C, H, W), "maps"), conv, "map"), (-1, OUT), "y")
    return nn.Sequential(nn.Unflatten(1, (C, H, W)), conv, nn.Flatten())


def _pointwise_conv(b: _Builder) -> nn.Module:
    conv = b.conv((1, 1))
    b.convolve("x", conv, "y")
    return conv


def _padded_conv(b: _Builder) -> nn.Module:
    conv = b.conv((3, 3), padding=1)
    b.convolve("x", conv, "y")
    return conv


def _strided_conv(b: _Builder) -> nn.Module:
    conv = b.conv((2, 3), stride=2, padding=(0, 1))
    b.convolve("x", conv, "y")
    return conv


def _conv_and_add(b: _Builder) -> nn.Module:
    conv = b.conv((3, 3))
    product = b.node("Conv", ["x", b.constant("weight", conv.weight)], "product")
    assert conv.bias is not None
    b.node("Add", [product, b.constant("bias", conv.bias.reshape(1, OUT, 1, 1))], "y")
    return conv


def _conv_and_batch_norm(b: _Builder) -> nn.Module:
    conv, norm = b.conv((3, 3)), b.norm(nn.BatchNorm2d(OUT, device="meta"))
    b.bn(b.convolve("x", conv, "map"), norm, "y")
    return nn.Sequential(conv, norm)


def _conv_without_bias_and_batch_norm(b: _Builder) -> nn.Module:
    conv, norm = b.conv((3, 3), bias=False), b.norm(nn.BatchNorm2d(OUT, device="meta"))
    b.bn(b.convolve("x", conv, "map"), norm, "y")
    return nn.Sequential(conv, norm)


_SCALE = {"x": 0.25, "weight": 0.125, "y": 2.0**-5}


def _dequantized(b: _Builder, name: str, value: Tensor) -> str:
    zero = b.constant(f"{name}_zero", torch.tensor(0, dtype=torch.int8))
    scale = b.constant(f"{name}_scale", torch.tensor(_SCALE[name]))
    return b.node("DequantizeLinear", [b.constant(name, value.to(torch.int8)), scale, zero], f"{name}_real")


def _quantized_and_back(b: _Builder, given: str, name: str, output: str) -> str:
    zero = b.constant(f"{name}_zero", torch.tensor(0, dtype=torch.int8))
    scale = b.constant(f"{name}_scale", torch.tensor(_SCALE[name]))
    narrow = b.node("QuantizeLinear", [given, scale, zero], f"{name}_narrow")
    return b.node("DequantizeLinear", [narrow, scale, zero], output)


def _ternary(b: _Builder, *shape: int) -> Tensor:
    return torch.randint(-1, 2, shape, generator=b.generator).float()


def _quantized_gemm(b: _Builder) -> nn.Module:
    layer = b.linear()
    weight = _ternary(b, *layer.weight.shape)
    bias = _ternary(b, OUT) * _SCALE["y"]
    layer.weight, layer.bias = (nn.Parameter(v, requires_grad=False) for v in (weight * _SCALE["weight"], bias))
    given = [_quantized_and_back(b, "x", "x", "x_real"), _dequantized(b, "weight", weight), b.constant("bias", bias)]
    _quantized_and_back(b, b.node("Gemm", given, "dense", transB=1), "y", "y")
    return layer


def _quantized_conv(b: _Builder) -> nn.Module:
    conv = b.conv((3, 3))
    weight, bias = _ternary(b, *conv.weight.shape), _ternary(b, OUT) * _SCALE["y"]
    conv.weight, conv.bias = (nn.Parameter(v, requires_grad=False) for v in (weight * _SCALE["weight"], bias))
    given = [_quantized_and_back(b, "x", "x", "x_real"), _dequantized(b, "weight", weight), b.constant("bias", bias)]
    _quantized_and_back(b, b.node("Conv", given, "map"), "y", "y")
    return conv


_ROWS, _MAPS = (ROWS, C * H * W), (ROWS, C, H, W)

BUILDERS: dict[str, tuple[Callable[[_Builder], nn.Module], tuple[int, ...]]] = {
    "gemm": (_gemm, _ROWS),
    "square-gemm": (_square_gemm, (ROWS, OUT)),
    "gemm-of-a-transposed-input": (_gemm_of_a_transposed_input, _ROWS),
    "gemm-of-a-transposed-weight": (_gemm_of_a_transposed_weight, _ROWS),
    "matmul-and-add": (_matmul_and_add, _ROWS),
    "flattened-gemm": (_flattened_gemm, _MAPS),
    "gemm-and-batch-norm": (_gemm_and_batch_norm, _ROWS),
    "full-conv-and-reshape": (_full_conv_and_reshape, _MAPS),
    "full-conv-between-reshapes": (_full_conv_between_reshapes, _ROWS),
    "pointwise-conv": (_pointwise_conv, _MAPS),
    "padded-conv": (_padded_conv, _MAPS),
    "strided-conv": (_strided_conv, _MAPS),
    "conv-and-add": (_conv_and_add, _MAPS),
    "conv-and-batch-norm": (_conv_and_batch_norm, _MAPS),
    "conv-without-bias-and-batch-norm": (_conv_without_bias_and_batch_norm, _MAPS),
    "quantized-gemm": (_quantized_gemm, _ROWS),
    "quantized-conv": (_quantized_conv, _MAPS),
}
"""How each graph is built, and the shape of the module's input."""


def graph(name: str, *, integers: bool = False, seed: int = 0, opset: int = 18) -> Graph:
    """One of :data:`BUILDERS`, with numbers drawn from a seed."""
    from onnx import TensorProto, helper

    build, shape = BUILDERS[name]
    b = _Builder(integers, seed)
    layer = build(b)
    quantized, turned = name.startswith("quantized"), "transposed-input" in name
    if quantized:
        inputs: tuple[Tensor, ...] = (_ternary(b, *shape) * _SCALE["x"],)
    else:
        whole = torch.randint(-4, 5, shape, generator=b.generator).float()
        inputs = (whole,) if integers else (torch.randn(shape, generator=b.generator), whole)
    with torch.no_grad():
        sizes = (tuple(reversed(shape)) if turned else shape, tuple(layer(inputs[0]).shape))
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, size) for n, size in zip("xy", sizes, strict=True))
    constants = {one.name: one for one in b.constants}
    made = helper.make_graph(b.nodes, name, [x], [y], list(constants.values()))
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    exact = quantized or (integers and "norm" not in name)
    return Graph(name + "-integers" * (integers and not quantized), model, layer, inputs, exact, turned)


def graphs(*, seed: int = 0, opset: int = 18) -> list[Graph]:
    """All of them: on normal numbers, and on integers, where every right kernel gives the same bits."""
    found = [graph(name, seed=seed + i, opset=opset) for i, name in enumerate(BUILDERS)]
    names = (name for name in BUILDERS if not name.startswith("quantized") and "norm" not in name)
    return found + [graph(name, integers=True, seed=seed + i, opset=opset) for i, name in enumerate(names)]
