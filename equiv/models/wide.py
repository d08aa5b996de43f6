"""Code that is no affine layer, judged by running it in float64 as well: rounding shrinks, a defect stays.

Two computations of one function differ by what each was rounded to. In float64 a rounding is 2^29 times as small as in
float32, so a difference that is rounding nearly vanishes there; one that is a defect is as large as before. Whether a
result is rounded as its format rounds is told by its error against the float64 result, beside the reference's own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from equiv.causes import Cause
from equiv.models.sampling import same, verdict_of
from equiv.models.trees import equal, mapped, tensors
from equiv.verdict import Outcome, Verdict

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_SHRINKS = 2.0**-16  # of a difference in float32 that must at least be left behind in float64
_BESIDE = 2.0**6  # times the error of the reference that another order of the same operations may have


class Computing(TorchDispatchMode):
    """Within it every floating operation computes in one format, also where the code names another.

    Parameters are converted where an operation reads them: none is kept in that format.

    Example:
        >>> with Computing(torch.float64):
        ...     torch.nn.functional.relu(torch.ones(2)).to(torch.float16).dtype
        torch.float64
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtype = dtype

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        """The operation on what its tensors hold, in that format."""
        if func is not torch.ops.aten.view.dtype:
            args, kwargs = mapped((args, dict(kwargs or {})), lambda t: converted(t, self.dtype), self._named)
        if func is _GROUPED and args[0].dtype == torch.float64:
            return _grouped(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _named(self, leaf: Any) -> Any:
        return self.dtype if isinstance(leaf, torch.dtype) and leaf in FLOATING else leaf


_GROUPED = getattr(torch.ops.aten._grouped_mm, "default", None) if hasattr(torch.ops.aten, "_grouped_mm") else None


def _grouped(a: Tensor, b: Tensor, offs: Tensor | None = None, bias: Tensor | None = None, **_: Any) -> Tensor:
    """Products of groups of rows with one matrix each, as experts have them, which torch lacks in float64."""
    if offs is None or a.ndim != 2 or b.ndim != 3:
        raise NotImplementedError("grouped products of this kind in float64")
    found, first = a.new_zeros(len(a), b.shape[-1]), 0
    for matrix, end in zip(b, offs.tolist(), strict=True):
        found[first:end] = a[first:end] @ matrix
        first = end
    return found if bias is None else found + bias


class Alike(TorchFunctionMode):
    """Within it a function that is given tensors of several floating formats gets all of them in this one.

    Some functions of torch refuse others before :class:`Computing` sees their operations.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        """The function on tensors of one format."""
        given = (args, dict(kwargs or {}))
        kinds = {t.dtype for t in tensors(given)} & set(FLOATING)
        if self.dtype in kinds and len(kinds) > 1:
            given = mapped(given, lambda t: converted(t, self.dtype))
        return func(*given[0], **given[1])


def converted(t: Tensor, dtype: torch.dtype) -> Tensor:
    """The values in this format, if they are real floating ones."""
    return t.to(dtype) if t.dtype in FLOATING and t.dtype != dtype else t


@dataclass(frozen=True)
class Four:
    """Results of two computations, in the models' own format and in float64, all in one shape."""

    candidate: Tensor
    reference: Tensor
    candidate64: Tensor | None = None
    reference64: Tensor | None = None


def settled(four: Four, what: str, why: str = "") -> Verdict:
    """The verdict on results that differ in bits: does the difference shrink in float64 as rounding must?

    ``what`` was computed; ``why`` says what stood in the way of float64, where it is missing.
    """
    c, r = four.candidate, four.reference
    if c.dtype == r.dtype and equal(c, r):
        return same(r)
    if not (c.is_floating_point() and r.is_floating_point()):
        count = int((c != r).sum()) if c.shape == r.shape else c.numel()
        return verdict_of(Outcome.DIFFERENT, f"{what}: {count:,} of {r.numel():,} entries differ.", c)
    if four.reference64 is None:
        text = f"{what} differs by up to {_size(c, r):.3g}, and {why or 'it does not run in float64'}: nobody can tell "
        return verdict_of(Outcome.UNDECIDED, text + "rounding from a defect.", c)
    exact = four.reference64
    kept = c.isfinite() & r.isfinite() & exact.isfinite()
    if not bool(kept.all()):
        alike = (c.isnan() == r.isnan()) & (c.isinf() == r.isinf())
        if not bool(alike.all()):
            count = int((~alike).sum())
            return verdict_of(Outcome.DIFFERENT, f"{what}: {count:,} entries are infinite or NaN on one side alone.", c)
    if not bool(kept.any()):
        return verdict_of(Outcome.UNDECIDED, f"{what} has no finite entries.", c)
    x = exact[kept]
    mine, theirs = c.double()[kept] - x, r.double()[kept] - x
    left = None if four.candidate64 is None else float((four.candidate64[kept] - x).abs().amax())
    unit = torch.finfo(r.dtype).eps / 2
    largest = (float(mine.abs().amax()), float(theirs.abs().amax()))
    numbers = _Numbers(what, _size(c, r), left, (_rms(mine), _rms(theirs)), largest, unit * _rms(x))
    if left is None:
        return _by_errors(numbers, c)
    if left > max(largest) * _SHRINKS and left > 0:
        return _stays(numbers, c, four.candidate64[kept] - x, x, unit)  # type: ignore[index]
    return _precision(numbers, c)


@dataclass(frozen=True)
class _Numbers:
    what: str
    apart: float
    left: float | None
    errors: tuple[float, float]
    largest: tuple[float, float]
    ulp: float

    @property
    def times(self) -> float:
        """How large the candidate's errors are beside the reference's: all of them, and the largest."""
        floor = self.ulp / math.sqrt(12)
        return max(mine / max(theirs, floor) for mine, theirs in (self.errors, self.largest))


def _size(c: Tensor, r: Tensor) -> float:
    return float((c.double() - r.double()).abs().nan_to_num(math.inf, math.inf).amax()) if c.shape == r.shape else 0.0


def _rms(t: Tensor) -> float:
    return float(t.double().square().mean().sqrt())


def _stays(n: _Numbers, c: Tensor, difference: Tensor, exact: Tensor, unit: float) -> Verdict:
    assert n.left is not None
    stays = f"{n.what} differs by up to {n.apart:.3g}, and in float64 still by {n.left:.3g}"
    if bool((difference.abs() <= 2 * unit * torch.maximum(exact.abs(), exact.abs().mean())).all()):
        text = f"{stays}, as much as one rounding: a constant that was rounded on one side, or a very small defect."
        return verdict_of(Outcome.UNDECIDED, text, c)
    return verdict_of(Outcome.DIFFERENT, f"{stays}, where rounding would have shrunk: not the same function.", c)


def _precision(n: _Numbers, c: Tensor) -> Verdict:
    """The functions are the same; is the candidate rounded as the reference is?"""
    text = (
        f"{n.what} differs by up to {n.apart:.3g}, in float64 by {n.left:.3g}; the errors against float64 are "
        f"{n.errors[0]:.3g} (root mean square) on the candidate's side and {n.errors[1]:.3g} on the reference's"
    )
    floor = n.ulp / math.sqrt(12)
    if n.times <= _BESIDE and n.errors[1] <= _BESIDE * max(n.errors[0], floor):
        return verdict_of(Outcome.ROUNDING, f"{text}: rounding.", c)
    side = "the candidate" if n.errors[0] > n.errors[1] else "the reference"
    name = _format_of(c) if n.errors[0] > n.errors[1] else None
    cause = None if name is None else Cause(f"rounded-{name}", f"results are numbers of {name}")
    said = f"{text}: {side} computes in a narrower format."
    return verdict_of(Outcome.DIFFERENT, said, c, cause=cause)


_LIKELY, _NEVER = 2.0**3, 2.0**10


def _by_errors(n: _Numbers, c: Tensor) -> Verdict:
    """The candidate does not run in float64: its error beside that of the reference is all there is."""
    times = n.times
    text = (
        f"{n.what} differs by up to {n.apart:.3g}; against the reference in float64 the candidate's error is "
        f"{times:.3g} times the reference's own"
    )
    if times <= _LIKELY:
        return verdict_of(Outcome.ROUNDING, f"{text}, as that of a right kernel is.", c)
    if times > _NEVER:
        return verdict_of(Outcome.DIFFERENT, f"{text}: rounding in this format explains no such error.", c)
    said = f"{text}: more than rounding usually gives, less than shows a defect. Compare it layer by layer."
    return verdict_of(Outcome.UNDECIDED, said, c)


def _format_of(values: Tensor) -> str | None:
    for dtype, name in ((torch.bfloat16, "bfloat16"), (torch.float16, "float16")):
        if values.dtype == dtype or bool((values.to(dtype).to(values.dtype) == values).all()):
            return name
    return None
