"""A LoRA written by hand against the Linear that it was merged into: rounding, and wrong merges are found."""

import copy

import pytest
import torch
from torch import Tensor, nn

from equiv import Outcome, diagnose


class Layers(nn.Module):
    def __init__(self, base: nn.Linear, factor: float) -> None:
        super().__init__()
        self.base, self.factor = base, factor
        self.down, self.up = nn.Linear(base.in_features, 4, bias=False), nn.Linear(4, base.out_features, bias=False)

    def change(self) -> Tensor:
        return self.factor * self.up.weight.double() @ self.down.weight.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.factor * self.up(self.down(x))


class Parameters(nn.Module):
    def __init__(self, base: nn.Linear, factor: float) -> None:
        super().__init__()
        self.base, self.factor = base, factor
        self.a = nn.Parameter(0.1 * torch.randn(4, base.in_features))
        self.b = nn.Parameter(0.1 * torch.randn(base.out_features, 4))

    def change(self) -> Tensor:
        return self.factor * self.b.double() @ self.a.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) - x @ self.a.T @ self.b.T * -self.factor


def models(kind: type, factor: float, dtype: torch.dtype, share: float = 1.0) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    merged = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 16)).to(dtype).eval()
    several = copy.deepcopy(merged)
    several[0] = kind(copy.deepcopy(merged[0]), factor).to(dtype)
    with torch.no_grad():
        merged[0].weight.copy_((merged[0].weight.double() + share * several[0].change()).to(dtype))
    return merged, several


@pytest.mark.parametrize("kind", [Layers, Parameters])
@pytest.mark.parametrize("factor", [2.0, -2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_right_merge_is_rounding_whichever_side_it_is(kind: type, factor: float, dtype: torch.dtype) -> None:
    merged, several = models(kind, factor, dtype)
    x = torch.randn(6, 32, generator=torch.Generator().manual_seed(1)).to(dtype)
    for pair in ((merged, several), (several, merged)):
        assert diagnose(*pair, x, gradients=True).outcome is Outcome.ROUNDING


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_wrong_merges_are_found(dtype: torch.dtype) -> None:
    x = torch.randn(6, 32, generator=torch.Generator().manual_seed(1)).to(dtype)
    for merged, several in (models(Layers, 2.0, dtype, 0.5), models(Parameters, 2.0, dtype, -1.0)):
        for pair in ((merged, several), (several, merged)):
            first = diagnose(*pair, x).first_difference
            assert first is not None
            assert first.candidate == "0"
    merged, several = models(Layers, 2.0, torch.float32)
    with torch.no_grad():
        merged[0].weight[3, 4] *= 1 + 2.0**-6
    assert diagnose(merged, several, x.float()).outcome is Outcome.DIFFERENT
