"""Turn a broken call into Python that runs on its own and needs nothing but torch and equiv."""

from __future__ import annotations

import torch
from torch import Tensor

from equiv.laws.trial import Call

_LITERAL = 16  # entries written out


def snippet_of(call: Call, *, gradient: tuple[str, Tensor] | None, backend: str) -> str | None:
    """Code that repeats ``call`` and shows the verdict, or None where its tensors are too large to write down."""
    if gradient is not None and gradient[0] not in ("input", "weight", "bias"):
        return None
    outputs, n = call.weight.shape[0], call.weight[0].numel()
    rows = max(1, call.input.numel() // max(1, n)) if call.input.numel() else 0
    wanted: list[tuple[str, Tensor | None]] = [("x", call.input), ("weight", call.weight), ("bias", call.bias)]
    if gradient is not None:
        wanted.append(("grad", gradient[1]))
    lines = ["import torch", "import equiv", "from torch.nn import functional as F", ""]
    for name, tensor in wanted:
        code = ["bias = None"] if tensor is None else tensor_code(name, tensor)
        if code is None:
            return None
        lines += code
    dims = call.weight.ndim - 2
    options = "".join(
        f", {key}={value}" for key, value in (("stride", call.stride), ("dilation", call.dilation)) if value
    )
    function = "F.linear(x, weight, bias)" if call.form == "linear" else f"F.conv{dims}d(x, weight, bias{options})"
    if not backend.startswith("eager."):
        lines.append(f"# torch's own kernel stands here in place of {backend}")
    if gradient is not None:
        return "\n".join(lines + _gradient_lines(call, gradient[0], function, rows, outputs))
    dtype = call.input.dtype
    lines.append(f"y = {function}.reshape({rows}, {outputs})")
    lines.append(f"rows, matrix = x.reshape({rows}, {n}), weight.reshape({outputs}, {n})")
    if dtype.is_floating_point or dtype.is_complex:
        wide = "torch.complex128" if dtype.is_complex else "torch.float64"
        plus = "" if call.bias is None else f" + bias.to({wide})"
        lines.append(f"exact = rows.to({wide}) @ matrix.to({wide}).T{plus}")
    else:
        lines.append("exact = equiv.numerics.exact_integers(rows, matrix, bias).to(y.dtype)")
    lines += [f"print('actual', y.tolist())\nprint('exact ', exact.tolist())"]
    return "\n".join([*lines, "print(equiv.compare(y, exact, input=rows, weight=matrix, bias=bias))"])


def _gradient_lines(call: Call, name: str, function: str, rows: int, outputs: int) -> list[str]:
    leaf = {"input": "x", "weight": "weight", "bias": "bias"}.get(name, "weight")
    leaves = "(x, weight, bias)" if call.bias is not None else "(x, weight)"
    return [
        f"for leaf in {leaves}:",
        "    leaf.requires_grad_()",
        f"y = {function}.reshape({rows}, {outputs})",
        f"(found,) = torch.autograd.grad(y, {leaf}, grad)",
        "print(found)  # of float64 the same call gives the exact gradient",
    ]


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
        view = (
            f"torch.zeros({extent}, dtype={t.dtype}).as_strided({tuple(t.shape)}, {t.stride()}, {t.storage_offset()})"
        )
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
