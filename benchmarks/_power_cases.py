"""The inputs of `power.py`, and what the rules are asked to compare on each of them.

Three sources of layers with an input: random normal ones, a plain Hypothesis generator, and the cases that the laws of
`equiv` draw. On each the forms run as `equiv.mapping` arranges them, and every result (output, and the gradients of
input, weight and bias where the dtype has any) comes with a reference: what the Linear gives in torch as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import _common
import torch
from hypothesis import strategies as st
from torch import Tensor

from equiv.backends import FORMS, TorchEager
from equiv.dtypes import is_inexact
from equiv.laws import LAWS, Call, Context, Trial, known_defect, known_refusal
from equiv.numerics import exact_case
from equiv.strategies import Layout

GRADIENTS = ("input", "weight", "bias")
SAME_LAWS = ("forward", "layout", "boundaries")  # values of every kind; layouts and gradients; sizes of kernels
MAX_FEATURES = 512


@dataclass(frozen=True, eq=False)
class Problem:
    """A layer and an input for it.

    Attributes:
        x: ``(*batch, n)``.
        weight: ``(O, n)``.
        bias: ``(O,)`` or None.
        feature_shape: ``(C, *spatial)`` with product n.
        seed: Of the incoming gradient and the strides.
        layouts: Role to layout, or None for contiguous tensors and strides of 1.
    """

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    feature_shape: tuple[int, ...]
    seed: int
    layouts: dict[str, Layout] | None = None


@dataclass(frozen=True)
class Pair:
    """One comparison: what it is about, and the two results; no results where the form raised.

    Attributes:
        label: Form and result; the same for the same comparison of another run.
        candidate: Of the form.
        reference: Of the Linear on contiguous tensors, in torch as it is.
        excused: Whether torch itself is known to be wrong here.
    """

    label: str
    candidate: Tensor | None
    reference: Tensor | None
    excused: bool


# -- sources -----------------------------------------------------------------------------------------------------------


def normal(seed: int, dtype: torch.dtype, count: int) -> list[Problem]:
    """What a script draws: sizes of ordinary layers, n up to 512, inputs N(0, 1), weights as nn.Linear starts with."""
    found = []
    for index in range(count):
        generator = torch.Generator().manual_seed(1_000_003 * seed + index)

        def between(low: int, high: int, generator: torch.Generator = generator) -> int:
            return low + int((high + 1 - low) * float(torch.rand((), generator=generator, dtype=torch.float64)))

        spatial = tuple(between(1, 7) for _ in range(between(1, 2)))
        channels = between(1, max(1, MAX_FEATURES // math.prod(spatial)))
        found.append(
            _filled((channels, *spatial), between(1, 256), between(1, 32), between(0, 1), dtype, generator, index)
        )
    return found


def plain(seed: int, dtype: torch.dtype, count: int) -> list[Problem]:
    """What a property test by hand draws: integers for the sizes, n up to 512, and a seed for normal values."""

    @st.composite
    def draws(draw: st.DrawFn) -> Problem:
        spatial = tuple(draw(st.lists(st.integers(1, 7), min_size=1, max_size=3)))
        channels = draw(st.integers(1, max(1, MAX_FEATURES // math.prod(spatial))))
        outputs, rows, bias = draw(st.integers(1, 256)), draw(st.integers(1, 32)), draw(st.booleans())
        chosen = draw(st.integers(0, 2**32 - 1))
        generator = torch.Generator().manual_seed(chosen)
        return _filled((channels, *spatial), outputs, rows, bias, dtype, generator, chosen)

    return _collected(draws(), seed, count)


def _filled(
    shape: tuple[int, ...],
    outputs: int,
    rows: int,
    bias: bool | int,
    dtype: torch.dtype,
    generator: torch.Generator,
    seed: int,
) -> Problem:
    n = math.prod(shape)
    if is_inexact(dtype):
        wide = torch.complex128 if dtype.is_complex else torch.float64

        def values(*size: int, scale: float) -> Tensor:
            return (torch.randn(size, generator=generator, dtype=wide) * scale).to(dtype)

        scale = 1 / math.sqrt(3 * n)  # the standard deviation of nn.Linear's weights
        x, weight, b = values(rows, n, scale=1.0), values(outputs, n, scale=scale), values(outputs, scale=scale)
    else:
        low = 0 if dtype == torch.uint8 else -4
        x, weight, b = (
            torch.randint(low, 5, size, generator=generator, dtype=torch.int64).to(dtype)
            for size in ((rows, n), (outputs, n), (outputs,))
        )
    return Problem(x, weight, b if bias else None, shape, seed)


def same_cases(seed: int, dtype: torch.dtype, count: int, *, deep: bool) -> list[Problem]:
    """Cases as the laws draw them, an equal share of each law in ``SAME_LAWS``, in turn, with layouts and strides."""
    context = Context(dtype, torch.device("cpu"), deep)
    each = -(-count // len(SAME_LAWS))
    drawn = [_collected(LAWS[name].draw(context), seed, each) for name in SAME_LAWS]
    turns = [case for turn in zip(*drawn, strict=True) for case in turn]
    return [_problem(case) for case in turns[:count]]


def _problem(case: Any) -> Problem:
    if hasattr(case, "layouts"):
        return Problem(case.x, case.weight, case.bias, case.feature_shape, case.seed, case.layouts)
    x, weight, bias = exact_case(  # of the law about sizes
        seed=case.seed,
        style=case.style,
        rows=math.prod(case.batch_shape),
        in_features=case.in_features,
        out_features=case.out_features,
        bias=case.bias,
        dtype=case.dtype,
        device=case.device,
        reduction=max(math.prod(case.batch_shape), case.in_features, case.out_features),
    )
    return Problem(x.view(*case.batch_shape, -1), weight, bias, case.feature_shape, case.seed, {})


def _collected(strategy: st.SearchStrategy[Any], seed: int, count: int) -> list[Any]:
    """``count`` values of a strategy, as Hypothesis generates them for this seed; short ones are drawn again."""
    found: list[Any] = []

    _common.under_hypothesis(strategy, lambda value: found.append(value), count, seed=seed)()  # given needs a function
    return (found * -(-count // len(found)))[:count]  # a small space is exhausted early


# -- comparisons -------------------------------------------------------------------------------------------------------


References = dict[str, dict[str, Tensor]]


def references(backend: TorchEager, problem: Problem) -> References:
    """What the Linear gives on the contiguous values that each form gets, by form and result: asked of sound torch."""
    n = problem.weight.shape[1]
    original = Call("linear", problem.x.reshape(-1, n), problem.weight, problem.bias)
    grad = _incoming(problem)
    if problem.layouts is None:
        return dict.fromkeys(FORMS, _results(backend, original, grad))
    found = {}
    for form in FORMS:
        call, laid, incoming = _arranged(backend, form, problem, grad)
        # A broadcast view repeats values: then the Linear gets what the form gets.
        given = original if _same_values(call, laid) else _flat(laid, n)
        found[form] = _results(backend, given, incoming.clone(memory_format=torch.contiguous_format))
    return found


def pairs(backend: TorchEager, problem: Problem, wanted: References) -> Iterator[Pair]:
    """Everything to compare on one problem: each form's results with those of the Linear."""
    grad = _incoming(problem)
    for form in FORMS:
        try:
            _, call, incoming = _arranged(backend, form, problem, grad)
            found = _results(backend, call, incoming)
        except Exception as error:  # a crash is red for everybody
            yield Pair(f"{form} raised", None, None, known_refusal(error) is not None)
            continue
        for name, reference in wanted[form].items():
            gradient = None if name == "output" else name
            excused = known_defect(call, gradient) is not None or _stops_counting(call, gradient)
            yield Pair(f"{form} {name}", found.get(name), reference, excused)


def _arranged(backend: TorchEager, form: str, problem: Problem, grad: Tensor) -> tuple[Call, Call, Tensor]:
    """The call of a form, the same laid out as the problem says, and the incoming gradient."""
    trial = Trial(backend, problem.x.dtype, FORMS)
    call = trial.arrange(form, problem.x, problem.weight, problem.bias, problem.feature_shape)
    return call, *((call, grad) if problem.layouts is None else _laid_out(call, grad, problem))


def _stops_counting(call: Call, gradient: str | None) -> bool:
    """The weight gradient of a float16 convolution; docs/findings/conv-weight-gradient-in-half.md."""
    return call.form != "linear" and call.input.dtype == torch.float16 and gradient == "weight"


def _same_values(before: Call, after: Call) -> bool:
    both = zip((before.input, before.weight, before.bias), (after.input, after.weight, after.bias), strict=True)
    return all(a is b or (a is not None and b is not None and torch.equal(a, b)) for a, b in both)


def _incoming(problem: Problem) -> Tensor:
    generator = torch.Generator().manual_seed(problem.seed % 2**63 + 17)
    rows = problem.x.numel() // problem.weight.shape[1]
    values = torch.randint(-1, 2, (rows, problem.weight.shape[0]), generator=generator)
    return values.to(problem.x.dtype)


def _laid_out(call: Call, grad: Tensor, problem: Problem) -> tuple[Call, Tensor]:
    assert problem.layouts is not None
    tensors: dict[str, Any] = {}
    for role, name in (("x", "input"), ("weight", "weight"), ("bias", "bias")):
        tensor: Tensor | None = getattr(call, name)
        if role in problem.layouts and tensor is not None:
            tensors[name] = problem.layouts[role].apply(tensor)
    if call.form != "linear" and problem.seed % 2:  # a stride changes nothing where the kernel covers the map
        step = problem.feature_shape[1:] if problem.seed % 4 == 1 else (1 + problem.seed % 5,) * (call.weight.ndim - 2)
        tensors["stride"] = tuple(step)
    incoming = problem.layouts["grad"].apply(grad) if "grad" in problem.layouts else grad
    return replace(call, **tensors), incoming


def _flat(call: Call, n: int) -> Call:
    """The same layer on the same values as a Linear, all tensors contiguous."""

    def plain_copy(t: Tensor, *shape: int) -> Tensor:
        return t.detach().resolve_conj().resolve_neg().reshape(shape).clone(memory_format=torch.contiguous_format)

    bias = None if call.bias is None else plain_copy(call.bias, -1)
    rows = call.input.numel() // n
    return Call("linear", plain_copy(call.input, rows, n), plain_copy(call.weight, call.weight.shape[0], n), bias)


def _results(backend: TorchEager, call: Call, grad: Tensor) -> dict[str, Tensor]:
    """Output ``(rows, O)`` and gradients ``(rows, n)``, ``(O, n)``, ``(O,)``; an output of a wrong shape stays so."""
    outputs, n = call.weight.shape[0], call.weight[0].numel()
    given = [t.detach() for t in (call.input, call.weight, call.bias) if t is not None]
    if backward := is_inexact(given[0].dtype):
        given = [t.requires_grad_() for t in given]
    bias = given[2] if len(given) == 3 else None
    if call.form == "linear":
        y = backend.linear(given[0], given[1], bias)
    else:
        y = backend.conv(given[0], given[1], bias, stride=call.stride or 1)
    lead = call.input.shape[:-1] if call.form == "linear" else call.input.shape[: 1 - call.weight.ndim]
    if tuple(y.shape) == (*lead, outputs) + (1,) * (0 if call.form == "linear" else call.weight.ndim - 2):
        y = y.reshape(-1, outputs)
    found = {"output": y.detach()}
    if backward:
        shapes = ((-1, n), (outputs, n), (outputs,))
        gradients = torch.autograd.grad(y, given, grad)
        found |= {name: g.reshape(shape) for name, g, shape in zip(GRADIENTS, gradients, shapes, strict=False)}
    return found


SOURCES: dict[str, Callable[..., list[Problem]]] = {"normal": normal, "hypothesis": plain, "equiv": same_cases}
"""Where the rules' inputs come from, by name."""
