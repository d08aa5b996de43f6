"""What a Winograd convolution computes in: fewer products, larger errors.

A tile of ``m`` outputs of a kernel of ``r`` entries is ``A^T ((G g) * (B^T d))`` (A. Lavin and S. Gray, "Fast
algorithms for convolutional neural networks", CVPR 2016, whose matrices these are). Every rounding on the way is
multiplied by what follows, so that the error is at most the number of steps times ``u`` times
``|A^T| (|G||g| * |B^T||d|)`` (B. Barabasz, A. Anderson, K. M. Soodhalter and D. Gregg, "Error analysis and improving
the accuracy of Winograd convolution for deep neural networks", ACM Trans. Math. Softw. 46(4), 2020). Where all inputs
and all weights of a tile have one size this is a multiple of ``S``, the largest row of ``|A^T| (|G|1 * |B^T|1) / r``,
and its square in two dimensions.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch

from equiv.arguments import check_choice
from equiv.dtypes import dtype_name
from equiv.numerics.arithmetic import Arithmetic, declared

Matrix = tuple[tuple[float, ...], ...]


class _Tile(NamedTuple):
    """The matrices for a kernel of 3 entries, and the roundings of all transforms along both axes together."""

    output: Matrix
    kernel: Matrix
    input: Matrix
    steps: int

    @property
    def growth(self) -> float:
        """How much larger the sizes on the way are than those of the terms, along one axis."""
        sizes = [sum(map(abs, g)) * sum(map(abs, b)) for g, b in zip(self.kernel, self.input, strict=True)]
        rows = (sum(abs(a) * size for a, size in zip(row, sizes, strict=True)) for row in self.output)
        return max(rows) / len(self.kernel[0])


TILES = {
    2: _Tile(
        ((1, 1, 1, 0), (0, 1, -1, -1)),
        ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1)),
        ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
        2 * (2 + 3 + 1),
    ),
    4: _Tile(
        ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1)),
        (
            *((1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6)),
            *((1 / 24, 1 / 12, 1 / 6), (1 / 24, -1 / 12, 1 / 6), (0, 0, 1)),
        ),
        (
            *((4, 0, -5, 0, 1, 0), (0, -4, -4, 1, 1, 0), (0, 4, -4, -1, 1, 0)),
            *((0, -2, -1, 2, 1, 0), (0, 2, -1, -2, 1, 0), (0, 4, 0, -5, 0, 1)),
        ),
        2 * (4 + 5 + 4),
    ),
}
"""Output, kernel and input transform, by how many outputs a tile has along an axis."""


def winograd(dtype: torch.dtype, tile: int = 2, device: torch.device | str = "cpu") -> Arithmetic:
    """The arithmetic of Winograd's F(tile x tile, 3x3), for ``arithmetic=`` of :func:`equiv.compare`.

    It holds for inputs and weights that are of one size within a tile, as activations and noise are about: for
    :func:`equiv.compare` on such results. A window of small values beside large ones has the error of the large ones,
    and may lie outside, so :func:`equiv.assert_equivalent` asks such kernels on inputs of one size alone, and
    :func:`equiv.certify`, which reads each weight, refuses them.

    Args:
        dtype: Floating dtype of input, weight and result; transforms are computed in its accumulator.
        tile: 2 or 4 outputs along an axis.
        device: Where the kernel runs.

    Example:
        >>> winograd(torch.float32).factor > 7, winograd(torch.float32, 4).factor > 250
        (True, True)
    """
    check_choice("tile", tile, tuple(TILES), "these are the sizes that libraries use for 3x3 kernels")
    base, found = declared(dtype, device), TILES[tile]
    return replace(
        base,
        name=f"{dtype_name(dtype)} on {torch.device(device).type}, Winograd F({tile}x{tile}, 3x3)",
        factor=base.factor * found.growth**2,
        extra_terms=base.extra_terms + found.steps,
        measured=False,
        mixes=True,
        note=f"Winograd's F({tile}x{tile}, 3x3) is allowed for: {found.growth**2:.3g} times the error of a plain sum.",
    )
