"""What the documentation says can be followed: links lead somewhere, and its Python runs."""

import ast
import doctest
import importlib
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("docs", "examples", "benchmarks", ".github")
PAGES = sorted([*ROOT.glob("*.md"), *(page for room in ROOMS for page in (ROOT / room).rglob("*.md"))])

SLOW = ("docs/guides/convert-my-model.md", "docs/guides/test-my-kernel.md")

FENCE = re.compile(r"^(?P<fence>```+|~~~+)(?P<info>[^\n]*)\n(?P<code>.*?)^(?P=fence)\s*$", re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"<!-- (not run|own process): .+ -->\s*\Z")  # the latter: test_findings_pages.py
LINK = re.compile(
    r"!?\[[^\]]*\]\(\s*<?([^)\s>]+)>?[^)]*\)|(?:src|href)=\"([^\"]+)\"|^\[[^\]]+\]:\s*(\S+)", re.MULTILINE
)
ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:|#", re.IGNORECASE)
ABSOLUTE_PATH = re.compile(r"(?<![\w.:/<~*$}])/(?!dev/null)(?:[\w.-]+/)+[\w.-]+|\b[A-Z]:\\\w")


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def _links(text: str) -> list[str]:
    prose = re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))
    return [next(filter(None, groups)) for groups in LINK.findall(prose)]


def _python(text: str) -> list[tuple[int, str]]:
    """Every Python block and the line it starts on, but for those right after ``<!-- not run: reason -->``."""
    return [
        (text.count("\n", 0, match.start("code")), match["code"])
        for match in FENCE.finditer(text)
        if match["info"].split()[:1] in (["python"], ["pycon"]) and not NOT_RUN.search(text[: match.start()])
    ]


def _run(text: str, filename: str, scratch: Path) -> None:
    """Run a page's blocks in one namespace, from top to bottom; ``>>>`` as doctests, tests through pytest."""
    namespace: dict[str, object] = {"__name__": "__main__"}
    blocks: list[str] = []
    for line, code in _python(text):
        if code.lstrip().startswith(">>>"):
            example = doctest.DocTestParser().get_doctest(code, namespace, filename, filename, line)
            report: list[str] = []
            if doctest.DocTestRunner().run(example, out=report.append, clear_globs=False).failed:
                pytest.fail("".join(report), pytrace=False)
            namespace.update(example.globs)
        else:  # blank lines in front, so that a traceback names the line of the page
            exec(compile("\n" * line + code, filename, "exec"), namespace)
            blocks.append(code)
    if tests := [i for i, code in enumerate(blocks, 1) if re.search(r"^\s*def test_", code, re.MULTILINE)]:
        file = scratch / "test_page.py"
        file.write_text("".join(blocks[: tests[-1]]), encoding="utf-8")
        # The same cases each time: what a page shows wraps torch, whose own defects some random cases meet.
        options = ["-q", "-p", "no:cacheprovider", "--equiv-seed", "0", "--rootdir", str(scratch)]
        command = [sys.executable, "-m", "pytest", *options, str(file)]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_relative_links_and_images_resolve(page: Path) -> None:
    targets = [link for link in _links(page.read_text(encoding="utf-8")) if not ELSEWHERE.match(link)]
    missing = [target for target in targets if not (page.parent / unquote(target.split("#")[0])).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_no_absolute_path_of_somebodys_machine(page: Path) -> None:
    assert not ABSOLUTE_PATH.findall(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_no_merge_was_left_half_done(page: Path) -> None:
    assert not re.search(r"^(<{7} |={7}$|>{7} )", page.read_text(encoding="utf-8"), re.MULTILINE)


def _with_python() -> list[object]:
    """The pages that have Python; those that take seconds run with the slow tests."""
    pages = [page for page in PAGES if _python(page.read_text(encoding="utf-8"))]
    return [pytest.param(page, marks=pytest.mark.slow if _name(page) in SLOW else ()) for page in pages]


@pytest.mark.parametrize("page", _with_python(), ids=_name)
def test_python_of_the_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _run(page.read_text(encoding="utf-8"), str(page), tmp_path)


def _blocks(page: Path, *kinds: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    found = [match for match in FENCE.finditer(text) if not NOT_RUN.search(text[: match.start()])]
    return [match["code"] for match in found if match["info"].strip() in kinds]


def _lines(page: Path, command: str) -> list[list[str]]:
    """The lines of a page's shell blocks that run a command, in words; not those of a transcript, with ``$``."""
    lines = "".join(_blocks(page, "", "console", "sh", "bash")).splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith(command)]


@pytest.mark.parametrize("page", [p for p in PAGES if p.parent != ROOT and _lines(p, "equiv ")], ids=_name)
def test_commands_of_the_page_run(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One that names a file of the reader's is asked for its help, which has the options."""
    from equiv.cli import main

    for _, command, *words in _lines(page, "equiv "):
        files = [word for word in words if re.search(r"\.py\b|/", word)]
        assert main([command, *(["--help"] if files else words)]) == 0
        shown = capsys.readouterr().out
        assert not files or [word for word in words if word.startswith("--") and word not in shown] == []


@pytest.mark.parametrize("page", [p for p in PAGES if _lines(p, "python benchmarks/")], ids=_name)
def test_scripts_of_the_page_have_the_options_that_it_names(page: Path) -> None:
    for _, script, *words in _lines(page, "python benchmarks/"):
        code = "".join(part.read_text(encoding="utf-8") for part in (ROOT / script, ROOT / "benchmarks" / "_common.py"))
        assert [word for word in words if word.startswith("--") and f'"{word}"' not in code] == []


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_data_on_the_page_can_be_read(page: Path) -> None:
    for code in _blocks(page, "json"):
        json.loads(code)
    for code in _blocks(page, "toml"):
        tomllib.loads(code)


def _strings_below_values(source: str) -> Iterator[tuple[int, str]]:
    """The strings right below assignments of a module, which pytest's doctests do not see, and their lines."""
    for before, after in pairwise(ast.parse(source).body):
        below = isinstance(before, (ast.Assign, ast.AnnAssign)) and isinstance(after, ast.Expr)
        if below and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
            yield after.lineno - 1, after.value.value


def test_examples_of_values_run() -> None:
    package = Path(importlib.import_module("equiv").__file__ or "").parent
    runner, tried = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS), 0
    for path in sorted(package.rglob("*.py")):
        for line, text in _strings_below_values(path.read_text(encoding="utf-8")):
            if ">>>" in text:
                place = ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__")
                names = dict(vars(importlib.import_module(place)))
                example = doctest.DocTestParser().get_doctest(text, names, f"{place}:{line}", str(path), line)
                assert not runner.run(example).failed, place
                tried += 1
    assert tried > 20


def test_the_checks_above_can_fail(tmp_path: Path) -> None:
    assert _links("[a](b.md#c) ![d](e.png 'f') `[g](h)`\n```\n[i](j)\n```\n[k]: l.md\n") == ["b.md#c", "e.png", "l.md"]
    assert ABSOLUTE_PATH.findall("see /home/me/x.py") == ["/home/me/x.py"]
    assert not ABSOLUTE_PATH.findall("https://a.b/c/d and/or n/2/k, ../shared/x.md, </details> 2>/dev/null")
    _run(
        "```python\nx = 1\n```\n```python\n>>> x + 1\n2\n```\n<!-- not run: no device -->\n```python\n1 / 0\n```\n",
        "page",
        tmp_path,
    )
    assert list(_strings_below_values('x = 1\n"""One."""\ny = 2\n')) == [(1, "One.")]
    with pytest.raises(ZeroDivisionError):
        _run("```python\n1 / 0\n```\n", "page", tmp_path)
    with pytest.raises(pytest.fail.Exception, match="Expected"):
        _run("```python\n>>> 1 + 1\n3\n```\n", "page", tmp_path)
    with pytest.raises(AssertionError, match="1 failed"):
        _run("```python\ndef test_x():\n    assert False\n```\n", "page", tmp_path)


REPOSITORY = "https://github.com/torch-equiv/torch-equiv"
RAW = "https://raw.githubusercontent.com/torch-equiv/torch-equiv/main/"


def test_the_readme_fits_and_its_links_work_on_a_package_index() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 150
    links = _links(text)
    assert [link for link in links if not link.startswith("https://")] == []
    files = [link.removeprefix(RAW) for link in links if link.startswith(RAW)]
    files += [re.sub(rf"^{REPOSITORY}/(blob|tree)/main/", "", link) for link in links if link.startswith(REPOSITORY)]
    assert len(files) > 10
    drawn = (ROOT / "docs" / "pictures").is_dir()
    assert [file for file in files if not (ROOT / file).exists() and (drawn or "pictures" not in file)] == []


def test_the_failure_in_the_readme_is_what_the_example_prints() -> None:
    """Up to values and seeds: the words, the sizes of the witness and the program."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--equiv-profile",
        "gate",
        "my_kernel.py",
    ]
    result = subprocess.run(command, cwd=ROOT / "examples", capture_output=True, text=True, check=False)
    assert result.returncode == 1, result.stdout + result.stderr
    printed = [line[1:].removeprefix(" " * 7) for line in result.stdout.splitlines() if line[:1] == "E"]
    (shown,) = re.findall(r"```text\n(exact: .*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert _without_values("\n".join(printed)).endswith(_without_values(shown))


def _without_values(text: str) -> str:
    lines = [re.sub(r"-?[0-9]+\.[0-9]+|(?<=seed )[0-9]+", "#", line).rstrip() for line in text.splitlines()]
    return "\n".join(lines)
