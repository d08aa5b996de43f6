"""Gradients of two models, piece by piece: which piece's are not those of the reference's, fed the same.

Those of a plain affine layer are held against their envelopes, for the gradient that really arrives and for one of few
entries. All others are judged as results are: equal bits are identical, else both sides go back in float64 as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from equiv.errors import EquivError
from equiv.mapping import Conv, is_conv1d
from equiv.models.backward import Cut, Gradients, Piece, back, normal_like
from equiv.models.gradient_chains import gradient_of_chain
from equiv.models.gradient_envelopes import Asked, judged_gradient, matrix_like, sparse_gradient
from equiv.models.layouts import fitted
from equiv.models.links import Link
from equiv.models.merged import gradient_of_merged
from equiv.models.pairing import is_affine
from equiv.models.runs import Key
from equiv.models.sampling import same, verdict_of, worst_of
from equiv.models.sides import Side
from equiv.models.trees import equal
from equiv.models.wide import Alike, Computing, Four, converted, settled
from equiv.text import quoted
from equiv.verdict import Outcome, Verdict

Place = Key | None  # of a piece; None is the code after the last pair
_Mapped = Callable[[Tensor, Tensor], Tensor | None]
_PLAIN = ("input", "weight", "bias")


@dataclass
class Backward:
    """What the gradients say.

    Attributes:
        own: Verdicts on the gradients of each pair, by the place of its link and by what they are of.
        before: The worst verdict on those of the code before each pair, and of the code after the last one under None.
        notes: What was not compared, a sentence each.
    """

    own: dict[int, dict[str, Verdict]] = field(default_factory=dict)
    before: dict[int | None, Verdict] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class Right(NamedTuple):
    """Places of links whose results, and the code before which, are right: their gradients can be."""

    own: set[int]
    before: set[int | None]


class _Source(NamedTuple):
    """Something that has a gradient on both sides, and how the candidate's is laid out as the reference's."""

    of: str
    candidate: Tensor | None
    reference: Tensor
    mapped: _Mapped


_Found = tuple[list[_Source], Gradients, Gradients]  # what, of the candidate, of the reference


class _Open(NamedTuple):
    """Gradients of a piece whose bits differ."""

    place: Place
    own: bool
    which: int
    of: str
    four: tuple[Tensor, Tensor]
    incoming: Gradients


def gradients_of(candidate: Side, reference: Side, links: Sequence[Link], right: Right) -> Backward:
    """Compare the gradients of all pieces whose results are right.

    Raises:
        EquivError: A side that does not run while gradients are recorded, or a reference whose backward pass fails.
    """
    with torch.inference_mode(False), torch.enable_grad():
        return _Back(candidate, reference, links, right).run()


class _Back:
    def __init__(self, candidate: Side, reference: Side, links: Sequence[Link], right: Right) -> None:
        self.sides, self.links, self.right = (candidate, reference), links, right
        self.found = Backward()
        self.arrived: dict[int, Tensor] = {}
        self.open: list[_Open] = []
        self.probed: set[int] = set()
        self.frozen: list[str] = []
        self.partly: list[str] = []

    def run(self) -> Backward:
        candidate, reference = self.sides
        theirs = Cut(reference, self.links, of_candidate=False)
        theirs.run()
        mine = Cut(candidate, self.links, of_candidate=True, given=theirs)
        mine.run()
        self.cuts = mine, theirs
        made = [y for piece in theirs.pieces.values() for y in piece.y] or theirs.result
        if not any(y.requires_grad for y in made):
            self.found.notes.append("The reference records no gradients, so none were compared.")
            return self.found
        incoming: Gradients = [normal_like(y, i) for i, y in enumerate(theirs.result)]
        self._between(None, (mine.result, theirs.result), incoming)
        for key in reversed(theirs.ended):
            self._piece(key)
        self._in_float64()
        self._say()
        return self.found

    def _piece(self, key: Key) -> None:
        """One call of a pair, then the code before it."""
        mine, theirs = (cut.pieces.get(key) for cut in self.cuts)
        assert theirs is not None
        arrived = [self.arrived.pop(id(leaf), None) for leaf in theirs.after]
        if mine is not None and len(mine.after) == len(theirs.after):
            of_input = self._own(key, (mine, theirs), _ordinary(theirs.y, arrived))
            self._between(key, (mine.before, theirs.before), of_input)
            mine.y, mine.before, theirs.y, theirs.before = [], [], [], []  # their graphs

    def _own(self, key: Key, pieces: tuple[Piece, Piece], incoming: Gradients) -> Gradients:
        """The gradients of the reference's inputs, once those of both sides have been compared."""
        link, (mine, theirs) = self.links[key[0]], pieces
        sources = self._of_pair(link, mine, theirs)
        tried = [incoming]
        plain = _is_plain(link) and len(theirs.y) == len(theirs.x) == 1 and incoming[0] is not None
        if plain and key[0] not in self.probed and key[0] in self.right.own:
            self.probed.add(key[0])
            tried.append([sparse_gradient(link.layer, theirs.x[0], theirs.y[0], 0)])
        found = [back(theirs.y, [source.reference for source in sources], asked) for asked in tried]
        for asked, right in zip(tried, found, strict=True) if key[0] in self.right.own else ():
            try:
                own = back(mine.y, [_or_nothing(s.candidate) for s in sources], _handed(link, "y", asked, mine.y))
            except Exception as error:  # whatever a backward pass says
                self._note(key[0], "input", _fails(error, theirs.y))
                break
            whole = _asked(link, theirs.x[0], asked[0]) if plain else None
            self._compare(key, (sources, own, right), asked, whole)
        return found[0][: len(theirs.x)]

    def _compare(self, key: Key, what: _Found, incoming: Gradients, plain: Asked | None) -> None:
        """The gradients of one pair, or of one call of it."""
        link = self.links[key[0]]
        for i, (source, pair) in enumerate(_as_reference(what)):
            if plain is not None and source.of in _PLAIN:
                self._note(key[0], source.of, judged_gradient(source.of, plain, *pair))
                continue
            verdict = None
            if source.of == "input" and not equal(*pair):
                verdict = _of_fold(link, source.reference, incoming, pair)
            if verdict is None:
                self._leave(_Open(key, True, i, source.of, pair, incoming))
            else:
                self._note(key[0], source.of, verdict)

    def _of_pair(self, link: Link, mine: Piece, theirs: Piece) -> list[_Source]:
        """The inputs of a pair, and its parameters that stand for each other."""

        def laid(a: Tensor, b: Tensor) -> Tensor | None:
            return link.to_reference("x", a, b)

        found = [
            _Source("input" if len(theirs.x) == 1 else f"input {i}", mine.x[i] if i < len(mine.x) else None, x, laid)
            for i, x in enumerate(theirs.x)
        ]
        if link.chain is None and link.parameters.verdict is None:
            found += self._parameters(link)
        elif link.chain is not None:
            self.partly.append(link.unit.candidate[0])
        return found

    def _parameters(self, link: Link) -> Iterator[_Source]:
        names = link.unit.candidate[0], link.unit.reference[0]
        modules = [cut.modules[name] for cut, name in zip(self.cuts, names, strict=True)]
        mine, theirs = (dict(module.named_parameters()) for module in modules)
        held = _affine_in(modules[0])
        for name, right in theirs.items():
            left: nn.Parameter | None = mine.get(name)
            mapped: _Mapped = _by_size
            if link.layer is not None and name in ("weight", "bias") and held is not None:
                left = held._parameters.get(name)
                mapped = _of_weight(link, held) if name == "weight" else _of_bias(link)
            elif link.through is not None:
                left = None
            if left is None or left.numel() != right.numel() or left.dtype != right.dtype:
                self.partly.append(f"{names[0]}.{name}".strip("."))
            elif not (left.requires_grad and right.requires_grad):
                self.frozen.append(f"{names[0]}.{name}".strip("."))
            else:
                yield _Source(name, left, right, mapped)

    def _between(self, place: Place, results: tuple[list[Tensor], list[Tensor]], incoming: Gradients) -> None:
        """The code before a pair, or after the last one: back to what pairs returned before, and to the inputs."""
        mine, theirs = results
        sources = self._of_code(place)
        found = back(theirs, [source.reference for source in sources], incoming)
        for source, g in zip(sources, found, strict=True):
            if g is not None:
                key = id(source.reference)
                self.arrived[key] = g if key not in self.arrived else self.arrived[key] + g
        where = None if place is None else place[0]
        if where not in self.right.before:
            return
        try:
            own = back(mine, [_or_nothing(s.candidate) for s in sources], self._before(place, incoming, mine))
        except Exception as error:  # whatever a backward pass says
            self.found.before[where] = _fails(error, theirs)
            return
        for i, (source, pair) in enumerate(_as_reference((sources, own, found))):
            self._leave(_Open(place, False, i, source.of, pair, incoming))

    def _before(self, place: Place, incoming: Gradients, mine: list[Tensor]) -> Gradients:
        """The reference's incoming gradients as the candidate's code has them."""
        if place is None:
            return [None if g is None else _placed(g, y) for g, y in zip(incoming, mine, strict=False)]
        return _handed(self.links[place[0]], "x", incoming, mine)

    def _of_code(self, place: Place) -> list[_Source]:
        mine, theirs = self.cuts
        found = []
        for key, i, leaf in theirs.earlier(place):
            piece, link = mine.pieces.get(key), self.links[key[0]]
            other = piece.after[i] if piece is not None and i < len(piece.after) else None
            found.append(_Source(f"the result of {link.unit.reference[-1]}", other, leaf, _laid(link)))
        for i, leaf in enumerate(theirs.inputs):
            if leaf.requires_grad:
                other = mine.inputs[i] if i < len(mine.inputs) else None
                found.append(_Source("the input", other, leaf, _by_size))
        named = mine.free_parameters
        for name, p in theirs.free_parameters.items():
            held = named.get(name)
            if held is not None and held.shape == p.shape:
                found.append(_Source(name, held, p, _by_size))
        return found

    def _leave(self, one: _Open) -> None:
        """Equal bits are identical; all else is left to float64."""
        if not equal(*one.four):
            self.open.append(one)
        elif one.own:
            self._settle(one, same(one.four[1]))

    def _settle(self, one: _Open, verdict: Verdict) -> None:
        where = None if one.place is None else one.place[0]
        if one.own and where is not None:
            self._note(where, one.of, verdict)
            return
        held = self.found.before
        held[where] = worst_of([held[where], verdict]) if where in held else verdict

    def _note(self, link: int, of: str, verdict: Verdict) -> None:
        """Keep the worst of all calls."""
        held = self.found.own.setdefault(link, {})
        held[of] = worst_of([held[of], verdict]) if of in held else verdict

    def _in_float64(self) -> None:
        """Both sides once more in float64 (float64 models in float32), where bits differ."""
        if not self.open:
            return
        native = any(t.dtype == torch.float64 for one in self.open for t in one.four)
        dtype = torch.float32 if native else torch.float64
        kept, why = self.cuts[1], ""
        cuts = [
            Cut(side, self.links, of_candidate=place == 0, given=kept, dtype=dtype)
            for place, side in enumerate(self.sides)
        ]
        with Alike(dtype), Computing(dtype):
            try:
                for cut in cuts:
                    cut.run()
            except EquivError as error:
                why = f"it does not run in {str(dtype).removeprefix('torch.')} ({quoted(error, 200)})"
            self.cuts = cuts[0], cuts[1]
            for one in self.open:
                pair: tuple[Tensor | None, Tensor | None] = (None, None)
                try:
                    pair = pair if why else self._again(one, dtype)
                except Exception as error:  # whatever code says to another format
                    pair, why = (None, None), f"{type(error).__name__}: {quoted(error, 80)}"
                with _disable_current_modes():
                    self._settle(one, _settled(one, pair, native=native, why=why))

    def _again(self, one: _Open, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The two gradients in that format."""
        incoming: Gradients = [None if g is None else converted(g, dtype) for g in one.incoming]
        pieces = None if one.place is None else tuple(cut.pieces[one.place] for cut in self.cuts)
        if one.place is not None and pieces is not None and one.own:
            link, results = self.links[one.place[0]], [piece.y for piece in pieces]
            source = self._of_pair(link, *pieces)[one.which]
            handed = _handed(link, "y", incoming, results[0])
        else:
            results = [cut.result for cut in self.cuts] if pieces is None else [piece.before for piece in pieces]
            source = self._of_code(one.place)[one.which]
            handed = self._before(one.place, incoming, results[0])
        right = back(results[1], [source.reference], incoming)
        own = back(results[0], [_or_nothing(source.candidate)], handed)
        return next((pair for _, pair in _as_reference(([source], own, right))), _both(None, None, source.reference))

    def _say(self) -> None:
        self.found.notes.append("Gradients were compared as well, for an incoming gradient of normal values.")
        for names, words in (
            (self.frozen, "do not require gradients on both sides, so those were not compared"),
            (self.partly, "have no counterpart of one shape, so gradients of parameters were not compared there"),
        ):
            some = list(dict.fromkeys(names))
            if some:
                more = f" and {len(some) - 3:,} more" if len(some) > 3 else ""
                self.found.notes.append(f"{', '.join(some[:3])}{more} {words}.")


def _laid(link: Link) -> _Mapped:
    return lambda a, b: link.to_reference("y", a, b)


def _by_size(a: Tensor, b: Tensor) -> Tensor | None:
    return a.reshape(b.shape) if a.numel() == b.numel() else None


def _placed(g: Tensor, like: Tensor) -> Tensor | None:
    found = fitted(g, like)
    return None if found is None else found[0]


def _or_nothing(t: Tensor | None) -> Tensor:
    return torch.empty(0) if t is None else t


def _both(a: Tensor | None, b: Tensor | None, like: Tensor) -> tuple[Tensor, Tensor]:
    """Zeros for a gradient that does not arrive."""
    left, right = (torch.zeros_like(like, requires_grad=False) if g is None else g for g in (a, b))
    return left, right


def _affine_in(module: nn.Module) -> Any:
    """The module, or the only affine one inside."""
    found = [part for part in module.modules() if is_affine(part)]
    return module if is_affine(module) else found[0] if len(found) == 1 else None


def _of_weight(link: Link, held: Any) -> _Mapped:
    """The candidate's weight gradient in the shape of the reference's."""
    columns = link.parameters.columns

    def mapped(a: Tensor, b: Tensor) -> Tensor | None:
        if a.numel() != b.numel():
            return None
        flat = matrix_like(held, a)
        flat = flat if columns is None else flat[:, columns.argsort()]
        order = link.parameters.order
        if order is not None:
            flat = flat.view(len(flat), held.weight.shape[1] if not is_conv1d(held) else -1, -1)
            flat = flat if order.columns is None else flat[:, order.columns.argsort()]
            flat = (flat if order.rows is None else flat[order.rows.argsort()]).flatten(1)
        return (flat.T if is_conv1d(link.layer) else flat).reshape(b.shape)

    return mapped


def _of_fold(link: Link, x: Tensor, incoming: Gradients, pair: tuple[Tensor, Tensor]) -> Verdict | None:
    """The input's gradient of several layers against that of the one layer that they were folded into."""
    if link.chain is not None:
        return gradient_of_chain(link.chain[0], x, incoming, pair)
    if link.merged is None or incoming[0] is None:
        return None
    return gradient_of_merged(link.merged[1], incoming[0], x, pair)


def _of_bias(link: Link) -> _Mapped:
    order = link.parameters.order
    rows = None if order is None or order.rows is None else order.rows.argsort()
    return lambda a, b: _by_size(a if rows is None else a[rows], b)


def _fails(error: Exception, like: list[Tensor]) -> Verdict:
    text = f"its backward pass raises {type(error).__name__}: {quoted(error, 200)}."
    return verdict_of(Outcome.DIFFERENT, text, like[0] if like else torch.empty(0))


def _asked(link: Link, x: Tensor, incoming: Tensor | None) -> Asked | None:
    return None if incoming is None else Asked(link.layer, x, incoming, (type(link.modules[0]), type(link.modules[1])))


def _is_plain(link: Link) -> bool:
    """Whether its gradients are sums of products that an envelope is known for."""
    return isinstance(link.layer, nn.Linear | Conv) or is_conv1d(link.layer)


def _ordinary(results: list[Tensor], arrived: Gradients) -> Gradients:
    """What arrives, and ordinary values where nothing does: zeros prove nothing."""
    return [
        (normal_like(y, i) if y.requires_grad else None) if g is None or not bool(g.any()) else g
        for i, (y, g) in enumerate(zip(results, arrived, strict=True))
    ]


def _handed(link: Link, part: str, incoming: Gradients, like: list[Tensor]) -> Gradients:
    """The reference's gradients as the candidate's piece has them."""
    return [None if g is None else link.to_candidate(part, g, y) for g, y in zip(incoming, like, strict=False)]


def _as_reference(what: _Found) -> Iterator[tuple[_Source, tuple[Tensor, Tensor]]]:
    """Pairs of gradients in the reference's layout; one that does not arrive, or fits none, is zero."""
    for source, a, b in zip(*what, strict=True):
        left = None if a is None else source.mapped(a, source.reference)
        yield source, _both(left, b, source.reference)


def _settled(one: _Open, pair: tuple[Tensor | None, Tensor | None], *, native: bool, why: str) -> Verdict:
    what = f"the gradient of its {one.of}" if one.own else f"the gradient of {one.of}"
    a, b = one.four
    if native and pair[0] is not None and pair[1] is not None:
        return settled(Four(pair[0], pair[1], a, b), what)
    if one.place is not None and not (bool(a.any()) and bool(b.any())):
        side = "candidate" if bool(b.any()) else "reference"
        return verdict_of(Outcome.DIFFERENT, f"{what} is zero throughout in the {side} alone: it is detached.", b)
    return settled(Four(a, b, *pair), what, why)
