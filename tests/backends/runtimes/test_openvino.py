"""OpenVINO as a backend: float64 and integers, which it computes in float32, are excused for that alone."""

import pytest
import torch

import equiv.testing
from equiv.backends import load_backend
from equiv.backends.runtimes.openvino import OpenVino, leaves_float32
from equiv.laws import Call

pytest.importorskip("onnx", reason="graphs are made with onnx")
pytest.importorskip("openvino", reason="the runtime under test")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "int32", "int8"])
def test_it_keeps_the_laws(dtype):
    (found,) = equiv.testing.check_backend(OpenVino(), laws=["exact"], dtypes=[dtype], examples=3, seed=1)
    assert found.outcome == "holds"


def test_the_defects_show():
    backend = OpenVino()
    shown = {one.finding: one.shows(backend) for one in OpenVino.defects}
    assert shown == {"openvino-float64-in-float32": True, "openvino-integers-in-float32": True}
    with pytest.raises(NotImplementedError, match="openvino-vectors"):
        backend.linear(torch.ones(2, dtype=torch.int8), torch.ones(3, 2, dtype=torch.int8))


@pytest.mark.parametrize(
    ("x", "is_covered"),
    [
        (torch.tensor([[3.0]], dtype=torch.float64), False),
        (torch.tensor([[0.5]], dtype=torch.float64), True),
        (torch.tensor([[2.0**24 + 1]], dtype=torch.float64), True),
        (torch.tensor([[float("nan")]], dtype=torch.float64), True),
        (torch.tensor([[2.0**24 + 1]]), False),
    ],
)
def test_float64_is_excused_where_float32_does_not_hold_it(x, is_covered):
    weight = torch.ones(1, 1, dtype=x.dtype)
    assert leaves_float32((torch.float64,), Call("linear", x, weight, None)) is is_covered


def test_a_hint_of_16_bits_serves_that_dtype():
    backend = load_backend("openvino?precision=bfloat16")
    assert backend.name == "openvino.precision_bfloat16"
    assert backend.capabilities.dtypes == [torch.bfloat16]
    x = torch.full((2, 3), 1.0078125, dtype=torch.bfloat16)
    assert backend.linear(x, torch.eye(3, dtype=torch.bfloat16)).tolist() == x.tolist()


@pytest.mark.slow
def test_two_threads_have_requests_of_their_own():
    (found,) = equiv.testing.check_backend(OpenVino(), laws=["purity"], dtypes=["float32"], examples=2, seed=1)
    assert found.outcome == "holds"
