"""Turn a broken call into Python that runs on its own and needs nothing but torch and equiv."""

from __future__ import annotations

import torch
from torch import Tensor

from equiv.laws.trial import Call

_LITERAL = 16  # entries written out


def snippet_of(
    call: Call, *, gradient: tuple[str, Tensor] | None = None, backend: str, of_values: bool = True
) -> str | None:
    """Code that repeats ``call`` and shows what came of it, or None where its tensors are too large to write down.

    Args:
        call: The call.
        gradient: Which gradient is wrong, of ``input``, ``weight`` or ``bias``, and the incoming one, ``(rows, O)``.
        backend: Its name; for any but torch's own the code says that torch stands in its place.
        of_values: Whether the values are wrong; else the code shows what the call did to its inputs.
    """
    if gradient is not None and gradient[0] not in ("input", "weight", "bias"):
        return None
    wanted: list[tuple[str, Tensor | None]] = [("x", call.input), ("weight", call.weight), ("bias", call.bias)]
    if gradient is not None:
        wanted.append(("grad", gradient[1]))
    lines = ["import torch", "import equiv", "from torch.nn import functional as F", ""]
    for name, tensor in wanted:
        code = ["bias = None"] if tensor is None else tensor_code(name, tensor)
        if code is None:
            return None
        lines += code
    if not backend.startswith("eager."):
        lines.append(f"# torch's own kernel stands here in place of {backend}")
    if gradient is not None:
        return "\n".join(lines + _gradient_lines(call, gradient[0]))
    return "\n".join(lines + (_value_lines(call) if of_values else _purity_lines(call)))


def _function(call: Call) -> str:
    dims = call.weight.ndim - 2
    options = "".join(
        f", {key}={value}" for key, value in (("stride", call.stride), ("dilation", call.dilation)) if value
    )
    return "F.linear(x, weight, bias)" if call.form == "linear" else f"F.conv{dims}d(x, weight, bias{options})"


def _sizes(call: Call) -> tuple[int, int, int]:
    """Rows, outputs and features of a call whose map is as large as its kernel."""
    outputs, n = call.weight.shape[0], call.weight[0].numel()
    return call.input.numel() // n if n else 0, outputs, n


def _value_lines(call: Call) -> list[str]:
    rows, outputs, n = _sizes(call)
    dtype, kernel = call.input.dtype, tuple(call.weight.shape[2:])
    if call.form != "linear" and tuple(call.input.shape[call.input.ndim - len(kernel) :]) != kernel:
        # A larger map: every window is a row, (N, C, *positions, *kernel) -> (N * positions, C * kernel).
        stride = call.stride or (1,) * len(kernel)
        windows = "".join(f".unfold({2 + d}, {k}, {s})" for d, (k, s) in enumerate(zip(kernel, stride, strict=True)))
        lines = [
            f"y = {_function(call)}.movedim(1, -1).reshape(-1, {outputs})",
            f"rows = x{windows}.movedim(1, {-1 - len(kernel)}).reshape(-1, {n})",
            f"matrix = weight.reshape({outputs}, {n})",
        ]
    else:
        lines = [
            f"y = {_function(call)}.reshape({rows}, {outputs})",
            f"rows, matrix = x.reshape({rows}, {n}), weight.reshape({outputs}, {n})",
        ]
    if dtype.is_floating_point or dtype.is_complex:
        wide = _wide(dtype)
        plus = "" if call.bias is None else f" + bias.to({wide})"
        lines.append(f"exact = rows.to({wide}) @ matrix.to({wide}).T{plus}")
    else:
        lines.append("exact = equiv.numerics.exact_integers(rows, matrix, bias).to(y.dtype)")
    return [
        *lines,
        "print('actual', y.tolist())",
        "print('exact ', exact.tolist())",
        "print(equiv.compare(y, exact, input=rows, weight=matrix, bias=bias))",
    ]


def _purity_lines(call: Call) -> list[str]:
    given = "(x, weight)" if call.bias is None else "(x, weight, bias)"
    return [
        f"before = [t.clone() for t in {given}]",
        f"first, second = {_function(call)}.clone(), {_function(call)}",
        f"print('inputs as they were', [torch.equal(a, b) for a, b in zip(before, {given})])",
        "print('results', first, second)",
    ]


def _gradient_lines(call: Call, name: str) -> list[str]:
    """The gradient, and the same sums in a wider dtype: ``g @ conj(W)``, ``g.T @ conj(x)``, column sums of ``g``."""
    rows, outputs, n = _sizes(call)
    leaf = {"input": "x", "weight": "weight", "bias": "bias"}[name]
    lines = [
        f"{leaf}.requires_grad_()",
        f"y = {_function(call)}.reshape({rows}, {outputs})",
        f"(found,) = torch.autograd.grad(y, {leaf}, grad)",
    ]
    wide = _wide(call.input.dtype)
    if name == "bias":
        return [*lines, "print('actual', found.tolist())", f"print('exact ', grad.to({wide}).sum(0).tolist())"]
    given = f"x.detach().reshape({rows}, {n})", f"weight.detach().reshape({outputs}, {n})"
    left, right = ("grad", f"{given[1]}.T") if name == "input" else ("grad.T", f"{given[0]}.T")
    return [
        *lines,
        f"left, right = {left}.resolve_conj(), {right}.conj().resolve_conj()",
        f"exact = left.to({wide}) @ right.to({wide}).T",
        "found = found.reshape(exact.shape)",
        "print('actual', found.tolist())",
        "print('exact ', exact.tolist())",
        "print(equiv.compare(found, exact, input=left, weight=right))",
    ]


def _wide(dtype: torch.dtype) -> str:
    return "torch.complex128" if dtype.is_complex else "torch.float64"


def tensor_code(name: str, t: Tensor) -> list[str] | None:
    """Lines that build ``t`` with its values, strides and storage offset; None if it has too many entries."""
    t = t.detach()
    if t.is_conj():
        inner = tensor_code(name, t.conj())
        return None if inner is None else [*inner, f"{name} = {name}.conj()"]
    if t.is_neg():
        literal = _literal(t.resolve_neg())
        return (
            None
            if literal is None
            else [f"{name} = torch.complex(torch.zeros({tuple(t.shape)}, dtype={t.dtype}), -{literal}).conj().imag"]
        )
    if any(stride == 0 and size > 1 for size, stride in zip(t.shape, t.stride(), strict=True)):
        base = t
        for d, stride in enumerate(t.stride()):
            base = base.narrow(d, 0, 1) if stride == 0 and base.shape[d] > 1 else base
        inner = tensor_code(name, base)
        return None if inner is None else [*inner, f"{name} = {name}.expand({tuple(t.shape)})"]
    lines = _values(name, t)
    if lines is None:
        return None
    if not t.is_contiguous() or t.storage_offset():
        extent = (
            1 + t.storage_offset() + sum((s - 1) * st for s, st in zip(t.shape, t.stride(), strict=True))
            if t.numel()
            else 1
        )
        # What lies around the values is NaN, or 85, so that a read outside shows, as in equiv.strategies.Layout.
        around = "float('nan')" if t.dtype.is_floating_point or t.dtype.is_complex else "85"
        place = f"{tuple(t.shape)}, {t.stride()}, {t.storage_offset()}"
        view = f"torch.full(({extent},), {around}, dtype={t.dtype}).as_strided({place})"
        lines.append(f"{name} = {view}.copy_({name})")
    return lines


def _values(name: str, t: Tensor) -> list[str] | None:
    literal = _literal(t)
    if literal is not None:
        return [f"{name} = {literal}"]
    places = t.nonzero()
    if len(places) > _LITERAL:
        return None
    lines = [f"{name} = torch.zeros({tuple(t.shape)}, dtype={t.dtype})"]
    return lines + [f"{name}[{', '.join(map(str, p))}] = {_number(t[tuple(p)])}" for p in places.tolist()]


def _literal(t: Tensor) -> str | None:
    if t.numel() == 0:
        return f"torch.zeros({tuple(t.shape)}, dtype={t.dtype})"
    if t.numel() > 1 and torch.equal(t, t.flatten()[0].expand(t.shape)):
        return f"torch.full({tuple(t.shape)}, {_number(t.flatten()[0])}, dtype={t.dtype})"
    if t.numel() > _LITERAL:
        return None
    text = repr(t.tolist()).replace("nan", "float('nan')").replace("inf", "float('inf')")
    return f"torch.tensor({text}, dtype={t.dtype})"


def _number(value: Tensor) -> str:
    return repr(value.item()).replace("nan", "float('nan')").replace("inf", "float('inf')")
