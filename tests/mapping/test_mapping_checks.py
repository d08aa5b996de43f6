"""What the mappings cannot serve is refused with advice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from mapping_helpers import raw
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.testing._internal.two_tensor import TwoTensor

from equiv.errors import EquivError
from equiv.mapping import (
    check_conv,
    check_conv_transpose,
    check_feature_shape,
    check_linear,
    conv_to_linear,
    is_plain_layer,
    linear_to_full_conv,
    linear_to_pointwise_conv,
    to_channels,
    to_feature_map,
)


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
        ((3, 10**300, 2), r"that 64 bits hold, got \(3, 1000.*; give the sizes"),
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


def test_a_transposed_convolution_is_no_convolution_and_the_other_way_round() -> None:
    kinds = "torch.nn.Conv1d, Conv2d or Conv3d"
    with pytest.raises(
        EquivError, match=f"^conv: expected a {kinds}, got .*ConvTranspose2d; pass equiv.conv_to_linear"
    ):
        check_conv(nn.ConvTranspose2d(3, 4, 2))
    with pytest.raises(EquivError, match=r"^conv: expected a torch.nn.ConvTranspose1d, .*3d, got a .*Conv2d; pass the"):
        check_conv_transpose(nn.Conv2d(3, 4, 2))


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
        with pytest.raises(EquivError, match=r"^spatial_dims: expected an integer from 1 to 3, got .*; it selects"):
            call(argument, spatial_dims)


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


quiet = pytest.mark.filterwarnings(
    *("ignore:Initializing zero-element", "ignore:.*deprecated", "ignore:Lazy modules", "ignore:.*nested tensors is in")
)
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
    "nested": (
        after(lambda m: m._parameters.update(weight=nn.Parameter(torch.nested.nested_tensor([m.weight[0]])))),
        r"\.weight: expected a strided tensor, got a nested tensor; make it one tensor",
    ),
    "deleted": (
        after(lambda m: delattr(m, "bias")),
        r"\.bias: expected a parameter, got a .* without one; register it",
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
    "features": (
        after(lambda m: setattr(m, "out_features", 4.0)),
        r"\.out_features: expected an integer of at least 0, got 4\.0; make attributes and weight agree",
    ),
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
    "lazy transposed": (lambda _: nn.LazyConvTranspose2d(4, 2), r": expected (an initialized layer|a torch).*"),
    "quantization aware": (
        lambda _: torch.ao.nn.qat.Conv2d(3, 4, 2, qconfig=torch.ao.quantization.get_default_qat_qconfig()),
        r": expected a plain torch\.nn\.Conv2d, .* with its own forward",
    ),
    "lazy": (lambda _: nn.LazyConv2d(4, 2), r": expected an initialized layer, got a .*LazyConv2d; run it once"),
    "linear": (lambda _: nn.Linear(12, 4), r": expected a torch\.nn\.Conv1d, .*; use equiv\.linear_to_full_conv or"),
    "sequential": (nn.Sequential, r": expected a torch\.nn\.Conv1d, .* got .*Sequential; pass the layer itself"),
    "no channels": (
        lambda _: nn.Conv2d(0, 4, 2, device="meta"),
        r"\.weight: expected at least one input and one output, got shape \(4, 0, 2, 2\)",
    ),
    "number": (lambda _: 3, r": expected a torch\.nn\.Conv1d, Conv2d or Conv3d, got 3; pass the layer itself"),
}


@pytest.mark.parametrize("case", [*COMMON, *NO_LINEAR])
@quiet
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
    assert is_plain_layer(module) == (case == "conv")


@pytest.mark.parametrize("case", [*COMMON, *NO_CONV])
@quiet
def test_a_conv_that_cannot_be_served_is_refused(case: str) -> None:
    spoil, message = (COMMON | NO_CONV)[case]
    module = spoil(nn.Conv2d(3, 4, 2))
    for call in (lambda: conv_to_linear(module, (3, 2, 2)), lambda: check_conv(module)):
        with pytest.raises(EquivError, match="^conv" + message):
            call()
    assert is_plain_layer(module) == (case == "linear")


@pytest.mark.parametrize("case", COMMON)
@quiet
def test_a_transposed_conv_that_cannot_be_served_is_refused(case: str) -> None:
    spoil, message = COMMON[case]
    module = spoil(nn.ConvTranspose2d(4, 4, (3, 1)))
    message = message.replace(r"\(out_\w+, in_.*\)", r"\(in_channels, out_channels / groups, \*kernel_size\)")
    for call in (lambda: conv_to_linear(module, (4, 2, 2)), lambda: check_conv_transpose(module)):
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
        assert is_plain_layer(layer)
        assert raw(linear_to_full_conv(layer, (3, 2, 2)).weight) == raw(layer.weight)
