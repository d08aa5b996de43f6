"""Values, planted mistakes and fixes, as the tests of causes share them."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from hypothesis import settings
from hypothesis import strategies as st

RUN = settings(derandomize=True, database=None, deadline=None, max_examples=40)
SHAPE = (3, 2, 4)
N, OUT, ROWS = 24, 5, 6
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
COMPLEX = (torch.complex64, torch.complex128)
INTS = (torch.uint8, torch.int8, torch.int32, torch.int64)
maps = st.tuples(st.integers(1, 4), st.lists(st.integers(1, 3), min_size=1, max_size=3)).map(lambda t: (t[0], *t[1]))


def values(shape, dtype=torch.float32, seed=0):
    g = torch.Generator().manual_seed(seed)
    if dtype in INTS:
        return torch.randint(0, 120, shape, generator=g, dtype=torch.int64).to(dtype)
    return torch.randn(shape, generator=g, dtype=torch.complex128 if dtype.is_complex else torch.float64).to(dtype)


def read_as_hwc(w, shape):
    return w.view(len(w), *shape[1:], shape[0]).movedim(-1, 1).reshape(len(w), -1)


def written_as_hwc(w, shape):
    return w.view(len(w), *shape).movedim(1, -1).reshape(len(w), -1)


def read_as_cwh(w, shape):
    return w.view(len(w), shape[0], shape[2], shape[1]).transpose(2, 3).reshape(len(w), -1)


def mended(cause, reference_weight=None, reference_bias=None, **wrong):
    """What the names of the fix stand for once it has run."""
    assert len(cause.fix.splitlines()) == 1, cause
    names = {name: None if value is None else value.clone() for name, value in wrong.items()}
    names |= {"torch": torch, "reference": SimpleNamespace(weight=reference_weight, bias=reference_bias)}
    exec(compile(cause.fix, "fix", "exec"), names)
    return SimpleNamespace(**names)
