"""How a fault is written: its name, its sentence, and what stands in place of a right kernel, gradient or mapping."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from equiv.testing.faults.kernel import Kernel, KernelCall, instead
from equiv.testing.faults.mistake import Mistake, mapping_replaced
from equiv.testing.faults.registry import FAULTS, Applied, Fault
from equiv.testing.faults.tools import watched

Condition = Callable[[KernelCall], bool]


@dataclass(frozen=True, kw_only=True)
class Faults:
    """What the faults of one module have in common; one is added to :data:`FAULTS` in three steps.

    First its name, the dimension of its condition, and by keyword what differs from the rest of the module; then its
    sentence and its source; then what is wrong, by a method of :class:`Described`::

        fault = Faults(kind="kernel", laws=(BATCH, EXACT))

        fault("batch-65-alone", "batch", profile="gate")(
            "The last entry is wrong for 65 rows and no other number.", "textbook: the remainder of a tile, at one size"
        ).where(lambda c: c.rows == 65, last_off)

    Attributes:
        kind: As in :class:`Fault`.
        laws: As in :class:`Fault`.
        profile: As in :class:`Fault`.
        dtypes: As in :class:`Fault`.
        family: What every source begins with, if anything.
        traced: Whether kernels are also wrong where torch traces a program or wraps its tensors; see :func:`instead`.
    """

    kind: str
    laws: tuple[str, ...]
    profile: str = "dev"
    dtypes: tuple[str, ...] = ("float32",)
    family: str = ""
    traced: bool = False

    def __call__(self, name: str, dimension: str, **different: Any) -> Callable[[str, str], Described]:
        """A function of sentence and source, for the fault of this name."""
        return partial(Described, replace(self, **different), name, dimension)


@dataclass(frozen=True)
class Described:
    """A fault with its name, sentence and source; each method says what is wrong, and adds it to :data:`FAULTS`."""

    of: Faults
    name: str
    dimension: str
    title: str
    source: str

    def _add(self, apply: Applied) -> None:
        of, source = self.of, f"{self.of.family}: {self.source}" if self.of.family else self.source
        FAULTS.add(Fault(self.name, self.title, source, of.kind, self.dimension, of.profile, of.dtypes, of.laws, apply))

    def where(self, condition: Condition, wrong: Kernel, *, within: Applied = nullcontext) -> None:
        """Calls for which the condition holds get ``wrong``; all others are passed on. ``within`` is entered first."""

        def kernel(c: KernelCall) -> Tensor:
            return wrong(c) if condition(c) else c.run()

        @contextmanager
        def applied() -> Iterator[None]:
            with within(), instead(kernel, traced=self.of.traced):
                yield

        self._add(applied)

    def stateful(self, kernel: Callable[[KernelCall, dict[Any, Any]], Tensor]) -> None:
        """A kernel that remembers earlier calls in a dictionary, empty each time that the fault is applied."""

        def applied() -> AbstractContextManager[None]:
            memory: dict[Any, Any] = {}
            return instead(lambda c: kernel(c, memory))

        self._add(applied)

    def mistake(self, wrong: Mistake, *names: str) -> None:
        """``wrong`` in the place of these functions of :mod:`equiv.mapping`, wherever they are bound."""
        self._add(partial(mapping_replaced, wrong, *names))

    def gradient(
        self,
        of: str,
        condition: Condition,
        wrong: Callable[[Tensor], Tensor],
        incoming: Callable[[Tensor], bool] | None = None,
    ) -> None:
        """The gradient of ``of`` is ``wrong`` of the right one, for calls and incoming gradients that meet a condition.

        Args:
            of: ``x``, ``weight`` or ``bias``.
            condition: Which calls.
            wrong: From the right gradient to the wrong one.
            incoming: Which gradients of the result, by how they lie in memory; None for all.
        """
        assert of in ("x", "weight", "bias"), of

        def kernel(c: KernelCall) -> Tensor:
            leaf: Tensor | None = getattr(c, of)
            if leaf is None or not torch.is_grad_enabled() or not leaf.requires_grad or not condition(c):
                return c.run()
            met = False

            def seen(grad: Tensor) -> Tensor:
                nonlocal met
                met = incoming is None or incoming(grad)
                return grad

            changed = watched(leaf, lambda grad: wrong(grad) if met else grad)
            return watched(c.run(**{of: changed}), seen)

        self._add(partial(instead, kernel))
