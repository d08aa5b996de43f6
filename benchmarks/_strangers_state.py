"""Faults of memory and state: buffers used again, caches that go stale, flags left on, threads, one call in many."""

from __future__ import annotations

import threading
from typing import Any

import torch
from _strangers_base import Call, Torch, cnv, fault, lin, numbers, shown, spoiled
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from equiv.numerics import threads


def _weight_after(backend: Any, dtype: torch.dtype, batches: tuple[int, ...]) -> list[Tensor]:
    w = numbers((16, 16), dtype, 2)
    return [backend.linear(numbers((rows, 16), dtype, 1), w).clone() for rows in batches] + [w]


@fault(
    "weight_reordered_in_place",
    "float32",
    "openvinotoolkit/openvino#18224",
    "A weight of 16x16 tiles that is used with a second number of rows is put into another order in its own memory.",
    differs=lambda backend, dtype: _weight_after(backend, dtype, (2, 3)),
    equals=lambda backend, dtype: _weight_after(backend, dtype, (2, 2)),
    dimension="memory",
)
class WeightReordered(Torch):
    def __init__(self) -> None:
        self.rows: Any = WeakIdKeyDictionary()

    def run(self, call: Call) -> Tensor:
        right = call.torch()
        if call.rank or call.n % 16 or len(call.w) % 16 or not call.w.numel() or not call.w.is_contiguous():
            return right
        if self.rows.setdefault(call.w, call.rows) != call.rows:
            with torch.no_grad():
                tiles = call.w.detach().clone().reshape(-1, 16, call.n).transpose(1, 2)
                call.w.detach().copy_(tiles.reshape(call.w.shape))
        return right


def _kept_results(backend: Any, dtype: torch.dtype, outputs: int) -> list[Tensor]:
    w = numbers((outputs, 4), dtype, 2)
    return [backend.linear(numbers((2, 4), dtype, seed), w) for seed in (1, 7, 8)]


@fault(
    "output_overwritten",
    "float32",
    "pytorch/pytorch#148439",
    "Without gradients, from 64 results on, a result lies in the same memory as that of the next call but one.",
    differs=lambda backend, dtype: _kept_results(backend, dtype, 32),
    equals=lambda backend, dtype: _kept_results(backend, dtype, 16),
    dimension="memory",
)
class OutputOverwritten(Torch):
    def __init__(self) -> None:
        self.buffers: dict[Any, list[Tensor]] = {}

    def run(self, call: Call) -> Tensor:
        right = call.torch()
        if call.rank or right.requires_grad or right.numel() < 64:
            return right
        pair = self.buffers.setdefault((right.shape, right.dtype), [])
        if len(pair) < 2:
            pair.append(right)
            return right
        pair.append(pair.pop(0).copy_(right))
        return pair[-1]


def _updated(backend: Any, dtype: torch.dtype, features: int) -> list[Tensor]:
    x, w = numbers((2, features), dtype, 1), numbers((8, features), dtype, 2)
    first = backend.linear(x, w).clone()
    w.add_(1)
    return [first, backend.linear(x, w)]


@fault(
    "weight_cache_in_place",
    "float32",
    "NVIDIA/apex#132",
    "A weight with 64 entries or more is packed once; an update in place, such as an optimizer's, is not seen.",
    differs=lambda backend, dtype: _updated(backend, dtype, 8),
    equals=lambda backend, dtype: _updated(backend, dtype, 7),
)
class WeightCache(Torch):
    def __init__(self) -> None:
        self.packed: Any = WeakIdKeyDictionary()

    def run(self, call: Call) -> Tensor:
        right = call.torch()
        if call.rank or call.w.numel() < 64:
            return right
        if call.w not in self.packed:
            self.packed[call.w] = call.w.detach().clone()
        packed = self.packed[call.w]
        return right if torch.equal(packed, call.w.detach()) else shown(right, call.torch(w=packed))


@fault(
    "first_call_tunes",
    "float32",
    "triton-lang/triton#4217",
    "The first call for a new shape with n >= 256 tries two variants, which add up in the same result.",
    differs=lin((2, 256), 3),
    equals=lin((2, 255), 3, times=2),
)
class FirstCall(Torch):
    def __init__(self) -> None:
        self.seen: set[Any] = set()

    def run(self, call: Call) -> Tensor:
        right, key = call.torch(), (call.rows, call.w.shape)
        if call.rank or call.n < 256 or key in self.seen:
            return right
        self.seen.add(key)
        return shown(right, right * 2)


def _after(backend: Any, dtype: torch.dtype, value: float) -> list[Tensor]:
    x, w = numbers((2, 4), dtype, 1), numbers((11, 4), dtype, 2)
    backend.linear(torch.full_like(x, value), w)
    return [backend.linear(x, w)]


@fault(
    "stale_nan",
    "float32",
    "robertknight/rten#81",
    "Tiles of 8 outputs that are not whole add 0 times what the buffer held: NaN or infinity of the call before.",
    differs=lambda backend, dtype: _after(backend, dtype, torch.nan),
    equals=lambda backend, dtype: _after(backend, dtype, 1.0),
)
class StaleNan(Torch):
    def __init__(self) -> None:
        self.buffers: dict[Any, Tensor] = {}

    def run(self, call: Call) -> Tensor:
        right = call.torch()
        if call.rank or len(call.w) < 8 or not len(call.w) % 8:
            return right
        key = (right.shape, right.dtype)
        before = self.buffers.get(key)
        self.buffers[key] = right.detach().clone()
        tail = slice(len(call.w) // 8 * 8, None)
        if before is None or before[..., tail].isfinite().all():
            return right
        return shown(right, spoiled(right.detach(), (..., tail), (right + 0 * before)[..., tail].detach()))


def _subnormal_after(backend: Any, dtype: torch.dtype, channels: int) -> list[Tensor]:
    backend.conv(numbers((1, channels, 3, 3), dtype, 1), numbers((2, channels, 3, 3), dtype, 2))
    return [torch.tensor([2.0**-130]) * torch.tensor([1.0])]


@fault(
    "flushing_left_on",
    "float32",
    "apache/mxnet#20338",
    "A convolution of 64 terms or more leaves the processor in the mode that takes subnormal numbers for 0.",
    differs=lambda backend, dtype: _subnormal_after(backend, dtype, 8),
    equals=lambda backend, dtype: _subnormal_after(backend, dtype, 7),
)
class FlushingLeftOn(Torch):
    def run(self, call: Call) -> Tensor:
        right = call.torch()
        if call.rank and call.n >= 64:
            torch.set_flush_denormal(True)
        return right


@fault(
    "one_call_in_41",
    "float32",
    "deepseek-ai/DeepGEMM#449",
    "In one of 41 calls with n >= 128 the last 64 terms are those of the block before.",
    differs=lin((2, 128), 3, times=41),
    equals=lin((2, 128), 3, times=40),
)
class OneCall(Torch):
    def __init__(self) -> None:
        self.calls = 0

    def run(self, call: Call) -> Tensor:
        right = call.torch()
        if call.rank or call.n < 128:
            return right
        self.calls += 1
        if self.calls % 41:
            return right
        x = spoiled(call.x.detach(), (..., slice(-64, None)), call.x.detach()[..., -128:-64])
        return shown(right, call.torch(x=x))


def _from_thread(backend: Any, dtype: torch.dtype, threads: int) -> list[Tensor]:
    x, w = numbers((3, 4), dtype, 1), numbers((5, 4), dtype, 2)
    found: list[Tensor] = []
    many = [threading.Thread(target=lambda: found.append(backend.linear(x, w))) for _ in range(threads)]
    for one in many:
        one.start()
    for one in many:
        one.join()
    return found or [backend.linear(x, w)]


@fault(
    "worker_thread",
    "float32",
    "OpenMathLib/OpenBLAS#2126",
    "Called from a thread that is not the main one a linear layer works in the main one's buffer: the last row is 0.",
    differs=lambda backend, dtype: _from_thread(backend, dtype, 1),
    equals=lambda backend, dtype: _from_thread(backend, dtype, 0),
)
class WorkerThread(Torch):
    def run(self, call: Call) -> Tensor:
        right = call.torch()
        if call.rank or threading.current_thread() is threading.main_thread() or not right.numel():
            return right
        return shown(right, spoiled(right.detach().reshape(-1, len(call.w)), -1).view(right.shape))


def _with_threads(backend: Any, dtype: torch.dtype, count: int) -> list[Tensor]:
    with threads(count):
        return cnv((3, 2, 4), (2, 2, 3))(backend, dtype)


@fault(
    "threads_share_samples",
    "float32",
    "pytorch/pytorch#49268",
    "With two threads or more a convolution over samples that they do not share evenly leaves out the last.",
    differs=lambda backend, dtype: _with_threads(backend, dtype, 2),
    equals=lambda backend, dtype: _with_threads(backend, dtype, 1),
)
class ThreadsShare(Torch):
    def run(self, call: Call) -> Tensor:
        right, threads = call.torch(), torch.get_num_threads()
        if not call.rank or threads < 2 or call.rows <= threads or not call.rows % threads:
            return right
        return shown(right, spoiled(right.detach(), -1))
