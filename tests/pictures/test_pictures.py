"""What every picture has in common: it stands alone, says what it shows, and leaves the caller's matplotlib alone."""

from __future__ import annotations

import io
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from html import escape
from xml.etree import ElementTree

import pytest
import torch
from torch import nn

import equiv
from equiv.numerics import measure

matplotlib = pytest.importorskip("matplotlib", reason="needs the extra plot")

from equiv.pictures import Picture, of_forms, png, svg  # noqa: E402 - after the check for matplotlib
from equiv.pictures.canvas import our_style  # noqa: E402
from equiv.pictures.marks import OUTCOMES, shades  # noqa: E402

SVG = "{http://www.w3.org/2000/svg}"


def layer(n=8, outputs=8, dtype=torch.float32):
    """A layer with small distinct weights, without randomness."""
    made = nn.Linear(n, outputs, dtype=dtype)
    with torch.no_grad():
        made.weight.copy_(torch.arange(n * outputs).reshape(outputs, n) * 2.0**-8 + 0.1)
        made.bias.fill_(0.5)
    return made


def findings():
    """One of each kind, all with something to see."""
    a = layer()
    x = torch.arange(32.0).reshape(4, 8)
    wrong = equiv.linear_to_pointwise_conv(a)
    with torch.no_grad():
        wrong.weight[1, 2] += 1
    y = a(x).detach()
    models = nn.Sequential(layer(), nn.ReLU(), layer()), nn.Sequential(layer(), nn.ReLU(), layer())
    with torch.no_grad():
        models[0][2].bias[1] += 1
    return {
        "verdict": equiv.compare(y + 1, y, input=x, layer=a),
        "counterexample": equiv.counterexample(a, (2, 2, 2)),
        "certificate": equiv.certify(wrong, a),
        "diagnosis": equiv.diagnose(*models, x),
        "measured": measure(nn.functional.linear, dtype=torch.float32, rows=1, out_features=1, in_features=8),
    }


@pytest.fixture(scope="module")
def found():
    return findings()


def test_every_finding_has_a_picture_that_says_what_it_shows(found, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it fails: no figure is kept anywhere
    for name, finding in found.items():
        picture = finding.plot()
        assert isinstance(picture, matplotlib.figure.Figure), name
        root = ElementTree.fromstring(svg(picture))
        assert root.tag == f"{SVG}svg"
        assert root.get("role") == "img"
        assert root.get("aria-label") == picture.alt
        assert len(picture.alt) > 60
    assert png(picture).startswith(b"\x89PNG")


def saved_by_the_caller(finding) -> bytes:
    target = io.BytesIO()
    finding.plot().savefig(target, format="png", dpi=50)
    return target.getvalue()


def test_pictures_are_the_same_whatever_the_caller_set_and_change_none_of_it(found) -> None:
    drawn = [found["verdict"], found["counterexample"]]
    before = [svg(finding.plot()) for finding in drawn]
    worst = found["verdict"].worst
    verdict = replace(found["verdict"], worst=replace(worst, actual=worst.exact))  # near: its ticks are made late
    saved = saved_by_the_caller(verdict)
    with matplotlib.rc_context({"text.usetex": True, "font.size": 30, "xtick.color": "red", "axes.grid": True}):
        kept = dict(matplotlib.rcParams)
        after = [svg(finding.plot()) for finding in drawn]
        assert saved_by_the_caller(verdict) == saved
        assert dict(matplotlib.rcParams) == kept
    assert after == before


def test_pictures_are_drawn_from_several_threads(found) -> None:
    alone = svg(found["verdict"].plot())
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: svg(found["verdict"].plot()), range(4))) == {alone}


def test_nothing_in_a_page_bears_the_same_name_twice_with_another_meaning(found) -> None:
    drawn = [svg(found[name].plot()) for name in ("verdict", "counterexample", "diagnosis")]
    page = ElementTree.fromstring(f"<body>{''.join(drawn)}</body>")
    named = [(part.get("id"), ElementTree.tostring(part)) for part in page.iter() if part.get("id")]
    assert len({name for name, _ in named}) == len(set(named))
    written = ElementTree.tostring(page, encoding="unicode")
    used = set(re.findall(r"url\(#([^)]+)\)", written)) | set(re.findall(r'href="#([^"]+)"', written))
    assert used == {name for name, _ in named}
    assert "<style" not in written  # it would hold for all of the page


def test_names_are_shown_as_they_are_called() -> None:
    model, other = nn.Sequential(), nn.Sequential()
    names = ["<script>alert(1)</script>"[:30], "$x^2$ [bold red]", "漢字\x1b[31m"]
    for made in (model, other):
        for name in names:
            made.add_module(name.replace(".", ""), layer())
    with torch.no_grad():
        other[0].bias[0] += 1
    found = equiv.diagnose(other, model, torch.ones(2, 8))
    written = svg(found.plot())
    assert "<script>" not in written
    seen = [part.text for part in ElementTree.fromstring(written).iter(f"{SVG}text")]
    assert names[0][:30] in seen
    assert names[1] in seen
    assert "漢字\\x1b[31m" in seen


def test_a_notebook_shows_the_picture_and_the_report(found) -> None:
    for name in ("certificate", "measured"):
        page = found[name]._repr_html_()
        assert svg(found[name].plot()) in page
        assert f"<pre>{escape(str(found[name]))}</pre>" in page
    assert all(type(finding)._repr_html_ for finding in found.values())
    assert found["certificate"].plot()._repr_html_() == svg(found["certificate"].plot())


def test_without_matplotlib_a_notebook_shows_the_report_and_plot_names_the_extra(found, monkeypatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib" or "equiv.pictures." in name]:
        if name != "equiv.pictures.notebook":
            monkeypatch.delitem(sys.modules, name)
    for name in ("Picture", "png", "svg", "of_verdict"):
        monkeypatch.delitem(vars(equiv.pictures), name, raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert found["verdict"]._repr_html_().startswith("<pre>DIFFERENT")
    with pytest.raises(equiv.MissingExtraError, match=r"pip install 'torch-equiv\[plot\]'"):
        found["verdict"].plot()


def test_an_alt_text_may_be_given_and_is_escaped() -> None:
    text = svg(Picture(figsize=(1, 1)), alt='a "b" <c>')
    assert ElementTree.fromstring(text).get("aria-label") == 'a "b" <c>'


@pytest.mark.parametrize("dpi", [0, -1, 1e9, float("nan"), "fine", None])
def test_pixels_that_cannot_be_are_refused(dpi) -> None:
    with pytest.raises(equiv.EquivError, match=r"^dpi: expected "):
        png(Picture(figsize=(1, 1)), dpi=dpi)


@pytest.mark.parametrize("write", [svg, png])
def test_what_is_no_figure_is_refused(write) -> None:
    with pytest.raises(
        equiv.EquivError, match=r"^figure: expected a figure of matplotlib's, got an object of type int"
    ):
        write(3)


def test_outcomes_are_told_apart_in_grey() -> None:
    assert len({hatch for _, hatch, _ in OUTCOMES.values()}) == len(OUTCOMES)
    assert len({marker for *_, marker in OUTCOMES.values()}) == len(OUTCOMES)
    grey = [0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b, _ in shades()([k / 20 for k in range(21)])]
    assert grey == sorted(grey, reverse=True)


def test_the_style_is_left_when_drawing_fails() -> None:
    before = dict(matplotlib.rcParams)
    with pytest.raises(ZeroDivisionError), our_style():
        _ = 1 / 0
    assert dict(matplotlib.rcParams) == before


def test_the_three_forms_show_the_same_numbers() -> None:
    seen = [part.get_text() for part in of_forms().texts] + [part.get_text() for part in of_forms().axes[0].texts]
    assert [seen.count(str(number)) for number in range(8)] == [3] * 8
    assert {"linear", "full", "pointwise", "weight (3, 8)", "weight (3, 2, 2, 2)", "weight (3, 8, 1, 1)"} <= set(seen)
