"""Two large convolutions of different geometry are compared tap by tap, in little memory."""

from __future__ import annotations

import random
import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn

import equiv
from equiv import EquivError, NotEquivalent, Outcome, assert_equivalent
from equiv.verdict.same_taps import difference_of

SHAPE = (16, 24, 24)  # 16 channels on it: a dense layer of some 85 million weights


def seeded(make, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def embedded(conv, ring, step=1):
    """The same function with ``ring`` zeros around a kernel whose dilation is filled up with zeros."""
    rank, dilation = conv.weight.ndim - 2, conv.dilation[0]
    assert dilation % step == 0
    apart = dilation // step
    size = (conv.weight.shape[-1] - 1) * apart + 1 + 2 * ring
    options = {"stride": conv.stride, "dilation": step, "padding": conv.padding[0] + ring * step}
    found = type(conv)(conv.in_channels, conv.out_channels, size, groups=conv.groups, **options)
    found.weight.data.zero_()
    inside = (slice(ring, size - ring, apart),) * rank
    found.weight.data[(..., *inside)] = conv.weight.data
    found.bias.data = conv.bias.data.clone()
    return found


def in_one_group(conv):
    found = type(conv)(conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding)
    found.weight.data.zero_()
    outputs, channels = conv.out_channels // conv.groups, conv.in_channels // conv.groups
    for g in range(conv.groups):
        rows, columns = (slice(g * size, (g + 1) * size) for size in (outputs, channels))
        found.weight.data[rows, columns] = conv.weight.data[rows]
    found.bias.data = conv.bias.data.clone()
    return found


def refuted(candidate, reference, shape=SHAPE, **options):
    with pytest.raises(NotEquivalent) as caught:
        assert_equivalent(candidate, reference, feature_shape=shape, **options)
    return caught.value.verdict


PAIRS = {
    "zeros around the kernel": lambda: (nn.Conv2d(16, 16, 3, padding=1), lambda conv: embedded(conv, 1)),
    "zeros between the taps": lambda: (nn.Conv2d(16, 16, 2, dilation=2, padding=1), lambda conv: embedded(conv, 0)),
    "with a stride": lambda: (nn.Conv2d(16, 48, 3, stride=2, padding=1), lambda conv: embedded(conv, 2)),
    "groups": lambda: (nn.Conv2d(16, 16, 3, padding=1, groups=4), in_one_group),
}


@pytest.mark.parametrize("name", PAIRS)
def test_the_same_taps_are_the_same_function(name):
    conv, change = seeded(PAIRS[name])
    other = change(conv)
    assert_equivalent(other, conv, feature_shape=SHAPE)
    assert_equivalent(conv, other, feature_shape=SHAPE)


@pytest.mark.parametrize("name", PAIRS)
def test_one_weight_by_one_ulp_is_found(name):
    conv, change = seeded(PAIRS[name])
    other = change(conv)
    index = tuple(int(i) for i in other.weight.nonzero()[-1])
    other.weight.data[index] = torch.nextafter(other.weight.data[index], torch.tensor(9.0))
    verdict = refuted(other, conv)
    assert verdict.worst.index == index
    assert "1 of " in verdict.explanation
    assert "1 ulp" in verdict.explanation
    assert "in the candidate" in refuted(conv, other).explanation


def test_a_tap_that_the_other_lacks_and_a_bias_are_found():
    conv = seeded(lambda: nn.Conv2d(16, 16, 3, padding=1))
    other = embedded(conv, 1)
    other.weight.data[2, 3, 0, 4] = 2.0**-20
    verdict = refuted(other, conv)
    assert verdict.worst.index == (2, 3, 0, 4)
    assert "from input [3, " in verdict.explanation
    other = embedded(conv, 1)
    other.bias.data[5] += 1
    assert "of the bias differs" in refuted(other, conv).explanation


def test_a_shifted_kernel_and_other_sizes_are_different():
    conv = seeded(lambda: nn.Conv2d(16, 16, 3, padding=1))
    shifted = embedded(conv, 1)
    shifted.weight.data = shifted.weight.data.roll(1, 3)
    assert refuted(shifted, conv).outcome is Outcome.DIFFERENT
    assert "(16, 24, 24) of float32, the reference (16, 22, 22)" in refuted(conv, nn.Conv2d(16, 16, 3)).explanation


def test_padding_modes_with_equal_reads_are_compared_and_others_are_different():
    conv = seeded(lambda: nn.Conv2d(16, 16, 3, padding=1, padding_mode="circular"))
    other = nn.Conv2d(16, 16, 5, padding=2, padding_mode="circular")
    other.weight.data.zero_()
    other.weight.data[:, :, 1:4, 1:4], other.bias.data = conv.weight.data, conv.bias.data.clone()
    assert_equivalent(other, conv, feature_shape=SHAPE)
    other.padding_mode = "zeros"
    assert "weights differ" in refuted(other, conv).explanation


def test_weights_that_are_not_finite_are_refused():
    conv = seeded(lambda: nn.Conv2d(16, 16, 3, padding=1))
    other = embedded(conv, 1)
    conv.weight.data[0, 0, 0, 0] = torch.inf
    with pytest.raises(EquivError, match="candidate: expected finite weights where two large convolutions"):
        assert_equivalent(other, conv, feature_shape=SHAPE)


def test_an_infinity_beside_a_tap_of_zero_is_no_verdict_of_equivalence():
    conv = seeded(lambda: nn.Conv2d(16, 16, 3, padding=1))
    x = torch.zeros(1, *SHAPE)
    x[0, 0, 10, 10] = torch.inf
    with pytest.raises(NotEquivalent):
        assert_equivalent(embedded(conv, 1), conv, x, feature_shape=SHAPE)


@pytest.mark.parametrize("seed", range(60))
def test_tap_by_tap_is_as_the_dense_layers_say(seed):
    rng = random.Random(seed)
    options = {"stride": rng.randint(1, 3), "padding": rng.randint(0, 2), "dilation": rng.randint(1, 2)}
    conv = seeded(lambda: nn.Conv1d(2, 2, rng.randint(1, 3), groups=rng.randint(1, 2), **options), seed)
    other = embedded(conv, rng.randint(0, 2), rng.choice([1, conv.dilation[0]]))
    if seed % 3 == 1:
        other.weight.data[0, 0, rng.randrange(other.weight.shape[-1])] += 1
    if seed % 3 == 2:
        other.stride = (rng.randint(1, 3),)
    shape = (2, rng.randint(5, 8))
    both = [equiv.conv_to_linear(one, shape).weight for one in (conv, other)]
    same = both[0].shape == both[1].shape and torch.equal(*both)
    assert (difference_of(other, conv, shape) is None) == same


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="kibibytes elsewhere are bytes")
def test_no_dense_layer_is_built():
    """Two dense layers of 64 -> 96 channels on maps of 28 x 28 would take 15 GB each."""
    program = """
        import resource, torch, equiv
        from torch import nn
        a, b = nn.Conv2d(64, 96, 3, padding=1), nn.Conv2d(64, 96, 5, padding=2)
        b.weight.data.zero_()
        b.weight.data[:, :, 1:4, 1:4], b.bias.data = a.weight.data, a.bias.data.clone()
        a(torch.zeros(2, 64, 28, 28)), b(torch.zeros(2, 64, 28, 28))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        equiv.assert_equivalent(b, a, feature_shape=(64, 28, 28))
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
    """
    run = [sys.executable, "-c", textwrap.dedent(program)]
    found = subprocess.run(run, capture_output=True, text=True, check=True, timeout=120)
    assert float(found.stdout) < 256  # MiB
