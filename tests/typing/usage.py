"""What users write, as their type checkers see it: clean under `mypy --strict` and pyright, and runs."""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true, reportUnusedFunction=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import assert_type

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

import equiv
import equiv.testing
from equiv.backends import Backend, Capabilities, TorchEager
from equiv.laws import Result, items

CONVS = (F.conv1d, F.conv2d, F.conv3d)


class Kernels:
    """The two functions, typed as a user may type them: other names of tensors, and sequences."""

    def linear(self, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        return F.linear(x, w, b)

    def conv(
        self,
        x: Tensor,
        w: Tensor,
        b: Tensor | None = None,
        *,
        stride: int | Sequence[int] = 1,
        dilation: int | tuple[int, ...] = 1,
    ) -> Tensor:
        steps = stride if isinstance(stride, int) else tuple(stride)
        return CONVS[w.ndim - 3](x, w, b, stride=steps, dilation=dilation)


class Plain(Kernels):
    name = "plain"
    device = torch.device("cpu")
    capabilities = Capabilities(dtypes=[torch.float32, "float16"], spatial_ranks=(2,), gradient_order=1)


class Instance(Kernels):
    def __init__(self, name: str) -> None:
        self.name = name
        self.device = torch.device("cpu")


@dataclass(frozen=True)
class Frozen(Kernels):
    name: str = "frozen"
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - a device is a value


class Properties(Kernels):
    @property
    def name(self) -> str:
        return "properties"

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")


backends: list[Backend] = [Plain(), Instance("instance"), Frozen(), Properties(), TorchEager()]
checked: Backend = Frozen()
assert_type(checked.name, str)
assert_type(checked.device, torch.device)


def reason(check: equiv.testing.Check) -> str | None:
    return "issue 17" if check.item.law.id == "exact" else None


@equiv.testing.parametrize_with_laws(Frozen(), dtypes=[torch.float32, "float16"], expected_failures=reason)
def test_frozen(law: equiv.testing.Check) -> None:
    assert_type(law(), Result)


@equiv.testing.parametrize_with_laws(
    [Plain(), Properties()],
    laws=["exact"],
    dtypes=(torch.float32,),
    expected_failures=Path(__file__).with_name("xfails.txt"),
    skips={"exact-*-plain": "not ours"},
    strict=False,
    profile="gate",
    examples=5,
    seed=1,
    arithmetic="measured",
)
def test_several(law: equiv.testing.Check, tmp_path: Path) -> int:
    return 1


assert_type(test_several(equiv.testing.checks(Plain())[0], Path()), int)
for backend in backends:
    for result in equiv.testing.check_backend(
        backend, laws=["exact"], dtypes=[torch.float32, "float16"], expected_failures=reason, examples=3
    ):
        assert_type(result, Result)
        assert_type(result.outcome, str)
found = items(backends, dtypes=[torch.float32, "int8"])

linear, rank = nn.Linear(12, 5), 2
assert_type(equiv.linear_to_full_conv(linear, (12, 1)), nn.Conv1d)
assert_type(equiv.linear_to_full_conv(linear, (3, 2, 2)), nn.Conv2d)
assert_type(equiv.linear_to_full_conv(linear, (3, 2, 2, 1), share=True), nn.Conv3d)
assert_type(equiv.linear_to_full_conv(linear, [3, 2, 2]), nn.Conv1d | nn.Conv2d | nn.Conv3d)
assert_type(equiv.linear_to_full_conv(linear, torch.zeros(3, 2, 2).shape), nn.Conv1d | nn.Conv2d | nn.Conv3d)
assert_type(equiv.linear_to_pointwise_conv(linear), nn.Conv2d)
assert_type(equiv.linear_to_pointwise_conv(linear, 1), nn.Conv1d)
assert_type(equiv.linear_to_pointwise_conv(linear, 2, share=True), nn.Conv2d)
assert_type(equiv.linear_to_pointwise_conv(linear, spatial_dims=3), nn.Conv3d)
assert_type(equiv.linear_to_full_conv_transpose(linear, (5, 1)), nn.ConvTranspose1d)
assert_type(equiv.linear_to_pointwise_conv_transpose(linear), nn.ConvTranspose2d)
assert_type(equiv.linear_to_pointwise_conv_transpose(linear, 3), nn.ConvTranspose3d)


def of_any_rank(rank: int) -> nn.Conv1d | nn.Conv2d | nn.Conv3d:
    return assert_type(equiv.linear_to_pointwise_conv(linear, rank), nn.Conv1d | nn.Conv2d | nn.Conv3d)


assert_type(equiv.conv_to_linear(equiv.linear_to_full_conv(linear, (3, 2, 2))), nn.Linear)
