"""Dtypes and devices that are drawn are those that this machine serves."""

from __future__ import annotations

import subprocess
import sys

import torch
from strategies_helpers import assert_all_examples, drawn, minimal

from equiv import strategies as est


def test_dtypes_are_those_that_linear_and_conv2d_serve_and_shrink_to_float32() -> None:
    assert {*drawn(est.dtypes(), 100)} == {*est.ALL} == {*est.FLOATS, *est.COMPLEX, *est.INTEGERS}
    assert minimal(est.dtypes()) is torch.float32
    assert minimal(est.dtypes(kinds=("integer", "complex"))) is torch.complex64
    assert {*drawn(est.dtypes(kinds=["integer"]), 100)} == {*est.INTEGERS}
    for dtype in est.ALL:
        one = torch.ones((1, 1), dtype=dtype)
        assert torch.nn.functional.linear(one, one).dtype is dtype
        assert torch.nn.functional.conv2d(one[..., None, None], one[..., None, None]).dtype is dtype


def test_devices_are_those_present_with_the_cpu_first() -> None:
    assert minimal(est.devices()) == torch.device("cpu")
    assert {*drawn(est.devices(kinds=("cpu",)), 10)} == {torch.device("cpu")}
    assert_all_examples(est.devices(), lambda device: torch.empty(1, device=device).device == device, 10)


def test_importing_and_drawing_for_the_cpu_initialises_no_accelerator() -> None:
    code = (
        "import torch\n"
        "def refuse(*a, **k): raise AssertionError('asked for an accelerator')\n"
        "torch.cuda.is_available = torch.cuda.device_count = torch.cuda.init = refuse\n"
        "from hypothesis import find, settings\n"
        "from equiv import strategies as est\n"
        "quiet = settings(database=None, derandomize=True)\n"
        "for s in (est.cases(), est.dtypes(), est.devices(kinds=('cpu',)), est.tensors((3,)),\n"
        "          est.layers(in_features=2, out_features=2)):\n"
        "    find(s, lambda _: True, settings=quiet)\n"
        "assert not torch.cuda.is_initialized()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
