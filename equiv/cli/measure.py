"""``equiv env --measure``: what every form computes in on a device, found with chosen inputs, as a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from equiv.backends import FORMS, TorchEager, measure_form
from equiv.dtypes import FLOATS
from equiv.report.terminal import Page
from equiv.strategies import served
from equiv.text import counted

# (batch, outputs, feature shape): one weight; odd sizes; sizes at which vectors and blocks are full.
SIZES = (((1,), 1, (1, 1, 1)), ((5,), 3, (3, 5, 5)), ((4, 4), 64, (2, 4, 4)))
_ORDERS = {"sequential": "in order", "interleaved": "{} sums", "blocked": "blocks {}", "fused": "{} at once"}


def facts(device: str) -> list[dict[str, Any]]:
    """Measurements of every dtype, form and size on a device, in JSON's types."""
    backend = TorchEager(device)
    dtypes = [dtype for dtype in FLOATS if dtype in served(backend.device)]
    found = []
    for batch, outputs, shape in SIZES:
        layouts: list[tuple[str, str, Any]] = [(form, form, None) for form in FORMS]
        if len(batch) > 1:
            layouts.insert(1, ("linear", "strided", _swap))
        for dtype in dtypes:
            for form, name, lay in layouts:
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


def say(page: Page, device: str, found: list[dict[str, Any]]) -> None:
    """A table for each size, then in words where a form is weaker than declared."""
    columns = ("dtype", "form", "bits", "product", "flushed", "spread", "bias", "order", "depth")
    for _, outputs, shape in SIZES:
        rows = [one for one in found if one["feature_shape"] == list(shape)]
        if rows:
            sizes = f"{counted(rows[0]['rows'], 'row')}, {counted(outputs, 'output')}, map {_times(shape)}"
            page.heading(f"measured on {device}: {sizes}")
            page.table(columns, map(row_of, rows), left=2)
    page.prose("""bits: significant bits of factors, then of sums; 24 is float32, 53 float64, 11 float16 or TF32, 8
        bfloat16. product: exact in the sums, fused with the addition, or rounded before it. flushed: which subnormals
        become 0. spread: whether an infinite input makes NaN of outputs that must be infinite. bias: how often a result
        is rounded when a bias is added. order: how terms are added; several sums run side by side, blocks are added up
        first. depth: most additions that one term goes through. strided: linear on a transposed batch of rank 3. ?:
        this size cannot tell. With --json all is written, evidence included.""")
    weaker = [(one, text) for one in found for text in one["discrepancies"]]
    if not weaker:
        page.prose("Nothing that was measured is weaker than declared.")
        return
    page.heading(f"{counted(len(weaker), 'finding')}: weaker than declared")
    lines = [
        f"{one['dtype']} {one['layout']}, {one['rows']} rows, map {_times(one['feature_shape'])}: {text}"
        for one, text in weaker
    ]
    page.lines(lines, hanging="  ")


def row_of(one: dict[str, Any]) -> tuple[str, ...]:
    """The cells of a measurement, in the columns of the table."""
    value = {name: fact["value"] for name, fact in one.items() if isinstance(fact, dict) and "value" in fact}
    order = value["order"] or {"kind": "?", "block": "", "depth": "?"}
    return (
        one["dtype"],
        one["layout"],
        f"{value['operands']}/{_sums(value['accumulator'], value['reduction'])}",
        value["products"] or "?",
        _flushed(value),
        "yes" if value["infinity_spreads"] else "no",
        value["bias_rounding"] or "?",
        _ORDERS.get(order["kind"], order["kind"]).format(order["block"]),
        str(order["depth"]),
    )


def _sums(accumulator: int | None, reduction: int | None) -> str:
    return ("?" if accumulator is None else str(accumulator)) + f"-{reduction}" * (reduction != accumulator)


def _flushed(value: dict[str, Any]) -> str:
    flushed = [
        word for word, name in (("in", "inputs"), ("sum", "sums"), ("out", "outputs")) if value[f"flushes_{name}"]
    ]
    return "all" if len(flushed) == 3 else "+".join(flushed) or "none"


def _times(shape: Sequence[int]) -> str:
    return f"{'x'.join(map(str, shape))} = {math.prod(shape)}"


def _swap(x: Tensor) -> Tensor:
    """The same rows, the two batch dimensions exchanged in memory."""
    return x.transpose(0, 1).contiguous().transpose(0, 1)
