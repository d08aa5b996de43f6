"""Drawn tensors and layers as the Python expressions that build them again, for Hypothesis's falsifying examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis.control import current_build_context, currently_in_test_context
from hypothesis.vendor import pretty

from equiv.strategies.layout import Layout
from equiv.strategies.values import Values
from equiv.strategies.words import literal

_ENTRIES = 64  # a tensor of so many is written entry by entry
_NON_ZEROS = 16  # of a larger one so many that are not 0


@dataclass(frozen=True)
class Made:
    """How a tensor was drawn: what is needed to draw it again."""

    values: Values
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    layout: Layout | None = None
    requires_grad: bool = False

    def build(self) -> torch.Tensor:
        """The tensor."""
        made = self.values.tensor(self.shape, self.dtype, self.device)
        if self.layout is not None:
            made = self.layout.apply(made)
        return made.requires_grad_() if self.requires_grad else made

    def __str__(self) -> str:
        text = self._values()
        if self.layout is not None and self.layout.kind != "contiguous":
            text = f"{self.layout!r}.apply({text})"
        return f"{text}.requires_grad_()" if self.requires_grad else text

    def _values(self) -> str:
        flat = self.values.tensor(self.shape, self.dtype).flatten()
        place = "" if self.device.type == "cpu" else f", device={str(self.device)!r}"
        if 0 < flat.numel() <= _ENTRIES:
            inferred = torch.tensor(flat[:1].tolist()).dtype == self.dtype
            dtype = "" if inferred else f", dtype={self.dtype}"
            return f"torch.tensor({_written(flat.view(self.shape).tolist())}{dtype}{place})"
        plain = flat.float() if self.dtype.itemsize == 1 else flat
        places = (plain != 0).nonzero().flatten().tolist()
        negative = plain.is_floating_point() and bool((plain.signbit() & (plain == 0)).any())
        if len(places) <= _NON_ZEROS and not negative and not flat.is_complex():
            edits = "".join(f"({i}, {_written(flat[i].item())}), " for i in places)
            recipe = f"Values(kind='zeros', edits=({edits[:-1] if len(places) == 1 else edits[:-2]}))"
            recipe = recipe if places else "Values(kind='zeros')"
        else:
            recipe = repr(self.values)
        return f"{recipe}.tensor({self.shape}, {self.dtype}{place})"


def _written(value: Any) -> str:
    """Numbers, or nested lists of them, as Python."""
    if isinstance(value, list):
        return f"[{', '.join(map(_written, value))}]"
    if isinstance(value, complex):
        return f"complex({literal(value.real)}, {literal(value.imag)})"
    return literal(value)


def print_as(value: Any, text: Callable[[], str]) -> None:
    """Have Hypothesis print a value of the running test case as this text.

    Hypothesis keeps for each test case how its values were built. It offers no public way to add to that for a class
    of somebody else's; where a version of it keeps them elsewhere, values print as their ``repr``.
    """
    if not currently_in_test_context():
        return
    try:
        printers = current_build_context().known_object_printers[pretty.IDKey(value)]
    except (AttributeError, KeyError, TypeError):  # pragma: no cover - another version of Hypothesis
        return
    printers.append(lambda _value, printer, _cycle: printer.text(text()))
