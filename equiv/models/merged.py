"""One affine layer against a module that computes the same of several weights, such as a LoRA written by hand.

The module is read in float64, on one-hot rows: its matrix, and the sizes of all terms that each entry was added from.
The layer's weight is right if it is that matrix up to the roundings of a merge, the results if they are those of the
matrix up to the roundings of the sums.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from equiv.backends import Twin
from equiv.mapping import is_conv1d
from equiv.models.sampling import same, verdict_of
from equiv.models.trees import equal, mapped, tensors
from equiv.models.wide import Alike, Computing
from equiv.verdict import Outcome, Verdict

_MOST = 2**13  # features of a module that is read
_ROUNDINGS = 6  # in the models' format: products, factors, sums and what is stored
_AFFINE = 2.0**-40


def may_be_merged(single: nn.Module, several: nn.Module) -> bool:
    """Whether one is a Linear and the other a module around weights of several layers, for rows of those features."""
    if not (isinstance(single, nn.Linear) or is_conv1d(single)):
        return False
    weights = [p for p in several.parameters() if p.ndim == 2]
    wide = [p for p in weights if sorted(p.shape) == sorted(single.weight.shape)]  # type: ignore[arg-type]
    return len(weights) > 1 and bool(wide) and sum(p.ndim for p in several.parameters()) < 2 * len(weights) + 4


def judged_merged(single: Any, several: nn.Module, x: Tensor, actual: Tensor, expected: Tensor) -> Verdict | None:
    """The verdict on results of both for rows ``(*, n)``, and on the weight; None where the module is not affine."""
    n = x.shape[-1]
    if n > _MOST or not x.is_floating_point():
        return None
    if equal(actual, expected):
        return same(actual)
    try:
        matrix, bias = _read(several, x, sizes=False)
        sizes, of_bias = _read(several, x, sizes=True)
        again = _wide(several, x.detach().reshape(-1, n), sizes=False)
    except Exception:  # whatever a module says to rows
        return None
    rows = x.detach().reshape(-1, n).double()
    exact, extent = rows @ matrix + bias, rows.abs() @ sizes + of_bias
    if not _within(again, exact, _AFFINE * extent):
        return None
    share = _share(several, x)
    weight = single.weight.detach().double()
    apart = _ratio((weight if is_conv1d(single) else weight.T) - matrix, share * sizes)
    if apart > 1:
        text = f"the weight is {apart:.3g} times what rounding explains from the product and sum of the other side's."
        return verdict_of(Outcome.DIFFERENT, text, expected, max_ratio=apart)
    shares = [_ratio(t.reshape(exact.shape).double() - exact, share * extent) for t in (actual, expected)]
    outcome = Outcome.ROUNDING if max(shares) <= 1 else Outcome.DIFFERENT
    text = f"merged weights: results are up to {max(shares):.3g} times what rounding explains from exact ones."
    return verdict_of(outcome, text, expected, max_ratio=max(shares))


def gradient_of_merged(several: nn.Module, incoming: Tensor, x: Tensor, pair: tuple[Tensor, Tensor]) -> Verdict | None:
    """The verdict on two gradients of the input ``x``; None where the module cannot be read."""
    try:
        matrix, sizes = (_read(several, x, sizes=sizes)[0] for sizes in (False, True))
    except Exception:  # whatever a module says to rows
        return None
    rows = incoming.reshape(-1, matrix.shape[1]).double()
    exact, slack = rows @ matrix.T, _share(several, incoming) * (rows.abs() @ sizes.T)
    shares = [_ratio(t.reshape(exact.shape).double() - exact, slack) for t in pair]
    outcome = Outcome.ROUNDING if max(shares) <= 1 else Outcome.DIFFERENT
    text = f"the gradient of its input is up to {max(shares):.3g} times what rounding explains from the exact one."
    return verdict_of(outcome, text, pair[1], max_ratio=max(shares))


def _share(several: nn.Module, x: Tensor) -> float:
    """How far a sum may be off for the size of its terms."""
    u, wide = (torch.finfo(kind).eps / 2 for kind in (x.dtype, torch.promote_types(x.dtype, torch.float32)))
    terms = sum(min(p.shape) for p in several.parameters() if p.ndim == 2) + x.shape[-1]
    return terms * wide + _ROUNDINGS * u


def _ratio(apart: Tensor, slack: Tensor) -> float:
    return float(torch.where(apart == 0, 0.0, apart.abs() / slack).nan_to_num(torch.inf, torch.inf).max())


def _within(a: Tensor, b: Tensor, slack: Tensor) -> bool:
    return bool(((a.reshape(b.shape) - b).abs() <= slack).all())


def _read(module: nn.Module, x: Tensor, *, sizes: bool) -> tuple[Tensor, Tensor]:
    """The matrix ``(n, O)`` and the bias ``(O,)`` of a module, or the sizes of their terms."""
    n = x.shape[-1]
    bias = _wide(module, x.new_zeros(1, n), sizes=sizes)
    return _wide(module, torch.eye(n, dtype=x.dtype, device=x.device), sizes=sizes) - bias, bias[0]


def _wide(module: nn.Module, rows: Tensor, *, sizes: bool) -> Tensor:
    stand_ins = {id(p): p.detach().abs() for p in module.parameters()} if sizes else {}
    twin = Twin(module, stand_ins)
    with torch.no_grad(), Alike(torch.float64), Computing(torch.float64):
        if sizes:
            with _Sizes():
                found = twin(rows.double().abs())
        else:
            found = twin(rows.double())
    return tensors(found)[0]


_ADDING = {torch.ops.aten.sub.Tensor: torch.ops.aten.add.Tensor, torch.ops.aten.sub_.Tensor: torch.ops.aten.add_.Tensor}


class _Sizes(TorchDispatchMode):
    """Within it sums add sizes: differences become sums, and factors positive."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        if func is torch.ops.aten.neg.default:
            return args[0].clone()
        factors = func in (torch.ops.aten.mul.Tensor, torch.ops.aten.mul_.Tensor, torch.ops.aten.div.Tensor)
        if factors:
            args = mapped(args, torch.abs, lambda leaf: abs(leaf) if isinstance(leaf, int | float) else leaf)
        if kwargs and isinstance(kwargs.get("alpha"), int | float):
            kwargs = {**kwargs, "alpha": abs(kwargs["alpha"])}
        return _ADDING.get(func, func)(*args, **(kwargs or {}))
