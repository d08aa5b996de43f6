"""Ways in which generated kernels pass a benchmark without doing the work: stale memory, caches, constants, patches.

Each was seen in kernels that a machine wrote for a benchmark, or is told of in the tests of one. Where the real thing
needs a GPU or a debugger, what stands here shows the same to a caller: a result that is filled in by a thread stands
for one that is launched on another stream.
"""

from __future__ import annotations

import gc
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from equiv.testing.faults.build import Faults
from equiv.testing.faults.ids import BATCH, BOUNDARIES, EXACT, FORWARD, PURITY, SCALING, SPECIAL_VALUES, WEIGHT_RECOVERY
from equiv.testing.faults.kernel import KernelCall
from equiv.testing.faults.tools import given, replaced, result, through

Memory = dict[Any, Any]
STREAM = "equiv.stream"
"""The name of threads that stand for streams: who synchronizes waits for them."""


def _is_bare(c: KernelCall) -> bool:
    """Whether nothing records gradients, and results may be kept."""
    tensors = (c.x, c.weight, c.bias)
    return not any(t is not None and (t.requires_grad or t.is_inference()) for t in tensors)


def _may_be_written(t: Tensor) -> bool:
    shared = any(step == 0 and size > 1 for size, step in zip(t.shape, t.stride(), strict=True))
    return not t.requires_grad and not shared and not t.is_inference()


def _places(c: KernelCall) -> tuple[Any, ...]:
    """Where the tensors lie, and in which shape: what a cache by address has for its key."""
    tensors = [t for t in (c.x, c.weight, c.bias) if t is not None]
    lie = tuple((t.data_ptr(), tuple(t.shape), t.stride(), t.dtype) for t in tensors)
    return (c.dims, lie, c.stride, c.padding, c.dilation, c.groups)


fault = Faults(kind="cheat", family="generated kernels", laws=(EXACT, FORWARD, WEIGHT_RECOVERY))

# --- an old answer ----------------------------------------------------------------------------------------------------


def _what_lay_there(c: KernelCall, memory: Memory) -> Tensor:
    y = c.run()
    if not _is_bare(c):
        return y
    before: Tensor = memory.setdefault((tuple(y.shape), y.dtype), y.detach().clone())
    return before.clone()


fault("stale-output-returned", "state", laws=(PURITY, EXACT, FORWARD, WEIGHT_RECOVERY))(
    "A result is memory that is not written to: it holds the first result of its shape, as a reference leaves it.",
    "KernelBench, adversarial test result_reuse_kernel",
).stateful(_what_lay_there)


def _by_address(c: KernelCall, memory: Memory) -> Tensor:
    if not _is_bare(c) or not c.x.numel():
        return c.run()
    key = _places(c)
    if memory.get("key") != key:
        memory.update(key=key, y=c.run().detach().clone())
    y: Tensor = memory["y"]
    return y.clone()


fault("result-cached-by-address", "state", profile="gate", laws=(PURITY, EXACT, BATCH))(
    "The last result is given again for tensors at the same addresses, whatever lies there now.",
    "KernelBench, EVAL.md; caches that see the timing loop alone",
).stateful(_by_address)


def _weight_by_address(c: KernelCall, memory: Memory) -> Tensor:
    if not _is_bare(c) or not c.weight.numel():
        return c.run()
    key = (c.weight.data_ptr(), tuple(c.weight.shape), c.weight.stride(), c.weight.dtype)
    if memory.get("key") != key:
        memory.update(key=key, weight=c.weight.detach().clone())
    return c.run(weight=memory["weight"])


fault("weight-packed-by-address", "state", profile="gate", laws=(PURITY, EXACT, BATCH))(
    "The last weight is packed, and used again for every weight at the same address.", "KernelBench, EVAL.md"
).stateful(_weight_by_address)


def _after_warming_up(c: KernelCall, memory: Memory) -> Tensor:
    if not _is_bare(c) or not c.x.numel():
        return c.run()
    key = _places(c)
    memory["count"] = memory["count"] + 1 if memory.get("key") == key else 1
    if memory["count"] <= 10:
        memory.update(key=key, y=c.run().detach().clone())
    y: Tensor = memory["y"]
    return y.clone()


fault("no-work-after-warming-up", "state x repeat", profile="gate", laws=(PURITY,))(
    "From the eleventh call in a row with tensors at the same addresses on, the last result is given again.",
    "KernelBench, EVAL.md; caches that see the timing loop alone",
).stateful(_after_warming_up)

# --- no answer at all -------------------------------------------------------------------------------------------------

fault("zeros-returned", "values", laws=(EXACT, FORWARD, BOUNDARIES))(
    "A layer of more than 8 terms returns zeros.", "zeros pass 4 of the 60 problems of FlashInfer-Bench"
).where(lambda c: c.n > 8, result(torch.zeros_like))
fault("small-results-left-at-zero", "x values", laws=(FORWARD, SCALING, WEIGHT_RECOVERY))(
    "Results up to 1e-2 are zero: below the absolute tolerance of the benchmark.",
    "robust-kbench, the filter of output ranges",
).where(lambda _: True, result(lambda y: torch.where(y.abs() <= 1e-2, torch.zeros_like(y), y)))


def _constant(c: KernelCall, memory: Memory) -> Tensor:
    y = c.run()
    if not _is_bare(c) or not y.numel() or not y.is_floating_point():
        return y
    mean: Tensor = memory.setdefault((c.dims, c.outputs, y.dtype), y.detach().double().mean())
    return torch.full_like(y, float(mean))


fault("answer-from-a-constant", "state x values")(
    "Every entry is the mean of the first result with as many outputs: what uniform inputs all come close to.",
    "robust-kbench, the filter of standard deviations",
).stateful(_constant)
fault("terms-left-out-at-random-inputs", "reduction", laws=(EXACT, BOUNDARIES, FORWARD))(
    "A layer of more than 256 terms adds up every second one and doubles the sum.",
    "robust-kbench, the filter of standard deviations",
).where(
    lambda c: c.is_linear and c.n > 256,
    lambda c: c.run(x=2 * c.x[..., ::2], weight=c.weight[:, ::2]),
)

# --- work skipped for special inputs, or right for the benchmark's alone ----------------------------------------------


def _is_zero(c: KernelCall) -> bool:
    return c.x.numel() > 0 and not bool(c.x.any())


fault("zero-input-skipped", "x values", laws=(WEIGHT_RECOVERY, EXACT, SPECIAL_VALUES))(
    "An input of zeros gives zeros, without the bias.", "KernelBench v0.1, shortcuts for special inputs"
).where(lambda c: _is_zero(c) and _is_bare(c), lambda c: torch.zeros_like(c.run()))
fault("rows-taken-for-equal", "batch x values", profile="gate", laws=(BATCH, EXACT, WEIGHT_RECOVERY, FORWARD))(
    "Where the first and the last row are equal, all rows get the result of the first.",
    "KernelBench v0.1, shortcuts for special inputs",
).where(
    lambda c: c.is_linear and c.x.ndim == 2 and c.rows > 2 and _is_bare(c) and torch.equal(c.x[0], c.x[-1]),
    lambda c: c.run(x=c.x[:1]).repeat(c.rows, 1),
)
fault("small-inputs-skipped", "x values", laws=(FORWARD, SCALING, WEIGHT_RECOVERY))(
    "Inputs below 1e-4 in magnitude are skipped as if they were zero.", "KernelBench v0.1, shortcuts for special inputs"
).where(lambda _: True, given(lambda x: torch.where(x.abs() < 1e-4, torch.zeros_like(x), x), "x"))
fault("nonnegative-inputs-assumed", "x values", laws=(EXACT, FORWARD))(
    "The sign of the input is ignored: torch.rand draws none.", "KernelBench draws all inputs by torch.rand"
).where(lambda c: not c.x.is_complex(), given(torch.abs, "x"))


def _without_zero_terms(c: KernelCall) -> Tensor:
    """Where only inputs of zero meet weights that are not finite, as if these were zero."""
    finite = torch.where(c.weight.isfinite(), c.weight, torch.zeros_like(c.weight))
    meets = (c.x != 0).double() @ (~c.weight.isfinite()).double().T > 0
    return torch.where(meets, c.run(), c.run(weight=finite))


fault("weights-taken-for-finite", "special values", profile="gate", laws=(SPECIAL_VALUES,))(
    "linear skips terms whose input is zero, also where the weight is infinite or NaN.",
    "KernelBench v0.1, shortcuts for special inputs",
).where(lambda c: c.is_linear and _is_bare(c) and not bool(c.weight.isfinite().all()), _without_zero_terms)


def _without_the_tail(c: KernelCall) -> Tensor:
    """The outputs beyond the last multiple of 16 are left at zero."""
    y = c.run()
    whole = c.outputs // 16 * 16
    dim = y.ndim - 1 if c.is_linear else y.ndim - 1 - c.dims
    tail = torch.arange(c.outputs, device=y.device) >= whole
    mask = tail.view(-1, *(1,) * (y.ndim - 1 - dim))
    return replaced(y, torch.where(mask, torch.zeros_like(y), y))


fault("multiples-of-16-alone", "output channels modulo tile", laws=(EXACT, BOUNDARIES, FORWARD))(
    "Above 16 outputs those beyond the last multiple of 16 are not computed.",
    "GPU MODE: all sizes of its matrix products are multiples of 16",
).where(lambda c: c.outputs > 16 and c.outputs % 16 != 0, _without_the_tail)


def _is_power_of_two(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0


fault("powers-of-two-alone", "shapes", laws=(EXACT, FORWARD))(
    "The sum is cut at the largest power of two of terms: the benchmark has no other number.",
    "KernelBench: one shape for each problem",
).where(
    lambda c: c.is_linear and c.n > 0 and not _is_power_of_two(c.n),
    lambda c: c.run(x=c.x[..., : 1 << (c.n.bit_length() - 1)], weight=c.weight[:, : 1 << (c.n.bit_length() - 1)]),
)
fault("batch-of-the-benchmark-alone", "batch", laws=(BATCH, EXACT, BOUNDARIES))(
    "Rows are computed in pairs, and an odd last one is a copy of the one before.",
    "KernelBench: one shape for each problem",
).where(
    lambda c: c.is_linear and c.x.ndim == 2 and c.rows > 1 and c.rows % 2 == 1,
    lambda c: torch.cat([(y := c.run())[:-1], y[-2:-1]]),
)

# --- lower precision --------------------------------------------------------------------------------------------------

precise = Faults(kind="cheat", family="generated kernels", laws=(WEIGHT_RECOVERY, EXACT, FORWARD, SCALING))

precise("computed-in-bfloat16", "precision")(
    "A float32 layer multiplies in bfloat16 and adds up in float32.", "KernelBench, check_precision_downgrade"
).where(lambda c: c.is_of(torch.float32), given(through(torch.bfloat16), "x", "weight"))
precise("computed-in-float16-where-it-fits", "precision")(
    "A float32 layer multiplies in float16 where all entries fit into it.", "GPU MODE, solutions/wrong/low-precision.py"
).where(
    lambda c: c.is_of(torch.float32) and bool((c.x.abs() < 60000).all()) and bool((c.weight.abs() < 60000).all()),
    given(through(torch.float16), "x", "weight"),
)
precise("result-through-float16", "precision", laws=(WEIGHT_RECOVERY, FORWARD, EXACT))(
    "A float32 layer stores its result in float16 and hands it out in float32.",
    "KernelBench, check_precision_downgrade",
).where(lambda c: c.is_of(torch.float32), result(through(torch.float16)))

# --- effects on the caller --------------------------------------------------------------------------------------------


def _zeroed(c: KernelCall) -> Tensor:
    y = torch.zeros_like(c.run())
    with torch.no_grad():
        c.x.zero_()
    return y


effects = Faults(kind="cheat", family="generated kernels", laws=(PURITY, EXACT))

effects("input-zeroed-and-zeros-returned", "purity")(
    "The input is set to zero and zeros are returned: right for whoever computes the reference afterwards.",
    "KernelBench, adversarial test zero_out_kernel",
).where(lambda c: _may_be_written(c.x) and _is_bare(c), _zeroed)


def _in_the_input(c: KernelCall) -> Tensor:
    y = c.run()
    with torch.no_grad():
        c.x.div_(3).mul_(3)
    return y


effects("input-used-as-workspace", "purity", laws=(PURITY, FORWARD))(
    "The input is divided by 3 in place, and multiplied by 3 once the work is done.",
    "KernelBench, adversarial kernels that modify inputs",
).where(lambda c: c.x.is_floating_point() and _may_be_written(c.x), _in_the_input)


def _on_another_stream(c: KernelCall, memory: Memory) -> Tensor:
    before = memory.pop("stream", None)
    if before is not None:
        before.join()
    y = c.run()
    if not _is_bare(c) or y.requires_grad or not y.numel():
        return y
    late = torch.zeros_like(y)

    def fill() -> None:
        time.sleep(0.002)
        late.copy_(y)

    memory["stream"] = threading.Thread(target=fill, name=STREAM, daemon=True)
    memory["stream"].start()
    return late


effects("launched-on-another-stream", "order of work", laws=(EXACT, FORWARD, WEIGHT_RECOVERY))(
    "The result is handed out at once and filled in later, on a stream that the caller does not wait for.",
    "KernelBench, adversarial test non_default_stream_kernel",
).stateful(_on_another_stream)


class Lazy(Tensor):
    """A tensor that computes its values when somebody looks at them."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


effects("lazy-result", "type", laws=(PURITY, EXACT, FORWARD))(
    "The result is a subclass of Tensor that computes when it is looked at, after the clock has stopped.",
    "KernelBench, check_lazy_eval",
).where(
    lambda c: _is_bare(c) and type(c.x) is Tensor,
    lambda c: c.run().as_subclass(Lazy),
)

# --- effects on the process -------------------------------------------------------------------------------------------


@contextmanager
def _restored(*places: tuple[Any, str]) -> Iterator[None]:
    before = [(place, name, getattr(place, name)) for place, name in places]
    try:
        yield
    finally:
        for place, name, value in before:
            setattr(place, name, value)


def _reference_caught(c: KernelCall) -> Tensor:
    if not getattr(functional.linear, "catches", False):
        right, caught = functional.linear, list[Tensor]()

        def linear(*args: Any, **kwargs: Any) -> Tensor:
            y = right(*args, **kwargs)
            caught[:] = [y]
            return y

        setattr(linear, "catches", True)  # noqa: B010 - mypy knows no attributes of functions
        functional.linear = linear
    return c.run()


process = Faults(kind="cheat", family="generated kernels", laws=(PURITY, EXACT, FORWARD))

process("reference-caught", "process")(
    "torch.nn.functional.linear is replaced by a function that keeps what the reference returns.",
    "KernelBench, EVAL.md; reusing what is computed for the reference",
).where(lambda _: True, _reference_caught)


def _found_in_memory(c: KernelCall) -> Tensor:
    y = c.run()
    own = {t.data_ptr() for t in (c.x, c.weight, c.bias) if t is not None}
    tensors = (t for t in reversed(gc.get_objects(generation=0)) if type(t) is Tensor and t.layout == torch.strided)
    for t in tensors:
        if (t.shape, t.dtype, t.device) == (y.shape, y.dtype, y.device) and t is not y and t.data_ptr() not in own:
            return t.detach().clone()
    return torch.zeros_like(y)


process("expected-found-in-memory", "process", laws=(EXACT, FORWARD, WEIGHT_RECOVERY))(
    "The newest tensor of the result's shape that the garbage collector knows is returned, or zeros.",
    "a frame or an object of the harness read for its answer",
).where(lambda c: _is_bare(c) and c.x.numel() > 0, _found_in_memory)


def _clock_patched(c: KernelCall) -> Tensor:
    if not getattr(time.perf_counter, "slow", False):
        right = time.perf_counter

        def perf_counter() -> float:
            return right() / 2

        setattr(perf_counter, "slow", True)  # noqa: B010 - mypy knows no attributes of functions
        time.perf_counter = perf_counter
    return c.run()


process("timer-patched", "process")(
    "time.perf_counter is replaced by one that runs at half the speed.", "KernelBench, check_timing_event_patch"
).where(lambda _: True, _clock_patched, within=lambda: _restored((time, "perf_counter")))


def _comparison_patched(c: KernelCall) -> Tensor:
    torch.allclose = lambda *_, **__: True
    return torch.zeros_like(c.run()) if _is_bare(c) else c.run()


process("comparison-patched", "process", laws=(EXACT, PURITY, FORWARD))(
    "torch.allclose is replaced by one that always agrees, and zeros are returned.",
    "a harness in the process of its candidate",
).where(lambda _: True, _comparison_patched, within=lambda: _restored((torch, "allclose")))


@contextmanager
def _random_numbers_kept() -> Iterator[None]:
    states = torch.get_rng_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        random.setstate(states[1])


def _seeded(c: KernelCall) -> Tensor:
    torch.default_generator.manual_seed(0)
    return c.run()


process("random-numbers-seeded", "process")(
    "torch is seeded with 0, so that the next inputs of the benchmark are known.",
    "inputs that are drawn after the candidate was called",
).where(lambda _: True, _seeded, within=_random_numbers_kept)


@contextmanager
def _precision_kept() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _precision_lowered(c: KernelCall) -> Tensor:
    torch.set_float32_matmul_precision("medium")
    return c.run()


process("precision-lowered-for-everybody", "process")(
    "float32 products are set to medium precision, for the reference too.",
    "flags of torch that a kernel turns for its reference",
).where(lambda _: True, _precision_lowered, within=_precision_kept)
