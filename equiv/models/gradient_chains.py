"""The gradient of the input of a chain of affine layers, against the one layer that it was folded into.

A folded parameter was rounded when it was computed, so the gradient differs by as much times the sizes of all terms:
the same gradient of the chain with the absolute values of its parameters.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from equiv.backends import Twin
from equiv.models.backward import Gradients, back
from equiv.models.sampling import verdict_of
from equiv.models.wide import Alike, Computing
from equiv.verdict import Outcome, Verdict

_OPERATIONS = 3  # that a folded parameter takes for each layer: a root, a quotient and a product, or a sum


def gradient_of_chain(
    chain: nn.Sequential, x: Tensor, incoming: Gradients, pair: tuple[Tensor, Tensor]
) -> Verdict | None:
    """The verdict on a candidate's and a reference's gradient of the input; None where the chain does not take it."""
    try:
        exact, size = (_through(chain, x, incoming, sizes=sizes) for sizes in (False, True))
    except Exception:  # it is the candidate's, whose layout is another
        return None
    kept = torch.finfo(x.dtype)
    u, wide = kept.eps / 2, torch.finfo(torch.float64 if x.dtype == torch.float64 else torch.float32).eps / 2
    weights = [p for p in chain.parameters() if p.ndim > 1]
    terms = sum(p.numel() // p.shape[1] + p.shape[1] for p in weights)
    slack = (terms * wide + _OPERATIONS * (len(weights) + 2) * u) * size + kept.tiny
    shares = [float(((g.double() - exact).abs() / slack).nan_to_num(torch.inf, torch.inf).max()) for g in pair]
    side = ("candidate", "reference")[shares.index(max(shares))]
    text = f"the {side}'s gradient of the input is off by {max(shares):.3g} times what the rounding of a fold explains"
    outcome = Outcome.ROUNDING if max(shares) <= 1 else Outcome.DIFFERENT
    return verdict_of(outcome, f"{text}.", pair[1], max_ratio=max(shares))


def _through(chain: nn.Sequential, x: Tensor, incoming: Gradients, *, sizes: bool) -> Tensor:
    """The gradient in float64; of ``sizes`` with absolute values throughout."""
    stand_ins = {id(p): p.detach().abs() for p in chain.parameters()} if sizes else {}
    with Alike(torch.float64), Computing(torch.float64):
        given = x.detach().double().requires_grad_()
        y = Twin(chain, stand_ins)(given)
        wide = [None if g is None else (g.abs() if sizes else g).double() for g in incoming]
        found = back([y], [given], wide)[0]
    return torch.zeros_like(given) if found is None else found
