"""Networks for diagnoses: the two of a thread about 1x1 convolutions, and one of 12 layers with residual paths."""

import copy
import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional


class Linears(nn.Module):
    """Linear layers over the last dimension of (batch, samples, features); returns logits and features."""

    def __init__(self, width: int = 256, activation: type[nn.Module] = nn.ELU) -> None:
        super().__init__()
        sizes = [width, 64, 128, 256]
        pairs = itertools.pairwise(sizes)
        self.backbone = nn.Sequential(*(part for a, b in pairs for part in (nn.Linear(a, b), activation())))
        self.logits = nn.Linear(256, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.backbone(x)
        return self.logits(features), features


class Convolutions(nn.Module):
    """The same with 1x1 convolutions over maps of (samples, 1)."""

    def __init__(self, like: Linears) -> None:
        super().__init__()
        self.backbone = nn.Sequential(*map(_as_convolution, like.backbone))
        self.logits = _as_convolution(like.logits)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.backbone(x.movedim(-1, 1).unsqueeze(-1))
        return tuple(y.squeeze(-1).movedim(1, -1) for y in (self.logits(features), features))


def _as_convolution(layer: nn.Module) -> nn.Module:
    if not isinstance(layer, nn.Linear):
        return copy.deepcopy(layer)
    conv = nn.Conv2d(layer.in_features, layer.out_features, 1)
    conv.load_state_dict({"weight": layer.weight[:, :, None, None], "bias": layer.bias})
    return conv


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(self.act(self.fc1(self.norm(x))))


class Residual(nn.Module):
    """A convolution, five blocks of two layers each, a head over the flattened map: 12 affine layers."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.ModuleList(Block(width) for _ in range(5))
        self.head = nn.Linear(16 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).mT
        for block in self.blocks:
            x = block(x)
        return self.head(functional.relu(x.mT).flatten(1))


class SplitLinear(nn.Linear):
    """A Linear that sums in another order."""

    def forward(self, x: Tensor) -> Tensor:
        half = self.in_features // 2
        first = functional.linear(x[..., :half], self.weight[:, :half])
        return first + functional.linear(x[..., half:], self.weight[:, half:], self.bias)


def rewritten(model: nn.Module, kind: type[nn.Linear] = SplitLinear) -> nn.Module:
    """A copy whose Linears are of this class."""
    twin = copy.deepcopy(model)
    for module in twin.modules():
        if type(module) is nn.Linear:
            module.__class__ = kind
    return twin


def images(seed: int = 0, count: int = 2) -> Tensor:
    return torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))


def made(kind: type[nn.Module], seed: int = 0, *args: object) -> nn.Module:
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return kind(*args).eval()
