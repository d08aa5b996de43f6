"""Differences that no named mistake explains, and two mistakes at once."""

from __future__ import annotations

import torch
from generated_causes import Case, Plant, Wrong, of_parameters, of_results, of_weight
from named_mistakes import MISTAKES
from profile_kernels import BRAIN, HALF
from torch import Tensor


def noise(t: Tensor, case: Case, size: float) -> Tensor:
    """Values with noise of this size relative to their own."""
    return t + size * t.std() * torch.randn(t.shape, generator=case.generator, dtype=torch.float64).to(t.dtype)


def _some(t: Tensor, case: Case, share: float) -> Tensor:
    return torch.rand(t.shape, generator=case.generator) < share


def _one_off(y: Tensor, case: Case) -> Tensor:
    y, at = y.clone(), case.draw.randrange(y.numel())
    y.view(-1)[at] = y.view(-1)[at] * 1.01 + 0.001
    return y


def _few_weights(w: Tensor, case: Case) -> Tensor:
    w = w.clone()
    for _ in range(3):
        w.view(-1)[case.draw.randrange(w.numel())] += case.draw.choice((0.5, 2.0**-7))
    return w


def _one_row(w: Tensor, case: Case) -> Tensor:
    w, row = w.clone(), case.draw.randrange(len(w))
    w[row] = noise(w[row], case, 1.0)
    return w


def _one_weight_in_results(case: Case) -> Wrong:
    w = case.layer.weight.flatten(1).clone()
    w.view(-1)[case.draw.randrange(w.numel())] += 0.25
    layer = case.with_parameters(w, case.layer.bias)
    return Wrong(function=lambda x: case(layer, x))


UNNAMED: dict[str, Plant] = {
    "results at random": of_results(
        lambda y, case: noise(0 * y, case, 0) + torch.randn(y.shape, generator=case.generator).to(y.dtype)
    ),
    "much noise": of_results(lambda y, case: noise(y, case, 0.1)),
    "noise": of_results(lambda y, case: noise(y, case, 1e-3)),
    "little noise": of_results(lambda y, case: noise(y, case, 2e-5)),
    "one result off": of_results(_one_off),
    "some results zero": of_results(lambda y, case: y.masked_fill(_some(y, case, 0.1), 0)),
    "noise in bfloat16": of_results(lambda y, case: BRAIN(noise(y, case, 0.05))),
    "noise in float16": of_results(lambda y, case: HALF(noise(y, case, 0.01))),
    "squashed": of_results(lambda y, case: y.tanh()),
    "activated": of_results(lambda y, case: torch.nn.functional.silu(y)),
    "scaled by a little": of_results(lambda y, case: y * 1.001),
    "each output scaled": of_results(
        lambda y, case: y * torch.linspace(0.9, 1.1, y.shape[1]).to(y.dtype).view(-1, *[1] * (y.ndim - 2))
    ),
    "other weights": of_weight(lambda w, case: noise(w, case, 0.01)),
    "quite other weights": of_weight(
        lambda w, case: noise(0 * w, case, 0) + torch.randn(w.shape, generator=case.generator).to(w.dtype)
    ),
    "three weights changed": of_weight(_few_weights),
    "one row of weights changed": of_weight(_one_row),
    "one weight changed, in results": _one_weight_in_results,
    "other parameters": of_parameters(lambda t: t * 1.01 + 0.003 * t.flip(0)),
}


def both(first: str, second: str) -> Plant:
    """Two mistakes of the parameters, one after the other."""

    def plant(case: Case) -> Wrong:
        from dataclasses import replace

        once = MISTAKES[first].plant(case).layer
        return MISTAKES[second].plant(replace(case, layer=once))

    return plant


_WEIGHTS = (
    "flattened as HWC",
    "kernel flipped",
    "channels reversed",
    "inputs reversed",
    "outputs permuted",
    "weight negated",
    "weight scaled",
    "reduction cut short",
    "parameters in bfloat16",
    "weights in int8",
    "one weight changed",
    "weight absolute",
)
_BIASES = ("bias dropped", "bias doubled", "bias permuted", "bias in bfloat16", "bias negated")
PAIRS: list[tuple[str, str]] = [
    *((first, second) for first in _WEIGHTS for second in _BIASES),
    *((first, second) for first in _WEIGHTS for second in _WEIGHTS if first < second),
]
