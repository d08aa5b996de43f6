"""Benchmarks for machine-written kernels: how each decides that a kernel is right, written down from what it publishes.

Nothing of `equiv` decides here. A harness draws inputs, calls torch's linear and convolutions as `torch.nn.functional`
has them at that moment (the candidate, which may have a fault) and as they were when this module was imported (the
reference), in the order in which the benchmark calls them, and says whether its rule is red. Weights and inputs have
the distribution of the benchmark and the dtype that is asked for. Sizes are the benchmark's own where they are small;
where they would take a CPU seconds, each is cut down to some hundreds, and the batch is kept up to 1,024 rows.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.testing._internal.common_methods_invocations import op_db

from equiv.testing.faults.cheats import STREAM

NAMES = ("linear", "conv1d", "conv2d", "conv3d")
RIGHT = {name: getattr(functional, name) for name in NAMES}

# OpInfo's import forbids to set flags of torch.backends, as faults and variants do.
torch.backends.flags_frozen.__globals__["__allow_nonbracketed_mutation_flag"] = True


@dataclass(frozen=True)
class Problem:
    """One shape of a benchmark.

    Attributes:
        name: One of ``NAMES``.
        x: Shape of the input.
        weight: Shape of the weight.
        bias: Whether there is one.
        options: Keywords of a convolution.
        turned: Which of ``x`` and ``weight`` are transposed views, as in ``A.T @ B``.
        spread: How wide the values of the weight are: of a square root of terms as in layers, or 1 as in products.
    """

    name: str
    x: tuple[int, ...]
    weight: tuple[int, ...]
    bias: bool = True
    options: dict[str, Any] = field(default_factory=dict)
    turned: tuple[str, ...] = ()
    spread: str = "layer"

    def call(self, functions: dict[str, Callable[..., Tensor]], given: list[Tensor]) -> Tensor:
        """The result of one of the two sets of functions."""
        x, weight, *bias = given
        return functions[self.name](x, weight, bias[0] if bias else None, **self.options)


def candidates() -> dict[str, Callable[..., Tensor]]:
    """Those of torch as they are now."""
    return {name: getattr(functional, name) for name in NAMES}


def synchronize() -> None:
    """Wait for what stands for streams, as ``torch.cuda.synchronize`` waits for all of a device."""
    for thread in threading.enumerate():
        if thread.name == STREAM:
            thread.join()


def drawn(kind: str, shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """``uniform`` on [0, 1), ``centred`` on [-1, 1) or ``normal``; small integers in dtypes of integers."""
    if not (dtype.is_floating_point or dtype.is_complex):
        return torch.randint(0, 10, shape, generator=generator).to(dtype)
    real = torch.float64 if dtype in (torch.float64, torch.complex128) else torch.float32
    wide = real.to_complex() if dtype.is_complex else real
    if kind == "normal":
        return torch.randn(shape, generator=generator, dtype=wide).to(dtype)
    values = torch.rand(shape, generator=generator, dtype=real)
    if dtype.is_complex:
        values = values + 1j * torch.rand(shape, generator=generator, dtype=real)
    return (values if kind == "uniform" else 2 * values - (1 + 1j if dtype.is_complex else 1)).to(dtype)


def tensors(
    problem: Problem, kind: str, dtype: torch.dtype, generator: torch.Generator, weights: str = "centred"
) -> list[Tensor]:
    """Input, weight and bias; the weight of a layer as ``nn.Linear`` starts with it."""
    n = math.prod(problem.weight[1:])
    scale = 1 / math.sqrt(max(1, n)) if problem.spread == "layer" else 1.0
    is_exact = not (dtype.is_floating_point or dtype.is_complex)
    found = {}
    for name, shape in (("x", problem.x), ("weight", problem.weight)):
        turned = name in problem.turned
        t = drawn(
            kind if name == "x" or problem.spread != "layer" else weights,
            shape[:-2] + shape[:-3:-1] if turned else shape,
            dtype,
            generator,
        )
        t = t if name == "x" or is_exact else (t * scale).to(dtype)
        found[name] = t.transpose(-1, -2) if turned else t
    given = [found["x"], found["weight"]]
    if problem.bias:
        bias = drawn(weights, problem.weight[:1], dtype, generator)
        given.append(bias if is_exact else (bias * scale).to(dtype))
    return given


# --- KernelBench ------------------------------------------------------------------------------------------------------


def _product(m: int, k: int, n: int, *turned: str) -> Problem:
    """``A (m, k) @ B (k, n)``: B is the weight transposed, so that a plain product has a view of one."""
    views = (*(["x"] if "A" in turned else []), *([] if "B" in turned else ["weight"]))
    return Problem("linear", (m, k), (n, k), bias=False, turned=tuple(views), spread="product")


KERNELBENCH = (
    _product(256, 256, 256),  # level 1: 1, 13 to 15
    _product(512, 256, 128),  # 2
    _product(205, 149, 121),  # 8, a 40th of its sizes
    _product(256, 256, 1),  # 4
    _product(64, 4096, 64),  # 6
    _product(512, 32, 512),  # 7
    _product(8192, 32, 64),  # 9
    _product(256, 128, 256, "A"),  # 16
    _product(256, 128, 256, "B"),  # 17
    _product(256, 128, 256, "A", "B"),  # 18
    Problem("linear", (16, 128, 256), (96, 256), False, turned=("weight",), spread="product"),  # 10
    Problem("linear", (8, 32, 64, 128), (96, 128), False, turned=("weight",), spread="product"),  # 11
    Problem("conv2d", (16, 3, 28, 28), (96, 3, 11, 11), options={"stride": 4, "padding": 2}),  # 50
    Problem("conv3d", (4, 3, 8, 8, 8), (16, 3, 3, 3, 3), False),  # 54, 59, 60, 66
    Problem("conv2d", (8, 32, 8, 16), (32, 32, 3, 3), False),  # 55, 56, 62, 63
    Problem("conv1d", (32, 64, 128), (32, 64, 3), False),  # 67
    Problem("conv1d", (16, 16, 128), (32, 16, 3), False, {"stride": 3, "dilation": 4}),  # 76
    Problem("conv2d", (8, 16, 16, 24), (16, 16, 5, 9), False, {"padding": (2, 4), "dilation": (2, 3)}),  # 80
    Problem("conv2d", (16, 32, 16, 16), (32, 1, 3, 3), False, {"groups": 32}),  # 82 to 86
    Problem("conv2d", (16, 64, 12, 12), (128, 64, 1, 1), False),  # 87
    Problem("linear", (1024, 256), (256, 256)),  # level 2: 9, 12, 14 and others
    Problem("linear", (128, 512), (256, 512)),  # level 2: 29, 59, 63 and others
)


def kernelbench(dtype: torch.dtype) -> Iterator[bool]:
    """``eval.py``: torch.rand, 5 trials of one shape, torch.allclose with rtol = atol = 1e-4, in 16 bits 1e-2."""
    tolerance = 1e-2 if dtype in (torch.float16, torch.bfloat16) else 1e-4
    for problem in KERNELBENCH:
        generator = torch.Generator().manual_seed(42)
        of_model = tensors(problem, "uniform", dtype, generator)[1:]
        for _ in range(5):
            given = tensors(problem, "uniform", dtype, generator)
            given = given if problem.spread == "product" else [given[0], *of_model]
            with torch.no_grad():
                reference = problem.call(RIGHT, given)
                y = problem.call(candidates(), given)
                synchronize()
            yield reference.shape != y.shape or not torch.allclose(reference, y, atol=tolerance, rtol=tolerance)


# --- BackendBench -----------------------------------------------------------------------------------------------------

TRACES = (  # of the kind that its torchbench suite has: shapes of models, values uniform on [0, 1)
    Problem("linear", (128, 768), (768, 768)),
    Problem("linear", (16, 128, 256), (512, 256)),
    Problem("conv2d", (4, 3, 64, 64), (64, 3, 7, 7), False, {"stride": 2, "padding": 3}),
    Problem("conv2d", (4, 64, 14, 14), (64, 64, 3, 3), False, {"padding": 1}),
    Problem("conv2d", (4, 128, 14, 14), (64, 128, 1, 1), False),
    Problem("conv1d", (4, 64, 64), (64, 64, 3), True, {"padding": 1}),
)


@cache
def _samples(dtype: torch.dtype) -> list[tuple[str, Any]]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ops = [op for op in op_db if op.name.removeprefix("nn.functional.") in NAMES]
        return [
            (op.name.removeprefix("nn.functional."), sample)
            for op in ops
            if dtype in op.supported_dtypes("cpu")
            for sample in op.sample_inputs("cpu", dtype)
        ]


def backendbench(dtype: torch.dtype) -> Iterator[bool]:
    """``eval.py``: OpInfo's samples and traced shapes, assert_close with rtol = atol = 1e-2, NaN equal to NaN."""

    def differ(reference: Tensor, y: object) -> bool:
        try:
            torch.testing.assert_close(reference, y, equal_nan=True, atol=1e-2, rtol=1e-2)
        except Exception:
            return True
        return False

    for name, sample in _samples(dtype):
        reference = RIGHT[name](sample.input, *sample.args, **sample.kwargs)
        yield differ(reference, candidates()[name](sample.input, *sample.args, **sample.kwargs))
    for problem in TRACES:
        given = tensors(problem, "uniform", dtype, torch.Generator().manual_seed(0), weights="uniform")
        reference = problem.call(RIGHT, given)
        yield differ(reference, problem.call(candidates(), given))
        yield differ(problem.call(RIGHT, given), problem.call(candidates(), given))  # before it is timed


# --- robust-kbench ----------------------------------------------------------------------------------------------------

ROBUST = (
    Problem("linear", (64, 128), (10, 128)),  # mnist_linear
    Problem("linear", (4, 512), (512, 512)),
    Problem("linear", (32, 16, 128), (128, 128)),  # unet_linear
    Problem("linear", (64, 16, 64), (64, 64)),
    Problem("conv2d", (8, 64, 8, 8), (64, 64, 3, 3), options={"padding": 1}),  # unet_conv2d
    Problem("conv2d", (8, 32, 8, 8), (64, 32, 3, 3), options={"padding": 1, "stride": 2}),
    Problem("conv2d", (8, 32, 8, 8), (32, 32, 3, 3)),
)


def robust_kbench(dtype: torch.dtype) -> Iterator[bool]:
    """``correct_forward_fn.py`` and ``correct_backward_fn.py``: torch.randn, 5 trials with new weights.

    The candidate is called before and after the reference; allclose with rtol = atol = 1e-5. Gradients of input, weight
    and bias for a normal incoming gradient likewise.
    """
    for problem in ROBUST:
        for trial in range(5):
            generator = torch.Generator().manual_seed(trial)
            given = tensors(problem, "normal", dtype, generator, weights="normal" if trial % 2 else "centred")
            with torch.no_grad():
                first = problem.call(candidates(), given)
                synchronize()
                reference = problem.call(RIGHT, given)
                again = problem.call(candidates(), given)
                synchronize()
            yield not all(_close(reference, y, 1e-5) for y in (first, again))
            if dtype.is_floating_point or dtype.is_complex:
                wanted, found = (_gradients(problem, f, given, generator) for f in (RIGHT, candidates()))
                yield not all(_close(a, b, 1e-5) for a, b in zip(wanted, found, strict=True))


def _close(reference: Tensor, y: Tensor, tolerance: float) -> bool:
    return torch.allclose(reference, y, atol=tolerance, rtol=tolerance)


def _gradients(
    problem: Problem, functions: dict[str, Callable[..., Tensor]], given: list[Tensor], generator: torch.Generator
) -> tuple[Tensor, ...]:
    leaves = [t.detach().clone().requires_grad_() for t in given]
    y = problem.call(functions, leaves)
    state = generator.get_state()
    incoming = drawn("normal", tuple(y.shape), y.dtype, generator)
    generator.set_state(state)  # the same for both
    return torch.autograd.grad(y, leaves, incoming)


# --- FlashInfer-Bench -------------------------------------------------------------------------------------------------

FLASHINFER = tuple(  # gemm_n*_k*: A (M, K), B (N, K), without bias; M of its workloads
    Problem("linear", (m, k), (n, k), bias=False, spread="product")
    for m in (1, 7, 16, 64, 256, 1024)
    for n, k in ((512, 512), (128, 256))
)


def flashinfer_bench(dtype: torch.dtype) -> Iterator[bool]:
    """``default.py``: torch.randn, 3 trials; red where an absolute and a relative error exceed 1e-2, or not finite."""
    for problem in FLASHINFER:
        generator = torch.Generator().manual_seed(0)
        for _ in range(3):
            given = tensors(problem, "normal", dtype, generator)
            with torch.no_grad():
                reference = problem.call(RIGHT, given)
                y = problem.call(candidates(), given)
                synchronize()
            yield _exceeds(reference, y)


def _exceeds(reference: Tensor, y: Tensor) -> bool:
    if tuple(y.shape) != tuple(reference.shape) or y.dtype != reference.dtype:
        return True
    if not bool(y.isfinite().all()):
        return True
    wide = torch.complex64 if reference.is_complex() else torch.float32
    absolute = (y.to(wide) - reference.to(wide)).abs()
    relative = absolute / (reference.to(wide).abs() + 1e-8)
    return bool(((absolute > 1e-2) & (relative > 1e-2)).any())


# --- GPU MODE ---------------------------------------------------------------------------------------------------------


def _filter(size: int, kernel: int, channels: int, batch: int) -> Problem:
    shape = (channels, channels, kernel, kernel)
    return Problem("conv2d", (batch, channels, size, size), shape, False, spread="product")


GPU_MODE = (
    *(
        Problem("linear", (m, k), (n, k), bias=False, turned=("weight",), spread="product")
        for m, n, k in ((64, 64, 64), (128, 128, 128), (256, 256, 256), (32, 512, 32), (64, 1024, 64), (512, 512, 512))
    ),
    _filter(32, 4, 16, 1),
    _filter(32, 4, 16, 2),
    _filter(64, 4, 32, 1),
    _filter(32, 8, 32, 2),
    _filter(32, 8, 64, 1),
    _filter(32, 16, 16, 4),
)


def gpu_mode(dtype: torch.dtype) -> Iterator[bool]:
    """``pmpp_v2``: uniform products with rtol 1e-5, atol 1e-8; normal convolutions with 1e-3 for both.

    The candidate gets copies; then the reference is computed on the originals. NaN and infinities must be the same.
    """
    for problem in GPU_MODE:
        is_product = problem.name == "linear"
        for seed in range(2):
            generator = torch.Generator().manual_seed(seed)
            given = tensors(problem, "uniform" if is_product else "normal", dtype, generator)
            y = problem.call(candidates(), [t.clone() for t in given])
            synchronize()
            reference = problem.call(RIGHT, given)
            yield _mismatched(y, reference, *((1e-5, 1e-8) if is_product else (1e-3, 1e-3)))


def _mismatched(y: Tensor, reference: Tensor, rtol: float, atol: float) -> bool:
    if y.shape != reference.shape:
        return True
    wrong = (y - reference).abs() > atol + rtol * reference.abs()
    for special in (torch.isnan, *(() if y.is_complex() else (torch.isposinf, torch.isneginf))):
        wrong = wrong | (special(y) ^ special(reference))
    return bool(wrong.any())


# --- all of them ------------------------------------------------------------------------------------------------------

HARNESSES: dict[str, Callable[[torch.dtype], Iterator[bool]]] = {
    "KernelBench": kernelbench,
    "BackendBench": backendbench,
    "robust-kbench": robust_kbench,
    "FlashInfer-Bench": flashinfer_bench,
    "GPU MODE": gpu_mode,
}
"""By name: comparisons one after the other, each red or not."""

_SPEED = ("result-cached-by-address", "no-work-after-warming-up", "weight-packed-by-address", "zeros-returned")

READ_IN_THE_SOURCE: dict[str, tuple[str, ...]] = {
    "KernelBench": (
        "launched-on-another-stream",  # check_stream_injection
        "lazy-result",  # check_lazy_eval
        "timer-patched",  # check_timing_event_patch
        "computed-in-float16-where-it-fits",  # check_precision_downgrade
        "result-through-float16",
        "products-in-float16",
        *_SPEED,  # a warning above 10 times the reference's speed
    ),
    "BackendBench": ("launched-on-another-stream",),  # uses_cuda_stream
}
"""What a benchmark says that it looks for in the source or the speed of a kernel, and so finds without running it."""
