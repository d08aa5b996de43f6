"""Is a candidate the same function as a reference? Runs both on chosen inputs, and raises with the verdict.

What one comparison of results means is the business of ``equiv.verdict.results``. Here two layers are first compared by
their parameters, once both are written as dense layers: that holds for all inputs. Then what their kernels return is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from equiv.arguments import check_bool, check_integer, check_tensor
from equiv.backends import Function
from equiv.causes import Cause, name_cause, name_misrounding
from equiv.dtypes import DTYPES, dtype_name, dtype_names, is_inexact
from equiv.errors import EquivError
from equiv.mapping import (
    CONV_TRANSPOSES,
    CONVS,
    Conv,
    ConvTranspose,
    check_conv,
    check_conv_transpose,
    check_feature_shape,
    check_linear,
    check_product,
    conv_to_linear,
    geometry_of,
    tap_weights,
)
from equiv.numerics import Arithmetic, gap_words, plain_torch, same_bits
from equiv.text import counted
from equiv.verdict.arguments import Alternatives, Comparison, check_given_arithmetic, tolerances_of
from equiv.verdict.blocks import at_outputs, cause_of_outputs, outputs_to_judge
from equiv.verdict.chain_layers import judged_as_chains
from equiv.verdict.gradients import check_differentiable, check_gradients
from equiv.verdict.outcome import Entry, NotEquivalent, Outcome, Verdict
from equiv.verdict.results import Mismatch, compare_rows, compare_sliding
from equiv.verdict.same_taps import difference_of
from equiv.verdict.sides import asked, run
from equiv.verdict.sliding_layers import check_dense, is_large, maps_to_try
from equiv.verdict.tried import inputs_to_try

_NAMED = 2**22  # weights of a layer whose rounding is named on further inputs


@plain_torch()
def assert_equivalent(  # noqa: PLR0913 - the options are the interface
    candidate: nn.Module | Callable[[Tensor], Tensor],
    reference: nn.Module | Callable[[Tensor], Tensor],
    input: Tensor | None = None,
    *,
    feature_shape: Sequence[int] | None = None,
    arithmetic: Arithmetic | None = None,
    seed: int = 0,
    rtol: float | None = None,
    atol: float | None = None,
    gradients: bool = False,
) -> None:
    """Raise unless ``candidate`` is the same function as ``reference``, up to the rounding of right kernels.

    At least one of the two must be a layer (Linear, a convolution of one output position or more, or a transposed one
    where ``feature_shape`` is given) that computes from its weight and bias and nothing else: it gives the exact
    results. Subclasses with a forward of their own, layers with forward hooks, and those whose weight is computed
    (weight_norm, parametrizations, pruning) are taken for functions. Two layers are first compared weight by weight:
    one that differs by one ulp is another function, whatever the tolerance of a test on outputs would have said. Then
    the kernels are judged at every output on zero, on one-hot inputs (256 of them where there are more features), on
    inputs of one or two entries whose results are rounded once, many of them ties, on 32 inputs of -1, 0 and 1 and on
    32 normal ones. In float64, complex128 and integers, where exact results of a layer above some 2^20 weights would
    take minutes, they are judged at the outputs where the two differ most and at others spread over all, and the
    verdict says at how many. A side may be an ``nn.Sequential`` of affine layers, see :func:`equiv.compare`: a layer
    into which it was folded is held against the exact fold parameter by parameter, and what the two compute against the
    chain. What the rounding of folded parameters may hide, such as eps forgotten, is a ``UserWarning``. A
    convolution whose dense layer would have more than 2^24 weights is judged as it slides, on fewer maps,
    where ``feature_shape`` is given; two of them are compared tap by tap, and one that has zeros for the taps that the
    other lacks is the same function of finite inputs. For all inputs and every weight, see :func:`equiv.certify`.

    Args:
        candidate: A Linear, a convolution, a transposed one, or a function of a batch: ``(N, n)`` or ``(N, C,
            *spatial)`` -> ``(N, O, ...)``. Each side is given the shape that it takes: rows for a Linear, maps for a
            convolution and for a function when ``feature_shape`` is known. A function that refuses such batches, as a
            session of fixed size does, is asked as :func:`equiv.certify` asks it, and the explanation says how.
        reference: The same.
        input: Inputs to try in addition, ``(N, n)`` or ``(N, C, *spatial)``, in the layers' dtype.
        feature_shape: ``(C, *spatial)``; by default the kernel of the convolution is taken for the whole map.
        arithmetic: What the candidate computes in; by default what is declared for its dtype and device, see
            :func:`equiv.compare`. A kernel that computes with sums of several inputs, as
            :func:`equiv.numerics.winograd` says, is asked on inputs of one size alone.
        seed: Of the generated inputs; the global random state is neither read nor set.
        rtol: An extra condition on every comparison of results, see :func:`equiv.compare`.
        atol: See ``rtol``.
        gradients: True judges the gradients of input, weight and bias of both sides too, each in its own envelope: for
            incoming gradients of integers (bit for bit), one-hot and normal ones. Of a function only that of the input
            is known, of a module those of parameters that are the layer's weight and bias. No ``.grad`` is written.

    Raises:
        NotEquivalent: An ``AssertionError`` with the verdict as ``.verdict``. An undecided verdict raises too: it is no
            evidence of equivalence, and its explanation says what to change.
        EquivError: Arguments that cannot be served.

    Example:
        >>> linear = torch.nn.Linear(12, 5)
        >>> conv = torch.nn.Conv2d(3, 5, 2)
        >>> _ = conv.load_state_dict({"weight": linear.weight.view(5, 3, 2, 2), "bias": linear.bias})
        >>> assert_equivalent(conv, linear)
        >>> conv.weight.data = conv.weight.data.flip(3)
        >>> assert_equivalent(conv, linear)
        Traceback (most recent call last):
        ...
        equiv.verdict.outcome.NotEquivalent: DIFFERENT: ...
    """
    seed = check_integer("seed", seed, least=-(2**63), most=2**63 - 1, advice="leave it out for 0")
    if input is not None:
        check_tensor("input", input, advice="pass a batch, and the shape of a map as feature_shape=")
    tolerances = tolerances_of(rtol, atol)
    check_given_arithmetic(arithmetic, gradients=bool(gradients))
    check_bool("gradients", gradients, advice="pass True or False")
    given = None if feature_shape is None else check_feature_shape(feature_shape)
    shape = given or _kernel_shape(candidate, reference)
    named, as_map = (("candidate", candidate), ("reference", reference)), given is not None
    question = (candidate, reference), given, (input, seed), (arithmetic, tolerances)
    if judged_as_chains(*question, gradients=gradients) or _judged_sliding(*question, gradients):
        return
    left, right = (_side(Function(name, f, shape, as_map=as_map)) for name, f in named)
    layer = right.dense if right.dense is not None else left.dense
    if layer is None:
        if isinstance(reference, nn.Linear | Conv):  # says why it is not one that defines the right results
            (check_linear if isinstance(reference, nn.Linear) else check_conv)(reference, name="reference")
        raise EquivError(
            "reference: expected at least one side to be a Linear or a convolution, got two functions; pass the layer "
            "whose weights define the right results, or take equiv.certify, which reads two functions"
        )
    shape = _checked_shape(layer, shape, given, differentiable=gradients)
    if left.dense is not None and right.dense is not None:
        _same_parameters(left, right, shape)
    if input is not None:
        _check_input(layer, input, layer.in_features)
    weight, bias = layer.weight.detach(), _bias(layer)
    alternatives = _alternatives(left, right)
    inputs = inputs_to_try(layer, input, seed, arithmetic)
    for words, x, columns in inputs:
        actual, expected = (side.run(x) for side in (left, right))
        rows = Comparison(actual, expected, x, weight, bias, arithmetic, tolerances, alternative_weights=alternatives)
        verdict, wrong = _judged(rows, columns)
        if not verdict.equivalent:
            side = right if wrong is not None and wrong.of_expected else left
            rows = rows.exchanged() if side is right else rows
            further = ((x, side.run(x)) for _, x, _ in inputs)
            cause = None if wrong is None else _cause(rows, wrong.output, shape, _conv(right, left), further)
            words += "".join(f", the {side.name}{side.asked}" for side in (left, right) if side.asked)
            raise NotEquivalent(replace(verdict, explanation=f"{words}, {verdict.explanation}", cause=cause))
    if gradients:
        check_gradients((left, right), shape, input, seed, arithmetic)


def _checked_shape(
    layer: nn.Linear, shape: tuple[int, ...] | None, given: tuple[int, ...] | None, *, differentiable: bool
) -> tuple[int, ...]:
    """The map that the features of the layer are, which has gradients if they are asked for."""
    if differentiable:
        check_differentiable(layer.weight.dtype)
    shape = shape or (layer.in_features, 1)
    if given is None and math.prod(shape) != layer.in_features:
        raise EquivError(
            f"feature_shape: expected (C, *spatial) with product {layer.in_features}, got none, and the convolution's "
            f"kernel {shape}, taken for the whole map, has product {math.prod(shape)}; pass the shape of the map that "
            "was flattened"
        )
    check_product(shape, layer.in_features, "the features of the layer")
    return shape


def _judged_sliding(
    functions: tuple[Any, Any],
    shape: tuple[int, ...] | None,
    inputs: tuple[Tensor | None, int],
    judged: tuple[Arithmetic | None, tuple[float, float] | None],
    gradients: bool,
) -> bool:
    """Whether a convolution defines the right results whose dense layer is too large: then both were judged on maps."""
    conv = None if shape is None else _too_large(functions, shape)
    if conv is None or shape is None:
        return False
    check_dense(conv, shape, gradients=gradients)
    named = zip(("candidate", "reference"), functions, strict=True)
    left, right = (_Side(name, Function(name, f, shape, as_map=True)) for name, f in named)
    given, seed = inputs
    if given is not None:
        _check_input(conv, given, math.prod(shape))
    bias = None if conv.bias is None else conv.bias.detach()
    for words, x in maps_to_try(conv, shape, given, seed):
        rows = x.flatten(1)
        actual, expected = (side.run(rows) for side in (left, right))
        results = Comparison(actual, expected, rows, conv.weight.detach(), bias, *judged, conv.out_channels)
        verdict = compare_sliding(results, conv, shape)
        if not verdict.equivalent:
            words += "".join(f", the {side.name}{side.asked}" for side in (left, right) if side.asked)
            raise NotEquivalent(replace(verdict, explanation=f"{words}, {verdict.explanation}"))
    return True


def _too_large(functions: tuple[Any, Any], shape: tuple[int, ...]) -> Conv | None:
    """The convolution that defines the right results, where its dense layer is too large to be built.

    Two must be one function by their own weights.
    """
    layers = [side for side in functions[::-1] if isinstance(side, nn.Linear | Conv) and not _is_function(side)]
    convs = [check_conv(side) for side in layers if isinstance(side, Conv)]
    if not convs or len(convs) < len(layers) or convs[0].weight.dtype not in DTYPES or convs[0].weight.is_meta:
        return None
    right, left = convs[0], convs[-1]
    if not any(is_large(conv, shape) for conv in convs):
        return None
    alike = geometry_of(left) == geometry_of(right)
    difference = None if alike else difference_of(left, right, shape)
    if difference is not None:
        raise NotEquivalent(difference)
    for name in ("weight", "bias")[not alike :]:
        a, b = _parameter(left, name), _parameter(right, name)
        wrong = ~(same_bits(a, b) | (a == b))
        if bool(wrong.any()):
            verdict = parameter_verdict(name, a, b, wrong)
            text = verdict.explanation.replace(" once both are written as one dense layer", "")
            raise NotEquivalent(replace(verdict, explanation=text))
    return right


@dataclass(frozen=True, eq=False)
class _Side:
    """One of the two: ``dense`` is the Linear that it is and ``taps`` its own terms if it is a layer, else None."""

    name: str
    function: Function
    dense: nn.Linear | None = None
    taps: Tensor | None = None

    def run(self, x: Tensor) -> Tensor:
        """Its results for rows ``(N, n)``, as rows where they are one for each."""
        return run(self.function, x)

    @property
    def asked(self) -> str:
        """How a function is asked, for a sentence about it; empty if in the usual way."""
        return asked(self.function)


def _kernel_shape(candidate: object, reference: object) -> tuple[int, ...] | None:
    for side in (candidate, reference):
        if isinstance(side, Conv):
            return (side.in_channels, *side.kernel_size)
    return None


def _side(function: Function) -> _Side:
    name, given = function.name, function.call
    if isinstance(given, type):
        raise EquivError(f"{name}: expected a layer or a function, got the class {given.__name__}; pass an instance")
    if not callable(given):
        raise EquivError(
            f"{name}: expected a layer or a function of a batch, got {type(given).__name__}; "
            "to compare two results use equiv.compare, for a session pass a function that runs it"
        )
    if not isinstance(given, nn.Linear | Conv | ConvTranspose) or _is_function(given):
        return _Side(name, function)
    checked: nn.Linear | Conv | ConvTranspose
    if isinstance(given, ConvTranspose):
        if function.shape is None:
            return _Side(name, function)
        checked = check_conv_transpose(given, name=name)
    else:
        checked = check_linear(given, name=name) if isinstance(given, nn.Linear) else check_conv(given, name=name)
    if checked.weight.dtype not in DTYPES:
        raise EquivError(
            f"{name}: expected weights of a dtype among {dtype_names(DTYPES)}, got {dtype_name(checked.weight.dtype)}; "
            "convert the layer first"
        )
    if checked.weight.device.type == "meta":
        raise EquivError(f"{name}: expected a layer with values, got one on the meta device; load its weights first")
    if isinstance(checked, nn.Linear):
        return _Side(name, function, checked)
    assert function.shape is not None  # there is a convolution
    dense = conv_to_linear(checked, function.shape)
    return _Side(name, function, dense, tap_weights(checked, function.shape) if isinstance(checked, Conv) else None)


def _is_function(layer: nn.Linear | Conv | ConvTranspose) -> bool:
    """Whether it may compute something else than its type does from a weight and bias that it holds."""
    held = layer._parameters
    if any(parameter is not None and is_lazy(parameter) for parameter in held.values()):
        return False  # a layer that is not ready
    kind = next(kind for kind in (nn.Linear, *CONVS.values(), *CONV_TRANSPOSES.values()) if isinstance(layer, kind))
    for method in ("forward", "_conv_forward", "__call__"):
        if method in vars(layer) or getattr(type(layer), method, None) is not getattr(kind, method, None):
            return True
    return bool(layer._forward_hooks or layer._forward_pre_hooks) or not held.keys() >= {"weight", "bias"}


def _alternatives(left: _Side, right: _Side) -> tuple[Alternatives, Alternatives]:
    """The weights that either side's results may come from: its own; where it is a function, any that is known."""
    known = left.taps if left.taps is not None else right.taps
    of_function: Alternatives = (None,) if known is None else (None, known)
    first, second = (of_function if side.dense is None else (side.taps,) for side in (left, right))
    return first, second


def _cause(
    rows: Comparison,
    worst: int,
    shape: tuple[int, ...],
    conv: Conv | None,
    further: Iterator[tuple[Tensor, Tensor]],
) -> Cause | None:
    """The likely cause; a wrong rounding that few results leave open may show in further results ``(x, y)``."""
    weight, bias = rows.weight, rows.bias
    found = cause_of_outputs(rows, worst, shape, conv)
    if found is not None or weight.dtype not in (torch.float16, torch.bfloat16) or weight.numel() > _NAMED:
        return found
    named = (name_misrounding(y, x=x, weight=weight, bias=bias) for x, y in further if y.shape == (len(x), len(weight)))
    return next((cause for cause in named if cause is not None), None)


def _judged(rows: Comparison, columns: Tensor | None) -> tuple[Verdict, Mismatch | None]:
    """The verdict on one input, and which output is furthest off, where one is outside."""
    if columns is not None and _is_finite(rows.weight):
        # Rows that are zero outside some columns: those alone decide. Zero times infinity would not be zero.
        rows = _at_columns(rows, columns)
    some = outputs_to_judge(rows)
    verdict, mismatch = compare_rows(rows if some is None else at_outputs(rows, some))
    if some is None:
        return verdict, mismatch
    text = f"judged at {len(some):,} of {len(rows.weight):,} outputs (those where the two differ most, and others): "
    entry = verdict.worst
    if entry is not None and len(entry.index) == 2:
        entry = replace(entry, index=(entry.index[0], int(some[entry.index[1]])))
    verdict = replace(verdict, explanation=text + verdict.explanation, worst=entry)
    return verdict, None if mismatch is None else mismatch._replace(output=int(some[mismatch.output]))


def _at_columns(rows: Comparison, columns: Tensor) -> Comparison:
    n, here = rows.weight.shape[1], columns.cpu()
    alternatives = rows.alternatives(lambda weight: weight.view(len(weight), -1, n)[..., here].flatten(1))
    x, weight = rows.input[:, columns], rows.weight[:, columns]
    return replace(rows, input=x, weight=weight, alternative_weights=alternatives)


def _is_finite(weight: Tensor) -> bool:
    """Whether no entry is infinite or not a number; a sum that overflows is taken for one that is."""
    return not is_inexact(weight.dtype) or bool(weight.sum().isfinite())


def _conv(*sides: _Side) -> Conv | None:
    """The first that is a convolution."""
    calls = (side.function.call for side in sides if side.dense is not None)
    return next((call for call in calls if isinstance(call, Conv)), None)


def _same_parameters(candidate: _Side, reference: _Side, shape: tuple[int, ...]) -> None:
    """Two layers are one function exactly when their dense weights and biases have the same values."""
    left, right, conv = candidate.dense, reference.dense, _conv(reference, candidate)
    assert left is not None
    assert right is not None
    if left.weight.shape != right.weight.shape or left.weight.dtype != right.weight.dtype:
        text = (
            f"the candidate is a layer {_signature(left)}, the reference a layer {_signature(right)}: "
            "these are not the same function."
        )
        raise NotEquivalent(Verdict(Outcome.DIFFERENT, text, dtype_name(left.weight.dtype), tuple(left.weight.shape)))
    for name in ("weight", "bias"):
        a, b = (_parameter(side, name) for side in (left, right))
        wrong = ~(same_bits(a, b) | (a == b))
        if bool(wrong.any()):
            cause = name_cause(left.weight.detach(), right.weight.detach(), shape, _bias(left), _bias(right), conv=conv)
            raise NotEquivalent(replace(parameter_verdict(name, a, b, wrong), cause=cause))


def parameter_verdict(name: str, a: Tensor, b: Tensor, wrong: Tensor) -> Verdict:
    """The verdict on two parameters that differ where ``wrong`` is true."""
    index, count = tuple(int(i) for i in wrong.nonzero()[0]), int(wrong.sum())
    words = gap_words(a[index], b[index])
    distance = f", {words}" if words else ""
    text = (
        f"{count:,} of {counted(a.numel(), 'entry', 'entries')} of the {name} "
        f"{'differs' if count == 1 else 'differ'} once both are written as one dense layer; "
        f"the first, {name}{list(index)}, is {a[index].item()!r} in the candidate and "
        f"{b[index].item()!r} in the reference{distance}."
    )
    counts = {"identical": a.numel() - count, "rounding": 0, "different": count, "undecided": 0, "total": a.numel()}
    entry = Entry(index, a[index].item(), b[index].item())
    return Verdict(Outcome.DIFFERENT, text, dtype_name(a.dtype), tuple(a.shape), counts, worst=entry)


def _parameter(layer: nn.Linear | Conv, name: str) -> Tensor:
    value = getattr(layer, name)
    if value is None:
        return torch.zeros(layer.weight.shape[0], dtype=layer.weight.dtype)
    found: Tensor = value.detach().cpu()
    return found


def _bias(layer: nn.Linear) -> Tensor | None:
    return None if layer.bias is None else layer.bias.detach()


def _check_input(layer: nn.Linear | Conv, given: Tensor, n: int) -> None:
    dtype = layer.weight.dtype
    if given.dtype != dtype or given.ndim == 0 or given.numel() % n:
        raise EquivError(
            f"input: expected a tensor of {dtype_name(dtype)} with {n} features a row, got {dtype_name(given.dtype)} "
            f"of shape {tuple(given.shape)}; convert it, or pass the rows that the layer takes"
        )


def _signature(layer: nn.Linear) -> str:
    return f"{layer.in_features} -> {layer.out_features} of {dtype_name(layer.weight.dtype)}"
