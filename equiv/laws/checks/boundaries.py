"""The law about sizes at which kernels take another path."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

from equiv.laws.call import Call
from equiv.laws.checks.expected import exact_gradients, goes_back, same_gradients, whole
from equiv.laws.reach import Reach, leaves
from equiv.laws.registry import Context, law
from equiv.laws.trial import Trial
from equiv.numerics import STYLES, exact_case

_VECTORS = (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257)
_FAR = (32767, 32768, 32769, 65535, 65536, 65537)
_LARGE = (511, 512, 513, 1023, 1024, 1025, 2047, 2048, 2049, 4096, 4097, *_FAR, *(32769, 65537) * 3)
_WORK, _DEEP_WORK = 2**18, 2**21
_EXTREMES = st.sampled_from(  # n, O, rows of one case in twelve
    [
        *((32769, 1, 2), (65537, 1, 1), (65537, 1, 1)),
        *((2, 4097, 17), (1, 65537, 1), (1, 65537, 1)),
        *((1, 2, 32769), (1, 1, 65537), (2, 1, 65537)),
        *((512, 512, 1), (512, 513, 1), (513, 512, 1)),
    ]
)
_LONG = 2**14
_HOW_FAR = st.sampled_from(["near"] * 11 + ["far"])
_ORDERS = st.sampled_from([("n", "out", "rows"), ("out", "rows", "n"), ("rows", "n", "out")])


@dataclass(frozen=True)
class SizedCase:
    """A layer and an input by their sizes, with the probe that fills them; prints as what it is.

    Example:
        >>> from equiv.laws import check_case
        >>> sizes = {"batch_shape": (3,), "in_features": 33, "out_features": 2, "feature_shape": (33, 1, 1)}
        >>> how = {"bias": True, "style": "sparse", "seed": 0, "dtype": torch.float32, "device": "cpu"}
        >>> check_case("boundaries", SizedCase(**sizes, **how))
    """

    batch_shape: tuple[int, ...]
    in_features: int
    out_features: int
    feature_shape: tuple[int, ...]
    bias: bool
    style: str
    seed: int
    dtype: torch.dtype
    device: str


def _near(draw: st.DrawFn, context: Context) -> tuple[int, int, int]:
    """n, O and rows, whose product is bounded; far ones too in the profile deep."""
    sizes = _VECTORS + _LARGE if context.deep else _VECTORS
    left = _DEEP_WORK if context.deep else _WORK
    drawn: dict[str, int] = {}
    for name in draw(_ORDERS):  # what comes first takes any of the sizes, also the largest
        # Each dimension has a table of its own: Hypothesis copies what it drew from one table over another draw of it.
        most = left if context.largest is None else min(left, context.largest // max(drawn.values(), default=1))
        drawn.update([draw(st.sampled_from([(name, size) for size in sizes if size <= max(most, 1)]))])
        left //= drawn[name]
    return drawn["n"], drawn["out"], drawn["rows"]


@st.composite
def _sized_cases(draw: st.DrawFn, context: Context) -> SizedCase:
    if draw(_HOW_FAR) == "near" or context.deep or context.largest is not None:
        n, out, rows = _near(draw, context)
    else:
        n, out, rows = draw(_EXTREMES)
    along = 1 if n > _LONG else draw(st.sampled_from([d for d in range(1, min(n, 16) + 1) if n % d == 0]))
    shapes = [(n // along, along), (n // along, along, 1), (n // along, 1, along), (along, n // along, 1, 1)]
    shapes += [(1, n), (1, 1, n)] if n > _LONG else []
    shape = draw(st.sampled_from([shape for shape in shapes if len(shape) - 1 in context.ranks]))
    batch = draw(st.sampled_from([(rows,), (1, rows), (rows, 1)]))
    bias = draw(st.booleans())
    style = draw(st.sampled_from(STYLES))
    seed = draw(st.integers(0, 2**32 - 1))
    return SizedCase(batch, n, out, shape, bias, style, seed, context.dtype, str(context.device))


_REACHES = (
    *(Reach(f"boundary {name}", tuple(map(str, _VECTORS))) for name in ("n", "O", "rows")),
    leaves("input and weight", "input, weight and bias"),
)


@law(15, "boundaries", draw=_sized_cases, weight=2, reaches=_REACHES)
def boundaries(trial: Trial, case: SizedCase) -> None:
    """Results and gradients are exact at sizes where kernels change: 1, 2, 3, vector widths and their neighbours."""
    rows = math.prod(case.batch_shape)
    same = ("seed", "style", "in_features", "out_features", "bias", "dtype", "device")
    longest = max(rows, case.in_features, case.out_features)
    x, weight, bias = exact_case(rows=rows, reduction=longest, **{name: getattr(case, name) for name in same})
    expected = whole(x, weight, bias)
    for name, size in (("n", case.in_features), ("O", case.out_features), ("rows", rows)):
        trial.cover(f"boundary {name}", size)
    backward = goes_back(trial)
    values = torch.randint(-1, 2, expected.shape, generator=torch.Generator().manual_seed(case.seed))
    grad = values.to(case.dtype).to(x.device)
    wanted = exact_gradients(x, weight, grad, bias=bias is not None) if backward else ()
    for call in trial.calls(x.view(*case.batch_shape, -1), weight, bias, case.feature_shape):
        trial.gives(call, expected)
        if backward:
            same_gradients(trial, call, grad, wanted, result=expected)
    asked = case.seed % 4 == 0 and "linear" in trial.forms and trial.asks("empty_batches", "linear")
    if asked and trial.asks("empty_layers", "linear"):
        _empty(trial, x, weight, bias)


def _empty(trial: Trial, x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """A sum of no terms is the bias, or zero; of no outputs there is nothing."""
    x = x[:17]
    trial.cover("boundary n", 0)
    trial.cover("boundary O", 0)
    zeros = torch.zeros(len(x), len(weight), dtype=x.dtype, device=x.device)
    for call, expected in (
        (Call("linear", x[:, :0], weight[:, :0], bias), zeros if bias is None else zeros + bias),
        (Call("linear", x, weight[:0], None if bias is None else bias[:0]), zeros[:, :0]),
    ):
        condition = f"with {call.weight.shape[1]} inputs and {len(call.weight)} outputs"
        served = trial.taken(call)
        if served is not None:
            trial.same(served, trial.output(served, condition), expected, condition)
