"""Gradients of two models, layer by layer: a wrong backward pass is found at its layer, right models name none."""

import copy
from typing import Any

import pytest
import torch
from networks import Residual, images, made, rewritten
from torch import Tensor, nn
from torch.nn import functional

import equiv
from equiv import Diagnosis, EquivError, Outcome, diagnose

MODEL = made(Residual)


class Backward(torch.autograd.Function):
    """A Linear whose backward pass has one defect, or computes with factors of another format."""

    @staticmethod
    def forward(ctx: Any, kind: str, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.kind = kind
        ctx.save_for_backward(x, weight)
        return functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        if ctx.kind == "bfloat16":
            g, x, weight = (t.bfloat16().float() for t in (g, x, weight))
        rows, given = g.reshape(-1, g.shape[-1]), x.reshape(-1, x.shape[-1])
        of_weight, of_bias = rows.T @ given, rows.sum(0)
        if ctx.kind == "averaged":
            of_bias = rows.mean(0)
        if ctx.kind == "transposed":
            of_weight = of_weight.T.reshape(weight.shape).clone()
        if ctx.kind == "raises":
            raise ValueError("no backward")
        return None, g @ weight * (0.5 if ctx.kind == "halved" else 1), of_weight, of_bias


def planted(kind: str, where: str = "blocks.2.fc1") -> nn.Module:
    twin = rewritten(MODEL)
    own = {"forward": lambda self, x: of(self, x, kind)}
    twin.get_submodule(where).__class__ = type("Own", (nn.Linear,), own)
    return twin


def of(layer: nn.Linear, x: Tensor, kind: str) -> Tensor:
    if kind == "detached":
        return functional.linear(x, layer.weight.detach(), layer.bias)
    result: Tensor = Backward.apply(kind, x, layer.weight, layer.bias)
    return result


def different(found: Diagnosis) -> list[str]:
    return [row.candidate for row in found.layers if row.verdict.outcome is Outcome.DIFFERENT]


@pytest.mark.parametrize(
    ("kind", "of", "cause"),
    [
        ("averaged", "bias", "gradient-averaged"),
        ("detached", "weight", "gradient-zero"),
        ("transposed", "weight", None),
        ("halved", "input", "gradient-scaled"),
        ("bfloat16", "weight", None),
        ("raises", "input", None),
    ],
)
def test_a_wrong_backward_pass_is_found_at_its_layer(kind: str, of: str, cause: str | None) -> None:
    twin = planted(kind)
    assert diagnose(twin, MODEL, images()).equivalent
    found = diagnose(twin, MODEL, images(), gradients=True)
    assert different(found) == ["blocks.2.fc1"]
    first = found.first_difference
    assert first is not None
    assert first.gradients[of].outcome is Outcome.DIFFERENT
    assert cause is None or (first.cause is not None and first.cause.name == cause)


@pytest.mark.parametrize("kind", ["right", ""])
def test_right_gradients_name_no_layer(kind: str) -> None:
    found = diagnose(planted("right") if kind else rewritten(MODEL), MODEL, images(), gradients=True)
    assert found.outcome is Outcome.ROUNDING
    row = next(row for row in found.layers if row.candidate == "blocks.2.fc1")
    assert sorted(row.gradients) == ["bias", "input", "weight"]
    assert "gradients" in row.to_dict()


def test_a_square_transposed_gradient_is_named() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
    twin = copy.deepcopy(model)
    twin[2].__class__ = type("Own", (nn.Linear,), {"forward": lambda self, x: of(self, x, "transposed")})
    first = diagnose(twin, model, torch.randn(5, 8), gradients=True).first_difference
    assert first is not None
    assert first.cause is not None
    assert (first.candidate, first.cause.name) == ("2", "gradient-transposed")


class Detached(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.norm, self.fc1, self.act, self.fc2 = block.norm, block.fc1, block.act, block.fc2

    def forward(self, x: Tensor) -> Tensor:
        return x.detach() + self.fc2(self.act(self.fc1(self.norm(x))))


def test_a_residual_path_without_gradient_is_found_in_the_code_between() -> None:
    twin = copy.deepcopy(MODEL)
    twin.blocks[1] = Detached(twin.blocks[1])
    first = diagnose(twin, MODEL, images(), gradients=True).first_difference
    assert first is not None
    assert (first.kind, first.candidate) == ("input", "blocks.2.norm")
    assert "gradient" in first.verdict.explanation


def test_nothing_of_the_models_gets_a_gradient() -> None:
    model = made(Residual)
    x = images().requires_grad_()
    with torch.inference_mode():
        assert diagnose(rewritten(model), model, x, gradients=True).equivalent
    assert x.grad is None
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_gradients_of_other_dtypes(dtype: torch.dtype) -> None:
    model = made(Residual).to(dtype)
    found = diagnose(equiv.to_pointwise(model), model, images().to(dtype), gradients=True)
    assert found.outcome is not Outcome.DIFFERENT


def test_frozen_parameters_are_said_and_models_without_gradients_are() -> None:
    model = copy.deepcopy(MODEL)
    model.head.weight.requires_grad_(requires_grad=False)
    found = diagnose(model, MODEL, images(), gradients=True)
    assert any("head.weight do not require gradients" in note for note in found.notes)
    without = nn.Sequential(nn.Linear(2, 2))
    without[0].forward = torch.no_grad()(without[0].forward)
    found = diagnose(without, without, torch.ones(1, 2), gradients=True)
    assert any("records no gradients" in note for note in found.notes)
    with pytest.raises(EquivError, match="gradients: expected"):
        equiv.diagnose(MODEL, MODEL, images(), gradients=1)  # type: ignore[arg-type]


def test_the_gradient_of_a_folded_chain() -> None:
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4).eval()
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    reference = nn.Sequential(conv, norm, nn.ReLU())
    folded = torch.nn.utils.fuse_conv_bn_eval(conv.eval(), norm)
    candidate = nn.Sequential(folded, nn.Identity(), nn.ReLU())
    x = torch.randn(2, 3, 8, 8)
    assert diagnose(candidate, reference, x, gradients=True).outcome is Outcome.ROUNDING
