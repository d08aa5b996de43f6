"""The pytest plugin in whole projects: what it says, what its options do, and that it leaves other projects alone."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path

import pytest

# A run inside this process forgets the modules that it was the first to import, which torch does not survive.
import equiv.causes
import equiv.report
import equiv.testing  # noqa: F401
from equiv._options import options as chosen

with suppress(ImportError):
    import torch.distributed.tensor  # noqa: F401

pytest_plugins = ["pytester"]

INI = "[pytest]\nequiv_profile = dev\n"
SUITE = """
import equiv.testing

DEVICES, LAWS, DTYPES = equiv.testing.devices_under_test(), ["exact", "weight_recovery"], ["float32", "int8"]

@equiv.testing.parametrize_with_laws(DEVICES, laws=LAWS, dtypes=DTYPES)
def test_law(law):
    law()
"""
BROKEN = """
import equiv.testing, torch
from equiv.backends import TorchEager
from torch.nn import functional as F

class Doubling(TorchEager):
    transforms = False

    def __init__(self):
        super().__init__()
        self.name = "doubling"

    def conv(self, input, weight, bias=None, *, stride=1, dilation=1):
        y = super().conv(input, weight, bias, stride=stride, dilation=dilation)
        return y if bias is None else y + bias.reshape(-1, *(1,) * (weight.ndim - 2))

@equiv.testing.parametrize_with_laws(Doubling(), laws=["exact", "weight_recovery"], dtypes=["float32"]{more})
def test_law(law):
    law()
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project with nothing but a suite of two laws in two dtypes."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "PYTEST_ADDOPTS", "CI"):
        monkeypatch.delenv(name, raising=False)
    pytester.makefile(".ini", pytest=INI)
    pytester.makepyfile(test_suite=SUITE)
    return pytester


def rows(result: pytest.RunResult) -> dict[str, list[str]]:
    """Of the summary, by law: items, cases, and the rest."""
    return {
        line.split()[0]: line.split()[1:]
        for line in result.outlines
        if re.match(r" +(exact|weight_recovery) +\d", line)
    }


def report(path: Path) -> dict[str, dict[str, object]]:
    """Of the report, by item."""
    return {result["item"]: result for result in json.loads(path.read_text())["items"]}


# --- what it says -----------------------------------------------------------------------------------------------------


def test_a_header_line_and_a_summary_by_law(project: pytest.Pytester) -> None:
    done = project.runpytest_inprocess("--equiv-examples", "3")
    done.assert_outcomes(passed=4)
    done.stdout.re_match_lines(
        [r"equiv: profile dev, torch \d+\.\d+\S*, \d+ threads, \S+, on cpu", r"-+ equiv: laws -+"]
    )
    assert rows(done)["exact"][:2] == ["2", "6"]  # 2 dtypes, 3 cases each
    assert rows(done)["weight_recovery"][:2] == ["2", "6"]
    done.stdout.fnmatch_lines(["4 items, 12 cases, *"])
    summary = done.outlines[next(i for i, line in enumerate(done.outlines) if "equiv: laws" in line) : -1]
    assert max(map(len, summary[1:])) <= 100


THREADS = """
import os, torch

def test_threads():
    print("THREADS", torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS"), os.environ.get("MKL_NUM_THREADS"))
"""


def test_workers_have_the_same_ids_and_results_and_one_thread_each(project: pytest.Pytester) -> None:
    """Each worker collects by itself: xdist refuses ids that differ."""
    options = ("-v", "--equiv-examples", "40", "--equiv-seed", "5", "--equiv-report")
    alone = project.runpytest_inprocess(*options, "alone.json")
    alone.assert_outcomes(passed=4)
    project.makeconftest("import torch")  # as early as a project can
    project.makepyfile(test_one=THREADS, test_two=THREADS, test_broken=BROKEN.replace("{more}", ""))
    shared = project.runpytest_inprocess(*options, "shared.json", "-n", "2", "--dist", "loadfile", "-rP")
    shared.assert_outcomes(passed=6, failed=2)
    assert [line for line in shared.outlines if line.startswith("THREADS")] == ["THREADS 1 1 1"] * 2
    shared.stdout.re_match_lines([r"equiv: profile dev, .*, 1 thread a worker, .*"])
    names = [
        f"test_suite.py::test_law[{law}-all-{dtype}-eager.cpu]"
        for law in ("exact", "weight_recovery")
        for dtype in ("float32", "int8")
    ]
    assert [line.split()[0] for line in alone.outlines if "PASSED" in line] == names
    ran = {line.split()[-1] for line in shared.outlines if re.match(r"\[gw\d\].*PASSED.*test_law", line)}
    assert ran == set(names)
    assert (rows(shared)["exact"][0], rows(shared)["exact"][5]) == ("3", "1")  # items, broken
    found = json.loads((project.path / "shared.json").read_text())
    assert (len(found["planned"]), found["complete"], found["jobs"], found["broken"]) == (
        6,
        True,
        2,
        ["exact", "weight_recovery"],
    )
    first, second = report(project.path / "alone.json"), report(project.path / "shared.json")
    assert first.keys() < second.keys()
    for name, result in first.items():
        assert [second[name][key] for key in ("seed", "examples")] == [5, result["examples"]]
        assert second[name]["failure"] is None
    failure = second["exact-all-float32-doubling"]["failure"]
    assert isinstance(failure, dict)
    assert failure["sentence"].startswith("On integer probes")


def test_a_broken_backend_gives_one_screen_and_exit_code_1(project: pytest.Pytester) -> None:
    project.makepyfile(test_suite=BROKEN.replace("{more}", ""))
    done = project.runpytest_inprocess("--equiv-examples", "40", "--equiv-report", "out.json")
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    done.assert_outcomes(failed=2)
    said = done.stdout.str()
    assert said.count("LawBroken: exact: ") == 1
    assert said.count("- equiv witness -") == 2
    node = "test_suite.py::test_law[exact-all-float32-doubling]"
    assert f"again: pytest '{node}' --equiv-profile dev --equiv-examples 40 --equiv-seed" in said
    shown = [line for line in done.outlines if line.startswith("E ")]
    assert len(shown) <= 2 * 40  # a screen for each
    assert not [line for line in done.outlines if "hypothesis" in line.lower() and line.startswith("E ")]
    assert rows(done)["exact"][5] == "1"  # broken
    failure = report(project.path / "out.json")["exact-all-float32-doubling"]["failure"]
    assert isinstance(failure, dict)
    assert failure["form"] in ("full", "pointwise")


def test_an_error_of_the_suite_itself_is_no_expected_failure(project: pytest.Pytester) -> None:
    more = """, expected_failures={"exact": "known", "weight_recovery": "known"}"""
    suite = BROKEN.replace("{more}", more).replace("    law()", "    raise RuntimeError('of the suite')")
    project.makepyfile(test_suite=suite)
    project.runpytest_inprocess().assert_outcomes(failed=2)


# --- what the options do ----------------------------------------------------------------------------------------------


def test_dtypes_devices_profile_and_seed_reach_the_items(project: pytest.Pytester) -> None:
    options = ("--equiv-dtypes", "torch.float32, float64", "--equiv-devices", "cpu", "--equiv-profile", "equiv-gate")
    done = project.runpytest_inprocess(*options, "--equiv-seed", "11", "--equiv-report", "out.json")
    done.assert_outcomes(passed=2)
    done.stdout.fnmatch_lines(["equiv: profile gate, *, on cpu", f"every result: {project.path / 'out.json'}"])
    found = report(project.path / "out.json")
    assert list(found) == ["exact-all-float32-eager.cpu", "weight_recovery-all-float32-eager.cpu"]
    assert {result["seed"] for result in found.values()} == {11}
    assert found["weight_recovery-all-float32-eager.cpu"]["examples"] == 80  # of the profile gate


def test_all_devices_are_those_present(project: pytest.Pytester) -> None:
    done = project.runpytest_inprocess("--equiv-devices", "all", "--equiv-examples", "1", "-k", "eager.cpu")
    done.assert_outcomes(passed=4, deselected=done.parseoutcomes().get("deselected", 0))
    done.stdout.re_match_lines([r"equiv: .*, on cpu.*"])


def test_the_report_is_strict_json_with_coverage_and_written_where_pytest_was_started(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_suite=SUITE, test_elsewhere="import os\n\ndef test_elsewhere(tmp_path):\n    os.chdir(tmp_path)\n"
    )
    project.runpytest_inprocess("--equiv-examples", "2", "--equiv-report", "out.json").assert_outcomes(passed=5)
    text = (project.path / "out.json").read_text()
    found = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert set(found) >= {"schema", "python", "torch", "cpu", "coverage", "not_reached", "table", "items"}
    assert (found["complete"], found["holds"], found["status"], found["exit_code"]) == (True, True, "passed", 0)
    assert [item["item"] for item in found["items"]] == found["planned"]
    assert found["coverage"]["dtype"] == {"float32": 4, "int8": 4}
    assert len(found["items"]) == 4


def test_a_run_that_stops_early_is_not_complete(project: pytest.Pytester) -> None:
    project.makepyfile(test_suite=BROKEN.replace("{more}", ""))
    project.runpytest_inprocess("--equiv-examples", "40", "--equiv-report", "out.json", "-x").assert_outcomes(failed=1)
    found = json.loads((project.path / "out.json").read_text())
    assert (found["planned"], found["complete"], found["holds"]) == (
        ["exact-all-float32-doubling", "weight_recovery-all-float32-doubling"],
        False,
        False,
    )
    assert [item["outcome"] for item in found["items"]] == ["broken", "not run"]
    assert (found["status"], found["exit_code"]) == ("incomplete", 1)


def test_a_report_that_cannot_be_written_is_said_and_hides_no_result(project: pytest.Pytester) -> None:
    project.makepyfile(
        test_suite=SUITE,
        test_then="import os\n\ndef test_block():\n    os.unlink('out.json')\n    os.mkdir('out.json')\n",
    )
    done = project.runpytest_inprocess("--equiv-examples", "1", "--equiv-report", "out.json")
    done.assert_outcomes(passed=5)
    assert done.ret == 2
    done.stdout.fnmatch_lines(["*equiv: laws*", "--equiv-report: expected a file that can be written, *"])


def test_a_seed_for_hypothesis_varies_the_laws_too(project: pytest.Pytester) -> None:
    seeds = []
    for words in (
        (),
        ("--hypothesis-seed=3",),
        ("--hypothesis-seed=three",),
        ("--hypothesis-seed=3", "--equiv-seed=4"),
    ):
        options = ("--equiv-profile", "gate", "--equiv-examples", "1", "--equiv-report", "out.json", *words)
        project.runpytest_inprocess(*options).assert_outcomes(passed=4)
        (seed,) = {result["seed"] for result in report(project.path / "out.json").values()}
        seeds.append(seed)
    assert (seeds[0], seeds[1], seeds[3]) == (0, 3, 4)
    assert len({*seeds}) == 4


def test_a_run_inside_a_run_leaves_the_options_of_the_outer_one(project: pytest.Pytester) -> None:
    before = dict(vars(chosen))
    project.runpytest_inprocess("--equiv-profile", "deep", "--equiv-examples", "1", "--equiv-dtypes", "int8")
    project.runpytest_inprocess("--equiv-profile", "gate", "--equiv-examples", "0")
    assert vars(chosen) == before


# --- a project that does not use it -----------------------------------------------------------------------------------

STRANGER = """
import os, sys

def test_nothing_was_touched():
    assert "torch" not in sys.modules
    assert not [name for name in sys.modules if name.startswith("equiv.") and name not in (
        "equiv.pytest_plugin", "equiv._options", "equiv.errors") and not name.startswith("equiv.plugin_")]
    assert "OMP_NUM_THREADS" not in os.environ
    assert "MKL_NUM_THREADS" not in os.environ

def test_the_settings_of_hypothesis_are_its_own():
    from hypothesis import settings
    assert settings.get_current_profile_name() == "default"
    assert settings.default.max_examples == 100
    assert not [name for name in settings._profiles if "equiv" in name]
"""


@pytest.mark.parametrize("words", [(), ("-n", "2")], ids=["alone", "workers"])
def test_a_project_that_does_not_use_it_is_left_alone(project: pytest.Pytester, words: tuple[str, ...]) -> None:
    project.makefile(".ini", pytest="[pytest]\n")
    project.makepyfile(test_suite=STRANGER)
    done = project.runpytest_subprocess(*words)
    done.assert_outcomes(passed=2)
    assert "equiv" not in done.stdout.str().replace("torch-equiv", "").replace("equiv-0", "")


def test_the_laws_run_in_a_project_that_says_nothing_of_them(project: pytest.Pytester) -> None:
    """No option and no ini option: no header and no summary, and the laws themselves all the same."""
    project.makefile(".ini", pytest="[pytest]\n")
    project.makepyfile(test_suite=SUITE.replace(', "weight_recovery"', ""))
    done = project.runpytest_inprocess()
    done.assert_outcomes(passed=2)
    assert "equiv: " not in done.stdout.str()
