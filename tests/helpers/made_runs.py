"""Runs of laws that never ran: as many items as a test wants, with names as it wants them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from equiv.report import Environment, Request, Run
from equiv.report.model import Item, NotAsked

LAWS = ("forward", "exact", "weight_recovery", "layout", "batch", "gradients", "special_values", "purity", "round_trip")
LAWS += ("transforms", "dense", "not_equivalent", "scaling", "boundaries", "convolution", "free_parameters")
DTYPES = ("float32", "float64", "float16", "bfloat16", "complex64", "complex128", "int64", "int32", "int16", "int8")
FORMS = ("linear", "full", "pointwise")
HERE = Environment("0.1.0", "2.13.0", None, "3.11.7", "Linux", "AVX2")
REASON = 'raises NotImplementedError: "slow_conv_dilated<>" not implemented'


def failure(law: str, dtype: str, backend: str, **changes: Any) -> dict[str, Any]:
    """What is reported of a broken law, in JSON's types."""
    return {
        "kind": "value",
        "summary": f"{law}: full in {dtype} on {backend} returns 2.5 at [0, 1], the exact value is 2",
        "law": law,
        "form": "full",
        "dtype": dtype,
        "backend": backend,
        "sentence": "On integer probes all forms are exact.",
        "note": "returns 2.5",
        "shapes": "input (1, 2), weight (2, 2), no bias",
        "where": [0, 1],
        "actual": "2.5",
        "expected": "2.0",
        "envelope": ["1.9999", "2.0001"],
        "ratio": 5000.0,
        "cause": {"name": "bias-dropped", "sentence": "the bias is dropped", "fix": "y = y + bias"},
        "snippet": "import torch\n\nx = torch.ones(1, 2)\nassert x.sum() < 2, 'wrong & <b>bold</b>'",
        "command": f"equiv verify --law {law} --dtype {dtype}",
        "case": "build_case(...)",
        "code": "mine.py:3, in conv: return y",
        "traceback": "",
        **changes,
    }


def result(law: str, dtype: str, backend: str, number: int, broken: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What came of an item, in JSON's types."""
    worst = (0.0, 1 / 3, 0.004, 0.9999)[number % 4]
    tally = {"judged": 1000 + number, "identical": 990, "rounding": 10 + number, "undecided": 0, "different": 0}
    forms = {form: {**tally, "max_ratio": worst} for form in FORMS}
    if broken is not None:
        forms["full"] = {**forms["full"], "different": 1, "rounding": 9 + number, "max_ratio": 5000.0}
    return {
        "item": f"{law}-all-{dtype}-{backend}",
        "law": law,
        "dtype": dtype,
        "backend": backend,
        "examples": 200 + number,
        "seconds": 0.1 * number,
        "seed": number,
        "forms": forms,
        "coverage": {f"condition {i}": {f"value {j}": i * j + 1 for j in range(12)} for i in range(20)},
        "failure": broken,
    }


def made_run(count: int = 200, broken: int = 5, *, backend: str = "mine", **changes: Any) -> Run:
    """``count`` items: the first ``broken`` are broken, one as expected; the last is not asked, one more not run."""
    places = [(law, dtype) for law in LAWS for dtype in DTYPES]
    places = [(*places[n % len(places)], backend + str(n // len(places) or "")) for n in range(count)]
    results = [result(*place, n, failure(*place, **changes) if n < broken else None) for n, place in enumerate(places)]
    results[broken - 1]["expected"] = "bug 17"
    left = [NotAsked("dilation", backend, "free_parameters", form, "int8", REASON, "found") for form in FORMS]
    planned = [one["item"] for one in results]
    items = [*map(Item.of, results[:-1])]
    items.append(Item.without_result(planned[-1], "not asked", "the device has none"))
    planned.append(f"exact-all-uint8-{backend}")
    return Run(Request(seed=7, examples=200), HERE, tuple(items), tuple(planned), 2, 12.3456, tuple(left), exit_code=1)
