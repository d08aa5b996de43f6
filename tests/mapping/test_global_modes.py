"""Default device and dtype, autocast and grad modes change nothing of what the mappings return."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from global_modes import MODES
from mapping_helpers import conv_of, integers, raw
from torch import Tensor, nn

from equiv import mapping
from equiv.errors import EquivError


class Conv1D(nn.Module):
    """As in transformers."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight, self.bias = nn.Parameter(torch.empty(nx, nf)), nn.Parameter(torch.zeros(nf))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(*x.size()[:-1], self.nf)


def sources(dtype: torch.dtype) -> dict[str, Any]:
    """Layers whose parameters hold values that a detour through another dtype would change."""
    values = lambda *shape: (integers(shape, torch.float64) / 7).to(dtype)  # noqa: E731
    linear = nn.Linear(12, 8, device="meta")
    linear.weight, linear.bias = nn.Parameter(values(8, 12)), nn.Parameter(values(2).repeat_interleave(4))
    layer = Conv1D(8, 12)
    layer.weight, layer.bias = nn.Parameter(values(12, 8)), nn.Parameter(values(8))
    up = nn.ConvTranspose2d(4, 2, 2, stride=2, device="meta")
    up.weight, up.bias = nn.Parameter(values(4, 2, 2, 2)), nn.Parameter(values(2))
    kinds = {
        mode: conv_of(values(8, 3, 3, 2), values(8), padding=1, padding_mode=mode) for mode in ("zeros", "circular")
    }
    return {"linear": linear, "conv1d": layer, "up": up, "cover": conv_of(values(8, 3, 2, 2), values(8)), **kinds}


MAPPINGS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "full": lambda s: mapping.linear_to_full_conv(s["linear"], (3, 2, 2)),
    "full, shared": lambda s: mapping.linear_to_full_conv(s["linear"], (3, 2, 2), share=True),
    "pointwise": lambda s: mapping.linear_to_pointwise_conv(s["linear"]),
    "full transposed": lambda s: mapping.linear_to_full_conv_transpose(s["linear"], (2, 2, 2)),
    "pointwise transposed": lambda s: mapping.linear_to_pointwise_conv_transpose(s["linear"], share=True),
    "conv1d": lambda s: mapping.linear_to_transformers_conv1d(s["linear"]),
    "back": lambda s: mapping.conv_to_linear(s["cover"]),
    "back, shared": lambda s: mapping.conv_to_linear(s["cover"], share=True),
    "dense": lambda s: mapping.conv_to_linear(s["zeros"], (3, 4, 3)),
    "dense, circular": lambda s: mapping.conv_to_linear(s["circular"], (3, 2, 2)),
    "dense, transposed": lambda s: mapping.conv_to_linear(s["up"], (4, 2, 3)),
    "conv1d back": lambda s: mapping.conv_to_linear(s["conv1d"]),
    "conv1d back, shared": lambda s: mapping.conv_to_linear(s["conv1d"], share=True),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", MAPPINGS)
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_mappings_are_the_same_in_every_mode(name: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("transformers.pytorch_utils")
    module.Conv1D = Conv1D  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "transformers", types.ModuleType("transformers"))
    monkeypatch.setitem(sys.modules, "transformers.pytorch_utils", module)
    for dtype in (torch.float32, torch.float16):
        given = sources(dtype)
        expected = MAPPINGS[name](given)
        with MODES[mode]():
            result = MAPPINGS[name](given)
        assert type(result) is type(expected)
        for key, parameter in expected.named_parameters():
            found = result.get_parameter(key)
            assert raw(found) == raw(parameter)
            assert (found.dtype, found.device, found.stride()) == (dtype, parameter.device, parameter.stride())
            assert (found.requires_grad, found.is_leaf) == (parameter.requires_grad, True)
            assert not found.is_inference()
        with torch.no_grad():
            result.weight.zero_()  # no view that was made in inference mode, which could not be changed later


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_views_of_rows_are_the_same_in_every_mode(mode: str) -> None:
    x = integers((5, 12), torch.float32)
    with MODES[mode]():
        maps, channels = mapping.to_feature_map(x, (3, 2, 2)), mapping.to_channels(x)
    assert maps.data_ptr() == channels.data_ptr() == x.data_ptr()
    assert (maps.shape, channels.shape) == ((5, 3, 2, 2), (5, 12, 1, 1))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_refusals_are_the_same_in_every_mode(mode: str) -> None:
    given = sources(torch.float32)
    given["zeros"].stride = 0
    with MODES[mode]():
        with pytest.raises(EquivError, match=r"^conv\.stride: expected an integer of at least 1"):
            mapping.conv_to_linear(given["zeros"], (3, 4, 3))
        with pytest.raises(EquivError, match=r"^feature_shape: expected .* product 12"):
            mapping.linear_to_full_conv(given["linear"], (3, 2, 3))
