"""The mistakes that have a name: what happened, in a sentence, and the line of code that mends it.

One table serves weights and outputs. A mistake in the order of the inputs is an index besides: with a weight ``(O, n)``
whose columns are a map ``(C, *spatial)`` flattened C-major, the wrong weight is ``weight[:, index]``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from equiv.causes.roundings import ROUNDINGS
from equiv.numerics import Arithmetic


@dataclass(frozen=True)
class Cause:
    """A mistake that explains a difference, with the line of code that mends it.

    The line uses these names:

    - ``weight`` and ``bias``: what the wrong layer computes with, ``(O, n)`` and ``(O,)``; a kernel is flattened first,
      ``weight.flatten(1)``, and has the same entries;
    - ``reference``: the right layer, with its ``weight`` and ``bias`` in the same shapes;
    - ``layer`` and ``bn``: of a batch norm that is folded, the layer beside it and the batch norm; ``weight`` and
      ``bias`` then have the layer's own shapes;
    - ``x`` and ``y``: the inputs ``(N, n)`` and the wrong outputs ``(N, O)``, where the outputs alone are known; of a
      convolution that slides over maps ``(N, C, *spatial)`` and ``(N, O, *positions)``;
    - ``candidate`` and ``reference``: of models whose modules were built otherwise, the two models;
    - ``torch``.

    A line that ends in a call of ``torch.nn.functional`` computes the results again as the right layer does, where they
    hold too little to be mended.

    Attributes:
        name: A stable word such as "flattened-hwc", "bias-dropped" or "rounded-bfloat16".
        sentence: What happened, with its numbers.
        fix: The line of Python that mends it, empty where no line does.

    Example:
        >>> from equiv.causes import name_cause
        >>> right = torch.arange(6.0).view(1, 6)
        >>> print(name_cause(right.flip(1), right, (6, 1)).fix)
        weight = weight.flip(1)
    """

    name: str
    sentence: str
    fix: str = ""

    @property
    def arithmetic(self) -> Arithmetic | None:
        """Where results were computed in other formats, what they are: pass it as ``arithmetic=`` to judge by it."""
        return self.__dict__.get("_arithmetic")

    def computed_in(self, arithmetic: Arithmetic | None) -> Cause:
        """The same cause with its arithmetic. No field holds it: reports name a cause in words."""
        found = Cause(self.name, self.sentence, self.fix)
        found.__dict__["_arithmetic"] = arithmetic
        return found

    def __str__(self) -> str:
        return f"{self.name}: {self.sentence}"

    def mended_by(self, fix: str, *, before: str = "") -> Cause:
        """The same cause with another line, and words before its sentence."""
        return Cause(self.name, before + self.sentence, fix).computed_in(self.arithmetic)

    def beside(self, other: Cause) -> Cause:
        """This cause, and what is known of the bias in addition."""
        fix = f"{self.fix}; {other.fix}" if self.fix and other.fix else ""
        return Cause(self.name, f"{self.sentence}; {other.sentence}", fix).computed_in(self.arithmetic)


class _Mistake(NamedTuple):
    """Sentence and fix, with the facts of a case in braces; ``outputs`` is the fix where only outputs are seen.

    ``of_weight`` is what the mistake makes of the right weight ``(O, n)``, where that needs no facts: then nothing else
    is needed for it to be recognised, in weights and in outputs.
    """

    sentence: str
    fix: str = ""
    outputs: str | None = None
    of_weight: Callable[[Tensor], Tensor] | None = None


_ORDER = "weight = weight.reshape(-1, {sizes}){undo}.flatten(1)"
_COPY, _COPY_BIAS = "weight = reference.weight", "bias = reference.bias"
AGAIN = "y = torch.nn.functional.linear(x, reference.weight, reference.bias)"
"""The right results: the mend where wrong ones hold too little."""
_NO_TF32 = 'torch.backends.cuda.matmul.fp32_precision = torch.backends.cudnn.conv.fp32_precision = "ieee"'
_NO_BFLOAT16 = 'torch.backends.mkldnn.matmul.fp32_precision = torch.backends.mkldnn.conv.fp32_precision = "ieee"'
SETTINGS = {
    "rounded-tf32": _NO_TF32,
    "truncated-tf32": _NO_TF32,
    "rounded-bfloat16": _NO_BFLOAT16,
    "accumulated-float16": "torch.backends.cuda.matmul.allow_fp16_accumulation = False",
    "accumulated-bfloat16": "torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False",
}
"""What keeps torch from computing in other formats: rounded inputs and weights, low sums."""


def again(name: str) -> str:
    """Computing the results again, with the setting that keeps torch from rounding there, if there is one."""
    return f"{SETTINGS[name]}; {AGAIN}" if name in SETTINGS else AGAIN


_MISTAKES = {
    # The order of the inputs
    "flattened-hwc": _Mistake("flattened as {order} instead of {right}: {how}", _ORDER),
    "spatial-swapped": _Mistake("{axes} exchanged, {order} instead of {right}: {how}", _ORDER),
    "axes-permuted": _Mistake("axes in the order {order} instead of {right}: {how}", _ORDER),
    "kernel-flipped": _Mistake("kernel flipped along {axes}{turn}", _ORDER),
    "kernel-flipped-axis": _Mistake("kernel flipped along {axes}{turn}", _ORDER),
    "channels-reversed": _Mistake("channels in reverse order", _ORDER),
    "channels-permuted": _Mistake("channels {moved}", _ORDER),
    "inputs-reversed": _Mistake("all inputs in reverse order", "weight = weight.flip(1)"),
    "inputs-permuted": _Mistake("inputs {moved}", "weight = weight{undo}"),
    # Other rearrangements, and what is scaled
    "weight-transposed": _Mistake("the weight {shape} is transposed", "weight = weight.T"),
    "outputs-permuted": _Mistake("output features {moved}", "weight = weight{undo}", "y = y{undo}"),
    "outputs-repeated": _Mistake("all {count} output features are copies of feature {source}", AGAIN),
    "batch-permuted": _Mistake("rows of the batch {moved}", "", "y = y{undo}"),
    "batch-repeated": _Mistake("all {count} rows of the batch are copies of row {source}", AGAIN),
    "weight-negated": _Mistake("every weight has the other sign", "weight = -weight"),
    "weight-absolute": _Mistake("every weight is replaced by its absolute value", _COPY, of_weight=torch.abs),
    "weight-scaled": _Mistake("every weight is {scaled}", "weight = weight {undo}"),
    "output-negated": _Mistake("every output has the other sign", "", "y = -y"),
    "output-scaled": _Mistake("every output is {scaled}", "", "y = y {undo}"),
    "product-negated": _Mistake("the product is subtracted from the bias", "", "y = 2 * reference.bias - y"),
    "product-doubled": _Mistake("the product, without the bias, is added twice", "", "y = y - x @ reference.weight.T"),
    "product-scaled": _Mistake(
        "every product, without the bias, is {scaled}", "", "y = (y - reference.bias) {undo} + reference.bias"
    ),
    # What is missing, or there twice
    "weight-zero": _Mistake("every weight is zero", _COPY),
    "output-zero": _Mistake("every output is zero", AGAIN),
    "product-missing": _Mistake("every output is the bias alone", "", "y = y + x @ reference.weight.T"),
    "output-clamped": _Mistake("negative outputs are replaced by zero, as by a ReLU", AGAIN),
    "output-absolute": _Mistake("every output is replaced by its absolute value", AGAIN),
    "reduction-cut-short": _Mistake(
        "the last {count} of {n} {what}: the reduction is cut short",
        "weight[:, {start}:] = reference.weight[:, {start}:]",
        "y = y + x[:, {start}:] @ reference.weight[:, {start}:].T",
    ),
    "reduction-starts-late": _Mistake(
        "the first {count} of {n} {what}: the reduction starts late",
        "weight[:, :{count}] = reference.weight[:, :{count}]",
        "y = y + x[:, :{count}] @ reference.weight[:, :{count}].T",
    ),
    "reduction-overlaps": _Mistake(
        "the last {count} of {n} terms are added twice", "", "y = y - x[:, {start}:] @ reference.weight[:, {start}:].T"
    ),
    "one-entry": _Mistake(
        "one entry differs: weight[{row}, {column}], input {place}, is {versus}",
        "weight[{row}, {column}] = reference.weight[{row}, {column}]",
    ),
    # The bias
    "bias-dropped": _Mistake("the bias is dropped", _COPY_BIAS, "y = y + reference.bias"),
    "bias-added": _Mistake("a bias is added where none belongs", "bias = None", AGAIN),
    "bias-doubled": _Mistake("the bias is added twice", _COPY_BIAS, "y = y - reference.bias"),
    "bias-negated": _Mistake("the bias is subtracted", "bias = -bias", "y = y + 2 * reference.bias"),
    "bias-permuted": _Mistake("bias {moved}", "bias = bias{undo}", AGAIN),
    "bias-one-entry": _Mistake(
        "one entry differs: bias[{row}] is {versus}", "bias[{row}] = reference.bias[{row}]", AGAIN
    ),
    "bias-unknown": _Mistake("the bias differs{as_well}", _COPY_BIAS, AGAIN),
    # Results that are not rounded to nearest
    "rounding-toward-zero": _Mistake("results are cut toward zero instead of rounded to nearest", AGAIN),
    "rounding-away-from-zero": _Mistake("results are rounded away from zero instead of to nearest", AGAIN),
    "rounding-down": _Mistake("results are rounded down instead of to nearest", AGAIN),
    "rounding-up": _Mistake("results are rounded up instead of to nearest", AGAIN),
    "rounding-ties-away": _Mistake("ties are rounded away from zero instead of to even", AGAIN),
    "rounding-to-odd": _Mistake("results are rounded to odd instead of to nearest", AGAIN),
    "rounding-half-where-odd": _Mistake(
        "half an ulp is added only where the last kept bit is odd: other results are cut toward zero", AGAIN
    ),
    "rounding-stochastic": _Mistake("results are either neighbour of the exact sum, as if rounded at random", AGAIN),
    # Where a convolution reads and writes, see equiv.causes.windows
    "padding-mode": _Mistake("padding mode {mode} instead of {right}"),
    "padding-shifted": _Mistake("padding before the first entry of {before} instead of {right}{words}"),
    "stride-wrong": _Mistake("stride {stride} instead of {right}"),
    "dilation-wrong": _Mistake("dilation {dilation} instead of {right}"),
    "outputs-order": _Mistake("the results are in another order: {sentence}"),
    "input-order": _Mistake("the input is read in another order: {sentence}"),
    # What is lost to a narrower format
    **{name: _Mistake(f"{{what}} rounded to {words}{{when}}", _COPY, again(name)) for name, words in ROUNDINGS.items()},
    "rounded-steps": _Mistake("{what} rounded to{when}", _COPY),
    **{f"bias-{name}": _Mistake(f"bias rounded to {words}", _COPY_BIAS) for name, words in ROUNDINGS.items()},
    "subnormals-flushed": _Mistake(
        "subnormal {what} are treated as zero", _COPY, f"torch.set_flush_denormal(False); {AGAIN}"
    ),
}


def cause_of(name: str, *, outputs: bool = False, **facts: object) -> Cause:
    """A mistake of the table with the facts of one case; where one is None, what is right is copied or computed again.

    Example:
        >>> cause_of("weight-scaled", scaled="multiplied by 3", undo="/ 3")
        Cause(name='weight-scaled', sentence='every weight is multiplied by 3', fix='weight = weight / 3')
    """
    mistake = _MISTAKES[name]
    fix = mistake.outputs if outputs and mistake.outputs is not None else mistake.fix
    if fix and None in facts.values():
        fix = AGAIN if outputs or fix.startswith("y") else _COPY_BIAS if name.startswith("bias") else _COPY
    return Cause(name, mistake.sentence.format(**facts), fix.format(**facts))


def weight_changes() -> Iterator[tuple[Cause, Callable[[Tensor], Tensor]]]:
    """The mistakes that the table itself says how to make, each with what it makes of a right weight ``(O, n)``."""
    for name, mistake in _MISTAKES.items():
        if mistake.of_weight is not None:
            yield cause_of(name), mistake.of_weight


@dataclass(frozen=True)
class ColumnMistake:
    """A wrong order of the n inputs: the wrong weight is ``weight[:, index]``."""

    cause: Cause
    index: Tensor


def column_mistakes(feature_shape: tuple[int, ...]) -> list[ColumnMistake]:
    """The named wrong orders for a map, each order once, under the first name that fits it.

    Example:
        >>> [mistake.cause.name for mistake in column_mistakes((2, 2, 1))]
        ['flattened-hwc', 'kernel-flipped', 'channels-reversed', 'inputs-reversed']
        >>> column_mistakes((2, 2, 1))[0].index.tolist()
        [0, 2, 1, 3]
    """
    plain = torch.arange(math.prod(feature_shape), device="cpu")
    found = [ColumnMistake(Cause("none", "the right order"), plain)]
    for mistake in (*_orders(plain, feature_shape), *_flips(plain, feature_shape)):
        if not any(torch.equal(mistake.index, other.index) for other in found):
            found.append(mistake)
    return found[1:]


def _orders(plain: Tensor, shape: tuple[int, ...]) -> Iterator[ColumnMistake]:
    """Every other order of the axes, channels last first, in both directions."""
    right = "C" + "DHW"[4 - len(shape) :]
    axes = tuple(range(len(shape)))
    last = (*axes[1:], 0)
    others = [order for order in itertools.permutations(axes) if order not in (axes, last)]
    for order in (last, *sorted(others, key=lambda order: order[0] != 0)):
        name = "flattened-hwc" if order == last else "axes-permuted" if order[0] else "spatial-swapped"
        words = "".join(right[axis] for axis in order)
        moved = _listed([right[axis] for axis in axes if order[axis] != axis])
        index = plain.view(shape).permute(order).reshape(-1)
        back = tuple(order.index(axis) for axis in axes)
        moved_sizes = tuple(shape[axis] for axis in order)
        inverse = plain.view(moved_sizes).permute(back).reshape(-1)
        for how, wrong, sizes, undo in (
            (f"the columns are in the order {words}", index, moved_sizes, back),
            (f"columns in the order {right} were read as {words}", inverse, shape, order),
        ):
            undone = f".permute({_joined((0, *(axis + 1 for axis in undo)))})"
            cause = cause_of(name, order=words, right=right, axes=moved, how=how, sizes=_joined(sizes), undo=undone)
            yield ColumnMistake(cause, wrong)


def _flips(plain: Tensor, shape: tuple[int, ...]) -> Iterator[ColumnMistake]:
    names = "C" + "DHW"[4 - len(shape) :]
    spatial = [axis for axis in range(1, len(shape)) if shape[axis] > 1]
    for count in range(len(spatial), 0, -1):
        for axes in itertools.combinations(spatial, count):
            name = "kernel-flipped" if count == len(spatial) else "kernel-flipped-axis"
            turn = ", turned by 180 degrees" if count == 2 else ""
            words, undone = _listed([names[axis] for axis in axes]), f".flip({_joined(axis + 1 for axis in axes)})"
            cause = cause_of(name, axes=words, turn=turn, sizes=_joined(shape), undo=undone)
            yield ColumnMistake(cause, plain.view(shape).flip(axes).reshape(-1))
    if spatial:  # else channels are inputs
        cause = cause_of("channels-reversed", sizes=_joined(shape), undo=".flip(1)")
        yield ColumnMistake(cause, plain.view(shape).flip(0).reshape(-1))
    yield ColumnMistake(cause_of("inputs-reversed"), plain.flip(0))


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _joined(numbers: Iterator[int] | tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))
