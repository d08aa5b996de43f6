"""What is drawn, and what draws it, prints as the Python that makes it again."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from strategies_helpers import QUIET, bits, drawn

from equiv import strategies as est
from equiv.strategies.printed import Made

NAMES = {"torch": torch, **{name: getattr(est, name) for name in est.__all__}}


@pytest.mark.parametrize(
    ("strategy", "text"),
    [
        (est.tensors((2, 3)), "tensors(shape=(2, 3))"),
        (est.tensors(dtype=torch.float64, shape=(2,)), "tensors(shape=(2,), dtype=torch.float64)"),
        (est.tensors((2,), min_value=0, layouts=True), "tensors(shape=(2,), min_value=0, layouts=True)"),
        (est.tensors(est.batch_shapes(max_dims=2)), "tensors(shape=batch_shapes(max_dims=2))"),
        (est.cases(), "cases()"),
        (est.cases(exact=True, max_out=7), "cases(max_out=7, exact=True)"),
        (est.layers(in_features=3, out_features=2), "layers(in_features=3, out_features=2)"),
        (est.dtypes(kinds=("float",)), "dtypes(kinds=('float',))"),
        (est.devices(), "devices()"),
        (est.layouts(ndim=2), "layouts(ndim=2)"),
        (est.feature_shapes(spatial_dims=2), "feature_shapes(spatial_dims=2)"),
        (est.broadcastable_shapes((2, 3)), "broadcastable_shapes(shape=(2, 3))"),
        (est.mutually_broadcastable_shapes(num_shapes=2), "mutually_broadcastable_shapes(num_shapes=2)"),
        (st.lists(est.tensors(())), "lists(tensors(shape=()))"),
    ],
    ids=str,
)
def test_a_strategy_prints_as_its_call_before_and_after_it_was_used(strategy: Any, text: str) -> None:
    assert repr(strategy) == text
    strategy.validate()
    drawn(strategy, 1)
    assert repr(strategy) == text


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    facts = [
        (t.shape, t.dtype, t.stride(), t.storage_offset(), t.is_neg(), t.is_conj(), t.requires_grad) for t in (a, b)
    ]
    return facts[0] == facts[1] and bits(a) == bits(b)


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.complex64, torch.int8, torch.bool, *est.FLOAT8[:1]]
)
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 1, 3), (9, 17)], ids=str)
def test_the_text_of_a_tensor_builds_the_same_bits_in_the_same_layout(
    dtype: torch.dtype, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts: list[str] = []
    build = Made.build

    def recorded(made: Made) -> torch.Tensor:
        tensor = build(made)
        assert same(eval(str(made), dict(NAMES)), tensor), str(made)
        texts.append(str(made))
        return tensor

    monkeypatch.setattr(Made, "build", recorded)
    grad = dtype.is_floating_point and dtype.itemsize > 1
    drawn(est.tensors(shape, dtype, layouts=True, requires_grad=grad), 60)
    drawn(est.tensors(shape, dtype), 30)
    assert len(texts) > 60


def falsifying(strategy: Any, condition: Any) -> str:
    """What Hypothesis prints as the argument of a failing test."""

    @settings(QUIET, phases=[Phase.generate, Phase.shrink])
    @given(value=strategy)
    def check(value: Any) -> None:
        assert not condition(value)

    with pytest.raises(AssertionError) as caught:
        check()
    notes = "\n".join(caught.value.__notes__)
    found = re.search(r"value=(.*?),?\n*\)\n*(?:\n|$)", notes + "\n", re.DOTALL)
    assert found is not None, notes
    return found[1].strip().rstrip(",")


def test_a_falsifying_example_is_the_call_that_rebuilds_it() -> None:
    small = falsifying(est.tensors((2, 3)), lambda t: (t >= 2).any())
    assert re.fullmatch(r"torch\.tensor\(\[\[.*2\.0.*\]\]\)", small)
    laid = falsifying(est.tensors((2, 3), layouts=True), lambda t: t.stride() == (1, 2))
    assert laid == "Layout(kind='permuted').apply(torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))"
    large = falsifying(est.tensors((1000,)), lambda t: t[900] > 1)
    assert large == "Values(kind='zeros', edits=((900, 2.0),)).tensor((1000,), torch.float32)"
    special = falsifying(est.tensors((2,), torch.float16), lambda t: t.isnan().any())
    assert "float('nan')" in special
    assert "dtype=torch.float16" in special
    layer = falsifying(est.layers(in_features=2, out_features=1), lambda layer: layer.weight.abs().max() > 2)
    rebuilt = eval(layer, dict(NAMES))
    assert rebuilt.weight.abs().max() > 2
    case = falsifying(est.cases(), lambda case: case.x.numel() > 3)
    assert case.startswith("build_case(Recipe(")
    assert eval(case, dict(NAMES)).x.numel() > 3


def test_events_say_what_was_drawn() -> None:
    from hypothesis.statistics import collector, describe_statistics

    found: list[str] = []

    @settings(QUIET, max_examples=30)
    @given(est.tensors((2, 20), layouts=True), est.cases(), est.layers(in_features=1, out_features=1))
    def check(_tensor: Any, _case: Any, _layer: Any) -> None:
        pass

    with collector.with_value(lambda statistics: found.append(describe_statistics(statistics))):
        check()
    text = "\n".join(found)
    for words in ("tensors: 10 to 99 entries", "tensors: normals", "tensors: layout", "cases: x of", "layers: bias"):
        assert words in text
