"""``equiv env --measure``: what every form computes in on a device, found by probes, as a table."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from equiv.report import terminal as term
from equiv.text import counted

if TYPE_CHECKING:
    from rich.console import Console

# (batch, outputs, feature shape): one weight; odd sizes; sizes at which vectors and blocks are full.
SIZES = (((1,), 1, (1, 1, 1)), ((5,), 3, (3, 5, 5)), ((4, 4), 64, (2, 4, 4)))
_ORDERS = {"sequential": "in order", "interleaved": "{} sums", "blocked": "blocks {}", "fused": "{} at once"}


def facts(device: str) -> list[dict[str, Any]]:
    """Measurements of every dtype, form and size on a device, in JSON's types."""
    from equiv.backends import FORMS, TorchEager, measure_form
    from equiv.dtypes import FLOATS
    from equiv.strategies import served

    backend = TorchEager(device)
    here = set(served(backend.device))
    found = []
    for batch, outputs, shape in SIZES:
        for dtype in (dtype for dtype in FLOATS if dtype in here):
            ways: list[tuple[str, str, Any]] = [(form, form, None) for form in FORMS]
            if len(batch) > 1:
                ways.insert(1, ("linear", "strided", _swap))
            for form, name, lay in ways:
                one = measure_form(
                    backend,
                    form,
                    dtype=dtype,
                    out_features=outputs,
                    feature_shape=shape,
                    batch_shape=batch,
                    lay_input=lay,
                )
                found.append({"form": form, "layout": name, "feature_shape": list(shape), **one.to_dict()})
    return found


def show(out: Console, device: str, found: list[dict[str, Any]]) -> None:
    """A table for each size, then in words where a form is weaker than declared."""
    for _, outputs, shape in SIZES:
        rows = [one for one in found if one["feature_shape"] == list(shape)]
        if not rows:
            continue
        sizes = f"{counted(rows[0]['rows'], 'row')}, {counted(outputs, 'output')}, map {_times(shape)}"
        term.heading(out, f"measured on {device}: {sizes}")
        term.table(
            out,
            ("dtype", "form", "bits", "product", "flushed", "spread", "bias", "order", "depth"),
            [_row(one) for one in rows],
            left=2,
        )
    term.paragraph(
        out,
        """bits: significant bits of factors, then of sums; 24 is float32, 53 float64, 11 float16 or TF32, 8 bfloat16.
        product: exact in the sums, fused with the addition, or rounded before it. flushed: which subnormals become 0.
        spread: whether an infinite input makes NaN of outputs that must be infinite. bias: how often a result is
        rounded when a bias is added. order: how terms are added; several sums run side by side, blocks are added up
        first. depth: most additions that one term goes through. strided: linear on a transposed batch of rank 3. ?:
        this size cannot tell. With --json all is written, evidence included.""",
    )
    weaker = [(one, text) for one in found for text in one["discrepancies"]]
    if not weaker:
        term.paragraph(out, "Nothing that was measured is weaker than declared.")
        return
    term.heading(out, f"{counted(len(weaker), 'finding')}: weaker than declared")
    for one, text in weaker:
        where = f"{one['dtype']} {one['layout']}, {one['rows']} rows, map {_times(one['feature_shape'])}"
        term.lines(out, [f"{where}: {text}"], hanging="  ")
    out.print()


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    def value(name: str) -> Any:
        return one[name]["value"]

    sums = "?" if value("accumulator") is None else str(value("accumulator"))
    if value("reduction") != value("accumulator"):
        sums += f"-{value('reduction')}"
    flushed = [
        word for word, name in (("in", "inputs"), ("sum", "sums"), ("out", "outputs")) if value(f"flushes_{name}")
    ]
    order = value("order")
    name = "?" if order is None else _ORDERS.get(order["kind"], order["kind"]).format(order["block"])
    return (
        one["dtype"],
        one["layout"],
        f"{value('operands')}/{sums}",
        value("products") or "?",
        "all" if len(flushed) == 3 else "+".join(flushed) or "none",
        "yes" if value("infinity_spreads") else "no",
        value("bias_rounding") or "?",
        name,
        "?" if order is None else str(order["depth"]),
    )


def _times(shape: Any) -> str:
    return f"{'x'.join(map(str, shape))} = {math.prod(shape)}"


def _swap(x: Any) -> Any:
    """The same rows, the two batch dimensions exchanged in memory."""
    return x.transpose(0, 1).contiguous().transpose(0, 1)
