"""The page of a run: the numbers of its JSON, every failure, nothing from outside, and names as they are called."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from html_texts import Node, read, rows_of
from made_runs import made_run

from equiv.cli import main
from equiv.errors import EquivError, MissingExtraError
from equiv.report import Journal, Request, Run, check_targets, html_of, json_of, ratio_text, write_run
from equiv.report.overview import Overview

COUNTS = ("items", "cases", "judged", "identical", "rounding", "undecided", "different", "broken")
HOSTILE = "</title><script>alert(1)</script> [bold red]\x1b[31m\u202egnol\u2066 & 'x' \"y\""
AS_SHOWN = "</title><script>alert(1)</script> [bold red]\\x1b[31m\\u202egnol\\u2066 & 'x' \"y\""


@pytest.fixture(scope="module")
def run() -> Run:
    return made_run()


@pytest.fixture(scope="module")
def page(run: Run) -> Node:
    return read(html_of(run))


def found(tree: Node, tag: str, **attributes: str) -> Node:
    (one,) = tree.all(tag, **attributes)
    return one


def number(cell: Node) -> Any:
    """The number that a cell holds, in full where it is shown shorter."""
    kept = cell.all("data")
    return kept[0].attributes["value"] if kept else cell.words.replace(",", "")


def test_the_results_are_the_table_of_the_json(run: Run, page: Node) -> None:
    table = json.loads(json_of(run))["table"]
    rows = rows_of(found(page, "table", id="table"))
    assert len(rows) == len(table) > 500
    for cells, row in zip(rows, table, strict=True):
        assert [cell.words for cell in cells[:4]] == [row[name] for name in ("law", "form", "dtype", "backend")]
        assert [int(number(cell)) for cell in cells[4:-1]] == [row[name] for name in COUNTS]
        assert float(number(cells[-1])) == row["worst"]
        assert cells[-1].words == ratio_text(row["worst"])


def test_the_items_are_those_of_the_json(run: Run, page: Node) -> None:
    items = json.loads(json_of(run))["items"]
    rows = rows_of(found(page, "table", id="all-items"))
    assert len(rows) == len(items) == 201
    for (name, outcome, why, cases, seconds, seed), item in zip(rows, items, strict=True):
        assert (name.words, outcome.words.lower()) == (item["item"], item["outcome"])
        assert (int(number(cases)), float(number(seconds))) == (item["examples"], item["seconds"])
        assert seed.words == ("" if item["seed"] is None else str(item["seed"]))
        assert item["reason"] in why.words
    counts = [part.words for part in found(page, "ul", **{"class": "counts"}).all("li")]
    outcomes = json.loads(json_of(run))["outcomes"]
    assert counts == [f"{count} {name.replace('_', ' ')}" for name, count in outcomes.items()]


def test_the_map_has_a_cell_for_each_row_and_says_why_others_are_empty(run: Run, page: Node) -> None:
    cells = [cell for table in page.all("table", **{"class": "map"}) for row in rows_of(table) for cell in row]
    links = {link.attributes["href"]: link for cell in cells for link in cell.all("a")}
    for at, row in enumerate(run.rows("law", "form", "dtype", "backend"), start=1):
        if f"#r{at}" in links:
            link = links[f"#r{at}"]
            assert link.words.rstrip("*") == ratio_text(row.worst)
            assert f"{row.law}, {row.form}, {row.dtype}: compared; {row.judged:,} compared" in link.attributes["title"]
        else:
            assert (row.form, row.different) == ("full", 1)
    assert [links[f"#f{at}"].words for at in range(1, 6)] == [f"x {ratio_text(5000.0)}"] * 5
    told = [link.attributes["title"] for cell in cells for link in cell.all("a") if link.words in ("-", "...")]
    assert [text for text in told if "the device has none" in text]
    assert [text for text in told if ": not run" in text]


def test_every_failure_has_its_words_and_its_program(run: Run, page: Node) -> None:
    articles = page.all("article")
    assert len(articles) == 5
    assert [article.attributes["data-outcome"] for article in articles] == ["broken"] * 4 + ["expected"]
    expected = [item for item in json.loads(json_of(run))["items"] if item["failure"]]
    for at, (article, item) in enumerate(zip(articles, expected, strict=True), start=1):
        failure = item["failure"]
        words = article.words
        for name in ("summary", "sentence", "shapes", "actual", "expected", "command", "case", "code"):
            assert failure[name] in words
        assert f"[{', '.join(failure['envelope'])}]" in words
        assert failure["cause"]["sentence"] in words
        assert found(page, "pre", id=f"program{at}").text == failure["snippet"]
        assert [button for button in article.all("button") if button.attributes["data-copy"] == f"program{at}"]
    assert "Expected: bug 17" in articles[-1].words


def test_two_hundred_items_stay_below_a_megabyte_and_need_nothing_from_outside(run: Run) -> None:
    text = html_of(run)
    assert len(text.encode()) < 1_000_000
    tree = read(text)
    sources = [one.attributes[name] for one in tree for name in ("src", "href") if name in one.attributes]
    assert not [source for source in sources if not re.match(r"#|data:", source)]
    ids = [one.attributes["id"] for one in tree if "id" in one.attributes]
    assert len(ids) == len(set(ids))
    assert not [source for source in sources if source.startswith("#") and source[1:] not in ids]
    assert not re.search(r"@import|url\(", tree.all("style")[0].text)


def test_the_policy_of_a_page_lets_our_script_alone_run(page: Node) -> None:
    (script,) = page.all("script")
    policy = found(page, "meta", **{"http-equiv": "Content-Security-Policy"}).attributes["content"]
    digest = base64.b64encode(hashlib.sha256(script.text.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none';")
    assert not [name for one in page for name in one.attributes if name.startswith("on")]


@pytest.mark.parametrize(
    "where", ["backend", "summary", "snippet", "traceback", "code", "actual", "where it is left out"]
)
def test_names_are_shown_as_they_are_called(where: str) -> None:
    run = made_run(3, 2, **({where: HOSTILE} if " " not in where else {}))
    if " " in where:
        left = replace(run.left_out[0], reason=HOSTILE, what=HOSTILE)
        run = replace(run, left_out=(left,))
    text = html_of(run)
    tree = read(text)
    assert len(tree.all("script")) == 1
    assert len(tree.all("title")) == 1
    assert AS_SHOWN in tree.text
    assert not re.search(r"[\x00-\x08\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text)


def test_a_failure_about_a_number_has_a_picture() -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'torch-equiv[plot]'")
    pytest.importorskip("equiv.pictures", reason="needs equiv.pictures")
    (image,) = read(html_of(made_run(2, 1))).all("img")
    assert image.attributes["src"].startswith("data:image/svg+xml;base64,")
    assert "2.5" in image.attributes["alt"]
    assert read(html_of(made_run(2, 1, actual="(2+1j)", expected="(2-1j)", envelope=None))).all("img")
    assert not read(html_of(made_run(2, 1, actual="", expected="", envelope=None))).all("img")


def test_a_run_without_items_has_a_page() -> None:
    empty = Run(Request(), made_run(1, 1).environment, (), (), 1, 0.0)
    tree = read(html_of(empty))
    assert "Nothing was asked." in tree.text
    assert Overview.of(empty).maps == ()


def test_what_was_declared_not_to_be_served_is_on_the_map() -> None:
    run = replace(made_run(3, 1), left_out=made_run().left_out)
    (found,) = Overview.of(run).maps
    squares = {
        (line.law, line.form, name): square
        for line in found.lines
        for name, square in zip(found.dtypes, line.squares, strict=True)
    }
    assert squares["free_parameters", "full", "int8"].kind == "not asked"
    assert squares["free_parameters", "full", "float32"].kind == "empty"
    assert squares["forward", "full", "float32"].kind == "expected"
    assert squares["forward", "linear", "float32"].kind == "compared"


def test_a_page_is_written_once_at_the_end(tmp_path: Path) -> None:
    targets = {"html": str(tmp_path / "run.html"), "json": str(tmp_path / "run.json")}
    (tmp_path / "run.html").write_text("before")
    journal = Journal(Request(), targets)
    run = made_run(3, 1)
    journal.plan(run.planned)
    for item in run.items:
        journal.add(item)
    assert (tmp_path / "run.html").read_text() == "before"
    ended = journal.end()
    assert (tmp_path / "run.html").read_text() == html_of(ended)
    write_run(run, {"html": targets["html"]})
    assert (tmp_path / "run.html").read_text() == html_of(run)


def test_two_formats_need_two_files_and_a_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = str(tmp_path / "one")
    with pytest.raises(EquivError, match=r"^--html: expected another file than that of --json, got '.*one'; name two$"):
        check_targets({"json": place, "html": place})
    with pytest.raises(EquivError, match="another file than that of --equiv-report"):
        check_targets({"json": "-", "html": "-"}, options={"json": "--equiv-report"})
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match=r"^--html: .* got none; pip install 'torch-equiv\[html\]'$"):
        check_targets({"html": place})
    assert not (tmp_path / "one").exists()


def test_the_command_writes_a_page_of_its_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, data = tmp_path / "run.html", tmp_path / "run.json"
    words = ["--law", "exact", "--dtype", "int8", "--examples", "2", "--seed", "1"]
    assert main(["verify", *words, "--html", str(page), "--json", str(data)]) == 0
    rows = rows_of(found(read(page.read_text()), "table", id="table"))
    assert [int(number(cells[6])) for cells in rows] == [row["judged"] for row in json.loads(data.read_text())["table"]]
    assert main(["verify", *words, "--html", str(tmp_path)]) == 2
    assert "equiv verify: --html: expected a file" in capsys.readouterr().err
