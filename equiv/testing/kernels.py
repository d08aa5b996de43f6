"""Plain functions as a backend: what they serve is read from which of them there are, and from their keywords."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from equiv.arguments import attribute_of, check_device, refusal
from equiv.backends import FORMS, Capabilities, check_backend
from equiv.errors import EquivError

Kernel = Callable[..., Tensor]
_KEYWORDS = ("stride", "padding", "dilation", "groups")
_CONVS = {1: "conv1d", 2: "conv2d", 3: "conv3d"}


class Kernels:
    """A backend of plain functions, at least one; laws are asked of those that there are.

    ``linear(input, weight, bias)`` takes ``(*batch, n)``, ``(O, n)``, and ``(O,)`` or None. A convolution takes
    ``(N, C, *spatial)``, ``(O, C / groups, *kernel)``, and ``(O,)`` or None, with the keywords ``stride``, ``padding``
    and ``dilation``, each a tuple of one number for each dimension, and ``groups``; of a keyword that a function has
    not, it serves the default alone: no padding, and 1 of the others. What a function does not serve it says by
    NotImplementedError.

    Args:
        linear: For the form ``linear``.
        conv1d: For convolutions over maps of one dimension.
        conv2d: Of two.
        conv3d: Of three.
        name: Part of every id; by default from the names of the functions.
        device: Where inputs are put before they are handed over.
        capabilities: What else the functions serve, or do not.

    Attributes:
        arguments: What it was made of, by name: a program that shows a failure makes it again.

    Raises:
        EquivError: No function, something else than a function of input, weight and bias, or a wrong name or device.

    Example:
        >>> mine = Kernels(linear=lambda input, weight, bias: input @ weight.T, name="without_bias")
        >>> mine.capabilities.spatial_ranks, mine.linear(torch.ones(1, 2), torch.ones(1, 2)).tolist()
        ((), [[2.0]])
    """

    def __init__(
        self,
        *,
        linear: Kernel | None = None,
        conv1d: Kernel | None = None,
        conv2d: Kernel | None = None,
        conv3d: Kernel | None = None,
        name: str | None = None,
        device: str | torch.device = "cpu",
        capabilities: Capabilities | None = None,
    ) -> None:
        given = {"linear": linear, "conv1d": conv1d, "conv2d": conv2d, "conv3d": conv3d}
        self.arguments = {**given, "name": name, "device": device, "capabilities": capabilities}
        self._kernels = {which: _checked(which, kernel) for which, kernel in given.items() if kernel is not None}
        self._keywords = {which: [word for word in _KEYWORDS if _takes(f, word)] for which, f in self._kernels.items()}
        if not self._kernels:
            raise EquivError("linear: expected at least one of linear, conv1d, conv2d and conv3d, got none; pass one")
        self.name = _name_of(self._kernels) if name is None else name
        self.device = check_device("device", device)
        if not isinstance(capabilities, Capabilities | None):
            raise refusal("capabilities", "an equiv.backends.Capabilities", capabilities, "see its attributes")
        self.capabilities = _declared(self._kernels, capabilities or Capabilities())
        check_backend("Kernels", self)

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """What the function ``linear`` returns."""
        return self._kernel("linear")(input, weight, bias)

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
        """What the function for the rank of the weight returns."""
        rank = weight.ndim - 2
        which = _CONVS.get(rank, f"conv{rank}d")
        kernel, keywords = self._kernel(which), dict[str, Any]()
        for word, value in zip(_KEYWORDS, (stride, padding, dilation, groups), strict=True):
            each = (value,) * rank if isinstance(value, int) else tuple(value)
            if word in self._keywords[which]:
                keywords[word] = value if word == "groups" else each
            elif set(each) != {0 if word == "padding" else 1}:
                raise NotImplementedError(f"{which} of {self.name} has no keyword {word}")
        return kernel(input, weight, bias, **keywords)

    def __repr__(self) -> str:
        return f"Kernels({', '.join(self._kernels)}, name={self.name!r}, device={str(self.device)!r})"

    def _kernel(self, which: str) -> Kernel:
        if which not in self._kernels:
            raise NotImplementedError(f"{self.name} has no {which}")
        return self._kernels[which]


def _checked(argument: str, kernel: object) -> Kernel:
    expected = "a function of input, weight and bias"
    if not callable(kernel) or isinstance(kernel, type):
        raise refusal(argument, expected, kernel, "pass the function itself")
    signature = _signature(kernel)
    try:
        if signature is not None:
            keywords = {word: 1 for word in _KEYWORDS if argument != "linear" and _takes(kernel, word)}
            signature.bind("input", "weight", "bias", **keywords)
    except TypeError as error:
        advice = f"it cannot be called like that: {error}"
        raise refusal(argument, expected, f"{attribute_of(kernel, '__name__', 'one')}{signature}", advice) from error
    return kernel


def _signature(kernel: Kernel) -> inspect.Signature | None:
    try:
        return inspect.signature(kernel)
    except (TypeError, ValueError):  # a builtin, such as torch's own, has none
        return None


def _takes(kernel: Kernel, keyword: str) -> bool:
    signature = _signature(kernel)
    if signature is None:
        return True
    named = signature.parameters.get(keyword)
    has_it = named is not None and named.kind is not inspect.Parameter.POSITIONAL_ONLY
    return has_it or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in signature.parameters.values())


def _name_of(kernels: Mapping[str, Kernel]) -> str:
    """The names of the functions; where they have none, those of their places."""
    names = []
    for which, kernel in kernels.items():
        inner = attribute_of(kernel, "func", kernel)  # of a functools.partial
        name = attribute_of(kernel, "__name__") or attribute_of(inner, "__name__") or type(kernel).__name__
        names.append(which if "<" in str(name) else re.sub(r"\W", "_", str(name), flags=re.ASCII))
    return ".".join(dict.fromkeys(names))


def _declared(kernels: Mapping[str, Kernel], given: Capabilities) -> Capabilities:
    """What is given, but for what no function serves."""
    found: dict[str, Any] = {}
    ranks = tuple(rank for rank, which in _CONVS.items() if which in kernels)
    found["spatial_ranks"] = tuple(r for r in ranks if given.spatial_ranks is None or r in given.spatial_ranks)
    if "linear" not in kernels:
        by_form = given.dtypes if isinstance(given.dtypes, Mapping) else dict.fromkeys(FORMS, given.dtypes)
        found["dtypes"] = {form: dtypes for form, dtypes in by_form.items() if dtypes is not None} | {"linear": ()}
    for word in _KEYWORDS:
        if ranks and not any(_takes(kernels[_CONVS[rank]], word) for rank in ranks):
            found[word] = False
    return replace(given, **found)
