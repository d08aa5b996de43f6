"""ONNX Runtime and OpenVINO against torch on the same cases: how many results differ, and what explains each.

python benchmarks/against.py --cases 2000 --json against.json

Cases are shared out among the laws that judge results. The exit code is 1 if a backend is wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections import Counter
from typing import Any

from equiv.backends import load_backend
from equiv.laws import OUTCOMES, pairs_of, run_pair

LAWS = {"forward": 5, "exact": 3, "weight_recovery": 2, "special_values": 3, "boundaries": 3, "convolution": 4}
"""Each with its share of the cases."""


def compare(first: str, second: str, *, dtype: str, cases: int, seed: int) -> dict[str, Any]:
    """All laws on two backends; totals, and what is known of each backend."""
    backends = load_backend(first), load_backend(second)
    outcomes: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    worst = dict.fromkeys((one.name for one in backends), 0.0)
    faults, tried, seconds = [], 0, 0.0
    for pair in pairs_of(*backends, laws=list(LAWS), dtypes=[dtype]):
        share = max(1, cases * LAWS[pair.items[0].law.id] // sum(LAWS.values()))
        found = run_pair(pair, profile="gate", examples=share, seed=seed)
        outcomes.update(found.outcomes)
        notes.update({f"{who}: {note}": n for who, met in found.notes.items() for note, n in met.items()})
        worst = {name: max(worst[name], found.worst[name]) for name in worst}
        faults += [fault.failure.summary for fault in found.faults]
        tried, seconds = tried + found.cases, seconds + found.seconds
        print(f"  {pair.id}: {found.cases} cases, {dict(found.outcomes)}, {found.seconds:.0f} s", file=sys.stderr)
    pairs = sum(outcomes.values())
    return {
        "first": first,
        "second": second,
        "dtype": dtype,
        "cases": tried,
        "pairs": pairs,
        **{name: outcomes[name] for name in OUTCOMES},
        "worst": worst,
        "notes": dict(notes),
        "faults": faults,
        "seconds": round(seconds, 1),
    }


def main() -> int:
    """Both runtimes against torch."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=400)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backends", default="onnxruntime,openvino", help="each against torch")
    parser.add_argument("--json", metavar="FILE")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = [
        compare(name, "torch", dtype=asked.dtype, cases=asked.cases, seed=asked.seed)
        for name in asked.backends.split(",")
    ]
    print("| backend | cases | pairs | identical | rounding | undecided | finding | wrong | worst | seconds |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    for row in rows:
        counts = [row["cases"], row["pairs"], *(row[name] for name in OUTCOMES), len(row["faults"])]
        largest = max(row["worst"].values())
        print(f"| {row['first']} | {' | '.join(f'{n:,}' for n in counts)} | {largest:.2f} | {row['seconds']} |")
    for row in rows:
        print("\n".join([*row["faults"], *row["notes"]]))
    if asked.json:
        with open(asked.json, "w", encoding="utf-8") as file:
            json.dump(rows, file, indent=2)
    return 1 if any(row["faults"] for row in rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
