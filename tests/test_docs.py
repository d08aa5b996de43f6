"""What the documentation says can be followed: links lead somewhere, and its Python runs."""

import doctest
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("docs", "examples", "benchmarks", ".github")
PAGES = sorted([*ROOT.glob("*.md"), *(page for room in ROOMS for page in (ROOT / room).rglob("*.md"))])

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
    plain = ""
    for line, code in _python(text):
        if code.lstrip().startswith(">>>"):
            example = doctest.DocTestParser().get_doctest(code, namespace, filename, filename, line)
            report: list[str] = []
            if doctest.DocTestRunner().run(example, out=report.append, clear_globs=False).failed:
                pytest.fail("".join(report), pytrace=False)
            namespace.update(example.globs)
        else:  # blank lines in front, so that a traceback names the line of the page
            exec(compile("\n" * line + code, filename, "exec"), namespace)
            plain += code
    if re.search(r"^\s*def test_", plain, re.MULTILINE):
        file = scratch / "test_page.py"
        file.write_text(plain, encoding="utf-8")
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


@pytest.mark.parametrize("page", [p for p in PAGES if _python(p.read_text(encoding="utf-8"))], ids=_name)
def test_python_of_the_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _run(page.read_text(encoding="utf-8"), str(page), tmp_path)


def test_the_checks_above_can_fail(tmp_path: Path) -> None:
    assert _links("[a](b.md#c) ![d](e.png 'f') `[g](h)`\n```\n[i](j)\n```\n[k]: l.md\n") == ["b.md#c", "e.png", "l.md"]
    assert ABSOLUTE_PATH.findall("see /home/me/x.py") == ["/home/me/x.py"]
    assert not ABSOLUTE_PATH.findall("https://a.b/c/d and/or n/2/k, ../shared/x.md, </details> 2>/dev/null")
    _run(
        "```python\nx = 1\n```\n```python\n>>> x + 1\n2\n```\n<!-- not run: no device -->\n```python\n1 / 0\n```\n",
        "page",
        tmp_path,
    )
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
