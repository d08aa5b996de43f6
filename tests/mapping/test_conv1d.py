"""The Conv1D of transformers, a linear layer with its weight transposed: served both ways, told by what it computes."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest
import torch
from mapping_helpers import DTYPES, integers, random_bits, raw
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import equiv
from equiv.errors import EquivError, MissingExtraError
from equiv.mapping import conv_to_linear, linear_to_transformers_conv1d


class Conv1D(nn.Module):
    """As in transformers."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf = nf
        self.nx = nx
        self.weight = nn.Parameter(torch.empty(nx, nf))
        self.bias = nn.Parameter(torch.zeros(nf))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        size_out = (*x.size()[:-1], self.nf)
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(size_out)


class Older(Conv1D):
    """Versions before 4.40 keep no nx."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__(nf, nx)
        del self.nx


def conv1d(dtype: torch.dtype = torch.float32, kind: type[Conv1D] = Conv1D, seed: int = 0) -> Any:
    layer = kind(5, 12)
    layer.weight = nn.Parameter(random_bits((12, 5), dtype, seed), requires_grad=False)
    layer.bias = nn.Parameter(random_bits((5,), dtype, seed + 1), requires_grad=False)
    return layer


@pytest.fixture(params=["stand-in", "transformers"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The class that the mapping finds in transformers: the one above, and the real one where it is installed."""
    if request.param == "transformers":
        return pytest.importorskip("transformers.pytorch_utils", reason="transformers is not installed").Conv1D
    module = types.ModuleType("transformers.pytorch_utils")
    module.Conv1D = Conv1D  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "transformers", types.ModuleType("transformers"))
    monkeypatch.setitem(sys.modules, "transformers.pytorch_utils", module)
    return Conv1D


@pytest.mark.parametrize("share", [False, True])
def test_a_linear_becomes_a_conv1d_and_comes_back(kind: Any, share: bool) -> None:
    linear = nn.Linear(12, 5)
    before = torch.get_rng_state()
    layer = linear_to_transformers_conv1d(linear.eval(), share=share)
    assert torch.equal(torch.get_rng_state(), before)
    assert type(layer) is kind
    assert set(vars(layer)) == set(vars(kind(5, 12)))
    assert (layer.nf, layer.nx, layer.training) == (5, 12, False)
    back = conv_to_linear(layer, share=share)
    assert raw(layer.weight) == raw(linear.weight.t())
    assert raw(back.weight) == raw(linear.weight)
    assert raw(back.bias) == raw(linear.bias)
    storages = {one.weight.untyped_storage().data_ptr() for one in (linear, layer, back)}
    assert len(storages) == (1 if share else 3)
    x = integers((2, 3, 12), torch.float32)
    assert layer(x).shape == (2, 3, 5)
    equiv.assert_equivalent(layer, linear)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_conv1d_becomes_a_linear_in_every_dtype(dtype: torch.dtype) -> None:
    for layer in (conv1d(dtype), conv1d(dtype, Older), conv1d(dtype).to("meta")):
        linear = conv_to_linear(layer)
        assert type(linear) is nn.Linear
        assert (linear.in_features, linear.out_features, linear.weight.dtype) == (12, 5, dtype)
        assert linear.weight.device == layer.weight.device
        assert linear.weight.is_contiguous()
        if not layer.weight.is_meta:
            assert raw(linear.weight) == raw(layer.weight.t())
            assert raw(linear.bias) == raw(layer.bias)


def test_the_map_that_was_flattened_may_be_named() -> None:
    layer = conv1d()
    assert raw(conv_to_linear(layer, (3, 2, 2)).weight) == raw(conv_to_linear(layer).weight)
    with pytest.raises(EquivError, match=r"^feature_shape: expected .* product 12 \(= conv.nx\), got \(3, 2, 3\)"):
        conv_to_linear(layer, (3, 2, 3))


def test_settings_are_kept_and_the_source_is_left_alone() -> None:
    layer = conv1d().train(False)
    layer.weight.requires_grad_(True)
    before = (dict(vars(layer)), dict(layer._parameters), raw(layer.weight), layer.weight._version)
    linear = conv_to_linear(layer)
    assert (linear.weight.requires_grad, linear.bias.requires_grad, linear.training) == (True, False, False)
    assert before == (dict(vars(layer)), dict(layer._parameters), raw(layer.weight), layer.weight._version)


def spoilt(**methods: Any) -> Any:
    return type("Conv1D", (Conv1D,), methods)(5, 12)


def changed(action: Any) -> Any:
    layer = conv1d()
    action(layer)
    return layer


def with_weight(weight: Tensor) -> Any:
    return changed(lambda layer: layer.register_parameter("weight", nn.Parameter(weight, requires_grad=False)))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (
            spoilt(forward=lambda self, x: 2 * Conv1D.forward(self, x)),
            r"^conv: .* x @ weight \+ bias, .* another result",
        ),
        (
            spoilt(forward=lambda self, x: nn.functional.linear(x, self.weight)),
            r"^conv: .*which gives RuntimeError: mat1",
        ),
        (spoilt(forward=lambda self, x: None), r"^conv: .*which gives another result"),
        (changed(lambda layer: layer.register_forward_hook(print)), r"^conv: expected a layer without forward hooks"),
        (changed(lambda layer: layer.register_buffer("mask", torch.ones(1))), r"^conv: .* that also holds mask, which"),
        (changed(lambda layer: layer.add_module("lora", nn.Linear(1, 1))), r"^conv: .* that also holds lora, which"),
        (changed(parametrizations.weight_norm), r"^conv: expected a layer without parametrizations"),
        (changed(lambda layer: setattr(layer, "nf", 6)), r"^conv\.weight: expected shape \(nx, nf\) = \(12, 6\)"),
        (changed(lambda layer: setattr(layer, "nf", 5.0)), r"^conv\.nf: expected an integer of at least 0, got 5\.0"),
        (changed(lambda layer: setattr(layer, "bias", None)), None),
        (
            with_weight(torch.zeros(12, 5).to_sparse()),
            r"^conv\.weight: expected a strided tensor, got torch.sparse_coo",
        ),
        (with_weight(torch.zeros(60)), r"^conv\.weight: expected shape \(nx, nf\) = \(12, 5\), got \(60,\)"),
        (with_weight(torch.zeros(())), r"^conv\.weight: expected shape \(nx, nf\) = \(12, 5\), got \(\)"),
        (with_weight(torch.zeros(12, 5, dtype=torch.bool)), r"^conv\.weight: expected one of float32"),
        (nn.ReLU(), r"^conv: expected a torch\.nn\.Conv1d"),
    ],
)
def test_what_computes_something_else_is_refused(layer: Any, message: str | None) -> None:
    if message is None:  # its forward adds the bias: without one it fails
        message = r"^conv: expected a Conv1D that returns x @ weight \+ bias, .* TypeError: addmm"
    with pytest.raises(EquivError, match=message):
        conv_to_linear(layer)


def test_other_functions_say_how_it_becomes_a_linear() -> None:
    for call in (lambda: equiv.linear_to_full_conv(conv1d(), (12, 1)), lambda: equiv.counterexample(conv1d(), (12, 1))):
        with pytest.raises(
            EquivError, match=r"^linear: expected a torch\.nn\.Linear, got .*Conv1D; use equiv\.conv_to"
        ):
            call()


def test_a_layer_without_bias_is_no_conv1d(kind: Any) -> None:
    with pytest.raises(EquivError, match=r"^linear\.bias: expected a bias, got None; .* give the layer zeros$"):
        linear_to_transformers_conv1d(nn.Linear(12, 5, bias=False))
    with pytest.raises(EquivError, match=r"^share: expected True or False"):
        linear_to_transformers_conv1d(nn.Linear(12, 5), share=1)  # type: ignore[arg-type]


def test_without_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setitem(sys.modules, "transformers.pytorch_utils", None)
    with pytest.raises(MissingExtraError, match=r"got ModuleNotFoundError: .*pip install 'torch-equiv\[models\]'$"):
        linear_to_transformers_conv1d(nn.Linear(12, 5))
    broken = types.ModuleType("transformers")
    broken.__getattr__ = lambda name: 1 / 0  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, "transformers", broken)
    monkeypatch.setitem(sys.modules, "transformers.pytorch_utils", broken)
    with pytest.raises(MissingExtraError, match=r"got ZeroDivisionError: division by zero; pip install"):
        linear_to_transformers_conv1d(nn.Linear(12, 5))
