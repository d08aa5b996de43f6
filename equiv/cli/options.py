"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

LARGEST_SEED = 2**32 - 1
MANY = "May be repeated, or hold commas."
WEIGHTS = " a .safetensors or .pt file of a state_dict; nothing in it is run."

Json = Annotated[
    str | None, typer.Option("--json", metavar="FILE", help="Also write everything to this file; - for stdout.")
]

Html = Annotated[
    str | None, typer.Option("--html", metavar="FILE", help="Also write a page of HTML to this file; - for stdout.")
]

Seed = Annotated[
    str, typer.Option("--seed", metavar="N", help="Of drawn inputs and of the weights that code of models draws.")
]
Dtype = Annotated[
    str | None, typer.Option("--dtype", metavar="NAME", help="Of models and drawn inputs. That of models if not given.")
]
Device = Annotated[str, typer.Option("--device", metavar="DEVICE", help="Where models run.")]
