"""What two modules of one type were built with, where that is not the same: another eps, stride or approximation."""

from __future__ import annotations

from typing import Any

from torch import nn

from equiv.causes import Cause

_WITHOUT_EFFECT = {"training", "inplace", "momentum", "layer_idx", "p", "call_super_init", "dump_patches"}
Setting = tuple[str, Any, Any]


def unlike_settings(candidate: nn.Module, reference: nn.Module) -> list[Setting]:
    """Plain attributes of two modules of one type that differ, with both values.

    Example:
        >>> unlike_settings(nn.LayerNorm(4, eps=1e-3), nn.LayerNorm(4))
        [('eps', 0.001, 1e-05)]
    """
    if type(candidate) is not type(reference):
        return []
    mine, theirs = vars(candidate), vars(reference)
    names = [name for name in theirs if name in mine and name[:1] != "_" and name not in _WITHOUT_EFFECT]
    return [
        (name, mine[name], theirs[name])
        for name in names
        if _is_plain(mine[name]) and _is_plain(theirs[name]) and not _same(mine[name], theirs[name])
    ]


def _same(mine: Any, theirs: Any) -> bool:
    """Whether they say the same, also where one writes 2 and the other (2, 2)."""
    for one, several in ((mine, theirs), (theirs, mine)):
        if isinstance(several, tuple) and several and not isinstance(one, tuple):
            return all(part == one for part in several)
    return bool(mine == theirs)


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(_is_plain(part) for part in value)
    return value is None or isinstance(value, bool | int | float | str)


def setting_words(found: list[Setting]) -> str:
    """The settings in words.

    Example:
        >>> setting_words([("eps", 0.001, 1e-05)])
        'eps is 0.001, and 1e-05 in the reference'
    """
    return "; ".join(f"{name} is {mine!r}, and {theirs!r} in the reference" for name, mine, theirs in found[:3])


def setting_cause(found: list[Setting], candidate: str) -> Cause | None:
    """Other settings as a cause, with the assignment that mends it where that is all it takes."""
    if not found:
        return None
    of = f"candidate.get_submodule({candidate!r})"
    mend = "; ".join(f"{of}.{name} = {theirs!r}" for name, _, theirs in found)
    geometry = {"padding", "padding_mode", "output_padding"} & {name for name, _, _ in found}
    return Cause("setting-differs", setting_words(found), "" if geometry else mend)


def own_parameter_cause(candidate: nn.Module, reference: nn.Module, c: str, r: str) -> Cause | None:
    """The first parameter or buffer that two modules of one type hold themselves and in which they differ."""
    if type(candidate) is not type(reference):
        return None
    mine = {**dict(candidate.named_parameters(recurse=False)), **dict(candidate.named_buffers(recurse=False))}
    theirs = {**dict(reference.named_parameters(recurse=False)), **dict(reference.named_buffers(recurse=False))}
    for name, right in theirs.items():
        left = mine.get(name)
        if left is None or left.shape != right.shape or left.is_meta or right.is_meta or name == "num_batches_tracked":
            continue
        wrong = int((left.detach().cpu() != right.detach().cpu()).sum())
        if wrong:
            fix = f"candidate.get_submodule({c!r}).{name}.data.copy_(reference.get_submodule({r!r}).{name})"
            return Cause("parameter-differs", f"{name} differs in {wrong:,} of {right.numel():,} entries", fix)
    return None
