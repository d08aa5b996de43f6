"""Values of many kinds that somebody may hand to any argument, each made anew by a function of no arguments."""

from __future__ import annotations

import copy
import functools
import math
import warnings
from collections.abc import Callable, Iterator
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.parameter import UninitializedParameter

Make = Callable[[], Any]


class StrangeError(RuntimeError):
    """What the objects below raise."""


def raises(*_: Any, **__: Any) -> Any:
    raise StrangeError("on\n\x1b[31mpurpose" + "!" * 2000)


def object_with(**methods: Any) -> Any:
    """An object whose class has these methods."""
    return type("Strange", (), methods)()


class RaisingTensor(Tensor):
    """A subclass in which every operation of torch raises."""

    @classmethod
    def __torch_function__(cls, *_: Any, **__: Any) -> Any:
        raise StrangeError("no operation is served")


class Whole(int):
    """A subclass of int."""


class Word(str):
    """A subclass of str."""


class Colour(Enum):
    RED = 1


def endless() -> Iterator[int]:
    """What never ends, as far as anybody should look."""
    yield from range(10**5)
    raise StrangeError("read on and on")


class NoForward(nn.Module):
    """A module without parameters, whose forward raises."""

    def forward(self, *_: Any) -> Tensor:
        raise StrangeError("no forward")


class Answers(nn.Module):
    """A module that answers with the same object whatever it is given."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, _: Any) -> Any:
        return self.answer


def rows(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.ones(5, 12, dtype=torch.float32).to(dtype)


def fake() -> Tensor:
    with FakeTensorMode() as mode:
        return mode.from_tensor(torch.ones(5, 12))


def quantized() -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.ones(5, 12), 0.1, 0, torch.qint8)


def nested(layout: torch.layout) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor([torch.ones(2, 12), torch.ones(3, 12)], layout=layout)


def linear(**changes: Any) -> nn.Linear:
    layer = nn.Linear(12, 5, device="meta")
    layer.weight = nn.Parameter(torch.arange(60.0).reshape(5, 12))
    layer.bias = nn.Parameter(torch.arange(5.0))
    for name, value in changes.items():
        vars(layer)[name] = value
    return layer


def conv() -> nn.Conv2d:
    layer = nn.Conv2d(3, 5, 2, device="meta")
    layer.weight = nn.Parameter(torch.arange(60.0).reshape(5, 3, 2, 2))
    layer.bias = nn.Parameter(torch.arange(5.0))
    return layer


def scripted() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(linear())


def traced() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(linear(), torch.ones(2, 12))


def normed() -> nn.Module:
    return nn.utils.parametrizations.weight_norm(copy.deepcopy(linear()))


def recursive() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


PLAIN: dict[str, Make] = {
    "none": lambda: None,
    "true": lambda: True,
    "false": lambda: False,
    "ellipsis": lambda: ...,
    "not_implemented": lambda: NotImplemented,
    "zero": lambda: 0,
    "one": lambda: 1,
    "minus": lambda: -1,
    "seventeen": lambda: 17,
    "2**31": lambda: 2**31,
    "2**40": lambda: 2**40,
    "2**62": lambda: 2**62,
    "2**63": lambda: 2**63,
    "-2**63": lambda: -(2**63),
    "2**64": lambda: 2**64,
    "10**30": lambda: 10**30,
    "-10**30": lambda: -(10**30),
    "10**5000": lambda: 10**5000,
    "half": lambda: 0.5,
    "float2": lambda: 2.0,
    "tiny": lambda: 5e-324,
    "huge": lambda: 1e308,
    "nan": lambda: math.nan,
    "inf": lambda: math.inf,
    "-inf": lambda: -math.inf,
    "complex": lambda: 1j,
    "decimal": lambda: Decimal(2),
    "fraction": lambda: Fraction(1, 2),
    "whole": lambda: Whole(2),
    "enum": lambda: Colour.RED,
    "empty_string": lambda: "",
    "x": lambda: "x",
    "float32": lambda: "float32",
    "cpu": lambda: "cpu",
    "cuda": lambda: "cuda:0",
    "meta": lambda: "meta",
    "linear": lambda: "linear",
    "forward": lambda: "forward",
    "nul": lambda: "a\0b",
    "surrogate": lambda: "a\ud800b",
    "escape": lambda: "\x1b[31mred\x1b[0m",
    "newlines": lambda: "a\nb\r\nc",
    "long": lambda: "x" * 5000,
    "word": lambda: Word("float32"),
    "bytes": lambda: b"float32",
    "bytearray": lambda: bytearray(b"x"),
    "memoryview": lambda: memoryview(b"x"),
    "empty_list": list,
    "empty_tuple": tuple,
    "empty_dict": dict,
    "empty_set": set,
    "list": lambda: [1, 2],
    "floats": lambda: [[1.0] * 12] * 5,
    "shape": lambda: (3, 2, 2),
    "size": lambda: torch.Size([3, 2, 2]),
    "shape_zero": lambda: (3, 0, 2),
    "shape_negative": lambda: (3, -2, 2),
    "shape_large": lambda: (3, 2**31, 2**31),
    "shape_huge": lambda: (10**30, 2),
    "ragged": lambda: [[1], [2, 3]],
    "recursive": recursive,
    "dict": lambda: {"a": 1},
    "odd_dict": lambda: {1: "a", None: []},
    "range": lambda: range(3),
    "generator": lambda: (i for i in (3, 2, 2)),
    "endless": endless,
    "zip": lambda: zip([1], [2], strict=True),
    "slice": lambda: slice(3),
    "path": lambda: Path("x"),
    "object": object,
    "class": lambda: nn.Linear,
    "type": lambda: type,
    "module": lambda: math,
    "exception": lambda: ValueError("x"),
    "exception_class": lambda: ValueError,
    "lambda": lambda: lambda x: x,
    "builtin": lambda: len,
    "partial": lambda: functools.partial(nn.functional.linear, weight=torch.ones(5, 12)),
    "method": lambda: linear().forward,
    "returns_none": lambda: lambda *_, **__: None,
    "returns_list": lambda: lambda x, *_, **__: [x],
    "returns_more": lambda: lambda x, *_, **__: torch.ones(len(x), 99),
    "call_raises": lambda: raises,
}

STRANGE: dict[str, Make] = {
    "repr_raises": lambda: object_with(__repr__=raises),
    "str_raises": lambda: object_with(__str__=raises, __repr__=raises),
    "eq_raises": lambda: object_with(__eq__=raises, __hash__=object.__hash__),
    "unhashable": lambda: object_with(__eq__=lambda *_: True),
    "equals_all": lambda: object_with(__eq__=lambda *_: True, __hash__=lambda _: 1),
    "hash_raises": lambda: object_with(__hash__=raises),
    "bool_raises": lambda: object_with(__bool__=raises),
    "len_raises": lambda: object_with(__len__=raises),
    "iter_raises": lambda: object_with(__iter__=raises),
    "next_raises": lambda: object_with(__iter__=lambda s: s, __next__=raises),
    "index_raises": lambda: object_with(__index__=raises),
    "index_is_word": lambda: object_with(__index__=lambda _: "x"),
    "float_raises": lambda: object_with(__float__=raises),
    "compares_raise": lambda: object_with(__lt__=raises, __le__=raises, __gt__=raises, __ge__=raises),
    "attributes_raise": lambda: object_with(__getattr__=raises),
    "has_everything": lambda: object_with(__getattr__=lambda *_: 1),
    "fspath_raises": lambda: object_with(__fspath__=raises),
    "torch_function": lambda: object_with(__torch_function__=classmethod(raises)),
    "array_raises": lambda: object_with(__array__=raises),
}

ARRAYS: dict[str, Make] = {
    "array": lambda: np.ones((5, 12), dtype=np.float32),
    "array_of_sizes": lambda: np.array([3, 2, 2]),
    "array_of_words": lambda: np.array(["float32", "int8"]),
    "array_of_objects": lambda: np.array([None, {}], dtype=object),
    "array_scalar": lambda: np.array(3),
    "empty_array": lambda: np.array([]),
    "numpy_int": lambda: np.int64(2),
    "numpy_uint": lambda: np.uint8(2),
    "numpy_float": lambda: np.float32(2),
    "numpy_bool": lambda: np.bool_(True),
    "numpy_word": lambda: np.str_("float32"),
    "numpy_dtype": lambda: np.dtype("float32"),
    "numpy_type": lambda: np.float32,
}

TORCH: dict[str, Make] = {
    "dtype": lambda: torch.float32,
    "dtype_bool": lambda: torch.bool,
    "dtype_uint16": lambda: torch.uint16,
    "dtype_float8": lambda: torch.float8_e4m3fn,
    "dtype_qint8": lambda: torch.qint8,
    "dtype_complex32": lambda: torch.complex32,
    "dtype_half": lambda: torch.float16,
    "dtype_int8": lambda: torch.int8,
    "device": lambda: torch.device("cpu"),
    "device_meta": lambda: torch.device("meta"),
    "device_cuda": lambda: torch.device("cuda:99"),
    "layout": lambda: torch.strided,
    "generator_of_torch": torch.Generator,
}

TENSORS: dict[str, Make] = {
    **{
        f"rows_{str(dtype).removeprefix('torch.')}": functools.partial(rows, dtype)
        for dtype in (
            torch.float32,
            torch.float64,
            torch.float16,
            torch.bfloat16,
            torch.complex64,
            torch.complex128,
            torch.complex32,
            torch.bool,
            torch.uint8,
            torch.uint16,
            torch.uint64,
            torch.int8,
            torch.int64,
            torch.float8_e4m3fn,
            torch.float8_e5m2,
        )
    },
    "scalar": lambda: torch.tensor(2.0),
    "scalar_int": lambda: torch.tensor(2),
    "scalar_bool": lambda: torch.tensor(True),
    "one_entry": lambda: torch.tensor([2]),
    "empty": lambda: torch.empty(0),
    "no_rows": lambda: torch.empty(0, 12),
    "no_columns": lambda: torch.empty(5, 0),
    "row": lambda: torch.ones(12),
    "five": lambda: torch.ones(5),
    "five_five": lambda: torch.ones(5, 5),
    "rank3": lambda: torch.ones(2, 5, 12),
    "rank6": lambda: torch.ones(1, 1, 1, 1, 5, 12),
    "maps": lambda: torch.ones(5, 3, 2, 2),
    "nan_rows": lambda: torch.full((5, 12), math.nan),
    "inf_rows": lambda: torch.full((5, 12), math.inf),
    "max_rows": lambda: torch.full((5, 12), 3e38),
    "tiny_rows": lambda: torch.full((5, 12), 1e-45),
    "requires_grad": lambda: torch.ones(5, 12, requires_grad=True),
    "inside_a_graph": lambda: torch.ones(5, 12, requires_grad=True) * 2,
    "expanded": lambda: torch.ones(1, 12).expand(5, 12),
    "strided": lambda: torch.ones(12, 5).T,
    "conjugate": lambda: torch.ones(5, 12, dtype=torch.complex64).conj(),
    "negative_view": lambda: torch.ones(5, 12, dtype=torch.complex64).conj().imag,
    "meta_rows": lambda: torch.ones(5, 12, device="meta"),
    "sparse": lambda: torch.ones(5, 12).to_sparse(),
    "sparse_csr": lambda: _quiet(lambda: torch.ones(5, 12).to_sparse_csr()),
    "sparse_bsr": lambda: _quiet(lambda: torch.ones(4, 4).to_sparse_bsr((2, 2))),
    "mkldnn": lambda: torch.ones(5, 12).to_mkldnn(),
    "quantized": quantized,
    "nested": lambda: nested(torch.strided),
    "jagged": lambda: nested(torch.jagged),
    "fake": fake,
    "uninitialized": UninitializedParameter,
    "uninitialized_buffer": nn.parameter.UninitializedBuffer,
    "parameter": lambda: nn.Parameter(torch.ones(5, 12)),
    "subclass": lambda: torch.ones(5, 12).as_subclass(RaisingTensor),
    "inference": lambda: _inference(),
}

MODULES: dict[str, Make] = {
    "module_linear": linear,
    "module_conv": conv,
    "module_double": lambda: linear().double(),
    "module_half": lambda: linear().half(),
    "module_meta": lambda: nn.Linear(12, 5, device="meta"),
    "module_lazy": lambda: nn.LazyLinear(5, device="meta"),
    "module_empty": lambda: nn.Linear(0, 0, device="meta"),
    "module_sequential": lambda: nn.Sequential(linear()),
    "module_no_layers": nn.Sequential,
    "module_list": lambda: nn.ModuleList([linear()]),
    "module_identity": nn.Identity,
    "module_relu": nn.ReLU,
    "module_norm": lambda: nn.BatchNorm1d(12, device="meta"),
    "module_raises": NoForward,
    "module_base": nn.Module,
    "module_none": lambda: Answers(None),
    "module_word": lambda: Answers("y"),
    "module_tuple": lambda: Answers((torch.ones(5, 5),)),
    "module_scalar": lambda: Answers(torch.tensor(1.0)),
    "module_fake": lambda: Answers(fake()),
    "module_sparse": lambda: Answers(torch.ones(5, 5).to_sparse()),
    "module_nested": lambda: Answers(nested(torch.jagged)),
    "module_scripted": scripted,
    "module_traced": traced,
    "module_normed": normed,
    "module_transposed": lambda: nn.ConvTranspose2d(3, 5, 2, device="meta"),
    "module_lstm": lambda: nn.LSTM(12, 5, device="meta"),
    "module_of_words": lambda: linear(in_features="x", out_features=None),
}

COMPILED: dict[str, Make] = {
    "compiled": lambda: torch.compile(linear(), backend="eager"),
    "compiled_raises": lambda: torch.compile(NoForward(), backend="eager"),
    "compiled_function": lambda: torch.compile(raises, backend="eager"),
}


def _quiet(make: Make) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


def _inference() -> Tensor:
    with torch.inference_mode():
        return torch.ones(5, 12)


VALUES: dict[str, Make] = {**PLAIN, **STRANGE, **ARRAYS, **TORCH, **TENSORS, **MODULES}
"""Every odd value by name, but those that take seconds to make."""

SLOW = {"examples": ("2**31", "2**40", "2**62", "seventeen")}
"""Values that an argument takes seriously, and that take long."""
