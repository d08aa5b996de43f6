"""What loads what: the direction between rooms, what the core does without, and that nothing global is touched."""

from __future__ import annotations

import ast
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import equiv
from equiv import laws, numerics, testing
from equiv.backends import TorchEager

HOME = Path(equiv.__file__).parent

# From the bottom up: a room may use those of earlier lines, and its own.
ROOMS = (
    ("errors", "_options", "_words"),
    ("_checks", "_dense", "mapping"),
    ("numerics",),
    ("_results", "_blocks", "_outcome", "verdict", "causes", "_slips", "_output_slips"),
    (
        "judge",
        "refute",
        "_kron",
        "_witness_text",
        "certificate",
        "_certified",
        "_certify_arguments",
        "_checkpoint",
        "_kernels",
        "_origin",
        "_parameters",
        "_packed",
        "_probing",
        "_reading",
        "_refuting",
        "_repeats",
        "_state",
        "_structure",
        "_superposition",
    ),
    ("backends",),
    ("strategies",),
    ("laws",),
    ("testing",),
    ("report",),
    ("pytest_plugin", "cli"),
)
LEVEL = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}
FRONT = "equiv"  # the public face, which loads names on first use: only the front ends may look at it


def walk(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return
    yield node
    for child in ast.iter_child_nodes(node):
        yield from walk(child)


def imports(path: Path) -> list[str]:
    """Every module that a file imports, at its top or in a function; what it names for types alone is not loaded."""
    found = []
    for node in walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the room"
            assert node.module is not None
            found += [f"{node.module}.{alias.name}" if node.module == FRONT else node.module for alias in node.names]
    return found


def files() -> list[Path]:
    return sorted(path for path in HOME.rglob("*.py") if path != HOME / "__init__.py")


def room_of(path: Path) -> str:
    return path.relative_to(HOME).parts[0].removesuffix(".py")


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


@pytest.mark.parametrize("path", files(), ids=[str(path.relative_to(HOME)) for path in files()])
def test_imports_point_downwards(path: Path) -> None:
    own = LEVEL[room_of(path)]
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top != FRONT:
            continue
        if rest in ("", "__version__"):
            assert own >= LEVEL["report"], f"{path.name} looks at the public face"
            continue
        room = rest.partition(".")[0]
        assert room in LEVEL, f"{name} is in no room"
        same = room == room_of(path)
        assert same or LEVEL[room] < own or room in ROOMS[own], (
            f"{path.relative_to(HOME)} imports {name}, which is above"
        )


def test_every_file_lies_in_a_room() -> None:
    assert {room_of(path) for path in files()} <= set(LEVEL)


@pytest.mark.parametrize(
    ("rooms", "without"),
    [
        (ROOMS[:6], {"hypothesis", "pytest", "rich", "typer", "matplotlib"}),
        (ROOMS[6:9], {"pytest", "rich", "typer", "matplotlib"}),
    ],
    ids=["core", "laws"],
)
def test_what_a_room_does_without(rooms: tuple[tuple[str, ...], ...], without: set[str]) -> None:
    """At the top of a file; ``testing`` needs pytest to parametrize, and imports it there."""
    for path in files():
        if any(room_of(path) in level for level in rooms):
            tops = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
            names = {alias.name for node in tops if isinstance(node, ast.Import) for alias in node.names}
            names |= {str(node.module) for node in tops if isinstance(node, ast.ImportFrom)}
            assert not {name.partition(".")[0] for name in names} & without, path


def test_numpy_is_imported_by_nobody() -> None:
    assert not [path for path in files() for name in imports(path) if name.partition(".")[0] == "numpy"]


def test_import_equiv_loads_nothing() -> None:
    found = loaded("import equiv")
    assert not found & {"torch", "numpy", "hypothesis", "pytest", "rich", "typer", "matplotlib"}
    assert {name for name in found if name.startswith("equiv")} == {"equiv"}


def test_the_core_loads_torch_and_no_test_tool() -> None:
    names = ", ".join(
        f"equiv.{name}" for name in ("mapping", "numerics", "verdict", "causes", "judge", "refute", "backends")
    )
    found = loaded(f"import {names}; import equiv; equiv.compare, equiv.counterexample, equiv.assert_equivalent")
    assert "torch" in found
    assert not found & {"hypothesis", "pytest", "_pytest", "rich", "typer", "matplotlib"}
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
    assert not found & {"pytest", "_pytest", "rich", "typer", "matplotlib"}


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
    for room in (laws, numerics, testing):
        assert not [name for name in room.__all__ if not hasattr(room, name)]


def test_public_names_have_the_address_that_the_checker_sees() -> None:
    """The names under ``TYPE_CHECKING`` are those that load on first use."""
    tree = ast.parse((HOME / "__init__.py").read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == {**equiv._HOME, **dict.fromkeys(equiv._ROOMS, "equiv")}


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
    rooms = ", ".join(f"equiv.{room}" for level in ROOMS for room in level)
    code = f"""
import random, torch
before = random.getstate(), torch.get_rng_state().tolist(), torch.get_num_threads(), torch.get_default_dtype()
import {rooms}
after = random.getstate(), torch.get_rng_state().tolist(), torch.get_num_threads(), torch.get_default_dtype()
assert before == after
"""
    loaded(code)
