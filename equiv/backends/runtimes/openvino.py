"""OpenVINO on the CPU: a compiled model for each ONNX graph of a layer."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from dataclasses import replace
from functools import cache, partial
from importlib import import_module
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from equiv.backends.capabilities import Capabilities
from equiv.backends.runtimes.arrays import ArrayRuntime, Layer, Program
from equiv.backends.runtimes.base import Defect
from equiv.backends.runtimes.graphs import is_integer, onnx_model

_DOUBLE = (torch.float64,)
_INTEGERS = (torch.int16, torch.int32, torch.int64)


def _is_cut(dtypes: tuple[torch.dtype, ...], backend: Any) -> bool:
    """Whether a number that float32 does not hold does not come through a layer of weight 1, or is a sum of 256."""
    for dtype in dtypes:
        number = torch.tensor([[2**24 + 1 if dtype != torch.int16 else 2**14 + 1]], dtype=dtype)
        weight = torch.ones(1, 1, dtype=dtype)
        if dtype == torch.int16:
            number, weight = number.expand(1, 2049), weight.expand(1, 2049)  # an odd sum above 2**25
        exact = (number.double() * weight.double()).sum(1, keepdim=True).long().to(dtype)
        if not torch.equal(backend.linear(number, weight), exact):
            return True
    return False


def leaves_float32(dtypes: tuple[torch.dtype, ...], call: Any) -> bool:
    """Whether a call in one of these dtypes has a value, or may have a sum, that float32 does not hold."""
    if call.input.dtype not in dtypes:
        return False
    values = [one.detach().double() for one in (call.input, call.weight, call.bias) if one is not None and one.numel()]
    if any(bool((one != one.float()).any() | (one != one.round()).any()) for one in values):
        return True  # NaN is no number that float32 holds
    largest = [float(one.abs().amax()) for one in values]
    sums: float = math.prod(call.weight.shape[1:]) * math.prod(largest[:2]) + sum(largest[2:])
    return sums > 2**24


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
    defects = (
        Defect("openvino-float64-in-float32", partial(leaves_float32, _DOUBLE), partial(_is_cut, _DOUBLE)),
        Defect("openvino-integers-in-float32", partial(leaves_float32, _INTEGERS), partial(_is_cut, _INTEGERS)),
    )

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

    @property
    def capabilities(self) -> Capabilities:
        """A hint of 16 bits makes a layer of float32 one of that dtype, which is served in its place."""
        narrow = self._narrow
        return Capabilities(gradient_order=0, forward_mode=False, dtypes=None if narrow is None else [narrow])

    @property
    def _narrow(self) -> torch.dtype | None:
        """The 16-bit dtype that float32 is computed in by the hint or by default."""
        hint = self.arguments["precision"]
        if hint == "default":
            hint = str(_core().get_property("CPU", "INFERENCE_PRECISION_HINT").get_type_name())
        return {"bfloat16": torch.bfloat16, "bf16": torch.bfloat16, "float16": torch.float16, "f16": torch.float16}.get(
            hint
        )

    def key(self, layer: Layer) -> Layer:
        """Graphs of dense layers serve all sizes, those of convolutions any input."""
        if self.arguments["shapes"] == "static":
            return layer
        return replace(layer, input=(0,) * len(layer.input)) if layer.dims else layer.of_any_size

    def graph(self, layer: Layer, constants: tuple[Any, ...] = ()) -> bytes:
        """The model that is compiled."""
        open_sizes = "input" if layer.dims else "dynamic"
        shapes = open_sizes if self.arguments["shapes"] == "dynamic" else "static"
        int8 = "integer" if is_integer(layer) else ""
        return onnx_model(layer, opset=self.arguments["opset"], shapes=shapes, int8=int8, constants=constants)

    def build(self, layer: Layer, constants: tuple[Any, ...]) -> Program:
        """A compiled model."""
        compiled = _core().compile_model(_core().read_model(self.graph(layer, constants)), "CPU", self._config())
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
        if self._narrow is not None:
            wide = replace(layer, dtype=torch.float32)
            return super()._run(wide, x.float(), weight.float(), None if bias is None else bias.float()).to(layer.dtype)
        if not is_integer(layer):
            return super()._run(layer, x, weight, bias)
        y = super()._run(layer, x, weight, None if bias is None else bias.int())
        if x.ndim == 1 and y.ndim == 2:
            raise NotImplementedError("MatMulInteger of a vector is a matrix, docs/findings/openvino-vectors.md")
        return y.to(layer.dtype)  # modulo 256


@cache
def _core() -> Any:
    return import_module("openvino").Core()
