"""One call of a backend, how often calls were judged, and how a call broke a law."""

from __future__ import annotations

import math
import pickle
import re
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from hypothesis.errors import HypothesisException, StopTest
from torch import Tensor

from equiv.backends import Backend
from equiv.laws.capabilities import NotServed, reason_of
from equiv.text import quoted

_WRITES = "leaf Variable that requires grad is being used in an in-place operation"
_NO_MEMORY = r"not enough memory|can't allocate memory|cannot allocate memory|out of memory|bad_alloc"


@dataclass
class Tally:
    """How often one form was judged, and how: numbers of comparisons, and the largest error over its envelope.

    Example:
        >>> tally = Tally()
        >>> tally.count("rounding", 0.25)
        >>> tally.judged, tally.rounding, tally.max_ratio
        (1, 1, 0.25)
    """

    judged: int = 0
    identical: int = 0
    rounding: int = 0
    undecided: int = 0
    different: int = 0
    max_ratio: float = 0.0

    def count(self, outcome: str, ratio: float = 0.0) -> None:
        """One more comparison: ``outcome`` is the name of a field, ``ratio`` the error over its envelope."""
        self.judged += 1
        setattr(self, outcome, getattr(self, outcome) + 1)
        self.max_ratio = max(self.max_ratio, ratio)


@dataclass(frozen=True)
class Call:
    """One call of a backend: a form and its tensors, shaped as that form takes them.

    Attributes:
        form: One of ``equiv.backends.FORMS``.
        input: ``(*batch, n)`` for linear, else ``(N, C, *spatial)`` or ``(N, n, 1, ...)``.
        weight: ``(O, n)`` or ``(O, C / groups, *kernel)``.
        bias: ``(O,)`` or None.
        stride: Of a convolution; empty for 1.
        dilation: Of a convolution; empty for 1.
        padding: Of a convolution, zeros at both ends of each dimension; empty for none.
        groups: Of a convolution.

    Example:
        >>> import torch
        >>> from equiv.backends import TorchEager
        >>> call = Call("full", torch.ones(1, 1, 2, 2), torch.ones(3, 1, 2, 2), None)
        >>> call.result(TorchEager()).shape
        torch.Size([1, 3, 1, 1])
    """

    form: str
    input: Tensor
    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    groups: int = 1

    @property
    def dims(self) -> int:
        """The number of spatial dimensions."""
        return self.weight.ndim - 2

    @property
    def steps(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Stride and dilation with one number for each spatial dimension."""
        return self.stride or (1,) * self.dims, self.dilation or (1,) * self.dims

    @property
    def options(self) -> dict[str, Any]:
        """The keywords of a convolution: stride and dilation always, the others where they are not the default."""
        stride, dilation = self.steps
        given: dict[str, Any] = {"stride": stride, "dilation": dilation}
        if any(self.padding):
            given["padding"] = self.padding
        if self.groups != 1:
            given["groups"] = self.groups
        return given

    @property
    def is_plain(self) -> bool:
        """Whether nothing is padded and all channels are in one group."""
        return self.groups == 1 and not any(self.padding)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Rows, outputs and features of a call whose map is as large as its kernel: ``(N, O, n)``."""
        outputs, n = self.weight.shape[0], math.prod(self.weight.shape[1:])
        return self.input.numel() // n if n else 0, outputs, n

    def result(self, backend: Backend) -> Tensor:
        """What the backend returns, in whatever shape."""
        if self.form == "linear":
            return backend.linear(self.input, self.weight, self.bias)
        return backend.conv(self.input, self.weight, self.bias, **self.options)


@dataclass(frozen=True)
class Mismatch:
    """A result or gradient that no right kernel gives, by its worst or first wrong entry.

    Attributes:
        actual: The entry; dtype and shape in words where these are wrong.
        expected: Its exact value, or the right dtype and shape.
        index: Of the entry, rows first; empty where dtype or shape is wrong.
        envelope: The interval that right kernels stay in; None where they have to be exact.
        ratio: How many times the error is its envelope, or None.
        gradient: What it is the gradient of, and for which incoming gradient; None for a result.
        results: All results and their exact values, ``(N, O)``, where a cause can be looked for in them.

    Example:
        >>> Mismatch(actual=0.0, expected=1.0, index=(0, 3)).index
        (0, 3)
    """

    actual: Any
    expected: Any
    index: tuple[int, ...] = ()
    envelope: tuple[Any, Any] | None = None
    ratio: float | None = None
    gradient: tuple[str, Tensor] | None = None
    results: tuple[Tensor, Tensor] | None = None

    def __str__(self) -> str:
        if not self.index:
            return f"returns {self.actual}, expected {self.expected}"
        of = ""
        if self.gradient is not None and self.gradient[0] in ("input", "weight", "bias"):
            of = f" as the gradient of the {self.gradient[0]}"
        outside = "" if self.envelope is None else ", outside its envelope"
        return f"returns {self.actual}{of}, exact is {self.expected}{outside}, at {list(self.index)}"


class Broken(AssertionError):  # noqa: N818 - what it says is that a law is broken
    """A law does not hold.

    Attributes:
        note: What the form does wrong: ``returns 0.0, exact is 1.0, at [0, 0], x padded``.
        form: The form, or ``all`` if it is not known which.
        call: The call that showed it, or None.
        condition: Under which the call was made, in words; empty for none.
        mismatch: What is wrong with a result or gradient, or None for another fact.
        error: What was raised instead of a result, or None.
        kind: What is wrong in one word; see :class:`equiv.laws.Failure`.

    A pickle or deep copy holds no gradients and, where the error or a tensor can only live in this process, not those.

    Example:
        >>> import torch
        >>> from equiv.backends import TorchEager
        >>> from equiv.laws import Trial
        >>> trial = Trial(TorchEager(), torch.float32, ("linear",))
        >>> try:
        ...     trial.holds(False, "linear", "returns a result that shares memory with an input")
        ... except Broken as error:
        ...     print(error.form, error.note)
        linear returns a result that shares memory with an input
    """

    def __init__(
        self,
        what: object,
        *,
        form: str,
        call: Call | None = None,
        condition: str = "",
        error: BaseException | None = None,
        kind: str = "value",
    ) -> None:
        self.note = f"{what}, {condition}" if condition else str(what)
        super().__init__(self.note)
        self.form, self.call, self.error, self.condition = form, call, error, condition
        self.kind = "raised" if error is not None and kind == "value" else kind
        self.mismatch = what if isinstance(what, Mismatch) else None

    def __reduce__(self) -> tuple[Any, ...]:
        parts = {"call": _detached(self.call), "mismatch": _detached(self.mismatch), "error": self.error}
        parts |= {"condition": self.condition, "kind": self.kind}
        return _again, (self.note, self.form, {name: part for name, part in parts.items() if _travels(part)})


def _again(note: str, form: str, parts: dict[str, Any]) -> Broken:
    """A broken law from what was pickled of it."""
    broken = Broken(note, form=form, call=parts.get("call"), error=parts.get("error"), kind=parts["kind"])
    broken.mismatch, broken.condition = parts.get("mismatch"), parts["condition"]
    return broken


def _detached(part: Any) -> Any:
    """The same with every tensor detached: only leaves of autograd can be copied."""
    if isinstance(part, Tensor):
        return part.detach()
    if isinstance(part, tuple):
        return tuple(map(_detached, part))
    if is_dataclass(part) and not isinstance(part, type):
        return replace(part, **{f.name: _detached(getattr(part, f.name)) for f in fields(part)})
    return part


def _travels(part: object) -> bool:
    """Whether a pickle can be made of it, and read again: some exceptions give one that cannot."""
    try:
        pickle.loads(pickle.dumps(part))
    except Exception:
        return False
    return True


def raised(error: BaseException, call: Call, *, condition: str = "", where: str = "") -> Broken | NotServed:
    """A call that ended in an exception; ``where`` says in or under what, if not in the plain call."""
    if isinstance(error, NotImplementedError):
        return NotServed(call.form, f"{reason_of(error)}{where and ' '}{where}")
    what = f"raises {type(error).__name__}{where and ' '}{where}: {quoted(error)}"
    return Broken(what, form=call.form, call=call, condition=condition, error=error, kind=kind_of_error(error))


def kind_of_error(error: BaseException) -> str:
    """``memory`` if an allocation failed, ``mutation`` where torch refused to write to an input, else ``raised``."""
    said = quoted(error)
    if isinstance(error, MemoryError) or re.search(_NO_MEMORY, said, re.IGNORECASE):
        return "memory"
    return "mutation" if _WRITES in said else "raised"


def is_control(error: BaseException) -> bool:
    """Whether an error is nobody's fault: Ctrl-C, or how Hypothesis and pytest end a case or a test.

    Everything else that a backend raises is its own, ``SystemExit`` among it.
    """
    ends = isinstance(error, (KeyboardInterrupt, GeneratorExit, HypothesisException, StopTest))
    return ends or type(error).__module__.startswith("_pytest.")


def sentence_of(law: str, form: str, dtype: str, backend: str, note: str) -> str:
    """The sentence that says which law is broken by what, and how."""
    return f"{law}: {'some form' if form == 'all' else form} in {dtype} on {backend} {note}"
