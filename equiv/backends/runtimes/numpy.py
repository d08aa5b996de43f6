"""NumPy: a matrix product for a layer, windows of the map and ``tensordot`` for a convolution."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from equiv.backends.capabilities import Capabilities
from equiv.backends.runtimes.arrays import ArrayRuntime, Layer, Program


class NumPy(ArrayRuntime):
    """NumPy's matmul, and convolutions as windows of the padded map times the kernel.

    Example:
        >>> import torch
        >>> NumPy().linear(torch.ones(1, 2), torch.ones(3, 2)).tolist()
        [[2.0, 2.0, 2.0]]
    """

    title = "numpy"
    needs: ClassVar[Mapping[str, str]] = {"numpy": "numpy"}
    extra = "numpy"
    capabilities = Capabilities(gradient_order=0, forward_mode=False)

    def __init__(self) -> None:
        super().__init__()

    def build(self, layer: Layer, constants: tuple[Any, ...]) -> Program:  # noqa: ARG002 - it holds none
        """A function of arrays."""
        import numpy as np

        quiet = np.errstate(all="ignore")  # overflow and NaN are among the values that are asked for
        if not layer.dims:
            return quiet(lambda x, weight, bias=None: _plus(x @ weight.T, bias))
        pads = [(0, 0), (0, 0), *((pad, pad) for pad in layer.padding)]
        spatial, groups = tuple(range(2, 2 + layer.dims)), layer.groups
        reach = tuple(step * (k - 1) + 1 for k, step in zip(layer.weight[2:], layer.dilation, strict=True))
        every = (slice(None), slice(None))
        positions: Any = (*every, *(slice(None, None, step) for step in layer.stride))
        taps: Any = (..., *(slice(None, None, step) for step in layer.dilation))

        def conv(x: Any, weight: Any, bias: Any = None) -> Any:
            windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, pads), reach, axis=spatial)
            parts = np.split(windows[positions][taps], groups, axis=1)
            kernels = np.split(weight, groups)
            axes = ((1, *range(2 + layer.dims, 2 + 2 * layer.dims)), tuple(range(1, 2 + layer.dims)))
            sums = [np.tensordot(part, kernel, axes) for part, kernel in zip(parts, kernels, strict=True)]
            return np.moveaxis(_plus(np.concatenate(sums, axis=-1), bias), -1, 1)

        return quiet(conv)


def _plus(y: Any, bias: Any) -> Any:
    return y if bias is None else y + bias
