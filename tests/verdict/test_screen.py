"""The quick test of large sliding convolutions tells what judging every output in full tells."""

import copy

import pytest
import torch
from torch import nn

import equiv
from equiv.verdict import sliding

DTYPES = (torch.float32, torch.float16, torch.bfloat16)

LAYERS = {
    "pointwise": (lambda: nn.Conv2d(16, 8, 1), (2, 16, 48, 48)),
    "padded": (lambda: nn.Conv2d(3, 8, 3, padding=1), (2, 3, 48, 48)),
    "strided, groups, no bias": (lambda: nn.Conv2d(8, 16, 3, stride=2, groups=4, bias=False), (1, 8, 97, 97)),
    "circular": (lambda: nn.Conv1d(5, 7, 4, padding=2, padding_mode="circular"), (3, 5, 2500)),
    "3d, two outputs": (lambda: nn.Conv3d(9, 2, 1), (1, 9, 26, 26, 26)),
}


def _arranged(
    name: str, dtype: torch.dtype, *, relu: bool
) -> tuple[nn.Module, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A layer, an input, its result, and that of a kernel that adds in float64."""
    torch.manual_seed(len(name) + relu)
    build, shape = LAYERS[name]
    layer, x = build().to(dtype), torch.randn(shape)
    x = (x.relu() if relu else x).to(dtype)
    with torch.no_grad():
        y = layer(x)
        once = copy.deepcopy(layer).double()(x.double()).to(dtype)
    assert y.numel() > sliding.SMALL
    return layer, x, y, once


def _without_screen(monkeypatch: pytest.MonkeyPatch, *results: torch.Tensor, **given: object) -> equiv.Verdict:
    with monkeypatch.context() as patched:
        patched.setattr(sliding, "_screen", lambda *_: None)
        return equiv.compare(*results, **given)


@pytest.mark.parametrize("relu", [True, False], ids=["relu", "signed"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_right_results_get_the_verdict_that_each_output_in_full_gets(
    name: str, dtype: torch.dtype, relu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, x, y, once = _arranged(name, dtype, relu=relu)
    quick = equiv.compare(y, once, input=x, layer=layer)
    full = _without_screen(monkeypatch, y, once, input=x, layer=layer)
    assert quick.equivalent
    assert quick.outcome is full.outcome
    assert quick.counts == full.counts
    if dtype == torch.float32:
        assert quick.max_ratio == pytest.approx(full.max_ratio, rel=1e-3)
    else:  # what is the exact value, rounded to float32 and then to 16 bits, counts 0
        assert full.max_ratio - 0.5 <= quick.max_ratio <= full.max_ratio * 1.001


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_the_last_right_number_is_inside_and_the_next_is_outside(name: str, dtype: torch.dtype) -> None:
    layer, x, _, once = _arranged(name, dtype, relu=True)
    # Not the first output: those of 16 bits that are taken together begin there, and must be right together.
    for flat in (once.numel() // 2 + 17, once.numel() - 1):
        for end, direction in (("upper", torch.inf), ("lower", -torch.inf)):
            at_end = once.clone()
            at_end.view(-1)[flat] = 50 * once.abs().max()
            entry = equiv.compare(at_end, once, input=x, layer=layer).worst
            assert entry is not None
            at_end.view(-1)[flat] = getattr(entry, end)
            assert equiv.compare(at_end, once, input=x, layer=layer).counts["different"] == 0
            beyond = at_end.clone()
            beyond.view(-1)[flat] = torch.nextafter(at_end.view(-1)[flat], torch.tensor(direction, dtype=dtype))
            for pair in ((beyond, once), (once, beyond), (beyond, beyond)):
                assert equiv.compare(*pair, input=x, layer=layer).counts["different"] == 1


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_outputs_of_one_term_or_none_are_held_to_the_number_itself(dtype: torch.dtype) -> None:
    layer, x, _, _ = _arranged("pointwise", dtype, relu=True)
    x[:, :, :24] = 0  # no term
    x[:, 0, 12:24] = 1.5  # and one
    with torch.no_grad():
        layer.bias.zero_()
        layer.weight.copy_(layer.weight.sign() * 0.75)
        once = copy.deepcopy(layer).double()(x.double()).to(dtype)
    assert equiv.compare(once, once.clone(), input=x, layer=layer).equivalent
    for place in ((0, 0, 3, 3), (1, 2, 15, 5)):
        wrong = once.clone()
        wrong[place] = torch.nextafter(wrong[place], torch.tensor(torch.inf, dtype=dtype))
        assert equiv.compare(wrong, once, input=x, layer=layer).counts["different"] == 1


@pytest.mark.parametrize("spoilt", [float("nan"), float("inf")])
def test_an_input_that_is_not_finite_is_judged_as_ever(spoilt: float, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x, _, _ = _arranged("padded", torch.float32, relu=True)
    x[1, 2, 40, 7] = spoilt
    with torch.no_grad():
        y, once = layer(x), copy.deepcopy(layer).double()(x.double()).float()
    quick = equiv.compare(y, once, input=x, layer=layer)
    assert quick.counts == _without_screen(monkeypatch, y, once, input=x, layer=layer).counts
    assert quick.counts["different"] == 0


@pytest.mark.parametrize("scale", [2.0**-130, 2.0**-60, 2.0**60, 2.0**125])
def test_values_near_the_ends_of_float32_are_judged_as_ever(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x, _, _ = _arranged("pointwise", torch.float32, relu=False)
    x = x * scale
    with torch.no_grad():
        y, once = layer(x), copy.deepcopy(layer).double()(x.double()).float()
    quick = equiv.compare(y, once, input=x, layer=layer)
    full = _without_screen(monkeypatch, y, once, input=x, layer=layer)
    assert quick.counts == full.counts
    assert quick.counts["different"] == 0
