"""Channels that a model permutes and undoes again are no difference; one that is not undone is found at its layer."""

import copy

import pytest
import torch
from torch import Tensor, nn

from equiv import Outcome, diagnose

NAMES = ("weight", "bias", "running_mean", "running_var")


def linears() -> nn.Sequential:
    torch.manual_seed(0)
    parts = (nn.Linear(8, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    return drawn(nn.Sequential(*parts))


def convolutions() -> nn.Sequential:
    torch.manual_seed(0)
    depthwise = nn.Conv2d(8, 8, 3, groups=8)
    first = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), depthwise)
    return drawn(nn.Sequential(*first, nn.Conv2d(8, 6, 3, padding=1), nn.Flatten(), nn.Linear(6 * 16, 5)))


def drawn(model: nn.Sequential) -> nn.Sequential:
    for part in model:
        for name in NAMES if isinstance(part, nn.LayerNorm | nn.BatchNorm2d) else ():
            if getattr(part, name, None) is not None:
                getattr(part, name).data.uniform_(0.5, 2)
    return model.eval()


def permuted(model: nn.Sequential, first: int, others: tuple[int, ...], last: int, seed: int = 0) -> nn.Sequential:
    """A copy with the outputs of ``first`` in another order, which ``others`` keep and ``last`` undoes."""
    twin = copy.deepcopy(model)
    count = len(model[first].weight)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for place in (first, *others):
            for name in NAMES:
                if getattr(twin[place], name, None) is not None:
                    getattr(twin[place], name).copy_(getattr(model[place], name)[order])
        weight = model[last].weight
        moved = weight.view(len(weight), count, -1)[:, order].reshape(weight.shape)
        twin[last].weight.copy_(moved)
    return twin


CASES = [
    (linears, (0, (1,), 3), torch.randn(5, 8)),
    (linears, (3, (), 5), torch.randn(5, 8)),
    (convolutions, (0, (1, 3), 4), torch.randn(2, 3, 8, 8)),
    (convolutions, (4, (), 6), torch.randn(2, 3, 8, 8)),
]


@pytest.mark.parametrize(("make", "places", "x"), CASES)
def test_a_permutation_that_is_undone_is_said_and_is_no_difference(make: object, places: tuple, x: Tensor) -> None:
    model = make()
    twin = permuted(model, *places)
    for gradients in (False, True):
        found = diagnose(twin, model, x, gradients=gradients)
        assert found.outcome in (Outcome.IDENTICAL, Outcome.ROUNDING), str(found)
        assert "up to a permutation of channels" in found.explanation
        assert f"in {places[0]}" in found.explanation


@pytest.mark.parametrize(("make", "places", "x"), CASES)
def test_one_that_is_not_undone_is_found_at_its_layer(make: object, places: tuple, x: Tensor) -> None:
    model = make()
    twin = permuted(model, *places)
    with torch.no_grad():
        twin[places[2]].weight.copy_(model[places[2]].weight)
    first = diagnose(twin, model, x).first_difference
    assert first is not None
    assert first.candidate == str(places[0])


def test_another_defect_beside_a_permutation_is_found_at_its_layer() -> None:
    model, x = linears(), torch.randn(5, 8)
    twin = permuted(model, 0, (1,), 3)
    with torch.no_grad():
        twin[5].bias.zero_()
    first = diagnose(twin, model, x).first_difference
    assert first is not None
    assert first.candidate == "5"
