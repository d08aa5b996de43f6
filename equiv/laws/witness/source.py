"""Values as Python source: recipes, tensors with their strides, numbers; and lines folded to a width."""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass

import torch
from torch import Tensor

WIDTH = 76  # of a program's line: a report indents it by 4
_LITERAL, _LONGEST = 16, 48  # entries written out; and at most, where few of them are 0
_FEW = 6  # entries put into zeros one by one


def value_code(value: object, *, indent: int = 0, used: int = 0) -> str | None:
    """The expression that makes ``value`` again, one field a line where it would not fit; None if there is none.

    Args:
        value: Of Python's plain types, torch's dtypes and devices, and dataclasses of those.
        indent: Blanks before the first line.
        used: Columns that stand before the expression on its first line.

    Example:
        >>> from equiv.strategies import Layout, Values
        >>> value_code((Values("normals", seed=3), Layout("step")))
        "(Values(kind='normals', seed=3), Layout(kind='step'))"
    """
    if isinstance(value, torch.device):
        return f"torch.device({str(value)!r})"
    if value is None or isinstance(value, bool | int | float | str | torch.dtype):
        return repr(value)
    if isinstance(value, tuple):
        parts: list[tuple[str, object]] = [("", item) for item in value]
        opening, closing = "(", ",)" if len(value) == 1 else ")"
    elif is_dataclass(value) and not isinstance(value, type):
        parts = [
            (f"{f.name}=", getattr(value, f.name))
            for f in fields(value)
            if f.default is MISSING or getattr(value, f.name) != f.default
        ]
        opening, closing = f"{type(value).__name__}(", ")"
    else:
        return None
    flat = [(name, value_code(item)) for name, item in parts]
    if any(code is None for _, code in flat):
        return None
    line = opening + ", ".join(f"{name}{code}" for name, code in flat) + closing
    if "\n" not in line and max(indent, used) + len(line) + 1 <= WIDTH:  # 1: the comma that may follow
        return line
    inner = " " * (indent + 4)
    rows = [f"{inner}{name}{value_code(item, indent=indent + 4, used=indent + 4 + len(name))}," for name, item in parts]
    return "\n".join([opening, *rows, " " * indent + ")"])


def classes_in(value: object) -> set[type]:
    """The dataclasses that :func:`value_code` names."""
    if isinstance(value, tuple):
        return set().union(*map(classes_in, value))
    if not is_dataclass(value) or isinstance(value, type):
        return set()
    inside = (getattr(value, f.name) for f in fields(value) if getattr(value, f.name) != f.default)
    return {type(value)}.union(*map(classes_in, inside))


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
    places = t.nonzero()
    literal = _literal(t, _LITERAL if len(places) <= _FEW else _LONGEST)
    if literal is not None:
        return [f"{name} = {literal}"]
    if len(places) > _LITERAL:
        return None
    lines = [f"{name} = torch.zeros({tuple(t.shape)}, dtype={t.dtype})"]
    return lines + [f"{name}[{', '.join(map(str, p))}] = {_number(t[tuple(p)])}" for p in places.tolist()]


def _literal(t: Tensor, longest: int = _LITERAL) -> str | None:
    if t.numel() == 0:
        return f"torch.zeros({tuple(t.shape)}, dtype={t.dtype})"
    if t.numel() > 1 and torch.equal(t, t.flatten()[0].expand(t.shape)):
        return f"torch.full({tuple(t.shape)}, {_number(t.flatten()[0])}, dtype={t.dtype})"
    if t.numel() > longest:
        return None
    text = repr(t.tolist()).replace("nan", "float('nan')").replace("inf", "float('inf')")
    return f"torch.tensor({text}, dtype={t.dtype})"


def _number(value: Tensor) -> str:
    return repr(value.item()).replace("nan", "float('nan')").replace("inf", "float('inf')")
