"""Right layers that must be served, and arguments that must be refused in words."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import nn

import equiv
from equiv import EquivError, certify

WARNING = "ignore:Complex modules are a new feature"
LINEAR = nn.Linear(12, 5)


# --- complex biases ---------------------------------------------------------------------------------------------------


def biased(value, dtype=torch.complex64, kind=nn.Linear):
    torch.manual_seed(0)
    made = nn.Linear(4, 3, dtype=dtype) if kind is nn.Linear else nn.Conv1d(4, 3, 1, dtype=dtype)
    made.bias.data[:] = value
    return made


@pytest.mark.filterwarnings(WARNING)
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
def test_the_imaginary_part_of_a_bias_counts(dtype):
    real, up = dtype.to_real(), math.inf
    for a, b in (
        (0.1, 0.5),
        (0.1, torch.nextafter(torch.tensor(0.1, dtype=real), torch.tensor(up, dtype=real)).item()),
    ):
        one = biased(complex(1e6, a), dtype)
        two = biased(complex(1e6, b), dtype)
        for left, right in ((lambda x, f=one: f(x), two), (lambda x, f=one: f(x), lambda x, f=two: f(x))):
            found = certify(left, right, in_features=4, dtype=dtype)
            assert found.reason == "bias differs"
            assert (found.difference_count, found.resolution) == (3, 0.0)
        other = copy.deepcopy(one)
        same = certify(lambda x, f=one: f(x), lambda x, f=other: f(x), in_features=4, dtype=dtype)
        assert same
        assert same.resolution == 0.0


@pytest.mark.filterwarnings(WARNING)
def test_what_a_complex_convolution_rounds_of_a_bias_is_reported():
    conv, linear = (biased(1e6 + 0.1j, kind=kind) for kind in (nn.Conv1d, nn.Linear))
    linear.weight.data = conv.weight.data[:, :, 0].clone()
    found = certify(lambda x: conv(x[:, :, None]), linear)
    assert found, found
    assert 0.05 < found.resolution < 0.2
    assert "rounds the imaginary part of its bias" in found.explanation
    linear.bias.data += 0.5j
    assert certify(lambda x: conv(x[:, :, None]), linear).reason == "bias differs"
    assert certify(equiv.linear_to_pointwise_conv(linear), linear).resolution == 0.0


# --- paddings that repeat the input -----------------------------------------------------------------------------------


@pytest.mark.filterwarnings(WARNING)
@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64], ids=str
)
@pytest.mark.parametrize("mode", ["replicate", "circular", "reflect"])
def test_taps_that_share_an_input_are_added_in_any_order(dtype, mode):
    if dtype.is_complex and mode == "replicate":
        pytest.skip("torch has no replication padding of complex numbers")
    torch.manual_seed(3)
    for size, padding in ((3, 2), (4, 3)):
        conv = nn.Conv2d(2, 3, 5, padding=padding, padding_mode=mode).to(dtype)
        linear = equiv.conv_to_linear(conv, (2, size, size + 1))
        found = certify(conv, linear, feature_shape=(2, size, size + 1), method="deterministic")
        assert found, found
        assert certify(conv, copy.deepcopy(conv), feature_shape=(2, size, size + 1), method="deterministic")


def test_a_kernel_that_is_wrong_where_taps_share_an_input_is_found(monkeypatch):
    conv = nn.Conv2d(1, 1, 3, padding=2, padding_mode="replicate", bias=False)
    linear = equiv.conv_to_linear(conv, (1, 2, 2))
    assert certify(conv, linear, feature_shape=(1, 2, 2))
    right = F.conv2d

    def wrong(x, w, *rest, by=1 + 2.0**-15, **named):
        return right(x, w * by, *rest, **named)

    monkeypatch.setattr(F, "conv2d", wrong)
    found = certify(conv, linear, feature_shape=(1, 2, 2))
    assert found.reason == "kernels differ"
    monkeypatch.setattr(F, "conv2d", right)
    linear.weight.data[5, 1] = torch.nextafter(linear.weight.data[5, 1], torch.tensor(9.0))
    assert certify(conv, linear, feature_shape=(1, 2, 2)).differences[0][:2] == (5, 1)


def test_attributes_set_on_a_convolution_are_those_that_torch_reads():
    linear = nn.Linear(12, 5)
    conv = equiv.linear_to_full_conv(linear, (3, 2, 2))
    conv.padding, conv.stride = (1, 1), (3, 3)
    dense = equiv.conv_to_linear(conv, (3, 2, 2))
    for method in ("deterministic", "random"):
        assert certify(conv, dense, method=method)
        dense.bias.data[3] += 1
        assert certify(conv, dense, method=method).differences[0][:2] == (3, None)
        dense.bias.data[3] = conv.bias.data[3]
    conv.padding = (0, 0)
    assert certify(conv, linear)


# --- what works in place, and what cannot be served -------------------------------------------------------------------


def test_functions_may_work_in_place():
    weight, bias = LINEAR.weight.detach(), LINEAR.bias.detach()

    def spoils(x):
        y = LINEAR(x)
        x.neg_()
        return y

    assert certify(lambda x: x.mul_(2) @ (weight / 2).T + bias, LINEAR)
    assert certify(spoils, LINEAR)
    assert certify(nn.Sequential(nn.ReLU(inplace=True), LINEAR), LINEAR).reason == "not affine"


def odd(**attributes):
    conv = equiv.linear_to_full_conv(LINEAR, (3, 2, 2))
    for name, value in attributes.items():
        setattr(conv, name, value)
    return conv


EMPTY = "expected at least one input and one output"
REFUSED = {
    "stride 0": (lambda: certify(odd(stride=(0, 0)), LINEAR), "candidate.stride: expected an integer"),
    "padding foo": (lambda: certify(odd(padding="foo"), LINEAR), "candidate.padding: expected an integer"),
    "groups 0": (lambda: certify(odd(groups=0), LINEAR), "candidate.groups: expected an integer"),
    "no weight": (lambda: certify(odd(weight=None), LINEAR), "candidate.weight: expected a parameter, got None"),
    "sparse": (lambda: certify(lambda x: LINEAR(x).to_sparse(), LINEAR), "candidate: expected a strided tensor"),
    "nested": (
        lambda: certify(lambda x: torch.nested.nested_tensor([*LINEAR(x)]), LINEAR),
        "candidate: expected a strided tensor as a result, got a nested one",
    ),
    "no output": (lambda: certify(lambda x: x[:, :0], abs, in_features=3), "candidate: expected at least one output"),
    "no inputs": (lambda: certify(empty(0, 3), empty(0, 3)), f"candidate.weight: {EMPTY}"),
    "no outputs": (lambda: certify(empty(3, 0), empty(3, 0)), f"candidate.weight: {EMPTY}"),
    "a trillion": (lambda: certify(abs, abs, in_features=10**12), "in_features: expected a number of features whose"),
    "more": (lambda: certify(abs, abs, in_features=10**30), "in_features: expected an integer from 1 to"),
    "a large map": (lambda: certify(abs, abs, feature_shape=(10**10, 10**10)), "in_features: expected a number"),
}


def empty(n, outputs):
    linear = nn.Linear(3, 3)
    linear.in_features, linear.out_features = n, outputs
    linear.weight = nn.Parameter(torch.zeros(outputs, n))
    linear.bias = nn.Parameter(torch.zeros(outputs))
    return linear


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_what_cannot_be_served_is_refused_in_words(case):
    call, message = REFUSED[case]
    with pytest.raises(EquivError, match=message):
        call()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(
        EquivError, match="device: expected a torch device that is present and holds values, got 'cuda'"
    ):
        certify(abs, abs, in_features=3, device="cuda")
