"""What a failure carries so that it is seen again: its case as text, a backend made anew, where it comes from."""

from __future__ import annotations

import copy
import importlib
import json
import multiprocessing
import pickle
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from kernels import KERNELS, Odd, instead, item, run
from torch import Tensor

from equiv import EquivError, laws, testing
from equiv.backends import TorchEager
from equiv.laws import Broken, Call, Mismatch, SizedCase, profiles
from equiv.laws.witness import case_text, read_case
from equiv.laws.witness.rebuild import sources
from equiv.laws.witness.sparser import sparser
from equiv.strategies import Layout, Recipe, Values, Window, build_case

CASES = [
    build_case(Recipe((1, 2, 3), 7, (4, 5), Values("distinct", 3), Values("normals", 9, Window(3, None, 1)))),
    build_case(
        Recipe((1, 1), 1, (), Values("zeros", edits=((0, -3),)), Values("zeros"), layouts=(Layout("step", 4),) * 4)
    ),
    build_case(
        Recipe((2, 1), 3, (0,), Values("probe"), Values("probe"), Values("probe"), 9, "dense", True, torch.int8)
    ),
    SizedCase((1,), 2, 3, (2, 1), True, "dense", 2**31, torch.bfloat16, "cpu"),
]


# --- a case as text ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_a_case_survives_as_one_line_of_json(case: Any) -> None:
    text = case_text("exact", case)
    assert text is not None
    assert "\n" not in text
    assert json.loads(text)["law"] == "exact"
    found = read_case(text)
    assert (found.law, repr(found.case)) == ("exact", repr(case))
    if not isinstance(case, SizedCase):
        assert torch.equal(found.case.x, case.x)


def test_a_case_of_an_unknown_class_has_no_text() -> None:
    assert case_text("exact", (1, 2)) is None


TEXT = case_text("exact", CASES[0]) or ""


@pytest.mark.parametrize(
    "text",
    [
        *["", "{}", "[]", "1", "null", '{"law": "exact", "case": 1}', TEXT.replace("exact", "exakt"), TEXT[:-1]],
        *[TEXT.replace("Recipe", "Path"), TEXT.replace("distinct", "os.system"), TEXT.replace("[4,5]", "4")],
    ],
)
def test_a_text_that_holds_no_case_is_refused(text: str) -> None:
    with pytest.raises(EquivError):
        read_case(text)


def test_a_case_is_tried_first_and_alone_if_it_fails() -> None:
    kernel = Odd(lambda x, w, b=None: KERNELS["linear"](x, w, b) + (len(w) == 7))
    text = case_text("exact", replace_style(CASES[0]))
    this = replace(item("exact", backend=kernel), forms=("linear",))
    assert text is not None
    found = laws.run_item(this, examples=1, seed=1, first=[text])
    assert found.examples == 1
    assert found.failure is not None
    assert found.failure.stored is not None
    assert found.failure.attempt is not None
    assert found.failure.attempt.case == found.failure.stored
    assert laws.run_item(this, examples=1, seed=1).failure is None
    for other in (text.replace('"exact"', '"forward"'), text.replace('"style"', '"dtype":"float64","style"')):
        assert laws.run_item(this, examples=1, seed=1, first=[other]).failure is None  # a case of another item
    assert laws.run_item(item("exact"), examples=3, seed=1, first=[text]).examples == 4  # it holds: others are drawn


def replace_style(case: Any) -> Any:
    return build_case(replace(case.recipe, x=Values("probe"), weight=Values("probe"), style="dense"))


# --- the database of the deep profile ---------------------------------------------------------------------------------


def test_the_deep_profile_tries_what_failed_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiles, "_STORAGE", tmp_path / "examples")
    sizes: list[int] = []

    def check(trial: laws.Trial, case: Any) -> None:
        sizes.append(len(case.weight))
        trial.holds(len(case.weight) < 300, "linear", "is wrong for many outputs")

    this = item("exact", "int8")
    this = replace(this, law=replace(this.law, check=check))
    assert laws.run_item(this, profile="deep", examples=200, seed=1).failure is not None
    assert list((tmp_path / "examples").iterdir())
    drawn = next(number for number, size in enumerate(sizes) if size >= 300)
    assert drawn > 0
    for seed in range(2, 5):
        sizes.clear()
        assert laws.run_item(this, profile="deep", examples=200, seed=seed).failure is not None
        assert sizes[0] >= 300  # before any is drawn
    sizes.clear()
    laws.run_item(this, profile="gate", examples=1)
    assert sizes[0] < 300  # the others keep nothing


# --- pickles and copies -----------------------------------------------------------------------------------------------


def broken_result() -> laws.Result:
    (found,) = testing.check_backend(Odd(lambda x, w, *_: x @ w.T + 1), laws=["exact"], examples=20, seed=1)
    return found


def _echo(connection: Any) -> None:
    connection.send(connection.recv())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_a_broken_law_survives_a_copy(copied: Any) -> None:
    error = testing.LawBroken(broken_result())
    found = copied(error)
    assert type(found) is testing.LawBroken
    assert str(found) == str(error)
    assert found.result == error.result
    assert copied(error.result.failure) == error.result.failure
    weight = torch.ones(2, 2, requires_grad=True) * 2
    call = Call("linear", torch.ones(1, 2), weight, None)
    gradient = ("weight", torch.ones(1, 2))
    broken = Broken(Mismatch(1.0, 2.0, (0, 1), gradient=gradient), form="linear", call=call, condition="x padded")
    again = copied(broken)
    assert (str(again), again.form, again.condition) == (str(broken), "linear", "x padded")
    assert torch.equal(again.call.weight, weight)
    assert again.mismatch.index == (0, 1)
    odd = Broken("raises", form="full", error=_UnpicklableError(1, 2))
    assert (str(copied(odd)), copied(odd).error) == ("raises", None)


class _UnpicklableError(Exception):
    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")


def test_a_broken_law_crosses_to_another_process_and_back() -> None:
    here, there = multiprocessing.get_context("fork").Pipe()
    error = testing.LawBroken(broken_result())
    here.send(error)
    _echo(there)
    assert str(here.recv()) == str(error)


def test_what_was_raised_stays_here() -> None:
    this = item("exact", backend=Odd(_out_of_order))
    found = laws.run_item(this, examples=5, seed=1)
    assert isinstance(found.raised, RuntimeError)
    assert pickle.loads(pickle.dumps(found)).raised is None
    assert "raised" not in found.to_dict()
    with pytest.raises(testing.LawBroken) as caught:
        testing.Check(this)()
    cause = caught.value.__cause__
    assert isinstance(cause, RuntimeError)
    assert cause.__traceback__ is not None
    assert cause.__traceback__.tb_frame.f_code.co_name == "linear"  # of Odd, where equiv called it


def _out_of_order(*_: Any, **__: Any) -> Tensor:
    raise RuntimeError("out of order")


# --- where it comes from ----------------------------------------------------------------------------------------------


def test_a_failure_names_the_line_that_raised_or_the_method() -> None:
    raised = laws.run_item(item("exact", backend=Odd(_out_of_order)), examples=5, seed=1).failure
    assert raised is not None
    assert raised.code.startswith("tests/laws/test_again.py:")
    assert raised.code.endswith('in _out_of_order: raise RuntimeError("out of order")')
    assert raised.traceback.endswith("RuntimeError: out of order")
    assert "trial.py" not in raised.traceback
    wrong = broken_result().failure
    assert wrong is not None
    assert wrong.code.startswith("tests/helpers/kernels.py:")
    assert wrong.code.endswith("in Odd.linear")
    assert wrong.traceback == ""


# --- a backend made anew ----------------------------------------------------------------------------------------------

MODULE = """
import enum, torch
from dataclasses import dataclass
from torch.nn import functional as F

class Mode(enum.Enum):
    FAST = 1

def helper(y): return y + 1

class Base:
    device = torch.device("cpu")
    transforms = False
    name = "mine"
    def supports(self, dtype, form): return form == "linear"
    def linear(self, input, weight, bias=None): return F.linear(input, weight, bias) + self.wrong()
    def conv(self, *a, **k): raise NotImplementedError
    def wrong(self): return 1

class Arguments(Base):
    def __init__(self, mode, dtype=None, *, by=0, hook=None, names=()):
        self.mode, self.dtype, self.by, self.hook, self.names = mode, dtype, by, hook, names
    def wrong(self): return self.by

class Defaults(Base):
    def __init__(self, by=0): self.kept = by
    def wrong(self): return self.kept

class Nothing(Base): pass

@dataclass(frozen=True)
class Data(Base):
    by: int
    name: str = "data"

class Holder(Base):
    def __init__(self, secret): self.secret = object()

HELD = Holder(3)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    tmp_path.joinpath("their_kernels.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("their_kernels")
    del sys.modules["their_kernels"]


def test_a_program_makes_the_backend_again(module: Any) -> None:
    cases = {
        "Nothing()": module.Nothing(),
        "Arguments(mode=Mode.FAST, dtype=torch.float16, by=2, hook=helper, names=('a',))": module.Arguments(
            module.Mode.FAST, torch.float16, by=2, hook=module.helper, names=("a",)
        ),
        "Data(by=2, name='data')": module.Data(2),
        "HELD": module.HELD,
        "(lambda made: (vars(made).update({'kept': 5}), made)[1])(Defaults.__new__(Defaults))": module.Defaults(5),
    }
    for expression, backend in cases.items():
        (found,) = testing.check_backend(backend, laws=["exact"], dtypes=["float32"], examples=10, seed=1)
        assert found.failure is not None, expression
        assert found.failure.snippet is not None
        said = " ".join(found.failure.snippet.split())
        assert f"backend = {expression}" in said
        with pytest.raises(AssertionError, match="not equal"):
            run(found.failure.snippet)


def test_a_backend_that_nothing_makes_again_says_what_to_put_in_its_place(module: Any) -> None:
    (found,) = testing.check_backend(module.Holder(2), laws=["exact"], dtypes=["float32"], examples=10, seed=1)
    assert found.failure is not None
    assert found.failure.snippet is not None
    with pytest.raises(NotImplementedError, match=r"put mine here, an instance of their_kernels\.Holder"):
        run(found.failure.snippet)


def test_torchs_own_backend_is_made_by_its_class() -> None:
    (source,) = sources(TorchEager("cpu"))
    assert source.expression == "TorchEager()"
    assert source.imports == ["from equiv.backends import TorchEager"]


def test_a_warning_that_is_an_error_is_one_in_the_program_too() -> None:
    def warns(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        warnings.warn("slow", UserWarning, stacklevel=1)
        return KERNELS["linear"](x, w, b)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        this = replace(item("exact", backend=Odd(warns)), forms=("linear",))
        found = laws.run_item(this, examples=5, seed=1).failure
    assert found is not None
    assert found.note == "raises UserWarning: slow"
    assert found.snippet is not None
    assert "warnings.simplefilter('error')" in found.snippet


# --- few numbers ------------------------------------------------------------------------------------------------------


def test_numbers_that_do_not_matter_become_zeros_and_ones() -> None:
    def change(kernel: Any) -> Any:
        return lambda x, w, b=None, *a, **k: kernel(x, w, b, *a, **k) + bool((w > 2).any()) * bool((x < 0).any())

    x, weight = -torch.arange(1.0, 7).reshape(2, 3), torch.arange(12.0).reshape(4, 3)
    call = Call("linear", x, weight, torch.ones(4))
    broken = Broken(Mismatch(1.0, 0.0, (0, 0)), form="linear", call=call, condition="x padded")
    with instead(change):
        found = sparser(broken, item("exact"))
        assert sparser(broken, item("exact"), trials=0) is broken
    assert found.call is not None
    assert [int((t != 0).sum()) for t in (found.call.input, found.call.weight, found.call.bias)] == [1, 1, 0]
    assert str(found).endswith("x padded")
    assert found.mismatch is not None
    assert found.mismatch.expected + 1 == found.mismatch.actual
    assert sparser(broken, item("exact")) is broken  # torch's own kernel does not fail
    assert x.tolist() == [[-1, -2, -3], [-4, -5, -6]]


def test_strides_and_what_lies_around_are_kept() -> None:
    def change(kernel: Any) -> Any:
        return lambda x, w, b=None, *a, **k: kernel(x, w, b, *a, **k) + (not x.is_contiguous())

    memory = torch.full((3, 4), torch.nan)
    x = memory[:, :2].copy_(torch.arange(6.0).reshape(3, 2))
    broken = Broken(Mismatch(1.0, 0.0, (0, 0)), form="linear", call=Call("linear", x, torch.ones(1, 2), None))
    with instead(change):
        found = sparser(broken, item("exact"))
    assert found.call is not None
    assert found.call.input.stride() == (4, 1)
    assert found.call.input.count_nonzero() == 0


@pytest.mark.parametrize("law", ["exact", "boundaries", "gradients", "forward"])
def test_simple_defects_are_shown_with_at_most_four_numbers(law: str) -> None:
    def tail(kernel: Any) -> Any:
        return lambda x, w, b=None, *a, **k: kernel(
            x, w * (torch.arange(len(w)) < len(w) // 8 * 8).view(-1, *[1] * (w.ndim - 1)), b, *a, **k
        )

    def dropped(kernel: Any) -> Any:
        return lambda x, w, b=None, *a, **k: kernel(x, w, b if len(w) < 9 else None, *a, **k)

    def short(kernel: Any) -> Any:
        return lambda x, w, b=None, *a, **k: kernel(x, w.bfloat16().to(w.dtype) if len(w) > 16 else w, b, *a, **k)

    for change in (tail, dropped, short):
        with instead(change):
            found = laws.run_item(item(law), examples=60, seed=2).failure
            assert found is not None
            assert found.snippet is not None
            with pytest.raises(AssertionError) as caught:
                run(found.snippet)
        names = caught.tb.tb_next.tb_frame.f_globals
        given = [names[name] for name in ("x", "weight", "bias", "grad") if names.get(name) is not None]
        assert sum(int((t != 0).sum()) for t in given) <= 4, found.snippet


def test_the_command_of_a_call_is_the_call() -> None:
    found = broken_result().failure
    assert found is not None
    assert found.command == (
        "equiv.testing.check_backend(backend, laws=['exact'], dtypes=['float32'], profile='dev', examples=20, seed=1)"
    )
    call = found.command.replace("equiv.testing.", "testing.")
    (again,) = eval(call, {"testing": testing, "backend": Odd(lambda x, w, *_: x @ w.T + 1)})
    assert again.failure == found


def test_the_command_of_torchs_own_backend_names_forms_arithmetic_and_case() -> None:
    def change(kernel: Any) -> Any:
        return lambda *a, **k: kernel(*a, **k) + 1

    this = replace(item("exact"), forms=("full",))
    with instead(change):
        found = laws.run_item(this, examples=2, seed=1, arithmetic="measured").failure
        assert found is not None
        kept = laws.run_item(this, examples=2, seed=1, first=[found.stored or ""]).failure
    assert kept is not None
    options = "--profile dev --examples 2 --seed 1"
    assert found.command == f"equiv verify --law exact --dtype float32 --form full {options} --arithmetic measured"
    assert kept.command == f"equiv verify --law exact --dtype float32 --form full {options} --case '{kept.stored}'"
