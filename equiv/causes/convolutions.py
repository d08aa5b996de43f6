"""Which mistake turns a convolution into what was seen: a dense matrix, bit for bit, or results on larger maps."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from equiv.arguments import check_tensor
from equiv.causes.mistakes import Cause, cause_of
from equiv.causes.outputs import likely_cause
from equiv.causes.permutations import in_words, undone
from equiv.causes.windows import Mistaken, Window, mistaken, on_maps, right_at, terms_of, window_of
from equiv.dtypes import is_inexact
from equiv.errors import EquivError
from equiv.mapping import Conv, check_conv
from equiv.numerics import format_of

_COMPARED = 2**22  # entries of a matrix that are compared at once
_FIRST, _OUTPUTS, _TERMS = 16, 512, 2**22  # results on which a mistake is refuted, and confirmed; terms of these
_POSITIONS, _ROWS, _PRODUCTS = 48, 256, 2**26  # output positions whose inputs are taken for rows, rows, products
_GROUPS = 4
_SPARSE, _ENTRIES = 64, 8  # samples that are taken where they have fewer entries than this


def own_kernel(matrix: Tensor, conv: Conv, shape: tuple[int, ...]) -> Tensor | None:
    """The kernel ``(O, Cg*T)`` that a convolution of this geometry has if ``matrix`` (O*P, C*Q) is its own; else None.

    Every weight is read where its tap alone lands on an input.
    """
    window, weight = window_of(conv, shape[1:]), conv.weight.detach().cpu().flatten(2)
    reads = window.reads(torch.arange(window.places))
    free = (reads >= 0) & ((reads[:, :, None] == reads[:, None, :]).sum(-1) == 1)
    if not bool(free.any(0).all()):
        return None
    outs, taps = len(weight), weight.shape[2]
    rows = (torch.arange(outs)[:, None] * window.places + free.to(torch.uint8).argmax(0)).flatten()  # of every (o, tap)
    index, _ = terms_of(weight, window, conv.groups, rows)
    index = index.view(outs, taps, -1, taps).diagonal(dim1=1, dim2=3).permute(0, 2, 1).flatten(0, 1)  # (O*T, Cg)
    kernel = matrix[rows[:, None], index].view(outs, taps, -1).transpose(1, 2).contiguous()
    return kernel.flatten(1) if _is_matrix(matrix, right_at(window), kernel, conv.groups, [0]) else None


def matrix_cause(matrix: Tensor, conv: Conv, shape: tuple[int, ...]) -> Mistaken | None:
    """The mistaken convolution whose dense matrix on maps ``shape`` is ``matrix`` (O*P, C*Q), bit for bit."""
    weight, groups = conv.weight.detach().cpu().flatten(2), conv.groups
    right = right_at(window_of(conv, shape[1:]))
    wrong = (row for row in range(len(matrix)) if not right.fits(matrix, weight, groups, torch.tensor([row])))
    first = [next(wrong, 0)]
    return next((m for m in mistaken(conv, shape) if _is_matrix(matrix, m, weight, groups, first)), None)


def _is_matrix(matrix: Tensor, mistake: Mistaken, weight: Tensor, groups: int, first: list[int]) -> bool:
    """Whether a matrix is that of a mistake; some rows are compared first."""
    rows, n = matrix.shape
    parts = [torch.tensor(first), *torch.split(torch.arange(rows), max(1, _COMPARED // n))]
    return all(mistake.fits(matrix, weight, groups, part) for part in parts)


def sliding_cause(actual: Tensor, conv: Conv, x: Tensor, expected: Tensor | None = None) -> Cause | None:
    """The mistake that explains the results of a convolution on maps, or None; never an error.

    Some hundred results are computed in float64 under each mistake, those at the border and the worst ones among them;
    a mistake that does not give the first few is dropped. No convolution is run.

    Args:
        actual: Its results, ``(N, O, *positions)`` or flattened, of a floating or an integer dtype.
        conv: The plain convolution.
        x: What it was given, ``(N, C, *spatial)``.
        expected: Right results of the same shape, if there are any: the worst of ``actual`` are found with them.

    Example:
        >>> conv, x = torch.nn.Conv2d(2, 3, 3, padding=1), torch.rand(2, 2, 8, 8)
        >>> wrong = torch.nn.functional.conv2d(x, conv.weight.flip(2, 3), conv.bias, padding=1)
        >>> print(sliding_cause(wrong.detach(), conv, x))
        kernel-flipped: kernel flipped along H and W, turned by 180 degrees
    """
    try:
        conv = check_conv(conv)
        for name, value in (("actual", actual), ("x", x), *[("expected", expected)] * (expected is not None)):
            check_tensor(name, value)
    except EquivError:
        return None
    if actual.is_complex() or x.ndim != conv.weight.ndim or not len(x):
        return None
    with torch.device("cpu"), torch.no_grad():
        try:
            seen = _Seen.of(actual, conv, x, expected)
            if _distance(seen, right_at(seen.window), conv, seen.some)[0]:
                return None
            found = _of_rows(seen, conv) or _of_windows(seen, conv) or _of_permutations(seen, conv)
            return None if found is None else on_maps(found, conv)
        except (ValueError, RuntimeError, IndexError):
            return None


class _Seen(NamedTuple):
    """Results to explain: of one or two samples, at some outputs, the first few of which tell most."""

    actual: Tensor  # (N, O*P)
    x: Tensor  # (N, C*Q), wide
    shape: tuple[int, ...]
    weight: Tensor  # (O, Cg, T), wide
    bias: Tensor  # (O,), wide
    window: Window  # of the right convolution
    some: Tensor  # indices into O*P

    @classmethod
    def of(cls, actual: Tensor, conv: Conv, x: Tensor, expected: Tensor | None) -> _Seen:
        wide = torch.float64 if actual.is_floating_point() else torch.int64
        window = window_of(conv, tuple(x.shape[2:]))
        rows = actual.detach().cpu().reshape(len(x), -1)
        apart = torch.zeros(rows.shape, dtype=torch.float64)
        if expected is not None:
            apart = (rows.to(wide) - expected.detach().cpu().reshape(rows.shape).to(wide)).abs().double()
        apart = apart.nan_to_num(0.0, 0.0, 0.0)
        worst = int(apart.amax(1).argmax())
        wanted = _SPARSE if int(x[worst].count_nonzero()) < _ENTRIES else 2  # one-hot inputs say little, each
        samples = sorted({worst, *_spread(apart.amax(1), wanted)})
        weight = conv.weight.detach().cpu().to(wide).flatten(2)
        bias = torch.zeros(len(weight), dtype=wide) if conv.bias is None else conv.bias.detach().cpu().to(wide)
        return cls(
            rows[samples],
            x.detach().cpu()[samples].to(wide).flatten(1),
            tuple(x.shape[1:]),
            weight,
            bias,
            window,
            _outputs(apart[samples].amax(0), window.positions, weight[0].numel() * len(samples), len(weight)),
        )


def _spread(apart: Tensor, wanted: int) -> list[int]:
    """So many samples: half of them the worst, the others anywhere."""
    generator = torch.Generator().manual_seed(0)
    worst = apart.topk(min(len(apart), wanted // 2)).indices
    return [*worst.tolist(), *torch.randperm(len(apart), generator=generator)[: wanted - wanted // 2].tolist()]


def _outputs(apart: Tensor, positions: tuple[int, ...], terms: int, outs: int) -> Tensor:
    """Results to look at: the worst, corners and borders, and others at random; in an order that mixes them."""
    generator = torch.Generator().manual_seed(0)
    places = math.prod(positions)
    count = max(_FIRST, min(_OUTPUTS, _TERMS // max(1, terms)))
    index = torch.stack(torch.meshgrid(*(torch.arange(size) for size in positions), indexing="ij")).flatten(1)
    last = torch.tensor(positions)[:, None] - 1
    border = ((index == 0) | (index == last)).any(0).nonzero().flatten()
    p = border[torch.randint(len(border), (count // 3,), generator=generator)]
    o = torch.randint(outs, (count // 3,), generator=generator)
    anywhere = torch.randint(outs * places, (count // 3,), generator=generator)
    some = torch.cat([apart.topk(min(len(apart), count // 3)).indices, o * places + p, anywhere])
    return some[torch.randperm(len(some), generator=generator)]


def _of_rows(seen: _Seen, conv: Conv) -> Cause | None:
    """What goes wrong between a window and the results at its position: one dense layer for each group."""
    generator = torch.Generator().manual_seed(0)
    places, groups = seen.window.places, conv.groups
    samples, products = len(seen.x), seen.weight.numel()
    most = max(4, min(_POSITIONS, _ROWS // samples, _PRODUCTS // max(1, products * samples)))
    p = torch.unique(torch.cat([seen.some % places, torch.randperm(places, generator=generator)])[:most])
    outs, causes = len(seen.weight) // groups, []
    if not seen.x.is_floating_point():
        return None
    for group in range(min(groups, _GROUPS)):
        index, _ = terms_of(seen.weight, seen.window, groups, group * outs * places + p)
        rows = _padded(seen.x)[:, index].flatten(0, 1)  # (N*p, Cg*T)
        at = slice(group * outs, (group + 1) * outs)
        actual = seen.actual.view(len(seen.x), -1, places)[:, at][:, :, p].transpose(1, 2).flatten(0, 1)
        shape = (conv.weight.shape[1], *conv.weight.shape[2:])
        weight, bias = seen.weight[at].flatten(1), None if conv.bias is None else seen.bias[at]
        causes.append(likely_cause(actual, x=rows, weight=weight, bias=bias, feature_shape=shape))
    first = causes[0]
    alike = first is not None and all(cause is not None and cause.name == first.name for cause in causes)
    return first if alike and first is not None and first.name != "batch-permuted" else None


def _of_windows(seen: _Seen, conv: Conv) -> Cause | None:
    """What goes wrong in reading or writing the maps."""
    best: Cause | None = None
    _, far = _distance(seen, right_at(seen.window), conv, seen.some)
    for mistake in mistaken(conv, seen.shape):
        for some in (seen.some[:_FIRST], seen.some):
            fits, distance = _distance(seen, mistake, conv, some)
            if not fits:
                break
        else:
            if distance < far / 2:
                best, far = mistake.cause, distance
            if far == 0:
                break
    return best


def _of_permutations(seen: _Seen, conv: Conv) -> Cause | None:
    """Channels or taps of the kernel in any other order, which is solved for: y = sum of m[c, d] * (w_c . x_d)."""
    if conv.groups > 1 or not seen.x.is_floating_point():
        return None
    index, w = terms_of(seen.weight, seen.window, 1, seen.some)
    rows, weight = _padded(seen.x)[:, index].view(len(seen.x), len(index), *seen.weight.shape[1:]), seen.weight
    y = (seen.actual[:, seen.some].double() - seen.bias[seen.some // seen.window.places]).flatten()
    w = w.view(rows.shape[1:])
    sizes, kernel = weight.shape[1:], conv.weight.shape[1:]
    plain = torch.arange(weight[0].numel()).view(sizes)
    for dim, equations in ((0, "ect,nedt->necd"), (1, "ect,necs->nets")):
        if not 1 < sizes[dim] ** 2 <= len(y) / 2:
            continue
        products = torch.einsum(equations, w, rows).reshape(len(y), -1)
        if not (products.isfinite().all() and y.isfinite().all()):  # LAPACK would complain on standard output
            return None
        found = torch.linalg.lstsq(products, y[:, None]).solution.view(sizes[dim], -1)
        order = found.argmax(0)  # of the wrong kernel: place d holds what belongs to c
        if len(torch.unique(order)) < len(order):
            continue
        by_channel = dim == 0 and sizes[1] > 1
        place = order if by_channel else plain.index_select(dim, order).flatten()
        name, of = ("channels-permuted", ", ".join(map(str, kernel))) if by_channel else ("inputs-permuted", "")
        cause = cause_of(name, moved=in_words(place), undo=undone(place, 1), sizes=of)
        changed = seen._replace(weight=weight.index_select(1 + dim, order))
        if _distance(changed, right_at(seen.window), conv, seen.some)[0]:
            return cause
    return None


def _distance(seen: _Seen, mistake: Mistaken, conv: Conv, some: Tensor) -> tuple[bool, float]:
    """Whether a mistake gives these results, within the rounding of right kernels, and how closely."""
    wanted = some if mistake.outputs is None else mistake.outputs[some]
    index, w = terms_of(seen.weight, mistake.window, conv.groups, wanted)
    x = seen.x if mistake.inputs is None else seen.x[:, mistake.inputs]
    b = seen.bias[wanted // mistake.window.places]
    terms = _padded(x)[:, index] * w  # (N, some, Cg*T)
    h, a = terms.sum(-1) + b, seen.actual[:, some]
    if not is_inexact(a.dtype):
        return torch.equal(h.to(a.dtype), a), float((h.to(a.dtype) != a).double().mean())
    size = terms.abs().sum(-1) + b.abs()
    bound = 4 * format_of(a.dtype).u * h.abs() + (terms.count_nonzero(-1) + 1) * 2.0**-24 * size
    off = (a.double() - h).abs()
    shares = (off / size.clamp(min=torch.finfo(torch.float64).tiny)).square().mean().sqrt()
    return bool((off <= bound).all()), float(shares)


def _padded(x: Tensor) -> Tensor:
    """Flattened maps with one zero behind them, which padding reads."""
    return torch.cat([x, x.new_zeros(len(x), 1)], 1)
