"""The laws of a kernel that stands for one module: each a function of a pair, that says what is wrong in words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from equiv.dtypes import is_inexact
from equiv.laws import changes_in_words, unchanged
from equiv.numerics import bit_equal
from equiv.testing.module_pair import Inputs, Pair, Refused, padded_rows

_OFTEN = 24  # calls in a row


@dataclass(frozen=True)
class Wrong:
    """What a candidate does wrong: the rest of a sentence, under which condition, and for which inputs."""

    what: str
    condition: str
    given: Inputs


Check = Callable[[Pair], Wrong | str | None]
"""From a pair to what is wrong, None where nothing is, or why nothing can be asked."""


def _floats(given: Inputs) -> Iterator[int]:
    return (i for i, value in enumerate(given) if isinstance(value, Tensor) and is_inexact(value.dtype))


def _with(given: Inputs, change: Callable[[Tensor], Tensor]) -> Inputs:
    """Every floating input changed; the strides of its memory stay."""
    chosen = set(_floats(given))
    return tuple(change(value.detach()) if i in chosen else value for i, value in enumerate(given))


def _small_integers(t: Tensor, largest: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-largest, largest + 1, t.shape, generator=generator).to(t.device, t.dtype)


def _normals(t: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(t.shape, generator=generator, dtype=torch.float32).to(t.device, t.dtype)


def _sparse(t: Tensor, seed: int) -> Tensor:
    """One entry of each row, none in the first and last: what shortcuts for special inputs mistake."""
    flat = (
        torch.zeros_like(t, memory_format=torch.contiguous_format).view(t.shape[0], -1) if t.ndim else t.new_zeros(1, 1)
    )
    for row in range(1, len(flat) - 1):
        flat[row, (7 * row + seed) % flat.shape[1]] = row + 1.0
    return flat.view(t.shape)


def _draws(pair: Pair) -> Iterator[tuple[str, Inputs]]:
    """Inputs in the shapes that the benchmark has, and the condition in words."""
    given = pair.given
    yield "on the inputs as they are drawn", given
    yield "on normal inputs", _with(given, partial(_normals, seed=1))
    yield "on inputs of -1, 0 and 1", _with(given, partial(_small_integers, largest=1, seed=2))
    yield "on negative inputs", _with(given, lambda t: -_normals(t, 3).abs())
    yield "on large inputs", _with(given, lambda t: 64 * _normals(t, 6))
    yield "on small inputs", _with(given, lambda t: 1e-3 * _normals(t, 4))
    yield "on inputs of zero", _with(given, torch.zeros_like)
    yield "on inputs that are all the same", _with(given, lambda t: torch.full_like(t, 0.7))
    yield "on rows of one entry", _with(given, partial(_sparse, seed=5))


def _judged(pair: Pair, condition: str, given: Inputs) -> Wrong | None:
    try:
        y = pair.run(given)
    except Refused as refused:
        return Wrong(str(refused), condition, given)
    problem = pair.problem(given, y)
    return Wrong(problem, condition, given) if problem else None


def values(pair: Pair) -> Wrong | str | None:
    """On inputs of every kind, in the shapes of the benchmark, results are the module's."""
    for condition, given in _draws(pair):
        wrong = _judged(pair, condition, given)
        if wrong is not None:
            return wrong
    return None


def exact(pair: Pair) -> Wrong | str | None:
    """Where the module rounds nothing, results are its own, bit for bit."""
    if not is_inexact(pair.dtype):
        return "its inputs are no floats"
    if pair.parameters():
        seeds = iter(range(100))
        pair.set_parameters(lambda p: _small_integers(p, 2, 50 + next(seeds)))
    elif any(True for _ in pair.reference.parameters()):
        return "its parameters do not correspond to the module's"
    for seed in range(6):
        given = _with(pair.given, partial(_small_integers, largest=1 + seed % 3, seed=seed))
        wrong = _judged(pair, "with integers for inputs and parameters", given)
        if wrong is not None:
            return wrong
    return None


def follows(pair: Pair) -> Wrong | str | None:
    """Inputs and parameters that are changed in place are seen by the next call."""
    given = _with(pair.given, torch.clone)
    for number in range(_OFTEN):
        with suppress(Refused):
            pair.run(given)
        if number == 0:
            wrong = _judged(pair, "in a second call", given)
            if wrong is not None:
                return wrong
    for i in _floats(given):
        given[i].copy_(_normals(given[i], 60 + i))
    wrong = _judged(pair, f"after {_OFTEN} calls, once the inputs were changed in place", given)
    if wrong is not None or not pair.parameters():
        return wrong
    seeds = iter(range(100))
    pair.set_parameters(lambda p: _normals(p, 70 + next(seeds)) / max(1, p[0].numel()) ** 0.5 if p.ndim else p + 1)
    return _judged(pair, "once the parameters were changed in place", given)


def purity(pair: Pair) -> Wrong | str | None:
    """A call changes nothing, owns its result, and gives the same bits again."""
    given = _with(pair.given, torch.clone)
    before = _with(given, torch.clone)
    parameters = [q for _, q in pair.parameters() if q is not None]
    kept = [q.detach().clone() for q in parameters]
    with unchanged() as changes:
        try:
            first = pair.run(given)
            if not isinstance(first, Tensor):
                return Wrong(f"returns {type(first).__name__}, not a tensor", "", given)
            copied = first.detach().clone()
            again = pair.run(given)
            pair.run(_with(given, torch.neg))
        except Refused as refused:
            return Wrong(str(refused), "in a second call", given)
    facts = {
        "changes its inputs": all(bit_equal(given[i], before[i]) for i in _floats(given)),
        "changes its parameters": all(torch.equal(q.detach(), k) for q, k in zip(parameters, kept, strict=True)),
        "gives other bits in a second call with the same inputs": bit_equal(copied, again),
        "changes a result that it has returned": bit_equal(copied, first.detach()),
        "returns a result that shares memory with an input": _owns(first, given),
        changes_in_words(changes): not changes,
    }
    return next((Wrong(what, "", given) for what, holds in facts.items() if not holds), None)


def _owns(y: Tensor, given: Inputs) -> bool:
    theirs = {given[i].untyped_storage().data_ptr() for i in _floats(given)}
    return not y.numel() or y.untyped_storage().data_ptr() not in theirs


def shapes(pair: Pair) -> Wrong | str | None:
    """Results for other batches and sizes are right; to refuse them is no wrong result."""
    taken = (one for one in _other_shapes(pair) if _takes(pair, one[1]))
    return _first_wrong(pair, taken, otherwise="the module takes no other shapes")


def _takes(pair: Pair, given: Inputs) -> bool:
    """Whether the module itself does."""
    try:
        pair.wanted(given)
    except Exception:
        return False
    return True


def _first_wrong(pair: Pair, arranged: Iterable[tuple[str, Inputs]], *, otherwise: str) -> Wrong | str | None:
    """The first wrong result; why nothing was asked, where all was refused or ``arranged`` is empty."""
    tried, refusals = 0, ""
    for condition, given in arranged:
        try:
            y = pair.run(given)
        except Refused as refused:
            refusals = f"{condition} it {refused}"
            continue
        tried += 1
        problem = pair.problem(given, y)
        if problem:
            return Wrong(problem, condition, given)
    return None if tried else refusals or otherwise


def _other_shapes(pair: Pair) -> Iterator[tuple[str, Inputs]]:
    given = pair.given
    first = next(iter(_floats(given)), None)
    if first is None or not all(given[i].ndim and given[i].numel() for i in _floats(given)):
        return
    size = len(given[first])
    for rows in (1, 3, size + 1, 2 * size + 1):
        alone = tuple(padded_rows(value, rows) if i == first else value for i, value in enumerate(given))
        yield f"on a batch of {rows:,}", _with(alone, partial(_normals, seed=rows))
        every = _with(given, partial(padded_rows, rows=rows))
        yield f"on batches of {rows:,}", _with(every, partial(_normals, seed=rows))
    if not any(True for _ in pair.reference.parameters()):
        more = _with(given, lambda t: t.new_zeros([s + 1 if s > 1 else s for s in t.shape]))
        yield "on sizes that are larger by one", _with(more, partial(_normals, seed=9))


def layouts(pair: Pair) -> Wrong | str | None:
    """Strides of the inputs change nothing; to refuse them is no wrong result."""
    arranged = ((condition, _with(pair.given, change)) for condition, change in _LAYOUTS.items())
    return _first_wrong(pair, arranged, otherwise="there are no layouts")


def _with_step(t: Tensor) -> Tensor:
    return torch.stack([t, torch.full_like(t, torch.nan)], -1)[..., 0] if t.ndim else t


def _turned(t: Tensor) -> Tensor:
    return t.transpose(0, -1).contiguous().transpose(0, -1) if t.ndim > 1 else t


_LAYOUTS = {"on inputs with a step in memory": _with_step, "on inputs that are transposed views": _turned}


def special_values(pair: Pair) -> Wrong | str | None:
    """NaN and infinity stay in their row, and are as the layer has them."""
    if pair.layer is None:
        return "what the module does to NaN is its own affair"
    given = _with(pair.given, lambda t: _normals(t, 8))
    for special in (torch.nan, torch.inf):
        row = given[0].clone()
        row[0].view(-1)[0] = special
        wrong = _judged(pair, f"with one row that has {special}", (row,))
        if wrong is not None:
            return wrong
    return None


MODULE_LAWS: dict[str, Check] = {
    law.__name__: law for law in (values, exact, purity, follows, shapes, layouts, special_values)
}
"""By id, in the order in which they are tried; the first line of a docstring is the law."""
