"""What torch's modes in a thread change, set aside while something is judged or a law is tried.

Flushing of subnormals, autocast, a default device, and recorded gradients belong to a thread; each class here is a
context manager and a decorator, which costs next to nothing where none of them is in the way. The default dtype belongs
to the process: code that judges names the dtypes that it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch

_P = ParamSpec("_P")
_R = TypeVar("_R")

_TINY = 2.0**-1022
_AUTOCAST = ("cpu", "cuda", "xpu", "mps")


def flushing_is_on() -> bool:
    """Whether this thread flushes subnormals now (``torch.set_flush_denormal``)."""
    return _TINY * 0.5 == 0.0  # computed at each call: Python's floats go through the same registers


@contextmanager
def threads(count: int) -> Iterator[None]:
    """With so many threads of torch's."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Aside:
    """A context that is only entered where something is in the way."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    @staticmethod
    def in_the_way() -> bool:
        """Whether there is anything to set aside."""
        raise NotImplementedError

    def _enter(self, stack: ExitStack) -> None:
        """Set it aside."""
        raise NotImplementedError

    def __enter__(self) -> None:
        if self.in_the_way():
            self._enter(self._stack)

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def __call__(self, function: Callable[_P, _R]) -> Callable[_P, _R]:
        """The function, run in this context."""

        @wraps(function)
        def run(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            if not self.in_the_way():
                return function(*args, **kwargs)
            with type(self)():
                return function(*args, **kwargs)

        return run


class subnormals_kept(_Aside):  # noqa: N801 - named as contextlib's own
    """With flushing off: what is exact must not depend on what a user's kernels may do.

    torch's own worker threads have the flag from the moment in which they began, and nothing takes it from them: where
    this thread had it, they have no part in the work.
    """

    @staticmethod
    def in_the_way() -> bool:
        """Whether this thread flushes."""
        return flushing_is_on()

    def _enter(self, stack: ExitStack) -> None:
        stack.callback(torch.set_flush_denormal, True)
        torch.set_flush_denormal(False)
        stack.enter_context(threads(1))


class plain_torch(_Aside):  # noqa: N801
    """With autocast off and fresh tensors on the CPU, whatever the caller has set: operations do what they say."""

    @staticmethod
    def in_the_way() -> bool:
        """Whether there is an autocast, or another default device."""
        return torch.empty(0).device.type != "cpu" or any(map(torch.is_autocast_enabled, _AUTOCAST))

    def _enter(self, stack: ExitStack) -> None:
        for device in filter(torch.is_autocast_enabled, _AUTOCAST):
            stack.enter_context(torch.autocast(device, enabled=False))
        if torch.empty(0).device.type != "cpu":
            on_cpu: AbstractContextManager[Any] = torch.device("cpu")
            stack.enter_context(on_cpu)


class gradients_recorded(plain_torch):  # noqa: N801
    """As :class:`plain_torch`, and with gradients recorded: out of ``no_grad`` and ``inference_mode``."""

    @staticmethod
    def in_the_way() -> bool:
        """Whether gradients are not recorded, or torch is not plain."""
        return not torch.is_grad_enabled() or torch.is_inference_mode_enabled() or plain_torch.in_the_way()

    def _enter(self, stack: ExitStack) -> None:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        super()._enter(stack)
