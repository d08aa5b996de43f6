"""That what is drawn is what was found: places on lines, shades, brackets, for ordinary values and for odd ones."""

from __future__ import annotations

import math
import re
import runpy
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from torch import nn

import equiv
from equiv.verdict import Entry, Outcome

pytest.importorskip("matplotlib", reason="needs the extra plot")

from matplotlib.text import Text

from equiv.pictures.outputs import _line_of, _parts

INF, NAN = math.inf, math.nan
DRAWN = Path(__file__).parents[2] / "docs" / "pictures"


def texts(picture):
    """All that is written in a picture, without drawing it."""
    return [part.get_text() for part in picture.findobj(Text)]


def place_of(text):
    """Where a text stands, in points."""
    if text.get("x"):
        return float(text.get("x")), float(text.get("y"))
    return tuple(map(float, re.findall(r"-?[0-9.]+", text.get("transform"))[:2]))


def verdict_of(entry: Entry, dtype: str = "float32") -> equiv.Verdict:
    counts = {"identical": 4095, "rounding": 0, "different": 1, "undecided": 0, "total": 4096}
    return equiv.Verdict(Outcome.DIFFERENT, "one of many.", dtype, (4096,), counts, worst=entry)


def test_results_stand_where_they_are_in_envelopes() -> None:
    entry = Entry((3,), actual=1.0 + 3e-7, expected=1.0 - 1e-7, exact=1.0, lower=1.0 - 2e-7, upper=1.0 + 2e-7)
    axes = verdict_of(entry, "float64").plot().axes[1]
    actual, expected = (line.get_xdata()[0] for line in axes.lines if line.get_marker() in "oD")
    assert (actual, expected) == (pytest.approx(1.5), pytest.approx(-0.5))
    seen = [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in axes.patches]
    assert seen == [pytest.approx(ends) for ends in ((-1, 1), (-1, 1), (-1.5, 0.5))]  # assert_close takes 2e-7


def test_far_results_stand_by_decades() -> None:
    entry = Entry((3,), actual=1.0 + 1e-3, expected=1.0, exact=1.0, lower=1.0 - 1e-7, upper=1.0 + 1e-7)
    picture = verdict_of(entry).plot()
    actual = next(line.get_xdata()[0] for line in picture.axes[1].lines if line.get_marker() == "o")
    assert actual == pytest.approx(1 + 4, abs=0.01)  # 10^4 envelopes
    assert "1,000" in texts(picture)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "complex64", "int32"])
def test_what_assert_close_says_is_what_it_says(dtype: str) -> None:
    kind = getattr(torch, dtype)
    steps = [0, 1] if dtype == "int32" else [0, 1e-9, 9e-6, 1.2e-5, 1e-3, 1.5e-2, 1.0]
    for step in steps:
        actual, expected = torch.tensor(1 + step, dtype=kind), torch.tensor(1, dtype=kind)
        try:
            torch.testing.assert_close(actual, expected)
            accepted = True
        except AssertionError:
            accepted = False
        part = _parts(Entry((0,), actual.item(), expected.item()), dtype)[0]
        assert part.accepts == accepted, (dtype, step)


VALUES = [0.0, 1.5, -5e-324, 1e308, -1e308, INF, -INF, NAN]


def test_no_value_stops_the_picture() -> None:
    """Every pair of odd results, with an envelope that is plain, one value, infinite or unknown."""
    envelopes = [(1.0, 0.5, 1.5), (1.0, 1.0, 1.0), (0.0, -5e-324, 5e-324), (NAN, NAN, NAN), (INF, INF, INF)]
    envelopes += [(1e308, -INF, INF), (-1e308, -1.7e308, -1e300), (None, None, None)]
    for exact, lower, upper in envelopes:
        for actual in VALUES:
            for expected in VALUES:
                entry = Entry((0,), actual, expected, exact, lower, upper)
                for part in _parts(entry, "float64"):
                    line = _line_of(part)
                    assert line.unit > 0
                    for value in (-1.0, exact, lower, upper, actual, expected):
                        assert value is None or math.isfinite(line.place(value)) == math.isfinite(value)
    for number in range(8):
        actual, expected = VALUES[number], VALUES[(3 * number + 5) % 8]
        entry = Entry((0,), actual, expected, *envelopes[number])
        assert "actual" in texts(verdict_of(entry, "float64").plot())


def test_complex_integers_and_nothing_at_all_are_drawn() -> None:
    entry = Entry((1, 2), complex(1, NAN), 1 + 2j, 1 + 2j, 0.9 + 1.9j, 1.1 + 2.1j)
    seen = texts(verdict_of(entry, "complex64").plot())
    assert {"The entry [1, 2], real part, which decides", "The entry [1, 2], imaginary part, which decides"} <= {*seen}
    assert "NaN" in seen
    large = Entry((), complex(1.7e308, 1.7e308), complex(-1.7e308, 0), 0j, -1 - 1j, 1 + 1j)
    assert "The entry, real part, which decides" in texts(verdict_of(large, "complex128").plot())
    whole = Entry((0,), 2**63 - 1, -(2**63), 2**63 - 1, 2**63 - 1, 2**63 - 1)
    assert "9223372036854775807" in texts(verdict_of(whole, "int64").plot())
    for verdict in (
        equiv.compare(torch.ones(2, 3), torch.ones(3, 2)),
        equiv.compare(torch.ones(0, 3), torch.ones(0, 3)),
        equiv.compare(torch.ones(1), torch.ones(1)),
    ):
        assert verdict.outcome.name in texts(verdict.plot())


def test_every_outcome_that_occurs_is_seen_in_the_bar() -> None:
    verdict = verdict_of(Entry((0,), 1.0, 2.0))
    bars = verdict.plot().axes[0].patches
    assert [round(bar.get_width(), 2) for bar in bars] == [0.98, 0.02]  # one of 4,096, and yet it is seen
    assert {"identical 4,095", "different 1"} <= set(texts(verdict.plot()))


def test_a_counterexample_shows_both_matrices_and_frames_the_entry() -> None:
    linear = nn.Linear(98, 98, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.kron(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.eye(49)))
        linear.weight[70, 60] = 7.0
    found = equiv.counterexample(linear, (2, 7, 7))
    assert found.entry == (70, 60)
    window = found.window
    dense = torch.kron(found.conv.weight[:, :, 0, 0].detach(), torch.eye(49))
    part = slice(window.row, window.row + 64), slice(window.column, window.column + 64)
    assert torch.equal(window.layer, linear.weight.detach()[part])
    assert torch.equal(window.conv, dense[part])
    picture = found.plot()
    frame = picture.axes[0].patches[-1]
    middle = frame.get_x() + frame.get_width() / 2, frame.get_y() + frame.get_height() / 2
    assert middle == (60 - window.column, 70 - window.row)
    assert "x[1, 1, 4] = 1 reads 7" in texts(picture)
    assert "x[1, 1, 4] = 1 reads 0" in texts(picture)
    assert "window" not in found.to_dict()


@pytest.mark.parametrize("readout", ["sum", "mean"])
def test_the_matrix_of_a_map_that_is_reduced_repeats_its_weight(readout) -> None:
    found = equiv.counterexample(nn.Linear(8, 3), (2, 2, 2), readout=readout)
    rows = found.conv.weight[:, :, 0, 0].detach().repeat_interleave(4, 1)
    torch.testing.assert_close(found.window.conv, rows / (4 if readout == "mean" else 1))
    assert f"the closest 1x1 conv, {readout} over map" in texts(found.plot())


def test_odd_layers_have_a_picture_of_their_counterexample() -> None:
    whole = nn.Linear(4, 4, bias=False, device="meta")
    whole.weight = nn.Parameter(torch.arange(16).reshape(4, 4) * 2**58, requires_grad=False)
    wide = nn.Linear(4, 4, dtype=torch.float64)
    with torch.no_grad():
        wide.weight.mul_(1e308)
    tied = nn.Linear(4, 4)
    with torch.no_grad():
        tied.weight.copy_(torch.eye(4))
    zeros = nn.Linear(4, 4, bias=False)
    nn.init.zeros_(zeros.weight)
    for linear in (whole, wide, tied, zeros, nn.Linear(4, 4, dtype=torch.complex128), nn.Linear(4, 4).bfloat16()):
        assert "W, the layer" in texts(equiv.counterexample(linear, (1, 2, 2)).plot())


def test_a_certificate_marks_the_weights_that_differ() -> None:
    a = nn.Linear(18, 5)
    b = equiv.linear_to_full_conv(a, (2, 3, 3))
    with torch.no_grad():
        b.weight[1, 1, 0, 2] += 1
        b.bias[4] += 1
    matrix, bias = equiv.certify(b, a).plot().axes[:2]
    assert matrix.collections[0].get_offsets().tolist() == [[11.0, 1.0]]
    assert bias.collections[0].get_offsets().tolist() == [[0.0, 4.0]]
    assert equiv.certify(equiv.linear_to_full_conv(a, (2, 3, 3)), a).plot().axes == []


def test_a_diagnosis_of_many_layers_names_those_that_matter() -> None:
    plain = equiv.Verdict(Outcome.IDENTICAL, "", "float32", (1,))
    wrong = replace(plain, outcome=Outcome.DIFFERENT, max_ratio=1e4)
    odd = [replace(wrong, max_ratio=ratio) for ratio in (INF, NAN, 1e300, 1e-300, 0.0, None)]
    first = equiv.diagnose(nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2)), torch.ones(1, 2)).layers[0]
    verdicts = [*[plain] * 300, wrong, *odd]
    layers = tuple(
        replace(first, candidate=f"block.{number}", reference="", verdict=verdict, inherited=number * 1e-9, size=1.0)
        for number, verdict in enumerate(verdicts)
    )
    found = equiv.Diagnosis(Outcome.DIFFERENT, "they part.", layers, layers[300])
    picture = found.plot()
    names = [label.get_text() for label in picture.axes[0].get_yticklabels()]
    assert "block.300" in names
    assert len(names) < 40
    marks = next(line for line in picture.axes[0].lines if line.get_label() == "different")
    assert marks.get_xdata()[0] == pytest.approx(4)  # 10^4 of the bound
    assert {"none", "∞"} <= set(texts(picture))
    assert equiv.Diagnosis(Outcome.IDENTICAL, "no layers.").plot().axes == []


def test_the_tree_of_an_order_has_its_terms_below_and_its_depth() -> None:
    def four_sums(x, w, b):
        sums = [sum(x[:, k : k + 1] * w[:, k] for k in range(start, x.shape[1], 4)) for start in range(4)]
        return (sums[0] + sums[1]) + (sums[2] + sums[3]) + (0 if b is None else b)

    from equiv.numerics import measure

    options = {"dtype": torch.float32, "rows": 1, "out_features": 1, "in_features": 16}
    found = measure(four_sums, **options)
    axes = found.plot().axes[0]
    shown = [int(label.get_text()) for label in axes.get_xticklabels()]
    assert shown == [0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15]
    assert max(axes.lines[-1].get_ydata()) == pytest.approx(1.06 * found.order.value.depth)
    assert "ORDER OF SUMMATION NOT FOUND" in texts(measure(four_sums, **options, order_limit=0).plot())


def test_an_addition_of_several_terms_is_marked() -> None:
    from equiv.numerics.measuring.fprev import describe
    from equiv.pictures.orders import of_measured

    class Found:
        order = type("Finding", (), {"value": describe(((0, 1, 2, 3), (8, 4, 5, 6, 7)), range(8), 8), "evidence": ""})
        size = (1, 1, 8)
        subject = "tensor core"

    picture = of_measured(Found())
    assert [len(line.get_xdata()) for line in picture.axes[0].lines if line.get_marker() == "o"] == [2]
    assert "up to 5 terms in one addition" in picture.alt


def test_the_program_of_the_page_about_pictures_runs(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (program,) = re.findall(r"```python\n(.*?)```", DRAWN.with_suffix(".md").read_text(encoding="utf-8"), re.DOTALL)
    exec(program, {})
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".png", ".svg"]


def test_the_pictures_of_the_readme_are_those_that_the_code_draws() -> None:
    """Their words and where these stand; the rest may vary with the version of matplotlib."""
    drawn = runpy.run_path(str(DRAWN / "draw.py"))["pictures"]()
    assert sorted(drawn) == sorted(path.name for path in DRAWN.glob("*.svg"))
    for name, text in drawn.items():
        roots = [ElementTree.fromstring(one) for one in (text, (DRAWN / name).read_text(encoding="utf-8"))]
        fresh, kept = ([part for part in root.iter() if part.tag.endswith("}text")] for root in roots)
        assert roots[0].get("aria-label") == roots[1].get("aria-label")
        assert [part.text for part in fresh] == [part.text for part in kept], "run: python docs/pictures/draw.py"
        for mine, other in zip(fresh, kept, strict=True):
            assert place_of(mine) == pytest.approx(place_of(other), abs=4)
