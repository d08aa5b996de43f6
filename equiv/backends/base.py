"""The interface of a backend, which users implement for their own kernels, runtimes and devices."""

from __future__ import annotations

from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from equiv.arguments import attribute_of, check_device, refusal
from equiv.backends.capabilities import capabilities_of
from equiv.errors import EquivError


@runtime_checkable
class Backend(Protocol):
    """Carries out a layer as a matrix product or as a convolution.

    A backend may also have ``capabilities``, an :class:`equiv.backends.Capabilities`, or ``supports(dtype, form) ->
    bool``. What neither says is found out by asking it with tiny layers when a law first runs: where it raises
    ``NotImplementedError`` it does not serve what was asked, and reports say so. Any other exception is a failure.

    The keywords of ``conv`` are sent where they are not the default. One that ``conv`` does not have is not asked for.

    Attributes:
        name: Part of every id; letters, digits, dots and underscores.
        device: Where inputs are put before they are handed over.

    Example:
        >>> class Mine:
        ...     name, device = "mine", torch.device("cpu")
        ...     def linear(self, input, weight, bias=None):
        ...         return torch.nn.functional.linear(input, weight, bias)
        ...     def conv(self, input, weight, bias=None, *, stride=1, padding=0, dilation=1, groups=1):
        ...         convs = (torch.nn.functional.conv1d, torch.nn.functional.conv2d, torch.nn.functional.conv3d)
        ...         return convs[weight.ndim - 3](input, weight, bias, stride, padding, dilation, groups)
        >>> isinstance(Mine(), Backend)
        True
    """

    @property
    def name(self) -> str:
        """An attribute or a property."""
        ...

    @property
    def device(self) -> torch.device:
        """Likewise."""
        ...

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None, /) -> Tensor:
        """``(*batch, n)``, ``(O, n)``, ``(O,)`` -> ``(*batch, O)``."""
        ...

    def conv(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        /,
        *,
        stride: int | tuple[int, ...] = 1,
        dilation: int | tuple[int, ...] = 1,
    ) -> Tensor:
        """``(N, C, *spatial)`` or ``(C, *spatial)``, ``(O, C, *kernel)``, ``(O,)`` -> ``(N, O, *out)``.

        Two keywords more are there if the backend serves them: ``padding``, how many zeros are added at both ends of
        each dimension, and ``groups``; the weight is then ``(O, C / groups, *kernel)``.
        """
        ...


_MISSING = object()


def check_backend(argument: str, value: object) -> Backend:
    """``value`` if it has what a backend must have, each of the kind that it must be.

    Example:
        >>> check_backend("backend", "cpu")
        Traceback (most recent call last):
        equiv.errors.EquivError: backend: expected an object with name, device, linear and conv, got 'cpu'; without ...
    """
    wanted = "an object with name, device, linear and conv"
    if isinstance(value, type):
        name = value.__name__
        raise EquivError(f"{argument}: expected {wanted}, got the class {name}; pass an instance, {name}()")
    found = {name: attribute_of(value, name, _MISSING) for name in ("name", "device", "linear", "conv")}
    lacks = ", ".join(name for name, attribute in found.items() if attribute is _MISSING)
    if lacks:
        raise refusal(argument, wanted, value, f"without {lacks} it is none, see equiv.backends.Backend")
    for name in ("linear", "conv", "supports"):
        method = attribute_of(value, name, len)
        if not callable(method):
            raise refusal(f"{argument}.{name}", "a method", method, "see equiv.backends.Backend")
    name = found["name"]
    if not isinstance(name, str) or not name.replace(".", "").replace("_", "").isalnum():
        advice = "it is part of every id, so choose a short one"
        raise refusal(f"{argument}.name", "letters, digits, dots and underscores", name, advice)
    advice = "pass where inputs are put before they are handed over, such as torch.device('cpu')"
    check_device(f"{argument}.device", found["device"], advice)
    capabilities_of(value)
    return cast(Backend, value)
