"""ONNX Runtime as a backend: what it serves, its known defects, and that they excuse nothing else."""

from dataclasses import replace

import pytest
import torch

import equiv.testing
from equiv.backends import load_backend
from equiv.backends.runtimes.onnxruntime import OnnxRuntime
from equiv.laws import Call, Trial

pytest.importorskip("onnx", reason="graphs are made with onnx")
pytest.importorskip("onnxruntime", reason="the runtime under test")

FEW = {"examples": 4, "seed": 1}


@pytest.mark.parametrize(
    "text",
    [
        "onnxruntime",
        "onnxruntime?weights=constant,level=off,linear=MatMul",
        "onnxruntime?shapes=static,opset=13",
    ],
)
def test_it_keeps_the_laws(text):
    backend = load_backend(text)
    found = equiv.testing.check_backend(backend, laws=["exact", "dense"], dtypes=["float32", "float16"], **FEW)
    assert found.holds
    assert all(result.outcome == "holds" for result in found)


@pytest.mark.parametrize("int8", ["integer", "qdq"])
def test_8_bits(int8):
    backend = load_backend(f"onnxruntime?int8={int8}")
    found = equiv.testing.check_backend(backend, laws=["exact"], dtypes=["int8", "uint8"], **FEW)
    assert found.holds
    assert all(result.outcome == "holds" for result in found)
    x = torch.full((1, 2), 100, dtype=torch.int8)
    if int8 == "qdq":
        with pytest.raises(NotImplementedError, match="beyond int8"):
            backend.linear(x, x)
    else:
        assert backend.linear(x, x).item() == 20000 - 78 * 256


def test_what_it_has_no_kernel_for_is_told():
    backend = OnnxRuntime()
    with pytest.raises(NotImplementedError, match="NOT_IMPLEMENTED"):
        backend.conv(torch.ones(1, 1, 1, 1).double(), torch.ones(1, 1, 1, 1).double())
    with pytest.raises(NotImplementedError, match="no operators of complex64"):
        backend.linear(torch.ones(1, 1) + 0j, torch.ones(1, 1) + 0j)


def test_sessions_are_kept_by_graph():
    backend = OnnxRuntime()
    for rows in (1, 2, 3):
        backend.linear(torch.ones(rows, 2), torch.ones(3, 2))
    assert backend.built == 1
    static = OnnxRuntime(shapes="static")
    for rows in (1, 2, 2):
        static.linear(torch.ones(rows, 2), torch.ones(3, 2))
    assert static.built == 2


def test_views_and_gradients_are_handed_over_as_values():
    x = torch.ones(2, 2, requires_grad=True) * 2
    weight = torch.imag(torch.ones(3, 2, dtype=torch.complex64).conj() * 1j)
    y = OnnxRuntime().linear(x, weight)
    assert y.tolist() == [[4.0] * 3] * 2 or y.tolist() == [[-4.0] * 3] * 2
    assert torch.equal(y, torch.nn.functional.linear(x.detach(), weight.resolve_neg()))


def compared(backend, weight, y):
    """Whether a wrong result of a layer of int8 is excused."""
    trial = Trial(backend, torch.int8, ("linear",))
    call = Call("linear", torch.ones(2, weight.shape[1], dtype=torch.int8), weight, None)
    try:
        trial.same(call, y, torch.zeros_like(y))
    except AssertionError:
        return False
    assert trial.coverage["known defect of onnxruntime"] == {"onnxruntime-matmulinteger-without-columns": 1}
    return True


def test_a_known_defect_excuses_where_it_shows_and_nothing_else(monkeypatch):
    wrong = torch.full((2, 3), 7, dtype=torch.int8)
    if not OnnxRuntime.defects[0].shows(OnnxRuntime()):
        pytest.fail("the defect is gone: remove it, and docs/findings/onnxruntime-matmulinteger-without-columns.md")
    assert compared(OnnxRuntime(), torch.ones(3, 0, dtype=torch.int8), wrong)
    assert not compared(OnnxRuntime(), torch.ones(3, 1, dtype=torch.int8), wrong)
    gone = replace(OnnxRuntime.defects[0], shows=lambda _: False)
    monkeypatch.setattr(OnnxRuntime, "defects", (gone,))
    assert not compared(OnnxRuntime(), torch.ones(3, 0, dtype=torch.int8), wrong)


def test_a_planted_fault_is_found(monkeypatch):
    right = OnnxRuntime.conv

    def flipped(self, input, weight, bias=None, **steps):
        return right(self, input, weight.flip(-1), bias, **steps)

    monkeypatch.setattr(OnnxRuntime, "conv", flipped)
    found = equiv.testing.check_backend(OnnxRuntime(), laws=["exact"], dtypes=["float32"], examples=30, seed=1)
    assert not found.holds
