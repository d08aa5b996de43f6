"""How the tests of equiv.strategies draw: many examples, or the one that a condition shrinks to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

T = TypeVar("T")
N = 16384


QUIET = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=1000,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def minimal(strategy: st.SearchStrategy[T], condition: Callable[[T], Any] = lambda _: True) -> T:
    """What ``condition`` shrinks to."""
    return find(strategy, lambda value: bool(condition(value)), settings=QUIET)


def drawn(strategy: st.SearchStrategy[T], examples: int) -> list[T]:
    """That many examples, not shrunk."""
    values: list[T] = []

    @settings(QUIET, max_examples=examples, phases=[Phase.generate])
    @given(strategy)
    def collect(value: T) -> None:
        values.append(value)

    collect()
    return values


def assert_all_examples(strategy: st.SearchStrategy[T], condition: Callable[[T], Any], examples: int = 100) -> None:
    """``condition`` holds for every example."""

    @settings(QUIET, max_examples=examples)
    @given(strategy)
    def check(value: T) -> None:
        assert condition(value), value

    check()


def bits(t: torch.Tensor) -> list[int]:
    """The bytes of the values in C order."""
    plain = t.detach().resolve_conj().resolve_neg().cpu().clone(memory_format=torch.contiguous_format)
    return plain.reshape(-1).view(torch.uint8).tolist()


def nonzeros(t: torch.Tensor) -> int:
    return int((t != 0).sum())


def residues(values: set[int], modulus: int) -> set[int]:
    return {value % modulus for value in values}


WIDTHS = {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 105, 127, 128, 129}
