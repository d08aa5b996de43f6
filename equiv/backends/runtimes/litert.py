"""LiteRT, once TensorFlow Lite: a model of one operator, which holds its weights, through its interpreter."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from equiv.backends.capabilities import Capabilities
from equiv.backends.runtimes.arrays import ArrayRuntime, Layer, Program
from equiv.backends.runtimes.spoiled import CLAMPS, DEPTHWISE, FLUSHES

_RESOLVERS = {"xnnpack": "AUTO", "builtin": "BUILTIN_WITHOUT_DEFAULT_DELEGATES", "reference": "BUILTIN_REF"}


class LiteRT(ArrayRuntime):
    """``FULLY_CONNECTED``, ``CONV_2D`` (for lines too, as maps of height 1) and ``CONV_3D``, channels last.

    Args:
        kernels: Who computes: XNNPACK, LiteRT's own, or its reference.

    Example:
        >>> import torch
        >>> LiteRT().linear(torch.ones(1, 2), torch.ones(3, 2)).tolist()  # doctest: +SKIP
        [[2.0, 2.0, 2.0]]
    """

    title = "litert"
    needs: ClassVar[Mapping[str, str]] = {"ai_edge_litert": "ai-edge-litert", "flatbuffers": "flatbuffers"}
    extra = "litert"
    defects = (*FLUSHES, DEPTHWISE, CLAMPS)
    holds_weights = True
    capabilities = Capabilities(
        dtypes=["float32"],
        empty_batches=False,
        empty_layers=False,
        padding=False,  # "same" or none
        gradient_order=0,
        forward_mode=False,
        concurrent=False,
    )

    def __init__(self, *, kernels: Literal["xnnpack", "builtin", "reference"] = "xnnpack") -> None:
        super().__init__(kernels=kernels)

    def build(self, layer: Layer, constants: tuple[Any, ...]) -> Program:
        """An interpreter of a model with these weights."""
        import numpy as np
        from ai_edge_litert import interpreter

        if layer.is_empty or any(layer.padding) or (layer.dims == 3 and layer.groups > 1):
            raise NotImplementedError("LiteRT serves no empty tensors, no given padding and no groups in CONV_3D")
        x = _last(np.zeros(layer.input, "float32"), layer.dims)
        weight = _kernel(constants[0], layer.dims)
        bias = constants[1] if layer.bias else np.zeros(layer.weight[0], "float32")  # CONV_2D has none without
        run = interpreter.Interpreter(
            model_content=_model(layer, x.shape, [weight, bias]),
            experimental_op_resolver_type=getattr(interpreter.OpResolverType, _RESOLVERS[self.arguments["kernels"]]),
            num_threads=1,
        )
        run.allocate_tensors()

        def program(x: Any) -> Any:
            run.set_tensor(0, _last(x, layer.dims))
            run.invoke()
            return _first(run.get_tensor(1), layer.dims).reshape(layer.result)

        return program


def _last(x: Any, dims: int) -> Any:
    """Channels last; rows of a linear layer as one batch, lines as maps of height 1."""
    import numpy as np

    if not dims:
        return np.ascontiguousarray(x.reshape(-1, x.shape[-1]))
    return np.ascontiguousarray(np.moveaxis(x[:, :, None] if dims == 1 else x, 1, -1))


def _kernel(weight: Any, dims: int) -> Any:
    """Channels of the result first and those of the input last; in CONV_3D the other way round."""
    import numpy as np

    return np.ascontiguousarray(weight.transpose(2, 3, 4, 1, 0)) if dims == 3 else _last(weight, dims)


def _first(y: Any, dims: int) -> Any:
    import numpy as np

    return np.moveaxis(y, -1, 1) if dims else y


def _model(layer: Layer, shape: Sequence[int], constants: Sequence[Any]) -> bytes:
    """The flatbuffer: tensor 0 is the input, 1 the result, the constants follow."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    def buffer(data: bytes | None = None) -> Any:
        made = schema.BufferT()
        made.data = data
        return made

    def tensor(shape: Sequence[int], place: int) -> Any:
        made = schema.TensorT()
        made.shape, made.type, made.buffer, made.name = list(shape), schema.TensorType.FLOAT32, place, str(place)
        return made

    result: tuple[int, ...] = (math.prod(layer.result[:-1]), layer.weight[0])
    if layer.dims:
        result = (layer.input[0], *(1,) * (layer.dims == 1), *layer.result[2:], layer.weight[0])
    model, graph, code, operator = schema.ModelT(), schema.SubGraphT(), schema.OperatorCodeT(), schema.OperatorT()
    model.version, model.operatorCodes, model.subgraphs = 3, [code], [graph]
    model.buffers = [buffer(), buffer(), *(buffer(one.tobytes()) for one in constants)]
    shapes = [shape, result, *(one.shape for one in constants)]
    graph.tensors = [tensor(one, max(0, place)) for place, one in enumerate(shapes)]
    graph.inputs, graph.outputs, graph.operators = [0], [1], [operator]
    operator.inputs, operator.outputs = [0, *range(2, len(shapes))], [1]
    kind, operator.builtinOptions = _options(layer)
    operator.builtinOptionsType = getattr(
        schema.BuiltinOptions, type(operator.builtinOptions).__name__.removesuffix("T")
    )
    code.builtinCode = getattr(schema.BuiltinOperator, kind)
    code.deprecatedBuiltinCode = min(code.builtinCode, 127)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def _options(layer: Layer) -> tuple[str, Any]:
    """The operator and its options."""
    from ai_edge_litert import schema_py_generated as schema

    if not layer.dims:
        return "FULLY_CONNECTED", schema.FullyConnectedOptionsT()
    options = schema.Conv3DOptionsT() if layer.dims == 3 else schema.Conv2DOptionsT()
    options.padding = schema.Padding.VALID
    for name, stride, dilation in zip("WHD", reversed(layer.stride), reversed(layer.dilation), strict=False):
        setattr(options, f"stride{name}", stride)
        setattr(options, f"dilation{name}Factor", dilation)
    if layer.dims == 1:
        options.strideH = 1
    return f"CONV_{max(2, layer.dims)}D", options
