"""Pages of verdicts and diagnoses: the numbers of their JSON, and names as they are called, there and in a terminal."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path

import pytest
import torch
from html_texts import Node, read, rows_of
from torch import nn

import equiv
from equiv.cli import main
from equiv.errors import EquivError, MissingExtraError
from equiv.models import Diagnosis

NAMES = ("<script>alert(1)", "[bold red]", "a\x1b[31m\u202eb", "{{ 7*7 }}", "</title>")
SHOWN = ("<script>alert(1)", "[bold red]", "a\\x1b[31m\\u202eb", "{{ 7*7 }}", "</title>")
UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
MODELS = f"""
import torch
from torch import nn

def right():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential()
        for name in {NAMES!r}:
            model.add_module(name, nn.Linear(4, 4))
        return model

def wrong():
    model = right()
    with torch.no_grad():
        model[1].weight[0, 0] += 0.5
    return model
"""


@pytest.fixture(scope="module")
def diagnosis() -> Diagnosis:
    made: dict[str, object] = {}
    exec(MODELS, made)
    wrong, right = made["wrong"](), made["right"]()  # type: ignore[operator]
    return equiv.diagnose(wrong, right, torch.linspace(-1, 1, 12).reshape(3, 4))


@pytest.fixture(scope="module")
def page(diagnosis: Diagnosis) -> Node:
    return read(diagnosis.to_html(about={"candidate": "<b>mine</b>"}))


def payload(page: Node) -> object:
    (kept,) = page.all("pre", id="payload")
    return json.loads(kept.text)


def test_the_layers_are_those_of_the_json(diagnosis: Diagnosis, page: Node) -> None:
    told = json.loads(json.dumps(diagnosis.to_dict()))
    assert payload(page) == told
    (table,) = page.all("table")
    rows = rows_of(table)
    assert len(rows) == len(told["layers"]) >= 5
    for cells, layer in zip(rows, told["layers"], strict=True):
        assert cells[3].words.lower() == layer["verdict"]["outcome"]
        for cell, name in zip(cells[5:9], ("bound", "largest", "inherited", "size"), strict=True):
            assert cell.words == ("" if layer[name] is None else f"{float(layer[name]):.3g}")
        if layer["inherited"] is not None and layer["size"]:
            assert math.isclose(float(cells[9].words), layer["inherited"] / layer["size"], rel_tol=0.06)
    (marked,) = table.all("tr", **{"class": "marked"})
    assert SHOWN[1] in marked.words
    assert "DIFFERENT" in marked.words


def test_bars_grow_with_the_distance(page: Node) -> None:
    shares = [(float(row[9].words), float(row[9].all("span")[0].attributes["style"][9:-1])) for row in rows_of(page)]
    assert [bar for share, bar in shares if share == 0]
    assert {bar for share, bar in shares if share == 0} == {0.0}
    grown = sorted((share, bar) for share, bar in shares if share)
    assert len(grown) > 2
    assert grown == sorted(grown, key=lambda pair: pair[1])
    assert 0 < grown[0][1] <= grown[-1][1] <= 100


def test_layers_are_shown_as_they_are_called(diagnosis: Diagnosis, page: Node) -> None:
    names = [row[0].words for row in rows_of(page)]
    assert [name for name in SHOWN if name not in names] == []
    assert "<b>mine</b>" in page.words
    assert len(page.all("script")) == len(page.all("title")) == 1
    assert page.all("title")[0].text == "DIFFERENT: Two models compared"
    assert not UNSEEN.search(page.text)
    assert not UNSEEN.search(str(diagnosis))
    assert not UNSEEN.search(str(equiv.to_pointwise(nn.ModuleDict({NAMES[2]: nn.Linear(4, 4)})).equiv_report))
    assert [name for name in SHOWN[:3] if name not in str(diagnosis)] == []


def test_the_command_shows_them_so_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "nets.py").write_text(MODELS)
    place, nets = tmp_path / "page.html", str(tmp_path / "nets.py")
    words = [f"{nets}:wrong", f"{nets}:right", "--input", "3x4", "--html", str(place)]
    assert main(["diagnose", *words]) == 1
    told, page = capsys.readouterr().out, read(place.read_text())
    assert not UNSEEN.search(told)
    assert [name for name in SHOWN[:3] if name not in told] == []
    for part in (f"{nets}:wrong", f"{nets}:right", "3x4"):
        assert part in page.words
    assert main(["diagnose", *words[:-1], "-", "--json", "-"]) == 2
    assert "--html: expected another file than that of --json" in capsys.readouterr().err
    assert main(["diagnose", *words[:-1], "-"]) == 1
    assert capsys.readouterr().out == place.read_text()


def test_a_verdict_has_its_numbers_and_its_mend() -> None:
    torch.random.manual_seed(0)
    layer = nn.Linear(3, 2)
    x = torch.tensor([[1.0, 2.0, 3.0]])
    verdict = equiv.compare(layer(x) - layer.bias, layer(x), input=x, layer=layer)
    page = read(verdict.to_html(about={"of": "<i>"}))
    assert payload(page) == json.loads(json.dumps(verdict.to_dict()))
    assert verdict.worst is not None
    assert verdict.cause is not None
    for text in (verdict.explanation, f"{verdict.worst.actual:.9g}", verdict.cause.sentence, verdict.cause.fix, "<i>"):
        assert text in page.text
    with pytest.raises(EquivError, match=r"^about: expected a mapping from names to texts, got 3"):
        verdict.to_html(about=3)  # type: ignore[arg-type]


def test_a_certificate_has_the_weights_that_differ() -> None:
    layer = nn.Linear(3, 2)
    other = equiv.linear_to_pointwise_conv(layer)
    with torch.no_grad():
        other.weight[1, 2] += 1
    certificate = equiv.certify(other, layer)
    page = read(certificate.to_html())
    assert payload(page) == json.loads(json.dumps(certificate.to_dict()))
    assert page.all("title")[0].text == "NOT CERTIFIED: Two maps, for all inputs"
    (row,) = rows_of(page.all("table")[0])
    (found,) = certificate.differences
    assert [cell.words for cell in row] == ["1", "2", str(found.candidate), str(found.reference)]
    assert "EQUIVALENT" in read(equiv.certify(layer, layer).to_html()).all("title")[0].text


def test_a_measurement_has_a_line_for_each_property() -> None:
    def halved(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return nn.functional.linear(x.bfloat16().float(), weight, bias)

    measured = equiv.numerics.measure(halved, rows=1, out_features=2, in_features=4, dtype=torch.float32)
    page = read(measured.to_html(about={"kernel": "<halved>"}))
    assert "<halved>" in page.words
    assert page.all("title")[0].text == "WEAKER THAN DECLARED: The arithmetic of a kernel"
    told = {row[0].words: row[2].words for row in rows_of(page.all("table")[0])}
    found = {name: one["evidence"] for name, one in measured.to_dict().items() if isinstance(one, dict)}
    assert told == {name: " ".join(text.split()) for name, text in found.items()}


def test_pictures_are_part_of_the_page(diagnosis: Diagnosis, page: Node) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'torch-equiv[plot]'")
    pytest.importorskip("equiv.pictures", reason="needs equiv.pictures")
    (image,) = page.all("img")
    assert image.attributes["src"].startswith("data:image/svg+xml;base64,")
    assert image.attributes["alt"] == diagnosis.plot().alt  # type: ignore[attr-defined]


def test_a_missing_package_is_named_by_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = equiv.compare(torch.ones(2), torch.ones(2))
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match=r"jinja2.*pip install 'torch-equiv\[html\]'$"):
        verdict.to_html()
