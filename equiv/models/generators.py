"""The random generators of torch, Python and numpy, left as they were by models that draw from them.

A state that is put back takes back what other threads drew in the meantime. So it is put back only where a model draws:
its first run shows that.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from equiv.models.sides import Side


class _Draws(TorchDispatchMode):
    """Notes whether an operation draws random numbers from a generator that is not its own."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.any = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        own = (kwargs or {}).get("generator") is not None
        self.any |= torch.Tag.nondeterministic_seeded in func.tags and not own
        return func(*args, **(kwargs or {}))


class Generators:
    """The states as they are now, and whether the models draw."""

    def __init__(self) -> None:
        self.kept = _states()
        self.drawn: set[str] = set()

    @contextmanager
    def watched(self, side: Side) -> Iterator[None]:
        """The first run of a side is inside: does it draw?"""
        before = _states()
        try:
            yield
        except BaseException:  # nobody knows what it drew
            self.drawn |= _moved(before)
            raise
        moved = _moved(before)
        if "torch" in moved and not side.is_whole and not self._draws(side):
            moved.discard("torch")  # another thread does
        self.drawn |= moved

    def _draws(self, side: Side) -> bool:
        """Run it once more and look at its operations."""
        call, _ = side.twin()
        args, kwargs = side.inputs()
        with _Draws() as draws:
            try:
                call(*args, **kwargs)
            except Exception:  # what does not run so is taken to draw
                return True
        return bool(draws.any)

    def put_back(self) -> None:
        """The states of those from which a model drew."""
        if "torch" in self.drawn:
            torch.set_rng_state(self.kept["torch"][0])
            for device, state in enumerate(self.kept["torch"][1:]):
                torch.cuda.set_rng_state(state, device)
        if "python" in self.drawn:
            random.setstate(self.kept["python"])
        if "numpy" in self.drawn:
            sys.modules["numpy"].random.set_state(self.kept["numpy"])


@contextmanager
def generators_kept() -> Iterator[Generators]:
    """Within it models may draw random numbers."""
    found = Generators()
    try:
        yield found
    finally:
        found.put_back()


def _states() -> dict[str, Any]:
    ready = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    states: dict[str, Any] = {"torch": [torch.get_rng_state()], "python": random.getstate()}
    states["torch"] += [torch.cuda.get_rng_state(device) for device in range(torch.cuda.device_count() if ready else 0)]
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        states["numpy"] = numpy.random.get_state()
    return states


def _moved(before: dict[str, Any]) -> set[str]:
    return {name for name, state in _states().items() if not _same(state, before[name])}


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    return bool((a == b).all()) if hasattr(a, "all") else bool(a == b)
