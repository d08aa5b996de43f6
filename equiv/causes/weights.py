"""The mistake that turns the parameters of the right layer into those of the wrong one, bit for bit.

Letters: w and r (O, n) are the wrong and the right weight, b and c (O,) the biases. Of several mistakes that fit, the
first in the order of the lists wins: the more specific ones stand first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from equiv.arguments import check_dtype, check_tensor
from equiv.causes.convolutions import matrix_cause, own_kernel
from equiv.causes.mistakes import Cause, cause_of, column_mistakes, weight_changes
from equiv.causes.permutations import in_words, matching, same, undone
from equiv.causes.profiles import Profile
from equiv.causes.roundings import ROUNDING_OF, ROUNDINGS, flushed, rounded
from equiv.causes.steps import common_step, steps_of
from equiv.errors import EquivError
from equiv.mapping import Conv, FeatureShape, check_feature_shape, check_product
from equiv.numerics import Rounding, from_ordinal, gap_words, ordinal

_STORED = ("rounded-float32", "rounded-float16", "rounded-bfloat16", "rounded-tf32", "truncated-tf32")
"""What weights and bias together are rounded to: first what files keep parameters in."""


def name_cause(
    candidate_weight: Tensor,
    reference_weight: Tensor,
    feature_shape: FeatureShape,
    candidate_bias: Tensor | None = None,
    reference_bias: Tensor | None = None,
    *,
    conv: Conv | None = None,
) -> Cause | None:
    """Name the mistake that turns the reference layer into the candidate, exactly; None if equal or if none fits.

    Zeros of both signs are equal, NaNs are equal; a missing bias is a bias of zeros. Where weight and bias both differ,
    one mistake must explain the weight, and the sentence says what is known of the bias.

    Args:
        candidate_weight: (O, n), the layer that is wrong, as a dense matrix; a convolution goes through
            ``equiv.conv_to_linear`` first.
        reference_weight: (O, n), the layer that is right. Different dtypes are compared in their common one.
        feature_shape: (C, *spatial) with product n, the map that is flattened into the columns; (n, 1) where no map is
            known.
        candidate_bias: (O,) or None.
        reference_bias: (O,) or None.
        conv: The convolution of which one of the two weights is the dense matrix on maps of the feature shape, if there
            is one: then mistakes of its kernel, padding, stride, dilation and maps are known as well.

    Raises:
        EquivError: the shapes do not fit each other or the feature shape.

    Example:
        >>> import torch
        >>> from equiv.causes import name_cause
        >>> right = torch.arange(12.0).view(1, 12)
        >>> wrong = right.view(1, 2, 2, 3).permute(0, 3, 1, 2).reshape(1, 12)  # read as (H, W, C)
        >>> cause = name_cause(wrong, right, (3, 2, 2))
        >>> cause.name, cause.fix
        ('flattened-hwc', 'weight = weight.reshape(-1, 3, 2, 2).permute(0, 2, 3, 1).flatten(1)')
        >>> name_cause(right, right, (3, 2, 2)) is None
        True
    """
    shape = _check_weights(candidate_weight, reference_weight, feature_shape)
    w, r = _common(candidate_weight, reference_weight)
    b, c = _common(
        _bias_or_zeros("candidate_bias", candidate_bias, r), _bias_or_zeros("reference_bias", reference_bias, r)
    )
    with torch.device("cpu"):
        if same(w, r) and conv is not None:
            b, c = _of_channels(b, c, len(conv.weight))
        if same(w, r):
            return None if same(b, c) else _bias_cause(b, c) or _of_reference(_bias_cause(c, b), same(w, r))
        if conv is not None and conv.weight.dtype == w.dtype and conv.weight[0].numel() < w.shape[1]:
            cause = _conv_cause(w, r, b, c, conv, shape)  # it slides
            if cause is not None:
                return cause
        return _weight_cause(w, r, b, c, shape) or _of_reference(_weight_cause(r, w, c, b, shape), same(b, c))


def _of_channels(b: Tensor, c: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """The biases of two convolutions from those of their dense layers, which repeat them at every position."""
    kept = [bias.view(channels, -1) if len(bias) % channels == 0 else bias[:, None] for bias in (b, c)]
    first, second = (bias[:, 0] for bias in kept)
    return (first, second) if all(same(bias, bias[:, :1]) for bias in kept) else (b, c)


def _of_reference(cause: Cause | None, the_other_agrees: bool) -> Cause | None:
    """A mistake that the reference has: the candidate is right, and becomes the same only as a copy of it."""
    if cause is None:
        return None
    both = ("weight = reference.weight", "bias = reference.bias")
    fix = "; ".join(both[cause.name.startswith("bias-") :][: 1 if the_other_agrees else 2])
    return cause.mended_by(fix, before="in the reference, ")


def _weight_cause(w: Tensor, r: Tensor, b: Tensor, c: Tensor, shape: tuple[int, ...]) -> Cause | None:
    """The mistake that turns r into w, which differ somewhere, with what is known of the bias."""
    if same(b, c):
        return next(_weight_causes(w, r, shape), None)
    if len(w) > 1 and w.dtype == b.dtype:
        rows = matching(torch.cat([w, b[:, None]], 1), torch.cat([r, c[:, None]], 1))
        if rows is not None:
            return _permuted("outputs-permuted", rows).beside(_permuted("bias-permuted", rows))
    cause = next(_weight_causes(w, r, shape), None)
    for name in _STORED if cause is not None and cause.arithmetic is not None else ():
        if same(w, rounded(r, name)) and same(b, rounded(c, name)):
            return _rounded(name, "weights and bias", ROUNDING_OF[name], bias=True)
    return None if cause is None else cause.beside(_bias_cause(b, c) or cause_of("bias-unknown", as_well=" as well"))


def _conv_cause(w: Tensor, r: Tensor, b: Tensor, c: Tensor, conv: Conv, shape: tuple[int, ...]) -> Cause | None:
    """The mistake that turns a convolution, which has one of these matrices and biases, into the other."""
    kernel = conv.weight.detach().cpu().flatten(1)
    ours = own_kernel(r, conv, shape)
    if ours is None or not same(ours, kernel):
        w, r, b, c = r, w, c, b
    found = own_kernel(w, conv, shape)
    if found is not None:
        places = len(b) // len(kernel)
        of_kernel = (conv.weight.shape[1], *conv.weight.shape[2:])
        return name_cause(found, kernel, of_kernel, b[::places], c[::places])
    mistake = matrix_cause(w, conv, shape)
    if mistake is None:
        return None
    expected = c if mistake.outputs is None else c[mistake.outputs]
    return mistake.cause if same(b, expected) else mistake.cause.beside(cause_of("bias-unknown", as_well=" as well"))


def _weight_causes(w: Tensor, r: Tensor, shape: tuple[int, ...]) -> Iterator[Cause]:
    """Every mistake that turns r into w, which differ somewhere."""
    if not bool(w.any()):
        yield cause_of("weight-zero")
    yield from _cut_short(w, r)
    row = int(_wrong(w, r).any(1).nonzero()[0])  # what does not explain this row is not tried on the others
    for mistake in column_mistakes(shape):
        if same(w[row], r[row, mistake.index]) and same(w, r[:, mistake.index]):
            yield mistake.cause
    if w.shape[0] == w.shape[1] and same(w, r.T):
        yield cause_of("weight-transposed", shape=tuple(w.shape))
    yield from filter(None, (cause if same(w, change(r).to(r.dtype)) else None for cause, change in weight_changes()))
    yield from _reordered(w, r, shape)
    if w.numel() > 1:
        yield from _one_entry(w, r, shape)
    yield from _scaled(w, r)
    for name in ROUNDINGS:
        if same(w[row], rounded(r[row], name)) and same(w, rounded(r, name)):
            yield _rounded(name, "weights", ROUNDING_OF[name])
    yield from _one_entry(w, r, shape)  # of a single weight, only what nothing else explains
    if same(w, flushed(r, r.dtype)):
        yield cause_of("subnormals-flushed", what="weights")
    yield from _in_steps(w, r, row)


def _rounded(name: str, what: str, rounding: Rounding, *, bias: bool = False) -> Cause:
    """A rounding of the table, of weights and perhaps of the bias, with the arithmetic that it makes."""
    cause = cause_of(name, what=what, when="" if name in ROUNDINGS else f" {rounding}")
    profile = Profile(None, rounding, rounding if bias else None, torch.float32, None)
    cause = cause.mended_by(f"{cause.fix}; bias = reference.bias") if bias else cause
    return cause.computed_in(profile.arithmetic(torch.float32))


def _in_steps(w: Tensor, r: Tensor, row: int) -> Iterator[Cause]:
    """Weights in steps, as int8 quantization keeps them: of one size, or of one for each row."""
    if w.is_complex() or not w.is_floating_point() or not bool(torch.isfinite(w).all() & torch.isfinite(r).all()):
        return
    step = common_step(w.double())
    seen = [] if step is None else [Rounding("steps", step, by_inverse=inverse) for inverse in (False, True)]
    for rounding in (*seen, *steps_of(r, weights=True)):
        if same(w[row], rounding(r[row : row + 1])[0]) and same(w, rounding(r)) and len(torch.unique(w)) > 2:
            yield _rounded("rounded-steps", "weights", rounding)


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
        yield cause_of("reduction-cut-short", count=n - first, n=n, start=first, what="columns are zero")
    if not bool(w[:, : last + 1].any()):
        yield cause_of("reduction-starts-late", count=last + 1, n=n, what="columns are zero")


def _reordered(w: Tensor, r: Tensor, shape: tuple[int, ...]) -> Iterator[Cause]:
    """Channels, output features or single inputs in another order."""
    row, column = _wrong(w, r).nonzero()[0].tolist()
    by_column, by_row = _same_values(w[row], r[row]), _same_values(w[:, column], r[:, column])
    if by_column and math.prod(shape[1:]) > 1:  # else channels are inputs
        channels = (t.view(len(t), shape[0], -1).transpose(0, 1).reshape(shape[0], -1) for t in (w, r))
        index = matching(*channels)
        if index is not None:
            yield _permuted("channels-permuted", index, 1, sizes=", ".join(map(str, shape)))
    for name, fits, tensors, dim in (
        ("outputs-permuted", by_row, (w, r), 0),
        ("inputs-permuted", by_column, (w.T.contiguous(), r.T.contiguous()), 1),
    ):
        index = matching(*tensors) if fits else None
        if index is not None:
            yield _permuted(name, index, dim)


def _permuted(name: str, index: Tensor, dim: int = 0, sizes: str = "") -> Cause:
    return cause_of(name, moved=in_words(index), undo=undone(index, dim), sizes=sizes)


def _scaled(w: Tensor, r: Tensor) -> Iterator[Cause]:
    """One real factor for all entries, in the rounding of the dtype. The factor is read off the largest entry."""
    if same(w, -r):
        yield cause_of("weight-negated")
    if w.is_complex():
        w, r = torch.view_as_real(w).flatten(1), torch.view_as_real(r).flatten(1)
    if int(r.count_nonzero()) < 2 or not bool((torch.isfinite(w) & torch.isfinite(r)).all()):
        return
    at = int(r.to(torch.float64).abs().argmax())
    ratio = float(w.flatten()[at]) / float(r.flatten()[at])
    if ratio == 0:
        return
    row = at // w.shape[1]
    for times, over, scaled, undo in _factors(ratio, w.dtype):
        if all(same(a, (b.double() * float(times) / float(over)).to(a.dtype)) for a, b in ((w[row], r[row]), (w, r))):
            exact = undo and same(w / float(times) * float(over), r) if w.dtype.is_floating_point else undo
            yield cause_of("weight-scaled", scaled=scaled, undo=undo if exact else None)


def _factors(ratio: float, dtype: torch.dtype) -> Iterator[tuple[float, float, str, str | None]]:
    """What may have scaled a weight by this ratio: multiplied by, divided by, in words, and undone."""
    whole, divisor = round(ratio), round(1 / ratio) if abs(ratio) > 2.0**-52 else 0
    real = dtype.is_floating_point
    if whole not in (0, 1):
        yield whole, 1.0, f"multiplied by {whole}", f"/ {whole}" if real else f"// {whole}"
    if divisor not in (0, 1):
        yield 1.0, divisor, f"divided by {divisor}", f"* {divisor}" if real else None
    if real:
        near = torch.tensor(ratio, dtype=torch.float64).to(dtype)  # what a factor of this dtype can have been
        for factor in (ratio, *from_ordinal(ordinal(near) + torch.arange(-2, 3), dtype).tolist()):
            if factor != 1:
                yield factor, 1.0, f"multiplied by {factor:.9g}", f"/ {factor!r}"


def _one_entry(w: Tensor, r: Tensor, shape: tuple[int, ...]) -> Iterator[Cause]:
    wrong = _wrong(w, r).nonzero()
    if len(wrong) == 1:
        row, column = wrong[0].tolist()
        place = tuple(int(k) for k in torch.unravel_index(torch.tensor(column), shape))
        yield cause_of("one-entry", row=row, column=column, place=place, versus=_versus(w[row, column], r[row, column]))


def _bias_cause(b: Tensor, c: Tensor) -> Cause | None:
    """The mistake that turns the bias c into b, which differ somewhere."""
    tests: tuple[tuple[str, Callable[[], bool]], ...] = (
        ("bias-dropped", lambda: not bool(b.any())),
        ("bias-added", lambda: not bool(c.any())),
        ("bias-doubled", lambda: same(b, c + c)),
        ("bias-negated", lambda: same(b, -c)),
    )
    for name, fits in tests:
        if fits():
            return cause_of(name)
    index = matching(b[:, None], c[:, None])
    if index is not None:
        return _permuted("bias-permuted", index)
    for name in ROUNDINGS:
        if same(b, rounded(c, name)):
            return cause_of(f"bias-{name}")
    wrong = (b != c).nonzero().flatten().tolist()
    if len(wrong) == 1:
        return cause_of("bias-one-entry", row=wrong[0], versus=_versus(b[wrong[0]], c[wrong[0]]))
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
    given = check_tensor(name, bias, (len(weight),), advice="give one entry per output, or None")
    check_dtype(name, given.dtype, advice="convert it first")
    return given


def _check_weights(w: Tensor, r: Tensor, feature_shape: FeatureShape) -> tuple[int, ...]:
    for name, t in (("candidate_weight", w), ("reference_weight", r)):
        check_dtype(name, check_tensor(name, t, advice="pass the weight as a matrix").dtype, advice="convert it first")
        if t.ndim != 2:
            raise EquivError(
                f"{name}: expected shape (O, n), got {tuple(t.shape)}; flatten a kernel with weight.flatten(1)"
            )
    check_tensor("candidate_weight", w, tuple(r.shape), advice="compare two layers of one size")
    shape = check_feature_shape(feature_shape)
    check_product(shape, r.shape[1], "n")
    return shape
