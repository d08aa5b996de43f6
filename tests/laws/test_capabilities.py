"""Laws ask of a backend only what it declares, judge all that remains, and say what they left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from limited import Limited, by_numpy, by_torch, once, split
from torch import Tensor

from equiv import laws
from equiv.backends import Capabilities, TorchEager
from equiv.strategies import Recipe, Values, build_case

IDS = [name for name, law in laws.LAWS.items() if not law.needs_torch]


def tried(backend: Any, law: str, dtype: torch.dtype = torch.float32, examples: int = 15) -> tuple[Any, laws.Trial]:
    """The failure of a law on a backend if there is one, and what was judged and left out."""
    trials = []
    (item,) = laws.items([backend], laws=[law], dtypes=[dtype])

    def watched(trial: laws.Trial, case: Any) -> None:
        trials.append(trial)
        item.law.check(trial, case)

    changed = laws.Law(**{**vars(item.law), "check": watched})
    found = laws.run_item(laws.Item(changed, item.forms, item.dtype, item.backend), examples=examples, seed=4)
    return found.failure, trials[0]


SERVES_LESS: dict[str, tuple[Callable[..., Tensor], dict[str, Any]]] = {
    "numpy": (by_numpy, {"gradient_order": 0}),
    "once": (once(), {"gradient_order": 1}),
    "conv2d": (by_torch, {"spatial_ranks": (2,)}),
    "no maps": (by_torch, {"spatial_ranks": ()}),
    "not empty": (by_torch, {"empty_batches": False}),
    "batches": (by_torch, {"single_samples": False}),
    "contiguous": (once(), {"layouts": False, "gradient_order": 1}),
    "no stride": (by_torch, {"stride": False}),
    "no dilation": (by_torch, {"dilation": False}),
    "no steps": (by_torch, {"stride": False, "dilation": False}),
    "no padding": (by_torch, {"padding": False}),
    "no groups": (by_torch, {"groups": False}),
    "small": (by_torch, {"largest": 2048}),
    "random order": (split(), {"deterministic": False}),
    "all of it": (
        by_numpy,
        {
            **dict.fromkeys(
                ("empty_batches", "single_samples", "layouts", "stride", "dilation", "padding", "groups"), False
            ),
            "gradient_order": 0,
            "spatial_ranks": (2,),
            "largest": 2048,
            "deterministic": False,
        },
    ),
}
NOTHING_LEFT = {  # laws that have nothing to ask where this is not served
    "gradients": {"gradient_order=0"},
    "layout": {"layouts=False"},
    "dense": {"spatial_ranks=()"},
    "not_equivalent": {"spatial_ranks=()"},
    "convolution": {"spatial_ranks=()"},
    "free_parameters": {"spatial_ranks=()", "stride=False, dilation=False"},
}


@pytest.mark.parametrize("law", IDS)
@pytest.mark.parametrize("name", SERVES_LESS)
def test_a_right_backend_is_asked_only_what_it_serves_and_passes(name: str, law: str) -> None:
    product, declared = SERVES_LESS[name]
    said = ", ".join(f"{key}={value!r}" for key, value in declared.items())
    left = NOTHING_LEFT.get(law, set())
    if name == "no maps" and law in NOTHING_LEFT and left & {said}:
        assert laws.items([Limited(product, **declared)], laws=[law], dtypes=[torch.float32]) == []
        return
    failure, trial = tried(Limited(product, **declared), law, examples={"layout": 2, "dense": 25}.get(law, 8))
    assert failure is None, failure.render()
    assert bool(trial.tally) != any(all(f"{part}" in said for part in one.split(", ")) for one in left)
    assert bool(trial.tally) or trial.not_asked
    assert {entry.law for entry in trial.not_asked} <= {law, ""}  # empty: of every law
    assert {(entry.dtype, entry.how) for entry in trial.not_asked} <= {("float32", "declared")}
    assert {entry.what for entry in trial.not_asked} <= set(declared)


@pytest.mark.parametrize(
    ("law", "name", "what", "forms"),
    [
        ("gradients", "numpy", "gradient_order", {"linear", "full", "pointwise"}),
        ("boundaries", "numpy", "gradient_order", {"linear", "full", "pointwise"}),
        ("dense", "numpy", "gradient_order", {"full", "pointwise"}),
        ("gradients", "once", "gradient_order", {"linear", "full", "pointwise"}),
        ("exact", "conv2d", "spatial_ranks", {"full", "pointwise"}),
        ("batch", "not empty", "empty_batches", {"linear", "full", "pointwise"}),
        ("batch", "batches", "single_samples", {"linear", "full", "pointwise"}),
        ("layout", "contiguous", "layouts", {"linear", "full", "pointwise"}),
        ("purity", "contiguous", "layouts", {"linear", "full", "pointwise"}),
        ("dense", "no stride", "stride", {"full", "pointwise"}),
        ("free_parameters", "no dilation", "dilation", {"full", "pointwise"}),
        ("convolution", "no padding", "padding", {"full"}),
        ("convolution", "no groups", "groups", {"full"}),
        ("exact", "small", "largest", {"linear", "full", "pointwise"}),
        ("scaling", "random order", "deterministic", {"linear", "full", "pointwise"}),
    ],
)
def test_what_is_left_out_is_noted_with_its_law(law: str, name: str, what: str, forms: set[str]) -> None:
    product, declared = SERVES_LESS[name]
    _, trial = tried(Limited(product, **declared), law, examples=30 if law != "layout" else 2)
    noted = {entry for entry in trial.not_asked if entry.what == what}
    assert {entry.form for entry in noted} == forms
    assert {entry.reason for entry in noted} == {f"the backend declares {what}={declared[what]!r}"}
    assert {entry.law for entry in noted} <= {law, ""}  # empty: of every law
    assert {entry.backend for entry in noted} == {"limited"}


@pytest.mark.parametrize("law", ["forward", "exact", "boundaries"])
@pytest.mark.parametrize("largest", [1, 60, 2048])
def test_cases_are_cut_to_the_largest_size_and_judged_in_every_form(law: str, largest: int) -> None:
    trials = []
    backend = Limited(by_torch, largest=largest)
    (item,) = laws.items([backend], laws=[law], dtypes=[torch.float32])

    def watched(trial: laws.Trial, case: Any) -> None:
        before = sum(tally.judged for tally in trial.tally.values())
        item.law.check(trial, case)
        trials.append(sum(tally.judged for tally in trial.tally.values()) - before)

    changed = laws.Law(**{**vars(item.law), "check": watched})
    found = laws.run_item(laws.Item(changed, item.forms, item.dtype, item.backend), examples=20, seed=4)
    assert found.failure is None
    assert len(trials) >= 15  # there are few different cases of the smallest sizes
    assert min(trials) >= len(item.forms)
    assert {entry.what for entry in found.not_asked} - {"empty_layers"} == {"largest"}


def test_a_backend_that_declares_nothing_is_asked_everything() -> None:
    failure, trial = tried(TorchEager(), "batch")
    assert failure is None
    assert trial.not_asked == set()
    failure, trial = tried(Limited(by_torch), "batch")
    assert failure is None
    assert trial.not_asked == set()


def without_last_feature(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    whole = x.shape[1] // 4 * 4 or x.shape[1]
    return by_numpy(x[:, :whole], weight[:, :whole], bias)


def without_last_row(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    last = torch.arange(len(x))[:, None] == len(x) - 1
    return by_torch(x, weight, bias) + (last & (len(x) > 1)).to(x.dtype)


WRONG: dict[str, tuple[Limited, set[str]]] = {
    "numpy, tail": (Limited(without_last_feature, gradient_order=0), {"exact", "boundaries"}),
    "once, bias": (Limited(once(bias=lambda t: 2 * t), gradient_order=1), {"gradients", "boundaries"}),
    "once, weight": (Limited(once(weight=lambda t: -t), gradient_order=1), {"gradients", "dense"}),
    "conv2d, H and W": (
        Limited(by_torch, lambda w: w.transpose(-1, -2).reshape(w.shape), spatial_ranks=(2,)),
        {"exact", "dense"},
    ),
    "contiguous, last row": (Limited(without_last_row, layouts=False), {"exact", "batch", "boundaries"}),
    "random order, truncates": (Limited(split(truncates=True), deterministic=False), {"exact", "forward"}),
    "random order, purity": (Limited(split(truncates=True), deterministic=False), {"purity", "scaling"}),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_in_the_rest_is_found(name: str) -> None:
    backend, found_by = WRONG[name]
    for law in found_by:
        failure, _ = tried(backend, law, examples=40)
        assert failure is not None, law
        assert "RefusedError" not in failure.note


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("device", lambda y, *_: y.to("meta"), "returns a result on meta, expected one on cpu"),
        ("dtype", lambda y, *_: y.double(), "returns float64 of shape"),
        ("shape", lambda y, *_: y[None], "returns float32 of shape (1, "),
        ("type", lambda *_: None, "returns NoneType, not a tensor"),
        ("type", lambda y, *_: y.to_sparse(), "returns a tensor of layout torch.sparse_coo"),
        ("mutation", lambda y, x, *_: (x.numpy().fill(3), y)[1], "changes its inputs: the input"),
        ("mutation", lambda y, x, w: (w.numpy().fill(3), y)[1], "changes its inputs: the weight"),
    ],
)
@pytest.mark.parametrize("law", ["exact", "dense"])
def test_what_is_wrong_with_a_call_is_named(law: str, kind: str, change: Any, words: str) -> None:
    class Odd(TorchEager):
        transforms = False

        def supports(self, dtype: torch.dtype, form: str) -> bool:
            return True

        def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
            return change(super().linear(input, weight, bias), input, weight)  # type: ignore[no-any-return]

        def conv(self, input: Tensor, weight: Tensor, bias: Tensor | None = None, **how: Any) -> Tensor:
            return change(super().conv(input, weight, bias, **how), input, weight)  # type: ignore[no-any-return]

    backend = Odd()
    backend.name = "odd"
    failure, _ = tried(backend, law)
    assert words in failure.note
    (item,) = laws.items([backend], laws=[law], dtypes=["float32"])
    case = build_case(Recipe((2, 1), 2, (3,), x=Values("small_integers"), weight=Values("small_integers")))
    with pytest.raises(laws.Broken) as caught:
        item.law.try_on(laws.Trial(backend, torch.float32, item.forms), case)
    assert caught.value.kind == kind


@pytest.mark.parametrize(
    ("name", "law"),
    [
        ("numpy", "gradients"),
        ("once", "gradients"),
        ("conv2d", "exact"),
        ("not empty", "batch"),
        ("batches", "dense"),
        ("contiguous", "purity"),
        ("no stride", "free_parameters"),
        ("no dilation", "free_parameters"),
        ("small", "boundaries"),
        ("random order", "purity"),
    ],
)
def test_a_backend_that_says_nothing_is_found_out(name: str, law: str) -> None:
    """Else the tests above would show nothing: these backends do refuse what they do not serve."""
    product, declared = SERVES_LESS[name]
    backend = Limited(product, **declared)
    backend.capabilities = Capabilities()
    assert tried(backend, law, examples=30)[0] is not None
