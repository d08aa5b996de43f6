"""The runs in float64: either side, given at every pair what the reference had in its own format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from equiv.models.links import Link
from equiv.models.runs import SKIP, Call, Follower, Given, Key, apart, instead_of, refilled, returned
from equiv.models.sampling import verdict_of, worst_of
from equiv.models.settings import setting_words
from equiv.models.sides import Side
from equiv.models.trees import once, tensors
from equiv.models.wide import Alike, Computing, Four, converted, settled
from equiv.verdict import Outcome, Verdict


class Wide(Follower):
    """Either side in another format, given at every pair what the reference had in its own."""

    def __init__(
        self, side: Side, links: Sequence[Link], dtype: torch.dtype, *, of_candidate: bool, last: bool, native: bool
    ) -> None:
        super().__init__(side, links, of_candidate=of_candidate)
        self.dtype, self.last, self.native = dtype, last, native
        self.unneeded: set[Key] = set()
        self.substitutes = any(link.constant for link in links)

    def call(self, call: Callable[..., Any]) -> Any:
        """Call the model in that format."""
        args, kwargs = self.side.inputs(lambda t: converted(t.clone(), self.dtype))
        with Alike(self.dtype), Computing(self.dtype):
            return call(*args, **kwargs)

    def before(self, key: Key, given: Given) -> Any:
        """The reference's input, unless it is constant; no call where the result is not needed."""
        link = self.links[key[0]]
        if link.unit.kind == "container":
            return given
        call = self.ask(key)
        self.held[key[0]] = call
        if call is None:
            return given
        with _disable_current_modes():
            if len(link.unit.candidate) > 1 or len(link.unit.reference) > 1:
                call.keep()
            own = given.tensors
            call.parts[f"{self._name} x"] = self.mapped_back(key, "x", own, call.x)
            if self.last:
                self.settle(link, key[1], call, "x")
            if (key[1], "y") not in link.pending and len(tensors(call.own)) == len(call.y):
                if len(link.unit.candidate if self.of_candidate else link.unit.reference) == 1:
                    return SKIP
                self.unneeded.add(key)  # a chain: its last module ends the call
            wide = once(lambda t: converted(t, self.dtype))
            source = [wide(t) for t in call.x]
            if self.of_candidate:
                source = instead_of(link, "x", source, own, keeps=True)
            elif len(source) != len(own):
                source = own
            copied = once(torch.clone)
            return given.filled([copied(t) for t in source])

    def after(self, key: Key, result: Any) -> Any:
        """The reference's result, in this format."""
        link = self.links[key[0]]
        call = self.ask(key) if link.unit.kind == "container" else self.held[key[0]]
        if call is None:
            return result
        with _disable_current_modes():
            if result is SKIP or key in self.unneeded:
                self.unneeded.discard(key)
                result = call.own if self.of_candidate else call.result
            else:
                own = [t.detach() for t in tensors(result)]
                call.parts[f"{self._name} y"] = self.mapped_back(key, "y", own, call.y)
                if self.last:
                    self.settle(link, key[1], call, "y")
            forced = [converted(self._other(key, i, t), self.dtype) for i, t in enumerate(call.y)]
            return returned(link, forced, result, keeps=True) if self.of_candidate else _own(result, forced)

    def _other(self, key: Key, place: int, y: Tensor) -> Tensor:
        """The reference's result; other values in place of a constant one."""
        if key[1] not in self.links[key[0]].constant or not y.is_floating_point():
            return y
        generator = torch.Generator().manual_seed(1000 * key[0] + 10 * key[1] + place)
        return torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.device)

    @property
    def _name(self) -> str:
        return "candidate" if self.of_candidate else "reference"

    def settle(self, link: Link, count: int, call: Call, part: str) -> None:
        """Judge what bits did not decide, and what is the same for constants alone."""
        found = link.before if part == "x" else link.own
        theirs = call.x if part == "x" else call.y
        forced = call.parts.get(f"forced {part}", [])
        wides = [call.parts.get(f"{side} {part}", []) for side in ("candidate", "reference")]
        if (count, part) in link.pending:
            verdicts = []
            for i, r in enumerate(theirs[: len(forced)]):
                c, wide = forced[i], [w[i] if i < len(w) else None for w in wides]
                if c is not None:
                    verdict = settled(_four(c, r, wide, native=self.native), _what(link, part))
                    verdicts.append(_by_settings(verdict, link, wide, r) if part == "y" else verdict)
            if verdicts:
                found[count] = worst_of(verdicts)
            return
        if not self.substitutes:
            return
        for i, (a, b) in enumerate(zip(*wides, strict=False)):
            if a is not None and b is not None and differ_in_float64(a, b, theirs[i]):
                text = (
                    f"{_what(link, part)} differs by up to {apart(a, b):.3g} on other values than the constants here."
                )
                found[count] = verdict_of(Outcome.DIFFERENT, text, theirs[i])
                return


def _by_settings(verdict: Verdict, link: Link, wide: list[Tensor | None], like: Tensor) -> Verdict:
    """What float64 sees and the models' format hardly does is no rounded constant where settings differ."""
    a, b = wide
    if a is None or b is None or not link.settings or verdict.outcome in (Outcome.ROUNDING, Outcome.DIFFERENT):
        return verdict
    if verdict.outcome is Outcome.IDENTICAL and not differ_in_float64(a, b, like):
        return verdict
    text = f"its result differs in float64 by up to {apart(a, b):.3g}, and {setting_words(link.settings)}."
    return replace(verdict, outcome=Outcome.DIFFERENT, explanation=text)


def _own(result: Any, forced: list[Tensor]) -> Any:
    """A result of the reference's own side with these tensors in it."""
    return refilled(result, [t.clone() for t in forced]) if len(tensors(result)) == len(forced) else result


def _four(c: Tensor, r: Tensor, wide: list[Tensor | None], *, native: bool) -> Four:
    return Four(wide[0], wide[1], c, r) if native and wide[0] is not None and wide[1] is not None else Four(c, r, *wide)


_UNITS = 2.0**13  # of float64, that rounding may leave in a segment


def differ_in_float64(a: Tensor, b: Tensor, like: Tensor) -> bool:
    """Whether two results in float64 differ by more than rounding there, where the models' own are the same bits."""
    if a.dtype != torch.float64 or not like.is_floating_point() or like.dtype == torch.float64 or not b.numel():
        return False
    parted, size = apart(a, b), float(b.abs().max())
    return parted > _UNITS * 2.0**-53 * size


def _what(link: Link, part: str) -> str:
    if link.unit.kind == "container":
        return "what it returns"
    return "its input" if part == "x" else "its result"
