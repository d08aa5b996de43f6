"""The kernels of two plain layers on random integers in place of their weights, at this shape, dtype and layout.

With integer weights ``w``, bias ``b`` and inputs ``x``, right kernels of two layers with the same dense matrix return
the same bits. Let a wrong one differ by any fixed map that is linear in ``b`` and in ``w`` and ``x`` each. In one draw
of ``w`` and ``b`` with ``r`` rows of ``x``, entries uniform on ``{-W..W}`` and ``{-R..R}``, it shows nothing with
probability at most ``1/(2W+1) + (2R+1)**-r`` (Schwartz 1980, Zippel 1979; for one fixed ``w`` this is Freivalds 1977);
``s`` draws multiply. Weights are rows of one random table, each from its own random place out of ``2**20``: two sums
of shifted rows cancel for at most one place, which adds ``2**-20`` to a draw and makes it nearly as cheap as a copy.

Integer dtypes compute modulo ``2**b``, which is no field, and that bound is not theirs: ``(w*x) << (b - 1)`` is zero
unless ``w`` and ``x`` are both odd, however many values they have. Let ``2**k``, ``k < b``, be the largest power of two
in all coefficients of the difference. It is zero only if the rest is, modulo ``2**(b-k)`` and so modulo 2, where it is
not the zero map and sees nothing of ``w``, ``x`` and ``b`` but their parities. So the argument is carried out over the
field of two elements. Ranges have as many odd as even integers; a linear form in independent fair bits that is not the
zero form takes either value with probability 1/2; so a draw shows nothing with probability at most
``1/2 + 2**-20 + 2**-(r+1)`` (a form in the bias: 1/2). The fault above attains it, but for the ``2**-20``.

Sums stay within the accumulator's exact range, so nothing rounds on the way: all of them, or for long sums each one but
for a chance below 1e-30 that no order of summation that is fixed beforehand can raise (right kernels would then be
called different, never the reverse). That is Hoeffding's bound for integers uniform on ``{-R..R}``, which are
sub-Gaussian with their variance ``R(R+1)/3`` for a factor: their moment generating function is a product of R terms
``1 + c*(cosh t - 1)`` whose c, each at least 1/2, add up to it, and each term is at most ``exp(c*t**2/2)``. A 16-bit
result is rounded at the end where it exceeds the integers that the dtype holds; only results below that are compared,
and the chance that a row is not is added to ``(2R+1)**-1``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from equiv.certificate.repeated_taps import repeats_inputs
from equiv.certificate.sides import Difference, Layer, Side, with_parameters
from equiv.dtypes import is_inexact
from equiv.mapping import conv_to_linear, covers, geometry_of
from equiv.numerics import Arithmetic, declared, entry_range, exact_range, format_of

_PLACES = 2**20
_RADII = (1, 2, 3, 5, 8, 13, 21, 55, 2**8, 2**12, 2**16)
_ROW_BYTES = 2**21
_CERTAIN = 70  # exp(-70) is below 1e-30
_WEIGHT_COST = 64  # putting weights in place and packing them costs about as much as this many rows of a batch


@dataclass(frozen=True)
class Plan:
    """How weights, bias and inputs are drawn.

    Of integer dtypes the lowest integers are left out, and for uint8 the highest are odd: as many odd as even ones.
    """

    weight: int  # largest integer W of a weight
    bias: int  # of a bias entry
    input: int  # largest integer R of an input
    rows: int  # r, the batch
    draws: int  # s
    miss: float  # bound on the probability that one draw shows nothing
    sharp: int | None = None  # results up to this size are compared; None for all

    @property
    def error_probability(self) -> float:
        """Bound on the probability that a wrong kernel passes."""
        return self.miss**self.draws


def plan(
    terms: int,
    dtype: torch.dtype,
    device: torch.device,
    repeats: int,
    wanted: float,
    arithmetic: Arithmetic | None = None,
) -> Plan | None:
    """The cheapest way to stay below an error probability, or None where the dtype is too narrow for exact sums.

    ``terms`` is the length of the longest sum; one entry of the dense matrix is a sum of at most ``repeats`` weights.
    ``arithmetic`` is what the kernels compute in, by default what is declared: no sum is exact in an accumulator that
    is narrower. In integer dtypes a draw halves the probability, hardly more: 1e-12 takes 42 draws instead of 3.

    Example:
        >>> found = plan(25088, torch.float32, torch.device("cpu"), 1, 1e-12)
        >>> found.draws, found.error_probability < 1e-12
        (3, True)
    """
    if is_inexact(dtype):
        arithmetic = arithmetic or declared(dtype, device)
        if arithmetic.u > declared(dtype, device).u:
            return None
        largest = min(entry_range(dtype), 2**53) // (repeats * (2 if dtype.is_complex else 1))
        if arithmetic.relative and format_of(dtype).dtype == torch.float32:
            largest = min(largest, 2**7)  # what TF32 and bfloat16 products still hold
        kinds = _of_sixteen_bits if format_of(dtype).precision < 24 else _of_floats
        plans = kinds(terms, dtype, largest)
    else:
        plans = _of_integers(terms, dtype, repeats)
    found = (_with_draws(plan, wanted) for plan in plans if plan.miss < 1)
    return min(found, key=lambda plan: plan.draws * (_WEIGHT_COST + plan.rows), default=None)


def _with_draws(found: Plan, wanted: float) -> Plan:
    """The same with as many draws as the error probability takes."""
    draws = max(1, math.ceil(math.log(wanted) / math.log(found.miss)))
    while found.miss**draws > wanted:
        draws += 1
    return replace(found, draws=draws)


def _of_floats(terms: int, dtype: torch.dtype, largest: int) -> Iterator[Plan]:
    budget = exact_range(dtype)
    budget //= 4 if dtype.is_complex else 1  # (|wr|+|wi|)(|xr|+|xi|): a conv that multiplies with three products
    bias = min(largest, budget // 10)
    for radius in _RADII:
        factor = radius * (radius + 1) / 3
        likely = int(budget * 0.9 / math.sqrt(2 * factor * terms * _CERTAIN))
        weight = min(largest, max(likely, budget * 9 // 10 // (terms * radius)))
        if min(weight, bias) < 1 or radius > largest:
            continue
        for rows in (1, 2, 4, 8, 16, 32):  # kernels are made for such batches
            miss = max(1 / (2 * weight + 1) + 1 / _PLACES + (2 * radius + 1.0) ** -rows, 1 / (2 * bias + 1))
            yield Plan(weight, bias, radius, rows, 0, miss)


def _of_integers(terms: int, dtype: torch.dtype, repeats: int) -> Iterator[Plan]:
    """Weights and inputs of about the same size, as only their parities count; no sum leaves the range of the dtype."""
    budget = min(entry_range(dtype), 2**53)
    bias = min(budget // 10, budget // repeats)
    found: tuple[int, int] | None = None
    for radius in _RADII:
        weight = min(budget // repeats, budget * 9 // 10 // (terms * radius))
        if not dtype.is_signed:
            radius, weight, bias = (value - (value + 1) % 2 for value in (radius, weight, bias))
        if weight >= (radius if found else 1):
            found = weight, radius
    if found is not None and bias >= 1:
        for rows in range(1, 33):
            yield Plan(found[0], bias, found[1], rows, 0, 1 / 2 + 1 / _PLACES + 0.5 ** (rows + 1))


def _of_sixteen_bits(terms: int, dtype: torch.dtype, largest: int) -> Iterator[Plan]:
    sharp = entry_range(dtype) - 1
    bias = sharp // 16
    for weight in range(1, min(largest, 2**24 // (2 * terms)) + 1):
        # A row is compared where |s + b| <= sharp - bias; then |s| <= sharp, and neither sum rounds, in any order.
        tail = 2 * math.exp(-((sharp - 2 * bias) ** 2) / (2 * (2 / 3) * terms * weight**2))
        silent = 1 / 3 + tail
        if silent > 0.9:
            break
        for rows in (1, 2, 4, 8, 16, 32, 64):
            miss = max(1 / (2 * weight + 1) + 1 / _PLACES + silent**rows, 1 / (2 * bias + 1) + silent**rows)
            yield Plan(weight, bias, 1, rows, 0, miss, sharp - bias)


@dataclass(frozen=True)
class Pair:
    """Candidate and reference, two plain layers whose weights can be replaced by the same integers."""

    sides: tuple[Side, Side]
    layers: tuple[Layer, Layer]
    shape: tuple[int, ...]
    source: Layer  # whose own weight is drawn; the other takes the dense matrix, or the same weight
    terms: int  # of the longest sum
    repeats: int = 1  # how many weights may be added up in one entry of the dense matrix


def pair_of(sides: tuple[Side, Side], layers: tuple[Layer, Layer], shape: tuple[int, ...]) -> Pair | None:
    """Which weight to draw, or None where neither layer can hold what the other does for every weight."""
    general = [layer for layer in layers if not covers(layer, shape)]
    if not general:
        return Pair(sides, layers, shape, layers[0], math.prod(shape))
    source = general[0]
    if len(general) == 2 and geometry_of(layers[0]) != geometry_of(layers[1]):
        return None
    taps = math.prod(source.weight.shape[2:])
    return Pair(sides, layers, shape, source, source.weight.shape[1] * taps, taps if repeats_inputs(source) else 1)


class Weights:
    """The integers of one draw after another, put into memory of the layers' own layout that is allocated once."""

    def __init__(self, pair: Pair, chosen: Plan) -> None:
        self.pair, self.chosen = pair, chosen
        weight = pair.source.weight
        self.dtype, self.device = weight.dtype, weight.device
        self.columns = weight[0].numel()
        self._drawn_covers = covers(pair.source, pair.shape)
        self._biased = all(layer.bias is not None for layer in pair.layers)
        shared = [layer for layer in pair.layers if self._takes_drawn(layer)]
        self._memory = weight.new_empty(max(_span(layer.weight) for layer in shared), requires_grad=False)
        self._table = weight.new_empty(_PLACES + self.columns, requires_grad=False)

    def _takes_drawn(self, layer: Layer) -> bool:
        """Whether a layer takes the drawn weight itself, not its dense matrix."""
        return covers(layer, self.pair.shape) == self._drawn_covers

    def draw(self, seed: int) -> Tensor:
        """Start a draw; returns its inputs ``(rows, n)``."""
        generator = torch.Generator("cpu").manual_seed(seed & 0x7FFFFFFFFFFFFFFF)
        chosen, outputs = self.chosen, self.pair.source.weight.shape[0]
        self._table.copy_(self._integers(chosen.weight, self._table.shape, generator))
        self._places = torch.randint(0, _PLACES, (outputs,), generator=generator, device="cpu").to(self.device)
        self._bias = self._integers(chosen.bias, (outputs,), generator)
        self._held: tuple[int, ...] | None = None
        return self._integers(chosen.input, (chosen.rows, math.prod(self.pair.shape)), generator)

    def run(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Results of candidate and reference on this draw, and where they differ."""
        sides = zip(self.pair.sides, self.pair.layers, strict=True)
        a, b = (side.run(x, **self._parameters(layer)) for side, layer in sides)
        sharp = self.chosen.sharp
        wrong = a != b
        return a, b, wrong if sharp is None else wrong & ~(torch.minimum(a.abs(), b.abs()) > sharp)  # NaN counts

    def _parameters(self, layer: Layer) -> dict[str, Tensor]:
        """The draw's weight, and bias if both layers have one, as ``layer`` takes them; valid until the next call."""
        own = self._takes_drawn(layer)
        weight, bias = self._fill(layer if own else self.pair.source), self._bias
        if not own:
            dense = conv_to_linear(with_parameters(self.pair.source, weight, bias), self.pair.shape)
            weight = _placed(dense.weight.detach().view(layer.weight.shape), layer.weight)
            bias = dense.bias.detach()
        if layer.bias is None:
            return {"weight": weight}
        return {"weight": weight, "bias": bias if self._biased else torch.zeros_like(layer.bias, requires_grad=False)}

    def exact(self, x: Tensor, output: int) -> int | None:
        """The right result of one output without bias for one row, where the drawn weight is the dense matrix."""
        if not self._drawn_covers or x.is_complex():
            return None
        place = int(self._places[output])
        row = self._table[place : place + self.columns]
        return int((row.to(torch.int64) * x.to(torch.int64)).sum())

    def _fill(self, layer: Layer) -> Tensor:
        held = self._memory.as_strided(layer.weight.shape, _strides(layer.weight))
        # Contiguous weights of any shape hold the same rows of integers in the same memory.
        layout = () if held.is_contiguous() else (*held.shape, *held.stride())
        if self._held == layout:
            return held
        windows = self._table.as_strided((_PLACES, self.columns), (1, 1))
        if held.is_contiguous():
            torch.index_select(windows, 0, self._places, out=held.view(len(held), -1))
        else:
            step = max(1, _ROW_BYTES // (self.columns * held.element_size()))
            for start in range(0, len(held), step):
                rows = torch.index_select(windows, 0, self._places[start : start + step])
                held[start : start + step].copy_(rows.view(-1, *held.shape[1:]))
        self._held = layout
        return held

    def _integers(self, radius: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        low = -radius
        if not is_inexact(self.dtype):  # as many odd integers as even ones
            low = 0 if not self.dtype.is_signed else 1 - radius
        kind = torch.int32 if radius < 2**31 - 1 else torch.int64

        def draw() -> Tensor:
            return torch.randint(low, radius + 1, shape, generator=generator, dtype=kind, device="cpu").to(self.device)

        if self.dtype.is_complex:
            part = format_of(self.dtype).dtype
            return torch.complex(draw().to(part), draw().to(part))
        return draw().to(self.dtype)


def probe(weights: Weights, x: Tensor) -> tuple[Difference, int | None] | None:
    """Run both kernels on one draw: None, or a difference at a single input with the exact result if it is known."""
    a, b, wrong = weights.run(x)
    if not bool(wrong.any()):
        return None
    row, output = wrong.nonzero()[0].tolist()
    single, index, exact = torch.zeros_like(x), None, None  # the same batch: kernels change with it
    a, b, wrong = weights.run(single)
    if not bool(wrong[:, output].any()):
        index = _bisect(weights, x, row, output)
    if index is not None:
        single[row, index] = x[row, index]
        a, b, _ = weights.run(single)
        exact = weights.exact(single[row], output)
    return Difference(output, index, a[row, output].item(), b[row, output].item()), exact


def _bisect(weights: Weights, x: Tensor, row: int, output: int) -> int | None:
    """An input that alone makes the two results differ: kernels that are linear in x must have one."""
    low, high = 0, x.shape[1]
    while high - low > 1:
        middle = (low + high) // 2
        for start, stop in ((low, middle), (middle, high)):
            part = torch.zeros_like(x)
            part[row, start:stop] = x[row, start:stop]
            if bool(weights.run(part)[2][row, output]):
                low, high = start, stop
                break
        else:
            return None  # not linear: no half shows it
    return low


def _placed(values: Tensor, like: Tensor) -> Tensor:
    if values.stride() == _strides(like):
        return values
    return values.new_empty(_span(like)).as_strided(like.shape, _strides(like)).copy_(values)


def _strides(weight: Tensor) -> tuple[int, ...]:
    """The weight's own strides; those of a contiguous one where its entries share memory or lie far apart."""
    own = sorted((stride, size) for stride, size in zip(weight.stride(), weight.shape, strict=True) if size > 1)
    reach, apart = 0, True
    for stride, size in own:
        apart &= stride > reach
        reach += stride * (size - 1)
    usable = apart and reach < 2 * weight.numel()
    return weight.stride() if usable else torch.empty(weight.shape, device="meta").stride()


def _span(weight: Tensor) -> int:
    return 1 + sum(stride * (size - 1) for stride, size in zip(_strides(weight), weight.shape, strict=True))
