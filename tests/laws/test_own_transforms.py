"""The law about transforms tries a backend's own functions: right ones keep it, wrong ones are found."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional

from equiv import laws
from equiv.backends import Capabilities, TorchEager
from equiv.laws.checks.own_module import OwnModule, is_own

CONVS = (functional.conv1d, functional.conv2d, functional.conv3d)


class Own:
    """Right, with functions of its own."""

    name, device, capabilities = "own", torch.device("cpu"), Capabilities(transforms=True)

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return functional.linear(input, weight, bias)

    def conv(self, input: Tensor, weight: Tensor, bias: Tensor | None = None, **steps: Any) -> Tensor:
        return CONVS[weight.ndim - 3](input, weight, bias, **steps)


def is_mapped(t: Tensor) -> bool:
    return bool(torch._C._functorch.is_batchedtensor(t))


class UnderVmap(Own):
    """Wrong under vmap over input and weight where there is no bias."""

    def conv(self, input: Tensor, weight: Tensor, bias: Tensor | None = None, **steps: Any) -> Tensor:
        y = super().conv(input, weight, bias, **steps)
        return y + 1 if bias is None and is_mapped(input) and is_mapped(weight) else y


class OverWeights(Own):
    """Wrong under vmap over the weight alone."""

    def conv(self, input: Tensor, weight: Tensor, bias: Tensor | None = None, **steps: Any) -> Tensor:
        y = super().conv(input, weight, bias, **steps)
        return y + 1 if is_mapped(weight) and not is_mapped(input) else y


class LosesTangent(Own):
    """Forward mode does not see the bias."""

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if bias is not None and forward_ad._current_level >= 0:
            dual: Any = forward_ad
            bias = dual.unpack_dual(bias).primal
        return functional.linear(input, weight, bias)


class UnderAutocast(Own):
    """Wrong under autocast."""

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        y = functional.linear(input, weight, bias)
        return y * 2 if torch.is_autocast_enabled("cpu") else y


class Opaque(Own):
    """Right, with an autograd.Function that has no rule for any transform."""

    class Function(torch.autograd.Function):
        @staticmethod
        @torch.amp.custom_fwd(device_type="cpu")
        def forward(ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            ctx.save_for_backward(input, weight)
            ctx.has_bias = bias is not None
            return functional.linear(input, weight, bias)

        @staticmethod
        @torch.amp.custom_bwd(device_type="cpu")
        def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
            (grad,), (input, weight) = grads, ctx.saved_tensors
            flat = grad.reshape(-1, grad.shape[-1])
            return grad @ weight, flat.T @ input.reshape(-1, input.shape[-1]), flat.sum(0) if ctx.has_bias else None

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        y: Tensor = self.Function.apply(input, weight, bias)
        return y


def tried(backend: Any, examples: int) -> laws.Result:
    (item,) = laws.items([backend], laws=["transforms"], dtypes=["float32"])
    return laws.run_item(item, examples=examples, seed=0)


@pytest.mark.parametrize("backend", [Own, Opaque])
def test_right_functions_keep_it(backend: type[Own]) -> None:
    found = tried(backend(), 4)
    assert found.failure is None, found.failure.render()
    assert found.coverage["transform"]["vmap over weights"] > 0


@pytest.mark.parametrize(
    ("backend", "under"),
    [(UnderVmap, "vmap"), (OverWeights, "vmap"), (LosesTangent, "jvp"), (UnderAutocast, "autocast")],
)
def test_what_is_wrong_under_a_transform_alone_is_found(backend: type[Own], under: str) -> None:
    found = tried(backend(), 40).failure
    assert found is not None
    assert f"under {under}" in found.note


def test_modules_of_torch_are_tried_where_a_backend_leaves_its_functions_to_them() -> None:
    class Named(TorchEager):
        pass

    assert not is_own(TorchEager())
    assert not is_own(Named())
    assert is_own(Own())


def test_a_copy_of_the_module_has_the_same_backend_and_parameters_of_its_own() -> None:
    backend = Own()
    module = OwnModule(backend, "linear", torch.nn.Linear(3, 2)).eval()
    twin = copy.deepcopy(module)
    assert twin.backend is backend
    assert not twin.training
    assert torch.equal(twin.weight, module.weight)
    assert twin.weight is not module.weight
