"""Backends that do to their process, or to torch, what no kernel may do. Each has a class here, so that it travels."""

from __future__ import annotations

import ctypes
import os
import time

import torch

from equiv.backends import TorchEager

_GIB = 2**30


class _Hostile(TorchEager):
    """torch's own results, handed to ``harm``, which has the input too."""

    transforms = False

    def __init__(self) -> None:
        super().__init__()
        self.name = type(self).__name__.lower()

    def supports(self, dtype, form):
        return True

    def harm(self, y, input):
        return y

    def linear(self, input, weight, bias=None):
        return self.harm(super().linear(input, weight, bias), input)

    def conv(self, input, weight, bias=None, *, stride=1, dilation=1):
        return self.harm(super().conv(input, weight, bias, stride=stride, dilation=dilation), input)


class Stop(BaseException):
    """No Exception."""


class Fine(_Hostile):
    """Does no harm."""


class OneThread(_Hostile):
    """Wants torch to use one thread."""

    def harm(self, y, input):
        if torch.get_num_threads() != 1:
            raise RuntimeError(f"{torch.get_num_threads()} threads")
        return y


class Segfault(_Hostile):
    def harm(self, y, input):
        ctypes.string_at(0)


class Exits(_Hostile):
    def harm(self, y, input):
        os._exit(3)


class Hangs(_Hostile):
    def harm(self, y, input):
        while True:
            time.sleep(0.01)


class Eats(_Hostile):
    def harm(self, y, input):
        self.food = torch.empty(20 * _GIB, dtype=torch.uint8)
        return y


class Raises(_Hostile):
    def harm(self, y, input):
        raise Stop("at once")


class WrongType(_Hostile):
    def harm(self, y, input):
        return y.tolist()


class WrongShape(_Hostile):
    def harm(self, y, input):
        return y[None]


class WrongDtype(_Hostile):
    def harm(self, y, input):
        return y.double()


class WrongDevice(_Hostile):
    def harm(self, y, input):
        return y.to("meta")


class NotANumber(_Hostile):
    def harm(self, y, input):
        return y * float("nan")


class Mutates(_Hostile):
    def harm(self, y, input):
        input.neg_()
        return y


class Leaks(_Hostile):
    def __init__(self) -> None:
        super().__init__()
        self.kept = []

    def harm(self, y, input):
        self.kept.append(y)
        return y


class ChangesState(_Hostile):
    def harm(self, y, input):
        torch.set_grad_enabled(False)
        return y


BY_KIND = {
    Segfault: ("crash", "crashed with SIGSEGV at hostile.py:"),
    Exits: ("exit", "exited with code 3"),
    Hangs: ("timeout", "took longer than 5 s at hostile.py:"),
    Eats: ("memory", "used more than 1 GiB and raises "),
    Raises: ("raised", "raises Stop: at once"),
    WrongType: ("type", "returns list, not a tensor"),
    WrongShape: ("shape", "returns float32 of shape (1, "),
    WrongDtype: ("dtype", "returns float64 of shape "),
    WrongDevice: ("device", "returns a result on meta, expected one on cpu"),
    NotANumber: ("value", "returns nan, exact is "),
    Mutates: ("mutation", "changes its inputs: the input"),
    Leaks: ("leak", "results that it has returned"),
    ChangesState: ("state", "leaves torch's global state changed: grad mode from True to False"),
}
"""The kind of failure, and what its note says, of each."""
