"""Kernels of layers that compute in other formats than their dtype, and differences that no format explains.

All take ``x (N, n)``, ``weight (O, n)`` and ``bias (O,)`` or None in float32 and return float32 ``(N, O)``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import linear

Kernel = Callable[[Tensor, Tensor, "Tensor | None"], Tensor]


def to(dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    return lambda t: t.to(dtype).to(t.dtype)


def tf32(t: Tensor) -> Tensor:
    bits = t.contiguous().view(torch.int32)
    return ((bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)


def tf32_away(t: Tensor) -> Tensor:
    return ((t.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def tf32_cut(t: Tensor) -> Tensor:
    return (t.contiguous().view(torch.int32) & ~0x1FFF).view(torch.float32)


def steps(size: float, low: float = -(2**31), high: float = 2**31) -> Callable[[Tensor], Tensor]:
    return lambda t: (t / size).round().clamp(low, high) * size


def int8(t: Tensor) -> Tensor:
    scale = t.abs().max().clamp(min=1e-30) / 127
    return (t / scale).round().clamp(-128, 127) * scale


def int8_by_row(t: Tensor) -> Tensor:
    scale = t.abs().amax(1, keepdim=True).clamp(min=1e-30) / 127
    return (t / scale).round().clamp(-128, 127) * scale


def uint8(t: Tensor) -> Tensor:
    scale = (t.max().clamp(min=0) - t.min().clamp(max=0)).clamp(min=1e-30) / 255
    zero = (-t.min().clamp(max=0) / scale).round()
    return ((t / scale).round() + zero).clamp(0, 255).sub(zero) * scale


def same(t: Tensor) -> Tensor:
    return t


def kernel(x=same, weight=same, bias=same, results=same) -> Kernel:
    def run(x_: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        return results(linear(x(x_), weight(w), None if b is None else bias(b)))

    return run


def autocast(dtype: torch.dtype) -> Kernel:
    def run(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        with torch.autocast("cpu", dtype):
            return linear(x, w, b).float()

    return run


def layer_of(dtype: torch.dtype) -> Kernel:
    return lambda x, w, b=None: linear(x.to(dtype), w.to(dtype), None if b is None else b.to(dtype)).float()


def low_sums(dtype: torch.dtype, block: int = 1, *, operands: bool = True, bias_last: bool = True) -> Kernel:
    def run(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        x, w = (t.to(dtype).float() for t in (x, w)) if operands else (x, w)
        b = torch.zeros(len(w)) if b is None else b.to(dtype).float()
        total = torch.zeros(len(x), len(w)) if bias_last else b.expand(len(x), -1)
        for j in range(0, x.shape[1], block):
            total = (total + x[:, j : j + block] @ w[:, j : j + block].T).to(dtype).float()
        return (total + b).to(dtype).float() if bias_last else total

    return run


HALF, BRAIN = to(torch.float16), to(torch.bfloat16)

_ALL = ("inputs", "weights", "results are rounded")
PROFILES: dict[str, tuple[Kernel, str, tuple[str, ...]]] = {
    # the kernel, the name of the cause, and words of its sentence
    "autocast to bfloat16": (autocast(torch.bfloat16), "computed-bfloat16", _ALL),
    "autocast to float16": (autocast(torch.float16), "computed-float16", _ALL),
    "half layer": (layer_of(torch.float16), "computed-float16", _ALL),
    "bfloat16 layer": (layer_of(torch.bfloat16), "computed-bfloat16", _ALL),
    "bfloat16 operands": (kernel(BRAIN, BRAIN), "rounded-bfloat16", ("inputs and weights", "bfloat16")),
    "TF32": (kernel(tf32, tf32), "rounded-tf32", ("inputs and weights are rounded to TF32",)),
    "TF32, ties away": (kernel(tf32_away, tf32_away), "rounded-tf32", ("TF32", "as in kernels of TF32")),
    "TF32, cut off": (kernel(tf32_cut, tf32_cut), "truncated-tf32", ("inputs and weights", "TF32 (cut off)")),
    "parameters in float16": (kernel(same, HALF, HALF), "rounded-float16", ("weights", "float16")),
    "parameters in bfloat16": (kernel(same, BRAIN, BRAIN), "rounded-bfloat16", ("weights", "bfloat16")),
    "inputs in bfloat16": (kernel(BRAIN), "rounded-bfloat16", ("inputs are rounded to bfloat16",)),
    "results in float16": (kernel(results=HALF), "output-rounded-float16", ("results are rounded to float16",)),
    "results in bfloat16": (kernel(results=BRAIN), "output-rounded-bfloat16", ("results are rounded to bfloat16",)),
    "results in steps": (kernel(results=steps(2**-4)), "output-rounded-steps", ("results", "steps of 2^-4")),
    "results in odd steps": (kernel(results=steps(0.043)), "output-rounded-steps", ("results", "steps of 0.043")),
    "operands in steps": (kernel(steps(2**-5, -128, 127), steps(2**-10)), "rounded-steps", ("inputs", "weights")),
    "weights in int8": (kernel(same, int8), "rounded-steps", ("weights are rounded to steps",)),
    "weights in int8 by row": (kernel(same, int8_by_row), "rounded-steps", ("weights are rounded to steps",)),
    "int8": (kernel(int8, int8), "rounded-steps", ("inputs", "weights")),
    "uint8 and int8 by row": (kernel(uint8, int8_by_row), "rounded-steps", ("inputs", "weights")),
    "int8 with results in steps": (kernel(int8, int8, results=steps(2**-5)), "computed-steps", ("inputs", "2^-5")),
    "float16 sums": (low_sums(torch.float16), "accumulated-float16", ("sums are float16",)),
    "float16 sums of blocks": (low_sums(torch.float16, 16), "accumulated-float16", ("sums are float16",)),
    "bfloat16 sums": (low_sums(torch.bfloat16, 8, bias_last=False), "accumulated-bfloat16", ("sums are bfloat16",)),
}


def _one_off(y: Tensor, g: torch.Generator) -> Tensor:
    y = y.clone()
    y.view(-1)[int(torch.randint(y.numel(), (1,), generator=g))] *= 1.01
    return y


def _toward_zero(y: Tensor, bits: int) -> Tensor:
    return (y.contiguous().view(torch.int32) & -(1 << bits)).view(torch.float32)


def noise(size: float) -> Callable[..., Tensor]:
    return lambda x, w, b, g: linear(x, w, b) + size * torch.randn(len(x), len(w), generator=g)


UNRELATED: dict[str, Callable[..., Tensor]] = {
    "other weights": lambda x, w, b, g: linear(x, w + 0.01 * w.std() * torch.randn(w.shape, generator=g), b),
    "quite other weights": lambda x, w, b, g: linear(x, torch.randn(w.shape, generator=g) * w.abs().mean(), b),
    "inputs permuted": lambda x, w, b, g: linear(x[:, torch.randperm(x.shape[1], generator=g)], w, b),
    "outputs permuted": lambda x, w, b, g: linear(x, w, b)[:, torch.randperm(len(w), generator=g)],
    "one output off": lambda x, w, b, g: _one_off(linear(x, w, b), g),
    "one weight off": lambda x, w, b, g: linear(x, _one_off(w, g), b),
    "noise": noise(1e-3),
    "less noise": noise(1e-5),
    "cut to 16 bits": lambda x, w, b, g: _toward_zero(linear(x, w, b), 16),
    "cut to 19 bits": lambda x, w, b, g: _toward_zero(linear(x, w, b), 13),
    "operands cut to bfloat16": lambda x, w, b, g: linear(_toward_zero(x, 16), _toward_zero(w, 16), b),
    "other weights in bfloat16": lambda x, w, b, g: layer_of(torch.bfloat16)(
        x, w + 0.05 * w.std() * torch.randn(w.shape, generator=g), b
    ),
    "other weights in float16": lambda x, w, b, g: layer_of(torch.float16)(
        x, w + 0.05 * w.std() * torch.randn(w.shape, generator=g), b
    ),
    "bias dropped": lambda x, w, b, g: linear(x, w),
    "scaled": lambda x, w, b, g: linear(x, w, b) * 1.001,
}


def layer(seed: int, n: int, outputs: int, rows: int, *, bias: bool, scale: float = 1.0):
    """Inputs, weight, bias or None, as drawn by nn.Linear."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, n, generator=g) * scale
    w = (torch.rand(outputs, n, generator=g) * 2 - 1) / n**0.5
    return x, w, (torch.rand(outputs, generator=g) * 2 - 1) / n**0.5 if bias else None
