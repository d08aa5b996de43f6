"""Kernels with effects: they write into what they are given, hand out shared memory, or remember earlier calls."""

from __future__ import annotations

import weakref

import torch
from torch import Tensor

from equiv.testing.faults._build import kernel_fault, stateful_fault
from equiv.testing.faults._kernel import Kernel, KernelCall, last_entry_off

PURE = ("purity", "exact", "batch")


def _may_be_written(t: Tensor) -> bool:
    """Whether writing into a tensor is possible: no gradient to record, no entry that stands for several."""
    shared = any(step == 0 and size > 1 for size, step in zip(t.shape, t.stride(), strict=True))
    return not t.requires_grad and not shared and not t.is_inference()


def _writing(t_of: str, change: str) -> Kernel:
    def wrong(c: KernelCall) -> Tensor:
        y = c.run()
        t: Tensor = getattr(c, t_of)
        with torch.no_grad():
            if change == "add":
                t.add_(1)
            elif change == "flush":
                t.masked_fill_(t.abs() < torch.finfo(t.dtype).tiny, 0.0)
        return y

    return wrong


kernel_fault(
    "input-altered-batch-of-one",
    "The input is altered where there is one row.",
    source="textbook: work done in place",
    kind="effect",
    dimension="purity x batch",
    when=lambda c: c.rows == 1 and _may_be_written(c.x),
    wrong=_writing("x", "add"),
    laws=PURE,
)
kernel_fault(
    "strided-weight-altered-conv",
    "A convolution alters a weight that is strided.",
    source="textbook: a weight packed in place",
    kind="effect",
    dimension="purity x weight strides",
    when=lambda c: c.is_conv and not c.weight.is_contiguous() and _may_be_written(c.weight),
    wrong=_writing("weight", "add"),
    laws=("purity", "layout"),
)
kernel_fault(
    "subnormals-flushed-in-place",
    "Subnormal inputs are set to zero in the caller's tensor, in float32.",
    source="textbook: flush to zero",
    kind="effect",
    dimension="purity x subnormals",
    profile="gate",
    when=lambda c: c.x.dtype == torch.float32 and _may_be_written(c.x),
    wrong=_writing("x", "flush"),
    laws=("purity", "forward"),
)


def _into_the_input(c: KernelCall) -> Tensor:
    y = c.run()
    with torch.no_grad():
        c.x.copy_(y.reshape(c.x.shape))
    return c.x.view(y.shape) if c.x.is_contiguous() else y


kernel_fault(
    "result-written-into-the-input",
    "linear with as many outputs as inputs writes its result into the input.",
    source="textbook: a buffer that is reused too early",
    kind="effect",
    dimension="purity x aliasing",
    profile="gate",
    when=lambda c: not c.is_conv and c.outputs == c.n and _may_be_written(c.x),
    wrong=_into_the_input,
    laws=("purity", "layout", "batch", "boundaries"),
)


def _needs_no_gradient(c: KernelCall) -> bool:
    return not any(t is not None and t.requires_grad for t in (c.x, c.weight, c.bias))


kernel_fault(
    "identity-returns-input",
    "linear without bias whose weight is the identity returns the input itself, not a copy.",
    source="textbook: a layer that an optimizer removes",
    kind="effect",
    dimension="aliasing x values",
    profile="gate",
    when=lambda c: (
        not c.is_conv
        and c.bias is None
        and c.outputs == c.n
        and _needs_no_gradient(c)
        and torch.equal(c.weight, torch.eye(c.n, dtype=c.weight.dtype, device=c.weight.device))
    ),
    wrong=lambda c: c.x,
    laws=("readback",),
)


def _is_zero(c: KernelCall) -> bool:
    return c.rows > 0 and bool((c.x == 0).all()) and bool(c.weight.isfinite().all())


def _bias_repeated(c: KernelCall) -> Tensor:
    assert c.bias is not None
    return c.bias.expand(c.rows, c.outputs)


kernel_fault(
    "zero-input-returns-view-of-bias",
    "linear of a matrix of zeros returns the bias itself, repeated with stride 0.",
    source="textbook: sparse shortcuts",
    kind="effect",
    dimension="aliasing x values",
    profile="gate",
    when=lambda c: not c.is_conv and c.x.ndim == 2 and c.bias is not None and _needs_no_gradient(c) and _is_zero(c),
    wrong=_bias_repeated,
    laws=("readback",),
)


def _shared_buffer() -> Kernel:
    buffers: dict[object, Tensor] = {}

    def kernel(c: KernelCall) -> Tensor:
        y = c.run()
        if c.is_conv or y.requires_grad or y.is_inference():
            return y
        buffer = buffers.setdefault((tuple(y.shape), y.dtype, y.device), torch.empty_like(y))
        with torch.no_grad():
            return buffer.copy_(y)

    return kernel


stateful_fault(
    "result-buffer-reused",
    "linear returns the same memory for every result of one shape: the next call changes the last result.",
    source="textbook: a buffer that is reused too early",
    dimension="aliasing",
    make=_shared_buffer,
    laws=("purity", "scaling", "batch", "dense"),
)


def _cached_weight() -> Kernel:
    packed: dict[object, Tensor] = {}

    def kernel(c: KernelCall) -> Tensor:
        if c.weight.requires_grad:
            return c.run()
        key = (c.dims, tuple(c.weight.shape), c.weight.dtype)
        return c.run(weight=packed.setdefault(key, c.weight.detach().clone()))

    return kernel


stateful_fault(
    "packed-weight-cached-by-shape",
    "The first weight of each shape is packed and used for all later weights of that shape.",
    source="textbook: a cache with too small a key",
    dimension="state",
    make=_cached_weight,
    laws=("exact", "readback", "boundaries", "forward"),
)


def _weight_of_each_object() -> Kernel:
    packed: dict[int, tuple[weakref.ref[Tensor], Tensor]] = {}

    def kernel(c: KernelCall) -> Tensor:
        if c.weight.requires_grad:
            return c.run()
        found = packed.get(id(c.weight))
        if found is None or found[0]() is not c.weight:  # an id is given again once an object is gone
            found = packed[id(c.weight)] = weakref.ref(c.weight), c.weight.detach().clone()
        return c.run(weight=found[1])

    return kernel


stateful_fault(
    "packed-weight-cached-by-object",
    "A weight is packed once for each tensor object: after a change in place the old values are used.",
    source="textbook: a cache that nothing invalidates",
    dimension="state",
    profile="gate",
    make=_weight_of_each_object,
    laws=("purity",),
)


def _after_another_dtype() -> Kernel:
    last: torch.dtype | None = None

    def kernel(c: KernelCall) -> Tensor:
        nonlocal last
        before, last = last, c.x.dtype
        return c.run() if before in (None, c.x.dtype) else last_entry_off(c.run())

    return kernel


stateful_fault(
    "wrong-after-another-dtype",
    "A call errs in its last entry right after one in another dtype.",
    source="textbook: a workspace that is left over",
    dimension="state x dtype",
    profile="deep",
    make=_after_another_dtype,
    laws=("purity", "exact"),
)


def _every(number: int, wrong_when: object = None) -> Kernel:
    count = 0

    def kernel(c: KernelCall) -> Tensor:
        nonlocal count
        if callable(wrong_when) and not wrong_when(c):
            return c.run()
        count += 1
        return last_entry_off(c.run()) if count % number == 0 else c.run()

    return kernel


stateful_fault(
    "linear-half-rank-3-changes",
    "linear in float16 without bias of an input with more than two dimensions is wrong in every third call.",
    source="pytorch/pytorch#180776",
    dimension="rank x bias x repeat",
    dtypes=("float16",),
    make=lambda: _every(3, lambda c: not c.is_conv and c.x.ndim > 2 and c.bias is None and c.x.dtype == torch.float16),
    laws=("purity", "batch", "exact"),
)
stateful_fault(
    "every-50th-call-wrong",
    "The last entry of every 50th result is wrong.",
    source="textbook: a race between threads",
    dimension="nondeterminism",
    make=lambda: _every(50),
    laws=("exact", "batch", "purity"),
)


def _drifts() -> Kernel:
    last = 0.0

    def kernel(c: KernelCall) -> Tensor:
        nonlocal last
        if not (c.weight.is_floating_point() and c.is_pointwise):
            return c.run()
        last = 1.0 - last
        y = c.run()
        step = torch.nextafter(y.detach(), torch.full_like(y, torch.inf)) - y.detach() if y.dtype in _STEPS else 0
        return y + step * last

    return kernel


_STEPS = (torch.float32, torch.float64)
stateful_fault(
    "last-bit-changes-from-call-to-call",
    "Every second result of a 1x1 convolution is one ulp larger.",
    source="pytorch/pytorch#136338 family: other bits for the same call",
    dimension="nondeterminism",
    make=_drifts,
    laws=("purity", "exact", "readback"),
)
kernel_fault(
    "result-requires-grad",
    "The result requires a gradient although nothing given does.",
    source="textbook: requires_grad invented",
    kind="effect",
    dimension="purity",
    when=lambda c: not c.weight.requires_grad and not c.x.requires_grad and not torch.is_inference_mode_enabled(),
    wrong=lambda c: y.requires_grad_() if (y := c.run()).is_floating_point() and not y.requires_grad else y,
    laws=("purity",),
)
kernel_fault(
    "result-in-float32",
    "The result of a float16 convolution is float32.",
    source="textbook: the dtype of the accumulator returned",
    kind="effect",
    dimension="dtype",
    dtypes=("float16",),
    when=lambda c: c.is_conv and c.weight.dtype == torch.float16 and c.x.dtype == torch.float16,
    wrong=lambda c: c.run().float(),
    laws=("exact", "forward"),
)
kernel_fault(
    "batch-of-one-squeezed",
    "linear of one row returns a vector.",
    source="textbook: squeeze without a dimension",
    kind="effect",
    dimension="batch rank",
    when=lambda c: not c.is_conv and c.x.ndim == 2 and c.x.shape[0] == 1,
    wrong=lambda c: c.run().squeeze(0),
    laws=("batch", "exact"),
)
