"""Named mistakes planted in generated layers are recognised and mended, and claimed nowhere else."""

from __future__ import annotations

import pytest
from generated_causes import tried, two_at_once, unnamed
from named_mistakes import MISTAKES
from unnamed_differences import PAIRS, UNNAMED, both


def cases(few: int, many: int):
    """So many cases in every run, and many in the slow one."""
    return pytest.mark.parametrize("count", [few, pytest.param(many, marks=pytest.mark.slow)])


@cases(2, 8)
@pytest.mark.parametrize("key", MISTAKES)
def test_a_named_mistake_is_recognised_and_mended(key, count):
    found = tried(MISTAKES[key], count)
    assert (found.cases, found.failures) == (count, [])


@cases(2, 8)
@pytest.mark.parametrize("key", UNNAMED)
def test_what_no_mistake_explains_has_no_name(key, count):
    assert unnamed(key, UNNAMED[key], count).failures == []


@cases(1, 8)
@pytest.mark.parametrize("pair", PAIRS, ids=" and ".join)
def test_of_two_mistakes_both_are_named_or_none_is(pair, count):
    assert two_at_once(both(*pair), count).failures == []
