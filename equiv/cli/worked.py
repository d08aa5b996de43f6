"""The worked examples behind ``equiv demo``: every number computed here and now, no sentence about them.

Letters are those of docs/numerics.md. Nothing reads or sets torch's global random state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from equiv.cli.layers import drawn_layer, linear_of
from equiv.mapping import linear_to_full_conv, linear_to_pointwise_conv, to_channels, to_feature_map
from equiv.numerics import Reference, declared, same_bits
from equiv.structure import Counterexample, counterexample
from equiv.verdict import Verdict, compare

DRAW_SEED = 20  # of the inputs that the documents leave open

ACTIVATION_ULPS = 4
"""Allowed error of a computed ELU or sigmoid, in units of 2**-24: one ulp of a float32 in [1/2, 1)."""

Activation = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class FormResult:
    """One form of a layer, carried out on one input."""

    form: str
    input: Tensor
    weight: Tensor
    output: Tensor
    """After the activation."""
    verdict: Verdict
    """Against the fully connected layer, before the activation."""


@dataclass(frozen=True)
class Example:
    """A layer, and its three forms carried out on the input 1, 2, 3, 4."""

    layer: nn.Linear
    forms: tuple[FormResult, ...]


def seed_123() -> Example:
    """``Linear(4, 2)`` with the weights that torch draws after ``manual_seed(123)``, without an activation."""
    return _example(_seed_123_layer(), nn.Identity())


def two_by_two() -> Example:
    """Weights 1.1 to 1.8 and biases 1.9 and 2.0 on the map [[1, 2], [3, 4]], with ReLU."""
    weight = torch.tensor([[1.1, 1.2, 1.3, 1.4], [1.5, 1.6, 1.7, 1.8]])
    return _example(linear_of(weight, torch.tensor([1.9, 2.0])), nn.ReLU())


def _seed_123_layer() -> nn.Linear:
    return drawn_layer(4, 2, dtype=torch.float32, seed=123)


@torch.no_grad()
def _example(linear: nn.Linear, activation: Activation) -> Example:
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    full, pointwise = linear_to_full_conv(linear, (1, 2, 2)), linear_to_pointwise_conv(linear)
    calls: tuple[tuple[str, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d, Tensor], ...] = (
        ("linear", linear, x),
        ("full", full, to_feature_map(x, (1, 2, 2))),
        ("pointwise", pointwise, to_channels(x)),
    )
    forms = []
    for form, layer, given in calls:
        y = layer(given)
        verdict = compare(y, linear(x), input=x, layer=linear)
        forms.append(FormResult(form, given, layer.weight, activation(y), verdict))
    return Example(linear, tuple(forms))


@dataclass(frozen=True)
class Width:
    """Two forms of one layer, judged by ``==``, by ``assert_close`` and by a verdict."""

    in_features: int
    outputs: int
    same_bits: int
    refused: int
    """Outputs that ``torch.testing.assert_close`` refuses with its default tolerances."""
    verdict: Verdict


WIDTHS = (4, 16, 64, 256, 1024)


@torch.no_grad()
def width(n: int, *, scale: float = 1.0, zeros: bool = False) -> Width:
    """Fully connected against full form, or against zeros, on 32 rows of ``n`` normal values with 64 outputs.

    All weights are multiplied by ``scale``; a power of two changes no digit of any result.
    """
    linear, x = _normal_layer(n, scale)
    expected = linear(x)
    full = linear_to_full_conv(linear, (n // 4, 2, 2))
    y = torch.zeros_like(expected) if zeros else full(to_feature_map(x, (n // 4, 2, 2))).flatten(1)
    refused = int((~torch.isclose(y, expected, rtol=1.3e-6, atol=1e-5)).sum())  # as assert_close does for float32
    same = int(same_bits(y, expected).sum())
    return Width(n, y.numel(), same, refused, compare(y, expected, input=x, layer=linear))


def _normal_layer(n: int, scale: float) -> tuple[nn.Linear, Tensor]:
    generator = torch.Generator().manual_seed(DRAW_SEED)
    weight = torch.randn(64, n, generator=generator) * scale
    return linear_of(weight, None), torch.randn(32, n, generator=generator)


def two_orders(a: float, b: float, c: float) -> tuple[float, float]:
    """``(a + b) + c`` and ``(a + c) + b`` in float32.

    Example:
        >>> two_orders(1e8, 1.0, -1e8)
        (0.0, 1.0)
    """
    x, y, z = torch.tensor([a, b, c])
    return float((x + y) + z), float((x + z) + y)


@torch.no_grad()
def overflowing(a: float, b: float, c: float) -> Verdict:
    """The two orders of a sum of three, as the results of one layer that are compared."""
    found = torch.tensor([two_orders(a, b, c)]).T
    return compare(found[:1], found[1:], input=torch.tensor([[a, b, c]]), layer=linear_of(torch.ones(1, 3), None))


@dataclass(frozen=True)
class LayerStep:
    """One layer of two networks, alone and in its place."""

    in_features: int
    out_features: int
    verdict: Verdict
    """Convolution against Linear, both given the Linear network's own input."""
    difference: float
    """Largest difference of the two networks up to and with this layer, before its activation."""
    bound: float
    """The propagated bound where that difference comes closest to it."""
    fraction: float
    """The largest difference as a fraction of its own bound: at most 1 where nothing is wrong."""


@dataclass(frozen=True)
class Networks:
    """Two networks with the same weights, one of Linear layers, one of 1x1 convolutions."""

    outputs: int
    largest_logit: float
    activation_error: float
    """Largest measured error of the activation, in units of 2**-24."""
    layers: tuple[LayerStep, ...]

    @property
    def difference(self) -> float:
        """Largest difference of two logits."""
        return self.layers[-1].difference


LAYERS = (256, 64, 128, 256, 4)
BATCH, SAMPLES = 16, 5
_ACTIVATIONS: dict[str, tuple[Activation, float]] = {"ELU": (nn.ELU(), 1.0), "sigmoid": (nn.Sigmoid(), 0.25)}


@torch.no_grad()
def networks(activation: str, fill: float) -> Networks:
    """Every weight and bias ``fill``, ``activation`` (``ELU`` or ``sigmoid``) after each layer but the last.

    The bound on the difference is ``D_0 = 0``; before the activation of layer l ``E_linear + E_conv + |W| D_{l-1}``,
    after it ``L`` times that plus the activation's own error, once for each network. ``E`` is the distance to the edge
    of the envelope around the exact result for the input that this network really has there.
    """
    function, lipschitz = _ACTIVATIONS[activation]
    h = torch.randn(BATCH, SAMPLES, LAYERS[0], generator=torch.Generator().manual_seed(DRAW_SEED))
    g, apart = h, torch.zeros(h.shape, dtype=torch.float64)
    steps, measured = [], 0.0
    for number, (n, out) in enumerate(pairwise(LAYERS)):
        linear = linear_of(torch.full((out, n), fill), torch.full((out,), fill))
        conv = linear_to_pointwise_conv(linear)
        y, z = linear(h), _over_samples(conv, g)
        verdict = compare(_over_samples(conv, h), y, input=h, layer=linear)
        apart = apart @ linear.weight.double().abs().T + _reach(linear, h, y) + _reach(linear, g, z)
        apart = apart * (1 + 2.0**-40)  # the bound's own rounding
        difference = (y - z).double().abs()
        fraction = torch.where(difference == 0, 0.0, difference / apart)
        closest = int(fraction.argmax())
        steps.append(
            LayerStep(n, out, verdict, float(difference.max()), float(apart.flatten()[closest]), float(fraction.max()))
        )
        if number < len(LAYERS) - 2:
            h, g = function(y), function(z)
            measured = max(measured, float((h.double() - function(y.double())).abs().max()) * 2**24)
            apart = lipschitz * apart + 2 * ACTIVATION_ULPS * 2.0**-24
    return Networks(y.numel(), float(y.abs().max()), measured, tuple(steps))


def _over_samples(conv: nn.Module, x: Tensor) -> Tensor:
    """``(batch, samples, n)`` as the map ``(batch, n, samples, 1)`` through a convolution, and back."""
    y: Tensor = conv(x.unsqueeze(3).permute(0, 2, 1, 3))
    return y.squeeze(3).permute(0, 2, 1)


def _reach(linear: nn.Linear, x: Tensor, y: Tensor) -> Tensor:
    """How far from the exact result for ``x`` a right output may lie: shape of ``y``, float64."""
    found = Reference(x.reshape(-1, linear.in_features), linear.weight, linear.bias).assess(
        y.reshape(-1, linear.out_features), declared(y.dtype)
    )
    return torch.maximum(found.upper - found.exact, found.exact - found.lower).reshape(y.shape)


@dataclass(frozen=True)
class NotTheLayer:
    """The layer of seed 123, and the closest 1x1 convolution over the one channel of its 2x2 map, on 1, 2, 3, 4."""

    found: Counterexample
    layer_output: Tensor
    conv_output: Tensor
    """A row of four positions for each output channel."""


@torch.no_grad()
def not_the_layer() -> NotTheLayer:
    """The closest 1x1 convolution to a flattened layer, with its map summed, on the input 1, 2, 3, 4."""
    linear, x = _seed_123_layer(), torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    found = counterexample(linear, (1, 2, 2), readout="sum")
    return NotTheLayer(found, linear(x)[0], found.conv(to_feature_map(x, (1, 2, 2)))[0].flatten(1))
