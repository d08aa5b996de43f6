"""Patch embeddings as matrix products: the same bits on integers, a verdict on other values, gradients, refusals."""

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

import equiv
from equiv import EquivError, Outcome

CONVS = {
    "1d": (lambda **k: nn.Conv1d(3, 8, 4, 4, **k), (3, 19)),
    "2d": (lambda **k: nn.Conv2d(3, 8, 4, 4, **k), (3, 13, 18)),
    "uneven": (lambda **k: nn.Conv2d(2, 6, (2, 5), (2, 5), bias=False, **k), (2, 9, 11)),
    "3d": (lambda **k: nn.Conv3d(3, 8, (2, 3, 3), (2, 3, 3), bias=False, **k), (3, 4, 7, 6)),
    "one patch": (lambda **k: nn.Conv3d(3, 8, (2, 4, 4), (2, 4, 4), **k), (3, 2, 4, 4)),
    "groups": (lambda **k: nn.Conv2d(4, 6, 3, 3, groups=2, **k), (4, 9, 7)),
    "depthwise": (lambda **k: nn.Conv1d(4, 4, 3, 3, groups=4, bias=False, **k), (4, 9)),
    "dilation": (lambda **k: nn.Conv2d(3, 5, 3, 3, dilation=(2, 1), **k), (3, 12, 9)),
    "padding": (lambda **k: nn.Conv2d(3, 5, 4, 4, padding=(1, 2), **k), (3, 9, 10)),
    "reflect": (lambda **k: nn.Conv2d(3, 5, 3, 3, padding=(1, 2), padding_mode="reflect", **k), (3, 7, 8)),
    "circular": (lambda **k: nn.Conv1d(2, 5, 3, 3, padding=1, padding_mode="circular", **k), (2, 8)),
    "replicate": (lambda **k: nn.Conv3d(2, 3, 2, 2, padding=(0, 1, 1), padding_mode="replicate", **k), (2, 4, 3, 5)),
    "pointwise": (lambda **k: nn.Conv2d(3, 5, 1, padding="same", **k), (3, 4, 5)),
}
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def filled(module: nn.Module, whole: bool) -> nn.Module:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for held in module.parameters():
            values = torch.randn(held.shape, generator=generator)
            held.copy_(values.sign() * (values.abs() > 0.7) if whole else values)
    return module


def inputs(shape: tuple[int, ...], dtype: torch.dtype, whole: bool) -> Tensor:
    values = torch.randn(2, *shape, generator=torch.Generator().manual_seed(4))
    return (values.round().clamp(-2, 2) if whole else values).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CONVS)
def test_integers_give_the_same_bits(name: str, dtype: torch.dtype) -> None:
    make, shape = CONVS[name]
    conv = filled(make(dtype=dtype), whole=True)
    x = inputs(shape, dtype, whole=True)
    assert torch.equal(equiv.to_patch_linear(conv)(x), conv(x))
    assert torch.equal(equiv.to_patch_linear(conv)(x[0]), conv(x[0]))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CONVS)
def test_normal_values_differ_by_rounding_alone(name: str, dtype: torch.dtype) -> None:
    make, shape = CONVS[name]
    conv = filled(make(dtype=dtype), whole=False)
    x, patches = inputs(shape, dtype, whole=False), equiv.to_patch_linear(conv)
    with torch.no_grad():
        verdict = equiv.compare(patches(x), conv(x), input=x, layer=conv)
    assert verdict.outcome in (Outcome.IDENTICAL, Outcome.ROUNDING), str(verdict)
    equiv.assert_equivalent(patches, conv, feature_shape=shape)


@pytest.mark.parametrize("name", CONVS)
def test_gradients_are_the_convolutions(name: str) -> None:
    make, shape = CONVS[name]
    conv = filled(make(dtype=torch.float64), whole=True)
    patches = equiv.to_patch_linear(conv)
    found = []
    for module in (conv, patches):
        x = inputs(shape, torch.float64, whole=True).requires_grad_()
        y = module(x)
        y.backward(torch.arange(y.numel(), dtype=torch.float64).view(y.shape) % 7 - 3)
        found.append([x.grad, *(p.grad for p in module.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_a_planted_defect_is_different() -> None:
    conv = filled(nn.Conv2d(3, 8, 4, 4), whole=False)
    patches = equiv.to_patch_linear(conv)
    patches.weight.data = patches.weight.data.mT.contiguous()
    with pytest.raises(equiv.NotEquivalent):
        equiv.assert_equivalent(patches, conv, feature_shape=(3, 8, 8))


def test_parameters_are_copies_that_load_both_ways() -> None:
    conv = nn.Conv2d(3, 8, 4, 4).eval()
    conv.bias.requires_grad_(False)
    conv.to(memory_format=torch.channels_last)
    state = torch.get_rng_state()
    patches = equiv.to_patch_linear(conv)
    assert torch.equal(torch.get_rng_state(), state)
    assert not patches.training
    assert (patches.weight.requires_grad, patches.bias.requires_grad) == (True, False)
    patches.load_state_dict(conv.state_dict())
    conv.load_state_dict(patches.state_dict())
    x = torch.zeros(1, 3, 8, 8)
    before = conv(x)
    for other in (copy.deepcopy(patches), pickle.loads(pickle.dumps(patches))):
        assert torch.equal(other(x), patches(x))
    with torch.no_grad():
        patches.weight.zero_()
        patches.bias.zero_()
    assert torch.equal(conv(x), before)
    assert patches(torch.zeros(0, 3, 8, 12)).shape == (0, 8, 2, 3)
    assert str(equiv.to_patch_linear(nn.Conv1d(4, 4, 3, 3, 1, groups=2, bias=False))) == (
        "PatchLinear(4, 4, kernel_size=(3,), padding=(1, 1), groups=2, bias=False)"
    )


def test_rows_for_a_transformer_are_a_view() -> None:
    y = equiv.to_patch_linear(nn.Conv2d(3, 8, 4, 4))(torch.zeros(2, 3, 8, 12))
    assert y.flatten(2).transpose(1, 2).data_ptr() == y.data_ptr()


def test_torch_export_and_vmap_follow_it() -> None:
    patches, x = equiv.to_patch_linear(nn.Conv2d(3, 8, 4, 4)), torch.ones(2, 3, 8, 12)
    assert torch.equal(torch.export.export(patches, (x,)).module()(x), patches(x))
    assert torch.equal(torch.vmap(patches)(x[None])[0], patches(x))


def test_what_is_no_patch_embedding_is_refused() -> None:
    with pytest.raises(EquivError, match=r"conv: expected a stride equal to the kernel, \(4, 4\), got \(2, 2\): "):
        equiv.to_patch_linear(nn.Conv2d(3, 8, 4, 2))
    with pytest.raises(EquivError, match=r"conv: expected a torch\.nn\.Conv1d, Conv2d or Conv3d"):
        equiv.to_patch_linear(nn.Linear(3, 8))
    patches = equiv.to_patch_linear(nn.Conv2d(3, 8, 4, 4))
    with pytest.raises(EquivError, match=r"x: expected shape \(N, 3, \*spatial\)"):
        patches(torch.zeros(1, 4, 8, 8))
    with pytest.raises(EquivError, match="x: expected at least 4 entries along axis 3"):
        patches(torch.zeros(1, 3, 8, 3))
