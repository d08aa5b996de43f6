"""Each page about a finding has one form, and a program that says whether it shows here."""

import os
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import findings  # noqa: E402

PAGES = sorted(page for page in findings.PAGES.glob("*.md") if page.stem != "index")
FORM = ["Where it shows", "How it was found", "What equiv does", "Upstream"]
SHOWN, NOT_SHOWN = "shows", "does not show here"
REPORT = re.compile(r"\]\(https://github\.com/[\w.-]+/[\w.-]+/(?:issues|pull)/\d+\)")
TO_FILE = re.compile(r"^````markdown\n(.*?)^````$", re.MULTILINE | re.DOTALL)


def _named(page: Path) -> str:
    return page.stem


def _alone(page: Path) -> bool:
    return bool(findings.program_of(page).why)


@pytest.mark.parametrize("page", PAGES, ids=_named)
def test_a_page_has_the_form(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    title, program = text.partition("\n")[0], findings.program_of(page).code
    assert re.fullmatch(r"# .{20,120}[^.]", title)
    assert re.match(r"# [^\n]+\n\n(<!-- own process: [^\n]+ -->\n)?```python\n", text), "the program follows the title"
    assert len([line for line in program.splitlines() if line.strip()]) <= 10
    assert max(map(len, program.splitlines())) <= 120
    assert SHOWN in program or "it may die" in findings.program_of(page).why
    assert NOT_SHOWN in program
    assert re.findall(r"^## (.+)$", TO_FILE.sub("", text), re.MULTILINE) == FORM
    assert re.search(r"^\| shows \| .*\d.* \|\n\| does not \| .+ \|$", text, re.MULTILINE), "versions and CPUs"


@pytest.mark.parametrize("page", PAGES, ids=_named)
def test_a_page_has_a_report_or_a_text_to_file(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    upstream = text.partition("\n## Upstream\n")[2]
    filed = TO_FILE.search(upstream)
    assert filed or REPORT.search(upstream)
    if filed:
        title = text.partition("\n")[0].removeprefix("# ")
        assert filed[1].startswith(f"**{title}**\n")
        assert f"```python\n{findings.program_of(page).code}```" in filed[1], "the program as it stands above"
        assert "Seen with " in filed[1]


@pytest.mark.parametrize("page", [page for page in PAGES if not _alone(page)], ids=_named)
def test_a_program_says_whether_it_shows(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(findings.program_of(page).code, str(page), "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.splitlines()[-1] in (SHOWN, NOT_SHOWN)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="programs that may die run in processes that are forked")
def test_programs_of_processes_of_their_own_say_so_too() -> None:
    """But for those that take minutes, or other packages: ``python benchmarks/findings.py`` runs them."""
    programs = [findings.program_of(page) for page in PAGES if _alone(page)]
    programs = [program for program in programs if not program.needs and "minute" not in program.why]
    ended = {
        "print('shows')": "shows",
        "print('does not show here')": "-",
        "import os; os.abort()": "dies",
        "1 / 0": "fails: ZeroDivisionError: division by zero",
    }
    examples = [findings.Program(str(number), code, "it may die") for number, code in enumerate(ended)]
    found = findings.outcomes_of([*programs, *examples])
    assert found[len(programs) :] == list(ended.values())
    assert len(programs) > 5
    assert {p.name: one for p, one in zip(programs, found, strict=False) if one not in (SHOWN, "-", "dies")} == {}


def test_the_checks_above_can_fail(tmp_path: Path) -> None:
    page = tmp_path / "a.md"
    marker = "<!-- own process: needs nowhere_at_all, torch, and a compiler -->"
    page.write_text(f"# Title\n\n{marker}\n```python\nx = 1\n```\n")
    program = findings.program_of(page)
    assert (program.code, program.needs, program.missing) == ("x = 1\n", ["nowhere_at_all", "torch"], "nowhere_at_all")
    with pytest.raises(AssertionError):
        test_a_page_has_the_form(page)
    with pytest.raises(AssertionError):
        test_a_page_has_a_report_or_a_text_to_file(page)
