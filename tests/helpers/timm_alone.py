"""timm without torchvision: it names classes of it at import, and its models need none of them."""

from __future__ import annotations

import enum
import importlib
import sys
import types
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from typing import Any

import pytest
import torch


class _Standing(types.ModuleType):
    __path__: list[str] = []  # noqa: RUF012 - as packages have it

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name == "InterpolationMode":
            return enum.Enum(name, "NEAREST BILINEAR BICUBIC BOX HAMMING LANCZOS")
        return type(name, (torch.nn.Module,), {})


class _Finder:
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] == "torchvision" else None

    def create_module(self, spec: ModuleSpec) -> types.ModuleType:
        return _Standing(spec.name)

    def exec_module(self, module: types.ModuleType) -> None: ...


def import_timm() -> Any:
    """timm, or the test is skipped."""
    if find_spec("timm") is None:
        pytest.skip("timm is not installed")
    if find_spec("torchvision") is not None:
        return importlib.import_module("timm")
    finder: Any = _Finder()
    sys.meta_path.append(finder)
    try:
        return importlib.import_module("timm")
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
