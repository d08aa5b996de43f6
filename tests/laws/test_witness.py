"""What is shown of a broken law: the smallest case there is, and a program that fails."""

from __future__ import annotations

import contextlib
import io
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from kernels import CPU, KERNELS, Kernel, Odd, instead, item, run
from torch import Tensor

from equiv import EquivError, laws, testing
from equiv.laws import SizedCase, check_case
from equiv.laws.witness.replay import tried
from equiv.laws.witness.smaller import smaller
from equiv.laws.witness.snippet import call_lines
from equiv.laws.witness.source import WIDTH, folded
from equiv.strategies import Layout, Recipe, Values, Window, build_case

Change = Callable[[Kernel], Kernel]


def where(condition: Callable[[Tensor, Tensor], bool]) -> Change:
    """A kernel that adds 1 where a condition on input and weight is met."""

    def around(kernel: Kernel) -> Kernel:
        def wrong(x: Tensor, w: Tensor, b: Tensor | None = None, *more: Any, **options: Any) -> Tensor:
            y = kernel(x, w, b, *more, **options)
            return y + 1 if condition(x, w) else y

        return wrong

    return around


class _Doubled(torch.autograd.Function):
    """The identity, with a gradient that is right and a derivative of the gradient that is twice too large."""

    @staticmethod
    def forward(_: Any, y: Tensor) -> Tensor:
        return y.clone()

    @staticmethod
    def backward(_: Any, grad: Tensor) -> Tensor:
        found: Tensor = _Back.apply(grad)
        return found


class _Back(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, grad: Tensor) -> Tensor:
        return grad.clone()

    @staticmethod
    def backward(_: Any, grad: Tensor) -> Tensor:
        return 2 * grad


def second_order(kernel: Kernel) -> Kernel:
    return lambda *a, **k: _Doubled.apply(kernel(*a, **k))


def found_by(law: str, change: Change, examples: int = 200, dtype: str = "float32") -> laws.Failure:
    with instead(change):
        found = laws.run_item(item(law, dtype), examples=examples, seed=3).failure
    assert found is not None, f"{law} did not notice"
    return found


# --- as small as it gets ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("law", ["exact", "forward", "boundaries", "gradients"])
def test_a_fault_of_some_numbers_of_outputs_is_shown_with_the_smallest(law: str) -> None:
    found = found_by(law, where(lambda _, w: len(w) % 8 == 7))
    assert "weight (7, 1)" in found.shapes


@pytest.mark.parametrize(
    ("condition", "least"),
    [
        (lambda x, w: w[0].numel() % 16 == 5, (1, 1, 5)),
        (lambda x, w: x.numel() // w[0].numel() in (6, 30), (6, 1, 1)),
        (lambda x, w: len(w) > 20 and w[0].numel() > 60, (1, 21, 61)),
        (lambda x, w: len(w) in (65, 127), (1, 65, 1)),
        (lambda x, w: len(w) > 70, (1, 71, 1)),
    ],
)
def test_every_size_becomes_the_smallest(
    condition: Callable[[Tensor, Tensor], bool], least: tuple[int, int, int]
) -> None:
    change = where(condition)
    with instead(change):
        broken, case = _start("exact", 30, 127, (117, 1, 1))
        _, found = smaller(broken, case, item=item("exact"))
    outputs, n = found.weight.shape
    assert (found.x.numel() // n, outputs, n) == least
    assert found.bias is None


def _start(law: str, rows: int, outputs: int, shape: tuple[int, ...]) -> tuple[laws.Broken, Any]:
    probe = Values("probe", 7, Window(end=40, length=30))
    places = (Layout("step"), Layout("offset", 3), Layout("contiguous"), Layout("permuted"))
    case = build_case(Recipe(shape, outputs, (rows,), probe, probe, probe, 7, "dense", layouts=places))
    broken = tried(item(law), case)
    assert broken is not None
    return broken, case


def test_what_needs_a_layout_keeps_it() -> None:
    change = where(lambda x, w: x.numel() > 1 and not x.is_contiguous())
    with instead(change):
        broken, case = _start("layout", 5, 31, (9, 1))
        least, kept = smaller(broken, case, item=only_linear("layout"), seconds=30)
    assert least.call is not None
    assert not least.call.input.is_contiguous()
    assert kept.weight.numel() < case.weight.numel()


def only_linear(law: str) -> laws.Item:
    return replace(item(law), forms=("linear",))


def test_trials_are_counted() -> None:
    this = only_linear("exact")
    with instead(where(lambda _, w: len(w) > 1)):
        broken, case = _start("exact", 30, 127, (128, 1))
        checks = []

        def check(trial: laws.Trial, case: Any) -> None:
            checks.append(case)
            this.law.check(trial, case)

        counted = replace(this, law=replace(this.law, check=check))
        _, least = smaller(broken, case, item=counted, trials=9)
        assert len(checks) == 9
        assert smaller(broken, case, item=this, seconds=-1) == (broken, case)
        assert smaller(broken, "no case", item=this) == (broken, "no case")
    assert least.x.numel() < case.x.numel()
    assert smaller(broken, case, item=this) == (broken, case)  # it does not fail here


def test_a_map_with_several_positions_keeps_several() -> None:
    """One position is no case of this law: there a 1x1 convolution is the layer."""
    found = found_by("not_equivalent", where(lambda x, w: w.ndim > 2 and x.shape[-1] > 2))
    assert "input (3, 1, 3)" in found.shapes


# --- programs ---------------------------------------------------------------------------------------------------------

WIDE = where(lambda x, w: len(w) > 20 and x.numel() > 30)
BATCHED = where(lambda x, _: torch._C._functorch.is_batchedtensor(x))


@pytest.mark.parametrize(
    ("law", "change", "again"),
    [
        ("exact", WIDE, False),
        ("forward", WIDE, False),
        ("special_values", WIDE, None),
        ("dense", WIDE, False),
        ("gradients", WIDE, None),
        ("transforms", BATCHED, True),
        ("gradients", second_order, True),
        ("weight_recovery", WIDE, None),
        ("batch", WIDE, None),
        ("purity", where(lambda x, w: bool(torch.rand(()) < 0.5) and x.requires_grad), None),
        ("scaling", where(lambda x, w: bool((x < 0).any())), None),
        ("layout", where(lambda x, w: len(w) > 20 and not x.is_contiguous()), None),
    ],
)
def test_every_failure_ends_in_a_program_that_fails(law: str, change: Change, again: bool | None) -> None:
    if law == "purity":
        change = _remembers
    found = found_by(law, change)
    assert found.snippet is not None
    assert again is None or ("check_case" in found.snippet) is again
    assert max(len(line) for line in found.render().splitlines()[:-1]) <= 80
    with instead(change), pytest.raises(AssertionError):
        run(found.snippet)
    run(found.snippet)  # torch's own kernels pass


def _remembers(kernel: Kernel) -> Kernel:
    """A kernel that adds what it returned the last time."""
    last: list[Tensor] = []

    def wrong(*a: Any, **k: Any) -> Tensor:
        y = kernel(*a, **k)
        before = last[0] if last and last[0].shape == y.shape else 0
        last[:] = [y + 1]
        return y + before

    return wrong


def test_the_wrong_entry_of_many_is_shown_with_its_neighbours() -> None:
    change = where(lambda x, w: len(w) > 20)
    found = found_by("exact", change)
    assert found.snippet is not None
    out = io.StringIO()
    with instead(change), contextlib.redirect_stdout(out), pytest.raises(AssertionError):
        exec(compile(found.snippet, "<witness>", "exec"), {})
    assert len(out.getvalue().splitlines()) <= 5
    assert "actual" in out.getvalue()


class Mine(Odd):
    """A backend in a module of its own, whose constructor needs nothing."""

    def __init__(self) -> None:
        super().__init__(KERNELS["linear"])
        self.name = "mine"

    def conv(self, input: Tensor, weight: Tensor, bias: Tensor | None = None, **options: Any) -> Tensor:
        y = CPU.conv(input, weight, bias, **options)
        return y + 1 if weight.shape[1] > 3 else y


def test_the_program_of_ones_own_backend_imports_it(monkeypatch: pytest.MonkeyPatch) -> None:
    home = types.ModuleType("somebodys_kernels")
    home.Mine = Mine  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "somebodys_kernels", home)
    monkeypatch.setattr(Mine, "__module__", "somebodys_kernels")
    (found,) = testing.check_backend(Mine(), laws=["exact"], examples=100, seed=1)
    assert found.failure is not None
    assert found.failure.snippet is not None
    assert "from somebodys_kernels import Mine\n" in found.failure.snippet
    assert "weight (1, 4, 1)" in found.failure.shapes
    with pytest.raises(AssertionError):
        run(found.failure.snippet)


def test_a_backend_that_cannot_be_imported_has_its_place_marked() -> None:
    (found,) = testing.check_backend(Odd(lambda x, w, *_: x @ w.T + 1), laws=["exact"], examples=20, seed=1)
    assert found.failure is not None
    assert found.failure.snippet is not None
    with pytest.raises(NotImplementedError, match=r"put odd here, an instance of kernels\.Odd"):
        run(found.failure.snippet)


def test_what_a_backend_raises_is_raised_by_the_program() -> None:
    def change(kernel: Kernel) -> Kernel:
        def raises(x: Tensor, w: Tensor, *more: Any, **options: Any) -> Tensor:
            if w.numel() > 1:
                raise RuntimeError("out of order")
            return kernel(x, w, *more, **options)

        return raises

    found = found_by("exact", change)
    assert found.snippet is not None
    with instead(change), pytest.raises(RuntimeError, match="out of order"):
        run(found.snippet)


def test_the_program_of_a_slid_kernel_compares_every_window() -> None:
    """Several channels, outputs and positions, where rows and outputs could be mixed up."""
    x = torch.arange(2.0 * 2 * 3 * 4).reshape(2, 2, 3, 4)[:, :, :, ::2]
    weight = torch.arange(8.0).reshape(2, 2, 2, 1)

    def lines(x: Tensor) -> list[str] | None:
        call = laws.Call("full", x, weight, torch.ones(2), stride=(1, 1), dilation=(1, 1))
        broken = laws.Broken(laws.Mismatch(1.0, 0.0, (0, 0)), form="full", call=call)
        return call_lines(broken, functional=True)

    assert lines(torch.arange(80.0).reshape(2, 2, 5, 4)) is None  # too many entries to write down
    found = lines(x[:1])
    assert found is not None
    head = "import torch, equiv\nfrom torch.nn import functional as F\n"
    names = run(head + "\n".join(part for line in found for part in folded(line)))
    assert names["y"].shape == (4, 2)
    assert torch.equal(names["y"], names["exact"])
    assert names["x"].tolist() == x[:1].tolist()
    assert names["x"].stride() == x.stride()


# --- one case again ---------------------------------------------------------------------------------------------------


def test_a_case_can_be_checked_again() -> None:
    case = build_case(Recipe((3, 2), 4, (2,), Values("probe"), Values("probe"), style="dense"))
    check_case("exact", case)
    check_case("exact", case, forms=["full"])
    with (
        instead(where(lambda *_: True)),
        pytest.raises(AssertionError, match=r"^exact: full in float32 on eager.cpu returns .*, exact is .*, at \[.*\]"),
    ):
        check_case("exact", case, forms=["full"])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("exakt", None), "law: expected one of forward, exact"),
        (("exact", None), "case: expected a case, got None; pass equiv.strategies.build_case"),
    ],
)
def test_a_wrong_argument_is_named(arguments: tuple[Any, Any], text: str) -> None:
    with pytest.raises(EquivError, match=text):
        check_case(*arguments)
    case = build_case(Recipe((3, 2), 4, (), Values("zeros"), Values("zeros"), dtype=torch.int8))
    with pytest.raises(EquivError, match="case: expected a dtype that is float or complex for gradients"):
        check_case("gradients", case)
    with pytest.raises(EquivError, match="forms: expected one of linear, full, pointwise, got 'no'"):
        check_case("exact", case, forms=["no"])


# --- source -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "case",
    [
        build_case(Recipe((1, 2, 3), 127, (4, 5), Values("distinct", 3), Values("normals", 9, Window(3, None, 1)))),
        build_case(Recipe((1, 1), 1, (), Values("zeros"), Values("zeros"), layouts=(Layout("step", 4),) * 4)),
        SizedCase((1,), 2, 3, (2, 1), True, "dense", 2**31, torch.bfloat16, "cpu"),
    ],
)
def test_the_source_of_a_case_makes_it_again(case: object) -> None:
    code = "\n".join(folded(repr(case)))
    assert max(map(len, code.splitlines())) <= WIDTH
    kinds = {kind.__name__: kind for kind in (Recipe, Values, Window, Layout, SizedCase, build_case, torch)}
    assert repr(eval(code, kinds)) == repr(case)


@pytest.mark.parametrize(
    "line",
    [
        "x = torch.tensor([" + ", ".join(map(str, range(100, 200))) + "], dtype=torch.float32)",
        "    y = f(" + ", ".join(["'a b c'", "(1, 2, 3)"] * 12) + ")[0]",
        "z = 1",
    ],
)
def test_a_long_line_is_folded_inside_its_brackets(line: str) -> None:
    assert max(map(len, folded(line))) <= WIDTH
    source = "\n".join(folded(line)).lstrip()
    assert " ".join(part.strip() for part in folded(line)) == line.strip()
    compile(source, "<folded>", "exec")
