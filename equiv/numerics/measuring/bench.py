"""One kernel at one size: puts chosen terms into its sums and returns its outputs.

A probe is one sum: at a few places (positions among the n terms) a factor and a weight, zeros elsewhere. It is put into
every row and every output at once, so that a part of the kernel that computes otherwise shows. Powers of two are split
over both factors, so that float16 reaches as far as its products do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from equiv.arguments import check_bool, check_dtype, check_integer, refusal
from equiv.dtypes import FLOATS
from equiv.errors import EquivError
from equiv.numerics.checks import check_layer_size
from equiv.text import quoted

Run = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""``run(x, weight, bias) -> y``: ``(rows, n)``, ``(O, n)``, ``(O,)`` or None -> ``(rows, O)``."""


class Bench:
    """One kernel at one size.

    Args:
        run: What is measured.
        dtype: A real floating dtype, of x, weight and bias.
        rows: At least 1.
        out_features: O, at least 1.
        in_features: n, at least 1.
        bias: Whether a bias is passed; it is zero where a probe has none, so that the kernel stays the same.
        device: Where tensors are put.
    """

    def __init__(
        self,
        run: Run,
        *,
        dtype: torch.dtype,
        rows: int,
        out_features: int,
        in_features: int,
        bias: bool,
        device: torch.device | str,
    ) -> None:
        if not callable(run):
            raise refusal("run", "a function run(x, weight, bias) -> y", run, "pass a kernel")
        self.run, self.device = run, torch.device(device)
        self.dtype = check_dtype("dtype", dtype, FLOATS, "a complex kernel computes in the dtype of its parts")
        advice = "nothing is computed below it"
        self.rows = check_integer("rows", rows, least=1, advice=advice)
        self.outputs = check_integer("out_features", out_features, least=1, advice=advice)
        self.n = check_integer("in_features", in_features, least=1, advice=advice)
        check_layer_size(self.rows, self.n, self.outputs)
        self.bias = check_bool("bias", bias, "it says whether one is passed")
        self.calls = 0
        self.output = self._call(torch.zeros(self.rows, self.n), torch.zeros(self.outputs, self.n), 0.0).dtype

    def rows_of(self, x: Tensor, weight: Tensor, bias: float = 0.0) -> Tensor:
        """The outputs ``(rows, O)`` for ``x`` ``(rows, n)`` and ``weight`` ``(O, n)``, in float64 on the CPU."""
        return self._call(x, weight, bias).double()

    def sums(
        self, terms: Mapping[int, tuple[float, float]], *, bias: float = 0.0, fill: tuple[float, float] = (0.0, 1.0)
    ) -> Tensor:
        """The same sum in every output: ``{place: (factor, weight)}``, ``fill`` elsewhere. ``(rows, O)`` float64."""
        x, w = torch.full((self.n,), fill[0], dtype=torch.float64), torch.full((self.n,), fill[1], dtype=torch.float64)
        for place, (factor, weight) in terms.items():
            x[place], w[place] = factor, weight
        return self.rows_of(x.expand(self.rows, -1), w.expand(self.outputs, -1), bias)

    def products(self, factors: Sequence[float], weights: Sequence[float], place: int) -> Tensor:
        """Every factor times every weight, one product alone in its sum, spread over rows and outputs.

        ``(len(factors), len(weights))`` float64; each product is seen in one output.
        """
        found = torch.empty(len(factors), len(weights), dtype=torch.float64)
        a, b = (torch.tensor(list(values), dtype=torch.float64) for values in (factors, weights))
        for top in range(0, len(a), self.rows):
            for left in range(0, len(b), self.outputs):
                here, there = a[top : top + self.rows], b[left : left + self.outputs]
                x = torch.zeros(self.rows, self.n, dtype=torch.float64)
                w = torch.zeros(self.outputs, self.n, dtype=torch.float64)
                # What is left over of the rows repeats the last one, so that every row has something to do.
                x[:, place] = torch.cat([here, here[-1:].expand(self.rows - len(here))])
                w[:, place] = torch.cat([there, there[-1:].expand(self.outputs - len(there))])
                y = self.rows_of(x, w)
                found[top : top + len(here), left : left + len(there)] = y[: len(here), : len(there)]
        return found

    def _call(self, x: Tensor, weight: Tensor, bias: float) -> Tensor:
        self.calls += 1
        b = torch.full((self.outputs,), bias, dtype=self.dtype, device=self.device) if self.bias else None
        given = [t.to(self.dtype).to(self.device).contiguous() for t in (x, weight)]
        try:
            y = self.run(given[0], given[1], b)
        except EquivError:
            raise
        except Exception as error:
            raise EquivError(
                f"run: expected to run on x {tuple(x.shape)}, weight {tuple(weight.shape)} and bias "
                f"{None if b is None else tuple(b.shape)} of {self.dtype}, got {type(error).__name__}: "
                f"{quoted(error)}; wrap the kernel so that it does"
            ) from error
        if not isinstance(y, Tensor):
            raise EquivError(f"run: expected a kernel that returns a tensor, got {type(y).__name__}; return one")
        y = y.detach()
        if tuple(y.shape) != (self.rows, self.outputs) or y.dtype not in FLOATS:
            raise EquivError(
                f"run: expected a result of shape {(self.rows, self.outputs)} in a real floating dtype, got "
                f"{tuple(y.shape)} of {y.dtype}; wrap the kernel so that it maps rows (N, n) to rows (N, O)"
            )
        return y.cpu()


def power(exponent: int) -> tuple[float, float]:
    """``2**exponent`` as two factors of about the same size.

    Example:
        >>> power(5), power(-3)
        ((8.0, 4.0), (0.5, 0.25))
    """
    half = exponent // 2
    return 2.0 ** (exponent - half), 2.0**half


def places(n: int, count: int = 5) -> list[int]:
    """Up to ``count`` places spread over ``n``, both ends among them.

    Example:
        >>> places(2), places(100)
        ([0, 1], [0, 1, 50, 98, 99])
    """
    if n <= count:
        return list(range(n))
    wanted = [0, n - 1, n // 2, 1, n - 2, 2, n - 3, 3, *(round(k * (n - 1) / (count - 1)) for k in range(count))]
    return sorted(list(dict.fromkeys(wanted))[:count])


def log2_of(value: float) -> int:
    """Exponent of a power of two, or of the one below ``value``."""
    return int(torch.frexp(torch.tensor(value, dtype=torch.float64)).exponent) - 1
