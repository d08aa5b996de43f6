"""Results of convolutions whose dense matrix no machine holds: right kernels pass, wrong ones are found."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import rounding_kernels
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name that everybody gives it

import equiv
from equiv import Outcome, compare
from equiv.mapping import inputs_read, taps_as_dense
from equiv.numerics import Reference, declared

IDENTICAL, ROUNDING, DIFFERENT, UNDECIDED = Outcome.IDENTICAL, Outcome.ROUNDING, Outcome.DIFFERENT, Outcome.UNDECIDED
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
KINDS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def drawn(shape, dtype, seed, *, relu=False):
    generator = torch.Generator().manual_seed(seed)
    if not (dtype.is_floating_point or dtype.is_complex):
        info = torch.iinfo(dtype)
        return torch.randint(info.min, info.max, tuple(shape), generator=generator, dtype=dtype)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    found = torch.randn(tuple(shape), generator=generator, dtype=wide)
    return (found.relu() if relu else found).to(dtype)


def conv_of(channels, outputs, kernel, sizes, *, dtype=torch.float32, seed=0, **options):
    """A convolution for maps of these sizes, and two of them."""
    conv = KINDS[len(sizes)](channels, outputs, kernel, **options)
    for key, parameter in list(conv._parameters.items()):
        if parameter is not None:
            values = drawn(parameter.shape, dtype, seed + len(key))
            conv._parameters[key] = nn.Parameter(values, requires_grad=False)
    return conv, drawn((2, channels, *sizes), dtype, seed + 1, relu=not dtype.is_complex)


def rounded_once(conv, x):
    wide = torch.complex128 if x.is_complex() else torch.float64
    bias = None if conv.bias is None else conv.bias.to(wide)
    return conv._conv_forward(x.to(wide), conv.weight.to(wide), bias).to(x.dtype)


def other_channels(conv, x):
    """The channels of each group added in the other order."""
    groups = x.unflatten(1, (conv.groups, -1)).flip(2).flatten(1, 2)
    return conv._conv_forward(groups, conv.weight.flip(1), conv.bias)


def unfolded(conv, x):
    """Unfold and multiply: 2d, one group, zeros."""
    columns = F.unfold(x, conv.kernel_size, conv.dilation, conv.padding, conv.stride)
    y = conv.weight.flatten(1) @ columns + conv.bias[:, None]
    return y.view(len(x), conv.out_channels, *conv(x).shape[2:])


def without_mkldnn(conv, x):
    was = torch.backends.mkldnn.set_flags(_enabled=False, _allow_tf32=None)  # flags() warns without an Intel GPU
    try:
        return conv(x)
    finally:
        torch.backends.mkldnn.set_flags(_enabled=was[0], _allow_tf32=None)


def channels_last(conv, x):
    return conv(x.to(memory_format=torch.channels_last))


SERVED = [
    (1, 16, 32, 5, (2048,), {"padding": "same", "padding_mode": "circular"}),
    (1, 6, 9, 4, (4096,), {"stride": 3, "dilation": 2, "groups": 3, "padding": 5, "padding_mode": "replicate"}),
    (2, 64, 96, 3, (28, 28), {"padding": 1}),
    (2, 16, 24, (5, 2), (65, 40), {"padding": (3, 1), "dilation": (1, 2), "stride": (2, 1), "groups": 4}),
    (2, 32, 32, 3, (40, 41), {"padding": "same", "groups": 32, "bias": False}),
    (2, 12, 20, 3, (48, 48), {"padding": 2, "padding_mode": "reflect", "stride": 2}),
    (3, 4, 8, 3, (14, 15, 16), {"padding": 1, "padding_mode": "replicate"}),
    (3, 6, 8, (1, 3, 2), (12, 16, 16), {"dilation": (1, 2, 1), "groups": 2}),
]
CASES = pytest.mark.parametrize(("rank", "channels", "outputs", "kernel", "sizes", "options"), SERVED, ids=str)


@CASES
def test_right_kernels_of_any_convolution_pass_and_one_wrong_output_is_found(
    rank, channels, outputs, kernel, sizes, options
):
    conv, x = conv_of(channels, outputs, kernel, sizes, **options)
    y = conv(x)
    for other in (rounded_once(conv, x), other_channels(conv, x), without_mkldnn(conv, x)):
        verdict = compare(other, y, input=x, layer=conv)
        assert verdict.outcome in (ROUNDING, IDENTICAL), verdict
        assert verdict.counts["total"] == y.numel()
        flat = compare(other.flatten(1), y.flatten(1), input=x, layer=conv)
        assert (flat.counts, flat.max_ratio) == (verdict.counts, verdict.max_ratio)
    assert compare(y[0], rounded_once(conv, x)[0], input=x[0], layer=conv)
    place = (1, outputs - 1, *(size // 2 for size in y.shape[2:]))
    bad = y.clone()
    bad[place] += bad.abs().max() * 2**-6
    verdict = compare(bad, y, input=x, layer=conv)
    assert (verdict.outcome, verdict.counts["different"]) == (DIFFERENT, 1)
    assert verdict.worst is not None
    assert verdict.worst.index == place
    assert verdict.worst.actual == bad[place].item()
    assert verdict.worst.expected == y[place].item()
    other_way = compare(y, bad, input=x, layer=conv)
    assert (other_way.outcome, other_way.worst and other_way.worst.index) == (DIFFERENT, place)
    assert "`expected` that is outside" in other_way.explanation


@pytest.mark.parametrize("kernel", [unfolded, channels_last], ids=lambda f: f.__name__)
def test_unfolding_and_other_layouts_are_right(kernel):
    conv, x = conv_of(64, 96, 3, (28, 28), padding=1)
    assert compare(kernel(conv, x), rounded_once(conv, x), input=x, layer=conv)
    assert compare(kernel(conv, x), conv(x), input=x.to(memory_format=torch.channels_last), layer=conv)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64, torch.complex128], ids=str)
def test_wide_and_complex_results_are_judged_at_every_output(dtype):
    conv, x = conv_of(8, 12, 3, (40, 40), dtype=dtype, padding=1)
    y, other = conv(x), other_channels(conv, x)
    verdict = compare(other, y, input=x, layer=conv)
    assert verdict.outcome is ROUNDING
    assert "judged at" not in verdict.explanation
    assert verdict.max_ratio is not None
    assert 0 < verdict.max_ratio < 0.5
    scale = x.abs().max().item() * 72
    for place in ((0, 0, 0, 0), (1, 11, 39, 20)):
        bad = y.clone()
        bad[place] += scale * 2.0 ** (-16 if dtype == torch.complex64 else -45)
        assert compare(bad, y, input=x, layer=conv).counts["different"] == 1


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_integers_are_exact_modulo_two_to_the_bits(dtype):
    conv, x = conv_of(12, 10, 3, (20, 30), dtype=dtype, padding=1, groups=2)
    y = conv(x)
    assert compare(y, y, input=x, layer=conv).outcome is IDENTICAL
    bad = y.clone()
    bad[1, 7, 0, 29] ^= 1
    verdict = compare(bad, y, input=x, layer=conv)
    assert (verdict.outcome, verdict.counts["different"]) == (DIFFERENT, 1)
    assert verdict.worst is not None
    assert verdict.worst.index == (1, 7, 0, 29)
    assert verdict.worst.exact == y[1, 7, 0, 29].item()


def test_one_ulp_of_one_term_at_a_border_is_seen_where_it_is_alone():
    """Inputs so sparse that outputs have one term: there is one right result, that product rounded once."""
    for mode in ("zeros", "reflect"):
        conv, x = conv_of(16, 64, 3, (60, 60), padding=1, padding_mode=mode, bias=False)
        sparse = torch.zeros_like(x)
        sparse[:, :1, ::3, ::3] = x[:, :1, ::3, ::3] + 1.0
        y = conv(sparse)
        verdict = compare(y, rounded_once(conv, sparse), input=sparse, layer=conv)
        assert verdict
        bad = y.clone()
        bad[1, 63, 0, 30] = torch.nextafter(bad[1, 63, 0, 30], torch.tensor(torch.inf))
        verdict = compare(bad, y, input=sparse, layer=conv)
        assert (verdict.outcome, verdict.counts["different"]) == (DIFFERENT, 1)
        assert verdict.worst is not None
        assert (verdict.worst.index, verdict.worst.terms) == ((1, 63, 0, 30), 1)


def groups_exchanged(conv, x):
    first, second, *others = x.chunk(conv.groups, 1)
    return conv(torch.cat([second, first, *others], 1))


def position_repeated(conv, x):
    y = conv(x).clone()
    y[0, 3, ..., 7] = y[0, 3, ..., 8]
    return y


def circular(conv, x):
    pads = conv._reversed_padding_repeated_twice
    return F.conv2d(F.pad(x, pads, mode="circular"), conv.weight, conv.bias, groups=conv.groups)


def kernel_flipped(conv, x):
    return conv._conv_forward(x, conv.weight.flip(-1), conv.bias)


WRONG = (groups_exchanged, position_repeated, circular, kernel_flipped)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda f: f.__name__)
def test_wrong_kernels_are_different(wrong):
    conv, x = conv_of(32, 64, 3, (32, 32), padding=1, padding_mode="reflect", groups=2)
    verdict = compare(wrong(conv, x), conv(x), input=x, layer=conv)
    assert verdict.outcome is DIFFERENT
    if wrong is circular:  # right but for the border
        assert verdict.counts["different"] <= 2 * 64 * (32 * 32 - 30 * 30)


HALVES = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)


def accumulated(conv, x):
    """Products and sums in float32, not yet rounded: without the bias, and with it."""
    weight = conv.weight.float()
    return conv._conv_forward(x.float(), weight, None), conv._conv_forward(x.float(), weight, conv.bias.float())


@HALVES
def test_results_of_16_bits_are_rounded_to_nearest_once_or_before_the_bias(dtype):
    conv, x = conv_of(32, 48, 3, (24, 24), dtype=dtype, padding=1)
    products, sums = accumulated(conv, x)
    apart = (rounding_kernels.nearest(products, dtype).float() + conv.bias.float().view(-1, 1, 1)).to(dtype)
    right = {"once": rounding_kernels.nearest(sums, dtype), "apart": apart, "wide": rounded_once(conv, x)}
    for name, result in right.items():
        verdict = compare(result, right["once"], input=x, layer=conv)
        assert verdict.outcome in (ROUNDING, IDENTICAL), (name, verdict)
    for misrounded in (rounding_kernels.toward_zero, rounding_kernels.away_from_zero):
        verdict = compare(misrounded(sums, dtype), right["once"], input=x, layer=conv)
        assert verdict.outcome is DIFFERENT
        assert verdict.counts["different"] > 0.2 * sums.numel()


def as_dense(conv, x, position):
    """The outputs at one position as the dense layer gives them: taps of one input are added before."""
    reads = inputs_read(conv, tuple(x.shape[2:]))
    read = reads[position].tolist()
    weight = taps_as_dense(conv.weight.flatten(2), read)
    window = torch.stack([x.flatten(2)[..., max(at, 0)] * (at >= 0) for at in read], -1)  # (N, C, T)
    return F.linear(window.flatten(1), weight.flatten(1), conv.bias)


@pytest.mark.parametrize("mode", ["replicate", "circular", "reflect"])
def test_repeated_taps_may_come_added_as_the_dense_layer_has_them(mode):
    sizes = (2, 60) if mode == "circular" else (40, 60)
    conv, x = conv_of(2, 60, 3, sizes, padding=(2 if mode == "circular" else 1, 1), padding_mode=mode)
    with torch.no_grad():  # taps that nearly cancel: their sum, rounded, is far from both for the size of what is left
        conv.weight[..., 0, :] = -conv.weight[..., 2, :] * (1 + 2**-20)
    sparse = torch.zeros_like(x)
    sparse[..., 0, :] = x[..., 0, :]
    y = conv(sparse)
    dense = y.flatten(2).clone()
    for position in (0, 1, 59):
        dense[..., position] = as_dense(conv, sparse, position)
    dense = dense.view_as(y)
    for result in (y, dense):
        assert compare(result, y, input=sparse, layer=conv)
    bad = dense.clone()
    bad[0, :, 0, 1] *= 1 + 2**-8
    assert compare(bad, y, input=sparse, layer=conv).outcome is DIFFERENT


def test_infinity_reaches_the_windows_that_hold_it_and_no_other():
    conv, x = conv_of(8, 16, 3, (40, 40), padding=1)
    x[0, 3, 10, 10] = torch.inf
    y = conv(x)
    assert int((~y.isfinite()).sum()) == 16 * 9
    assert compare(y, rounded_once(conv, x), input=x, layer=conv)
    for place, value in (((0, 0, 10, 10), 1.0), ((0, 0, 20, 20), torch.inf), ((1, 0, 10, 10), torch.nan)):
        bad = y.clone()
        bad[place] = value
        verdict = compare(bad, y, input=x, layer=conv)
        assert (verdict.outcome, verdict.counts["different"]) == (DIFFERENT, 1)
    spoilt = y.clone()  # the dense layer multiplies it by zero everywhere in that sample
    spoilt[0, 5, 30, 30] = torch.nan
    verdict = compare(spoilt, y, input=x, layer=conv)
    assert (verdict.outcome, verdict.counts["undecided"]) == (UNDECIDED, 1)


def test_sums_that_may_overflow_are_undecided():
    conv, x = conv_of(8, 16, 3, (30, 30), padding=1)
    x[0] *= 2.0**125
    verdict = compare(conv(x).nan_to_num(0.0), conv(x), input=x, layer=conv)
    assert verdict.counts["different"] + verdict.counts["undecided"] > 0
    assert verdict.counts["identical"] >= 16 * 900


def test_tolerances_hold_in_addition():
    conv, x = conv_of(64, 96, 3, (28, 28), padding=1)
    y = conv(x)
    other = y.clone()
    other[1, 2, 3, 4] *= 1 + 2**-20
    verdict = compare(other, y, input=x, layer=conv, rtol=0, atol=0)
    assert (verdict.outcome, verdict.conditions) == (
        DIFFERENT,
        ("rtol=0, atol=0: is exceeded at 1 of 150,528 outputs",),
    )
    assert verdict.worst is not None
    assert verdict.worst.index == (1, 2, 3, 4)
    assert compare(other, y, input=x, layer=conv, rtol=1e-5).conditions == ("rtol=1e-05, atol=0: holds",)


def test_a_mistake_of_a_large_convolution_is_named_from_some_of_its_positions():
    conv, x = conv_of(64, 96, 3, (28, 28), padding=1)
    without = F.conv2d(x, conv.weight, None, padding=1)
    verdict = compare(without, conv(x), input=x, layer=conv)
    assert verdict.cause is not None
    assert verdict.cause.name == "bias-dropped"


MEMORY = """
import torch, equiv
from pathlib import Path
def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))
torch.manual_seed(0)
conv = torch.nn.Conv2d(64, 128, 3, padding=1).requires_grad_(False)
x = torch.randn(2, 64, 112, 112).relu()
y, other = conv(x), conv.double()(x.double()).float()
conv = conv.float()
equiv.compare(y[..., :3, :3], y[..., :3, :3], input=x[..., :3, :3], layer=conv)
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
verdict = equiv.compare(y, other, input=x, layer=conv)
print(verdict.outcome.name, (status("VmHWM") - before) / sum(4 * t.numel() for t in (x, y, conv.weight)))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_the_memory_of_a_verdict_is_less_than_twice_that_of_the_tensors():
    found = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True).stdout.split()
    assert found[0] == "ROUNDING"
    assert float(found[1]) < 2


def test_results_and_inputs_that_do_not_fit_each_other_are_refused_as_before():
    conv, x = conv_of(4, 6, 3, (30, 30), padding=1)
    y: Tensor = conv(x)
    with pytest.raises(equiv.EquivError, match=r"^input: expected one row of 3600 features, or one map of"):
        compare(y[..., 1:], y[..., 1:], input=x, layer=conv)
    with pytest.raises(equiv.EquivError, match=r"^input: expected the dtype of actual, float32, got float64"):
        compare(y, y, input=x.double(), layer=conv)
    small = nn.Conv2d(4, 6, 5)
    with pytest.raises(equiv.EquivError, match=r"^layer: expected a convolution that fits a map \(4, 4, 4\), got"):
        compare(y, y, input=x[..., :4, :4], layer=small)


def test_functions_and_layers_are_judged_against_a_convolution_of_any_size():
    conv, x = conv_of(64, 96, 3, (28, 28), padding=1)
    shape = (64, 28, 28)
    equiv.assert_equivalent(lambda x: channels_last(conv, x), conv, feature_shape=shape)
    equiv.assert_equivalent(conv, lambda x: rounded_once(conv, x), x, feature_shape=shape)
    twin, _ = conv_of(64, 96, 3, (28, 28), padding=1)
    equiv.assert_equivalent(twin, conv, feature_shape=shape)
    twin.weight.data[95, 63, 2, 2] = torch.nextafter(twin.weight[95, 63, 2, 2], torch.tensor(9.0))
    with pytest.raises(
        equiv.NotEquivalent, match=r"1 of 55,296 entries of the weight differs; the first, weight\[95, 63"
    ):
        equiv.assert_equivalent(twin, conv, feature_shape=shape)
    for wrong in (kernel_flipped, position_repeated, lambda conv, x: 1.0001 * conv(x)):
        with pytest.raises(equiv.NotEquivalent, match=r"^DIFFERENT: on"):
            equiv.assert_equivalent(lambda x, wrong=wrong: wrong(conv, x), conv, feature_shape=shape)


def test_one_wrong_weight_of_a_function_shows_on_lattices_of_ones():
    conv, _ = conv_of(3, 32, 3, (64, 64), padding=1)
    other, _ = conv_of(3, 32, 3, (64, 64), padding=1)
    other.weight.data[5, :, 0, 0] *= 1 + 2**-22
    with pytest.raises(equiv.NotEquivalent, match="lattices of ones"):
        equiv.assert_equivalent(lambda x: other(x), conv, feature_shape=(3, 64, 64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_the_ends_of_the_envelope_are_inside_and_the_numbers_beyond_them_are_not(dtype):
    conv, x = conv_of(16, 24, 3, (40, 40), dtype=dtype, padding=1)
    columns = F.unfold(x.double(), 3, padding=1).to(dtype)  # (2, n, P)
    places = [(0, 0, 0), (0, 23, 39), (1, 5, 1599), (1, 11, 700), (0, 17, 41)]
    for end, direction in (("upper", torch.inf), ("lower", -torch.inf)):
        y = conv(x).flatten(2)
        beyond = y.clone()
        for sample, channel, position in places:
            row, weight = columns[sample, :, position][None], conv.weight[channel].flatten()[None]
            reference = Reference(row, weight, conv.bias[channel : channel + 1])
            assessed = reference.assess(y[sample, channel, position].view(1, 1), declared(dtype))
            edge = getattr(assessed, end).to(dtype)
            y[sample, channel, position] = edge
            further = torch.nextafter(edge, torch.tensor(direction, dtype=dtype))
            if dtype == torch.float64:  # slices leave 1/256 of E open
                further = torch.nextafter(edge + (edge - assessed.exact) / 100, torch.tensor(direction, dtype=dtype))
            beyond[sample, channel, position] = further
        shape = (2, 24, 40, 40)
        assert compare(y.view(shape), y.view(shape), input=x, layer=conv)
        found = compare(beyond.view(shape), y.view(shape), input=x, layer=conv)
        assert found.counts["different"] == len(places), found


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("bias", [False, True])
def test_16_bit_results_are_rounded_to_nearest(dtype, bias):
    torch.manual_seed(0)
    conv = nn.Conv2d(256, 16, 3, padding=1, bias=bias).to(dtype).requires_grad_(False)
    x = torch.randn(1, 256, 12, 12).relu().to(dtype)
    patches = F.unfold(x.double(), 3, padding=1)[0].T.to(dtype)
    right = conv(x)

    def verdict(kernel):
        y = kernel(patches, conv.weight.flatten(1), conv.bias).T.reshape(right.shape)
        return compare(y, right, input=x, layer=conv)

    together = 0
    for name, rounding in rounding_kernels.WRONG.items():
        if name != "ties away":  # these sums are no ties
            found = verdict(rounding_kernels.kernel("pairwise", rounding))
            assert found.outcome is Outcome.DIFFERENT, name
            assert found.cause.name == f"rounding-{name.replace(' ', '-')}"
            assert sum(found.counts[key] for key in ("identical", "rounding", "different")) == right.numel()
            assert len(found.worst.index) == 4
            together += found.explanation.startswith("judged together at ")
    assert together > 0 or dtype == torch.bfloat16  # nearly all results lie inside, each by itself
    for order in ("pairwise", "blocks of 16"):
        for apart in (False, True)[: 1 + bias]:
            assert verdict(rounding_kernels.kernel(order, apart=apart)).equivalent
