"""A law says which of its conditions a run did not reach, and what a backend does not serve is not among them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from equiv.backends import Capabilities, TorchEager
from equiv.dtypes import BY_NAME
from equiv.errors import EquivError
from equiv.laws import LAWS, Call, Reach, items, law, run_item
from equiv.laws.reach import conditions_of, trace_of
from equiv.report import Request, Run, summary_lines
from equiv.strategies import cases


@pytest.fixture
def registry() -> Iterator[None]:
    """The laws as they were, after a test that adds one."""
    before = dict(LAWS)
    yield
    LAWS.clear()
    LAWS.update(before)


def _item(name: str, dtype: str = "float32", backend: Any = None) -> Any:
    return items([backend or TorchEager()], laws=[name], dtypes=[dtype])[0]


@pytest.mark.usefixtures("registry")
def test_a_condition_that_a_law_never_reaches_is_named() -> None:
    reaches = [Reach("speed", ("slow", "fast")), Reach("weather", ("rain",), kinds=("integer",))]

    @law(99, "odd one", draw=lambda context: cases(dtype=context.dtype, max_features=4), reaches=reaches)
    def odd_one(trial: Any, case: Any) -> None:
        """Nothing is judged but a fact."""
        trial.cover("speed", "slow")
        trial.cover("nobody declared this", 1)
        trial.holds(True, "linear", "")

    found = run_item(_item("odd_one"), examples=2, seed=1)
    assert found.not_reached == {"speed": ["fast"]}
    assert found.coverage["nobody declared this"] == {"1": 2}
    run = Run.of(Request(), [found.to_dict()], planned=[found.item], jobs=1, seconds=1)
    assert run.not_reached_by_law == {"odd_one": {"speed": ["fast"]}}
    assert run.to_dict()["items"][0]["not_reached"] == {"speed": ["fast"]}
    assert not any("never reached" in line for line in summary_lines(run)), "a part of a run is not told what it lacks"


def _result(name: str, dtype: str) -> dict[str, Any]:
    """A result without failure; of dense no item reaches kernel 3, and the one in int8 alone reaches kernel 2."""
    counts = {"judged": 1, "identical": 1, "rounding": 0, "undecided": 0, "different": 0, "max_ratio": 0.0}
    names = {"item": f"{name}-all-{dtype}-mine", "law": name, "dtype": dtype, "backend": "mine"}
    is_last = dtype == "int8"
    missed = {"kernel": ["3"] if is_last else ["2", "3"]} if name == "dense" else {}
    met = {"kernel": {"2": 1}} if is_last else {}
    rest: dict[str, Any] = {"examples": 1, "seconds": 0.0, "seed": 1, "failure": None, "forms": {"linear": counts}}
    return {**names, **rest, "coverage": met, "not_reached": missed}


def test_a_full_run_says_in_one_line_what_was_never_reached() -> None:
    results = [_result(name, dtype) for name in LAWS for dtype in BY_NAME]
    run = Run.of(Request(), results, planned=[one["item"] for one in results], jobs=1, seconds=1)
    assert run.is_full
    assert [line for line in summary_lines(run) if "never" in line] == ["never reached: dense: kernel 3"]
    for request in (Request(examples=3), Request(forms=("full",))):
        part = replace(run, request=request)
        assert not any("never" in line for line in summary_lines(part))
        assert part.not_reached_by_law == {"dense": {"kernel": ["3"]}}
    others = tuple(item for item in run.items if item.law != "boundaries")
    assert not replace(run, items=others, planned=tuple(item.item for item in others)).is_full


def test_an_item_of_few_cases_names_what_it_missed_and_one_of_many_nothing() -> None:
    few = run_item(_item("gradients"), examples=1, seed=1)
    assert len(few.not_reached["leaves"]) >= 4
    many = run_item(_item("dense", "float32"), profile="gate", seed=0)
    assert not {"stride", "positions", "gradients judged"} & {*many.not_reached}


class _Limited:
    name, device, capabilities = "limited", "cpu", Capabilities(stride=False, gradient_order=0)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return functional.linear(x, weight, bias).detach()

    def conv(self, x: Tensor, weight: Tensor, bias: Tensor | None, *, stride: Any, dilation: Any) -> Tensor:
        kind = (functional.conv1d, functional.conv2d, functional.conv3d)[weight.ndim - 3]
        return kind(x, weight, bias, stride=stride, dilation=dilation).detach()


def test_what_a_backend_does_not_serve_is_not_never_reached() -> None:
    found = run_item(_item("dense", backend=_Limited()), examples=3, seed=1)
    assert found.failure is None
    assert not {"stride", "leaves", "gradients judged"} & {*found.not_reached}
    assert "channels" in run_item(_item("dense"), examples=1, seed=3).not_reached


def test_the_conditions_of_a_call_are_told_from_its_shapes() -> None:
    x, w = torch.zeros(20, 8, 9, 9), torch.zeros(8, 4, 3, 3, requires_grad=True)
    found = conditions_of({trace_of(Call("full", x, w, None, (2, 2))): 3})
    assert {name: dict(counts) for name, counts in found.items()} == {
        "leaves": {"weight": 3},
        "samples": {"17 to 64": 3},
        "channels": {"8 to 15": 3},
        "kernel": {"3": 3},
        "map": {"7 to 15": 3},
        "positions": {"9 to 64": 3},
        "stride": {"2": 3},
        "dilation": {"1": 3},
        "padding": {"0": 3},
        "groups": {"several": 3},
    }
    assert dict(conditions_of({trace_of(Call("linear", x, x, None)): 1})["leaves"]) == {"none": 1}


def test_what_is_no_reach_is_refused() -> None:
    wrong: Any = ["kernel"]
    with pytest.raises(EquivError, match=r"reaches: expected a list of equiv\.laws\.Reach"):
        law(98, "wrong", draw=lambda context: cases(), reaches=wrong)
