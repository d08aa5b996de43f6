"""Two models with gradients recorded, cut at every pair: each piece, a pair or the code before one, goes back alone.

The reference's run gives every pair its inputs and results, the candidate's is given the same, as leaves. An incoming
gradient at the results then goes back piece by piece, last piece first, through the reference; the candidate's piece
gets the very gradient that the reference's had. So a wrong gradient is found where it is made.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from equiv.errors import EquivError
from equiv.models.links import Link
from equiv.models.runs import Given, Key, Run, instead_of, refilled
from equiv.models.sides import Side
from equiv.models.trees import mapped, once, tensors
from equiv.models.wide import converted
from equiv.text import quoted

Gradients = list[Tensor | None]
Leaf = Tensor


@dataclass
class Piece:
    """One call of a pair.

    Attributes:
        before: What the code before it made, with its graph.
        x: Leaves of the same values, of which the pair computes.
        y: Its results, with their graph.
        after: Leaves of the same values, of which the code after it computes.
    """

    before: list[Tensor]
    x: list[Leaf]
    y: list[Tensor] = field(default_factory=list)
    after: list[Leaf] = field(default_factory=list)


class Cut(Run):
    """One side, cut at every pair; a candidate takes the values of the reference's pieces, ``given``.

    With ``dtype`` all values are converted to it; the code around sees to it that operations compute in it.
    """

    def __init__(
        self,
        side: Side,
        links: Sequence[Link],
        *,
        of_candidate: bool,
        given: Cut | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(side, links, of_candidate=of_candidate)
        self.given, self.dtype = given, dtype
        self.pieces: dict[Key, Piece] = {}
        self.ended: list[Key] = []
        self.inputs: list[Leaf] = []
        self.modules: dict[str, nn.Module] = {}
        self.result: list[Tensor] = []

    def run(self) -> None:
        """Run it.

        Raises:
            EquivError: It does not run while gradients are recorded.
        """
        try:
            self.result = tensors(self._play(self.player))
        except Exception as error:
            said = f"{type(error).__name__}: {quoted(error)}"
            raise EquivError(
                f"{self.side.name}: expected a model that runs while gradients are recorded, got {said}; make it run "
                "so, or leave gradients= out"
            ) from error

    def twin(self) -> tuple[Callable[..., Any], dict[str, nn.Module]]:
        """The model with stand-ins for its parameters: nothing of the caller's gets a gradient."""
        stand_ins = {
            id(p): nn.Parameter(p.detach().clone() if p.is_inference() else p.detach(), requires_grad=p.requires_grad)
            for module in self.side.modules.values()
            for p in module.parameters(recurse=False)
            if p.is_floating_point() or p.is_complex()
        }
        call, self.modules = self.side.twin(stand_ins)
        return call, self.modules

    def call(self, call: Callable[..., Any]) -> Any:
        """Call it with leaves."""
        args, kwargs = self.side.inputs(once(lambda t: self._leaf(t.clone())))
        self.inputs = tensors((args, kwargs))
        args, kwargs = mapped((args, kwargs), once(_used))
        return call(*args, **kwargs)

    def before(self, key: Key, given: Given) -> Any:
        """Leaves in place of the inputs."""
        link = self.links[key[0]]
        other = None if self.given is None else self.given.pieces.get(key)
        if link.unit.kind == "container" or (self.given is not None and other is None):
            return given
        made = tensors((given.args, given.kwargs))
        self.pieces[key] = Piece(made, self._leaves(link, "x", made, None if other is None else other.x))
        self.held[key[0]] = self.pieces[key]
        return given.filled(list(map(once(_used), self.pieces[key].x)))

    def after(self, key: Key, result: Any) -> Any:
        """Leaves in place of the results."""
        link, piece = self.links[key[0]], self.held.get(key[0])
        if piece is None:
            return result
        other = None if self.given is None else self.given.pieces[key]
        piece.y = tensors(result)
        piece.after = self._leaves(link, "y", piece.y, None if other is None else other.after)
        self.ended.append(key)
        return refilled(result, list(map(once(_used), piece.after)))

    def _leaves(self, link: Link, part: str, made: list[Tensor], theirs: list[Tensor] | None) -> list[Leaf]:
        values = [t.detach() for t in made]
        if theirs is not None and self.of_candidate and (part == "x" or len(theirs) == len(values)):
            own = once(torch.Tensor.detach)  # one tensor in two places stays one
            values = instead_of(link, part, [t.detach() for t in theirs], list(map(own, made)), keeps=bool(self.dtype))
        elif theirs is not None and len(theirs) == len(values):
            values = [t.detach() for t in theirs]
        return list(map(once(self._leaf), values))

    def _leaf(self, t: Tensor) -> Leaf:
        t = t.detach() if self.dtype is None else converted(t.detach(), self.dtype)
        return t.requires_grad_() if t.is_floating_point() or t.is_complex() else t

    def earlier(self, key: Key | None) -> list[tuple[Key, int, Leaf]]:
        """The leaves of the calls that ended before this one did, or of all, by call and place."""
        count = len(self.ended) if key is None else self.ended.index(key)
        return [
            (earlier, i, leaf)
            for earlier in self.ended[:count]
            for i, leaf in enumerate(self.pieces[earlier].after)
            if leaf.requires_grad
        ]

    @functools.cached_property
    def free_parameters(self) -> dict[str, nn.Parameter]:
        """Parameters of modules that belong to no pair, by name, which the code between reads."""
        held: set[int] = set()
        for link in self.links:
            if link.unit.kind != "container":
                for name in link.unit.candidate if self.of_candidate else link.unit.reference:
                    held |= {id(p) for p in self.modules[name].parameters()}
        root = self.modules.get("")
        named = {} if root is None else dict(root.named_parameters())
        return {name: p for name, p in named.items() if id(p) not in held and p.requires_grad}


def _used(leaf: Leaf) -> Tensor:
    """What code may write to in the place of a leaf."""
    return leaf.clone() if leaf.requires_grad else leaf


def back(results: Sequence[Tensor], sources: Sequence[Tensor], incoming: Iterable[Tensor | None]) -> Gradients:
    """Gradients of the sources for an incoming gradient of each result; None where none arrives."""
    pairs = [(y, g) for y, g in zip(results, incoming, strict=False) if y.requires_grad and g is not None]
    asked = [i for i, source in enumerate(sources) if source.requires_grad]
    found: Gradients = [None] * len(sources)
    if pairs and asked:
        ys, gs = [y for y, _ in pairs], [g.to(y.dtype) for y, g in pairs]
        some = torch.autograd.grad(ys, [sources[i] for i in asked], gs, allow_unused=True, retain_graph=True)
        for i, g in zip(asked, some, strict=True):
            found[i] = None if g is None else (g.to_dense() if g.layout != torch.strided else g).detach()
    return found


def normal_like(t: Tensor, seed: int) -> Tensor:
    """Ordinary values in the shape of a result."""
    kind = torch.complex128 if t.is_complex() else torch.float64
    drawn = torch.randn(t.shape, generator=torch.Generator().manual_seed(seed), dtype=kind, device="cpu")
    return drawn.to(t.device, t.dtype)
