"""What the runtimes do wrong, as the pages of ``docs/findings/`` have it: a test that fails says that a page can go."""

from __future__ import annotations

import math

import pytest
import torch

from equiv.backends import load_backend
from equiv.errors import MissingExtraError

INF, NAN = math.inf, math.nan
LARGEST = torch.finfo(torch.float32).max
SMALL = 1e-39  # a subnormal number of float32


def loaded(name):
    try:
        return load_backend(name)
    except MissingExtraError as error:
        pytest.skip(str(error))


def both_forms(backend, x, weight):
    """The results of a matrix product, and of a 1x1 convolution over a map of one position."""
    return backend.linear(x, weight), backend.conv(x[..., None, None], weight[..., None, None]).flatten(1)


@pytest.mark.parametrize("kernels", ["reference", "builtin"])
def test_litert_clamps_infinity(kernels):
    x, weight = torch.tensor([[INF], [-INF], [NAN]]), torch.ones(1, 1)
    for y in both_forms(loaded(f"litert?kernels={kernels}"), x, weight):
        assert y.flatten().tolist() == pytest.approx([LARGEST, -LARGEST, NAN], nan_ok=True)


def test_litert_loses_nan_in_three_dimensions():
    y = loaded("litert").conv(torch.full((1, 1, 1, 1, 1), NAN), torch.ones(1, 1, 1, 1, 1))
    assert y.item() == LARGEST


def test_depthwise_xnnpack_spreads_infinity():
    x = torch.tensor([0.0, INF, 0.0, 0.0]).reshape(1, 1, 1, 4)
    y = loaded("litert").conv(x, torch.ones(1, 1, 1, 1)).flatten()
    assert y.isnan().any()
    assert loaded("litert").linear(x.reshape(4, 1), torch.ones(1, 1)).flatten().tolist() == [0.0, INF, 0.0, 0.0]


@pytest.mark.slow
def test_executorch_makes_nan_minus_infinity_in_float16():
    x, weight = torch.full((1, 1), NAN).half(), torch.ones(1, 1).half()
    y, convolved = both_forms(loaded("executorch"), x, weight)
    assert y.isnan().item()
    assert convolved.item() == -INF


@pytest.mark.parametrize("name", ["jax", "iree", "litert"])
def test_subnormals_become_zero(name):
    for x, weight in ((SMALL, 1.0), (1.0, SMALL), (1e-20, 1e-19)):
        for y in both_forms(loaded(name), torch.tensor([[x]]), torch.tensor([[weight]])):
            assert y.item() == 0.0


@pytest.mark.parametrize("name", ["tvm", "ncnn", "litert?kernels=reference"])
def test_subnormals_are_kept(name):
    for y in both_forms(loaded(name), torch.tensor([[SMALL]]), torch.ones(1, 1)):
        assert y.item() == torch.tensor(SMALL).item()


@pytest.mark.parametrize(("name", "total"), [("tvm", 2048.0), ("iree", 2048.0), ("jax", 5000.0)])
def test_float16_is_added_in_float16(name, total):
    ones = torch.ones(1, 5000, dtype=torch.float16)
    assert loaded(name).linear(ones, ones).item() == total


def test_ncnn_cuts_weights():
    weight = torch.tensor([1e5, 1 + 2.0**-11 + 2.0**-12, 1e-8, 0.5]).expand(4, 4).contiguous()
    y, convolved = both_forms(loaded("ncnn?storage=float16"), torch.eye(4), weight)
    assert torch.equal(convolved, weight.T)
    assert not torch.equal(y, weight.T)
    y, convolved = both_forms(loaded("ncnn"), torch.eye(4), weight)
    assert torch.equal(y, weight.T)
    assert torch.equal(convolved, weight.T)


def test_ncnn_transforms_a_map_of_one_position():
    x = (torch.arange(16 * 9) % 19 - 9.0).reshape(1, 16, 3, 3)
    weight = (torch.arange(16 * 16 * 9) % 17 - 8.0).reshape(16, 16, 3, 3)
    exact = torch.conv2d(x.double(), weight.double())
    assert torch.equal(loaded("ncnn").conv(x, weight).double(), exact)
    assert 0 < (loaded("ncnn?winograd=yes").conv(x, weight) - exact).abs().max() < 0.1


def test_iree_refuses_a_stride_beyond_the_map():
    iree = loaded("iree")
    with pytest.raises(NotImplementedError, match=r"iree-stride-beyond-the-map\.md") as caught:
        iree.conv(torch.ones(1, 1, 3), torch.ones(1, 1, 2), stride=5)
    assert "has shape's dimension #0 to be 3, but found 2" in str(caught.value.__cause__)


def test_iree_divides_by_zero():
    iree = loaded("iree")
    from iree.compiler import CompilerToolError

    with pytest.raises(CompilerToolError, match="Error code: -8"):
        iree.linear(torch.ones(2, 0), torch.ones(2, 0))
