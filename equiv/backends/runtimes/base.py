"""What shipped backends share: parameters that are checked, a name for each setting, and a pickle."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import torch

from equiv.arguments import check_device
from equiv.backends.parameters import check_parameters, parameters_of


class Runtime:
    """The part of a backend that says who it is. Whoever derives from it adds ``linear`` and ``conv``.

    Its parameters are the keyword-only arguments of its ``__init__``, each with a default and annotated as ``int``,
    ``bool``, ``str`` or a ``Literal``: they are what can be typed after its name. Two instances with the same
    parameters are equal; a pickle holds the parameters alone.

    Attributes:
        title: The first part of its name.
        needs: Packages by the name that is imported, each with the name of its distribution.
        extra: Of torch-equiv, which brings them.
        arguments: The parameters of this instance, by name.

    Args:
        device: Where inputs are put before they are handed over.
        **arguments: The parameters, as they were given.

    Raises:
        EquivError: A parameter has a value that it cannot have.
    """

    title: ClassVar[str]
    needs: ClassVar[Mapping[str, str]] = {}
    extra: ClassVar[str] = ""

    def __init__(self, /, on: str | torch.device = "cpu", **arguments: Any) -> None:
        self.arguments = check_parameters(type(self), arguments)
        self.device = check_device("device", on)
        usual = {name: default for name, (_, default) in parameters_of(type(self)).items()}
        others = [f"{name}_{value}" for name, value in self.arguments.items() if value != usual[name]]
        self.name = ".".join([self.title, *(re.sub(r"\W", "_", word, flags=re.ASCII) for word in others)])

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other)["arguments"] == self.arguments

    def __hash__(self) -> int:
        return hash((type(self), *self.arguments.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), **self.arguments), ()

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
        return f"{type(self).__name__}({given})"
