"""Which operations a function calls: whether it is one layer, whose results one envelope holds, or a convolution.

Several layers in a row, sums of products that are scaled, and inputs that are repeated round more often than their
dense matrix says; only what is one product of matrices, at most one addition, and operations that neither add nor
multiply, can be held against the envelope of that matrix. Operations are seen as torch dispatches them; what compiled
code does is not seen, and counts as several layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from equiv.errors import EquivError

_PRODUCTS = {
    **dict.fromkeys(("mm", "bmm", "mv", "dot", "sum", "convolution"), 0),
    **dict.fromkeys(("addmm", "baddbmm", "addmv", "linear"), 1),
}
"""Sums of products or of entries, with how many additions they hold; a convolution with a bias holds one as well."""
_ADDITIONS = frozenset({"add", "add_", "sub", "sub_"})
_MOVES = """view _unsafe_view reshape _reshape_alias flatten t transpose permute slice select squeeze unsqueeze detach
alias clone contiguous _to_copy to constant_pad_nd neg neg_ view_as_real view_as_complex _conj conj empty_like"""
_NOT_AFFINE = """clamp clamp_ clamp_min clamp_max round round_ floor ceil trunc relu relu_ hardtanh hardtanh_ threshold
where maximum minimum bitwise_and bitwise_or bitwise_left_shift bitwise_right_shift lt le gt ge eq ne abs sign
nan_to_num quantize_per_tensor fake_quantize_per_tensor_affine fake_quantize_per_tensor_affine_cachemask"""
_HARMLESS = frozenset(f"{_MOVES} {_NOT_AFFINE}".split())
"""What moves values, and what makes a map not affine, which the tests look for: neither rounds as a sum does."""


@dataclass(frozen=True)
class Structure:
    """What was seen of a function."""

    single: bool  # one product of matrices, or one sum, with at most one addition, and nothing else that rounds
    convolves: bool  # it calls a convolution, or that is not known


class _Seen(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own methods have no types
    """Notes the name of every operation, and how many additions it holds if it is a product."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []
        self.additions = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.partition(".")[0]
        if "convolution" in name:
            name = "convolution"
            self.additions += len(args) > 2 and args[2] is not None
        self.names.append(name)
        self.additions += _PRODUCTS.get(name, 0) + (name in _ADDITIONS)
        return func(*args, **(kwargs or {}))


def structure_of(run: Callable[[], object]) -> Structure:
    """The structure of what ``run`` calls; of several layers, one of them a convolution, where nothing can be seen."""
    seen = _Seen()
    try:
        with torch.no_grad(), seen:
            run()
    except EquivError:
        return Structure(False, True)
    products = sum(name in _PRODUCTS for name in seen.names)
    known = _HARMLESS.union(_PRODUCTS, _ADDITIONS).issuperset(seen.names)
    return Structure(known and products == 1 and seen.additions <= 1, not products or "convolution" in seen.names)
