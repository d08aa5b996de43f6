"""One layout from all front ends: that of the schema, in which every key is described."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from html_texts import read, rows_of

from equiv.backends import TorchEager
from equiv.cli import main
from equiv.report import OUTCOMES, schema
from equiv.testing import check_backend

pytest_plugins = ["pytester"]
PAGE = Path(__file__).resolve().parents[2] / "docs" / "report.md"
SUITE = """
import equiv.testing, torch
from equiv.backends import TorchEager

class AddsOne(TorchEager):
    transforms = False

    def __init__(self):
        super().__init__()
        self.name = "adds.one"

    def linear(self, input, weight, bias=None):
        return super().linear(input, weight, bias) + 1

FAILS, SKIPS = {"exact-all-complex64-adds.one": "bug 17"}, {"weight_recovery-all-int8-adds.one": "not ours"}

@equiv.testing.parametrize_with_laws(
    AddsOne(), laws=["exact", "weight_recovery"], dtypes=["complex64", "int8"], expected_failures=FAILS, skips=SKIPS
)
def test_law(law):
    if law.id != "weight_recovery-all-complex64-adds.one":
        law()
"""


class AddsOne(TorchEager):
    transforms = False

    def __init__(self) -> None:
        super().__init__()
        self.name = "mine"

    def linear(self, input: Any, weight: Any, bias: Any = None) -> Any:
        return super().linear(input, weight, bias) + 1


@pytest.fixture(scope="module")
def layout() -> dict[str, Any]:
    found = schema()
    jsonschema.Draft202012Validator.check_schema(found)
    return found


def undescribed(value: Any, where: dict[str, Any], layout: dict[str, Any], path: str = "") -> list[str]:
    """Keys of a report that the schema does not name."""
    while "$ref" in where:
        where = layout["$defs"][where["$ref"].rpartition("/")[2]]
    for choice in where.get("anyOf", ()):
        if choice != {"type": "null"} and value is not None:
            return undescribed(value, choice, layout, path)
    if isinstance(value, list):
        return [key for entry in value for key in undescribed(entry, where.get("items", {}), layout, path + "[]")]
    if not isinstance(value, dict):
        return []
    missing = []
    for key, entry in value.items():
        inner = where.get("properties", {}).get(key, where.get("additionalProperties"))
        missing += [f"{path}.{key}"] if inner is None else undescribed(entry, inner, layout, f"{path}.{key}")
    return missing


def checked(text: str, layout: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    jsonschema.validate(found, layout, cls=jsonschema.Draft202012Validator)
    assert not undescribed(found, layout, layout)
    assert list(found) == list(layout["properties"])
    assert sum(found["outcomes"].values()) == len(found["items"]) == len(found["planned"])
    return found


def test_the_three_front_ends_give_one_layout(
    layout: dict[str, Any], pytester: pytest.Pytester, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytester.makepyfile(test_suite=SUITE)
    files = ("--equiv-report", "out.json", "--equiv-html", "out.html")
    done = pytester.runpytest_inprocess(*files, "--equiv-examples", "10", "--equiv-seed", "1")
    done.stdout.fnmatch_lines(["every result: */out.json", "every result: */out.html"])
    by_pytest = checked((pytester.path / "out.json").read_text(), layout)
    rows = rows_of(read((pytester.path / "out.html").read_text()).all("table", id="all-items")[0])
    told = [(row[0].words, row[1].words.lower()) for row in rows]
    assert told == [(item["item"], item["outcome"]) for item in by_pytest["items"]]
    assert {item["item"]: (item["outcome"], item["expected"], item["reason"]) for item in by_pytest["items"]} == {
        "exact-all-complex64-adds.one": ("expected", "bug 17", ""),
        "exact-all-int8-adds.one": ("broken", None, ""),
        "weight_recovery-all-int8-adds.one": ("not asked", None, "not ours"),
        "weight_recovery-all-complex64-adds.one": ("not run", None, "the test did not call the law"),
    }
    assert (by_pytest["status"], by_pytest["exit_code"]) == ("incomplete", 1)
    assert main(["verify", "--law", "exact", "--examples", "5", "--json", str(tmp_path / "out.json")]) == 0
    by_command = checked((tmp_path / "out.json").read_text(), layout)
    assert (by_command["status"], by_command["exit_code"], by_command["holds"]) == ("passed", 0, True)
    results = check_backend(AddsOne(), laws=["exact"], dtypes=["complex64", "int8"], examples=10, seed=1)
    by_call = checked(results.to_json(), layout)
    assert (by_call["status"], by_call["exit_code"]) == ("broken", None)
    failure = by_call["items"][0]["failure"]
    assert complex(failure["actual"]) != complex(failure["expected"])


def test_what_check_backend_returns_is_a_sequence_of_results() -> None:
    results = check_backend(AddsOne(), laws=["exact", "not_equivalent"], dtypes=["int8", "float32"], examples=5, seed=1)
    assert [result.item for result in results] == results.run.to_dict()["planned"]
    assert results == list(results)
    assert results != []
    assert results[0] in results
    assert results[:1] == [results[0]]
    assert not results.holds
    assert [result.law for result in results.failures] == ["exact", "exact"]
    assert results.not_asked == []
    assert repr(results) == f"<Results: {len(results)} items, broken: exact>"
    assert check_backend(TorchEager(), laws=["exact"], dtypes=["int8"], examples=2).holds


def stable(item: dict[str, Any]) -> dict[str, Any]:
    """An item without what depends on the case that was found: the values, of which their difference is left."""
    values = {key: item["failure"].pop(key) for key in ("actual", "expected", "where", "summary")}
    assert len(values["where"]) == 2
    difference = int(values["actual"]) - int(values["expected"])
    return {**item, "difference": difference, "summary": values["summary"].partition(" returns ")[0]}


def test_the_example_of_the_page_is_true(layout: dict[str, Any]) -> None:
    page = PAGE.read_text()
    (shown,) = (json.loads(text) for text in re.findall(r"```json\n(.*?)```", page, re.DOTALL))
    assert not undescribed(shown, layout["$defs"]["item"], layout)
    (item,) = check_backend(AddsOne(), laws=["exact"], dtypes=["int8"], examples=50, seed=1).to_dict()["items"]
    there = {**{key: item[key] for key in shown}, "failure": {key: item["failure"][key] for key in shown["failure"]}}
    assert stable(shown) == stable(json.loads(json.dumps(there)))


def test_the_page_names_every_key_and_outcome(layout: dict[str, Any]) -> None:
    page = PAGE.read_text()
    assert [key for key in [*layout["properties"], *OUTCOMES] if f"`{key}`" not in page] == []
