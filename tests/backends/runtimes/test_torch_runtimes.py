"""Torch's other ways to carry out a layer, as backends: settings, vmap, autocast, export, compile."""

import pytest
import torch

import equiv.testing
from equiv.backends import load_backend
from equiv.backends.runtimes.compiled import Compiled
from equiv.backends.runtimes.eager import Eager

FEW = {"examples": 2, "seed": 1}


@pytest.mark.parametrize(
    ("text", "dtype"),
    [
        ("torch?memory_format=channels_last", "float32"),
        ("torch?mkldnn=no,threads=2", "float64"),
        ("torch.autocast", "bfloat16"),
        ("torch.vmap", "float32"),
        ("torch.vmap?over=weight", "float32"),
    ],
)
def test_it_keeps_the_laws(text, dtype):
    found = equiv.testing.check_backend(load_backend(text), laws=["exact", "gradients"], dtypes=[dtype], **FEW)
    assert found.holds
    assert all(result.outcome == "holds" for result in found)


def test_vmap_over_no_samples_is_told_where_it_is_wrong():
    backend, x, weight = load_backend("torch.vmap"), torch.ones(0, 1, 4), torch.ones(5, 1, 2)
    y = torch.vmap(lambda sample: torch.conv1d(sample, weight))(x)
    if y.shape == (0, 5, 3):
        pytest.fail("the defect is gone: remove docs/findings/vmap-of-convolutions-over-no-samples.md")
    with pytest.raises(NotImplementedError, match="vmap-of-convolutions-over-no-samples"):
        backend.conv(x, weight)
    assert backend.linear(torch.ones(0, 2), torch.ones(3, 2)).shape == (0, 3)


def test_settings_hold_in_forward_and_backward_and_are_put_back():
    seen = []

    class Spy(torch.autograd.Function):
        @staticmethod
        def forward(x):
            return x.clone()

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def backward(ctx, g):
            seen.append((torch._C._get_mkldnn_enabled(), torch.get_num_threads()))
            return g

    backend = Eager(mkldnn=False, threads=2)
    backend._eager.linear = lambda x, weight, bias=None: Spy.apply(x @ weight.T)
    before = torch._C._get_mkldnn_enabled(), torch.get_num_threads()
    x = torch.ones(1, 2, requires_grad=True)
    backend.linear(x, torch.ones(3, 2)).sum().backward()
    assert seen == [(False, 2)]
    assert (torch._C._get_mkldnn_enabled(), torch.get_num_threads()) == before


def test_derivatives_under_settings_are_right():
    x, weight, bias = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((2, 2, 3), (2, 2, 2), (2,)))
    backend = Eager(mkldnn=False)
    assert torch.autograd.gradcheck(backend.conv, (x, weight, bias))
    assert torch.autograd.gradgradcheck(backend.conv, (x, weight, bias))


def test_channels_last_is_what_the_kernels_get():
    backend = Eager(memory_format="channels_last")
    x, weight = backend.laid(torch.ones(2, 3, 4, 4), torch.ones(5, 3, 2, 2))
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.slow
def test_compiled_falls_back_to_nothing():
    backend = Compiled(backend="aot_eager", dynamic=False)
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for rows in range(2, 14):  # more than the limit after which torch runs eagerly
        assert backend.linear(torch.ones(rows, 2), torch.ones(3, 2)).tolist() == [[2.0] * 3] * rows
    assert backend.built == 12
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] - before == 12


@pytest.mark.slow
@pytest.mark.parametrize("text", ["torch.compile?backend=aot_eager", "torch.export"])
def test_slow_ones_keep_the_laws(text):
    found = equiv.testing.check_backend(load_backend(text), laws=["exact"], dtypes=["float32"], examples=2, seed=1)
    assert found.holds
