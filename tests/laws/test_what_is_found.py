"""What a backend serves is declared, or found by asking it once; nothing is left out without a word."""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import Any

import pytest
import torch
from kernels import CPU
from partial_backends import Forward, Graphless, Numpy, Once, Strict
from torch import Tensor

from equiv import EquivError, laws, testing
from equiv.backends import Capabilities, TorchEager
from equiv.laws import asking
from equiv.laws.asking import refusal_of
from equiv.numerics import declared

FLOAT = torch.float32


class Mine(TorchEager):
    """torch's kernels behind one function that a test can spoil; it counts what it is called for."""

    transforms = False

    def __init__(self, spoil: Any = None, **attributes: Any) -> None:
        super().__init__()
        self.name, self.spoil, self.calls = "mine", spoil, 0
        vars(self).update(attributes)

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        self.calls += 1
        y = super().linear(input, weight, bias)
        return y if self.spoil is None else self.spoil(y)  # type: ignore[no-any-return]

    def conv(self, *given: Any, **steps: Any) -> Tensor:
        self.calls += 1
        return super().conv(*given, **steps)


def run(backend: Any, law: str = "forward", dtype: str = "float32", examples: int = 4) -> laws.Result:
    (item,) = laws.items([backend], laws=[law], dtypes=[dtype])
    return laws.run_item(item, examples=examples, seed=1)


def raises(error: Exception) -> Any:
    def spoil(_: Tensor) -> Tensor:
        raise error

    return spoil


# --- which items there are --------------------------------------------------------------------------------------------


def test_no_kernel_runs_while_items_are_listed() -> None:
    backend = Mine(spoil=raises(SystemError("ran")))
    assert len(laws.items([backend])) == len(laws.plan([backend]).items) > 100
    assert len(testing.checks(backend)) > 100
    testing.parametrize_with_laws(backend)
    assert backend.calls == 0


def test_what_is_declared_not_to_be_served_is_no_item_and_is_listed() -> None:
    declares = Capabilities(dtypes={"linear": ["float32"], "full": [torch.float32, torch.int8], "pointwise": ()})
    plan = laws.plan([Mine(capabilities=declares)], laws=["exact", "transforms"], dtypes=["float32", "int8"])
    assert [(item.id, item.forms) for item in plan.items] == [
        ("exact-all-float32-mine", ("linear", "full")),
        ("exact-full-int8-mine", ("full",)),
    ]
    said = {(one.what, one.law, one.form, one.dtype, one.how): one.reason for one in plan.not_asked}
    nothing = "the backend declares no dtypes for pointwise"
    assert said == {
        ("dtypes", "", "pointwise", "float32", "declared"): nothing,
        ("dtypes", "", "pointwise", "int8", "declared"): nothing,
        ("dtypes", "", "linear", "int8", "declared"): "the backend declares the dtypes float32 for linear",
        ("transforms", "transforms", "", "float32", "declared"): "the backend does not declare transforms=True",
        ("transforms", "transforms", "", "int8", "declared"): "the backend does not declare transforms=True",
    }


def test_a_backend_without_convolutions_has_no_items_about_them() -> None:
    plan = laws.plan([Mine(capabilities=Capabilities(spatial_ranks=()))], dtypes=["float32"])
    assert {item.forms for item in plan.items} == {("linear",)}
    assert {one.form for one in plan.not_asked if one.what == "spatial_ranks"} == {"full", "pointwise"}


def test_the_older_attributes_stand_where_capabilities_leave_them_open() -> None:
    both = Mine(capabilities=Capabilities(dtypes=["float32", "int8"]), supports=lambda dtype, form: dtype == FLOAT)
    assert {item.word for item in laws.items([both])} == {"float32"}
    torchs = Mine(capabilities=Capabilities(stride=True))
    torchs.transforms = True
    assert "transforms" in {item.law.id for item in laws.items([torchs])}


# --- what is a refusal ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (raises(RuntimeError("misaligned address")), "raises RuntimeError: misaligned address"),
        (raises(KeyError("float32")), "raises KeyError: 'float32'"),
        (raises(AssertionError("no")), "raises AssertionError: no"),
        (lambda y: y.tolist(), "not a tensor"),
        (lambda y: y.double(), "float64"),
        (lambda y: y[None], "shape"),
    ],
    ids=["runtime", "key", "assertion", "type", "dtype", "shape"],
)
@pytest.mark.parametrize("law", ["forward", "batch", "purity", "boundaries"])
def test_any_other_exception_or_result_is_a_failure(spoil: Any, named: str, law: str) -> None:
    found = run(Mine(spoil), law)
    assert found.outcome == "broken"
    assert found.failure is not None
    assert named in found.failure.summary
    assert found.failure.form == "linear"
    assert not [one for one in found.not_asked if one.form == "linear"]


def test_not_implemented_leaves_the_form_out_and_says_so() -> None:
    found = run(Mine(raises(NotImplementedError("later"))))
    assert found.outcome == "holds"
    assert {*found.forms} == {"full", "pointwise"}
    (left,) = found.not_asked
    reason = "raises NotImplementedError: later"
    assert left == laws.NotAsked("dtypes", "mine", "", "linear", "float32", reason, "found")


def test_an_item_of_which_nothing_is_served_is_no_pass() -> None:
    found = run(Numpy(), "dense")
    assert (found.outcome, found.examples, found.forms) == ("not asked", 0, {})
    assert {one.form for one in found.not_asked} == {"full", "pointwise"}
    with pytest.raises(EquivError, match=r"dtypes: raises NotImplementedError: no convolutions"):
        testing.check_backend(Numpy(), laws=["dense"], dtypes=["float32"], examples=2)


class Odd(Mine):
    """Refuses some sizes in the midst of a law, and is wrong elsewhere if it is spoiled."""

    def conv(self, input: Tensor, weight: Tensor, *rest: Any, **steps: Any) -> Tensor:
        if weight.shape[1] > 4:
            raise NotImplementedError(f"{weight.shape[1]} channels")
        return super().conv(input, weight, *rest, **steps)


def test_a_call_that_is_refused_in_the_midst_of_a_law_is_left_out_and_the_rest_is_judged() -> None:
    found = run(Odd(), examples=12)
    assert found.outcome == "holds"
    assert found.forms["linear"].judged >= 12 > found.forms["pointwise"].judged > 0
    assert {(one.what, one.law, one.form) for one in found.not_asked} == {
        ("calls", "forward", "full"),
        ("calls", "forward", "pointwise"),
    }
    assert found.coverage["calls not served"]["pointwise"] >= 1
    assert run(Odd(lambda y: y + 1), examples=12).outcome == "broken"


# --- what is found by asking ------------------------------------------------------------------------------------------

NO_CONV = "raises NotImplementedError: no convolutions"
FOUND: list[tuple[Any, str, Any, str, str | None]] = [
    (Numpy(), "gradient_order", 1, "linear", "its results carry no gradients"),
    (Numpy(), "forward_mode", True, "linear", "its results carry no tangents"),
    (Numpy(), "layouts", True, "linear", None),
    (Numpy(), "empty_batches", True, "linear", None),
    (Numpy(), "dtypes", FLOAT, "full", NO_CONV),
    (Numpy(), "stride", True, "pointwise", NO_CONV),
    (Graphless(), "gradient_order", 1, "linear", "raises RuntimeError: Can't call numpy() on Tensor that requires"),
    (Graphless(), "layouts", True, "linear", None),
    (
        Graphless(),
        "layouts",
        "lazy",
        "linear",
        "raises RuntimeError: Can't call numpy() on Tensor that has negative bit",
    ),
    (Once(), "gradient_order", 1, "linear", None),
    (Once(), "gradient_order", 2, "linear", "its gradients carry no gradients"),
    (Forward(), "gradient_order", 1, "linear", "raises NotImplementedError: You must implement"),
    (Forward(), "forward_mode", True, "linear", "raises NotImplementedError: You must implement"),
    (Strict(), "empty_batches", True, "full", "raises NotImplementedError: batches alone"),
    (Strict(), "single_samples", True, "linear", "raises NotImplementedError: batches alone"),
    (Strict(), "layouts", True, "pointwise", "raises NotImplementedError: contiguous tensors alone"),
    (Strict(), "dilation", True, "pointwise", "raises NotImplementedError: no dilation"),
    (Strict(), "stride", True, "full", None),
    (Strict(), "spatial_ranks", 2, "full", None),
    (Strict(), "spatial_ranks", 3, "full", "raises NotImplementedError: images alone"),
    (Strict(), "padding", True, "full", "its conv has no keyword padding"),
    (Strict(), "groups", True, "full", "its conv has no keyword groups"),
    (Strict(), "deterministic", True, "", None),
    (CPU, "gradient_order", 2, "linear", None),
    (CPU, "layouts", True, "", None),
    (Mine(), "gradient_order", 2, "full", None),
    (Mine(), "forward_mode", True, "pointwise", None),
    (Mine(), "layouts", True, "", None),
    (Mine(raises(RuntimeError("no"))), "gradient_order", 1, "linear", None),
    (Mine(lambda y: y.tolist()), "gradient_order", 1, "linear", None),
]


@pytest.mark.parametrize(("backend", "capability", "wanted", "form", "reason"), FOUND)
def test_each_capability_is_found(backend: Any, capability: str, wanted: Any, form: str, reason: str | None) -> None:
    found = refusal_of(backend, capability, form, FLOAT, wanted)
    if reason is None:
        assert found is None
    else:
        assert found is not None
        assert found.reason.startswith(reason)
        assert (found.what, found.backend, found.form, found.how) == (capability, backend.name, form, "found")


def test_integers_have_no_dilation_in_torch() -> None:
    assert refusal_of(CPU, "dilation", "pointwise", torch.int8) is not None
    assert refusal_of(CPU, "dilation", "pointwise", FLOAT) is None


def test_what_is_declared_is_not_asked_for() -> None:
    backend = Mine(capabilities=Capabilities(layouts=False, stride=True, gradient_order=1, dtypes=["float32"]))
    refused = refusal_of(backend, "layouts", "full", FLOAT)
    assert refused is not None
    assert (refused.how, refused.reason) == ("declared", "the backend declares layouts=False")
    assert refusal_of(backend, "stride", "full", FLOAT) is None
    assert refusal_of(backend, "gradient_order", "full", FLOAT, 1) is None
    assert refusal_of(backend, "gradient_order", "full", FLOAT, 2) is not None
    assert refusal_of(backend, "dtypes", "full", FLOAT, FLOAT) is None
    assert refusal_of(backend, "dtypes", "full", torch.int8, torch.int8) is not None
    assert backend.calls == 0


def test_a_backend_is_asked_once_and_again_where_it_calls_another_function() -> None:
    backend = Mine()
    for _ in range(3):
        refusal_of(backend, "empty_batches", "linear", FLOAT)
        assert backend.calls == 1
    backend.linear = lambda *_: backend.conv(None)  # type: ignore[assignment, method-assign]
    refusal_of(backend, "empty_batches", "linear", FLOAT)
    assert backend.calls == 2


def test_a_backend_that_is_gone_is_forgotten() -> None:
    backend = Mine()
    refusal_of(backend, "layouts", "linear", FLOAT)
    key = id(backend)
    assert key in asking._ANSWERS
    del backend
    gc.collect()
    assert key not in asking._ANSWERS


class Slotted:
    """A right backend that has no weak references."""

    __slots__ = ()
    name, device = "slotted", torch.device("cpu")

    def linear(self, *given: Any) -> Tensor:
        return CPU.linear(*given)

    def conv(self, *given: Any, **steps: Any) -> Tensor:
        raise NotImplementedError


def test_a_backend_without_weak_references_is_asked_all_the_same() -> None:
    assert refusal_of(Slotted(), "layouts", "linear", FLOAT) is None
    assert refusal_of(Slotted(), "stride", "full", FLOAT) is not None


# --- all laws ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", [Numpy(), Once(), Forward(), Strict()], ids=lambda one: one.name)
def test_a_right_backend_passes_all_that_remains(backend: Any) -> None:
    found = testing.check_backend(backend, dtypes=["float32"], examples=5, seed=1)
    assert [result.failure for result in found] == [None] * len(found)
    assert {result.outcome for result in found} <= {"holds", "not asked"}
    assert sum(result.outcome == "holds" for result in found) >= 9
    assert any(result.not_asked for result in found)


# --- the arithmetic that a backend declares ---------------------------------------------------------------------------


class Rounded(Mine):
    """Rounds the factors to bfloat16, as hardware does that is allowed to."""

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return super().linear(*(t.detach().bfloat16().float() for t in (input, weight)), bias)


ROUNDED = replace(
    declared(FLOAT, op="linear"),
    name="bfloat16 factors",
    relative=2 * 2.0**-8 + 2.0**-16,
    factor_max=3.38e38,
    flushes_inputs=True,
    flushes_outputs=True,
    underflow=2.0**-126,
)


@pytest.mark.parametrize("law", ["forward", "exact", "weight_recovery"])
@pytest.mark.parametrize("arithmetic", [ROUNDED, "measured"], ids=["declared", "measured"])
def test_envelopes_follow_the_arithmetic_that_a_backend_declares(law: str, arithmetic: Any) -> None:
    only = {"linear": [FLOAT], "full": (), "pointwise": ()}
    assert run(Rounded(capabilities=Capabilities(dtypes=only)), law, examples=12).outcome == "broken"
    found = run(Rounded(capabilities=Capabilities(dtypes=only, arithmetic=arithmetic)), law, examples=12)
    assert found.outcome == "holds"
    assert {"envelopes follow", "weaker than declared"} & {*found.coverage}
    spoiled = Rounded(lambda y: y * 1.1, capabilities=Capabilities(dtypes=only, arithmetic=arithmetic))
    assert run(spoiled, law, examples=12).outcome == "broken"
