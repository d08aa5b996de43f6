"""Is a candidate the same function as a reference? Chooses the inputs, runs both, and raises with the verdict.

What one comparison of results means is the business of ``equiv.verdict.results``. Here two layers are first compared by their
parameters through the mapping, which holds for all inputs, and then by what their kernels return: on one-hot inputs and
zero, on exact integer probes where the weights allow them, and on normal values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from equiv.causes import name_cause
from equiv.dtypes import DTYPES, dtype_name
from equiv.errors import EquivError
from equiv.mapping import Conv, check_conv, check_feature_shape, check_linear, conv_to_linear, tap_weights
from equiv.numerics import gap_words, one_hot_rows, same_bits
from equiv.text import counted
from equiv.verdict.arguments import tolerances_of
from equiv.verdict.blocks import cause_of_outputs, outputs_to_judge
from equiv.verdict.outcome import Entry, NotEquivalent, Outcome, Verdict
from equiv.verdict.results import Ways, compare_rows

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_ONE_HOTS = 256
_ROWS = 32


def assert_equivalent(
    candidate: nn.Module | Callable[[Tensor], Tensor],
    reference: nn.Module | Callable[[Tensor], Tensor],
    input: Tensor | None = None,
    *,
    feature_shape: Sequence[int] | None = None,
    seed: int = 0,
    rtol: float | None = None,
    atol: float | None = None,
) -> None:
    """Raise unless ``candidate`` is the same function as ``reference``, up to the rounding of right kernels.

    At least one of the two must be a layer (Linear or a convolution of one output position or more) that computes from
    its weight and bias and nothing else: they give the exact results. Subclasses with a forward of their own, layers
    with forward hooks, and those whose weight is computed (weight_norm, parametrizations, pruning) are taken for
    functions. A layer that differs in a single weight by one ulp is another function and is found, whatever
    the tolerance of a test on outputs would have said. The kernels are judged on zero, on one-hot inputs (256 of them
    where there are more features), on 32 inputs of -1, 0 and 1 and 32 normal ones, at every output; in float64,
    complex128 and integers, where the exact results of a layer above some 2^20 weights would take minutes, at the
    outputs where the two differ most and others spread over all, and the verdict says at how many. For all inputs and
    every weight, see :func:`equiv.certify`.

    Args:
        candidate: A Linear, a convolution, or a function of a batch: ``(N, n)`` or ``(N, C, *spatial)`` ->
            ``(N, O, ...)``.
            Each side is given the shape that it takes: rows for a Linear, maps for a convolution and for a function
            when ``feature_shape`` is known.
        reference: The same.
        input: Inputs to try in addition, ``(N, n)`` or ``(N, C, *spatial)``, in the layers' dtype.
        feature_shape: ``(C, *spatial)``; by default the kernel of the convolution is taken for the whole map.
        seed: Of the generated inputs; the global random state is neither read nor set.
        rtol: An extra condition on every comparison of results, see :func:`equiv.compare`.
        atol: See ``rtol``.

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
        equiv.errors.NotEquivalent: DIFFERENT: ...
    """
    _check_options(seed, input)
    tolerances = tolerances_of(rtol, atol)
    shape = _feature_shape(candidate, reference, feature_shape)
    left, right = (_dense("candidate", candidate, shape), _dense("reference", reference, shape))
    layer = right if right is not None else left
    if layer is None:
        if isinstance(reference, nn.Linear | Conv):  # says why it is not one that defines the right results
            (check_linear if isinstance(reference, nn.Linear) else check_conv)(reference, name="reference")
        raise EquivError(
            "reference: expected at least one side to be a Linear or a convolution, got two functions; pass the layer "
            "whose weights define the right results, or take equiv.certify, which reads two functions"
        )
    if shape is None:
        shape = (layer.in_features, 1)
    if math.prod(shape) != layer.in_features:
        raise EquivError(
            f"feature_shape: expected a product of {layer.in_features} features, got {shape} with product "
            f"{math.prod(shape)}"
            + ("" if feature_shape is not None else ", the kernel of the convolution taken for the whole map")
            + "; pass the shape of the map that was flattened"
        )
    if left is not None and right is not None:
        _same_parameters(left, right, shape)
    weight, bias = layer.weight.detach(), _bias(layer)
    ways = _ways(candidate, left, reference, right, shape)
    for words, x, columns in _inputs(layer, input, seed):
        actual = _run("candidate", candidate, x, shape, feature_shape is not None)
        expected = _run("reference", reference, x, shape, feature_shape is not None)
        verdict, wrong = _judged(actual, expected, x, weight, bias, columns, tolerances, ways)
        if not verdict.equivalent:
            cause = None
            if wrong is not None:
                cause = cause_of_outputs(actual, wrong, x=x, weight=weight, bias=bias, feature_shape=shape)
            raise NotEquivalent(replace(verdict, explanation=f"{words}, {verdict.explanation}", cause=cause))


def _judged(
    actual: Tensor,
    expected: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    columns: Tensor | None,
    tolerances: tuple[float, float] | None,
    ways: tuple[Ways, Ways],
) -> tuple[Verdict, int | None]:
    """The verdict on one input, and the output that is furthest off, where ``actual`` is outside."""
    if columns is not None and _is_finite(weight):
        # Rows that are zero outside some columns: those alone decide. Zero times infinity would not be zero.
        n, here = weight.shape[1], columns.cpu()
        ways = _each(ways, lambda way: way.view(len(way), -1, n)[..., here].flatten(1))
        x, weight = x[:, columns], weight[:, columns]
    some = outputs_to_judge(actual, expected, x, weight, tolerances)
    if some is None:
        verdict, wrong = compare_rows(actual, expected, x, weight, bias, tolerances=tolerances, ways=ways)
        return verdict, None if wrong is None else wrong.output
    parts = (actual[:, some], expected[:, some], x, weight[some], None if bias is None else bias[some])
    verdict, wrong = compare_rows(*parts, tolerances=tolerances, ways=_each(ways, lambda way: way[some]))
    text = f"judged at {len(some):,} of {len(weight):,} outputs (those where the two differ most, and others): "
    worst = verdict.worst
    if worst is not None and len(worst.index) == 2:
        worst = replace(worst, index=(worst.index[0], int(some[worst.index[1]])))
    verdict = replace(verdict, explanation=text + verdict.explanation, worst=worst)
    return verdict, None if wrong is None else int(some[wrong.output])


def _is_finite(weight: Tensor) -> bool:
    """Whether no entry is infinite or not a number; a sum that overflows is taken for one that is."""
    return not (weight.is_floating_point() or weight.is_complex()) or bool(weight.sum().isfinite())


def _check_options(seed: object, given: object) -> None:
    """What can be refused before anything is run."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not -(2**63) <= seed < 2**63:
        raise EquivError(f"seed: expected an integer below 2**63, got {seed!r:.60}; leave it out for 0")
    if given is None:
        return
    if not isinstance(given, Tensor):
        raise EquivError(
            f"input: expected a tensor, got {type(given).__name__}; pass a batch, and the shape of a map "
            "as feature_shape="
        )
    if given.device.type == "meta":
        raise EquivError("input: expected values, got a tensor on the meta device; pass one that has values")
    if given.is_nested or given.layout != torch.strided:
        raise EquivError(f"input: expected a strided tensor, got {given.layout}; convert it with to_dense()")


def _feature_shape(candidate: object, reference: object, given: Sequence[int] | None) -> tuple[int, ...] | None:
    if given is not None:
        return check_feature_shape(given)
    for side in (candidate, reference):
        if isinstance(side, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            return (side.in_channels, *side.kernel_size)
    return None


def _dense(name: str, side: object, shape: tuple[int, ...] | None) -> nn.Linear | None:
    """The Linear that a layer is, or None for a function."""
    if isinstance(side, type):
        raise EquivError(f"{name}: expected a layer or a function, got the class {side.__name__}; pass an instance")
    if isinstance(side, nn.Linear | Conv) and (_is_lazy(side) or not _computes_by_itself(side)):
        held = side._parameters.get("weight")
        if not _is_lazy(side) and held is not None and held.dtype not in DTYPES:
            raise EquivError(
                f"{name}: expected weights of a dtype among {', '.join(map(str, DTYPES))}, got {held.dtype}; "
                "convert the layer first"
            )
        checked = check_linear(side, name=name) if isinstance(side, nn.Linear) else check_conv(side, name=name)
        if checked.weight.device.type == "meta":
            raise EquivError(
                f"{name}: expected a layer with values, got one on the meta device; load its weights first"
            )
        if isinstance(checked, nn.Linear):
            return checked
        assert shape is not None
        return conv_to_linear(checked, shape)
    if not callable(side):
        raise EquivError(
            f"{name}: expected a layer or a function of a batch, got {type(side).__name__}; "
            "to compare two results use equiv.compare"
        )
    return None


def _is_lazy(layer: nn.Linear | Conv) -> bool:
    return any(parameter is not None and is_lazy(parameter) for parameter in layer._parameters.values())


def _computes_by_itself(layer: nn.Linear | Conv) -> bool:
    """Whether it may compute something else than its type does from a weight and bias that it holds."""
    kind = next(kind for kind in (nn.Linear, *_CONVS) if isinstance(layer, kind))
    for method in ("forward", "_conv_forward", "__call__"):
        if method in vars(layer) or getattr(type(layer), method, None) is not getattr(kind, method, None):
            return True
    held = layer._parameters
    return bool(layer._forward_hooks or layer._forward_pre_hooks) or not held.keys() >= {"weight", "bias"}


def _ways(
    candidate: object, left: nn.Linear | None, reference: object, right: nn.Linear | None, shape: tuple[int, ...]
) -> tuple[Ways, Ways]:
    """The weights that either side's results may come from: its own; where it is a function, any that is known."""
    own = [
        None if dense is None or not isinstance(side, Conv) else tap_weights(side, shape)
        for side, dense in ((candidate, left), (reference, right))
    ]
    known = next((taps for taps in own if taps is not None), None)
    of_function: Ways = (None,) if known is None else (None, known)
    a, b = (of_function if dense is None else (taps,) for dense, taps in zip((left, right), own, strict=True))
    return a, b


def _each(ways: tuple[Ways, Ways], change: Callable[[Tensor], Tensor]) -> tuple[Ways, Ways]:
    a, b = (tuple(None if way is None else change(way) for way in tried) for tried in ways)
    return a, b


def _same_parameters(left: nn.Linear, right: nn.Linear, shape: tuple[int, ...]) -> None:
    """Two layers are one function exactly when their dense weights and biases have the same values."""
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
            index = tuple(int(i) for i in wrong.nonzero()[0])
            raise NotEquivalent(_parameter_verdict(name, index, a, b, int(wrong.sum()), left, right, shape))


def _parameter_verdict(
    name: str,
    index: tuple[int, ...],
    a: Tensor,
    b: Tensor,
    wrong: int,
    left: nn.Linear,
    right: nn.Linear,
    shape: tuple[int, ...],
) -> Verdict:
    words = gap_words(a[index], b[index])
    distance = f", {words}" if words else ""
    text = (
        f"{wrong:,} of {counted(a.numel(), 'entry', 'entries')} of the {name} "
        f"{'differs' if wrong == 1 else 'differ'} once both are written as one dense layer; "
        f"the first, {name}{list(index)}, is {a[index].item()!r} in the candidate and "
        f"{b[index].item()!r} in the reference{distance}."
    )
    found = name_cause(left.weight.detach(), right.weight.detach(), shape, _bias(left), _bias(right))
    entry = Entry(index, a[index].item(), b[index].item())
    counts = {"identical": a.numel() - wrong, "rounding": 0, "different": wrong, "undecided": 0, "total": a.numel()}
    cause = None if found is None else found.sentence
    return Verdict(Outcome.DIFFERENT, text, dtype_name(a.dtype), tuple(a.shape), counts, None, entry, None, (), cause)


def _parameter(layer: nn.Linear, name: str) -> Tensor:
    value = getattr(layer, name)
    if value is None:
        return torch.zeros(layer.weight.shape[0], dtype=layer.weight.dtype)
    found: Tensor = value.detach().cpu()
    return found


def _bias(layer: nn.Linear) -> Tensor | None:
    return None if layer.bias is None else layer.bias.detach()


def _inputs(layer: nn.Linear, given: Tensor | None, seed: int) -> list[tuple[str, Tensor, Tensor | None]]:
    """What to try: the caller's input, zero and one-hot rows, signs, and values of ordinary size.

    Each with words, and with the only columns in which it is not zero where these are few.
    """
    n, dtype, device = layer.in_features, layer.weight.dtype, layer.weight.device
    generator = torch.Generator().manual_seed(seed)
    tried: list[tuple[str, Tensor, Tensor | None]] = []
    if given is not None:
        if given.dtype != dtype or given.ndim == 0 or given.numel() % max(1, n):
            raise EquivError(
                f"input: expected a tensor of {dtype_name(dtype)} with {n} features a row, got {dtype_name(given.dtype)} of "
                f"shape {tuple(given.shape)}; convert it, or pass the rows that the layer takes"
            )
        if given.numel():
            tried.append(("on the input given", given.detach().reshape(-1, n), None))
    columns = torch.arange(n) if n <= _ONE_HOTS else torch.randperm(n, generator=generator)[:_ONE_HOTS].sort().values
    probes = torch.cat([torch.zeros(1, n, dtype=dtype, device=device), one_hot_rows(columns, n, dtype, device)])
    tried.append(("on the zero input and one-hot inputs", probes, columns.to(device) if n > _ONE_HOTS else None))
    low = 0 if dtype == torch.uint8 else -1
    signs = torch.randint(low, 2, (_ROWS, n), generator=generator).to(dtype).to(device)
    tried.append(("on inputs of -1, 0 and 1", signs, None))
    if dtype.is_floating_point or dtype.is_complex:
        wide = torch.complex128 if dtype.is_complex else torch.float64
        normal = torch.randn(_ROWS, n, generator=generator, dtype=wide).to(dtype).to(device)
        tried.append(("on normal inputs", normal, None))
        tried.append(("on one input without a batch of others", normal[:1], None))
    return tried


def _run(
    name: str, side: nn.Module | Callable[[Tensor], Tensor], x: Tensor, shape: tuple[int, ...], as_map: bool
) -> Tensor:
    takes_map = isinstance(side, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) or (as_map and not isinstance(side, nn.Linear))
    try:
        with torch.no_grad():
            given = x.clone()  # a function may work in place: that is its own business
            y = side(given.reshape(-1, *shape) if takes_map else given)
    except Exception as error:
        size = (len(x), *shape) if takes_map else tuple(x.shape)
        reason = (str(error).splitlines() or [""])[0]
        raise EquivError(
            f"{name}: expected to run on an input of shape {size}, got {type(error).__name__}: "
            f"{reason:.120}; pass feature_shape= if it takes a map, leave it out if it takes rows"
        ) from error
    if not isinstance(y, Tensor):
        raise EquivError(f"{name}: expected a function that returns a tensor, got {type(y).__name__}; return one")
    if y.dtype != x.dtype:
        text = (
            f"the {name} returns {dtype_name(y.dtype)} for an input of {dtype_name(x.dtype)}: another arithmetic, not the same "
            "function."
        )
        raise NotEquivalent(Verdict(Outcome.DIFFERENT, text, dtype_name(y.dtype), tuple(y.shape)))
    return y.reshape(len(x), -1) if y.ndim and y.shape[0] == len(x) else y


def _signature(layer: nn.Linear) -> str:
    return f"{layer.in_features} -> {layer.out_features} of {dtype_name(layer.weight.dtype)}"
