"""Expected failures, skips and the options of one test, in whole projects of pytest."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from test_plugin import BROKEN, SUITE, project, report

from equiv._options import options as chosen

pytest_plugins = ["pytester"]
__all__ = ["project"]  # the fixture

RIGHT = BROKEN.replace("return y if", "return y; y if")
XFAILS = """
# kernels of ours
exact-*-float32-doubling  # issue 17: the bias

weight_recovery           # issue 18
"""


def suite(code: str, more: str) -> str:
    return code.replace("{more}", f", {more}")


# --- expected failures and skips --------------------------------------------------------------------------------------

BOTH = {
    "ids": """expected_failures={"exact": "known", "weight_recovery-all-float32-doubling": "known"}""",
    "patterns": """expected_failures={"*-float32-d?ubling": "known"}""",
    "a function": """expected_failures=lambda check: "known" if check.item.law.id != "forward" else None""",
    "a file": """expected_failures="known.txt\"""",
    "a path": """expected_failures=__import__("pathlib").Path(__file__).with_name("known.txt")""",
}


@pytest.mark.parametrize("more", BOTH.values(), ids=BOTH)
def test_expected_failures_are_a_mapping_a_function_or_a_file(project: pytest.Pytester, more: str) -> None:
    project.makefile(".txt", known="exact # known\nweight_recovery-*  # known")
    project.makepyfile(test_suite=suite(BROKEN, more))
    options = ("--equiv-examples", "40", "--equiv-seed", "1")
    project.runpytest_inprocess(*options, "-W", "error").assert_outcomes(xfailed=2)
    project.makepyfile(test_suite=suite(RIGHT, more))
    done = project.runpytest_inprocess(*options, "-W", "error")
    done.assert_outcomes(failed=2)
    done.stdout.fnmatch_lines(["*XPASS(strict)*known*"])
    project.makepyfile(test_suite=suite(RIGHT, f"{more}, strict=False"))
    done = project.runpytest_inprocess(*options, "-W", "error")
    done.assert_outcomes(xpassed=2)
    assert done.ret == 0


def test_skips_take_the_same_and_come_first(project: pytest.Pytester) -> None:
    more = """skips={"exact-*": "not ours"}, expected_failures={"*-float32-*": "known"}"""
    project.makepyfile(test_suite=suite(BROKEN, more))
    done = project.runpytest_inprocess("--equiv-examples", "40", "-rs")
    done.assert_outcomes(skipped=1, xfailed=1)
    done.stdout.fnmatch_lines(["*not ours*"])


def test_a_report_says_that_a_failure_was_expected(project: pytest.Pytester) -> None:
    project.makepyfile(test_suite=suite(BROKEN, """expected_failures={"exact": "issue 17"}"""))
    options = ("--equiv-examples", "40", "--equiv-seed", "1", "--equiv-report", "out.json")
    project.runpytest_inprocess(*options).assert_outcomes(xfailed=1, failed=1)
    found = report(project.path / "out.json")
    assert {name.partition("-")[0]: item["outcome"] for name, item in found.items()} == {
        "exact": "expected",
        "weight_recovery": "broken",
    }
    assert json.loads((project.path / "out.json").read_text())["broken"] == ["weight_recovery"]


def test_a_pass_in_a_run_of_random_cases_is_no_failure(project: pytest.Pytester) -> None:
    """It may be luck: a defect that one case in a thousand shows would turn a list red and green at random."""
    project.makepyfile(test_suite=suite(RIGHT, """expected_failures={"exact": "known", "weight_recovery": "known"}"""))
    project.runpytest_inprocess("--equiv-examples", "2").assert_outcomes(xpassed=2)
    project.runpytest_inprocess("--equiv-examples", "2", "--equiv-seed", "3").assert_outcomes(failed=2)
    project.runpytest_inprocess("--equiv-examples", "2", "--equiv-profile", "gate").assert_outcomes(failed=2)
    project.makepyfile(test_suite=suite(RIGHT, """expected_failures={"*-float32-*": "known"}, seed=3"""))
    project.runpytest_inprocess("--equiv-examples", "2").assert_outcomes(failed=2)


RARE = BROKEN.replace("y if bias is None", "y if bias is None or bias.numel() % 7")


@pytest.mark.skipif(find_spec("equiv.plugin_again") is None, reason="needs the cache of failing cases")
def test_an_expected_failure_is_pinned_to_the_case_that_once_failed(project: pytest.Pytester) -> None:
    more = """expected_failures={"exact": "rare", "weight_recovery": "rare"}"""
    project.makepyfile(test_suite=suite(RARE, more))
    project.runpytest_inprocess("--equiv-examples", "200", "--equiv-seed", "1").assert_outcomes(xfailed=2)
    for _ in range(5):
        project.runpytest_inprocess("--equiv-examples", "1").assert_outcomes(xfailed=2)
    project.makepyfile(test_suite=suite(RIGHT, more))
    for _ in range(2):  # and stays red until the list is corrected
        done = project.runpytest_inprocess("--equiv-examples", "1")
        done.assert_outcomes(failed=2)
        done.stdout.fnmatch_lines(["*XPASS(strict)*rare*"])
    project.makepyfile(test_suite=suite(RIGHT, "strict=False, " + more))
    project.runpytest_inprocess("--equiv-examples", "1").assert_outcomes(xpassed=2)


def test_an_entry_about_nothing_warns_and_says_what_may_be_meant(project: pytest.Pytester) -> None:
    skips = {
        "exact-all-float32-eager.cuda0": "not here",
        "exact-*-float32-eager.mps": "not here",
        "exakt": "typo",
        "weight_recovery-*-flaot32-*": "typo",
        "exact-al-int8-*": "typo",
        "conv9": "what",
    }
    project.makepyfile(test_suite=SUITE.replace("=DTYPES", f"=DTYPES, skips={skips}"))
    options = ("--equiv-examples", "1")
    done = project.runpytest_inprocess(*options, "-W", "default")
    done.assert_outcomes(passed=4, warnings=1)
    (line,) = (line for line in done.outlines if "name no item" in line)
    assert line.endswith(
        "ExpectationWarning: equiv: expected_failures or skips name no item: exakt (did you mean 'exact'?), "
        "weight_recovery-*-flaot32-* (did you mean 'weight_recovery-*-float32-*'?), exact-al-int8-* (did you mean "
        "'exact-all-int8-*'?), conv9; remove or correct them"
    )
    project.runpytest_inprocess(*options, "--equiv-dtypes", "int8").assert_outcomes(passed=2)
    filters = ("-W", "error", "-W", "ignore::equiv.errors.ExpectationWarning")
    project.runpytest_inprocess(*options, *filters).assert_outcomes(passed=4)


# --- a file for the whole run -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [(), ("-n", "2")], ids=["alone", "workers"])
def test_a_file_of_expected_failures_for_the_whole_run(project: pytest.Pytester, words: tuple[str, ...]) -> None:
    project.makepyfile(test_suite=BROKEN.replace("{more}", ""), test_torch=SUITE)
    Path("conf").mkdir()
    Path("conf/xfails.txt").write_text(XFAILS + "exact-*-int9-*  # typo\n", encoding="utf-8-sig")
    options = ("--equiv-examples", "40", "--equiv-seed", "1")
    done = project.runpytest_inprocess(*options, "--equiv-xfails", "conf/xfails.txt", "-rxX", *words)
    done.assert_outcomes(xfailed=2, passed=2, failed=2)  # weight_recovery holds for torch, in two dtypes
    done.stdout.fnmatch_lines(
        [
            "*conf/xfails.txt names no item: exact-[*]-int9-[*] (did you mean 'exact-[*]-int8-[*]'?); remove*",
            "*exact-all-float32-doubling* - issue 17: the bias",
        ]
    )
    assert done.stdout.str().count("names no item") == 1


def test_a_file_of_the_ini_option_lies_beside_the_ini_file_and_a_part_of_a_run_says_nothing_of_the_rest(
    project: pytest.Pytester,
) -> None:
    project.makefile(".ini", pytest="[pytest]\nequiv_xfails = conf/xfails.txt\nequiv_seed = 1\nequiv_examples = 40\n")
    project.makepyfile(test_suite=BROKEN.replace("{more}", ""), test_torch=SUITE.replace(', "weight_recovery"', ""))
    Path("conf").mkdir()
    Path("conf/xfails.txt").write_text(XFAILS)
    done = project.runpytest_inprocess("test_suite.py")
    done.assert_outcomes(xfailed=2)
    done = project.runpytest_inprocess("test_torch.py")
    done.assert_outcomes(passed=2)
    assert "names no item" not in done.stdout.str()
    project.runpytest_inprocess("--equiv-xfails", "conf/none.txt").stderr.fnmatch_lines(
        ["ERROR: --equiv-xfails: expected a text file that can be read, got 'conf/none.txt': No such file*"]
    )


BAD_LINES = {
    "exact": "got 'exact'",
    "exact #": "got 'exact #'",
    "exact forward  # why": "got 'exact forward # why'",
    "test_a.py::test_law[exact-all-int8-eager.cpu]  # why": "expected an id or a pattern, then # and a reason",
    "exact-*  # why": "expected each id once, got 'exact-*'; it stands on line 1 too",
}


@pytest.mark.parametrize("line", BAD_LINES)
def test_a_bad_line_is_named_by_file_and_number(project: pytest.Pytester, line: str) -> None:
    Path("xfails.txt").write_text(f"exact-*  # known\n\n{line}\n")
    done = project.runpytest_inprocess("--equiv-xfails", "xfails.txt")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    (said,) = filter(None, done.errlines)
    assert said.startswith("ERROR: --equiv-xfails: xfails.txt, line 3: expected ")
    assert BAD_LINES[line] in said


# --- options of one test ----------------------------------------------------------------------------------------------


def seeds_and_examples(project: pytest.Pytester, *words: str) -> tuple[int, int]:
    project.runpytest_inprocess("--equiv-report", "out.json", *words).assert_outcomes(passed=4)
    found = report(project.path / "out.json")["exact-all-float32-eager.cpu"]
    return found["seed"], found["examples"]  # type: ignore[return-value]


def test_the_command_line_wins_over_a_test_and_a_test_over_the_ini_file(project: pytest.Pytester) -> None:
    project.makefile(".ini", pytest="[pytest]\nequiv_seed = 1\nequiv_examples = 2\n")
    assert seeds_and_examples(project) == (1, 2)
    project.makepyfile(test_suite=SUITE.replace("=DTYPES", "=DTYPES, seed=5, examples=3"))
    assert seeds_and_examples(project) == (5, 3)
    assert seeds_and_examples(project, "--equiv-seed", "7") == (7, 3)
    assert seeds_and_examples(project, "--hypothesis-seed", "8", "--equiv-examples", "4") == (8, 4)
    project.makepyfile(test_suite=SUITE.replace("=DTYPES", "=DTYPES, profile='gate', arithmetic='measured'"))
    project.makefile(".ini", pytest="[pytest]\nequiv_examples = 1\n")
    assert seeds_and_examples(project) == (0, 1)  # the seed of the profile gate


INI = {
    "equiv_profile": ("gate", "gate", "deep"),
    "equiv_devices": ("cpu", ["cpu"], ["cpu"]),
    "equiv_dtypes": ("float32, int8", ["float32", "int8"], ["int8"]),
    "equiv_examples": ("3", 3, 4),
    "equiv_seed": ("5", 5, 6),
    "equiv_arithmetic": ("measured", "measured", "declared"),
}


@pytest.mark.parametrize("kind", ["ini", "toml"])
def test_every_option_of_the_command_line_is_an_ini_option(project: pytest.Pytester, kind: str) -> None:
    written = {name: values[kind == "toml"] for name, values in INI.items()}
    if kind == "ini":
        project.makefile(".ini", pytest="[pytest]\n" + "\n".join(f"{name} = {text}" for name, text in written.items()))
    else:
        Path("pytest.ini").unlink()
        lines = (f"{name} = {json.dumps(value)}" for name, value in written.items())
        project.makefile(".toml", pytest="[pytest]\n" + "\n".join(lines))
    project.makepyfile(
        test_suite=SUITE,
        test_options="""
        def test_options():
            from equiv._options import options
            given = vars(options)
            print({name: given[name] for name in ("profile", "devices", "dtypes", "examples", "seed", "arithmetic")})
    """,
    )
    done = project.runpytest_inprocess("test_options.py", "-s")
    done.stdout.fnmatch_lines(
        [
            "*{'profile': 'gate', 'devices': ('cpu',), 'dtypes': ('float32', 'int8'), 'examples': 3, 'seed': 5, "
            "'arithmetic': 'measured'}*"
        ]
    )
    words = [word for name, values in INI.items() for word in (f"--{name.replace('_', '-')}", str(values[2]))]
    done = project.runpytest_inprocess("test_options.py", "-s", *(word.strip("[]'") for word in words))
    done.stdout.fnmatch_lines(["*'deep', *('int8',), 'examples': 4, 'seed': 6, *'declared'}*"])
    assert chosen.explicit == frozenset()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("equiv_examples = many", "equiv_examples: expected a whole number, pytest says: invalid literal"),
        ("equiv_examples = 0", "equiv_examples: expected a whole number of at least 1, got '0'"),
        ("equiv_dtypes = flot32", "equiv_dtypes: expected one of"),
        ("equiv_arithmetic = guessed", "equiv_arithmetic: expected one of declared, measured, got 'guessed'"),
        ("equiv_xfails = none.txt", "equiv_xfails: expected a text file that can be read"),
    ],
)
def test_a_bad_ini_option_is_named(project: pytest.Pytester, line: str, message: str) -> None:
    project.makefile(".ini", pytest=f"[pytest]\n{line}\n")
    done = project.runpytest_inprocess()
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    assert message in done.stderr.str()
    assert "Traceback" not in done.stderr.str() + done.stdout.str()


def test_a_report_of_the_ini_option_that_cannot_be_written_is_named(project: pytest.Pytester) -> None:
    project.makefile(".ini", pytest="[pytest]\nequiv_report = no/such.json\n")
    done = project.runpytest_subprocess()
    assert done.ret == 2
    assert "equiv_report: expected a file in a folder that exists" in done.stderr.str()


def test_a_report_of_the_ini_option_lies_beside_the_ini_file(project: pytest.Pytester) -> None:
    project.makefile(".ini", pytest="[pytest]\nequiv_report = out.json\nequiv_examples = 1\n")
    Path("below").mkdir()
    Path("test_suite.py").rename("below/test_suite.py")
    project.chdir()
    project.runpytest_inprocess("below").assert_outcomes(passed=4)
    assert len(report(project.path / "out.json")) == 4


@pytest.mark.parametrize("place", ["above", "below"])
@pytest.mark.parametrize("decorator", ["settings(max_examples=3)", "seed(3)", "given(x=st.none())"])
def test_decorators_of_hypothesis_get_a_clear_message(project: pytest.Pytester, decorator: str, place: str) -> None:
    code = SUITE.replace("import equiv.testing", "import equiv.testing, hypothesis, hypothesis.strategies as st")
    mark = "@equiv.testing.parametrize_with_laws(DEVICES, laws=LAWS, dtypes=DTYPES)\n"
    at = f"@hypothesis.{decorator}\n"
    code = code.replace(mark, at + mark if place == "above" else mark + at)
    code = code.replace("test_law(law)", "test_law(law, x)" if "given" in decorator else "test_law(law)")
    project.makepyfile(test_suite=code)
    done = project.runpytest_inprocess("--equiv-examples", "1")
    done.assert_outcomes(errors=4)
    name = decorator.partition("(")[0]
    done.stdout.fnmatch_lines([f"*expected a test without decorators of Hypothesis, got @{name}; *pass profile=, *"])
