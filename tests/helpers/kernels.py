"""torch's kernels with something else in their place, for tests of what the laws find and say."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from equiv import laws
from equiv.backends import FORMS, TorchEager

CPU = TorchEager()
Kernel = Callable[..., Tensor]
KERNELS: dict[str, Kernel] = {name: getattr(F, name) for name in ("linear", "conv1d", "conv2d", "conv3d")}


@contextmanager
def instead(change: Callable[[Kernel], Kernel]) -> Iterator[None]:
    """torch's four kernels with a defect; modules, backends and the programs of witnesses all call them here."""
    with pytest.MonkeyPatch.context() as patch:
        for name, kernel in KERNELS.items():
            patch.setattr(F, name, change(kernel))
        yield


class Odd(TorchEager):
    """A backend that says that it serves everything, and does not."""

    transforms = False

    def __init__(self, kernel: Kernel) -> None:
        super().__init__()
        self.name, self.kernel = "odd", kernel

    def supports(self, dtype: torch.dtype, form: str) -> bool:
        return dtype == torch.float32 and form in FORMS

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return self.kernel(input, weight, bias)

    def conv(self, input: Tensor, weight: Tensor, bias: Tensor | None = None, **_: Any) -> Tensor:
        return self.kernel(input, weight, bias)


def item(law: str, dtype: str = "float32", backend: Any = CPU) -> laws.Item:
    (found,) = laws.items([backend], laws=[law], dtypes=[dtype])
    return found


def run(program: str) -> dict[str, Any]:
    """The names that a program leaves."""
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(program, "<witness>", "exec"), names)
    return names
