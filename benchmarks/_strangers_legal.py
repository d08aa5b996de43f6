"""Twenty kernels that are right: other orders, wider accumulators, other ways to the same sums. None may be alarmed."""

from __future__ import annotations

import random
from typing import Any

import numpy
import torch
from _strangers_base import Call, Torch, own
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

import equiv.testing
from equiv.backends import Capabilities


def _matrix(call: Call) -> Tensor:
    """The rows that a call multiplies with its weight, for a convolution those of each position: ``(..., n)``."""
    if not call.rank:
        return call.x
    x = call.x
    for at, (size, stride, dilation) in enumerate(zip(call.kernel, call.stride, call.dilation, strict=True)):
        x = x.unfold(2 + at, dilation * (size - 1) + 1, stride)[..., ::dilation]
    return x.movedim(1, 1 + call.rank).flatten(1 + call.rank)


class Products(Torch):
    """A linear layer and every convolution from one ``product`` of ``(..., n)``, ``(O, n)`` and ``(O,)``."""

    def run(self, call: Call) -> Tensor:
        if any(call.padding) or call.groups > 1:
            raise NotImplementedError("padding and groups")
        if call.rank and not call.batched:
            return self.run(Call(call.x[None], call.w, call.b, call.stride, call.dilation, call.padding))[0]
        y = self.product(_matrix(call), call.w.flatten(1), call.b)
        return y.movedim(-1, 1) if call.rank else y

    def product(self, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        return functional.linear(x, w, b)


def _plus(y: Tensor, b: Tensor | None) -> Tensor:
    return y if b is None else y + b


def _parts(x: Tensor, w: Tensor, size: int) -> list[Tensor]:
    """The sums of ``size`` terms each; one of none where there are none."""
    starts = range(0, max(x.shape[-1], 1), size)
    return [functional.linear(x[..., at : at + size], w[:, at : at + size]) for at in starts]


class Im2col(Products):
    """A matrix product over the rows of all positions."""


class Reversed(Products):
    """Terms from the last to the first."""

    def product(self, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        return functional.linear(x.flip(-1), w.flip(-1), b)


class SplitK(Products):
    """Four parts of the sum, added in their order."""

    def product(self, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        parts = _parts(x, w, max(1, -(-x.shape[-1] // 4)))
        return _plus(sum(parts[1:], parts[0]), b)


class SplitKAtRandom(Products):
    """Parts of the sum, added in another order each time, as atomic additions are: not deterministic."""

    capabilities = Capabilities(deterministic=False)

    def __init__(self) -> None:
        self.random = random.Random(0)

    def product(self, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        parts = _parts(x, w, max(1, -(-x.shape[-1] // 8)))
        self.random.shuffle(parts)
        return _plus(sum(parts[1:], parts[0]), b)


class Wider(Torch):
    """Computed in the next wider dtype and rounded once."""

    wide = torch.float64

    def run(self, call: Call) -> Tensor:
        b = None if call.b is None else call.b.to(self.wide)
        return call.torch(x=call.x.to(self.wide), w=call.w.to(self.wide), b=b).to(call.x.dtype)


class WiderSingle(Wider):
    """Computed in float32 and rounded once."""

    wide = torch.float32


class WiderInteger(Wider):
    """Computed in int64, cut to the dtype."""

    wide = torch.int64


class Kahan(Products):
    """Sums of 8 terms, added with a compensation for what rounding loses."""

    def product(self, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        total, *others = _parts(x, w, 8) if b is None else [b.expand(*x.shape[:-1], len(w)), *_parts(x, w, 8)]
        lost = torch.zeros_like(total)
        for part in others:
            term = part - lost
            new = total + term
            lost = torch.where(new.isfinite(), (new - total) - term, 0)
            total = new
        return total


class FusedMultiplyAdd(Products):
    """Term after term, products unrounded: one rounding for a multiplication and an addition."""

    def product(self, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        if x.shape[-1] > 128:
            raise NotImplementedError("more than 128 terms")
        total = x.new_zeros(*x.shape[:-1], len(w))
        for at in range(x.shape[-1]):
            total = (total.double() + x[..., at : at + 1].double() * w[:, at].double()).to(x.dtype)
        return _plus(total, b)


class Blocked(Products):
    """Tiles of 16 outputs, each of blocks of 32 terms."""

    def product(self, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        tiles = []
        for at in range(0, max(len(w), 1), 16):
            parts = _parts(x, w[at : at + 16], 32)
            tiles.append(_plus(sum(parts[1:], parts[0]), None if b is None else b[at : at + 16]))
        return torch.cat(tiles, -1)


class Transposed(Products):
    """Weight times input, both copied column by column; the result is a view of that."""

    def product(self, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        y = (w.t().contiguous().t() @ rows.t().contiguous()).t()
        return _plus(y.reshape(*x.shape[:-1], len(w)), b)


class BiasFirst(Products):
    """The accumulator starts with the bias."""

    def product(self, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        parts = _parts(x, w, 64)
        start = parts[0].new_zeros(()) if b is None else b
        return sum(parts, start)


class Tree(Products):
    """Products in float32, added pair by pair, and rounded at the end."""

    def product(self, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        if x.shape[-1] * x[..., :1].numel() * len(w) > 2**22:
            raise NotImplementedError("too many products at once")
        terms = x.float().unsqueeze(-2) * w.float()
        while terms.shape[-1] > 1:
            terms = functional.pad(terms, (0, terms.shape[-1] % 2))
            terms = terms[..., 0::2] + terms[..., 1::2]
        return _plus(terms.sum(-1), None if b is None else b.float()).to(x.dtype)


class Padded(Products):
    """Terms and outputs filled up with zeros to multiples of 32."""

    def product(self, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        more, outputs = -x.shape[-1] % 32, len(w)
        w = functional.pad(w, (0, more, 0, -outputs % 32))
        return _plus(functional.linear(functional.pad(x, (0, more)), w)[..., :outputs], b)


class FourRealProducts(Products):
    """Complex numbers by four products of real ones."""

    def product(self, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        real = functional.linear(x.real, w.real) - functional.linear(x.imag, w.imag)
        return _plus(torch.complex(real, functional.linear(x.real, w.imag) + functional.linear(x.imag, w.real)), b)


class TwiceDifferentiable(Torch):
    """An autograd.Function with a backward pass of its own, which can be differentiated again."""

    def run(self, call: Call) -> Tensor:
        return own(call, lambda _: None, {})


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, w)
        return functional.linear(x, w, b)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> Any:
        x, w = ctx.saved_tensors
        rows = g.reshape(-1, len(w))
        return g @ w, rows.t() @ x.reshape(len(rows), w.shape[1]), rows.sum(0) if ctx.needs_input_grad[2] else None


class OnceDifferentiable(Products):
    """An autograd.Function whose gradients cannot be differentiated again."""

    def product(self, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        return _Once.apply(x, w, b)


class Numpy(Products):
    """Computed by NumPy, without gradients."""

    capabilities = Capabilities(gradient_order=0)

    def product(self, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        with numpy.errstate(all="ignore"):
            y = torch.from_numpy(numpy.asarray(numpy.matmul(x.numpy(), w.numpy().T)))
        return y if b is None else y + b


class CachedWeight(Torch):
    """A packed weight, packed again whenever the weight has changed."""

    def __init__(self) -> None:
        self.kept: tuple[Tensor, int, Tensor] | None = None

    def run(self, call: Call) -> Tensor:
        if call.w.requires_grad or torch.is_inference(call.w):
            return call.torch()
        if self.kept is None or self.kept[0] is not call.w or self.kept[1] != call.w._version:
            self.kept = (call.w, call.w._version, call.w.clone())
        return call.torch(w=self.kept[2])


def _conv2d(input: Tensor, weight: Tensor, bias: Tensor | None, *, stride: Any = 1, dilation: Any = 1) -> Tensor:
    last = torch.channels_last
    if input.ndim != 4:
        raise NotImplementedError("batches only")
    return functional.conv2d(input.contiguous(memory_format=last), weight, bias, stride=stride, dilation=dilation)


def _conv2d_alone() -> Any:
    return equiv.testing.Kernels(conv2d=_conv2d, name="conv2d_alone")


def _named(kind: Any, id: str) -> Any:
    def make() -> Any:
        backend = kind()
        backend.name = id
        return backend

    return make


_KINDS: tuple[tuple[str, str, Any], ...] = (
    ("im2col", "float32", Im2col),
    ("reversed_order", "float32", Reversed),
    ("split_k", "float32", SplitK),
    ("split_k_at_random", "float32", SplitKAtRandom),
    ("double_accumulator", "float32", Wider),
    ("single_accumulator", "bfloat16", WiderSingle),
    ("wrapping_integers", "int32", WiderInteger),
    ("kahan", "float32", Kahan),
    ("fused_multiply_add", "float32", FusedMultiplyAdd),
    ("blocked", "float64", Blocked),
    ("transposed_copies", "float32", Transposed),
    ("bias_first", "float32", BiasFirst),
    ("tree", "float16", Tree),
    ("padded", "float32", Padded),
    ("four_real_products", "complex64", FourRealProducts),
    ("twice_differentiable", "float64", TwiceDifferentiable),
    ("once_differentiable", "float32", OnceDifferentiable),
    ("numpy", "float32", Numpy),
    ("cached_weight", "float32", CachedWeight),
)
LEGAL = [(id, dtype, str(kind.__doc__), _named(kind, id)) for id, dtype, kind in _KINDS]
LEGAL.append(("conv2d_alone", "float32", "A 2-D convolution of batches and nothing else.", _conv2d_alone))
