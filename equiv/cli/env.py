"""``equiv env``: what is tested on this machine, and in which arithmetic."""
from __future__ import annotations
from typing import Annotated
import typer
def env(json: Annotated[str | None, typer.Option("--json")] = None) -> None:
    """x"""
