"""Machine-written kernels: right ones pass however they are written, cheats do not, and refusals are no errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

import equiv
from equiv.testing import LawBroken, backendbench_kernels, check_kernel, kernelbench_problem, parametrize_kernel
from equiv.testing.candidates import kernel_backend

QUICK: dict[str, Any] = {"laws": ["exact", "purity"], "examples": 3, "seed": 1}


def held(found: Any) -> bool:
    assert found.holds == (not found.failures)
    return bool(found.holds)


# --- functions --------------------------------------------------------------------------------------------------------


def of_arrays(x: Any, w: Any, b: Any) -> Any:
    """NumPy's methods, which tensors do not have."""
    y = np.matmul(x.astype(x.dtype), w.T)
    return y if b is None else y + b


def of_rows(x: Tensor, w: Tensor) -> Tensor:
    if x.ndim != 2 or not x.is_contiguous() or x.dtype != torch.float32:
        raise ValueError("expected contiguous rows in float32")
    return torch.mm(x, w.t())


WORK: dict[Any, Tensor] = {}


def with_workspace(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    key = (x.shape[:-1], w.shape[0], x.dtype)
    y = torch.matmul(x.detach(), w.detach().t())
    place = WORK.setdefault(key, torch.empty_like(y))
    place.copy_(y)
    return place.clone() if b is None else place + b.detach()


def in_blocks(a: Tensor, b: Tensor) -> Tensor:
    halves = a.shape[1] // 2
    return a[:, halves:] @ b[halves:] + a[:, :halves] @ b[:halves]


@pytest.mark.parametrize(
    ("kernel", "like"),
    [
        pytest.param(F.linear, "linear", id="torch"),
        pytest.param(of_arrays, "linear", id="numpy"),
        pytest.param(of_rows, "linear", id="rows-alone"),
        pytest.param(with_workspace, "linear", id="workspace"),
        pytest.param(in_blocks, "matmul", id="matmul"),
        pytest.param(lambda x, w, b=None, stride=1: F.conv2d(x, w, b, stride), "conv2d", id="conv2d"),
    ],
)
def test_a_right_kernel_passes_however_it_wants_to_be_called(kernel: Any, like: str) -> None:
    found = check_kernel(kernel, like=like, **QUICK)
    assert held(found), [str(result.failure) for result in found.failures]
    assert sum(item.examples for item in found.run.items) > 0


def test_what_a_kernel_refuses_aloud_is_not_asked_and_said() -> None:
    backend, dtypes = kernel_backend(of_rows)
    served = backend.capabilities
    assert dtypes == [torch.float32]
    assert (served.layouts, served.gradient_order, served.concurrent) == (False, None, False)
    with pytest.raises(NotImplementedError, match="takes no bias"):
        backend.linear(torch.ones(1, 2), torch.ones(1, 2), torch.ones(1))
    assert backend.linear(torch.ones(3, 1, 2), torch.ones(5, 2)).shape == (3, 1, 5)
    assert kernel_backend(of_arrays)[0].capabilities.gradient_order == 0


def test_a_dtype_that_is_named_is_demanded() -> None:
    found = check_kernel(of_rows, dtypes=["float16"], laws=["exact"], examples=2, seed=1)
    assert not held(found)
    assert "expected contiguous rows in float32" in str(found.failures[0].failure)


def half(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    y = F.linear(x.half(), w.half()).float()
    return y if b is None else y + b


def zeros(x: Tensor, w: Tensor, _b: Tensor | None) -> Tensor:
    return x.new_zeros(*x.shape[:-1], w.shape[0])


KEPT: dict[Any, Tensor] = {}


def by_address(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    key = (x.data_ptr(), w.data_ptr(), x.shape, w.shape, b is None)
    if key not in KEPT:
        KEPT.clear()
        KEPT[key] = F.linear(x, w, b).detach()
    return KEPT[key].clone()


def in_place(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    y = F.linear(x, w, b)
    x.detach().mul_(2)
    return y


@pytest.mark.parametrize(
    ("kernel", "law"),
    [(half, "weight_recovery"), (zeros, "exact"), (by_address, "purity"), (in_place, "exact")],
)
def test_a_cheat_is_found(kernel: Any, law: str) -> None:
    KEPT.clear()
    found = check_kernel(kernel, laws=[law], examples=6, seed=1)
    assert not held(found)
    failure = found.failures[0].failure
    assert failure is not None
    command = failure.command
    assert command.startswith(f"equiv.testing.check_kernel({kernel.__name__}, like='linear', laws=['{law}'], dtypes=")
    assert found.to_dict()["items"][0]["failure"]["command"] == command


# --- modules ----------------------------------------------------------------------------------------------------------


class Model(nn.Module):
    def __init__(self, n: int = 24, outputs: int = 17) -> None:
        super().__init__()
        self.gemm = nn.Linear(n, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu((self.gemm(x) - 2.0) * 1.5)


class Fused(Model):
    """The same with the constants folded into the bias, and another order of operations."""

    def forward(self, x: Tensor) -> Tensor:
        bias = (self.gemm.bias - 2.0) * 1.5
        return torch.clamp(torch.addmm(bias, x, self.gemm.weight.t(), alpha=1.5), min=0)


class InHalf(Model):
    def forward(self, x: Tensor) -> Tensor:
        y = (x.half() @ self.gemm.weight.half().t()).float() + self.gemm.bias
        return torch.relu((y - 2.0) * 1.5)


class ByAddress(Model):
    def forward(self, x: Tensor) -> Tensor:
        key = (x.data_ptr(), x.shape)
        if getattr(self, "key", None) != key:
            self.key, self.y = key, super().forward(x)
        return self.y.clone()


class OneShape(Model):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y if len(x) % 16 == 0 else torch.zeros_like(y)


class Positive(Model):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.abs())


class NegativeInputs(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a @ b


def made(kind: type[Model], of: Model) -> Model:
    found = kind()
    found.load_state_dict(of.state_dict())
    return found


def drawn() -> list[Tensor]:
    return [torch.rand(16, 24)]


@pytest.mark.parametrize(
    ("kind", "laws"),
    [
        (Model, []),
        (Fused, []),
        (InHalf, ["values", "follows", "shapes", "layouts"]),
        (ByAddress, ["follows"]),
        (OneShape, ["shapes"]),
        (Positive, ["values", "exact", "follows", "shapes"]),
    ],
)
def test_a_module_is_held_against_its_reference(kind: type[Model], laws: list[str]) -> None:
    torch.manual_seed(0)
    reference = Model()
    before = [p.detach().clone() for p in reference.parameters()]
    candidate = made(kind, reference)
    found = check_kernel(candidate, like=reference, inputs=drawn)
    broken = [result.law for result in found.failures]
    assert set(broken) <= set(laws) if kind is InHalf else broken == laws, [str(r.failure) for r in found.failures]
    assert held(found) == (not laws)
    assert bool(broken) == bool(laws)
    for model in (reference, candidate):
        assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    assert {item.law for item in found.run.items if item.outcome == "not asked"} == {"special_values"}


@pytest.mark.parametrize("layer", [nn.Linear(9, 5), nn.Conv2d(4, 6, 2, padding=1, stride=2, groups=2)])
def test_a_function_of_weights_stands_for_a_layer(layer: Any) -> None:
    right = F.linear if isinstance(layer, nn.Linear) else F.conv2d
    assert held(check_kernel(right, like=layer, laws=["values", "exact", "purity", "follows"]))

    def tail(x: Tensor, w: Tensor, b: Tensor, **options: Any) -> Tensor:
        return right(x, torch.cat([w[:-1], 0 * w[-1:]]), b, **options)

    assert not held(check_kernel(tail, like=layer, laws=["exact"]))


def test_a_product_without_parameters_is_asked_at_other_sizes() -> None:
    square = [torch.rand(16, 16), torch.rand(16, 16)]

    def multiples_of_16(a: Tensor, b: Tensor) -> Tensor:
        y = a @ b
        y[:, b.shape[1] // 16 * 16 :] = 0
        return y

    assert held(check_kernel(lambda a, b: torch.einsum("ik,kj->ij", a, b), like=NegativeInputs(), inputs=square))
    assert [r.law for r in check_kernel(multiples_of_16, like=NegativeInputs(), inputs=square).failures] == ["shapes"]


# --- where benchmarks keep them ---------------------------------------------------------------------------------------

PROBLEM = """
import torch
import torch.nn as nn

class Model(nn.Module):
    def __init__(self, n, outputs):
        super().__init__()
        self.gemm = nn.Linear(n, outputs)

    def forward(self, x):
        return torch.relu(self.gemm(x)) * 0.5

def get_inputs():
    return [torch.rand(8, 12)]

def get_init_inputs():
    return [12, 7]
"""
SOLUTION = """
import torch
import torch.nn as nn

class ModelNew(nn.Module):
    def __init__(self, n, outputs):
        super().__init__()
        self.gemm = nn.Linear(n, outputs)

    def forward(self, x):
        return {result}
"""
RIGHT, WRONG = "(x @ self.gemm.weight.T + self.gemm.bias).clamp(min=0) / 2", "(x @ self.gemm.weight.T).clamp(min=0) / 2"


def test_a_problem_of_kernelbench(tmp_path: Path) -> None:
    problem, solution = tmp_path / "problem.py", tmp_path / "solution.py"
    problem.write_text(PROBLEM)
    state = torch.get_rng_state()
    for result, laws in ((RIGHT, []), (WRONG, ["values", "exact"])):
        solution.write_text(SOLUTION.format(result=result))
        new, old, inputs = kernelbench_problem(solution, problem)
        found = check_kernel(new, like=old, inputs=inputs, laws=["values", "exact"])
        assert [r.law for r in found.failures] == laws
    assert torch.equal(torch.get_rng_state(), state)
    both = tmp_path / "both.py"
    both.write_text(PROBLEM + SOLUTION.format(result=RIGHT))
    assert type(kernelbench_problem(both)[0]).__name__ == "ModelNew"
    with pytest.raises(equiv.EquivError, match=r"expected a file that has ModelNew, got 'problem\.py'"):
        kernelbench_problem(problem)
    with pytest.raises(equiv.EquivError, match="there is no such file"):
        kernelbench_problem(tmp_path / "none.py")


class Operators(dict[Any, Any]):
    name = "mine"


def test_a_backend_of_backendbench(tmp_path: Path) -> None:
    aten = torch.ops.aten
    ops = Operators({aten.mm.default: aten.mm.default, aten.convolution.default: aten.convolution.default})
    kernels = backendbench_kernels(ops)
    assert kernels.name == "backendbench.mine"
    x, w = torch.randn(2, 3, 5), torch.randn(4, 5)
    assert torch.allclose(kernels.linear(x, w), F.linear(x, w))
    with pytest.raises(NotImplementedError, match=r"no aten.addmm.default"):
        kernels.linear(x, w, torch.ones(4))
    maps, filters = torch.randn(2, 4, 6, 5), torch.randn(6, 2, 2, 2)
    given: dict[str, Any] = {"stride": (2, 1), "padding": (1, 0), "groups": 2}
    assert torch.equal(kernels.conv(maps[0], filters, **given), F.conv2d(maps[0], filters, **given))
    place = tmp_path / "mm__default"
    place.mkdir()
    code = "def mm__default_kernel_impl(a, b):\n    return (a.bfloat16() @ b.bfloat16()).float()\n"
    (place / "mm__default_implementation_v1.py").write_text(code)
    found = equiv.testing.check_backend(
        backendbench_kernels(tmp_path), dtypes=["float32"], laws=["weight_recovery"], examples=3, seed=1
    )
    assert not held(found)
    with pytest.raises(equiv.EquivError, match="none of them is there"):
        backendbench_kernels(Operators())
    with pytest.raises(equiv.EquivError, match="an object with backend"):
        backendbench_kernels(7)


# --- as tests ---------------------------------------------------------------------------------------------------------


@parametrize_kernel(F.linear, like="linear", laws=["exact", "purity"], examples=2)
def test_a_kernel_is_a_test_for_each_law(law: Any) -> None:
    assert law().failure is None


@parametrize_kernel(F.linear, like=nn.Linear(4, 3), laws=["values", "follows"])
def test_a_module_is_a_test_for_each_law(law: Any) -> None:
    assert law().outcome == "holds"


def test_a_broken_law_of_a_module_raises() -> None:
    mark = parametrize_kernel(zeros, like=nn.Linear(4, 3), laws=["exact"])
    (law,) = mark.mark.args[1]  # type: ignore[attr-defined]
    with pytest.raises(LawBroken, match=r"exact: module in float32 on zeros returns 0\.0, exact is"):
        law()


# --- misuse -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"candidate": zeros, "like": "gemm"}, "like: expected one of linear, matmul, conv1d"),
        (
            {"candidate": zeros, "like": "linear", "inputs": [1]},
            "inputs: expected none where the kernel is like linear",
        ),
        ({"candidate": lambda: 1, "like": "linear"}, "candidate: expected a function of input, weight and bias"),
        ({"candidate": lambda x, w: x.nope, "like": "linear"}, "candidate: expected a kernel that runs on a layer of"),
        ({"candidate": 7, "like": nn.Linear(2, 2)}, "candidate: expected a module or a function, got 7"),
        ({"candidate": Model(), "like": Model()}, "inputs: expected tensors to call the module with"),
        (
            {"candidate": Model(), "like": Model(), "inputs": [torch.ones(1)]},
            "inputs: expected what the module in like=",
        ),
        ({"candidate": F.linear, "like": nn.Linear(2, 2), "laws": ["forward"]}, "laws: expected"),
    ],
)
def test_a_misuse_is_told_in_a_sentence(given: dict[str, Any], message: str) -> None:
    with pytest.raises(equiv.EquivError, match=message):
        check_kernel(**given)
