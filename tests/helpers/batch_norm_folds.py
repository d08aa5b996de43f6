"""Random batch norms beside a layer, folded rightly and wrongly, as programs do it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

NORMS = {0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
Pair = tuple[Any, Any]


def random_pair(seed: int, dtype: torch.dtype, *, small: bool = False) -> tuple[Pair, tuple[int, ...]]:
    """A layer and the batch norm behind it in eval mode, and the shape of a sample. ``small``: variances near eps."""
    g = torch.Generator().manual_seed(seed)

    def pick(*values: Any) -> Any:
        return values[int(torch.randint(len(values), (), generator=g))]

    rank, channels, outputs = pick(0, 1, 2, 2, 2, 3), pick(3, 4, 8), pick(8, 12, 16)
    bias, shape = pick(True, True, False), (channels, *(pick(5, 6, 7) for _ in range(rank)))
    layer: Any
    if rank == 0:
        shape = (pick(16, 40, 64),)
        layer = nn.Linear(shape[0], outputs, bias=bias)
    else:
        kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
        groups = channels if pick(0, 0, 1) and channels in (4, 8) and outputs % channels == 0 else 1
        sizes = {"stride": pick(1, 2), "padding": pick(0, 1), "groups": groups, "bias": bias}
        layer = kind(channels, outputs, pick(1, 3), **sizes)
    norm = NORMS[rank](outputs, eps=pick(1e-5, 1e-5, 1e-3), affine=bool(pick(1, 1, 1, 0)))
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn(p.shape, generator=g) * pick(0.2, 0.5))
        if norm.affine:
            norm.weight.copy_((torch.rand(outputs, generator=g) + 0.5) * pick(1, 1, -1))
            norm.bias.copy_(torch.randn(outputs, generator=g))
        norm.running_mean.copy_(torch.randn(outputs, generator=g))
        norm.running_var.copy_(torch.rand(outputs, generator=g) * (3e-4 if small else 2) + (1e-5 if small else 0.05))
    norm.num_batches_tracked.fill_(1)
    return (layer.to(dtype).eval().requires_grad_(False), norm.to(dtype).eval().requires_grad_(False)), shape


def _wider(pair: Pair, wide: torch.dtype | None) -> torch.dtype:
    own: torch.dtype = pair[0].weight.dtype
    return own if wide is None or wide.itemsize < own.itemsize else wide


def _view(layer: Any) -> tuple[int, ...]:
    return (-1, *(1,) * (layer.weight.ndim - 1))


def _parts(pair: Pair, wide: torch.dtype) -> list[Tensor]:
    layer, norm = pair
    one, zero = torch.ones_like(norm.running_mean), torch.zeros_like(norm.running_mean)
    held = [layer.weight, zero if layer.bias is None else layer.bias]
    held += [one if norm.weight is None else norm.weight, zero if norm.bias is None else norm.bias]
    return [t.detach().to(wide) for t in (*held, norm.running_mean, norm.running_var)]


def made(layer: Any, weight: Tensor, bias: Tensor) -> Any:
    """The layer with these parameters."""
    folded = copy.deepcopy(layer)
    folded.weight = nn.Parameter(weight.to(layer.weight.dtype), requires_grad=False)
    folded.bias = nn.Parameter(bias.to(layer.weight.dtype), requires_grad=False)
    return folded


def by_torch(pair: Pair) -> Any:
    if isinstance(pair[0], nn.Linear) and not pair[1].affine:  # where torch's raises a TypeError
        return _by_hand(None)(pair)
    fuse = fuse_linear_bn_eval if isinstance(pair[0], nn.Linear) else fuse_conv_bn_eval
    return fuse(*pair).requires_grad_(False)


def _by_hand(wide: torch.dtype | None, *, root: bool = False, spread: bool = False) -> Callable[[Pair], Any]:
    def fold(pair: Pair) -> Any:
        w, b, gamma, beta, mean, var = _parts(pair, _wider(pair, wide))
        inverse = 1 / torch.sqrt(var + pair[1].eps) if root else torch.rsqrt(var + pair[1].eps)
        factor = gamma * inverse
        bias = b * factor + (beta - mean * factor) if spread else (b - mean) * factor + beta
        return made(pair[0], w * factor.view(_view(pair[0])), bias)

    return fold


def _fused_in_steps(pair: Pair) -> Any:
    """As timm-like and older code does it: a diagonal matrix times the weight."""
    w, b, gamma, beta, mean, var = _parts(pair, _wider(pair, torch.float32))
    root = torch.sqrt(pair[1].eps + var)
    weight = torch.mm(torch.diag(gamma.div(root)), w.flatten(1)).view(w.shape)
    return made(pair[0], weight, gamma / root * b + (beta - gamma.mul(mean).div(root)))


RIGHT: dict[str, Callable[[Pair], Any]] = {
    "torch": by_torch,
    "in the dtype": _by_hand(None, root=True),
    "in the dtype, spread": _by_hand(None, spread=True),
    "in float32": _by_hand(torch.float32),
    "in float64": _by_hand(torch.float64, root=True, spread=True),
    "diagonal matrix": _fused_in_steps,
}


def _wrong(change: Callable[..., tuple[Any, Any]]) -> Callable[[Pair, torch.dtype | None], Any]:
    def fold(pair: Pair, wide: torch.dtype | None = None) -> Any:
        w, b, gamma, beta, mean, var = _parts(pair, wide or pair[0].weight.dtype)
        factor, bias = change(b, gamma, beta, mean, var, pair[1].eps)
        return made(pair[0], w * factor.view(_view(pair[0])), bias)

    return fold


def _f(gamma: Tensor, var: Tensor, eps: float) -> Tensor:
    return gamma / torch.sqrt(var + eps)


def _with_factor(factor: Callable[..., Tensor]) -> Callable[..., tuple[Any, Any]]:
    def change(b: Any, gamma: Any, beta: Any, mean: Any, var: Any, eps: Any) -> tuple[Any, Any]:
        f = factor(gamma, var, eps)
        return f, (b - mean) * f + beta

    return change


def _with_bias(bias: Callable[..., Tensor]) -> Callable[..., tuple[Any, Any]]:
    def change(b: Any, gamma: Any, beta: Any, mean: Any, var: Any, eps: Any) -> tuple[Any, Any]:
        f = _f(gamma, var, eps)
        return f, bias(b, f, beta, mean)

    return change


WRONG: dict[str, Callable[..., Any]] = {
    "batch-norm-bias-without-factor": _wrong(_with_bias(lambda b, f, beta, mean: b - mean * f + beta)),
    "batch-norm-variance-for-deviation": _wrong(_with_factor(lambda g, v, e: g / (v + e))),
    "batch-norm-mean-added": _wrong(_with_bias(lambda b, f, beta, mean: (b + mean) * f + beta)),
    "batch-norm-gamma-forgotten": _wrong(_with_factor(lambda g, v, e: 1 / torch.sqrt(v + e))),
    "batch-norm-beta-forgotten": _wrong(_with_bias(lambda b, f, beta, mean: (b - mean) * f)),
    "batch-norm-mean-without-factor": _wrong(_with_bias(lambda b, f, beta, mean: b * f - mean + beta)),
    "batch-norm-bias-dropped": _wrong(_with_bias(lambda b, f, beta, mean: beta - mean * f)),
    "batch-norm-mean-forgotten": _wrong(_with_bias(lambda b, f, beta, mean: b * f + beta)),
    "batch-norm-multiplied": _wrong(_with_factor(lambda g, v, e: g * torch.sqrt(v + e))),
    "batch-norm-eps-forgotten": _wrong(_with_factor(lambda g, v, e: g / torch.sqrt(v))),
    "batch-norm-eps-outside-root": _wrong(_with_factor(lambda g, v, e: g / (torch.sqrt(v) + e))),
    "batch-norm-eps-wrong": _wrong(_with_factor(lambda g, v, e: _f(g, v, 1e-3 if e < 1e-4 else 1e-5))),
}
NEEDS = {
    "batch-norm-bias-without-factor": "bias",
    "batch-norm-bias-dropped": "bias",
    "batch-norm-gamma-forgotten": "affine",
    "batch-norm-beta-forgotten": "affine",
}


def applies(name: str, pair: Pair) -> bool:
    """Whether a mistake can be made with this pair."""
    need = NEEDS.get(name)
    return need is None or (pair[0].bias is not None if need == "bias" else bool(pair[1].affine))
