"""``torch.autocast``: layers of float32 carried out in 16 bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor

from equiv.backends.capabilities import Capabilities
from equiv.backends.eager import TorchEager
from equiv.backends.runtimes.base import Runtime


class Autocast(Runtime):
    """torch.autocast: layers of 16-bit values, handed over in float32, that autocast carries out in 16 bits.

    Args:
        dtype: In which layers are carried out, the one that is served.
        device: Where.

    Example:
        >>> x = torch.ones(1, 2, dtype=torch.bfloat16)
        >>> Autocast().linear(x, x).tolist()
        [[2.0]]
    """

    title = "torch.autocast"
    torchs = True

    def __init__(self, *, dtype: Literal["bfloat16", "float16"] = "bfloat16", device: str = "cpu") -> None:
        super().__init__(device, dtype=dtype, device=device)
        self._eager = TorchEager(device)

    @property
    def capabilities(self) -> Capabilities:
        """The dtype alone."""
        return Capabilities(dtypes=[self.arguments["dtype"]])

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """``(*batch, n)``, ``(O, n)``, ``(O,)`` -> ``(*batch, O)``."""
        return self._call(self._eager.linear, input, weight, bias)

    def conv(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
    ) -> Tensor:
        """``(N, C, *spatial)``, ``(O, C / groups, *kernel)``, ``(O,)`` -> ``(N, O, *out)``."""
        steps = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        return self._call(self._eager.conv, input, weight, bias, **steps)

    def _call(self, run: Callable[..., Any], *given: Tensor | None, **steps: Any) -> Tensor:
        dtype = getattr(torch, self.arguments["dtype"])
        wide = (None if one is None else one.to(torch.float32) for one in given)
        with torch.autocast(self.device.type, dtype=dtype, cache_enabled=False):
            return cast(Tensor, run(*wide, **steps))
