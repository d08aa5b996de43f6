"""Inductor compiles a 1x1 convolution as a matrix product: ``config.conv_1x1_as_mm``, or autotuned on channels last."""

from unittest import mock

import pytest
import torch
from torch import nn

import equiv

lowering = pytest.importorskip("torch._inductor.kernel.conv")
config = pytest.importorskip("torch._inductor.config")

TAKEN = {
    "1d": (nn.Conv1d(6, 5, 1), (6, 7)),
    "2d": (nn.Conv2d(6, 5, 1), (6, 4, 3)),
    "2d without bias": (nn.Conv2d(6, 5, 1, bias=False), (6, 4, 3)),
    "3d": (nn.Conv3d(6, 5, 1), (6, 2, 3, 2)),
    "one position": (nn.Conv2d(6, 5, 1), (6, 1, 1)),
    "one channel": (nn.Conv2d(1, 1, 1), (1, 3, 3)),
    "float64": (nn.Conv2d(6, 5, 1).double(), (6, 4, 3)),
    "bfloat16": (nn.Conv2d(6, 5, 1).bfloat16(), (6, 4, 3)),
}
LEFT = {
    "stride": (nn.Conv2d(6, 5, 1, stride=2), (6, 4, 3)),
    "padding": (nn.Conv2d(6, 5, 1, padding=1), (6, 4, 3)),
    "groups": (nn.Conv2d(6, 6, 1, groups=2), (6, 4, 3)),
}


@pytest.fixture
def rewritten(monkeypatch):
    """How often the rewrite ran."""
    spy = mock.Mock(side_effect=lowering.convert_1x1_conv_to_mm)
    monkeypatch.setattr(lowering, "convert_1x1_conv_to_mm", spy)
    torch._dynamo.reset()
    with config.patch(conv_1x1_as_mm=True, force_disable_caches=True):
        yield spy
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("key", [*TAKEN, *LEFT])
def test_the_compiled_convolution_is_the_same_function(key, rewritten):
    conv, shape = {**TAKEN, **LEFT}[key]
    conv.requires_grad_(False)
    compiled = torch.compile(conv, fullgraph=True)
    x = torch.randn(3, *shape).to(conv.weight.dtype)
    try:
        actual = compiled(x)
    except torch._inductor.exc.InductorError as error:
        pytest.skip(f"Inductor cannot compile here: {error}")
    assert rewritten.called == (key in TAKEN)
    assert equiv.compare(actual, conv(x), input=x, layer=conv).equivalent
    equiv.assert_equivalent(lambda x: compiled(x), conv, feature_shape=shape)
    if x.ndim == 4:
        last = compiled(x.to(memory_format=torch.channels_last))
        assert equiv.compare(last, conv(x), input=x, layer=conv).equivalent
