"""Linear and convolution in NumPy. Results carry no gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from equiv.backends import Capabilities
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor

from tinykernels.defects import has

Array = np.ndarray[Any, Any]


class NumpyLayers:
    """A backend of torch-equiv."""

    name = "numpy"
    device = torch.device("cpu")
    capabilities = Capabilities(
        dtypes=("float32", "float64", "int32"), spatial_ranks=(1, 2), gradient_order=0, transforms=False
    )

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """``(*batch, n)``, ``(O, n)``, ``(O,)`` -> ``(*batch, O)``."""
        x, w = input.detach().numpy(), weight.detach().numpy()
        n = w.shape[1]
        if has("numpy-tail") and n > 8:
            n -= n % 4  # a loop over blocks of four that forgets the rest
        with np.errstate(invalid="ignore", over="ignore"):  # infinities are as good as other numbers
            y = x[..., :n] @ w[:, :n].T
            if bias is not None:
                y = y + bias.detach().numpy()
                if has("numpy-bias") and x.ndim > 2:
                    y = y + bias.detach().numpy()  # once for each leading dimension
        return torch.from_numpy(np.ascontiguousarray(y))

    def conv(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        stride: int | Sequence[int] = 1,
        dilation: int | Sequence[int] = 1,
    ) -> Tensor:
        """``(N, C, *spatial)`` or ``(C, *spatial)``, ``(O, C, *kernel)`` -> ``(N, O, *out)``."""
        dims = weight.ndim - 2
        x, w = input.detach().numpy(), weight.detach().numpy()
        steps, gaps = _each(stride, dims), _each(dilation, dims)
        spans = tuple((size - 1) * gap + 1 for size, gap in zip(w.shape[2:], gaps, strict=True))
        axes = tuple(range(-dims, 0))
        windows = sliding_window_view(x, spans, axis=axes)
        lead = (slice(None),) * (x.ndim - dims)
        windows = windows[(*lead, *(slice(None, None, s) for s in steps), *(slice(None, None, g) for g in gaps))]
        # (..., C, *out, *kernel) -> (..., *out, C * kernel)
        windows = np.moveaxis(windows, x.ndim - dims - 1, x.ndim - 1)
        places = windows.shape[: x.ndim - 1]
        rows = windows.reshape(*places, math.prod(windows.shape[x.ndim - 1 :]))
        with np.errstate(invalid="ignore", over="ignore"):
            y = rows @ w.reshape(len(w), -1).T
            if bias is not None:
                y = y + bias.detach().numpy()
        return torch.from_numpy(np.ascontiguousarray(np.moveaxis(y, -1, x.ndim - dims - 1)))


def _each(value: int | Sequence[int], dims: int) -> tuple[int, ...]:
    return (value,) * dims if isinstance(value, int) else tuple(value)
