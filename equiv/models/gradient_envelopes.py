"""Gradients of a plain affine layer held against their envelopes, at the entries where the two sides differ most.

With an incoming gradient ``G`` ``(P, O)`` and inputs ``X`` ``(P, n)`` that of the input is ``G @ W``, that of the
weight ``G.T @ X``, that of the bias the sum of the rows of ``G``: see ``equiv.verdict``, which says what right kernels
may return of each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from equiv.causes import Cause
from equiv.mapping import Conv, inputs_read, is_conv1d
from equiv.models.layouts import Form as Rows
from equiv.models.layouts import form_of
from equiv.models.sampling import furthest, same, worst_of
from equiv.models.trees import equal
from equiv.verdict import Form, Outcome, Verdict, cause_of_gradient, judged_form, slides

_ROWS, _COLUMNS, _PLACES = 16, 32, 4


class Asked(NamedTuple):
    """A layer, the input that it had and the gradient of its result, all as the reference has them.

    ``kinds`` are the types of the candidate's module and of the reference's.
    """

    layer: Any
    x: Tensor
    incoming: Tensor
    kinds: tuple[type, type]


def judged_gradient(of: str, asked: Asked, candidate: Tensor, reference: Tensor) -> Verdict:
    """The verdict on two gradients ``of`` the ``input``, the ``weight`` or the ``bias``, in the reference's layout.

    Example:
        >>> layer, x, g = nn.Linear(3, 2), torch.rand(4, 3), torch.rand(4, 2)
        >>> asked = Asked(layer, x, g, (nn.Linear, nn.Linear))
        >>> judged_gradient("bias", asked, 2 * g.sum(0), g.sum(0)).outcome.name
        'DIFFERENT'
    """
    if candidate.dtype == reference.dtype and equal(candidate, reference):
        return same(reference)
    found = []
    for side, gradient, kind in zip(("candidate", "reference"), (candidate, reference), asked.kinds, strict=True):
        for form, total in _forms(of, asked, kind, candidate, reference):
            found.append(_on_one_side(form, gradient, (side, total), asked))
    verdict = worst_of(found)
    if verdict.outcome is Outcome.DIFFERENT and of == "weight" and _is_transposed(asked, candidate, reference):
        cause = Cause("gradient-transposed", "the gradient of the weight is transposed", "grad = grad.T")
        verdict = replace(verdict, cause=cause)
    return replace(verdict, shape=tuple(reference.shape))


def _on_one_side(form: Form, gradient: Tensor, words: tuple[str, int], asked: Asked) -> Verdict:
    side, total = words
    kind = form.x.dtype
    used = form.arithmetic(None, gradient.device)
    verdict = judged_form(form, gradient.to(kind), used)
    text = verdict.explanation.replace("outputs", "entries").replace("output ", "entry ")
    count = len(form.x) * len(form.weight)
    judged = f"judged at {count:,} of {total:,} entries: " if count < total else ""
    if verdict.outcome is not Outcome.DIFFERENT:
        return replace(verdict, explanation=f"{judged}{text}")
    cause = cause_of_gradient(form, form.part(gradient.to(kind)).cpu(), len(asked.x))
    text = f"the {side}'s gradient of the {form.of} is not that of the layer: {judged}{text}"
    return replace(verdict, explanation=text, cause=cause)


def _forms(of: str, asked: Asked, kind: type, a: Tensor, b: Tensor) -> Iterator[tuple[Form, int]]:
    """The gradient as rows of a product, at some of its entries, and how many it has."""
    layer, x, incoming = asked.layer, asked.x.detach(), asked.incoming
    weight = matrix(layer).to(incoming.dtype)
    rows = form_of(layer, tuple(x.shape))
    in_steps = not all(issubclass(each, nn.Linear) for each in (kind, type(layer)))
    apart = (a - b).abs().double().nan_to_num(math.inf, math.inf)
    if of == "bias":
        yield from _of_bias(layer, rows, incoming, apart, in_steps)
    elif rows is None:
        yield from (_kernel if of == "weight" else _map)(layer, x.to(incoming.dtype), incoming, apart)
    elif of == "weight":
        apart = matrix_like(layer, apart)
        outputs, columns = furthest(apart.amax(1), _ROWS), furthest(apart.amax(0), _COLUMNS)
        g, given = rows.rows_out(incoming)[:, outputs], rows.rows_in(x)[:, columns].to(incoming.dtype)
        yield Form("weight", g.T.cpu(), given.conj().T.cpu(), _matrix_part(layer, outputs, columns)), apart.numel()
    else:
        yield _of_rows(rows, weight, incoming, apart, slides(layer, _shape(layer, x)) and in_steps)


def _of_bias(
    layer: Any, rows: Rows | None, incoming: Tensor, apart: Tensor, in_steps: bool
) -> Iterator[tuple[Form, int]]:
    axis = -1 if rows is not None and rows.kind == "rows" else -1 - (0 if rows is None else len(rows.kernel))
    if rows is None:
        axis = 1 - layer.weight.ndim
    g = incoming.movedim(axis, 0).flatten(1)  # (O, P)
    some = furthest(apart, _COLUMNS)
    part = _rows_part(some)
    yield Form("bias", g[some].cpu(), torch.ones_like(g[:1]).cpu(), part, in_steps=in_steps), len(g)


def _of_rows(rows: Rows, weight: Tensor, incoming: Tensor, apart: Tensor, in_steps: bool) -> tuple[Form, int]:
    g, parted = rows.rows_out(incoming), rows.rows_in(apart)
    some, columns = furthest(parted.amax(1), _ROWS), furthest(parted.amax(0), _COLUMNS)

    def part(gradient: Tensor) -> Tensor:
        return rows.rows_in(gradient)[some][:, columns]

    form = Form("input", g[some].cpu(), weight.conj().T[columns].cpu(), part, in_steps=in_steps)
    return form, parted.numel()


def _kernel(conv: Conv, x: Tensor, incoming: Tensor, apart: Tensor) -> Iterator[tuple[Form, int]]:
    """The weight's gradient of a convolution that slides, a group of channels at a time."""
    x, incoming = _batched(conv, x), _batched(conv, incoming)
    reads = inputs_read(conv, tuple(x.shape[2:])).to(x.device)  # (P, T)
    outputs, inputs = conv.out_channels // conv.groups, conv.in_channels // conv.groups
    scores = apart.flatten(1)  # (O, C/G * T)
    for group in furthest(scores.view(conv.groups, -1).amax(1), _PLACES).tolist():
        own = scores[group * outputs : (group + 1) * outputs]
        some = furthest(own.amax(1), _ROWS) + group * outputs
        columns = furthest(own.amax(0), _COLUMNS)
        channels, taps = columns // reads.shape[1] + group * inputs, columns % reads.shape[1]
        places = reads[:, taps].T  # (M, P)
        read = x.flatten(2)[:, channels[:, None], places.clamp(min=0)].masked_fill(places < 0, 0)  # (N, M, P)
        g = incoming.flatten(2)[:, some]
        weight = read.conj().transpose(0, 1).flatten(1)
        form = Form("weight", g.transpose(0, 1).flatten(1).cpu(), weight.cpu(), _matrix_part(conv, some, columns))
        yield form, apart.numel()


def _map(conv: Conv, x: Tensor, incoming: Tensor, apart: Tensor) -> Iterator[tuple[Form, int]]:
    """The input's gradient of a convolution that slides, at some positions of its map."""
    x, incoming, apart = _batched(conv, x), _batched(conv, incoming), _batched(conv, apart)
    reads = inputs_read(conv, tuple(x.shape[2:])).to(x.device)  # (P, T)
    outputs, inputs = conv.out_channels // conv.groups, conv.in_channels // conv.groups
    parted = apart.flatten(2)  # (N, C, Q)
    samples = furthest(parted.amax((1, 2)), _PLACES)
    groups = furthest(parted.view(len(x), conv.groups, -1).amax((0, 2)), 2).tolist()
    for place in furthest(parted.amax((0, 1)), 2 * _PLACES).tolist():
        positions, taps = (reads == place).nonzero(as_tuple=True)
        if not len(positions):
            continue  # no window reads it: the gradient is zero, which the other places show as well
        for group in groups:
            of = slice(group * outputs, (group + 1) * outputs)
            columns = furthest(parted[:, group * inputs : (group + 1) * inputs, place].amax(0), _COLUMNS)
            g = incoming.flatten(2)[samples, of][..., positions].flatten(1)  # (R, O/G * m)
            kernel = conv.weight.detach().flatten(2)[of][:, columns].to(incoming.dtype)[..., taps]  # (O/G, M, m)
            weight = kernel.conj().transpose(0, 1).flatten(1)
            part = _map_part(conv, (samples, columns + group * inputs, place))
            yield Form("input", g.cpu(), weight.cpu(), part, in_steps=True), apart.numel()


def _map_part(conv: Conv, at: tuple[Tensor, Tensor, int]) -> Any:
    samples, columns, place = at
    return lambda gradient: _batched(conv, gradient).flatten(2)[samples][:, columns, place]


def _matrix_part(layer: Any, outputs: Tensor, columns: Tensor) -> Any:
    return lambda gradient: matrix_like(layer, gradient)[outputs][:, columns]


def _rows_part(some: Tensor) -> Any:
    return lambda gradient: gradient[some].view(-1, 1)


def matrix(layer: Any) -> Tensor:
    """The weight as a matrix ``(O, n)``."""
    return matrix_like(layer, layer.weight.detach())


def matrix_like(layer: Any, values: Tensor) -> Tensor:
    """Values in the shape of a layer's weight, as its matrix."""
    return values.T if is_conv1d(layer) else values.flatten(1)


def _batched(conv: Conv, t: Tensor) -> Tensor:
    return t.unsqueeze(0) if t.ndim == conv.weight.ndim - 1 else t


def _shape(layer: Any, x: Tensor) -> tuple[int, ...]:
    return tuple(x.shape[-layer.weight.ndim + 1 :]) if isinstance(layer, Conv) else (x.shape[-1], 1)


def _is_transposed(asked: Asked, candidate: Tensor, reference: Tensor) -> bool:
    """Whether the candidate's gradient of a square weight is the reference's, transposed, up to rounding."""
    a, b = (matrix_like(asked.layer, g).double() for g in (candidate, reference))
    if a.shape[0] != a.shape[1] or len(a) < 2:
        return False
    size, terms = float(b.abs().max()), max(1, asked.incoming.numel() // len(a))
    slack = 4 * math.sqrt(terms) * torch.finfo(reference.dtype).eps * size
    return float((a.T - b).abs().max()) <= slack < float((a - b).abs().max())


def sparse_gradient(layer: Any, x: Tensor, result: Tensor, seed: int) -> Tensor:
    """An incoming gradient of one entry for each output at most, in one row each, with full mantissas.

    Each entry of the gradients of weight and bias is one product, and so is that of the input of a layer on rows.
    """
    generator = torch.Generator().manual_seed(seed)
    form = form_of(layer, tuple(x.shape))
    axis = 1 - layer.weight.ndim if form is None else -1 if form.kind == "rows" else -1 - len(form.kernel)
    moved = torch.zeros(result.shape, dtype=torch.float64, device="cpu").movedim(axis, -1)
    rows = moved.reshape(-1, moved.shape[-1])
    count = min(rows.shape)
    places = torch.randperm(len(rows), generator=generator)[:count]
    outputs = torch.randperm(rows.shape[1], generator=generator)[:count]
    signs = torch.randint(0, 2, (count,), generator=generator) * 2 - 1
    rows[places, outputs] = (1 + torch.rand(count, generator=generator)).double() * signs
    return rows.view(moved.shape).movedim(-1, axis).to(result.device, result.dtype)
