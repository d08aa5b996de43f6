"""What type checkers refuse: without its comment, each of these lines is an error of mypy and of pyright."""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

import torch
from torch import Tensor, nn

import equiv
import equiv.testing
from equiv.backends import Backend


class NoConv:
    name = "no_conv"
    device = torch.device("cpu")

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return input


class Nameless:
    device = torch.device("cpu")
    linear = NoConv.linear
    conv = NoConv.linear


lacks_conv: Backend = NoConv()  # type: ignore[assignment]
lacks_name: Backend = Nameless()  # type: ignore[assignment]


def rename(backend: Backend) -> None:
    backend.name = "other"  # type: ignore[misc]


conv: nn.Conv1d = equiv.linear_to_full_conv(nn.Linear(4, 2), (1, 2, 2))  # type: ignore[assignment]
equiv.testing.check_backend(equiv.testing.devices_under_test()[0], dtypes=[1])  # type: ignore[list-item]


@equiv.testing.parametrize_with_laws(equiv.testing.devices_under_test(), expected_failures={"exact": None})  # type: ignore[dict-item]
def test_law(law: equiv.testing.Check) -> None:
    law("float32")  # type: ignore[call-arg]
