"""What the strangers' faults are made of: a backend that is torch, the two ways to be wrong, and calls that show it."""

# ruff: noqa: ARG004 - torch and the others of a kind say what arguments there are
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from equiv.backends import Capabilities

CONVS = (functional.conv1d, functional.conv2d, functional.conv3d)


@dataclass
class Call:
    """One call of a backend, its keywords one number for each spatial dimension; ``rank`` 0 is a linear layer."""

    x: Tensor
    w: Tensor
    b: Tensor | None
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    groups: int = 1

    @property
    def rank(self) -> int:
        return self.w.ndim - 2

    @property
    def kernel(self) -> tuple[int, ...]:
        return tuple(self.w.shape[2:])

    @property
    def n(self) -> int:
        """Terms of a sum."""
        return self.w[0].numel() if len(self.w) else 0

    @property
    def rows(self) -> int:
        """Rows of a linear layer, samples of a convolution."""
        if self.rank:
            return self.x.shape[0] if self.batched else 1
        return self.x.shape[:-1].numel()

    @property
    def batched(self) -> bool:
        return self.x.ndim == self.w.ndim

    @property
    def slides(self) -> bool:
        """Whether the map is larger than the kernel."""
        return self.rank > 0 and tuple(self.x.shape[-self.rank :]) != self.kernel

    @property
    def plain(self) -> bool:
        """Stride 1, dilation 1, no padding, one group."""
        return {*self.stride, *self.dilation} <= {1} and not any(self.padding) and self.groups == 1

    def torch(self, **changes: Any) -> Tensor:
        """What torch makes of it, with other tensors or keywords."""
        call = replace(self, **changes)
        if not call.rank:
            return functional.linear(call.x, call.w, call.b)
        return CONVS[call.rank - 1](
            call.x, call.w, call.b, stride=call.stride, dilation=call.dilation, padding=call.padding, groups=call.groups
        )


class Torch:
    """A backend that is torch itself; faults override ``run``."""

    name = "torch"
    control: Any = None  # the same without the fault, where that is not torch itself
    device = torch.device("cpu")
    capabilities = Capabilities()

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None, /) -> Tensor:
        return self.run(Call(input, weight, bias))

    def conv(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        /,
        *,
        stride: int | tuple[int, ...] = 1,
        dilation: int | tuple[int, ...] = 1,
        padding: int | tuple[int, ...] = 0,
        groups: int = 1,
    ) -> Tensor:
        rank = weight.ndim - 2
        full = [(one,) * rank if isinstance(one, int) else tuple(one) for one in (stride, dilation, padding)]
        return self.run(Call(input, weight, bias, *full, groups))

    def run(self, call: Call) -> Tensor:
        return call.torch()


class _Shown(torch.autograd.Function):
    """The wrong values with the gradients of the right ones: forward and backward are kernels of their own."""

    generate_vmap_rule = True

    @staticmethod
    def forward(right: Tensor, wrong: Tensor) -> Tensor:
        return wrong.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0], None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        return tangents[0].clone()


def shown(right: Tensor, wrong: Tensor) -> Tensor:
    """``wrong``, with the gradients of ``right``."""
    return _Shown.apply(right, wrong.detach())


@dataclass
class Back:
    """What a backward pass has: the call, the gradient of its result, and the three right gradients."""

    call: Call
    g: Tensor
    x: Tensor | None
    w: Tensor | None
    b: Tensor | None
    memory: dict[Any, Any] = field(default_factory=dict)
    passes: int = 1


def gradients(call: Call, g: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """The gradients of input, weight and bias, made of operations that torch can differentiate again."""
    if not call.rank:
        rows = g.reshape(-1, g.shape[-1])
        x = g @ call.w.conj()
        return x, rows.mT @ call.x.reshape(-1, call.x.shape[-1]).conj(), None if call.b is None else rows.sum(0)
    lone = not call.batched
    x, g = (call.x[None], g[None]) if lone else (call.x, g)
    sizes = None if call.b is None else list(call.b.shape)
    found = torch.ops.aten.convolution_backward(
        g,
        x,
        call.w,
        sizes,
        call.stride,
        call.padding,
        call.dilation,
        False,
        [0] * call.rank,
        call.groups,
        [True, True, call.b is not None],
    )
    return found[0][0] if lone else found[0], found[1], None if call.b is None else found[2]


class _Own(torch.autograd.Function):
    """torch's forward pass, with a backward pass that may be altered."""

    @staticmethod
    def forward(ctx: Any, call: Call, alter: Any, memory: Any, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        ctx.call, ctx.alter, ctx.memory = replace(call, x=None, w=None, b=None), alter, memory
        ctx.save_for_backward(x, w, b)
        return call.torch(x=x, w=w, b=b)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, w, b = ctx.saved_tensors
        back = Back(replace(ctx.call, x=x, w=w, b=b), grads[0], *gradients(replace(ctx.call, x=x, w=w, b=b), grads[0]))
        back.memory, ctx.passes = ctx.memory, getattr(ctx, "passes", 0) + 1
        back.passes = ctx.passes
        back.memory["asked"] = ctx.needs_input_grad[3:]
        ctx.alter(back)
        found = (back.x, back.w, back.b)
        return (
            None,
            None,
            None,
            *(one if is_asked else None for one, is_asked in zip(found, back.memory["asked"], strict=True)),
        )


def own(call: Call, alter: Callable[[Back], None], memory: dict[Any, Any]) -> Tensor:
    """Torch's result, with gradients that ``alter`` changes in place of torch's."""
    return _Own.apply(call, alter, memory, call.x, call.w, call.b)


class Owned(Torch):
    """torch's results, with the gradients of ``gradients``: what faults of backward passes are but for their fault."""

    def run(self, call: Call) -> Tensor:
        return own(call, lambda _: None, {})


def numbers(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    """Integers from -3 to 3, of unsigned dtypes 0 to 3: every sum of a few thousand products is exact in float32."""
    generator = torch.Generator().manual_seed(seed)
    least = 0 if dtype == torch.uint8 else -3
    real = torch.randint(least, 4, shape, generator=generator)
    if dtype.is_complex:
        real = torch.complex(real.double(), torch.randint(-3, 4, shape, generator=generator).double())
    return real.to(dtype)


Change = Callable[[Tensor], Tensor]
Probe = Callable[[Any, torch.dtype], list[Tensor]]


@dataclass(frozen=True)
class Ask:
    """A call, or the same one several times: its results, and gradients where asked.

    ``x``, ``w``, ``b`` and ``g`` change tensors, such as their layout, before they are handed over.
    """

    shape: tuple[int, ...]
    weight: tuple[int, ...]
    bias: bool = True
    x: Change | None = None
    w: Change | None = None
    b: Change | None = None
    g: Change | None = None
    grads: str = ""
    second: bool = False
    times: int = 1
    keywords: dict[str, Any] = field(default_factory=dict)

    def tensors(self, dtype: torch.dtype) -> list[Tensor | None]:
        made: list[Tensor | None] = []
        shapes = (self.shape, self.weight, self.weight[:1] if self.bias else None)
        for seed, (name, shape) in enumerate(zip("xwb", shapes, strict=True), 1):
            change = getattr(self, name)
            one = None if shape is None else numbers(shape, dtype, seed)
            if one is not None and change is not None:
                one = change(one)
            made.append(one if one is None else one.detach().requires_grad_(name in self.grads))
        return made

    def __call__(self, backend: Any, dtype: torch.dtype) -> list[Tensor]:
        x, w, b = self.tensors(dtype)
        kernel = backend.linear if len(self.weight) == 2 else backend.conv
        found: list[Tensor] = []
        for _ in range(self.times):
            y = kernel(x, w, b, **self.keywords)
            found.append(y.detach().clone())
            if self.grads:
                found += self._gradients(
                    y, [one for one, name in zip((x, w, b), "xwb", strict=True) if name in self.grads]
                )
        return found

    def _gradients(self, y: Tensor, leaves: list[Any]) -> list[Tensor]:
        g = numbers(tuple(y.shape), y.dtype, 4)
        g = self.g(g) if self.g else g
        if not self.second:
            return list(torch.autograd.grad(y, leaves, g))
        g = g.detach().requires_grad_()
        first = torch.autograd.grad(y, leaves, g, create_graph=True)
        total = sum((one * numbers(tuple(one.shape), one.dtype, 5 + at)).sum() for at, one in enumerate(first))
        return [*(one.detach() for one in first), *torch.autograd.grad(total, [*leaves, g], materialize_grads=True)]


def lin(shape: tuple[int, ...], out: int, **more: Any) -> Ask:
    """A linear layer: the shape of its input, and its outputs."""
    return Ask(shape, (out, shape[-1]), **more)


def cnv(shape: tuple[int, ...], weight: tuple[int, ...], **more: Any) -> Ask:
    """A convolution: the shapes of input and weight; stride, dilation, padding and groups are keywords."""
    keywords = {key: more.pop(key) for key in ("stride", "dilation", "padding", "groups") if key in more}
    return Ask(shape, weight, keywords=keywords, **more)


@dataclass(frozen=True)
class Fault:
    """A backend that is torch's but for one condition: what is wrong and when, and where it was seen.

    ``differs`` is a call where its results are not torch's, ``equals`` a near one where they are, bit for bit.
    """

    id: str
    dimension: str
    dtype: str
    source: str
    says: str
    make: Callable[[], Any]
    differs: Probe
    equals: Probe


FAULTS: list[Fault] = []


def fault(
    id: str, dtype: str, source: str, says: str, *, differs: Probe, equals: Probe, dimension: str = ""
) -> Callable[[type], type]:
    """Add a class of backends to the faults; its module says the dimension, unless it is given."""

    def add(kind: type) -> type:
        kind.name = id
        home = dimension or kind.__module__.removeprefix("_strangers_")
        FAULTS.append(Fault(id, home, dtype, source, says, kind, differs, equals))
        return kind

    return add


def forward(id: str, dtype: str, source: str, says: str, **more: Any) -> Callable[[Any], Any]:
    """Add ``wrong(call, right) -> Tensor | None``, None where it is right; its gradients are torch's."""

    def add(wrong: Any) -> Any:
        class Forward(Torch):
            def run(self, call: Call) -> Tensor:
                right = call.torch()
                with torch.no_grad():
                    found = wrong(call, right)
                return right if found is None else shown(right, found)

        Forward.__module__ = wrong.__module__
        fault(id, dtype, source, says, **more)(Forward)
        return wrong

    return add


def backward(id: str, dtype: str, source: str, says: str, **more: Any) -> Callable[[Any], Any]:
    """Add ``alter(back)``, which changes the gradients that ``back`` has; the forward pass is torch's."""

    def add(alter: Any) -> Any:
        class Backward(Torch):
            control = Owned

            def __init__(self) -> None:
                self.memory: dict[Any, Any] = {}

            def run(self, call: Call) -> Tensor:
                return own(call, alter, self.memory)

        Backward.__module__ = alter.__module__
        fault(id, dtype, source, says, **more)(Backward)
        return alter

    return add


def dense(tensor: Tensor, offset: int | None = None) -> Tensor:
    """As many elements as the tensor has, read one after the other from its first: what a kernel without strides sees.

    The tensor itself where its memory ends before.
    """
    start = tensor.storage_offset() if offset is None else offset
    if start + tensor.numel() > tensor.untyped_storage().nbytes() // tensor.element_size():
        return tensor
    strides = torch.empty(tensor.shape, device="meta").stride()
    return tensor.detach().as_strided(tensor.shape, strides, start)


def spoiled(right: Tensor, index: Any, value: Any = 0) -> Tensor:
    """A copy with other values at an index."""
    wrong = right.clone()
    wrong[index] = value
    return wrong


def tf32(tensor: Tensor) -> Tensor:
    """Rounded to the 10 bits of fraction of TF32, ties away from zero, as cvt.rna.tf32.f32 does."""
    bits = tensor.contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


def same(one: Tensor, other: Tensor) -> bool:
    """Whether shape, dtype and every bit agree, any NaN being as good as another."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.is_complex():
        return same(torch.view_as_real(one.resolve_conj()), torch.view_as_real(other.resolve_conj()))
    if not one.is_floating_point():
        return torch.equal(one, other)
    nan = one.isnan()
    return bool(
        torch.equal(nan, other.isnan())
        and torch.equal(one.masked_fill(nan, 0), other.masked_fill(nan, 0))
        and torch.equal(one.signbit() & ~nan, other.signbit() & ~nan)
    )


def prove(one: Fault) -> str:
    """Why a fault is none: empty where its two calls show it."""
    dtype = getattr(torch, one.dtype)
    agree = []
    for probe in (one.equals, one.differs):
        right, found = probe(Torch(), dtype), probe(one.make(), dtype)
        torch.set_flush_denormal(False)  # one fault leaves it on
        agree.append(len(right) == len(found) and all(map(same, found, right)))
    if not agree[0]:
        return "its near call differs from torch"
    return "its call does not differ from torch" if agree[1] else ""
