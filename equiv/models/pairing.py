"""Which module of a candidate stands for which of a reference: by mapping, by name, by parameters, by order and shape.

The same weights under another shape are the strongest sign, then names, then the kind and place in the order of calls.
Layers that are left over beside a pair, each fed by the other, are taken together with it: a chain, such as a
convolution and its batch norm against the one convolution that they were folded into.
"""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from equiv.arguments import refusal
from equiv.errors import EquivError
from equiv.mapping import Conv, ConvTranspose, is_conv1d
from equiv.models.sides import Seen, Side
from equiv.text import shown


@dataclass(frozen=True)
class Unit:
    """Modules that are judged together.

    Attributes:
        candidate: Qualified names in the order of their calls: one, or several of a chain.
        reference: The same.
        kind: ``layer`` (affine on both sides), ``module``, or ``container``, whose results alone are looked at.
    """

    candidate: tuple[str, ...]
    reference: tuple[str, ...]
    kind: str


@dataclass
class Pairs:
    """What was paired, and the layers with parameters that were not."""

    units: list[Unit] = field(default_factory=list)
    left: dict[str, list[str]] = field(default_factory=dict)


def is_affine(module: nn.Module) -> bool:
    """Whether it is a Linear, a convolution, a transposed one or a Conv1D of transformers by its type."""
    return isinstance(module, nn.Linear | Conv | ConvTranspose) or is_conv1d(module)


def is_lora(module: nn.Module) -> bool:
    """Whether it is a layer of peft with low-rank parts beside it."""
    return hasattr(module, "base_layer") and hasattr(module, "lora_A")


def _lifted(candidate: Side, reference: Side, c: str, r: str) -> tuple[str, str]:
    """The pair, or the whole LoRA in place of its base where the other side is a single layer: it may be merged."""
    outer = [name.removesuffix(".base_layer") if name.endswith(".base_layer") else "" for name in (c, r)]
    lora = [
        name in side.seen and is_lora(side.modules[name])
        for side, name in zip((candidate, reference), outer, strict=True)
    ]
    if lora == [True, False]:
        return outer[0], r
    return (c, outer[1]) if lora == [False, True] else (c, r)


def paired(candidate: Side, reference: Side, match: Mapping[str, str] | None) -> Pairs:
    """The units of two sides that have been recorded, in the order of the reference's calls."""
    given = _given(candidate, reference, match)
    pairs = {**given, **_by_name(candidate, reference, given)}
    left = [_atoms(side, names) for side, names in ((candidate, pairs), (reference, pairs.values()))]
    if any(left):
        _by_parameters(candidate, reference, pairs, set(given))
        left = [_atoms(side, names) for side, names in ((candidate, pairs), (reference, pairs.values()))]
        pairs.update(_aligned(*left))
    pairs = dict(pair if pair[0] in given else _lifted(candidate, reference, *pair) for pair in pairs.items())
    chains = _chained(candidate, reference, {(c,): (r,) for c, r in pairs.items()})
    found = [_unit(reference, *names) for names in chains.items()]
    found += _containers(candidate, reference, found)
    found.sort(key=lambda unit: reference.seen[unit.reference[-1]].order)
    used = [{name for unit in found for name in names(unit)} for names in (_candidates, _references)]
    rest = {
        side.name: [s.name for s in _atoms(side, names) if _parameters(s.module)]
        for side, names in ((candidate, used[0]), (reference, used[1]))
    }
    return Pairs(found, rest)


def _candidates(unit: Unit) -> tuple[str, ...]:
    return unit.candidate


def _references(unit: Unit) -> tuple[str, ...]:
    return unit.reference


def _given(candidate: Side, reference: Side, match: Mapping[str, str] | None) -> dict[str, str]:
    """The mapping that was asked for, once both names of every pair are known to be called."""
    if match is None:
        return {}
    advice = 'pass such as match={"candidate.name": "reference.name"}'
    if not isinstance(match, Mapping):
        raise refusal("match", "a dict of names of the candidate to names of the reference", match, advice)
    for pair in match.items():
        for side, name in zip((candidate, reference), pair, strict=True):
            if name in side.seen:
                continue
            near = difflib.get_close_matches(name, side.seen, 1, 0.0) if isinstance(name, str) else []
            known = "is never called on these inputs" if name in side.modules else "has none of this name"
            hint = f"did you mean {near[0]!r}?" if near else "it has no modules that can be named"
            raise EquivError(
                f"match: expected names of modules that are called, got {shown(name)}, and the {side.name} {known}; "
                f"{hint}"
            )
    if len(set(match.values())) < len(match):
        raise refusal("match", "each name of the reference once", dict(match), "pair it with one module")
    return dict(match)


def _by_name(candidate: Side, reference: Side, given: Mapping[str, str]) -> dict[str, str]:
    """Modules of the same name, one of them without inner modules, that may be the same."""
    taken = set(given.values())
    found: dict[str, str] = {}
    for name, c in candidate.seen.items():
        r = reference.seen.get(name)
        if r is None or name in given or name in taken or not name or (c.inner and r.inner):
            continue
        if _may_be(c, r):
            found[name] = name
    return {
        name: name
        for name in found
        if not any(_inside(name, outer) for outer in (*found, *given, *taken) if outer != name)
    }


def _may_be(c: Seen, r: Seen) -> bool:
    sizes = [[math.prod(shape) for shape in shapes] for shapes in (c.outputs, r.outputs)]
    if not sizes[0] or c.calls != r.calls:
        return False
    if sizes[0] != sizes[1]:  # another stride or padding, where the weights are the same
        return _is_twin(c.module, r.module) and len(sizes[0]) == len(sizes[1])
    if is_affine(c.module) and is_affine(r.module):
        return _weight(c.module).numel() == _weight(r.module).numel()
    if isinstance(c.module, nn.Identity) != isinstance(r.module, nn.Identity):
        return False
    held = [bool(_parameters(seen.module)) for seen in (c, r)]
    return held[0] == held[1] or not _is_simple(r if held[0] else c)  # a function may hold its weights elsewhere


def _is_twin(c: nn.Module, r: nn.Module) -> bool:
    """Whether they are convolutions of one type with the same weight."""
    if type(c) is not type(r) or not isinstance(c, Conv | ConvTranspose):
        return False
    a, b = _weight(c), _weight(r)
    return a.shape == b.shape and a.dtype == b.dtype and a.device == b.device and bool((a == b).all())


def _is_simple(seen: Seen) -> bool:
    return type(seen.module).__module__.startswith("torch.nn") and not seen.inner


def _by_parameters(candidate: Side, reference: Side, pairs: dict[str, str], given: set[str]) -> None:
    """Pair layers of the same entries, also against names, where no other layer has them."""
    prints = [_prints(side) for side in (candidate, reference)]
    for key, c in prints[0].items():
        r = prints[1].get(key)
        if r is None or c in given or pairs.get(c) == r or any(pairs.get(name) == r for name in given):
            continue
        if not _may_be(candidate.seen[c], reference.seen[r]):
            continue
        for other in [name for name, value in pairs.items() if value == r]:
            del pairs[other]
        pairs[c] = r


def _prints(side: Side) -> dict[tuple[int, int], str]:
    """Layers by number and sum of the bits of their weights, whatever their order, where that is one layer's alone."""
    found = [(_print(seen.module), seen.name) for seen in side.seen.values() if is_affine(seen.module)]
    count = Counter(key for key, _ in found)
    return {key: name for key, name in found if count[key] == 1}


def _print(module: nn.Module) -> tuple[int, int]:
    weight = _weight(module).detach()
    kinds = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    if weight.itemsize not in kinds:
        weight = torch.view_as_real(weight.resolve_conj())
    return weight.numel(), int(weight.contiguous().view(kinds[weight.itemsize]).sum(dtype=torch.int64))


def _weight(module: nn.Module) -> Tensor:
    weight: Tensor = module.weight  # type: ignore[assignment]
    return weight


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in (*module.parameters(), *module.buffers()))


def _atoms(side: Side, used: Iterable[str]) -> list[Seen]:
    """Called modules that call none themselves and belong to nothing that is used, in the order of their calls."""
    names = set(used)
    free = (s for s in side.seen.values() if not s.inner and s.name not in names)
    return sorted((s for s in free if not any(_inside(s.name, outer) for outer in names)), key=lambda s: s.order)


def _inside(name: str, outer: str) -> bool:
    return bool(outer) and name.startswith(outer + ".")


_MOST = 4_000_000  # cells of a table


def _aligned(left: list[Seen], right: list[Seen]) -> dict[str, str]:
    """The pairing of two sequences in their order with the largest sum of likenesses."""
    left, right = ([s for s in some if s.name] for some in (left, right))
    if len(left) * len(right) > _MOST:
        left, right = ([s for s in some if _parameters(s.module)] for some in (left, right))
    prints = {id(s.module): _print(s.module) for s in (*left, *right) if is_affine(s.module)}
    rows, columns = len(left), len(right)
    best = [[0] * (columns + 1) for _ in range(rows + 1)]
    for i in range(rows - 1, -1, -1):
        for j in range(columns - 1, -1, -1):
            both = _likeness(left[i], right[j], prints)
            here = both + best[i + 1][j + 1] if both else 0
            best[i][j] = max(best[i + 1][j], best[i][j + 1], here)
    found, i, j = {}, 0, 0
    while i < rows and j < columns:
        both = _likeness(left[i], right[j], prints)
        if both and best[i][j] == both + best[i + 1][j + 1]:
            found[left[i].name] = right[j].name
            i, j = i + 1, j + 1
        elif best[i][j] == best[i + 1][j]:
            i += 1
        else:
            j += 1
    return found


def _likeness(c: Seen, r: Seen, prints: Mapping[int, tuple[int, int]]) -> int:
    if not _may_be(c, r):
        return 0
    same_name = c.name.rpartition(".")[2] == r.name.rpartition(".")[2]
    if is_affine(c.module) and is_affine(r.module):
        return 4 + 3 * same_name + (8 if prints[id(c.module)] == prints[id(r.module)] else 0)
    if type(c.module).__name__ == type(r.module).__name__:
        return 3 + 2 * same_name
    return 2 if same_name and not c.name.rpartition(".")[2].isdigit() else 0


Chain = tuple[str, ...]


def _chained(candidate: Side, reference: Side, pairs: dict[Chain, Chain]) -> dict[Chain, Chain]:
    """The pairs with the affine modules beside them that are nobody's."""
    found = list(pairs.items())
    sides = (candidate, reference)
    free = [
        {s.name: s for s in _atoms(side, {n for pair in found for n in pair[k]}) if _joins(s)}
        for k, side in enumerate(sides)
    ]
    for place, pair in enumerate(found):
        if not all(is_affine(side.modules[names[0]]) for side, names in zip(sides, pair, strict=True)):
            continue
        grown = tuple(_grown(names, side, some) for names, side, some in zip(pair, sides, free, strict=True))
        found[place] = (grown[0], grown[1])
    found += _merged(free[0], free[1])
    found += [(c, r) for r, c in _merged(free[1], free[0])]
    return dict(found)


def _joins(seen: Seen) -> bool:
    norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    return seen.calls == 1 and (is_affine(seen.module) or isinstance(seen.module, norms))


def _grown(names: Chain, side: Side, free: dict[str, Seen]) -> Chain:
    if side.seen[names[0]].calls != 1:
        return names
    while True:
        after = next((s.name for s in free.values() if s.after == names[-1]), None)
        if after is not None:
            del free[after]
            names = (*names, after)
            continue
        before = side.seen[names[0]].after
        if before not in free:
            return names
        del free[before]
        names = (before, *names)


def _merged(ones: dict[str, Seen], free: dict[str, Seen]) -> list[tuple[Chain, Chain]]:
    """Single layers, each with a chain of the other side's that has the sizes of its inputs and outputs."""
    found: list[tuple[Chain, Chain]] = []
    for one in [s for s in ones.values() if is_affine(s.module)]:
        for first in list(free.values()):
            chain = _chain_like(one, first, free)
            if chain:
                found.append(((one.name,), chain))
                del ones[one.name]
                for name in chain:
                    del free[name]
                break
    return found


def _chain_like(one: Seen, first: Seen, free: dict[str, Seen]) -> Chain:
    if _size(first.inputs) != _size(one.inputs):
        return ()
    names, last = [first.name], first
    while _size(last.outputs) != _size(one.outputs) or len(names) < 2:
        following = next((s for s in free.values() if s.after == last.name), None)
        if following is None:
            return ()
        names.append(following.name)
        last = following
    return tuple(names)


def _size(shapes: tuple[tuple[int, ...], ...]) -> int:
    return math.prod(shapes[0]) if len(shapes) == 1 else -1


def _unit(reference: Side, c: Chain, r: Chain) -> Unit:
    affine = len(c) > 1 or len(r) > 1 or is_affine(reference.modules[r[0]]) or is_lora(reference.modules[r[0]])
    return Unit(c, r, "layer" if affine else "module")


def _containers(candidate: Side, reference: Side, units: list[Unit]) -> list[Unit]:
    """Modules of the same name with others inside, called as often, whose results are alike."""
    used = [{n for unit in units for n in names(unit)} for names in (_candidates, _references)]
    found = []
    for name, c in candidate.seen.items():
        r = reference.seen.get(name)
        if not name or r is None or not (c.inner and r.inner) or name in used[0] or name in used[1]:
            continue
        if any(_inside(name, outer) for names in used for outer in names):
            continue
        sizes = [[math.prod(shape) for shape in s.outputs] for s in (c, r)]
        if sizes[0] == sizes[1] and sizes[0] and c.calls == r.calls:
            found.append(Unit((name,), (name,), "container"))
    return found
