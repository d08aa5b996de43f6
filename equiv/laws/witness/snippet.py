"""Turn a broken law into Python that runs on its own, needs nothing but torch and equiv, and fails.

A call that shows the defect by itself is written out with its tensors, if these are small. Anything else, such as a
large witness, vmap or a second derivative, is the law checked once more on the case, which a recipe builds again. A
program of the first kind is printed only where running it here has failed.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import sys
from typing import Any

import torch
from torch import Tensor

from equiv.backends import FORMS, Backend, TorchEager
from equiv.laws.call import Broken, Call
from equiv.laws.registry import Law
from equiv.laws.witness.replay import tried
from equiv.laws.witness.source import classes_in, folded, tensor_code, value_code

_HEAD = ["import torch", "import equiv"]
_FUNCTIONAL = "from torch.nn import functional as F"
_ROUNDED = {"scaling"}  # laws that demand equal bits of results that right kernels may round in other places
_SHOWN = 8  # results printed whole; of more, the wrong one and its neighbours
_AROUND = 2  # neighbours on either side


def program_of(broken: Broken, law: Law, case: object, *, backend: Backend) -> str | None:
    """A program that fails as the law did; None for a case that has no source.

    Args:
        broken: What broke the law.
        law: The law.
        case: What it was checked on.
        backend: Who ran it.
    """
    imports, made = _backend_lines(backend)
    short = call_lines(broken, functional=type(backend) is TorchEager, exact=law.id not in _ROUNDED)
    if short is not None and _fails("\n".join(short), backend, broken.note):
        tail = [_FUNCTIONAL, ""] if type(backend) is TorchEager else [*imports, "", made]
        return "\n".join([*_HEAD, *tail, *(part for line in short for part in folded(line))])
    return _replay(broken, law, case, backend=backend)


def _backend_lines(backend: Backend) -> tuple[list[str], str]:
    """How a program gets the backend: by the import of its class, where that needs no arguments."""
    kind = type(backend)
    if kind is TorchEager:
        device = "" if backend.device == torch.device("cpu") else repr(str(backend.device))
        return ["from equiv.backends import TorchEager"], f"backend = TorchEager({device})"
    if getattr(sys.modules.get(kind.__module__), kind.__qualname__, None) is kind and kind.__module__ != "__main__":
        try:
            inspect.signature(kind).bind()
        except (TypeError, ValueError):
            pass
        else:
            return [f"from {kind.__module__} import {kind.__qualname__}"], f"backend = {kind.__qualname__}()"
    return (
        ["from equiv.backends import TorchEager"],
        f"backend = TorchEager()  # put {backend.name} here: torch's own kernels pass",
    )


def _fails(body: str, backend: Backend, note: str) -> bool:
    """Whether a program fails for the reason that was found, with the backend at hand."""
    names: dict[str, Any] = {"backend": backend}
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile("\n".join([*_HEAD, _FUNCTIONAL, body]), "<witness>", "exec"), names)
    except Exception as error:
        return isinstance(error, AssertionError) or note.startswith(f"raised {type(error).__name__}: ")
    return False


def _replay(broken: Broken, law: Law, case: object, *, backend: Backend) -> str | None:
    """The law checked once more on the case, in the form that broke it if that is enough."""
    recipe = getattr(case, "recipe", case)
    code = value_code(recipe, used=7) if recipe is case else value_code(recipe, indent=4)
    if code is None:
        return None
    lines = ["import torch"]
    imports, made = _backend_lines(backend)
    lines += [*imports, "from equiv.laws.replay import check_case"]
    homes: dict[str, list[str]] = {}
    for kind in sorted(classes_in(recipe), key=lambda kind: kind.__name__):
        home = "equiv.strategies" if kind.__module__.startswith("equiv.strategies.") else kind.__module__
        homes.setdefault(home, []).append(kind.__name__)
    if recipe is not case:
        homes.setdefault("equiv.strategies", []).append("build_case")
    lines += [f"from {home} import {', '.join(names)}" for home, names in homes.items()]
    made_case = [f"case = {code}"] if recipe is case else ["case = build_case(", f"    {code}", ")"]
    options = ["backend=backend"]
    if broken.form in FORMS and tried(law, case, backend=backend, forms=(broken.form,)) is not None:
        options.append(f"forms=[{broken.form!r}]")
    call = f"check_case({law.id!r}, case, {', '.join(options)})"
    return "\n".join([*lines, "", made, *made_case, *folded(call)])


def call_lines(broken: Broken, *, functional: bool, exact: bool = True) -> list[str] | None:
    """What repeats the broken call and fails, without imports; None where its tensors are too large to write down.

    Args:
        broken: With the call, and what was expected of it.
        functional: Whether to call torch's functions, or the methods of ``backend``.
        exact: Whether right kernels return the rounded exact result where the law demands equal bits.
    """
    call, gradient = broken.call, broken.gradient
    if call is None or (gradient is not None and gradient[0] not in ("input", "weight", "bias")):
        return None
    wanted: list[tuple[str, Tensor | None]] = [("x", call.input), ("weight", call.weight), ("bias", call.bias)]
    if gradient is not None:
        wanted.append(("grad", gradient[1]))
    lines = []
    for name, tensor in wanted:
        code = ["bias = None"] if tensor is None else tensor_code(name, tensor)
        if code is None:
            return None
        lines += code
    run = _function(call, functional=functional)
    if broken.actual is None and not broken.note.startswith("raised"):
        return lines + _purity_lines(call, run)
    made, name = _value_lines(call, run) if gradient is None else _gradient_lines(call, run, gradient[0])
    sizes = _results_of(call, None if gradient is None else gradient[0])
    if exact and broken.envelope is None:
        lines += [*made, f"exact = exact.to({name}.dtype)", *_shown(name, broken.index, sizes)]
        return [*lines, f"torch.testing.assert_close({name}, exact, rtol=0, atol=0, equal_nan=True)"]
    lines += made + _shown(name, broken.index, sizes)
    given = "input=rows, weight=matrix, bias=bias" if gradient is None else "input=left, weight=right"
    return [
        *lines,
        f"verdict = equiv.compare({name}, exact, {given})",
        "print(verdict)",
        "assert verdict.outcome is not equiv.Outcome.DIFFERENT",
    ]


def _function(call: Call, *, functional: bool) -> str:
    dims = call.weight.ndim - 2
    options = "".join(
        f", {key}={value}" for key, value in (("stride", call.stride), ("dilation", call.dilation)) if value
    )
    if call.form == "linear":
        return "F.linear(x, weight, bias)" if functional else "backend.linear(x, weight, bias)"
    return f"{f'F.conv{dims}d' if functional else 'backend.conv'}(x, weight, bias{options})"


def _sizes(call: Call) -> tuple[int, int, int]:
    """Rows, outputs and features of a call whose map is as large as its kernel."""
    outputs, n = call.weight.shape[0], call.weight[0].numel()
    return call.input.numel() // n if n else 0, outputs, n


def _results_of(call: Call, gradient: str | None) -> int:
    """How many numbers there are to print."""
    rows, outputs, n = _sizes(call)
    return {None: rows * outputs, "input": rows * n, "weight": outputs * n, "bias": outputs}[gradient]


def _shown(name: str, index: tuple[int, ...] | None, size: int) -> list[str]:
    """Print actual and exact results: all of a few, else the wrong entry and its neighbours."""
    if size <= _SHOWN or not index:
        return [f"print('actual', {name}.tolist())", "print('exact ', exact.tolist())"] if size <= _SHOWN else []
    *row, column = index
    place = "".join(f"{i}, " for i in row)
    return [
        f"# around the first wrong entry, {list(index)}",
        f"for i in range({max(0, column - _AROUND)}, min({column + _AROUND + 1}, {name}.shape[-1])):",
        f"    print(i, 'actual', {name}[{place}i].item(), 'exact', exact[{place}i].item())",
    ]


def _value_lines(call: Call, run: str) -> tuple[list[str], str]:
    rows, outputs, n = _sizes(call)
    dtype, kernel = call.input.dtype, tuple(call.weight.shape[2:])
    if call.form != "linear" and tuple(call.input.shape[call.input.ndim - len(kernel) :]) != kernel:
        # A larger map: every window is a row, (N, C, *positions, *kernel) -> (N * positions, C * kernel).
        stride = call.stride or (1,) * len(kernel)
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
    if dtype.is_floating_point or dtype.is_complex:
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
    rows, outputs, n = _sizes(call)
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
