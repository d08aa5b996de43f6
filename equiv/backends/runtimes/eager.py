"""Torch in eager mode on other devices, and with settings that choose other kernels."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.func import vjp

from equiv.backends.capabilities import Capabilities
from equiv.backends.eager import TorchEager
from equiv.backends.runtimes.base import Runtime


class Eager(Runtime):
    """Torch's own modules: on a device, channels last, without oneDNN, with a number of threads.

    Settings are in force in forward and backward alike, and are as before afterwards.

    Args:
        device: Such as cuda, mps or xpu.
        memory_format: ``channels_last`` lays out inputs and weights of convolutions over maps of 2 and 3 dimensions.
        mkldnn: Whether oneDNN's kernels may be taken.
        threads: Of one operator; 0 for as many as torch is set to.

    Example:
        >>> Eager(mkldnn=False).linear(torch.ones(1, 2), torch.ones(3, 2)).tolist()
        [[2.0, 2.0, 2.0]]
    """

    title = "torch"
    torchs = True

    def __init__(
        self,
        *,
        device: str = "cpu",
        memory_format: Literal["given", "channels_last"] = "given",
        mkldnn: bool = True,
        threads: int = 0,
    ) -> None:
        super().__init__(device, device=device, memory_format=memory_format, mkldnn=mkldnn, threads=threads)
        self._is_set = not mkldnn or threads > 0
        self._eager = TorchEager(device)

    @property
    def capabilities(self) -> Capabilities:
        """Tangents do not pass through a function that keeps settings."""
        return Capabilities(forward_mode=False if self._is_set else None)

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

        def run(x: Tensor, kernel: Tensor, b: Tensor | None = None) -> Tensor:
            x, kernel = self.laid(x, kernel)
            steps: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
            return self._eager.conv(x, kernel, b, **steps)

        return self._call(run, input, weight, bias)

    def laid(self, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Channels last, if that is wanted."""
        if self.arguments["memory_format"] == "given":
            return x, weight
        formats = {4: torch.channels_last, 5: torch.channels_last_3d}
        each = (t.contiguous(memory_format=formats[t.ndim]) if t.ndim in formats else t for t in (x, weight))
        return cast("tuple[Tensor, Tensor]", tuple(each)) if weight.ndim in formats else (x, weight)

    @contextmanager
    def setting(self) -> Iterator[None]:
        """Torch's settings, which are those of the process: for one thread at a time."""
        if not self._is_set:
            yield
            return
        with _SETTING:
            before = torch._C._get_mkldnn_enabled(), torch.get_num_threads()
            torch._C._set_mkldnn_enabled(self.arguments["mkldnn"] and before[0])
            torch.set_num_threads(self.arguments["threads"] or before[1])
            try:
                yield
            finally:
                torch._C._set_mkldnn_enabled(before[0])
                torch.set_num_threads(before[1])

    def _call(self, run: Callable[..., Tensor], *given: Tensor | None) -> Tensor:
        tensors = [one for one in given if one is not None]
        if not self._is_set:
            return run(*tensors)
        if torch.is_grad_enabled() and any(one.requires_grad for one in tensors):
            return cast(Tensor, _Set.apply(self.setting, run, *tensors))  # type: ignore[no-untyped-call]
        with self.setting():
            return run(*tensors)


_SETTING = threading.RLock()


class _Set(torch.autograd.Function):
    """A function of tensors under settings, and so are its derivatives of every order."""

    @staticmethod
    def forward(ctx: Any, setting: Callable[[], AbstractContextManager[None]], run: Any, *tensors: Tensor) -> Any:
        """What ``run`` returns."""
        ctx.setting, ctx.run = setting, run
        ctx.save_for_backward(*tensors)
        with setting():
            return run(*tensors)

    @staticmethod
    def backward(ctx: Any, *incoming: Tensor) -> Any:
        """The same for the gradients of ``run``, as a function of its tensors and what comes in."""
        tensors = ctx.saved_tensors

        def pull(*given: Tensor) -> Any:
            back = vjp(ctx.run, *given[: len(tensors)])[1]
            coming = given[len(tensors) :]
            return back(coming[0] if len(incoming) == 1 else coming)

        return (None, None, *_Set.apply(ctx.setting, pull, *tensors, *incoming))  # type: ignore[no-untyped-call]
