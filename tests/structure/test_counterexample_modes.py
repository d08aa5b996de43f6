"""Default device and dtype, autocast and grad modes change nothing of a counterexample."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from global_modes import MODES
from torch import Tensor, nn

from equiv.structure import counterexample


def values(*shape: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(len(shape))
    return torch.randint(-9, 10, shape, generator=generator).double().div(7).to(dtype)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("readout", ["positions", "sum", "mean"])
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_counterexamples_are_the_same_in_every_mode(mode: str, readout: Any) -> None:
    for dtype in (torch.float32, torch.float16, torch.complex64):
        large = (384,) if (dtype, readout) == (torch.float32, "sum") else ()  # takes Krylov steps
        for size in (12, *large):
            layer = nn.Linear(size, size, device="meta")
            layer.weight = nn.Parameter(values(size, size, dtype=dtype))
            layer.bias = nn.Parameter(values(size, dtype=dtype))
            expected = counterexample(layer, (size // 4, 2, 2), readout=readout)
            with MODES[mode]():
                found = counterexample(layer, (size // 4, 2, 2), readout=readout)
                text, words = found.snippet(), str(found)
            assert found.to_dict() == expected.to_dict()
            assert (text, words) == (expected.snippet(), str(expected))
            for name in ("witness", "worst_input_2", "worst_input_inf"):
                assert torch.equal(getattr(found, name), getattr(expected, name))
            for key, parameter in expected.conv.named_parameters():
                made = found.conv.get_parameter(key)
                assert torch.equal(made, parameter)
                assert (made.requires_grad, made.is_leaf, made.is_inference()) == (True, True, False)
