"""Tensors as Python source, with their strides, and lines folded to a width."""

from __future__ import annotations

import torch
from torch import Tensor

from equiv.dtypes import is_inexact

WIDTH = 76  # of a program's line: a report indents it by 4
_LITERAL, _LONGEST = 16, 48  # entries written out; and at most, where few of them are 0
_FEW = 6  # entries put into zeros one by one


def folded(line: str) -> list[str]:
    """A statement on lines of at most ``WIDTH`` columns where it can be broken: at blanks inside brackets.

    Example:
        >>> folded("x = torch.tensor([" + ", ".join(["1.5"] * 16) + "])")[1]
        '    1.5, 1.5, 1.5, 1.5, 1.5])'
    """
    lines, indent, start = [], " " * (len(line) - len(line.lstrip()) + 4), 0
    while len(line) > WIDTH:
        depth, quoted, cut, left = start, "", 0, 0
        for place, character in enumerate(line[: WIDTH + 1]):
            if quoted:
                quoted = "" if character == quoted else quoted
            elif character in "'\"":
                quoted = character
            elif character in "([{":
                depth += 1
            elif character in ")]}":
                depth -= 1
            elif character == " " and depth > 0 and line[:place].strip():
                cut, left = place, depth
        if not cut:
            break
        lines.append(line[:cut])
        line, start = indent + line[cut + 1 :], left
    return [*lines, line]


def tensor_code(name: str, t: Tensor) -> list[str] | None:
    """Lines that build ``t`` with its values, strides and storage offset; None if it has too many entries."""
    t = t.detach()
    if t.is_conj():
        return _and_then(tensor_code(name, t.conj()), f"{name} = {name}.conj()")
    if t.is_neg():
        zeros = f"torch.zeros({tuple(t.shape)}, dtype={t.dtype})"
        return _and_then(tensor_code(name, t.resolve_neg()), f"{name} = torch.complex({zeros}, -{name}).conj().imag")
    if any(stride == 0 and size > 1 for size, stride in zip(t.shape, t.stride(), strict=True)):
        base = t
        for d, stride in enumerate(t.stride()):
            base = base.narrow(d, 0, 1) if stride == 0 and base.shape[d] > 1 else base
        return _and_then(tensor_code(name, base), f"{name} = {name}.expand({tuple(t.shape)})")
    lines = _values(name, t)
    if lines is None:
        return None
    if not t.is_contiguous() or t.storage_offset():
        last = sum((size - 1) * step for size, step in zip(t.shape, t.stride(), strict=True)) if t.numel() else 0
        extent = 1 + t.storage_offset() * (t.numel() > 0) + last
        # What lies around the values is NaN, or 85, so that a read outside shows, as in equiv.strategies.Layout.
        around = "float('nan')" if is_inexact(t.dtype) else "85"
        place = f"{tuple(t.shape)}, {t.stride()}, {t.storage_offset()}"
        view = f"torch.full(({extent},), {around}, dtype={t.dtype}).as_strided({place})"
        lines.append(f"{name} = {view}.copy_({name})")
    return lines


def _and_then(lines: list[str] | None, line: str) -> list[str] | None:
    return None if lines is None else [*lines, line]


def _values(name: str, t: Tensor) -> list[str] | None:
    places = t.nonzero()
    literal = _literal(t, _LITERAL if len(places) <= _FEW else _LONGEST)
    if literal is not None:
        return [f"{name} = {literal}"]
    if len(places) > _LITERAL:
        return None
    lines = [f"{name} = torch.zeros({tuple(t.shape)}, dtype={t.dtype})"]
    return lines + [f"{name}[{', '.join(map(str, p))}] = {_numbers(t[tuple(p)])}" for p in places.tolist()]


def _literal(t: Tensor, longest: int = _LITERAL) -> str | None:
    if t.numel() == 0:
        return f"torch.zeros({tuple(t.shape)}, dtype={t.dtype})"
    if t.numel() > 1 and torch.equal(t, t.flatten()[0].expand(t.shape)):
        return f"torch.full({tuple(t.shape)}, {_numbers(t.flatten()[0])}, dtype={t.dtype})"
    if t.numel() > longest:
        return None
    return f"torch.tensor({_numbers(t)}, dtype={t.dtype})"


def _numbers(t: Tensor) -> str:
    return repr(t.tolist()).replace("nan", "float('nan')").replace("inf", "float('inf')")
