"""What is not the same function on every window of a larger map is refused by name, with what would be."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import equiv
from equiv import EquivError


class With(nn.Module):
    """Features, something in the middle, and a head."""

    def __init__(self, middle: nn.Module, features: int = 4) -> None:
        super().__init__()
        self.conv, self.middle, self.fc = nn.Conv2d(3, 4, 3), middle, nn.Linear(features, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.middle(self.conv(x)).flatten(1))


class Squeeze(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x * x.mean((2, 3), keepdim=True).sigmoid()).mean((2, 3))


class Embedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.where = nn.Parameter(torch.ones(1, 4, 6, 6))

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.where).mean((2, 3))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2).transpose(1, 2)
        return self.attention(x, x, x)[0]


class Rows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(36, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x.flatten(2))[0]


class Same(nn.Module):
    """SAME padding as TensorFlow has it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        pad = max((-(-x.shape[-1] // 2) - 1) * 2 + 3 - x.shape[-1], 0)
        x = functional.pad(x, (pad // 2, pad - pad // 2, pad // 2, pad - pad // 2))
        return self.conv(x).mean((2, 3))


def norm_in_train_mode() -> nn.Module:
    norm = nn.BatchNorm2d(4)
    return norm.train()


REFUSED = {
    "adaptive": (
        nn.AdaptiveAvgPool2d(4),
        64,
        r"model.middle: .*to \(4, 4\), whose kernels overlap and change.*AvgPool",
    ),
    "squeeze": (Squeeze(), 4, r"squeeze and excitation"),
    "embedding": (Embedding(), 4, r"positional embeddings.*use one value for each channel"),
    "attention": (
        Attention(),
        144,
        r"model.middle.attention: .*every position reads all others.*run it on each window",
    ),
    "lstm": (Rows(), 16, r"model.middle.lstm: .*LSTM.*reads positions one after another"),
    "same": (Same(), 4, r"pad alike at every size, .*SAME padding.*fixed padding="),
    "group norm": (nn.GroupNorm(2, 4), 144, r"model.middle: .*GroupNorm.*mean is taken over all positions.*BatchNorm"),
    "layer norm": (nn.LayerNorm((6, 6)), 144, r"model.middle: .*LayerNorm over \(6, 6\)"),
    "upsampling": (nn.Upsample(scale_factor=2), 576, r"model.middle: .*puts positions between others"),
    "transposed": (nn.ConvTranspose2d(4, 4, 1), 144, r"model.middle: .*puts positions between others"),
    "norm of positions": (
        nn.Sequential(nn.Flatten(), nn.BatchNorm1d(144)),
        144,
        r"model.middle.1: .*second axis is not",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_the_same_on_every_window_is_refused_by_name(name: str) -> None:
    middle, features, words = REFUSED[name]
    with pytest.raises(EquivError, match=words):
        equiv.to_fully_convolutional(With(middle, features).eval(), torch.zeros(1, 3, 8, 8))


def test_training_mode_hooks_and_strangers_are_refused() -> None:
    x = torch.zeros(1, 3, 8, 8)
    with pytest.raises(EquivError, match=r"model.middle: expected a model in eval mode, got a BatchNorm2d.*its batch"):
        equiv.to_fully_convolutional(With(norm_in_train_mode(), 144), x)
    with pytest.raises(EquivError, match=r"model.middle: expected a model in eval mode, got a Dropout.*chance"):
        equiv.to_fully_convolutional(With(nn.Dropout(), 144), x)
    hooked = With(nn.ReLU(), 144).eval()
    hooked.conv.register_forward_hook(lambda *_: None)
    with pytest.raises(EquivError, match=r"model.conv: expected a Conv2d without forward hooks"):
        equiv.to_fully_convolutional(hooked, x)
    with pytest.raises(EquivError, match="example_input: expected a batch that the model takes"):
        equiv.to_fully_convolutional(With(nn.ReLU(), 144).eval(), torch.zeros(1, 3, 9, 9))
    with pytest.raises(EquivError, match="model: expected scores"):
        equiv.to_fully_convolutional(nn.Sequential(nn.Conv2d(3, 4, 3)), x)
    with pytest.raises(EquivError, match=r"model: expected a torch\.nn\.Module"):
        equiv.to_fully_convolutional(len, x)
    with pytest.raises(EquivError, match=r"example_input: expected a torch\.Tensor"):
        equiv.to_fully_convolutional(hooked.fc, [1])
