"""``assert_equivalent(gradients=True)`` accepts the gradients of right kernels, and names the wrong ones."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - the name that everybody gives it

import equiv
from equiv import EquivError, NotEquivalent, Outcome, assert_equivalent

SHAPE, N = (3, 2, 4), 24
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.complex128)


def seeded(make, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def linear(outputs=N, dtype=torch.float32, *, seed=0, bias=True, n=N):
    layer = seeded(lambda: nn.Linear(n, outputs, bias=bias), seed)
    if not dtype.is_complex:
        return layer.to(dtype)
    values = {name: torch.complex(value, value.flip(0)).to(dtype) for name, value in layer.state_dict().items()}
    for name, value in values.items():
        setattr(layer, name, nn.Parameter(value))
    return layer


def with_backward(backward, layer):
    """The layer with gradients of its own: ``backward(incoming, x, weight)`` gives those of x, weight and bias."""

    class Op(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weight, bias):
            ctx.save_for_backward(x, weight)
            return F.linear(x, weight, bias)

        @staticmethod
        def backward(ctx, g):
            return backward(g, *ctx.saved_tensors)

    class Module(nn.Linear):
        def forward(self, x):
            return Op.apply(x, self.weight, self.bias)

    module = Module(layer.in_features, layer.out_features)
    module.load_state_dict(layer.state_dict())
    return module


def refuted(candidate, reference, **options):
    with pytest.raises(NotEquivalent) as caught:
        assert_equivalent(candidate, reference, gradients=True, **options)
    assert caught.value.verdict.outcome is Outcome.DIFFERENT
    return caught.value.verdict


# Right gradients


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_every_form_has_the_gradients_of_its_layer(dtype):
    layer = linear(5, dtype)
    full = equiv.linear_to_full_conv(layer, SHAPE)
    assert_equivalent(full, layer, gradients=True)
    assert_equivalent(layer, equiv.linear_to_pointwise_conv(layer), gradients=True)
    assert_equivalent(lambda x: F.linear(x, layer.weight, layer.bias), layer, gradients=True)
    assert_equivalent(nn.Sequential(nn.Flatten(), layer), full, feature_shape=SHAPE, gradients=True)
    up = equiv.linear_to_full_conv_transpose(layer, (5, 1, 1))
    assert_equivalent(up, layer, feature_shape=(N, 1, 1), gradients=True)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 6, 3, padding=1, stride=2, groups=2),
        nn.Conv2d(4, 2, (1, 3), padding=(0, 2), dilation=(1, 2), padding_mode="circular"),
        nn.Conv2d(4, 3, 2, padding=1, padding_mode="reflect"),
        nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
    ],
    ids=str,
)
def test_a_sliding_convolution_has_the_gradients_of_its_dense_layer_summed_over_its_taps(conv):
    shape = (4, 4, 5)
    dense = equiv.conv_to_linear(conv, shape)
    assert_equivalent(conv, dense, feature_shape=shape, gradients=True)
    assert_equivalent(conv, conv, feature_shape=shape, gradients=True)
    assert_equivalent(lambda x: dense(x.flatten(1)), conv, feature_shape=shape, gradients=True)


def random_layer(seed):
    """A layer and what is the same function, on maps of a shape."""
    rng = random.Random(seed)
    channels, size = rng.randint(1, 4), rng.randint(3, 7)
    shape = (channels, size, size)
    options = {"stride": rng.randint(1, 2), "padding": rng.randint(0, 2)}
    kind = (nn.Conv2d, nn.ConvTranspose2d, None)[seed % 3]
    if kind is None:
        layer = linear(rng.randint(1, 40), n=channels * size**2, seed=seed)
        return equiv.linear_to_full_conv(layer, shape), layer, shape
    conv = seeded(lambda: kind(channels, rng.randint(1, 5), rng.randint(2, 3), **options), seed)
    return conv, equiv.conv_to_linear(conv, shape), shape


@pytest.mark.parametrize("seed", [*range(9), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(9, 30))])
def test_gradients_of_random_layers_are_right(seed):
    conv, layer, shape = random_layer(seed)
    assert_equivalent(conv, layer, feature_shape=shape, gradients=True, seed=seed)


def in_halves(g, x, w):
    h = len(g) // 2
    return torch.cat([g[:h] @ w, g[h:] @ w]), g[:h].T @ x[:h] + g[h:].T @ x[h:], g[:h].sum(0) + g[h:].sum(0)


def in_float64(g, x, w):
    wide = (g.double(), x.double(), w.double())
    return (wide[0] @ wide[2]).to(g), (wide[0].T @ wide[1]).to(g), wide[0].sum(0).to(g)


def term_by_term(g, x, w):
    of_x, of_w, of_b = torch.zeros_like(x), torch.zeros_like(w), torch.zeros_like(w[:, 0])
    for o in range(len(w) - 1, -1, -1):
        of_x = torch.addcmul(of_x, g[:, o : o + 1], w[o : o + 1])
    for row in range(len(x) - 1, -1, -1):
        of_w, of_b = torch.addcmul(of_w, g[row][:, None], x[row][None]), of_b + g[row]
    return of_x, of_w, of_b


@pytest.mark.parametrize("backward", [in_halves, in_float64, term_by_term])
@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 10))])
def test_right_kernels_in_other_orders_pass(backward, seed):
    rng = random.Random(seed)
    layer = linear(rng.randint(1, 50), n=rng.randint(2, 60), seed=seed)
    assert_equivalent(with_backward(backward, layer), layer, gradients=True, seed=seed)
    assert_equivalent(layer, with_backward(backward, layer), gradients=True, seed=seed)


# Wrong gradients

ONE = 1 + 2.0**-10
WRONG = {
    "input, weight not transposed": (lambda g, x, w: (g @ w.T, g.T @ x, g.sum(0)), "input", "weight-transposed"),
    "weight, last sample": (lambda g, x, w: (g @ w, g[:-1].T @ x[:-1], g.sum(0)), "weight", "reduction-cut-short"),
    "weight, first sample": (lambda g, x, w: (g @ w, g[1:].T @ x[1:], g.sum(0)), "weight", "reduction-starts-late"),
    "weight averaged": (lambda g, x, w: (g @ w, g.T @ x / len(g), g.sum(0)), "weight", "gradient-averaged"),
    "weight twice": (lambda g, x, w: (g @ w, g.T @ x * 2, g.sum(0)), "weight", "gradient-scaled"),
    "bias averaged": (lambda g, x, w: (g @ w, g.T @ x, g.mean(0)), "bias", "gradient-averaged"),
    "input in bfloat16": (
        lambda g, x, w: ((g.bfloat16() @ w.bfloat16()).to(g), g.T @ x, g.sum(0)),
        "input",
        "computed-bfloat16",
    ),
    "weight in bfloat16": (
        lambda g, x, w: (g @ w, (g.bfloat16().T @ x.bfloat16()).to(g), g.sum(0)),
        "weight",
        "computed-bfloat16",
    ),
    "bias in bfloat16": (lambda g, x, w: (g @ w, g.T @ x, g.bfloat16().sum(0).to(g)), "bias", "computed-bfloat16"),
    "input scaled": (lambda g, x, w: (g @ w * ONE, g.T @ x, g.sum(0)), "input", "gradient-scaled"),
    "weight scaled": (lambda g, x, w: (g @ w, g.T @ x * ONE, g.sum(0)), "weight", "gradient-scaled"),
    "bias scaled": (lambda g, x, w: (g @ w, g.T @ x, g.sum(0) * ONE), "bias", "gradient-scaled"),
    "input zero": (lambda g, x, w: (g @ w * 0, g.T @ x, g.sum(0)), "input", "gradient-zero"),
    "weight zero": (lambda g, x, w: (g @ w, w * 0, g.sum(0)), "weight", "gradient-zero"),
    "no gradient of the bias": (lambda g, x, w: (g @ w, g.T @ x, None), "bias", "gradient-zero"),
    "rows in reverse": (lambda g, x, w: ((g @ w).flip(0), g.T @ x, g.sum(0)), "input", "batch-permuted"),
    "input clipped": (lambda g, x, w: ((g @ w).clamp(-1, 1), g.T @ x, g.sum(0)), "input", None),
    "one entry": (lambda g, x, w: (g @ w, (g.T @ x).triu(-len(w) + 2), g.sum(0)), "weight", None),
    "broadcast incoming": (
        lambda g, x, w: ((g if g.stride(0) else g * 2) @ w, g.T @ x, g.sum(0)),
        "input",
        "gradient-scaled",
    ),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_a_wrong_gradient_is_found_and_named(name, seed):
    backward, of, cause = WRONG[name]
    layer = linear(seed=seed)
    verdict = refuted(with_backward(backward, layer), layer, seed=seed)
    assert f"the candidate's gradient of the {of} is not that of the layer, most at [" in verdict.explanation
    assert (verdict.cause and verdict.cause.name) == cause
    assert verdict.shape[-1] == N
    assert len(verdict.worst.index) == len(verdict.shape)


def test_a_wrong_gradient_of_the_reference_is_said_to_be_its_own():
    layer = linear()
    verdict = refuted(layer, with_backward(WRONG["weight, last sample"][0], layer))
    assert "the reference's gradient of the weight" in verdict.explanation
    assert "last 1 of 8 terms" in verdict.cause.sentence


def test_the_place_is_that_in_the_kernel():
    conv = nn.Conv2d(4, 6, 3, padding=1, groups=2)

    class Hooked(nn.Conv2d):
        def forward(self, x):
            weight = self.weight * 1.0
            if weight.requires_grad:
                weight.register_hook(lambda g: g.index_put(tuple(map(torch.tensor, (5, 1, 2, 0))), torch.tensor(0.5)))
            return self._conv_forward(x, weight, self.bias)

    candidate = Hooked(4, 6, 3, padding=1, groups=2)
    candidate.load_state_dict(conv.state_dict())
    verdict = refuted(candidate, conv, feature_shape=(4, 5, 5))
    assert verdict.worst.index == (5, 1, 2, 0)
    assert "1 of 54 entries" in verdict.explanation


def test_complex_gradients_are_conjugate():
    layer = linear(dtype=torch.complex64)

    class Op(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return F.linear(x, layer.weight, layer.bias)

        @staticmethod
        def backward(ctx, g):
            return g @ layer.weight

    assert "gradient of the input" in refuted(Op.apply, layer).explanation


# What has no gradient, and what is not asked


@pytest.mark.parametrize(
    "candidate",
    [
        lambda layer: lambda x: layer(x).detach(),
        lambda layer: lambda x: layer(x.detach()).data,
        lambda layer: torch.no_grad()(lambda x: layer(x)),
        lambda layer: lambda x: torch.from_numpy(x.detach().numpy() @ layer.weight.detach().numpy().T),
    ],
    ids=("detach", "data", "no_grad", "numpy"),
)
def test_a_detached_result_is_different(candidate):
    layer = linear(bias=False)
    assert "detached from its input" in refuted(candidate(layer), layer).explanation
    assert_equivalent(candidate(layer), layer)


def test_a_result_that_reaches_the_weight_alone_has_no_gradient_of_the_input():
    layer = linear()
    verdict = refuted(lambda x: layer(x.detach()), layer)
    assert "gradient of the input" in verdict.explanation
    assert verdict.cause.name == "gradient-zero"


def test_a_backward_pass_that_raises_is_refused_in_words():
    def raises(g, x, w):
        raise RuntimeError("no backward here")

    layer = linear()
    with pytest.raises(EquivError, match=r"candidate: expected gradients of .*RuntimeError: no backward here; make"):
        assert_equivalent(with_backward(raises, layer), layer, gradients=True)


def test_integers_have_no_gradients():
    layer = nn.Linear(3, 2, device="meta")
    layer.weight = nn.Parameter(torch.ones(2, 3, dtype=torch.int8), requires_grad=False)
    layer.bias = None
    with pytest.raises(EquivError, match="gradients: expected a layer of a floating or complex dtype, got int8"):
        assert_equivalent(layer, layer, gradients=True)
    with pytest.raises(EquivError, match="gradients: expected True or False, got 1"):
        assert_equivalent(layer, layer, gradients=1)


def test_gradients_of_frozen_parameters_are_left_out_and_said():
    layer = linear()
    candidate = with_backward(WRONG["bias averaged"][0], layer)
    candidate.bias.requires_grad_(False)
    assert_equivalent(candidate, layer, gradients=True)
    candidate = with_backward(WRONG["input zero"][0], layer).requires_grad_(False)
    assert "candidate's weight and bias do not require gradients" in refuted(candidate, layer).explanation


def test_weights_of_a_function_are_not_known():
    layer = linear()
    wrong = with_backward(WRONG["weight zero"][0], layer)
    assert_equivalent(lambda x: wrong(x), layer, gradients=True)
    wrong = with_backward(WRONG["input zero"][0], layer)
    assert "only the gradient of its input was asked" in refuted(lambda x: wrong(x), layer).explanation


@pytest.mark.parametrize("backward", ["weight zero", "bias averaged"])
def test_parameters_of_a_module_are_recognised(backward):
    layer = linear()
    wrong = with_backward(WRONG[backward][0], layer)
    model = nn.Sequential(nn.Flatten(), nn.Sequential(wrong), nn.Identity())
    full = equiv.linear_to_full_conv(layer, SHAPE)
    for reference in (layer, full):
        assert f"of the {WRONG[backward][1]}" in refuted(model, reference, feature_shape=SHAPE).explanation


class Reordered(nn.Module):
    """A layer whose weight is held as ``order`` arranges it."""

    def __init__(self, layer, order, back, factor=1.0):
        super().__init__()
        self.kernel = nn.Parameter(order(layer.weight.detach()).clone())
        self.offset = nn.Parameter(layer.bias.detach().clone())
        self.back, self.factor = back, factor

    def forward(self, x):
        kernel = self.kernel * 1.0
        if kernel.requires_grad:
            kernel.register_hook(lambda g: g * self.factor)
        return F.linear(x, self.back(kernel), self.offset)


@pytest.mark.parametrize(
    ("order", "back"),
    [
        (lambda w: w.T, lambda w: w.T),
        (lambda w: w.view(-1, 3, 2, 4).permute(0, 2, 3, 1), lambda w: w.permute(0, 3, 1, 2).flatten(1)),
        (lambda w: w.flip(1), lambda w: w.flip(1)),
    ],
    ids=("transposed", "channels last", "flipped"),
)
def test_a_weight_in_another_order_is_recognised(order, back):
    layer = linear(5)
    assert_equivalent(Reordered(layer, order, back), layer, gradients=True)
    verdict = refuted(Reordered(layer, order, back, 2.0), layer)
    assert verdict.shape == tuple(order(layer.weight).shape)
    assert verdict.cause.sentence == "every entry of the gradient is multiplied by 2"


def test_a_weight_from_which_another_is_computed_is_not_the_layers():
    layer = linear()
    normed = nn.utils.parametrizations.weight_norm(linear())
    assert_equivalent(lambda x: normed(x), lambda_free(normed), gradients=True)
    assert_equivalent(normed, lambda_free(normed), gradients=True)
    assert layer.weight.grad is None


def lambda_free(normed):
    """A plain layer with the weight that is computed."""
    layer = linear()
    layer.weight.data, layer.bias.data = normed.weight.detach().clone(), normed.bias.detach().clone()
    return layer


def test_a_conv1d_of_transformers_is_recognised():
    pytest.importorskip("transformers")
    layer = linear(5)
    conv = equiv.linear_to_transformers_conv1d(layer)
    assert_equivalent(conv, layer, gradients=True)
    conv.weight.register_hook(lambda g: g * 2)  # the caller's own hook is not run
    assert_equivalent(conv, layer, gradients=True)


# Nothing of the caller's


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_callers_modes_and_parameters_are_as_before(mode):
    layer = linear(5)
    full, state = equiv.linear_to_full_conv(layer, SHAPE), torch.random.get_rng_state()
    layer.weight.grad = torch.ones_like(layer.weight)
    with mode():
        x = torch.ones(2, N)
        assert_equivalent(full, layer, x, gradients=True)
        assert_equivalent(nn.Sequential(full, nn.Flatten()), layer, x, gradients=True, feature_shape=SHAPE)
        assert torch.is_inference_mode_enabled() == (mode is torch.inference_mode)
        assert torch.is_grad_enabled() == (mode is torch.enable_grad)
    assert layer.weight.grad.eq(1).all()
    assert full.weight.grad is None
    assert full.bias.grad is None
    assert torch.equal(state, torch.random.get_rng_state())


def test_a_layer_made_in_inference_mode_is_served():
    with torch.inference_mode():
        layer = nn.Linear(4, 3)
        full = equiv.linear_to_full_conv(layer, (4, 1))
    assert_equivalent(full, layer, gradients=True)


def test_a_function_of_one_row_at_a_time_is_asked_so():
    layer = linear(5)

    def one(x):
        if len(x) != 1:
            raise ValueError("one row, please")
        return layer(x)

    assert_equivalent(one, layer, gradients=True)


def test_a_convolution_that_is_too_large_to_be_made_dense_is_refused_in_words():
    conv = nn.Conv2d(16, 16, 3, padding=1)
    with pytest.raises(EquivError, match="gradients: expected a dense layer of at most 16,777,216 weights, got one of"):
        assert_equivalent(conv, conv, feature_shape=(16, 32, 32), gradients=True)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_one_entry_of_a_large_gradient_is_found(dtype):
    layer = linear(540, dtype, n=600)
    assert_equivalent(layer, layer, gradients=True)

    def backward(g, x, w):
        of_w = g.T @ x
        of_w[511, 437] *= 1 + 2.0**-10
        return g @ w, of_w, g.sum(0)

    verdict = refuted(with_backward(backward, layer).to(dtype), layer)
    assert verdict.worst.index == (511, 437)


def test_gradients_of_a_chain_of_several_layers_are_refused():
    chain = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    with pytest.raises(equiv.EquivError, match="gradients: expected False where a side is a chain"):
        equiv.assert_equivalent(torch.nn.Linear(4, 2), chain, gradients=True)
