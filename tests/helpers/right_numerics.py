"""Right calls of the public callables of equiv.numerics."""

from __future__ import annotations

from typing import Any

import torch
from right_layer import Use, bias, layer, weight, x, y
from torch import nn

from equiv import numerics


def judged() -> dict[str, Any]:
    return {
        "result": y(),
        "exact": numerics.exact_affine(x(), weight(), bias()),
        "arithmetic": numerics.declared(torch.float32),
    }


def doubles() -> dict[str, Any]:
    return {name: value.double() for name, value in layer().items()}


def arithmetic() -> dict[str, Any]:
    found = numerics.declared(torch.float32)
    return {name: getattr(found, name) for name in found.__dataclass_fields__}


def probe() -> dict[str, Any]:
    sizes = {"rows": 2, "in_features": 3, "out_features": 4}
    options = {"device": "cpu", "unrounded": True, "reduction": None}
    return {"seed": 1, "style": "dense", **sizes, "bias": True, "dtype": torch.float32, **options}


def measured() -> dict[str, Any]:
    sizes = {"rows": 2, "out_features": 2, "in_features": 4, "bias": True}
    options = {"device": "cpu", "op": "any", "subject": "kernel", "order_limit": 4, "key": None}
    return {"run": nn.functional.linear, "dtype": torch.float32, **sizes, **options}


USES = (
    Use("equiv.numerics.Arithmetic", numerics.Arithmetic, arithmetic),
    Use(
        "equiv.numerics.Arithmetic.error",
        numerics.declared(torch.float32).error,
        lambda: {"terms": 3, "magnitude": torch.ones(2, dtype=torch.float64), "fewest": 0},
    ),
    Use("equiv.numerics.Reference", numerics.Reference, lambda: layer()),
    Use(
        "equiv.numerics.Reference.assess",
        numerics.Reference(**layer()).assess,
        lambda: {"result": y(), "arithmetic": numerics.declared(torch.float32)},
    ),
    Use(
        "equiv.numerics.Reference.largest_ratio",
        numerics.Reference(**layer()).largest_ratio,
        lambda: {"result": y(), "arithmetic": numerics.declared(torch.float32)},
    ),
    Use(
        "equiv.numerics.Exact.stays_below",
        numerics.exact_affine(**layer()).stays_below,
        lambda: {"arithmetic": numerics.declared(torch.float32)},
    ),
    Use(
        "equiv.numerics.address_coded_weight",
        numerics.address_coded_weight,
        lambda: {"out_features": 2, "in_features": 3, "dtype": torch.float32, "device": "cpu"},
    ),
    Use(
        "equiv.numerics.assess",
        numerics.assess,
        lambda: {"result": y(), **layer(arithmetic=numerics.declared(torch.float32))},
    ),
    Use(
        "equiv.numerics.assess",
        numerics.assess,
        lambda: {"result": y().int(), **{k: v.int() for k, v in layer().items()}, "arithmetic": None},
    ),
    Use("equiv.numerics.bit_equal", numerics.bit_equal, lambda: {"a": y(), "b": y()}),
    Use("equiv.numerics.same_bits", numerics.same_bits, lambda: {"a": y(), "b": y()}),
    Use("equiv.numerics.declared", numerics.declared, lambda: {"dtype": torch.float32, "device": "cpu", "op": "any"}),
    Use("equiv.numerics.winograd", numerics.winograd, lambda: {"dtype": torch.float32, "tile": 2, "device": "cpu"}),
    Use("equiv.numerics.dot_double_double", numerics.dot_double_double, doubles),
    Use("equiv.numerics.entry_range", numerics.entry_range, lambda: {"dtype": torch.float32}),
    Use("equiv.numerics.exact_affine", numerics.exact_affine, layer),
    Use("equiv.numerics.exact_affine", numerics.exact_affine, doubles),
    Use("equiv.numerics.exact_case", numerics.exact_case, probe),
    Use("equiv.numerics.exact_integers", numerics.exact_integers, lambda: {k: v.round() for k, v in layer().items()}),
    Use(
        "equiv.numerics.exact_integers",
        numerics.exact_integers,
        lambda: {k: v.round().to(torch.complex64) for k, v in layer().items()},
    ),
    Use("equiv.numerics.exact_range", numerics.exact_range, lambda: {"dtype": torch.float32, "unrounded": False}),
    Use("equiv.numerics.forget", numerics.forget, dict),
    Use("equiv.numerics.format_of", numerics.format_of, lambda: {"dtype": torch.float32}),
    Use("equiv.numerics.judge", numerics.judge, judged),
    Use("equiv.numerics.judge", numerics.judge, lambda: {**judged(), "within": None}),
    Use("equiv.numerics.measure", numerics.measure, measured),
    Use(
        "equiv.numerics.one_hot_rows",
        numerics.one_hot_rows,
        lambda: {"indices": torch.tensor([2, 0]), "in_features": 3, "dtype": torch.float32, "device": "cpu"},
    ),
    Use("equiv.numerics.ordinal", numerics.ordinal, lambda: {"values": y()}),
    Use("equiv.numerics.round_down", numerics.round_down, lambda: {"values": y().double(), "dtype": torch.float16}),
    Use("equiv.numerics.round_up", numerics.round_up, lambda: {"values": y().double(), "dtype": torch.float16}),
    Use(
        "equiv.numerics.round_nearest", numerics.round_nearest, lambda: {"values": y().double(), "dtype": torch.float16}
    ),
    Use("equiv.numerics.tolerance", numerics.tolerance, lambda: layer(arithmetic=None)),
)
