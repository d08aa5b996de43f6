"""``equiv counterexample``: why a layer over a flattened map is not a 1x1 convolution, on a map of your choice."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from equiv.cli import options
from equiv.dtypes import dtype_name
from equiv.errors import EquivError
from equiv.report import json as report_json
from equiv.report import terminal as term
from equiv.text import counted

if TYPE_CHECKING:
    import torch
    from torch import nn

    from equiv.structure import Counterexample

_READOUTS = ("positions", "sum", "mean")
Readout = Literal["positions", "sum", "mean"]


def counterexample(
    feature_map: Annotated[str, typer.Argument(metavar="MAP", help="Channels and 1 to 3 spatial sizes: 3x4x4.")],
    outputs: Annotated[str, typer.Option("--out", metavar="N", help="Outputs of the fully connected layer.")] = "8",
    seed: Annotated[str, typer.Option("--seed", metavar="N", help="Seed of the layer's weights.")] = "0",
    dtype: Annotated[str, typer.Option("--dtype", metavar="NAME", help="Dtype of the layer.")] = "float32",
    readout: Annotated[
        str | None,
        typer.Option(
            "--readout", metavar="HOW", help="How the convolution's map is read: positions (flattened), sum or mean."
        ),
    ] = None,
    json: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Also write the findings to this file; - for stdout.")
    ] = None,
) -> None:
    """Show the smallest input that tells a flattened layer from a 1x1 convolution, and what the latter really is."""
    from equiv.structure import counterexample as search

    shape = options.feature_shape("MAP", feature_map)
    out = options.integer("--out", outputs, low=1, high=2**24)
    drawn = options.integer("--seed", seed, low=0, high=options.LARGEST_SEED)
    chosen = options.dtypes("--dtype", [dtype]) or []
    if len(chosen) != 1:
        raise EquivError(f"--dtype: expected one dtype, got {dtype!r}; run the command once for each")
    how = _readout(readout, chosen[0], shape, out)
    options.check_weights("MAP", feature_map, math.prod(shape), out)
    if json is not None:
        report_json.check_target(json)
    found = search(_draw(math.prod(shape), out, chosen[0], drawn), shape, readout=how)
    if json is not None:
        report_json.write({**found.to_dict(), "seed": drawn, "snippet": found.snippet()}, json)
    if json != report_json.STDOUT:
        _show(found, dtype_name(chosen[0]), drawn)


def _readout(text: str | None, dtype: torch.dtype, shape: tuple[int, ...], out: int) -> Readout | None:
    if text is None:
        return None
    name = options.one_name("--readout", text, _READOUTS)
    positions = math.prod(shape[1:])
    if name == "positions" and out % positions:
        raise EquivError(
            f"--readout: expected sum or mean for --out {out}, got 'positions': a 1x1 conv gives {positions} numbers "
            f"for each channel on this map, and {out} is no multiple of {positions}; choose another --out, or sum"
        )
    if name == "mean" and not (dtype.is_floating_point or dtype.is_complex):
        raise EquivError(
            f"--readout: expected positions or sum for {dtype_name(dtype)}, got 'mean': integers have no mean in "
            "their own dtype; choose sum"
        )
    return cast(Readout, name)


def _draw(n: int, out: int, dtype: torch.dtype, seed: int) -> nn.Linear:
    """A layer with random weights and biases from an explicit generator; small integers for integer dtypes."""
    import torch
    from torch import nn

    generator = torch.Generator().manual_seed(seed)

    def parameter(*size: int) -> nn.Parameter:
        if dtype.is_floating_point or dtype.is_complex:
            wide = torch.complex128 if dtype.is_complex else torch.float64
            values = torch.randn(size, generator=generator, dtype=wide) / math.sqrt(n)
        else:
            values = torch.randint(0 if dtype == torch.uint8 else -9, 10, size, generator=generator)
        return nn.Parameter(values.to(dtype), requires_grad=False)

    layer = nn.Linear(n, out, device="meta")
    layer.weight, layer.bias = parameter(out, n), parameter(out)
    return layer


def _show(found: Counterexample, dtype: str, seed: int) -> None:
    out = term.console()
    c, *spatial = found.feature_shape
    size, positions = "x".join(map(str, spatial)), math.prod(spatial)
    term.heading(out, f"Linear({found.in_features} -> {found.out_features}) over a map {found.feature_shape}")
    term.paragraph(out, f"{dtype}, random weights of seed {seed}.")
    if positions == 1:
        term.paragraph(
            out,
            f"""They are the same. The map has one position, so its {found.in_features:,} numbers are its {c:,}
            channels, and a 1x1 convolution with the layer's {found.layer_weights:,} weights computes the same sums for
            every input.""",
        )
    else:
        term.paragraph(
            out,
            f"""The fully connected layer takes the {counted(found.in_features, "number")} of the map to
            {found.out_features:,}. A 1x1 convolution over its {counted(c, "channel")} takes them to
            {found.conv_output_shape[0]:,} x {size} = {found.conv_output_shape[0] * positions:,} numbers,
            {_read(found)}.""",
        )
    out.print(found.render(min(out.width, term.WIDEST_PROSE)), soft_wrap=True)
    out.print()
    if not found.equivalent:
        term.heading(out, "To run it yourself")
        term.verbatim(out, found.snippet(), indent="")


def _read(found: Counterexample) -> str:
    if found.readout == "positions":
        return f"which is {found.out_features:,} if they are flattened; the sizes fit, the functions do not"
    done = "summed" if found.readout == "sum" else "averaged"
    return f"not {found.out_features:,}; {done} over positions they are {found.out_features:,}"
