"""Results of many items as one table by law, and as one JSON document with the coverage of conditions."""

from __future__ import annotations

import platform
from collections import Counter
from typing import Any

Results = list[dict[str, Any]]
_OUTCOMES = ("identical", "rounding", "undecided", "different")


def summary_lines(results: Results) -> list[str]:
    """A row by law, at most 79 columns wide: items, cases, comparisons by outcome, the worst error over its envelope."""
    head = f"{'law':<16}{'items':>6}{'cases':>8}{'identical':>11}{'rounding':>10}{'undecided':>10}{'broken':>8}{'worst':>8}"
    lines = [head]
    for law in _in_order(results):
        rows = [r for r in results if r["law"] == law]
        total = _total(rows)
        broken = sum(r["failure"] is not None for r in rows)
        lines.append(
            f"{law:<16}{len(rows):>6}{sum(r['examples'] for r in rows):>8,}{total['identical']:>11,}{total['rounding']:>10,}"
            f"{total['undecided']:>10,}{broken:>8}{_worst(rows):>8.3f}"
        )
    judged = sum(sum(_total([r])[o] for o in _OUTCOMES) for r in results)
    cases = sum(r["examples"] for r in results)
    lines.append(
        f"{len(results)} items, {cases:,} cases, {judged:,} comparisons; worst: largest error as a fraction of its envelope"
    )
    return lines


def report_of(results: Results) -> dict[str, Any]:
    """The JSON report: environment, every result, and how often each condition was met over all of them."""
    import torch

    coverage: dict[str, Counter[str]] = {}
    for result in results:
        for condition, counts in result["coverage"].items():
            coverage.setdefault(condition, Counter()).update(counts)
        coverage.setdefault("dtype", Counter())[result["dtype"]] += result["examples"]
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "coverage": {name: dict(sorted(counter.items())) for name, counter in sorted(coverage.items())},
        "results": sorted(results, key=lambda r: str(r["item"])),
    }


def _in_order(results: Results) -> list[str]:
    from equiv.laws import LAWS

    return [law for law in LAWS if any(r["law"] == law for r in results)]


def _total(rows: Results) -> dict[str, int]:
    return {o: sum(tally[o] for row in rows for tally in row["forms"].values()) for o in _OUTCOMES}


def _worst(rows: Results) -> float:
    return max((tally["max_ratio"] for row in rows for tally in row["forms"].values()), default=0.0)
