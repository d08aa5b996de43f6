"""Read every column of two maps by one-hot probes, chunk by chunk, and compare them bit for bit.

An affine map is fixed by its values at zero and at the n one-hot inputs. Between plain layers the bias is taken away,
so that a probe returns a column of the weight exactly: one product, and zeros added. A function keeps its bias, and a
probe returns one rounding of ``w + b``, in which the last bits of ``w`` are lost. So functions are asked a second time,
at ``-2**K`` with K as large as the format allows: there ``-2**K*w + b`` rounds to ``-2**K*w`` wherever ``|b|`` is below
half an ulp of it, which gives back all bits, and tells what bends (ReLU, clamp, tanh) from what is straight. Where the
format has no room, as in float16, the bits that stay unseen are counted.

Complex products of a convolution come from three real ones, ``(a - b) + (c - a - b)i``; only the real part is exact, so
the real part at ``x = e_i`` and at ``x = i*e_i`` is compared, and the imaginary part held against its bound. Where
neither side convolves, both parts are compared bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from equiv.causes import name_cause
from equiv.certificate._origin import digest, is_told, origin
from equiv.certificate._refuting import Refuter, exact
from equiv.certificate._state import Reading, reading_of, state_of
from equiv.certificate.affine import Superposition
from equiv.certificate.repeated_taps import Repeated, repeats
from equiv.certificate.sides import CAP, Difference, Progress, Side, same_values, without_bias
from equiv.errors import EquivError
from equiv.numerics import declared, format_of

_NAMED = 2**22  # entries of a matrix up to which what was read is kept, to name the cause of a difference


class Reader:
    """Reads ``candidate`` and ``reference``, maps from n features of one dtype on one device.

    Args:
        candidate: One side.
        reference: The other; with as many outputs.
        n: Features.
        dtype: Of the probes.
        device: Of the probes.
        chunk_bytes: Bound on inputs and results that are held at once.
        seed: Of the inputs on which functions are tested for being affine.
    """

    def __init__(
        self,
        candidate: Side,
        reference: Side,
        n: int,
        dtype: torch.dtype,
        device: torch.device,
        chunk_bytes: int,
        seed: int,
    ) -> None:
        self.sides = (candidate, reference)
        self.n, self.dtype, self.device, self.seed = n, dtype, device, seed
        self.floating = dtype.is_floating_point or dtype.is_complex
        self.apart = all(side.layer is not None for side in self.sides)
        self.found = Reading()
        self.zeros = [self._at_zero(side) for side in self.sides]
        self.outputs = self.zeros[0].shape[0]
        size = dtype.itemsize * (n + 2 * self.outputs) + (0 if self.apart else 192 * self.outputs)
        self.rows = max(1, min(n, chunk_bytes // size))
        self.tests = Superposition(n, dtype, device, seed)
        self.is_small = n * self.outputs <= _NAMED
        self._columns: list[tuple[Tensor, Tensor]] = []
        self.refuter = Refuter(self.sides, self.zeros, self.tests, self.rows)
        spare = 2 if dtype.is_complex else 1
        passes = 1 if self.apart or dtype == torch.uint8 else 2 * spare + 1 if self.floating else 2
        self.probes = 1 + n * (spare if self.apart else passes)

    # --- the course ---------------------------------------------------------------------------------------------------

    def run(self, progress: Progress | None) -> bool:
        """Read to the end; False if ``progress`` asked to stop, by returning False."""
        for side in self.sides:
            self._repeats(side)
        if self.found.next == 0:
            wrong = ~self._equal_biases() & ~self._flushes(*self.zeros)
            self._record(wrong[None], None, self.zeros[0][None], self.zeros[1][None])
            self.found.resolution = self.lost
        while self.found.next < self.n and self.found.bent is None:
            stop = min(self.n, self.found.next + self.rows)
            columns = torch.arange(self.found.next, stop, device=self.device)
            (self._weights if self.apart else self._functions)(columns)
            self.found.next = stop
            if progress is not None and progress(stop, self.n, self.state()) is False and stop < self.n:
                return False
        if self.refuter.sums and self.found.bent is None:
            self.refuter.superposed(self.found)
        return True

    def _weights(self, columns: Tensor) -> None:
        """Layers, without their biases: a probe returns the column itself."""
        a, b = ([side.run(x, **without_bias(_layer(side))) for x in self._hot(columns, 1)] for side in self.sides)
        wrong = self._compare(a, b)
        if self.floating and any(repeats(side.layer) for side in self.sides) and bool(wrong.any()):
            right = [taps.allows(columns, y) for taps, y in zip(self._taps, (a, b), strict=True)]
            wrong &= ~(right[0] & right[1])
        self._record(wrong, columns, _column(a), _column(b))
        self._keep(_column(a), _column(b))

    def _functions(self, columns: Tensor) -> None:
        """Functions, biases included: at one, and far out on the other side."""
        near = [[side.run(x) for x in self._hot(columns, 1)] for side in self.sides]
        for side, y in zip(self.sides, near, strict=True):
            self._finite(side, y)
        biases = [self._parts(zero) for zero in self.zeros]
        equal = self._equal_biases()
        if not self.floating:
            self._integers(columns, [y[0] for y in near])
            return
        first = [
            _column([y - bias for y, bias in zip(y2, bs, strict=True)]) for y2, bs in zip(near, biases, strict=True)
        ]
        far, scale = self._far(columns, max(float(_largest(column)) for column in first))
        wrong = self._compare(*near) & equal
        seen = [self._seen(y, bs) for y, bs in zip(far, biases, strict=True)]
        wrong_far = self._compare(*far) & (equal | (seen[0] & seen[1]))
        second = [self._far_column(y, bs, scale) for y, bs in zip(far, biases, strict=True)]
        values = [torch.where(wrong & ~wrong_far, exact(a), b) for a, b in zip(first, second, strict=True)]
        wrong = (wrong | wrong_far) & ~self._flushes(*values)
        self._record(wrong, columns, *values)
        self._keep(*values)
        self._unseen(far, seen, scale)
        doubts = [
            self.tests.hidden(column, self._doubt(y, ok, scale))
            for column, y, ok in zip(second, far, seen, strict=True)
        ]
        for side, y, column, doubt in zip(self.sides, near, second, doubts, strict=True):
            if side.layer is None:
                self.refuter.straight(self.found, side, y, column, columns, scale)
            self.tests.add(self.refuter.sums[side.name], columns, column, doubt)
        self.refuter.once_more(self.found, self._hot(columns, 1)[0], columns, second, doubts, scale / 2)

    def _integers(self, columns: Tensor, near: list[Tensor]) -> None:
        """Integers are exact modulo ``2**bits``: a bias hides nothing."""
        read = [y - zero for y, zero in zip(near, self.zeros, strict=True)]
        self._record(read[0] != read[1], columns, *read)
        self._keep(*read)
        for side, column, zero in zip(self.sides, read, self.zeros, strict=True):
            self.tests.add(self.refuter.sums[side.name], columns, column)
            if self.dtype != torch.uint8 and side.layer is None:
                back = side.run(self._hot(columns, -1)[0])
                if bool((back != zero - column).any()):
                    row = int((back != zero - column).any(1).nonzero()[0])
                    index = int(columns[row])
                    self.found.bent = (
                        f"{side.name} is no affine map: its values at e{index} and -e{index} are not opposite"
                    )

    # --- probes -------------------------------------------------------------------------------------------------------

    def _at_zero(self, side: Side) -> Tensor:
        y = side.run(torch.zeros(2, self.n, dtype=self.dtype, device=self.device))
        if not bool(y.isfinite().all()):
            raise EquivError(
                f"{side.name}: expected finite values at the zero input, got {_some(y)}; no affine map has such"
            )
        return y[0]

    def _hot(self, columns: Tensor, scale: float) -> list[Tensor]:
        """One-hot rows times ``scale``; for complex dtypes times the imaginary unit as well."""
        rows = torch.arange(len(columns), device=self.device)
        found = []
        for unit in (1, 1j) if self.dtype.is_complex else (1,):
            x = torch.zeros(len(columns), self.n, dtype=self.dtype, device=self.device)
            x[rows, columns] = torch.tensor(scale * unit, dtype=self.dtype, device=self.device)
            found.append(x)
        return found

    def _far(self, columns: Tensor, size: float) -> tuple[list[list[Tensor]], float]:
        """Both sides at ``-2**K``, the largest that keeps every result finite."""
        fmt = format_of(self.dtype)
        top = math.frexp(fmt.max)[1]
        power = max(0, min(top - 2, top - 4 - (math.frexp(size)[1] if size else -top)))
        while True:
            hot = self._hot(columns, -(2.0**power))
            far = [[side.run(x) for x in hot] for side in self.sides]
            if all(bool(y.isfinite().all()) for both in far for y in both):
                return far, 2.0**power
            if power == 0:
                for side, both in zip(self.sides, far, strict=True):
                    self._finite(side, both)
            power //= 2

    def _finite(self, side: Side, results: list[Tensor]) -> None:
        for y in results:
            if self.floating and not bool(y.isfinite().all()):
                raise EquivError(
                    f"{side.name}: expected finite results for one-hot inputs, got {_some(y)}; no affine map of finite "
                    "weights has such, and zero times infinity hides the others"
                )

    # --- what the answers mean ----------------------------------------------------------------------------------------

    def _parts(self, zero: Tensor) -> list[Tensor]:
        return [zero, zero] if self.dtype.is_complex else [zero]

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
            if self.dtype.is_complex and self.refuter.convolves(side):
                lost += 2 * format_of(self.dtype).u * (zero.real.double().abs() + zero.imag.double().abs())
        return lost

    @property
    def lost(self) -> float:
        """The largest of these, 0.0 between layers, whose biases are compared themselves."""
        return 0.0 if self.apart else float(self._lost().max())

    def _compare(self, a: list[Tensor], b: list[Tensor]) -> Tensor:
        """Where two sides differ: bit for bit, but imaginary parts of convolutions by more than three products may."""
        wrong = torch.zeros_like(a[0], dtype=torch.bool)
        units = (
            16 * format_of(self.dtype).u if any(map(self.refuter.convolves, self.sides)) and a[0].is_complex() else 0.0
        )
        for y, z in zip(a, b, strict=True):
            wrong |= ~same_values(y.real, z.real)
            if y.is_complex() and units == 0:
                wrong |= ~same_values(y.imag, z.imag)
            elif y.is_complex():
                size = y.abs().double() + z.abs().double() + torch.stack([t.abs().double() for t in self.zeros]).amax(0)
                wrong |= ~((y.imag.double() - z.imag.double()).abs() <= units * size)
        return wrong & ~self._flushes(_column(a), _column(b)) if self.apart else wrong

    def _flushes(self, a: Tensor, b: Tensor) -> Tensor:
        """Where one value is zero and the other subnormal, in a dtype whose kernels may flush; counted."""
        if not self.floating or not declared(self.dtype, self.device).flushes_inputs:
            return torch.zeros(a.shape, dtype=torch.bool, device=a.device)
        tiny = format_of(self.dtype).min_normal
        accepted = (a != b) & ((a == 0) | (b == 0)) & (torch.maximum(a.abs(), b.abs()) < tiny)
        self.found.flushed += int(accepted.sum())
        return accepted

    def _seen(self, far: list[Tensor], bias: list[Tensor]) -> Tensor:
        """Where the bias lies below half an ulp of the result, which is then a power of two times the weight."""
        u = format_of(self.dtype).u
        seen = [
            (b.real == 0) | (b.real.abs().double() < u / 2 * y.real.abs().double())
            for y, b in zip(far, bias, strict=True)
        ]
        return torch.stack(seen).all(0)

    def _far_column(self, far: list[Tensor], bias: list[Tensor], scale: float) -> Tensor:
        u = format_of(self.dtype).u
        parts = []
        for y, b in zip(far, bias, strict=True):
            value, shift = exact(y), exact(b)
            part = torch.where(shift.real.abs() < u / 2 * value.real.abs(), value.real, value.real - shift.real)
            parts.append(part / -scale)
        return torch.complex(parts[0], -parts[1]) if len(parts) == 2 else parts[0]

    def _unseen(self, far: list[list[Tensor]], seen: list[Tensor], scale: float) -> None:
        """A weight may be off by an ulp of the result over the scale where the bias takes part in the rounding."""
        u = format_of(self.dtype).u
        hidden = ~(seen[0] & seen[1])
        count = int(hidden.sum())
        if count:
            largest = max(float(y.real.abs().double()[hidden].max()) for both in far for y in both)
            step = 2 * u * largest / scale
            if step >= format_of(self.dtype).min_subnormal / 2:  # else no two weights of this dtype are so close
                self.found.unseen += count
                self.found.resolution = max(self.found.resolution, step)

    def _record(self, wrong: Tensor, columns: Tensor | None, a: Tensor, b: Tensor) -> None:
        """Note entries of ``(columns, outputs)`` tensors that differ."""
        count = int(wrong.sum()) if bool(wrong.any()) else 0
        room = CAP - len(self.found.differences)
        self.found.count += count
        if count and room > 0:
            for row, output in wrong.nonzero()[:room].tolist():
                index = None if columns is None else int(columns[row])
                self.found.differences.append(Difference(output, index, a[row, output].item(), b[row, output].item()))

    def _keep(self, a: Tensor, b: Tensor) -> None:
        if self.is_small:
            self._columns.append((a.to(self.dtype), b.to(self.dtype)))

    def cause(self, shape: tuple[int, ...]) -> str | None:
        """The mistake that turns the reference as it was read into the candidate; None if none is known.

        Nothing is known of maps above 2^22 entries, nor of one that was not read from its first column to its last.
        """
        if sum(len(a) for a, _ in self._columns) < self.n:
            return None
        a, b = (torch.cat(columns).T.contiguous() for columns in zip(*self._columns, strict=True))
        found = name_cause(a, b, shape, *self.zeros)
        if found is not None and math.prod(shape[1:]) == 1:
            return found.sentence.replace("channels", "inputs", 1)  # rows of n features: no map is known
        return None if found is None else found.sentence

    # --- is it affine at all? -----------------------------------------------------------------------------------------

    def _repeats(self, side: Side) -> None:
        """A function must give the same bits twice, and the same for a row with and without others, up to rounding."""
        if side.layer is not None:
            return
        first, second = side.run(self.tests.dense), side.run(self.tests.dense)
        if not bool(same_values(first, second).all()):
            raise EquivError(
                f"{side.name}: expected the same bits for the same input twice, got different ones; a dropout or "
                "another random operation is on, or it keeps a state: call .eval() first"
            )

    @cached_property
    def _taps(self) -> list[Repeated]:
        return [Repeated(side, self.outputs) for side in self.sides]

    def _doubt(self, far: list[Tensor], seen: Tensor, scale: float) -> Tensor:
        """How far each weight may be from what was read of it, float64: an ulp where a bias took part in rounding."""
        fmt = format_of(self.dtype)
        size = torch.stack([y.real.abs().double() for y in far]).sum(0)
        return torch.where(seen, 0.0, (2 * fmt.u * size + len(far) * fmt.min_subnormal) / scale)

    # --- resuming -----------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """All that is needed to go on, in JSON's types."""
        return state_of(self.found, self.origin, self.refuter.sums)

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state`.

        Plain layers, and modules of which the hash takes in all, go on after the last column that was read. What a
        function reads is in no hash: with one, the reading starts again from the first column.

        Raises:
            EquivError: It belongs to other layers, another dtype or another seed, or holds what no state can.
        """
        if state.get("of") != self.origin:
            raise EquivError(
                f"resume: expected a state of these very layers, dtype, seed and settings of torch "
                f"({self.origin:.12}), got one of {state.get('of')!r:.60}; start again without resume="
            )
        sums = {name: [torch.empty_like(t) for t in tensors] for name, tensors in self.refuter.sums.items()}
        found = reading_of(state, self.n, self.outputs, sums)
        if all(is_told(side) for side in self.sides):
            self.found, self.refuter.sums = found, sums

    @cached_property
    def origin(self) -> str:
        """A hash of all that the answers of both sides depend on; see ``equiv.certificate._origin``."""
        seen = [digest(values) for values in (self.tests.dense, self.tests.few, *self.zeros)]
        facts = ("deterministic", self.seed, self.n, self.outputs, *seen)
        return origin(self.sides, self.dtype, self.device, *facts, values=True)


def _layer(side: Side) -> Any:
    assert side.layer is not None
    return side.layer


def _column(parts: list[Tensor]) -> Tensor:
    """The weights that results at ``e_i``, and for complex at ``i*e_i``, show: only their real parts are exact."""
    return torch.complex(parts[0].real, -parts[1].real) if len(parts) == 2 else parts[0]


def _largest(values: Tensor) -> Tensor:
    return values.abs().double().max() if values.numel() else values.new_zeros((), dtype=torch.float64)


def _some(y: Tensor) -> str:
    return f"{int((~y.isfinite()).sum()):,} of {y.numel():,} infinite or not a number"
