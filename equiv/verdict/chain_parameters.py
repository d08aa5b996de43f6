"""A layer into which a chain was folded, by its parameters: each against what the exact fold may be rounded to.

This is the sharpest test of a fold, since no sum hides a parameter. Where all lie inside their intervals, those of a
wrong formula may still be much closer, or be the very numbers: then the formula is named.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from equiv.causes import Cause
from equiv.mapping import Conv, ConvTranspose, geometry_of
from equiv.numerics import format_of
from equiv.text import counted
from equiv.verdict.chain_causes import independent, mistaken_chains
from equiv.verdict.chain_recipes import wrong_eps
from equiv.verdict.chains import Bound, shapes_of
from equiv.verdict.entries import index_in
from equiv.verdict.links import Affine, Chain, Norm, Reshape, as_wide, real_links

_DENSE = 2**22  # entries of the dense layer of a chain up to which it is computed
_ROWS = 64
CLOSER, CHANNELS = 4.0, 4  # a wrong formula must be so many times as close, in so many channels


@dataclass(frozen=True, eq=False)
class Fold:
    """The parameters of a layer that a chain is, exactly, and the sizes by which rounding is measured.

    Attributes:
        weight: Float64 or complex128, outputs first or as the layer has them.
        bias: ``(O,)``.
        weight_size: What becomes of the sizes of the parameters, float64.
        bias_size: The same.
        axis: The dimension of ``weight`` that belongs to channels of a batch norm.
    """

    weight: Tensor
    bias: Tensor
    weight_size: Tensor
    bias_size: Tensor
    axis: int = 0


class Deviation(NamedTuple):
    """What is wrong with parameters, in a sentence, and its cause."""

    text: str
    cause: Cause | None


def fold_of(chain: Chain) -> Fold | None:
    """The fold of a layer and the batch norms right behind or before it, as parameters of that layer; None for others.

    Example:
        >>> from equiv.verdict.links import links_of
        >>> chain = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).eval()
        >>> fold_of(links_of(chain)).weight.shape
        torch.Size([4, 3, 3, 3])
    """
    links = [link for link in chain if not (isinstance(link, Reshape) and _keeps(link))]
    layers = [link for link in links if isinstance(link, Affine)]
    if len(layers) != 1 or not all(isinstance(link, (Affine, Norm)) for link in links):
        return None
    layer, at = layers[0], links.index(layers[0])
    module, weight = layer.module, as_wide(layer.module.weight)
    size = as_wide(module.weight, size=True)
    outputs = module.out_features if isinstance(module, nn.Linear) else module.out_channels
    bias = torch.zeros(outputs, dtype=weight.dtype) if module.bias is None else as_wide(module.bias)
    fold = Fold(weight, bias, size, bias.abs() if module.bias is None else as_wide(module.bias, size=True))
    for norm in [link for link in links[:at] if isinstance(link, Norm)][::-1]:
        fold_before = _before(fold, module, norm)
        if fold_before is None:
            return None
        fold = fold_before
    for norm in [link for link in links[at + 1 :] if isinstance(link, Norm)]:
        if len(norm.scale) != outputs:
            return None
        fold = _behind(fold, module, norm)
    return fold


def _keeps(link: Reshape) -> bool:
    """Whether it returns what it is given."""
    return isinstance(link.module, (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d))


def _behind(fold: Fold, module: Any, norm: Norm) -> Fold:
    def scaled(weight: Tensor, scale: Tensor) -> Tensor:
        if not isinstance(module, ConvTranspose):
            return weight * scale.view(-1, *(1,) * (weight.ndim - 1))
        groups = module.groups
        parts = weight.view(groups, -1, *weight.shape[1:]) * scale.view(groups, 1, -1, *(1,) * (weight.ndim - 2))
        return parts.view(weight.shape)

    size = norm.scale.abs()
    return Fold(
        scaled(fold.weight, norm.scale),
        fold.bias * norm.scale + norm.shift,
        scaled(fold.weight_size, size),
        fold.bias_size * size + norm.facts.size_of_shift,
        1 if isinstance(module, ConvTranspose) else 0,
    )


def _before(fold: Fold, module: Any, norm: Norm) -> Fold | None:
    """The fold with a batch norm before it; None where that is no fold, as zeros are padded, or of another shape."""
    if isinstance(module, ConvTranspose) or getattr(module, "groups", 1) > 1:
        return None
    if len(norm.scale) != fold.weight.shape[1]:
        return None
    pads = isinstance(module, Conv) and module.padding_mode == "zeros" and module.padding not in ("valid", (0,) * 3)
    if pads and any(module.padding if not isinstance(module.padding, str) else (1,)) and bool((norm.shift != 0).any()):
        return None
    view = (1, -1, *(1,) * (fold.weight.ndim - 2))
    return Fold(
        fold.weight * norm.scale.view(view),
        fold.bias + (fold.weight * norm.shift.view(view)).flatten(1).sum(1),
        fold.weight_size * norm.scale.abs().view(view),
        fold.bias_size + (fold.weight_size * norm.facts.size_of_shift.view(view)).flatten(1).sum(1),
        1,
    )


def _dense_fold(chain: Chain, shape: tuple[int, ...], outputs: int) -> Fold:
    """The dense layer ``(outputs, n)`` of a chain on samples of ``shape``."""
    n = math.prod(shape)

    def run(x: Tensor, *, size: bool, constant: bool) -> Tensor:
        for link in chain:
            x = link.map(x, size=size, constant=constant)
        return x.flatten(1)

    dtypes = {t.dtype for link in chain if isinstance(link, Affine) for t in [link.module.weight]}
    wide = torch.complex128 if any(dtype.is_complex for dtype in dtypes) else torch.float64
    weight, sizes = torch.empty(outputs, n, dtype=wide), torch.empty(outputs, n, dtype=torch.float64)
    for start in range(0, n, _ROWS):
        rows = torch.zeros(min(_ROWS, n - start), n, dtype=torch.float64)
        rows[torch.arange(len(rows)), start + torch.arange(len(rows))] = 1.0
        rows = rows.view(-1, *shape)
        weight[:, start : start + len(rows)] = run(rows.to(wide), size=False, constant=False).T
        sizes[:, start : start + len(rows)] = run(rows, size=True, constant=False).T
    zero = torch.zeros(1, *shape, dtype=torch.float64)
    return Fold(weight, run(zero.to(wide), size=False, constant=True)[0], sizes, run(zero, size=True, constant=True)[0])


def deviation(chain: Chain, other: Chain, shape: tuple[int, ...], bound: Bound, dtype: torch.dtype) -> Deviation | None:
    """What is wrong with a layer, or a shorter chain, as the fold of a chain, by its parameters.

    Args:
        chain: The links.
        other: Those of the layer or the shorter chain.
        shape: Of a sample.
        bound: What right folds may be off.
        dtype: Of the parameters.

    Returns:
        None where nothing is wrong, or where the two cannot be laid side by side.
    """
    laid = _laid(chain, other, torch.zeros(1, *shape, dtype=dtype))
    exact = None if laid is None else laid[1](chain)
    if laid is None or exact is None:
        return None
    given, make = laid
    text = _outside(given, exact, bound, dtype)
    mistakes = list(mistaken_chains(chain))
    found = [(mistaken.cause, make(mistaken.chain)) for mistaken in mistakes]
    wrong = [(cause, fold) for cause, fold in found if fold is not None]
    shown = [
        (mistaken.cause, fold)
        for mistaken, (_, fold) in zip(mistakes, found, strict=True)
        if fold is not None and independent(chain, mistaken.chain) >= CHANNELS
    ]
    cause = _much_closer(given, exact, shown, bound, dtype) or wrong_eps(chain, other, dtype)
    if text is not None:
        return Deviation(text, cause or _fitting(given, exact, wrong, bound, dtype))
    if cause is None:
        return None
    return Deviation(
        "every parameter lies inside the interval to which a right fold may be rounded, but all of them together are "
        f"those of a wrong one: {cause.sentence}.",
        cause,
    )


def _laid(chain: Chain, other: Chain, zero: Tensor) -> tuple[Fold, Callable[[Chain], Fold | None]] | None:
    """The parameters of a layer or chain, and what makes those of the chain in the same shapes."""
    real = real_links(other)
    layer: Any = real[0].module if len(real) == 1 and isinstance(real[0], Affine) else None
    same: Any = next((link.module for link in real_links(chain) if isinstance(link, Affine)), None)
    fold = fold_of(chain)
    alike = layer is not None and same is not None and type(same) is type(layer)
    if alike and fold is not None and same is not None and geometry_of(layer) == geometry_of(same):
        return _given(layer), fold_of
    outputs, others = (math.prod(shapes_of(links, zero)[-1]) for links in (chain, other))
    shape = tuple(zero.shape[1:])
    if outputs != others or outputs * math.prod(shape) > _DENSE:
        return None
    make = partial(_dense_fold, shape=shape, outputs=outputs)
    return make(other), make


def _given(layer: Any) -> Fold:
    weight = as_wide(layer.weight)
    outputs = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    bias = torch.zeros(outputs, dtype=weight.dtype) if layer.bias is None else as_wide(layer.bias)
    return Fold(weight, bias, weight.abs(), bias.abs())


def _outside(given: Fold, exact: Fold, bound: Bound, dtype: torch.dtype) -> str | None:
    """Which parameters lie outside the intervals, in a sentence."""
    said = []
    least = format_of(dtype).min_subnormal
    share = max(bound.folded + bound.merged, format_of(dtype).u) + bound.reference
    for name in ("weight", "bias"):
        p, q, size = getattr(given, name), getattr(exact, name), getattr(exact, f"{name}_size")
        allowed = share * size + 2 * least
        off = (p - q).abs()
        wrong = ~(off <= allowed) & ~((p == q) | (p.isnan() & q.isnan()))
        if bool(wrong.any()):
            share_of = (off / allowed).nan_to_num(math.inf, math.inf)
            index = index_in(int(share_of.masked_fill(~wrong, -1.0).argmax()), p.shape)
            said.append(
                f"{int(wrong.sum()):,} of {counted(p.numel(), 'entry', 'entries')} of the {name} are not what the "
                f"chain may be folded to; the furthest, {name}{list(index)}, is {p[index].item():.9g}, the exact fold "
                f"{q[index].item():.9g}, which rounding may move by {float(allowed[index]):.2g}"
            )
    return "; ".join(said) + "." if said else None


def _errors(given: Fold, exact: Fold, dtype: torch.dtype) -> dict[str, Tensor]:
    """Errors of each parameter in units of its size, or of the least normal number, channels first."""
    found, least = {}, format_of(dtype).min_normal
    for name, axis in (("weight", exact.axis), ("bias", 0)):
        size = getattr(exact, f"{name}_size")
        error = (getattr(given, name) - getattr(exact, name)).abs() / size.clamp(min=least)
        found[name] = error.transpose(0, axis).flatten(1) if error.ndim > 1 else error[:, None]
    return found


def _rms(errors: Tensor) -> Tensor:
    return errors.square().mean(1).sqrt()


def _not_nearest(given: Fold, exact: Fold, name: str, dtype: torch.dtype) -> Tensor:
    """The channels that have a parameter which is not the nearest number to that of the exact fold."""
    p, q = getattr(given, name), getattr(exact, name)
    off: Tensor = q.to(dtype).to(q.dtype) != p
    return off.transpose(0, exact.axis).flatten(1).any(1) if off.ndim > 1 else off


def _witnesses(given: Fold, name: str, channels: Tensor) -> int:
    """How many of these channels count: biases that are one number share their rounding."""
    return len(set(given.bias[channels].tolist())) if name == "bias" else int(channels.sum())


def _much_closer(
    given: Fold, exact: Fold, wrong: list[tuple[Cause, Fold]], bound: Bound, dtype: torch.dtype
) -> Cause | None:
    """The wrong formula whose parameters are much closer in several channels."""
    best: tuple[float, Cause] | None = None
    right, u = _errors(given, exact, dtype), format_of(dtype).u
    unlike = {name: _not_nearest(given, exact, name, dtype) for name in right}
    for cause, fold in wrong:
        other = _errors(
            given, replace(fold, weight_size=exact.weight_size, bias_size=exact.bias_size, axis=exact.axis), dtype
        )
        parts = [name for name in right if bool((right[name] != other[name]).any())]
        most = max(float(errors.abs().amax().nan_to_num(math.inf)) for errors in other.values())
        if not parts or most > 2 * (bound.folded + bound.merged + bound.reference):
            continue
        before, after = (torch.cat([errors[name].flatten() for name in parts]) for errors in (right, other))
        closer = max(
            _witnesses(given, name, (_rms(other[name]) * CLOSER < _rms(right[name])) & unlike[name]) for name in parts
        )
        size = float(before.square().mean().sqrt())
        ratio = float(after.square().mean().sqrt()) / size if size else math.inf
        if ratio < 1 / CLOSER and closer >= CHANNELS and size > u / 4:
            best = (ratio, cause) if best is None or ratio < 0.9 * best[0] else best
    return None if best is None else best[1]


def _fitting(
    given: Fold, exact: Fold, wrong: list[tuple[Cause, Fold]], bound: Bound, dtype: torch.dtype
) -> Cause | None:
    """The closest of the wrong formulas that could be rounded to these parameters."""
    best: tuple[float, Cause] | None = None
    right = _errors(given, exact, dtype)
    bar = max(float(errors.square().sum()) for errors in right.values())
    for cause, fold in wrong:
        other = _errors(given, fold, dtype)
        most = max(float(errors.abs().amax().nan_to_num(math.inf)) for errors in other.values())
        score = sum(float(errors.square().sum()) for errors in other.values())
        if (
            most <= 2 * (bound.folded + bound.merged + bound.reference)
            and score < bar
            and (best is None or score < 0.9 * best[0])
        ):
            best = score, cause
    return None if best is None else best[1]
