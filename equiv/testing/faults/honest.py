"""Right kernels that look like cheats: caches with a whole key, workspaces of their own, work that nobody needs.

They are the near misses of ``cheats``: no law may refuse them.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from equiv.testing.faults.kernel import KernelCall, instead
from equiv.testing.faults.registry import VARIANTS, Variant

Memory = dict[Any, Any]
DTYPES = ("float32", "bfloat16", "float64")


def _honest(name: str, kernel: Callable[[KernelCall, Memory], Tensor]) -> Callable[[str, str], None]:
    """A function of sentence and source, for the variant of this name; its memory is empty each time."""

    def applied() -> AbstractContextManager[None]:
        memory: Memory = {}
        return instead(lambda c: kernel(c, memory))

    return lambda title, source: VARIANTS.add(Variant(name, title, source, DTYPES, applied))


def _is_bare(c: KernelCall) -> bool:
    """Whether nothing records gradients or a program, so that values may be looked at and results kept."""
    tensors = (c.x, c.weight, c.bias)
    recorded = torch._C._get_tracing_state() is not None or torch._C._len_torch_dispatch_stack() > 0
    return not recorded and not any(t is not None and (t.requires_grad or t.is_inference()) for t in tensors)


def _by_content(c: KernelCall, memory: Memory) -> Tensor:
    if not _is_bare(c):
        return c.run()
    given = [t for t in (c.x, c.weight, c.bias) if t is not None]
    how = (c.dims, c.stride, c.padding, c.dilation, c.groups, torch.get_num_threads())
    kept = memory.get("last")
    if kept is not None and kept[0] == how and _are_alike(given, kept[1]):
        last: Tensor = kept[2]
        return last.clone()
    y = c.run()
    memory["last"] = how, [t.clone() for t in given], y.clone()
    return y


def _are_alike(given: list[Tensor], kept: list[Tensor]) -> bool:
    """The same bits, NaN left aside, and the signs of zeros."""
    return len(given) == len(kept) and all(
        a.dtype == b.dtype and torch.equal(a, b) and torch.equal(a.signbit(), b.signbit())
        for a, b in zip(given, kept, strict=True)
    )


_honest("result-cached-by-content", _by_content)(
    "The last result is kept with copies of what it was computed from, and given again for the same values.",
    "memoization",
)


def _by_version(c: KernelCall, memory: Memory) -> Tensor:
    if not _is_bare(c):
        return c.run()
    kept = memory.get("weight")
    if kept is None or kept[0]() is not c.weight or kept[1] != c.weight._version:
        kept = memory["weight"] = weakref.ref(c.weight), c.weight._version, c.weight.clone()
    return c.run(weight=kept[2])


_honest("weight-packed-by-version", _by_version)(
    "The last weight is packed once, and packed anew for another tensor or another version of it.",
    "prepacked weights; torch.Tensor._version",
)


def _with_workspace(c: KernelCall, memory: Memory) -> Tensor:
    if not _is_bare(c) or not c.x.numel():
        return c.run()
    local = memory.setdefault("local", threading.local())
    size = c.x.numel()
    buffer = getattr(local, "buffer", None)
    if buffer is None or buffer.dtype != c.x.dtype or buffer.numel() < size:
        buffer = local.buffer = torch.empty(size, dtype=c.x.dtype)
    x = buffer[:size].view(c.x.shape)
    x.copy_(c.x)
    return c.run(x=x)


_honest("workspace-kept", _with_workspace)(
    "The input is copied into a buffer of the thread, which is kept from call to call.", "workspaces of cuBLAS"
)


def _zeros_skipped(c: KernelCall, _: Memory) -> Tensor:
    y = c.run()
    skips = _is_bare(c) and c.is_linear and c.rows > 0 and not bool(c.x.any()) and bool(c.weight.isfinite().all())
    if not skips:
        return y
    return torch.zeros_like(y) if c.bias is None else c.bias.expand(y.shape).clone()


_honest("zero-input-skipped-rightly", _zeros_skipped)(
    "An input of zeros gives the bias without any product, where the weight is finite.", "sparse shortcuts"
)


def _joined(c: KernelCall, _: Memory) -> Tensor:
    if not _is_bare(c):
        return c.run()
    y: list[Tensor] = []
    thread = threading.Thread(target=lambda: y.append(c.run()))
    thread.start()
    thread.join()
    return y[0] if y else c.run()


_honest("another-thread-waited-for", _joined)(
    "The work is done in a thread of its own, which is waited for before the result is handed out.",
    "streams that are synchronized",
)


def _in_multiples_of_16(c: KernelCall, _: Memory) -> Tensor:
    if not c.is_linear or c.x.is_complex() or not c.n:
        return c.run()
    n, outputs = -c.n % 16, -c.outputs % 16
    bias = None if c.bias is None else functional.pad(c.bias, (0, outputs))
    y = c.run(x=functional.pad(c.x, (0, n)), weight=functional.pad(c.weight, (0, n, 0, outputs)), bias=bias)
    return y[..., : c.outputs]


_honest("padded-to-16", _in_multiples_of_16)(
    "linear is computed with inputs and outputs filled up with zeros to multiples of 16, which are cut off again.",
    "tiles of tensor cores",
)


def _tuned(c: KernelCall, memory: Memory) -> Tensor:
    choices: tuple[Callable[[], Tensor], ...] = (c.run, lambda: c.run(x=c.x.contiguous()))
    if "choice" not in memory:
        spent = []
        for choice in choices:
            start = time.perf_counter()
            choice()
            spent.append(time.perf_counter() - start)
        memory["choice"] = spent.index(min(spent))
    return choices[memory["choice"]]()


_honest("timed-once", _tuned)(
    "The first call times two ways with the same bits, and the faster one is taken from then on.", "triton.autotune"
)
