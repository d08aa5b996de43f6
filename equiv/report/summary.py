"""Results of many items as one table by law, and as one JSON document with the coverage of conditions."""

from __future__ import annotations

import platform
from collections import Counter
from textwrap import wrap
from typing import Any

from equiv.text import counted

Results = list[dict[str, Any]]
_ROLES = ("x", "weight", "bias", "grad")
_FEW = 24
_WIDTHS = (6, 8, 11, 10, 10, 8, 8)
_OUTCOMES = ("identical", "rounding", "undecided", "different")


def summary_lines(results: Results) -> list[str]:
    """A row by law, at most 79 columns: items, cases, comparisons by outcome, the worst error over its envelope."""
    titles = ("law", "items", "cases", "identical", "rounding", "undecided", "broken", "worst")
    lines = [_row(*titles)]
    for law in _in_order(results):
        rows = [r for r in results if r["law"] == law]
        counts = (len(rows), sum(r["examples"] for r in rows), *list(_total(rows).values())[:3])
        broken = sum(r["failure"] is not None for r in rows)
        lines.append(_row(law, *(f"{count:,}" for count in counts), str(broken), f"{_worst(rows):.3f}"))
    lines += coverage_lines(coverage_of(results))
    judged = sum(sum(_total([r])[o] for o in _OUTCOMES) for r in results)
    cases = sum(r["examples"] for r in results)
    total = f"{counted(len(results), 'item')}, {counted(cases, 'case')}, {counted(judged, 'comparison')}"
    return [*lines, f"{total}; worst: largest error over its envelope"]


def _row(law: str, *cells: str) -> str:
    return f"{law:<16}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, _WIDTHS, strict=True))


def report_of(results: Results) -> dict[str, Any]:
    """The JSON report: environment, every result, and how often each condition was met over all of them."""
    import torch

    coverage = coverage_of(results)
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "coverage": coverage,
        "not reached": not_reached(coverage),
        "results": sorted(results, key=lambda r: str(r["item"])),
    }


def coverage_of(results: Results) -> dict[str, dict[str, int]]:
    """How often each value of each condition was met, over all results."""
    coverage: dict[str, Counter[str]] = {}
    for result in results:
        for condition, counts in result["coverage"].items():
            coverage.setdefault(condition, Counter()).update(counts)
        coverage.setdefault("dtype", Counter())[result["dtype"]] += result["examples"]
    return {name: dict(sorted(counter.items(), key=_as_numbers)) for name, counter in sorted(coverage.items())}


def expected_conditions() -> dict[str, list[str]]:
    """The conditions that a full run must meet, whatever the machine; which conv kernels there are depends on it."""
    from equiv.dtypes import BY_NAME
    from equiv.strategies import LAYOUTS

    laid_out = {
        f"layout of {role}": [k for k in LAYOUTS if role != "bias" or k not in ("permuted", "channels_last")]
        for role in _ROLES
    }
    return {
        "dtype": list(BY_NAME),
        **laid_out,
        "batch rank": [str(rank) for rank in range(6)],
        "spatial dimensions": ["1", "2", "3"],
        "bias": ["False", "True"],
        **{f"{size} modulo {m}": [str(r) for r in range(m)] for size in ("n", "O", "rows", "C") for m in (8, 16)},
    }


def not_reached(coverage: dict[str, dict[str, int]]) -> dict[str, list[str]]:
    """The expected values that were never met, by condition; empty when the run was complete."""
    missed = {
        name: [v for v in values if v not in coverage.get(name, {})] for name, values in expected_conditions().items()
    }
    return {name: values for name, values in missed.items() if values}


def coverage_lines(coverage: dict[str, dict[str, int]]) -> list[str]:
    """What was reached of the expected conditions, and which kernels torch chose for convolutions."""
    expected, missed = expected_conditions(), not_reached(coverage)
    total = sum(len(values) for values in expected.values())
    reached = total - sum(len(values) for values in missed.values())
    lines = [f"coverage: {reached} of {total} values of {len(expected)} conditions reached"]
    if total - reached <= _FEW:  # a run of some laws or dtypes misses many, and nobody wants the list
        lines += [
            line for name, values in missed.items() for line in wrap(f"  not reached: {name} {', '.join(values)}", 79)
        ]
    kernels = ", ".join(f"{name} {count:,}" for name, count in coverage.get("conv kernel", {}).items())
    known = coverage.get("known defect of torch", {})
    if known:
        text = ", ".join(f"docs/findings/{name}.md {count:,}" for name, count in known.items())
        lines += wrap(f"undecided for defects of torch itself: {text}", 79, subsequent_indent="  ")
    for text, count in coverage.get("weaker than declared", {}).items():
        lines += wrap(f"weaker than declared, {text}: {count:,} results judged by it", 79, subsequent_indent="  ")
    return lines + wrap(f"conv kernels chosen by torch: {kernels or 'none'}", 79, subsequent_indent="  ")


def _as_numbers(pair: tuple[str, int]) -> tuple[int, str]:
    return (int(pair[0]) if pair[0].isdecimal() else 0, pair[0])


def _in_order(results: Results) -> list[str]:
    from equiv.laws import LAWS

    return [law for law in LAWS if any(r["law"] == law for r in results)]


def _total(rows: Results) -> dict[str, int]:
    return {o: sum(tally[o] for row in rows for tally in row["forms"].values()) for o in _OUTCOMES}


def _worst(rows: Results) -> float:
    return max((tally["max_ratio"] for row in rows for tally in row["forms"].values()), default=0.0)
