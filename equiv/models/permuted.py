"""Channels in another order: which permutation of outputs, and of inputs, makes one weight of another.

Keys of rows and columns are sums of their bits, so that one pass finds them; the permutation is then tried entry by
entry. Where entries repeat and keys are not distinct, none is found.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from equiv.mapping import Conv, is_conv1d
from equiv.models.trees import equal

_KINDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_CLOSE = 2.0**-8  # of the difference in the usual order that may be left in the other one


class Order(NamedTuple):
    """The candidate's output ``i`` is the reference's ``rows[i]``, its input ``i`` the reference's ``columns[i]``."""

    rows: Tensor | None
    columns: Tensor | None


def order_of(candidate: nn.Module, reference: nn.Module) -> Order | None:
    """How the channels of a layer are permuted in another one of its type; None where they are not, or not alone.

    Example:
        >>> a, b = nn.Linear(3, 4), nn.Linear(3, 4)
        >>> _ = a.load_state_dict({"weight": b.weight[[1, 0, 2, 3]], "bias": b.bias[[1, 0, 2, 3]]})
        >>> order_of(a, b).rows.tolist(), order_of(a, b).columns
        ([1, 0, 2, 3], None)
    """
    weights = [_cube(module) for module in (candidate, reference)]
    a, b = weights
    if a is None or b is None or a.shape != b.shape or a.dtype != b.dtype or a.is_meta or b.is_meta:
        return None
    rows = _matching(*(_bits(t).sum((1, 2)) for t in (a, b)))
    if rows is None:
        return None
    placed = b[rows]
    factors = torch.randint(2**20, (len(a), 1, a.shape[2]), generator=torch.Generator().manual_seed(0)).to(a.device)
    columns = _matching(*((_bits(t) * factors).sum((0, 2)) for t in (a, placed)))
    if columns is None or not torch.equal(a, placed[:, columns]):
        return None
    biases: list[Any] = [getattr(module, "bias", None) for module in (candidate, reference)]
    if (biases[0] is None) != (biases[1] is None):
        return None
    if biases[0] is not None and not torch.equal(biases[0].detach(), biases[1].detach()[rows]):
        return None
    order = Order(*(None if bool((o.diff() == 1).all()) else o for o in (rows, columns)))
    return None if order.rows is None and order.columns is None else order


def _cube(module: Any) -> Tensor | None:
    """The weight as ``(O, I, taps)``."""
    if is_conv1d(module):
        return module.weight.detach().T.unsqueeze(2)  # type: ignore[no-any-return]
    if isinstance(module, nn.Linear | Conv):
        return module.weight.detach().flatten(1).view(*module.weight.shape[:2], -1)
    return None


def _bits(t: Tensor) -> Tensor:
    if t.is_complex():
        t = torch.view_as_real(t.resolve_conj()).flatten(-2)
    return t.contiguous().view(_KINDS[t.itemsize]).to(torch.int64)


def _matching(mine: Tensor, theirs: Tensor) -> Tensor | None:
    """The order in which the second keys are the first, where they are distinct."""
    a, b = mine.sort(), theirs.sort()
    if not torch.equal(a.values, b.values) or bool((a.values.diff() == 0).any()):
        return None
    return torch.empty_like(a.indices).scatter_(0, a.indices, b.indices)


def handed_on(x: Tensor, given: Tensor, known: list[Tensor]) -> tuple[int, Tensor] | None:
    """The axis, and which of the permutations that are known, in which ``given`` has the channels of ``x``."""
    if x.shape != given.shape or x.ndim < 2 or not x.is_floating_point() or equal(x, given):
        return None
    usual = float((x - given).abs().amax()) if x.numel() else 0.0
    for axis in (1, x.ndim - 1):
        for order in known:
            if len(order) == x.shape[axis]:
                apart = float((x.index_select(axis, order) - given).abs().amax())
                if apart <= _CLOSE * usual:
                    return axis, order
    return None


def spread(t: Tensor, axis: int, order: Tensor) -> tuple[int, Tensor] | None:
    """The axis and the order of a tensor that has those channels, or each of them flattened with what is behind it.

    Example:
        >>> spread(torch.zeros(2, 6), 1, torch.tensor([1, 0]))[1].tolist()
        [3, 4, 5, 0, 1, 2]
    """
    size = t.shape[axis] if t.ndim > axis else 0
    if size == len(order):
        return axis, order
    if t.ndim != 2 or axis != 1 or size % len(order) or not size:
        return None
    each = size // len(order)
    return 1, (order[:, None] * each + torch.arange(each, device=order.device)).flatten()


def is_permuted_module(candidate: nn.Module, reference: nn.Module, order: Tensor) -> bool:
    """Whether the parameters of two modules of one type are the same, by name, up to this order of channels."""
    if type(candidate) is not type(reference):
        return False
    mine = {**dict(candidate.named_parameters()), **dict(candidate.named_buffers())}
    theirs = {**dict(reference.named_parameters()), **dict(reference.named_buffers())}
    if mine.keys() != theirs.keys():
        return False
    for name, right in theirs.items():
        left = mine[name]
        moved = right[order] if right.ndim == 1 and len(right) == len(order) else right
        if left.shape != moved.shape or not torch.equal(left.detach(), moved.detach()):
            return False
    return True
