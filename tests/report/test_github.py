"""What GitHub is given of a run: annotations, a summary, JUnit, programs; names and values stay what they are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from made_runs import made_run

from equiv.errors import EquivError
from equiv.report import FORMATS, annotations_of, read_run, write_programs, write_run
from equiv.report.markdown import LONGEST

ODD = "a|b`c``d <b>&amp; @somebody #1 \x00\x1b[1m\n- 100 %:,"


def _line(text: str) -> dict[str, str]:
    found = re.fullmatch(r"::error (.*?)::(.*)\n", text)
    assert found
    return dict(pair.split("=", 1) for pair in found[1].split(",")) | {"message": found[2]}


def test_all_that_breaks_at_one_line_is_one_annotation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = _line(annotations_of(made_run(20, 6)))
    assert (found["file"], found["line"]) == ("mine.py", "3")
    assert "%0A5 items in all, in float32" in found["message"]


@pytest.mark.parametrize(
    ("code", "otherwise", "place"),
    [
        ("kernels/a b.py:12, in conv: return y", "", ("kernels/a b.py", "12")),
        ("/elsewhere/x.py:3, in conv", "", (None, None)),
        ("/elsewhere/x.py:3, in conv", "mine.py", ("mine.py", "1")),
        ("", "mine.py", ("mine.py", "1")),
        ("", "", (None, None)),
        ("100%,a:b.py:7, in conv", "", ("100%25%2Ca%3Ab.py", "7")),
    ],
)
def test_annotations_name_files_of_the_repository_alone(
    code: str, otherwise: str, place: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = _line(annotations_of(made_run(3, 2, code=code), otherwise=otherwise))
    assert (found.get("file"), found.get("line")) == place


def test_of_a_process_that_died_the_last_line_is_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for note, line in (("crashed with SIGSEGV at mine.py:12 in conv", "12"), ("crashed at other.py:12 in f", "3")):
        assert _line(annotations_of(made_run(3, 2, kind="crash", note=note)))["line"] == line


def test_a_run_that_could_ask_nothing_does_not_look_passed() -> None:
    run = made_run(2, 1)
    items = (run.items[-1],)
    nothing = type(run)(run.request, run.environment, items, (items[0].item,), 1, 1.0)
    assert (nothing.status, nothing.asked) == ("passed", False)
    assert _line(annotations_of(nothing))["title"] == "equiv%3A nothing could be asked"
    assert FORMATS["markdown"](nothing).startswith("## equiv: nothing could be asked on `mine`")


def test_paths_are_below_the_root_of_the_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder := tmp_path / "sub").mkdir()
    monkeypatch.chdir(folder)
    assert _line(annotations_of(made_run(3, 2), root=str(tmp_path)))["file"] == "sub/mine.py"


def test_nothing_in_a_message_begins_another_command() -> None:
    text = annotations_of(made_run(3, 2, note="\n::error::x", sentence="a\r\n::set-output name=x::1"))
    assert text.count("\n") == 1
    assert "\r" not in text


def test_a_run_that_did_not_end_has_an_annotation_and_one_that_passed_has_none() -> None:
    run = made_run(4, 1)  # the one that is broken was expected to be
    assert _line(annotations_of(run))["title"] == "equiv%3A incomplete"
    passed = type(run)(run.request, run.environment, run.items, run.planned[:-1], 1, 1.0)
    assert passed.status == "passed"
    assert annotations_of(passed) == ""


def test_markdown_shows_odd_names_as_code() -> None:
    text = FORMATS["markdown"](made_run(12, 9, backend=ODD, snippet=f"x = '''{ODD}\n````'''", note=ODD))
    outside = re.sub(r"(?ms)^(`{3,})\w*\n.*?^\1$", "", text)
    outside = re.sub(r"(?s)(?<!`)(`+)(?!`).+?(?<!`)\1(?!`)", "", outside)
    assert "@somebody" in text
    assert not {"@", "<b>", "\x1b", "\x00"} & {part for part in ("@", "<b>", "\x1b", "\x00") if part in outside}
    for row in re.findall(r"(?m)^\|.*", text):
        assert len(re.findall(r"(?<!\\)\|", row)) == 9, row


def test_markdown_fits_an_issue_however_much_is_broken() -> None:
    for run in (made_run(200, 190), made_run(20, 15, snippet="x = 1\n" * 20_000), made_run(4, 2, shapes="1 " * 70_000)):
        assert len(FORMATS["markdown"](run)) <= LONGEST


def test_junit_counts_what_it_holds() -> None:
    run = made_run(30, 5, backend="odd\x00<&>", note="\x1b[1m")
    suite = ElementTree.fromstring(FORMATS["junit"](run).encode()).find("testsuite")
    assert suite is not None
    kinds = {"failures": "failure", "errors": "error", "skipped": "skipped"}
    assert {name: len(suite.findall(f"testcase/{kind}")) for name, kind in kinds.items()} == {
        "failures": 4,
        "errors": 1,
        "skipped": 2,
    }
    assert {name: int(suite.get(name, "")) for name in kinds} == {"failures": 4, "errors": 1, "skipped": 2}
    assert suite.get("tests") == str(len(suite.findall("testcase"))) == "31"


def test_a_report_that_is_read_again_is_the_same(tmp_path: Path) -> None:
    run = made_run(40, 6, ratio=float("inf"))
    write_run(run, {"json": str(tmp_path / "run.json")})
    again = read_run(str(tmp_path / "run.json"))
    assert again.to_dict() == {**run.to_dict(), "seconds": 12.346}
    assert FORMATS["markdown"](again) == FORMATS["markdown"](run)
    assert again.failures[0].failure["ratio"] == float("inf")  # type: ignore[index]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"schema": 2, "items": []}', '{"schema": 3, "items": [{}]}', "\x00"])
def test_what_is_no_report_is_refused_in_one_sentence(text: str, tmp_path: Path) -> None:
    (file := tmp_path / "run.json").write_text(text, encoding="utf-8")
    with pytest.raises(EquivError, match=r"^REPORT: expected a report of .+; [a-z ]+$") as caught:
        read_run(str(file), argument="REPORT")
    assert str(caught.value).isprintable()


def test_programs_are_named_after_items_and_say_what_is_wrong(tmp_path: Path) -> None:
    paths = write_programs(made_run(8, 4, backend="../odd name"), str(tmp_path / "new" / "folder"))
    assert [Path(path).name for path in paths] == [
        "forward-all-float32-.._odd_name.py",
        "forward-all-float64-.._odd_name.py",
        "forward-all-float16-.._odd_name.py",
    ]
    text = Path(paths[0]).read_text(encoding="utf-8")
    assert text.startswith("# forward: full in float32")
    compile(text, paths[0], "exec")
