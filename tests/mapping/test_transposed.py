"""Transposed convolutions to dense layers and back: the same function, the same bits, the same settings."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mapping_helpers import DTYPES, few, integers, random_bits, raw
from torch import Tensor, nn

from equiv.errors import EquivError
from equiv.mapping import (
    check_conv,
    check_conv_transpose,
    conv_to_linear,
    linear_to_full_conv_transpose,
    linear_to_pointwise_conv_transpose,
    plain_form,
    to_channels,
)

KINDS = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
SHAPES = [(3, 4), (1, 1), (2, 3, 2), (12, 1, 1), (2, 1, 3, 2), (3, 2, 2, 1)]
COMPUTED = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.complex128, torch.int64]


def with_parameters(module: Any, weight: Tensor, bias: Tensor | None) -> Any:
    module.weight = nn.Parameter(weight, requires_grad=False)
    module.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
    return module


def transpose_of(weight: Tensor, bias: Tensor | None = None, groups: int = 1, **options: Any) -> Any:
    """Of a weight (C, O/G, *kernel)."""
    kernel = tuple(weight.shape[2:])
    kind = KINDS[len(kernel)]
    conv = kind(len(weight), weight.shape[1] * groups, kernel, groups=groups, device="meta", **options)
    return with_parameters(conv, weight, bias)


def linear_of(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    made: nn.Linear = with_parameters(nn.Linear(*weight.shape[::-1], device="meta"), weight, bias)
    return made


@settings(few, max_examples=200)
@given(st.data())
def test_any_transposed_convolution_equals_its_dense_layer(data: st.DataObject) -> None:
    dims = data.draw(st.sampled_from([1, 2, 3]))
    per_axis = lambda values: data.draw(st.tuples(*[values] * dims))  # noqa: E731 - drawn five times
    stride, dilation, kernel = per_axis(st.integers(1, 3)), per_axis(st.integers(1, 3)), per_axis(st.integers(1, 3))
    padding, spatial = per_axis(st.integers(0, 2)), per_axis(st.integers(1, 4))
    extra = tuple(data.draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True))
    groups, dtype = data.draw(st.sampled_from([1, 2, 3])), data.draw(st.sampled_from(COMPUTED))
    ins, outs = groups * data.draw(st.integers(1, 2)), data.draw(st.integers(1, 2))
    values = lambda shape, seed: integers(shape, dtype, seed).sgn()  # noqa: E731 - sums that 16 bits hold exactly
    bias = values((outs * groups,), 5) if data.draw(st.booleans()) else None
    options: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation, "output_padding": extra}
    conv = transpose_of(values((ins, outs, *kernel), 0), bias, groups, **options)
    x = values((3, ins, *spatial), 1)
    sizes = zip(spatial, stride, padding, dilation, kernel, extra, strict=True)
    if min((n - 1) * s - 2 * p + d * (k - 1) + e + 1 for n, s, p, d, k, e in sizes) < 1:
        with pytest.raises(EquivError, match=r"^feature_shape: expected spatial sizes that leave at least one output"):
            conv_to_linear(conv, x.shape[1:])
        return
    expected = conv(x)
    actual = conv_to_linear(conv, x.shape[1:])(x.flatten(1))
    assert torch.equal(actual, expected.flatten(1))
    same, spread = plain_form(conv, x)
    assert check_conv(same) is same
    assert torch.equal(same(spread), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("groups", [1, 2])
def test_weights_are_moved_as_bits(dtype: torch.dtype, groups: int) -> None:
    weight, bias = random_bits((4, 3, 2, 3), dtype), random_bits((3 * groups,), dtype, 1)
    linear = conv_to_linear(transpose_of(weight, bias, groups, stride=2), (4, 2, 2))
    matrix = linear.weight.view(groups, 3, 4, 5, groups, 4 // groups, 2, 2)
    for g, y, x in itertools.product(range(groups), range(2), range(2)):  # each input writes its kernel at its stride
        block = matrix[g, :, 2 * y : 2 * y + 2, 2 * x : 2 * x + 3, g, :, y, x]  # (O/G, *kernel, C/G)
        own = weight[g * (4 // groups) : (g + 1) * (4 // groups)]
        assert raw(block) == raw(own.permute(1, 2, 3, 0))
    assert sum(raw(matrix)) == 4 * sum(raw(weight))  # every other byte is zero
    assert raw(linear.bias) == raw(bias.repeat_interleave(20))


def test_the_matrix_of_a_transposed_convolution_is_the_known_one() -> None:
    conv = transpose_of(torch.tensor([[[2.0, 3.0, 5.0]]]), torch.tensor([7.0]), padding=1)
    linear = conv_to_linear(conv, (1, 3))
    assert linear.weight.tolist() == [[3, 2, 0], [5, 3, 2], [0, 5, 3]]
    assert linear.bias.tolist() == [7, 7, 7]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bias", [True, False])
def test_full_transpose_makes_the_whole_map_from_one_position(shape: tuple[int, ...], bias: bool) -> None:
    positions, dims = math.prod(shape[1:]), len(shape) - 1
    given_bias = integers((shape[0],), seed=2).repeat_interleave(positions) if bias else None
    linear = linear_of(integers((math.prod(shape), 5)), given_bias)
    conv = linear_to_full_conv_transpose(linear, shape)
    x = integers((4, 5), seed=3)
    assert type(conv) is KINDS[dims]
    assert conv.weight.shape == (5, *shape)
    assert torch.equal(conv(to_channels(x, dims)), linear(x).view(4, *shape))


@pytest.mark.parametrize("spatial_dims", [1, 2, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_pointwise_transpose_is_the_layer_at_every_position(spatial_dims: int, bias: bool) -> None:
    linear = linear_of(integers((5, 6)), integers((5,), seed=2) if bias else None)
    conv = linear_to_pointwise_conv_transpose(linear, spatial_dims)
    x = integers((4, 6, *(2, 3, 2)[:spatial_dims]), seed=3)
    assert type(conv) is KINDS[spatial_dims]
    assert torch.equal(conv(x), linear(x.movedim(1, -1)).movedim(-1, 1))


@few
@given(
    shape=st.sampled_from(SHAPES),
    ins=st.integers(1, 4),
    dtype=st.sampled_from(DTYPES),
    bias=st.booleans(),
    share=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_there_and_back_keeps_every_bit(
    shape: tuple[int, ...], ins: int, dtype: torch.dtype, bias: bool, share: bool, seed: int
) -> None:
    outs, positions, dims = math.prod(shape), math.prod(shape[1:]), len(shape) - 1
    biases = random_bits((shape[0],), dtype, seed + 1)
    full = linear_of(random_bits((outs, ins), dtype, seed), biases.repeat_interleave(positions) if bias else None)
    point = linear_of(random_bits((shape[0], ins), dtype, seed), biases if bias else None)
    shared = share and not (bias and positions > 1)
    for linear, conv, views in (
        (full, linear_to_full_conv_transpose(full, shape, share=shared), shared),
        (point, linear_to_pointwise_conv_transpose(point, dims, share=share), share),
    ):
        result = conv_to_linear(conv, share=views)
        assert raw(result.weight) == raw(linear.weight)
        assert (result.bias is None) == (linear.bias is None)
        assert linear.bias is None or raw(result.bias) == raw(linear.bias)
        storages = {layer.weight.untyped_storage().data_ptr() for layer in (linear, conv, result)}
        assert len(storages) == (1 if views else 3)


def test_a_bias_that_changes_from_position_to_position_is_refused() -> None:
    bias = torch.tensor([1.0, 1, 1, 1, 2, 2, 2, 3])
    message = (
        r"^linear\.bias: expected the same at all 4 positions of a channel, got one that changes.*; .* add the bias"
    )
    with pytest.raises(EquivError, match=message):
        linear_to_full_conv_transpose(linear_of(torch.zeros(8, 3), bias), (2, 2, 2))
    assert linear_to_full_conv_transpose(linear_of(torch.zeros(8, 3), bias), (8, 1)).bias.tolist() == bias.tolist()
    nan = torch.full((8,), math.nan)
    assert linear_to_full_conv_transpose(linear_of(torch.zeros(8, 3), nan), (2, 2, 2)).bias.isnan().all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda linear: linear_to_full_conv_transpose(linear, (3, 2, 3)),
            r"^feature_shape: .* product 12 \(= linear.out",
        ),
        (lambda linear: linear_to_full_conv_transpose(linear, 12), r"^feature_shape: expected a tuple"),
        (lambda linear: linear_to_full_conv_transpose(linear, (3, 2, 2), share=1), r"^share: expected True or False"),
        (
            lambda linear: linear_to_full_conv_transpose(linear, (3, 4), share=True),
            r"^share: expected False for a bias",
        ),
        (
            lambda linear: linear_to_pointwise_conv_transpose(linear, 4),
            r"^spatial_dims: expected an integer from 1 to 3",
        ),
        (lambda linear: linear_to_pointwise_conv_transpose(nn.Conv1d(1, 1, 1)), r"^linear: expected a torch.nn.Linear"),
        (lambda _: conv_to_linear(nn.ConvTranspose2d(3, 4, 1), (3, 5)), r"2 spatial dimensions for a ConvTranspose2d"),
        (lambda _: conv_to_linear(nn.ConvTranspose1d(3, 4, 1), (5, 3)), r"expected 3 channels first .*channels last"),
        (
            lambda _: conv_to_linear(nn.ConvTranspose1d(3, 4, 2), (3, 2), share=True),
            r"^share: expected False for a conv",
        ),
        (lambda _: conv_to_linear(nn.ConvTranspose1d(3, 4, 2), share=True), r"^share: expected False .* the bias"),
        (
            lambda _: conv_to_linear(nn.ConvTranspose1d(3, 4, 1, padding=1), (3, 2)),
            r"^feature_shape: expected spatial sizes that leave at least one output .*, got \(2,\), which leave \(0,\)",
        ),
        (lambda _: conv_to_linear(nn.ConvTranspose1d(1, 1, 2**20), (1, 2**21)), r"^feature_shape: .* fits in memory"),
    ],
)
def test_what_cannot_be_served_is_refused(call: Callable[[nn.Linear], Any], message: str) -> None:
    with pytest.raises(EquivError, match=message):
        call(linear_of(torch.zeros(12, 5), torch.zeros(12)))


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("flags", list(itertools.product([True, False], repeat=3)))
def test_settings_are_kept_and_nothing_global_is_touched(device: str, flags: tuple[bool, bool, bool]) -> None:
    linear = linear_of(torch.zeros(12, 5, device=device), torch.zeros(12, device=device)).train(flags[2])
    linear.weight.requires_grad_(flags[0])
    linear.bias.requires_grad_(flags[1])
    before = torch.get_rng_state()
    for conv in (linear_to_full_conv_transpose(linear, (3, 4)), linear_to_pointwise_conv_transpose(linear)):
        back = conv_to_linear(conv)
        assert check_conv_transpose(conv) is conv
        for layer in (conv, back):
            assert (layer.weight.requires_grad, layer.bias.requires_grad, layer.training) == flags
            assert layer.weight.device.type == device
            assert layer.weight.is_contiguous()
            assert type(layer.weight) is nn.Parameter
        plain = type(conv)(conv.in_channels, conv.out_channels, conv.kernel_size, device="meta")
        assert repr(conv) == repr(plain)
        assert set(vars(conv)) == set(vars(plain))
    assert torch.equal(before, torch.get_rng_state())


def test_other_layers_and_inputs_of_one_position_are_taken_as_they_are() -> None:
    x = integers((2, 3))
    for layer in (nn.Linear(3, 2), nn.Conv1d(3, 2, 1), nn.ReLU(), None, 3):
        assert plain_form(layer, x) == (layer, x)
    conv, spread = plain_form(nn.ConvTranspose2d(3, 2, 2).double(), x)
    assert (conv.out_channels, spread.shape) == (2, (2, 3, 1, 1))
