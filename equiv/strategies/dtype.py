"""The dtypes and devices of this machine, as strategies: torch is asked when one is used, never on import."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own name for it
from hypothesis import strategies as st

from equiv.arguments import check_choices, check_device, refusal
from equiv.dtypes import COMPLEX, DTYPES, FLOATS, INTEGERS
from equiv.strategies.fills import FLOAT8
from equiv.strategies.lazy import lazy

ALL = DTYPES
"""Every dtype that the strategies of layers draw; the same as ``equiv.numerics.DTYPES``.

Example:
    >>> import torch
    >>> torch.uint8 in ALL
    True
"""


_FAMILIES = {"float": FLOATS, "complex": COMPLEX, "integer": INTEGERS, "bool": (torch.bool,), "float8": FLOAT8}
_UNSERVED = ("bool", "float8")  # families that no layer of torch computes in
_DEVICE_KINDS = ("cpu", "cuda", "mps", "xpu")


@lru_cache(maxsize=64)
def served(device: torch.device) -> tuple[torch.dtype, ...]:
    """The members of ``ALL`` that both ``F.linear`` and ``F.conv2d`` accept on ``device``: found by calling them."""
    return tuple(dtype for dtype in ALL if _serves(dtype, device))


def _serves(dtype: torch.dtype, device: torch.device) -> bool:
    try:
        with torch.no_grad():
            one = torch.zeros((1, 1), dtype=dtype, device=device)
            F.linear(one, one)
            F.conv2d(one[..., None, None], one[..., None, None])
    except (RuntimeError, TypeError, NotImplementedError):
        return False
    return True


def dtypes(
    *, kinds: Sequence[str] = ("float", "complex", "integer"), device: torch.device | str = "cpu"
) -> st.SearchStrategy[torch.dtype]:
    """The dtypes that both ``F.linear`` and ``F.conv2d`` serve on ``device``.

    Shrinks to float32; the order is that of ``ALL``. Which dtypes are served is found on the first draw, by calling
    both functions once on one element.

    Args:
        kinds: any of ``"float"``, ``"complex"``, ``"integer"``. On request also ``"bool"`` and ``"float8"``, which no
            layer of torch computes in and ``tensors`` draws none the less.
        device: where the others must be served.

    Raises:
        StrategyArgumentError: on the first draw or by ``.validate()``, if ``kinds`` or ``device`` is wrong, or nothing
            is served.

    Example:
        >>> from hypothesis import find
        >>> find(dtypes(kinds=("float", "integer")), lambda dtype: True)
        torch.float32
    """
    given = dict(locals())

    def build() -> st.SearchStrategy[torch.dtype]:
        families = check_choices("kinds", kinds, _FAMILIES)
        where = check_device("device", device)
        drawn = tuple(
            dtype for family in families for dtype in _FAMILIES[family] if family in _UNSERVED or dtype in served(where)
        )
        if not drawn:
            raise refusal("kinds", f"a family that {where} serves in Linear and conv2d", kinds, "add 'float'")
        return st.sampled_from(drawn)

    return lazy(dtypes, given, build)


def _count(kind: str) -> int:
    """How many devices of ``kind`` there are. No device is initialised: torch asks the driver for their number."""
    if kind == "cpu":
        return 1
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    module = getattr(torch, kind)
    return int(module.device_count()) if module.is_available() else 0


def devices_present(kinds: Sequence[str] = _DEVICE_KINDS) -> list[torch.device]:
    """The devices of these kinds that are present, the CPU first; none is initialised."""
    found = [torch.device("cpu")] if "cpu" in kinds else []
    return found + [torch.device(kind, i) for kind in kinds if kind != "cpu" for i in range(_count(kind))]


def devices(*, kinds: Sequence[str] | None = None) -> st.SearchStrategy[torch.device]:
    """The devices of this machine, the CPU first.

    Args:
        kinds: any of ``"cpu"``, ``"cuda"``, ``"mps"``, ``"xpu"``; None draws from all that are present. With
            ``("cpu",)`` no other device is asked after; in no case is one initialised.

    Raises:
        StrategyArgumentError: on the first draw or by ``.validate()``, if ``kinds`` is wrong or none is present.

    Example:
        >>> from hypothesis import find
        >>> find(devices(), lambda device: True)
        device(type='cpu')
    """
    given = dict(locals())

    def build() -> st.SearchStrategy[torch.device]:
        wanted = _DEVICE_KINDS if kinds is None else check_choices("kinds", kinds, _DEVICE_KINDS)
        found = devices_present(wanted)
        if not found:
            raise refusal("kinds", "a kind of device that is present", kinds, "add 'cpu', or leave kinds out")
        return st.sampled_from(found)

    return lazy(devices, given, build)
