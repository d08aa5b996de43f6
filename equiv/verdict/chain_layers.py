"""``assert_equivalent`` where a side is a chain of affine layers: its parameters, and results on inputs of its own.

What results mean is the business of ``equiv.verdict.results``, what parameters mean of ``chain_parameters``.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from equiv.backends import Function
from equiv.dtypes import DTYPES, dtype_name, dtype_names, is_inexact
from equiv.errors import EquivError
from equiv.mapping import Conv
from equiv.numerics import Arithmetic, declared, format_of, one_hot_rows
from equiv.verdict.arguments import Comparison
from equiv.verdict.chain_causes import untold
from equiv.verdict.chain_parameters import deviation
from equiv.verdict.chains import bound_of, carried, shapes_of
from equiv.verdict.links import (
    Affine,
    Chain,
    Link,
    Norm,
    NotAffineError,
    Reshape,
    Sum,
    is_chain,
    links_of,
    parameters_of,
    real_links,
)
from equiv.verdict.outcome import NotEquivalent, Outcome, Verdict
from equiv.verdict.results import compare_chain
from equiv.verdict.sides import asked, run

_ROWS, _ONE_HOTS = 32, 256
_ENTRIES = 2**21  # of a batch of inputs
_SIZES = (2, 0, 1, *range(3, 33))  # by which a map may be larger than the kernel, where no shape is given


def judged_as_chains(
    functions: tuple[Any, Any],
    given: tuple[int, ...] | None,
    inputs: tuple[Tensor | None, int],
    judged: tuple[Arithmetic | None, tuple[float, float] | None],
    *,
    gradients: bool = False,
) -> bool:
    """Whether a side is a chain of affine layers: then both were judged by it, on results alone."""
    if not any(map(is_chain, functions)):
        return False
    found = [_links(f, name) for f, name in zip(functions, ("candidate", "reference"), strict=True)]
    chains = [chain for chain in found[::-1] if chain is not None]  # the reference first
    if not chains or not any(is_chain(f) for f, chain in zip(functions, found, strict=True) if chain is not None):
        return False
    if gradients and all(len(real_links(chain)) <= 1 for chain in chains):
        return False  # one layer between reshapes has the gradients of that layer
    if gradients:
        words = "expected False where a side is a chain of several layers, got True"
        raise EquivError(f"gradients: {words}; compare its layers one by one, or the results alone")
    chain = max(chains, key=lambda links: len(real_links(links)))
    dtype = _dtype_of(chain)
    others = [other for other in chains if other is not chain]
    shape = _shape(chain, given, inputs[0], functions)
    for other in others:
        _same_dtype(other, dtype)
        _takes(other, shape, dtype, given)
        if len(other) == 1 and _takes_rows(other) and len(shape) > 1:  # it is given the maps of the chain as rows
            other = (Reshape("flatten", nn.Flatten()), *other)
        _same_parameters(chain, other, shape, dtype)
    sides = _sides(functions, shape)
    for words, x in _to_try(chain, shape, dtype, inputs):
        actual, expected = (run(side, x) for side in sides)
        rows = Comparison(actual, expected, x.view(-1, *shape), actual, None, *judged)
        verdict = compare_chain(rows, chain)
        if not verdict.equivalent:
            words += "".join(f", the {side.name}{asked(side)}" for side in sides if side.asked)
            raise NotEquivalent(replace(verdict, explanation=f"{words}, {verdict.explanation}"))
    if is_inexact(dtype):
        _warn_of_untold(chain, shape, dtype)
    return True


def _warn_of_untold(chain: Chain, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Say which mistakes the verdict does not exclude though they would change folded parameters by several ulp."""
    bound = bound_of(chain, shapes_of(chain, torch.zeros(1, *shape, dtype=dtype)), declared(dtype), dtype)
    hidden = untold(chain, bound.folded, 2 * format_of(dtype).u)
    if hidden:
        warnings.warn(
            f"equivalent up to rounding, but in {dtype_name(dtype)} the rounding of folded parameters may hide: "
            f"{', '.join(hidden)}; to exclude that, fold and compare in float32 or float64, and convert afterwards",
            UserWarning,
            stacklevel=5,
        )


def _links(side: Any, name: str) -> Chain | None:
    """The links of a layer or chain; None for a function."""
    if not isinstance(side, nn.Module):
        return None
    try:
        return links_of(side, name)
    except NotAffineError:
        return None


def _dtype_of(chain: Chain) -> torch.dtype:
    held = parameters_of(chain) or [link.module.running_mean for link in chain if isinstance(link, Norm)]
    dtype = held[0].dtype if held else torch.float32
    if dtype not in DTYPES:
        words = f"expected layers of a dtype among {dtype_names(DTYPES)}, got {dtype_name(dtype)}"
        raise EquivError(f"reference: {words}; convert them first")
    if any(t.is_meta for t in held):
        raise EquivError(
            "reference: expected layers with values, got some on the meta device; load their weights first"
        )
    return dtype


def _same_dtype(other: Chain, dtype: torch.dtype) -> None:
    for t in parameters_of(other):
        if t.dtype != dtype:
            text = f"one side has parameters of {dtype_name(t.dtype)}, the other of {dtype_name(dtype)}"
            raise NotEquivalent(Verdict(Outcome.DIFFERENT, f"{text}: another arithmetic.", dtype_name(t.dtype), ()))


def _same_parameters(chain: Chain, other: Chain, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Raise where the parameters of the other side are not what the chain may be folded to."""
    if not is_inexact(dtype):
        return
    x = torch.zeros(1, *shape, dtype=dtype)
    bound = bound_of(chain, shapes_of(chain, x), declared(dtype), dtype)
    found = deviation(chain, other, shape, bound, dtype)
    if found is not None:
        raise NotEquivalent(Verdict(Outcome.DIFFERENT, found.text, dtype_name(dtype), (), cause=found.cause))


def _shape(
    chain: Chain, given: tuple[int, ...] | None, x: Tensor | None, functions: tuple[Any, Any]
) -> tuple[int, ...]:
    """The shape of a sample: as given, as the input has it, or one that the chain takes."""
    takes_rows = _takes_rows(chain)
    known = (math.prod(given),) if given is not None and takes_rows else given
    dtype = _dtype_of(chain)
    if known is None and x is not None and x.ndim > 1:
        known = tuple(x.shape[1:])
    for shape in [known] if known is not None else _shapes_to_try(chain, functions):
        try:
            shapes_of(chain, torch.zeros(1, *shape, dtype=dtype), "the chain")
        except EquivError:
            if known is None:
                continue
            raise
        return tuple(shape)
    raise EquivError(
        "feature_shape: expected (C, *spatial), the shape of a sample, got None, and none that the chain takes was "
        "found; pass it"
    )


def _takes(chain: Chain, shape: tuple[int, ...], dtype: torch.dtype, given: tuple[int, ...] | None) -> None:
    """Raise if no shape was given, and the one that was found is none that the other side takes."""
    if given is not None or _takes_rows(chain):
        return
    try:
        shapes_of(chain, torch.zeros(1, *shape, dtype=dtype), "the chain")
    except EquivError as error:
        raise EquivError(f"{str(error).rpartition('; ')[0]}; pass feature_shape= if it takes maps") from error


def _takes_rows(chain: Chain) -> bool:
    """Whether its first link is a Linear layer."""
    return bool(chain) and isinstance(chain[0], Affine) and isinstance(chain[0].module, nn.Linear)


def _shapes_to_try(chain: Chain, functions: tuple[Any, Any]) -> Iterator[tuple[int, ...]]:
    first: Link | None = next((link for link in chain if not isinstance(link, Reshape)), None)
    while isinstance(first, Sum):
        first = first.parts[0][0][0]
    if isinstance(first, Norm):
        rank = {"BatchNorm2d": 2, "BatchNorm3d": 3}.get(type(first.module).__name__, 0)
        behind = next((link for link in real_links(chain) if isinstance(link, Affine)), None)
        if behind is None or isinstance(behind.module, nn.Linear):
            yield from [(len(first.scale), *(3,) * rank)] if rank or behind is None else [(len(first.scale),)]
            return
        first = behind
    if not isinstance(first, Affine):
        yield from ((f.in_channels, *f.kernel_size) for f in functions if isinstance(f, Conv))
        return
    module = first.module
    if isinstance(module, nn.Linear):
        yield (module.in_features,)
        return
    if any(isinstance(f, nn.Linear) and isinstance(module, Conv) for f in functions):
        yield (module.in_channels, *module.kernel_size)
    for more in _SIZES:
        spans = zip(module.kernel_size, module.dilation, strict=True)
        yield (module.in_channels, *((size - 1) * step + 1 + more for size, step in spans))


def _sides(functions: tuple[Any, Any], shape: tuple[int, ...]) -> tuple[Function, Function]:
    of_map = shape if len(shape) > 1 else None
    if of_map is None:
        convs = [f for f in functions if isinstance(f, Conv)]
        of_map = (convs[0].in_channels, *convs[0].kernel_size) if convs else None
    named = zip(("candidate", "reference"), functions, strict=True)
    left, right = (Function(name, f, of_map, as_map=len(shape) > 1) for name, f in named)
    return left, right


def _largest(chain: Chain, shape: tuple[int, ...], dtype: torch.dtype, probes: Tensor) -> int:
    """How large one-hot inputs may be, up to 256, for nothing to overflow on the way; 1 where they are the largest.

    A batch norm of small variance in float16 takes no more: there a verdict would be UNDECIDED for its input alone.
    """
    maps, most = probes.detach().cpu().view(-1, *shape), format_of(dtype).max / 4
    step = max(1, _ENTRIES // max(1, *map(math.prod, shapes_of(chain, maps))))
    for size in (256, 64, 16, 4):
        parts = (carried(chain, maps[start : start + step] * size, dtype) for start in range(0, len(maps), step))
        if not any(bool(part.overflow.any()) or not bool((part.size < most).all()) for part in parts):
            return size
    return 1


def _to_try(
    chain: Chain, shape: tuple[int, ...], dtype: torch.dtype, inputs: tuple[Tensor | None, int]
) -> Iterator[tuple[str, Tensor]]:
    """Rows ``(N, n)`` in words: the caller's, zero and one-hot, one-hot and large, and others."""
    given, seed = inputs
    n, device = math.prod(shape), next((t.device for t in parameters_of(chain)), torch.device("cpu"))
    if given is not None and given.numel():
        if given.dtype != dtype or given.numel() % n:
            words = f"{dtype_name(dtype)} with {n} features a row, got {dtype_name(given.dtype)} of shape"
            raise EquivError(
                f"input: expected a tensor of {words} {tuple(given.shape)}; convert it, or pass feature_shape="
            )
        yield "on the input given", given.detach().reshape(-1, n)
    generator = torch.Generator().manual_seed(seed)
    count = min(n, max(4, min(_ONE_HOTS, _ENTRIES // n)))
    columns = torch.arange(n) if n <= count else torch.randperm(n, generator=generator)[:count].sort().values
    probes = torch.cat([torch.zeros(1, n, dtype=dtype, device=device), one_hot_rows(columns, n, dtype, device)])
    yield "on the zero input and one-hot inputs", probes
    if is_inexact(dtype):
        size = _largest(chain, shape, dtype, probes[1:])
        if size > 1:
            yield f"on one-hot inputs of size {size}", probes[1:] * size
    rows = max(2, min(_ROWS, _ENTRIES // n))
    low = 0 if not dtype.is_signed else -1
    yield "on inputs of -1, 0 and 1", torch.randint(low, 2, (rows, n), generator=generator).to(dtype).to(device)
    if is_inexact(dtype):
        wide = torch.complex128 if dtype.is_complex else torch.float64
        normal = torch.randn(rows, n, generator=generator, dtype=wide).to(dtype).to(device)
        yield "on normal inputs", normal
        yield "on one input without a batch of others", normal[:1]
