"""What a conversion of a model did, layer by layer, and which matrix products ran in an example: a record, in words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from equiv.text import counted, plain_json, visible

_SHOWN = 12  # lines of each part on one screen


@dataclass(frozen=True)
class ConvertedLayer:
    """One module that was converted, or was not.

    Attributes:
        name: Its first qualified name, empty for the model itself.
        kind: Its class before.
        shape: That of its weight, or of its largest parameter; empty where it has none yet.
        reason: Why it was left alone; empty where it was converted.
        also: Its other names, where it is one module in several places.
        calls: How often it ran in its new form in the example; None without one.

    Example:
        >>> import torch
        >>> from equiv import to_pointwise
        >>> (layer,) = to_pointwise(torch.nn.Sequential(torch.nn.Linear(4, 2))).report.converted
        >>> layer.name, layer.kind, layer.shape
        ('0', 'Linear', (2, 4))
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    reason: str = ""
    also: tuple[str, ...] = ()
    calls: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """The row in JSON's types."""
        found: dict[str, Any] = plain_json(vars(self))
        return found


@dataclass(frozen=True)
class Product:
    """The matrix products of one kind that ran in the code of one module.

    Attributes:
        module: Qualified name of the innermost module that ran, empty for the model itself.
        kind: Its class.
        operation: The operation of torch, such as ``aten.addmm``.
        count: How often it ran.
        converted: Whether it is the convolution of a converted layer.
        reason: Why it is no such convolution; empty where it is.

    Example:
        >>> import torch
        >>> from equiv import to_pointwise
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 2))
        >>> (product,) = to_pointwise(model, example_inputs=torch.randn(3, 4)).report.products
        >>> product.module, product.converted
        ('0', True)
    """

    module: str
    kind: str
    operation: str
    count: int
    converted: bool
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The row in JSON's types."""
        found: dict[str, Any] = plain_json(vars(self))
        return found


@dataclass(frozen=True)
class Conversion:
    """The report of :func:`equiv.to_pointwise` and :func:`equiv.to_linear`.

    Attributes:
        target: What layers became: ``1x1 convolution`` or ``Linear``.
        converted: Layers that were.
        left_alone: Layers that were not, each with its reason.
        products: Every matrix product and convolution that ran in the example; None without one.
        notes: What else changed, a sentence each.

    Example:
        >>> import torch
        >>> from equiv import to_pointwise
        >>> report = to_pointwise(torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.ReLU())).report
        >>> report.target, [layer.name for layer in report.converted]
        ('1x1 convolution', ['0'])
    """

    target: str
    converted: tuple[ConvertedLayer, ...]
    left_alone: tuple[ConvertedLayer, ...]
    products: tuple[Product, ...] | None = None
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """All of it in JSON's types."""
        parts = {"converted": self.converted, "left_alone": self.left_alone, "products": self.products}
        listed = {key: None if rows is None else [row.to_dict() for row in rows] for key, rows in parts.items()}
        return {"target": self.target, **listed, "notes": list(self.notes)}

    def __str__(self) -> str:
        """All of it on one screen: names that differ in numbers alone are one line."""
        lines = [f"{counted(len(self.converted), 'layer')} converted to {self.target}"]
        lines += _lines(_layer_key(row) for row in self.converted)
        if self.left_alone:
            lines += [f"{len(self.left_alone):,} left alone", *_lines(_layer_key(row) for row in self.left_alone)]
        if self.products is not None:
            lines += self._product_lines(self.products)
        return visible("\n".join([*lines, *self.notes]))

    def _product_lines(self, products: tuple[Product, ...]) -> list[str]:
        ran = sum(row.count for row in products if row.converted)
        kept = [row for row in products if not row.converted]
        lines = [
            f"in the example {counted(ran, 'converted product')} ran, and {sum(row.count for row in kept):,} others"
        ]
        for row in kept:
            lines += [_product_key(row)] * row.count
        lines[1:] = _lines(iter(lines[1:]))
        idle = [row for row in self.converted if row.calls == 0]
        if idle:
            lines += [f"{len(idle):,} converted without being called in it", *_lines(map(_layer_key, idle))]
        return lines


def _layer_key(row: ConvertedLayer) -> str:
    shape = f" {row.shape}" if row.shape else ""
    return f"{_pattern(row.name)}: {row.kind}{shape}" + (f", {row.reason}" if row.reason else "")


def _product_key(row: Product) -> str:
    return f"{_pattern(row.module)}: {row.operation}, {_pattern(row.reason)}"


def _pattern(name: str) -> str:
    return re.sub(r"(?<![^.])\d+(?![^.])", "*", name) or "the model itself"


def _lines(keys: Iterable[str]) -> list[str]:
    grouped = Counter(keys)
    lines = [f"  {count:>5,} x {key}" for key, count in list(grouped.items())[:_SHOWN]]
    if len(grouped) > _SHOWN:
        lines.append(f"  and {counted(len(grouped) - _SHOWN, 'other kind')}, all in to_dict()")
    return lines
