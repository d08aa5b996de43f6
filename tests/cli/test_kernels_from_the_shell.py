"""``equiv check-kernel``: functions, solutions of KernelBench and folders of BackendBench from the shell."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from equiv.cli.app import run

KERNELS = """
def right(input, weight, bias=None):
    y = input @ weight.T
    return y if bias is None else y + bias

def zeros(a, b):
    return a.new_zeros(len(a), b.shape[1])
"""
PROBLEM = """
import torch

class Model(torch.nn.Module):
    def forward(self, a, b):
        return a @ b

class ModelNew(Model):
    pass

def get_inputs():
    return [torch.rand(4, 5), torch.rand(5, 6)]

def get_init_inputs():
    return []
"""
OPERATOR = "def mm__default_kernel_impl(a, b):\n    return a @ b\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine_of_check_kernel.py").write_text(KERNELS)
    (tmp_path / "solution.py").write_text(PROBLEM)
    place = tmp_path / "generated" / "mm__default"
    place.mkdir(parents=True)
    (place / "mm__default_implementation_v1.py").write_text(OPERATOR)
    return tmp_path


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("mine_of_check_kernel.py:right --law exact --examples 2", 0, "No law is broken"),
        ("mine_of_check_kernel.py:zeros --like matmul --law exact --examples 2", 1, "1 of 1 law broken: exact"),
        ("solution.py --law values,purity", 0, "No law is broken. solution.py"),
        ("generated --law exact --examples 2", 0, "No law is broken. generated"),
        ("mine_of_check_kernel.py:none", 2, "KERNEL: expected FILE.py:function"),
        ("mine_of_check_kernel.py:right --like gemm", 2, "--like: expected one of linear, matmul"),
        ("generated --like linear", 2, "--like: expected none beside a folder of operators"),
        ("nowhere.py", 2, "solution: expected a file of Python code, got 'nowhere.py'"),
    ],
)
def test_a_kernel_is_named_in_three_ways(words: str, code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check-kernel", *words.split()]) == code
    captured = capsys.readouterr()
    assert said in " ".join((captured.out + captured.err).split())


def test_the_report_is_json(here: Path) -> None:
    assert run(["check-kernel", "solution.py", "--law", "exact", "--json", "found.json"]) == 0
    found = json.loads((here / "found.json").read_text())
    assert [item["law"] for item in found["items"]] == ["exact"]
