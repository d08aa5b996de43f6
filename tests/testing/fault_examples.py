"""For every fault of the catalogue, a call at which it shows and one, as near as can be, at which it does not."""

from __future__ import annotations

import contextlib
import copy
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

import equiv
from equiv.laws.checks.tracing import recorded_by_fx, traced_by_jit
from equiv.numerics import threads
from equiv.strategies import Layout
from equiv.testing.faults.cheats import STREAM


@dataclass(frozen=True)
class Call:
    """A call of torch's kernel on small integers, or on one value each.

    Attributes:
        x: Shape of the input.
        weight: Shape of the weight: of rank 2 for linear.
        bias: Whether there is one.
        dtype: Of all.
        stride: Of a convolution, as the following.
        layouts: Of ``x``, ``weight``, ``bias`` and ``grad``: ``kind`` or ``kind-variant``.
        values: One value for all entries of a tensor or of ``grad`` instead of integers, or what makes others of them;
            ``normals`` for all tensors.
        leaves: Which of them require gradients; their gradients are then part of what is seen.
        second: ``x`` or ``weight``, whose gradient is differentiated once more with respect to the other.
        again: Whether the gradients are asked for a second time.
        calls: How many calls are made, each with other numbers.
        under: A mode or transform that the call is made in.
    """

    x: tuple[int, ...]
    weight: tuple[int, ...]
    bias: bool = True
    dtype: torch.dtype = torch.float32
    stride: Any = 1
    padding: Any = 0
    dilation: Any = 1
    groups: int = 1
    layouts: tuple[tuple[str, str], ...] = ()
    values: tuple[tuple[str, Any], ...] = ()
    leaves: tuple[str, ...] = ()
    second: str = ""
    again: bool = False
    calls: int = 1
    under: str = ""

    def tensors(self, turn: int) -> dict[str, Tensor]:
        """Input, weight, bias and incoming gradient."""
        generator = torch.Generator().manual_seed(turn)
        shapes = {"x": self.x, "weight": self.weight, "bias": self.weight[:1]}
        found = {}
        for name, shape in shapes.items():
            if dict(self.values).get("all") == "normals":
                t = torch.randn(shape, generator=generator).to(self.dtype)
            else:
                low = 1 if self.dtype == torch.uint8 else -4
                t = torch.randint(low, 5, shape, generator=generator).to(self.dtype)
                if self.dtype.is_complex:
                    t = t + 1j * torch.randint(-4, 5, shape, generator=generator)
            found[name] = self.laid(name, self.valued(name, t))
        return found

    def valued(self, name: str, t: Tensor) -> Tensor:
        value = dict(self.values).get(name)
        if value is None:
            return t
        return value(t) if callable(value) else torch.full_like(t, value)

    def laid(self, name: str, t: Tensor) -> Tensor:
        kind, _, variant = dict(self.layouts).get(name, "contiguous").partition("-")
        if kind == "stride0":
            return t.as_strided(t.shape, (0, *t.stride()[1:]))
        if kind == "exchanged":  # the first two dimensions, in memory
            return t.transpose(0, 1).contiguous().transpose(0, 1)
        if kind == "window":  # a map cut out of a larger one, two channels of which the second is dropped
            return torch.stack([t, t], -1)[..., 0]
        return Layout(kind, int(variant or 0)).apply(t)

    def run(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if weight.ndim == 2:
            return F.linear(x, weight, bias)
        conv = getattr(F, f"conv{weight.ndim - 2}d")
        return conv(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)


def seen(call: Call) -> list[Any]:
    """Everything that a caller can notice: results, their dtype, shape and gradients, inputs afterwards, errors."""
    facts: list[Any] = []
    results: list[Tensor] = []
    for turn in range(call.calls):
        given = call.tensors(turn)
        for name in call.leaves:
            given[name].requires_grad_()
        bias = given["bias"] if call.bias else None
        try:
            y = UNDER[call.under](call, given["x"], given["weight"], bias)
            results.append(y)
            facts += [y.dtype, tuple(y.shape), y.requires_grad]
            if call.leaves and y.requires_grad:
                facts += gradients(call, given, y)
        except RuntimeError as error:
            facts.append(str(error).splitlines()[0])
        facts += [given[name].detach().clone() for name in ("x", "weight", "bias")]
    return facts + [y.detach().clone() for y in results]


def gradients(call: Call, given: dict[str, Tensor], y: Tensor) -> list[Any]:
    generator = torch.Generator().manual_seed(99)
    grad = call.valued("grad", torch.randint(-2, 3, y.shape, generator=generator).to(y.dtype))
    grad = call.laid("grad", grad)
    leaves = [given[name] for name in call.leaves if call.bias or name != "bias"]
    if call.second:
        (first,) = torch.autograd.grad(y, given[call.second], grad, create_graph=True)
        other = given["weight" if call.second == "x" else "x"]
        return [first.detach(), *torch.autograd.grad(first, other, torch.ones_like(first), allow_unused=True)]
    found = list(torch.autograd.grad(y, leaves, grad, retain_graph=call.again))
    return found + (list(torch.autograd.grad(y, leaves, grad)) if call.again else [])


def same(a: list[Any], b: list[Any]) -> bool:
    """Bit for bit, NaN included."""

    def alike(u: Any, v: Any) -> bool:
        if not (isinstance(u, Tensor) and isinstance(v, Tensor)):
            return type(u) is type(v) and bool(u == v)
        if u.shape != v.shape or u.dtype != v.dtype:
            return False
        if u.is_meta or u.numel() == 0:
            return u.is_meta == v.is_meta
        u, v = (torch.view_as_real(t.resolve_conj()) if t.is_complex() else t.resolve_neg() for t in (u, v))
        return bool(((u == v) | ((u != u) & (v != v))).all())

    return len(a) == len(b) and all(alike(u, v) for u, v in zip(a, b, strict=True))


# --- modes and transforms ---------------------------------------------------------------------------------------------


def module_of(call: Call, weight: Tensor, bias: Tensor | None) -> nn.Module:
    module: nn.Module
    if weight.ndim == 2:
        module = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    else:
        kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[weight.ndim - 3]
        module = kind(weight.shape[1], weight.shape[0], tuple(weight.shape[2:]), bias=bias is not None)  # type: ignore[arg-type]
    module.weight = nn.Parameter(weight)
    if bias is not None:
        module.bias = nn.Parameter(bias)
    return module


def compiled(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    torch.compiler.reset()
    found: Tensor = torch.compile(module_of(call, weight, bias), backend="eager", fullgraph=True)(x)
    return found


def exported(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    found: Tensor = torch.export.export(module_of(call, weight, bias), (x,)).module()(x)
    return found


def within(*modes: Callable[[], Any]) -> Callable[..., Tensor]:
    def run(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        with contextlib.ExitStack() as stack:
            for mode in modes:
                stack.enter_context(mode())
            return call.run(x, weight, bias).clone()

    return run


def over_weights(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.func.vmap(lambda w: call.run(x, w, bias))(weight[None])[0]


def over_rows(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.func.vmap(lambda row: call.run(row, weight, bias))(x)


def over_both(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.func.vmap(lambda row, w: call.run(row, w, bias))(x[None], weight[None])[0]


def jvp(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.func's own deprecations
        return torch.func.jvp(lambda t: call.run(t, weight, bias), (x,), (torch.ones_like(x),))[1]  # type: ignore[no-any-return]


def on_meta(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return call.run(x.to("meta"), weight.to("meta"), None if bias is None else bias.to("meta"))


def after_float64(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    call.run(x.double(), weight.double(), None if bias is None else bias.double())
    return call.run(x, weight, bias)


def weight_changed(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    call.run(x, weight, bias)
    return call.run(x, weight.add_(1), bias)


def bias_changed(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    assert bias is not None
    call.run(x, weight, bias)
    return call.run(x, weight, bias.add_(1))


def input_changed(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    call.run(x, weight, bias)
    return call.run(x.add_(1), weight, bias)


def in_a_thread(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call.run, x, weight, bias).result()


def in_two_threads(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(call.run, sign * x, weight, bias) for sign in (1, -1) * 4]
        return torch.cat([one.result() for one in calls])


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    torch._C._set_deterministic_algorithms(True, warn_only=False)  # the public function imports the compiler
    try:
        yield
    finally:
        torch._C._set_deterministic_algorithms(False, warn_only=False)


def jit(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return traced_by_jit(module_of(call, weight, bias), x)


def fx(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return recorded_by_fx(module_of(call, weight, bias), x)


def nested(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.func.vmap(torch.func.vmap(lambda row: call.run(row, weight, bias)))(x[None])[0]


def over_last(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.func.vmap(lambda row: call.run(row, weight, bias), in_dims=-1)(x.movedim(0, -1))


def over_last_of_weights(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.func.vmap(lambda w: call.run(x, w, bias), in_dims=-1)(weight[..., None])[0]


def func_grad(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    found: Tensor = torch.func.grad(lambda t: call.run(t, weight, bias).sum())(x)
    return found


def func_grad_of_weight(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    found: Tensor = torch.func.grad(lambda w: call.run(x, w, bias).sum())(weight)
    return found


def per_sample(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    each = torch.func.grad(lambda w, row: call.run(row, w, bias).sum())
    return torch.func.vmap(each, in_dims=(None, 0))(weight, x)


def jvp_of_both(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.func's own deprecations
        return torch.func.jvp(lambda t, w: call.run(t, w, bias), (x, weight), (x, weight))[1]  # type: ignore[no-any-return]


def no_leaves(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return call.run(x.clone(), weight.clone(), bias)


def changed_after(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    y = call.run(x, weight, bias)
    with torch.no_grad():
        weight.add_(1)
    return y


def called_again(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    y = call.run(x, weight, bias)
    call.run(-x, weight, bias)
    return y


def accumulated(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    for t in (x, weight):
        t.grad = torch.ones_like(t)
    call.run(x, weight, bias).sum().backward()  # type: ignore[no-untyped-call]
    return torch.cat([t.grad.flatten() for t in (x, weight) if t.grad is not None])


def filled_in(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The result as it is once streams have ended."""
    y = call.run(x, weight, bias)
    for thread in threading.enumerate():
        if thread.name == STREAM:
            thread.join()
    return y.clone()


def watching(read: Callable[[], Any]) -> Callable[..., Tensor]:
    """Whether a call leaves something of the process as it was."""

    def run(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        before = read()
        call.run(x, weight, bias)
        return torch.tensor(read() == before)

    return run


def beside_sevens(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """With another tensor of the result's shape in memory."""
    sevens = torch.full((*x.shape[:-1], weight.shape[0]), 7.0)
    return call.run(x, weight, bias) + 0 * sevens


def often(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The same call eleven times, and another value at the same place before the last."""
    for _ in range(10):
        call.run(x, weight, bias)
    return call.run(x.add_(1), weight, bias)


def of_type(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.tensor(type(call.run(x, weight, bias)) is Tensor)


def seeded(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Whether the seed is another after a call, whichever torch had before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1234)
        call.run(x, weight, bias)
        return torch.tensor(torch.initial_seed() != 1234)


UNDER: dict[str, Callable[..., Tensor]] = {
    "beside-sevens": beside_sevens,
    "allclose": watching(lambda: torch.allclose),
    "clock": watching(lambda: time.perf_counter),
    "filled-in": filled_in,
    "functional-linear": watching(lambda: F.linear),
    "often": often,
    "precision": watching(torch.get_float32_matmul_precision),
    "seed": seeded,
    "type": of_type,
    "": lambda call, x, weight, bias: call.run(x, weight, bias),
    "accumulated": accumulated,
    "after-float64": after_float64,
    "bias-changed": bias_changed,
    "input-changed": input_changed,
    "autocast-bfloat16": within(lambda: torch.autocast("cpu", torch.bfloat16)),
    "autocast-float16": within(lambda: torch.autocast("cpu", torch.float16)),
    "called-again": called_again,
    "changed-after": changed_after,
    "compile": compiled,
    "deterministic": within(deterministic),
    "export": exported,
    "func-grad": func_grad,
    "func-grad-of-weight": func_grad_of_weight,
    "inference": within(torch.inference_mode),
    "fx": fx,
    "jit": jit,
    "jvp": jvp,
    "jvp-both": jvp_of_both,
    "meta": on_meta,
    "no-grad": within(torch.no_grad),
    "no-leaves": no_leaves,
    "per-sample": per_sample,
    "result-changed": lambda call, x, weight, bias: call.run(x, weight, bias).add_(1),
    "thread": in_a_thread,
    "threads-1": within(lambda: threads(1)),
    "threads-2": within(lambda: threads(2)),
    "two-callers": in_two_threads,
    "vmap-both": over_both,
    "vmap-last": over_last,
    "vmap-nested": nested,
    "vmap-rows": over_rows,
    "vmap-weights": over_weights,
    "vmap-weights-last": over_last_of_weights,
    "weight-changed": weight_changed,
}

# --- calls ------------------------------------------------------------------------------------------------------------

BF16, F16, F32, F64 = torch.bfloat16, torch.float16, torch.float32, torch.float64
C64, C128 = torch.complex64, torch.complex128


def but(
    call: Call, layouts: dict[str, str] | None = None, values: dict[str, Any] | None = None, **changes: Any
) -> Call:
    """A call with some things changed."""
    return replace(
        call,
        layouts=tuple((layouts or dict(call.layouts)).items()),
        values=tuple((values or dict(call.values)).items()),
        **changes,
    )


LINEAR = Call((3, 6), (5, 6))
CONV1 = Call((2, 4, 3), (5, 4, 3))
CONV2 = Call((2, 4, 2, 3), (5, 4, 2, 3))
CONV3 = Call((2, 4, 2, 2, 3), (5, 4, 2, 2, 3))
POINT = Call((2, 4, 1, 1), (5, 4, 1, 1))
MAP = Call((2, 4, 3, 3), (5, 4, 1, 1))
SLID = Call((2, 4, 4, 5), (5, 4, 2, 2))
PADDED = but(SLID, padding=1)
GROUPS = Call((2, 4, 4, 5), (6, 2, 2, 2), groups=2)
DEPTHWISE = Call((2, 8, 4, 5), (8, 1, 2, 2), groups=8)
CUBES = Call((1, 2, 4, 4, 4), (3, 2, 1, 1, 1))
XW, XWB = ("x", "weight"), ("x", "weight", "bias")
INF, NAN = float("inf"), float("nan")
FINE = {"grad": 1.0 + 2.0**-12}  # an incoming gradient of more bits than bfloat16 and TF32 hold


def normal(call: Call, **changes: Any) -> Call:
    """On normal numbers instead of small integers."""
    return but(call, values={"all": "normals"}, **changes)


def first_row_nan(t: Tensor) -> Tensor:
    return torch.cat([torch.full_like(t[:1], NAN), t[1:]])


def last_alone(t: Tensor) -> Tensor:
    return torch.nn.functional.one_hot(torch.full(t.shape[:-1], t.shape[-1] - 1), t.shape[-1]).to(t.dtype)


def first_nan(t: Tensor) -> Tensor:
    changed = t.clone()
    changed.view(-1)[0] = NAN
    return changed


def identity(t: Tensor) -> Tensor:
    return torch.eye(len(t), dtype=t.dtype)


def filled(x: float, weight: float) -> Call:
    """A layer whose inputs are all the same, and its weights."""
    return but(LINEAR, values={"x": x, "weight": weight})


def rows(count: int, call: Call = LINEAR) -> Call:
    return but(call, x=(count, *call.x[1:]))


def out(count: int, call: Call = LINEAR) -> Call:
    return but(call, weight=(count, *call.weight[1:]))


def terms(count: int, call: Call = LINEAR) -> Call:
    """Features of linear, channels of a convolution."""
    return but(call, x=(call.x[0], count, *call.x[2:]), weight=(call.weight[0], count, *call.weight[2:]))


def backward(call: Call, *leaves: str) -> Call:
    return but(call, leaves=leaves or XWB)


def kernels(size: int, *kernel: int, channels: int = 4, **changes: Any) -> Call:
    """``size`` samples of a map as large as the kernel."""
    return Call((size, channels, *kernel), (5, channels, *kernel), **changes)


SQUARE = Call((3, 6), (6, 6), bias=False, values=(("weight", identity),))
ZEROS = but(LINEAR, values={"x": 0.0})
ONES = but(LINEAR, values={"x": 1.0})
POISONED = but(LINEAR, values={"x": first_row_nan})
ONE_HOT = but(LINEAR, values={"x": last_alone}, bias=False)
STEPPED = but(LINEAR, {"weight": "step"})
CALLS: dict[str, tuple[Call, Call | None]] = {
    # layouts
    "weight-step-slice": (but(CONV2, {"weight": "step-3"}), but(CONV2, {"weight": "step"})),
    "pointwise-strided-weight-batch-64": (
        rows(64, but(POINT, {"weight": "permuted-20"})),
        rows(63, but(POINT, {"weight": "permuted-20"})),
    ),
    "pointwise-strided-weight-batch-64-without-onednn": (
        Call((64, 4, 1, 1, 1), (5, 4, 1, 1, 1), layouts=(("weight", "step"),)),
        Call((63, 4, 1, 1, 1), (5, 4, 1, 1, 1), layouts=(("weight", "step"),)),
    ),
    "strided-weight-batch-64-linear": (
        rows(64, but(LINEAR, {"weight": "step"})),
        rows(63, but(LINEAR, {"weight": "step"})),
    ),
    "strided-weight-batch-17": (rows(17, STEPPED), rows(18, STEPPED)),
    "strided-weight-bfloat16-33-outputs": (
        out(33, but(LINEAR, {"weight": "step"}, dtype=BF16)),
        out(32, but(LINEAR, {"weight": "step"}, dtype=BF16)),
    ),
    "conv2d-weight-not-contiguous": (but(CONV2, {"weight": "channels_last"}), but(CONV2, {"x": "channels_last"})),
    "weight-odd-strides-of-size-1": (but(POINT, {"weight": "odd_strides"}), but(POINT, {"x": "odd_strides"})),
    "input-odd-strides-of-size-1-conv1d": (
        but(kernels(2, 1), {"x": "odd_strides"}),
        but(POINT, {"x": "odd_strides"}),
    ),
    "batch-of-one-with-stride-0": (rows(1, but(CONV2, {"x": "stride0"})), rows(1, CONV2)),
    "pointwise-weight-offset-ignored": (but(POINT, {"weight": "offset"}), but(CONV2, {"weight": "offset"})),
    "input-offset-not-aligned": (terms(8, but(LINEAR, {"x": "offset"})), terms(9, but(LINEAR, {"x": "offset"}))),
    "bias-offset-ignored-float16": (
        but(LINEAR, {"bias": "offset"}, dtype=F16),
        but(LINEAR, {"bias": "offset"}),
    ),
    "broadcast-batch": (but(CONV2, {"x": "broadcast"}), CONV2),
    "broadcast-weight-outputs": (but(LINEAR, {"weight": "broadcast"}), but(LINEAR, {"x": "broadcast"})),
    "broadcast-bias-conv": (but(CONV2, {"bias": "broadcast"}), but(LINEAR, {"bias": "broadcast"})),
    "bias-step-slice": (but(LINEAR, {"bias": "step"}), LINEAR),
    "conv3d-input-not-contiguous": (but(CONV3, {"x": "step"}), but(CONV3, {"weight": "step"})),
    "channels-last-input": (but(CONV2, {"x": "channels_last"}), but(CONV3, {"x": "channels_last"})),
    "unbatched-conv-permuted-input": (
        Call((4, 2, 3), (5, 4, 2, 3), layouts=(("x", "permuted"),)),
        Call((4, 2, 3), (5, 4, 2, 3), layouts=(("weight", "permuted"),)),
    ),
    "channels-last-weight-conv3d": (but(CONV3, {"weight": "channels_last"}), but(CONV2, {"weight": "channels_last"})),
    "channels-last-both-odd-channels": (
        terms(3, but(CONV2, {"x": "channels_last", "weight": "channels_last"})),
        but(CONV2, {"x": "channels_last", "weight": "channels_last"}),
    ),
    "channel-slice-of-channels-last": (terms(1, but(CONV2, {"x": "window"})), terms(2, but(CONV2, {"x": "window"}))),
    "square-weight-transposed-in-memory": (
        but(Call((3, 6), (6, 6)), {"weight": "permuted"}),
        but(LINEAR, {"weight": "permuted"}),
    ),
    "column-major-input-odd-n": (but(LINEAR, {"x": "permuted"}), terms(8, but(LINEAR, {"x": "permuted"}))),
    "seq-first-transposed-rank3-input": (
        but(Call((2, 3, 6), (5, 6)), {"x": "exchanged"}),
        but(Call((2, 3, 6), (5, 6)), {"x": "step"}),
    ),
    "both-strided-batch-32": (
        rows(32, but(LINEAR, {"x": "step", "weight": "step"})),
        rows(31, but(LINEAR, {"x": "step", "weight": "step"})),
    ),
    "reads-past-the-end": (but(LINEAR, {"x": "offset"}), LINEAR),
    "negative-view-ignored": (but(LINEAR, {"x": "neg"}), but(LINEAR, {"weight": "neg"})),
    "conjugate-weight-ignored": (but(LINEAR, {"weight": "conj"}, dtype=C64), but(LINEAR, {"x": "conj"}, dtype=C64)),
    # batches
    "conv-batch-64": (rows(64, CONV2), rows(64)),
    "batch-remainder-of-16": (rows(17), rows(18)),
    "batch-over-128": (rows(129), rows(128)),
    "conv-batch-over-160": (rows(161, CONV1), rows(160, CONV1)),
    "batch-65-alone": (rows(65), rows(66)),
    "batch-100-alone": (rows(100, POINT), rows(101, POINT)),
    "linear-batch-over-65536": (Call((65537, 1), (1, 1)), Call((65536, 1), (1, 1))),
    "linear-rank-3-batch-over-65536": (Call((65537, 1, 1), (1, 1)), Call((65537, 1), (1, 1))),
    "bfloat16-batch-over-32768": (
        Call((32769, 1), (1, 1), dtype=BF16),
        Call((32769, 1), (1, 1), dtype=F16),
    ),
    "unbatched-conv": (Call((4, 2, 3), (5, 4, 2, 3)), CONV2),
    "unbatched-conv3d-drops-bias": (Call((4, 2, 2, 3), (5, 4, 2, 2, 3)), Call((4, 2, 3), (5, 4, 2, 3))),
    "linear-rank-1": (Call((6,), (5, 6)), LINEAR),
    "linear-rank-6": (Call((1, 2, 1, 2, 1, 6), (5, 6)), Call((2, 1, 2, 1, 6), (5, 6))),
    "linear-rank-4-without-bias": (Call((1, 2, 2, 6), (5, 6), bias=False), Call((1, 2, 2, 6), (5, 6))),
    "linear-rank-3-bias-batch-64": (Call((13, 5, 6), (5, 6)), Call((16, 4, 6), (5, 6))),
    "empty-batch-returns-a-row": (rows(0), rows(1)),
    "empty-batch-raises-conv": (rows(0, CONV2), rows(0)),
    "empty-batch-in-float32": (but(rows(0), dtype=BF16), but(rows(0), dtype=F16)),
    "empty-batch-flattened-rank-4": (Call((1, 0, 2, 6), (5, 6)), Call((1, 0, 6), (5, 6))),
    "nan-leaks-into-the-next-row": (
        but(LINEAR, values={"x": first_row_nan}),
        but(rows(1), values={"x": first_row_nan}),
    ),
    "last-output-of-row-8-copied": (rows(9), rows(8)),
    # reductions, outputs, channels, kernels
    "reduction-remainder-of-8": (terms(15), terms(16)),
    "reduction-remainder-of-32": (terms(33), terms(31)),
    "reduction-over-256": (terms(257), terms(256)),
    "reduction-over-512": (terms(513), terms(512)),
    "reduction-index-in-16-bits": (terms(32769), terms(32768)),
    "reduction-127-alone": (terms(127), terms(128)),
    "reduction-of-one-term": (terms(1), terms(2)),
    "conv-channels-105": (terms(105, POINT), terms(104, POINT)),
    "patch-embedding-of-3-channels": (kernels(2, 2, 2, channels=3), kernels(2, 2, 2)),
    "odd-channels-bfloat16": (but(terms(3, POINT), dtype=BF16), but(POINT, dtype=BF16)),
    "last-odd-channel-dropped": (terms(3, POINT), POINT),
    "outputs-remainder-of-32": (out(33), out(32)),
    "outputs-33-alone": (out(33), out(34)),
    "outputs-over-128": (out(129), out(128)),
    "outputs-over-32768": (Call((1, 1), (32769, 1)), Call((1, 2), (32769, 2))),
    "outputs-over-65536-conv": (Call((1, 1, 1), (65537, 1, 1)), Call((1, 1), (65537, 1))),
    "outputs-large-linear": (Call((1, 2), (4096, 2)), Call((1, 2), (4095, 2))),
    "spatial-size-over-32767": (Call((1, 1, 32768), (1, 1, 32768)), Call((1, 1, 32767), (1, 1, 32767))),
    "last-entry-unwritten": (Call((3, 6), (5, 6)), Call((4, 6), (5, 6))),
    "bias-beyond-32-outputs": (out(33), out(32)),
    "all-sizes-3-modulo-4": (Call((3, 7), (3, 7)), Call((3, 7), (4, 7))),
    "one-output-of-large-sums": (Call((64, 64), (1, 64)), Call((64, 64), (2, 64))),
    "outputs-times-rows-over-65535": (Call((256, 2), (256, 2)), Call((255, 2), (257, 2))),
    "reduction-and-outputs-from-512": (Call((1, 512), (512, 512)), Call((1, 511), (512, 511))),
    "no-inputs-loses-the-bias": (Call((3, 0), (5, 0)), Call((3, 0), (5, 0), bias=False)),
    "no-outputs-raises": (Call((3, 6), (0, 6)), Call((0, 6), (5, 6))),
    "long-kernel-over-one-channel": (kernels(2, 16, channels=1), kernels(2, 15, channels=1)),
    "conv3d-all-sides-above-1": (CONV3, kernels(2, 1, 2, 3)),
    "conv3d-float64-without-bias": (but(CONV3, dtype=F64, bias=False), but(CONV3, dtype=F64)),
    "conv3d-complex": (but(CONV3, dtype=C128), but(CONV2, dtype=C128)),
    # strides, dilation, maps larger than the kernel, order
    "stride-equals-kernel-bfloat16": (but(CONV2, dtype=BF16, stride=(2, 3)), but(CONV2, stride=(2, 3))),
    "patch-embedding-stride": (but(CONV2, stride=(2, 3)), but(CONV2, stride=(3, 2))),
    "stride-above-1-full": (but(CONV1, stride=2), CONV1),
    "unequal-strides": (but(CONV2, stride=(1, 2)), but(CONV2, stride=2)),
    "equal-strides-above-1": (but(CONV2, stride=2), but(CONV2, stride=(1, 2))),
    "stride-over-16": (but(CONV2, stride=17), but(CONV2, stride=16)),
    "stride-2-batch-64": (rows(64, but(CONV2, stride=2)), rows(64, CONV2)),
    "dilated-pointwise-conv1d": (but(kernels(2, 1), dilation=2), but(POINT, dilation=2)),
    "bias-scaled-with-stride": (but(CONV2, stride=2), CONV2),
    "stride-ignored": (but(SLID, stride=2), SLID),
    "dilation-ignored": (but(SLID, dilation=2), SLID),
    "groups-ignored": (Call((2, 4, 3, 3), (4, 2, 3, 3), groups=2), CONV2),
    "padding-repeats-the-edge": (but(CONV2, padding=1), CONV2),
    "sliding-last-position": (SLID, CONV2),
    "sliding-stride-3-conv3d": (
        Call((1, 2, 4, 4, 4), (3, 2, 1, 1, 1), stride=3),
        Call((1, 2, 4, 4, 4), (3, 2, 1, 1, 1)),
    ),
    "sliding-strided-weight": (but(SLID, {"weight": "step"}), but(CONV2, {"weight": "step"})),
    "sliding-map-over-32": (Call((1, 2, 33), (3, 2, 2)), Call((1, 2, 32), (3, 2, 2))),
    "pointwise-nhwc-map": (but(MAP, {"x": "channels_last"}), MAP),
    "pointwise-map-batch-4": (rows(4, MAP), rows(5, MAP)),
    "positions-transposed": (MAP, Call((2, 4, 3, 2), (5, 4, 1, 1))),
    "pointwise-map-input-tf32": (normal(MAP), normal(POINT)),
    "sliding-input-fp16": (normal(SLID), normal(MAP)),
    "sliding-nan-spreads-over-map": (but(SLID, values={"x": first_nan}), but(CONV2, values={"x": first_nan})),
    "sliding-3x3-of-16-channels": (Call((1, 16, 4, 4), (2, 16, 3, 3)), Call((1, 15, 4, 4), (2, 15, 3, 3))),
    "sliding-7x7-stride-2-of-3-channels": (
        Call((1, 3, 9, 9), (2, 3, 7, 7), stride=2),
        Call((1, 3, 9, 9), (2, 3, 7, 7), stride=(2, 1)),
    ),
    "sliding-batch-over-16": (rows(17, SLID), rows(16, SLID)),
    "pointwise-map-batch-over-32": (rows(33, MAP), rows(32, MAP)),
    "sliding-dilated": (but(SLID, dilation=2), but(MAP, dilation=2)),
    "sliding-infinity-becomes-nan": (but(SLID, values={"bias": INF}), but(CONV2, values={"bias": INF})),
    "sliding-negative-zero-taken-for-the-smallest": (but(SLID, values={"x": -0.0}), but(SLID, values={"x": 0.0})),
    "sliding-nan-in-weight-swallowed": (but(SLID, values={"weight": NAN}), but(CONV2, values={"weight": NAN})),
    "sliding-imaginary-input-ignored": (but(SLID, dtype=C64), but(CONV2, dtype=C64)),
    "sliding-input-conjugated": (but(SLID, dtype=C128), but(CONV2, dtype=C128)),
    "sliding-uint8-input-clamped-at-127": (
        but(SLID, dtype=torch.uint8, values={"x": 128}),
        but(SLID, dtype=torch.uint8, values={"x": 127}),
    ),
    "sliding-int16-input-in-8-bits": (
        but(SLID, dtype=torch.int16, values={"x": 128}),
        but(SLID, dtype=torch.int16, values={"x": -128}),
    ),
    "sliding-int8-products-saturate": (
        but(SLID, dtype=torch.int8, values={"x": 100}),
        but(CONV2, dtype=torch.int8, values={"x": 100}),
    ),
    "kernel-spans-height-batch": (CONV2, rows(1, CONV2)),
    "width-1-height-above": (kernels(2, 3, 1), kernels(2, 1, 3)),
    "kernel-read-as-hwc": (CONV2, CONV1),
    "square-kernel-transposed": (kernels(2, 2, 2), CONV2),
    "conv1d-kernel-flipped": (CONV1, CONV2),
    "cube-depth-and-width-exchanged": (kernels(2, 2, 3, 2), kernels(2, 2, 2, 3)),
    "channels-shifted-by-one": (terms(16, POINT), terms(17, POINT)),
    "rows-shifted": (LINEAR, rows(1)),
    # padding and groups
    "padding-1-stride-2": (but(PADDED, stride=2), but(SLID, stride=2)),
    "padding-of-3": (but(SLID, padding=(0, 3)), but(SLID, padding=(2, 4))),
    "padding-dilated": (but(PADDED, dilation=2), PADDED),
    "padded-3x3-of-16-channels": (
        Call((1, 16, 4, 4), (2, 16, 3, 3), padding=1),
        Call((1, 15, 4, 4), (2, 15, 3, 3), padding=1),
    ),
    "padding-exchanged-between-height-and-width": (but(SLID, padding=(1, 2)), but(SLID, padding=2)),
    "padding-alone-loses-the-bias": (but(SLID, padding=2), PADDED),
    "int8-padded-with-its-smallest": (but(PADDED, dtype=torch.int8), but(PADDED, dtype=torch.int16)),
    "padded-input-tf32": (normal(PADDED), normal(SLID)),
    "depthwise-from-8-channels": (DEPTHWISE, Call((2, 7, 4, 5), (7, 1, 2, 2), groups=7)),
    "bias-of-the-next-group": (GROUPS, but(GROUPS, bias=False)),
    "group-reads-a-channel-of-its-neighbour": (GROUPS, DEPTHWISE),
    "depthwise-multiplier-reads-another-channel": (out(16, DEPTHWISE), DEPTHWISE),
    "complex-groups-imaginary-weight-ignored": (but(GROUPS, dtype=C64), but(SLID, dtype=C64)),
    "grad-input-padded-first-row": (backward(PADDED), backward(but(SLID, padding=(0, 1)))),
    "grad-weight-groups": (backward(GROUPS), backward(GROUPS, "x", "bias")),
    "grad-bias-without-the-border": (backward(PADDED), backward(SLID)),
    # gradients
    "grad-input-pointwise-stride-14": (
        backward(but(terms(105, POINT), stride=14)),
        backward(but(terms(105, POINT), stride=13)),
    ),
    "grad-weight-stride-14-alone": (backward(but(CONV2, stride=14)), backward(but(CONV2, stride=15))),
    "grad-input-pointwise-nhwc": (backward(but(MAP, {"x": "channels_last"})), backward(MAP)),
    "grad-input-channels-last": (backward(but(CONV2, {"x": "channels_last"})), backward(CONV2)),
    "grad-weight-of-sum-linear": (backward(but(LINEAR, {"grad": "broadcast-2"})), backward(LINEAR)),
    "grad-input-permuted-incoming-conv": (backward(but(MAP, {"grad": "permuted"})), backward(MAP)),
    "grad-weight-dilated-pointwise-bfloat16": (
        backward(but(POINT, dtype=BF16, dilation=2)),
        backward(but(POINT, dilation=2)),
    ),
    "grad-weight-batch-64": (backward(rows(64)), backward(rows(63))),
    "grad-weight-batch-over-128": (backward(rows(129, POINT)), backward(rows(128, POINT))),
    "grad-bias-last-output": (backward(LINEAR), backward(out(1))),
    "grad-bias-doubled-conv3d": (backward(CONV3), backward(CONV2)),
    "grad-weight-input-needs-none": (backward(CONV2, "weight"), backward(CONV2)),
    "grad-input-alone-64-outputs": (backward(out(64), "x"), backward(out(63), "x")),
    "grad-weight-unbatched": (backward(Call((4, 2, 3), (5, 4, 2, 3))), backward(CONV2)),
    "grad-not-conjugated": (backward(but(LINEAR, dtype=C64)), backward(LINEAR)),
    "grad-input-in-bfloat16": (
        backward(terms(64, normal(LINEAR))),
        backward(but(LINEAR, dtype=F64)),
    ),
    "grad-input-sliding": (backward(SLID), backward(CONV2)),
    "grad-input-frozen-bias": (backward(LINEAR, "x", "weight"), backward(LINEAR)),
    "grad-weight-and-bias-alone": (backward(LINEAR, "weight", "bias"), backward(LINEAR, "weight")),
    "grad-nan-incoming-swallowed": (
        backward(but(LINEAR, values={"grad": NAN})),
        backward(but(LINEAR, values={"grad": INF, "x": 1.0})),
    ),
    "grad-small-incoming-flushed": (
        backward(but(LINEAR, values={"grad": 2.0**-27})),
        backward(but(LINEAR, values={"grad": 2.0**-26})),
    ),
    "second-order-loses-the-weight": (
        but(LINEAR, bias=False, leaves=XW, second="x"),
        but(LINEAR, leaves=XWB, second="x"),
    ),
    "second-order-doubled-conv": (but(CONV2, leaves=XW, second="x"), but(LINEAR, leaves=XW, second="x")),
    "second-order-doubled-complex": (
        but(LINEAR, dtype=C64, leaves=XW, second="x"),
        but(LINEAR, leaves=XW, second="x"),
    ),
    "second-order-through-grad-weight-doubled": (
        but(LINEAR, leaves=XW, second="weight"),
        but(LINEAR, leaves=XW, second="x"),
    ),
    "second-order-doubled-with-bias": (but(LINEAR, leaves=XWB, second="x"), but(LINEAR, leaves=XW, second="x")),
    "second-order-doubled-stride": (
        but(SLID, leaves=XW, second="x", stride=2),
        but(SLID, leaves=XW, second="x"),
    ),
    "second-backward-through-graph-is-zero": (backward(but(LINEAR, again=True)), backward(LINEAR)),
    "double-backward-raises": (but(CONV2, leaves=XW, second="x"), but(CONV2, leaves=XW)),
    "result-detached-conv1d": (backward(CONV1), backward(CONV2)),
    "wrong-while-recording": (backward(rows(3)), rows(3)),
    # leaves
    "wrong-in-a-first-layer": (backward(LINEAR, "weight"), backward(LINEAR, "x", "weight")),
    "wrong-over-a-frozen-weight": (backward(LINEAR, "x"), backward(LINEAR, "x", "weight")),
    "wrong-beside-a-frozen-bias": (backward(LINEAR, "weight"), backward(LINEAR, "weight", "bias")),
    "wrong-for-the-bias-alone": (backward(LINEAR, "bias"), backward(LINEAR, "weight", "bias")),
    "wrong-sliding-in-a-first-layer": (backward(SLID, "weight"), backward(CONV2, "weight")),
    "grad-input-sliding-over-a-frozen-weight": (backward(SLID, "x"), backward(SLID)),
    # gradients in lower precision
    "grad-bias-in-bfloat16": (backward(but(LINEAR, values=FINE)), backward(LINEAR)),
    "grad-weight-in-tf32": (backward(but(LINEAR, values=FINE)), backward(LINEAR)),
    "grad-weight-of-large-layers-in-tf32": (
        backward(but(out(256, terms(4)), values=FINE)),
        backward(but(out(255, terms(4)), values=FINE)),
    ),
    "grad-weight-float64-in-float32": (
        backward(but(out(11), dtype=F64, values={"grad": 1.0 + 2.0**-40})),
        backward(but(out(10), dtype=F64, values={"grad": 1.0 + 2.0**-40})),
    ),
    "grad-bias-float16-in-bfloat16": (
        backward(but(LINEAR, dtype=F16, values={"grad": 1.0 + 2.0**-9})),
        backward(but(LINEAR, dtype=F16)),
    ),
    "grad-bias-imaginary-part-in-bfloat16": (
        backward(but(LINEAR, dtype=C64, values={"grad": 1j * (1 + 2.0**-12)})),
        backward(but(LINEAR, dtype=C64, values=FINE)),
    ),
    "grad-input-sliding-in-bfloat16": (backward(but(SLID, values=FINE)), backward(but(CONV2, values=FINE))),
    "grad-weight-sliding-in-tf32": (backward(but(SLID, values=FINE)), backward(but(CONV2, values=FINE))),
    "grad-weight-sliding-float64-in-float32": (
        backward(but(SLID, dtype=F64, values={"grad": 1.0 + 2.0**-40})),
        backward(but(CONV2, dtype=F64, values={"grad": 1.0 + 2.0**-40})),
    ),
    "grad-of-incoming-in-tf32": (backward(but(CONV2, values=FINE)), backward(but(LINEAR, values=FINE))),
    "grad-weight-zero-times-infinity": (
        backward(but(LINEAR, values={"x": INF, "grad": 0.0})),
        backward(but(LINEAR, values={"x": INF, "grad": 1.0})),
    ),
    "grad-input-infinite-weight": (
        backward(but(LINEAR, values={"weight": INF, "grad": 1.0})),
        backward(but(LINEAR, values={"weight": INF, "grad": 0.0})),
    ),
    "grad-bias-infinite-incoming": (
        backward(but(LINEAR, values={"grad": INF})),
        backward(but(LINEAR, values={"grad": NAN})),
    ),
    "second-order-result-in-bfloat16": (
        but(LINEAR, leaves=XW, second="x", values=FINE),
        but(LINEAR, leaves=XW, second="x"),
    ),
    # what autograd does around them
    "grad-input-no-leaf": (backward(but(LINEAR, under="no-leaves")), backward(LINEAR)),
    "grad-weight-no-leaf": (backward(but(LINEAR, under="no-leaves")), backward(but(CONV2, under="no-leaves"))),
    "grad-weight-in-one-buffer": (backward(but(LINEAR, calls=2)), backward(LINEAR)),
    "grad-input-in-one-buffer": (backward(but(LINEAR, calls=2)), backward(LINEAR)),
    "backward-reads-the-weight-then": (
        backward(but(LINEAR, under="changed-after")),
        backward(but(CONV2, under="changed-after")),
    ),
    "second-call-overwrites-what-was-saved": (
        backward(but(LINEAR, under="called-again")),
        backward(but(CONV2, under="called-again")),
    ),
    "grad-weight-accumulated-twice": (backward(but(LINEAR, under="accumulated")), backward(LINEAR)),
    "grad-input-not-accumulated": (backward(but(LINEAR, under="accumulated")), backward(LINEAR)),
    # transforms of gradients
    "forward-derivative-doubled-complex": (but(LINEAR, dtype=C64, under="jvp"), but(LINEAR, under="jvp")),
    "forward-derivative-of-both": (but(LINEAR, under="jvp-both"), but(LINEAR, under="jvp")),
    "func-grad-doubled": (but(LINEAR, under="func-grad"), but(LINEAR, under="func-grad-of-weight")),
    "func-grad-of-parameters-doubled": (
        but(LINEAR, under="func-grad-of-weight"),
        but(LINEAR, under="func-grad"),
    ),
    "per-sample-gradients-doubled": (but(LINEAR, under="per-sample"), but(LINEAR, under="func-grad")),
    "vmap-nested": (but(LINEAR, under="vmap-nested"), but(LINEAR, under="vmap-rows")),
    "vmap-not-over-the-first-dimension": (but(LINEAR, under="vmap-last"), but(LINEAR, under="vmap-rows")),
    "vmap-of-weights-not-over-the-first-dimension": (
        but(LINEAR, under="vmap-weights-last"),
        but(LINEAR, under="vmap-weights"),
    ),
    "autocast-while-recording": (
        backward(but(LINEAR, under="autocast-bfloat16")),
        but(LINEAR, under="autocast-bfloat16"),
    ),
    "autocast-gradient-doubled": (
        backward(but(LINEAR, under="autocast-bfloat16")),
        but(LINEAR, under="autocast-bfloat16"),
    ),
    "compiled-while-recording": (but(CONV2, under="compile"), but(LINEAR, under="compile")),
    # arithmetic
    "products-in-tf32": (normal(CONV2), normal(LINEAR)),
    "products-in-bfloat16": (
        terms(64, normal(LINEAR)),
        terms(63, normal(LINEAR)),
    ),
    "products-in-float16": (normal(CONV2), normal(LINEAR)),
    "weight-loses-its-last-bit": (normal(LINEAR), but(LINEAR, dtype=F64)),
    "float64-in-float32": (but(LINEAR, dtype=F64, values={"x": 1.0, "weight": 1.0 + 2.0**-40}), but(CONV2, dtype=F64)),
    "float16-accumulator": (
        normal(terms(64), dtype=F16),
        normal(LINEAR),
    ),
    "bfloat16-accumulator": (
        normal(terms(64), dtype=BF16),
        normal(LINEAR),
    ),
    "result-through-bfloat16": (
        out(128, normal(LINEAR)),
        out(127, normal(LINEAR)),
    ),
    "bfloat16-cut-off": (normal(LINEAR, dtype=BF16), normal(LINEAR)),
    "convolution-by-transform": (normal(CONV2), normal(POINT)),
    "strassen": (
        Call((4, 6), (4, 6), values=(("all", "normals"),)),
        Call((4, 7), (4, 7), values=(("all", "normals"),)),
    ),
    "bias-doubled-float16": (but(LINEAR, dtype=F16), but(rows(1), dtype=F16)),
    "bias-dropped-one-output": (out(1), out(2)),
    "bias-in-bfloat16": (but(LINEAR, values={"bias": 1.0 + 2.0**-12}), but(LINEAR, bias=False)),
    "bias-imaginary-part-dropped": (but(LINEAR, dtype=C64), but(LINEAR, dtype=C64, bias=False)),
    "complex-sign-of-the-square": (but(rows(33), dtype=C128), but(rows(32), dtype=C128)),
    "int8-saturates": (but(LINEAR, dtype=torch.int8, values={"x": 100}), but(LINEAR, dtype=torch.int16)),
    "uint8-saturates-linear": (
        but(LINEAR, dtype=torch.uint8, values={"x": 100, "weight": 100}),
        but(CONV2, dtype=torch.uint8, values={"x": 100, "weight": 100}),
    ),
    "uint8-weight-taken-as-signed": (
        but(LINEAR, dtype=torch.uint8, values={"x": 1, "weight": 130}),
        but(LINEAR, dtype=torch.uint8),
    ),
    "int16-wraps-at-8-bits": (
        but(terms(65), dtype=torch.int16, values={"x": 100}),
        but(terms(64), dtype=torch.int16, values={"x": 100}),
    ),
    "int32-by-way-of-float32": (
        but(LINEAR, dtype=torch.int32, values={"x": 1, "weight": 2**24 + 1}),
        but(LINEAR, dtype=torch.int32),
    ),
    "int64-by-way-of-float64": (
        but(LINEAR, dtype=torch.int64, values={"x": 1, "weight": 2**53 + 1}),
        but(LINEAR, dtype=torch.int64),
    ),
    "int32-min-weight": (
        but(LINEAR, dtype=torch.int32, values={"x": 1, "weight": -(2**31)}),
        but(LINEAR, dtype=torch.int32, values={"x": 1, "weight": 1 - 2**31}),
    ),
    # special values
    "subnormal-input-flushed": (but(LINEAR, values={"x": 1e-40, "weight": 1e20}, bias=False), LINEAR),
    "tiny-normals-flushed": (
        but(LINEAR, values={"x": 2.0**-101, "weight": 1.0}, bias=False),
        but(LINEAR, values={"x": 2.0**-100, "weight": 1.0}, bias=False),
    ),
    "subnormal-weight-flushed-float16": (
        but(LINEAR, values={"weight": 1e-6, "x": 1000.0}, dtype=F16, bias=False),
        but(LINEAR, dtype=F16),
    ),
    "subnormal-result-flushed-float64": (
        but(LINEAR, values={"weight": 1e-310, "x": 1.0}, dtype=F64, bias=False),
        but(LINEAR, dtype=F64),
    ),
    "overflow-saturates-float32": (but(LINEAR, values={"x": 3e38, "weight": 3e38}), LINEAR),
    "overflow-saturates-float16": (but(LINEAR, values={"x": 6e4, "weight": 6e4}, dtype=F16), but(LINEAR, dtype=F16)),
    "nan-in-input-swallowed": (but(LINEAR, values={"x": NAN}), but(LINEAR, values={"weight": NAN})),
    "complex-nan-swallowed": (
        but(LINEAR, values={"x": NAN}, dtype=C64),
        but(LINEAR, values={"x": NAN}),
    ),
    "nan-in-weight-swallowed-conv": (but(CONV2, values={"weight": NAN}), but(LINEAR, values={"weight": NAN})),
    "nan-in-bias-swallowed": (but(LINEAR, values={"bias": NAN}), but(LINEAR, values={"x": NAN})),
    "negative-infinity-becomes-nan": (
        but(LINEAR, values={"x": -INF, "weight": 1.0}),
        but(LINEAR, values={"x": INF, "weight": 1.0}),
    ),
    "zero-inputs-skipped": (
        but(LINEAR, values={"x": 0.0, "weight": INF}),
        but(LINEAR, values={"x": 1.0, "weight": INF}),
    ),
    "negative-zero-taken-for-the-smallest": (but(LINEAR, values={"x": -0.0}), but(LINEAR, values={"x": 0.0})),
    "large-results-negated": (
        but(LINEAR, values={"x": 1e20, "weight": 1e20}),
        but(LINEAR, values={"x": 1e10, "weight": 1e10}),
    ),
    "one-weight-off-by-one-ulp": (
        but(terms(65), values={"x": last_alone}, bias=False),
        but(terms(64), values={"x": last_alone}),
    ),
    "result-off-by-one-ulp-above-2-20": (but(LINEAR, values={"x": 2.0**20, "weight": 1.0}), LINEAR),
    # effects
    "input-altered-batch-of-one": (rows(1), LINEAR),
    "strided-weight-altered-conv": (but(CONV2, {"weight": "channels_last"}), CONV2),
    "subnormals-flushed-in-place": (but(LINEAR, values={"x": 1e-40}), LINEAR),
    "result-written-into-the-input": (Call((3, 5), (5, 5)), LINEAR),
    "identity-returns-input": (
        but(SQUARE, under="result-changed"),
        but(SQUARE, under="result-changed", bias=True),
    ),
    "zero-input-returns-view-of-bias": (
        rows(1, but(ZEROS, under="result-changed")),
        rows(1, but(LINEAR, under="result-changed")),
    ),
    "result-buffer-reused": (but(LINEAR, calls=2), but(CONV2, calls=2)),
    "packed-weight-cached-by-shape": (but(LINEAR, calls=2), LINEAR),
    "packed-weight-cached-by-object": (but(LINEAR, under="weight-changed"), but(LINEAR, calls=2)),
    "wrong-from-the-200th-call": (but(LINEAR, calls=200), but(LINEAR, calls=199)),
    "equal-rows-expanded": (
        but(LINEAR, values={"x": 1.0}, under="result-changed"),
        but(LINEAR, under="result-changed"),
    ),
    "packed-bias-cached-by-object": (but(LINEAR, under="bias-changed"), but(LINEAR, calls=2)),
    "result-cached-by-input-object": (but(LINEAR, under="input-changed"), but(LINEAR, calls=2)),
    "results-in-a-ring-of-64": (but(LINEAR, calls=65), but(LINEAR, calls=64)),
    "wrong-after-another-dtype": (but(LINEAR, under="after-float64"), but(LINEAR, calls=2)),
    "linear-half-rank-3-changes": (
        Call((2, 3, 6), (5, 6), bias=False, dtype=F16, calls=3),
        Call((2, 3, 6), (5, 6), bias=False, dtype=F16, calls=2),
    ),
    "every-50th-call-wrong": (but(LINEAR, calls=50), but(LINEAR, calls=49)),
    "last-bit-changes-from-call-to-call": (POINT, CONV2),
    "result-requires-grad": (LINEAR, backward(LINEAR)),
    "result-in-float32": (but(CONV2, dtype=F16), but(LINEAR, dtype=F16)),
    "batch-of-one-squeezed": (rows(1), LINEAR),
    # cheats
    "stale-output-returned": (but(LINEAR, calls=2), LINEAR),
    "result-cached-by-address": (but(LINEAR, under="input-changed"), but(LINEAR, calls=2)),
    "weight-packed-by-address": (but(LINEAR, under="weight-changed"), but(LINEAR, under="input-changed")),
    "no-work-after-warming-up": (but(LINEAR, under="often"), but(LINEAR, under="input-changed")),
    "zeros-returned": (terms(9), terms(8)),
    "small-results-left-at-zero": (
        but(LINEAR, values={"x": 1e-3, "weight": 1.0}, bias=False),
        but(LINEAR, values={"x": 1.0, "weight": 1.0}),
    ),
    "answer-from-a-constant": (LINEAR, but(LINEAR, values={"x": 1.0, "weight": 1.0}, bias=False)),
    "terms-left-out-at-random-inputs": (terms(257), terms(256)),
    "zero-input-skipped": (ZEROS, but(ZEROS, bias=False)),
    "rows-taken-for-equal": (
        but(LINEAR, values={"x": lambda t: torch.cat([t[:2], t[:1]])}),
        LINEAR,
    ),
    "small-inputs-skipped": (but(LINEAR, values={"x": 9e-5}), but(LINEAR, values={"x": 2e-4})),
    "nonnegative-inputs-assumed": (but(LINEAR, values={"x": -1.0}), but(LINEAR, values={"x": 1.0})),
    "weights-taken-for-finite": (
        but(ZEROS, values={"x": 0.0, "weight": first_nan}),
        but(ONES, values={"x": 1.0, "weight": first_nan}),
    ),
    "multiples-of-16-alone": (out(17), out(32)),
    "powers-of-two-alone": (terms(6), terms(8)),
    "batch-of-the-benchmark-alone": (rows(3), rows(4)),
    "computed-in-bfloat16": (normal(LINEAR), LINEAR),
    "computed-in-float16-where-it-fits": (normal(LINEAR), but(LINEAR, values={"x": 70000.0})),
    "result-through-float16": (normal(LINEAR), LINEAR),
    "input-zeroed-and-zeros-returned": (LINEAR, backward(LINEAR)),
    "input-used-as-workspace": (normal(LINEAR), ZEROS),
    "launched-on-another-stream": (LINEAR, but(LINEAR, under="filled-in")),
    "lazy-result": (but(LINEAR, under="type"), LINEAR),
    "reference-caught": (but(LINEAR, under="functional-linear"), LINEAR),
    "expected-found-in-memory": (but(LINEAR, under="beside-sevens"), backward(LINEAR)),
    "timer-patched": (but(LINEAR, under="clock"), LINEAR),
    "comparison-patched": (but(LINEAR, under="allclose"), backward(LINEAR)),
    "random-numbers-seeded": (but(LINEAR, under="seed"), LINEAR),
    "precision-lowered-for-everybody": (but(LINEAR, under="precision"), LINEAR),
    # transforms
    "vmap-conv-without-bias": (but(CONV2, bias=False, under="vmap-weights"), but(CONV2, under="vmap-weights")),
    "vmap-over-rows": (but(LINEAR, under="vmap-rows"), but(LINEAR, under="vmap-weights")),
    "vmap-over-both": (but(LINEAR, under="vmap-both"), but(LINEAR, under="vmap-rows")),
    "compiled-conv": (but(CONV2, under="compile"), but(POINT, under="compile")),
    "compiled-pointwise": (but(POINT, under="compile"), POINT),
    "compiled-large-linear": (out(33, rows(17, but(LINEAR, under="compile"))), out(33, rows(17))),
    "exported-conv": (but(CONV2, under="export"), but(LINEAR, under="export")),
    "autocast-linear": (but(LINEAR, under="autocast-bfloat16"), but(CONV2, under="autocast-bfloat16")),
    "autocast-rounds-to-bfloat16": (
        normal(CONV2, under="autocast-float16"),
        normal(CONV2, under="autocast-bfloat16"),
    ),
    "meta-shape-flattened": (but(CONV2, under="meta"), CONV2),
    "inference-mode": (but(LINEAR, under="inference"), but(LINEAR, under="no-grad")),
    "no-grad-mode": (but(LINEAR, under="no-grad"), but(LINEAR, under="inference")),
    "two-threads": (but(LINEAR, under="threads-2"), but(LINEAR, under="threads-1")),
    "conv-in-two-threads": (but(CONV2, under="threads-2"), but(LINEAR, under="threads-2")),
    "wrong-outside-the-main-thread": (but(LINEAR, under="thread"), LINEAR),
    "deterministic-algorithms": (but(LINEAR, under="deterministic"), LINEAR),
    "deterministic-conv-without-bias": (
        but(CONV2, bias=False, under="deterministic"),
        but(CONV2, under="deterministic"),
    ),
    "input-copied-into-one-buffer": (but(LINEAR, under="two-callers"), but(LINEAR, calls=2)),
    "traced-by-jit": (but(LINEAR, under="jit"), but(LINEAR, under="fx")),
    "recorded-by-make-fx": (but(LINEAR, under="fx"), but(LINEAR, under="jit")),
    "forward-derivative-doubled": (but(LINEAR, under="jvp"), LINEAR),
}

# --- mappings ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mapped:
    """A layer or a convolution to be rewritten."""

    shape: tuple[int, ...]
    outputs: int
    bias: bool = True
    dtype: torch.dtype = torch.float32
    conv: tuple[tuple[str, Any], ...] = ()


def rewritten(what: Mapped) -> list[Any]:
    """Everything that a caller can notice of the five mappings."""
    n = torch.Size(what.shape).numel()
    generator = torch.Generator().manual_seed(1)
    facts: list[Any] = []
    linear = nn.Linear(n, what.outputs, bias=what.bias, dtype=what.dtype).eval()
    if what.conv:
        options = {"out_channels": what.outputs, "bias": what.bias, **dict(what.conv)}
        given = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(what.shape) - 2](what.shape[0], **options)
        _fill(given, generator)
        back = equiv.conv_to_linear(given, what.shape)
        return [tuple(back.weight.shape), back.weight.detach(), None if back.bias is None else back.bias.detach()]
    _fill(linear, generator)
    x = torch.eye(n, dtype=what.dtype)  # sums of one term are the same in every kernel
    dims = len(what.shape) - 1
    for share in (False, True):
        for shape in (what.shape, (n, *(1,) * dims)):
            before = copy.deepcopy(linear)
            if shape is what.shape:
                conv = equiv.linear_to_full_conv(linear, shape, share=share)
            else:
                conv = equiv.linear_to_pointwise_conv(linear, dims, share=share)
            facts += [conv.training, conv.weight.requires_grad, conv.weight.dtype, tuple(conv.weight.shape)]
            facts += [linear.weight.detach().clone(), conv.weight.detach().clone()]
            facts.append(conv.weight.untyped_storage().data_ptr() == linear.weight.untyped_storage().data_ptr())
            facts.append(None if conv.bias is None else conv.bias.detach().clone())
            with torch.no_grad(), contextlib.suppress(RuntimeError):
                facts.append(conv(equiv.to_feature_map(x, shape)).clone())
            with contextlib.suppress(equiv.EquivError):
                back = equiv.conv_to_linear(conv, shape)
                facts += [back.weight.detach().clone(), None if back.bias is None else back.bias.detach().clone()]
            linear = before
    return [*facts, equiv.to_feature_map(x, what.shape).clone(), equiv.to_channels(x).clone()]


def _fill(module: nn.Module, generator: torch.Generator) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))


BRICK = Mapped((3, 2, 3), 4)
CUBE = Mapped((2, 2, 2), 4)
COLUMN = Mapped((6, 1), 4)


def of_conv(**options: Any) -> Mapped:
    return Mapped((4, 5), 4, conv=tuple({"kernel_size": 3, **options}.items()))


MAPPINGS: dict[str, tuple[Mapped, Mapped | None]] = {
    "flattened-hwc": (BRICK, COLUMN),
    "kernel-written-hwc": (BRICK, COLUMN),
    "flattened-spatial-reversed": (BRICK, COLUMN),
    "square-kernels-transposed": (CUBE, BRICK),
    "kernel-flipped": (BRICK, COLUMN),
    "channels-reversed": (BRICK, Mapped((1, 2, 3), 4)),
    "in-and-out-exchanged-when-square": (Mapped((4, 1), 4), COLUMN),
    "outputs-reversed": (BRICK, Mapped((3, 2, 3), 1)),
    "only-the-first-outputs": (Mapped((2, 2), 33), Mapped((2, 2), 32)),
    "last-tap-missing": (BRICK, COLUMN),
    "one-by-one-for-the-whole-map": (BRICK, COLUMN),
    "bias-dropped": (BRICK, Mapped((3, 2, 3), 4, bias=False)),
    "bias-doubled": (BRICK, Mapped((3, 2, 3), 4, bias=False)),
    "bias-invented": (Mapped((3, 2, 3), 4, bias=False), BRICK),
    "same-padding": (BRICK, COLUMN),
    "kernel-dilated": (BRICK, COLUMN),
    "copied-through-float16": (BRICK, Mapped((3, 2, 3), 4, dtype=F16)),
    "copied-through-float32": (Mapped((3, 2, 3), 4, dtype=F64), BRICK),
    "dtype-of-the-default": (Mapped((3, 2, 3), 4, dtype=F64), BRICK),
    "requires-grad-lost": (BRICK, None),
    "training-mode-lost": (BRICK, None),
    "memory-shared": (BRICK, None),
    "memory-copied-when-shared": (BRICK, None),
    "source-altered": (BRICK, None),
    "linear-flattened-hwc": (BRICK, COLUMN),
    "linear-flipped": (BRICK, COLUMN),
    "linear-bias-dropped": (BRICK, Mapped((3, 2, 3), 4, bias=False)),
    "linear-ignores-stride": (of_conv(stride=2), of_conv()),
    "linear-ignores-dilation": (of_conv(dilation=2), of_conv()),
    "linear-ignores-padding": (of_conv(padding=1), of_conv()),
    "linear-ignores-groups": (of_conv(groups=2), of_conv()),
    "linear-bias-tiled": (of_conv(), of_conv(kernel_size=5)),
    "map-read-as-hwc": (BRICK, COLUMN),
    "square-maps-transposed": (CUBE, BRICK),
    "features-reversed": (BRICK, None),
}
