"""The worked examples give the documents' numbers, and what the story says of them is so."""

import re

import pytest
import torch

from equiv.cli import demo, main, worked
from equiv.verdict import Outcome


@pytest.fixture(scope="module")
def story() -> dict[str, worked.Networks]:
    return {"ELU": worked.networks("ELU", 1.0), "sigmoid": worked.networks("sigmoid", 0.001)}


def _rounded(values: torch.Tensor) -> list[float]:
    return [round(value, 4) for value in values.flatten().tolist()]


def _sections(text: str) -> list[str]:
    """The numbers of the sections that are told, by their headings."""
    return re.findall(r"^(\d)\. [^\n]+\n-+$", text, re.MULTILINE)


def test_the_layer_of_seed_123_has_the_weights_of_the_notebook() -> None:
    assert [_rounded(row) for row in worked.seed_123().layer.weight] == [
        [-0.2039, 0.0166, -0.2483, 0.1886],
        [-0.4260, 0.3665, -0.3634, -0.3975],
    ]


def test_seed_123_gives_the_same_two_numbers_three_times() -> None:
    forms = worked.seed_123().forms
    assert [form.form for form in forms] == ["linear", "full", "pointwise"]
    assert [_rounded(form.output) for form in forms] == [[-0.4775, -2.1469]] * 3
    assert [tuple(form.weight.shape) for form in forms] == [(2, 4), (2, 1, 2, 2), (2, 4, 1, 1)]
    assert [tuple(form.input.shape) for form in forms] == [(1, 4), (1, 1, 2, 2), (1, 4, 1, 1)]
    assert [tuple(form.output.shape) for form in forms] == [(1, 2), (1, 2, 1, 1), (1, 2, 1, 1)]
    assert all(form.verdict.equivalent for form in forms)


def test_the_two_by_two_map_gives_14_9_and_19_three_times() -> None:
    forms = worked.two_by_two().forms
    assert [_rounded(form.output) for form in forms] == [[14.9, 19.0]] * 3
    assert all(form.verdict.equivalent for form in forms)


def test_nothing_touches_the_global_random_state() -> None:
    before = torch.random.get_rng_state()
    worked.seed_123()
    worked.two_by_two()
    worked.width(4)
    worked.networks("sigmoid", 0.001)
    worked.not_the_layer()
    assert torch.equal(before, torch.random.get_rng_state())


def test_wide_layers_are_right_without_equal_bits() -> None:
    widest = worked.width(1024)
    # Which of the two depends on whether the kernels of this machine happen to add in the same order.
    assert widest.verdict.outcome is (Outcome.IDENTICAL if widest.same_bits == widest.outputs else Outcome.ROUNDING)


def test_a_power_of_two_changes_no_verdict() -> None:
    plain, small = worked.width(1024), worked.width(1024, scale=2.0**-5)
    assert small.verdict.counts == plain.verdict.counts
    assert small.verdict.max_ratio == pytest.approx(plain.verdict.max_ratio, rel=1e-6)


def test_assert_close_refuses_exactly_the_outputs_that_are_counted() -> None:
    found = worked.width(1024)
    linear, x = worked._normal_layer(1024, 1.0)
    assert found.outputs == linear(x).numel()
    y = linear(x)
    if found.refused:
        with pytest.raises(AssertionError, match=f"Mismatched elements: {found.refused} / {found.outputs}"):
            torch.testing.assert_close(
                worked.linear_to_full_conv(linear, (256, 2, 2))(x.view(-1, 256, 2, 2)).flatten(1), y
            )
    torch.testing.assert_close(torch.zeros(3), torch.full((3,), 9e-6))  # why a layer of zeros can pass


def test_zeros_pass_assert_close_and_no_verdict() -> None:
    found = worked.width(1024, scale=2.0**-24, zeros=True)
    assert found.refused == 0
    assert found.verdict.outcome is Outcome.DIFFERENT


@pytest.mark.parametrize("activation", ["ELU", "sigmoid"])
def test_every_convolution_of_the_thread_lies_in_the_envelope(
    story: dict[str, worked.Networks], activation: str
) -> None:
    layers = story[activation].layers
    assert [(step.in_features, step.out_features) for step in layers] == [(256, 64), (64, 128), (128, 256), (256, 4)]
    assert all(step.verdict.outcome in (Outcome.IDENTICAL, Outcome.ROUNDING) for step in layers)
    assert [step.verdict.counts["total"] for step in layers] == [80 * out for out in (64, 128, 256, 4)]


@pytest.mark.parametrize("activation", ["ELU", "sigmoid"])
def test_the_networks_stay_within_the_propagated_bound(story: dict[str, worked.Networks], activation: str) -> None:
    found = story[activation]
    assert all(0 <= step.fraction <= 1 for step in found.layers)
    assert found.difference == found.layers[-1].difference
    assert found.activation_error <= worked.ACTIVATION_ULPS


def test_the_logits_are_huge_with_elu_and_small_with_sigmoid(story: dict[str, worked.Networks]) -> None:
    assert story["ELU"].largest_logit > 1e7
    assert story["ELU"].difference < 1e-4 * story["ELU"].largest_logit
    assert 0.1 < story["sigmoid"].largest_logit < 0.3
    assert story["sigmoid"].difference < 1e-5


def test_the_first_bound_is_that_of_the_two_envelopes() -> None:
    # 257 terms in float32, two networks, and the rounding of the results: 2 * 257 * 2**-24 * S and little more.
    first = worked.networks("ELU", 1.0).layers[0]
    x = torch.randn(16, 5, 256, generator=torch.Generator().manual_seed(worked.DRAW_SEED))
    sizes = x.abs().sum(-1) + 1
    assert 2 * 257 * 2**-24 * float(sizes.min()) <= first.bound <= 2 * 259 * 2**-24 * float(sizes.max())


def test_the_wrong_convolution_would_leave_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    right = worked._over_samples
    monkeypatch.setattr(worked, "_over_samples", lambda conv, x: right(conv, x) * (1 + 2.0**-10))
    found = worked.networks("ELU", 1.0)
    assert found.layers[0].verdict.outcome is Outcome.DIFFERENT
    assert max(step.fraction for step in found.layers) > 1


def test_the_one_by_one_convolution_on_the_map_is_another_function() -> None:
    example = worked.not_the_layer()
    assert not example.found.equivalent
    assert example.found.conv_output_shape == (2, 2, 2)
    assert _rounded(example.layer_output) == [-0.4775, -2.1469]
    assert (example.found.dense_nonzeros, example.found.dense_entries) == (8, 32)
    assert _rounded(example.conv_output.sum(1)) == [-0.9337, -1.8247]
    assert example.found.witness is not None
    assert int((example.found.witness != 0).sum()) == 1


def test_the_command_tells_all_four_sections(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo"]) == 0
    text = capsys.readouterr().out
    assert _sections(text) == ["1", "2", "3", "4"]
    assert text.count("-0.4775, -2.1469") == 4
    assert text.count("14.9000, 19.0000") == 3
    assert "There is no mistake to find." in " ".join(text.split())
    assert "equiv verify" in text


def test_one_section_is_told_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--section", "3"]) == 0
    assert _sections(capsys.readouterr().out) == ["3"]


@pytest.mark.parametrize("section", ["1", "2", "3", "4"])
def test_a_section_has_at_most_60_lines_of_80_columns(
    section: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["demo", "--section", section]) == 0
    lines = capsys.readouterr().out.split("Next\n----")[0].splitlines()
    assert 20 < len(lines) <= 60
    assert max(map(len, lines)) <= 80


def test_a_wide_terminal_is_used(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["demo", "--section", "1"]) == 0
    assert 110 < max(map(len, capsys.readouterr().out.splitlines())) <= 120


@pytest.mark.parametrize(("keys", "last"), [("q", 1), ("x\rq", 3), ("   ", 4)])
def test_a_reader_at_a_terminal_is_waited_for(
    keys: str, last: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pressed = iter(keys)
    monkeypatch.setattr(demo, "_is_watched", lambda: True)
    monkeypatch.setattr("typer.getchar", lambda: next(pressed))
    assert main(["demo"]) == 0
    text = capsys.readouterr().out.replace("\r", "\n")
    assert _sections(text) == list("1234"[:last])
    assert text.count("-- any key: section") == len(keys)


def test_words_for_what_was_found_have_their_colour(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert main(["demo", "--section", "1"]) == 0
    text = capsys.readouterr().out
    for word, colour in {"IDENTICAL": 32, "ROUNDING": 36, "DIFFERENT": 31, "UNDECIDED": 33}.items():
        assert f"\x1b[{colour}m{word}\x1b[0m" in text
    monkeypatch.setenv("NO_COLOR", "1")
    assert main(["demo", "--section", "1"]) == 0
    assert "\x1b[3" not in capsys.readouterr().out


def test_every_word_is_met_before_it_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    """What a word means stands where it is first written, beside these words."""
    assert main(["demo"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    meanings = {
        "envelope": "an interval that no right result leaves, its envelope",
        "pointwise:": "pointwise: another convolution",
        "verdict": "A verdict knows the layer and the input",
        "UNDECIDED": "UNDECIDED right results can lie anywhere",
        "apart,": "how far do the two come apart,",
        "of bound": "that of bound, the most that right networks can differ",
        "witness": "is called a witness",
        "K (x) I": "along a diagonal of 4, written K (x) I",
    }
    for word, meaning in meanings.items():
        assert text.index(meaning) + meaning.index(word) == text.index(word), word


def test_three_numbers_in_two_orders() -> None:
    assert worked.two_orders(1e8, 1.0, -1e8) == (0.0, 1.0)
    assert worked.overflowing(3e38, 3e38, -3e38).outcome is Outcome.UNDECIDED
