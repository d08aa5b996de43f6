"""``equiv counterexample``: why a layer over a flattened map is not a 1x1 convolution, on a map of your choice."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from torch import nn

from equiv.arguments import refusal
from equiv.cli.diagnose import as_options
from equiv.cli.layers import drawn_layer, loaded_layer
from equiv.cli.watched import working
from equiv.dtypes import dtype_name, is_inexact
from equiv.errors import EquivError
from equiv.parsing import parse_dtype, parse_integer, parse_name
from equiv.report import STDOUT, write_json
from equiv.report.terminal import Page
from equiv.structure import Counterexample, counterexample
from equiv.text import counted, quoted, shown

Readout = Literal["positions", "sum", "mean"]
_READOUTS = ("positions", "sum", "mean")
_MOST_WEIGHTS = 2**24  # 64 MiB in float32, and a second or two of searching


def parse_shape(argument: str, text: str) -> tuple[int, ...]:
    """``3x4x4`` as (3, 4, 4): channels, then 1 to 3 spatial sizes.

    Raises:
        EquivError: Anything else.

    Example:
        >>> parse_shape("MAP", "3x4x4")
        (3, 4, 4)
    """

    def wrong(what: str, advice: str) -> EquivError:
        expected = f"{argument}: expected channels and 1 to 3 spatial sizes such as 3x4x4"
        return EquivError(f"{expected}, got {text[:60]!r}{what}; {advice}")

    for part in re.split(r"[xX]", text.strip()):
        if not re.fullmatch(r"[0-9]{1,9}", part):
            what = f": {part[:20]!r} is not a whole number" if part else ": a size is missing"
            raise wrong(what, "write whole numbers with an x between them")
    sizes = tuple(map(int, re.split(r"[xX]", text.strip())))
    if not 2 <= len(sizes) <= 4:
        advice = f"for one position write {text}x1x1" if len(sizes) == 1 else "leave out the batch"
        raise wrong(f" with {len(sizes) - 1} spatial", advice)
    if min(sizes) < 1:
        raise wrong(": every size must be at least 1", "give the sizes of a map with entries")
    return sizes


def parse_readout(option: str, text: str, shape: tuple[int, ...], linear: nn.Linear) -> Readout:
    """How the map of the convolution is read, if that fits the outputs and the dtype of the layer."""
    name, outputs, dtype = parse_name(option, text, _READOUTS), linear.out_features, linear.weight.dtype
    positions = math.prod(shape[1:])
    if name == "positions" and outputs % positions:
        advice = (
            f"a 1x1 conv gives {positions} numbers for each channel on this map, and {outputs} is no multiple of "
            f"{positions}: choose another --out, or sum"
        )
        raise refusal(option, f"sum or mean for --out {outputs}", name, advice)
    if name == "mean" and not is_inexact(dtype):
        advice = "integers have no mean in their own dtype: choose sum"
        raise refusal(option, f"positions or sum for {dtype_name(dtype)}", name, advice)
    return cast(Readout, name)


@dataclass(frozen=True)
class Chosen:
    """The layer in question."""

    linear: nn.Linear
    sentence: str
    """Where its weights come from."""
    source: dict[str, Any]
    """The same for a report."""


def draw(shape: tuple[int, ...], typed: Mapping[str, str | None], *, layer: str | None = None) -> Chosen:
    """The layer of ``--out``, ``--seed`` and ``--dtype``.

    Raises:
        EquivError: One of them cannot be served, or the layer is too large to be searched while somebody waits.
    """
    if layer is not None:
        raise EquivError(f"--layer: expected a file to find it in, got {shown(layer)} alone; name it with --weights")
    plain = {"--out": "8", "--seed": "0", "--dtype": "float32"}
    given = plain | {option: value for option, value in typed.items() if value is not None}
    out = parse_integer("--out", given["--out"], least=1, most=2**24)
    seed = parse_integer("--seed", given["--seed"], least=0, most=2**32 - 1)
    dtype = parse_dtype("--dtype", given["--dtype"])
    n = math.prod(shape)
    if n * out > _MOST_WEIGHTS:
        raise EquivError(
            f"MAP: expected a layer of at most {_MOST_WEIGHTS:,} weights, got {'x'.join(map(str, shape))} with "
            f"{n:,} x {out:,}; choose a smaller map or a smaller --out"
        )
    how = f"as torch.manual_seed({seed}) makes it" if is_inexact(dtype) else f"small integers of seed {seed}"
    return Chosen(drawn_layer(n, out, dtype=dtype, seed=seed), f"{dtype_name(dtype)}, {how}.", {"seed": seed})


def load(shape: tuple[int, ...], typed: Mapping[str, str | None], *, weights: str, layer: str | None) -> Chosen:
    """The layer of a file.

    Raises:
        EquivError: Options of a drawn layer are given, or the file has no layer over such a map.
    """
    for option, given in typed.items():
        if given is not None:
            raise EquivError(
                f"{option}: expected none with --weights, got {shown(given)}; the file has a layer of its own"
            )
    linear, name = loaded_layer("--weights", weights, math.prod(shape), layer)
    said = f"{dtype_name(linear.weight.dtype)}, {quoted(name, 100)} of {quoted(weights, 200)}."
    return Chosen(linear, said, {"weights": weights, "name": name})


def show(chosen: Chosen, shape: tuple[int, ...], *, readout: Readout | None, json: str | None) -> None:
    """Search, write the findings as JSON, and say them."""
    with working("searching"), as_options(linear="--weights"):
        found = counterexample(chosen.linear, shape, readout=readout)
    if json is not None:
        write_json({**found.to_dict(), **chosen.source, "snippet": found.snippet()}, json)
    if json != STDOUT:
        _say(found, chosen.sentence)


def _say(found: Counterexample, weights: str) -> None:
    page = Page()
    channels, *spatial = found.feature_shape
    page.heading(f"Linear({found.in_features} -> {found.out_features}) over a map {found.feature_shape}")
    page.prose(weights)
    if math.prod(spatial) == 1:
        page.prose(f"""They are the same. The map has one position, so its {found.in_features:,} numbers are its
            {channels:,} channels, and a 1x1 convolution with the layer's {found.layer_weights:,} weights computes the
            same sums for every input.""")
    else:
        page.prose(f"""The fully connected layer takes the {counted(found.in_features, "number")} of the map to
            {found.out_features:,}. A 1x1 convolution over its {counted(channels, "channel")} takes them to
            {found.conv_output_shape[0]:,} x {"x".join(map(str, spatial))} = {math.prod(found.conv_output_shape):,}
            numbers, {_read(found)}.""")
    page.verbatim(found.render(page.prose_width))
    if not found.equivalent:
        page.heading("To run it yourself")
        page.verbatim(found.snippet())


def _read(found: Counterexample) -> str:
    if found.readout == "positions":
        return f"which is {found.out_features:,} if they are flattened; the sizes fit, the functions do not"
    done = "summed" if found.readout == "sum" else "averaged"
    return f"not {found.out_features:,}; {done} over positions they are {found.out_features:,}"
