"""Parameters of two layers, entry by entry: what holds for all inputs, and sees one ulp."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from equiv.causes import name_cause
from equiv.errors import EquivError
from equiv.mapping import Conv, is_conv1d
from equiv.models.pairing import is_affine
from equiv.models.permuted import Order
from equiv.numerics import same_bits
from equiv.verdict import Verdict, parameter_verdict

_NAMED = 2**24  # entries of a weight that a cause is looked for in


class Parameters(NamedTuple):
    """What two layers' parameters say.

    Attributes:
        verdict: DIFFERENT with the entry, or None.
        known: Whether all of them were compared.
        columns: The order of the reference's columns in which the candidate holds them, where that is another.
        otherwise: The verdict unless the candidate's input is in that order too.
        order: How its channels are permuted, where other layers may undo that.
    """

    verdict: Verdict | None = None
    known: bool = False
    columns: Tensor | None = None
    otherwise: Verdict | None = None
    order: Order | None = None


def compared(candidate: nn.Module, reference: nn.Module) -> Parameters:
    """Two modules by their parameters: affine layers as matrices, others by name.

    Example:
        >>> conv, linear = nn.Conv2d(4, 2, 1), nn.Linear(4, 2)
        >>> _ = conv.load_state_dict({"weight": linear.weight.view(2, 4, 1, 1), "bias": linear.bias})
        >>> compared(conv, linear).known, compared(conv, linear).verdict
        (True, None)
    """
    left, right = _layer_in(candidate), _layer_in(reference)
    if left is None or right is None:
        return _by_name(candidate, reference)
    a, b = _matrix(left), _matrix(right)
    if a is None or b is None or a.shape != b.shape:
        raw = type(left) is type(right) and left.weight.shape == right.weight.shape
        if not raw:
            return Parameters()
        a, b = left.weight.detach().flatten(1), right.weight.detach().flatten(1)
    if any(t.is_meta for t in (a, b)):
        return Parameters()
    if _equal(a, b):
        verdict = _bias_verdict(left, right, a, b)
        return Parameters(verdict, True)
    verdict = _verdict(left, right, a, b, "weight", a, b)
    order = _likeliest(left, right, a, b)
    if order is None:
        return Parameters(verdict, True)
    placed = b[:, order]
    if _equal(a, placed):
        return Parameters(_bias_verdict(left, right, a, placed), True, order, verdict)
    return Parameters(_verdict(left, right, a, placed, "weight", a, placed), True, order, verdict)


def _likeliest(left: Any, right: Any, a: Tensor, b: Tensor) -> Tensor | None:
    """The other order of the columns in which most entries are the same, where that is more than half of them."""
    if a.dtype != b.dtype:
        return None
    shares = [(float((a == b[:, order]).double().mean()), order) for order in _orders(left, right)]
    share, order = max(shares, key=lambda pair: pair[0], default=(0.0, None))
    return order if share > max(0.5, float((a == b).double().mean())) else None


def _layer_in(module: nn.Module) -> Any:
    """The module, or the only affine one inside."""
    if is_affine(module):
        return module
    found = [part for part in module.modules() if is_affine(part)]
    held = sum(p.numel() for p in module.parameters())
    return found[0] if len(found) == 1 and held == sum(p.numel() for p in found[0].parameters()) else None


def _matrix(layer: Any) -> Tensor | None:
    """The weight ``(O, n)`` of a layer of one group."""
    if isinstance(layer, nn.Linear):
        return layer.weight.detach()
    if is_conv1d(layer):
        return layer.weight.detach().T  # type: ignore[no-any-return]
    return layer.weight.detach().flatten(1) if isinstance(layer, Conv) and layer.groups == 1 else None


def _equal(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a, b.to(a.device)) if a.dtype == b.dtype else False


def _orders(left: Any, right: Any) -> list[Tensor]:
    """Other orders of the columns, where one of the two is a kernel over several positions and the other is none."""
    conv = next((side for side in (right, left) if isinstance(side, Conv)), None)
    if conv is None and isinstance(left, nn.Linear) and isinstance(right, nn.Linear):
        return _permutations(left.weight.detach(), right.weight.detach())
    if conv is None or isinstance(left, Conv) == isinstance(right, Conv):
        return []
    shape = tuple(conv.weight.shape[1:])
    plain = torch.arange(math.prod(shape), device=conv.weight.device).view(shape)
    found = []
    for order in list(itertools.permutations(range(len(shape))))[1:]:
        forward = plain.permute(order).reshape(-1)
        found.append(forward if conv is right else forward.argsort())
    return found


def _permutations(a: Tensor, b: Tensor) -> list[Tensor]:
    """Orders of columns that some rows tell, where these hold the same entries and none of them twice."""
    found = []
    for row in range(min(len(a), 3)):
        mine, theirs = a[row].sort(), b[row].sort()
        if torch.equal(mine.values, theirs.values) and bool((mine.values.diff() > 0).all()):
            found.append(torch.empty_like(mine.indices).scatter_(0, mine.indices, theirs.indices))
    return found


def _bias_verdict(left: Any, right: Any, weight: Tensor, other: Tensor) -> Verdict | None:
    a, b = (getattr(side, "bias", None) for side in (left, right))
    if a is None and b is None:
        return None
    zeros = torch.zeros_like(next(t for t in (a, b) if t is not None))
    a, b = (zeros if t is None else t.detach() for t in (a, b))
    return None if a.shape == b.shape and _equal(a, b) else _verdict(left, right, weight, other, "bias", a, b)


def _verdict(left: Any, right: Any, weight: Tensor, other: Tensor, name: str, a: Tensor, b: Tensor) -> Verdict | None:
    a, b = a.cpu(), b.cpu()
    kind = torch.promote_types(a.dtype, b.dtype)
    wide = (a.to(kind), b.to(kind))
    wrong = ~(same_bits(*wide) | (wide[0] == wide[1]))
    if not bool(wrong.any()):
        return None
    verdict = parameter_verdict(name, *wide, wrong)
    text = verdict.explanation.replace(" once both are written as one dense layer", "")
    conv = next((side for side in (right, left) if isinstance(side, Conv)), None)
    shape = (weight.shape[1], 1) if conv is None else tuple(conv.weight.shape[1:])
    cause = None
    if weight.numel() <= _NAMED:
        biases = [None if side.bias is None else side.bias.detach() for side in (left, right)]
        try:
            cause = name_cause(weight, other, shape, *biases)
        except EquivError:  # a layer of another kind
            cause = None
    return replace(verdict, explanation=text, cause=cause)


def _by_name(candidate: nn.Module, reference: nn.Module) -> Parameters:
    sides: list[dict[str, Tensor]] = [dict(module.named_parameters()) for module in (candidate, reference)]
    for held, module in zip(sides, (candidate, reference), strict=True):
        held.update(
            {n: b for n, b in module.named_buffers() if n.rpartition(".")[2] in ("running_mean", "running_var")}
        )
    if sides[0].keys() != sides[1].keys() or any(t.is_meta for held in sides for t in held.values()):
        return Parameters()
    for name, right in sides[1].items():
        a, b = sides[0][name].detach(), right.detach()
        if a.shape != b.shape:
            return Parameters()
        if not _equal(a, b):
            kind = torch.promote_types(a.dtype, b.dtype)
            wide = (a.cpu().to(kind), b.cpu().to(kind))
            wrong = ~(same_bits(*wide) | (wide[0] == wide[1]))
            if bool(wrong.any()):
                verdict = parameter_verdict(name, *wide, wrong)
                text = verdict.explanation.replace(" once both are written as one dense layer", "")
                return Parameters(replace(verdict, explanation=text), True)
    return Parameters(None, True)
