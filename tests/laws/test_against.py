"""Two backends on the same cases: what is right agrees, what is wrong is named with a program that fails."""

from __future__ import annotations

import sys

import pytest
import torch
from torch.nn import functional

from equiv.backends import TorchEager, load_backend
from equiv.errors import EquivError
from equiv.laws import pairs_of, run_pair

CONVS = (functional.conv1d, functional.conv2d, functional.conv3d)


class Reversed:
    """Sums in another order, which is right."""

    name, device = "reversed", torch.device("cpu")

    def linear(self, input, weight, bias=None):
        return functional.linear(input.flip(-1), weight.flip(-1), bias)

    def conv(self, input, weight, bias=None, *, stride=1, padding=0, dilation=1, groups=1):
        return CONVS[weight.ndim - 3](input, weight, bias, stride, padding, dilation, groups)


class BiasDropped(Reversed):
    name = "bias_dropped"

    def linear(self, input, weight, bias=None):
        return super().linear(input, weight)


class Raising(Reversed):
    """Has no kernel, and says so by an error of the wrong kind."""

    name = "raising"

    def linear(self, input, weight, bias=None):
        raise RuntimeError("no kernel")


def _run(first, second, law, **options):
    (pair,) = pairs_of(first, second, laws=[law], dtypes=[options.pop("dtype", "float32")])
    return run_pair(pair, **{"examples": 25, "seed": 3, **options})


def test_right_kernels_in_another_order_differ_in_rounding_alone():
    found = _run(TorchEager(), Reversed(), "forward")
    assert not found.faults
    assert found.outcomes["rounding"] > 0
    assert found.outcomes["identical"] > 0
    assert all(0 < share <= 1 for share in found.worst.values())


def test_integer_probes_leave_no_difference():
    found = _run(TorchEager(), Reversed(), "exact")
    assert not found.faults
    assert found.outcomes == {"identical": found.pairs, "rounding": 0, "undecided": 0, "finding": 0}
    assert found.pairs >= 25


@pytest.mark.parametrize("law", ["forward", "exact"])
@pytest.mark.parametrize("first", [True, False])
def test_the_side_that_is_wrong_is_named_whichever_it_is(law, first):
    sides = (BiasDropped(), TorchEager()) if first else (TorchEager(), BiasDropped())
    (fault,) = _run(*sides, law).faults
    assert fault.side == fault.failure.backend == "bias_dropped"
    assert fault.failure.form == "linear"
    assert fault.call is not None
    assert fault.call.weight.numel() == 1


@pytest.mark.slow
def test_a_weaker_arithmetic_is_a_fault_and_an_explanation_where_it_is_measured():
    class Half(Reversed):
        name = "half"

        def linear(self, input, weight, bias=None):
            return functional.linear(input.bfloat16().float(), weight.bfloat16().float(), bias)

    (fault,) = _run(Half(), TorchEager(), "forward").faults
    assert fault.side == "half"
    found = _run(Half(), TorchEager(), "forward", arithmetic="measured", examples=3)
    assert not found.faults
    assert any("bfloat16" in note for note in found.notes["half"])


def test_an_error_is_a_fault_of_the_side_that_raises():
    (fault,) = _run(TorchEager(), Raising(), "exact").faults
    assert fault.side == "raising"
    assert fault.failure.kind == "raised"


def test_both_sides_may_be_wrong():
    class Doubled(Reversed):
        name = "doubled"

        def linear(self, input, weight, bias=None):
            return functional.linear(input, weight, None if bias is None else 2 * bias)

    assert {fault.side for fault in _run(BiasDropped(), Doubled(), "forward").faults} == {"bias_dropped", "doubled"}


def test_the_script_runs_both_and_fails_on_the_wrong_one(tmp_path, capsys):
    (tmp_path / "cut_kernels.py").write_text(
        "from equiv.backends import TorchEager\n\n\nclass Cut(TorchEager):\n"
        "    def __init__(self):\n        super().__init__()\n        self.name = 'cut'\n\n"
        "    def linear(self, input, weight, bias=None):\n"
        "        return super().linear(input[..., :2], weight[..., :2], bias)\n"
    )
    sys.path.insert(0, str(tmp_path))
    try:
        from cut_kernels import Cut  # type: ignore[import-not-found]

        (fault,) = _run(TorchEager(), Cut(), "exact").faults
    finally:
        sys.path.remove(str(tmp_path))
    assert fault.script is not None
    with pytest.raises(AssertionError):
        exec(compile(fault.script, "<witness>", "exec"), {})
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "eager.cpu"
    assert "cut" in said


def test_onnxruntime_and_torch_agree():
    pytest.importorskip("onnxruntime", reason="needs the extra onnxruntime")
    pytest.importorskip("onnx", reason="needs the extra onnxruntime")
    for law in ("forward", "convolution"):
        found = _run(load_backend("onnxruntime"), TorchEager(), law, examples=12)
        assert not found.faults
        assert found.pairs > 0


def test_one_backend_twice_is_refused():
    with pytest.raises(EquivError, match=r"second: expected another backend than the first, got eager.cpu twice"):
        pairs_of(TorchEager(), TorchEager())


def test_laws_that_compare_nothing_between_backends_are_refused():
    with pytest.raises(EquivError, match=r"laws: expected some that judge results of eager.cpu and reversed, got none"):
        pairs_of(TorchEager(), Reversed(), laws=["scaling"])
