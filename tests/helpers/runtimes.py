"""Stand-ins for sessions of runtimes: a dense layer at one shape and dtype, with the errors and results of real ones.

The messages are those of onnxruntime 1.32, openvino 2026.4, jax 0.10 and torch.export of torch 2.13. Each is a function
of ``(linear, shape, dtype)``; None in a shape is any size.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn


class InvalidArgument(Exception):  # noqa: N818 - the name that onnxruntime gives it
    pass


def _dense(linear, dtype):
    """The layer with its weights in a dtype, from array to array of any rank."""
    weight, bias = (p.detach().to(dtype) for p in (linear.weight, linear.bias))
    return lambda x: (torch.from_numpy(x.copy()) @ weight.T + bias).numpy()


def onnxruntime(linear, shape, dtype=torch.float32):
    """Takes numpy arrays of one rank, shape and dtype; returns a list."""
    dense, names = _dense(linear, dtype), {"float32": "float", "float64": "double"}

    def run(_, feed):
        (x,) = feed.values()
        if not isinstance(x, np.ndarray):
            raise RuntimeError("Input must be a list of dictionaries or a single numpy array for input 'x'.")
        head, wanted = "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : ", str(dtype).removeprefix("torch.")
        if str(x.dtype) != wanted:
            got, wanted = (names.get(name, name) for name in (str(x.dtype), wanted))
            raise InvalidArgument(
                f"{head}Unexpected input data type. Actual: (tensor({got})) , expected: (tensor({wanted}))"
            )
        advice = " Please fix either the inputs/outputs or the model."
        if x.ndim != len(shape):
            raise InvalidArgument(f"{head}Invalid rank for input: x Got: {x.ndim} Expected: {len(shape)}{advice}")
        wrong = [(i, a, b) for i, (a, b) in enumerate(zip(x.shape, shape, strict=True)) if b not in (None, a)]
        if wrong:
            lines = "".join(f"\n index: {i} Got: {a} Expected: {b}" for i, a, b in wrong)
            told = f"Got invalid dimensions for input: x for the following indices{lines}"
            raise InvalidArgument(f"{head}{told}\n{advice}")
        return [dense(x)]

    return lambda x: run(None, {"x": x.numpy() if isinstance(x, torch.Tensor) else x})


class OVDict(Mapping):
    """Results by output, as openvino returns them."""

    def __init__(self, results):
        self._results = results

    def __getitem__(self, key):
        return self._results[key]

    def __iter__(self):
        return iter(self._results)

    def __len__(self):
        return len(self._results)


def openvino(linear, shape, dtype=torch.float32):
    """Takes whatever has values of one shape, in any dtype; returns a mapping of arrays that it writes to again."""
    dense, memory = _dense(linear, dtype), {}

    def run(x):
        given = np.asarray(x)
        if given.ndim != len(shape) or any(b not in (None, a) for a, b in zip(given.shape, shape, strict=True)):
            sizes = ",".join("?" if size is None else str(size) for size in shape)
            got = ".".join(map(str, given.shape))
            raise RuntimeError(
                "Exception from src/inference/src/cpp/infer_request.cpp:117:\n"
                "Exception from src/inference/src/cpp/infer_request.cpp:67:\n"
                "Check 'shape.compatible(ov::PartialShape(tensor->get_shape()))' failed at "
                "src/plugins/intel_cpu/src/infer_request.cpp:385:\nCan't set the input tensor with index: 0, because "
                f"the model input (shape=[{sizes}]) and the tensor (shape=({got})) are incompatible\n\n\n"
            )
        y = dense(given.astype(str(dtype).removeprefix("torch.")))
        out = memory.setdefault(y.shape, np.empty_like(y))
        out[:] = y
        return OVDict({"y": out})

    return run


class Array:
    """What only tells its values to numpy, which cannot write to them, as an array of jax."""

    def __init__(self, values):
        self._values = values
        self._values.flags.writeable = False

    def __array__(self, dtype=None, copy=None):
        return self._values


def jax(linear, shape, dtype=torch.float32):
    """Takes arrays of one shape and dtype, tensors never; returns an array of its own."""
    dense = _dense(linear, dtype)

    def run(x):
        if not isinstance(x, np.ndarray):
            raise TypeError(
                "Error interpreting argument to <function <lambda>> as an abstract array. The problematic value is of "
                "type <class 'torch.Tensor'> and was passed to the function at path x.\nThis typically means that a "
                "jit-wrapped function was called with a non-array argument, and this argument was not marked as static."
            )
        wanted = f"{str(dtype).removeprefix('torch.')}[{','.join(map(str, shape))}]"
        got = f"{x.dtype}[{','.join(map(str, x.shape))}]"
        if got != wanted:
            raise TypeError(
                "Argument types differ from the types for which this computation was compiled. The mismatches are:\n"
                f"Argument 'x' compiled with {wanted} and called with {got}"
            )
        return Array(dense(x))

    return run


def exported(linear, shape, dtype=torch.float32):
    """Takes tensors of one shape; says of the first size that is another one which it wants."""
    weight, bias = (p.detach().to(dtype) for p in (linear.weight, linear.bias))

    def run(x):
        for i, size in enumerate(shape):
            if size is not None and (x.ndim <= i or x.shape[i] != size):
                raise AssertionError(f"Guard failed: input.size()[{i}] == {size}")
        if x.ndim != len(shape):
            raise AssertionError(f"Guard failed: input.dim() == {len(shape)}")
        return nn.functional.linear(x, weight, bias)

    return run


RUNTIMES = {"onnxruntime": onnxruntime, "openvino": openvino, "jax": jax, "exported": exported}
