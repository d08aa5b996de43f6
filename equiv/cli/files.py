"""Tensors in files: read without running what they hold, and written whole or not at all."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from equiv.errors import EquivError, MissingExtraError
from equiv.report import is_stdout, write_bytes
from equiv.text import counted, quoted, shown

_KINDS = (".safetensors", ".pt", ".pth", ".bin")


def _safetensors(option: str, path: str) -> Any:
    try:
        import safetensors.torch  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise MissingExtraError(
            f"{option}: expected the package safetensors for {shown(path)}, got none; run: pip install "
            '"torch-equiv[models]"'
        ) from error
    return safetensors.torch


def read_tensors(option: str, path: str) -> Any:
    """What a file holds: a dict by name, one tensor, or whatever ``torch.load(weights_only=True)`` makes of it.

    Raises:
        EquivError: There is no such file, or it cannot be read so.
        MissingExtraError: safetensors is not installed.
    """
    kind = Path(path).suffix.lower()
    try:
        there = Path(path).is_file()
    except (OSError, ValueError):
        there = False
    if not there:
        raise EquivError(f"{option}: expected a file of tensors, got {shown(path)}; there is no such file here")
    if kind not in (*_KINDS, ".npy"):
        raise EquivError(
            f"{option}: expected a file that ends in {', '.join(_KINDS)}, got {shown(path)}; rename it, or save it so"
        )
    loader = _safetensors(option, path) if kind == ".safetensors" else None
    try:
        if loader is not None:
            return loader.load_file(path)
        if kind == ".npy":
            import numpy as np

            return torch.from_numpy(np.load(path, allow_pickle=False))
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        advice = (
            "save tensors alone, since nothing that a file holds is run" if "weights" in str(error) else "save it anew"
        )
        raise EquivError(
            f"{option}: expected a file of tensors, got {shown(path)}, which cannot be read: {type(error).__name__}: "
            f"{quoted(str(error).split('. ')[0], 120)}; {advice}"
        ) from error


def check_output(option: str, path: str) -> None:
    """Whether state can be written to a file of this name.

    Raises:
        EquivError: It has no known ending, or is standard output.
        MissingExtraError: safetensors is not installed.
    """
    kind = Path(path).suffix.lower()
    if is_stdout(path) or kind not in _KINDS:
        raise EquivError(f"{option}: expected a file that ends in {', '.join(_KINDS)}, got {shown(path)}; rename it")
    if kind == ".safetensors":
        _safetensors(option, path)


def write_state(option: str, path: str, state: dict[str, Any]) -> str:
    """Write a ``state_dict`` to a file in the place of what it held; what was left out of it, in words.

    safetensors holds each tensor under one name: of tied weights the first is written, and its other names stand in the
    metadata as ``safetensors.torch.save_model`` has them.

    Raises:
        EquivError: It cannot be written, or holds what safetensors does not.
    """
    if Path(path).suffix.lower() != ".safetensors":
        kept = io.BytesIO()
        torch.save(state, kept)
        write_bytes(kept.getvalue(), path, option=option)
        return ""
    others = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if others:
        names = quoted(", ".join(others[:4]), 100)
        raise EquivError(f"{option}: expected tensors alone in {shown(path)}, got {names}, which are none; write a .pt")
    tied = tied_names(state)
    written = {name: value.detach().contiguous() for name, value in state.items() if name not in tied}
    try:
        contents = _safetensors(option, path).save(_apart(written), {"format": "pt", **tied})
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise EquivError(
            f"{option}: expected tensors that safetensors holds in {shown(path)}, got {type(error).__name__}: "
            f"{quoted(error, 120)}; write a .pt"
        ) from error
    write_bytes(contents, path, option=option)
    names = quoted(", ".join(f"{name} as {first}" for name, first in list(tied.items())[:4]), 120)
    return f"{counted(len(tied), 'tied tensor')} under the name of another ({names})" if tied else ""


def tied_names(state: dict[str, Any]) -> dict[str, str]:
    """The names of tensors that are the very tensor of an earlier name, and that name."""
    first: dict[Any, str] = {}
    tied = {}
    for name, value in state.items():
        if isinstance(value, Tensor) and value.numel():
            same = (value.device, value.dtype, value.data_ptr(), tuple(value.shape), value.stride())
            if same in first:
                tied[name] = first[same]
            first.setdefault(same, name)
    return tied


def _apart(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, each in memory of its own: safetensors takes no views of one another."""
    used: set[int] = set()
    found = {}
    for name, value in state.items():
        place = value.untyped_storage().data_ptr()
        found[name] = value.clone() if place in used else value
        used.add(place)
    return found
