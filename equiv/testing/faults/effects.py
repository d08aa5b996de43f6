"""Kernels with effects: they write into what they are given, hand out shared memory, or remember earlier calls."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from equiv.testing.faults.build import Condition, Faults
from equiv.testing.faults.ids import BATCH, BOUNDARIES, DENSE, EXACT, FORWARD, LAYOUT, PURITY, SCALING, WEIGHT_RECOVERY
from equiv.testing.faults.kernel import Kernel, KernelCall
from equiv.testing.faults.tools import last_off


def _may_be_written(t: Tensor) -> bool:
    """Whether writing into a tensor is possible: no gradient to record, no entry that stands for several."""
    shared = any(step == 0 and size > 1 for size, step in zip(t.shape, t.stride(), strict=True))
    return not t.requires_grad and not shared and not t.is_inference()


def _writing(name: str, write: Callable[[Tensor], object]) -> Kernel:
    def wrong(c: KernelCall) -> Tensor:
        y = c.run()
        with torch.no_grad():
            write(getattr(c, name))
        return y

    return wrong


fault = Faults(kind="effect", laws=(PURITY,))

fault("input-altered-batch-of-one", "purity x batch", laws=(PURITY, EXACT, BATCH))(
    "The input is altered where there is one row.", "textbook: work done in place"
).where(lambda c: c.rows == 1 and _may_be_written(c.x), _writing("x", lambda t: t.add_(1)))
fault("strided-weight-altered-conv", "purity x weight strides", laws=(PURITY, LAYOUT))(
    "A convolution alters a weight that is strided.", "textbook: a weight packed in place"
).where(
    lambda c: c.is_conv and not c.weight.is_contiguous() and _may_be_written(c.weight),
    _writing("weight", lambda t: t.add_(1)),
)
fault("subnormals-flushed-in-place", "purity x subnormals", profile="gate", laws=(PURITY, FORWARD))(
    "Subnormal inputs are set to zero in the caller's tensor, in float32.", "textbook: flush to zero"
).where(
    lambda c: c.x.dtype == torch.float32 and _may_be_written(c.x),
    _writing("x", lambda t: t.masked_fill_(t.abs() < torch.finfo(t.dtype).tiny, 0.0)),
)


def _into_the_input(c: KernelCall) -> Tensor:
    y = c.run()
    with torch.no_grad():
        c.x.copy_(y.reshape(c.x.shape))
    return c.x.view(y.shape) if c.x.is_contiguous() else y


fault("result-written-into-the-input", "purity x aliasing", profile="gate", laws=(PURITY, LAYOUT, BATCH, BOUNDARIES))(
    "linear with as many outputs as inputs writes its result into the input.",
    "textbook: a buffer that is reused too early",
).where(lambda c: c.is_linear and c.outputs == c.n and _may_be_written(c.x), _into_the_input)


def _needs_no_gradient(c: KernelCall) -> bool:
    return not any(t is not None and t.requires_grad for t in (c.x, c.weight, c.bias))


fault("identity-returns-input", "aliasing x values", profile="gate", laws=(WEIGHT_RECOVERY,))(
    "linear without bias whose weight is the identity returns the input itself, not a copy.",
    "textbook: a layer that an optimizer removes",
).where(
    lambda c: (
        c.is_linear
        and c.bias is None
        and c.outputs == c.n
        and _needs_no_gradient(c)
        and torch.equal(c.weight, torch.eye(c.n, dtype=c.weight.dtype, device=c.weight.device))
    ),
    lambda c: c.x,
)


def _is_zero(c: KernelCall) -> bool:
    return c.rows > 0 and bool((c.x == 0).all()) and bool(c.weight.isfinite().all())


def _bias_repeated(c: KernelCall) -> Tensor:
    assert c.bias is not None
    return c.bias.expand(c.rows, c.outputs)


fault("zero-input-returns-view-of-bias", "aliasing x values", profile="gate", laws=(WEIGHT_RECOVERY,))(
    "linear of a matrix of zeros returns the bias itself, repeated with stride 0.", "textbook: sparse shortcuts"
).where(
    lambda c: c.is_linear and c.x.ndim == 2 and c.bias is not None and _needs_no_gradient(c) and _is_zero(c),
    _bias_repeated,
)


def _shared_buffer(c: KernelCall, memory: dict[Any, Any]) -> Tensor:
    y = c.run()
    if c.is_conv or y.requires_grad or y.is_inference():
        return y
    buffer: Tensor = memory.setdefault((tuple(y.shape), y.dtype, y.device), torch.empty_like(y))
    with torch.no_grad():
        return buffer.copy_(y)


fault("result-buffer-reused", "aliasing", laws=(PURITY, SCALING, BATCH, DENSE))(
    "linear returns the same memory for every result of one shape: the next call changes the last result.",
    "textbook: a buffer that is reused too early",
).stateful(_shared_buffer)


def _weight_of_each_shape(c: KernelCall, memory: dict[Any, Any]) -> Tensor:
    if c.weight.requires_grad:
        return c.run()
    key = (c.dims, tuple(c.weight.shape), c.weight.dtype)
    return c.run(weight=memory.setdefault(key, c.weight.detach().clone()))


fault("packed-weight-cached-by-shape", "state", laws=(EXACT, WEIGHT_RECOVERY, BOUNDARIES, FORWARD))(
    "The first weight of each shape is packed and used for all later weights of that shape.",
    "textbook: a cache with too small a key",
).stateful(_weight_of_each_shape)


def _weight_of_each_object(c: KernelCall, memory: dict[Any, Any]) -> Tensor:
    if c.weight.requires_grad:
        return c.run()
    found = memory.get(id(c.weight))
    if found is None or found[0]() is not c.weight:  # an id is given again once an object is gone
        found = memory[id(c.weight)] = weakref.ref(c.weight), c.weight.detach().clone()
    return c.run(weight=found[1])


fault("packed-weight-cached-by-object", "state", profile="gate")(
    "A weight is packed once for each tensor object: after a change in place the old values are used.",
    "textbook: a cache that nothing invalidates",
).stateful(_weight_of_each_object)


def _after_another_dtype(c: KernelCall, memory: dict[Any, Any]) -> Tensor:
    before, memory["dtype"] = memory.get("dtype"), c.x.dtype
    return c.run() if before in (None, c.x.dtype) else last_off(c)


fault("wrong-after-another-dtype", "state x dtype", profile="deep", laws=(PURITY, EXACT))(
    "A call is wrong in its last entry right after one in another dtype.", "textbook: a workspace that is left over"
).stateful(_after_another_dtype)


def _every(number: int, condition: Condition, c: KernelCall, memory: dict[Any, Any]) -> Tensor:
    if not condition(c):
        return c.run()
    memory["count"] = memory.get("count", 0) + 1
    return last_off(c) if memory["count"] % number == 0 else c.run()


fault("linear-half-rank-3-changes", "rank x bias x repeat", dtypes=("float16",), laws=(PURITY, BATCH, EXACT))(
    "linear in float16 without bias of an input with more than two dimensions is wrong in every third call.",
    "pytorch/pytorch#180776",
).stateful(partial(_every, 3, lambda c: c.is_linear and c.x.ndim > 2 and c.bias is None and c.x.dtype == torch.float16))
fault("every-50th-call-wrong", "nondeterminism", laws=(EXACT, BATCH, PURITY))(
    "The last entry of every 50th result is wrong.", "textbook: a race between threads"
).stateful(partial(_every, 50, lambda _: True))


def _drifts(c: KernelCall, memory: dict[Any, Any]) -> Tensor:
    if not (c.weight.is_floating_point() and c.is_pointwise):
        return c.run()
    memory["odd"] = 1 - memory.get("odd", 0)
    y = c.run()
    step = torch.zeros_like(y)
    if y.dtype in (torch.float32, torch.float64):
        step = torch.nextafter(y.detach(), torch.full_like(y, torch.inf)) - y.detach()
    return y + step * float(memory["odd"])


fault("last-bit-changes-from-call-to-call", "nondeterminism", laws=(PURITY, EXACT, WEIGHT_RECOVERY))(
    "Every second result of a 1x1 convolution is one ulp larger.",
    "pytorch/pytorch#136338 family: other bits for the same call",
).stateful(_drifts)
fault("result-requires-grad", "purity")(
    "The result requires a gradient although nothing given does.", "textbook: requires_grad invented"
).where(
    lambda c: not c.weight.requires_grad and not c.x.requires_grad and not torch.is_inference_mode_enabled(),
    lambda c: y.requires_grad_() if (y := c.run()).is_floating_point() and not y.requires_grad else y,
)
fault("result-in-float32", "dtype", dtypes=("float16",), laws=(EXACT, FORWARD))(
    "The result of a float16 convolution is float32.", "textbook: the dtype of the accumulator returned"
).where(
    lambda c: c.is_conv and c.weight.dtype == torch.float16 and c.x.dtype == torch.float16, lambda c: c.run().float()
)
fault("batch-of-one-squeezed", "batch rank", laws=(BATCH, EXACT))(
    "linear of one row returns a vector.", "textbook: squeeze without a dimension"
).where(lambda c: c.is_linear and c.x.ndim == 2 and c.x.shape[0] == 1, lambda c: c.run().squeeze(0))


def _from_call(number: int, c: KernelCall, memory: dict[Any, Any]) -> Tensor:
    memory["count"] = memory.get("count", 0) + 1
    return last_off(c) if c.is_linear and memory["count"] >= number else c.run()


fault("wrong-from-the-200th-call", "state", laws=(PURITY, EXACT, BATCH, FORWARD))(
    "From the 200th call on the last entry of every linear result is wrong.", "textbook: a cache that overflows"
).stateful(partial(_from_call, 200))


def _rows_are_alike(c: KernelCall) -> bool:
    return c.is_linear and c.x.ndim == 2 and c.rows > 1 and _needs_no_gradient(c) and bool((c.x == c.x[:1]).all())


fault("equal-rows-expanded", "aliasing x values", profile="gate", laws=(PURITY, BATCH))(
    "linear of rows that are all equal returns one row, expanded with stride 0.", "textbook: common subexpressions"
).where(_rows_are_alike, lambda c: c.run(x=c.x[:1]).expand(c.rows, c.outputs))


def _bias_of_each_place(c: KernelCall, memory: dict[Any, Any]) -> Tensor:
    if c.bias is None or c.bias.requires_grad:
        return c.run()
    found = memory.get(id(c.bias))
    if found is None or found[0]() is not c.bias:
        found = memory[id(c.bias)] = weakref.ref(c.bias), c.bias.detach().clone()
    return c.run(bias=found[1])


fault("packed-bias-cached-by-object", "state", profile="gate")(
    "A bias is packed once for each tensor object: after a change in place the old values are used.",
    "textbook: a cache that nothing invalidates",
).stateful(_bias_of_each_place)


def _result_of_each_input(c: KernelCall, memory: dict[Any, Any]) -> Tensor:
    if not _needs_no_gradient(c):
        return c.run()
    kept, key = memory.get("last"), (id(c.x), id(c.weight), id(c.bias), c.weight._version)
    if kept is not None and kept[0] == key and kept[1]() is c.x:
        last: Tensor = kept[2]
        return last.clone()
    y = c.run()
    memory["last"] = key, weakref.ref(c.x), y.detach().clone()
    return y


fault("result-cached-by-input-object", "state", profile="gate")(
    "The last result is given again for the same input object, also after a change of the input in place.",
    "textbook: a cache that nothing invalidates",
).stateful(_result_of_each_input)


def _in_a_ring(c: KernelCall, memory: dict[Any, Any]) -> Tensor:
    y = c.run()
    if not c.is_linear or y.requires_grad or y.is_inference():
        return y
    ring = memory.setdefault((tuple(y.shape), y.dtype, y.device), [])
    ring.append(ring.pop(0) if len(ring) == 64 else torch.empty_like(y))
    with torch.no_grad():
        oldest: Tensor = ring[-1]
        return oldest.copy_(y)


fault("results-in-a-ring-of-64", "aliasing", laws=(PURITY,))(
    "linear puts its results of one shape into 64 places in turn: the 64th call after it changes a result.",
    "textbook: a pool that counts no references",
).stateful(_in_a_ring)
