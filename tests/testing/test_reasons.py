"""Expected failures without pytest: how reasons are looked up, and what `check_backend` makes of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kernels import CPU, KERNELS, Odd, instead

from equiv import testing
from equiv.errors import EquivError, ExpectationWarning
from equiv.testing.reasons import ReasonTable

Given = Any


def bias_twice(kernel: Callable[..., Any]) -> Callable[..., Any]:
    def wrong(x: Any, w: Any, b: Any = None, *a: Any, **k: Any) -> Any:
        y = kernel(x, w, b, *a, **k)
        return y if b is None else y + b.reshape(-1, *(1,) * (w.ndim - 2))

    return wrong


def check(given: Given, *, wrong: bool, **how: Any) -> list[Any]:
    options = {"laws": ["exact", "layout"], "dtypes": ["float32"], "examples": 30, "seed": 1, **how}
    with instead(bias_twice if wrong else lambda kernel: kernel):
        return testing.check_backend(CPU, expected_failures=given, **options)


def test_a_broken_law_that_was_expected_is_no_broken_one() -> None:
    exact, layout = check({"exact-*": "issue 17"}, wrong=True)
    assert (exact.outcome, exact.expected, layout.expected) == ("expected", "issue 17", None)
    assert exact.failure is not None
    assert exact.to_dict()["expected"] == "issue 17"
    assert check(None, wrong=True)[0].outcome == "broken"


def test_a_law_that_holds_though_it_was_expected_to_fail_is_said_if_it_is_no_luck() -> None:
    said = r"name items that hold: exact-all-float32-eager.cpu \(issue 17\); remove them"
    with pytest.warns(ExpectationWarning, match=said) as caught:
        exact, layout = check({"exact": "issue 17"}, wrong=False, examples=3)
    assert Path(caught[0].filename) == Path(__file__)
    assert (exact.outcome, exact.is_unexpected_pass, layout.is_unexpected_pass) == ("holds", True, False)
    with pytest.warns(ExpectationWarning, match=said):
        check({"exact": "issue 17"}, wrong=False, examples=3, profile="gate", seed=None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check({"exact": "issue 17"}, wrong=False, examples=3, seed=None)[0].is_unexpected_pass


def test_an_entry_about_nothing_is_said() -> None:
    with pytest.warns(ExpectationWarning, match=r"name no item: exakt \(did you mean 'exact'\?\); remove"):
        check({"exakt": "typo"}, wrong=False, examples=1)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"*": "all", "exact-*": "pattern", "exact": "law", "exact-all-int8-eager.cpu": "item"}, "item"),
        ({"*": "all", "exact-*": "pattern", "exact": "law"}, "law"),
        ({"*": "all", "exact-*": "pattern"}, "all"),
        ({"exact-[am]??-int?-*": "pattern"}, "pattern"),
        ({"EXACT-*": "another case", "exac": "part", "all": "part"}, None),
        (lambda check: check.id if check.item.word == "int8" else None, "exact-all-int8-eager.cpu"),
        (lambda check: None, None),
        (None, None),
    ],
)
def test_the_entry_of_an_item_comes_before_that_of_its_law_and_both_before_patterns(
    given: Given, reason: str | None
) -> None:
    (one,) = testing.checks(CPU, laws=["exact"], dtypes=["int8"])
    assert ReasonTable("skips", given).reason(one) == reason


def raises(_: object) -> str:
    raise KeyError("no such")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["exact"], "expected a mapping from ids to reasons, a function of a check, or the path of a file, got"),
        ({"exact": ""}, "expected a reason for 'exact', got ''; say why in words"),
        ({1: "why"}, "expected a mapping from ids to reasons, each key a string, got 1"),
        ("no.txt", "expected a text file that can be read, got 'no.txt': No such file or directory"),
        (b"exact", "expected a mapping"),
        (Path("tests"), "expected a text file that can be read, got 'tests': Is a directory"),
        (lambda check: True, "expected a reason or None for exact-all-float32-odd, got True; return words, or None"),
        (raises, "expected a reason or None for exact-all-float32-odd, got KeyError: 'no such'; correct"),
    ],
)
@pytest.mark.parametrize("argument", ["expected_failures", "skips"])
def test_reasons_that_are_none_are_refused(
    argument: str, given: Given, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    with pytest.raises(EquivError) as caught:
        testing.parametrize_with_laws(Odd(KERNELS["linear"]), laws=["exact"], **{argument: given})
    assert str(caught.value).startswith(f"{argument}: {message}")


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "xfails.txt").write_bytes(b"exact # \xff\xfe")
    with pytest.raises(
        EquivError, match=r"skips: expected a text file that can be read, got '.*xfails.txt': 'utf-8' codec"
    ):
        testing.parametrize_with_laws(CPU, laws=["exact"], skips=tmp_path / "xfails.txt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"profile": "ci"}, "profile: expected one of dev, gate, deep, got 'ci'"),
        ({"examples": 0}, "examples: expected an integer of at least 1, got 0"),
        ({"seed": -1}, "seed: expected an integer of at least 0, got -1"),
        ({"arithmetic": "guessed"}, "arithmetic: expected one of declared, measured, got 'guessed'"),
        ({"strict": "no"}, "strict: expected True or False, got 'no'"),
    ],
)
def test_options_of_a_test_are_checked_where_they_are_written(options: dict[str, Any], message: str) -> None:
    with pytest.raises(EquivError) as caught:
        testing.parametrize_with_laws(CPU, laws=["exact"], **options)
    assert str(caught.value).startswith(message)
