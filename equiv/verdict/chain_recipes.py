"""Folds as programs compute them, in every bit: which eps gives the very weights of a layer.

In 16 bits another eps often changes a fold by less than rounding may. But programs compute folds by few formulas; where
one of them with a wrong eps gives every weight bit for bit, and none with the right one does, that is how it was made.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from equiv.causes import EPSILONS, Cause
from equiv.mapping import ConvTranspose, geometry_of
from equiv.verdict.chain_causes import fold_line, neighbours
from equiv.verdict.links import Affine, Chain, Norm, real_links

_DIFFERENT = 6  # weights that no right formula gives
_CHANNELS = 4  # of different variances


def wrong_eps(chain: Chain, other: Chain, dtype: torch.dtype) -> Cause | None:
    """The eps with which a layer was folded: some formula gives every weight with it, and none with the right one.

    Example:
        >>> from equiv.verdict.links import links_of
        >>> fuse = torch.nn.utils.fusion.fuse_linear_bn_eval
        >>> linear, norm = torch.nn.Linear(64, 32).half().eval(), torch.nn.BatchNorm1d(32).half().eval()
        >>> _ = norm.running_var.copy_(torch.linspace(0.5, 2, 32))
        >>> chain, norm.eps = links_of(torch.nn.Sequential(linear, norm)), 1e-3
        >>> wrong_eps(chain, links_of(fuse(linear, norm)), torch.half).name
        'batch-norm-eps-wrong'
    """
    pair = _pair(chain, other)
    if pair is None or not dtype.is_floating_point:
        return None
    layer, norm, after = pair
    if len(set(norm.facts.var.tolist())) < _CHANNELS:  # channels of one variance share the rounding of its root
        return None
    given = real_links(other)[0].module.weight.detach().cpu()
    least = given.numel()
    for weight in weights(layer.module, norm, norm.facts.eps, after=after):
        least = min(least, int((weight != given).sum()))
        if least < _DIFFERENT:
            return None
    for eps in (0.0, *EPSILONS):
        if eps != norm.facts.eps and any(torch.equal(w, given) for w in weights(layer.module, norm, eps, after=after)):
            before, behind = neighbours(chain, chain.index(norm))
            words = f"the factor of the batch norm is computed with eps {eps:g} instead of {norm.facts.eps:g}"
            if eps == 0:
                words = "the factor of the batch norm is gamma / sqrt(var): eps is forgotten"
            name = "batch-norm-eps-wrong" if eps else "batch-norm-eps-forgotten"
            return Cause(name, words, fold_line(norm.facts, before, behind))
    return None


def _pair(chain: Chain, other: Chain) -> tuple[Affine, Norm, bool] | None:
    """The layer and the batch norm of a chain of these two, and whether that is behind the layer."""
    real, layer = real_links(chain), real_links(other)
    if len(real) != 2 or len(layer) != 1 or not isinstance(layer[0], Affine):
        return None
    after = isinstance(real[1], Norm)
    affine, norm = real if after else real[::-1]
    if not isinstance(affine, Affine) or not isinstance(norm, Norm) or isinstance(affine.module, ConvTranspose):
        return None
    if type(affine.module) is not type(layer[0].module) or geometry_of(affine.module) != geometry_of(layer[0].module):
        return None
    channels = affine.module.weight.shape[0 if after else 1]
    return (affine, norm, after) if len(norm.scale) == channels else None


def weights(layer: Any, norm: Norm, eps: float, *, after: bool) -> Iterator[Tensor]:
    """The weight of the fold in the layer's dtype, by the formulas and in the precisions that programs use."""
    own: Tensor = layer.weight.detach().cpu()
    view = (-1, *(1,) * (own.ndim - 1)) if after else (1, -1, *(1,) * (own.ndim - 2))
    held = norm.module.running_var.dtype
    precisions = dict.fromkeys([own.dtype, held, torch.float32, torch.float64])
    for dtype in precisions:
        w = own.to(dtype)
        var, gamma = (None if t is None else t.to(dtype) for t in (norm.facts.var, norm.facts.gamma))
        assert var is not None
        gamma = torch.ones_like(var) if gamma is None else gamma
        root, inverse = torch.sqrt(var + eps), torch.rsqrt(var + eps)
        for scaled in (
            w * (gamma * inverse).view(view),
            w * (gamma / root).view(view),
            w * (1 / root * gamma).view(view),
            w * gamma.view(view) / root.view(view),
            w * inverse.view(view) * gamma.view(view),
        ):
            yield scaled.to(own.dtype)
