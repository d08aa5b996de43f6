"""What a fault and a legal variant are, and the two mappings that hold them by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from equiv.errors import EquivError
from equiv.text import shown

Applied = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class Fault:
    """One defect that can be put into torch or into a mapping, and what must find it.

    Attributes:
        name: Stable, in kebab-case.
        title: What is wrong, and under which condition; one sentence.
        source: The thread that it was reduced from, such as ``pytorch/pytorch#1246``; or ``mapping mistake: ...``,
            ``generated kernels: ...`` or ``textbook: ...``.
        kind: ``kernel``, ``gradient``, ``arithmetic``, ``values``, ``effect``, ``cheat``, ``transform`` or ``mapping``.
        dimension: Along which dimension of the inputs its condition lies.
        profile: The profile in which the laws must find it: ``dev``, ``gate`` or ``deep``.
        dtypes: Words of the dtypes in which it shows.
        laws: Ids of the laws that are expected to find it, the likeliest first.

    Example:
        >>> from equiv.testing import faults
        >>> faults.FAULTS["bias-doubled"].profile
        'dev'
    """

    name: str
    title: str
    source: str
    kind: str
    dimension: str
    profile: str
    dtypes: tuple[str, ...]
    laws: tuple[str, ...]
    _apply: Applied = field(repr=False, compare=False)

    def applied(self) -> AbstractContextManager[None]:
        """A context in which torch's ``linear`` and ``conv1d/2d/3d``, or a mapping of equiv, has this fault.

        It begins with a fresh state, may be nested, and puts back what was there before, also after an exception. It
        is global to the process: no other thread should call torch meanwhile.

        Example:
            >>> import torch
            >>> layer, x = torch.nn.Conv1d(1, 1, 1, dtype=torch.bfloat16), torch.zeros(0, 1, 1, dtype=torch.bfloat16)
            >>> with FAULTS["empty-batch-in-float32"].applied():
            ...     print(layer(x).dtype)
            torch.float32
        """
        return _entered(self._apply)


@dataclass(frozen=True)
class Variant:
    """One right way to compute a layer, other than torch's own: no law may refuse it.

    Attributes:
        name: Stable, in kebab-case.
        title: How it computes; one sentence.
        source: Where it is in use, or the textbook.
        dtypes: Words of the dtypes in which it differs from torch's own kernels, or is most likely to.

    Example:
        >>> from equiv.testing import faults
        >>> "float32" in faults.VARIANTS["pairwise"].dtypes
        True
    """

    name: str
    title: str
    source: str
    dtypes: tuple[str, ...]
    _apply: Applied = field(repr=False, compare=False)

    def applied(self) -> AbstractContextManager[None]:
        """A context in which torch's ``linear`` and ``conv1d/2d/3d`` compute in this way; see :meth:`Fault.applied`."""
        return _entered(self._apply)


@contextmanager
def _entered(apply: Applied) -> Iterator[None]:
    with apply():
        yield


_T = TypeVar("_T", Fault, Variant)


class Named(Mapping[str, _T], Generic[_T]):
    """A mapping by name, in the order of registration, whose missing names raise an error with near ones."""

    def __init__(self, what: str) -> None:
        self._what, self._table = what, f"{what.upper()}S"
        self._entries: dict[str, _T] = {}

    def add(self, entry: _T) -> None:
        """Register an entry under its name, which no other entry has."""
        assert entry.name not in self._entries, entry.name
        self._entries[entry.name] = entry

    def __getitem__(self, name: str) -> _T:
        if isinstance(name, str) and name in self._entries:
            return self._entries[name]
        near = difflib.get_close_matches(name[:80] if isinstance(name, str) else "", self._entries, n=3, cutoff=0.4)
        advice = (
            f"did you mean {' or '.join(map(repr, near))}?" if near else f"see list(equiv.testing.faults.{self._table})"
        )
        raise UnknownName(
            f"{self._what}: expected one of the {len(self._entries)} names of equiv.testing.faults.{self._table}, "
            f"got {shown(name)}; {advice}"
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"<{len(self)} {self._what}s>"


class UnknownName(EquivError, KeyError):  # noqa: N818 - an EquivError that a Mapping may raise
    """No fault or variant has this name."""

    __str__ = ValueError.__str__


SURVIVORS = {
    "complex-nan-swallowed": "IEEE 754 leaves complex products with NaN open: right kernels differ there",
    "wrong-after-another-dtype": "each item runs in one dtype",
}

FAULTS: Named[Fault] = Named("fault")
VARIANTS: Named[Variant] = Named("variant")
