"""How people decide that two results are the same: the rules that `power.py` sets against the laws, with their sources.

Every rule is given a candidate and a reference of one shape and answers whether its users would see red. Nothing of
`equiv` is used here.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def assert_close(candidate: Tensor, reference: Tensor) -> bool:
    """``torch.testing.assert_close`` with its defaults: rtol 1.3e-6 and atol 1e-5 in float32.

    https://docs.pytorch.org/docs/stable/testing.html
    """
    return _raises(candidate, reference)


def onnxsim(candidate: Tensor, reference: Tensor) -> bool:
    """``np.allclose`` with rtol 1e-4, atol 1e-5.

    https://github.com/daquexian/onnx-simplifier, onnxsim/model_checking.py
    """
    return not _allclose(candidate, reference, rtol=1e-4, atol=1e-5, equal_nan=False)


def nnsmith(candidate: Tensor, reference: Tensor) -> bool:
    """``np.testing.assert_allclose`` with rtol 1e-2, atol 1e-3, NaN equal to NaN.

    https://github.com/ise-uiuc/nnsmith, nnsmith/difftest.py and nnsmith/config/main.yaml
    """
    return not _allclose(candidate, reference, rtol=1e-2, atol=1e-3, equal_nan=True)


def psnr(candidate: Tensor, reference: Tensor) -> bool:
    """``20 log10((max|candidate| + 1e-5) / (rms(difference) + 1e-10)) > 60``, in decibels; a NaN compares as red.

    https://github.com/apple/ml-ane-transformers, ane_transformers/huggingface/test_distilbert.py
    """
    if candidate.shape != reference.shape or not reference.numel():
        return candidate.shape != reference.shape
    wide = torch.complex128 if reference.dtype.is_complex else torch.float64
    y, x = candidate.detach().to(wide), reference.detach().to(wide)
    peak, rms = float(y.abs().max()), float((x - y).abs().square().mean().sqrt())
    if not (math.isfinite(peak) and math.isfinite(rms)):
        return True
    return not 20 * math.log10((peak + 1e-5) / (rms + 1e-10)) > 60


def cosine(candidate: Tensor, reference: Tensor) -> bool:
    """Cosine of the angle between the flattened results, in float32, above 0.99; all but zero results by allclose.

    https://github.com/pytorch/TensorRT, py/torch_tensorrt/dynamo/utils.py, COSINE_THRESHOLD
    """
    if candidate.shape != reference.shape:
        return True
    y, x = (_real(t).flatten().to(torch.float32) for t in (candidate, reference))
    nothing = float(x.sum()) == 0.0 or float(y.sum()) == 0.0
    if nothing and torch.allclose(x, y, rtol=1e-4, atol=1e-4, equal_nan=True):
        return False
    return not float(torch.nn.functional.cosine_similarity(x, y, dim=0, eps=1e-6)) > 0.99


def widened(candidate: Tensor, reference: Tensor) -> bool:
    """``assert_close`` with rtol = atol = 1e-3, as in a property test of 200 examples that one writes by hand.

    1e-2 in float16 and 5e-2 in bfloat16, where 1e-3 is below one rounding of the result.
    """
    if not (reference.dtype.is_floating_point or reference.dtype.is_complex):
        return _raises(candidate, reference)
    wide = {torch.float16: 1e-2, torch.bfloat16: 5e-2}.get(reference.dtype, 1e-3)
    return _raises(candidate, reference, rtol=wide, atol=wide)


def _raises(candidate: Tensor, reference: Tensor, rtol: float | None = None, atol: float | None = None) -> bool:
    try:
        torch.testing.assert_close(candidate.detach(), reference.detach(), rtol=rtol, atol=atol)
    except AssertionError:
        return True
    return False


def _allclose(candidate: Tensor, reference: Tensor, *, rtol: float, atol: float, equal_nan: bool) -> bool:
    """As NumPy's, ``|a - b| <= atol + rtol |b|``, evaluated in float64; NumPy has no bfloat16."""
    if candidate.shape != reference.shape:
        return False
    wide = torch.complex128 if reference.dtype.is_complex else torch.float64
    return torch.allclose(
        candidate.detach().to(wide), reference.detach().to(wide), rtol=rtol, atol=atol, equal_nan=equal_nan
    )


def _real(t: Tensor) -> Tensor:
    t = t.detach().resolve_conj().resolve_neg()
    return torch.view_as_real(t) if t.is_complex() else t


ORACLES = {
    "assert_close": assert_close,
    "onnxsim": onnxsim,
    "NNSmith": nnsmith,
    "PSNR > 60": psnr,
    "cosine > 0.99": cosine,
    "widened": widened,
}
"""``(candidate, reference) -> whether it is red``, by name, in the order of the table's columns."""
