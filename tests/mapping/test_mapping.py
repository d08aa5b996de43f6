"""The mappings keep every bit, every promise, and refuse with advice what they cannot serve."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
import random
import struct
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import pad as pad_with_zeros
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.utils import parametrizations, prune
from torch.testing._internal.two_tensor import TwoTensor

import equiv.mapping.dense_matrix as dense
from equiv.errors import EquivError
from equiv.mapping import (
    check_conv,
    check_feature_shape,
    check_linear,
    conv_to_linear,
    linear_to_full_conv,
    linear_to_pointwise_conv,
    to_channels,
    to_feature_map,
)

few = settings(max_examples=60, derandomize=True, deadline=None, database=None)

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128]
INTS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64]
DTYPES = FLOATS + INTS
DEVICES = ["cpu", "meta", *["cuda"] * torch.cuda.is_available()]
SHAPES = [(3, 4), (1, 1), (2, 3, 2), (12, 1, 1), (1, 3, 4), (2, 1, 3, 2), (3, 2, 2, 1)]
MODES = ["zeros", "reflect", "replicate", "circular"]
CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def raw(x: Tensor) -> bytes:
    """The entries' bits in logical order."""
    x = x.detach().cpu().resolve_conj().contiguous().reshape(-1)
    return x.view(torch.uint8).numpy().tobytes()


def random_bits(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Any bit pattern: NaN payloads, infinities, subnormals, -0.0."""
    generator = torch.Generator().manual_seed(seed)
    width = torch.empty((), dtype=dtype).element_size()
    data = torch.randint(0, 256, (math.prod(shape) * width,), generator=generator, dtype=torch.uint8)
    x = data.view(dtype).reshape(shape).clone()
    if dtype.is_floating_point:
        x.view(-1)[:6] = torch.tensor([-0.0, 0.0, math.nan, -math.inf, math.inf, torch.finfo(dtype).tiny / 2])[
            : x.numel()
        ]
    return x


def linear_of(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    linear = nn.Linear(*weight.shape[::-1], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias, requires_grad=False)
    return linear


def conv_of(weight: Tensor, bias: Tensor | None = None, **options: Any) -> Any:
    groups = options.get("groups", 1)
    kernel = tuple(weight.shape[2:])
    conv = CONVS[len(kernel)](
        weight.shape[1] * groups, len(weight), kernel, bias=bias is not None, device="meta", **options
    )
    conv.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        conv.bias = nn.Parameter(bias, requires_grad=False)
    return conv


def integers(shape: tuple[int, ...], dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-9, 10, shape, generator=generator).to(dtype)


def assert_dense_is_the_convolution(conv: Any, shape: tuple[int, ...]) -> None:
    x = integers((3, *shape), seed=1)
    expected = conv(x)
    actual = conv_to_linear(conv, shape)(x.flatten(1))
    assert torch.equal(actual, expected.flatten(1))


# --- Linear -> convolution --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bias", [True, False])
def test_full_conv_is_the_layer_over_the_flattened_map(shape: tuple[int, ...], bias: bool) -> None:
    n = math.prod(shape)
    linear = linear_of(integers((5, n)), integers((5,), seed=2) if bias else None)
    conv = linear_to_full_conv(linear, shape)
    x = integers((4, *shape), seed=3)
    assert type(conv) is CONVS[len(shape) - 1]
    assert conv.weight.shape == (5, *shape)
    assert torch.equal(conv(x), to_channels(linear(x.flatten(1)), len(shape) - 1))


@pytest.mark.parametrize("spatial_dims", [1, 2, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_pointwise_conv_is_the_layer_at_every_position(spatial_dims: int, bias: bool) -> None:
    linear = linear_of(integers((5, 6)), integers((5,), seed=2) if bias else None)
    conv = linear_to_pointwise_conv(linear, spatial_dims)
    x = integers((4, 6, *(2, 3, 2)[:spatial_dims]), seed=3)
    assert type(conv) is CONVS[spatial_dims]
    assert conv.weight.shape == (5, 6, *(1,) * spatial_dims)
    assert torch.equal(conv(x), linear(x.movedim(1, -1)).movedim(-1, 1))


def test_pointwise_conv_is_two_dimensional_by_default() -> None:
    assert type(linear_to_pointwise_conv(nn.Linear(2, 3))) is nn.Conv2d


def test_extra_repr_and_attributes_are_those_of_a_plain_conv() -> None:
    conv = linear_to_full_conv(nn.Linear(12, 5), (3, 2, 2))
    plain = nn.Conv2d(3, 5, 2)
    assert repr(conv) == repr(plain)
    assert set(vars(conv)) == set(vars(plain))
    assert all(vars(conv)[k] == vars(plain)[k] for k in plain.__constants__)


# --- promises that every mapping keeps --------------------------------------------------------------------------------

MAPPINGS: dict[str, tuple[Callable[..., nn.Module], Callable[..., nn.Module]]] = {
    "full": (lambda w, b: linear_of(w, b), lambda m, **k: linear_to_full_conv(m, (3, 2, 2), **k)),
    "pointwise": (lambda w, b: linear_of(w, b), lambda m, **k: linear_to_pointwise_conv(m, **k)),
    "back-full": (lambda w, b: conv_of(w.view(4, 3, 2, 2), b), lambda m, **k: conv_to_linear(m, (3, 2, 2), **k)),
    "back-pointwise": (lambda w, b: conv_of(w.view(4, 12, 1), b), lambda m, **k: conv_to_linear(m, (12, 1), **k)),
    "dense": (
        lambda w, b: conv_of(w.view(4, 3, 2, 2), b, padding=1, padding_mode="circular"),
        lambda m, **k: conv_to_linear(m, (3, 2, 2), **k),
    ),
}
SHARING = ["full", "pointwise", "back-full", "back-pointwise"]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", MAPPINGS)
def test_dtype_device_and_bias_are_kept(name: str, device: str, dtype: torch.dtype) -> None:
    build, mapping = MAPPINGS[name]
    for bias in (None, torch.zeros(4, device=device, dtype=dtype)):
        result = mapping(build(torch.zeros(4, 12, device=device, dtype=dtype), bias))
        assert result.weight.dtype == dtype
        assert result.weight.device.type == device
        assert (result.bias is None) == (bias is None)
        assert bias is None or (result.bias.dtype, result.bias.device.type) == (dtype, device)


@pytest.mark.parametrize("name", MAPPINGS)
def test_weight_and_bias_may_differ_in_dtype(name: str) -> None:
    build, mapping = MAPPINGS[name]
    result = mapping(build(torch.zeros(4, 12, dtype=torch.float16), torch.zeros(4, dtype=torch.float32)))
    assert (result.weight.dtype, result.bias.dtype) == (torch.float16, torch.float32)


@pytest.mark.parametrize("name", MAPPINGS)
@pytest.mark.parametrize("flags", list(itertools.product([True, False], repeat=3)))
def test_requires_grad_of_each_parameter_and_training_mode_are_kept(name: str, flags: tuple[bool, bool, bool]) -> None:
    build, mapping = MAPPINGS[name]
    source = build(torch.zeros(4, 12), torch.zeros(4))
    source.weight.requires_grad_(flags[0])
    source.bias.requires_grad_(flags[1])
    source.train(flags[2])
    for share in (False, True) if name in SHARING else (False,):
        result = mapping(source, share=share)
        assert (result.weight.requires_grad, result.bias.requires_grad, result.training) == flags


@pytest.mark.parametrize("name", MAPPINGS)
def test_results_are_plain_modules_with_leaf_parameters(name: str) -> None:
    build, mapping = MAPPINGS[name]
    source = build(torch.zeros(4, 12), torch.zeros(4))
    source.weight.requires_grad_(True)
    for share in (False, True) if name in SHARING else (False,):
        with torch.set_grad_enabled(not share):
            result = mapping(source, share=share)
        assert type(result) in (nn.Linear, *CONVS.values())
        for parameter in result.parameters():
            assert type(parameter) is nn.Parameter
            assert parameter.is_leaf
            assert parameter.grad_fn is None
            assert not parameter._is_view() or share


@pytest.mark.parametrize("name", MAPPINGS)
def test_copies_are_contiguous_and_own_their_storage(name: str) -> None:
    build, mapping = MAPPINGS[name]
    big = torch.arange(9.0 * 40).view(9, 40)
    source = build(torch.zeros(4, 12), torch.zeros(4))
    source.weight = nn.Parameter(big[1:5, 3:39:3].reshape(source.weight.shape))
    for layout in (lambda w: w, lambda w: w.flip(0), lambda w: w.new_zeros(()).expand(w.shape)):
        source.weight.data = layout(source.weight.data)
        result = mapping(source)
        for old, new in zip(source.parameters(), result.parameters(), strict=True):
            assert new.is_contiguous()
            assert new.untyped_storage().data_ptr() != old.untyped_storage().data_ptr()
            assert new.untyped_storage().nbytes() == new.numel() * new.element_size()


@pytest.mark.parametrize("name", SHARING)
def test_share_makes_views_of_both_parameters(name: str) -> None:
    build, mapping = MAPPINGS[name]
    source = build(torch.zeros(4, 12), torch.zeros(4))
    result = mapping(source, share=True)
    with torch.no_grad():
        source.weight.view(4, 12)[1, 7] = 5
        result.bias[2] = 3
    assert result.weight.view(4, 12)[1, 7] == 5
    assert source.bias[2] == 3
    assert result.weight.untyped_storage().data_ptr() == source.weight.untyped_storage().data_ptr()


@pytest.mark.parametrize("name", SHARING)
def test_share_allocates_nothing_of_the_weights_size(name: str) -> None:
    build, mapping = MAPPINGS[name]
    source = build(torch.zeros(4, 12), torch.zeros(4))
    sizes: list[int] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            known = (source.weight.untyped_storage().data_ptr(), source.bias.untyped_storage().data_ptr())
            if isinstance(out, Tensor) and out.device.type != "meta" and out.untyped_storage().data_ptr() not in known:
                sizes.append(out.numel())
            return out

    with Watch():
        mapping(source, share=True)
    assert sizes == []


@pytest.mark.parametrize("name", MAPPINGS)
def test_no_global_random_state_is_touched(name: str) -> None:
    build, mapping = MAPPINGS[name]
    source = build(torch.zeros(4, 12), torch.zeros(4))
    before = torch.get_rng_state(), random.getstate(), str(np.random.get_state())
    mapping(source)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), str(np.random.get_state()))


@pytest.mark.parametrize("name", MAPPINGS)
def test_the_source_is_not_altered(name: str) -> None:
    build, mapping = MAPPINGS[name]
    source = build(random_bits((4, 12), torch.float32), random_bits((4,), torch.float32, 1))
    before = {k: (id(p), raw(p), p._version, p.requires_grad) for k, p in source.named_parameters()}
    text, attributes = repr(source), set(vars(source))
    for share in (False, True) if name in SHARING else (False,):
        mapping(source, share=share)
    assert before == {k: (id(p), raw(p), p._version, p.requires_grad) for k, p in source.named_parameters()}
    assert (text, attributes) == (repr(source), set(vars(source)))


@pytest.mark.parametrize("name", MAPPINGS)
def test_results_survive_deepcopy_pickle_and_state_dict(name: str) -> None:
    build, mapping = MAPPINGS[name]
    result = mapping(build(integers((4, 12)), integers((4,))))
    for twin in (copy.deepcopy(result), pickle.loads(pickle.dumps(result))):
        assert type(twin) is type(result)
        assert list(twin.state_dict()) == ["weight", "bias"]
        assert all(torch.equal(a, b) for a, b in zip(twin.parameters(), result.parameters(), strict=True))
    result.load_state_dict(twin.state_dict())


@pytest.mark.parametrize("name", MAPPINGS)
def test_gradients_flow_to_the_result_and_not_to_the_source(name: str) -> None:
    build, mapping = MAPPINGS[name]
    source = build(integers((4, 12)), integers((4,))).requires_grad_(True)
    result = mapping(source)
    shape = (12,) if isinstance(result, nn.Linear) else result.weight.shape[1:]
    result(integers((2, *shape))).sum().backward()
    assert result.weight.grad is not None
    assert source.weight.grad is None


@pytest.mark.parametrize("name", MAPPINGS)
def test_default_dtype_default_device_and_grad_modes_change_nothing(name: str) -> None:
    build, mapping = MAPPINGS[name]
    source = build(integers((4, 12), torch.float32), integers((4,), torch.float32)).requires_grad_(True)
    expected = raw(mapping(source).weight)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"), torch.inference_mode():
            result = mapping(source)
    finally:
        torch.set_default_dtype(torch.float32)
    assert raw(result.weight) == expected
    assert not result.weight.is_inference()
    assert result.weight.requires_grad


@pytest.mark.parametrize("name", MAPPINGS)
def test_layers_made_in_inference_mode_are_served(name: str) -> None:
    build, mapping = MAPPINGS[name]
    with torch.inference_mode():
        source = build(integers((4, 12)), integers((4,))).requires_grad_(True)
    assert source.weight.is_inference()
    result = mapping(source)
    assert result.weight.requires_grad
    assert not result.weight.is_inference()
    if name in SHARING:
        assert mapping(source, share=True).weight.requires_grad


@pytest.mark.parametrize("name", MAPPINGS)
def test_fake_tensors_are_mapped_without_data(name: str) -> None:
    build, mapping = MAPPINGS[name]
    with torch._subclasses.FakeTensorMode():
        result = mapping(build(torch.zeros(4, 12), torch.zeros(4)))
        assert isinstance(result.weight, torch._subclasses.FakeTensor)


@pytest.mark.parametrize("subclass", [NonDynamicallyQuantizableLinear, type("Named", (nn.Linear,), {})])
def test_a_subclass_that_computes_the_same_becomes_a_plain_layer(subclass: type[nn.Linear]) -> None:
    conv = linear_to_full_conv(subclass(12, 5), (3, 2, 2))
    assert type(conv) is nn.Conv2d
    assert check_conv(conv) is conv


# --- bits -------------------------------------------------------------------------------------------------------------


@few
@given(
    shape=st.sampled_from(SHAPES),
    outs=st.integers(1, 4),
    dtype=st.sampled_from(DTYPES),
    bias=st.booleans(),
    share=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_there_and_back_keeps_every_bit(
    shape: tuple[int, ...], outs: int, dtype: torch.dtype, bias: bool, share: bool, seed: int
) -> None:
    n = math.prod(shape)
    linear = linear_of(random_bits((outs, n), dtype, seed), random_bits((outs,), dtype, seed + 1) if bias else None)
    dims = len(shape) - 1
    for conv, back in (
        (linear_to_full_conv(linear, shape, share=share), shape),
        (linear_to_pointwise_conv(linear, dims, share=share), (n, *(1,) * dims)),
    ):
        result = conv_to_linear(conv, back, share=share)
        assert raw(result.weight) == raw(linear.weight)
        assert (result.bias is None) == (linear.bias is None)
        assert linear.bias is None or raw(result.bias) == raw(linear.bias)


@few
@given(
    dtype=st.sampled_from(DTYPES),
    mode=st.sampled_from(MODES),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    groups=st.sampled_from([1, 2]),
    seed=st.integers(0, 2**16),
)
def test_weights_that_are_only_moved_keep_their_bits(
    dtype: torch.dtype, mode: str, kernel: tuple[int, int], groups: int, seed: int
) -> None:
    conv = conv_of(random_bits((4, 2, *kernel), dtype, seed), random_bits((4,), dtype, seed), groups=groups, padding=1)
    conv.padding_mode = mode  # no collision happens in the positions looked at: those that read no padding
    linear = conv_to_linear(conv, (2 * groups, 4, 5))
    out = (4 + 3 - kernel[0], 5 + 3 - kernel[1])
    matrix = linear.weight.view(4, *out, 2 * groups, 4, 5)
    for y, x in itertools.product(range(1, out[0] - 1), range(1, out[1] - 1)):
        for o in range(4):
            own = slice(2 * (o // (4 // groups)), 2 * (o // (4 // groups)) + 2)
            window = matrix[o, y, x, own, y - 1 : y - 1 + kernel[0], x - 1 : x - 1 + kernel[1]]
            assert raw(window) == raw(conv.weight[o])
            assert sum(raw(matrix[o, y, x])) == sum(raw(window))  # every other byte is zero
    assert raw(linear.bias) == raw(conv.bias.repeat_interleave(math.prod(out)))


def test_weights_keep_their_bits_while_subnormals_are_flushed() -> None:
    weight = torch.tensor([1e-40, -1e-45, -0.0]).view(1, 1, 3)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormals")
    try:
        linear = conv_to_linear(conv_of(weight), (1, 4))
    finally:
        torch.set_flush_denormal(False)
    assert raw(linear.weight[0, :3]) == raw(linear.weight[1, 1:]) == raw(weight)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda w: w.t().contiguous().t(),
    "sliced": lambda w: torch.stack([w, w], -1).flatten(-2)[:, ::2],
    "offset": lambda w: pad_with_zeros(w.view(torch.int32), (3, 0, 2, 0)).view(torch.float32)[2:, 3:],
    "repeated row": lambda w: w[:1].expand(w.shape),
    "repeated entry": lambda w: w[:1, :1].expand(w.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("share", [False, True])
def test_strides_of_a_linear_weight_change_nothing(layout: str, share: bool) -> None:
    plain = random_bits((4, 12), torch.float32)
    strided = LAYOUTS[layout](plain)
    linear = linear_of(strided, torch.zeros(()).expand(4))
    for conv in (linear_to_full_conv(linear, (3, 2, 2), share=share), linear_to_pointwise_conv(linear, share=share)):
        assert raw(conv.weight) == raw(strided)
        assert (conv.weight.untyped_storage().data_ptr() == strided.untyped_storage().data_ptr()) == share
        assert conv.weight.is_contiguous() or share


@pytest.mark.parametrize("mode", MODES)
def test_strides_of_a_conv_weight_change_nothing(mode: str) -> None:
    plain = integers((4, 3, 2, 2))
    layouts = (
        plain.to(memory_format=torch.channels_last),
        plain.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
        torch.stack([plain, plain], -1).flatten(-2)[..., ::2],
    )
    for strided in layouts:
        for shape, padding in (((3, 2, 2), 0), ((3, 3, 3), 1)):
            expected = conv_to_linear(conv_of(plain, padding=padding, padding_mode=mode), shape)
            actual = conv_to_linear(conv_of(strided, padding=padding, padding_mode=mode), shape)
            assert raw(actual.weight) == raw(expected.weight)


@pytest.mark.parametrize("name", MAPPINGS)
def test_a_lazily_conjugated_weight_is_mapped_by_value(name: str) -> None:
    build, mapping = MAPPINGS[name]
    weight = torch.complex(integers((4, 12)), integers((4, 12), seed=1))
    assert raw(mapping(build(weight.conj(), None)).weight) == raw(mapping(build(weight.conj_physical(), None)).weight)


# --- convolution -> Linear --------------------------------------------------------------------------------------------


def test_the_matrix_of_a_convolution_is_the_known_one() -> None:
    linear = conv_to_linear(conv_of(torch.tensor([[[2.0, 3.0, 5.0]]]), torch.tensor([7.0]), padding=1), (1, 3))
    assert linear.weight.tolist() == [[3, 5, 0], [2, 3, 5], [0, 2, 3]]
    assert linear.bias.tolist() == [7, 7, 7]


def test_taps_that_share_an_entry_are_added() -> None:
    conv = conv_of(torch.tensor([[[2.0, 3.0, 5.0]]]), padding=1, padding_mode="reflect")
    assert conv_to_linear(conv, (1, 3)).weight.tolist() == [[3, 7, 0], [2, 3, 5], [0, 7, 3]]


@settings(few, max_examples=150)
@given(st.data())
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_any_convolution_equals_its_dense_layer(data: st.DataObject) -> None:
    dims = data.draw(st.sampled_from([1, 2, 3]))
    mode = data.draw(st.sampled_from(MODES))
    per_axis = lambda values: data.draw(st.tuples(*[values] * dims))  # noqa: E731 - drawn four times
    spatial = per_axis(st.integers(1, 5 if dims < 3 else 3))
    kernel = per_axis(st.integers(1, 3))
    dilation = per_axis(st.integers(1, 2))
    padding: Any = data.draw(st.sampled_from(["same", "valid", "ints"]))
    stride = (1,) * dims if padding == "same" else per_axis(st.integers(1, 3))
    pad = tuple(
        d * (k - 1) - d * (k - 1) // 2 if padding == "same" else 0 for d, k in zip(dilation, kernel, strict=True)
    )
    if padding == "ints":
        pad = padding = per_axis(st.integers(0, 3))
    limits = {"reflect": [s - 1 for s in spatial], "circular": spatial}.get(mode, [99] * dims)
    groups = data.draw(st.sampled_from([1, 2, 3]))
    channels = groups * data.draw(st.integers(1, 2))
    outs = groups * data.draw(st.integers(1, 2))
    bias = integers((outs,), seed=5) if data.draw(st.booleans()) else None
    conv = conv_of(
        integers((outs, channels // groups, *kernel)),
        bias,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        padding_mode=mode,
    )
    shape = (channels, *spatial)
    total = (
        [0] * dims
        if padding == "valid"
        else [d * (k - 1) if padding == "same" else 2 * p for d, k, p in zip(dilation, kernel, pad, strict=True)]
    )
    fits = all(s + t > d * (k - 1) for s, t, d, k in zip(spatial, total, dilation, kernel, strict=True))
    if fits and all(p <= limit for p, limit in zip(pad, limits, strict=True)):
        assert_dense_is_the_convolution(conv, shape)
    else:
        with pytest.raises(EquivError, match=r"^feature_shape: expected .*; pass a larger map"):
            conv_to_linear(conv, shape)
        with pytest.raises(RuntimeError):
            conv(integers((1, *shape)))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_same_padding_with_an_even_kernel_pads_more_behind(mode: str, groups: int) -> None:
    conv = conv_of(integers((8, 4 // groups, 2, 4)), padding="same", dilation=(1, 2), padding_mode=mode, groups=groups)
    assert_dense_is_the_convolution(conv, (4, 5, 7))


@pytest.mark.parametrize("mode", MODES[1:])
def test_negative_padding_crops_where_torch_crops(mode: str) -> None:
    assert_dense_is_the_convolution(conv_of(integers((2, 2, 2, 2)), padding=-1, padding_mode=mode), (2, 5, 4))


def test_options_set_to_integers_or_lists_are_understood() -> None:
    conv = conv_of(integers((2, 3, 2, 2)))
    conv.stride, conv.padding, conv.dilation = 2, 1, 2
    assert_dense_is_the_convolution(conv, (3, 5, 4))
    conv.stride, conv.padding, conv.dilation = [1, 2], [2], [2, 1]
    assert_dense_is_the_convolution(conv, (3, 5, 4))


@pytest.mark.parametrize("dtype", INTS, ids=str)
def test_integer_sums_wrap(dtype: torch.dtype) -> None:
    info = torch.iinfo(dtype)
    top = torch.tensor([[[info.max, 1, info.max]]], dtype=torch.uint64 if dtype == torch.uint64 else torch.int64).to(
        dtype
    )
    linear = conv_to_linear(conv_of(top, padding=1, padding_mode="replicate"), (1, 1))
    bits = info.bits
    expected = (2 * info.max + 1) % 2**bits
    assert linear.weight.item() % 2**bits == expected


def exact_rounding(values: list[float], dtype: torch.dtype) -> float:
    """Round the exact sum by comparing with the neighbours in the format: another way than the code's."""
    total = sum(map(Fraction, values))
    guess = torch.tensor([float(total)], dtype=torch.float64).to(dtype)
    bits = guess.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[guess.element_size()])
    near = [(bits + i).view(dtype).double().item() for i in (-1, 0, 1)]
    return min(
        (abs(Fraction(v) - total), int((bits + i).item()) % 2, v) for i, v in zip((-1, 0, 1), near, strict=True)
    )[2]


@pytest.mark.parametrize("dtype", FLOATS[:4], ids=str)
@pytest.mark.parametrize("terms", [2, 3, 4])
def test_sums_of_taps_are_rounded_once(dtype: torch.dtype, terms: int) -> None:
    generator = torch.Generator().manual_seed(terms)
    exponents = torch.randint(-14, 3, (200, terms), generator=generator)
    taps = (1 + torch.rand(200, terms, generator=generator, dtype=torch.float64)).ldexp(exponents).to(dtype)
    linear = conv_to_linear(conv_of(taps[:, None], padding=terms, padding_mode="replicate"), (1, 1))
    actual = linear.weight.view(200, -1)[:, 1]  # any position: a map of one entry takes every tap
    for row, value in zip(taps.double().tolist(), actual.double().tolist(), strict=True):
        assert value == exact_rounding(row, dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_a_sum_next_to_a_tie_is_not_rounded_through_a_wider_format(dtype: torch.dtype) -> None:
    """1 + u + a crumb is above the tie, but the crumb is lost in float32 or float64 on the way."""
    u = torch.finfo(dtype).eps / 2
    crumb = 2.0**-140 if dtype != torch.float16 else 2.0**-24
    crumb = crumb if dtype != torch.bfloat16 else 2.0**-130
    taps = torch.tensor([[[1.0, u, crumb]]], dtype=torch.float64).to(dtype)
    linear = conv_to_linear(conv_of(taps, padding=1, padding_mode="circular"), (1, 1))
    assert linear.weight[0, 0].item() == 1 + 2 * u


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_special_sums_follow_ieee(dtype: torch.dtype) -> None:
    top, tiny = torch.finfo(dtype).max, torch.finfo(dtype).tiny * torch.finfo(dtype).eps
    rows = [
        ([-0.0, -0.0, -0.0], -0.0),
        ([-0.0, 0.0, -0.0], 0.0),
        ([1.5, -1.5, -0.0], 0.0),
        ([math.inf, 1.0, 2.0], math.inf),
        ([math.inf, 1.0, -math.inf], math.nan),
        ([math.nan, 1.0, 2.0], math.nan),
        ([top, top, -top], top),
        ([top, top, top], math.inf),
        ([-top, -top, 0.0], -math.inf),
        ([tiny, tiny, -tiny], tiny),
        ([-tiny, -tiny, -tiny], -3 * tiny),
    ]
    taps = torch.tensor([row for row, _ in rows], dtype=torch.float64).to(dtype)[:, None]
    linear = conv_to_linear(conv_of(taps, padding=1, padding_mode="circular"), (1, 1))
    for (row, expected), actual in zip(rows, linear.weight.view(len(rows), -1)[:, 0].double().tolist(), strict=True):
        assert struct.pack("d", actual) == struct.pack("d", expected) or (
            math.isnan(actual) and math.isnan(expected)
        ), row


def test_complex_sums_are_taken_by_parts() -> None:
    taps = torch.tensor([[[1 + 2j, 10 - 1j, complex(-0.0, -2)]]], dtype=torch.complex64)
    linear = conv_to_linear(conv_of(taps, padding=1, padding_mode="circular"), (1, 1))
    assert linear.weight[0].tolist() == [11 - 1j]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_the_matrix_is_the_same_on_another_device() -> None:
    for dtype, mode in itertools.product(DTYPES, MODES):
        conv = conv_of(integers((4, 3, 3, 3)).abs().to(dtype), padding=2, padding_mode=mode)
        expected = conv_to_linear(conv, (3, 4, 3)).weight
        assert raw(conv_to_linear(conv.to("cuda"), (3, 4, 3)).weight) == raw(expected), (dtype, mode)


def test_entries_are_moved_right_across_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    conv = conv_of(integers((4, 3, 3, 3)), padding=1, padding_mode="replicate")
    expected = conv_to_linear(conv, (3, 4, 5))
    monkeypatch.setattr(dense, "_CHUNK", 5 * 12)
    assert torch.equal(conv_to_linear(conv, (3, 4, 5)).weight, expected.weight)


def test_a_pointwise_conv_on_a_map_is_its_kernel_on_the_diagonal() -> None:
    weight = integers((4, 3, 1, 1))
    matrix = conv_to_linear(conv_of(weight), (3, 16, 16)).weight
    assert torch.equal(matrix, torch.kron(weight.view(4, 3), torch.eye(256, dtype=torch.float64)))


# --- share refused ----------------------------------------------------------------------------------------------------


def test_sharing_a_channels_last_weight_is_refused_with_its_strides() -> None:
    conv = conv_of(integers((4, 3, 2, 2)).to(memory_format=torch.channels_last))
    with pytest.raises(EquivError, match=r"^share: expected False .*conv\.weight.*\(12, 1, 6, 3\).*pass share=False"):
        conv_to_linear(conv, (3, 2, 2), share=True)


def test_sharing_a_channels_last_pointwise_weight_works() -> None:
    conv = nn.Conv2d(3, 4, 1).to(memory_format=torch.channels_last)
    assert conv_to_linear(conv, (3, 1, 1), share=True).weight.data_ptr() == conv.weight.data_ptr()


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, (4, 3, 3)),
        ({"padding": 1}, (4, 2, 2)),
        ({"padding": 1, "stride": 9}, (4, 2, 2)),
        ({"groups": 2}, (4, 2, 2)),
    ],
)
def test_sharing_a_matrix_that_is_not_the_weight_is_refused(options: dict[str, Any], shape: tuple[int, ...]) -> None:
    conv = nn.Conv2d(4, 4, 2, **options)
    with pytest.raises(EquivError, match=r"^share: expected False .*got True for Conv2d\(4, 4, .*pass share=False$"):
        conv_to_linear(conv, shape, share=True)


@pytest.mark.parametrize("share", [1, None, "yes", torch.tensor(True)])
def test_share_must_be_a_bool(share: Any) -> None:
    calls = (
        lambda: linear_to_full_conv(nn.Linear(4, 2), (4, 1), share=share),
        lambda: linear_to_pointwise_conv(nn.Linear(4, 2), share=share),
        lambda: conv_to_linear(nn.Conv1d(4, 2, 1), (4, 1), share=share),
    )
    for call in calls:
        with pytest.raises(EquivError, match=r"^share: expected True or False, got .*; pass share=True for views"):
            call()


# --- inputs -----------------------------------------------------------------------------------------------------------


@few
@given(
    shape=st.sampled_from(SHAPES),
    batch=st.lists(st.integers(0, 3), max_size=3),
    layout=st.sampled_from(["plain", "transposed", "sliced", "expanded"]),
)
def test_rows_become_maps_and_channels_as_views(shape: tuple[int, ...], batch: list[int], layout: str) -> None:
    n = math.prod(shape)
    x = torch.arange(2.0 * n * math.prod(batch)).view(*batch, 2 * n)
    x = {
        "plain": x[..., :n].contiguous(),
        "transposed": x[..., :n].movedim(-1, 0).contiguous().movedim(0, -1),
        "sliced": x[..., ::2],
        "expanded": torch.zeros(()).expand(*batch, n),
    }[layout]
    for made in (to_feature_map(x, shape), to_channels(x, len(shape) - 1)):
        assert made.shape[: len(batch)] == x.shape[:-1]
        assert torch.equal(made.flatten(len(batch)), x)
        assert made.data_ptr() == x.data_ptr()
    assert to_feature_map(x, shape).shape[len(batch) :] == shape
    assert to_channels(x).shape == (*x.shape, 1, 1)


def test_gradients_pass_through_both_views() -> None:
    x = torch.zeros(3, 12, requires_grad=True)
    (to_feature_map(x, (3, 2, 2)).sum() + 2 * to_channels(x).sum()).backward()
    assert torch.equal(x.grad, torch.full((3, 12), 3.0))


@pytest.mark.parametrize("convert", [lambda x: to_feature_map(x, (3, 4)), to_channels])
@pytest.mark.parametrize(
    ("x", "message"),
    [
        ([1.0], r"^x: expected a torch\.Tensor, got \[1\.0\]; convert it with torch\.as_tensor$"),
        (
            torch.tensor(1.0),
            r"^x: expected shape \(\*batch, n\), got a tensor with 0 dimensions; pass a vector or rows$",
        ),
        (torch.zeros(2, 12).to_sparse(), r"^x: expected a strided tensor, got torch\.sparse_coo; .*to_dense"),
    ],
)
def test_what_is_no_row_is_refused(convert: Callable[[Any], Tensor], x: Any, message: str) -> None:
    with pytest.raises(EquivError, match=message):
        convert(x)


def test_a_row_of_another_length_is_refused_with_both_products() -> None:
    with pytest.raises(
        EquivError, match=r"^feature_shape: expected .*product 11 \(= the last dimension of x\).*product 12"
    ):
        to_feature_map(torch.zeros(2, 11), (3, 2, 2))


# --- refusals: shapes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape",
    [(3, 2, 2), [3, 2, 2], torch.Size([3, 2, 2]), tuple(np.array([3, 2, 2])), [np.uint8(3), 2, torch.tensor(2)]],
)
def test_integer_sequences_are_feature_shapes(shape: Any) -> None:
    checked = check_feature_shape(shape)
    assert checked == (3, 2, 2)
    assert all(type(size) is int for size in checked)
    assert linear_to_full_conv(nn.Linear(12, 5), shape).weight.shape == (5, 3, 2, 2)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (12, r"expected a tuple \(C, \*spatial\), got 12; for one position pass \(12, 1, 1\)$"),
        ("abc", r"got 'abc'; pass a tuple such as"),
        (None, r"got None; pass a tuple such as"),
        (torch.tensor([3, 2, 2]), r"got a tensor of shape \(3,\); pass a tuple such as"),
        ((3, 2.0, 2), r"of integers, got \(3, 2\.0, 2\); replace 2\.0 by an int$"),
        ((3, True, 4), r"replace True by an int"),
        ((3, np.bool_(True), 4), r"replace .*True.* by an int"),
        ((3, torch.tensor(True), 4), r"replace tensor\(True\) by an int"),
        ((3, "2", 2), r"replace '2' by an int"),
        ((), r"1 to 3 spatial dimensions, got \(\) with 0; .*without the batch"),
        ((12,), r"1 to 3 spatial dimensions, got \(12,\) with 0; give channels"),
        ((1, 3, 2, 2, 1), r"1 to 3 spatial dimensions, got .* with 4; .*without the batch"),
        ((3, 0, 2), r"at least 1, got \(3, 0, 2\); give the sizes"),
        ((-3, 2, -2), r"at least 1, got \(-3, 2, -2\)"),
    ],
)
def test_what_is_no_feature_shape_is_refused(shape: Any, message: str) -> None:
    calls = (
        lambda: check_feature_shape(shape),
        lambda: linear_to_full_conv(nn.Linear(12, 5), shape),
        lambda: conv_to_linear(nn.Conv2d(3, 5, 2), shape),
        lambda: to_feature_map(torch.zeros(12), shape),
    )
    for call in calls[:2] + calls[3:] if shape is None else calls:  # a convolution has a map of its own
        with pytest.raises(EquivError, match=r"^feature_shape: .*" + message):
            call()


def test_the_checked_argument_can_be_named() -> None:
    with pytest.raises(EquivError, match=r"^larger: expected a tuple"):
        check_feature_shape(3, name="larger")
    with pytest.raises(EquivError, match=r"^reference: expected a torch\.nn\.Linear"):
        check_linear(None, name="reference")
    with pytest.raises(EquivError, match=r"^candidate: expected a torch\.nn\.Conv1d"):
        check_conv(None, name="candidate")


def test_a_wrong_product_is_refused_with_both_products() -> None:
    with pytest.raises(
        EquivError,
        match=r"^feature_shape: expected \(C, \*spatial\) with product 12 \(= linear\.in_features\), got \(3, 2, 3\) "
        r"with product 18; pass the shape of the map that was flattened, channels first, without the batch$",
    ):
        linear_to_full_conv(nn.Linear(12, 5), (3, 2, 3))


@pytest.mark.parametrize("spatial_dims", [0, 4, -1, True, 2.0, "2", None])
def test_spatial_dims_out_of_range_are_refused(spatial_dims: Any) -> None:
    for call in (linear_to_pointwise_conv, to_channels):
        argument: Any = nn.Linear(4, 2) if call is linear_to_pointwise_conv else torch.zeros(4)
        with pytest.raises(EquivError, match=r"^spatial_dims: expected an integer from 1 to 3, got .*; it selects Conv1d"):
            call(argument, spatial_dims)


@pytest.mark.parametrize(
    ("conv", "shape", "message"),
    [
        (nn.Conv2d(3, 4, 1), (3, 5), r"2 spatial dimensions for a Conv2d, got \(3, 5\) with 1; .*without the batch"),
        (nn.Conv1d(3, 4, 1), (9, 3, 5), r"1 spatial dimensions for a Conv1d, got \(9, 3, 5\) with 2"),
        (nn.Conv2d(3, 4, 1), (4, 2, 2), r"3 channels first \(= conv\.in_channels\), got \(4, 2, 2\); pass \(C"),
        (nn.Conv2d(3, 4, 1), (5, 5, 3), r"got \(5, 5, 3\) \(which looks like channels last\); pass \(C, \*spatial\)"),
        (nn.Conv2d(3, 4, 3), (3, 2, 5), r"at least \(3, 3\), the reach of the kernel, got \(2, 5\), padded \(2, 5\)"),
        (
            nn.Conv2d(3, 4, 3, dilation=2, padding=1),
            (3, 2, 5),
            r"at least \(5, 5\).*padded \(4, 7\); pass a larger map",
        ),
        (
            nn.Conv1d(3, 4, 3, padding=2, padding_mode="reflect"),
            (3, 2),
            r"reflect padding is smaller than each.*\(2,\)",
        ),
        (
            nn.Conv1d(3, 4, 3, padding=3, padding_mode="circular"),
            (3, 2),
            r"circular padding is no larger.*another padding",
        ),
    ],
)
def test_a_map_that_does_not_fit_the_convolution_is_refused(conv: Any, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(EquivError, match=r"^feature_shape: expected .*" + message):
        conv_to_linear(conv, shape)


def test_negative_zero_padding_is_refused() -> None:
    with pytest.raises(EquivError, match=r"^conv\.padding: expected at least 0, got \(-1,\); crop the input instead$"):
        conv_to_linear(nn.Conv1d(3, 4, 1, padding=-1), (3, 5))


@pytest.mark.parametrize(("size", "gib"), [(2**20, r"4,096\.0"), (2**40, r"[\d,]+\.0")])
def test_a_matrix_beyond_memory_is_refused_with_its_size(size: int, gib: str) -> None:
    with pytest.raises(
        EquivError, match=rf"^feature_shape: expected a map whose dense matrix fits.* = {gib} GiB; pass a"
    ):
        conv_to_linear(nn.Conv2d(1, 1, 1), (1, size, 1024 if size > 2**20 else 1))


def test_a_matrix_beyond_memory_has_a_meta_form() -> None:
    assert conv_to_linear(nn.Conv1d(1, 1, 1, device="meta"), (1, 2**20)).weight.shape == (2**20, 2**20)


# --- refusals: modules ------------------------------------------------------------------------------------------------


class Doubled(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class DoubledConv(nn.Conv2d):
    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return 2 * super()._conv_forward(input, weight, bias)


class Tagged(Tensor):
    pass


def replaced(key: str, change: Callable[[Tensor], Tensor]) -> Callable[[Any], Any]:
    def apply(module: Any) -> Any:
        setattr(module, key, nn.Parameter(change(getattr(module, key).detach()), requires_grad=False))
        return module

    return apply


def after(action: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def apply(module: Any) -> Any:
        action(module)
        return module

    return apply


def identity(module: Any) -> None:
    nn.utils.parametrize.register_parametrization(module, "bias", nn.Identity())


Refusals = dict[str, tuple[Callable[[Any], Any], str]]
# What both kinds of layer refuse: how to spoil one, and what the message says after the argument's name.
COMMON: Refusals = {
    "hook": (
        after(lambda m: m.register_forward_hook(print)),
        r": expected a layer without forward hooks, .* 0 before and 1 after .*remove them on a copy first",
    ),
    "pre-hook": (
        after(lambda m: m.register_forward_pre_hook(print)),
        r": expected a layer without forward hooks, .* 1 before and 0 after",
    ),
    "patched": (after(lambda m: setattr(m, "forward", abs)), r": expected a plain torch\.nn\..* with its own forward"),
    "parametrized": (
        parametrizations.weight_norm,
        r": expected a layer without parametrizations, .* weight is computed; call .*remove_parametrizations\(",
    ),
    "spectral": (parametrizations.spectral_norm, r": expected a layer without parametrizations, .* weight is computed"),
    "parametrized bias": (after(identity), r": expected a layer without parametrizations, .* bias is computed"),
    "old weight norm": (nn.utils.weight_norm, r": expected weight to be a parameter.* with remove_weight_norm"),
    "old spectral": (nn.utils.spectral_norm, r": expected weight to be a parameter.*remove_spectral_norm"),
    "pruned": (
        lambda m: prune.l1_unstructured(m, "weight", 2),
        r": expected weight to be a parameter.*prune\.remove",
    ),
    "pruned bias": (
        lambda m: prune.l1_unstructured(m, "bias", 1),
        r": expected bias to be a parameter.*prune\.remove",
    ),
    "no weight": (
        after(lambda m: m.register_parameter("weight", None)),
        r"\.weight: expected a parameter, got None; give the layer a weight",
    ),
    "bool": (replaced("weight", lambda w: w > 0), r"\.weight: expected one of float32, .* got torch\.bool; convert"),
    "bool bias": (replaced("bias", lambda b: b > 0), r"\.bias: expected one of float32, .* got torch\.bool; convert"),
    "float8": (
        replaced("weight", lambda w: w.to(torch.float8_e5m2)),
        r"\.weight: expected one of float32, .* got torch\.float8_e5m2; convert",
    ),
    "sparse": (
        replaced("weight", Tensor.to_sparse),
        r"\.weight: expected a strided tensor, got torch\.sparse_coo; convert it with to_dense",
    ),
    "quantized": (
        replaced("weight", lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8)),
        r"\.weight: expected an unquantized tensor, got torch\.qint8; convert it with dequantize",
    ),
    "subclass": (
        replaced("weight", lambda w: w.as_subclass(Tagged)),
        r"\.weight: .* got the tensor subclass Tagged.*; convert it to a plain parameter",
    ),
    "wrapper": (
        replaced("weight", lambda w: TwoTensor(w, w.clone())),
        r"\.weight: .* got the tensor subclass TwoTensor",
    ),
    "weight shape": (
        replaced("weight", lambda w: torch.cat([w, w])),
        r"\.weight: expected shape \(out_\w+, in_.*\) = \(4, .*, got \(8, .*; make attributes and weight agree",
    ),
    "bias shape": (
        replaced("bias", lambda b: b[:1]),
        r"\.bias: expected shape \(4,\), got \(1,\); give it one entry per output",
    ),
}
NO_LINEAR: Refusals = {
    "overridden": (
        lambda _: Doubled(12, 4),
        r": expected a plain torch\.nn\.Linear, got .*Doubled with its own forward",
    ),
    "lazy": (lambda _: nn.LazyLinear(4), r": expected an initialized layer, got a .*LazyLinear; run it once"),
    "no inputs": (
        lambda _: nn.Linear(0, 4, device="meta"),
        r"\.weight: expected at least one input and one output, got shape \(4, 0\); torch's linear and conv treat",
    ),
    "no outputs": (
        lambda _: nn.Linear(12, 0, device="meta"),
        r"\.weight: expected at least one input and one output, got shape \(0, 12\); .*handle this case apart",
    ),
    "conv": (lambda _: nn.Conv2d(3, 4, 2), r": expected a torch\.nn\.Linear, got .*Conv2d; use equiv\.conv_to_linear"),
    "bilinear": (lambda _: nn.Bilinear(3, 3, 4), r": expected a torch\.nn\.Linear, got .*Bilinear; pass the layer"),
    "sequential": (nn.Sequential, r": expected a torch\.nn\.Linear, got .*Sequential; pass the layer itself"),
    "tensor": (lambda m: m.weight, r": expected a torch\.nn\.Linear, got a tensor of shape \(4, 12\)"),
    "class": (type, r": expected a torch\.nn\.Linear, got <class .*; pass the layer itself, not its class"),
    "none": (lambda _: None, r": expected a torch\.nn\.Linear, got None"),
}
NO_CONV: Refusals = {
    "overridden": (lambda _: DoubledConv(3, 4, 2), r": expected a plain torch\.nn\.Conv2d, .* its own _conv_forward"),
    "lazy": (lambda _: nn.LazyConv2d(4, 2), r": expected an initialized layer, got a .*LazyConv2d; run it once"),
    "transposed": (
        lambda _: nn.ConvTranspose2d(3, 4, 2),
        r": expected a torch\.nn\.Conv1d, Conv2d or Conv3d, got a .*ConvTranspose2d; a transposed convolution is not",
    ),
    "linear": (lambda _: nn.Linear(12, 4), r": expected a torch\.nn\.Conv1d, .*; use equiv\.linear_to_full_conv or"),
    "sequential": (nn.Sequential, r": expected a torch\.nn\.Conv1d, .* got .*Sequential; pass the layer itself"),
    "no channels": (
        lambda _: nn.Conv2d(0, 4, 2, device="meta"),
        r"\.weight: expected at least one input and one output, got shape \(4, 0, 2, 2\)",
    ),
    "number": (lambda _: 3, r": expected a torch\.nn\.Conv1d, Conv2d or Conv3d, got 3; pass the layer itself"),
}


@pytest.mark.parametrize("case", [*COMMON, *NO_LINEAR])
@pytest.mark.filterwarnings("ignore:Initializing zero-element", "ignore:.*deprecated", "ignore:Lazy modules")
def test_a_linear_that_cannot_be_served_is_refused(case: str) -> None:
    spoil, message = (COMMON | NO_LINEAR)[case]
    module = spoil(nn.Linear(12, 4))
    for call in (
        lambda: linear_to_full_conv(module, (3, 2, 2)),
        lambda: linear_to_pointwise_conv(module),
        lambda: check_linear(module),
    ):
        with pytest.raises(EquivError, match="^linear" + message):
            call()


@pytest.mark.parametrize("case", [*COMMON, *NO_CONV])
@pytest.mark.filterwarnings("ignore:Initializing zero-element", "ignore:.*deprecated", "ignore:Lazy modules")
def test_a_conv_that_cannot_be_served_is_refused(case: str) -> None:
    spoil, message = (COMMON | NO_CONV)[case]
    module = spoil(nn.Conv2d(3, 4, 2))
    for call in (lambda: conv_to_linear(module, (3, 2, 2)), lambda: check_conv(module)):
        with pytest.raises(EquivError, match="^conv" + message):
            call()


@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_a_refused_layer_is_served_once_the_advice_is_followed() -> None:
    linear = prune.l1_unstructured(nn.Linear(12, 4), "weight", 2)
    prune.remove(linear, "weight")
    normed = parametrizations.weight_norm(nn.Linear(12, 4))
    nn.utils.parametrize.remove_parametrizations(normed, "weight")
    lazy = nn.LazyLinear(4)
    lazy(torch.zeros(1, 12))
    hooked = nn.Linear(12, 4)
    hooked.register_forward_hook(print).remove()
    for layer in (linear, normed, lazy, hooked):
        assert raw(linear_to_full_conv(layer, (3, 2, 2)).weight) == raw(layer.weight)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_convolution_is_taken_on_the_map_that_it_covers_where_no_other_is_given(dims: int) -> None:
    kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    conv = kind(3, 5, (2, 3, 2)[:dims])
    linear = conv_to_linear(conv)
    assert torch.equal(linear.weight, conv.weight.flatten(1))
    assert torch.equal(linear.weight, conv_to_linear(conv, (3, *conv.kernel_size)).weight)
    wide = kind(4, 6, 2, dilation=3, groups=2)
    assert torch.equal(conv_to_linear(wide).weight, conv_to_linear(wide, (4, *(4,) * dims)).weight)
