"""The runner of the laws, its reports, and that every law can fail: the oracle itself under test."""

from __future__ import annotations

import importlib
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import Phase, settings
from kernels import CPU, KERNELS, Kernel, Odd, instead, item, run
from torch import Tensor

from equiv import laws, testing
from equiv.backends import FORMS, TorchEager
from equiv.dtypes import BY_NAME, DTYPES, dtype_name


def result(change: Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]) -> Callable[[Kernel], Kernel]:
    """A kernel whose result ``y`` becomes ``change(y, x, weight, bias)``."""

    def around(kernel: Kernel) -> Kernel:
        return lambda x, w, b=None, *a, **k: change(kernel(x, w, b, *a, **k), x, w, b)

    return around


def given(change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Callable[[Kernel], Kernel]:
    """A kernel that is given ``change(x, weight)``."""

    def around(kernel: Kernel) -> Kernel:
        return lambda x, w, b=None, *a, **k: kernel(*change(x, w), b, *a, **k)

    return around


def bias_twice(y: Tensor, _: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    return y if b is None else y + b.reshape(-1, *(1,) * (w.ndim - 2))


def add_to_input(y: Tensor, x: Tensor, *_: Tensor | None) -> Tensor:
    with torch.no_grad():
        x.copy_(x + 1)
    return y


def as_if_contiguous(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    strides = [1] * x.ndim
    for d in range(x.ndim - 2, -1, -1):
        strides[d] = strides[d + 1] * max(1, x.shape[d + 1])
    return x.as_strided(x.shape, strides, x.storage_offset()), w


def without_last_output(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    return x, torch.cat([w[:-1], 0 * w[-1:]])


def sixteen_outputs(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    return x, torch.cat([w[:16], 0 * w[16:]])


def stride_as_factor(kernel: Kernel) -> Kernel:
    def wrong(x: Tensor, w: Tensor, b: Tensor | None = None, stride: Any = 1, *more: Any, **options: Any) -> Tensor:
        if w.ndim == 2:
            return kernel(x, w, b)
        return kernel(x, w, b, 1, *more, **options) * (stride if isinstance(stride, int) else max(stride))

    return wrong


def double_gradient(y: Tensor, *_: Tensor | None) -> Tensor:
    return y + (y - y.detach())


BREAKS: dict[str, Callable[[Kernel], Kernel]] = {
    "forward": result(lambda y, *_: y.bfloat16().to(y.dtype)),
    "exact": result(bias_twice),
    "weight_recovery": given(without_last_output),
    "layout": given(as_if_contiguous),
    "free_parameters": stride_as_factor,
    "batch": result(lambda y, x, *_: y + 0 * x.sum()),
    "gradients": result(double_gradient),
    "special_values": result(lambda y, *_: y.nan_to_num()),
    "purity": result(add_to_input),
    "transforms": result(bias_twice),
    "dense": stride_as_factor,
    "not_equivalent": result(bias_twice),
    "scaling": result(lambda y, *_: y + 2**-8),
    "boundaries": given(sixteen_outputs),
    "convolution": result(bias_twice),
}  # and round_trip, which runs no kernel but once in 24 cases: see below


@cache
def failure(law: str, change: Callable[[Kernel], Kernel], dtype: str = "float32") -> laws.Failure:
    with instead(change):
        found = laws.run_item(item(law, dtype), examples=60, seed=3).failure
    assert found is not None, f"{law} did not notice"
    return found


# --- every law can fail, and says so on one screen --------------------------------------------------------------------


@pytest.mark.parametrize("law", BREAKS)
def test_every_law_fails_for_a_kernel_that_breaks_it(law: str) -> None:
    found = failure(law, BREAKS[law])
    assert (found.law, found.dtype, found.backend) == (law, "float32", "eager.cpu")
    assert found.form in FORMS
    assert found.sentence == laws.LAWS[law].sentence
    assert json.loads(json.dumps(found.to_dict()))["command"] == (
        f"equiv verify --law {law} --dtype float32 --profile dev --examples 60 --seed 3"
    )


def test_round_trip_fails_when_a_mapping_changes_the_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    from equiv.laws.checks import round_trips

    def lossy(*arguments: Any) -> Any:
        layer = right(*arguments)
        layer.weight.data += 1
        return layer

    right = round_trips.conv_to_linear
    monkeypatch.setattr(round_trips, "conv_to_linear", lossy)
    found = laws.run_item(item("round_trip"), examples=5, seed=3).failure
    assert found is not None
    assert found.note == "does not keep the bits of the weight there and back"


def test_every_law_holds_for_torch_itself() -> None:
    found = testing.check_backend(CPU, dtypes=["float32"], examples=4, seed=1)
    assert [result.law for result in found] == list(laws.LAWS)
    assert [result.failure for result in found] == [None] * 16


@pytest.mark.parametrize("law", BREAKS)
def test_a_failure_fits_the_screen_and_its_program_shows_it(law: str) -> None:
    found = failure(law, BREAKS[law])
    assert found.snippet is not None
    said = found.render().splitlines()
    assert found.summary.startswith(f"{law}: {found.form} in float32 on eager.cpu ")
    assert said[0] == found.summary[: len(said[0])]
    assert said[-1] == f"  again: {found.command}"
    program = {f"    {line}".rstrip() for line in found.snippet.splitlines()}
    assert max(len(line) for line in said[:-1] if line not in program) <= 80
    assert max(map(len, program)) <= 80
    assert len(said) <= 50
    with instead(BREAKS[law]), pytest.raises(AssertionError):
        run(found.snippet)
    run(found.snippet)  # torch's own kernel has nothing to show


@pytest.mark.parametrize(
    ("law", "dtype"),
    [
        *(("exact", dtype) for dtype in ("bfloat16", "complex64", "int8", "uint8")),
        *(("layout", dtype) for dtype in ("float64", "complex64")),
        *(("gradients", dtype) for dtype in ("float16", "complex64")),
    ],
)
def test_programs_run_in_other_dtypes(law: str, dtype: str) -> None:
    change = {"exact": result(bias_twice), "layout": given(as_if_contiguous), "gradients": result(double_gradient)}
    found = failure(law, change[law], dtype)
    assert found.snippet is not None
    assert "check_case" not in found.snippet
    with instead(change[law]), pytest.raises(AssertionError, match="not equal"):
        run(found.snippet)
    run(found.snippet)


def test_a_witness_shrinks_to_a_small_layer() -> None:
    found = failure("exact", result(bias_twice))
    assert found.shapes == "input (1,), weight (1, 1), bias (1,)"
    assert found.cause is None or "bias" in found.cause.sentence


# --- the runner -------------------------------------------------------------------------------------------------------


class Recording(TorchEager):
    """torch's kernels; keeps what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.name = "recording"
        self.calls: list[tuple[Any, ...]] = []

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        self.calls.append((tuple(input.shape), input.sum().item(), tuple(weight.shape), weight.sum().item()))
        return super().linear(input, weight, bias)


def calls(seed: int, law: str = "exact") -> list[tuple[Any, ...]]:
    backend = Recording()
    found = item(law, backend=backend)
    backend.calls.clear()
    laws.run_item(found, examples=20, seed=seed)
    return backend.calls


def test_a_seed_repeats_a_run_and_another_one_does_not() -> None:
    assert calls(1) == calls(1)
    assert calls(1) != calls(2)
    assert calls(1) != calls(1, "forward")


def test_a_derandomized_profile_has_a_seed_of_its_own_and_the_others_draw_one() -> None:
    assert {laws.run_item(item("exact"), profile="gate", examples=1).seed for _ in range(3)} == {0}
    assert len({laws.run_item(item("exact"), profile="dev", examples=1).seed for _ in range(3)}) == 3


def test_the_number_of_examples_is_the_profiles_times_the_weight_of_the_law() -> None:
    assert laws.run_item(item("exact", "int8"), seed=1).examples == round(25 * laws.LAWS["exact"].weight)
    assert laws.run_item(item("exact", "int8"), examples=7, seed=1).examples == 7


def test_a_result_has_tallies_coverage_and_plain_types() -> None:
    found = laws.run_item(item("forward"), examples=9, seed=2)
    assert set(found.forms) == set(FORMS)
    for tally in found.forms.values():
        assert tally.judged == tally.identical + tally.rounding + tally.undecided + tally.different == 9
        assert 0 <= tally.max_ratio <= 1
    assert sum(found.coverage["n modulo 8"].values()) == 9
    assert json.loads(json.dumps(found.to_dict()))["item"] == "forward-all-float32-eager.cpu"


def test_listeners_hear_every_result() -> None:
    heard: list[laws.Result] = []
    laws.listeners.append(heard.append)
    try:
        found = laws.run_item(item("exact"), examples=1, seed=1)
    finally:
        laws.listeners.remove(heard.append)
    assert heard == [found]


def raises(error: BaseException) -> Kernel:
    def kernel(*_: Any, **__: Any) -> Tensor:
        raise error

    return kernel


ODD: dict[str, Kernel] = {
    "raises": raises(RuntimeError("out of order")),
    "raises nothing to say": raises(ValueError()),
    "asserts": raises(AssertionError("no")),
    "returns None": lambda *_, **__: None,  # type: ignore[arg-type, return-value]
    "returns an array": lambda x, *_, **__: x.numpy(),
    "returns a number": lambda *_, **__: 0.0,  # type: ignore[arg-type, return-value]
    "another shape": lambda *_, **__: torch.zeros(3, 3, 3, 3, 3),
    "another dtype": lambda x, w, *_, **__: torch.zeros(*x.shape[:-1], len(w), dtype=torch.float64),
    "meta": lambda x, w, *_, **__: torch.zeros(*x.shape[:-1], len(w), device="meta"),
    "sparse": lambda x, w, *_, **__: torch.zeros(*x.shape[:-1], len(w)).to_sparse(),
}


@pytest.mark.parametrize("name", ODD)
def test_whatever_a_backend_does_is_a_failure_and_no_exception(name: str) -> None:
    found = testing.check_backend(Odd(ODD[name]), examples=5, seed=1)
    assert len(found) == 14  # all but the two laws about torch's modules
    for result in found:
        if (name, result.law) == ("returns an array", "gradients"):
            assert result.outcome == "not asked"  # it hands leaves to NumPy, which refuses them
            continue
        assert result.failure is not None, result.law
        assert result.failure.note
        assert result.failure.render()


def test_interrupts_pass_through() -> None:
    with pytest.raises(KeyboardInterrupt):
        testing.check_backend(Odd(raises(KeyboardInterrupt())), laws=["exact"], examples=5, seed=1)


def test_a_backend_that_fails_now_and_then_is_said_to() -> None:
    count = iter(range(10**9))

    def kernel(x: Tensor, w: Tensor, b: Tensor | None = None, **_: Any) -> Tensor:
        y = x.reshape(-1, w[0].numel()) @ w.reshape(len(w), -1).T
        y = y if b is None else y + b
        y = y + (1 if next(count) == 10 else 0)
        return y.reshape(*x.shape[:-1], len(w)) if w.ndim == 2 else y.reshape(len(x), len(w), *(1,) * (w.ndim - 2))

    (found,) = testing.check_backend(Odd(kernel), laws=["exact"], examples=20, seed=1)
    assert found.failure is not None
    assert found.failure.note.endswith("it does not fail every time: the backend gives other results to the same call")


def test_a_check_raises_a_report_as_an_assertion() -> None:
    (check,) = testing.checks(Odd(ODD["raises"]), laws=["exact"])
    with pytest.raises(
        testing.LawBroken, match=r"^exact: linear in float32 on odd raises RuntimeError: out of"
    ) as caught:
        check()
    assert isinstance(caught.value, AssertionError)
    assert caught.value.result.failure is not None
    assert str(caught.value).split() == caught.value.result.failure.render().split()


# --- items ------------------------------------------------------------------------------------------------------------


def test_ids_are_stable_unique_and_say_what_they_are() -> None:
    found = laws.items([CPU])
    ids = [one.id for one in found]
    assert len(ids) == len({*ids})
    assert ids == [one.id for one in laws.items([TorchEager()])]
    assert all(re.fullmatch(r"[a-z_]+-(all|linear|full|pointwise)-[a-z]+[0-9]+-eager\.cpu", one) for one in ids)
    assert [one.law.number for one in found] == sorted(one.law.number for one in found)
    per_law = Counter(one.law.id for one in found)
    kinds = {"float": 4, "complex": 2, "integer": 5}
    assert per_law == {law.id: sum(kinds[kind] for kind in law.kinds) for law in laws.LAWS.values()}
    assert set(BY_NAME.values()) == set(DTYPES)
    assert laws.items([CPU], forms=["full"], laws=["exact"], dtypes=[torch.int8])[0].id == "exact-full-int8-eager.cpu"


def test_a_backend_is_asked_what_it_serves_or_tried_once() -> None:
    class Linear(Odd):
        def supports(self, dtype: torch.dtype, form: str) -> bool:
            return form == "linear" and dtype == torch.float64

    found = laws.items([Linear(KERNELS["linear"])])
    assert {one.word for one in found} == {"float64"}
    assert {one.forms for one in found} == {("linear",)}
    assert {"dense", "not_equivalent", "free_parameters"}.isdisjoint(one.law.id for one in found)

    class Floats(Recording):
        transforms = False

        def conv(self, input: Tensor, *_: Any, **__: Any) -> Tensor:
            raise NotImplementedError

    found = laws.run_item(laws.items([Floats()], laws=["exact"], dtypes=["float32"])[0], examples=2, seed=1)
    assert {*found.forms} == {"linear"}
    assert {(one.what, one.form, one.how) for one in found.not_asked} == {
        ("dtypes", "full", "found"),
        ("dtypes", "pointwise", "found"),
    }


def test_backends_that_come_and_go_are_not_mistaken_for_each_other() -> None:
    """Addresses are used again: what a backend serves must not be remembered by its address."""

    class One(Recording):
        def __init__(self, served: torch.dtype) -> None:
            super().__init__()
            self.served = served

        def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
            if input.dtype != self.served:
                raise NotImplementedError
            return super().linear(input, weight, bias)

    for dtype in (torch.float32, torch.int8, torch.float64) * 3:
        planned = laws.items([One(dtype)], laws=["exact"], forms=["linear"], dtypes=["float32", "float64", "int8"])
        found = [laws.run_item(one, examples=1, seed=1) for one in planned]
        assert [one.dtype for one in found if one.outcome == "holds"] == [dtype_name(dtype)]


# --- registry and profiles --------------------------------------------------------------------------------------------


def test_there_are_sixteen_laws_numbered_in_order_each_one_sentence() -> None:
    assert [law.number for law in laws.LAWS.values()] == list(range(1, 17))
    for name, law in laws.LAWS.items():
        assert law.id == name == law.check.__name__
        assert law.sentence.endswith(".")
        assert law.sentence.count(". ") == 0
        assert 20 <= len(law.sentence) <= 160
        assert set(law.forms) <= set(FORMS)
        assert set(law.kinds) <= {"float", "complex", "integer"}
        assert law.weight > 0
    assert set(BREAKS) | {"round_trip"} == set(laws.LAWS)


def test_a_profile_of_the_host_changes_no_run() -> None:
    before = settings.get_current_profile_name()
    alone = cases_of("exact")
    settings.register_profile("a host", max_examples=3, derandomize=True, phases=[Phase.reuse], database=None)
    settings.load_profile("a host")
    try:
        assert cases_of("exact") == alone
    finally:
        settings.load_profile(before)
        del settings._profiles["a host"]
    assert len(alone) == round(80 * laws.LAWS["exact"].weight)


def test_running_the_laws_changes_no_setting_and_registers_no_profile() -> None:
    before = (settings.default, settings.get_current_profile_name(), {*settings._profiles})
    testing.check_backend(CPU, laws=["exact"], dtypes=["float32"], profile="gate", examples=2)
    assert (settings.default, settings.get_current_profile_name(), {*settings._profiles}) == before


def cases_of(name: str) -> list[str]:
    drawn: list[str] = []
    (item,) = laws.items([TorchEager()], laws=[name], dtypes=["float32"])
    watched = replace(item, law=replace(item.law, check=lambda trial, case: drawn.append(repr(case))))
    laws.run_item(watched, profile="gate", seed=3)
    return drawn


def test_a_run_draws_the_same_cases_whatever_code_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hypothesis by itself draws one in twenty numbers from the constants of local modules."""
    before = cases_of("boundaries")
    (tmp_path / "full_of_numbers.py").write_text(f"NUMBERS = {list(range(2, 400))}\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("full_of_numbers")
    providers = importlib.import_module("hypothesis.internal.conjecture.providers")
    assert 397 in providers._get_local_constants().set_for_type("integer")
    assert cases_of("boundaries") == before
    assert 397 in providers._get_local_constants().set_for_type("integer")  # and is left as it was
