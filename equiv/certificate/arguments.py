"""Which arguments a certificate can be asked for: shapes, dtypes, devices, options, states to resume.

Every check raises an `EquivError` that names the argument, its value, what was expected and what to do.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from equiv.certificate._checkpoint import KEYS
from equiv.certificate.sides import Side
from equiv.dtypes import DTYPES, dtype_name
from equiv.errors import EquivError
from equiv.mapping import check_feature_shape

METHODS = ("auto", "deterministic", "random")


def shape_of(a: object, b: object, feature_shape: Sequence[int] | None, in_features: int | None) -> tuple[int, ...]:
    """The input's shape without batch, ``(n, 1)`` for rows: given, or taken from a layer."""
    if feature_shape is not None:
        shape = check_feature_shape(feature_shape)
        if in_features is not None and in_features != math.prod(shape):
            raise EquivError(
                f"in_features: expected {math.prod(shape)}, the product of feature_shape, got {in_features!r}; pass one"
            )
        return shape
    n = None
    if in_features is not None:
        try:
            n = operator.index(in_features)
        except TypeError:
            n = 0
        if n < 1 or isinstance(in_features, bool):
            raise EquivError(
                f"in_features: expected an integer of at least 1, got {in_features!r}; pass the length of a row"
            )
    for side in (a, b):
        if isinstance(side, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            return (side.in_channels, *side.kernel_size)
    for side in (a, b):
        if n is None and isinstance(side, nn.Linear):
            n = side.in_features
    if n is None:
        raise EquivError(
            "in_features: expected a number of features where neither side is a layer, got None; pass in_features= for "
            "functions of rows, feature_shape= for functions of maps"
        )
    return (n, 1)


def check_fit(sides: list[Side], shape: tuple[int, ...], given: bool) -> None:
    """Refuse a shape that a layer among the sides does not take."""
    n = math.prod(shape)
    for side in sides:
        layer = side.call
        weight = getattr(layer, "weight", None)
        if isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)) and weight is None:
            raise EquivError(f"{side.name}.weight: expected a parameter, got None; give the layer a weight")
        if isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)) and 0 in layer.weight.shape:
            raise EquivError(
                f"{side.name}.weight: expected at least one input and one output, got shape "
                f"{tuple(layer.weight.shape)}; there is nothing to certify"
            )
        advice = "pass the shape of the map that was flattened" if given else "pass feature_shape= or in_features="
        if isinstance(layer, nn.Linear) and layer.in_features != n:
            raise EquivError(
                f"feature_shape: expected a product of {layer.in_features} (= {side.name}.in_features), got {shape} "
                f"with product {n}; {advice}"
            )
        if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) and (
            len(shape) != layer.weight.ndim - 1 or shape[0] != layer.in_channels
        ):
            raise EquivError(
                f"feature_shape: expected ({layer.in_channels}, *spatial) with {layer.weight.ndim - 2} spatial sizes, "
                f"as the {side.name} takes, got {shape}; {advice}"
            )


def dtypes_of(sides: list[Side], given: torch.dtype | None) -> list[torch.dtype]:
    """Dtypes of the sides' parameters, or the one to probe with where there are none."""
    if given is not None and given not in DTYPES:
        raise EquivError(f"dtype: expected one of {', '.join(map(dtype_name, DTYPES))}, got {given!r}")
    found = []
    for side in sides:
        own = [p.dtype for p in side.call.parameters()] if isinstance(side.call, nn.Module) else []
        if own:
            if own[0] not in DTYPES or (given is not None and given != own[0]):
                wanted = dtype_name(given) if given is not None else f"one of {', '.join(map(dtype_name, DTYPES))}"
                raise EquivError(
                    f"{side.name}: expected parameters of {wanted}, got {own[0]}; convert the module first"
                )
            found.append(own[0])
    return found or [given or torch.float32]


def device_of(sides: list[Side], given: torch.device | str | None) -> torch.device:
    """The one device of all parameters, or the one given."""
    try:
        wanted = None if given is None else torch.device(given)
    except (RuntimeError, TypeError) as error:
        raise EquivError(f"device: expected a torch device, got {given!r}; pass such as 'cpu' or 'cuda:0'") from error
    if wanted is not None and wanted.type == "meta":
        raise EquivError("device: expected a device with values, got meta; pass such as 'cpu'")
    own = {p.device for side in sides if isinstance(side.call, nn.Module) for p in side.call.parameters()}
    if len(own) > 1:
        raise EquivError(
            f"candidate: expected both sides on one device, got {', '.join(sorted(map(str, own)))}; move one with .to()"
        )
    if own:
        return own.pop()
    if wanted is not None:
        try:
            torch.empty(1, device=wanted)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise EquivError(
                f"device: expected a device that is there, got {str(wanted)!r} ({str(error).splitlines()[0]:.80}); "
                "pass such as 'cpu'"
            ) from error
    return wanted or torch.device("cpu")


def check_room(n: int, device: torch.device) -> None:
    """Refuse a number of features of which the dense inputs alone, 256 bytes each, find no place in memory."""
    try:
        torch.empty(256 * n, dtype=torch.uint8, device=device)
    except (RuntimeError, MemoryError, OverflowError, TypeError) as error:  # TypeError: a size beyond 64 bits
        raise EquivError(
            f"in_features: expected a number of features that some dozens of inputs of fit in memory, got {n:,}; "
            "certify a part of it"
        ) from error


def check_options(
    method: object, error_probability: object, seed: object, chunk_bytes: object, progress: object, resume: object
) -> None:
    """Refuse options of wrong type or range."""
    if method not in METHODS:
        raise EquivError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
    probability = error_probability
    if isinstance(probability, bool) or not isinstance(probability, (int, float)) or not 0 < probability < 1:
        raise EquivError(
            f"error_probability: expected a number between 0 and 1, both excluded, got {probability!r}; for 0 pass "
            "method='deterministic'"
        )
    for name, value, least in (("seed", seed, None), ("chunk_bytes", chunk_bytes, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or (least is not None and value < least):
            words = "an integer" if least is None else f"an integer of at least {least}"
            raise EquivError(f"{name}: expected {words}, got {value!r}")
    if progress is not None and not isinstance(progress, bool) and not callable(progress):
        raise EquivError(
            f"progress: expected a function of (done, total, state) or True, got {type(progress).__name__}"
        )
    if resume is not None and not (isinstance(resume, Mapping) and set(resume) >= KEYS):
        raise EquivError(f"resume: expected the state of a certificate, got {resume!r:.60}; pass certificate.state")


def check_state(state: Mapping[str, Any] | None, method: str) -> None:
    """Refuse a state of another method."""
    if state is not None and (state["method"] != method or state["version"] != 1):
        raise EquivError(
            f"resume: expected a state of the {method} method, version 1, got one of {state['method']!r}, version "
            f"{state['version']!r}; pass the method that it was made with"
        )


def check_origin(state: Mapping[str, Any], mine: Mapping[str, Any], draws: int) -> None:
    """Refuse a state of other layers or options, or one that is further than there are draws."""
    done = state["next"]
    if state["of"] != mine["of"]:
        raise EquivError(
            f"resume: expected a state of these very layers, dtype, error probability, seed and settings of torch "
            f"({mine['of']:.12}), got one of {state['of']!r:.60}; start again without resume="
        )
    if isinstance(done, bool) or not isinstance(done, int) or not 0 <= done <= draws:
        raise EquivError(
            f"resume: expected a state with 0 to {draws} draws done, got {done!r:.60}; start again without resume="
        )
