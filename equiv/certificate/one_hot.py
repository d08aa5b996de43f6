"""Read every column of two maps by one-hot probes, chunk by chunk, and compare them bit for bit.

An affine map is fixed by its values at zero and at the n one-hot inputs e_i. Plain layers are run with a
bias of zeros, so that e_i returns column i exactly: one product, and zeros added. A function keeps its bias,
and a probe returns one rounding of ``w + b``, in which the last bits of ``w`` are lost. So functions are run a second
time, at ``-2**K * e_i`` with K as large as the format allows: there ``-2**K*w + b`` rounds to ``-2**K*w`` wherever
``|b|`` is below half an ulp of it, which gives back all bits, and shows what is not affine (ReLU, clamp, tanh). Where
the format is too narrow, as float16 is, entries with bits that stay unseen are counted. So are entries that add
several taps, because padding repeats an input: kernels may add those, and the bias, in any order.

Complex products of a convolution come from three real ones, ``(a - b) + (c - a - b)i``; only the real part is exact, so
the real part at ``x = e_i`` and at ``x = i*e_i`` is compared, and the imaginary part held against its bound. Where
neither side convolves, both parts are compared bit for bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from equiv.causes import Cause, name_cause
from equiv.certificate.affine import AffineTest, Sums, Superposition, widened, without_bias
from equiv.certificate.progress import Pace, Progress
from equiv.certificate.repeated_taps import RepeatedTaps, Taps, judge_sums, repeats_inputs, taps_of_function
from equiv.certificate.resume import State, check_origin, digest, is_covered, origin_of, sealed
from equiv.certificate.rounding import Misrounding, RoundingTest
from equiv.certificate.scales import ScaleTest
from equiv.certificate.sides import Difference, Differences, Side, same_values
from equiv.errors import EquivError
from equiv.mapping import Conv
from equiv.numerics import format_of

_BATCH = 512  # rows at once, of those that are no columns
_NAMED = 2**22  # entries of a matrix up to which what was read is kept, to name the cause of a difference


@dataclass
class Reading:
    """What has been read so far."""

    next: int = 0  # the first column that has not been read
    differences: Differences = field(default_factory=Differences)
    flushed: int = 0  # entries where one kernel treats a subnormal as zero, as the dtype's kernels may
    unseen: int = 0  # entries of which a bias hides the last bits
    sums: int = 0  # entries of functions that add several taps, accepted in any order
    more: int = 0  # inputs besides columns, that functions were asked for
    resolution: float = 0.0  # the largest error that an unseen or added entry can hide


class Reader:
    """Reads candidate and reference, two maps with as many outputs, and tests on ``inputs`` whether they are affine.

    ``chunk_bytes`` bounds the inputs and results that are held at once.
    """

    def __init__(self, sides: tuple[Side, Side], inputs: Superposition, chunk_bytes: int) -> None:
        self.sides, self.inputs = sides, inputs
        self.n, self.dtype, self.device, self.inexact = inputs.n, inputs.dtype, inputs.device, inputs.inexact
        self.units = (1, 1j) if self.dtype.is_complex else (1,)
        self.layers = all(side.layer is not None for side in sides)
        self.found = Reading()
        self.zeros = [self._at_zero(side) for side in sides]
        self.outputs = self.zeros[0].shape[0]
        size = self.dtype.itemsize * (self.n + 2 * self.outputs) + (0 if self.layers else 192 * self.outputs)
        most = max(1, chunk_bytes // size)
        self.rows = min(self.n, most)
        self.is_small = self.n * self.outputs <= _NAMED
        self._columns: list[tuple[Tensor, Tensor]] = []
        self.test = AffineTest(sides, self.zeros, inputs, min(most, _BATCH))
        self.misrounding: Misrounding | None = None

    @property
    def passes(self) -> int:
        """How many inputs a column takes."""
        if self.layers or not self.dtype.is_signed:
            return len(self.units)
        return 2 * len(self.units) + 1 if self.inexact else 2

    def run(self, progress: Progress | None) -> bool:
        """Read to the end; False if ``progress`` asked to stop, by returning False."""
        for side in self.sides:
            self._check_repeatable(side)
        found = self.found
        if found.next == 0:
            wrong = ~self._equal_biases() & ~self._flushes(*self.zeros)
            found.differences.add(wrong[None], self.zeros[0][None], self.zeros[1][None], None)
            found.resolution = self.lost
        pace = Pace(self.rows)
        while found.next < self.n and self.test.not_affine is None:
            stop = min(self.n, found.next + (self.rows if progress is None else pace.columns()))
            columns = torch.arange(found.next, stop, device=self.device)
            if self.layers:
                self._read_layers(columns)
            elif self.inexact:
                self._read_functions(columns)
            else:
                self._read_integer_functions(columns)
            found.next = stop
            if progress is not None and progress(stop, self.n, self.state()) is False and stop < self.n:
                return False
        if not self.layers and self.test.not_affine is None:
            self.test.check_sums()
            found.more += self.inputs.count
            if self.inexact:
                self.scales.check_dense()
                found.more += 2 * len(self.scales.exponents)
        if not self.layers and self.test.not_affine is None and self.inexact:
            rounding = RoundingTest(self.test)
            self.misrounding = rounding.run(weights_agree=not found.differences.count)
            found.more += rounding.count
        return True

    def _read_layers(self, columns: Tensor) -> None:
        """Layers, with zero for their biases, which rounds nothing: a probe returns the column itself."""
        a, b = (self._run(side, columns, 1, **without_bias(side)) for side in self.sides)
        wrong = self._differ(a, b) & ~self._flushes(_column(a), _column(b))
        if self.inexact and any(repeats_inputs(side.layer) for side in self.sides) and bool(wrong.any()):
            right = [taps.allows(columns, y) for taps, y in zip(self._taps, (a, b), strict=True)]
            wrong &= ~(right[0] & right[1])
        self._record(wrong, columns, _column(a), _column(b))

    def _read_functions(self, columns: Tensor) -> None:
        """Functions with their biases: at ``e_i``, at ``-2**K * e_i``, and at a multiple with many mantissa bits."""
        near = [self._run(side, columns, 1) for side in self.sides]
        rows = [self._one_hot(columns, unit) for unit in self.units]
        taps = [
            taps_of_function(side, rows) if self.test.structures[side.name].repeats else None for side in self.sides
        ]
        for side, y in zip(self.sides, near, strict=True):
            _check_finite(side, y, "results for one-hot inputs")
        first = [_column(y - zero) for y, zero in zip(near, self.zeros, strict=True)]
        sizes = [column.abs().double() for column in first] + [sums.size for sums in taps if sums is not None]
        far, scale = self._far(columns, max(float(size.max()) for size in sizes))
        seen, second, doubt = zip(*(self._weights(*of, scale) for of in zip(far, self.zeros, strict=True)), strict=True)
        free, _ = self._in_any_order(near, taps, 1.0)
        free_far, width = self._in_any_order(far, taps, -scale)
        equal, whole = self._equal_biases(), (seen[0] & seen[1]) | (width > 0)
        wrong, wrong_far = self._differ(*near) & equal & ~free, self._differ(*far) & (equal | whole) & ~free_far
        values = [torch.where(wrong & ~wrong_far, widened(a), b) for a, b in zip(first, second, strict=True)]
        self._record((wrong | wrong_far) & ~self._flushes(*values), columns, *values)
        if not bool(whole.all()):
            largest = max(float(y.real.abs().double()[:, ~whole].max()) for y in far)
            step = 2 * format_of(self.dtype).u * largest / scale
            if step >= format_of(self.dtype).min_subnormal / 2:  # else no two weights of this dtype are so close
                self.found.unseen += int((~whole).sum())
                self.found.resolution = max(self.found.resolution, step)
        self.found.sums += int((width > 0).sum())
        self.found.resolution = max(self.found.resolution, float(width.max()) / scale)
        doubts = [
            d if t is None else torch.where(t.several, t.size.sum(0), d) for d, t in zip(doubt, taps, strict=True)
        ]
        for side, y, column, within in zip(self.sides, near, second, doubts, strict=True):
            if side.layer is None:
                self.test.check_lines(side, y, column, within, columns, scale)
            self.inputs.add(self.test.sums[side.name], columns, column, within)
        self.test.check_mantissas(self._one_hot(columns, 1), columns, second, doubts, scale / 2)
        self.scales.check_columns(columns, list(second), doubts)
        self.found.more += self.scales.rows_for(len(columns))

    def _read_integer_functions(self, columns: Tensor) -> None:
        """Integers are exact modulo ``2**bits``: a bias hides nothing."""
        read = [self._run(side, columns, 1)[0] - zero for side, zero in zip(self.sides, self.zeros, strict=True)]
        self._record(read[0] != read[1], columns, *read)
        for side, column, zero in zip(self.sides, read, self.zeros, strict=True):
            self.inputs.add(self.test.sums[side.name], columns, column)
            if self.dtype.is_signed and side.layer is None:
                wrong = (self._run(side, columns, -1)[0] != zero - column).any(1).nonzero()
                if len(wrong):
                    index = int(columns[wrong[0]])
                    self.test.not_affine = (
                        f"{side.name} is no affine map: its values at e{index} and -e{index} are not opposite"
                    )

    def _at_zero(self, side: Side) -> Tensor:
        y = side.run(torch.zeros(2, self.n, dtype=self.dtype, device=self.device))
        _check_finite(side, y, "values at the zero input")
        return y[0]

    def _one_hot(self, columns: Tensor, value: complex) -> Tensor:
        x = torch.zeros(len(columns), self.n, dtype=self.dtype, device=self.device)
        x[torch.arange(len(columns), device=self.device), columns] = value  # type: ignore[assignment]
        return x

    def _run(self, side: Side, columns: Tensor, scale: float, **parameters: Tensor) -> Tensor:
        """Results at ``scale * e_i``: ``(1, c, O)``; for complex dtypes ``(2, c, O)``, at ``scale * i*e_i`` as well."""
        return torch.stack([side.run(self._one_hot(columns, scale * unit), **parameters) for unit in self.units])

    def _far(self, columns: Tensor, size: float) -> tuple[list[Tensor], float]:
        """Both sides at ``-2**K * e_i`` for the largest K that keeps every result finite, and ``2**K``."""
        top = math.frexp(format_of(self.dtype).max)[1]
        power = max(0, min(top - 2, top - 4 - (math.frexp(size)[1] if size else -top)))
        while True:
            far = [self._run(side, columns, -(2.0**power)) for side in self.sides]
            if all(bool(y.isfinite().all()) for y in far):
                return far, 2.0**power
            if power == 0:
                for side, y in zip(self.sides, far, strict=True):
                    _check_finite(side, y, "results for one-hot inputs")
            power //= 2

    def _in_any_order(self, results: list[Tensor], taps: list[Taps | None], factor: float) -> tuple[Tensor, Tensor]:
        """Where both results at ``factor * e_i`` are right for some order of the taps; how wide all orders reach."""
        right = torch.ones(results[0].shape[1:], dtype=torch.bool, device=self.device)
        width = torch.zeros(right.shape, dtype=torch.float64, device=self.device)
        for side, sums in enumerate(taps):
            if sums is None:
                continue
            rows, outputs = sums.several.nonzero().unbind(1)
            several = Taps(*(values[:, rows, outputs] for values in sums))
            for other, y in enumerate(results):
                at, bias = y[:, rows, outputs], self.zeros[other][outputs]
                inside, wide = judge_sums(
                    at, several, factor, bias, rounded=other != side, arithmetic=self.inputs.arithmetic
                )
                right[rows, outputs] &= inside
                width[rows, outputs] = torch.maximum(width[rows, outputs], wide)
        return right & (width > 0), width

    def _weights(self, far: Tensor, zero: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
        """Of results at ``-scale * e_i``: where all bits of a weight are seen, the weights, and doubts about them.

        All bits are seen where the bias lies below half an ulp of the result: that is ``-scale`` times the weight then.
        A doubt is how far a weight may be from what was read of it, float64: an ulp of the result over the scale where
        the bias took part in the rounding, and for kernels that flush subnormals what these take away.
        """
        fmt, value, bias = format_of(self.dtype), far.real.double(), zero.real.double()
        vanishes = bias.abs() < fmt.u / 2 * value.abs()
        seen = ((bias == 0) | vanishes).all(0)
        column = _column(torch.where(vanishes, value, value - bias) / -scale)
        doubt = torch.where(seen, 0.0, (2 * fmt.u * value.abs().sum(0) + len(far) * fmt.min_subnormal) / scale)
        if self.inputs.arithmetic.flushes_inputs:
            doubt = torch.where(column.abs() < fmt.min_normal, doubt + 2 * fmt.min_normal, doubt)
        return seen, column, doubt

    def _check_repeatable(self, side: Side) -> None:
        """A function must give the same bits twice."""
        if side.layer is not None:
            return
        first, second = side.run(self.inputs.dense), side.run(self.inputs.dense)
        if not bool(same_values(first, second).all()):
            raise EquivError(
                f"{side.name}: expected the same bits for the same input twice, got different ones; a dropout or "
                "another random operation is on, or it keeps a state: call .eval() first"
            )

    def _equal_biases(self) -> Tensor:
        """Bit for bit, but for imaginary parts of which a convolution's three products lose the last bits."""
        a, b = self.zeros
        if not a.is_complex():
            return same_values(a, b)
        near = same_values(a.imag, b.imag) | ((a.imag.double() - b.imag.double()).abs() <= self._lost())
        return same_values(a.real, b.real) & near

    def _lost(self) -> Tensor:
        """What complex convolutions may lose of the imaginary part of a bias: ``(br + bi) - br``, rounded twice."""
        lost = torch.zeros(self.outputs, dtype=torch.float64, device=self.device)
        for side, zero in zip(self.sides, self.zeros, strict=True):
            if self.dtype.is_complex and self.test.convolves(side):
                lost += 2 * format_of(self.dtype).u * (zero.real.double().abs() + zero.imag.double().abs())
        return lost

    @property
    def lost(self) -> float:
        """The largest entry of ``_lost()``; 0.0 between layers, whose biases are compared themselves."""
        return 0.0 if self.layers else float(self._lost().max())

    def _differ(self, a: Tensor, b: Tensor) -> Tensor:
        """Where two sides differ in any bit; in imaginary parts of convolutions, by more than three products lose."""
        wrong = ~same_values(a.real, b.real)
        if self.dtype.is_complex and any(map(self.test.convolves, self.sides)):
            size = a.abs().double() + b.abs().double() + torch.maximum(*(zero.abs().double() for zero in self.zeros))
            wrong |= ~((a.imag.double() - b.imag.double()).abs() <= 16 * format_of(self.dtype).u * size)
        elif self.dtype.is_complex:
            wrong |= ~same_values(a.imag, b.imag)
        return wrong.any(0)

    def _flushes(self, a: Tensor, b: Tensor) -> Tensor:
        """Where one value is zero and the other subnormal, in a dtype whose kernels may flush; adds their number."""
        if not self.inexact or not self.inputs.arithmetic.flushes_inputs:
            return torch.zeros(a.shape, dtype=torch.bool, device=a.device)
        tiny = format_of(self.dtype).min_normal
        accepted = (a != b) & ((a == 0) | (b == 0)) & (torch.maximum(a.abs(), b.abs()) < tiny)
        self.found.flushed += int(accepted.sum())
        return accepted

    def _record(self, wrong: Tensor, columns: Tensor, a: Tensor, b: Tensor) -> None:
        """Note where columns ``(c, O)`` differ, and keep those of a small map, to name a cause."""
        self.found.differences.add(wrong, a, b, lambda row, output: (output, int(columns[row])))
        if self.is_small:
            self._columns.append((a.to(self.dtype), b.to(self.dtype)))

    def cause(self, shape: tuple[int, ...]) -> Cause | None:
        """The mistake that turns the reference as it was read into the candidate; None if none is known.

        Large maps are not kept, nor is what was read before an interrupt.
        """
        if sum(len(a) for a, _ in self._columns) < self.n:
            return None
        matrices = [torch.cat(columns).T.contiguous() for columns in zip(*self._columns, strict=True)]
        known = list(zip(self.sides, matrices, self.zeros, strict=True))
        if known[1][0].layer is None and known[0][0].layer is not None:  # the layer says what is right
            known.reverse()
        (ours, a, bias), (theirs, b, other) = known
        conv = theirs.layer if isinstance(theirs.layer, Conv) else ours.layer
        return name_cause(a, b, shape, bias, other, conv=conv if isinstance(conv, Conv) else None)

    @cached_property
    def scales(self) -> ScaleTest:
        """Asks functions of a floating or complex dtype for rows of many sizes."""
        return ScaleTest(self.test)

    @cached_property
    def _taps(self) -> list[RepeatedTaps]:
        return [RepeatedTaps(side, self.outputs, self.inputs.arithmetic) for side in self.sides]

    def state(self) -> dict[str, Any]:
        """All that is needed to go on."""
        found, sums = self.found, self.test.sums
        contents = {
            "named": [tuple(difference) for difference in found.differences.named],
            "counts": [
                found.differences.weights,
                found.differences.biases,
                found.flushed,
                found.unseen,
                found.sums,
                found.more,
            ],
            "resolution": found.resolution,
            "not_affine": self.test.not_affine,
            "outside_envelope": self.test.outside_envelope,
            "sums": {name: [t.to("cpu", copy=True) for t in tensors] for name, tensors in sums.items()},
        }
        return sealed("deterministic", self.origin, found.next, **contents)

    def resume(self, state: State) -> None:
        """Go on after the last column that was read.

        What a function reads is in no hash: with one, the reading starts again from the first column.
        """
        check_origin(state, "deterministic", self.origin)
        if not all(map(is_covered, self.sides)):
            return
        weights, biases, flushed, unseen, sums, more = state["counts"]
        differences = Differences([Difference(*entry) for entry in state["named"]], weights, biases)
        self.found = Reading(state["next"], differences, flushed, unseen, sums, more, state["resolution"])
        self.test.not_affine, self.test.outside_envelope = state["not_affine"], state["outside_envelope"]
        for name, tensors in state["sums"].items():
            self.test.sums[name] = Sums(*(t.detach().to(self.device, copy=True) for t in tensors))

    @cached_property
    def origin(self) -> str:
        """A hash of all that the results of both sides depend on."""
        seen = [digest(values) for values in (self.inputs.dense, self.inputs.few, *self.zeros)]
        arithmetic = self.inputs.arithmetic if self.inexact else None
        facts = ("deterministic", self.inputs.seed, self.n, self.outputs, arithmetic, *seen)
        return origin_of(self.sides, self.dtype, self.device, *facts, values=True)


def _column(results: Tensor) -> Tensor:
    """The weights that results at ``e_i``, and for complex at ``i*e_i``, show: only their real parts are exact."""
    return torch.complex(results[0].real, -results[1].real) if len(results) == 2 else results[0]


def _check_finite(side: Side, y: Tensor, what: str) -> None:
    if not bool(y.isfinite().all()):
        count = f"{int((~y.isfinite()).sum()):,} of {y.numel():,} infinite or not a number"
        raise EquivError(
            f"{side.name}: expected finite {what}, got {count}; no affine map of finite weights has "
            "such: look for NaN or infinity in its weights and bias"
        )
