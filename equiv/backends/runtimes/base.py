"""What shipped backends share: parameters that are checked, a name for each setting, and a pickle."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from equiv.arguments import check_device
from equiv.backends.eager import TorchEager
from equiv.backends.parameters import check_parameters, parameters_of


@dataclass(frozen=True)
class Defect:
    """A defect of a runtime that is written down, and the calls whose results it spoils.

    A result that is wrong is excused where the defect covers the call, and shows on this machine in a call of its own.

    Attributes:
        finding: Its page under ``docs/findings/``.
        spoils: Whether it covers a call, which has ``form``, ``input``, ``weight`` and ``bias``, ``steps`` for stride
            and dilation, ``padding`` and ``groups``.
        shows: Whether a small call of fixed values goes wrong in this backend.
    """

    finding: str
    spoils: Callable[[Any], bool]
    shows: Callable[[Any], bool]


class Runtime:
    """The part of a backend that says who it is. Whoever derives from it adds ``linear`` and ``conv``.

    Its parameters are the keyword-only arguments of its ``__init__``, each with a default and annotated as ``int``,
    ``bool``, ``str`` or a ``Literal``: they are what can be typed after its name. Two instances with the same
    parameters are equal; a pickle holds the parameters alone.

    Attributes:
        title: The first part of its name.
        needs: Packages by the name that is imported, each with the name of its distribution.
        extra: Of torch-equiv, which brings them.
        defects: Of the runtime, those that are written down.
        torchs: Whether results are those of torch's own kernels, and so have torch's known defects.
        slow: Whether a program takes seconds to build, so that `equiv backends` asks it only by name.
        arguments: The parameters of this instance, by name.

    Args:
        device: Where inputs are put before they are handed over.
        **arguments: The parameters, as they were given.

    Raises:
        EquivError: A parameter has a value that it cannot have.
    """

    title: ClassVar[str]
    defects: ClassVar[Sequence[Defect]] = ()
    torchs: ClassVar[bool] = False
    slow: ClassVar[bool] = False
    needs: ClassVar[Mapping[str, str]] = {}
    extra: ClassVar[str] = ""

    def __init__(self, /, on: str | torch.device = "cpu", **arguments: Any) -> None:
        self.arguments = check_parameters(type(self), arguments)
        self.device = check_device("device", on)
        words = (f"{name}_{value}" for name, value in self._chosen.items())
        self.name = ".".join([self.title, *(re.sub(r"\W", "_", word, flags=re.ASCII) for word in words)])

    @property
    def _chosen(self) -> dict[str, Any]:
        """The parameters that differ from their defaults."""
        usual = {name: default for name, (_, default) in parameters_of(type(self)).items()}
        return {name: value for name, value in self.arguments.items() if value != usual[name]}

    def setting(self) -> AbstractContextManager[object]:
        """What is set while the runtime computes."""
        return nullcontext()

    def laid(self, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Input and weight of a call in the layout in which torch's kernels get them."""
        return x, weight

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other)["arguments"] == self.arguments

    def __hash__(self) -> int:
        return hash((type(self), *self.arguments.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), **self.arguments), ()

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self._chosen.items())
        return f"{type(self).__name__}({given})"


def saturating(finding: str) -> tuple[Defect, ...]:
    """The defect of linear layers in 8 bits that cut sums of two products to 16 bits, as CPUs without VNNI do it.

    It is looked for in int8 and uint8 each on its own.
    """
    return tuple(
        Defect(finding, partial(_is_linear_of, dtype), partial(_saturates, dtype))
        for dtype in (torch.int8, torch.uint8)
    )


def _is_linear_of(dtype: torch.dtype, call: Any) -> bool:
    return bool(call.form == "linear" and call.input.dtype == dtype)


def _saturates(dtype: torch.dtype, backend: Any) -> bool:
    limits = torch.iinfo(dtype)
    for x, weight in itertools.product((limits.min, limits.max), repeat=2):
        rows = (torch.full((1, 64), value, dtype=dtype) for value in (x, weight))
        exact = torch.tensor([[64 * x * weight]]).to(dtype)
        if not torch.equal(backend.linear(*rows), exact):
            return True
    return False


def runs_torch(backend: object) -> bool:
    """Whether results of a backend are those of torch's own kernels."""
    return type(backend) is TorchEager or (isinstance(backend, Runtime) and backend.torchs)


def setting_of(backend: object) -> AbstractContextManager[object]:
    """What is set while a backend computes, where equiv ships it."""
    return backend.setting() if isinstance(backend, Runtime) else nullcontext()


def laid_by(backend: object, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Input and weight in the layout in which torch's kernels get them from a backend."""
    return backend.laid(x, weight) if isinstance(backend, Runtime) else (x, weight)


def graph_of(backend: object, call: Any) -> bytes | None:
    """The file of the ONNX model by which a backend that equiv ships runs a call; None where it runs no such model."""
    from equiv.backends.runtimes.layers import Layer

    graph = getattr(backend, "graph", None) if isinstance(backend, Runtime) else None
    if graph is None:
        return None
    options = call.options if call.form != "linear" else {}
    found: bytes = graph(Layer.of(call.input, call.weight, call.bias, **options))
    return found


def defect_of(backend: object, call: Any) -> str | None:
    """The finding that covers a call of a backend that equiv ships, if it shows on this machine; or None."""
    if not isinstance(backend, Runtime):
        return None
    met = (one for one in backend.defects if one.spoils(call))
    return next((one.finding for one in met if _shows(one, backend)), None)


@cache
def _shows(defect: Defect, backend: Runtime) -> bool:
    return defect.shows(backend)
