"""Two mistakes at once, as results show them: one of the weight or the arithmetic, the other of the bias.

Letters as in ``equiv.causes.hypotheses``. The bias goes where every output loses its mean over the batch, and so do the
inputs: what is left are the products of the weight alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from equiv.causes.hypotheses import Outputs, closest, output_causes, weight_causes
from equiv.causes.mistakes import AGAIN, Cause, cause_of

_ROWS = 4  # below, a mean takes too much with it
_NEAR = 0.25  # of what a wrong bias makes of the results
_WITHOUT_PROFILES = 2**16  # weights above which formats are not tried once more

Layer = tuple[Tensor, Tensor, Tensor | None]


def beside_another_bias(
    actual: Tensor, expected: Tensor, layer: Layer, bound: Tensor | float, shape: tuple[int, ...]
) -> Cause | None:
    """A mistake of the weight beside one of the bias; None if no such two explain every output.

    Args:
        actual: ``(N, O)``, real and floating.
        expected: The exact results.
        layer: Inputs ``(N, n)``, weight ``(O, n)`` and bias ``(O,)`` or None.
        bound: How far right results may lie from the exact ones.
        shape: ``(C, *spatial)`` with product n.
    """
    x, weight, bias = layer
    if (
        len(x) < _ROWS
        or not actual.is_floating_point()
        or not bool(actual.isfinite().all() & expected.isfinite().all())
    ):
        return None
    y, e, wide = actual.double(), expected.double(), x.double()
    b = torch.zeros(len(weight), dtype=torch.float64) if bias is None else bias.double()
    centred = [t - t.mean(0) for t in (y, e, wide)]
    limit = 2 * torch.as_tensor(bound, dtype=torch.float64).expand(y.shape).amax(0).expand(y.shape)
    about = Outputs(centred[0], centred[1], (centred[2], weight.double(), None), limit)
    alone = closest(about, weight_causes(about, shape))
    off = (y - e).median(0).values
    for name, other in (("bias-dropped", 0 * b), ("bias-doubled", 2 * b), ("bias-negated", -b)):
        wrong = other - b
        likely = weight.numel() <= _WITHOUT_PROFILES and float((off - wrong).norm()) < _NEAR * float(wrong.norm())
        if bool(wrong.any()) and (alone is not None or likely):
            again = Outputs(actual, e + wrong, (x, weight, other.to(weight.dtype)), bound)
            causes = output_causes(again, shape) if likely else weight_causes(again, shape)
            found = closest(again, causes)
            if found is not None and not found.name.startswith(("bias", "batch", "output")):
                return found.beside(cause_of(name)).mended_by(AGAIN)
    return None if alone is None else alone.beside(cause_of("bias-unknown", as_well=" as well")).mended_by(AGAIN)
