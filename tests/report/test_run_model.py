"""One model of a run gives every table and every JSON file, and text fits the columns that there are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from equiv.errors import EquivError
from equiv.report import STDOUT, Request, Run, check_target, summary_lines, terminal, write_json


def _result(law: str, dtype: str, *, ratio: float = 0.0, failure: Any = None, examples: int = 4) -> dict[str, Any]:
    """In JSON's types, as ``equiv.laws.Result.to_dict`` gives it."""
    tally = {"judged": 10, "identical": 7, "rounding": 2, "undecided": 1, "different": 0, "max_ratio": ratio}
    return {
        "item": f"{law}-all-{dtype}-eager.cpu",
        "law": law,
        "dtype": dtype,
        "backend": "eager.cpu",
        "examples": examples,
        "seconds": 0.1,
        "seed": 3,
        "forms": {"full": dict(tally), "linear": {**tally, "max_ratio": 0.0}},
        "coverage": {"n modulo 8": {"1": examples, "0": 1}},
        "failure": failure,
    }


def _run(*results: dict[str, Any], planned: Sequence[str] = ()) -> Run:
    names = [*(result["item"] for result in results), *planned]
    return Run.of(Request(seed=3), results, planned=names, jobs=1, seconds=0.5)


def test_rows_add_up_what_they_do_not_name() -> None:
    run = _run(_result("exact", "int8", ratio=0.5), _result("forward", "float32"), _result("exact", "float32"))
    by_law = run.rows("law")
    assert [(row.law, row.form, row.items, row.cases, row.judged) for row in by_law] == [
        ("forward", "", 1, 4, 20),
        ("exact", "", 2, 8, 40),
    ]
    by_form = run.rows("law", "form")
    assert [(row.law, row.form, row.cases, row.judged) for row in by_form[2:]] == [
        ("exact", "linear", 8, 20),
        ("exact", "full", 8, 20),
    ]
    assert [(row.worst, row.worst_dtype) for row in by_form] == [(0.0, ""), (0.0, ""), (0.0, ""), (0.5, "int8")]
    assert [row.dtype for row in run.rows("law", "form", "dtype", "backend")[2:4]] == ["float32", "int8"]


def test_a_law_that_broke_before_anything_was_compared_has_a_row() -> None:
    result = {**_result("exact", "int8", failure={"note": "raised"}), "forms": {}}
    (row,) = _run(result).rows("law", "form")
    assert (row.law, row.items, row.judged, row.broken) == ("exact", 1, 0, 1)


def test_a_run_is_complete_once_every_planned_item_has_a_result() -> None:
    broken = _result("exact", "float32", failure={"note": "another"})
    for run, complete, holds in (
        (_run(_result("exact", "int8")), True, True),
        (_run(_result("exact", "int8"), planned=["exact-all-int16-eager.cpu"]), False, False),
        (_run(_result("exact", "int8"), broken), True, False),
    ):
        found = run.to_dict()
        assert (found["complete"], found["holds"]) == (complete, holds)
    assert found["broken"] == ["exact"]
    assert [item["outcome"] for item in found["items"]] == ["holds", "broken"]


def test_coverage_counts_all_items_and_names_what_was_not_reached() -> None:
    run = _run(_result("exact", "int8"), _result("forward", "float32", examples=5))
    assert run.coverage == {"dtype": {"float32": 5, "int8": 4}, "n modulo 8": {"0": 2, "1": 9}}
    assert run.not_reached["n modulo 8"] == ["2", "3", "4", "5", "6", "7"]
    assert "int8" not in run.not_reached["dtype"]


def test_the_summary_fits_79_columns() -> None:
    run = _run(_result("exact", "int8", examples=1_234_567, ratio=float("inf")), _result("forward", "float32"))
    lines = summary_lines(run)
    assert max(map(len, lines)) <= 79
    assert [line.split() for line in lines[2:4]] == [
        ["forward", "1", "4", "14", "4", "2", "0", "0"],
        ["exact", "1", "1,234,567", "14", "4", "2", "0", "inf"],
    ]


def test_json_is_strict(capsys: pytest.CaptureFixture[str]) -> None:
    write_json({"a": [float("nan"), 1 + 2j, Path("x")], 3: (True, None)}, STDOUT)
    found = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(name))
    assert found == {"a": ["nan", "(1+2j)", "x"], "3": [True, None]}


def test_looking_whether_a_file_can_be_written_leaves_none_behind(tmp_path: Path) -> None:
    check_target(str(tmp_path / "new.json"))
    assert not list(tmp_path.iterdir())
    with pytest.raises(EquivError, match="--json: expected a file that can be written"):
        check_target(str(tmp_path))


@pytest.mark.parametrize("columns", [30, 45, 60, 80])
def test_a_table_breaks_no_word_and_loses_none(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    rows = [
        ("not_equivalent", "pointwise", "(2, 1, 3, 4)", "once or twice", "12,345"),
        ("exact", "full", "(1,)", "once", "0"),
    ]
    terminal.Page().table(("law", "form", "the shape", "rounded how often", "undecided"), rows, left=2)
    said = capsys.readouterr().out
    assert max(len(line) for line in said.splitlines()) <= columns
    cells = [cell for row in rows for cell in row]
    if columns < 60:  # as paragraphs, where every cell stands after the name of its column
        said = " ".join(said.split())
        assert "not_equivalent pointwise: the shape (2, 1, 3, 4); rounded how often once or twice; undecided" in said
    words = [word for cell in cells for word in ([cell] if "(" in cell and columns >= 60 else cell.split())]
    assert [word for word in words if word not in said] == []


def test_prose_is_no_wider_than_88_columns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    terminal.Page().prose("word " * 100)
    assert max(map(len, capsys.readouterr().out.splitlines())) <= terminal.WIDEST_PROSE
