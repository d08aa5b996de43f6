"""The benchmarks run, count what they say, and take up where they stopped."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from equiv.numerics import Reference, declared, exact_affine, judge
from equiv.strategies import KINDS, Values

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    monkeypatch.setenv("HYPOTHESIS_NO_PLUGINS", "1")  # the benchmarks set it; here it is put back
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


@pytest.fixture
def soundness(load: Callable[[str], ModuleType]) -> Callable[..., int]:
    main: Callable[[list[str]], int] = load("soundness").main
    return lambda *arguments: main([str(argument) for argument in arguments])


def stored(path: Path) -> list[dict]:
    return json.loads(path.read_text())["cells"]


# --- soundness --------------------------------------------------------------------------------------------------------


SOME = ("--dtypes", "float32", "--kinds", "normals", "constant")


@pytest.mark.slow
def test_a_count_goes_on_from_its_state_and_ends_with_the_same_numbers(soundness, tmp_path):
    twice, once = tmp_path / "twice.json", tmp_path / "once.json"
    for outputs in (100_000, 400_000):
        assert soundness(*SOME, "--outputs", outputs, "--state", twice) == 0
    assert soundness(*SOME, "--outputs", 400_000, "--state", once) == 0
    assert twice.read_text() == once.read_text()
    assert all(cell["outputs"] >= 200_000 for cell in stored(once))


def test_a_count_that_is_interrupted_keeps_what_it_has(load, soundness, tmp_path, monkeypatch):
    module, path = load("soundness"), tmp_path / "state.json"
    count = module.count
    monkeypatch.setattr(module, "count", lambda *given: count(*given) if given[3] < 3 else interrupt())
    assert soundness(*SOME, "--outputs", 400_000, "--state", path) == 130
    assert [cell["turns"] for cell in stored(path)] == [3]
    monkeypatch.setattr(module, "count", count)
    assert soundness(*SOME, "--outputs", 400_000, "--state", path) == 0
    assert all(cell["outputs"] >= 200_000 for cell in stored(path))


def interrupt():
    raise KeyboardInterrupt


def test_the_tightest_cases_are_judged_again_with_the_same_ratio(soundness, tmp_path, capsys):
    path = tmp_path / "state.json"
    soundness(*SOME, "--outputs", 400_000, "--state", path)
    capsys.readouterr()
    assert soundness("--show", "--state", path) == 0
    shown, cells = capsys.readouterr().out, stored(path)
    assert all(f"{cell['tight']['ratio']:.4f} again {cell['tight']['ratio']:.4f}" in shown for cell in cells)
    cells[0]["tight"]["ratio"] /= 2
    path.write_text(json.dumps({**json.loads(path.read_text()), "cells": cells}))
    assert soundness("--show", "--state", path) == 1


@pytest.mark.slow
def test_the_search_keeps_a_recipe_that_builds_its_case_again(soundness, tmp_path):
    path = tmp_path / "state.json"
    assert soundness("--search", "--dtypes", "float32", "--kinds", "constant", "--examples", 30, "--state", path) == 0
    [cell] = stored(path)
    assert cell["tight"]["recipe"].startswith("Recipe(")
    assert 0 < cell["tight"]["ratio"] <= 1
    assert soundness("--show", "--state", path) == 0


def test_an_output_beside_its_envelope_is_counted_as_a_violation(load):
    module = load("soundness")

    class Off(module.TorchEager):
        def linear(self, input, weight, bias=None):
            y = super().linear(input, weight, bias)
            y.view(-1)[0] += 1.0
            return y

    x, w = torch.rand(4, 16), torch.rand(3, 16)
    assert module.judge(Off(), x, w, None, (4, 2, 2)).violations == 1
    assert module.judge(module.TorchEager(), x, w, None, (4, 2, 2)).violations == 0


def test_a_state_of_another_seed_is_refused(soundness, tmp_path):
    path = tmp_path / "state.json"
    soundness(*SOME, "--outputs", 10_000, "--state", path)
    with pytest.raises(SystemExit, match="--state: expected a file of seed 1, got 0"):
        soundness(*SOME, "--outputs", 10_000, "--state", path, "--seed", 1)


# --- speed ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_speed_prints_a_row_for_what_it_measures(load, capsys):
    small = ["--examples", "5", "--repeats", "1", "--in-channels", "4", "--outputs", "16", "--dtypes", "float32"]
    load("speed").main(["--part", "examples", "verdicts", "conversion", *small])
    said = capsys.readouterr().out
    for words in ("float32     forward", "float32     exact", "256 -> 64, batch 16", "shared", "copied"):
        assert words in said


@pytest.mark.parametrize(("share", "least", "most"), [(True, 0.0, 0.01), (False, 1.0, 1.01)])
def test_a_shared_conversion_takes_no_memory_and_a_copy_takes_one(load, share, least, most):
    copies = load("_layers").allocated((512, 7, 7), 64, share=share)
    assert least <= copies <= most


# --- verdicts stay the same, however they are reached -----------------------------------------------------------------


def test_results_that_are_equal_or_exact_are_judged_as_any_other():
    """The short cuts of a Reference give what a Reference without a past gives."""
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        for seed, kind in enumerate(KINDS):
            x, w = Values(kind, seed).tensor((9, 12), dtype), Values("normals", seed + 1).tensor((7, 12), dtype)
            bias = Values(kind, seed + 2).tensor((7,), dtype)
            kept, y = Reference(x, w, bias), (x.double() @ w.double().T + bias.double()).to(dtype)
            wrong = torch.where(torch.arange(7) == 3, y + 1, y)
            for op in ("linear", "full", "pointwise", "linear"):
                arithmetic = declared(dtype, "cpu", op)
                for result in (y, y.clone(), wrong, y):
                    found = kept.assess(result, arithmetic)
                    fresh = judge(result, exact_affine(x, w, bias), arithmetic)
                    for name in ("inside", "undecided", "ratio"):
                        assert torch.equal(getattr(found, name), getattr(fresh, name)), (dtype, kind, op, name)


def test_a_kernel_that_writes_into_its_last_result_is_judged_anew():
    x, w = torch.rand(4, 16), torch.rand(3, 16)
    reference, arithmetic, y = Reference(x, w), declared(torch.float32), x @ w.T
    assert reference.assess(y, arithmetic).all_inside
    y += 1.0
    assert not reference.assess(y, arithmetic).all_inside
