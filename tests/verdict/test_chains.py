"""Chains of affine layers: right kernels and right folds pass, wrong ones are found; what is refused, and how."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from equiv import EquivError, NotEquivalent, Outcome, assert_equivalent, compare

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))

import batch_norm_folds as folds

pytestmark = pytest.mark.filterwarnings("ignore:equivalent up to rounding")  # folds in 16 bits
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@pytest.fixture(autouse=True)
def same_draws() -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def drawn(norm: Any) -> Any:
    """A batch norm in eval mode with statistics and parameters that are not those of a new one."""
    with torch.no_grad():
        for t in (norm.weight, norm.bias, norm.running_mean):
            t.copy_(torch.randn(t.shape))
        norm.running_var.copy_(torch.rand(norm.running_var.shape) + 0.1)
    return norm.eval().requires_grad_(False)


def found(candidate: Any, reference: Any, **options: Any) -> Any:
    with pytest.raises(NotEquivalent) as caught:
        assert_equivalent(candidate, reference, **options)
    return caught.value.verdict


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("way", folds.RIGHT)
def test_right_folds_pass_by_parameters_and_by_results(way: str, dtype: torch.dtype) -> None:
    for seed in (0, 3):
        pair, shape = folds.random_pair(seed, dtype)
        chain, layer = nn.Sequential(*pair), folds.RIGHT[way](pair)
        of_map = shape if len(shape) > 1 else None
        assert_equivalent(layer, chain, feature_shape=of_map)
        assert_equivalent(chain, layer, feature_shape=of_map)
        x = torch.randn(8, *shape).to(dtype)
        verdict = compare(layer(x), chain(x), input=x, layer=chain)
        assert verdict.equivalent, str(verdict)
        assert verdict.outcome is Outcome.IDENTICAL or "The largest difference between the two is" in str(
            verdict.explanation
        )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", folds.WRONG)
def test_wrong_folds_are_found_by_parameters_and_by_results(name: str, dtype: torch.dtype) -> None:
    for seed in (0, 4):
        pair, shape = folds.random_pair(seed, dtype, small="eps" in name)
        if not folds.applies(name, pair):
            continue
        chain, layer = nn.Sequential(*pair), folds.WRONG[name](pair)
        verdict = found(layer, chain, feature_shape=shape if len(shape) > 1 else None)
        assert verdict.outcome is Outcome.DIFFERENT
        x = torch.randn(16, *shape).to(dtype)
        assert compare(layer(x), chain(x), input=x, layer=chain).outcome is Outcome.DIFFERENT
        if dtype is not torch.bfloat16:  # there eps outside of the root may be no eps as well
            assert verdict.cause.name == name


def test_a_chain_may_be_a_function_on_one_side() -> None:
    chain = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), drawn(nn.BatchNorm2d(8))).eval()
    fused = fuse_conv_bn_eval(*chain)
    assert_equivalent(lambda x: fused(x), chain)
    fused.bias.data += 0.1
    assert found(lambda x: fused(x), chain).outcome is Outcome.DIFFERENT


def test_transposed_convolutions_and_nested_chains() -> None:
    conv, norm = nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), drawn(nn.BatchNorm2d(6))
    chain = nn.Sequential(nn.Sequential(conv, nn.Identity()), nn.Dropout(0.5), norm).eval()
    fused = copy.deepcopy(conv)
    factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    scaled = conv.weight.view(2, 2, 3, 3, 3) * factor.view(2, 1, 3, 1, 1)
    fused.weight.data = scaled.view(conv.weight.shape)
    fused.bias.data = (conv.bias - norm.running_mean) * factor + norm.bias
    assert_equivalent(fused, chain, feature_shape=(4, 5, 5))
    fused.weight.data[0, 0] *= 1 + 2**-10
    assert found(fused, chain, feature_shape=(4, 5, 5)).outcome is Outcome.DIFFERENT


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_merged_linears_and_pooling_against_a_dense_convolution(dtype: torch.dtype) -> None:
    first, second = nn.Linear(20, 30).to(dtype), nn.Linear(30, 7).to(dtype)
    merged = nn.Linear(20, 7).to(dtype)
    merged.weight.data, merged.bias.data = second.weight @ first.weight, second.weight @ first.bias + second.bias
    assert_equivalent(merged, nn.Sequential(first, second))
    merged.bias.data = (first.bias[:7] + second.bias).data
    verdict = found(merged, nn.Sequential(first, second))
    assert verdict.outcome is Outcome.DIFFERENT
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 6)).to(dtype)
    dense = nn.Conv2d(4, 6, 5).to(dtype)
    dense.weight.data = (head[2].weight / 25)[:, :, None, None].expand(-1, -1, 5, 5).clone()
    dense.bias.data = head[2].bias.data
    assert_equivalent(dense, head, feature_shape=(4, 5, 5))
    dense.weight.data *= 25
    assert found(dense, head, feature_shape=(4, 5, 5)).outcome is Outcome.DIFFERENT


def test_a_batch_norm_before_a_padded_convolution_is_no_fold() -> None:
    norm, conv = drawn(nn.BatchNorm2d(4)), nn.Conv2d(4, 5, 3, padding=1)
    factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    shift = norm.bias - norm.running_mean * factor
    fused = copy.deepcopy(conv)
    fused.weight.data = conv.weight * factor.view(1, -1, 1, 1)
    fused.bias.data = conv.bias + (conv.weight * shift.view(1, -1, 1, 1)).flatten(1).sum(1)
    chain = nn.Sequential(norm, conv).eval()
    verdict = found(fused, chain, feature_shape=(4, 6, 6))
    assert verdict.cause.name == "batch-norm-folded-over-padding"
    x = torch.randn(3, 4, 6, 6)
    assert compare(fused(x), chain(x), input=x, layer=chain).cause.name == "batch-norm-folded-over-padding"
    bare, of_bare = nn.Conv2d(4, 5, 3), nn.Conv2d(4, 5, 3)
    bare.load_state_dict(conv.state_dict())
    of_bare.load_state_dict(fused.state_dict())
    assert_equivalent(of_bare, nn.Sequential(norm, bare).eval())


def test_two_chains() -> None:
    conv, norm, head = nn.Conv2d(3, 6, 3), drawn(nn.BatchNorm2d(6)), nn.Linear(6 * 9, 4)
    chain = nn.Sequential(conv, norm, nn.Flatten(), head).eval()
    folded = nn.Sequential(fuse_conv_bn_eval(conv, norm), nn.Flatten(), head).eval()
    assert_equivalent(folded, chain)
    assert_equivalent(chain, folded, feature_shape=(3, 5, 5))
    folded[0].bias.data += 0.01
    assert found(folded, chain).outcome is Outcome.DIFFERENT


def test_complex_and_integer_chains() -> None:
    first, second = nn.Linear(6, 5, dtype=torch.complex64), nn.Linear(5, 4, dtype=torch.complex64)
    merged = nn.Linear(6, 4, dtype=torch.complex64)
    merged.weight.data, merged.bias.data = second.weight @ first.weight, second.weight @ first.bias + second.bias
    assert_equivalent(merged, nn.Sequential(first, second))
    merged.weight.data[0, 0] += 0.01j
    assert found(merged, nn.Sequential(first, second)).outcome is Outcome.DIFFERENT

    def whole(ins: int, outs: int) -> Any:
        linear = nn.Linear(ins, outs).requires_grad_(False)
        linear.weight = nn.Parameter(torch.randint(-99, 99, (outs, ins), dtype=torch.int8), requires_grad=False)
        linear.bias = nn.Parameter(torch.randint(-99, 99, (outs,), dtype=torch.int8), requires_grad=False)
        return linear

    one, two, both = whole(6, 5), whole(5, 4), whole(6, 4)
    both.weight.data, both.bias.data = two.weight @ one.weight, two.weight @ one.bias + two.bias
    assert_equivalent(both, nn.Sequential(one, two))
    both.bias.data[0] += 1
    assert found(both, nn.Sequential(one, two)).outcome is Outcome.DIFFERENT


def test_what_is_no_function_of_a_sample_is_refused() -> None:
    conv, x = nn.Conv2d(2, 3, 1), torch.randn(2, 2, 4, 4)
    training = nn.Sequential(conv, nn.BatchNorm2d(3))
    with pytest.raises(EquivError, match=r"layer\.1: expected a batch norm in eval mode, got .* in training mode"):
        compare(training(x), training(x), input=x, layer=training)
    with pytest.raises(EquivError, match="in training mode"):
        assert_equivalent(conv, training)
    untracked = nn.Sequential(conv, nn.BatchNorm2d(3, track_running_stats=False)).eval()
    with pytest.raises(EquivError, match="expected a batch norm with running statistics"):
        assert_equivalent(conv, untracked)
    with pytest.raises(EquivError, match=r"expected dropout in eval mode"):
        assert_equivalent(conv, nn.Sequential(conv, nn.Dropout()))
    with pytest.raises(EquivError, match=r"layer\.1: expected affine layers alone .*, got ReLU"):
        compare(conv(x), conv(x), input=x, layer=nn.Sequential(conv, nn.ReLU()))


def test_arguments_that_do_not_fit_are_refused() -> None:
    chain, x = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), torch.randn(5, 4)
    y = chain(x)
    for match, options in (
        ("input: expected a tensor, got None", {}),
        ("layer: expected either layer or weight and bias", {"input": x, "weight": torch.zeros(2, 4)}),
        ("input: expected the dtype of actual", {"input": x.double()}),
        ("input: expected samples that layer takes", {"input": x[:, :3]}),
        ("input: expected one sample for each result", {"input": x[:3]}),
    ):
        with pytest.raises(EquivError, match=match):
            compare(y, y, layer=chain, **options)
    with pytest.raises(EquivError, match="feature_shape"):
        assert_equivalent(lambda x: x, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))


def test_overflow_within_the_chain_is_undecided() -> None:
    first, second = nn.Linear(4, 3, bias=False).half(), nn.Linear(3, 2, bias=False).half()
    first.weight.data.fill_(100.0)
    second.weight.data.fill_(1e-3)
    chain, x = nn.Sequential(first, second), torch.full((1, 4), 200.0).half()
    merged = (x.double() @ (second.weight.double() @ first.weight.double()).T).half()
    assert compare(merged, chain(x), input=x, layer=chain).outcome is Outcome.UNDECIDED


def test_what_a_dtype_hides_is_said() -> None:
    conv, norm = nn.Conv2d(4, 8, 3).to(torch.bfloat16), drawn(nn.BatchNorm2d(8)).to(torch.bfloat16)
    chain, x = nn.Sequential(conv, norm).eval(), torch.randn(4, 4, 6, 6).to(torch.bfloat16)
    verdict = compare(fuse_conv_bn_eval(conv, norm)(x), chain(x), input=x, layer=chain)
    assert verdict.outcome is Outcome.ROUNDING
    assert "In bfloat16 the rounding of folded parameters hides: eps forgotten" in verdict.explanation


def test_nothing_of_the_callers_is_touched() -> None:
    chain = nn.Sequential(nn.Conv2d(3, 4, 3), drawn(nn.BatchNorm2d(4)), nn.Dropout(0.1)).eval()
    held = {name: value.clone() for name, value in chain.state_dict().items()}
    state, x = torch.get_rng_state(), torch.randn(2, 3, 5, 5)
    state = torch.get_rng_state()
    compare(chain(x), chain(x), input=x, layer=chain)
    assert_equivalent(chain, copy.deepcopy(chain))
    assert torch.equal(torch.get_rng_state(), state)
    assert not chain.training
    assert all(torch.equal(value, held[name]) for name, value in chain.state_dict().items())


class LoraLayer(nn.Module):
    """As in peft: a layer with adapters."""

    def __init__(self, base: nn.Linear, rank: int, scale: float) -> None:
        super().__init__()
        self.base_layer, self.merged, self.disable_adapters, self.active_adapters = base, False, False, ["default"]
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base.in_features, rank, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(rank, base.out_features, bias=False)})
        self.lora_dropout, self.scaling = nn.ModuleDict({"default": nn.Dropout(0.1)}), {"default": scale}

    def forward(self, x: Tensor) -> Tensor:
        low = self.lora_B["default"](self.lora_A["default"](self.lora_dropout["default"](x)))
        return self.base_layer(x) + self.scaling["default"] * low


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_merged_lora(dtype: torch.dtype) -> None:
    layer = LoraLayer(nn.Linear(24, 16), 4, 0.5).eval().to(dtype).requires_grad_(False)
    low = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    merged = copy.deepcopy(layer.base_layer)
    merged.weight.data = merged.weight + 0.5 * low
    assert_equivalent(merged, layer)
    for name, scale in (("lora-unscaled", 1.0), ("lora-dropped", 0.0), ("lora-scaled-twice", 0.25)):
        merged.weight.data = layer.base_layer.weight + scale * low
        assert found(merged, layer).cause.name == name


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("results", [False, True], ids=["parameters", "results"])
def test_right_and_wrong_folds_are_told_apart(dtype: torch.dtype, results: bool) -> None:
    names, ways = list(folds.WRONG), list(folds.RIGHT.values())
    for seed in range(30):  # benchmarks/folds.py tries a hundred
        pair, shape = folds.random_pair(seed, dtype)
        layers = [(True, pair, ways[seed % len(ways)](pair))]
        name = names[seed % len(names)]
        pair, wrong_shape = folds.random_pair(seed, dtype, small="eps" in name)
        while not folds.applies(name, pair):
            name = names[(names.index(name) + 1) % len(names)]
        layers.append((False, pair, folds.WRONG[name](pair)))
        assert wrong_shape == shape
        for right, of, layer in layers:
            x = torch.randn(16, *shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
            if results:
                passes = compare(layer(x), nn.Sequential(*of)(x), input=x, layer=nn.Sequential(*of)).equivalent
            else:
                passes = _passes(layer, nn.Sequential(*of), shape)
            assert passes is right, (seed, name)


def _passes(layer: Any, chain: Any, shape: tuple[int, ...]) -> bool:
    try:
        assert_equivalent(layer, chain, feature_shape=shape if len(shape) > 1 else None)
    except NotEquivalent:
        return False
    return True


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_folds_of_channels_that_are_alike_share_their_rounding_and_pass(dtype):
    for seed in range(24):
        g = torch.Generator().manual_seed(seed)
        linear, norm = nn.Linear(8, 16), nn.BatchNorm1d(16)
        with torch.no_grad():
            linear.weight.copy_(torch.randn(16, 8, generator=g) * 0.3)
            linear.bias.fill_(0.3)
            for t, scale in ((norm.running_var, 1e-3), (norm.running_mean, 0.01), (norm.bias, 0.01)):
                t.fill_(float(torch.rand((), generator=g)) * scale + 1e-6)
            norm.weight.fill_(float(torch.rand((), generator=g)) + 0.5)
        pair = linear.to(dtype).eval(), norm.to(dtype).eval()
        chain = nn.Sequential(*pair)
        var, mean, gamma, beta = (t.float() for t in (norm.running_var, norm.running_mean, norm.weight, norm.bias))
        factor = gamma * torch.rsqrt(var + norm.eps)
        folded = copy.deepcopy(linear)
        folded.weight = nn.Parameter((linear.weight.float() * factor[:, None]).to(dtype))
        folded.bias = nn.Parameter((linear.bias.float() * factor + (beta - mean * factor)).to(dtype))
        assert_equivalent(folded, chain)


def test_one_hot_inputs_are_no_larger_than_the_chain_takes():
    norm, linear = nn.BatchNorm1d(6, affine=False).half().eval(), nn.Linear(6, 4).half().eval()
    norm.running_var.fill_(1e-5)
    factor = 1 / (norm.running_var.double() + norm.eps).sqrt()
    folded = copy.deepcopy(linear)
    folded.weight = nn.Parameter((linear.weight.double() * factor).half())
    assert_equivalent(folded, nn.Sequential(norm, linear))


def test_the_dense_layer_of_a_chain_on_maps_is_given_rows():
    chain = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 5)).eval()
    dense = nn.Linear(48, 5)
    with torch.no_grad():
        dense.bias.copy_(chain[2].bias)
        wide = chain[2].weight.view(5, 3, 2, 2).repeat_interleave(2, 2).repeat_interleave(2, 3) / 4
        dense.weight.copy_(wide.flatten(1))
    assert_equivalent(dense, chain, feature_shape=(3, 4, 4))
    dense.weight.data[2] *= 1.01
    with pytest.raises(NotEquivalent):
        assert_equivalent(dense, chain, feature_shape=(3, 4, 4))


def test_a_pooled_chain_takes_the_shape_of_the_convolution_beside_it():
    chain = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)).eval()
    conv = nn.Conv2d(6, 5, 5)
    with torch.no_grad():
        conv.weight.copy_((chain[2].weight / 25).view(5, 6, 1, 1).expand(5, 6, 5, 5))
        conv.bias.copy_(chain[2].bias)
    assert_equivalent(conv, chain)


def test_a_chain_of_nothing_is_refused_in_words():
    with pytest.raises(EquivError, match="feature_shape"):
        assert_equivalent(nn.Sequential(), nn.Sequential())


def test_what_the_rounding_of_folded_parameters_may_hide_is_a_warning():
    norm = drawn(nn.BatchNorm1d(8, eps=1e-5))
    norm.running_var.fill_(6e-4)
    chain = nn.Sequential(nn.Linear(6, 8), norm).eval().requires_grad_(False).bfloat16()
    factor = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    folded = copy.deepcopy(chain[0])
    folded.weight.data = (folded.weight.double() * factor[:, None]).bfloat16()
    folded.bias.data = ((folded.bias.double() - norm.running_mean) * factor + norm.bias).bfloat16()
    with pytest.warns(
        UserWarning, match="bfloat16 the rounding of folded parameters may hide: eps forgotten"
    ) as caught:
        assert_equivalent(folded, chain)
    assert caught[0].filename == __file__
