"""Name the likely mistake: the one slip that turns the right layer, or its right output, into what was seen.

A cause is reported only where it fits: bit for bit between two weights, within the caller's bound between two outputs.
Between several that fit equally well, the more specific one wins, in the order of the lists. Nothing here decides
whether two layers are equivalent; it explains a difference that is already known. What the slips do is in
`equiv.causes.mistakes`, for outputs in `equiv.causes.outputs`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from equiv.causes.mistakes import ROUNDINGS, column_slips, flushed, matching, permutation_words, rounded, same
from equiv.causes.outputs import Outputs, output_causes
from equiv.errors import EquivError
from equiv.mapping import FeatureShape, check_feature_shape
from equiv.numerics import format_of, from_ordinal, gap_words, ordinal


@dataclass(frozen=True)
class Cause:
    """A mistake that explains a difference.

    Attributes:
        name: a stable slug such as "flattened-hwc", "bias-dropped" or "rounded-bfloat16".
        sentence: what happened, with its numbers.
        fix: the line of code that mends it; empty where there is none.
    """

    name: str
    sentence: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.sentence}"


def name_cause(
    candidate_weight: Tensor,
    reference_weight: Tensor,
    feature_shape: FeatureShape,
    candidate_bias: Tensor | None = None,
    reference_bias: Tensor | None = None,
) -> Cause | None:
    """Name the slip that turns the reference layer into the candidate, exactly; None if equal or if none fits.

    Zeros of both signs are equal, NaNs are equal; a missing bias is a bias of zeros. Where weight and bias both differ,
    the weight's slip must fit, and the sentence says what is known of the bias.

    Args:
        candidate_weight: (O, n), the layer that is wrong, as a dense matrix; a convolution goes through
            ``equiv.conv_to_linear`` first.
        reference_weight: (O, n), the layer that is right. Different dtypes are compared in their common one.
        feature_shape: (C, *spatial) with product n, the map that is flattened into the columns.
        candidate_bias: (O,) or None.
        reference_bias: (O,) or None.

    Raises:
        EquivError: the shapes do not fit each other or the feature shape.

    Example:
        >>> import torch
        >>> from equiv.causes import name_cause
        >>> right = torch.arange(12.0).view(1, 12)
        >>> wrong = right.view(1, 2, 2, 3).permute(0, 3, 1, 2).reshape(1, 12)  # read as (H, W, C)
        >>> name_cause(wrong, right, (3, 2, 2)).name
        'flattened-hwc'
        >>> name_cause(right, right, (3, 2, 2)) is None
        True
    """
    shape = _check_weights(candidate_weight, reference_weight, feature_shape)
    out = len(reference_weight)
    w, r = _common(candidate_weight, reference_weight)
    b, c = _common(
        _bias_or_zeros("candidate_bias", candidate_bias, r), _bias_or_zeros("reference_bias", reference_bias, r)
    )
    with torch.device("cpu"):
        bias_differs = not same(b, c)
        if same(w, r):
            return _bias_cause(b, c) if bias_differs else None
        if out > 1 and bias_differs and w.dtype == b.dtype:
            rows = matching(torch.cat([w, b[:, None]], 1), torch.cat([r, c[:, None]], 1))
            if rows is not None:
                return Cause("outputs-permuted", f"output features {permutation_words(rows)}, weight and bias alike")
        cause = next(_weight_causes(w, r, shape), None)
        if cause is None or not bias_differs:
            return cause
        also = _bias_cause(b, c)
        return Cause(cause.name, f"{cause.sentence}; {'the bias differs as well' if also is None else also.sentence}")


def name_output_cause(
    actual: Tensor,
    expected_exact: Tensor,
    *,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    feature_shape: FeatureShape,
    bound: Tensor | float,
) -> Cause | None:
    """Name the slip under which every output is what was seen, within ``bound``; None if the plain layer fits too.

    Of several that fit, the first wins unless a later one is twice as close (root mean square of the errors in units of
    sum |w||x| + |b|); the first must be twice as close as the right layer.

    Each slip is computed in float64 (complex128, int64) from x, weight and bias, first for the worst row alone, and in
    full where that fits. Of layers above 2^22 weights only 64 rows and outputs, the worst first, enter the products.

    Args:
        actual: (N, O), the outputs to explain, in the dtype that the kernel returned.
        expected_exact: (N, O), the right ones, in float64 (complex128, or int64 for integers).
        x: (N, n), the inputs.
        weight: (O, n).
        bias: (O,) or None.
        feature_shape: (C, *spatial) with product n.
        bound: (N, O) or a number, how far a right kernel's output may lie from the exact one. 0 asks for equality.

    Raises:
        EquivError: the shapes do not fit each other or the feature shape.

    Example:
        >>> import torch
        >>> from equiv.causes import name_output_cause
        >>> x, w, b = torch.ones(2, 4), torch.arange(4.0).view(1, 4), torch.tensor([10.0])
        >>> exact = (x @ w.T + b).double()
        >>> name_output_cause(x @ w.T, exact, x=x, weight=w, bias=b, feature_shape=(1, 2, 2), bound=0.0).name
        'bias-dropped'
    """
    shape = check_feature_shape(feature_shape)
    _check_outputs(actual, expected_exact, x, weight, bias, shape, bound)
    with torch.device("cpu"), torch.no_grad():
        outputs = Outputs(actual, expected_exact, x, weight, bias, shape, bound)
        if outputs.explained_by(outputs.expected):
            return None
        best = None
        far = outputs.distance(outputs.expected[outputs.rows][:, outputs.outs])
        for found in output_causes(outputs):
            if found.distance <= far / 2:
                best, far = Cause(found.name, found.sentence), found.distance
            if far == 0:
                break
        return best


def _weight_causes(w: Tensor, r: Tensor, shape: tuple[int, ...]) -> Iterator[Cause]:
    """Every slip that turns r into w, both (O, n) and different somewhere; the more specific ones first."""
    if not bool(w.any()):
        yield Cause("weight-zero", "every weight is zero")
    yield from _cut_short(w, r)
    row = int(_wrong(w, r).any(1).nonzero()[0])  # a slip that does not explain this row is not tried on the others
    for slip in column_slips(shape):
        if same(w[row], r[row, slip.index]) and same(w, r[:, slip.index]):
            yield Cause(slip.name, slip.sentence)
    if w.shape[0] == w.shape[1] and same(w, r.T):
        yield Cause("weight-transposed", f"the weight {tuple(w.shape)} is transposed")
    yield from _permuted(w, r, shape)
    if w.numel() > 1:
        yield from _one_entry(w, r, shape)
    yield from _scaled(w, r)
    for name, words in ROUNDINGS.items():
        if same(w[row], rounded(r[row], name)) and same(w, rounded(r, name)):
            yield Cause(name, f"weights rounded to {words}")
    yield from _one_entry(w, r, shape)  # of a single weight, only what nothing else explains
    if same(w, flushed(r, r.dtype)):
        yield Cause("subnormals-flushed", "subnormal weights are replaced by zero")


def _wrong(w: Tensor, r: Tensor) -> Tensor:
    return (w != r) & ~((w != w) & (r != r))


def _same_values(a: Tensor, b: Tensor) -> bool:
    """Whether two vectors hold the same values in any order."""
    a, b = (torch.view_as_real(t).sum(-1) if t.is_complex() else t for t in (a, b))
    return same(a.sort().values, b.sort().values)


def _cut_short(w: Tensor, r: Tensor) -> Iterator[Cause]:
    """The last or the first k columns are zero, the others right."""
    n = w.shape[1]
    wrong = _wrong(w, r).any(0).nonzero().flatten()
    first, last = int(wrong[0]), int(wrong[-1])
    if not bool(w[:, first:].any()):
        yield Cause("reduction-cut-short", f"the last {n - first} of {n} columns are zero: the reduction is cut short")
    if not bool(w[:, : last + 1].any()):
        yield Cause("reduction-starts-late", f"the first {last + 1} of {n} columns are zero: the reduction starts late")


def _permuted(w: Tensor, r: Tensor, shape: tuple[int, ...]) -> Iterator[Cause]:
    """Channels, output features or single inputs in another order."""
    ways: tuple[tuple[str, str, Callable[[Tensor], Tensor]], ...] = (
        ("channels-permuted", "channels", lambda t: t.view(len(t), shape[0], -1).transpose(0, 1).reshape(shape[0], -1)),
        ("outputs-permuted", "output features", lambda t: t),
        ("inputs-permuted", "inputs", lambda t: t.T.contiguous()),
    )
    row, column = _wrong(w, r).nonzero()[0].tolist()
    by_column, by_row = _same_values(w[row], r[row]), _same_values(w[:, column], r[:, column])
    for name, what, blocks in ways:
        if not (by_row if name == "outputs-permuted" else by_column):
            continue
        index = matching(blocks(w), blocks(r))
        if index is not None:
            yield Cause(name, f"{what} {permutation_words(index)}")


def _scaled(w: Tensor, r: Tensor) -> Iterator[Cause]:
    """One real factor for all entries, in the rounding of the dtype. The factor is read off the largest entry."""
    if same(w, -r):
        yield Cause("weight-negated", "every weight has the other sign")
    if w.is_complex():
        w, r = torch.view_as_real(w).flatten(1), torch.view_as_real(r).flatten(1)
    if int(r.count_nonzero()) < 2 or not bool((torch.isfinite(w) & torch.isfinite(r)).all()):
        return
    at = int(r.to(torch.float64).abs().argmax())
    ratio = float(w.flatten()[at]) / float(r.flatten()[at])
    if ratio == 0:
        return
    whole, divisor = round(ratio), round(1 / ratio) if abs(ratio) > 2.0**-52 else 0
    row = at // w.shape[1]

    def fits(times: float, over: float = 1.0) -> bool:
        return all(same(a, (b.double() * times / over).to(a.dtype)) for a, b in ((w[row], r[row]), (w, r)))

    if whole not in (0, 1) and fits(whole):
        yield Cause("weight-scaled", f"every weight is multiplied by {whole}")
    if divisor not in (0, 1) and fits(1, divisor):
        yield Cause("weight-scaled", f"every weight is divided by {divisor}")
    if w.is_floating_point():
        near = torch.tensor(ratio, dtype=torch.float64).to(w.dtype)  # what a factor of this dtype can have been
        for factor in (ratio, *from_ordinal(ordinal(near) + torch.arange(-2, 3), w.dtype).tolist()):
            if factor != 1 and fits(factor):
                yield Cause("weight-scaled", f"every weight is multiplied by {factor:.9g}")


def _one_entry(w: Tensor, r: Tensor, shape: tuple[int, ...]) -> Iterator[Cause]:
    wrong = _wrong(w, r).nonzero()
    if len(wrong) != 1:
        return
    o, i = wrong[0].tolist()
    place = tuple(int(k) for k in torch.unravel_index(torch.tensor(i), shape))
    yield Cause("one-entry", f"one entry differs: weight[{o}, {i}], input {place}, is {_versus(w[o, i], r[o, i])}")


def _bias_cause(b: Tensor, c: Tensor) -> Cause | None:
    """The slip that turns the bias c into b, both (O,) and different somewhere."""
    tests: tuple[tuple[str, str, Callable[[], bool]], ...] = (
        ("bias-dropped", "the bias is dropped", lambda: not bool(b.any())),
        ("bias-added", "a bias is added where none belongs", lambda: not bool(c.any())),
        ("bias-doubled", "the bias is added twice", lambda: same(b, c + c)),
        ("bias-negated", "the bias is subtracted", lambda: same(b, -c)),
    )
    for name, sentence, fits in tests:
        if fits():
            return Cause(name, sentence)
    index = matching(b[:, None], c[:, None])
    if index is not None:
        return Cause("bias-permuted", f"bias {permutation_words(index)}")
    for name, words in ROUNDINGS.items():
        if same(b, rounded(c, name)):
            return Cause(f"bias-{name}", f"bias rounded to {words}")
    wrong = (b != c).nonzero().flatten().tolist()
    if len(wrong) == 1:
        return Cause("bias-one-entry", f"one entry differs: bias[{wrong[0]}] is {_versus(b[wrong[0]], c[wrong[0]])}")
    return None


def _versus(value: Tensor, right: Tensor) -> str:
    text = f"{value.item()!r} instead of {right.item()!r}"
    words = gap_words(value, right)
    return f"{text}, {words}" if words else text


def _common(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(a.dtype, b.dtype)
    first, second = (t.detach().cpu().resolve_conj().resolve_neg().to(dtype) for t in (a, b))
    return first, second


def _bias_or_zeros(name: str, bias: Tensor | None, weight: Tensor) -> Tensor:
    if bias is None:
        return torch.zeros(len(weight), dtype=weight.dtype, device="cpu")
    if not isinstance(bias, Tensor) or bias.shape != (len(weight),):
        got = tuple(bias.shape) if isinstance(bias, Tensor) else repr(bias)
        raise EquivError(f"{name}: expected shape ({len(weight)},) or None, got {got}; give one entry per output")
    _check_values(name, bias)
    return bias


def _check_values(name: str, t: Tensor) -> None:
    if t.device.type == "meta" or t.layout != torch.strided:
        what = "the meta device" if t.device.type == "meta" else t.layout
        raise EquivError(f"{name}: expected a strided tensor with values, got one of {what}; pass it with its values")


def _check_weights(w: object, r: object, feature_shape: FeatureShape) -> tuple[int, ...]:
    for name, t in (("candidate_weight", w), ("reference_weight", r)):
        if not isinstance(t, Tensor) or t.ndim != 2:
            got = tuple(t.shape) if isinstance(t, Tensor) else repr(t)
            raise EquivError(f"{name}: expected a tensor (O, n), got {got}; flatten a kernel with weight.flatten(1)")
        _check_values(name, t)
    assert isinstance(w, Tensor)
    assert isinstance(r, Tensor)
    if w.shape != r.shape:
        raise EquivError(
            f"candidate_weight: expected the shape of reference_weight, {tuple(r.shape)}, got {tuple(w.shape)}; "
            "compare two layers of one size"
        )
    shape = check_feature_shape(feature_shape)
    _check_product(shape, r.shape[1])
    return shape


def _check_product(shape: tuple[int, ...], n: int) -> None:
    if math.prod(shape) != n:
        raise EquivError(
            f"feature_shape: expected (C, *spatial) with product {n} (= n), got {shape} with product "
            f"{math.prod(shape)}; pass the shape of the map that was flattened"
        )


def _check_outputs(
    actual: Tensor,
    expected: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    shape: tuple[int, ...],
    bound: Tensor | float,
) -> None:
    if weight.ndim != 2:
        raise EquivError(
            f"weight: expected shape (O, n), got {tuple(weight.shape)}; flatten a kernel with weight.flatten(1)"
        )
    out, n = weight.shape
    _check_product(shape, n)
    rows = (actual.shape[0] if actual.ndim else 0, out)
    fits = {
        "actual": (actual, rows),
        "expected_exact": (expected, rows),
        "x": (x, (rows[0], n)),
        "bias": (bias, (out,)),
    }
    if isinstance(bound, Tensor) and bound.ndim:
        fits["bound"] = (bound, rows)
    for name, (t, wanted) in fits.items():
        if t is not None and t.shape != wanted:
            raise EquivError(
                f"{name}: expected shape {wanted}, got {tuple(t.shape)}; flatten batch and positions first"
            )


# One number alone fits too many exchanges of places; these it can tell.
_TOLD_BY_ONE_NUMBER = ("bias-", "rounded-", "truncated-", "subnormals-", "reduction-cut", "reduction-starts")


def likely_cause(
    actual: Tensor, *, x: Tensor, weight: Tensor, bias: Tensor | None, feature_shape: FeatureShape
) -> Cause | None:
    """The cause that explains the results of a layer, or None; never an error.

    Naming is a courtesy that must not hide the finding itself: what it cannot serve has no name.

    Args:
        actual: (N, O), the results, real and floating.
        x: (N, n).
        weight: (O, n).
        bias: (O,) or None.
        feature_shape: (C, *spatial) with product n, or (n, 1) where no map is known.

    Example:
        >>> x, w, b = torch.ones(2, 4), torch.arange(4.0).view(1, 4), torch.tensor([10.0])
        >>> likely_cause(x @ w.T, x=x, weight=w, bias=b, feature_shape=(4, 1)).sentence
        'the bias is dropped'
    """
    if not actual.is_floating_point() or actual.ndim != 2:
        return None
    rows, matrix = x.detach().double().cpu(), weight.detach().double().cpu()
    offset = None if bias is None else bias.detach().double().cpu()
    try:
        exact = rows @ matrix.T if offset is None else rows @ matrix.T + offset
        size = rows.abs() @ matrix.abs().T
        bound = 4 * format_of(actual.dtype).u * exact.abs() + (rows.shape[1] + 1) * 2.0**-24 * size
        found = name_output_cause(
            actual.detach().cpu(), exact, x=rows, weight=matrix, bias=offset, feature_shape=feature_shape, bound=bound
        )
    except (ValueError, RuntimeError):
        return None
    if found is None or (int(exact.count_nonzero()) < 2 and not found.name.startswith(_TOLD_BY_ONE_NUMBER)):
        return None
    return found
