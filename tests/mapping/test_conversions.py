"""The mappings keep every bit of a layer and every promise about dtype, device, gradients, memory and mode."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mapping_helpers import CONVS, DTYPES, MODES, conv_of, few, integers, random_bits, raw
from torch import Tensor, nn
from torch.nn.functional import pad as pad_with_zeros
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from equiv.errors import EquivError
from equiv.mapping import (
    check_conv,
    conv_to_linear,
    linear_to_full_conv,
    linear_to_pointwise_conv,
    to_channels,
    to_feature_map,
)

DEVICES = ["cpu", "meta", *["cuda"] * torch.cuda.is_available()]
SHAPES = [(3, 4), (1, 1), (2, 3, 2), (12, 1, 1), (1, 3, 4), (2, 1, 3, 2), (3, 2, 2, 1)]


def linear_of(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    linear = nn.Linear(*weight.shape[::-1], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias, requires_grad=False)
    return linear


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
        ([1.0], r"^x: expected a torch\.Tensor, got list; convert it with torch\.as_tensor$"),
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
