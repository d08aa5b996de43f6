"""In pytest nothing is left out without a word, and no run passes that has asked nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest_plugins = ["pytester"]

PARTS = """
import torch, equiv.testing
from equiv.testing import Kernels
from torch.nn import functional as F

def linear(input, weight, bias):
    if input.dtype == torch.float64:
        raise NotImplementedError("no float64")
    if input.dtype == torch.float16:
        raise RuntimeError("misaligned address")
    return F.linear(input, weight, bias)

mine = Kernels(linear=linear, name="mine")
"""
SUITE = """
@equiv.testing.parametrize_with_laws(mine, laws=LAWS, dtypes=DTYPES)
def test_law(law):
    law()
"""
ALL = '["float32", "float64", "float16"]'


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    for name in ("PYTEST_ADDOPTS", "CI"):
        monkeypatch.delenv(name, raising=False)
    pytester.makefile(".ini", pytest="[pytest]\nequiv_profile = dev\naddopts = --equiv-examples 3\n")
    return pytester


def suite(dtypes: str = ALL, laws: str = '["exact", "dense", "transforms"]') -> str:
    return (PARTS + SUITE).replace("LAWS", laws).replace("DTYPES", dtypes)


def report(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "workers"])
def test_what_is_not_asked_is_skipped_said_and_written(project: pytest.Pytester, workers: tuple[str, ...]) -> None:
    project.makepyfile(test_suite=suite())
    done = project.runpytest_inprocess(*workers, "-rs", "--equiv-report", "out.json", "--equiv-seed", "1")
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    done.assert_outcomes(passed=1, skipped=1, failed=1)  # float32, float64, float16
    done.stdout.fnmatch_lines(["*equiv: not asked: dtypes: raises NotImplementedError: no float64"])
    done.stdout.fnmatch_lines(["*exact: linear in float16 on mine raises RuntimeError: misaligned address*"])
    said = " ".join(done.stdout.str().split())
    assert "not asked of mine: dtypes (found: raises NotImplementedError: no float64) in linear, float64" in said
    assert "not asked of mine: spatial_ranks (declared: the backend declares spatial_ranks=())" in said
    assert (
        "not asked of mine: transforms (declared: the backend does not declare transforms=True) in transforms" in said
    )
    head = [line for line in done.outlines if line.startswith("equiv: not asked of mine")]
    assert len(head) == (0 if workers else 2)  # workers collect, and have no header
    found = report(project.path / "out.json")
    assert {item["item"]: item["outcome"] for item in found["items"]} == {
        "exact-linear-float32-mine": "holds",
        "exact-linear-float64-mine": "not asked",
        "exact-linear-float16-mine": "broken",
    }
    kinds = {(entry["what"], entry["how"], entry["law"], entry["form"], entry["dtype"]) for entry in found["not_asked"]}
    assert ("dtypes", "found", "", "linear", "float64") in kinds
    assert ("transforms", "declared", "transforms", "", "float32") in kinds
    assert ("spatial_ranks", "declared", "", "full", "") in kinds
    assert not [kind for kind in kinds if kind[4] == "float16" and kind[0] == "dtypes"]


def test_a_direct_call_obeys_no_option(project: pytest.Pytester) -> None:
    direct = """
def test_direct():
    (found,) = equiv.testing.check_backend(mine, laws=["exact"], dtypes=["float32"])
    assert (found.dtype, found.outcome, found.examples) == ("float32", "holds", 38)
    (found,) = equiv.testing.check_backend(mine, laws=["exact"], dtypes=["float16"], examples=2)
    assert found.outcome == "broken"
"""
    project.makepyfile(test_direct=PARTS + direct)
    options = ("--equiv-dtypes", "float64", "--equiv-profile", "gate", "--equiv-seed", "3")
    project.runpytest_inprocess(*options).assert_outcomes(passed=1)


def test_options_that_leave_nothing_skip_and_fail_the_run(project: pytest.Pytester) -> None:
    project.makepyfile(test_suite=suite('["float32"]'))
    done = project.runpytest_inprocess("--equiv-dtypes", "int8,int16", "-rs")
    done.assert_outcomes(skipped=1)
    assert done.ret == 2
    done.stdout.fnmatch_lines(["*not asked: --equiv-dtypes int8,int16 leaves nothing of float32"])
    done.stdout.fnmatch_lines(["equiv: nothing was asked: *"])


def test_one_suite_that_is_asked_is_enough(project: pytest.Pytester) -> None:
    both = suite('["float32"]') + SUITE.replace("test_law", "test_other").replace("LAWS", '["batch"]').replace(
        "DTYPES", '["float64"]'
    )
    project.makepyfile(test_suite=both)
    done = project.runpytest_inprocess("-rs")
    done.assert_outcomes(passed=1, skipped=1)
    assert done.ret == pytest.ExitCode.OK


@pytest.mark.parametrize("ini", ["[pytest]\n", "[pytest]\nequiv_profile = dev\n"], ids=["without", "with"])
def test_a_run_of_laws_that_are_all_refused_fails(project: pytest.Pytester, ini: str) -> None:
    project.makefile(".ini", pytest=ini)
    project.makepyfile(test_suite=suite('["float64"]'), test_else="def test_else(): pass")
    done = project.runpytest_inprocess()
    done.assert_outcomes(passed=1, skipped=1)
    assert done.ret == 2
    project.runpytest_inprocess("--collect-only").assert_outcomes()


def test_checks_in_a_loop_are_no_pass_where_none_is_asked(project: pytest.Pytester) -> None:
    loop = """
import pytest

@pytest.mark.parametrize("words", [["float32", "float64"], ["float64"]])
def test_loop(words):
    for check in equiv.testing.checks(mine, laws=["exact"], dtypes=words):
        check()
"""
    project.makepyfile(test_loop=PARTS + loop)
    done = project.runpytest_inprocess()
    done.assert_outcomes(passed=1, skipped=1)
    assert done.ret == pytest.ExitCode.OK


def test_an_expected_failure_that_is_not_asked_is_skipped(project: pytest.Pytester) -> None:
    expected = """["float64", "float16"], expected_failures={"exact": "known"}"""
    project.makepyfile(test_suite=suite(expected, '["exact"]'))
    project.runpytest_inprocess().assert_outcomes(skipped=1, xfailed=1)
