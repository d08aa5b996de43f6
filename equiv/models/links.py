"""A pair of modules while it is judged: how tensors of one are laid out for the other, and what has been found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from equiv.errors import EquivError
from equiv.mapping import Conv, check_conv, check_conv_transpose, check_linear, is_conv1d, plain_form
from equiv.models.layouts import Form, fitted, form_of, likely_order, orders, positions, reordered
from equiv.models.merged import may_be_merged
from equiv.models.pairing import Unit, is_affine, is_lora
from equiv.models.parameters import Parameters, compared
from equiv.models.permuted import handed_on, is_permuted_module, order_of, spread
from equiv.models.settings import Setting, unlike_settings
from equiv.models.sides import Side
from equiv.models.trees import equal
from equiv.verdict import Verdict


@dataclass
class Link:
    """A unit with its modules.

    Attributes:
        unit: Names.
        layer: The reference's module where it is a plain affine layer, which gives exact results.
        chain: The longer of the two chains, where one is, as a Sequential, and whether it is the candidate's.
        merged: The affine layer and the module of several weights that it may be the merge of.
        parameters: What the parameters say.
        forms: How either takes and returns rows, once inputs were seen.
        own: Verdicts on results for the reference's input, one a call.
        before: Verdicts on the code before, one a call.
        pending: Calls and parts (``x`` or ``y``) that float64 must decide.
        constant: Calls whose result is one value throughout, which proves nothing.
        order: How axes of the reference are exchanged in the candidate, where sizes alone do not say.
        places: Sizes of the positions of the candidate's input and of the reference's.
        turn: The order in which the candidate's positions are the reference's; None where it is the same.
        known: Permutations of channels that layers before it have made; None where none is looked for.
        through: The axis and the order in which it has the reference's channels, itself no affine layer.
        misfit: Whether its channels are in another order than its input.
        words: The layout in words.
        settings: What the two modules were built with, where that differs.
    """

    unit: Unit
    modules: tuple[nn.Module, nn.Module]
    layer: nn.Module | None = None
    chain: tuple[nn.Sequential, bool] | None = None
    merged: tuple[nn.Module, nn.Module] | None = None
    parameters: Parameters = field(default_factory=Parameters)
    forms: tuple[Form | None, Form | None] | None = None
    own: dict[int, Verdict] = field(default_factory=dict)
    before: dict[int, Verdict] = field(default_factory=dict)
    pending: set[tuple[int, str]] = field(default_factory=set)
    constant: set[int] = field(default_factory=set)
    probed: bool = False
    order: tuple[int, ...] | None = None
    places: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())
    turn: tuple[int, ...] | None = None
    known: list[Tensor] | None = None
    through: tuple[int, Tensor] | None = None
    misfit: bool = False
    words: str = ""
    settings: list[Setting] = field(default_factory=list)
    calls: int = 0
    inherited: float | None = None
    largest: float | None = None
    size: float | None = None

    def see(self, x: Tensor, given: Tensor) -> None:
        """The forms, from the first inputs of the reference and of the candidate."""
        if self.forms is None:
            self.forms = (form_of(self.modules[0], tuple(given.shape)), form_of(self.modules[1], tuple(x.shape)))
            self._see_order(x, given)
            columns = self.parameters.columns
            if columns is not None and not self._is_reordered(x, given, columns):
                self.parameters = self.parameters._replace(verdict=self.parameters.otherwise, columns=None)
            kinds = [type(module) for module in self.modules]
            if self.unit.kind == "module" and (kinds[0] is not kinds[1] or x.shape != given.shape):
                self.order = _moved(x, given)
        mine, theirs = self.forms
        if mine is not None and theirs is not None:
            self.places = positions(mine, tuple(given.shape)), positions(theirs, tuple(x.shape))
            self.turn = self._turned(mine.rows_in(given), theirs.rows_in(x))

    def _see_order(self, x: Tensor, given: Tensor) -> None:
        """Are channels in another order, and is the input in that order too?"""
        if self.known is None:
            return
        order = self.parameters.order
        if order is None:
            self.through = handed_on(x, given, self.known) if self.unit.kind == "module" else None
            if self.through is not None and is_permuted_module(*self.modules, self.through[1]):
                self.parameters = Parameters(None, True)
            return
        channels = order.columns
        if channels is None and getattr(self.modules[1], "groups", 1) > 1:
            channels = order.rows
        axis = self._axis(x)
        usual = float((given - x).abs().amax()) if x.shape == given.shape else 0.0
        placed = None if channels is None or x.shape != given.shape else x.index_select(axis, channels)
        fits = (
            placed is None
            if channels is None
            else placed is not None and (float((given - placed).abs().amax()) <= usual * 2.0**-8)
        )
        if not fits:
            self.parameters, self.misfit = Parameters(self.parameters.otherwise, True), True
            return
        if channels is not None:
            self.through = axis, channels
        if order.rows is not None:
            self.known.append(order.rows)

    def _axis(self, x: Tensor) -> int:
        """The axis of the features."""
        module = self.modules[1]
        return x.ndim - module.weight.ndim + 1 if isinstance(module, Conv) else x.ndim - 1

    def _channels(self, part: str, source: Tensor) -> tuple[int, Tensor] | None:
        """The axis and the order of the candidate's channels in its inputs or results."""
        order = self.parameters.order
        if part == "x" or order is None:
            return None if self.through is None else spread(source, *self.through)
        return None if order.rows is None else (self._axis(source), order.rows)

    def _turned(self, mine: Tensor, theirs: Tensor) -> tuple[int, ...] | None:
        """How positions are ordered; values decide where sizes are alike, as of a sequence as long as its batch."""
        given, wanted = self.places
        if mine.shape != theirs.shape or self.modules[0] is self.modules[1]:
            return None
        columns = self.parameters.columns
        theirs = theirs if columns is None else theirs[:, columns]
        laid = ((order, reordered(mine, given, order)) for order in orders(given, wanted))
        if given == wanted and type(self.modules[0]) is type(self.modules[1]):
            return None  # one layout: another order is a difference
        found = likely_order(laid, theirs)
        return None if found == tuple(range(len(given))) else found

    def _is_reordered(self, x: Tensor, given: Tensor, columns: Tensor) -> bool:
        """Whether the candidate's input is in the order of its columns, rather than in the reference's."""
        mine, theirs = self.forms or (None, None)
        if mine is None or theirs is None:
            return False
        a, b = mine.rows_in(given), theirs.rows_in(x)
        if a.shape != b.shape:
            return False
        apart = [float((a - rows).abs().max()) for rows in (b[:, columns], b)]
        return apart[0] < apart[1] or (apart[0] == apart[1] and type(self.modules[0]) is not type(self.modules[1]))

    def _by_rows(self, source: Tensor, shape: torch.Size) -> tuple[Form, Form] | None:
        """The forms, where tensors go by rows from one to the other."""
        mine, theirs = self.forms or (None, None)
        if mine is None or theirs is None:
            return None
        alike = source.shape == shape and mine.kind == theirs.kind and self.parameters.columns is None
        alike = alike and self.turn is None
        return None if alike else (mine, theirs)

    def to_candidate(self, part: str, source: Tensor, like: Tensor) -> Tensor | None:
        """A tensor of the reference as the candidate has it; ``part`` is ``x`` or ``y``."""
        moved = self._channels(part, source)
        if moved is not None:
            return _fitted(source.index_select(*moved), like)
        forms = self._by_rows(source, like.shape)
        if forms is not None:
            mine, theirs = forms
            rows = theirs.rows_in(source) if part == "x" else theirs.rows_out(source)
            if part == "x" and self.parameters.columns is not None:
                rows = rows[:, self.parameters.columns]
            back = None if self.turn is None else tuple(map(self.turn.index, range(len(self.turn))))
            rows = reordered(rows, self.places[1], back)
            return _as(rows, like, mine.like_in if part == "x" else mine.like_out)
        if self.order is not None and source.ndim == len(self.order):
            source = source.permute(self.order)
        return _fitted(source, like)

    def to_reference(self, part: str, source: Tensor, like: Tensor) -> Tensor | None:
        """A tensor of the candidate as the reference has it."""
        moved = self._channels(part, source)
        if moved is not None:
            return _fitted(source.index_select(moved[0], moved[1].argsort()), like)
        forms = self._by_rows(source, like.shape)
        if forms is not None:
            mine, theirs = forms
            rows = mine.rows_in(source) if part == "x" else mine.rows_out(source)
            if part == "x" and self.parameters.columns is not None:
                rows = rows[:, self.parameters.columns.argsort()]
            rows = reordered(rows, self.places[0], self.turn)
            return _as(rows, like, theirs.like_in if part == "x" else theirs.like_out)
        if self.order is not None and source.ndim == len(self.order):
            source = source.permute([self.order.index(axis) for axis in range(source.ndim)])
        return _fitted(source, like)

    def say(self, source: Tensor, like: Tensor) -> None:
        """Note how the layouts and types differ."""
        kinds = [type(module).__name__ for module in self.modules]
        words = [f"{kinds[0]} for {kinds[1]}"] if kinds[0] != kinds[1] else []
        if source.shape != like.shape:
            words.append(f"{tuple(source.shape)} as {tuple(like.shape)}")
        self.words = ", ".join(words)


def _moved(x: Tensor, given: Tensor) -> tuple[int, ...] | None:
    """How axes are ordered, where no size tells but all bits do; None where that is as sizes say."""
    if x.shape != given.shape:
        usual = fitted(x, given)
        if x.ndim != given.ndim or x.ndim < 3 or usual is None or equal(usual[0].contiguous(), given.contiguous()):
            return None
        found = orders(tuple(x.shape), tuple(given.shape))
    else:
        if x.ndim < 3 or equal(x, given):
            return None
        axes = tuple(range(x.ndim))
        found = iter(((0, *axes[2:], 1), (0, axes[-1], *axes[1:-1])))
    for order in found:
        if x.permute(order).shape == given.shape and equal(x.permute(order).contiguous(), given.contiguous()):
            return order
    return None


def _as(rows: Tensor, like: Tensor, laid: Any) -> Tensor | None:
    shape = tuple(like.shape)
    if rows.numel() != like.numel():
        return None
    try:
        found: Tensor = laid(rows, shape)
    except RuntimeError:  # sizes that do not fit
        return None
    return found.contiguous() if like.is_contiguous() else found


def _fitted(source: Tensor, like: Tensor) -> Tensor | None:
    found = fitted(source, like)
    return None if found is None else found[0].contiguous() if like.is_contiguous() else found[0]


def link_of(unit: Unit, candidate: Side, reference: Side, known: list[Tensor] | None = None) -> Link:
    """A unit with its modules, its parameters compared; with ``known`` channels may be in another order."""
    modules = (candidate.modules[unit.candidate[0]], reference.modules[unit.reference[0]])
    link = Link(unit, modules, known=known)
    if unit.kind == "container":
        return link
    lora = [is_lora(module) for module in modules]
    if lora[0] != lora[1]:
        link.chain = nn.Sequential(modules[lora.index(True)]), lora[0]
        return link
    if len(unit.candidate) > 1 or len(unit.reference) > 1:
        of_candidate = len(unit.candidate) > len(unit.reference)
        side, names = (candidate, unit.candidate) if of_candidate else (reference, unit.reference)
        link.chain = nn.Sequential(*(side.modules[name] for name in names)), of_candidate
        return link
    for single, several in (modules, modules[::-1]):
        if not is_affine(several) and is_affine(single) and _is_plain(single) and may_be_merged(single, several):
            link.merged = single, several
            return link
    link.parameters, link.settings = compared(*modules), unlike_settings(*modules)
    if is_affine(modules[1]) and _is_plain(modules[1]):
        link.layer = modules[1]
    found = link.parameters.otherwise or link.parameters.verdict
    order = order_of(*modules) if known is not None and link.layer is not None and found is not None else None
    if order is not None:
        link.parameters = Parameters(None, True, otherwise=found, order=order)
    return link


def _is_plain(module: nn.Module) -> bool:
    try:
        if is_conv1d(module):
            plain_form(module, None)
        elif isinstance(module, nn.Linear):
            check_linear(module)
        elif isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
            check_conv_transpose(module)
        else:
            check_conv(module)
    except EquivError:
        return False
    return True
