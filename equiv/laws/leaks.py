"""Whether a backend keeps what it returns: results that nobody has asked for any more and that are still in memory.

A backend may hold on to a constant number of things: packed weights, sessions, its last results. What grows with the
number of calls is a leak. Each result is remembered by a weak reference to its memory.
"""

from __future__ import annotations

import gc

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from equiv.laws.call import Call
from equiv.text import counted

_FEW = 8  # results that a backend may keep
_MANY = 1024  # references after which those to freed memory are dropped


class Returned:
    """The results of one item so far, by weak references.

    Example:
        >>> import torch
        >>> call = Call("linear", torch.ones(1, 1), torch.ones(1, 1), None)
        >>> returned, kept = Returned(), []
        >>> for _ in range(9):
        ...     y = torch.ones(1)
        ...     returned.add(y, call)
        ...     kept.append(y)
        >>> returned.leak()
        'keeps 9 of the 9 results that it has returned'
    """

    def __init__(self) -> None:
        self._count = 0
        self._references: list[tuple[int, StorageWeakRef]] = []

    def add(self, y: Tensor, call: Call) -> None:
        """Remember a result, unless it is empty or the memory of an input."""
        self._count += 1
        if not y.numel():
            return
        try:
            storage = y.untyped_storage()
            given = {t.untyped_storage()._cdata for t in (call.input, call.weight, call.bias) if t is not None}
        except (NotImplementedError, RuntimeError):  # a tensor without memory of its own, such as a sparse one
            return
        if storage._cdata not in given:
            self._references.append((self._count, StorageWeakRef(storage)))  # type: ignore[no-untyped-call]
        if len(self._references) % _MANY == 0:
            self._forget()

    def leak(self) -> str:
        """What a backend does that keeps more and more; empty where it keeps few, only old or only new results."""
        self._forget()
        if self._seems_to_leak():
            gc.collect()  # what refers to itself is freed late
            self._forget()
        if not self._seems_to_leak():
            return ""
        return f"keeps {len(self._references):,} of the {counted(self._count, 'result')} that it has returned"

    def _forget(self) -> None:
        self._references = [(number, ref) for number, ref in self._references if not ref.expired()]  # type: ignore[no-untyped-call]

    def _seems_to_leak(self) -> bool:
        """Of every third of the calls a result is kept: no cache that is full, nor one that drops what is old."""
        thirds = {3 * (number - 1) // self._count for number, _ in self._references}
        return len(self._references) > _FEW and thirds == {0, 1, 2}
