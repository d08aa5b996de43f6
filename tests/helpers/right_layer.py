"""A layer, an input and a result for right calls, and what such a call is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import equiv


@dataclass(frozen=True)
class Use:
    """One callable with arguments that are right, made anew for each call."""

    name: str
    function: Callable[..., Any]
    arguments: Callable[[], dict[str, Any]]

    @property
    def parameters(self) -> list[str]:
        return list(self.arguments())

    def call(self, **changed: Any) -> Any:
        return self.function(**{**self.arguments(), **changed})


def linear() -> nn.Linear:
    layer = nn.Linear(12, 5, device="meta")
    layer.weight = nn.Parameter(torch.arange(60.0).reshape(5, 12) - 30)
    layer.bias = nn.Parameter(torch.arange(5.0))
    return layer


def projection() -> nn.Linear:
    layer = nn.Linear(3, 20, bias=False, device="meta")
    layer.weight = nn.Parameter(torch.arange(60.0).reshape(20, 3))
    return layer


def conv() -> nn.Conv2d:
    full = equiv.linear_to_full_conv(linear(), (3, 2, 2))
    assert isinstance(full, nn.Conv2d)
    return full


def x() -> Tensor:
    return torch.arange(60.0).reshape(5, 12) / 64


def weight() -> Tensor:
    return linear().weight.detach()


def bias() -> Tensor:
    return torch.arange(5.0)


def y() -> Tensor:
    return linear()(x()).detach()


def layer(**more: Any) -> dict[str, Any]:
    return {"x": x(), "weight": weight(), "bias": bias(), **more}
