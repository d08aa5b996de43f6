"""Batch norms that are folded into a neighbour, and the mistakes that are made with them.

With ``factor = gamma / sqrt(var + eps)`` a batch norm in eval mode is ``y = x * factor + (beta - mean * factor)``. Each
mistake of a fold is another factor or another shift; with the bias of the layer before it where that has one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from equiv.causes.mistakes import Cause

EPSILONS = (1e-3, 1e-5, 1e-6, 1e-8, 1e-12, 1e-2, 1e-4, 1e-7)


@dataclass(frozen=True, eq=False)
class BatchNorm:
    """What a batch norm holds, float64 ``(C,)``.

    Attributes:
        gamma: Its weight, or None.
        beta: Its bias, or None.
        mean: Running mean.
        var: Running variance.
        eps: As a number.
    """

    gamma: Tensor | None
    beta: Tensor | None
    mean: Tensor
    var: Tensor
    eps: float

    def factor(self, eps: float | None = None) -> Tensor:
        """``gamma / sqrt(var + eps)``."""
        root = (self.var + (self.eps if eps is None else eps)).sqrt()
        return (torch.ones_like(root) if self.gamma is None else self.gamma) / root

    @property
    def offset(self) -> Tensor:
        """``beta``, or zeros."""
        return torch.zeros_like(self.mean) if self.beta is None else self.beta

    def affine(self) -> tuple[Tensor, Tensor]:
        """Scale and shift.

        Example:
            >>> one = torch.ones(1, dtype=torch.float64)
            >>> [part.item() for part in BatchNorm(6 * one, one, 2 * one, 3 * one, 1.0).affine()]
            [3.0, -5.0]
        """
        factor = self.factor()
        return factor, self.offset - self.mean * factor

    @property
    def size_of_shift(self) -> Tensor:
        """The magnitudes of the terms of the shift, added."""
        return self.offset.abs() + self.mean.abs() * self.factor().abs()


class FoldMistake(NamedTuple):
    """A mistake of a fold: its cause, and the scale and shift that it makes of the batch norm."""

    cause: Cause
    scale: Tensor
    shift: Tensor


_FOLDED = {
    "after": "factor = {gamma} / torch.sqrt(bn.running_var + bn.eps); "
    "weight = layer.weight * factor.reshape({view}); bias = ({bias} - bn.running_mean) * factor{beta}",
    "before": "factor = {gamma} / torch.sqrt(bn.running_var + bn.eps); shift = {start} - bn.running_mean * factor; "
    "weight = layer.weight * factor.reshape({view}); "
    "bias = {bias} + (layer.weight * shift.reshape({view})).flatten(1).sum(1)",
}


def right_fold(norm: BatchNorm, *, after: bool, bias: bool, view: tuple[int, ...]) -> str:
    """The line that folds a batch norm into the layer before it (``after``), or into the one that follows.

    Example:
        >>> ones = torch.ones(2, dtype=torch.float64)
        >>> right_fold(BatchNorm(ones, ones, ones, ones, 1e-5), after=True, bias=False, view=(-1, 1)).split("; ")[0]
        'factor = bn.weight / torch.sqrt(bn.running_var + bn.eps)'
    """
    return _FOLDED["after" if after else "before"].format(
        gamma="1" if norm.gamma is None else "bn.weight",
        beta="" if norm.beta is None else " + bn.bias",
        start="0" if norm.beta is None else "bn.bias",
        bias="layer.bias" if bias else "0",
        view=", ".join(map(str, view)),
    )


def fold_mistakes(norm: BatchNorm, bias: Tensor | None, fix: str, others: list[BatchNorm]) -> Iterator[FoldMistake]:
    """What folds of this batch norm may get wrong.

    Args:
        norm: The batch norm.
        bias: ``(C,)`` of the layer before it, into which it is folded; None where there is none.
        fix: The line that mends them all.
        others: Other batch norms, whose statistics may have been taken.

    Example:
        >>> ones = torch.ones(1, dtype=torch.float64)
        >>> norm = BatchNorm(None, None, 2 * ones, 3 * ones, 1.0)
        >>> [found.cause.name for found in fold_mistakes(norm, None, "", [])][:2]
        ['batch-norm-eps-forgotten', 'batch-norm-eps-outside-root']
    """
    f = norm.factor()
    for name, sentence, factor in _factors(norm):
        yield FoldMistake(Cause(name, sentence, fix), factor, norm.offset - norm.mean * factor)
    for name, sentence, shift in _shifts(norm, f, bias):
        yield FoldMistake(Cause(name, sentence, fix), f, shift)
    yield from _unscaled(norm, bias, fix)
    for other in others:
        if other.mean.shape == norm.mean.shape:
            taken = BatchNorm(norm.gamma, norm.beta, other.mean, other.var, norm.eps)
            sentence = "the batch norm is folded with the running statistics of another one"
            yield FoldMistake(Cause("batch-norm-statistics-of-another", sentence, fix), *taken.affine())
            yield FoldMistake(
                Cause("batch-norm-of-another", sentence.replace("running statistics", "values"), fix), *other.affine()
            )


def _factors(norm: BatchNorm) -> Iterator[tuple[str, str, Tensor]]:
    """Names, sentences and wrong factors."""
    gamma = torch.ones_like(norm.var) if norm.gamma is None else norm.gamma
    root, words = (norm.var + norm.eps).sqrt(), "the factor of the batch norm is"
    yield "batch-norm-eps-forgotten", f"{words} gamma / sqrt(var): eps is forgotten", norm.factor(0.0)
    outside = gamma / (norm.var.sqrt() + norm.eps)
    yield "batch-norm-eps-outside-root", f"{words} gamma / (sqrt(var) + eps): eps belongs inside the root", outside
    name = "batch-norm-variance-for-deviation"
    yield name, f"{words} gamma / (var + eps): the root is forgotten", gamma / (norm.var + norm.eps)
    yield name, f"{words} gamma / var: the root and eps are forgotten", gamma / norm.var
    yield "batch-norm-multiplied", f"{words} gamma * sqrt(var + eps): the deviation multiplies", gamma * root
    if norm.gamma is not None:
        yield "batch-norm-gamma-forgotten", f"{words} 1 / sqrt(var + eps): gamma is forgotten", 1 / root
        yield "batch-norm-gamma-forgotten", f"{words} 1 / sqrt(var): gamma and eps are forgotten", norm.var.rsqrt()
    for eps in EPSILONS:
        if abs(eps - norm.eps) > 1e-3 * norm.eps:
            yield "batch-norm-eps-wrong", f"{words} computed with eps {eps:g} instead of {norm.eps:g}", norm.factor(eps)


def _shifts(norm: BatchNorm, f: Tensor, bias: Tensor | None) -> Iterator[tuple[str, str, Tensor]]:
    """Names, sentences and wrong shifts beside the right factor."""
    beta, mean = norm.offset, norm.mean
    shift = beta - mean * f
    if bias is not None:
        name = "batch-norm-bias-without-factor"
        yield name, "the bias of the layer is not multiplied by the factor of the batch norm", shift + bias * (1 - f)
        yield name, "bias - mean is not multiplied by the factor of the batch norm", beta - mean + bias * (1 - f)
        yield "batch-norm-bias-dropped", "the bias of the layer before the batch norm is dropped", shift - bias * f
        yield "batch-norm-shift-forgotten", "the weight alone is folded, the bias is left as it was", bias * (1 - f)
    yield "batch-norm-mean-without-factor", "the mean is not multiplied by the factor of the batch norm", beta - mean
    yield "batch-norm-mean-added", "the mean is added instead of subtracted", beta + mean * f
    yield "batch-norm-mean-forgotten", "the mean is forgotten", beta
    if norm.beta is not None:
        yield "batch-norm-beta-forgotten", "beta, the bias of the batch norm, is forgotten", -mean * f
        yield "batch-norm-beta-subtracted", "beta, the bias of the batch norm, is subtracted", -beta - mean * f
    yield "batch-norm-shift-forgotten", "mean and beta are forgotten", torch.zeros_like(f)
    yield "batch-norm-mean-by-variance", "the mean is divided by var + eps, not by its root", _by_variance(norm)


def _by_variance(norm: BatchNorm) -> Tensor:
    gamma = torch.ones_like(norm.var) if norm.gamma is None else norm.gamma
    return norm.offset - norm.mean * gamma / (norm.var + norm.eps)


def _unscaled(norm: BatchNorm, bias: Tensor | None, fix: str) -> Iterator[FoldMistake]:
    """Folds that leave the weight as it is."""
    f, shift = norm.affine()
    one, b = torch.ones_like(f), torch.zeros_like(f) if bias is None else bias
    sentence = "the bias alone is folded, the weight is not multiplied by the factor of the batch norm"
    yield FoldMistake(Cause("batch-norm-weight-without-factor", sentence, fix), one, b * (f - 1) + shift)
    yield FoldMistake(Cause("batch-norm-dropped", "the batch norm is dropped", fix), one, torch.zeros_like(f))
