"""examples/third_party, a project of its own: green as it is, red with each of its defects, with a small witness."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).parents[2] / "examples" / "third_party"
DEFECTS = {
    "numpy-tail": "numpy",
    "numpy-bias": "numpy",
    "once-bias-gradient": "once",
    "once-weight-gradient": "once",
    "shifts-transposed": "shifts",
    "shifts-stride": "shifts",
}
COUNT = """
import sys, torch
names = {}
try:
    exec(compile(open(sys.argv[1]).read(), "witness", "exec"), names)
except Exception:
    case = names.get("case")
    tensors = [getattr(case, name) for name in ("x", "weight", "bias")] if case is not None else []
    tensors += [names.get(name) for name in ("x", "weight", "bias", "grad")]
    print(sum(int(torch.count_nonzero(t)) for t in tensors if isinstance(t, torch.Tensor)))
"""


def run(folder: Path, defect: str, *words: str) -> tuple[int, dict[str, Any], str]:
    """The exit code of its tests, their report and what they print."""
    shutil.copytree(PROJECT, folder, dirs_exist_ok=True)
    environment = {**os.environ, **path_of(folder), "TINYKERNELS_DEFECT": defect}
    command = [sys.executable, "-m", "pytest", "-q", "--equiv-report", "report.json", "--equiv-examples", "20"]
    done = subprocess.run([*command, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, json.loads((folder / "report.json").read_text()), done.stdout + done.stderr


def path_of(folder: Path) -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join([str(folder), *filter(None, sys.path)])}


@pytest.mark.slow
def test_it_is_green_and_says_what_was_not_asked(tmp_path: Path) -> None:
    code, report, said = run(tmp_path, "")
    assert code == 0, said
    assert report["holds"] is True
    left_out = {(one["backend"], one["what"]) for one in report["not_asked"]}
    assert {("numpy", "gradient_order"), ("once", "gradient_order"), ("shifts", "spatial_ranks")} <= left_out
    held = {item["backend"]: item["law"] for item in report["items"] if item["outcome"] == "holds"}
    assert held.keys() == {"numpy", "once", "shifts"}
    judged = [item for item in report["items"] if (item["law"], item["backend"]) == ("gradients", "once")]
    assert {item["outcome"] for item in judged} == {"holds"}  # first order is checked


@pytest.mark.slow
@pytest.mark.parametrize("defect", DEFECTS)
def test_each_defect_is_found_with_a_witness_of_few_numbers(tmp_path: Path, defect: str) -> None:
    code, report, said = run(tmp_path, defect, "-k", DEFECTS[defect], "--maxfail=4")
    assert code == 1, said
    failures = [item["failure"] for item in report["items"] if item["outcome"] == "broken"]
    assert failures
    counts = []
    environment = {**os.environ, **path_of(tmp_path), "TINYKERNELS_DEFECT": defect}
    for number, failure in enumerate(failures[:4]):
        program = tmp_path / f"witness_{number}.py"
        program.write_text(failure["snippet"])
        command = [sys.executable, "-c", COUNT, str(program)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        counts.append(int(done.stdout.split()[-1]))  # the program fails, and says how many numbers are not zero
    assert min(counts) <= 4, counts
