"""Kernels that are right when called plainly, and wrong under one of torch's own transforms or modes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from equiv.testing.faults.build import Faults
from equiv.testing.faults.ids import ROUND_TRIP, TRANSFORMS
from equiv.testing.faults.kernel import KernelCall

_unpacked: Callable[[Tensor], Any] = forward_ad.unpack_dual


def _batched(t: Tensor) -> bool:
    return not torch.compiler.is_compiling() and bool(torch._C._functorch.is_batchedtensor(t))


def _exporting() -> bool:
    """Whether torch.export traces: it does not go through dynamo, unless it is told to be strict."""
    return torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()


def _compiling() -> bool:
    return torch.compiler.is_dynamo_compiling()


def _plus_one(c: KernelCall) -> Tensor:
    return c.run() + 1


fault = Faults(kind="transform", laws=(TRANSFORMS, ROUND_TRIP), traced=True)

fault("vmap-conv-without-bias", "transform x bias")(
    "vmap over the weights of a convolution without bias gives wrong results.", "pytorch/functorch#338"
).where(lambda c: c.is_conv and c.bias is None and _batched(c.weight), _plus_one)
fault("vmap-over-rows", "transform")(
    "vmap over the rows of the input gives wrong results.", "pytorch/functorch#1023"
).where(lambda c: _batched(c.x) and not _batched(c.weight), _plus_one)
fault("vmap-over-both", "transform")(
    "vmap over weights and inputs together gives wrong results.", "pytorch/functorch#1023, of both"
).where(lambda c: _batched(c.x) and _batched(c.weight), _plus_one)
fault("compiled-conv", "compile", profile="gate")(
    "A compiled convolution with a kernel above 1 gives wrong results.", "pytorch/pytorch#173068"
).where(lambda c: _compiling() and c.is_conv and not c.is_pointwise, _plus_one)
fault("compiled-pointwise", "compile", profile="gate")(
    "A compiled 1x1 convolution gives wrong results.", "pytorch/pytorch#175854"
).where(lambda c: _compiling() and c.is_pointwise, _plus_one)
fault("compiled-large-linear", "compile x sizes", profile="deep")(
    "Compiled linear of more than 16 rows and more than 32 outputs gives wrong results.",
    "pytorch/pytorch#175854, behind a size threshold",
).where(lambda c: _compiling() and c.is_linear and c.x.shape[0] > 16 and c.outputs > 32, _plus_one)
fault("exported-conv", "export", profile="gate")(
    "An exported convolution gives wrong results.", "textbook: another decomposition in the exporter"
).where(lambda c: _exporting() and c.is_conv, _plus_one)
fault("autocast-linear", "autocast")(
    "linear under autocast gives wrong results.", "pytorch/pytorch#175854, under autocast"
).where(lambda c: c.is_linear and torch.is_autocast_enabled("cpu"), _plus_one)


def _in_16_bits(c: KernelCall) -> Tensor:
    y = c.run()
    return y.to(torch.float16).to(torch.bfloat16).to(y.dtype)


fault("autocast-rounds-to-bfloat16", "autocast x dtype")(
    "A convolution under autocast to float16 rounds its result to bfloat16 on the way.",
    "textbook: autocast to the wrong 16 bits",
).where(
    lambda c: c.is_conv and torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.float16,
    _in_16_bits,
)
fault("meta-shape-flattened", "meta")(
    "A convolution on the meta device returns a flattened shape.",
    "textbook: a shape function that is written apart from the kernel",
).where(lambda c: c.is_conv and c.x.is_meta, lambda c: c.run().flatten(1))
fault("inference-mode", "mode")(
    "Results in inference mode are wrong.", "textbook: another kernel in inference mode"
).where(lambda _: torch.is_inference_mode_enabled(), _plus_one)
fault("no-grad-mode", "mode")(
    "Results with gradients switched off are wrong.", "textbook: another kernel in inference"
).where(lambda _: not torch.is_grad_enabled() and not torch.is_inference_mode_enabled(), _plus_one)


def _has_tangent(t: Tensor) -> bool:
    return not torch.compiler.is_compiling() and _unpacked(t).tangent is not None


def _is_dual(c: KernelCall) -> bool:
    return _has_tangent(c.x)


fault("forward-derivative-doubled", "forward-mode derivative")(
    "The derivative by forward-mode differentiation is twice the right one.",
    "textbook: a forward derivative written apart from the backward pass",
).where(_is_dual, lambda c: c.run() + (y := c.run()) - _unpacked(y).primal)
fault("forward-derivative-doubled-complex", "forward-mode derivative x dtype", dtypes=("complex64",))(
    "The derivative by forward-mode differentiation is twice the right one, for complex numbers.",
    "textbook: a forward derivative written apart from the backward pass",
).where(lambda c: c.x.is_complex() and _is_dual(c), lambda c: _doubled_tangent(c))
fault("forward-derivative-of-both", "forward-mode derivative")(
    "The derivative along input and weight together misses a part: that along the weight is left out.",
    "textbook: the product rule, of which one term is missing",
).where(
    lambda c: _is_dual(c) and _unpacked(c.weight).tangent is not None,
    lambda c: c.run(weight=_unpacked(c.weight).primal),
)


def _doubled_tangent(c: KernelCall) -> Tensor:
    y = c.run()
    primal: Tensor = _unpacked(y).primal
    return y + y - primal


def _doubled_gradient(c: KernelCall) -> Tensor:
    y = c.run()
    return y + (y - y.detach())


_inner: Callable[[Tensor], Tensor] = torch._C._functorch.get_unwrapped


def _tracked(t: Tensor) -> bool:
    """Whether torch.func differentiates with respect to it, or to what it was made from."""
    return (
        not torch.compiler.is_compiling() and bool(torch._C._functorch.is_gradtrackingtensor(t)) and not _has_tangent(t)
    )


fault("func-grad-doubled", "transform x backward")(
    "Gradients by torch.func.grad and vjp are twice the right ones.", "textbook: another kernel under functorch"
).where(lambda c: _tracked(c.x) and not _batched(_inner(c.x)), _doubled_gradient)
fault("func-grad-of-parameters-doubled", "transform x backward")(
    "Gradients of the parameters by torch.func.grad are twice the right ones.",
    "textbook: another kernel under functorch",
).where(lambda c: _tracked(c.weight) and not _tracked(c.x), _doubled_gradient)
fault("per-sample-gradients-doubled", "transform x backward")(
    "Gradients of each sample, by vmap over torch.func.grad, are twice the right ones.",
    "pytorch/functorch#1023, of gradients",
).where(
    lambda c: any(_tracked(t) and _batched(_inner(t)) for t in (c.x, c.weight)),
    _doubled_gradient,
)
fault("vmap-nested", "transform")(
    "vmap inside of vmap gives wrong results.", "textbook: a batching rule that counts on one level"
).where(lambda c: _batched(c.x) and _batched(_inner(c.x)), _plus_one)
fault("vmap-not-over-the-first-dimension", "transform")(
    "vmap over another dimension of the input than the first gives wrong results.",
    "textbook: a batching rule that counts on the first dimension",
).where(lambda c: _batched(c.x) and torch._C._functorch.maybe_get_bdim(c.x) != 0, _plus_one)
fault("vmap-of-weights-not-over-the-first-dimension", "transform", profile="gate")(
    "vmap over the last dimension of the weight gives wrong results.",
    "textbook: a batching rule that counts on the first dimension",
).where(lambda c: _batched(c.weight) and torch._C._functorch.maybe_get_bdim(c.weight) != 0, _plus_one)


def _recording(c: KernelCall) -> bool:
    return torch.is_grad_enabled() and (c.x.requires_grad or c.weight.requires_grad)


fault("autocast-while-recording", "autocast x recording")(
    "Results under autocast are wrong where gradients are recorded.",
    "textbook: weights cast once and kept, which happens only while gradients are recorded",
).where(lambda c: torch.is_autocast_enabled("cpu") and _recording(c), _plus_one)
fault("autocast-gradient-doubled", "autocast x backward")(
    "Gradients of a result that was computed under autocast are twice the right ones.",
    "textbook: a loss scale applied twice",
).where(lambda c: torch.is_autocast_enabled("cpu") and _recording(c), _doubled_gradient)
fault("compiled-while-recording", "compile x recording", profile="gate")(
    "A compiled convolution gives wrong results where gradients are recorded.",
    "textbook: another graph for training",
).where(lambda c: _compiling() and c.is_conv and _recording(c), _plus_one)
