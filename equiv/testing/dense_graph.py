"""The dense layer that an ONNX model is, read off it in float64 by inputs with a single one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

_LARGEST = 2**12  # features of a sample


def shape_of(model: Any) -> tuple[int, ...] | None:
    """The shape of the only input of a model, an open number of samples as 4; None where there is no such shape."""
    held = {one.name for one in model.graph.initializer}
    inputs = [one for one in model.graph.input if one.name not in held]
    if len(inputs) != 1:
        return None
    sizes = [one.dim_value for one in inputs[0].type.tensor_type.shape.dim]
    shape = (sizes[0] or 4, *sizes[1:]) if sizes else ()
    return shape if len(shape) > 1 and all(shape) and math.prod(shape[1:]) <= _LARGEST else None


def layer_of(model: Any) -> nn.Module | None:
    """What a model computes on each sample, as a dense layer in float32.

    None where the model is no such layer: it is not affine, mixes samples, or has weights that float32 does not hold,
    as with a batch norm that is not folded.
    """
    shape = shape_of(model)
    if shape is None:
        return None
    try:
        run = _in_float64(model)
        samples, n = shape[0], math.prod(shape[1:])
        zero = run(torch.zeros(shape, dtype=torch.float64))
        bias, ones = zero[0].flatten(), torch.eye(n, dtype=torch.float64)
        columns = []
        for some in torch.split(ones, samples):
            rows = torch.cat([some, torch.zeros(samples - len(some), n, dtype=torch.float64)])
            columns.append((run(rows.reshape(shape)) - zero).flatten(1)[: len(some)])
        weight = torch.cat(columns).T
        x = torch.linspace(-1, 1, math.prod(shape), dtype=torch.float64).reshape(shape)
        found, expected = run(x).flatten(1), x.flatten(1) @ weight.T + bias
        size = x.flatten(1).abs() @ weight.abs().T + bias.abs()
        is_it = found.shape == expected.shape and bool(((found - expected).abs() <= 2.0**-40 * size).all())
    except Exception:  # the reference of ONNX does not run it
        return None
    kept = (v.float().double() for v in (weight, bias))
    if not is_it or not all(torch.equal(a, b) for a, b in zip(kept, (weight, bias), strict=True)):
        return None
    linear = nn.Linear(n, len(bias), device="meta")
    linear.weight, linear.bias = (nn.Parameter(v.float(), requires_grad=False) for v in (weight, bias))
    parts = [nn.Flatten()] * (len(shape) > 2) + [linear] + [nn.Unflatten(1, zero.shape[1:])] * (zero.ndim > 2)
    return nn.Sequential(*parts).eval() if len(parts) > 1 else linear


def _in_float64(model: Any) -> Callable[[Tensor], Tensor]:
    """The model by the reference of ONNX, with float64 wherever it has float32."""
    from onnx import TensorProto, numpy_helper
    from onnx.reference import ReferenceEvaluator

    wide = type(model)()
    wide.CopyFrom(model)
    held = [*wide.graph.initializer]
    held += [a.t for node in wide.graph.node if node.op_type == "Constant" for a in node.attribute if a.name == "value"]
    for one in held:
        if one.data_type == TensorProto.FLOAT:
            one.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(one).astype("float64"), one.name))
    for one in (*wide.graph.input, *wide.graph.output):
        one.type.tensor_type.elem_type = TensorProto.DOUBLE
    del wide.graph.value_info[:]
    evaluator, names = ReferenceEvaluator(wide), {one.name for one in wide.graph.initializer}
    name = next(one.name for one in wide.graph.input if one.name not in names)
    return lambda x: torch.from_numpy(cast(Any, evaluator.run(None, {name: x.numpy()}))[0].copy())
