"""Which arguments `certify` serves: shapes, dtypes, devices and options.

Every check raises an `EquivError` that names the argument, its value, what was expected and what to do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from equiv.arguments import check_choice, check_device, check_dtype, check_integer, refusal
from equiv.certificate.sides import Side
from equiv.dtypes import DTYPES, dtype_name, dtype_names, is_inexact
from equiv.errors import EquivError
from equiv.mapping import Conv, check_feature_shape
from equiv.numerics import Arithmetic, check_arithmetic, format_of

METHODS = ("auto", "deterministic", "random")


def shape_of(a: object, b: object, feature_shape: Sequence[int] | None, in_features: int | None) -> tuple[int, ...]:
    """The input's shape without batch, ``(n, 1)`` for rows: given, or taken from a layer."""
    n = None
    if in_features is not None:
        n = in_features = check_integer("in_features", in_features, least=1, advice="pass the length of a row")
    if feature_shape is not None:
        shape = check_feature_shape(feature_shape)
        if in_features is not None and in_features != math.prod(shape):
            expected = f"{math.prod(shape)}, the product of feature_shape"
            raise refusal("in_features", expected, in_features, "pass one of the two")
        return shape
    for side in (a, b):
        if isinstance(side, Conv):
            return (side.in_channels, *side.kernel_size)
    n = n or next((side.in_features for side in (a, b) if isinstance(side, nn.Linear)), None)
    if n is None:
        advice = "pass in_features= for functions of rows, feature_shape= for functions of maps"
        raise refusal("in_features", "a number of features where neither side is a layer", None, advice)
    return (n, 1)


def check_fit(sides: Sequence[Side], shape: tuple[int, ...], given: bool) -> None:
    """Refuse a shape that a layer among the sides does not take."""
    n = math.prod(shape)
    advice = "pass the shape of the map that was flattened" if given else "pass feature_shape= or in_features="
    for side in sides:
        name, layer = side.name, side.call
        if not isinstance(layer, nn.Linear | Conv):
            continue
        weight = getattr(layer, "weight", None)
        if weight is None:
            raise refusal(f"{name}.weight", "a parameter", None, "give the layer a weight")
        if 0 in weight.shape:
            expected = "at least one input and one output"
            raise refusal(f"{name}.weight", expected, tuple(weight.shape), "there is nothing to certify")
        if isinstance(layer, nn.Linear):
            if layer.in_features != n:
                expected = f"a product of {layer.in_features} (= {name}.in_features)"
                raise EquivError(f"feature_shape: expected {expected}, got {shape} with product {n}; {advice}")
        elif len(shape) != weight.ndim - 1 or shape[0] != layer.in_channels:
            expected = f"({layer.in_channels}, *spatial) with {weight.ndim - 2} spatial sizes, as the {name} takes"
            raise refusal("feature_shape", expected, shape, advice)


def dtypes_of(sides: Sequence[Side], given: torch.dtype | None) -> list[torch.dtype]:
    """Dtypes of the sides' parameters, or the one to probe with where there are none."""
    if given is not None:
        check_dtype("dtype", given, advice="pass one of these")
    served = DTYPES if given is None else (given,)
    found = []
    for side in sides:
        own = next(side.call.parameters(), None) if isinstance(side.call, nn.Module) else None
        if own is not None and own.dtype not in served:
            wanted = f"parameters of {'one of ' if given is None else ''}{dtype_names(served)}"
            raise refusal(side.name, wanted, own.dtype, "convert the module first")
        found += [] if own is None else [own.dtype]
    return found or [given or torch.float32]


def device_of(sides: Sequence[Side], given: torch.device | str | None) -> torch.device:
    """The one device of all parameters, or the one given."""
    wanted = torch.device("cpu") if given is None else check_device("device", given)
    own = {p.device for side in sides if isinstance(side.call, nn.Module) for p in side.call.parameters()}
    if len(own) > 1:
        devices = ", ".join(sorted(map(str, own)))
        raise EquivError(f"candidate: expected both sides on one device, got {devices}; move one with .to()")
    return own.pop() if own else wanted


def check_memory(n: int, device: torch.device) -> None:
    """Refuse a number of features so large that memory does not even hold the dense inputs, 256 bytes a feature."""
    try:
        torch.empty(256 * n, dtype=torch.uint8, device=device)
    except (RuntimeError, MemoryError, OverflowError, TypeError) as error:  # TypeError: a size beyond 64 bits
        raise EquivError(
            f"in_features: expected a number of features whose probes, 256 bytes a feature or more, fit in memory, got "
            f"{n:,}; certify a part of the map"
        ) from error


def check_arithmetic_of(arithmetic: object, dtype: torch.dtype) -> None:
    """Refuse what is neither None nor an arithmetic of results of this dtype; integers have none, and need none."""
    if arithmetic is None or (isinstance(arithmetic, Arithmetic) and not is_inexact(dtype)):
        return
    advice = f"pass what equiv.numerics.declared({dtype}) returns, or leave it out"
    checked = check_arithmetic(arithmetic, advice)
    if checked.mixes:
        advice = "certify the layer with another algorithm, and judge results of this one by equiv.compare"
        raise refusal("arithmetic", "one of a kernel that returns each weight", checked.name, advice)
    output = checked.output
    if output != format_of(dtype).dtype:
        raise refusal("arithmetic", f"one of results of {dtype_name(dtype)}", output, advice)


def check_options(
    method: object, error_probability: object, seed: object, chunk_bytes: object, progress: object
) -> tuple[int, int]:
    """Refuse options of wrong type or range; the seed and the bytes as ints."""
    check_choice("method", method, METHODS)
    probability = error_probability
    if isinstance(probability, bool) or not isinstance(probability, (int, float)) or not 0 < probability < 1:
        expected = "a number between 0 and 1, both excluded"
        raise refusal("error_probability", expected, probability, "for 0 pass method='deterministic'")
    if progress is not None and not isinstance(progress, bool) and not callable(progress):
        raise refusal("progress", "a function of (done, total, state), or True", progress, "pass one of these")
    most = check_integer("chunk_bytes", chunk_bytes, least=1, advice="pass how many bytes may be held at once")
    return check_integer("seed", seed), most
