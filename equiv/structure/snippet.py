"""A counterexample as text: the picture of two small dense matrices, and a program that shows the difference.

Letters as in `equiv.structure.closest`. A value of the layer is written with as few digits as give it back in its own
dtype; sums are written in full.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from equiv.structure.closest import FlattenedLayer

Scalar = int | float | complex

WIDTH = 80
_SHOWN = 64  # weights that a snippet spells out


def shortest(value: Scalar, dtype: torch.dtype) -> str:
    """Write a value of the dtype with as few digits as read back to it.

    Example:
        >>> shortest(0.10000000149011612, torch.float32)
        '0.1'
    """
    if isinstance(value, complex):
        part = torch.float32 if dtype == torch.complex64 else torch.float64
        return f"complex({shortest(value.real, part)}, {shortest(value.imag, part)})"
    if isinstance(value, float):
        for digits in range(1, 17):
            text = repr(float(f"{value:.{digits}g}"))
            if torch.tensor(float(text), dtype=torch.float64).to(dtype).item() == value:
                return text
    return repr(value)


def _nested(values: list[Scalar] | list[list[Scalar]], dtype: torch.dtype) -> str:
    return "[" + ", ".join(_nested(v, dtype) if isinstance(v, list) else shortest(v, dtype) for v in values) + "]"


def picture(layer: FlattenedLayer) -> str:
    """Both dense matrices side by side where they fit; a dot is a zero that the structure forces."""
    rows = layer.o * layer.hw
    if rows > 8 or layer.n > 8 or layer.readout == "mean":
        return ""
    k = [
        [_short(layer.k[r // layer.hw, i // layer.hw]) if r % layer.hw == i % layer.hw else "." for i in range(layer.n)]
        for r in range(rows)
    ]
    left, right = _grid([[_short(v) for v in row] for row in layer.w]), _grid(k)
    title = "1x1 conv (. = 0 by structure)"
    width = max(len("layer W"), len(left[0]))
    if layer.readout != "positions" or 4 + width + max(len(title), len(right[0])) > WIDTH - 2:
        if 2 + len(right[0]) > WIDTH:
            return ""
        return "\n".join([f"Dense matrix of the {title}:", *("  " + line for line in right)])
    both = [f"  {a:<{width}}    {b}".rstrip() for a, b in zip(left, right, strict=True)]
    return "\n".join([f"  {'layer W':<{width}}    {title}", *both])


def _grid(cells: list[list[str]]) -> list[str]:
    width = max(len(cell) for row in cells for cell in row)
    return [" ".join(f"{cell:>{width}}" for cell in row) for row in cells]


def _short(value: Tensor) -> str:
    number = value.item()
    return str(number) if isinstance(number, int) else f"{number:.3g}"


def _literal(name: str, values: Tensor, comment: str) -> str:
    dtype = str(values.dtype)
    if values.numel() > _SHOWN:
        return f"{name} = torch.zeros({', '.join(map(str, values.shape))}, dtype={dtype})  # {comment}"
    body = _nested(values.tolist(), values.dtype)
    if values.ndim == 2:
        body = "[\n" + "".join(f"    {_nested(row, values.dtype)},\n" for row in values.tolist()) + "]"
    return f"{name} = torch.tensor({body}, dtype={dtype})  # {comment}"


def _program(layer: FlattenedLayer, weight: list[str], bias: list[str], end: list[str]) -> str:
    """The program that builds the layer and asserts what was found of it."""
    lines = ["import torch", "", "import equiv", "", *weight, *bias]
    lines += [f"layer = torch.nn.Linear({layer.n}, {layer.out}, bias={bool(bias)})"]
    lines += ["layer.weight = torch.nn.Parameter(W, requires_grad=False)"]
    lines += ["layer.bias = torch.nn.Parameter(b, requires_grad=False)"] if bias else []
    lines += [f'found = equiv.counterexample(layer, {layer.shape}, readout="{layer.readout}")']
    return "\n".join([*lines, *end, ""])


def snippet_equivalent(layer: FlattenedLayer) -> str:
    """The program for a layer that is a 1x1 convolution."""
    if layer.w.numel() > _SHOWN:
        return f"# The layer is a 1x1 convolution: {layer.n * layer.out:,} weights, no input tells them apart.\n"
    weight = [_literal("W", layer.w, "the layer's weight (out_features, in_features)")]
    bias = [] if layer.b is None else [_literal("b", layer.b, "the layer's bias")]
    return _program(layer, weight, bias, ["assert found.equivalent"])


def snippet_weight(
    layer: FlattenedLayer, row: int, column: int, also: Sequence[tuple[int, int, Scalar]], bias: tuple[Scalar, Scalar]
) -> str:
    """The program for a one-hot input that reads ``W[row, column]``; ``also`` are the entries that it needs."""
    (c, q), big = divmod(column, layer.hw), layer.w.numel() > _SHOWN
    o = row // layer.hw if layer.readout == "positions" else row
    weight = [_literal("W", layer.w, "entries that play no part are 0" if big else "(out_features, in_features)")]
    weight += [f"W[{i}, {j}] = {shortest(v, layer.dtype)}" for i, j, v in also] if big else []
    kernel = [_literal("K", layer.k, "closest 1x1 convolution (out_channels, in_channels)")]
    kernel += [f"K[{o}, {c}] = {shortest(layer.k[o, c].item(), layer.dtype)}"] if layer.k.numel() > _SHOWN else []
    index = ", ".join(map(str, layer.output_index(row)))
    read = {"positions": f"maps[{index}]", "sum": f"maps[{o}].sum()", "mean": f"maps[{o}].mean()"}[layer.readout]
    b, kb = (f" + {v!r}" if v else "" for v in bias)
    at = ", ".join(map(str, (c, *layer.position(q))))
    wide = torch.int64 if layer.integer else layer.wide
    end = [
        "assert not found.equivalent",
        "",
        *kernel,
        f"x = torch.zeros({', '.join(map(str, layer.shape))}, dtype={wide})",
        f"x[{at}] = 1",
        f"expected = (W.to(x.dtype) @ x.flatten())[{row}]{b}" + ("  # with its bias" if b else ""),
        'maps = torch.einsum("oc,c...->o...", K.to(x.dtype), x)  # the 1x1 convolution',
        f"actual = {read}{kb}",
        'print(f"layer {expected.item()!r}, 1x1 convolution {actual.item()!r}")',
        "assert expected != actual",
    ]
    return _program(layer, weight, [], end)


def snippet_bias(layer: FlattenedLayer, bias: Tensor, row: int, actual: Scalar) -> str:
    """The program for the input 0, which reads ``bias[row]``; the convolution gives ``actual`` at each position."""
    weight = [f"W = torch.zeros({layer.out}, {layer.n}, dtype={layer.dtype})  # the weights play no part for x = 0"]
    lines = [_literal("b", bias, "the layer's bias")]
    if bias.numel() > _SHOWN:
        o = row // layer.hw
        span = range(o * layer.hw, (o + 1) * layer.hw) if layer.readout == "positions" else range(row, row + 1)
        keep = sorted({row, *[i for i in span if bias[i] != bias[row]][:1]})
        lines += [f"b[{i}] = {shortest(bias[i].item(), layer.dtype)}" for i in keep]
    times = f" * {layer.hw}  # summed over positions" if layer.readout == "sum" else ""
    end = [
        "assert not found.equivalent",
        "",
        f"expected = b[{row}].item()  # the layer's output for x = 0",
        f"actual = {actual!r}{times}  # the closest 1x1 convolution's",
        'print(f"layer {expected!r}, 1x1 convolution {actual!r}")',
        "assert expected != actual",
    ]
    return _program(layer, weight, lines, end)
