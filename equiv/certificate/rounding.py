"""Whether functions round as kernels of one layer do: asked at inputs where all of these round once.

A row of one entry gives one product, and a row of two powers of two the sum of two weights, which a wider accumulator
holds exactly; zeros beside them round nothing. So a kernel of a layer, with any order, blocking or accumulator, rounds
its result once, to nearest, and once more where the bias comes apart. Entries have full mantissas, and such that sums
lie halfway between two numbers. The weights are those of the other side if it is a layer, else those that were read.

A function whose results are not all explained so either rounds in another direction, which `directions` names, or more
than once. That is no mistake in functions that are seen to round several times, such as layers in a row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from equiv.causes import Cause, rounding_cause
from equiv.certificate.affine import AffineTest, Superposition, without_bias
from equiv.certificate.directions import Results
from equiv.certificate.repeated_taps import taps_of_function
from equiv.certificate.sides import same_values
from equiv.dtypes import dtype_name
from equiv.numerics import STOCHASTIC, format_of, two_product, two_sum

_SINGLE, _POWERS, _PAIRS = 256, 128, 160  # rows of one entry, of one power of two, of two
_OUTPUTS = 256  # that are looked at
_MODERATE = 900  # exponents up to which two words of float64 hold products exactly
_REACH = 20  # exponents of entries of middle size
_INNER = 64  # roundings of the accumulator that a function with several operations may have
_MANY = 8  # results that are not to nearest, to name the rounding of a function that may round several times


@dataclass(frozen=True)
class Misrounding:
    """What a function does instead of rounding to nearest once."""

    side: str
    name: str | None  # the rounding; None if there is none that explains all results
    text: str  # one of its results, and what follows

    @property
    def cause(self) -> Cause | None:
        """The rounding as a cause."""
        return None if self.name is None else rounding_cause(self.name)


@dataclass(frozen=True)
class Rows:
    """Inputs of at most two entries on some columns: ``places`` (R, 2) among these columns, ``values`` (R, 2)."""

    places: Tensor
    values: Tensor


def rows_of_few(inputs: Superposition, weights: Tensor, bias: float) -> Rows:
    """Rows on columns with these weights ``(m, o)``, float64 and not all zero, for biases up to this size."""
    fmt = format_of(inputs.dtype)
    generator = torch.Generator("cpu").manual_seed((inputs.seed + 1) & 0x7FFFFFFFFFFFFFFF)
    usable = weights.any(1).nonzero().flatten()
    weights, precision = weights[usable], fmt.precision

    def integers(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=generator, device="cpu")

    def mantissas(bits: Tensor) -> Tensor:
        odd = 2 * (integers(0, 2**62, len(bits)) % 2 ** (bits - 2).clamp(min=0)) + 1
        return torch.where(bits > 1, 1 + odd * torch.exp2(1.0 - bits.double()), 1.0)

    singles, powers = _SINGLE, _POWERS if bias else 0
    pairs = _PAIRS if len(usable) > 1 else 0
    total, alone = singles + powers + pairs, singles + powers
    first = torch.arange(total, device="cpu") % len(usable)
    second = (first + integers(1, max(2, len(usable)), total)) % len(usable)
    length = _bits(weights)
    # One entry has p bits, or as many as make a tie with some weight of j bits: p + 1 - j, or p + 2 - j.
    ties = precision + 1 + integers(0, 2, total) - length[first, integers(0, weights.shape[1], total)]
    bits = torch.where(integers(0, 3, total) == 0, ties.clamp(2, precision), precision)
    bits[singles:alone] = 1
    # Of two entries each product is a number of the dtype.
    longest = length.amax(1)
    exact = torch.where(longest > 1, (precision - longest).clamp(min=1), precision)
    bits[alone:] = exact[first[alone:]]
    shift = integers(-6, 7, total) if bias else torch.zeros(total, dtype=torch.int64, device="cpu")
    shift[:singles:4] = integers(-precision - 4, 0, len(shift[:singles:4]))
    shift[singles:alone] = integers(-precision - 3, precision + 4, powers)
    shift[alone:] = 0
    base = -torch.frexp(weights.abs().amax(1)).exponent.double() + (math.frexp(bias)[1] if bias else 0)
    exponent = base[first] + shift
    lowest, top = math.frexp(fmt.min_normal)[1] - 1, math.frexp(fmt.max)[1] - 2
    exponent[1:singles:8] = integers(lowest, top, len(exponent[1:singles:8])).double()  # of any size
    exponent[5:singles:8] = integers(max(lowest, -_REACH), min(top, _REACH), len(exponent[5:singles:8])).double()
    values = torch.zeros(total, 2, dtype=torch.float64, device="cpu")
    values[:, 0] = mantissas(bits) * torch.exp2(exponent.clamp(lowest, top))
    apart, other = integers(-1, precision + 3, pairs), second[alone:]
    values[alone:, 1] = mantissas(exact[other]) * torch.exp2((base[other] - apart).clamp(lowest, top))
    values *= 2.0 * integers(0, 2, total, 2) - 1
    return Rows(usable[torch.stack([first, second], 1)], values)


def _bits(weights: Tensor) -> Tensor:
    """How many bits of a weight there are from the first to the last that is 1."""
    whole = (torch.frexp(weights).mantissa * 2.0**53).to(torch.int64).abs()
    return 53 - torch.log2((whole & -whole).double().clamp(min=1)).long()


class RoundingTest:
    """Asks both sides, and says which of them rounds otherwise than right kernels do where their results differ."""

    def __init__(self, test: AffineTest) -> None:
        self.test, self.inputs, self.sides = test, test.inputs, test.sides
        self.count = 0  # of the rows that were asked for

    def run(self, weights_agree: bool) -> Misrounding | None:
        """The first function that does not round as it must; None as well where nothing can be told."""
        arithmetic, kept = self.inputs.arithmetic, [self.test.sums[side.name].kept for side in self.sides]
        if arithmetic.relative or arithmetic.output_rounding != "nearest":
            return None  # right kernels may round these sums in more than one way
        sizes = torch.stack([weights.real.abs() for weights in kept]).amax(0)
        outputs = _spread((sizes > 0).any(0).nonzero().flatten())
        if not len(outputs):
            return None
        biases = [zero.real.double()[outputs] for zero in self.test.zeros]
        self.rows = rows = rows_of_few(self.inputs, sizes[:, outputs].cpu(), max(float(b.abs().max()) for b in biases))
        self.count = len(rows.values)
        seen = self._results(rows, outputs)
        if bool(same_values(*seen).all()):
            return None
        weights = self._weights(outputs)
        # First with the weights of the other side, which may be a layer; then with what was read of the function.
        tried = [
            [self._against(rows, seen[side], weights[other], biases[other]) for other in (1 - side, side)]
            for side in (0, 1)
        ]
        right = [any(found.rounds_once for found in of if found.known) for of in tried]
        for side, found in enumerate(tried):
            if self.sides[side].layer is None and not right[side]:
                wrong = self._wrong(side, [f for f in found if f.known], right[1 - side], weights_agree)
                if wrong is not None:
                    return wrong
        return None

    def _wrong(self, side: int, found: list[Results], other_is_right: bool, weights_agree: bool) -> Misrounding | None:
        """What is wrong with results that are not rounded once; nothing in a function that rounds several times."""
        name, structure = self.sides[side].name, self.test.structures[self.sides[side].name]
        for results in found:
            direction = results.direction()
            if direction and (not structure.rounds_often or int((~results.nearest).sum()) >= _MANY):
                return self._misrounding(name, direction, results)
        # In the dtype of an accumulator, taps on one input, or an inner layer, are rounded before the result is.
        narrow = format_of(self.inputs.dtype).dtype.itemsize < 4
        if structure.rounds_often or not found or not (narrow or structure.single):
            return None
        wide = structure.is_seen and not structure.single
        if wide and any(results.with_error(_INNER * self.inputs.arithmetic.u).rounds_once for results in found):
            return None
        for results in found:
            if other_is_right and results.is_faithful:
                return self._misrounding(name, STOCHASTIC, results)
        strict = structure.is_seen or self.sides[1 - side].layer is not None
        return self._misrounding(name, None, found[0]) if strict and weights_agree else None

    def _misrounding(self, name: str, direction: str | None, results: Results) -> Misrounding:
        row, output = (~results.nearest).nonzero()[0].tolist()
        columns, entries = self.inputs.kept.cpu()[self.rows.places[row]].tolist(), self.rows.values[row].tolist()
        at = " + ".join(f"{x:.9g}*e{column}" for x, column in zip(entries, columns, strict=True) if x)
        exact, nearest = results.exact[row, output].item(), results.rounded[row, output].item()
        dtype, wrong = dtype_name(self.inputs.dtype), int((~results.nearest).sum())
        text = (
            f"{name} gives {results.seen[row, output].item():.9g} at {at}, where the exact result is {exact:.9g} and "
            f"the nearest {dtype} {nearest:.9g}: of {int(results.valid.sum()):,} results that right kernels round "
            f"once, {wrong:,} are not the nearest"
        )
        if direction is None:
            text += (
                ", nor do all come from another rounding. What rounds several times, as a layer with a factor behind "
                "it does, or holds weights of more bits, is no kernel of this layer: certify its parts, or pass "
                "arithmetic= if its roundings are documented"
            )
        return Misrounding(name, direction, text)

    def _results(self, rows: Rows, outputs: Tensor) -> list[Tensor]:
        """What each side returns for the rows at some outputs, the real part of complex results: float64 ``(R, o)``."""
        found: list[list[Tensor]] = [[], []]
        places, device = self.inputs.kept.cpu()[rows.places], self.inputs.device
        for start in range(0, len(places), self.test.rows):
            some = slice(start, start + self.test.rows)
            x = torch.zeros(len(places[some]), self.inputs.n, dtype=torch.float64, device="cpu")
            x = x.scatter_add_(1, places[some], rows.values[some]).to(device, self.inputs.dtype)
            for side, results in zip(self.sides, found, strict=True):
                results.append(side.run(x)[:, outputs].real.double())
        return [torch.cat(results) for results in found]

    def _weights(self, outputs: Tensor) -> list[Tensor]:
        """The weights of each side on the kept columns, float64 ``(m, o)``; NaN where they are not known exactly."""
        found, ones = [], self._one_hot()
        for side in self.sides:
            sums = self.test.sums[side.name]
            if side.layer is None:
                weights = torch.where(sums.kept_doubts[:, outputs] == 0, sums.kept[:, outputs].real, torch.nan)
            else:
                weights = side.run(ones, **without_bias(side))[:, outputs].real.double()
            found.append(weights)
        for side in self.sides:
            taps = taps_of_function(side, [ones]) if self.test.structures[side.name].repeats else None
            if taps is not None:  # several products land there, in any order
                found = [torch.where(taps.several[:, outputs], torch.nan, weights) for weights in found]
        return found

    def _one_hot(self) -> Tensor:
        x = torch.zeros(len(self.inputs.kept), self.inputs.n, dtype=self.inputs.dtype, device=self.inputs.device)
        return x.scatter_(1, self.inputs.kept[:, None], 1)

    def _against(self, rows: Rows, seen: Tensor, weights: Tensor, bias: Tensor) -> Results:
        """The results beside the exact sums of these weights."""
        arithmetic, fmt = self.inputs.arithmetic, format_of(self.inputs.dtype)
        places, values = (t.to(seen.device) for t in (rows.places, rows.values))
        (a, a_rest), (b, b_rest) = (
            two_product(weights[places[:, k]], values[:, k, None].expand(-1, len(bias))) for k in (0, 1)
        )
        products, rest = two_sum(a, b)
        rest = rest + a_rest + b_rest
        total = products + bias
        narrow, terms = fmt.dtype.itemsize < 4, (a != 0).double() + (b != 0) + (bias != 0)
        size = a.abs() + b.abs() + bias.abs()
        least, most = max(4 * fmt.min_normal, 2.0**-_MODERATE), min(fmt.max / 4, 2.0**_MODERATE)
        known = torch.stack([_between(t, least, most) for t in (products, total, a)]).all(0)
        known &= ((b == 0) | _between(b, least, most)) & (values.abs().amax(1, keepdim=True) <= 2.0**_MODERATE)
        known &= (bias == 0) | _between(bias.expand(total.shape), least, most)
        if narrow:
            known &= (products.float() == products) & (rest == 0)
            exact = (terms <= 2) & (two_sum(products, bias.expand(total.shape))[1] == 0) & (total.float() == total)
            error = torch.where(exact, 0.0, arithmetic.error(terms, size))
        else:  # the sum of a product and a bias is rounded in this dtype itself, or in a wider one
            known &= (b == 0) | (bias == 0)
            low, lost = two_sum(two_sum(products, bias.expand(total.shape))[1], rest)
            # A bias far below a tie of the product decides it where the two are added at once.
            error = torch.where(lost != 0, 2.0**-51 * low.abs(), 0.0)
            if fmt.precision < 53:
                error = torch.where(low != 0, 2.0**-53 * size, error)
        products, rest, error = (
            torch.where(known, t, fill) for t, fill in ((products, 1.0), (rest, 0.0), (error, 0.0))
        )
        return Results(seen, fmt.dtype, products, rest, bias, error, arithmetic.u if narrow else 0.0, known)


def _between(values: Tensor, least: float, most: float) -> Tensor:
    return (values.abs() >= least) & (values.abs() <= most)  # False for NaN


def _spread(places: Tensor) -> Tensor:
    """At most ``_OUTPUTS`` of the places, spread over all of them, the last one included."""
    step = -(-len(places) // _OUTPUTS)
    return places.flip(0)[:: max(1, step)].flip(0)
