"""OpenVINO on the CPU: a compiled model for each ONNX graph of a layer."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib import import_module
from typing import Any, ClassVar, Literal

from torch import Tensor

from equiv.backends.capabilities import Capabilities
from equiv.backends.runtimes.arrays import ArrayRuntime, Layer, Program
from equiv.backends.runtimes.graphs import is_integer, onnx_model


class OpenVino(ArrayRuntime):
    """OpenVINO's CPU plugin, through graphs of Gemm, MatMul and Conv.

    Args:
        precision: The hint of what float32 is computed in. ``default`` leaves it to OpenVINO, which takes bfloat16 or
            float16 where the CPU has them.
        shapes: Whether the sizes of the input are left open, and for dense layers all sizes, or a model is compiled for
            each.
        weights: Whether they are inputs of the graph or constants in it.
        opset: Of the graph.
        threads: Of one inference.

    Example:
        >>> import pytest, torch
        >>> _ = pytest.importorskip("openvino"), pytest.importorskip("onnx")
        >>> OpenVino().linear(torch.ones(1, 2), torch.ones(3, 2)).tolist()
        [[2.0, 2.0, 2.0]]
    """

    title = "openvino"
    needs: ClassVar[Mapping[str, str]] = {"onnx": "onnx", "openvino": "openvino"}
    extra = "openvino"
    capabilities = Capabilities(gradient_order=0, forward_mode=False)

    def __init__(
        self,
        *,
        precision: Literal["float32", "bfloat16", "float16", "default"] = "float32",
        shapes: Literal["dynamic", "static"] = "dynamic",
        weights: Literal["input", "constant"] = "input",
        opset: int = 18,
        threads: int = 1,
    ) -> None:
        super().__init__(precision=precision, shapes=shapes, weights=weights, opset=opset, threads=threads)
        self.holds_weights = weights == "constant"

    def key(self, layer: Layer) -> Layer:
        """Graphs of dense layers serve all sizes, those of convolutions any input."""
        if self.arguments["shapes"] == "static":
            return layer
        return replace(layer, input=(0,) * len(layer.input)) if layer.dims else layer.of_any_size

    def build(self, layer: Layer, constants: tuple[Any, ...]) -> Program:
        """A compiled model."""
        open_sizes = "input" if layer.dims else "dynamic"
        shapes = open_sizes if self.arguments["shapes"] == "dynamic" else "static"
        int8 = "integer" if is_integer(layer) else ""
        model = _core().read_model(
            onnx_model(layer, opset=self.arguments["opset"], shapes=shapes, int8=int8, constants=constants)
        )
        compiled = _core().compile_model(model, "CPU", self._config())
        own = threading.local()  # a request is for one thread

        def run(*arrays: Any) -> Any:
            if not hasattr(own, "request"):
                own.request = compiled.create_infer_request()
            return own.request.infer(list(arrays), share_inputs=True)[0]

        return run

    def _config(self) -> dict[str, Any]:
        config: dict[str, Any] = {"INFERENCE_NUM_THREADS": self.arguments["threads"], "CACHE_DIR": ""}
        hint = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}.get(self.arguments["precision"])
        return config if hint is None else {**config, "INFERENCE_PRECISION_HINT": hint}

    def _run(self, layer: Layer, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not is_integer(layer):
            return super()._run(layer, x, weight, bias)
        return super()._run(layer, x, weight, None if bias is None else bias.int()).to(layer.dtype)  # modulo 256


@cache
def _core() -> Any:
    return import_module("openvino").Core()
