"""What was not asked, in the model of a run, in JSON and in lines."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from equiv.laws import NotAsked, Result, Tally
from equiv.report import NotAsked as Reported
from equiv.report import Request, Run, not_asked_lines, summary_lines


def entry(what: str = "stride", form: str = "full", dtype: str = "float32", **more: str) -> NotAsked:
    return NotAsked(what, "mine", **{"law": "dense", "reason": "because", **more}, form=form, dtype=dtype)  # type: ignore[arg-type]


def result(law: str, judged: int, *not_asked: NotAsked) -> dict[str, Any]:
    forms = {"full": Tally(judged, judged)} if judged else {}
    names = (f"{law}-all-float32-mine", law, "float32", "mine")
    return Result(*names, examples=judged, forms=forms, not_asked=list(not_asked)).to_dict()


def run(*results: dict[str, Any], declared: tuple[NotAsked, ...] = ()) -> Run:
    left_out = [Reported.of(vars(one)) for one in declared]
    ids = [one["item"] for one in results]
    return Run.of(Request(), results, planned=ids, jobs=1, seconds=1.0, left_out=left_out)


def test_what_was_not_asked_is_merged_over_items_and_what_is_no_item() -> None:
    found = entry(how="found")
    whole = run(result("dense", 3, found), result("batch", 0, found, entry("layouts")), declared=(entry("dtypes"),))
    assert [(one.what, one.how) for one in whole.not_asked] == [
        ("dtypes", "declared"),
        ("stride", "found"),
        ("layouts", "declared"),
    ]
    assert [item.outcome for item in whole.items] == ["holds", "not asked"]
    written = json.loads(json.dumps(whole.to_dict()))
    assert written["not_asked"] == [asdict(one) for one in whole.not_asked]
    assert [item["outcome"] for item in written["items"]] == ["holds", "not asked"]
    assert set(written["not_asked"][0]) == {"what", "backend", "law", "form", "dtype", "reason", "how"}


def test_a_run_that_asked_nothing_holds_nothing() -> None:
    assert run(result("dense", 3)).to_dict()["holds"] is True
    nothing = run(result("dense", 0, entry()))
    assert (nothing.asked, nothing.to_dict()["holds"]) == (False, False)
    assert (run().asked, run().to_dict()["holds"]) == (False, False)


def test_a_line_stands_for_all_that_has_one_reason() -> None:
    words = ["float32", "float64", "float16", "bfloat16", "int8", "int16", "int32"]
    entries = [entry(form=form, dtype=dtype) for form in ("full", "pointwise") for dtype in words]
    entries += [entry(law="", how="found", reason="raises NotImplementedError: no", dtype="")]
    assert not_asked_lines(entries) == [
        "not asked of mine: stride (declared: because) in dense, full and pointwise, 7 dtypes",
        "not asked of mine: stride (found: raises NotImplementedError: no) in full",
    ]
    assert not_asked_lines([]) == []


def test_calls_that_were_refused_for_their_sizes_share_a_line() -> None:
    entries = [
        entry("calls", dtype=name, reason=f"raises NotImplementedError: n={n}, torch.{name}", how="found")
        for n, name in ((7, "int8"), (9, "int16"))
    ]
    assert len(not_asked_lines(entries)) == 1


def test_the_summary_says_what_was_not_asked() -> None:
    lines = summary_lines(run(result("dense", 3, entry())))
    assert "not asked of mine: stride (declared: because) in dense, full, float32" in lines
