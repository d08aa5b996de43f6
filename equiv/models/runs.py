"""What each run of a model does at a paired module: hand over, be given, or go on freely.

The reference leads. The forced run is given the reference's input at every pair, and the reference's result in place of
its own, so that whatever differs at the next pair comes from the code between. The free run goes its own way, and shows
what is inherited. Two more run in float64 where bits alone do not decide.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from equiv.models.links import Link
from equiv.models.merged import judged_merged
from equiv.models.players import Player
from equiv.models.sampling import judged, judged_chain, probe_like, same, verdict_of, worst_of
from equiv.models.sides import Side, instrument
from equiv.models.trees import equal, mapped, once, tensors
from equiv.verdict import Outcome


@dataclass
class Call:
    """One call of a pair on the reference's side, and what others add to it on the way."""

    key: Key
    x: list[Tensor]
    y: list[Tensor]
    result: Any = None
    own: Any = None
    parts: dict[str, list[Tensor | None]] = field(default_factory=dict)
    kept: bool = False

    def keep(self) -> None:
        """Copy the tensors: the reference may overwrite them when it goes on."""
        if not self.kept:
            copied = once(torch.clone)
            self.x, self.y, self.kept = [copied(t) for t in self.x], [copied(t) for t in self.y], True


Key = tuple[int, int]
SKIP: Any = object()


class Given(NamedTuple):
    """A forward, and what it is called with."""

    forward: Callable[..., Any]
    args: Any
    kwargs: Any

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors among the arguments."""
        detached = once(torch.Tensor.detach)
        return [detached(t) for t in tensors((self.args, self.kwargs))]

    def filled(self, instead: list[Tensor]) -> Given:
        """The same call with other tensors."""
        args, kwargs = refilled((self.args, self.kwargs), instead)
        return Given(self.forward, args, kwargs)


class Run:
    """One run of one side, as a :class:`Player`."""

    def __init__(self, side: Side, links: Sequence[Link], *, of_candidate: bool) -> None:
        self.side, self.links = side, links
        self.of_candidate = of_candidate
        self.counts: dict[int, int] = defaultdict(int)
        self.held: dict[int, Any] = {}
        self.player = Player(self._play)

    def _play(self, _: Player) -> Any:
        call, modules = self.twin()
        for place, link in enumerate(self.links):
            names = link.unit.candidate if self.of_candidate else link.unit.reference
            if len(names) == 1:
                instrument(modules[names[0]], functools.partial(self._around, place, True, True))
            else:
                instrument(modules[names[0]], functools.partial(self._around, place, True, False))
                instrument(modules[names[-1]], functools.partial(self._around, place, False, True))
        return self.call(call)

    def twin(self) -> tuple[Callable[..., Any], dict[str, nn.Module]]:
        """Something to call in the model's place, and its modules by name."""
        return self.side.twin()

    def call(self, call: Callable[..., Any]) -> Any:
        """Call the model."""
        args, kwargs = self.side.inputs()
        return call(*args, **kwargs)

    def _around(self, place: int, first: bool, last: bool, forward: Any, *args: Any, **kwargs: Any) -> Any:
        if first:
            key = (place, self.counts[place])
            self.counts[place] += 1
            given = self.before(key, Given(forward, args, kwargs))
            if given is SKIP:
                return self._ended(key, SKIP)
            args, kwargs = given.args, given.kwargs
        key = (place, self.counts[place] - 1)
        result = forward(*args, **kwargs)
        return self._ended(key, result) if last else result

    def _ended(self, key: Key, result: Any) -> Any:
        try:
            return self.after(key, result)
        finally:
            self.held.pop(key[0], None)  # no activation is kept longer than its call

    def before(self, key: Key, given: Given) -> Any:  # noqa: ARG002 - for those who look
        """What the module is called with instead, or ``SKIP`` where it need not be."""
        return given

    def after(self, key: Key, result: Any) -> Any:
        """What it returns instead; ``result`` is ``SKIP`` where it was not called."""
        raise NotImplementedError


class Leader(Run):
    """The reference as it is."""

    def before(self, key: Key, given: Given) -> Any:
        """Note the inputs."""
        link = self.links[key[0]]
        if link.unit.kind != "container":
            x = given.tensors
            copied = once(torch.clone)
            self.held[key[0]] = [copied(t) for t in x] if link.layer is None else x
        return given

    def after(self, key: Key, result: Any) -> Any:
        """Hand over the call."""
        link = self.links[key[0]]
        call = Call(key, self.held.get(key[0]) or [], [t.detach() for t in tensors(result)], result)
        link.calls += 1
        self.player.ask(call)
        return result


def largest(values: Sequence[Tensor]) -> float:
    """The largest absolute value of all, infinite where one is not finite."""
    sizes = [_size(t) for t in values if t.numel() and (t.is_floating_point() or t.is_complex())]
    return max((s if math.isfinite(s) else math.inf for s in sizes), default=0.0)


def _size(t: Tensor) -> float:
    if t.is_complex():
        return float(t.abs().max())
    low, high = t.aminmax()  # no copy, as large as the result
    return float(torch.maximum(-low, high))


class Follower(Run):
    """A run that asks for the calls of the leader by their keys."""

    def ask(self, key: Key) -> Call | None:
        """The call, or None where the reference makes no such call."""
        call: Call | None = self.player.ask(key)
        return call

    def mapped_back(self, key: Key, part: str, mine: list[Tensor], theirs: list[Tensor]) -> list[Any]:
        """This side's tensors as the reference has them; one that fits none is None."""
        if not self.of_candidate:
            return list(mine)
        link = self.links[key[0]]
        return [link.to_reference(part, a, b) for a, b in zip(mine, theirs, strict=False)]


class Free(Follower):
    """The candidate as it is: how far has it parted from the reference by now?"""

    def after(self, key: Key, result: Any) -> Any:
        """Measure."""
        call = self.ask(key)
        if call is not None:
            link = self.links[key[0]]
            mine = self.mapped_back(key, "y", tensors(result), call.y)
            parted = [apart(a, b) for a, b in zip(mine, call.y, strict=False) if a is not None]
            link.inherited = max([*([] if link.inherited is None else [link.inherited]), *parted], default=None)
            link.size = max(link.size or 0.0, largest(call.y))
        return result


def apart(a: Tensor, b: Tensor) -> float:
    """The largest difference of two tensors, infinite where it is not finite or the shapes differ."""
    if not b.is_floating_point() or a.shape != b.shape:
        return 0.0 if a.shape == b.shape and bool((a == b).all()) else math.inf
    if a.dtype == b.dtype and equal(a, b):
        return 0.0
    parted = a - b
    found = float(parted.abs().max()) if parted.is_complex() else _size(parted)
    return found if math.isfinite(found) else math.inf


class Forced(Follower):
    """The candidate with the reference's input and result at every pair.

    With ``judge`` off, what it computes is only handed on to the runs in float64.
    """

    def __init__(self, side: Side, links: Sequence[Link], *, judge: bool = True) -> None:
        super().__init__(side, links, of_candidate=True)
        self.judge = judge

    def before(self, key: Key, given: Given) -> Any:
        """The reference's input in place of its own, once the two have been compared."""
        link = self.links[key[0]]
        if link.unit.kind == "container":
            return given
        call = self.ask(key)
        self.held[key[0]] = (call, None)
        if call is None:
            return given
        if len(link.unit.candidate) > 1:
            call.keep()
        own = given.tensors
        if own and call.x:
            link.see(call.x[0], own[0])
            link.say(call.x[0], own[0])
        mine = self.mapped_back(key, "x", own, call.x)
        call.parts["forced x"] = mine
        if self.judge:
            _note(link, key[1], "x", mine, call.x)
        given = given.filled(instead_of(link, "x", call.x, own))
        self.held[key[0]] = (call, given)
        return given

    def after(self, key: Key, result: Any) -> Any:
        """The reference's result in place of its own, once that has been judged."""
        link = self.links[key[0]]
        call, how = (self.ask(key), None) if link.unit.kind == "container" else self.held[key[0]]
        if call is None:
            return result
        own = [t.detach() for t in tensors(result)]
        mine = self.mapped_back(key, "y", own, call.y)
        call.parts["forced y"], call.own = mine, result
        if self.judge:
            self._judge(link, key[1], call, mine, how)
        return returned(link, call.y, result)

    def _judge(self, link: Link, count: int, call: Call, mine: list[Any], how: Any) -> None:
        link.largest = max(
            link.largest or 0.0, *(apart(a, b) for a, b in zip(mine, call.y, strict=False) if a is not None), 0.0
        )
        if any(t.numel() > 1 and t.is_floating_point() and bool((t == t.flatten()[0]).all()) for t in call.y):
            link.constant.add(count)
        if link.chain is not None and len(mine) == len(call.y) == 1 and mine[0] is not None:
            found = judged_chain(link.chain[0], call.x[0], mine[0], call.y[0])
            if found is not None:
                link.own[count] = found
                return
        if link.merged is not None and len(mine) == len(call.y) == 1 and mine[0] is not None:
            found = judged_merged(*link.merged, call.x[0], mine[0], call.y[0])
            if found is not None:
                link.own[count] = found
                return
        if link.layer is None or len(mine) != 1 or len(call.y) != 1 or mine[0] is None:
            _note(link, count, "y", mine, call.y)
            return
        link.own[count] = judged(link.layer, call.x[0], mine[0], call.y[0])
        if not link.probed and how is not None:
            link.probed = True
            self._probe(link, count, call, how)

    def _probe(self, link: Link, count: int, call: Call, how: Given) -> None:
        """Ask both on an input of few entries, and on ordinary ones where the real results are constant."""
        layer, x = link.layer, call.x[0]
        assert layer is not None
        if not x.is_floating_point():
            return
        parts = [x[:1]] if how.tensors[0].shape == x.shape and x.ndim > 2 else []
        tried: list[tuple[str, Callable[[Tensor], Tensor]]] = [
            ("asked inputs of few entries, ", lambda part: probe_like(layer, part, 0)),
        ]
        if count in link.constant:
            tried.append(("asked normal inputs, ", _normal_like))
        for words, probe_of in tried:
            for part in (*parts, x):  # one of a batch, where the candidate takes it
                probe = probe_of(part)
                expected = layer(probe)
                mine = _asked(link, how, probe, expected)
                if mine is not None:
                    verdict = judged(layer, probe, mine, expected)
                    if worst_of([link.own[count], verdict]) is verdict and not verdict.equivalent:
                        link.own[count] = replace(verdict, explanation=words + verdict.explanation)
                    break


def _normal_like(x: Tensor) -> Tensor:
    normal = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), device="cpu")
    return normal.to(x.device, x.dtype)


def _asked(link: Link, how: Given, probe: Tensor, expected: Tensor) -> Tensor | None:
    """What the candidate's module returns for another input of the reference's, as the reference has it."""
    given = how.tensors
    part = given[0][: len(probe)] if given[0].shape[1:] == probe.shape[1:] else given[0]
    placed = link.to_candidate("x", probe, part)
    if placed is None:
        return None
    asked = how.filled([placed.to(given[0].dtype), *given[1:]])
    try:
        found = tensors(asked.forward(*asked.args, **asked.kwargs))
    except Exception:  # it takes none but its own size of batch
        return None
    return link.to_reference("y", found[0], expected) if len(found) == 1 else None


def instead_of(link: Link, part: str, theirs: list[Tensor], own: list[Tensor], *, keeps: bool = False) -> list[Tensor]:
    """The reference's tensors as the candidate's module takes or returns them; its own where there is no such one.

    Their dtype is the candidate's, unless the reference's ``keeps``.
    """
    count = len(own) if len(own) == len(theirs) else min(1, len(own), len(theirs))
    found: list[Tensor] = []
    for i, t in enumerate(own):
        before = next((j for j in range(i) if own[j] is t and i < count and theirs[j] is theirs[i]), None)
        if before is not None:  # one tensor in two places, as the query and the key of an attention
            found.append(found[before])
            continue
        placed = link.to_candidate(part, theirs[i], t) if i < count else None
        found.append(t if placed is None else _as_strided(placed, t, placed.dtype if keeps else t.dtype))
    return found


def _as_strided(placed: Tensor, like: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy with the strides of the tensor that it stands for: kernels may round by them."""
    if like.shape != placed.shape or 0 in like.stride():
        return placed.to(dtype).clone()
    return torch.empty_strided(like.shape, like.stride(), dtype=dtype, device=like.device).copy_(placed)


def returned(link: Link, theirs: list[Tensor], result: Any, *, keeps: bool = False) -> Any:
    """A result with the reference's tensors in it."""
    own = [t.detach() for t in tensors(result)]
    return refilled(result, instead_of(link, "y", theirs, own, keeps=keeps)) if len(theirs) == len(own) else result


def _note(link: Link, count: int, part: str, mine: list[Any], theirs: list[Tensor]) -> None:
    """Equal bits are identical; all else is left to float64."""
    found = link.before if part == "x" else link.own
    misfits = [b for a, b in zip(mine, theirs, strict=False) if a is None]
    if misfits:
        text = f"its {'input' if part == 'x' else 'result'} has a shape that is no layout of {tuple(misfits[0].shape)}."
        found[count] = verdict_of(Outcome.DIFFERENT, text, misfits[0])
        return
    if all(a.dtype == b.dtype and equal(a, b) for a, b in zip(mine, theirs, strict=False)):
        if theirs:
            found[count] = same(theirs[0])
        if not (part == "y" and link.settings):  # equal bits here: float64 tells whether it is the same function
            return
    link.pending.add((count, part))


def refilled(value: Any, instead: list[Tensor]) -> Any:
    """The same containers with other tensors in them, in order."""
    left = iter(instead)
    return mapped(value, lambda _: next(left))
