"""Functions that are one convolution, against their dense layer: any order of the taps on one input, and no more."""

from __future__ import annotations

import copy
import itertools
import math
import random
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

import equiv
from equiv import EquivError, certify
from equiv.certificate.operations import structure_of
from equiv.certificate.repeated_taps import Taps, judge_sums
from equiv.mapping import tap_weights
from equiv.numerics import declared, format_of

pytestmark = pytest.mark.filterwarnings("ignore:Complex modules are a new feature")
CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
MODES = ("zeros", "reflect", "replicate", "circular")
OTHERS = {7: torch.float64, 8: torch.bfloat16, 9: torch.float16}
SEEDS = [range(24), *(pytest.param(range(k, k + 50), marks=pytest.mark.slow) for k in range(0, 200, 50))]


def drawn(seed):
    """A convolution of any kind that fits a small map, its dense layer, and the map's shape."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    while True:
        rank, groups = rng.choice((1, 2, 2, 3)), rng.choice((1, 1, 2))
        shape = (groups * rng.randint(1, 2), *(rng.randint(1, 6 if rank < 3 else 4) for _ in range(rank)))
        kernel, stride, padding, dilation = (
            tuple(rng.randint(low, high) for _ in range(rank)) for low, high in ((1, 4), (1, 2), (0, 3), (1, 2))
        )
        outputs, biased = groups * rng.randint(1, 3), rng.random() < 0.7
        options = {"groups": groups, "bias": biased, "padding_mode": rng.choice(MODES)}
        try:
            conv = CONVS[rank - 1](shape[0], outputs, kernel, stride, padding, dilation, **options)
            dense = equiv.conv_to_linear(conv, shape)
        except EquivError:  # reflect and circular padding of a small map, or a kernel that is larger than it
            continue
        if dense.weight.numel() < 20_000:
            break
    whole = rng.random() < 0.5
    for name, parameter in conv.named_parameters():
        values = torch.randint(-9, 10, parameter.shape) if whole else torch.randn(parameter.shape)
        parameter.data = values * (10.0 ** rng.randint(-6, 3) if name == "bias" and rng.random() < 0.5 else 1.0)
    conv = conv.to(OTHERS.get(seed % 10, torch.float32)).requires_grad_(False)
    return conv, equiv.conv_to_linear(conv, shape).requires_grad_(False), shape


def certified(conv, dense, shape):
    candidate, reference, dtype = (lambda x: conv(x)), (lambda x: dense(x.flatten(1))), conv.weight.dtype
    enabled = torch.backends.mkldnn.enabled
    # oneDNN's bfloat16 convolutions return wrong numbers on CPUs with AMX.
    torch.backends.mkldnn.enabled = enabled and dtype != torch.bfloat16
    try:
        return certify(candidate, reference, feature_shape=shape, dtype=dtype)
    finally:
        torch.backends.mkldnn.enabled = enabled


def taps_on(conv, shape):
    """How many taps land on each entry of the dense matrix."""
    ones = copy.deepcopy(conv)
    ones.weight.data.fill_(1)
    return equiv.conv_to_linear(ones, shape).weight.detach()


@pytest.mark.parametrize("seeds", SEEDS, ids=str)
def test_convolutions_are_certified_against_their_dense_layer(seeds):
    for seed in seeds:
        found = certified(*drawn(seed))
        assert found, (seed, str(found))


@pytest.mark.parametrize("seeds", SEEDS, ids=str)
def test_one_ulp_of_a_weight_or_of_a_tap_that_stands_alone_is_found(seeds):
    for seed in itertools.islice(changeable(seeds.start), len(seeds)):
        conv, dense, shape = drawn(seed)
        entries = ((taps_on(conv, shape) == 1) & (dense.weight != 0)).nonzero().tolist()
        output, index = random.Random(seed).choice(entries)
        if seed % 2:
            before = dense.weight[output, index].clone()
            dense.weight[output, index] = nudged(before)
            expected = [(output, index)]
        else:
            value, alone = dense.weight[output, index], taps_on(conv, shape) == 1
            for place in (conv.weight == value).nonzero().tolist():
                changed = copy.deepcopy(conv)
                changed.weight[tuple(place)] = nudged(value)
                expected = ((equiv.conv_to_linear(changed, shape).weight != dense.weight) & alone).nonzero().tolist()
                if [output, index] in expected:
                    break
            conv, expected = changed, [(output, index)]
        found = certified(conv, dense, shape)
        assert found.reason == "weights differ", (seed, str(found))
        assert expected[0] in [(d.output, d.input) for d in found.differences] or found.difference_count > 64, seed


def changeable(start):
    """Seeds of layers with a weight that one tap makes, and that a bias does not hide, as in float16."""
    for seed in itertools.count(2 * start):
        conv, dense, shape = drawn(seed)
        alone = (taps_on(conv, shape) == 1) & (dense.weight != 0)
        if bool(alone.any()) and (conv.weight.dtype != torch.float16 or conv.bias is None):
            yield seed


def nudged(value):
    return torch.nextafter(value, torch.full_like(value, math.inf).copysign(value))


@pytest.mark.parametrize("seed", range(12))
def test_a_sum_of_several_taps_that_is_off_by_more_than_its_envelope_is_found(seed):
    seeds = (
        s for s in itertools.count(40 * seed) if s % 10 < 7 and bool((taps_on(drawn(s)[0], drawn(s)[2]) > 2).any())
    )
    conv, dense, shape = drawn(next(seeds))
    output, index = random.Random(seed).choice((taps_on(conv, shape) > 2).nonzero().tolist())
    sizes = copy.deepcopy(conv)
    sizes.weight.abs_()
    size, count = equiv.conv_to_linear(sizes, shape).weight[output, index], taps_on(conv, shape)[output, index]
    found = certified(conv, dense, shape)
    assert found.resolution > 0
    dense.weight[output, index] += 3 * (count + 3) * 2.0**-24 * size
    found = certified(conv, dense, shape)
    assert [(d.output, d.input) for d in found.differences] == [(output, index)], str(found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_every_order_of_taps_and_bias_lies_in_the_envelope_of_both_sides(dtype):
    generator = random.Random(0)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for trial in range(100):
        torch.manual_seed(trial)
        terms, scale = generator.randint(2, 9), generator.choice((1.0, -16.0))
        w = (torch.randn(terms, 64) * 2.0 ** torch.randint(-6, 7, (terms, 1))).to(dtype)
        w[-1] = torch.where(torch.rand(64) < 0.5, -w[:-1].sum(0), w[-1])  # taps that cancel
        bias = (torch.randn(64) * 10.0 ** generator.randint(-6, 3) * generator.choice((0, 1, 1))).to(dtype)
        whole = w.double()
        taps = Taps(
            *(t[None, None] for t in (whole.sum(0), whole.abs().sum(0), (w != 0).double().sum(0))), torch.zeros(())
        )
        taps = taps._replace(error=terms * 2.0**-53 * taps.size)
        rows = [*(w.to(wide) * scale), bias.to(wide)]
        generator.shuffle(rows)
        cut = generator.randint(1, len(rows) - 1)
        one_by_one = sum(rows[1:], rows[0]).to(dtype)
        in_blocks = (sum(rows[1:cut], rows[0]) + sum(rows[cut + 1 :], rows[cut])).to(dtype)
        for y in (one_by_one, in_blocks):
            inside, width = judge_sums(y[None, None], taps, scale, bias, rounded=False)
            assert bool(inside.all())
            step = (
                4 * format_of(dtype).u * y.double().abs() + 4 * format_of(dtype).min_subnormal
            )  # where one value is right
            beyond = (y.double() + 4 * width + step).to(dtype)
            assert not bool(judge_sums(beyond[None], taps, scale, bias, rounded=False)[0].any())
        once = (whole.sum(0).to(dtype).to(wide) * scale + bias.to(wide)).to(dtype)
        assert bool(judge_sums(once[None, None], taps, scale, bias, rounded=True)[0].all())


def in_some_order(conv, shape, seed):
    """The convolution as one term after the other in a random order; where torch watches, the convolution itself."""
    rng = random.Random(seed)
    n = math.prod(shape)
    taps = tap_weights(conv, shape).float().view(-1, tap_weights(conv, shape).shape[1] // n, n)  # (O, m, n)
    bias = torch.zeros(len(conv.weight)) if conv.bias is None else conv.bias.float()
    terms = [*itertools.product(range(taps.shape[1]), range(n)), None]
    rng.shuffle(terms)

    def run(x):
        if _get_current_dispatch_mode() is not None:
            return conv(x)
        rows, total = x.flatten(1).float(), torch.zeros(len(x), len(taps))
        for term in terms:
            if term is None:
                total += bias.repeat_interleave(len(taps) // len(bias))
            else:
                total += rows[:, term[1], None] * taps[:, term[0], term[1]]
        return total.to(x.dtype)

    return run


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_functions_that_add_taps_and_bias_in_any_order_are_certified(dtype):
    for seed in range(60):
        conv, _, shape = drawn(10 * seed)
        conv = conv.to(dtype)
        if tap_weights(conv, shape) is not None and tap_weights(conv, shape).numel() < 20_000:
            first, second = (in_some_order(conv, shape, order) for order in (seed, -seed))
            for other in (equiv.conv_to_linear(conv, shape), second):
                found = certify(first, other, feature_shape=shape, dtype=dtype)
                assert found, (seed, str(found))


CONV = nn.Conv2d(2, 3, 3, padding=2, padding_mode="replicate").requires_grad_(False)
SHAPE = (2, 3, 4)
W, B, ROUND = CONV.weight, CONV.bias, (2, 2, 2, 2)


def padded(x, mode="replicate"):
    return F.pad(x, ROUND, mode=mode)


WRITTEN = {
    "the layer": CONV,
    "a method": lambda x: CONV.forward(x),
    "a module": nn.Sequential(CONV, nn.Flatten()),
    "padding first": lambda x: F.conv2d(padded(x), W, B),
    "bias later": lambda x: F.conv2d(padded(x), W) + B[:, None, None],
    "indices": lambda x: F.conv2d(x[:, :, [0, 0, 0, 1, 2, 2, 2]][..., [0, 0, 0, 1, 2, 3, 3, 3]], W, B),
    "channels last": lambda x: CONV(x.contiguous(memory_format=torch.channels_last)),
    "negated": lambda x: -F.conv2d(padded(x), -W, -B),
}


@pytest.mark.parametrize("name", WRITTEN, ids=str)
def test_a_convolution_is_recognised_however_it_is_written(name):
    dense = equiv.conv_to_linear(CONV, SHAPE)
    for other in (dense, lambda x: dense(x.flatten(1)), lambda x: CONV(x)):
        for pair in ((WRITTEN[name], other), (other, WRITTEN[name])):
            found = certify(*pair, feature_shape=SHAPE)
            assert found, str(found)
            if other is not dense or name != "the layer":
                assert "weights are sums of several taps that land on one input" in found.explanation


def test_outputs_may_be_moved():
    dense = equiv.conv_to_linear(CONV, SHAPE)
    moved = lambda x: CONV(x).permute(0, 2, 3, 1)  # noqa: E731
    assert certify(moved, lambda x: dense(x.flatten(1)).view(len(x), 3, 5, 6).permute(0, 2, 3, 1), feature_shape=SHAPE)
    assert certify(moved, dense, feature_shape=SHAPE).reason == "weights differ"


WRONG = {
    "another padding": lambda x: F.conv2d(padded(x, "circular"), W, B),
    "zeros": lambda x: F.conv2d(padded(x, "constant"), W, B),
    "a corner lost": lambda x: F.conv2d(padded(x).index_fill(3, torch.tensor([0]), 0.0), W, B),
    "a tap off by 2^-20": lambda x: F.conv2d(padded(x), W * (1 + 2.0**-20), B),
    "no bias": lambda x: F.conv2d(padded(x), W),
    "inputs rounded": lambda x: F.conv2d(padded(x.bfloat16().float()), W, B),
    "clamped": lambda x: F.conv2d(padded(x), W, B).clamp(max=50.0),
}


@pytest.mark.parametrize("name", WRONG, ids=str)
def test_what_is_wrong_besides_the_order_of_taps_is_found(name):
    dense = equiv.conv_to_linear(CONV, SHAPE)
    assert not certify(WRONG[name], dense, feature_shape=SHAPE)
    assert not certify(dense, WRONG[name], feature_shape=SHAPE)
    assert not certify(lambda x: CONV(x), WRONG[name], feature_shape=SHAPE)


def test_only_one_convolution_of_repeated_inputs_is_given_an_order():
    x, one = torch.randn(2, *SHAPE), nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular", bias=False)
    for repeats in (lambda: CONV(x), lambda: F.conv2d(padded(x), W) + 3, lambda: one(x).flatten(1)):
        assert structure_of(repeats).repeats
    others = [
        *(lambda: x + one(x), lambda: x - one(x), lambda: one(one(x)), lambda: one(x) + one(x), lambda: one(x).sum(1)),
        *(lambda: F.conv2d(x, W), lambda: F.conv2d(x, W, padding=1), lambda: one(3 * x), lambda: padded(x)),
    ]
    assert not any(structure_of(run).repeats for run in others)


def test_sums_of_taps_are_counted_and_said_and_nothing_is_where_no_input_is_repeated():
    found = certify(lambda x: CONV(x), equiv.conv_to_linear(CONV, SHAPE), feature_shape=SHAPE)
    count = int((taps_on(CONV, SHAPE) > 1).sum())
    assert f"{count:,} weights are sums of several taps" in found.explanation
    assert "(the sign of zero and the order of sums of taps aside)" in found.explanation
    assert 0 < found.resolution < 30 * format_of(torch.float32).u * float(W.abs().sum())
    plain = nn.Conv2d(2, 3, 3, padding=2)
    found = certify(lambda x: plain(x), equiv.conv_to_linear(plain, SHAPE), feature_shape=SHAPE)
    assert "(the sign of zero aside)" in found.explanation
    assert found.resolution == 0.0


def test_sums_of_taps_are_kept_in_the_state():
    model, dense = nn.Sequential(CONV), equiv.conv_to_linear(CONV, SHAPE)
    options = {"feature_shape": SHAPE, "chunk_bytes": 60_000}
    whole = certify(model, dense, **options)
    part = certify(model, dense, progress=lambda *_: False, **options)
    assert part.reason == "not finished"
    assert certify(model, dense, resume=part.state, **options).to_dict() == whole.to_dict()


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
@pytest.mark.parametrize("mode", ["reflect", "circular"])
def test_complex_taps_are_added_in_any_order(dtype, mode):
    for seed in range(6):
        torch.manual_seed(seed)
        conv = nn.Conv2d(2, 2, 5, padding=2, padding_mode=mode, bias=seed > 1, dtype=dtype).requires_grad_(False)
        if seed % 2:
            conv.weight.copy_(torch.complex(*torch.randint(-9, 10, (2, *conv.weight.shape)).double()))
        dense = equiv.conv_to_linear(conv, SHAPE).requires_grad_(False)
        assert (found := certified(conv, dense, SHAPE)), str(found)
        entry = tuple((taps_on(conv, SHAPE) == 1).nonzero()[seed].tolist()) if mode == "reflect" else (0, 0)
        dense.weight[entry] *= 1.001 + 0.001j * (seed % 2)
        assert certified(conv, dense, SHAPE).differences[0][:2] == entry


def test_a_tap_off_by_one_ulp_of_a_sum_that_is_exact_is_found():
    conv, dense, shape = drawn(268)  # bfloat16, bias -6: taps of -9 on an input become -9.0625, the next number
    conv.weight[0, 0, 1, 1] *= 1 + 1 / 16
    found = certified(conv, dense, shape)
    assert (found.reason, found.difference_count) == ("weights differ", 16)


def test_imaginary_parts_may_be_flushed_where_the_arithmetic_says_so():
    least = format_of(torch.complex64).min_normal
    taps = Taps(
        *(torch.tensor(t, dtype=torch.float64).view(2, 1, 1) for t in ([0.0, 0.0], [0.0, least / 2], [0.0, 2.0])),
        torch.zeros(()),
    )
    taps = taps._replace(total=torch.tensor([[[0.0]], [[least / 2]]], dtype=torch.float64))
    flushed = torch.zeros(2, 1, 1, dtype=torch.complex64)
    bias = torch.zeros(1, dtype=torch.complex64)
    known = declared(torch.complex64)
    flushing = replace(known, flushes_inputs=True, flushes_outputs=True, underflow=least)
    assert bool(judge_sums(flushed, taps, 1.0, bias, rounded=False, arithmetic=flushing)[0].all())
    assert not bool(judge_sums(flushed, taps, 1.0, bias, rounded=False, arithmetic=known)[0].any())
