"""Whether gradients of torch that are known to damage memory do so here: each is tried in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from functools import cache

import torch

_SECONDS = 60
_HIDDEN = ("PYTEST_", "COV_", "COVERAGE_")  # what would make a child a part of this test run

_PROGRAM = """
import sys
sys.path[:] = {path!r}
import torch
torch.set_num_threads(1)
torch._C._set_mkldnn_enabled({onednn})
dtype = torch.{dtype}
for times, shape, kernel, stride, last, padding in {calls!r}:
    memory = torch.channels_last if last else torch.contiguous_format
    x = torch.ones(shape, dtype=dtype).contiguous(memory_format=memory).requires_grad_()
    w = torch.ones(kernel, dtype=dtype, requires_grad=True)
    conv = (torch.conv1d, torch.conv2d, torch.conv3d)[len(shape) - 3]
    exact_x, exact_w = (t.detach().double().requires_grad_() for t in (x, w))
    y = conv(exact_x, exact_w, stride=stride, padding=padding)
    grad = torch.zeros_like(y)
    grad[0].flatten(1)[:, :64] = 1  # few, so that every sum is exact
    exact = torch.autograd.grad(y, (exact_x, exact_w), grad)
    for _ in range(times):
        y = conv(x, w, stride=stride, padding=padding)
        rubbish = [torch.full((size,), torch.nan, dtype=dtype) for size in (16, 64, 256, 1024, 4096)]
        del rubbish
        for t, right in zip((x, w), exact):
            rubbish = [torch.full_like(t, torch.nan, requires_grad=False) for _ in range(64)]
            del rubbish
            (found,) = torch.autograd.grad(y, t, grad.to(dtype), retain_graph=True)
            if not torch.equal(found.double(), right):
                raise SystemExit("wrong")
print("right")
"""

_CALLS = {
    "strided-weight-gradient-in-bfloat16": (
        (200, (2, 1, 1), (16, 1, 1), 2, False, 0),
        (20, (2, 1, 3), (1, 1, 1), 13, False, 0),
        (20, (1, 5, 1), (32, 5, 1), 5, False, 0),
        (20, (2, 1, 5, 1), (14, 1, 2, 1), (1, 3), False, 0),
    ),
    "strided-1x1-weight-gradient": (
        (40, (2, 4, 98, 98), (8, 4, 1, 1), 2, True, 0),
        (10, (2, 8, 56, 56), (128, 8, 1, 1), 2, True, 0),
        (10, (2, 15, 64, 64), (16, 15, 1, 1), 2, True, 0),
    ),
    "wide-strided-input-gradient": (
        (40, (1, 1, 511), (64, 1, 511), 2, False, 0),
        (40, (1, 1, 511), (256, 1, 511), 2, False, 0),
        (20, (4, 3, 509), (64, 3, 509), 2, False, 0),
    ),
    "strided-weight-gradient-in-padding": (
        (60, (17, 32, 1), (8, 32, 3), 2, False, 1),
        (60, (1, 16, 2, 2, 2), (8, 16, 3, 3, 3), 3, False, 1),
        (60, (1, 16, 5, 1, 3), (16, 16, 3, 3, 3), 2, False, 1),
    ),
}
"""Repetitions, shapes of input and kernel, stride, whether channels come last, padding: from the findings' pages."""


def damages(finding: str, dtype: torch.dtype) -> bool:
    """Whether a process with torch as it is set here dies or gets wrong gradients; it is asked once."""
    real = torch.float32 if dtype == torch.complex64 else dtype
    return _damages(finding, real, bool(torch._C._get_mkldnn_enabled()))


@cache
def _damages(finding: str, dtype: torch.dtype, onednn: bool) -> bool:
    return not child_is_right(
        _PROGRAM.format(
            path=sys.path,
            onednn=onednn,
            dtype=str(dtype).removeprefix("torch."),
            calls=_CALLS[finding],
        )
    )


_IN_PADDING = """
import sys
sys.path[:] = {path!r}
import torch
dtype = torch.{dtype}
for shape, kernel, stride, padding, dilation in {calls!r}:
    conv = (torch.conv1d, torch.conv2d, torch.conv3d)[len(shape) - 3]
    for _ in range(3):
        conv(torch.ones(shape, dtype=dtype), torch.ones(kernel, dtype=dtype), None, stride, padding, dilation)
print("right")
"""
_PADDED_DTYPES = {"dilated-width-of-one-in-padding": "float16", "taps-in-padding-alone-in-bfloat16": "bfloat16"}
_PADDED_CALLS = (
    ((1, 1, 6, 1, 6), (4, 1, 2, 2, 2), 1, 2, 3),
    ((17, 1, 1, 8), (1, 1, 2, 2), (2, 1), (2, 0), (3, 2)),
    ((1, 8, 2, 1), (4, 8, 1, 1), (1, 2), (3, 1), (1, 3)),
    ((1, 16, 1), (1, 16, 1), 2, 3, 2),
)


@cache
def ends_in_padding(finding: str) -> bool:
    """Whether a process ends by convolutions whose windows hold nothing but padding; it is asked once."""
    return not child_is_right(_IN_PADDING.format(path=sys.path, dtype=_PADDED_DTYPES[finding], calls=_PADDED_CALLS))


def child_is_right(program: str) -> bool:
    """Whether a program ends well and prints that it is right; not where it dies, hangs or cannot be started."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_HIDDEN)}
    environment["OMP_NUM_THREADS"] = "1"  # one thread shows the damage, too, and does not compete with others
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        try:
            done = subprocess.run(
                [sys.executable, "-c", program],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_SECONDS,
                check=False,
                env=environment,
                cwd=folder,
            )
        except (OSError, subprocess.SubprocessError):
            return False
    return done.returncode == 0 and done.stdout.split() == ["right"]
