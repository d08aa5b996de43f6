"""What loads what: the direction of imports, what the core does without, and that nothing global is touched."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import equiv
from equiv import laws, numerics, strategies, testing
from equiv.backends import TorchEager

HOME = Path(equiv.__file__).parent

TEST_TOOLS = {"hypothesis", "pytest", "_pytest", "rich", "typer", "matplotlib"}


def loaded(code: str) -> set[str]:
    """The top-level packages and the modules of ours that are loaded once ``code`` has run in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    )
    assert done.returncode == 0, done.stderr
    names = done.stdout.split()
    return {name.partition(".")[0] for name in names} | {name for name in names if name.startswith("equiv")}


def test_packages_import_downwards_and_know_each_other_by_their_faces() -> None:
    """The contracts of import-linter in pyproject.toml."""
    if find_spec("importlinter") is None:
        pytest.skip("import-linter is not installed; it comes with the extra dev")
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--no-cache"],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=HOME.parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(HOME.parent), *sys.path))},
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_numpy_is_imported_by_no_module_when_it_loads() -> None:
    pattern = re.compile(r"^(import|from) numpy\b", re.MULTILINE)  # a backend may, where it is first used
    assert not [path for path in HOME.rglob("*.py") if pattern.search(path.read_text(encoding="utf-8"))]


def test_import_equiv_loads_nothing() -> None:
    found = loaded("import equiv")
    assert not found & {"torch", "numpy", "hypothesis", "pytest", "rich", "typer", "matplotlib"}
    assert {name for name in found if name.startswith("equiv")} == {"equiv"}


def test_the_core_loads_torch_and_no_test_tool() -> None:
    core = ("backends", "causes", "certificate", "mapping", "numerics", "structure", "verdict")
    found = loaded(
        f"import {', '.join(f'equiv.{name}' for name in core)}; import equiv; "
        "equiv.certify, equiv.compare, equiv.counterexample, equiv.assert_equivalent"
    )
    assert "torch" in found
    assert not found & TEST_TOOLS
    assert not {name for name in found if name.startswith(("equiv.strategies", "equiv.laws", "equiv.testing"))}


def test_the_laws_load_no_pytest_and_register_nothing_with_hypothesis() -> None:
    code = """
from hypothesis import settings
before = dict(settings._profiles), settings.get_current_profile_name(), settings.default
import equiv.testing, equiv.laws, equiv.strategies
after = dict(settings._profiles), settings.get_current_profile_name(), settings.default
assert before == after, (before, after)
"""
    found = loaded(code)
    assert "hypothesis" in found
    assert not found & (TEST_TOOLS - {"hypothesis"})


def test_the_plugin_loads_neither_torch_nor_hypothesis() -> None:
    found = loaded("import equiv.pytest_plugin")
    assert not found & {"torch", "hypothesis", "numpy", "rich", "typer", "matplotlib"}


def test_public_names_resolve_and_are_listed() -> None:
    assert len(equiv.__all__) == len(set(equiv.__all__))
    for name in equiv.__all__:
        assert getattr(equiv, name) is not None
        assert name in dir(equiv)
    with pytest.raises(AttributeError, match="module 'equiv' has no attribute 'certfy'"):
        getattr(equiv, "certfy")  # noqa: B009 - mypy knows that it is not there
    for package in (laws, numerics, strategies, testing):
        assert not [name for name in package.__all__ if not hasattr(package, name)]


# --- the global random state ------------------------------------------------------------------------------------------


def _layer() -> nn.Linear:
    layer = nn.Linear(12, 5, device="meta")
    layer.weight, layer.bias = nn.Parameter(torch.arange(60.0).reshape(5, 12)), nn.Parameter(torch.zeros(5))
    return layer


def _counterexample() -> object:
    found = equiv.counterexample(_layer(), (3, 2, 2))
    return str(found), found.snippet(), found.to_dict()


PUBLIC: dict[str, Callable[[], Any]] = {
    "linear_to_full_conv": lambda: equiv.linear_to_full_conv(_layer(), (3, 2, 2)),
    "linear_to_pointwise_conv": lambda: equiv.linear_to_pointwise_conv(_layer()),
    "linear_to_full_conv_transpose": lambda: equiv.linear_to_full_conv_transpose(_layer(), (5, 1)),
    "linear_to_pointwise_conv_transpose": lambda: equiv.linear_to_pointwise_conv_transpose(_layer()),
    "conv_to_linear": lambda: equiv.conv_to_linear(equiv.linear_to_full_conv(_layer(), (3, 2, 2)), (3, 4, 4)),
    "to_feature_map": lambda: equiv.to_feature_map(torch.zeros(2, 12), (3, 2, 2)),
    "to_channels": lambda: equiv.to_channels(torch.zeros(2, 12)),
    "compare": lambda: str(
        equiv.compare(torch.ones(2, 5), torch.zeros(2, 5), input=torch.zeros(2, 12), layer=_layer())
    ),
    "assert_equivalent": lambda: equiv.assert_equivalent(equiv.linear_to_full_conv(_layer(), (3, 2, 2)), _layer()),
    "counterexample": _counterexample,
    "tolerance": lambda: numerics.tolerance(torch.ones(2, 12), torch.ones(5, 12)),
    "exact_case": lambda: numerics.exact_case(
        seed=1, style="dense", rows=2, in_features=3, out_features=4, bias=True, dtype=torch.float32
    ),
    "items": lambda: laws.items([TorchEager()]),
    "checks": lambda: testing.checks(TorchEager()),
    "parametrize_with_laws": lambda: testing.parametrize_with_laws(TorchEager()),
    "check_backend": lambda: testing.check_backend(
        TorchEager(), laws=[law for law in laws.LAWS if law != "transforms"], dtypes=["float32"], examples=2, seed=1
    ),
}


def _state() -> tuple[Any, ...]:
    return random.getstate(), torch.get_rng_state().tolist(), torch.initial_seed()


@pytest.mark.parametrize("name", PUBLIC)
def test_the_global_random_state_is_neither_set_nor_advanced(name: str) -> None:
    before = _state()
    PUBLIC[name]()
    assert _state() == before


def test_no_import_touches_the_global_random_state() -> None:
    code = """
import random, rich.console, torch  # rich draws the ids of its links when it is imported
from importlib import import_module
from pkgutil import walk_packages
before = random.getstate(), torch.get_rng_state().tolist(), torch.get_num_threads(), torch.get_default_dtype()
import equiv
for module in walk_packages(equiv.__path__, "equiv."):
    import_module(module.name)
after = random.getstate(), torch.get_rng_state().tolist(), torch.get_num_threads(), torch.get_default_dtype()
assert before == after
"""
    loaded(code)
