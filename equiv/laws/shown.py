"""Small calls of fixed values in which torch's known defects show, where that does no damage.

Each ``shows_`` function takes a dtype and says whether the defect is seen on this machine, with torch as it is set now.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

CONVS: dict[int, Callable[..., Tensor]] = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


def fixed(t: Tensor) -> Tensor:
    """Values of -1, 0 and 1 that are always the same, in the dtype and the strides of ``t``."""
    values = torch.randint(-1, 2, (t.untyped_storage().nbytes() // t.element_size(),), generator=torch.Generator())
    return values.to(t.dtype).as_strided(t.shape, t.stride(), t.storage_offset())


def is_wrong(function: Callable[..., Tensor], *tensors: Tensor) -> bool:
    """Whether a function is wrong on small integers in the shapes, strides and dtype of these tensors."""
    given = [fixed(t) for t in tensors]
    exact = function(*(t.double() for t in given))
    return not torch.equal(function(*given), exact.to(given[0].dtype))


def shows_one_channel(dtype: torch.dtype) -> bool:
    """One channel in channels-last strides."""
    x = torch.arange(2 * 40 * 17).remainder(7).to(dtype).as_strided((2, 1, 40, 17), (40 * 17, 1, 17, 1))
    y = functional.conv2d(x, torch.ones(1, 1, 1, 16, dtype=dtype), stride=(1, 3))
    return not torch.equal(y, x[..., :16].sum(3, keepdim=True))


def shows_tall_kernel(dtype: torch.dtype) -> bool:
    """The input gradient of a kernel of 512 x 1."""
    x = torch.zeros(512, dtype=dtype).as_strided((1, 1, 512, 1), (512, 1, 1, 1)).requires_grad_()
    y = functional.conv2d(x, torch.ones(92, 1, 512, 1, dtype=dtype))
    return _is_left_as_it_was(y, x, torch.full((1, 1, 512, 1), 92.0))


def _is_left_as_it_was(y: Tensor, x: Tensor, exact: Tensor) -> bool:
    """Whether the gradient of ``y.sum()`` is not ``exact``, in memory that held NaN before."""
    for _ in range(8):
        freed = [torch.full_like(x, torch.nan, requires_grad=False) for _ in range(256)]
        del freed
        (found,) = torch.autograd.grad(y, x, torch.ones_like(y), retain_graph=True)
        if not torch.equal(found.to(exact.dtype), exact):
            return True
    return False


def shows_slow_kernel(dtype: torch.dtype) -> bool:
    """The first input gradient of a kernel of 127 x 1 and 106 outputs takes far longer than the second."""
    x = torch.zeros(1, 1, 127, 1, dtype=dtype, requires_grad=True)
    y = functional.conv2d(x, torch.zeros(106, 1, 127, 1, dtype=dtype)).sum()
    seconds = []
    for _ in range(2):
        start = time.thread_time()
        torch.autograd.grad(y, x, retain_graph=True)
        seconds.append(time.thread_time() - start)
    return seconds[0] > max(0.1, 20 * seconds[1])


def shows_one_map(dtype: torch.dtype) -> bool:
    """The weight gradient of one map of 32 x 16."""
    x = torch.arange(32 * 16).remainder(7).to(dtype).view(1, 1, 32, 16)
    kernel = torch.zeros(1, 1, 32, 16, dtype=dtype, requires_grad=True)
    (found,) = torch.autograd.grad(functional.conv2d(x, kernel).real.sum(), kernel)
    return not torch.equal(found, x)


def shows_whole_width(dtype: torch.dtype) -> bool:
    """A stride as wide as kernel and map, channels last."""
    x = torch.arange(64.0).view(1, 8, 1, 8).to(dtype)
    kernel = torch.zeros(1, 8, 1, 8, dtype=dtype).contiguous(memory_format=torch.channels_last)
    kernel[0, 0, 0, 1] = 1
    return functional.conv2d(x, kernel, stride=8).item() != 1


def shows_strided_to_one_column(dtype: torch.dtype) -> bool:
    """Strided windows of one column."""
    x, kernel = torch.zeros(1, 2, 9, 6, dtype=dtype), torch.zeros(2, 2, 3, 4, dtype=dtype)
    return is_wrong(lambda x, kernel: functional.conv2d(x, kernel, stride=(1, 3)), x, kernel)


def shows_padded_depth_of_one(dtype: torch.dtype) -> bool:
    """A map of depth 1 in padding."""
    x, kernel = torch.ones(1, 1, 1, 2, 3, dtype=dtype), torch.ones(1, 1, 3, 3, 3, dtype=dtype)
    exact = functional.conv3d(x.double(), kernel.double(), padding=1)
    return not torch.equal(functional.conv3d(x, kernel, padding=1), exact.to(dtype))


def shows_folded_columns(dtype: torch.dtype) -> bool:
    """A kernel of 8 columns over 8 channels."""
    return is_wrong(functional.conv1d, torch.zeros(1, 8, 12, dtype=dtype), torch.zeros(1, 8, 8, dtype=dtype))


def shows_uncovered_depth(dtype: torch.dtype) -> bool:
    """The input gradient of a slice that no window holds."""
    kernel, exact = torch.ones(1, 1, 2, 1, 17, dtype=dtype), torch.tensor([1.0, 1.0, 0.0]).view(1, 1, 3, 1, 1)
    for samples in (1, 4, 32):  # which sizes come back from memory that was used depends on what was freed before
        x = torch.zeros(samples, 1, 3, 1, 17, dtype=dtype, requires_grad=True)
        y = functional.conv3d(x, kernel, stride=(2, 1, 1))
        if _is_left_as_it_was(y, x, exact.expand(x.shape)):
            return True
    return False


def shows_nnpack(dtype: torch.dtype) -> bool:
    """A convolution of integers that NNPACK rounds."""
    generator = torch.Generator().manual_seed(0)
    x, kernel = (torch.randint(-9, 10, (n, 4, 1, 10), generator=generator).to(dtype) for n in (40, 8))
    exact = functional.conv2d(x.to(torch.complex128), kernel.to(torch.complex128))
    return not torch.equal(functional.conv2d(x, kernel), exact.to(dtype) if dtype.is_complex else exact.real.to(dtype))


@cache
def refuses(text: str) -> bool:
    """Whether torch refuses the backward pass of a call that it should serve, in these words."""
    x = torch.zeros(4, dtype=torch.float64).as_strided((1, 2, 2, 1), (4, 1, 2, 2)).requires_grad_()
    kernel = torch.zeros(4, dtype=torch.float64).as_strided((1, 2, 2, 1), (2, 1, 2, 1)).requires_grad_()
    try:
        torch.autograd.grad(functional.conv2d(x, kernel).sum(), kernel)
    except RuntimeError as error:
        return text in str(error)
    return False
