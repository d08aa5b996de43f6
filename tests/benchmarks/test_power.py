"""The kill matrix: the rules of others judge simple known cases as their users would, and the command runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SEEN_BY_ALL, SEEN_BY_NONE, LEGAL = "flattened-hwc", "one-weight-off-by-one-ulp", "pairwise"


@pytest.fixture
def oracles(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import _power_oracles

    return _power_oracles


@pytest.fixture
def power(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("HYPOTHESIS_NO_PLUGINS", "1")  # the benchmarks set it; here it is put back
    monkeypatch.syspath_prepend(BENCHMARKS)
    import power

    return power


# --- the rules --------------------------------------------------------------------------------------------------------


def test_no_rule_is_red_on_equal_results(oracles: ModuleType) -> None:
    y = torch.linspace(-3, 5, 64).view(4, 16)
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.int32):
        assert not [name for name, oracle in oracles.ORACLES.items() if oracle(y.to(dtype), y.to(dtype))]


def test_every_rule_is_red_on_the_opposite_result(oracles: ModuleType) -> None:
    y = torch.linspace(-3, 5, 64).view(4, 16)
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.int32):
        assert all(oracle(-y.to(dtype), y.to(dtype)) for oracle in oracles.ORACLES.values())


@pytest.mark.parametrize(
    ("relative", "red"),
    [
        (1e-6, set()),
        (1e-5, {"assert_close"}),
        (2e-4, {"assert_close", "onnxsim"}),
        (2e-3, {"assert_close", "onnxsim", "widened", "PSNR > 60"}),
        (2e-2, {"assert_close", "onnxsim", "widened", "PSNR > 60", "NNSmith"}),
        (2e-1, {"assert_close", "onnxsim", "widened", "PSNR > 60", "NNSmith"}),  # the same direction: cosine 1
    ],
)
def test_a_result_too_large_by_a_factor_is_seen_from_the_tolerance_on(
    oracles: ModuleType, relative: float, red: set[str]
) -> None:
    y = torch.full((8,), 100.0)
    assert {name for name, oracle in oracles.ORACLES.items() if oracle(y * (1 + relative), y)} == red


def test_what_is_below_the_absolute_tolerance_is_not_seen(oracles: ModuleType) -> None:
    y = torch.full((8,), 5e-6)
    red = {name for name, oracle in oracles.ORACLES.items() if oracle(torch.zeros(8), y)}
    assert red == {"PSNR > 60"} or red == set()


def test_another_shape_is_red_for_every_rule(oracles: ModuleType) -> None:
    assert all(oracle(torch.ones(4), torch.ones(5)) for oracle in oracles.ORACLES.values())
    assert all(oracle(torch.ones(1, 4), torch.ones(0, 4)) for oracle in oracles.ORACLES.values())
    assert not any(oracle(torch.ones(0, 4), torch.ones(0, 4)) for oracle in oracles.ORACLES.values())


def test_nan_is_red_but_for_the_rule_that_calls_it_equal(oracles: ModuleType) -> None:
    y = torch.tensor([1.0, torch.nan])
    green = {name for name, oracle in oracles.ORACLES.items() if not oracle(y, y)}
    assert green == {"NNSmith"}


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_three_mutants_give_the_table_and_are_taken_up_again(
    power: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, page = tmp_path / "power.json", tmp_path / "page.md"
    page.write_text("# Kept\n\n<!-- results of power.py -->\nold\n<!-- end of the results -->\nafter\n", "utf-8")
    asked = [
        "--only", SEEN_BY_ALL, SEEN_BY_NONE, LEGAL, "--json", str(kept), "--table", str(page),
        "--examples", "24", "--cases", "24", "--by-hand", "12", "--legal-examples", "1",
    ]  # fmt: skip
    command = [sys.executable, str(BENCHMARKS / "power.py"), *asked]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    cells = json.loads(kept.read_text("utf-8"))["cells"]
    for runner in ("normal", "hypothesis", "equiv"):
        assert all(cell["red"] for cell in cells[f"{runner}/{SEEN_BY_ALL}/0"].values())
        assert not any(cell["red"] for cell in cells[f"{runner}/{SEEN_BY_NONE}/0"].values())
    assert cells[f"gate/{SEEN_BY_ALL}/0"]["equiv"]["by"].startswith("forward:")
    assert cells[f"gate/{SEEN_BY_NONE}/0"]["equiv"]["red"]
    assert f"deep/{SEEN_BY_NONE}/0" not in cells  # the gate found it
    assert not cells[f"gate/{LEGAL}/0"]["equiv"]["red"]
    assert not cells[f"deep/{LEGAL}/0"]["equiv"]["red"]
    text = page.read_text("utf-8")
    assert text.startswith("# Kept\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| gate | laws of equiv | 2 of 2 | 0 of 1 |" in text
    assert "| cosine > 0.99 | rule on normal inputs | 1 of 2 |" in text

    assert power.main(asked) == 0
    assert "seed 0" not in capsys.readouterr().out  # nothing was left to do
    assert power.main([*asked, "--cases", "5"]) == 2
    assert "name another file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--seeds", "0"], "--seeds: expected an integer of at least 1, got 0"),
        (["--only", "no-such-fault"], "got 'no-such-fault'"),
        (["--json", "nowhere/power.json"], "expected a file in a folder that exists"),
        (["--catalogue", "no_such_module"], "expected a module with FAULTS and VARIANTS"),
    ],
)
def test_misuse_ends_with_2_and_says_why(
    power: ModuleType, capsys: pytest.CaptureFixture[str], arguments: list[str], text: str
) -> None:
    assert power.main(arguments) == 2
    assert text in capsys.readouterr().err


@pytest.mark.slow
def test_a_process_that_ends_is_neither_a_finding_nor_the_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HYPOTHESIS_NO_PLUGINS", "1")
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.syspath_prepend(tmp_path)
    import _power_suites

    (tmp_path / "deadly_catalogue.py").write_text(DEADLY, "utf-8")
    with _power_suites.worker() as worker:
        for mutant, died in (("deadly", True), ("harmless", False)):
            (cell,) = worker.do(_power_suites.Job("normal", mutant, 0, 1, ("widened",), "deadly_catalogue")).values()
            assert (cell["died"], cell["red"]) == (died, False)


DEADLY = """
import contextlib, os
from types import SimpleNamespace

VARIANTS = {}
FAULTS = {
    "deadly": SimpleNamespace(name="deadly", title="", dtypes=(), applied=lambda: os._exit(1)),
    "harmless": SimpleNamespace(name="harmless", title="", dtypes=(), applied=contextlib.nullcontext),
}
"""
