"""Kernels that are right when called plainly, and wrong under one of torch's own transforms or modes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from equiv.testing.faults._build import kernel_fault
from equiv.testing.faults._kernel import KernelCall

_fault = partial(kernel_fault, kind="transform", laws=("transforms", "round_trip"), traced=True)


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


_fault(
    "vmap-conv-without-bias",
    "vmap over the weights of a convolution without bias gives other results.",
    source="pytorch/functorch#338",
    dimension="transform x bias",
    when=lambda c: c.is_conv and c.bias is None and _batched(c.weight),
    wrong=_plus_one,
)
_fault(
    "vmap-over-rows",
    "vmap over the rows of the input gives other results.",
    source="pytorch/functorch#1023",
    dimension="transform",
    when=lambda c: _batched(c.x) and not _batched(c.weight),
    wrong=_plus_one,
)
_fault(
    "vmap-over-both",
    "vmap over weights and inputs together gives other results.",
    source="pytorch/functorch#1023, of both",
    dimension="transform",
    when=lambda c: _batched(c.x) and _batched(c.weight),
    wrong=_plus_one,
)
_fault(
    "compiled-conv",
    "A compiled convolution with a kernel above 1 gives other results.",
    source="pytorch/pytorch#173068",
    dimension="compile",
    profile="gate",
    when=lambda c: _compiling() and c.is_conv and not c.is_pointwise,
    wrong=_plus_one,
)
_fault(
    "compiled-pointwise",
    "A compiled 1x1 convolution gives other results.",
    source="pytorch/pytorch#175854",
    dimension="compile",
    profile="gate",
    when=lambda c: _compiling() and c.is_pointwise,
    wrong=_plus_one,
)
_fault(
    "compiled-large-linear",
    "Compiled linear of more than 16 rows and more than 32 outputs gives other results.",
    source="pytorch/pytorch#175854, behind a size threshold",
    dimension="compile x sizes",
    profile="deep",
    when=lambda c: _compiling() and not c.is_conv and c.x.shape[0] > 16 and c.outputs > 32,
    wrong=_plus_one,
)
_fault(
    "exported-conv",
    "An exported convolution gives other results.",
    source="textbook: another decomposition in the exporter",
    dimension="export",
    profile="gate",
    when=lambda c: _exporting() and c.is_conv,
    wrong=_plus_one,
)
_fault(
    "autocast-linear",
    "linear under autocast gives other results.",
    source="pytorch/pytorch#175854, under autocast",
    dimension="autocast",
    when=lambda c: not c.is_conv and torch.is_autocast_enabled("cpu"),
    wrong=_plus_one,
)


def _in_16_bits(c: KernelCall) -> Tensor:
    y = c.run()
    return y.to(torch.float16).to(torch.bfloat16).to(y.dtype)


_fault(
    "autocast-rounds-to-bfloat16",
    "A convolution under autocast to float16 rounds its result to bfloat16 on the way.",
    source="textbook: autocast to the wrong 16 bits",
    dimension="autocast x dtype",
    when=lambda c: c.is_conv and torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.float16,
    wrong=_in_16_bits,
)
_fault(
    "meta-shape-flattened",
    "A convolution on the meta device returns a flattened shape.",
    source="textbook: a shape function that is written apart from the kernel",
    dimension="meta",
    when=lambda c: c.is_conv and c.x.is_meta,
    wrong=lambda c: c.run().flatten(1),
)
_fault(
    "inference-mode",
    "Results in inference mode are other ones.",
    source="textbook: another kernel in inference mode",
    dimension="mode",
    when=lambda _: torch.is_inference_mode_enabled(),
    wrong=_plus_one,
)
_fault(
    "no-grad-mode",
    "Results with gradients switched off are other ones, in float32.",
    source="textbook: another kernel in inference",
    dimension="mode",
    when=lambda _: not torch.is_grad_enabled() and not torch.is_inference_mode_enabled(),
    wrong=_plus_one,
)


def _is_dual(c: KernelCall) -> bool:
    return not torch.compiler.is_compiling() and _unpacked(c.x).tangent is not None


_fault(
    "forward-derivative-doubled",
    "The derivative by forward-mode differentiation is twice the right one.",
    source="textbook: a forward derivative written apart from the backward pass",
    dimension="forward-mode derivative",
    when=_is_dual,
    wrong=lambda c: c.run() + (y := c.run()) - _unpacked(y).primal,
)
