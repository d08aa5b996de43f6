"""Whatever is passed to a public function of equiv.mapping or equiv.structure: it answers, or refuses in words."""

from __future__ import annotations

import functools
import inspect
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mapping_helpers import few
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import parametrizations, prune
from torch.testing._internal.two_tensor import TwoTensor

from equiv import mapping, structure
from equiv.errors import EquivError

LONGEST = 500  # characters of a message


def functions_of(package: Any) -> list[Callable[..., Any]]:
    public = [getattr(package, name) for name in package.__all__]
    return [value for value in public if inspect.isfunction(value)]


FUNCTIONS = [*functions_of(mapping), *functions_of(structure)]


class Hostile:
    """Raises whatever is asked of it, but for its class."""

    def __index__(self) -> int:
        raise RuntimeError("no index")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no comparison")

    def __iter__(self) -> Any:
        raise RuntimeError("no entries")

    __hash__ = None  # type: ignore[assignment]


class Doubled(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


def changed(layer: Any, **attributes: Any) -> Any:
    for name, value in attributes.items():
        setattr(layer, name, value)
    return layer


def of_weight(change: Callable[[Tensor], Tensor], layer: Any = None) -> Any:
    layer = nn.Linear(12, 5) if layer is None else layer
    layer._parameters["weight"] = change(layer.weight.detach())
    return layer


def fake(build: Callable[[], Any]) -> Any:
    with FakeTensorMode():
        return build()


def nested(like: Tensor, layout: torch.layout = torch.strided) -> Tensor:
    return torch.nested.nested_tensor([like[:1], like[:1]], layout=layout)


@functools.cache
def layers() -> list[Any]:
    linear, conv, up = nn.Linear, nn.Conv2d, nn.ConvTranspose2d
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lazies = [nn.LazyLinear(5), nn.LazyConv2d(5, 2), nn.LazyConvTranspose1d(5, 2)]
        old = [nn.utils.weight_norm(linear(12, 5)), nn.utils.spectral_norm(conv(3, 5, 2))]
        quantized = [
            of_weight(lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8)),
            torch.ao.nn.quantized.Linear(12, 5),
            torch.ao.nn.quantized.dynamic.Linear(12, 5),
            torch.ao.nn.qat.Conv2d(3, 5, 2, qconfig=torch.ao.quantization.get_default_qat_qconfig()),
        ]
        unusual = [of_weight(nested), of_weight(lambda w: nested(w, torch.jagged)), linear(0, 5), conv(0, 5, 2)]
        scripted = [torch.jit.script(linear(12, 5)), torch.jit.trace(conv(3, 5, 2), torch.zeros(1, 3, 2, 2))]
    plain = [
        linear(12, 5),
        conv(3, 5, 2),
        nn.Conv1d(12, 4, 1),
        nn.Conv3d(1, 2, 2),
        up(3, 5, 2),
        up(12, 4, 1, bias=False),
    ]
    plain += [linear(12, 5, device="meta"), conv(3, 5, 2, device="meta"), linear(12, 12, dtype=torch.complex64)]
    plain += [linear(12, 5, dtype=dtype) for dtype in (torch.float16, torch.bfloat16, torch.float64)]
    wrapped = [nn.Sequential(linear(12, 5)), nn.DataParallel(conv(3, 5, 2)), torch.compile(linear(12, 5)), nn.Flatten()]
    computed = [parametrizations.weight_norm(conv(3, 5, 2)), prune.l1_unstructured(linear(12, 5), "weight", 2)]
    computed += [Doubled(12, 5), changed(linear(12, 5), forward=abs)]
    weights = [Tensor.to_sparse, Tensor.to_sparse_csr, lambda w: w.to(torch.float8_e5m2), Tensor.bool, lambda w: w[0]]
    weights += [
        lambda w: TwoTensor(w, w),
        lambda w: w.flatten()[0],
        lambda w: w * math.nan,
        lambda w: w.to(torch.uint64),
    ]
    weights += [lambda w: w.long(), lambda w: None, lambda w: nn.UninitializedParameter()]
    odd = [of_weight(change) for change in weights] + [
        of_weight(Tensor.to_sparse, up(3, 5, 2)),
        fake(lambda: linear(12, 5)),
    ]
    edits: list[dict[str, Any]] = [{"stride": 0}, {"groups": Hostile()}, {"padding": "x"}, {"dilation": None}]
    edits += [{"kernel_size": Hostile()}, {"in_channels": "3"}, {"padding_mode": Hostile()}, {"stride": Hostile()}]
    edited = [changed(kind(3, 5, 2), **edit) for kind in (conv, up) for edit in edits]
    edited += [changed(linear(12, 5), in_features=value) for value in (None, "12", Hostile(), 12.0, np.int64(12))]
    return [*plain, *lazies, *old, *quantized, *unusual, *scripted, *wrapped, *computed, *odd, *edited]


@functools.cache
def tensors() -> list[Any]:
    x = torch.arange(24.0).view(2, 12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kinds = [
            nested(x),
            nested(x, torch.jagged),
            torch.quantize_per_tensor(x, 0.1, 0, torch.qint8),
            x.to_sparse_csr(),
        ]
    kinds += [x, x.to_sparse(), x.to("meta"), x.bool(), x[0, 0], x[:0], x[:, :0], x.T, x.to(torch.complex64).conj()]
    kinds += [TwoTensor(x, x), fake(lambda: torch.zeros(2, 12))]
    return [*kinds, x.numpy(), x.tolist(), x.clone().requires_grad_(True), x.to(torch.float8_e5m2), nn.Parameter(x)]


NOTHING: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    2,
    -1,
    12,
    2.0,
    math.nan,
    1j,
    2**70,
    "",
    "3x2x2",
    b"12",
    "a" * 2000,
    "\x1b[2K",
]
NOTHING += [
    object(),
    Hostile(),
    int,
    nn.Linear,
    torch,
    print,
    {},
    {3: 2},
    set(),
    np.int64(2),
    np.float32(2),
    np.bool_(True),
]
NOTHING += [
    np.arange(3),
    np.zeros((0, 3)),
    ...,
    slice(3),
    torch.float32,
    torch.device("cpu"),
    range(3),
    iter([3, 2, 2]),
]
SHAPES: list[Any] = [
    (3, 2, 2),
    [3, 2, 2],
    torch.Size([12, 1]),
    (12, 1, 1),
    (1, 12),
    (),
    (12,),
    (1,) * 9,
    (3, 2, 2.0),
    (3, "2"),
]
SHAPES += [
    (2**40, 2**40),
    (10**30, 1),
    (-3, -4),
    (0, 12),
    ((3, 2), 2),
    [[3], [4]],
    (3, None),
    (Hostile(), 4),
    (True, 12),
]
SHAPES += [
    np.array([3, 2, 2]),
    torch.tensor([3, 2, 2]),
    (np.int64(3), np.uint8(4)),
    (torch.tensor(3), 4),
    (x for x in (3, 4)),
]


@st.composite
def calls(draw: st.DrawFn) -> tuple[Callable[..., Any], dict[str, Any]]:
    """A function, and an argument for each of its parameters: likely one of the right kind, possibly any."""
    function = draw(st.sampled_from(FUNCTIONS))
    pools = {"linear": layers(), "conv": layers(), "feature_shape": SHAPES, "x": tensors()}
    pools |= {"share": [True, False, *NOTHING], "spatial_dims": [1, 2, 3, *NOTHING]}
    pools |= {"readout": ["positions", "sum", "mean", None, *NOTHING]}
    values = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if name != "name" and (parameter.default is parameter.empty or draw(st.booleans())):
            pool = pools[name] if draw(st.integers(0, 5)) else [*NOTHING, *SHAPES, *tensors()]
            values[name] = draw(st.sampled_from(pool))
    return function, values


@settings(few, max_examples=800)
@given(calls())
@pytest.mark.filterwarnings("ignore")
def test_any_arguments_are_served_or_refused_in_one_sentence(call: Any) -> None:
    function, arguments = call
    try:
        function(**arguments)
    except EquivError as error:
        message = str(error)
        said = (function.__name__, arguments, message)
        assert ": expected " in message, said
        assert "got " in message, said
        assert len(message) <= LONGEST, said
        assert message.isprintable(), said
        assert "; " in message, said
