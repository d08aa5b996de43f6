"""Classifiers of the shapes that are used, small: without padding, and with it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


def seeded(model: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Module:
    """In eval mode, with parameters and statistics drawn from a generator of its own."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, held in model.state_dict().items():
            if held.is_floating_point():
                values = torch.randn(held.shape, generator=generator)
                spread = (held[0].numel() if held.ndim > 1 else 1) ** -0.5 * 1.5
                held.copy_(values.abs() + 0.5 if "var" in name else values * spread)
    return model.to(dtype).eval()


def normal(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


class Vgg(nn.Module):
    """Blocks of 3x3 convolutions, an adaptive pooling that does nothing, three Linear layers."""

    def __init__(self, padding: int = 0, classes: int = 5) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width, count in ((4, 2), (6, 2), (8, 1)):
            for _ in range(count):
                layers += [nn.Conv2d(channels, width, 3, padding=padding), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                channels = width
            layers.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d((3, 3))
        self.classifier = nn.Sequential(
            nn.Linear(8 * 9, 16), nn.ReLU(True), nn.Dropout(), nn.Linear(16, 12), nn.ReLU(True), nn.Dropout(),
            nn.Linear(12, classes),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        x = self.avgpool(self.features(x))
        return self.classifier(torch.flatten(x, 1))


class AlexNet(nn.Module):
    """A large first kernel with stride 4, response norms, overlapping pooling, groups, and a view."""

    def __init__(self, padding: int = 0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 7, stride=4, padding=padding)
        self.conv2 = nn.Conv2d(6, 8, 3, padding=padding, groups=2)
        self.fc6 = nn.Linear(8 * 3 * 3, 16)
        self.fc7 = nn.Linear(16, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.conv1(x))
        x = functional.max_pool2d(functional.local_response_norm(x, 3), 3, 2)
        x = functional.max_pool2d(functional.relu(self.conv2(x)), kernel_size=3, stride=2)
        x = x.view(x.size(0), -1)
        x = functional.dropout(functional.relu(self.fc6(x)), 0.5, self.training)
        return functional.log_softmax(self.fc7(x), dim=-1)


class OverFeat(nn.Module):
    """Pooling that does not overlap, a Linear over 5 x 4 positions, a norm behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.stage = nn.Sequential(nn.Conv2d(3, 4, 5, 2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3), nn.Tanh())
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(6 * 5 * 4, 9), nn.BatchNorm1d(9), nn.PReLU(9), nn.Linear(9, 4), nn.Softmax(-1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stage(x))


class Block(nn.Module):
    def __init__(self, ins: int, outs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(ins, outs, 3, stride, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outs), nn.BatchNorm2d(outs)
        self.conv2 = nn.Conv2d(outs, outs, 3, 1, 1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        same = ins == outs and stride == 1
        self.down = nn.Identity() if same else nn.Sequential(nn.Conv2d(ins, outs, 1, stride), nn.BatchNorm2d(outs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += self.down(x)
        return self.relu(y)


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 4, 7, 2, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        self.layers = nn.Sequential(Block(4, 4, 1), Block(4, 6, 2))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.avgpool(self.layers(self.stem(x))), 1))


def audio() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 4, 5, 3),
        nn.ReLU(),
        nn.AvgPool1d(2),
        nn.Flatten(),
        nn.Linear(20, 6),
        nn.BatchNorm1d(6),
        nn.Linear(6, 3),
    )


def video() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(2, 3, 2),
        nn.ReLU(),
        nn.MaxPool3d((1, 2, 2)),
        nn.Conv3d(3, 4, 2),
        nn.Flatten(),
        nn.Linear(4 * 2 * 3 * 2, 5),
    )


class Branches(nn.Module):
    """Two branches joined along channels; a mean over H and W, and a dict with two results."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 3, 2), nn.Conv2d(3, 2, 1, 2)
        self.scale = nn.Parameter(torch.ones(6, 1, 1))
        self.norm, self.fc, self.other = nn.LayerNorm(6), nn.Linear(6, 4), nn.Linear(6, 2)
        self.shift = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = torch.cat([self.left(x), functional.max_pool2d(self.right(x), 2, 1)], 1)
        x = self.norm((x * self.scale).mean((-2, -1)))
        return {"scores": self.fc(x).sigmoid() + self.shift, "other": self.other(x)}


class Bend(nn.Module):
    """An ``if`` on a shape, which torch.fx cannot follow; a Linear as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.weight, self.bias = nn.Parameter(torch.ones(5, 4 * 9)), nn.Parameter(torch.ones(5))

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x)).relu()
        if x.shape[-1] > 3:
            x = functional.max_pool2d(x, 2)
        return functional.linear(x.flatten(1), self.weight, self.bias).softmax(-1)


class Last(nn.Module):
    """Channels last inside, as ConvNeXt has them, and flattened so."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.up = nn.Conv2d(3, 4, 2, 2), nn.LayerNorm(4), nn.Linear(4, 6)
        self.head = nn.Linear(6 * 3 * 2, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.gelu(self.up(self.norm(self.conv(x).permute(0, 2, 3, 1))))
        return self.head(x.reshape(x.shape[0], -1))


class LastPooled(Last):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.gelu(self.up(self.norm(self.conv(x).permute(0, 2, 3, 1))))
        return self.head(x.mean((1, 2)))


class Products(nn.Module):
    """Layers written as functions of parameters; a choice by sign, and pieces of the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.weight = nn.Parameter(torch.ones(4, 3, 2, 2)), nn.Parameter(torch.ones(4 * 20, 6))
        self.out, self.shift = nn.Parameter(torch.ones(5, 6)), nn.Parameter(torch.ones(1, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = functional.conv2d(x, self.kernel)
        x = torch.where(x > 0, x, 0.1 * x)
        left, right = x.chunk(2, dim=1)
        x = torch.cat((left.sigmoid(), right), dim=1).reshape(x.shape[0], -1)
        return functional.normalize(functional.linear(x @ self.weight + self.shift, self.out), dim=-1)


class Tokens(nn.Module):
    """Patches as tokens, normalized and mixed channel by channel, then averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm, self.mix, self.fc = (
            nn.Conv2d(3, 4, 2, 2),
            nn.LayerNorm(4),
            nn.Linear(4, 6),
            nn.Linear(6, 5),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.fc(self.mix(self.norm(x)).relu().mean(1))


def partly() -> nn.Module:
    """Adaptive pooling that divides the map evenly."""
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d((2, 3)), nn.Flatten(), nn.Linear(24, 5))


UNPADDED = {
    "vgg": (Vgg, (3, 44, 44)),
    "alexnet": (AlexNet, (3, 79, 79)),
    "overfeat": (OverFeat, (3, 33, 29)),
    "audio": (audio, (2, 37)),
    "video": (video, (2, 4, 9, 7)),
    "branches": (Branches, (3, 9, 11)),
    "bend": (Bend, (3, 8, 8)),
    "last": (Last, (3, 6, 4)),
    "last pooled": (LastPooled, (3, 6, 4)),
    "tokens": (Tokens, (3, 6, 8)),
    "products": (Products, (3, 6, 5)),
    "partly": (partly, (3, 8, 8)),
}
PADDED = {
    "vgg": (lambda: Vgg(1), (3, 24, 24)),
    "alexnet": (lambda: AlexNet(1), (3, 61, 61)),
    "resnet": (ResNet, (3, 32, 32)),
}
