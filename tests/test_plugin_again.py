"""A failure under pytest is seen again: by its command, the next run and its program; and one line says what it is."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from equiv.laws import profiles

pytest_plugins = ["pytester"]

KERNELS = """
import torch
from torch.nn import functional as F

class Mine:
    transforms = False

    def __init__(self, modulus, *, name="mine", raises=False):
        self.modulus, self.name, self.raises = modulus, name, raises
        self.device = torch.device("cpu")

    def supports(self, dtype, form):
        return form == "linear"

    def linear(self, input, weight, bias=None):
        if weight.shape[0] % self.modulus == self.modulus - 1:
            return self.wrong(input, weight, bias)
        return F.linear(input, weight, bias)

    def wrong(self, input, weight, bias):
        if self.raises:
            raise RuntimeError("out of order")
        return F.linear(input, weight, bias) + 1

    def conv(self, *arguments, **options):
        raise NotImplementedError
"""
SUITE = """
import equiv.testing
from kernels_of_mine import Mine

MINE = [Mine(4), Mine(3, name="raising", raises=True)]

@equiv.testing.parametrize_with_laws(MINE, laws=["exact"], dtypes=["float32"])
def test_law(law):
    law()
"""
NODE = "test_suite.py::test_law[exact-linear-float32-mine]"
RIGHT = "weight.shape[0] % self.modulus == self.modulus - 1", "False"
FEW = ("--equiv-examples", "30", "--equiv-seed")


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project with a suite of one law, on a kernel that is wrong for some numbers of outputs, and one that raises."""
    for name in ("PYTEST_ADDOPTS", "CI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(profiles, "_STORAGE", pytester.path / ".hypothesis" / "examples")
    pytester.makeini("[pytest]\n")
    pytester.makepyfile(test_suite=SUITE, kernels_of_mine=KERNELS)
    return pytester


def command_in(result: pytest.RunResult) -> list[str]:
    """The words of the first command that a run prints."""
    (line, *_) = re.findall(r"again: (pytest .*)", result.stdout.str())
    return shlex.split(line)[1:]


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["dev", "gate", "deep"])
@pytest.mark.parametrize("seed", ["1", "2", "3"])
def test_the_command_of_a_failure_finds_it_again(project: pytest.Pytester, profile: str, seed: str) -> None:
    options = ("-p", "no:cacheprovider", "--equiv-profile", profile)
    done = project.runpytest_inprocess(*options, *FEW, seed, "-k", "mine")
    done.assert_outcomes(failed=1, deselected=1)
    words = command_in(done)
    assert words[:7] == [NODE, "--equiv-profile", profile, *FEW, seed]
    assert ("--equiv-case" in words) is (profile == "deep")  # whose database may have found it, not the seed
    if profile == "deep":
        project.path.joinpath(".hypothesis").rename(project.path / "gone")
    again = project.runpytest_inprocess("-p", "no:cacheprovider", *words)
    again.assert_outcomes(failed=1)
    assert again.stdout.str().count("exact: linear in float32 on mine returns") >= 1


def test_a_case_that_was_kept_stands_in_the_command(project: pytest.Pytester) -> None:
    """The seed of the run that tried it again does not find it."""
    project.runpytest_inprocess(*FEW, "1", "-k", "mine").assert_outcomes(failed=1, deselected=1)
    done = project.runpytest_inprocess("--equiv-examples", "1", "--equiv-seed", "5", NODE)
    done.assert_outcomes(failed=1)
    words = command_in(done)
    assert "--equiv-case" in words
    project.runpytest_inprocess("-p", "no:cacheprovider", *words[: words.index("--equiv-case")]).assert_outcomes(
        passed=1
    )
    project.runpytest_inprocess("-p", "no:cacheprovider", *words).assert_outcomes(failed=1)


def test_the_command_holds_where_pytest_was_started(project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    project.mkdir("below")
    monkeypatch.chdir(project.path / "below")
    done = project.runpytest_inprocess("..", *FEW, "1", "-k", "mine")
    words = command_in(done)
    assert words[0] == f"../{NODE}"
    project.runpytest_inprocess(*words).assert_outcomes(failed=1)


def test_a_text_that_is_no_case_is_a_misuse(project: pytest.Pytester) -> None:
    done = project.runpytest_inprocess("--equiv-case", "{}")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines(["*--equiv-case: expected a case as a failure prints it*"])


# --- the cache --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [("--lf",), ()], ids=["lf", "next"])
def test_the_next_run_tries_the_case_that_failed(project: pytest.Pytester, words: tuple[str, ...]) -> None:
    for seed in ("1", "2", "3"):
        project.runpytest_inprocess("--cache-clear", *FEW, seed).assert_outcomes(failed=2)
        project.runpytest_inprocess("--equiv-examples", "1", *words).assert_outcomes(failed=2)


def test_a_case_is_dropped_when_its_law_holds(project: pytest.Pytester) -> None:
    project.runpytest_inprocess(*FEW, "1").assert_outcomes(failed=2)
    kept = project.path / ".pytest_cache" / "v" / "equiv" / "failed"
    assert set(json.loads(kept.read_text())) == {NODE, NODE.replace("mine", "raising")}
    project.makepyfile(kernels_of_mine=KERNELS.replace(*RIGHT))
    project.runpytest_inprocess("--equiv-examples", "1").assert_outcomes(passed=2)
    assert json.loads(kept.read_text()) == {}


def test_workers_hand_cases_to_the_controller_and_get_them_back(project: pytest.Pytester) -> None:
    project.runpytest_inprocess("-n", "2", *FEW, "1").assert_outcomes(failed=2)
    done = project.runpytest_inprocess("-n", "2", "--lf", "--equiv-examples", "1", "--equiv-witnesses", "programs")
    done.assert_outcomes(failed=2)
    assert command_in(done)[0].startswith("test_suite.py::test_law[exact-linear-float32-")
    assert len(list(project.path.joinpath("programs").iterdir())) == 2


def test_what_a_cache_holds_that_is_no_case_does_no_harm(project: pytest.Pytester) -> None:
    kept = project.path / ".pytest_cache" / "v" / "equiv" / "failed"
    kept.parent.mkdir(parents=True)
    for text in (json.dumps({NODE: "of another version"}), "[1]", "{"):
        kept.write_text(text)
        project.runpytest_inprocess(*FEW, "1", "-k", "mine").assert_outcomes(failed=1, deselected=1)


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_one_sentence_says_what_is_wrong_wherever_pytest_shows_one_line(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    sentence = r"exact: linear in float32 on mine returns \S+, exact is \S+, at \[0, \d\]"
    done = project.runpytest_inprocess(*FEW, "1", "--tb=line", "-rf", "--junitxml=out.xml", "-k", "mine")
    done.stdout.re_match_lines([rf".*test_suite.py:8: {sentence}$", rf"FAILED {re.escape(NODE)} - {sentence}$"])
    (failure,) = ElementTree.parse(project.path / "out.xml").getroot().iter("failure")
    assert re.match(sentence, failure.get("message", ""))
    assert "backend = Mine(modulus=4)" in (failure.text or "")


def test_the_program_has_a_section_of_its_own(project: pytest.Pytester) -> None:
    done = project.runpytest_inprocess(*FEW, "1", "-k", "mine")
    lines = done.outlines
    start = next(i for i, line in enumerate(lines) if re.fullmatch("-+ equiv witness -+", line))
    assert lines[start + 1] == "import torch"
    assert not [line for line in lines if line.startswith("E") and "import torch" in line]
    assert [line for line in lines if re.match(r"E +code +kernels_of_mine.py:\d+, in Mine.linear", line)]


def test_what_the_backend_raised_is_shown_in_its_own_code(project: pytest.Pytester) -> None:
    done = project.runpytest_inprocess(*FEW, "1", "-k", "raising")
    done.stdout.re_match_lines(
        [
            r"> +raise RuntimeError\(\"out of order\"\)",
            r"kernels_of_mine.py:\d+: RuntimeError",
            "The above exception was the direct cause.*",
            r".*LawBroken: exact: linear in float32 on raising raises RuntimeError: out of order",
            r"E +code +kernels_of_mine.py:\d+, in wrong: raise RuntimeError",
        ]
    )
    assert "trial.py" not in done.stdout.str()


def test_programs_are_written_to_a_folder_and_fail_by_themselves(project: pytest.Pytester) -> None:
    project.runpytest_inprocess(*FEW, "1", "--equiv-witnesses", "new/folder").assert_outcomes(failed=2)
    folder = project.path / "new" / "folder"
    ends = {"mine": "not equal", "raising": "RuntimeError: out of order"}
    assert {path.name for path in folder.iterdir()} == {f"exact-linear-float32-{name}.py" for name in ends}
    for name, said in ends.items():
        program = folder / f"exact-linear-float32-{name}.py"
        assert program.read_text().splitlines()[1].startswith("# again: pytest 'test_suite.py::test_law[exact")
        words = [sys.executable, "-W", "error", str(program)]
        done = subprocess.run(words, cwd=Path("/"), capture_output=True, text=True, timeout=120)
        assert done.returncode == 1
        assert said in done.stderr


def test_a_folder_that_cannot_be_made_is_a_misuse(project: pytest.Pytester) -> None:
    project.path.joinpath("taken").write_text("")
    done = project.runpytest_inprocess("--equiv-witnesses", "taken")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines(["*--equiv-witnesses: expected a folder that can be written to, got 'taken'*"])
