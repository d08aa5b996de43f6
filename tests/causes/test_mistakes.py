"""The table of mistakes, wrong orders as permutations, and values as narrower formats keep them."""

from __future__ import annotations

import ast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from planted import RUN

from equiv.causes.mistakes import _MISTAKES
from equiv.causes.permutations import in_words, matching, undone
from equiv.causes.roundings import ROUNDINGS, rounded

FACTS = {
    **dict.fromkeys(
        ("order", "right", "axes", "how", "turn", "moved", "scaled", "what", "when", "versus", "as_well"), "words"
    ),
    **dict.fromkeys(("mode", "before", "words", "stride", "dilation", "sentence"), "words"),
    "sizes": "3, 2, 4",
    "undo": "[1]",
    "shape": (5, 5),
    "place": (0, 0),
    **dict.fromkeys(("count", "n", "start", "row", "column", "source"), 3),
}


@pytest.mark.parametrize("name", _MISTAKES)
def test_a_mistake_has_a_plain_sentence_and_its_fixes_are_a_line_of_python(name):
    mistake = _MISTAKES[name]
    sentence = mistake.sentence.format(**FACTS)
    assert sentence[0].islower() or sentence.startswith("words")
    assert not sentence.endswith(".")
    for template in (mistake.fix, mistake.outputs or ""):
        fix = template.format(**FACTS)
        assert len(fix.splitlines()) == bool(fix)
        ast.parse(fix)
        if fix.startswith("torch.") and torch.__version__ >= (2, 9):
            for setting in fix.split("; ")[0].split(" = ")[:-1]:  # settings that this torch has
                eval(setting, {"torch": torch})


@RUN
@given(st.lists(st.integers(0, 4), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_matching_finds_any_permutation_even_of_repeated_rows(rows, random):
    reference = torch.tensor(rows, dtype=torch.float32)[:, None].repeat(1, 3)
    order = list(range(len(rows)))
    random.shuffle(order)
    candidate = reference[order]
    index = matching(candidate, reference)
    assert sorted(index.tolist()) == list(range(len(rows)))
    assert torch.equal(candidate, reference[index])
    candidate = candidate.clone()
    candidate[0, 0] += 10
    assert matching(candidate, reference) is None


def test_permutations_in_words():
    assert in_words(torch.tensor([2, 0, 1])) == "shifted by 1"
    assert in_words(torch.tensor([3, 2, 1, 0])) == "in reverse order"
    assert in_words(torch.tensor([0, 3, 2, 1])) == "1 and 3 exchanged"
    assert in_words(torch.tensor([1, 0, 3, 2, 5, 4])) == (
        "in another order (6 of 6 moved: place 0 holds 1, place 1 holds 0, place 2 holds 3, place 3 holds 2, ...)"
    )


@RUN
@given(st.permutations(range(7)), st.integers(0, 1))
def test_any_permutation_is_undone_by_what_is_written(order, dim):
    index = torch.tensor(order)
    right = torch.arange(49.0).view(7, 7)
    wrong = right.index_select(dim, index)
    assert torch.equal(eval(f"wrong{undone(index, dim)}", {"wrong": wrong}), right)


def test_roundings_know_their_formats():
    t = torch.tensor([1 + 2.0**-10, 1 + 2.0**-11, 1 + 3 * 2.0**-11, 1 + 2.0**-8])
    assert rounded(t, "rounded-tf32").tolist() == [1 + 2.0**-10, 1, 1 + 2.0**-9, 1 + 2.0**-8]
    assert rounded(t, "truncated-tf32").tolist() == [1 + 2.0**-10, 1, 1 + 2.0**-10, 1 + 2.0**-8]
    for name in ROUNDINGS:
        c = torch.complex(t, -t)
        assert torch.equal(rounded(c, name).imag, -rounded(t, name))
        assert torch.equal(rounded(torch.tensor([3]), name), torch.tensor([3]))
