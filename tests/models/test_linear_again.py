"""The way back: convolutions of a model as linear layers, with checkpoints that load both ways."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

import equiv
from equiv import EquivError
from equiv.models import PositionwiseLinear
from equiv.models.patches import PatchLinear
from equiv.models.positionwise import FullMapLinear


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def whole(layer: Any) -> Any:
    """The layer with weights that are small integers."""
    for parameter in layer.parameters():
        parameter.data = torch.randint(-4, 5, parameter.shape).to(parameter.dtype)
    return layer


def integers(*shape: int) -> torch.Tensor:
    return torch.randint(-4, 5, shape).float()


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 1},
        {"kernel_size": 1, "stride": 2, "bias": False},
        {"kernel_size": 1, "dilation": 3},
        {"kernel_size": 2, "stride": 2},
        {"kernel_size": 2, "stride": 2, "padding": 1, "groups": 2},
    ],
)
def test_small_integers_give_the_same_bits(rank: int, options: dict[str, Any]) -> None:
    conv = whole((nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1](4, 6, **options))
    converted: Any = equiv.to_linear(conv)
    assert type(converted) is (PositionwiseLinear if options["kernel_size"] == 1 else PatchLinear)
    for batch in ((), (1,), (3,), *[(0,)] * (options["kernel_size"] == 1)):
        x = integers(*batch, 4, *(5, 4, 6)[:rank])
        assert torch.equal(converted(x), conv(x))
    assert not converted.report.left_alone


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_map_stays_in_its_memory_format(channels_last: bool) -> None:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.randn(2, 3, 4, 5).to(memory_format=layout)
    assert equiv.to_linear(nn.Conv2d(3, 6, 1))(x).is_contiguous(memory_format=layout)


def test_checkpoints_load_both_ways() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 2, stride=2), nn.ReLU(), nn.Conv2d(4, 5, 1))
    converted, x = equiv.to_linear(model), torch.randn(2, 3, 4, 4)
    assert {k: v.shape for k, v in converted.state_dict().items()} == {
        k: v.shape for k, v in model.state_dict().items()
    }
    for parameter in converted.parameters():
        parameter.data.add_(1)
    model.load_state_dict(converted.state_dict())
    torch.testing.assert_close(converted(x), model(x))
    for parameter in model.parameters():
        parameter.data.mul_(2)
    converted.load_state_dict(model.state_dict())
    torch.testing.assert_close(converted(x), model(x))
    converted.load_state_dict({**model.state_dict(), "2.weight": model[2].weight.detach().flatten(1)})
    torch.testing.assert_close(converted(x), model(x))
    assert converted[2].weight.shape == (5, 4)
    with pytest.raises(RuntimeError, match=r"size mismatch for 2\.weight"):
        converted.load_state_dict({**model.state_dict(), "2.weight": torch.zeros(5, 4, 3, 3)})


def test_gradients_are_the_same() -> None:
    model = whole(nn.Sequential(nn.Conv2d(3, 4, 2, stride=2), nn.Conv2d(4, 5, 1, stride=2)))
    converted, x = equiv.to_linear(model), integers(2, 3, 8, 8)
    for each in (model, converted):
        each(x).square().sum().backward()
    for old, new in zip(model.parameters(), converted.parameters(), strict=True):
        assert torch.equal(new.grad.reshape(old.shape), old.grad)  # type: ignore[union-attr]


def test_nothing_of_the_model_is_touched() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Dropout()).eval()
    model[0].bias.requires_grad_(False)
    held, drawn = {id(m): dict(vars(m)) for m in model.modules()}, torch.get_rng_state()
    converted: Any = equiv.to_linear(model, example_inputs=torch.zeros(1, 3, 2, 2))
    assert {id(m): dict(vars(m)) for m in model.modules()} == held
    assert torch.equal(torch.get_rng_state(), drawn)
    assert [p.requires_grad for p in converted.parameters()] == [True, False]
    assert not converted[0].training
    assert converted.report.converted[0].calls == 1
    converted[0].weight.data.zero_()
    assert model[0].weight.any()


def test_tied_shared_and_hooked_convolutions() -> None:
    first, second = nn.Conv1d(3, 3, 1), nn.Conv1d(3, 3, 1)
    second.weight = first.weight
    first.register_forward_hook(lambda module, args, result: result * 2)
    model = nn.Sequential(first, second, first)
    converted: Any = equiv.to_linear(model)
    assert converted[0] is converted[2]
    assert converted[0].weight is converted[1].weight
    torch.testing.assert_close(converted(torch.ones(2, 3, 4)), model(torch.ones(2, 3, 4)))
    other = nn.Conv1d(3, 3, 1, padding=1)
    other.weight = first.weight
    left: Any = equiv.to_linear(nn.Sequential(first, other))
    assert [row.reason for row in left.report.left_alone] == ["its weight is that of another module too"]
    assert left[0].weight is left[1].weight


def test_a_kernel_as_large_as_its_map_needs_an_example() -> None:
    model = whole(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 5, 4), nn.Conv2d(5, 2, 1)))
    left: Any = equiv.to_linear(model)
    assert [row.name for row in left.report.left_alone] == ["0", "1"]
    assert "example_inputs= shows it" in left.report.left_alone[1].reason
    x = integers(2, 3, 6, 6)
    converted: Any = equiv.to_linear(model, example_inputs=x)
    assert [type(layer) for layer in converted[1:]] == [FullMapLinear, PositionwiseLinear]
    assert torch.equal(converted(x), model(x))
    assert [(row.converted, row.count) for row in converted.report.products] == [(False, 1), (True, 1), (True, 1)]
    with pytest.raises(EquivError, match=r"x: expected a map of the size of the kernel, \(4, 4\), got one of \(5, 4\)"):
        converted(integers(2, 3, 7, 6))
    converted.load_state_dict(model.state_dict())


def test_what_is_no_linear_layer_is_left_alone_and_reported() -> None:
    class Own(nn.Conv2d):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input) + 1

    model = nn.ModuleDict(
        {
            "slides": nn.Conv2d(2, 2, 3),
            "padded": nn.Conv2d(2, 2, 1, padding=1, stride=2),
            "transposed": nn.ConvTranspose2d(2, 2, 1),
            "own": Own(2, 2, 1),
            "normed": nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 2, 1)),
            "lazy": nn.LazyConv2d(2, 1),
            "one": nn.Conv2d(2, 2, 1),
            "linear": nn.Linear(2, 2),
        }
    )
    converted: Any = equiv.to_linear(model)
    assert [row.name for row in converted.report.converted] == ["one"]
    left = {row.name: row.reason for row in converted.report.left_alone}
    assert set(left) == {"slides", "padded", "transposed", "own", "normed", "lazy"}
    assert "its own forward" in left["own"]
    assert "parametrizations" in left["normed"]
    assert "run it once" in left["lazy"]


def test_it_survives_copy_and_pickle() -> None:
    converted: Any = equiv.to_linear(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 2, stride=2)))
    x = torch.randn(1, 3, 4, 4)
    for again in (copy.deepcopy(converted), pickle.loads(pickle.dumps(converted))):
        assert torch.equal(again(x), converted(x))
        assert list(again.state_dict()) == list(converted.state_dict())


def test_positions_go_there_and_back() -> None:
    conv = whole(nn.Conv2d(3, 4, 1))
    there: Any = equiv.to_pointwise(equiv.to_linear(conv))
    assert type(there) is nn.Conv2d
    assert torch.equal(there(torch.ones(2, 3, 2, 2)), conv(torch.ones(2, 3, 2, 2)))
    there.load_state_dict(conv.state_dict())
