"""Which operations a function calls: one layer, whose results one envelope holds, or a convolution of repeated inputs.

Several layers in a row, sums of products that are scaled, and inputs that are repeated round more often than their
dense matrix says; only what is one product of matrices, at most one addition, and operations that neither add nor
multiply, can be held against the envelope of that matrix. Operations are seen as torch dispatches them; what compiled
code does is not seen, and counts as several layers.

Where inputs are repeated before a single convolution, several of its taps land on one input. How many, and how large
they are, is what the function returns with ones, or with magnitudes, in place of the weights of that convolution.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from equiv.dtypes import is_inexact
from equiv.errors import EquivError
from equiv.numerics import format_of

_PRODUCTS = {
    **dict.fromkeys(("mm", "bmm", "mv", "dot", "sum", "convolution"), 0),
    **dict.fromkeys(("addmm", "baddbmm", "addmv", "linear"), 1),
}
"""Sums of products or of entries, with how many additions they hold; a convolution with a bias holds one as well."""
_ADDITIONS = frozenset({"add", "add_", "sub", "sub_"})
_MOVES = """view _unsafe_view reshape _reshape_alias flatten t transpose permute slice select squeeze unsqueeze detach
alias clone contiguous _to_copy to constant_pad_nd neg neg_ view_as_real view_as_complex _conj conj empty_like"""
_REPEATS = frozenset({"copy_", "cat", "stack", "index", "index_select", "gather", "roll", "repeat", "expand"}).union(
    f"{name}{rank}d" for name in ("reflection_pad", "replication_pad", "upsample_nearest") for rank in (1, 2, 3)
)
_NOT_AFFINE = """clamp clamp_ clamp_min clamp_max round round_ floor ceil trunc relu relu_ hardtanh hardtanh_ threshold
where maximum minimum bitwise_and bitwise_or bitwise_left_shift bitwise_right_shift lt le gt ge eq ne abs sign
nextafter nan_to_num quantize_per_tensor fake_quantize_per_tensor_affine fake_quantize_per_tensor_affine_cachemask"""
_CONSTANTS = "scalar_tensor full full_like zeros zeros_like ones ones_like new_zeros new_ones new_full"
_HARMLESS = frozenset(f"{_MOVES} {_NOT_AFFINE} {_CONSTANTS}".split())
"""What moves values, and what makes a map not affine, which the tests look for: neither rounds as a sum does."""
_EXACT = _HARMLESS.union(_REPEATS, ["arange", "new_empty", "empty", "lift_fresh", "fill_", "zero_", "resize_", "frexp"])
"""What rounds nothing, besides additions of zero and products with powers of two."""
_AROUND = _ADDITIONS.union(_REPEATS, f"{_MOVES} new_empty empty lift_fresh".split())
"""What may stand around a convolution of repeated inputs."""


@dataclass(frozen=True)
class Structure:
    """What was seen of a function."""

    single: bool  # one product of matrices, or one sum, with at most one addition, and nothing else that rounds
    convolves: bool  # it calls a convolution, or that is not known
    is_seen: bool  # torch carries out some of it, with operations that may round
    rounds_often: bool  # several of these round to the dtype of the result, or a narrower one, and it is not single
    repeats: bool  # it is one convolution, of inputs that may be repeated before, so that several taps land on one


class _Seen(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own methods have no types
    """Notes operations, how many additions they hold, and the precisions that they round to.

    ``weights`` changes those of convolutions, in float64.
    """

    def __init__(self, weights: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.weights = weights
        self.names: list[str] = []
        self.additions = 0
        self.roundings: list[int] = []  # significant bits of the result of every operation that may round

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.partition(".")[0]
        if "convolution" in name:
            name = "convolution"
            self.additions += len(args) > 2 and args[2] is not None
        self.names.append(name)
        self.additions += _PRODUCTS.get(name, 0) + (name in _ADDITIONS)
        if self.weights is not None and func is torch.ops.aten.convolution.default:
            args = (args[0].double(), self.weights(args[1]).double(), None, *args[3:])
        y = func(*args, **(kwargs or {}))
        if isinstance(y, Tensor) and is_inexact(y.dtype) and not _is_exact(name, args):
            self.roundings.append(format_of(y.dtype).precision)
        return y


def _is_exact(name: str, args: tuple[Any, ...]) -> bool:
    """Whether an operation rounds nothing: it moves or makes values, adds zero, or multiplies by a power of two."""
    plain = name.removesuffix("_")
    scalar = args[1] if len(args) > 1 and isinstance(args[1], (int, float)) else None
    if plain in ("add", "sub") and scalar == 0:
        return True
    if (
        plain in ("mul", "div")
        and scalar is not None
        and math.isfinite(scalar)
        and abs(math.frexp(scalar)[0]) in (0, 0.5)
    ):
        return True
    return name in _EXACT


def structure_of(run: Callable[[], Tensor], several: Callable[[], Tensor] | None = None) -> Structure:
    """What ``run`` calls at two inputs or more; several layers with a convolution where nothing can be seen.

    Where a call takes one input only, ``run`` is one call, and ``several`` gives the results of two or more.
    """
    seen = _Seen()
    try:
        with torch.no_grad(), seen:
            dtype = run().dtype
        repeats = _repeats(several or run, seen)
    except EquivError:
        return Structure(False, True, False, False, False)
    products = sum(name in _PRODUCTS for name in seen.names)
    known = _HARMLESS.union(_PRODUCTS, _ADDITIONS).issuperset(seen.names)
    single = known and products == 1 and seen.additions <= 1
    precision = format_of(dtype).precision if is_inexact(dtype) else 0
    often = not single and sum(bits <= precision for bits in seen.roundings) > 1
    return Structure(single, not products or "convolution" in seen.names, bool(seen.roundings), often, repeats)


def with_weights(run: Callable[[], Tensor], weights: Callable[[Tensor], Tensor]) -> Tensor:
    """What ``run`` returns with other weights in its convolution, which runs in float64 and without its bias."""
    with torch.no_grad(), _Seen(weights):
        return run()


def _repeats(run: Callable[[], Tensor], seen: _Seen) -> bool:
    names, count = {*seen.names}, seen.names.count("convolution")
    # A complex convolution is three real ones, a, b and c, which make (a - b) + i*(c - a - b).
    of_complex = count == seen.names.count("sub") == 3 and {"view_as_real", "mul"} <= names
    known = _AROUND | {"convolution", *(("mul",) if of_complex else ())}
    alone = of_complex or (count == 1 and seen.additions <= 1)
    if not (alone and names & _REPEATS and names <= known):
        return False
    # Without weights no input may count: else something goes around the convolution, as in a residual block.
    constant = with_weights(run, torch.zeros_like)
    return constant.dtype in (torch.float64, torch.complex128) and bool((constant == constant[:1]).all())
