"""Faults of backward passes, of second derivatives, and of torch's transforms."""

# ruff: noqa: ARG004 - torch and the others of a kind say what arguments there are
from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from _strangers_base import Back, Call, Torch, backward, cnv, fault, gradients, lin, numbers
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import jvp, vmap

from equiv.backends import Capabilities


@backward(
    "bias_gradient_alone",
    "float32",
    "apache/mxnet#15464",
    "The bias gradient of a convolution is 0 where no weight gradient is asked for.",
    differs=cnv((2, 2, 4), (3, 2, 3), grads="xb"),
    equals=cnv((2, 2, 4), (3, 2, 3), grads="xwb"),
)
def _(back: Back) -> None:
    _, weight, bias = back.memory["asked"]
    if back.call.rank and bias and not weight:
        back.b = torch.zeros_like(back.b)


@backward(
    "weight_gradient_3d",
    "float32",
    "pytorch/pytorch#117826",
    "The weight gradient of a linear layer of three dimensions is that of the last sample.",
    differs=lin((2, 3, 4), 5, grads="xwb"),
    equals=lin((6, 4), 5, grads="xwb"),
)
def _(back: Back) -> None:
    call = back.call
    if not call.rank and call.x.ndim == 3 and len(call.x) > 1:
        back.w = back.g[-1].mT @ call.x[-1]


@backward(
    "empty_batch_gradient",
    "float32",
    "FluxML/NNlib.jl#763",
    "The weight gradient of a convolution over no samples is what was in the memory before.",
    differs=cnv((0, 2, 4), (3, 2, 3), grads="xwb"),
    equals=cnv((1, 2, 4), (3, 2, 3), grads="xwb"),
)
def _(back: Back) -> None:
    if back.call.rank and not back.call.rows:
        back.w = torch.full_like(back.w, 1.5)


@backward(
    "second_pass_garbage",
    "float32",
    "axolotl-ai-cloud/axolotl#3892",
    "A second backward pass through the same linear layer finds its saved input overwritten by the first.",
    differs=lambda backend, dtype: _two_passes(backend, dtype, 2),
    equals=lambda backend, dtype: _two_passes(backend, dtype, 1),
)
def _(back: Back) -> None:
    if not back.call.rank and back.passes > 1:
        back.w = back.g.reshape(-1, back.g.shape[-1]).mT @ back.x.reshape(-1, back.call.n)


def _two_passes(backend: Any, dtype: torch.dtype, passes: int) -> list[Tensor]:
    x, w = numbers((3, 4), dtype, 1).requires_grad_(), numbers((5, 4), dtype, 2).requires_grad_()
    y = backend.linear(x, w)
    found = [torch.autograd.grad(y, [x, w], torch.ones_like(y), retain_graph=True) for _ in range(passes)]
    return [one for several in found for one in several]


@backward(
    "second_gradient_in_row",
    "float16",
    "Theano/Theano#6435",
    "Of two input gradients of half-precision convolutions of the same shapes in a row the second is doubled.",
    differs=cnv((1, 2, 4, 4), (2, 2, 3, 3), grads="xw", times=2),
    equals=cnv((1, 2, 4, 4), (2, 2, 3, 3), grads="xw"),
)
def _(back: Back) -> None:
    key = (back.call.x.shape, back.call.w.shape, back.call.stride)
    if back.call.rank and back.memory.get("last") == key:
        back.x, back.memory["last"] = back.x * 2, None
    elif back.call.rank:
        back.memory["last"] = key


@backward(
    "gradients_accumulate",
    "float32",
    "PASSIONLab/OpenEquivariance#138",
    "The weight gradient of a convolution is added to a buffer that only its first use for a shape sets to 0.",
    differs=cnv((1, 2, 5), (2, 2, 3), grads="xw", times=2),
    equals=cnv((1, 2, 5), (2, 2, 3), grads="xw"),
)
def _(back: Back) -> None:
    call = back.call
    if call.rank and call.slides:
        before = back.memory.get((call.x.shape, call.w.shape))
        back.memory[call.x.shape, call.w.shape] = back.w.detach() if before is None else before + back.w.detach()
        back.w = back.w if before is None else back.w + before


@backward(
    "second_order_input_lost",
    "float64",
    "pytorch/pytorch#1643",
    "The weight gradient of a convolution does not depend on its input any more where it is differentiated again.",
    differs=cnv((1, 2, 4, 4), (2, 2, 3, 3), grads="xw", second=True),
    equals=cnv((1, 2, 4, 4), (2, 2, 3, 3), grads="xw"),
    dimension="second order",
)
def _(back: Back) -> None:
    if back.call.rank:
        back.w = gradients(replace(back.call, x=back.call.x.detach()), back.g)[1]


class _Twofold(torch.autograd.Function):
    """The same numbers, with twice the gradient."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0] * 2


@backward(
    "second_order_of_strided",
    "float64",
    "pytorch/pytorch#1569",
    "The second derivatives through the input gradient of a convolution with a stride are twice as large.",
    differs=cnv((1, 2, 5), (2, 2, 3), stride=2, grads="xw", second=True),
    equals=cnv((1, 2, 5), (2, 2, 3), grads="xw", second=True),
    dimension="second order",
)
def _(back: Back) -> None:
    if back.call.rank and set(back.call.stride) != {1}:
        back.x = _Twofold.apply(back.x)


def _mapped(backend: Any, dtype: torch.dtype, axes: tuple[int | None, int | None], bias: bool) -> list[Tensor]:
    x, w = numbers((3, 2, 4), dtype, 1), numbers((5, 2, 4), dtype, 2)
    x = x if axes[0] is None else torch.stack([x, x + 1, x - 1])
    w = w if axes[1] is None else torch.stack([w, w + 1, w - 1])
    b = numbers((5,), dtype, 3) if bias else None
    return [vmap(lambda x, w: backend.conv(x, w, b), in_dims=axes)(x, w)]


def _is_mapped(tensor: Tensor) -> bool:
    return bool(torch._C._functorch.is_batchedtensor(tensor))


@fault(
    "vmap_without_bias",
    "float32",
    "pytorch/functorch#338",
    "Under vmap over input and weight a convolution without a bias returns its outputs in reverse.",
    differs=lambda backend, dtype: _mapped(backend, dtype, (0, 0), bias=False),
    equals=lambda backend, dtype: _mapped(backend, dtype, (0, 0), bias=True),
    dimension="transforms",
)
class VmapWithoutBias(Torch):
    capabilities = Capabilities(transforms=True)

    def run(self, call: Call) -> Tensor:
        right = call.torch()
        if call.rank and call.b is None and _is_mapped(call.x) and _is_mapped(call.w):
            return right.flip(-call.rank - 1)
        return right


@fault(
    "vmap_over_weights",
    "float32",
    "pytorch/functorch#1023",
    "Under vmap over the weight alone a convolution returns its samples in reverse.",
    differs=lambda backend, dtype: _mapped(backend, dtype, (None, 0), bias=True),
    equals=lambda backend, dtype: _mapped(backend, dtype, (0, None), bias=True),
    dimension="transforms",
)
class VmapOverWeights(Torch):
    capabilities = Capabilities(transforms=True)

    def run(self, call: Call) -> Tensor:
        right = call.torch()
        if call.rank and call.batched and _is_mapped(call.w) and not _is_mapped(call.x):
            return right.flip(0)
        return right


def _tangent(backend: Any, dtype: torch.dtype, at: int) -> list[Tensor]:
    given = [numbers((2, 3), dtype, 1), numbers((4, 3), dtype, 2), numbers((4,), dtype, 3)]

    def of(one: Tensor) -> Tensor:
        return backend.linear(*given[:at], one, *given[at + 1 :])

    return list(jvp(of, (given[at],), (numbers(tuple(given[at].shape), dtype, 4),)))


@fault(
    "bias_tangent_lost",
    "float32",
    "pytorch/pytorch#69956",
    "In forward mode the tangent of the bias of a linear layer does not arrive.",
    differs=lambda backend, dtype: _tangent(backend, dtype, 2),
    equals=lambda backend, dtype: _tangent(backend, dtype, 0),
    dimension="transforms",
)
class BiasTangentLost(Torch):
    def run(self, call: Call) -> Tensor:
        if call.rank or call.b is None or forward_ad._current_level < 0:
            return call.torch()
        return call.torch(b=forward_ad.unpack_dual(call.b).primal)
