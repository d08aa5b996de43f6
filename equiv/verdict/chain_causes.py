"""Which mistake in folding a chain explains a difference: the chain is computed under each of them, and compared.

The mistakes of batch norms are those of ``equiv.causes``; here they are put into a chain, beside those that are made
with biases, paddings, averages and low-rank sums.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from equiv.backends import shallow
from equiv.causes import BatchNorm, Cause, fold_mistakes, right_fold
from equiv.dtypes import is_inexact
from equiv.mapping import Conv, ConvTranspose, pads_and_positions
from equiv.numerics import Arithmetic, format_of
from equiv.verdict.chains import NORM_ROUNDINGS, Bound, ChainResults, bound_of, carried
from equiv.verdict.links import Affine, Chain, Norm, Pool, Reshape, Sum, as_wide, real_links
from equiv.verdict.outcome import Outcome, Verdict

_SAMPLES = 8
_CLOSER = 2.0  # times as close as the right chain


class Mistaken(NamedTuple):
    """A chain as somebody may have computed it by mistake."""

    cause: Cause
    chain: Chain


def mistaken_chains(chain: Chain) -> Iterator[Mistaken]:
    """The chain under every mistake."""
    norms = [link.facts for link in chain if isinstance(link, Norm)]
    for i, link in enumerate(chain):
        if isinstance(link, Norm):
            yield from _mistaken_norms(chain, i, [facts for facts in norms if facts is not link.facts])
        elif isinstance(link, Affine):
            yield from _mistaken_biases(chain, i)
        elif isinstance(link, Pool):
            yield from _mistaken_pools(chain, i, link)
        elif isinstance(link, Sum):
            yield from _mistaken_sums(chain, i, link)


def neighbours(chain: Chain, place: int) -> tuple[Affine | None, Affine | None]:
    """The layer before a link and the one behind it, where nothing that computes lies between."""
    found: list[Affine | None] = []
    for part in (chain[:place][::-1], chain[place + 1 :]):
        link = next((other for other in part if not isinstance(other, Reshape)), None)
        found.append(link if isinstance(link, Affine) else None)
    return found[0], found[1]


def fold_line(norm: BatchNorm, before: Affine | None, behind: Affine | None) -> str:
    """The line that folds a batch norm into the layer before it, else into the one behind it."""
    layer = before or behind
    if layer is None:
        return ""
    ndim = layer.module.weight.ndim
    outputs = before is not None
    if isinstance(layer.module, ConvTranspose):
        if layer.module.groups > 1:
            return ""
        outputs = not outputs
    channels = (-1, *(1,) * (ndim - 1)) if outputs else (1, -1, *(1,) * (ndim - 2))
    if before is None and (isinstance(layer.module, ConvTranspose) or getattr(layer.module, "groups", 1) > 1):
        return ""
    return right_fold(norm, after=before is not None, bias=layer.module.bias is not None, view=channels)


def _mistaken_norms(chain: Chain, i: int, others: list[BatchNorm]) -> Iterator[Mistaken]:
    link = chain[i]
    assert isinstance(link, Norm)
    before, behind = neighbours(chain, i)
    fix, bias = fold_line(link.facts, before, behind), None
    if before is not None and before.module.bias is not None:
        held = as_wide(before.module.bias)
        bias = held if held.shape == link.scale.shape and not held.is_complex() else None
    for cause, scale, shift in fold_mistakes(link.facts, bias, fix, others):
        yield Mistaken(cause, (*chain[:i], link.changed(scale, shift), *chain[i + 1 :]))
    if before is None and behind is not None:
        yield from _padded_norm(chain, i, link, behind)


def _padded_norm(chain: Chain, i: int, link: Norm, behind: Affine) -> Iterator[Mistaken]:
    """A batch norm folded into a convolution that pads zeros behind it: as if its input had been padded."""
    conv = behind.module
    if not isinstance(conv, Conv) or chain[i + 1] is not behind or conv.padding_mode != "zeros":
        return
    spatial = tuple(4 * size * max(1, step) for size, step in zip(conv.kernel_size, conv.dilation, strict=True))
    pads = pads_and_positions(conv, spatial)[0]
    if not any(size for pad in pads for size in pad):
        return
    cause = Cause(
        "batch-norm-folded-over-padding",
        "a batch norm is folded into a convolution behind it that pads zeros: at the border the padded zeros get the "
        "shift of the batch norm too, which the chain does not give them",
        "x = bn(x)  # keep this batch norm, or fold it where the convolution pads -shift / factor of each channel",
    )
    flat = [size for pad in pads[::-1] for size in pad]
    pad = nn.ConstantPad1d(0, 0.0)
    pad.padding = tuple(flat)  # type: ignore[assignment]
    bare = shallow(conv, padding=(0,) * len(pads))
    yield Mistaken(cause, (*chain[:i], Reshape(link.place, pad), link, Affine(behind.place, bare), *chain[i + 2 :]))


def _mistaken_biases(chain: Chain, i: int) -> Iterator[Mistaken]:
    link = chain[i]
    assert isinstance(link, Affine)
    before_norm = i + 1 < len(chain) and isinstance(chain[i + 1], Norm)  # whose mistakes this is among
    if link.module.bias is not None and not before_norm:
        bare = shallow(link.module, _parameters={"weight": link.module.weight, "bias": None})
        cause = Cause("chain-bias-dropped", f"the bias of {link.place} is dropped", _merge_line(chain))
        yield Mistaken(cause, (*chain[:i], Affine(link.place, bare), *chain[i + 1 :]))
    behind = neighbours(chain, i)[1]
    if behind is None or not isinstance(link.module, nn.Linear) or not isinstance(behind.module, nn.Linear):
        return
    j = chain.index(behind)
    if link.module.weight.shape == behind.module.weight.shape and len(set(link.module.weight.shape)) == 1:
        cause = Cause(
            "chain-order", f"{link.place} and {behind.place} are multiplied in the other order", _merge_line(chain)
        )
        yield Mistaken(cause, (*chain[:i], behind, *chain[i + 1 : j], link, *chain[j + 1 :]))
    if link.module.bias is not None and len(behind.module.weight) == len(link.module.weight):
        first = shallow(link.module, _parameters={"weight": link.module.weight, "bias": None})
        held = behind.module.bias
        total = link.module.bias if held is None else as_wide(held) + as_wide(link.module.bias)
        second = shallow(behind.module, _parameters={"weight": behind.module.weight, "bias": total})
        words = f"the bias of {link.place} is not multiplied by the weight of {behind.place}"
        changed = (
            *chain[:i],
            Affine(link.place, first),
            *chain[i + 1 : j],
            Affine(behind.place, second),
            *chain[j + 1 :],
        )
        yield Mistaken(Cause("chain-bias-unmultiplied", words, _merge_line(chain)), changed)


def _merge_line(chain: Chain) -> str:
    """The line that merges two Linear layers, where the chain is that."""
    real = [link for link in chain if not isinstance(link, Reshape)]
    if len(real) != 2 or not all(isinstance(link, Affine) and isinstance(link.module, nn.Linear) for link in real):
        return ""
    biases = [isinstance(link, Affine) and link.module.bias is not None for link in real]
    terms = ["second.weight @ first.bias"] * biases[0] + ["second.bias"] * biases[1]
    return f"weight = second.weight @ first.weight; bias = {' + '.join(terms) or None}"


def _mistaken_pools(chain: Chain, i: int, link: Pool) -> Iterator[Mistaken]:
    kernel = getattr(link.module, "kernel_size", None)
    if kernel is None:
        return
    count = math.prod(kernel) if isinstance(kernel, tuple) else kernel ** int(type(link.module).__name__[-2])
    if count > 1:
        cause = Cause(
            "average-not-divided", f"windows of {count} are added, not averaged", f"weight = weight / {count}"
        )
        yield Mistaken(cause, (*chain[:i], Sum(link.place, link.module, (((link,), float(count)),)), *chain[i + 1 :]))


def _mistaken_sums(chain: Chain, i: int, link: Sum) -> Iterator[Mistaken]:
    fix = "weight = layer.base_layer.weight + sum(map(layer.get_delta_weight, layer.active_adapters))"
    base, rest = link.parts[0], link.parts[1:]
    found: list[tuple[str, str, tuple[tuple[Chain, float], ...]]] = [
        ("lora-dropped", "the low-rank part is dropped", (base,)),
        ("lora-unscaled", "the low-rank part is not scaled", (base, *((part, 1.0) for part, _ in rest))),
        ("lora-subtracted", "the low-rank part is subtracted", (base, *((part, -scale) for part, scale in rest))),
        ("lora-doubled", "the low-rank part is added twice", (base, *((part, 2 * scale) for part, scale in rest))),
        ("lora-scaled-twice", "the low-rank part is scaled twice", (base, *((part, s * s) for part, s in rest))),
    ]
    for name, words, parts in found:
        if parts != link.parts:
            yield Mistaken(Cause(name, words, fix), (*chain[:i], replace(link, parts=parts), *chain[i + 1 :]))


def independent(chain: Chain, mistaken: Chain) -> float:
    """In how many ways a mistake shows in channels of a batch norm; infinite for one that is none of a batch norm.

    Where all channels have one variance, say, they share one factor, and its rounding too: they are one witness.

    Example:
        >>> from equiv.verdict.links import links_of
        >>> chain = links_of(nn.BatchNorm1d(8).eval())
        >>> [independent(chain, mistaken.chain) for mistaken in mistaken_chains(chain)][0]
        1
    """
    for a, b in zip(chain, mistaken, strict=False):
        if isinstance(a, Norm) and isinstance(b, Norm) and a is not b:
            off = b.scale / a.scale - 1
            if not bool((off.nan_to_num(1.0).abs() > 2.0**-40).any()):
                off = b.shift - a.shift
            off = off.nan_to_num(0.0, 0.0, 0.0)
            return len(set((off / off.abs().amax().clamp(min=2.0**-1000) * 2**20).round().tolist()))
    return math.inf


def cause_in_chain(results: ChainResults, which: int, worst: int, arithmetic: Arithmetic | None) -> Cause | None:
    """The mistake under which one of two results, the first or the second, is what was seen; None if none is."""
    if arithmetic is None or not is_inexact(results.dtype):
        return None
    rows = {worst // results.outputs}
    rows |= {*range(0, len(results.input), max(1, len(results.input) // (_SAMPLES - 1)))}
    some = torch.tensor(sorted(rows)[: _SAMPLES + 1])
    x, y = results.input[some], results.results[which][some]
    wide = y.to(torch.complex128 if y.is_complex() else torch.float64)
    bound = bound_of(results.chain, results.shapes, arithmetic, results.dtype)
    bar = _distance(results.chain, x, wide, bound, results.dtype)[1] / _CLOSER
    best: Cause | None = None
    for cause, chain in mistaken_chains(results.chain):
        fits, distance = _distance(chain, x, wide, bound, results.dtype)
        if fits and distance < bar:
            best, bar = cause, 0.9 * distance
    return best


def _distance(chain: Chain, x: Tensor, y: Tensor, bound: Bound, dtype: torch.dtype) -> tuple[bool, float]:
    """Whether results lie within what rounding allows around a chain, and how far in units of ``M`` on average."""
    known = carried(chain, x, dtype)
    known_size = known.size.clamp(min=format_of(dtype).min_subnormal)
    off = (y - known.value).abs()
    u = format_of(dtype).u
    allowed = 2 * (bound.relative + bound.reference) * known_size + 2 * u * known.value.abs()
    usable = known.value.isfinite() & y.isfinite() & known_size.isfinite()
    if not bool(usable.any()):
        return False, math.inf
    relative = (off / known_size)[usable]
    return bool((off <= allowed)[usable].all()), float(relative.square().mean().sqrt())


_CHANNELS, _NEAR, _NOISE = 6, 0.2, 0.1
_MOST, _ENTRIES, _PRODUCTS = 64, 2**20, 2**24  # samples, outputs, and products behind a batch norm


def wrong_fold(results: ChainResults, which: int) -> Cause | None:
    """The wrong fold of the last batch norm that explains how one of two results differs from the exact ones.

    Let ``r`` be what a channel's outputs differ from the exact ones, ``d`` what they would under the mistake. Rounding
    is not like ``d``: ``t = <r, d>/<d, d>`` is near 0 for a right fold, near 1 for a wrong one. It must be within 0.2
    of 1 in 6 channels or more: all of those in which ``d`` stands clear of the noise in ``r``. Channels that are alike
    share their rounding, so 6 of them must differ in what the mistake does to them. A pattern, no bound.
    """
    chain = results.chain
    last = max((i for i, link in enumerate(chain) if isinstance(link, Norm)), default=None)
    if not results.dtype.is_floating_point or last is None or not results.outputs:
        return None
    tail, terms = chain[last + 1 :], results.terms if real_links(chain[last + 1 :]) else 1
    count = min(_MOST, _ENTRIES // results.outputs, _PRODUCTS // (terms * results.outputs))
    x, y = as_wide(results.input[:count]), results.results[which][:count].double()
    if not count:
        return None
    for link in chain[:last]:
        x = link.map(x)
    normed = chain[last].map(x)
    right = _run(tail, normed, constant=True)
    off = _channels(y.view(right.shape) - right)
    if not bool(off.isfinite().all()) or off.shape[1] < 2:
        return None
    best: tuple[float, Cause] | None = None
    for cause, mistaken in mistaken_chains(chain):
        norm = mistaken[last]
        if not isinstance(norm, Norm) or mistaken[:last] != chain[:last] or mistaken[last + 1 :] != tail:
            continue
        if independent(chain, mistaken) < _CHANNELS:
            continue
        score = _explained(off, _channels(_run(tail, norm.map(x) - normed, constant=False)))
        if score is not None and (best is None or score < 0.9 * best[0]):
            best = score, cause
    return None if best is None else best[1]


def _run(chain: Chain, v: Tensor, *, constant: bool) -> Tensor:
    for link in chain:
        v = link.map(v, constant=constant)
    return v


def _channels(v: Tensor) -> Tensor:
    """``(N, C, ...)`` as ``(C, P)``."""
    return v.transpose(0, 1).flatten(1)


def _explained(off: Tensor, known: Tensor) -> float | None:
    """How far ``t`` is from 1 on average, where that is near in all channels ``(C, P)`` that tell; else None."""
    square = known.square().sum(1)
    if not bool(square.isfinite().all()):
        return None
    t = (off * known).sum(1) / square
    rest = off - t[:, None] * known
    noise = (rest.square().sum(1) / max(1, off.shape[1] - 1) / square).sqrt()
    tells = (square > 0) & (noise < _NOISE)
    if int(tells.sum()) < _CHANNELS or bool(((t - 1).abs()[tells] > _NEAR).any()):
        return None
    return float((t - 1)[tells].square().mean().sqrt() + noise[tells].mean())


def cannot_be_told(chain: Chain, verdict: Verdict, bound: Bound) -> str:
    """Which mistakes of a batch norm would stay within the rounding of folded parameters; empty where none would."""
    if verdict.outcome is not Outcome.ROUNDING:
        return ""
    words = untold(chain, bound.folded)
    if not words:
        return ""
    return f" In {verdict.dtype} the rounding of folded parameters hides: {', '.join(words)}."


def untold(chain: Chain, folded: float, least: float = 0.0) -> list[str]:
    """Mistakes with the factor of a batch norm that change it, by more than ``least`` but no more than rounding may."""
    found: dict[str, Any] = {}
    for link in chain:
        if not isinstance(link, Norm) or not link.scale.numel():
            continue
        right = link.scale
        for name, eps in (("eps forgotten", 0.0), ("eps 0.001 for 1e-05", 1e-3), ("eps 1e-05 for 0.001", 1e-5)):
            if (eps == 1e-3 and link.facts.eps != 1e-5) or (eps == 1e-5 and link.facts.eps != 1e-3):
                continue
            other = link.facts.factor(eps)
            apart = float(((other - right) / right).abs().nan_to_num(math.inf).amax())
            if least < apart <= max(folded, NORM_ROUNDINGS * 2.0**-53):
                found[name] = apart
    return list(found)
