"""Layers that hold their weight with the inputs first at other front doors: compare, assert_equivalent, certify."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from equiv import EquivError, NotEquivalent, assert_equivalent, certify, compare, conv_to_linear
from equiv.numerics import declared
from equiv.verdict import Outcome

CASES: list[tuple[Any, dict[str, Any], tuple[int, ...]]] = [
    (nn.ConvTranspose1d, {"groups": 2, "dilation": 2}, (4, 5)),
    (nn.ConvTranspose2d, {"stride": 2, "padding": 1, "output_padding": 1}, (4, 3, 2)),
    (nn.ConvTranspose3d, {"stride": (1, 2, 3), "padding": (0, 1, 2), "bias": False}, (4, 2, 2, 2)),
]


class Conv1D(nn.Module):
    """As in transformers."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight, self.bias = nn.Parameter(torch.randn(nx, nf)), nn.Parameter(torch.randn(nf))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(*x.size()[:-1], self.nf)


@pytest.fixture(autouse=True)
def same_draws() -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def values(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Normal ones; of 16 bits those whose sums are exact in every order, as torch rounds there once for each tap."""
    x = 4 * torch.randn(shape)
    return (x.clamp(-1, 1).round() if dtype in (torch.bfloat16, torch.float16) else x).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64], ids=str)
@pytest.mark.parametrize(("kind", "options", "shape"), CASES)
def test_results_of_transposed_convolutions_are_compared(
    kind: Any, options: dict[str, Any], shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    layer = kind(4, 6, 3, **options)
    for key, parameter in layer.named_parameters():
        layer._parameters[key] = nn.Parameter(values(parameter.shape, dtype), requires_grad=False)
    x = values((3, *shape), dtype)
    y = layer(x)
    linear = conv_to_linear(layer, shape)
    verdict = compare(y, linear(x.flatten(1)).view_as(y), input=x, layer=layer)
    assert verdict.outcome in (Outcome.IDENTICAL, Outcome.ROUNDING), verdict
    wrong = y.clone()
    wrong.flatten()[7] += 1 + wrong.flatten()[7].abs()
    assert compare(wrong, y, input=x, layer=layer).outcome is Outcome.DIFFERENT


def test_one_position_may_come_as_rows() -> None:
    layer, x = nn.ConvTranspose2d(5, 3, 4), torch.randn(7, 5)
    y = layer(x[..., None, None])
    assert compare(y, y, input=x, layer=layer).outcome is Outcome.IDENTICAL


def test_inputs_and_layers_that_do_not_fit_are_refused() -> None:
    layer, y = nn.ConvTranspose2d(5, 3, 4), torch.zeros(7, 3, 4, 4)
    with pytest.raises(
        EquivError, match=r"^input: expected \(\*batch, 5, \*spatial\) with 2 spatial sizes, got \(7, 4\)"
    ):
        compare(y, y, input=torch.zeros(7, 4), layer=layer)
    with pytest.raises(
        EquivError, match=r"^input: expected a torch\.Tensor, got NoneType; pass what the layer was given"
    ):
        compare(y, y, layer=layer)
    layer.output_padding = (1, 1)
    with pytest.raises(EquivError, match=r"^layer\.output_padding: expected less than the stride \(1, 1\) or the dil"):
        compare(y, y, input=torch.zeros(7, 5, 1, 1), layer=layer)


@pytest.mark.parametrize(("kind", "options", "shape"), CASES)
def test_transposed_convolutions_are_the_same_function_as_their_dense_layers(
    kind: Any, options: dict[str, Any], shape: tuple[int, ...]
) -> None:
    layer = kind(4, 6, 3, **options)
    linear = conv_to_linear(layer, shape)
    for pair in ((layer, linear), (linear, layer), (lambda x: layer(x), layer), (layer, lambda x: layer(x))):
        assert_equivalent(*pair, feature_shape=shape)
    for pair in ((layer, linear), (linear, layer)):
        assert certify(*pair, feature_shape=shape).equivalent
    place = tuple(linear.weight.detach().nonzero()[0])
    linear.weight.data[place] *= 1.25
    for pair in ((layer, linear), (layer, lambda x: linear(x.flatten(1)))):
        with pytest.raises(NotEquivalent):
            assert_equivalent(*pair, feature_shape=shape)
    assert not certify(layer, linear, feature_shape=shape).equivalent


def test_a_conv1d_is_the_same_function_as_its_linear() -> None:
    layer, x = Conv1D(5, 12), torch.randn(3, 12)
    linear = conv_to_linear(layer)
    assert_equivalent(layer, linear)
    assert certify(linear, layer).equivalent
    assert compare(layer(x), linear(x), input=x, layer=layer).outcome in (Outcome.IDENTICAL, Outcome.ROUNDING)
    assert compare(layer(x) + 1, linear(x), input=x, layer=layer).outcome is Outcome.DIFFERENT
    linear.weight.data[3, 2] *= 1.25
    with pytest.raises(NotEquivalent):
        assert_equivalent(layer, linear)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_taps_that_are_added_in_16_bits_pass_where_that_is_said(dtype: torch.dtype) -> None:
    """As in docs/findings/transposed-conv-adds-taps-in-16-bits.md, on every machine."""
    layer, x = nn.ConvTranspose1d(16, 16, 5, bias=False).to(dtype), torch.randn(8, 16, 9).to(dtype)
    right = layer.double()(x.double()).to(dtype)
    weight = layer.to(dtype).weight.detach()
    narrow = torch.zeros_like(right)
    for tap in range(5):
        products = torch.einsum("bcl,co->bol", x.double(), weight[..., tap].double()).to(dtype)
        narrow[..., tap : tap + 9] += products
    assert compare(right, right, input=x, layer=layer).equivalent
    assert compare(narrow, right, input=x, layer=layer).outcome is Outcome.DIFFERENT
    sixteen_bits = replace(declared(dtype), u=torch.finfo(dtype).eps / 2, factor=2.0)
    assert compare(narrow, right, input=x, layer=layer, arithmetic=sixteen_bits).equivalent
    own = layer(x).detach()  # of this machine
    assert compare(own, right, input=x, layer=layer, arithmetic=sixteen_bits).equivalent


@pytest.mark.parametrize(("key", "value"), [("stride", 0), ("dilation", -1), ("groups", 0), ("padding_mode", "zero")])
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
def test_what_torch_refuses_to_run_is_refused_by_its_attribute(kind: Any, key: str, value: Any) -> None:
    layer, linear, y = kind(4, 6, 1), nn.Linear(4, 6), torch.zeros(2, 6, 1, 1)
    setattr(layer, key, value)
    with pytest.raises(EquivError, match=rf"^candidate\.{key}: expected .*, got {value!r}; "):
        certify(layer, linear, feature_shape=(4, 1, 1))
    with pytest.raises(EquivError, match=rf"^layer\.{key}: expected .*, got {value!r}; "):
        compare(y, y, input=torch.zeros(2, 4, 1, 1), layer=layer)
    with pytest.raises(EquivError, match=rf"^conv\.{key}: expected .*, got {value!r}; "):
        conv_to_linear(layer, (4, 1, 1))
