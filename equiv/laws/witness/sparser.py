"""The call of a failure with fewer and plainer numbers: zeros, then ones, wherever it still fails by itself.

A recipe says which values a tensor is filled with, all at once. What is shown of a failure is one call, and its numbers
can be tried one by one. The judge is the program that will be printed.
"""

from __future__ import annotations

import contextlib
import io
import time
import warnings
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from equiv.laws.call import Broken, Mismatch, is_control
from equiv.laws.selection import Item
from equiv.laws.witness.snippet import HEAD, judged, judging_lines

_TRIALS, _SECONDS = 300, 2.0


def sparser(broken: Broken, item: Item, *, trials: int = _TRIALS, seconds: float = _SECONDS) -> Broken:
    """The same failure, of a call with fewer non-zero numbers; what was given where none is found."""
    call, wrong = broken.call, broken.mismatch
    if call is None or (wrong is None and broken.error is None):
        return broken
    lines = judging_lines(broken, **judged(item))
    tensors = {"x": call.input, "weight": call.weight, "bias": call.bias}
    tensors |= {"grad": wrong.gradient[1]} if wrong is not None and wrong.gradient is not None else {}
    if lines is None or any(t is not None and (t.is_conj() or t.is_neg()) for t in tensors.values()):
        return broken
    search = _Search(broken, item, compile("\n".join([*HEAD, *lines]), "<witness>", "exec"), trials)
    search.deadline = time.monotonic() + seconds
    try:
        return search.least(tensors)
    except BaseException as error:  # a backend may do anything to what it is given; then what is known is enough
        if is_control(error):
            raise
        return broken


@dataclass
class _Search:
    broken: Broken
    item: Item
    program: Any
    left: int  # trials
    deadline: float = 0.0
    best: dict[str, Tensor | None] = field(default_factory=dict)
    names: dict[str, Any] = field(default_factory=dict)

    def least(self, tensors: dict[str, Tensor | None]) -> Broken:
        if not self.fails(tensors):
            return self.broken
        for name in tensors:
            self.zero(name)
        for name in tensors:
            for place in _places(self.best[name]):
                self.fails(self.changed(name, [place], 1))
        return self.found()

    def fails(self, tensors: dict[str, Tensor | None]) -> bool:
        """Whether the program fails on these tensors for the reason that was found; if so they are the best so far."""
        if self.left <= 0 or time.monotonic() > self.deadline:
            return False
        self.left -= 1
        names: dict[str, Any] = {name: None if t is None else _copied(t) for name, t in tensors.items()}
        names["backend"] = self.item.backend
        try:
            with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
                warnings.simplefilter("error" if isinstance(self.broken.error, Warning) else "ignore")
                exec(self.program, names)
        except BaseException as error:
            if is_control(error):
                raise
            expected = self.broken.error
            if expected is None:
                same = isinstance(error, AssertionError) and _mismatch(names) is not None
            else:
                same = type(error) is type(expected) and str(error) == str(expected)
            if same:
                self.best, self.names = tensors, names
            return same
        return False

    def zero(self, name: str) -> None:
        """Zeros in as many places as possible: all, then halves, and so on."""
        places = _places(self.best[name])
        size = len(places)
        while size:
            for start in range(0, len(places), size):
                self.fails(self.changed(name, places[start : start + size], 0))
            size //= 2
            places = _places(self.best[name])

    def changed(self, name: str, places: list[tuple[int, ...]], value: int) -> dict[str, Tensor | None]:
        given = self.best[name]
        assert given is not None
        t = _copied(given)
        for place in places:
            _base(t)[place] = value
        return {**self.best, name: t}

    def found(self) -> Broken:
        """The failure of the best tensors."""
        before, best = self.broken, self.best
        call: Any = before.call
        call = replace(call, input=best["x"], weight=best["weight"], bias=best["bias"])
        if before.mismatch is None:
            return Broken(before.note, form=before.form, call=call, error=before.error, kind=before.kind)
        mismatch, gradient, grad = _mismatch(self.names), before.mismatch.gradient, best.get("grad")
        if mismatch is not None and gradient is not None and grad is not None:
            mismatch = replace(mismatch, gradient=(gradient[0], grad))
        # A program that compares results shows no gradient, whatever showed the defect first.
        condition = "" if before.condition.startswith("gradient of") else before.condition
        how: dict[str, Any] = {"condition": condition, "error": before.error, "kind": before.kind}
        return Broken(mismatch, form=before.form, call=call, **how)


def _mismatch(names: dict[str, Any]) -> Mismatch | None:
    """What the program found, from the names that it left; None where that is no wrong entry."""
    verdict = names.get("verdict")
    if verdict is not None:
        worst = verdict.worst
        if worst is None or worst.ratio is None:
            return None
        envelope = (worst.lower, worst.upper)
        return Mismatch(worst.actual, worst.exact, worst.index, envelope=envelope, ratio=worst.ratio)
    actual, exact = names.get("found", names.get("y")), names.get("exact")
    if actual is None or exact is None or actual.shape != exact.shape or actual.dtype != exact.dtype:
        return None
    wrong = ~((actual == exact) | (actual.isnan() & exact.isnan()))
    index = tuple(int(i) for i in wrong.nonzero()[0]) if bool(wrong.any()) else None
    return None if index is None else Mismatch(actual[index].item(), exact[index].item(), index)


def _places(t: Tensor | None) -> list[tuple[int, ...]]:
    """Of the entries of memory that are not 0."""
    return [] if t is None else [tuple(place) for place in _base(t).nonzero().tolist()]


def _base(t: Tensor) -> Tensor:
    """A view in which no entry stands twice."""
    for d, stride in enumerate(t.stride()):
        t = t.narrow(d, 0, 1) if stride == 0 and t.shape[d] > 1 else t
    return t


def _copied(t: Tensor) -> Tensor:
    """The same values in a memory of its own, with the same strides and the same numbers around it."""
    made: Any = torch.empty(0, dtype=t.dtype, device=t.device)
    memory: Any = t.detach().untyped_storage()
    copy: Tensor = made.set_(memory.clone(), t.storage_offset(), t.shape, t.stride())
    return copy
