"""The 1x1 convolution that is closest to a layer over a flattened map, and how far away it is.

Letters: W (out, n) is the layer's weight, its columns the map (C, *spatial) flattened C-major, with HW = prod(spatial)
positions p, q; K (O, C) is the weight of a 1x1 convolution, T(K) the dense matrix of that convolution and the readout
that follows it, R = W - T(K). Source of the formulas: for an orthogonal projection onto a pattern of equal entries the
closest value in Frobenius norm is their mean; the worst inputs are R's first right singular vector (2-norm) and the
signs of its row with the largest 1-norm (max-norm). What the tensors mean, `equiv.structure.search` says.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from equiv.dtypes import dtype_name, is_inexact
from equiv.errors import EquivError

Readout = Literal["positions", "sum", "mean"]

_BLOCK = 2**20  # entries of W held in float64 at a time
_SVD_ENTRIES, _SVD_SIDE = 2**16, 256  # up to here the SVD of R is computed; above, Krylov steps


_WINDOW = 64  # rows and columns that a picture shows


class Window(NamedTuple):
    """The part of both dense matrices from ``row`` and ``column`` on, at most 64 x 64: W and T(K) as stored."""

    row: int
    column: int
    layer: Tensor
    conv: Tensor


class FlattenedLayer:
    """W, b and the closest K, with R = W - T(K) in blocks of rows. On the CPU; W is not copied.

    Differences are taken from position 0 before they are averaged, so that R is as accurate for entries that differ
    by one ulp as for any others. Real and complex values are scaled by a power of two where squares could overflow.
    """

    def __init__(self, linear: nn.Linear, shape: tuple[int, ...], readout: Readout) -> None:
        self.shape, self.readout = shape, readout
        self.c, self.hw = shape[0], math.prod(shape[1:])
        self.w = _on_cpu(linear.weight)
        self.b = None if linear.bias is None else _on_cpu(linear.bias)
        self.out, self.n = self.w.shape
        self.o = self.out // self.hw if readout == "positions" else self.out
        self.dtype = self.w.dtype
        self.integer = not is_inexact(self.dtype)
        self.wide = torch.complex128 if self.dtype.is_complex else torch.float64
        largest = 0.0 if self.integer else self._largest()
        exponent = math.frexp(largest)[1]
        self.scale = 1.0 if abs(exponent) < 400 else math.ldexp(1.0, max(-1000, min(1000, -exponent)))
        self._fit_weight()
        self._fit_bias()

    def _largest(self) -> float:
        parts = [self.w] if self.b is None else [self.w, self.b[:, None]]
        parts = [torch.view_as_real(part).flatten(1) for part in parts] if self.dtype.is_complex else parts
        return max(float(part[r].abs().max()) for part in parts for r in row_blocks(*part.shape))

    def _fit_weight(self) -> None:
        """Set first, drift (O, C) and k (O, C): the entry at position 0, the mean deviation from it, the weight."""
        tied = (
            torch.diagonal(self.w.view(self.o, self.hw, self.c, self.hw), dim1=1, dim2=3)
            if self.readout == "positions"
            else self.w.view(self.o, self.c, self.hw)
        )  # (O, C, HW), the entries that a 1x1 convolution makes equal
        self.first, self.drift, self.constant, k = self._averaged(tied)
        if self.readout == "mean":
            k = self._stored((self.first.to(self.wide) * self.scale + self.drift) * self.hw / self.scale)
            if not bool(torch.isfinite(k).all()):
                raise EquivError(
                    f"readout: expected 'sum' for these weights, got 'mean': the convolution's weight would be "
                    f"{self.hw} times the layer's, beyond the range of {dtype_name(self.dtype)}; pass 'sum'"
                )
        self.k = k

    def _averaged(self, tied: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of each row of (O, m, HW): the first entry, the mean deviation from it, if all are equal, and the mean."""
        first = tied[:, :, 0].contiguous()
        pairs = [(tied[rows], first[rows, :, None]) for rows in row_blocks(self.o, tied[0].numel())]
        constant = torch.cat([(entries == one).all(-1) for entries, one in pairs])
        drift = torch.cat([self.difference(entries, one).mean(-1) for entries, one in pairs])
        drift[constant] = 0
        return first, drift, constant, torch.where(constant, first, self._best(first, drift))

    def _fit_bias(self) -> None:
        """Set kb (O,) the convolution's bias, and reach (out,) what it adds to each of the layer's outputs."""
        self.kb = self.reach = None
        self.bias_distance = 0.0
        if self.b is None:
            return
        if self.readout == "positions":
            tied = self.b.view(self.o, 1, self.hw)
            first, drift, _, mean = self._averaged(tied)
            self.kb = mean[:, 0]
            self.reach = self.kb.repeat_interleave(self.hw)
            self.bias_distance = _norm(self.difference(tied, first[..., None]) - drift[..., None]) / self.scale
        elif self.readout == "sum" and self.integer:
            wide = self.b.to(torch.int64)
            part = wide.div(self.hw, rounding_mode="floor")
            part += (wide - part * self.hw > self.hw // 2).to(torch.int64)
            self.kb = part.to(self.dtype)
            self.reach = (part * self.hw).to(self.dtype)
            self.bias_distance = _norm((wide - part * self.hw).to(torch.float64))
        else:
            self.kb = self.b.clone() if self.readout == "mean" else self._stored(self.b.to(self.wide) / self.hw)
            self.reach = self.b

    def _stored(self, values: Tensor) -> Tensor:
        """Round once to the layer's dtype."""
        if self.integer:
            return values.round().clamp(-(2.0**63), 2.0**63 - 1024).to(torch.int64).to(self.dtype)
        return values.to(self.dtype)

    def _best(self, first: Tensor, drift: Tensor) -> Tensor:
        """First + drift / scale in the layer's dtype; small steps of integers do not pass through float64."""
        best = self._stored(first.to(self.wide) + drift / self.scale)
        if not self.integer:
            return best
        return torch.where(drift.abs() < 2.0**62, first + self._stored(drift), best)

    def difference(self, a: Tensor, b: Tensor) -> Tensor:
        """(a - b) * scale in float64 or complex128; integers subtract exactly before they are converted."""
        if not self.integer:
            return a.to(self.wide) * self.scale - b.to(self.wide) * self.scale
        coarse = a.to(torch.float64) - b.to(torch.float64)
        fine = (a.to(torch.int64) - b.to(torch.int64)).to(torch.float64)
        return torch.where(coarse.abs() < 2.0**62, fine, coarse)  # beyond, int64 subtraction wraps

    def residual(self) -> Iterator[tuple[slice, Tensor]]:
        """Blocks of rows of scale * R, for the best real K: (rows, values (rows, n))."""
        for rows in row_blocks(self.out, self.n):
            own = self.w[rows].view(-1, self.c, self.hw)
            if self.readout == "positions":
                r = own.to(self.wide) * self.scale
                o, p, i = self._places(rows)
                r[i, :, p] = self.difference(own[i, :, p], self.first[o]) - self.drift[o]
            else:
                r = self.difference(own, self.first[rows, :, None]) - self.drift[rows, :, None]
            yield rows, r.reshape(-1, self.n)

    def _places(self, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Output channel and position of each of some rows, and its number among them."""
        at = torch.arange(rows.start, rows.stop)
        return at // self.hw, at % self.hw, at - rows.start

    def conv_rows(self, rows: slice) -> Tensor:
        """Rows of T(K) for the K that is stored: the layer's dtype, or for "mean" K / HW in float64, (rows, n)."""
        if self.readout == "positions":
            o, p, i = self._places(rows)
            t = torch.zeros(len(i), self.c, self.hw, dtype=self.dtype)
            t[i, :, p] = self.k[o]
            return t.reshape(-1, self.n)
        k = self.k[rows]
        if self.readout == "mean" and k.is_complex():  # part by part: complex division rounds otherwise
            k = torch.view_as_complex(torch.view_as_real(k).double() / self.hw)
        elif self.readout == "mean":
            k = k.double() / self.hw
        return k.repeat_interleave(self.hw, dim=1)

    def _differs(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Where W and T(K) differ as stored, exactly, and by how much: two (rows, n)."""
        t = self.conv_rows(rows)
        w = self.w[rows].to(t.dtype)
        mask = w != t
        if self.readout == "mean":  # where nothing changes over positions, HW * K is only rounded
            mask &= ~self.constant[rows].repeat_interleave(self.hw, dim=1)
        size = self.difference(w, t).abs()
        return mask, torch.where(mask, size, torch.zeros_like(size))

    def first_difference(self) -> tuple[int, int] | None:
        """(row, column) of the first difference, by column then row, that is at least half as large as the largest."""
        blocks = row_blocks(self.out, self.n)
        seen = [(bool(mask.any()), float(size.max())) for mask, size in map(self._differs, blocks)]
        if not any(wrong for wrong, _ in seen):
            return None
        largest = max(size for _, size in seen)
        best = (self.n, self.out)
        for rows in blocks:
            mask, size = self._differs(rows)
            hit = (mask & (2 * size >= largest)).T.nonzero()  # sorted by column, then row
            if len(hit):
                column, row = hit[0].tolist()
                best = min(best, (column, row + rows.start))
        return best[1], best[0]

    def output_index(self, row: int) -> tuple[int, ...]:
        """Where a row of W stands in what the readout returns."""
        return (row // self.hw, *self.position(row % self.hw)) if self.readout == "positions" else (row,)

    def window(self, row: int, column: int) -> Window:
        """What lies around an entry."""
        top, left = (max(0, min(at - _WINDOW // 2, size - _WINDOW)) for at, size in ((row, self.out), (column, self.n)))
        rows = torch.arange(top, min(self.out, top + _WINDOW))[:, None]
        columns = torch.arange(left, min(self.n, left + _WINDOW))
        if self.readout == "positions":
            zero = torch.zeros((), dtype=self.dtype)
            same = rows % self.hw == columns % self.hw
            conv = torch.where(same, self.k[rows // self.hw, columns // self.hw], zero)
        else:
            conv = self.k[rows, columns // self.hw]
        return Window(top, left, self.w[rows, columns], conv / self.hw if self.readout == "mean" else conv)

    def position(self, p: int) -> tuple[int, ...]:
        """The position with the number p."""
        return tuple(int(i) for i in torch.unravel_index(torch.tensor(p), self.shape[1:]))


def distances(layer: FlattenedLayer) -> dict[str, Any]:
    """Norms of R in the units of W, and the inputs on which it is largest."""
    square = whole = 0.0
    gain, row = 0.0, torch.zeros(layer.n, dtype=layer.wide)
    for rows, r in layer.residual():
        square += float(r.abs().square().sum())
        whole += float((layer.w[rows].to(layer.wide) * layer.scale).abs().square().sum())
        sums = r.abs().sum(1)
        if float(sums.max()) > gain:
            gain, row = float(sums.max()), r[int(sums.argmax())].clone()
    exact = layer.out * layer.n <= _SVD_ENTRIES and min(layer.out, layer.n) <= _SVD_SIDE
    distance = math.sqrt(square)
    gap, v = _largest_gain(layer, exact=exact) if distance else (0.0, None)
    return {
        "distance": distance / layer.scale,
        "relative_distance": distance / math.sqrt(whole) if whole else 0.0,
        "bias_distance": layer.bias_distance,
        "gap": gap / layer.scale,
        "gap_is_exact": exact,
        "worst_input_2": None if v is None else v.view(layer.shape),
        "gap_inf": gain / layer.scale,
        "worst_input_inf": torch.sgn(row).conj().resolve_conj().view(layer.shape) if distance else None,
    }


def _largest_gain(layer: FlattenedLayer, *, exact: bool) -> tuple[float, Tensor]:
    """Largest singular value of scale * R with its right singular vector; by Krylov steps a lower bound."""
    if exact:
        r = torch.cat([block for _, block in layer.residual()])
        v = torch.linalg.svd(r, full_matrices=False).Vh[0].conj().resolve_conj()
        gap = float(torch.linalg.vector_norm(r @ v))
    else:
        steps = max(4, min(20, 2**29 // (layer.out * layer.n)))
        gap, v = _krylov(layer, steps)
    top = v[v.abs().argmax()]
    return gap, v * (top.conj() / top.abs())  # the largest entry is made positive


def _krylov(layer: FlattenedLayer, steps: int) -> tuple[float, Tensor]:
    """The best vector of the span of v, R*R v, (R*R)^2 v ..., orthogonalised twice; memory (out + n) * steps."""
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(layer.n, generator=generator, dtype=torch.float64).to(layer.wide)
    basis: list[Tensor] = []
    images: list[Tensor] = []
    for _ in range(min(steps, layer.n, layer.out)):
        before = float(torch.linalg.vector_norm(v))
        for b in basis * 2:
            v = v - b * torch.vdot(b, v)
        after = float(torch.linalg.vector_norm(v))
        if after <= 1e-10 * before:
            break
        v = v / after
        u = torch.cat([r @ v for _, r in layer.residual()])
        basis.append(v)
        images.append(u)
        v = torch.zeros_like(v)
        for rows, r in layer.residual():
            v += r.mH @ u[rows]
    gains = torch.linalg.svd(torch.stack(images, 1), full_matrices=False)
    v = torch.stack(basis, 1) @ gains.Vh[0].conj()
    return float(gains.S[0]), v / torch.linalg.vector_norm(v)


def _on_cpu(values: Tensor) -> Tensor:
    return values.detach().cpu().resolve_conj().resolve_neg().contiguous()


def row_blocks(count: int, width: int) -> list[slice]:
    """Slices of rows with at most _BLOCK entries each, one row at least."""
    step = max(1, _BLOCK // max(1, width))
    return [slice(start, min(count, start + step)) for start in range(0, count, step)]


def _norm(values: Tensor) -> float:
    """2-norm, without overflow of the squares."""
    largest = float(values.abs().max()) if values.numel() else 0.0
    return largest * float(torch.linalg.vector_norm(values / largest)) if largest else 0.0
