"""torch in eager mode, through its own modules, as a user's model runs it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn

from equiv.arguments import check_device
from equiv.backends.twins import shallow
from equiv.mapping import CONVS


class TorchEager:
    """Runs ``nn.Linear`` and ``nn.Conv1d/2d/3d`` on given tensors; kernels see their strides and offsets unchanged.

    Args:
        device: A torch device that is present, such as ``"cpu"`` or ``"cuda:1"``.

    Raises:
        EquivError: The device is not present.

    Example:
        >>> backend = TorchEager()
        >>> backend.name, backend.linear(torch.ones(1, 2), torch.ones(3, 2)).tolist()
        ('eager.cpu', [[2.0, 2.0, 2.0]])
    """

    transforms = True
    """Whether the laws about torch's own machinery (autograd, vmap, compile, modules) apply."""

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.device = check_device("device", device)
        index = "" if self.device.index is None else str(self.device.index)
        self.name = f"eager.{self.device.type}{index}"

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """``nn.Linear``: ``(*batch, n)`` -> ``(*batch, O)``."""
        return _call(_linear(bias is not None), input, weight, bias)

    def conv(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | str = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
    ) -> Tensor:
        """``nn.Conv1d/2d/3d``: ``(N, C, *spatial)``, ``(O, C / groups, *kernel)`` -> ``(N, O, *out)``."""
        dims = weight.ndim - 2
        added = padding if isinstance(padding, str) else _each(padding, dims)
        module = _conv(dims, bias is not None, _each(stride, dims), added, _each(dilation, dims), groups)
        try:
            return _call(module, input, weight, bias)
        except RuntimeError as error:
            if _is_unserved(error, input):
                raise NotImplementedError(str(error)) from error
            raise

    def __repr__(self) -> str:
        return f"TorchEager({str(self.device)!r})"


def conv_kernel(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    dilation: Sequence[int],
    *,
    padding: Sequence[int] = (),
    groups: int = 1,
) -> str:
    """The name of the kernel that torch chooses for this convolution, such as ``Mkldnn``; ``unknown`` if it cannot say.

    Example:
        >>> conv_kernel(torch.ones(1, 1, 4, 4), torch.ones(1, 1, 2, 2), None, (1, 1), (1, 1)) != ""
        True
    """
    select = getattr(torch._C, "_select_conv_backend", None)
    if select is None:
        return "unknown"
    none = [0] * (weight.ndim - 2)
    batched = input if input.ndim == weight.ndim else input[None]
    given = (list(stride), list(padding) or none, list(dilation), False, none, groups, None)
    try:
        chosen = select(batched, weight, bias, *given)
    except (TypeError, RuntimeError):
        return "unknown"
    return _name(chosen)


@cache
def _name(kernel: Any) -> str:
    return str(kernel).rsplit(".", 1)[-1]


def _call(module: nn.Module, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The module's own computation on these parameters, in a twin of it: no other thread sees what it holds."""
    # functional_call would look for tied parameters, which takes 30 us.
    return cast(Tensor, shallow(module, _parameters={"weight": weight, "bias": bias})(input))


def _is_unserved(error: RuntimeError, input: Tensor) -> bool:
    """Whether cuDNN says that it has no kernel for integers, where other devices of torch say NotImplementedError."""
    integers = not (input.is_floating_point() or input.is_complex())
    return integers and input.is_cuda and "unable to find an engine" in str(error)


def _each(value: int | Sequence[int], dims: int) -> tuple[int, ...]:
    return (value,) * dims if isinstance(value, int) else tuple(value)


@cache
def _linear(bias: bool) -> nn.Linear:
    return nn.Linear(1, 1, bias=bias, device="meta")


@cache
def _conv(
    dims: int,
    bias: bool,
    stride: tuple[int, ...],
    padding: tuple[int, ...] | str,
    dilation: tuple[int, ...],
    groups: int,
) -> nn.Module:
    options: dict[str, Any] = {"bias": bias, "stride": stride, "padding": padding, "dilation": dilation}
    module: nn.Module = CONVS[dims](groups, groups, 1, groups=groups, device="meta", **options)
    return module
