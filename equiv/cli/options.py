"""What users type on the command line, read and checked: names, dtypes, devices, map shapes.

Every refusal is an `EquivError` whose message starts with the option and holds its value, what was expected, and what
to do.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from equiv.dtypes import dtype_name
from equiv.errors import EquivError

if TYPE_CHECKING:
    import torch

LARGEST_SEED = 2**32 - 1
_MOST_WEIGHTS = 2**24  # 64 MiB in float32, and a second or two of searching


def split(option: str, values: Sequence[str] | None) -> list[str]:
    """The entries of an option that may be repeated and may hold commas; without doubles, in order.

    Example:
        >>> split("--law", ["forward,exact", "layout", "exact"])
        ['forward', 'exact', 'layout']
    """
    entries = [entry.strip() for value in values or () for entry in value.split(",")]
    if "" in entries:
        raise EquivError(
            f"{option}: expected names separated by commas, got {','.join(values or ())!r}; remove the gap"
        )
    return list(dict.fromkeys(entries))


def names(option: str, values: Sequence[str] | None, allowed: Iterable[str]) -> list[str] | None:
    """The chosen names, each one of ``allowed``; None where the option was not given. ``-`` and ``_`` are the same.

    Raises:
        EquivError: An unknown name; the closest one is suggested.

    Example:
        >>> names("--form", ["full"], ("linear", "full")), names("--form", None, ("linear", "full"))
        (['full'], None)
    """
    if not values:
        return None
    known = {name.replace("-", "_"): name for name in allowed}
    return list(dict.fromkeys(_one(option, entry, known) for entry in split(option, values)))


def one_name(option: str, value: str, allowed: Iterable[str]) -> str:
    """The chosen name, one of ``allowed``."""
    return _one(option, value, {name.replace("-", "_"): name for name in allowed})


def _one(option: str, entry: str, known: dict[str, str]) -> str:
    key = entry.lower().replace("-", "_")
    if key in known:
        return known[key]
    close = difflib.get_close_matches(key, known, n=1)
    advice = f"did you mean {known[close[0]]!r}?" if close else "choose one of these"
    raise EquivError(f"{option}: expected one of {', '.join(known.values())}, got {entry!r}; {advice}")


def integer(option: str, text: str, *, low: int, high: int) -> int:
    """A whole number in a range.

    Raises:
        EquivError: Anything else.

    Example:
        >>> integer("--seed", "7", low=0, high=10)
        7
    """
    expected = f"{option}: expected a whole number from {low} to {high}"
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", text.strip()):
        raise EquivError(f"{expected}, got {text[:40]!r}; write digits")
    if not low <= int(text) <= high:
        raise EquivError(f"{expected}, got {text.strip()!r}; choose one in this range")
    return int(text)


def devices(option: str, values: Sequence[str] | None) -> list[str]:
    """The chosen devices, each one present; ``["cpu"]`` where the option was not given.

    Raises:
        EquivError: Not a device, or none that is present and holds values.
    """
    from equiv.arguments import check_device

    entries = split(option, values) or ["cpu"]
    found = []
    for entry in entries:
        try:
            found.append(str(check_device(option, entry)))
        except EquivError as error:
            raise EquivError(
                f"{option}: expected a device that is present, got {entry!r}; choose among {', '.join(devices_here())}"
            ) from error
    return list(dict.fromkeys(found))


def devices_here() -> list[str]:
    """The devices of this machine, the CPU first; none is initialised."""
    import torch

    found = ["cpu"]
    for kind in ("cuda", "xpu"):
        module = getattr(torch, kind, None)
        if module is not None and module.is_available():
            found += [f"{kind}:{index}" for index in range(module.device_count())]
    return found + ["mps"] * torch.backends.mps.is_available()


def dtypes(option: str, values: Sequence[str] | None) -> list[torch.dtype] | None:
    """The chosen dtypes, by torch's names with or without ``torch.``; None where the option was not given.

    Raises:
        EquivError: A name that is no dtype, or one that is not served.
    """
    import torch

    from equiv.dtypes import DTYPES

    entries = [entry.removeprefix("torch.") for entry in split(option, values)]
    chosen = names(option, entries, [dtype_name(dtype) for dtype in DTYPES])
    return None if chosen is None else [getattr(torch, name) for name in chosen]


def feature_shape(argument: str, text: str) -> tuple[int, ...]:
    """``3x4x4`` as (3, 4, 4): channels, then 1 to 3 spatial sizes.

    Raises:
        EquivError: Anything else.

    Example:
        >>> feature_shape("MAP", "3x4x4")
        (3, 4, 4)
    """
    expected = f"{argument}: expected channels and 1 to 3 spatial sizes such as 3x4x4"
    parts = re.split(r"[xX]", text.strip())
    wrong = next((part for part in parts if not re.fullmatch(r"[0-9]{1,9}", part)), None)
    if wrong is not None:
        what = f"{wrong[:20]!r} is not a whole number" if wrong else "a size is missing"
        raise EquivError(f"{expected}, got {text[:60]!r}: {what}; write whole numbers with an x between them")
    sizes = tuple(map(int, parts))
    if not 2 <= len(sizes) <= 4:
        advice = f"for one position write {text}x1x1" if len(sizes) == 1 else "leave out the batch"
        raise EquivError(f"{expected}, got {text!r} with {len(sizes) - 1} spatial; {advice}")
    if min(sizes) < 1:
        raise EquivError(
            f"{expected}, got {text!r}: every size must be at least 1; give the sizes of a map with entries"
        )
    return sizes


def check_weights(argument: str, text: str, in_features: int, out_features: int) -> None:
    """Refuse a layer that is too large to be searched while somebody waits."""
    if in_features * out_features > _MOST_WEIGHTS:
        raise EquivError(
            f"{argument}: expected a layer of at most {_MOST_WEIGHTS:,} weights, got {text} with "
            f"{in_features:,} x {out_features:,}; choose a smaller map or a smaller --out"
        )
