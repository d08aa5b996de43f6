"""Turn a broken law into Python that runs on its own, needs nothing but torch and equiv, and fails.

A call that shows the defect by itself is written out with its tensors, if these are small. Anything else, such as a
large witness, vmap or a second derivative, is the law checked once more on the case, which a recipe builds again. A
program of the first kind is printed only where running it here has failed.
"""

from __future__ import annotations

import contextlib
import io
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.nn import functional

from equiv.backends import FORMS, Backend, TorchEager
from equiv.dtypes import is_inexact
from equiv.laws.call import Broken, Call, Mismatch, is_control
from equiv.laws.checks.boundaries import SizedCase
from equiv.laws.selection import Item
from equiv.laws.witness.rebuild import Source, sources
from equiv.laws.witness.replay import tried
from equiv.laws.witness.source import folded, tensor_code
from equiv.strategies import Case, Convolution

_FUNCTIONAL = "from torch.nn import functional as F"
_HEAD = ["import torch", "import equiv"]
HEAD = [*_HEAD, _FUNCTIONAL]
_ROUNDED = {"scaling"}  # laws that demand equal bits of results that right kernels may round in other places
_SHOWN = 8  # results printed whole; of more, the wrong one and its neighbours
_AROUND = 2  # neighbours on either side


def program_of(broken: Broken, item: Item, case: object) -> str | None:
    """A program that fails as the law did; None for a case that has no source."""
    is_torch = type(item.backend) is TorchEager
    short = call_lines(broken, **judged(item))
    for body in (short, _replay_lines(broken, item, case)):
        if body is None:
            continue
        plain = [Source("", [_FUNCTIONAL])]
        ways: list[Source | None] = [*plain] if is_torch and body is short else [*sources(item.backend), None]
        for way in ways:
            program = _program(body, way, item.backend, broken.error)
            if _fails(program if way is not None else "\n".join([*_HEAD, *body]), item.backend, broken.error):
                return program
    return None


def judged(item: Item) -> dict[str, bool]:
    """The options of :func:`judging_lines` for an item."""
    return {"functional": type(item.backend) is TorchEager, "exact": item.law.id not in _ROUNDED}


def script_of(broken: Broken, item: Item, case: object, other: Backend) -> str | None:
    """A program that runs a case on another backend, which is right, and then on the item's, where it fails.

    None where one of them, or the case, has no source.
    """
    both = [next(sources(backend), None) for backend in (other, item.backend)]
    calls = call_lines(broken, **{**judged(item), "functional": False})
    tensors = ("x", "weight", "bias", "grad")
    for body in (calls, _replay_lines(broken, item, case)):
        if body is None or None in both:
            continue
        shared = [line for line in body if line.startswith("from ")]
        made = [line for line in body if line not in shared and _sets(line, (*tensors, "case"))]
        judging = ["print(backend.name)", *(line for line in body if line not in shared and line not in made)]
        imports = [line for way in both if way is not None for line in way.imports]
        names = ", ".join(way.expression for way in both if way is not None)
        way = Source("", list(dict.fromkeys([*imports, *shared])))
        lines = [*made, f"for backend in ({names}):", *(f"    {line}" for line in judging)]
        program = _program(lines, way, item.backend, broken.error)
        if _fails(program, item.backend, broken.error):
            return program
    return None


def _sets(line: str, names: Sequence[str]) -> bool:
    """Whether a line gives a value to one of these names, or to a part of it."""
    return line.split(" = ")[0].split("[")[0] in names


def _program(body: list[str], way: Source | None, backend: Backend, error: BaseException | None = None) -> str:
    """Imports, the backend and the lines of the body, folded."""
    head, made = [*_HEAD], []
    if way is None:
        what = f"{backend.name} here, an instance of {type(backend).__module__}.{type(backend).__qualname__}"
        made = [f"raise NotImplementedError({'put ' + what!r})", "backend = None"]
    else:
        head += way.imports
        made = [f"backend = {way.expression}"] * bool(way.expression)
    if isinstance(error, Warning):  # raised where warnings are errors, as pytest can be told
        made = ["import warnings", "", "warnings.simplefilter('error')", *made]
    head += [line for line in body if line.startswith("from ")]
    rest = [line for line in body if not line.startswith("from ")]
    return "\n".join(part for line in [*head, "", *made, *rest] for part in folded(line))


def _fails(program: str, backend: Backend, error: BaseException | None) -> bool:
    """Whether a program fails for the reason that was found; what it does not make itself is the backend at hand."""
    names: dict[str, Any] = {"backend": backend, "F": functional}
    path = sys.path.copy()
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("error" if isinstance(error, Warning) else "ignore")
            exec(compile(program, "<witness>", "exec"), names)
    except BaseException as found:
        if is_control(found):
            raise
        return isinstance(found, AssertionError) or type(found) is type(error)
    finally:
        sys.path[:] = path
    return False


def _replay_lines(broken: Broken, item: Item, case: object) -> list[str] | None:
    """The law checked once more on the case, in the form that broke it if that is enough."""
    if not isinstance(case, Case | Convolution | SizedCase):
        return None
    alone = broken.form in FORMS and tried(replace(item, forms=(broken.form,)), case) is not None
    return _case_lines(repr(case), item, f", forms=[{broken.form!r}]" if alone else "")


def program_on(case: str, item: Item) -> str | None:
    """The law checked on a case that is given as its source; None for a case that has none. The law is not run here.

    A case may also be a call of ``backend``, by which it was asked what it serves.
    """
    if case.startswith("backend."):
        body = [case]
    elif case.startswith(("build_case(", "build_convolution(", "SizedCase(")):
        body = _case_lines(case, item)
    else:
        return None
    return _program(body, next(sources(item.backend), None), item.backend)


def _case_lines(case: str, item: Item, options: str = "") -> list[str]:
    if case.startswith("SizedCase("):
        lines = ["from equiv.laws import SizedCase, check_case"]
    elif case.startswith("build_convolution("):
        lines = ["from equiv.laws import check_case"]
        lines.append("from equiv.strategies import ConvolutionRecipe, build_convolution")
    else:
        lines = ["from equiv.laws import check_case"]
        lines.append("from equiv.strategies import Layout, Recipe, Values, Window, build_case")
    return [*lines, f"case = {case}", f"check_case({item.law.id!r}, case, backend=backend{options})"]


def call_lines(broken: Broken, *, functional: bool, exact: bool = True) -> list[str] | None:
    """What repeats the broken call and fails, without imports; None where its tensors are too large to write down.

    ``functional`` calls torch's functions, not the methods of ``backend``; ``exact`` says that right kernels return the
    rounded exact result where the law demands equal bits.
    """
    judging = judging_lines(broken, functional=functional, exact=exact)
    call, mismatch = broken.call, broken.mismatch
    if call is None or judging is None:
        return None
    tensors = {"x": call.input, "weight": call.weight, "bias": call.bias}
    tensors |= {} if mismatch is None or mismatch.gradient is None else {"grad": mismatch.gradient[1]}
    lines = []
    for name, tensor in tensors.items():
        code = ["bias = None"] if tensor is None else tensor_code(name, tensor)
        if code is None:
            return None
        lines += code
    return lines + judging


def judging_lines(broken: Broken, *, functional: bool, exact: bool = True) -> list[str] | None:
    """:func:`call_lines` below ``x``, ``weight``, ``bias`` and ``grad``; None where one call cannot tell."""
    call, mismatch = broken.call, broken.mismatch
    gradient = None if mismatch is None else mismatch.gradient
    if call is None or (gradient is not None and gradient[0] not in ("input", "weight", "bias")):
        return None
    if (not call.is_plain or max(call.steps[1], default=1) > 1) and (mismatch is not None or broken.error is None):
        return None  # the case shows it
    run = _function(call, functional=functional)
    if mismatch is None and broken.error is None:
        return _purity_lines(call, run)
    made, name = _value_lines(call, run) if gradient is None else _gradient_lines(call, run, gradient[0])
    printed = _printed(name, call, mismatch)
    if exact and (mismatch is None or mismatch.envelope is None):
        lines = [*made, f"exact = exact.to({name}.dtype)", *printed]
        return [*lines, f"torch.testing.assert_close({name}, exact, rtol=0, atol=0, equal_nan=True)"]
    given = "input=rows, weight=matrix, bias=bias" if gradient is None else "input=left, weight=right"
    return [
        *made,
        *printed,
        f"verdict = equiv.compare({name}, exact, {given})",
        "print(verdict)",
        "assert verdict.outcome is not equiv.Outcome.DIFFERENT",
    ]


def _function(call: Call, *, functional: bool) -> str:
    given = {name: value for name, value in vars(call).items() if name in call.options} if call.dims > 0 else {}
    options = "".join(f", {key}={value}" for key, value in given.items() if value)
    name = "linear" if call.form == "linear" else f"conv{call.dims}d" if functional else "conv"
    return f"{'F' if functional else 'backend'}.{name}(x, weight, bias{options})"


def _printed(name: str, call: Call, mismatch: Mismatch | None) -> list[str]:
    """Print actual and exact results: all of a few, else the wrong entry and its neighbours."""
    rows, outputs, n = call.sizes
    gradient = None if mismatch is None or mismatch.gradient is None else mismatch.gradient[0]
    count = {None: rows * outputs, "input": rows * n, "weight": outputs * n, "bias": outputs}[gradient]
    if count <= _SHOWN:
        return [f"print('actual', {name}.tolist())", "print('exact ', exact.tolist())"]
    if mismatch is None or not mismatch.index:
        return []
    *row, column = mismatch.index
    place = "".join(f"{i}, " for i in row)
    return [
        f"# around the first wrong entry, {list(mismatch.index)}",
        f"for i in range({max(0, column - _AROUND)}, min({column + _AROUND + 1}, {name}.shape[-1])):",
        f"    print(i, 'actual', {name}[{place}i].item(), 'exact', exact[{place}i].item())",
    ]


def _value_lines(call: Call, run: str) -> tuple[list[str], str]:
    rows, outputs, n = call.sizes
    dtype, kernel = call.input.dtype, tuple(call.weight.shape[2:])
    if call.form != "linear" and tuple(call.input.shape[-len(kernel) :]) != kernel:
        # A larger map: every window is a row, (N, C, *positions, *kernel) -> (N * positions, C * kernel).
        stride, _ = call.steps
        windows = "".join(f".unfold({2 + d}, {k}, {s})" for d, (k, s) in enumerate(zip(kernel, stride, strict=True)))
        lines = [
            f"y = {run}",
            f"y = y.movedim(1, -1).reshape(-1, {outputs})",
            f"rows = x{windows}",
            f"rows = rows.movedim(1, {-1 - len(kernel)}).reshape(-1, {n})",
            f"matrix = weight.reshape({outputs}, {n})",
        ]
    else:
        lines = [
            f"y = {run}.reshape({rows}, {outputs})",
            f"rows, matrix = x.reshape({rows}, {n}), weight.reshape({outputs}, {n})",
        ]
    if is_inexact(dtype):
        wide = _wide(dtype)
        lines.append(f"exact = rows.to({wide}) @ matrix.to({wide}).T")
        return lines + ([] if call.bias is None else ["exact = exact + bias"]), "y"
    return [*lines, "exact = equiv.numerics.exact_integers(rows, matrix, bias)"], "y"


def _purity_lines(call: Call, run: str) -> list[str]:
    given = "(x, weight)" if call.bias is None else "(x, weight, bias)"
    return [
        f"before = [t.clone() for t in {given}]",
        f"first, second = {run}.clone(), {run}",
        f"kept = [torch.equal(a, b) for a, b in zip(before, {given})]",
        "print('inputs as they were', kept)",
        "assert all(kept)",
        "torch.testing.assert_close(first, second, rtol=0, atol=0, equal_nan=True)",
    ]


def _gradient_lines(call: Call, run: str, name: str) -> tuple[list[str], str]:
    """The gradient, and the same sums in a wider dtype: ``g @ conj(W)``, ``g.T @ conj(x)``, column sums of ``g``."""
    rows, outputs, n = call.sizes
    leaf = {"input": "x", "weight": "weight", "bias": "bias"}[name]
    lines = [
        f"{leaf}.requires_grad_()",
        f"y = {run}.reshape({rows}, {outputs})",
        f"(found,) = torch.autograd.grad(y, {leaf}, grad)",
    ]
    wide = _wide(call.input.dtype)
    if name == "bias":
        return [*lines, f"exact = grad.to({wide}).sum(0)"], "found"
    given = f"x.detach().reshape({rows}, {n})", f"weight.detach().reshape({outputs}, {n})"
    left, right = ("grad", f"{given[1]}.T") if name == "input" else ("grad.T", f"{given[0]}.T")
    return [
        *lines,
        f"left = {left}.resolve_conj()",
        f"right = {right}.conj().resolve_conj()",
        f"exact = left.to({wide}) @ right.to({wide}).T",
        "found = found.reshape(exact.shape)",
    ], "found"


def _wide(dtype: torch.dtype) -> str:
    return "torch.complex128" if dtype.is_complex else "torch.float64"
