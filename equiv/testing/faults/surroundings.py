"""Kernels that go wrong in some surroundings: threads, deterministic algorithms, while a program is recorded."""

from __future__ import annotations

import threading
import time
from typing import Any

import torch
from torch import Tensor

from equiv.testing.faults.build import Faults
from equiv.testing.faults.ids import EXACT, TRANSFORMS
from equiv.testing.faults.kernel import KernelCall
from equiv.testing.faults.tools import last_entry_off, last_off

fault = Faults(kind="effect", laws=(EXACT,), profile="gate")

fault("two-threads", "threads")(
    "The last entry is wrong where torch has two threads.", "textbook: work cut in two"
).where(lambda _: torch.get_num_threads() == 2, last_off)
fault("conv-in-two-threads", "threads x form")(
    "A convolution of two samples or more is wrong in its last entry where torch has two threads.",
    "textbook: work cut in two",
).where(lambda c: c.is_conv and c.rows > 1 and torch.get_num_threads() == 2, last_off)
fault("wrong-outside-the-main-thread", "threads")(
    "The last entry is wrong in every thread but the first.", "textbook: state of the thread that is never set"
).where(lambda _: threading.current_thread() is not threading.main_thread(), last_off)
fault("deterministic-algorithms", "modes")(
    "The last entry is wrong where torch is asked for deterministic algorithms.",
    "textbook: a slow path that nobody tests",
).where(lambda _: torch.are_deterministic_algorithms_enabled(), last_off)
fault("deterministic-conv-without-bias", "modes x bias")(
    "A convolution without bias is wrong in its last entry where torch is asked for deterministic algorithms.",
    "textbook: a slow path that nobody tests",
).where(lambda c: c.is_conv and c.bias is None and torch.are_deterministic_algorithms_enabled(), last_off)


def _in_one_buffer(c: KernelCall, memory: dict[Any, Any]) -> Tensor:
    memory["input"] = c.x
    time.sleep(0.0002 if memory.get("calls") else 0)  # other threads run while a real kernel computes
    memory["calls"] = memory.get("calls", 0) + 1
    mine: Tensor = memory["input"]
    return c.run(x=mine) if mine.shape == c.x.shape and mine.dtype == c.x.dtype else last_entry_off(c.run())


fault("input-copied-into-one-buffer", "threads")(
    "Threads that call at once copy their inputs into one buffer.", "textbook: a static workspace"
).stateful(_in_one_buffer)

recorded = Faults(kind="transform", laws=(TRANSFORMS,), profile="gate")

recorded("traced-by-jit", "transforms")(
    "The last entry is wrong while torch.jit.trace records the program.", "pytorch/pytorch#31425 family, traced"
).where(lambda _: torch._C._get_tracing_state() is not None, last_off)


def _is_recorded_by_fx(_: KernelCall) -> bool:
    return torch._C._len_torch_dispatch_stack() > 0


recorded("recorded-by-make-fx", "transforms")(
    "The last entry is wrong while make_fx records the operations.", "textbook: a decomposition that is left out"
).where(_is_recorded_by_fx, last_off)
