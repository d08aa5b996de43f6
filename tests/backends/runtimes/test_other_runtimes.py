"""JAX, ExecuTorch, IREE, LiteRT, ncnn, tinygrad and TVM: right results of small calls, and what they refuse.

All values are small integers, so that every order of summation gives the same bits. What the runtimes themselves do
wrong is under ``docs/findings/``.
"""

from __future__ import annotations

import math
from shutil import which

import pytest
import torch
from torch.nn import functional

from equiv.backends import load_backend
from equiv.errors import MissingExtraError
from equiv.testing import check_backend

RUNTIMES = (
    "executorch",
    "executorch?kernels=portable",
    "iree",
    "jax",
    "litert",
    "litert?kernels=builtin",
    "litert?kernels=reference",
    "ncnn",
    "ncnn?storage=float16",
    "ncnn?winograd=yes",
    "tinygrad",
    "tvm",
)
STEPS = ({}, {"stride": 2}, {"dilation": 2}, {"padding": 1}, {"groups": 2})


@pytest.fixture(params=RUNTIMES)
def backend(request):
    return loaded(request.param)


def loaded(name):
    if name == "tinygrad" and which("clang") is None:
        pytest.skip("clang, which tinygrad needs, is not installed")
    try:
        return load_backend(name)
    except MissingExtraError as error:
        pytest.skip(str(error))


def counted(*shape, dtype=torch.float32, start=0):
    """Numbers from 0 to 6, over and over."""
    return (torch.arange(start, start + math.prod(shape)) % 7).reshape(shape).to(dtype)


def test_a_linear_layer(backend):
    for batch, has_bias in (((3,), True), ((2, 2), False), ((), True)):
        x, weight = counted(*batch, 5), counted(4, 5, start=3)
        bias = counted(4) if has_bias else None
        assert torch.equal(backend.linear(x, weight, bias), functional.linear(x, weight, bias))


def test_every_dtype_that_it_declares(backend):
    for dtype in backend.capabilities.dtypes_of("linear"):
        x, weight, bias = counted(3, 5, dtype=dtype), counted(4, 5, dtype=dtype, start=3), counted(4, dtype=dtype)
        y = backend.linear(x, weight, bias)
        assert y.dtype == dtype
        wide = (one.to(torch.complex128) for one in (x, weight, bias))
        assert torch.equal(y.to(torch.complex128), functional.linear(*wide))


@pytest.mark.parametrize("steps", STEPS, ids=str)
def test_a_convolution(backend, steps):
    declared = backend.capabilities
    if any(getattr(declared, name) is False for name in steps):
        pytest.skip(f"it declares that it has no {next(iter(steps))}")
    for rank in declared.spatial_ranks or (1, 2, 3):
        if backend.name.startswith("litert") and rank == 3 and "groups" in steps:
            continue
        size, kernel = (5, 4, 3)[:rank], (2, 3, 1)[:rank]
        size, kernel = (size, kernel) if "dilation" not in steps else ((7, 7, 3)[:rank], kernel)
        x, weight = counted(2, 4, *size), counted(6, 4 // steps.get("groups", 1), *kernel, start=2)
        conv = (functional.conv1d, functional.conv2d, functional.conv3d)[rank - 1]
        bias = counted(6) if rank < 3 else None
        assert torch.equal(backend.conv(x, weight, bias, **steps), conv(x, weight, bias, **steps))


def test_tensors_that_are_views_go_over_as_they_read(backend):
    x, weight = counted(5, 3).T, counted(4, 10)[:, ::2]
    negated = torch._neg_view(x)
    assert not x.is_contiguous()
    assert not weight.is_contiguous()
    assert torch.equal(backend.linear(x, weight), x @ weight.T)
    assert torch.equal(backend.linear(negated, weight), -(x @ weight.T))
    held = weight.clone().requires_grad_()
    assert not backend.linear(x, held).requires_grad


def test_results_are_not_written_again(backend):
    first = backend.linear(counted(2, 3), counted(4, 3))
    kept = first.clone()
    backend.linear(counted(2, 3, start=5), counted(4, 3))
    assert torch.equal(first, kept)


def test_what_it_does_not_serve_is_no_failure(backend):
    with pytest.raises(NotImplementedError):
        backend.conv(counted(2, 3, 3), counted(4, 2, 3, 3))  # one sample
    if backend.capabilities.empty_batches is False:
        with pytest.raises(NotImplementedError):
            backend.linear(counted(0, 3), counted(4, 3))
    else:
        assert backend.linear(counted(0, 3), counted(4, 3)).shape == (0, 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["iree", "jax", "litert", "ncnn", "tvm"])
def test_laws_of_exact_values_hold(name):
    results = check_backend(loaded(name), laws=["exact", "scaling"], dtypes=["float32"], examples=2, seed=3)
    assert [result.outcome for result in results] == ["holds", "holds"]
