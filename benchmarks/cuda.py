"""What torch's kernels on a GPU compute in, and which laws they keep, under each setting that changes them.

    python benchmarks/cuda.py --json docs/results/cuda.json            # all settings and dtypes
    python benchmarks/cuda.py --settings "TF32 on" --dtypes float32    # some
    python benchmarks/cuda.py --json docs/results/cuda.json --table    # its tables; runs nothing, needs no GPU

Every law runs in a process of its own with a time limit, so that a kernel that ends the process or hangs costs one
line. Needs a GPU that ``torch.cuda`` sees; ``--device cpu`` tries the script itself on a machine without one.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import product
from pathlib import Path
from typing import Any

import torch

SETTINGS: dict[str, dict[str, Any]] = {
    "as torch starts": {},
    "TF32 off": {"tf32": False},
    "TF32 on": {"tf32": True},
    "reduced sums off": {"tf32": False, "reduced": False},
    "cuDNN benchmark": {"tf32": False, "benchmark": True},
    "cuDNN deterministic": {"tf32": False, "deterministic": True},
    "cuDNN off": {"tf32": False, "cudnn": False},
}
"""By name; ``reduced`` is about sums of 16-bit products that cuBLAS may round to 16 bits between blocks."""

LAWS_OF = {
    "TF32 on": ("forward", "exact", "weight_recovery", "gradients", "convolution", "dense"),
    "as torch starts": ("forward", "exact", "weight_recovery", "gradients", "convolution", "dense"),
    "reduced sums off": ("forward", "exact", "boundaries", "gradients"),
    "cuDNN benchmark": ("forward", "exact", "convolution", "dense", "purity"),
    "cuDNN deterministic": ("forward", "exact", "convolution", "dense", "purity"),
    "cuDNN off": ("forward", "exact", "special_values", "batch", "scaling", "convolution", "dense", "layout"),
}
"""Which laws are tried under a setting, where not all: those that its kernels can change."""

DTYPES_OF = {
    "TF32 on": ("float32",),
    "as torch starts": ("float32",),
    "reduced sums off": ("float16", "bfloat16"),
}
"""Likewise the dtypes."""

MEASURED = ("operands", "operand_rounding", "accumulator", "accumulator_rounding", "reduction", "flushes_inputs")

FLOATS = ("float32", "float16", "bfloat16", "float64")
SHAPES = (
    ("linear", (64, 1), 32, (8,)),
    ("full", (4, 4, 4), 32, (8,)),
    ("pointwise", (64, 1, 1), 32, (8,)),
    ("linear", (1024, 1), 256, (64,)),
    ("full", (64, 4, 4), 256, (64,)),
    ("pointwise", (1024, 1, 1), 256, (64,)),
)


def arrange(tf32: bool | None = None, reduced: bool = True, cudnn: bool = True, **of_cudnn: bool) -> None:
    """Put torch's settings."""
    if tf32 is not None:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = reduced
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = reduced
    torch.backends.cudnn.enabled = cudnn
    for name, value in of_cudnn.items():
        setattr(torch.backends.cudnn, name, value)


def measured(setting: str, device: str, dtype: str) -> list[dict[str, Any]]:
    """What each form computes in, in a small and a larger size."""
    from equiv.backends import TorchEager, measure_form

    arrange(**SETTINGS[setting])
    found = []
    for form, features, outputs, batch in SHAPES:
        one: dict[str, Any] = {"setting": setting, "dtype": dtype, "form": form, "features": features, "O": outputs}
        options: dict[str, Any] = {"out_features": outputs, "feature_shape": features, "batch_shape": batch}
        try:
            text = str(measure_form(TorchEager(device), form, dtype=getattr(torch, dtype), order_limit=64, **options))
        except Exception as error:
            text = repr(error)[:300]
        found.append({**one, "measured": text})
    return found


def judged(setting: str, device: str, dtype: str, law: str, examples: int, seed: int) -> list[dict[str, Any]]:
    """What came of a law."""
    from equiv.backends import TorchEager
    from equiv.laws import items, run_item

    arrange(**SETTINGS[setting])
    found = []
    for item in items([TorchEager(device)], laws=[law], dtypes=[dtype]):
        count = examples * (3 if law == "convolution" else 1)
        result = run_item(item, profile="gate", examples=count, seed=seed)
        failure = result.failure.render() if result.failure else None
        forms = {form: vars(tally) for form, tally in result.forms.items()}
        one = {"setting": setting, "law": law, "dtype": dtype, "outcome": result.outcome, "failure": failure}
        found.append({**one, "examples": result.examples, "seconds": round(result.seconds, 1), "forms": forms})
    return found


def jobs_of(args: argparse.Namespace) -> Iterable[list[str]]:
    """Setting, dtype and law of each job; ``measure`` stands for the arithmetic. Short ones first."""
    from equiv.laws import LAWS

    for setting, dtype in product(args.settings, () if args.laws else args.dtypes):
        if dtype in FLOATS and (setting in ("TF32 off", "reduced sums off") or dtype == "float32"):
            yield [setting, dtype, "measure"]
    for law, setting, dtype in product(args.laws or LAWS, args.settings, args.dtypes):
        if law not in LAWS_OF.get(setting, tuple(LAWS)) or (law == "transforms" and dtype != "float32"):
            continue
        if dtype in DTYPES_OF.get(setting, args.dtypes):
            yield [setting, dtype, law]


def run_one(job: list[str], args: argparse.Namespace) -> dict[str, Any]:
    """A job in a process of its own."""
    options = ["--device", args.device, "--examples", str(args.examples), "--seed", str(args.seed)]
    command = [sys.executable, __file__, *options, "--one", *job]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=args.timeout, check=False)
    except subprocess.TimeoutExpired:
        return {"job": job, "ended": f"took more than {args.timeout:.0f} s"}
    if done.returncode:
        return {"job": job, "ended": f"exit code {done.returncode}: {done.stderr[-1500:]}"}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def run(args: argparse.Namespace) -> None:
    """Run all jobs, and write after each what is known."""
    start, jobs = time.monotonic(), list(jobs_of(args))
    found: dict[str, Any] = {"environment": environment(args), "measured": [], "laws": [], "ended": []}
    print(f"{len(jobs)} jobs on {found['environment']['device']}", flush=True)
    pool = ThreadPoolExecutor(args.jobs)
    waiting = {pool.submit(run_one, job, args): job for job in jobs}
    try:
        for done in as_completed(waiting, timeout=args.limit):
            job, result = waiting.pop(done), done.result()
            for name in ("measured", "laws"):
                found[name] += result.get(name, [])
            found["ended"] += [result] if "ended" in result else []
            word = result.get("ended") or ", ".join(one["outcome"] for one in result["laws"]) or "measured"
            print(f"{time.monotonic() - start:5.0f} {' '.join(job)}: {word[:200]}", flush=True)
            args.json.write_text(json.dumps(found, indent=1))
    except TimeoutError:
        print(f"stopped after {args.limit:.0f} s", flush=True)
    found["not run"] = list(waiting.values())
    args.json.write_text(json.dumps(found, indent=1))
    os._exit(0)  # what still runs is not waited for


def environment(args: argparse.Namespace) -> dict[str, Any]:
    """Versions, and the device's name."""
    on_gpu = args.device.startswith("cuda")
    return {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": _cudnn() if on_gpu else None,
        "device": torch.cuda.get_device_name() if on_gpu else args.device,
        "examples": args.examples,
        "seed": args.seed,
    }


def _cudnn() -> Any:
    version: Any = torch.backends.cudnn.version
    return version()


def _fact(text: str, name: str) -> str:
    """What a printed measurement says of one thing, without its reason."""
    line = re.search(rf"^ *{name} +(.*)$", text, re.MULTILINE)
    return line[1].split(" (")[0] if line else "?"


def table(found: dict[str, Any]) -> str:
    """Laws by setting and dtype; then what was measured, and where it was the same."""
    lines = ["| setting | dtype | laws that hold | broken |", "|---|---|---:|---|"]
    groups: dict[tuple[str, str], Counter[str]] = {}
    broken: dict[tuple[str, str], list[str]] = {}
    for one in found["laws"]:
        place = one["setting"], one["dtype"]
        groups.setdefault(place, Counter())[one["outcome"]] += 1
        if one["outcome"] == "broken":
            broken.setdefault(place, []).append(f"`{one['law']}`")
    for place, counts in groups.items():
        lines.append(f"| {place[0]} | {place[1]} | {counts['holds']} | {', '.join(sorted(broken.get(place, [])))} |")
    alike: dict[tuple[str, ...], list[str]] = {}
    for one in found["measured"]:
        facts = (one["dtype"], *(_fact(one["measured"], name) for name in MEASURED))
        alike.setdefault(facts, []).append(f"{one['setting']}: {one['form']} n={torch.Size(one['features']).numel()}")
    lines += ["", f"| dtype | {' | '.join(MEASURED)} | where |", "|---" * (len(MEASURED) + 2) + "|"]
    lines += [f"| {' | '.join(facts)} | {'; '.join(sorted(set(where)))} |" for facts, where in alike.items()]
    return "\n".join(lines)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, default=Path("cuda.json"))
    parser.add_argument("--table", action="store_true", help="print the tables of --json, and run nothing")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument(
        "--dtypes", nargs="+", default=["float32", "float16", "bfloat16", "float64", "complex64", "int32"]
    )
    parser.add_argument("--laws", nargs="+", help="these alone, and no measurements")
    parser.add_argument("--examples", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 1) - 2))
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds of each law")
    parser.add_argument(
        "--one", nargs=3, metavar=("SETTING", "DTYPE", "LAW"), help="one job, as JSON on standard output"
    )
    args = parser.parse_args()
    if args.one:
        setting, dtype, law = args.one
        if law == "measure":
            print(json.dumps({"laws": [], "measured": measured(setting, args.device, dtype)}))
        else:
            print(json.dumps({"laws": judged(setting, args.device, dtype, law, args.examples, args.seed)}, default=str))
    elif args.table:
        print(table(json.loads(args.json.read_text())))
    else:
        run(args)


if __name__ == "__main__":
    main()
