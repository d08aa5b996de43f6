"""ONNX Runtime on the CPU: a session for each graph of a layer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from equiv.backends.capabilities import Capabilities
from equiv.backends.runtimes.arrays import ArrayRuntime, Layer, Program
from equiv.backends.runtimes.base import Defect, saturating
from equiv.backends.runtimes.graphs import is_integer, onnx_model

_LEVELS = {"off": "DISABLE_ALL", "basic": "ENABLE_BASIC", "extended": "ENABLE_EXTENDED", "all": "ENABLE_ALL"}


def _has_no_columns(call: Any) -> bool:
    """A linear layer of int8 or uint8 without inputs."""
    return _is_int8_linear(call) and call.weight.shape[1] == 0


def _is_int8_linear(call: Any) -> bool:
    return call.form == "linear" and call.input.dtype in (torch.int8, torch.uint8)


def _keeps_stale_memory(backend: Any) -> bool:
    """Whether a product over no columns is what was in memory: the result before it, of the same size."""
    ones = torch.ones(8, 1, dtype=torch.int8)
    for _ in range(2):
        backend.linear(7 * ones, ones)
        if backend.linear(ones[:, :0], ones[:, :0]).any():
            return True
    return False


class OnnxRuntime(ArrayRuntime):
    """ONNX Runtime's CPU kernels, through graphs of Gemm, MatMul and Conv.

    Args:
        opset: Of the graph.
        level: What the session optimizes.
        linear: The operator of a dense layer of inputs ``(N, n)``; others are MatMul.
        shapes: Whether the graph leaves the sizes open, or a session is made for each.
        weights: Whether they are inputs of the graph or constants in it, which are optimized ahead.
        int8: How layers of int8 and uint8 are written: ``integer`` as MatMulInteger and ConvInteger, whose int32
            results are cut to 8 bits; ``qdq`` as dequantized operands and a quantized result, which serves
            the calls alone whose results 8 bits hold.
        threads: Within an operator.

    Example:
        >>> import pytest
        >>> _ = pytest.importorskip("onnxruntime"), pytest.importorskip("onnx")
        >>> OnnxRuntime(level="off").linear(torch.ones(1, 2), torch.ones(3, 2)).tolist()
        [[2.0, 2.0, 2.0]]
    """

    title = "onnxruntime"
    needs: ClassVar[Mapping[str, str]] = {"onnx": "onnx", "onnxruntime": "onnxruntime"}
    extra = "onnxruntime"
    capabilities = Capabilities(gradient_order=0, forward_mode=False)
    defects = (
        Defect("onnxruntime-matmulinteger-without-columns", _has_no_columns, _keeps_stale_memory),
        *saturating("onnxruntime-matmulinteger-saturates"),
    )

    def __init__(
        self,
        *,
        opset: int = 18,
        level: Literal["off", "basic", "extended", "all"] = "all",
        linear: Literal["Gemm", "MatMul"] = "Gemm",
        shapes: Literal["dynamic", "static"] = "dynamic",
        weights: Literal["input", "constant"] = "input",
        int8: Literal["integer", "qdq"] = "integer",
        threads: int = 1,
    ) -> None:
        given = {"opset": opset, "level": level, "linear": linear, "shapes": shapes, "weights": weights}
        super().__init__(**given, int8=int8, threads=threads)
        self.holds_weights = weights == "constant"

    def key(self, layer: Layer) -> Layer:
        """Graphs whose sizes are open serve all of them."""
        return layer.of_any_size if self.arguments["shapes"] == "dynamic" else layer

    def graph(self, layer: Layer, constants: tuple[Any, ...] = ()) -> bytes:
        """The model that a session is made of."""
        how = {name: self.arguments[name] for name in ("opset", "linear", "shapes")}
        int8 = self.arguments["int8"] if is_integer(layer) else ""
        return onnx_model(layer, **how, int8=int8, constants=constants)

    def build(self, layer: Layer, constants: tuple[Any, ...]) -> Program:
        """A session."""
        ort: Any = import_module("onnxruntime")
        refused: Any = ort.capi.onnxruntime_pybind11_state
        options = ort.SessionOptions()
        options.log_severity_level = 4  # what it has to say is in its errors
        options.intra_op_num_threads = self.arguments["threads"]
        options.graph_optimization_level = getattr(
            ort.GraphOptimizationLevel, f"ORT_{_LEVELS[self.arguments['level']]}"
        )
        try:
            session = ort.InferenceSession(self.graph(layer, constants), options, providers=["CPUExecutionProvider"])
        except (refused.NotImplemented, refused.InvalidGraph) as error:
            raise NotImplementedError(str(error)) from error
        names = [one.name for one in session.get_inputs()]

        def run(*arrays: Any) -> Any:
            return session.run(None, dict(zip(names, arrays, strict=True)))[0]

        return run

    def _run(self, layer: Layer, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not is_integer(layer):
            return super()._run(layer, x, weight, bias)
        if self.arguments["int8"] == "qdq":
            _check_in_range(x, weight, bias, layer)
        y = super()._run(layer, x, weight, None if bias is None else bias.int())
        return y.to(layer.dtype)  # modulo 256


def _check_in_range(x: Tensor, weight: Tensor, bias: Tensor | None, layer: Layer) -> None:
    """Refuse what quantization cuts off, or what float32 need not hold on the way: it is lost by definition."""
    exact = layer.function(*(None if t is None else t.long() for t in (x, weight, bias)), **layer.steps)
    limits = torch.iinfo(layer.dtype)
    if exact.numel() and not limits.min <= int(exact.min()) <= int(exact.max()) <= limits.max:
        raise NotImplementedError(f"a result beyond {limits.dtype}, which a quantized one cuts off")
    if math.prod(layer.weight[1:]) > 2**8:  # products below 2**16, and integers up to 2**24 in float32
        raise NotImplementedError("a sum that float32 need not hold exactly")
