"""The outputs of a layer recomputed under each mistake, and compared with what was seen.

Letters: x (N, n), w (O, n), b (O,), e = x w' + b the exact outputs, a the outputs seen, S = |x| |w|' + |b|. A
hypothesis h explains a when |a - h| <= bound + (n + 4) * 2^-52 * S everywhere, the second term being what float64 costs
here. Products are tried on the row of the worst output first, and in full only where that row fits. A bound that covers
every order of summation is wide for long sums, so that several may fit: each comes with its distance, the root mean
square of |a - h| / S.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from equiv.causes.mistakes import Cause, cause_of, column_mistakes, weight_changes
from equiv.causes.permutations import in_words, undone
from equiv.causes.recognition import recognised
from equiv.causes.roundings import ROUNDINGS, flushed, rounded
from equiv.dtypes import is_inexact
from equiv.numerics import format_of

_WEIGHTS = 2**22  # above, only the worst rows and outputs enter products
_WORST = 64
_ROWS_OF_BIAS = 3  # rows that must be off by the same
_PAIRS = 2**25  # entries compared when rows are matched with rows


class Found(NamedTuple):
    """A mistake that explains the outputs, and how closely."""

    cause: Cause
    distance: float


class Outputs:
    """The outputs to explain, everything that went into them, and the test of a hypothesis.

    Of a large layer some rows and outputs enter products, the worst first: ``a``, ``e``, ``bound``, ``xs``, ``ws`` and
    ``b`` are those; of any other layer, all of them.
    """

    def __init__(
        self, actual: Tensor, expected: Tensor, inputs: tuple[Tensor, Tensor, Tensor | None], bound: Tensor | float
    ) -> None:
        x, weight, bias = inputs
        self.dtype = actual.dtype
        self.real, self.integer = actual.is_floating_point(), not is_inexact(actual.dtype)
        self.wide = torch.int64 if self.integer else torch.complex128 if actual.is_complex() else torch.float64
        self.actual, self.expected = _on_cpu(actual).to(self.wide), _on_cpu(expected).to(self.wide)
        self.half_ulp = format_of(self.dtype).u if self.real and self.dtype.itemsize == 2 else 0.0
        self.x, self.w = _on_cpu(x), _on_cpu(weight)
        self.bias = torch.zeros(len(weight), dtype=self.wide) if bias is None else _on_cpu(bias).to(self.wide)
        self.every_bound = torch.as_tensor(bound).detach().cpu().to(torch.float64).expand(actual.shape)
        self.rows, self.outs = torch.arange(len(self.x)), torch.arange(len(self.w))
        excess = self.excess(self.actual, self.expected, self.every_bound)
        if self.w.numel() > _WEIGHTS:
            self.rows, self.outs = _worst(excess.amax(1)), _worst(excess.amax(0))
        self.a, self.e, self.bound = map(self.entered, (self.actual, self.expected, self.every_bound))
        self.x, self.w = self.x[self.rows], self.w[self.outs]
        self.xs, self.ws, self.b = self.x.to(self.wide), self.w.to(self.wide), self.bias[self.outs]
        at = int(self.entered(excess).argmax()) if self.a.numel() else 0
        self.row, self.out = divmod(at, max(1, len(self.outs)))
        real = torch.float64 if self.integer else self.wide
        self.size = self.xs.to(real).abs() @ self.ws.to(real).abs().T + self.b.to(real).abs()  # S
        self.slack = self.size * (0.0 if self.integer else (self.w.shape[1] + 4) * 2.0**-52)

    def entered(self, h: Tensor) -> Tensor:
        """The rows and outputs of h (N, O) that enter products."""
        return h[self.rows][:, self.outs]

    def excess(self, a: Tensor, h: Tensor, bound: Tensor | float) -> Tensor:
        """How far |a - h| exceeds the bound; infinite where it is no number."""
        h = h.to(self.dtype).to(torch.int64) if self.integer else h
        far = (a - h).abs().to(torch.float64) - bound
        if self.half_ulp:  # the bound knows the rounding of e alone
            far = torch.where(torch.as_tensor(bound) > 0, far - self.half_ulp * h.abs(), far)
        alike = (a == h) | ((a != a) & (h != h))
        return torch.where(alike, torch.zeros_like(far), far.nan_to_num(nan=torch.inf))

    def distance(self, h: Tensor) -> float:
        """Root mean square of |a - h| / S over what enters products; 0 where both are the same infinity or NaN."""
        far = self.excess(self.a, h, 0.0) / self.size
        return float(torch.where(far.isfinite(), far, torch.zeros_like(far)).square().mean().sqrt())

    def explained_by(self, h: Tensor, times: float = 1.0) -> bool:
        """Whether all outputs lie within so many bounds of h (N, O), without slack: h came from e."""
        return bool((self.excess(self.actual, h, times * self.every_bound) <= 0).all())

    def whole(self, cause: Cause, h: Tensor, times: float = 1.0) -> Iterator[Found]:
        """The cause, if h (N, O), whose rounding may be ``times`` that of e, explains every output."""
        if self.explained_by(h, times):
            yield Found(cause, self.distance(self.entered(h)))

    def product(self, x: Tensor, w: Tensor) -> Tensor:
        """The hypothesis x w' + b."""
        return x @ w.T + self.b

    def parts(self, cause: Cause, hypothesis: Callable[[Tensor], Tensor], x: Tensor | None = None) -> Iterator[Found]:
        """The cause, if hypothesis(x) explains the worst row, and then every row; x replaces the inputs."""
        if not self.a.numel():
            return
        xs = self.xs if x is None else x
        for part in (slice(self.row, self.row + 1), slice(None)):
            h = hypothesis(xs[part])
            if not bool((self.excess(self.a[part], h, self.bound[part]) <= self.slack[part]).all()):
                return
        yield Found(cause, self.distance(h))


_named = partial(cause_of, outputs=True)


def output_causes(y: Outputs, feature_shape: tuple[int, ...]) -> Iterator[Found]:
    """Every mistake that explains the outputs, the more specific ones first."""
    yield from _zero_and_bias(y)
    yield from weight_causes(y, feature_shape)
    yield from _moved(y)
    if y.real:
        yield from y.whole(_named("output-clamped"), y.expected.clamp(min=0))
        yield from y.whole(_named("output-absolute"), y.expected.abs())
    yield from _scaled(y)
    if not y.integer:
        yield from _flushed(y)
    if y.real:
        yield from (Found(cause, distance) for cause, distance in recognised(y))
    elif not y.integer:
        yield from _lossy_inputs(y)


def weight_causes(y: Outputs, feature_shape: tuple[int, ...]) -> Iterator[Found]:
    """Mistakes of the weight and of the length of the sums."""
    yield from _wrong_columns(y, feature_shape)
    yield from _wrong_length(y)


def closest(y: Outputs, found: Iterable[Found]) -> Cause | None:
    """The first, unless a later one is twice as close; None if none is twice as close as the right layer."""
    best, far = None, y.distance(y.e)
    as_right = format_of(y.dtype).u if is_inexact(y.dtype) else 0.0
    for each in found:
        if each.distance <= far / 2:
            best, far = each.cause, each.distance
        if best is not None and far <= as_right:  # profiles come last, and cost most
            break
    return best


def _zero_and_bias(y: Outputs) -> Iterator[Found]:
    e, b = y.expected, y.bias
    yield from y.whole(_named("output-zero"), torch.zeros_like(e))
    yield from y.whole(_named("product-missing"), b.expand_as(e))
    yield from y.whole(_named("bias-dropped"), e - b)
    yield from y.whole(_named("bias-doubled"), e + b)
    yield from y.whole(_named("bias-negated"), e - 2 * b)
    yield from _other_bias(y)


def _other_bias(y: Outputs) -> Iterator[Found]:
    """Another bias: every row is off by the same. Its entries are known up to the rounding of the results alone."""
    e, b = y.expected, y.bias
    if not y.real or len(e) < _ROWS_OF_BIAS or not bool(y.actual.isfinite().all()):
        return
    off = (y.actual - e).median(0).values
    wrong = (off.abs() > y.every_bound.amax(0)).nonzero().flatten().tolist()
    if not wrong:
        return
    near = y.every_bound.amax(0)
    place = (b[None] - (b + off)[:, None]).abs().argmin(1)  # which entry each became
    if not bool(b.any()):
        cause = _named("bias-added")
    elif len(set(place.tolist())) == len(b) and bool(((b[place] - b - off).abs() <= near).all()):
        cause, off = _named("bias-permuted", moved=in_words(place)), b[place] - b
    elif len(wrong) == 1:
        row = wrong[0]
        versus = f"{float(b[row] + off[row]):.6g} instead of {float(b[row]):.6g}"
        cause = _named("bias-one-entry", row=row, versus=versus)
    else:
        cause = _named("bias-unknown", as_well="")
    yield from y.whole(cause, e + off)


def _wrong_columns(y: Outputs, feature_shape: tuple[int, ...]) -> Iterator[Found]:
    for mistake in column_mistakes(feature_shape):
        back = torch.argsort(mistake.index)  # sum_j x_j w[index_j] = sum_k x[back_k] w_k
        yield from y.parts(mistake.cause, lambda x, back=back: y.product(x[:, back], y.ws))  # type: ignore[misc]
    for cause, change in weight_changes():
        changed = change(y.ws).to(y.wide)
        yield from y.parts(cause, lambda x, changed=changed: y.product(x, changed))  # type: ignore[misc]
    if len(y.bias) == y.w.shape[1] == len(y.outs):
        cause = _named("weight-transposed", shape=tuple(y.w.shape))
        yield from y.parts(cause, lambda x: y.product(x, y.ws.T))


def _wrong_length(y: Outputs) -> Iterator[Found]:
    """The last or first k of n terms missing, or the last k counted twice; k read off the worst output."""
    n = y.w.shape[1]
    if not y.a.numel():
        return
    terms = y.xs[y.row] * y.ws[y.out]
    head = terms.cumsum(0)
    tail = terms.flip(0).cumsum(0).flip(0)  # tail[m] = sum of terms m .. n-1
    at = y.row, y.out

    def places(h: Tensor) -> list[int]:
        """The m, neither 0 nor n, for which h[m] explains the worst output."""
        fits = y.excess(y.a[at].expand(len(h)), h, y.bound[at]) <= y.slack[at]
        return [m for m in fits.nonzero().flatten().tolist() if m > 0]

    b, ws = y.b[y.out], y.ws
    for m in places(b + head - terms)[::-1][:32]:  # terms 0 .. m-1
        cause = _named("reduction-cut-short", count=n - m, n=n, start=m, what="terms are missing")
        yield from y.parts(cause, lambda x, m=m: y.product(x[:, :m], ws[:, :m]))  # type: ignore[misc]
    for m in places(b + tail)[:32]:  # terms m .. n-1
        cause = _named("reduction-starts-late", count=m, n=n, what="terms are missing")
        yield from y.parts(cause, lambda x, m=m: y.product(x[:, m:], ws[:, m:]))  # type: ignore[misc]
    for m in places(b + head[-1] + tail)[::-1][:32]:
        cause = _named("reduction-overlaps", count=n - m, n=n, start=m)
        twice = ws.clone()
        twice[:, m:] *= 2
        yield from y.parts(cause, lambda x, twice=twice: y.product(x, twice))  # type: ignore[misc]


def _moved(y: Outputs) -> Iterator[Found]:
    """Rows of the batch, or output features, in another order or all the same."""
    for name, dim, a, e, bound in (
        ("batch", 0, y.actual, y.expected, y.every_bound),
        ("outputs", 1, y.actual.T, y.expected.T, y.every_bound.T),
    ):
        count = len(a)
        if count < 2:
            continue

        def distance(h: Tensor, turn: int = dim) -> float:
            return y.distance(y.entered(h.T if turn else h))

        index = source = None
        if count * a.numel() > _PAIRS:
            shift = _shift(a, e, bound)
            index = torch.arange(count).roll(shift) if shift else None
        else:
            hit = torch.stack([_alike(row, e, bound) for row in a])  # hit[i, j]: a_i may be e_j
            index, source = _assignment(hit), next(iter(hit.all(0).nonzero().flatten().tolist()), None)
        if index is not None and not torch.equal(index, torch.arange(count)):
            cause = _named(f"{name}-permuted", moved=in_words(index), undo=undone(index, dim))
            yield Found(cause, distance(e[index]))
        if source is not None:
            cause = _named(f"{name}-repeated", count=count, source=source)
            yield Found(cause, distance(e[source].expand_as(e)))


def _alike(row: Tensor, e: Tensor, bound: Tensor) -> Tensor:
    """For every row of e, whether this row lies within its bound."""
    return (((row - e).abs() <= bound) | (row == e) | ((row != row) & (e != e))).all(1)


def _shift(a: Tensor, e: Tensor, bound: Tensor) -> int:
    """The k for which every row of a is k rows after its like in e; 0 if there is none."""
    worst = int(((a - e).abs() - bound).amax(1).argmax())
    for j in _alike(a[worst], e, bound).nonzero().flatten().tolist()[:8]:
        shift = worst - j
        if bool(((a - e.roll(shift, 0)).abs() <= bound.roll(shift, 0)).all()):
            return int(shift)
    return 0


def _assignment(hit: Tensor) -> Tensor | None:
    """A permutation inside hit (m, m), those in place first; None if the greedy choice finds none."""
    m = len(hit)
    index = torch.full((m,), -1)
    index[hit.diagonal()] = torch.arange(m)[hit.diagonal()]
    free = ~hit.diagonal()
    for i in (index < 0).nonzero().flatten().tolist():
        choice = (hit[i] & free).nonzero().flatten()
        if not len(choice):
            return None
        index[i] = choice[0]
        free[choice[0]] = False
    return index


def _scaled(y: Outputs) -> Iterator[Found]:
    """A whole factor or divisor, of the output or of the product without the bias; read off two outputs at least."""
    e, b = y.expected, y.bias
    yield from y.whole(_named("output-negated"), -e)
    yield from y.whole(_named("product-negated"), 2 * b - e)
    if y.integer or e.numel() < 2:
        yield from y.whole(_named("product-doubled"), 2 * e - b)
        return
    for name, shift in (("output-scaled", torch.zeros_like(b)), ("product-scaled", b)):
        at = divmod(int((e - shift).abs().nan_to_num(0, 0, 0).argmax()), e.shape[1])
        ratio = ((y.actual - shift)[at] / (e - shift)[at]).real.item()
        if not 2.0**-20 < abs(ratio) < 2.0**20:
            continue
        for factor in sorted({float(round(ratio)), float(round(1 / ratio))} - {-1.0, 0.0, 1.0}):
            by = f"{factor:g}"
            cause = _named(name, scaled=f"multiplied by {by}", undo=f"/ {by}")
            yield from y.whole(cause, (e - shift) * factor + shift, max(1.0, abs(factor)))
            undo = f"* {by}" if name == "output-scaled" else None  # it would multiply the rounding of the bias too
            cause = _named(name, scaled=f"divided by {by}", undo=undo)
            yield from y.whole(cause, (e - shift) / factor + shift)


def _lossy_inputs(y: Outputs) -> Iterator[Found]:
    """Complex inputs, weights or both rounded before they are multiplied; of real ones `recognition` knows more."""
    for name in ROUNDINGS:
        x, w = rounded(y.x, name).to(y.wide), rounded(y.w, name).to(y.wide)
        yield from _changed(y, name, x, w, when=" before they are multiplied")


def _changed(y: Outputs, name: str, x: Tensor, w: Tensor, when: str = "") -> Iterator[Found]:
    """Inputs and weights as x and w, or one of the two."""
    for what, xs, ws in (("inputs and weights", x, w), ("weights", y.xs, w), ("inputs", x, y.ws)):
        setting = None if name in ROUNDINGS and what != "inputs and weights" else ""  # no setting rounds one alone
        cause = _named(name, what=what, when=when, setting=setting)
        yield from y.parts(cause, lambda x, ws=ws: y.product(x, ws), xs)  # type: ignore[misc]


def _flushed(y: Outputs) -> Iterator[Found]:
    """Subnormal inputs, outputs, or both replaced by zero."""
    name = "subnormals-flushed"
    x, w = flushed(y.x, y.x.dtype).to(y.wide), flushed(y.w, y.w.dtype).to(y.wide)
    yield from _changed(y, name, x, w)
    yield from y.whole(_named(name, what="outputs"), flushed(y.expected, y.dtype))
    cause = _named(name, what="inputs, weights and outputs")
    yield from y.parts(cause, lambda x: flushed(y.product(x, w), y.dtype), x)


def _worst(excess: Tensor) -> Tensor:
    """The places with the largest excess, half of them, with as many spread evenly over all."""
    m = len(excess)
    if m <= _WORST:
        return torch.arange(m)
    top = excess.topk(_WORST // 2).indices.tolist()
    return torch.tensor(sorted({*top, *range(0, m, -(-m // (_WORST // 2)))}))


def _on_cpu(values: Tensor) -> Tensor:
    return values.detach().cpu().resolve_conj().resolve_neg()
